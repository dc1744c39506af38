"""Ablations: variants of one config, each trained and evaluated with several seeds.

A config file with ablations has `get_config(arg)`, the base; `ABLATIONS`, name -> {dotted field:
value}; and `SEEDS`. Each run has a folder of its own, and all numbers stand in one table,
`results.csv`, one row a metric; a run's folder also keeps which queries hit. Stopped, the same call
goes on where it was.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sir_jax.config.check import check_config
from sir_jax.config.compare import compare_workdir
from sir_jax.config.fields import config_fields, nearest
from sir_jax.errors import UserError
from sir_jax.evaluation.denoise import denoising_metrics
from sir_jax.evaluation.differences import (
    Gain,
    draw_gains,
    format_denoising,
    format_gains,
    format_partners,
    measure_gains,
    queries_path,
    write_gains,
    write_queries,
)
from sir_jax.evaluation.partners import Partners, partner_hits, partner_metrics, partners_of
from sir_jax.evaluation.ranking import align_columns, intervals_of, retrieval_metrics
from sir_jax.evaluation.rerank import SCORINGS, rank_scored
from sir_jax.evaluation.score.fit import K, fit_score, validation_split
from sir_jax.evaluation.score.scored import score_split
from sir_jax.inference.score import UNFITTED
from sir_jax.inference.workdirs import restore_params
from sir_jax.models import build_model
from sir_jax.objective.switches import fusion_tasks
from sir_jax.runtime.console import say
from sir_jax.runtime.files import whole_file
from sir_jax.training.loop import train

RESULTS = "results.csv"
GAINS = "gains.csv"
COLUMNS = ("ablation", "seed", "split", "metric", "value")


def read_results(path: Path) -> list[dict]:
    """Read the table: one dict a row, all values strings; empty where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than {','.join(COLUMNS)}; move it away")
        return list(reader)


def append_results(path: Path, rows: list[dict]) -> None:
    """Add the rows of one run to the table, so that a kill adds all of them or none."""
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(read_results(path) + rows)


# What the summary shows of each way of scoring: metric, title.
SHOWN = (
    ("s2i_r1", "s->i R@1"),
    ("i2s_r1", "i->s R@1"),
    ("mean_r1", "mean R@1"),
    ("mean_r5", "mean R@5"),
    ("mean_r10", "mean R@10"),
)


def summarise(rows: Iterable[dict]) -> list[dict]:
    """Reduce the table to the mean and the spread over seeds.

    Args:
      rows: of `read_results`.

    Returns:
      One dict for each ablation, split and metric, in the table's order: `ablation`, `split`,
      `metric`, `mean`, `std` (the sample's, n - 1; NaN for one seed) and `seeds`.
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        key = (row["ablation"], row["split"], row["metric"])
        groups.setdefault(key, []).append(float(row["value"]))
    return [
        {
            **dict(zip(("ablation", "split", "metric"), key, strict=True)),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            "seeds": len(values),
        }
        for key, values in groups.items()
    ]


def format_summary(rows: Iterable[dict], split: str) -> str:
    """Lay out recalls in percent, mean +- standard deviation over seeds, one line a scoring.

    The last column says what one run's mean R@1 owes to the choice of pictures: its 95 % interval,
    of which each limit is a mean over seeds. A table made before there were intervals lacks it.
    """
    found = {(r["ablation"], r["metric"]): r for r in summarise(rows) if r["split"] == split}
    lines = [["ablation", "scored", "seeds", *(title for _, title in SHOWN)]]
    limited = any(metric == "mean_r1_low" for _, metric in found)
    lines[0] += ["R@1 over pictures"] if limited else []
    for ablation in dict.fromkeys(name for name, _ in found):
        for prefix, title in SCORINGS:
            cells = [found.get((ablation, prefix + metric)) for metric, _ in SHOWN]
            if None not in cells:
                spread = [f" +- {100 * c['std']:.1f}" if c["seeds"] > 1 else "" for c in cells]
                texts = [f"{100 * c['mean']:.1f}{s}" for c, s in zip(cells, spread, strict=True)]
                ends = [found.get((ablation, f"{prefix}mean_r1_{end}")) for end in ("low", "high")]
                limits = "" if None in ends else " to ".join(f"{100 * e['mean']:.1f}" for e in ends)
                texts += [limits] if limited else []
                lines.append([ablation, title, str(cells[0]["seeds"]), *texts])
    return "\n".join(align_columns(lines, left=2))


def folder_name(ablation: str, seed: int) -> str:
    """Return a run's folder: '+ queue + SIM' of seed 1 is 'queue_sim-s1'."""
    return f"{re.sub(r'[^a-z0-9]+', '_', ablation.lower()).strip('_')}-s{seed}"


def run_config(base, deltas: dict, seed: int):
    """Return the base config with an ablation's fields and the seed.

    Raises:
      UserError: a field is none of the config's, or a value is none that it can have.
    """
    unknown = sorted(deltas.keys() - config_fields(base).keys())
    if unknown:
        near = nearest(unknown[0], config_fields(base))
        raise UserError(f"ABLATIONS: there is no field {unknown[0]!r}; the nearest is {near}")
    cfg = base.copy_and_resolve_references()
    try:
        cfg.update_from_flattened_dict({**deltas, "seed": seed})
    except TypeError as error:
        raise UserError(f"ABLATIONS {deltas}: {' '.join(str(error).split())}") from error
    check_config(cfg)
    return cfg


def run_one(
    cfg, workdir: Path, corpus, split: str, partners: Partners | None = None
) -> dict[str, float]:
    """Train and evaluate one run, going on where its folder stands.

    Args:
      cfg: the run's config.
      workdir: its folder, which also gets the hits by query.
      corpus: a `sir_jax.data.corpus.Corpus`.
      split: its split that is evaluated.
      partners: the split's minimal pairs; None without any.

    Returns:
      Every number of the evaluation, by name, with the limits of the 95 % intervals.
    """
    train(cfg, workdir, corpus=corpus)
    _, params = restore_params(workdir, "last")
    tasks = fusion_tasks(cfg.loss, cfg.model.match.kind)
    model = build_model(cfg.model, tasks)
    k = cfg.eval.rerank if "match" in tasks else 0
    part, given, score = corpus.splits[split], (cfg.data, cfg.data.batch_size), UNFITTED
    val = validation_split(corpus)
    # Fitted on the very split that it is measured on, a weight would promise too much.
    if val is not None and val.name != split and (k or "pool" in tasks):
        score = fit_score(model, params, val, *given, k or K)
    scored = score_split(model, params, part, *given, k or K, lambda *_: score)
    matched = k or "pool" in tasks
    metrics = (
        rank_scored(scored, score) if matched else retrieval_metrics(*scored.plain, *scored.ids)
    )
    found = metrics.flat() | intervals_of([metrics])
    found |= denoising_metrics(model, params, part, cfg)
    hits = {} if partners is None else partner_hits(scored, score, partners)
    write_queries(queries_path(workdir, split), metrics.rankings(), hits, partners)
    return found | (partner_metrics(hits, partners) if hits else {})


def run_all(
    base, ablations: Mapping[str, dict], seeds: Sequence[int], corpus, split: str, workdir: Path
) -> Path:
    """Run every ablation with every seed, but for those that are in the table already.

    Args:
      base: the config that ablations differ from.
      ablations: name -> the fields that differ.
      seeds: of each.
      corpus: a `sir_jax.data.corpus.Corpus`.
      split: its split that is evaluated.
      workdir: gets the table, and a folder for each run.

    Returns:
      The table's path.

    Raises:
      UserError: no such split, a field is none of the config's, or a run's folder holds a run with
        another config.
    """
    corpus.split(split)
    workdir.mkdir(parents=True, exist_ok=True)
    table, partners = workdir / RESULTS, partners_of(corpus, split)
    # All of them first: the last one's mistake must not show after a day of the others' training.
    plan = [
        (seed, name, run_config(base, ablations[name], seed))
        for seed, name in itertools.product(seeds, ablations)
    ]
    for number, (seed, name, cfg) in enumerate(plan, 1):
        folder = workdir / folder_name(name, seed)
        # A row counts only for the config that it was made with.
        compare_workdir(cfg, folder)
        key = (name, str(seed), split)
        if key in {(row["ablation"], row["seed"], row["split"]) for row in read_results(table)}:
            say(f"{number}/{len(plan)} {name}, seed {seed}: is in {table} already")
            continue
        say(f"{number}/{len(plan)} {name}, seed {seed}: in {folder}")
        found = run_one(cfg, folder, corpus, split, partners)
        rows = ((*key, metric, repr(float(x))) for metric, x in found.items())
        append_results(table, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    return table


def keep_gains(
    workdir: Path, ablations: Sequence[str], seeds: Sequence[int], split: str
) -> list[Gain]:
    """Measure what each ablation has more than the first one, and keep it beside the table.

    The figure is drawn where matplotlib is installed.

    Args:
      workdir: of `run_all`.
      ablations: in their order.
      seeds: whose runs are compared.
      split: that was evaluated.
    """
    folders = {name: {s: workdir / folder_name(name, s) for s in seeds} for name in ablations}
    gains = measure_gains(folders, split)
    write_gains(gains, workdir / GAINS)
    if gains and find_spec("matplotlib"):
        draw_gains(gains, ablations[0]).savefig((workdir / GAINS).with_suffix(".png"), dpi=110)
    return gains


def format_all(rows: list[dict], gains: Sequence[Gain], first: str, split: str) -> str:
    """Lay out what `run_all` found: recalls, partners, gains and denoising.

    Args:
      rows: of `read_results`.
      gains: of `keep_gains`.
      first: name of the ablation that gains are over.
      split: that was evaluated.
    """
    found = [row for row in summarise(rows) if row["split"] == split]
    parts = [
        format_summary(rows, split),
        format_partners(found),
        gains and f"points more than the embedding of {first!r}:\n{format_gains(gains)}",
        format_denoising(found),
    ]
    return "\n\n".join(filter(None, parts))
