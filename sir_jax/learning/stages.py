"""`learn`: corpus, training, evaluation, release and index, one after the other."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.builders.spoken_captions.gather import Gathered
from sir_jax.data.builders.spoken_captions.sources.rows import language_code
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.corpus import Corpus, corpus_directory, open_corpus
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.media.synthesis.engines import missing_engines
from sir_jax.data.paths import data_dir as resolve_data_dir
from sir_jax.data.preparation.captions import Captions, prepare_captions, survey_captions
from sir_jax.data.preparation.prepare import Options
from sir_jax.errors import UserError
from sir_jax.evaluation.card import make_release
from sir_jax.evaluation.evaluate import evaluate, make_evaluate, result_path
from sir_jax.index.gallery import INDEX_FILE
from sir_jax.index.index import Index
from sir_jax.index.updates import carry_out, plan_update
from sir_jax.inference import release
from sir_jax.inference.retriever import Retriever
from sir_jax.learning import sizes
from sir_jax.learning.record import Record, stamp_of
from sir_jax.learning.report import in_words, result_line
from sir_jax.learning.setup import starting_point, with_sizes
from sir_jax.learning.wish import Wish
from sir_jax.runtime.files import write_json
from sir_jax.runtime.locks import only_one
from sir_jax.training.featurize import featurize
from sir_jax.training.loop import train

STAGES = ("corpus", "train", "evaluate", "release", "index")
# In seconds, of what is the same for any amount of data.
_START = 20.0


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What was made.

    Attributes:
      release: folder of the retriever.
      index: folder of the index.
      corpus: name of the corpus.
      results: metrics of each test split, by its name.
      words: 'text' and 'language' of a caption.
      index_failed: pictures that are not in the index, with the reason.
    """

    release: Path
    index: Path
    corpus: str
    results: dict[str, dict[str, float]]
    words: dict[str, str]
    index_failed: dict[str, str]


def learn(wish: Wish, tell: Callable[[str], None] = print) -> Learnt:
    """Learn to find a folder's pictures by what is said of them, or go on where a call stopped.

    Args:
      wish: what is to be learnt, and where it goes.
      tell: gets each line on what is chosen and done.

    Raises:
      UserError: on anything that the user can mend, before minutes are spent where it can be seen.
      Interrupted: on SIGTERM or Ctrl-C in training, after the state was saved.
    """
    record = Record(wish.out, wish.asked())
    if wish.model:
        release.find(wish.model)
    stamp = stamp_of(wish)
    known = record.done.get("corpus", {})
    gathered = None
    if known.get("stamp") != stamp or corpus_directory(known["name"], wish.data_dir) is None:
        gathered = _survey(wish)
    with only_one(wish.out, "out"):
        run = _Run(wish, Record(wish.out, wish.asked()), stamp, gathered, tell)
        return run.all()


def _source(wish: Wish) -> Captions:
    return Captions(wish.images, wish.captions, wish.encoding)


def _languages(wish: Wish) -> tuple[str, ...]:
    return tuple(map(language_code, wish.languages))


def _survey(wish: Wish) -> Gathered:
    """Read the captions before anything is made.

    Raises:
      UserError: they cannot be used, or fewer than two pictures have one.
    """
    config = CaptionsConfig(
        _languages(wish), wish.voices or 1, wish.hold_out_pictures, wish.engines or ("espeak",)
    )
    gathered = survey_captions(_source(wish), config, wish.out / "pictures")
    if len(gathered.pictures) < 2:
        name = gathered.pictures[0].name
        raise UserError(
            f"images {str(wish.images)!r}: only 1 picture has a caption, {name}; give 2 or "
            "more, so that one can be told from another"
        )
    percent, count = wish.hold_out_pictures, len(gathered.pictures)
    left = count - math.ceil(count * percent / 100) - math.ceil(count * percent / 200)
    if left < 2:
        raise UserError(
            f"hold_out_pictures is {percent}, which leaves {max(left, 0)} of {count} pictures for "
            "training; hold out fewer"
        )
    return gathered


class _Run:
    """One call: does what is not done yet."""

    def __init__(
        self,
        wish: Wish,
        record: Record,
        stamp: str,
        gathered: Gathered | None,
        tell: Callable[[str], None],
    ):
        self._wish, self._record, self._stamp = wish, record, stamp
        self._gathered, self._tell = gathered, tell
        self._cores = wish.cores or default_workers()
        self._expected = dict.fromkeys(STAGES, _START)
        self._workdir = wish.out / "run"

    def all(self) -> Learnt:
        """Do every stage, or say that it is done."""
        if self._gathered is not None:
            for stage in ("corpus", "index"):
                self._record.done.pop(stage, None)
            self._choose_speech()
        for number, stage in enumerate(STAGES, 1):
            where = f"[{number} of {len(STAGES)}] {stage}"
            if stage in self._record.done:
                self._tell(f"{where}: done already, skipped")
            else:
                left = sum(self._expected[s] for s in STAGES if s not in self._record.done)
                self._tell(f"{where}: about {in_words(left)} left in all")
                self._record.write()  # what was chosen holds for the next call, too
                start = time.monotonic()
                facts = getattr(self, f"_{stage}")()
                seconds = time.monotonic() - start
                self._record.finish(stage, seconds=round(seconds, 1), **facts)
            if stage == "corpus":
                self._choose_training()
        done = self._record.done
        return Learnt(
            self._wish.out / "release",
            self._wish.out / "index",
            done["corpus"]["name"],
            done["evaluate"]["results"],
            done["corpus"]["words"],
            done["index"]["failed"],
        )

    def _choose(self, choice: sizes.Choice, asked: Any = None) -> Any:
        """Return a size: the one that was chosen before, the one asked for, or a new one."""
        name, chosen = choice.name, self._record.chosen
        if name in chosen:
            choice = choice._replace(value=chosen[name], why="as chosen when this was begun")
        elif asked:
            choice = choice._replace(value=asked, why="as asked for")
        self._tell(sizes.show(choice))
        chosen[name] = choice.value
        return choice.value

    def _choose_speech(self) -> None:
        """Choose engines and voices."""
        captions: dict[str, int] = {}
        for picture in self._gathered.pictures:
            for language, _ in picture.captions:
                captions[language] = captions.get(language, 0) + 1
        count = sum(captions.values())
        spoken = ", ".join(f"{number:,} in {code}" for code, number in sorted(captions.items()))
        self._tell(f"{len(self._gathered.pictures):,} pictures with {count:,} captions: {spoken}")
        self._tell(f"cores = {self._cores}: of this machine")
        begun = "voices" in self._record.chosen
        choice, others = sizes.choose_engines(captions, self._cores, missing_engines())
        engines = self._choose(choice, self._wish.engines)
        if tuple(engines) == choice.value:
            for line in others:
                self._tell(line)
        voices = self._choose(sizes.choose_voices(count), self._wish.voices)
        clips = count * (voices + 1 + len(engines))
        if not begun:
            self._check_room(clips)
        pictures = len(self._gathered.pictures)
        batch = self._wish.batch_size or sizes.choose_batch(pictures).value
        step = sizes.step_seconds(batch, self._cores)
        steps = sizes.choose_steps(pictures, batch, step, self._wish.minutes).value
        slow = count * sizes.SAY_SLOWLY * ("piper" in engines)
        self._expected["corpus"] += (clips * sizes.SAY + slow) / self._cores
        encoding = sizes.encode_seconds(count * voices, 2.0, self._cores)
        self._expect(encoding + (self._wish.steps or steps) * step)

    def _expect(self, training: float) -> None:
        programs = len(sizes.SHARES) * sizes.COMPILE * 2 / self._cores
        self._expected["train"] = _START + programs + training
        self._expected["evaluate"] = _START + sizes.COMPILE * 2 / self._cores

    def _check_room(self, clips: int) -> None:
        """See that the disk has room for the corpus.

        Raises:
          UserError: it has not.
        """
        folder = resolve_data_dir(self._wish.data_dir).resolve()
        while not folder.is_dir():
            folder = folder.parent
        free, needed = shutil.disk_usage(folder).free, clips * sizes.BYTES_A_CLIP
        if free < needed:
            raise UserError(
                f"data_dir {folder} has {free / 1e9:.2f} GB left, and {clips:,} recordings take "
                f"about {needed / 1e9:.2f} GB; make room, choose another data_dir, or fewer voices"
            )

    def _corpus(self) -> dict[str, Any]:
        """Have the captions said."""
        chosen, wish, source = self._record.chosen, self._wish, _source(self._wish)
        config = CaptionsConfig(
            _languages(wish),
            chosen["voices"],
            wish.hold_out_pictures,
            tuple(chosen["engines"]),
            source.label,
        )
        options = Options(wish.tolerance, workers=self._cores)
        corpus = prepare_captions(source, config, wish.data_dir, options)
        before = chosen.get("corpus", corpus.name)
        if before != corpus.name:
            raise UserError(
                f"out {str(wish.out)!r}: pictures or captions have changed since it was begun "
                f"({before} is {corpus.name} now); choose another out"
            )
        chosen["corpus"] = corpus.name
        tests = [name for name in corpus.splits if name.startswith("test")]
        said = corpus.splits[tests[0] if tests else "train"][0].captions[0]
        words = {"text": said.text, "language": said.language}
        return {"name": corpus.name, "stamp": self._stamp, "words": words}

    def _open(self) -> Corpus:
        return open_corpus(self._record.chosen["corpus"], self._wish.data_dir)

    def _choose_training(self) -> None:
        """Choose batch, buckets and steps.

        Raises:
          UserError: one picture alone is in training.
        """
        corpus, wish = self._open(), self._wish
        split = corpus.splits["train"]
        pictures = len(split)
        if pictures < 2:
            raise UserError(
                f"hold_out_pictures is {wish.hold_out_pictures}, which leaves 1 picture for "
                "training; hold out fewer"
            )
        self._cfg = starting_point(corpus.name, wish.model)
        self._cfg.data.data_dir = str(wish.data_dir or "")
        if "train" in self._record.done:
            return
        split = corpus.to_learn(self._cfg.data).splits["train"]
        samples = split.index["samples"].astype(float)
        augment = AugmentSpec.from_config(self._cfg.data.augment)
        batch = self._choose(sizes.choose_batch(pictures), wish.batch_size)
        buckets = self._choose(sizes.choose_buckets(samples, augment))
        clip = sizes.padded_seconds(samples, buckets, augment)
        step = sizes.step_seconds(batch, self._cores)
        steps = self._choose(
            sizes.choose_steps(pictures, batch, step, wish.minutes), self._wish.steps
        )
        with_sizes(self._cfg, self._record.chosen, step, self._cores)
        self._expect(sizes.encode_seconds(len(samples), clip, self._cores) + steps * step)

    def _train(self) -> dict[str, Any]:
        """Encode clips and pictures once and train on that, or go on at the last checkpoint."""
        corpus, features = self._open(), self._wish.out / "features"
        self._cfg.data.features = str(features)
        featurize(self._cfg, corpus, "train", features, sizes.BATCH)
        train(self._cfg, self._workdir, make_evaluate(corpus), corpus)
        # Without a validation split no checkpoint is the best.
        judged = any(name.startswith("val") for name in corpus.splits)
        return {"which": "best" if judged else "last"}

    def _evaluate(self) -> dict[str, Any]:
        """Ask for the test's pictures, by each engine that has voices for it."""
        corpus, which = self._open(), self._record.done["train"]["which"]
        found = release.find(self._workdir, which)
        results = {}
        for name, split in corpus.splits.items():
            if not name.startswith("test"):
                continue
            size = found.cfg.data.batch_size
            flat, table = evaluate(found.cfg, found.params, split, size)
            content = {
                "corpus": corpus.name,
                "trained_on": corpus.name,
                "split": name,
                "which": which,
                "fold_images": 0,
                "metrics": flat,
            }
            path = result_path(self._workdir, name, corpus.name, corpus.name, 0)
            write_json(path, content, own=True)
            self._tell(f"split {name}\n{table}")
            results[name] = flat
        if not results:
            self._tell("no caption is of a split 'test': nothing is evaluated")
        return {"results": results}

    def _release(self) -> dict[str, Any]:
        """Make the release; one that is there was made whole, before a call was stopped."""
        out = self._wish.out / "release"
        if not (out / release.CONFIG).is_file():
            which = self._record.done["train"]["which"]
            make_release(self._workdir, out, _name(self._wish), "sir-jax learn", which)
        return {}

    def _index(self) -> dict[str, Any]:
        """Index the pictures, or what has changed of them."""
        out = self._wish.out / "index"
        model = Retriever.load(str(self._wish.out / "release"))
        if (out / INDEX_FILE).exists():
            index = Index.load(out, model)
            carry_out(index, plan_update(index, self._wish.images, out=out), out=out, progress=True)
        else:
            index = Index.build(model, self._wish.images, out=out, progress=True)
        self._tell(f"{out}: {len(index.images):,} pictures")
        return {"failed": {name: failure.reason for name, failure in index.failed.items()}}


def _name(wish: Wish) -> str:
    name = wish.out.resolve().name
    return name if release.is_name(name) else "learnt"


def lines_of(learnt: Learnt, hold_out_pictures: int) -> list[str]:
    """Return the line of each test split.

    Args:
      learnt: from `learn`.
      hold_out_pictures: of the wish.
    """
    return [
        result_line(name, metrics, hold_out_pictures > 0)
        for name, metrics in learnt.results.items()
    ]
