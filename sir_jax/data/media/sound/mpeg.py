"""Walk through the frames of MPEG audio: what they hold is the length, whatever a header says.

libsndfile takes the length of an MP3 file from the Xing or Info header of its first frame. Without
one it estimates the length by the first frames' size, and of files that were joined it reads the
first alone. So where the header and the frames disagree, it gets a header with the true number, and
where there is no header, a file without an end.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from sir_jax.data.media.sound.parts import Part, damaged, truncated
from sir_jax.data.media.sound.tags import ID3V1_BYTES, tag_end

_V1, _V2, _V25 = 3, 2, 0
_L1, _L2, _L3 = 3, 2, 1
_RATES = {
    _V1: (44_100, 48_000, 32_000),
    _V2: (22_050, 24_000, 16_000),
    _V25: (11_025, 12_000, 8_000),
}
# Kilobits a second by (version 1 or not, layer).
_BITRATES = {
    (True, _L1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, _L2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _L3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _L1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _L2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _L3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Frames that a decoder may lose at the start of a stream that was cut out of another one.
_LOST_FRAMES = 2


class _Frame(NamedTuple):
    version: int
    layer: int
    rate: int
    bytes: int
    samples: int


def _frames_by_header() -> dict[int, _Frame]:
    """Return what the second and third byte of a frame's header say, for all valid ones."""
    found = {}
    for second in range(0xE0, 0x100):
        version, layer = second >> 3 & 3, second >> 1 & 3
        for third in range(256):
            bitrate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
            if version == 1 or not layer or bitrate in (0, 15) or rate == 3:
                continue
            hertz = _RATES[version][rate]
            kilobits = _BITRATES[version == _V1, layer][bitrate - 1]
            if layer == _L1:
                samples, size = 384, (12_000 * kilobits // hertz + padding) * 4
            else:
                samples = 576 if layer == _L3 and version != _V1 else 1152
                size = samples // 8 * 1000 * kilobits // hertz + padding
            found[second << 8 | third] = _Frame(version, layer, hertz, size, samples)
    return found


_FRAMES = _frames_by_header()


class _Run(NamedTuple):
    """Frames of one version, layer, rate and number of channels, one after the other.

    Attributes:
      starts: where the frames start.
      pieces: (start, end) of the stretches of frames, between which other bytes lie.
      cut: bytes that lack of a last frame.
    """

    starts: list[int]
    pieces: list[tuple[int, int]]
    cut: int


class _Info(NamedTuple):
    """The header in a stream's first frame.

    Attributes:
      frames: the number of frames that follow; None if it is not stated.
      place: where that number stands in the frame; 0 if it cannot be changed.
      size_place: where the number of bytes stands; 0 if it does not.
      gap_place: where the samples that the encoder added stand, 12 bits for those before the sound
        and 12 for those behind; 0 if they do not.
    """

    frames: int | None
    place: int = 0
    size_place: int = 0
    gap_place: int = 0


def _frame(data: bytes, at: int) -> _Frame | None:
    if data[at : at + 1] != b"\xff" or at + 4 > len(data):
        return None
    return _FRAMES.get(data[at + 1] << 8 | data[at + 2])


def is_frame(data: bytes, at: int) -> bool:
    """Tell whether bytes are a frame's header, and another one follows if they reach that far."""
    frame = _frame(data, at)
    if frame is None:
        return False
    following = at + frame.bytes
    return (
        following + 4 > len(data)
        or _frame(data, following) is not None
        or _tag_bytes(data, following) > 0
    )


def _likeness(data: bytes, at: int) -> tuple[int, int, bool]:
    """Return what frames of one stream have in common: version, layer, rate, mono or not."""
    return data[at + 1] & 0xFE, data[at + 2] & 0x0C, data[at + 3] >> 6 == 3


def find_frames(data: bytes, start: int, stop: int, count: int = 3) -> int:
    """Find MPEG audio.

    Args:
      data: bytes.
      start: where the search starts.
      stop: where it ends.
      count: frames that must follow each other; fewer will do if the data or a tag end them.

    Returns:
      Where the first frame starts; -1 if there is none.
    """
    at = data.find(b"\xff", start, stop)
    while at >= 0:
        place, seen = at, 0
        while seen < count and (frame := _frame(data, place)) is not None:
            if seen and _likeness(data, place) != _likeness(data, at):
                break
            place, seen = place + frame.bytes, seen + 1
        if seen == count or (seen and (place == len(data) or _tag_bytes(data, place))):
            return at
        at = data.find(b"\xff", at + 1, stop)
    return -1


def mpeg_parts(data: bytes, label: str) -> list[Part]:
    """Return the streams of an MP3 file: one, unless the rate or the channels change.

    Raises:
      BadMedia: the file has no frame, or ends before its header or its last frame does.
    """
    runs = _walk(data)
    if not runs:
        raise damaged(label, "no frames of MPEG audio")
    whole = len(runs) == 1 and runs[0].pieces == [(0, len(data))]
    return [_part(data, run, whole, label) for run in runs]


def _walk(data: bytes) -> list[_Run]:
    runs: list[_Run] = []
    at, likeness = find_frames(data, 0, len(data)), None
    while 0 <= at < len(data):
        frame = _frame(data, at)
        if frame is None or _likeness(data, at) != likeness:
            skipped = _tag_bytes(data, at)
            at = at + skipped if skipped else find_frames(data, at, len(data))
            if not skipped and at >= 0 and _likeness(data, at) != likeness:
                likeness = _likeness(data, at)
                runs.append(_Run([], [], 0))
            continue
        run, end = runs[-1], at + frame.bytes
        if end > len(data):
            runs[-1] = run._replace(cut=end - len(data))
            break
        if run.pieces and run.pieces[-1][1] == at:
            run.pieces[-1] = (run.pieces[-1][0], end)
        else:
            run.pieces.append((at, end))
        run.starts.append(at)
        at = end
    return [run for run in runs if run.starts]


def _tag_bytes(data: bytes, at: int) -> int:
    """Return the length of a tag between or after frames; 0 where there is none."""
    if data.startswith(b"TAG", at):
        return ID3V1_BYTES
    return tag_end(data[at : at + 32])


def _part(data: bytes, run: _Run, whole: bool, label: str) -> Part:
    """Return a run of frames, with a header that states how many they are."""
    first = _frame(data, run.starts[0])
    infos = [at for at in run.starts if _info_at(data, at)] if first.layer == _L3 else []
    count, info = len(run.starts) - len(infos), _Info(None)
    if infos[:1] == run.starts[:1]:
        info = _read_info(data, infos[0], first)
    if run.cut and info.frames != count:
        raise truncated(label, f"{run.cut} more bytes of a last frame", "none of them")
    # Some encoders count the header's own frame, too.
    most = count + (len(run.pieces) == 1)
    if info.frames is not None and info.frames > most:
        stated, held = (f"{n * first.samples} samples" for n in (info.frames, count))
        raise truncated(label, stated, held)
    frames = data if whole else b"".join(data[start:end] for start, end in run.pieces)
    if info.frames == count and len(infos) == 1:
        return Part(frames, "MP3")
    frames = b"".join(_pieces_without(data, run, infos)) if infos else frames
    slack = _LOST_FRAMES * first.samples
    if info.place:
        joined = len(infos) > 1 or info.frames < count
        head = _info_frame(data, infos[0], first, info, count, len(frames), joined)
        return Part(head + frames, "MP3", slack=slack)
    return Part(frames, "MP3", count * first.samples, slack, endless=True)


def _side_bytes(data: bytes, at: int) -> int:
    """Return the bytes of a frame of layer III between its header and its sound."""
    mono = data[at + 3] >> 6 == 3
    return (17, 32)[not mono] if data[at + 1] >> 3 & 3 == _V1 else (9, 17)[not mono]


def _info_at(data: bytes, at: int) -> bytes:
    """Return the name of the header that a frame holds; empty if it holds sound."""
    name = data[(place := at + 4 + _side_bytes(data, at)) : place + 4]
    if name in (b"Xing", b"Info") and not any(data[at + 4 : place]):
        return name
    return b"VBRI" if data.startswith(b"VBRI", at + 36) else b""


def _read_info(data: bytes, at: int, first: _Frame) -> _Info:
    frame = data[at : at + first.bytes]
    if _info_at(data, at) == b"VBRI":
        return _Info(struct.unpack_from(">I", frame, 50)[0] if len(frame) >= 54 else None)
    place = 4 + _side_bytes(data, at) + 8
    if len(frame) < place + 4:
        return _Info(None)
    flags = struct.unpack_from(">I", frame, place - 4)[0]
    if not flags & 1:
        return _Info(None)
    frames = struct.unpack_from(">I", frame, place)[0]
    size_place = place + 4 if flags & 2 else 0
    gap_place = place + 4 + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8) + 21
    if gap_place + 3 > len(frame):
        return _Info(frames, place, size_place)
    return _Info(frames, place, size_place, gap_place)


def _pieces_without(data: bytes, run: _Run, infos: list[int]) -> Iterator[bytes]:
    """Yield the stretches of a run's frames without those that hold a header."""
    for start, end in run.pieces:
        for at in infos:
            if start <= at < end:
                yield data[start:at]
                start = at + _frame(data, at).bytes
        yield data[start:end]


def _info_frame(
    data: bytes, at: int, first: _Frame, info: _Info, count: int, size: int, joined: bool
) -> bytes:
    """Return a stream's own header, changed to `count` frames of `size` bytes."""
    head = bytearray(data[at : at + first.bytes])
    struct.pack_into(">I", head, info.place, count)
    if info.size_place:
        struct.pack_into(">I", head, info.size_place, size + len(head))
    if joined and info.gap_place:
        # What lies behind the first file's sound is not where this stream ends.
        head[info.gap_place + 1] &= 0xF0
        head[info.gap_place + 2] = 0
    return bytes(head)
