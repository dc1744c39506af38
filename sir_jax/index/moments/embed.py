"""Embed long recordings by their windows, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sir_jax.data.media.audio import SAMPLE_RATE, SoundStream, longest_window
from sir_jax.errors import BadMedia, UserError
from sir_jax.index.moments.phrases import Phrases, Stretch
from sir_jax.index.moments.store import Moments
from sir_jax.index.moments.windows import QUIET, are_heard, level_of, windows_of
from sir_jax.inference.inputs import plain_speech


def embed_long(
    model, sounds: Sequence[tuple[str, Any]], batch_size: int | None = None
) -> tuple[Moments | None, dict[str, UserError], dict[str, str]]:
    """Embed recordings by windows of the model's last bucket, and by what lies between pauses.

    Who names a picture in passing does so in a phrase of a second or two: its vector is that of
    the words alone, where a window holds their neighbours, too. Windows find what is said without
    a pause. One recording is decoded at a time; only its stretches of the next batches are held.

    Args:
      model: a `Retriever`.
      sounds: (id, recording in any form) of each.
      batch_size: most windows that are encoded at once; None for the model's own.

    Returns:
      (the windows of those that could be read, None for none; id -> why, of the others; id -> what
      is odd about one that could, such as 'digital silence').
    """
    length = longest_window(model.cfg.data)
    # Of each window that is encoded: the number of its recording, its span in samples, its level.
    rows: list[tuple[int, int, int, float]] = []
    failed: dict[str, UserError] = {}
    noted: dict[str, str] = {}
    quiet = [0] * len(sounds)

    def windows() -> Iterator[np.ndarray]:
        for number, (name, source) in enumerate(sounds):
            first = None
            try:
                label, plain = plain_speech(source, name)
                stream = SoundStream(plain, label)
                for start, window in _stretches(stream, length):
                    first = window if first is None else first
                    level = level_of(window)
                    if level < QUIET:
                        quiet[number] += 1
                        continue
                    rows.append((number, start, start + len(window), level))
                    yield window
            except UserError as error:
                failed[name] = error
            # A decoder's own mistake in one file must not cost the others their vectors.
            except Exception as error:
                line = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:200]
                failed[name] = BadMedia(f"{source}: cannot be read ({line}); convert it")
            else:
                if stream.warning:
                    noted[name] = stream.warning
                if first is not None and not (rows and rows[-1][0] == number):
                    rows.append((number, 0, len(first), QUIET))
                    quiet[number] -= 1
                    yield first

    vectors = model.encode_waves(windows(), None, batch_size)
    return _gather(sounds, rows, quiet, vectors, failed), failed, noted


def _stretches(stream: Iterable[np.ndarray], length: int) -> Iterator[Stretch]:
    """Yield the windows and the phrases of a stream, while it is read once."""
    phrases, found = Phrases(length), []

    def overheard() -> Iterator[np.ndarray]:
        for block in stream:
            found.extend(phrases.hear(block))
            yield block
        found.extend(phrases.end())

    for window in windows_of(overheard(), length):
        yield window
        yield from found
        found.clear()
    yield from found


def _gather(sounds, rows, quiet, vectors, failed) -> Moments | None:
    """Return the windows of the recordings that were read, without those that are too faint."""
    parts: list[tuple] = []
    first_rows = np.searchsorted([row[0] for row in rows], np.arange(len(sounds) + 1))
    for number, (name, _) in enumerate(sounds):
        own = range(first_rows[number], first_rows[number + 1])
        if name in failed or not own:
            continue
        heard = are_heard([rows[n][3] for n in own])
        kept = [n for n, is_heard in zip(own, heard, strict=True) if is_heard]
        kept.sort(key=lambda n: rows[n][1:3])
        spans = np.array([rows[n][1:3] for n in kept], np.float64) / SAMPLE_RATE
        silent = quiet[number] + len(own) - len(kept)
        parts.append((name, len(kept), silent, vectors[kept], spans.astype(np.float32)))
    if not parts:
        return None
    ids, counts, silent, matrices, spans = zip(*parts, strict=True)
    return Moments(ids, counts, silent, np.concatenate(matrices), np.concatenate(spans))
