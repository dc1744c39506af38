"""Compare length buckets with padding to each batch's longest clip: the share of sound."""

import functools
from collections import Counter
from typing import NamedTuple

import jax
import numpy as np

from sir_jax.benchmarks.raw_files import clip_lengths
from sir_jax.benchmarks.timing import interleave
from sir_jax.config.presets import frozen_pair
from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.plan import plan_epoch
from sir_jax.models import HUBERT_VARIANTS, HubertSpec, build_encoder

EPOCH, BATCH = 25_600, 256  # captions in an epoch and in a batch
# Rows of a batch that are timed; all rows have the same length, so the others take as long.
ROWS = 16
# Batches padded to their longest clip that are timed; each length has to be compiled.
SAMPLED = 12


class Padding(NamedTuple):
    """Batches as (padded length, samples of sound), and the share of sound in all batches."""

    batches: list[tuple[int, int]]
    efficiency: float


def shipped_buckets() -> tuple[int, ...]:
    """Return the bucket lengths that configs of released encoders share, in samples."""
    return tuple(frozen_pair("base", "B/32", "").data.buckets)


def bucket_padding(samples: np.ndarray, buckets: tuple[int, ...], batch: int) -> Padding:
    """Batch an epoch as training does.

    Args:
      samples: [n], length of each clip; clips are cut to the longest bucket.
      buckets: lengths in samples, ascending.
      batch: clips in a batch.
    """
    items, bucket = plan_epoch(samples, np.arange(len(samples)), buckets, batch, 0, 0)
    sound = np.minimum(samples[items], buckets[-1]).sum(axis=1)
    return _padding(np.asarray(buckets)[bucket], sound, batch)


def longest_padding(samples: np.ndarray, longest: int, batch: int) -> Padding:
    """Batch an epoch at random and pad each batch to its longest clip.

    Args:
      samples: [n], length of each clip.
      longest: samples that clips are cut to.
      batch: clips in a batch.
    """
    order = np.random.default_rng(0).permutation(samples)[: len(samples) // batch * batch]
    dealt = np.minimum(order, longest).reshape(-1, batch)
    return _padding(dealt.max(axis=1), dealt.sum(axis=1), batch)


def _padding(lengths: np.ndarray, sound: np.ndarray, batch: int) -> Padding:
    pairs = list(zip(lengths.tolist(), sound.tolist(), strict=True))
    return Padding(pairs, float(sound.sum() / (lengths.sum() * batch)))


def epoch_rate(padding: Padding, seconds: dict[int, float], batch: int) -> float:
    """Return the seconds of sound that the encoder processes per second.

    Args:
      padding: the batches of an epoch or of a part of it.
      seconds: padded length -> seconds for `ROWS` rows.
      batch: clips in a batch.
    """
    work = sum(seconds[length] for length, _ in padding.batches) * batch / ROWS
    return sum(sound for _, sound in padding.batches) / SAMPLE_RATE / work


def time_encoder(lengths: set[int], rounds: int) -> dict[int, float]:
    """Time the forward pass of the demo's speech encoder on `ROWS` clips of each padded length.

    Returns:
      Median seconds by length.
    """
    spec = HubertSpec(**HUBERT_VARIANTS["tiny"])
    module = build_encoder(spec)
    noise = np.random.default_rng(0).standard_normal((ROWS, max(lengths))).astype(np.float32)
    clips = {n: (noise[:, :n], np.full(ROWS, n, np.int32)) for n in sorted(lengths)}
    params = jax.jit(module.init)(jax.random.key(0), *clips[min(lengths)])
    encode = jax.jit(lambda params, wave, valid: module.apply(params, wave, valid).tokens)
    functions = {
        n: functools.partial(lambda *args: jax.block_until_ready(encode(*args)), params, *clip)
        for n, clip in clips.items()
    }
    return {n: times.median for n, times in interleave(functions, rounds).items()}


def report(rounds: int, sigma: float) -> dict:
    """Compare both ways for lengths like those of real corpora, and print the comparison.

    Args:
      rounds: timed calls per length; 0 to time no encoder.
      sigma: standard deviation of the logarithm of the lengths.

    Returns:
      The printed figures by name.
    """
    buckets, samples = shipped_buckets(), clip_lengths(EPOCH, np.random.default_rng(1), sigma)
    ours = bucket_padding(samples, buckets, BATCH)
    theirs = longest_padding(samples, buckets[-1], BATCH)
    figures = {
        "sigma": sigma,
        "buckets": buckets,
        "bucket_efficiency": ours.efficiency,
        "longest_efficiency": theirs.efficiency,
    }
    print(
        f"padding: {EPOCH:,} clips, lognormal, mean {samples.mean() / SAMPLE_RATE:.2f} s, sigma "
        f"{sigma:g}, {samples.min() / SAMPLE_RATE:.1f} to {samples.max() / SAMPLE_RATE:.1f} s, "
        f"batches of {BATCH}, cut at {buckets[-1] / SAMPLE_RATE:g} s"
    )
    shares = Counter(length for length, _ in ours.batches)
    spread = ", ".join(f"{n / SAMPLE_RATE:g} s x {shares[n]}" for n in buckets)
    print(f"  sound in {100 * ours.efficiency:5.1f} %: {len(buckets)} buckets ({spread})")
    print(f"  sound in {100 * theirs.efficiency:5.1f} %: padded to each batch's longest clip")
    if rounds:
        sampled = Padding(theirs.batches[:SAMPLED], 0.0)
        lengths = {length for length, _ in ours.batches + sampled.batches}
        seconds = time_encoder(lengths, rounds)
        rates = [epoch_rate(padding, seconds, BATCH) for padding in (ours, sampled)]
        figures |= {"bucket_rate": rates[0], "longest_rate": rates[1]}
        print(
            f"epoch throughput of the demo's speech encoder, forward: {rates[0]:.0f} s of sound a "
            f"second in buckets, {rates[1]:.0f} padded to the longest: {rates[0] / rates[1]:.2f} "
            f"times; {len(shares)} programs against one for every length that occurs"
        )
    return figures
