"""Prepare a corpus: from a publisher's archives to records for training."""

import dataclasses
import importlib
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from sir_jax.data.builders.archives import Source, gather
from sir_jax.data.builders.checksums import NAME as CHECKSUMS
from sir_jax.data.builders.checksums import checked_files, write_checksums
from sir_jax.data.builders.recorded import (
    Rules,
    contents_of,
    fingerprint,
    kept_images,
    make_chunks_of,
    read_losses,
)
from sir_jax.data.builders.recordings import Layout, Plan, PlannedImage, without_duplicates
from sir_jax.data.builders.records import progress, write_records
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.corpus import (
    Corpus,
    corpus_directory,
    index_path,
    open_corpus,
    split_names,
    write_index,
)
from sir_jax.data.paths import data_dir as resolve_data_dir
from sir_jax.data.preparation import leaks
from sir_jax.data.preparation.report import Report, make_report, write_report
from sir_jax.errors import UserError
from sir_jax.runtime.locks import only_one


@dataclasses.dataclass(frozen=True)
class Options:
    """How a corpus is prepared.

    Attributes:
      tolerance: the largest share of a split's recordings or images that may be missing; None for
        the layout's, which is 1 % for most.
      max_seconds: longest duration of a recording.
      workers: number of processes; 0 for one per CPU core.
      allow_leaks: keep what a user's own list has in more than one split. A published corpus is
        always kept as published.
    """

    tolerance: float | None = None
    max_seconds: float = 60.0
    workers: int = 0
    allow_leaks: bool = False

    def __post_init__(self):
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise UserError(f"tolerance is {self.tolerance}; give a share from 0 to 1")
        if not self.max_seconds > 0:
            raise UserError(f"max_seconds is {self.max_seconds:g}; give a number above 0")
        if self.workers < 0:
            raise UserError(f"workers is {self.workers}; choose 0 for every CPU core, or more")


def prepare(
    layout: Layout, config: str, source: Source, data_dir=None, options: Options | None = None
) -> Corpus:
    """Prepare a corpus, or resume an interrupted preparation.

    `quarantine.jsonl` in the corpus' folder lists what cannot be used, and `report.json` counts it.
    Both are written even if the corpus is refused because of them.

    Args:
      layout: layout of the corpus.
      config: one of the layout's configs.
      source: the folder of the archives, packed or extracted; for a layout without archives, the
        folder that its plan's paths are relative to.
      data_dir: folder of the corpora; None for $SIR_JAX_DATA or `data`.
      options: tolerance, limits and processes.

    Returns:
      The corpus; if it exists already, without preparing it again.

    Raises:
      UserError: an archive is missing or damaged, more is missing than tolerated, a user's list has
        something in two splits, another call prepares the corpus, or the disk is full.
    """
    options = options or Options()
    name = f"{layout.name}/{config}"
    root = resolve_data_dir(data_dir)
    folder = root / name
    with only_one(folder):
        if corpus_directory(name, root) is None:
            _prepare(layout, config, source, folder, options)
        directory = corpus_directory(name, root)
        for split in split_names(directory):
            if not index_path(directory, split).exists():
                write_index(directory, split)
        if not (directory / CHECKSUMS).exists():
            size = sum(path.stat().st_size for path in checked_files(directory))
            with progress(size, "B", "checksums", unit_scale=True) as bar:
                write_checksums(directory, bar.update)
        # Nothing needs these any more.
        for made in [folder / "extracted", *folder.glob("chunks-*")]:
            shutil.rmtree(made, ignore_errors=True)
    return open_corpus(name, data_dir)


def _prepare(layout: Layout, config: str, source: Source, folder: Path, options: Options) -> None:
    """Extract, plan, read and check, report, and write the records if enough is left."""
    if layout.archives:
        start, archives = gather(layout.archives, source, folder / "extracted")
    else:
        start, archives = source.local.resolve(), {}
    name = f"{layout.name}/{config}"
    print(f"planning {name}", flush=True)
    planned = layout.plan(start, config)
    plan = without_duplicates(planned, by_split=layout.own)
    _check_ids(plan)
    strict = layout.own and not options.allow_leaks
    if strict:
        _refuse_leaks(name, plan.images, _unmeant(layout, plan, start), folder)
    rules = Rules(start, layout.rate, options.max_seconds, once=layout.own, readers=layout.readers)
    chunks = folder / f"chunks-{fingerprint(plan, rules)}"
    with progress(len(plan.images), "image", "read and check") as bar:
        workers = options.workers or default_workers()
        make_chunks_of(plan, rules, chunks, workers, bar.update, layout.deadline)
    lost = read_losses(plan, chunks)
    kept = kept_images(plan, lost)
    problems = [*plan.problems, *(entry.problem for entry in lost)]
    copies = leaks.find_copies(leaks.content_entries(contents_of(plan, chunks), kept))
    tolerance = layout.tolerance if options.tolerance is None else options.tolerance
    accepted = {"max_seconds": options.max_seconds, "tolerance": tolerance}
    if layout.same_pictures or layout.said_again:
        accepted["same_pictures"] = layout.said_again or True
        copies, _ = leaks.without_pictures(copies, leaks.splits_of(kept), layout.said_again)
    if layout.own:
        accepted["allow_leaks"] = options.allow_leaks
    report = make_report(
        name,
        planned,
        kept,
        problems,
        layout.expected.get(config, {}),
        archives,
        accepted,
        copies,
    )
    listed = write_report(folder, report, problems)
    print(report.table())
    print(f"{len(problems):,} things left out, listed in {listed}", flush=True)
    report.check(tolerance, listed)
    if strict:
        _refuse_leaks(name, kept, copies, folder)
    else:
        leaks.list_leaks(folder, copies, leaks.planned_places(kept))
    print("writing the records", flush=True)
    _write(layout, config, folder, plan, kept, chunks)


def _unmeant(layout: Layout, plan: Plan, folder: Path) -> leaks.Copies:
    """Return the files that are in more than one split, without those that are by intention."""
    copies = leaks.file_copies(plan, folder)
    if layout.same_pictures or layout.said_again:
        splits = leaks.splits_of(plan.images)
        copies, _ = leaks.without_pictures(copies, splits, layout.said_again)
    return copies


def _refuse_leaks(
    name: str, images: Sequence[PlannedImage], copies: leaks.Copies, folder: Path
) -> None:
    listed = leaks.list_leaks(folder, copies, leaks.planned_places(images))
    leaks.refuse(name, copies, listed)


def _check_ids(plan: Plan) -> None:
    ids = itertools.chain.from_iterable(
        [image.image_id, *(caption.caption_id for caption in image.captions)]
        for image in plan.images
    )
    if not all(0 <= number < 1 << 31 for number in ids):
        raise ValueError("a layout's ids must lie between 0 and 2^31")


def _write(
    layout: Layout,
    config: str,
    folder: Path,
    plan: Plan,
    kept: tuple[PlannedImage, ...],
    chunks: Path,
) -> None:
    import tensorflow_datasets as tfds

    from sir_jax.data.builders.recorded_builder import Chunks

    package = f"sir_jax.data.builders.{layout.name}.{layout.name}_dataset_builder"
    make = importlib.import_module(package).Builder
    # The builder knows the published configs; that of a manifest is created here.
    chosen = config
    if config not in make.builder_configs:
        chosen = tfds.core.BuilderConfig(name=config, description=layout.configs[config])
    builder = make(data_dir=str(folder.parent.parent), config=chosen, file_format="array_record")
    builder.source = Chunks(chunks, plan, kept)
    write_records(builder)


def summary(corpus: Corpus, report: Report | None) -> str:
    """Return a line per split with images, captions and hours, and one with what was left out."""
    lines = []
    for name, split in corpus.splits.items():
        hours = split.index["samples"].sum(dtype="i8") / 16_000 / 3600
        lines.append(f"{name}: {len(split):,} images, {len(split.index):,} captions, {hours:.2f} h")
    if report is not None:
        left_out = sum(sum(row.values()) for row in report.reasons.values())
        lines.append(f"{left_out:,} things left out of it")
    return "\n".join(lines)
