"""Decode sound files by libsndfile, in blocks, to the end of the stream."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import soundfile

from sir_jax.data.media.sniff import HEAD_BYTES, Content, content_of
from sir_jax.data.media.sound import libav
from sir_jax.data.media.sound.flac import flac_part, next_flac
from sir_jax.data.media.sound.mpeg import mpeg_parts
from sir_jax.data.media.sound.ogg import ogg_parts
from sir_jax.data.media.sound.parts import (
    AGAIN,
    CONVERT,
    UNKNOWN,
    Part,
    Stream,
    truncated,
    unsupported,
)
from sir_jax.data.media.sound.tags import ID3V1_BYTES, tags_end
from sir_jax.data.media.sound.wav import wav_part
from sir_jax.errors import BadMedia

# Values (samples x channels) that are decoded at a time: 16 MiB as float32.
BLOCK_VALUES = 1 << 22

# To copy a small file takes less time than to patch what is read of it.
_COPIED_BYTES = 1 << 22

# libsndfile reads more formats. The others are refused before its parsers see a byte, and its own
# word on what it found is checked before its samples are used.
_FOUND = {
    "WAV": {"WAV", "WAVEX", "RF64"},
    "FLAC": {"FLAC"},
    "OGG": {"OGG"},
    "MP3": {"MP3"},
}
_SUBTYPES = {
    *("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    *("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"),
}
_FLAC = Content("speech", "flac")


def streams_of(data: bytes, label: str) -> Iterator[Stream]:
    """Open the streams of a sound file, one after the other; most files have one.

    Args:
      data: the whole file; tags in front of it are skipped.
      label: its name in error messages.

    Raises:
      BadMedia: the file is damaged, truncated, or of a format that is not read.
    """
    content = _FLAC
    if not data.startswith(b"fLaC"):  # most corpora are FLAC: no time is lost on these
        data = data[tags_end(data) :]
        content = content_of(data[:HEAD_BYTES])
    parts = _parts(data, content, label)
    if parts is None:
        yield from libav.streams(data, content.format, label)
        return
    for part in parts:
        with _opened(part, label) as sound:
            known = sound.frames if part.samples is None else part.samples
            known = None if known >= UNKNOWN else known
            rest: list[str] = []
            blocks = _blocks(sound, part, known, label, rest)
            yield Stream(known, sound.channels, sound.samplerate, blocks)
        if rest and part.form == "FLAC" and (joined := next_flac(part.data)):
            parts.append(flac_part(joined, label))


def _parts(data: bytes, content: Content, label: str) -> list[Part] | None:
    """Check a file by its format; return None for one that libsndfile does not read."""
    form = content.format
    if form == "wav":
        return [wav_part(data, label)]
    if form == "flac":
        return [flac_part(data, label)]
    if form == "mp3":
        return mpeg_parts(data, label)
    if data.startswith(b"OggS") and not (form == "speex" and libav.installed()):
        return ogg_parts(data, label)
    if form in libav.DEMUXERS:
        if not libav.installed():
            raise unsupported(label, form, extra=True)
        return None
    if content.kind == "speech" or form == "video":
        raise unsupported(label, form)
    if form:
        raise BadMedia(f"{label}: a {form} file, not a sound; give a sound file")
    raise BadMedia(f"{label}: not a wav, flac, ogg or mp3 file; {CONVERT}")


class _OneWay(soundfile.SoundFile):
    """A sound that is read once from its start.

    soundfile seeks after each read if the file is seekable, and FLAC decodes a block for that.
    """

    def seekable(self) -> bool:
        return False


class _Patched(io.BytesIO):
    """The bytes of a part, of which some read as others: a large file is not copied for them."""

    def __init__(self, part: Part):
        super().__init__(part.data)
        self._start, self._bytes = part.patch
        self._end = self._start + len(self._bytes)

    def readinto(self, buffer) -> int:
        at = self.tell()
        count = super().readinto(buffer)
        if at >= self._end:
            return count
        first, last = max(at, self._start), min(at + count, self._end)
        if first < last:
            buffer[first - at : last - at] = self._bytes[first - self._start : last - self._start]
        return count


class _Endless(io.BytesIO):
    """The bytes of a part, which claim to be 64 times as long, see `Part.endless`."""

    def __init__(self, part: Part):
        super().__init__(part.data)
        self._claimed = 64 * len(part.data) + (1 << 20)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_END:
            offset, whence = self._claimed + offset, io.SEEK_SET
        return super().seek(offset, whence)

    def readinto(self, buffer) -> int:
        if self.tell() != self._claimed - ID3V1_BYTES:
            return super().readinto(buffer)
        # A tag is looked for at the end. There is none.
        buffer[:] = bytes(len(buffer))
        self.seek(len(buffer), io.SEEK_CUR)
        return len(buffer)


def _file(part: Part) -> io.BytesIO:
    if part.endless:
        return _Endless(part)
    if part.patch is None:
        return io.BytesIO(part.data)
    if len(part.data) > _COPIED_BYTES:
        return _Patched(part)
    start, patch = part.patch
    return io.BytesIO(b"".join((part.data[:start], patch, part.data[start + len(patch) :])))


@contextlib.contextmanager
def _reporting(label: str) -> Iterator[None]:
    """Report what libsndfile says against a file."""
    try:
        yield
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).rstrip(". ")
        raise BadMedia(f"{label}: damaged or truncated ({reason}); {AGAIN}") from None


@contextlib.contextmanager
def _opened(part: Part, label: str) -> Iterator[soundfile.SoundFile]:
    """Open a part of a file and check what libsndfile takes it for."""
    with _reporting(label):
        sound = _OneWay(_file(part))
    with sound:
        if sound.format not in _FOUND[part.form] or sound.subtype not in _SUBTYPES:
            raise unsupported(label, f"{sound.format} with {sound.subtype}")
        yield sound


def _blocks(
    sound: soundfile.SoundFile, part: Part, known: int | None, label: str, rest: list[str]
) -> Iterator[np.ndarray]:
    """Read to the end of the stream, wherever its header puts it.

    What the decoder says against bytes behind that end is added to `rest`.
    """
    step, done = max(1, BLOCK_VALUES // sound.channels), 0
    # Of libsndfile's own number it reads no more. Behind any other one sample more is asked for.
    more = part.samples is not None
    while known is None or done < known + more:
        want = step if known is None else min(step, known + more - done)
        try:
            with _reporting(label):
                block = sound.read(want, "float32", always_2d=True)
        except BadMedia as error:
            if not more or known is None or done + want <= known:
                raise
            rest.append(str(error))
            with _opened(part, label) as again:
                for read in range(0, done, step):
                    again.read(min(step, done - read), "float32")
                with _reporting(label):
                    block = again.read(known - done, "float32", always_2d=True)
        done += len(block)
        if len(block):
            yield block
        if len(block) < want:
            break
        if known is not None and done > known:
            known = None
    if known is not None and done < known - part.slack:
        raise truncated(label, f"{known} samples", str(done))
