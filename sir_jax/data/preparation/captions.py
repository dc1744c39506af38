"""Make a corpus of spoken captions: captioned pictures, the captions said by synthesisers."""

import collections
import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from sir_jax.data.builders.archives import Source
from sir_jax.data.builders.recordings import Layout, Plan, PlannedImage, Problem
from sir_jax.data.builders.records import progress
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig, label_of
from sir_jax.data.builders.spoken_captions.gather import SPLITS, Gathered, gather
from sir_jax.data.builders.spoken_captions.layout import captions_layout
from sir_jax.data.builders.spoken_captions.looks import looks_of
from sir_jax.data.builders.spoken_captions.plan import identity, plan_captions, require_spoken
from sir_jax.data.builders.spoken_captions.sources.read import read_captions
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.corpus import Corpus, corpus_directory
from sir_jax.data.media.synthesis import require_engine
from sir_jax.data.paths import data_dir as resolve_data_dir
from sir_jax.data.preparation.leaks import Copies
from sir_jax.data.preparation.prepare import Options, prepare
from sir_jax.data.preparation.report import make_report, write_report
from sir_jax.errors import UserError
from sir_jax.runtime.locks import only_one


@dataclasses.dataclass(frozen=True)
class Captions:
    """Where captioned pictures are.

    Attributes:
      images: folder of the pictures; None where `captions` is a data set.
      captions: a CSV, TSV, JSON or JSON lines file, or the folder of a data set by TFDS or Hugging
        Face; None for the text beside each picture, else its own fields.
      encoding: of the text; '' to find out.
    """

    images: Path | None = None
    captions: Path | None = None
    encoding: str = ""

    @property
    def label(self) -> str:
        """Return what a corpus of them is called."""
        place = self.captions or self.images
        if place is None:
            return "captions"
        place = place.resolve()
        # A data set of TFDS lies in NAME/VERSION.
        while re.fullmatch(r"[\d.]+", place.name):
            place = place.parent
        return label_of(place.name if place.is_dir() else place.stem)


def prepare_captions(
    source: Captions, config: CaptionsConfig, data_dir=None, options: Options | None = None
) -> Corpus:
    """Make a corpus of spoken captions, or resume an interrupted call.

    Its name ends in a digest of what it holds: other captions, pictures or options give another
    corpus. `quarantine.jsonl` in its folder lists what is left out.

    Args:
      source: where the captioned pictures are.
      config: parameters of the corpus; the digest is found here.
      data_dir: folder of the corpora; None for $SIR_JAX_DATA or `data`.
      options: tolerance, limits and processes.

    Returns:
      The corpus; if it exists already, without making it again.

    Raises:
      UserError: captions or pictures cannot be read or do not belong together, an engine is
        missing or does not speak a language, or one of `prepare`.
    """
    options = options or Options()
    for engine in config.engines:
        require_engine(engine)
    work = resolve_data_dir(data_dir) / "spoken_captions" / f".work-{_place(source)}"
    with only_one(work):
        pictures, found = read_captions(
            source.images, source.captions, config.languages, source.encoding, work / "pictures"
        )
        gathered = gather(pictures, found, config.languages)
        names = [picture.name for picture in gathered.pictures]
        with progress(len(names), "picture", "look at the pictures") as bar:
            workers = options.workers or default_workers()
            looks = looks_of(pictures.folder, names, work, workers, bar.update)
        plan = plan_captions(config, gathered, looks)
        config = dataclasses.replace(config, digest=identity(plan, names, looks))
        layout = captions_layout(config, plan)
        for line in [*gathered.notes, *_lines(plan.problems)]:
            print(line, flush=True)
        _check(f"spoken_captions/{config.name}", plan, gathered, layout, data_dir, options)
        corpus = prepare(layout, config.name, Source(str(pictures.folder)), data_dir, options)
    # Nothing needs the looks any more, nor the pictures that were taken out of a data set.
    shutil.rmtree(work, ignore_errors=True)
    return corpus


def survey_captions(source: Captions, config: CaptionsConfig, work: Path) -> Gathered:
    """Read captions and bring them to their pictures, as `prepare_captions` does, and say nothing.

    Args:
      source: where the captioned pictures are.
      config: parameters of the corpus.
      work: folder for the pictures of a data set.

    Raises:
      UserError: captions or pictures cannot be read or do not belong together, an engine is
        missing, or does not speak a language that was asked for.
    """
    for engine in config.engines:
        require_engine(engine)
    require_spoken(config)
    found = read_captions(source.images, source.captions, config.languages, source.encoding, work)
    return gather(*found, config.languages)


def _lines(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a line for each reason: how many there are, and the first of them."""
    counts = collections.Counter(problem.reason for problem in problems)
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.reason, problem)
    for reason, count in counts.items():
        yield f"{reason}: {count:,}, the first is {first[reason].path}: {first[reason].detail}"


def _check(
    name: str, plan: Plan, gathered: Gathered, layout: Layout, data_dir, options: Options
) -> None:
    """See before anything is spoken that no more captions are left out than is tolerated.

    They are counted as they are stated, not as often as they would be said.

    Raises:
      UserError: more are left out.
    """
    if corpus_directory(name, data_dir) is not None:
        return
    # Training comes first: there is counted what is left out of a picture that is in every split.
    splits = {image.key: image.split for image in reversed(plan.images) if image.split in SPLITS}
    stated = [
        PlannedImage(number, picture.name, splits[picture.name], picture.name, picture.captions)
        for number, picture in enumerate(gathered.pictures)
        if picture.name in splits
    ]
    tolerance = layout.tolerance if options.tolerance is None else options.tolerance
    rules = {"max_seconds": options.max_seconds, "tolerance": tolerance}
    planned = Plan(tuple(stated), plan.problems)
    report = make_report(name, planned, stated, plan.problems, {}, {}, rules, Copies((), {}))
    folder = resolve_data_dir(data_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    report.check(tolerance, write_report(folder, report, plan.problems))


def _place(source: Captions) -> str:
    words = [os.path.realpath(path) if path else "" for path in (source.images, source.captions)]
    if not any(words):
        raise UserError("images is missing: give the folder of the pictures")
    return hashlib.blake2b("\n".join(words).encode(errors="replace"), digest_size=6).hexdigest()
