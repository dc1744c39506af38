"""Shares of sound in batches, by hand, and the promise about the shipped buckets."""

import numpy as np
import pytest

from sir_jax.benchmarks import padding
from sir_jax.benchmarks.raw_files import clip_lengths


def test_bucket_shares_by_hand():
    # 2 and 3 go into 4; 5 and 6 into 8: 16 of 24.
    found = padding.bucket_padding(np.array([5, 2, 6, 3]), (4, 8), 2)
    assert sorted(found.batches) == [(4, 5), (8, 11)]
    assert found.efficiency == pytest.approx(16 / 24)
    # What is beyond the last bucket is cut: 8 + 7 of 16.
    found = padding.bucket_padding(np.array([30, 7]), (4, 8), 2)
    assert found.batches == [(8, 15)] and found.efficiency == 15 / 16


def test_longest_shares_by_hand():
    found = padding.longest_padding(np.array([1, 2, 9, 4]), 8, 4)
    assert found.batches == [(8, 15)] and found.efficiency == 15 / 32
    assert padding.longest_padding(np.full(12, 5), 8, 3).efficiency == 1.0


def test_epoch_rate_by_hand():
    # Two batches of 32 clips: 48,000 samples of sound in 2 x (0.5 + 1.0) s.
    batches = padding.Padding([(4, 16_000), (8, 32_000)], 0.0)
    assert padding.epoch_rate(batches, {4: 0.5, 8: 1.0}, 32) == pytest.approx(3 / 3)


@pytest.mark.parametrize("sigma", [0.33, 0.4, 0.5])
def test_shipped_buckets_hold_three_quarters_of_sound(sigma):
    samples = clip_lengths(padding.EPOCH, np.random.default_rng(2), sigma)
    found = padding.bucket_padding(samples, padding.shipped_buckets(), padding.BATCH)
    assert 0.75 <= found.efficiency < 1
    longest = padding.shipped_buckets()[-1]
    assert found.efficiency > 2 * padding.longest_padding(samples, longest, 256).efficiency


def test_report_runs_a_real_encoder(monkeypatch, capsys):
    for name, value in {"EPOCH": 64, "BATCH": 8, "ROWS": 1, "SAMPLED": 1}.items():
        monkeypatch.setattr(padding, name, value)
    monkeypatch.setattr(padding, "shipped_buckets", lambda: (64_000, 96_000))
    found = padding.report(1, 0.4)
    assert found["bucket_rate"] > 0 and found["longest_rate"] > 0
    out = capsys.readouterr().out
    assert f"sound in {100 * found['bucket_efficiency']:5.1f} %: 2 buckets (4 s x" in out
    assert f"{found['bucket_rate'] / found['longest_rate']:.2f} times" in out
