"""Time exact search and `faiss.IndexFlatIP` in the same run, and compare their results.

FAISS is timed twice: with its defaults, and with `faiss.cvar.distance_compute_blas_threshold` at 1,
so that it uses matrix products for few queries, too. All contestants take turns, so that other load
of the machine affects all of them. A ratio above 1 is how many times faster ours is.

`--fine` adds search by a fine score that an index holds: as many vectors, with a pooled match's
numbers beside the embedding's, in turn with the others.

FAISS may rank rows differently if their float64 scores differ by at most `NEAR`, the error of
float32 sums. The number of such rows is printed; any other difference is an error.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sir_jax.benchmarks.timing import OtherLoad, Times, interleave
from sir_jax.errors import UserError
from sir_jax.index.engines.exact import SearchResult, best_precision, exact_search, pair_scores

NEAR = 1e-6
_SLICE = 16_384  # rows in one product of `numpy_search`


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    """Return unit vectors in random directions, float32[count, width]."""
    rng = np.random.default_rng(seed)
    z = np.empty((count, width), np.float32)
    for start in range(0, count, _SLICE):
        part = rng.standard_normal((min(_SLICE, count - start), width), np.float32)
        z[start : start + _SLICE] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return z


def numpy_search(queries: np.ndarray, gallery: np.ndarray, k: int) -> SearchResult:
    """Search with plain NumPy: `argpartition` of products slice by slice, one sort at the end."""
    rows, scores = [], []
    for start in range(0, len(gallery), _SLICE):
        products = queries @ gallery[start : start + _SLICE].T
        best = np.argpartition(-products, min(k, products.shape[1]) - 1, axis=1)[:, :k]
        rows.append(start + best)
        scores.append(np.take_along_axis(products, best, 1))
    rows, scores = np.concatenate(rows, 1), np.concatenate(scores, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return SearchResult(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def contestants(
    queries: np.ndarray, gallery: np.ndarray, k: int, with_numpy: bool
) -> dict[str, Callable[[], SearchResult]]:
    """Return the functions to time, by name.

    Raises:
      UserError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"{error}; pip install 'sir_jax[faiss]'") from None
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    default = faiss.cvar.distance_compute_blas_threshold

    def by_faiss(threshold: int) -> SearchResult:
        faiss.cvar.distance_compute_blas_threshold = threshold
        try:
            scores, rows = index.search(queries, k)
        finally:
            faiss.cvar.distance_compute_blas_threshold = default
        return SearchResult(rows, scores)

    functions = {
        "ours": lambda: exact_search(queries, gallery, k),
        "faiss": lambda: by_faiss(default),
        "faiss, threshold 1": lambda: by_faiss(1),
    }
    if with_numpy:
        functions["numpy"] = lambda: numpy_search(queries, gallery, k)
    return functions


def compare(
    name: str, ours: SearchResult, theirs: SearchResult, queries: np.ndarray, gallery: np.ndarray
) -> int:
    """Return the number of near-ties that two searches ranked differently.

    Args:
      name: name of the other search, for messages.
      ours: the reference result.
      theirs: the result of the other search.
      queries: float32[n, E].
      gallery: float32[G, E].

    Raises:
      UserError: the results differ otherwise; the message names the query.
    """
    numbers, ranks = np.nonzero(ours.rows != theirs.rows)
    z_q = queries[numbers]
    apart = np.abs(
        pair_scores(z_q, gallery[ours.rows[numbers, ranks]])
        - pair_scores(z_q, gallery[theirs.rows[numbers, ranks]])
    )
    # Not `>`, which is false for NaN.
    near = np.abs(ours.scores - theirs.scores).max(1, initial=0) <= NEAR
    bad = np.union1d(numbers[~(apart <= NEAR)], np.flatnonzero(~near))
    if len(bad):
        raise UserError(f"{name}: query {int(bad[0])} found other rows or scores; not timed")
    return len(numbers)


def format_table(times: dict[str, Times], flops: float) -> str:
    """Format the seconds, the corresponding rate of products, and the ratios to ours."""
    ours = times["ours"]
    lines = [f"{'':<20}{'median s':>10}{'best s':>10}{'GFLOP/s':>10}{'ours ahead':>12}{'best':>8}"]
    for name, took in times.items():
        line = f"{name:<20}{took.median:10.3f}{took.best:10.3f}{flops / took.median / 1e9:10.0f}"
        if name != "ours":
            line += f"{took.median / ours.median:12.2f}{took.best / ours.best:8.2f}"
        lines.append(line)
    return "\n".join(lines)


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: a number out of range.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench search",
        allow_abbrev=False,
        description="Time exact search against faiss.IndexFlatIP in the same run.",
    )
    parser.add_argument("--gallery", type=int, default=1_000_000, help="vectors to search")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--width", type=int, default=256, help="of the vectors")
    parser.add_argument("-k", type=int, default=10, help="results per query")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--numpy", action="store_true", help="also time products and argpartition")
    parser.add_argument(
        "--fine", type=int, default=0, help="also search vectors with so many numbers more; 0: not"
    )
    parser.add_argument("--json", default="", help="write the figures to this file, too")
    args = parser.parse_args(argv)
    for name in ("gallery", "queries", "width", "k", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    if args.fine < 0:
        raise UserError(f"--fine={args.fine}: must be at least 0")
    if args.k > args.gallery:
        raise UserError(f"-k {args.k}: more than --gallery={args.gallery}; lower it")
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax bench search`.

    Raises:
      UserError: FAISS is not installed, results differ, or an option is wrong.
    """
    args = parse_args(argv)
    gallery = unit_vectors(args.gallery, args.width, 0)
    queries = unit_vectors(args.queries, args.width, 1)
    functions = contestants(queries, gallery, args.k, args.numpy)
    print(
        f"{args.queries:,} queries over {args.gallery:,} x {args.width}, k={args.k}, "
        f"{len(os.sched_getaffinity(0))} cores; ours finds candidates in "
        f"{best_precision(args.queries)}"
    )
    ours = functions["ours"]()
    near = {}
    for name, search in functions.items():
        if name != "ours":
            near[name] = compare(name, ours, search(), queries, gallery)
            print(
                f"{name}: the same rows, but {near[name]} of {ours.rows.size:,} at another rank "
                f"by near-ties (within {NEAR:g})"
            )
    if args.fine:
        wide = args.width + args.fine
        joint = unit_vectors(args.queries, wide, 3), unit_vectors(args.gallery, wide, 2)
        functions["ours, fine"] = lambda: exact_search(*joint, args.k)
        print(
            f"a fine score in vectors of {wide}: {joint[1].nbytes / 1e6:,.0f} MB of gallery "
            f"beside {gallery.nbytes / 1e6:,.0f} MB"
        )
    load = OtherLoad()
    times = interleave(functions, args.rounds)
    share = load.share()
    print(format_table(times, 2.0 * args.gallery * args.queries * args.width))
    if share is not None:
        print(f"other processes took {100 * share:.0f} % of the machine meanwhile")
    if args.json:
        content = {
            "times": {name: took._asdict() for name, took in times.items()},
            "near_ties": near,
            "others": share,
        }
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n")
    return 0
