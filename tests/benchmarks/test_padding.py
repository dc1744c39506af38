"""Shares of sound in small batches, and in batches of the shipped buckets."""

import numpy as np
import pytest

from sir_jax.benchmarks import padding
from sir_jax.benchmarks.raw_files import clip_lengths


def test_share_of_sound_in_buckets():
    # Clips of 2 and 3 are padded to 4, clips of 5 and 6 to 8: 16 of 24 samples are sound.
    dealt = padding.bucket_padding(np.array([5, 2, 6, 3]), (4, 8), 2)
    assert sorted(dealt.batches) == [(4, 5), (8, 11)]
    assert dealt.efficiency == pytest.approx(16 / 24)
    # A clip beyond the longest bucket is cut: 8 + 7 of 16 samples are sound.
    dealt = padding.bucket_padding(np.array([30, 7]), (4, 8), 2)
    assert dealt.batches == [(8, 15)] and dealt.efficiency == 15 / 16


def test_share_of_sound_padded_to_the_longest_clip():
    dealt = padding.longest_padding(np.array([1, 2, 9, 4]), 8, 4)
    assert dealt.batches == [(8, 15)] and dealt.efficiency == 15 / 32
    assert padding.longest_padding(np.full(12, 5), 8, 3).efficiency == 1.0


def test_epoch_rate():
    # Two batches of 32 clips, each twice the timed 16 rows: 3 s of sound in 2 x (0.5 + 1.0) s.
    batches = padding.Padding([(4, 16_000), (8, 32_000)], 0.0)
    assert padding.epoch_rate(batches, {4: 0.5, 8: 1.0}, 32) == pytest.approx(3 / 3)


@pytest.mark.parametrize("sigma", [0.33, 0.4, 0.5])
def test_shipped_buckets_hold_three_quarters_of_sound(sigma):
    samples = clip_lengths(padding.EPOCH, np.random.default_rng(2), sigma)
    dealt = padding.bucket_padding(samples, padding.shipped_buckets(), padding.BATCH)
    assert 0.75 <= dealt.efficiency < 1
    longest = padding.shipped_buckets()[-1]
    assert dealt.efficiency > 2 * padding.longest_padding(samples, longest, 256).efficiency


def test_report_runs_a_real_encoder(monkeypatch, capsys):
    for name, value in {"EPOCH": 64, "BATCH": 8, "ROWS": 1, "SAMPLED": 1}.items():
        monkeypatch.setattr(padding, name, value)
    monkeypatch.setattr(padding, "shipped_buckets", lambda: (64_000, 96_000))
    figures = padding.report(1, 0.4)
    assert figures["bucket_rate"] > 0 and figures["longest_rate"] > 0
    out = capsys.readouterr().out
    assert f"sound in {100 * figures['bucket_efficiency']:5.1f} %: 2 buckets (4 s x" in out
    assert f"{figures['bucket_rate'] / figures['longest_rate']:.2f} times" in out
