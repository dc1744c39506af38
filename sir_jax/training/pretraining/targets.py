"""What the small speech encoder learns of each clip: its phones and the teacher's frames.

Both are made once of the clean clip and stored beside each other, one file a split.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sir_jax.data.builders.records import progress
from sir_jax.data.corpus import Caption, Split
from sir_jax.data.media.audio import load_audio
from sir_jax.data.parallel import ordered_map
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file
from sir_jax.training.pretraining.phones import split_ipa
from sir_jax.training.pretraining.teacher import WIDTH

# Raised when the same clips give other targets than before.
_FORM = 1


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of the clips of a split, in the order of its index.

    Attributes:
      samples: int64 [n], the length of each clip.
      phones: the letters of each clip, of which '' has none: its text is unknown.
      groups: who speaks what, such as 'human fr'.
      frames: the teacher's frames of all clips, float16 [F, 96].
      starts: int64 [n + 1]; clip i has the frames from starts[i] to starts[i + 1].
    """

    samples: np.ndarray
    phones: tuple[str, ...]
    groups: tuple[str, ...]
    frames: np.ndarray
    starts: np.ndarray

    def teacher(self, clip: int) -> np.ndarray:
        """Return the teacher's frames of a clip, float32 [K, 96]."""
        return self.frames[self.starts[clip] : self.starts[clip + 1]].astype(np.float32)


def group_of(caption: Caption) -> str:
    """Return who speaks what: 'engine language'."""
    return f"{caption.engine or 'unknown'} {caption.language or 'unknown'}"


def make_targets(
    split: Split,
    folder: Path,
    teacher: Callable[[], Callable[[np.ndarray], np.ndarray]],
    transcribe: Callable[[str, str], str],
) -> Targets:
    """Make the targets of a split, or read those that were made before.

    Args:
      split: of a prepared corpus.
      folder: gets a file; created if missing.
      teacher: called only if there is something to make; returns `Teacher.frames`.
      transcribe: from text and language to the IPA, or '' where the language is unknown.

    Raises:
      UserError: a clip cannot be decoded.
    """
    index = split.index
    content = hashlib.blake2b(np.ascontiguousarray(index).tobytes(), digest_size=6).hexdigest()
    corpus = "-".join(split.directory.parts[-3:-1])
    path = folder / f"{corpus}-{split.name}-{content}-{_FORM}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            np.savez(file, **_make(split, teacher(), transcribe))
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    return Targets(
        index["samples"].astype(np.int64),
        tuple(columns["phones"].tolist()),
        tuple(columns["groups"].tolist()),
        columns["frames"],
        columns["starts"],
    )


def _make(split, teach, transcribe) -> dict[str, np.ndarray]:
    """Return the columns of a split's file."""
    index, frames, phones, groups = split.index, [], [], []

    def target(row: int) -> tuple[Caption, np.ndarray]:
        entry = index[row]
        caption = split[int(entry["row"])].captions[int(entry["slot"])]
        wave = load_audio(caption.audio, f"caption {caption.caption_id} of {split.directory}")
        return caption, teach(wave).astype(np.float16)

    with progress(
        len(index), "clip", f"targets of {split.directory.parent.name} {split.name}"
    ) as bar:
        for caption, made in ordered_map(target, range(len(index))):
            phones.append(transcription(caption, transcribe))
            groups.append(group_of(caption))
            frames.append(made)
            bar.update(1)
    return {
        "phones": np.array(phones),
        "groups": np.array(groups),
        "frames": np.concatenate([np.empty((0, WIDTH), np.float16), *frames]),
        "starts": np.cumsum([0, *map(len, frames)]),
    }


def transcription(caption: Caption, transcribe: Callable[[str, str], str]) -> str:
    """Return the letters of what a caption says, '' if that is unknown."""
    if not (caption.text and caption.language):
        return ""
    try:
        return "".join(split_ipa(transcribe(caption.text, caption.language)))
    except UserError:  # a language without a synthesiser
        return ""
