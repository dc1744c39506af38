"""Open a prepared corpus: random access to images and their spoken captions, without TensorFlow.

A record is one image with all its captions. Audio and image stay encoded until they are decoded for
a batch.
"""

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.data.builders.checksums import SPOKEN
from sir_jax.data.builders.recordings import LAYOUTS, load_layout
from sir_jax.data.media.audio import TRIMMING, load_audio, spoken_part
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.data.paths import data_dir as resolve_data_dir
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file

# One entry per caption: its record, its number there, and what is needed to plan batches without
# reading records.
INDEX_DTYPE = np.dtype(
    [("row", "i4"), ("slot", "i4"), ("samples", "i4"), ("image_id", "i8"), ("caption_id", "i8")]
)

# TFDS imports its parts lazily, under a lock of etils and under Python's import lock. Two decoding
# threads that trigger this at the same time would deadlock.
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Caption:
    """One spoken caption."""

    audio: bytes  # FLAC of int16 mono at 16 kHz
    samples: int
    caption_id: int
    text: str
    speaker: str
    key: str = ""  # the publisher's id; '' if the corpus has none
    language: str = ""  # BCP 47, such as 'fr'; '' if unknown
    engine: str = ""  # 'human', or the synthesiser that spoke it; '' if unknown


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image with its captions."""

    image: bytes  # encoded as the publisher encoded it
    image_id: int
    captions: tuple[Caption, ...]
    key: str = ""  # the publisher's id; '' if the corpus has none


class Split:
    """Random access to the images of one split. Pickling sends only where to open it again.

    Args:
      directory: folder of the prepared corpus, which ends in its version.
      name: name of the split, such as 'train', 'val' or 'test'.
      trim: True for clips without their quiet ends; `index` then has what is left of them.
    """

    def __init__(self, directory: str | os.PathLike, name: str, trim: bool = False):
        self.directory = Path(directory)
        self.name = name
        self.trim = trim
        self._source = None
        self._index = None

    def __getstate__(self):
        # Workers open their own: the reader holds file handles, and the index is large.
        return vars(self) | {"_source": None, "_index": None}

    @property
    def index(self) -> np.ndarray:
        """Return one INDEX_DTYPE entry per caption, sorted by caption_id."""
        if self._index is None:
            with np.load(index_path(self.directory, self.name)) as stored:
                index = stored["index"]
            if self.trim:
                index["samples"] = spoken_samples(self, index)
            self._index = index
        return self._index

    def _open(self):
        if self._source is None:
            with _OPENING:
                self._source = self._source or self._data_source()
        return self._source

    def _data_source(self):
        import tensorflow_datasets as tfds

        from sir_jax.data.features import KeepEncoded

        builder = tfds.builder_from_directory(self.directory)
        keep = KeepEncoded()
        decoders = {"image": keep, "captions": {"audio": keep}}
        source = builder.as_data_source(self.name, decoders=decoders)
        if len(source):
            source[0]  # triggers the lazy imports while the lock is held
        return source

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, row: int) -> ImageRecord:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of split {self.name!r} with {len(self)} images")
        record = self._open()[int(row)]
        columns = record["captions"]
        texts = [
            # Not every corpus has every column: spoken_scenes has no keys, and corpora made before
            # there were several engines have no language and no engine.
            [text.decode() for text in columns.get(name, [b""] * len(columns["audio"]))]
            for name in ("text", "speaker", "key", "language", "engine")
        ]
        captions = tuple(
            Caption(audio, int(samples), int(caption_id), *words)
            for audio, samples, caption_id, *words in zip(
                columns["audio"], columns["samples"], columns["caption_id"], *texts, strict=True
            )
        )
        key = record.get("key", b"").decode()
        return ImageRecord(record["image"], int(record["image_id"]), captions, key)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A prepared corpus; `name` is 'BUILDER/CONFIG'."""

    name: str
    directory: Path
    splits: dict[str, Split]

    def to_learn(self, data_cfg: Any) -> "Corpus":
        """Return the corpus as training reads it, clips without their ends by choice.

        Args:
          data_cfg: `config.data`, of which `trim_silence` is read. What is faint is cut off in use
            alone.
        """
        if data_cfg.trim_silence != "speech":
            return self
        splits = {name: Split(one.directory, name, trim=True) for name, one in self.splits.items()}
        return dataclasses.replace(self, splits=splits)

    def split(self, name: str) -> Split:
        """Return the split of a name.

        Raises:
          UserError: the corpus has no such split.
        """
        if name not in self.splits:
            builder, _, config = self.name.partition("/")
            refused = load_layout(builder).refused if builder in LAYOUTS else {}
            if name in refused.get(config, {}):
                raise UserError(refused[config][name])
            raise UserError(
                f"{self.name} has no split {name!r}; choose one of {', '.join(self.splits)}"
            )
        return self.splits[name]


def index_path(directory: Path, split: str) -> Path:
    """Return the path of a split's index."""
    return Path(directory) / f"index-{split}.npz"


def spoken_samples(split: Split, index: np.ndarray) -> np.ndarray:
    """Return the number of samples of each clip of a split without its quiet ends, int32 [n].

    All clips are read once; the numbers are kept beside the index, where that can be written to.

    Args:
      split: to read.
      index: its index.

    Raises:
      UserError: a clip cannot be decoded.
    """
    path = split.directory / f"{SPOKEN}{split.name}.npz"
    if path.exists():
        with np.load(path) as stored:
            if int(stored["form"]) == TRIMMING and len(stored["samples"]) == len(index):
                return stored["samples"]

    def left(entry: np.void) -> int:
        audio = split[int(entry["row"])].captions[int(entry["slot"])].audio
        first, stop = spoken_part(
            load_audio(audio, f"caption {entry['caption_id']} of split {split.name!r}")
        )
        return stop - first

    from sir_jax.data.builders.records import progress

    with progress(len(index), "clip", f"quiet ends of {split.name}") as bar:
        samples = np.zeros(len(index), np.int32)
        for row, count in enumerate(ordered_map(left, index, GROUP)):
            samples[row] = count
            bar.update()
    if os.access(split.directory, os.W_OK):
        with whole_file(path, own=True) as part, part.open("wb") as file:
            np.savez(file, samples=samples, form=TRIMMING)
    return samples


def write_index(directory: Path, split: str) -> None:
    """Read all records of a split and write its index beside them.

    Args:
      directory: folder of the prepared corpus.
      split: name of the split.
    """
    from sir_jax.data.builders.records import progress

    records = Split(directory, split)
    parts = [np.empty(0, INDEX_DTYPE)]
    with progress(len(records), "image", f"index of {split}") as bar:
        # Threads, because records of a large corpus come from the disk.
        for row, record in enumerate(ordered_map(records.__getitem__, range(len(records)), GROUP)):
            entries = [
                (row, slot, caption.samples, record.image_id, caption.caption_id)
                for slot, caption in enumerate(record.captions)
            ]
            parts.append(np.array(entries, INDEX_DTYPE))
            bar.update(1)
    index = np.sort(np.concatenate(parts), order="caption_id")
    with whole_file(index_path(directory, split)) as part, part.open("wb") as file:
        np.savez(file, index=index)


def corpus_directory(name: str, data_dir=None) -> Path | None:
    """Return the folder of the newest prepared version of a corpus; None if there is none."""
    infos = sorted((resolve_data_dir(data_dir) / name).glob("*.*.*/dataset_info.json"))
    return infos[-1].parent if infos else None


def split_names(directory: Path) -> list[str]:
    """Return the splits of a prepared corpus: train*, then val*, then test*, then others."""
    info = json.loads((directory / "dataset_info.json").read_text())
    order = ("train", "val", "test")

    def rank(name: str) -> tuple[int, str]:
        starts = [name.startswith(prefix) for prefix in order]
        return starts.index(True) if any(starts) else len(order), name

    return sorted((split["name"] for split in info["splits"]), key=rank)


def make_command(name: str, data_dir=None) -> str:
    """Return the command that makes a corpus.

    Raises:
      UserError: no builder makes a corpus of this name.
    """
    builder, _, config = name.partition("/")
    if builder == "spoken_scenes":
        from sir_jax.data.builders.spoken_scenes.config import SceneConfig

        command = SceneConfig.from_name(config).command()
    elif builder == "manifest" and config:
        command = f"sir-jax data prepare manifest --name={config} --manifest=FILE"
    elif builder == "voices":
        from sir_jax.data.builders.voices.config import VoicesConfig

        command = VoicesConfig.from_name(config).command()
    elif builder == "spoken_captions":
        from sir_jax.data.builders.spoken_captions.config import CaptionsConfig

        command = CaptionsConfig.from_name(config).command()
    elif builder == "tux_paint_stamps":
        from sir_jax.data.builders.tux_paint_stamps.config import StampsConfig

        command = StampsConfig.from_name(config).command()
    elif builder in LAYOUTS and config in load_layout(builder).configs:
        command = f"sir-jax data prepare {name} --archives=DIR"
    else:
        raise UserError(f"corpus {name!r} is unknown; choose one of {', '.join(_known_names())}")
    return f"{command} --data_dir={data_dir}" if data_dir else command


def _known_names() -> list[str]:
    published = [f"{name}/{config}" for name in LAYOUTS for config in load_layout(name).configs]
    made = ("spoken_scenes", "spoken_captions", "tux_paint_stamps", "voices")
    return [*published, "manifest/NAME", *(f"{name}/CONFIG" for name in made)]


def open_corpus(name: str, data_dir=None) -> Corpus:
    """Open a prepared corpus.

    Args:
      name: 'BUILDER/CONFIG', for example 'flickr8k_audio/official'; `sir-jax data` lists them.
      data_dir: folder of the corpora; None for $SIR_JAX_DATA or `data`.

    Raises:
      UserError: the corpus is missing or incomplete. The message has the command that makes it.
    """
    command = make_command(name, data_dir)
    directory = corpus_directory(name, data_dir)
    names = split_names(directory) if directory else []
    if not names or not all(index_path(directory, split).exists() for split in names):
        raise UserError(
            f"corpus {name!r} is not in {str(resolve_data_dir(data_dir))!r}; make it with: "
            f"{command}"
        )
    return Corpus(name, directory, {split: Split(directory, split) for split in names})


def open_pictures(name: str, data_dir=None) -> Corpus:
    """Open a prepared corpus that pairs recordings with pictures; see `open_corpus`.

    Raises:
      UserError: the corpus is missing or incomplete, or has recordings alone.
    """
    corpus = open_corpus(name, data_dir)
    if name.startswith("voices/"):
        raise UserError(
            f"{name} has recordings without pictures, for `sir-jax pretrain` and `data verify` "
            "alone; choose a corpus with pictures, such as tux_paint_stamps or spoken_scenes"
        )
    return corpus
