"""Time the input pipeline, a librosa loop and a PyTorch `DataLoader` in the same run.

Each contestant turns raw files into batches: read, decode, resample, add noise and gain, normalise,
crop at random, resize, pad. Outputs are compared before anything is timed.

All contestants are started before the timing and take turns. Those that work only on request
alternate batch by batch. The others have threads or workers that prepare batches ahead: they are
timed for many batches at once, after the prepared batches have been drawn.

A rate is examples per second of elapsed time, divided by the number of cores that a contestant may
use. A peer is compared with our setting on the same number of cores, because a core is slower when
the other one is busy, too. CPU time is that of this process and its workers; it is the cost of an
example if other programs need the cores.
"""

import argparse
import dataclasses
import gc
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.benchmarks import input_peers, padding, raw_files
from sir_jax.benchmarks.raw_files import KINDS, Pair
from sir_jax.benchmarks.timing import OtherLoad, cpu_seconds
from sir_jax.config.presets import base_config
from sir_jax.config.specs import CLIP_MEAN, CLIP_STD
from sir_jax.data.corpus import INDEX_DTYPE, Caption, ImageRecord
from sir_jax.data.features import FlacAudio
from sir_jax.data.media.audio import longest_window
from sir_jax.data.media.image import ImageSpec
from sir_jax.data.pipeline import train_batches
from sir_jax.errors import UserError

IMAGE_SIZE = 224
AUGMENT = input_peers.Augment(crop=(0.5, 1.0), snr=(5.0, 25.0), gain=(-6.0, 6.0))
# Our settings: the number of cores available -> (cores, threads, worker processes) used.
SETTINGS = {
    "ours, one core": lambda cores: (1, 0, 0),
    "ours, threads": lambda cores: (cores, cores, 0),
    "ours, more threads": lambda cores: (cores, 2 * cores, 0),
    "ours, workers": lambda cores: (cores, 1, cores),
}
PEERS = ("librosa + Pillow", "DataLoader")
AHEAD = 10  # at least as many batches as any contestant prepares ahead
# Estimated pairs per second that one chip can train on at half of its peak: HuBERT-base on clips of
# 10 s and CLIP B/32, both trained, with all three losses: 1440 GFLOP per pair.
NEEDED = {"H200": 274, "TPU v4": 95}


class PairSplit:
    """Raw files with the interface of `sir_jax.data.corpus.Split`."""

    name = "raw"
    trim = False

    def __init__(self, pairs: list[Pair]):
        self._pairs = pairs
        entries = [(row, 0, pair.samples, row, row) for row, pair in enumerate(pairs)]
        self.index = np.array(entries, INDEX_DTYPE)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, row: int) -> ImageRecord:
        pair = self._pairs[row]
        caption = Caption(pair.audio.read_bytes(), pair.samples, row, "", "")
        return ImageRecord(pair.image.read_bytes(), row, (caption,))


@dataclasses.dataclass
class Contestant:
    """One way to make batches.

    Attributes:
      name: name in the table.
      cores: number of cores that it may use.
      batches: its batches.
      ahead: whether it prepares batches before they are requested.
      wall: elapsed seconds per example, one value per measurement.
      cpu: CPU seconds per example, one value per measurement.
    """

    name: str
    cores: int
    batches: Iterator
    ahead: bool
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return examples per second and core, by elapsed time."""
        return 1 / statistics.median(self.wall) / self.cores

    @property
    def cpu_ms(self) -> float:
        """Return milliseconds of CPU time per example."""
        return 1e3 * statistics.median(self.cpu)


def data_config(batch: int, augment: input_peers.Augment | None):
    """Return a data config with the shipped buckets; without `augment` only the order is random."""
    c = base_config("base", "B/32").data
    c.update(batch_size=batch, buckets=padding.shipped_buckets(), crop_scale=(1.0, 1.0))
    if augment is not None:
        c.crop_scale = augment.crop
        c.augment.noise.update(probability=1.0, kinds=("white",), snr=augment.snr)
        c.augment.gain.update(probability=1.0, db=augment.gain)
    return c


def image_spec() -> ImageSpec:
    """Return the specification of CLIP's input."""
    return ImageSpec(IMAGE_SIZE, CLIP_MEAN, CLIP_STD)


def check_equal(pairs: list[Pair], readers: dict) -> None:
    """Check that all peers give the same waveforms and pixels as we do, without augmentation.

    Args:
      pairs: the raw files.
      readers: name of each peer -> its function from a path to a waveform.

    Raises:
      UserError: a waveform or the pixels differ; the message names the peer and the file.
    """
    split, longest = PairSplit(pairs), padding.shipped_buckets()[-1]
    whole = {row for row, pair in enumerate(pairs) if pair.samples <= longest}
    seen = set()
    batches = train_batches(split, data_config(1, None), seed=0, start=0, num_threads=0)
    for _ in pairs:
        batch = next(batches)
        row = int(batch["caption_ids"][0])
        if row not in whole:
            continue
        seen.add(row)
        wave = batch["wave"][0, : batch["lengths"][0]]
        for name, read in readers.items():
            dataset = input_peers.PairDataset(pairs, image_spec(), None, read, longest)
            theirs = dataset[row]
            for field, a, b in (
                ("wave", wave, theirs[0]),
                ("pixels", batch["pixels"][0], theirs[1]),
            ):
                # Not `>`, which is false for NaN.
                if a.shape != b.shape or not np.abs(a - b).max(initial=0) <= 2e-6:
                    raise UserError(f"{name}: {field} of {pairs[row].audio} differ; not timed")
    batches.close()
    if seen != whole:
        raise RuntimeError("an epoch of single pairs must hold every pair")


def contestants(pairs: list[Pair], batch: int, cores: int) -> list[Contestant]:
    """Start all contestants, before any makes a batch."""
    split, config, ready = PairSplit(pairs), data_config(batch, AUGMENT), []
    for name, setting in SETTINGS.items():
        used, threads, workers = setting(cores)
        batches = train_batches(
            split, config, seed=0, start=0, num_threads=threads, num_workers=workers
        )
        ready.append(Contestant(name, used, batches, ahead=threads + workers > 0))
    for name, read in readers().items():
        dataset = input_peers.PairDataset(
            pairs, image_spec(), AUGMENT, read, longest_window(config)
        )
        if name == "DataLoader":
            batches = input_peers.loader_batches(dataset, batch, cores)
            ready.append(Contestant(name, cores, batches, ahead=True))
        else:
            batches = input_peers.loop_batches(dataset, batch)
            ready.append(Contestant(name, 1, batches, ahead=False))
    return ready


def readers() -> dict:
    """Return the function by which each peer reads a clip."""
    return dict(zip(PEERS, (input_peers.librosa_wave, input_peers.soundfile_wave), strict=True))


def take_turns(ready: list[Contestant], rounds: int, count: int) -> None:
    """Time `count` batches of each contestant in every round."""
    on_request = [c for c in ready if not c.ahead]
    for contestant in on_request:
        next(contestant.batches)
    for _ in range(rounds):
        for _ in range(count):
            for contestant in on_request:
                time_batches(contestant, 1)
        for contestant in ready:
            if contestant.ahead:
                for _ in range(AHEAD):
                    next(contestant.batches)
                seconds = time_batches(contestant, count)
                # Let it fill its buffers now, and not during the next contestant's turn.
                time.sleep(AHEAD * seconds / count)


def time_batches(contestant: Contestant, count: int) -> float:
    """Draw batches, record the time per example, and return the total seconds."""
    clock, cpu, examples = time.perf_counter(), cpu_seconds(), 0
    for _ in range(count):
        examples += len(next(contestant.batches)["lengths"])
    seconds = time.perf_counter() - clock
    contestant.wall.append(seconds / examples)
    contestant.cpu.append((cpu_seconds() - cpu) / examples)
    return seconds


def bench_kind(kind: str, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Check and time the contestants for one kind of files; print and return the table's rows."""
    pairs = raw_files.make_pairs(folder / kind, kind, args.pairs)
    check_equal(pairs, readers())
    sizes = [
        np.mean([p.stat().st_size for p in paths]) / 1e3
        for paths in ([x.image for x in pairs], [x.audio for x in pairs])
    ]
    seconds = np.mean([pair.samples for pair in pairs]) / 16_000
    print(f"{kind}: JPEG of {sizes[0]:.0f} kB, clips of {seconds:.1f} s and {sizes[1]:.0f} kB")
    ready = contestants(pairs, args.batch, args.cores)
    try:
        take_turns(ready, args.rounds, args.batches)
    finally:
        for contestant in ready:
            if hasattr(contestant.batches, "close"):
                contestant.batches.close()
    rows = make_rows(kind, ready)
    for row in rows:
        print(format_row(row), flush=True)
    # A DataLoader cannot be closed; its workers end when its iterator is deleted.
    del ready, contestant
    gc.collect()
    best = max(row["per_core"] for row in rows if row["name"] in SETTINGS)
    needs = ", ".join(f"{name} {pairs / best:.1f}" for name, pairs in NEEDED.items())
    print(f"  cores that feed one accelerator: {needs}", flush=True)
    return rows


def make_rows(kind: str, ready: list[Contestant]) -> list[dict]:
    """Return the table; a peer is compared with our best setting on the same number of cores."""
    rows = []
    for c in ready:
        row = {
            "kind": kind,
            "name": c.name,
            "cores": c.cores,
            "per_core": c.rate,
            "cpu_ms": c.cpu_ms,
        }
        if c.name in PEERS:
            ours = [o for o in ready if o.name in SETTINGS and o.cores == c.cores]
            row["ahead"] = max(o.rate for o in ours) / c.rate
            row["cpu_ahead"] = c.cpu_ms / min(o.cpu_ms for o in ours)
        rows.append(row)
    return rows


def format_row(row: dict) -> str:
    """Return a row of the table."""
    line = f"  {row['name']:<20}{row['cores']:>5}{row['per_core']:>14.1f}{row['cpu_ms']:>9.2f}"
    if "ahead" in row:
        line += f"{row['ahead']:>12.2f}{row['cpu_ahead']:>11.2f}"
    return line


def compare_storage(pairs: list[Pair], rounds: int) -> dict:
    """Compare FLAC with plain int16 as storage of 16 kHz clips; print and return the figures."""
    sounds = [soundfile.read(pair.audio, dtype="int16")[0] for pair in pairs]
    stored = {
        "FLAC": [FlacAudio().encode_example(sound) for sound in sounds],
        "int16": [sound.tobytes() for sound in sounds],
    }

    def decode_flac():
        for data in stored["FLAC"]:
            soundfile.read(io.BytesIO(data), dtype="float32")

    def decode_int16():
        for data in stored["int16"]:
            np.frombuffer(data, np.int16).astype(np.float32) / np.float32(32_768)

    cpu = {"FLAC": [], "int16": []}
    for _ in range(rounds):
        for name, decode in (("FLAC", decode_flac), ("int16", decode_int16)):
            began = time.process_time()
            decode()
            cpu[name].append(time.process_time() - began)
    hours, figures = sum(map(len, sounds)) / 16_000 / 3_600, {}
    for name, clips in stored.items():
        figures[name] = {
            "ms": 1e3 * statistics.median(cpu[name]) / len(clips),
            "mb_an_hour": sum(map(len, clips)) / hours / 1e6,
        }
        print(
            f"storage as {name:<6}{figures[name]['ms']:7.3f} ms of CPU to decode a clip, "
            f"{figures[name]['mb_an_hour']:6.1f} MB an hour of sound"
        )
    share = figures["FLAC"]["mb_an_hour"] / figures["int16"]["mb_an_hour"]
    spent = NEEDED["H200"] * figures["FLAC"]["ms"] / 1e3
    print(
        f"  decision: FLAC; it takes {100 * share:.0f} % of the space, and to decode it for one "
        f"H200 takes {spent:.2f} of a core"
    )
    return figures


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: an unknown kind of files, or a number out of range.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench input",
        allow_abbrev=False,
        description="Time the input pipeline against librosa and a PyTorch DataLoader.",
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--pairs", type=int, default=96, help="pictures and clips of each kind")
    parser.add_argument("--batch", type=int, default=16, help="pairs a batch")
    parser.add_argument("--batches", type=int, default=24, help="timed batches a round")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--cores", type=int, default=2, help="that all of it may use")
    parser.add_argument("--sigma", type=float, default=raw_files.SIGMA, help="of the lengths")
    parser.add_argument(
        "--encoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time an encoder on buckets",
    )
    parser.add_argument("--json", default="", help="write the figures to this file, too")
    args = parser.parse_args(argv)
    args.kinds = args.kinds.split(",")
    unknown = [kind for kind in args.kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"--kinds: no {unknown[0]!r}; choose among {', '.join(KINDS)}")
    for name in ("pairs", "batch", "batches", "rounds", "cores"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    if args.batch > args.pairs:
        raise UserError(f"--batch={args.batch}: more than --pairs={args.pairs}; lower it")
    available = len(os.sched_getaffinity(0))
    if args.cores > available:
        raise UserError(f"--cores={args.cores}: there are {available}; lower it")
    if not 0 <= args.sigma <= 1:
        raise UserError(f"--sigma={args.sigma}: must be from 0 to 1")
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax bench input`.

    Raises:
      UserError: where librosa or PyTorch is not installed, outputs differ, or an option is wrong.
    """
    args = parse_args(argv)
    try:
        import librosa
        import torch
    except ImportError as error:
        raise UserError(f"{error}; pip install 'sir_jax[test]'") from None
    allowed = os.sched_getaffinity(0)
    # Threads and processes that are started from here on inherit the affinity.
    os.sched_setaffinity(0, sorted(allowed)[: args.cores])
    print(
        f"librosa {librosa.__version__}, torch {torch.__version__}, {args.cores} cores; batches of "
        f"{args.batch}, pictures to {IMAGE_SIZE} px, crops of {AUGMENT.crop[0]:g} to "
        f"{AUGMENT.crop[1]:g} of the area; white noise at {AUGMENT.snr[0]:g} to "
        f"{AUGMENT.snr[1]:g} dB, gain of {AUGMENT.gain[0]:g} to {AUGMENT.gain[1]:g} dB"
    )
    print(f"  {'':<20}cores  examples/s   CPU ms   ours ahead  by CPU time")
    print("                            a core  /example     (times)      (times)")
    load = OtherLoad()
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = [row for kind in args.kinds for row in bench_kind(kind, args, Path(folder))]
            flac = raw_files.make_pairs(Path(folder) / "storage", "flac16", args.pairs)
            storage = compare_storage(flac, args.rounds)
        finally:
            os.sched_setaffinity(0, allowed)
    share = load.share()
    if share is not None:
        print(f"other processes took {100 * share:.0f} % of the machine meanwhile")
    padding_figures = padding.report(args.rounds if args.encoder else 0, args.sigma)
    if args.json:
        content = {"input": rows, "storage": storage, "padding": padding_figures}
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n")
    return 0
