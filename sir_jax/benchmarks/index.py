"""Time the indexing of a folder of pictures and the bare image encoder in the same run.

Indexing reads, decodes, resizes and encodes files and writes vectors chunk by chunk, as `sir-jax
index` does. The bare encoder gets prepared arrays in batches of the same size. Both take turns of
some hundred pictures, so that other load of the machine affects both. A ratio of 0.9 means that
indexing reaches 90 % of the encoder's rate. Finally the index is searched.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from sir_jax.benchmarks.raw_files import PICTURE_SIZES, encode_picture, make_picture
from sir_jax.benchmarks.timing import OtherLoad
from sir_jax.config.presets import base_config
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.errors import UserError
from sir_jax.index.embed_lists import ChunkPlan, embed_list
from sir_jax.index.folder import kind_of, scan_folder
from sir_jax.index.index import Index
from sir_jax.index.items import items_in_folder
from sir_jax.index.merge import merge_chunks
from sir_jax.inference.embed import fetch_results, jit_encode
from sir_jax.inference.retriever import Retriever
from sir_jax.models import build_model, init_params

RANDOM = "random-B/32"
DISTINCT = 200  # pictures that are drawn; the other files are links to them
PREPARED = 4  # prepared batches, which the bare encoder encodes repeatedly
QUERIES = 100


def random_model(batch_size: int) -> Retriever:
    """Return a model of CLIP B/32's size with random weights; its speech encoder is tiny."""
    cfg = base_config("tiny", "B/32")
    params = jax.jit(lambda key: init_params(build_model(cfg.model), key))(jax.random.key(0))
    return Retriever(cfg, params, batch_size, name=RANDOM)


def make_folder(folder: Path, count: int) -> None:
    """Create a folder of JPEG files that resemble photographs.

    Args:
      folder: the folder, which must not exist.
      count: number of files.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < DISTINCT:
            path.write_bytes(encode_picture(make_picture(PICTURE_SIZES[number % 2], rng)))
        else:
            os.link(folder / f"{number % DISTINCT:06d}.jpg", path)


def bare_encoder(model: Retriever, paths: list[Path]) -> Callable[[int], None]:
    """Return a function that encodes a given number of prepared pictures.

    Args:
      model: a model with parameters on one device.
      paths: pictures; the first ones are prepared.
    """
    spec, rows = ImageSpec.from_config(model.cfg.data), model.batch_size
    used = [paths[n % len(paths)] for n in range(PREPARED * rows)]
    pixels = np.stack([preprocess_image(load_image(path), spec) for path in used])
    batches = pixels.reshape(PREPARED, rows, *pixels.shape[1:])
    encode = jit_encode(model.model, "encode_image", False, None)

    def run(count: int) -> None:
        def started() -> Iterator[tuple]:
            for number in range(-(-count // rows)):
                yield number, encode(model.params, batches[number % PREPARED])

        for _ in fetch_results(started()):
            pass

    return run


def take_turns(model: Retriever, plan: ChunkPlan, out: Path, bare: Callable[[int], None]) -> dict:
    """Time indexing and the bare encoder, chunk by chunk.

    Returns:
      'index' and 'encoder', each with the seconds per picture of each turn.
    """
    seconds: dict[str, list[float]] = {"index": [], "encoder": []}
    turns = len(plan.chunks)
    for turn in range(turns):
        count = len(plan.chunk(turn))
        contestants = [
            ("index", lambda turn=turn: embed_list(model, plan, out, shard=(turn, turns))),
            ("encoder", lambda count=count: bare(count)),
        ]
        # The order alternates, so that background work of one does not always slow the other.
        for name, run in contestants if turn % 2 else reversed(contestants):
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def time_search(index: Index) -> float:
    """Return the total seconds of `QUERIES` searches with one vector each."""
    queries = np.random.default_rng(0).standard_normal((QUERIES, index.about["width"]))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    index.search(queries[0], 10, of="image")
    start = time.perf_counter()
    for query in queries:
        index.search(query, 10, of="image")
    return time.perf_counter() - start


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: a number out of range.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench index",
        allow_abbrev=False,
        description="Time the indexing of pictures against the bare encoder in the same run.",
    )
    parser.add_argument("--model", default=RANDOM, help=f"as of `sir-jax index`, or {RANDOM}")
    parser.add_argument("--folder", default="", help="of pictures; default: drawn ones")
    parser.add_argument("--images", type=int, default=10_000, help="pictures to index")
    parser.add_argument("--turns", type=int, default=10, help="of each contestant")
    parser.add_argument("--batch", type=int, default=32, help="pictures a batch")
    parser.add_argument("--json", default="", help="write the figures to this file, too")
    args = parser.parse_args(argv)
    for name in ("images", "turns", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    if args.turns > args.images:
        raise UserError(f"--turns={args.turns}: more than --images={args.images}; lower it")
    return args


def bench(args: argparse.Namespace, scratch: Path) -> dict:
    """Run the benchmark; print and return the figures.

    Raises:
      UserError: there is no such model or folder, or it holds no picture.
    """
    model = (
        random_model(args.batch)
        if args.model == RANDOM
        else Retriever.load(args.model, batch_size=args.batch)
    )
    folder = Path(args.folder or scratch / "pictures")
    if not args.folder:
        make_folder(folder, args.images)
    stamps = scan_folder(folder)
    names = [name for name in stamps if kind_of(name) == "image"][: args.images]
    if not names:
        raise UserError(f"--folder {folder} holds no picture")
    items = items_in_folder(folder, stamps, names)
    # Turns of whole batches; only the last turn has a short batch.
    size = -(-len(items) // (args.turns * args.batch)) * args.batch
    plan = ChunkPlan.of_items(items, size)
    print(
        f"{len(items):,} pictures, model {model.name} ({model.cfg.model.dtype}, "
        f"{model.cfg.data.image_size} px), batches of {args.batch}, "
        f"{len(plan.chunks)} turns of {size}, {len(os.sched_getaffinity(0))} cores",
        flush=True,
    )
    bare = bare_encoder(model, [item.content for item in items[:DISTINCT]])
    bare(args.batch)
    for count in {min(args.batch, size), len(plan.chunk(-1))}:  # compile both batch shapes
        embed_list(model, ChunkPlan.of_items(items[:count], size), scratch / f"first{count}")
    load = OtherLoad()
    seconds = take_turns(model, plan, scratch / "out", bare)
    share = load.share()
    merge_chunks(model, plan, scratch / "out", folder)
    index = Index.load(scratch / "out", model)
    return report(seconds, share, time_search(index), len(index))


def report(seconds: dict, share: float | None, search: float, count: int) -> dict:
    """Print and return the figures.

    Args:
      seconds: seconds per picture of each turn, for 'index' and 'encoder'.
      share: share of the machine that other processes used; None if unknown.
      search: total seconds of `QUERIES` searches.
      count: number of pictures in the index.
    """
    rates = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["encoder"], seconds["index"], strict=True)
    ratio = statistics.median(encoder / index for encoder, index in pairs)
    for name, rate in rates.items():
        print(f"{name:<10}{rate:10.1f} pictures/s")
    print(f"indexing keeps {100 * ratio:.1f} % of the encoder's rate (median over turns)")
    print(f"search of {count:,}: {1e3 * search / QUERIES:.2f} ms a query")
    if share is not None:
        print(f"other processes took {100 * share:.0f} % of the machine meanwhile")
    return {
        "rates": rates,
        "ratio": ratio,
        "seconds": seconds,
        "others": share,
        "search_ms": 1e3 * search / QUERIES,
        "pictures": count,
    }


def main(argv: list[str]) -> int:
    """Run `sir-jax bench index`.

    Raises:
      UserError: an option is wrong, or there is no such model or folder.
    """
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        figures = bench(args, Path(scratch))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0
