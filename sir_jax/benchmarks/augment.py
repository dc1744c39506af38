"""Time each effect of augmentation on a clip, and a preset as a whole.

An effect is timed with its draws, as the pipeline runs it: at a preset's ranges, on every clip.
CPU time is the cost of a clip where the training step needs the cores.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator

import numpy as np

from sir_jax.config.augment_fields import EFFECTS, PRESETS
from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.augment import AugmentSpec, augment_wave, babble_noise
from sir_jax.errors import UserError


def make_clips(count: int, seconds: float) -> list[np.ndarray]:
    """Make clips as loud and as uneven as speech, float32 [seconds * 16000] each."""
    rng, out = np.random.default_rng(0), []
    for _ in range(count):
        wave = babble_noise(round(seconds * SAMPLE_RATE), rng)
        out.append((0.5 * wave / np.abs(wave).max()).astype(np.float32))
    return out


def alone(spec: AugmentSpec) -> Iterator[tuple[str, float, AugmentSpec]]:
    """Yield each effect's name, the share of clips that get it, and a spec with it alone."""
    off = dataclasses.replace(spec, **dict.fromkeys(EFFECTS, 0.0))
    for effect in EFFECTS:
        share = getattr(spec, effect)
        one = dataclasses.replace(off, **{effect: 1.0})
        if effect != "codec":
            yield effect, share, one
            continue
        for kind in spec.codec_kinds:
            part = share / len(spec.codec_kinds)
            yield f"codec {kind}", part, dataclasses.replace(one, codec_kinds=(kind,))


def time_spec(spec: AugmentSpec, clips: list[np.ndarray], rounds: int) -> float:
    """Return the median over rounds of the milliseconds of CPU time a clip."""
    times = []
    for turn in range(rounds):
        began = time.process_time()
        for number, clip in enumerate(clips):
            augment_wave(clip, spec, np.random.default_rng((turn, number)))
        times.append(1e3 * (time.process_time() - began) / len(clips))
    return statistics.median(times)


def main(argv: list[str]) -> int:
    """Run `sir-jax bench augment`.

    Raises:
      UserError: an unknown preset, or a number out of range.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench augment",
        allow_abbrev=False,
        description="Time each effect of data.augment on a clip.",
    )
    parser.add_argument("--preset", default="people", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a clip")
    parser.add_argument("--clips", type=int, default=20, help="clips a round")
    parser.add_argument("--rounds", type=int, default=5, help="whose median is printed")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 60:
        raise UserError(f"--seconds={args.seconds:g}: must be above 0 and at most 60")
    for name in ("clips", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    spec, clips = AugmentSpec.preset(args.preset), make_clips(args.clips, args.seconds)
    print(f"clips of {args.seconds:g} s, ranges of data.augment={args.preset}, one core")
    print(f"  {'effect':<16}{'CPU ms':>8}{'share':>8}{'on average':>12}")
    for name, share, one in alone(spec):
        ms = time_spec(one, clips, args.rounds)
        print(f"  {name:<16}{ms:>8.2f}{share:>8.3f}{ms * share:>12.2f}", flush=True)
    # The whole needs more clips: the dear effects are rare.
    ms = time_spec(spec, 10 * clips, args.rounds)
    print(f"  {'all of it':<16}{'':>8}{'':>8}{ms:>12.2f}")
    return 0
