"""The input benchmark: a run with a few files; different waves or pixels are refused."""

import json
import os
import sys

import numpy as np
import pytest
import soundfile

from sir_jax.benchmarks import input as bench
from sir_jax.benchmarks import input_peers, raw_files
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.augment import AugmentSpec, augment_wave
from sir_jax.data.media.image import augment_image, load_image
from sir_jax.errors import UserError


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return raw_files.make_pairs(tmp_path_factory.mktemp("raw") / "flac44", "flac44", 4)


# Its rows are made by hand below, at each change.
@pytest.mark.release
def test_every_contestant_has_a_row_with_the_ratio_of_medians(monkeypatch, tmp_path, capsys):
    threads, workers = "ours, threads", "ours, workers"
    monkeypatch.setattr(bench, "SETTINGS", {k: bench.SETTINGS[k] for k in (threads, workers)})
    monkeypatch.setattr(bench, "AHEAD", 2)
    path, allowed = tmp_path / "table.json", os.sched_getaffinity(0)
    bench.main(
        [
            "--kinds=wav16",
            "--pairs=3",
            "--batch=2",
            "--batches=2",
            "--rounds=2",
            "--cores=1",
            "--no-encoder",
            f"--json={path}",
        ]
    )
    assert os.sched_getaffinity(0) == allowed
    figures, out = json.loads(path.read_text()), capsys.readouterr().out
    rows = {row["name"]: row for row in figures["input"]}
    assert list(rows) == [threads, workers, "librosa + Pillow", "DataLoader"]
    best = max(rows[name]["per_core"] for name in (threads, workers))
    thrifty = min(rows[name]["cpu_ms"] for name in (threads, workers))
    for name, row in rows.items():
        assert row["kind"] == "wav16" and row["cores"] == 1
        line = next(line for line in out.splitlines() if line.startswith(f"  {name} "))
        if name in bench.PEERS:
            assert row["ahead"] == pytest.approx(best / row["per_core"])
            assert row["cpu_ahead"] == pytest.approx(row["cpu_ms"] / thrifty)
            assert float(line.split()[-2]) == pytest.approx(row["ahead"], abs=0.006)
    storage = figures["storage"]
    assert storage["int16"]["mb_an_hour"] == pytest.approx(16_000 * 2 * 3_600 / 1e6)
    assert storage["FLAC"]["mb_an_hour"] < storage["int16"]["mb_an_hour"]
    assert f"H200 {274 / best:.1f}, TPU v4 {95 / best:.1f}" in out
    assert figures["padding"]["bucket_efficiency"] >= 0.75


def test_peers_are_compared_with_ours_on_the_same_number_of_cores():
    ready = [
        bench.Contestant("ours, one core", 1, iter(()), False, [0.1], [0.010]),
        bench.Contestant("ours, threads", 2, iter(()), True, [0.04, 0.08, 0.05], [0.030]),
        bench.Contestant("ours, workers", 2, iter(()), True, [0.10], [0.020]),
        bench.Contestant("librosa + Pillow", 1, iter(()), False, [0.2], [0.012]),
        bench.Contestant("DataLoader", 2, iter(()), True, [0.2, 0.1, 0.1], [0.050]),
    ]
    rows = {row["name"]: row for row in bench.make_rows("wav16", ready)}
    assert [rows[c.name]["per_core"] for c in ready] == pytest.approx([10, 10, 5, 5, 5])
    assert rows["librosa + Pillow"]["ahead"] == pytest.approx(2.0)
    assert rows["librosa + Pillow"]["cpu_ahead"] == pytest.approx(1.2)
    assert rows["DataLoader"]["ahead"] == pytest.approx(2.0)
    assert rows["DataLoader"]["cpu_ahead"] == pytest.approx(2.5)
    assert "ahead" not in rows["ours, threads"]


def test_contestants_alternate_or_draw_their_prepared_batches_untimed(monkeypatch):
    monkeypatch.setattr(bench, "AHEAD", 3)
    drawn = []

    def batches(name):
        while True:
            drawn.append(name)
            yield {"lengths": [1, 2]}

    ready = [bench.Contestant(name, 1, batches(name), name in "xy") for name in "axby"]
    bench.take_turns(ready, rounds=2, count=2)
    one_round = "abab" + "xxxxx" + "yyyyy"
    assert "".join(drawn) == "ab" + 2 * one_round
    assert [len(c.wall) for c in ready] == [4, 2, 4, 2]
    assert all(w > 0 for c in ready for w in c.wall)


def test_different_waves_or_pixels_are_not_timed(pairs, monkeypatch):
    bench.check_equal(pairs, bench.readers())

    def late(path):
        return np.roll(input_peers.soundfile_wave(path), 1)

    with pytest.raises(UserError, match=r"DataLoader: wave of .*\.flac differ; not timed"):
        bench.check_equal(pairs, {"DataLoader": late})
    with pytest.raises(UserError, match="DataLoader: wave"):
        bench.check_equal(pairs, {"DataLoader": lambda path: late(path)[:-1]})
    with pytest.raises(UserError, match="DataLoader: wave"):
        bench.check_equal(pairs, {"DataLoader": lambda path: late(path) * np.nan})
    pillow_pixels = input_peers.pillow_pixels
    monkeypatch.setattr(
        input_peers, "pillow_pixels", lambda *args: pillow_pixels(*args) + np.float32(1e-5)
    )
    with pytest.raises(UserError, match="librosa.*: pixels of .* differ; not timed"):
        bench.check_equal(pairs, bench.readers())


def test_peers_crop_as_we_do_with_the_same_random_numbers(pairs):
    spec = bench.image_spec()
    for seed, pair in enumerate(pairs):
        draws = [np.random.default_rng(seed) for _ in range(2)]
        ours = augment_image(load_image(pair.image), spec, draws[0], (0.5, 1.0))
        theirs = input_peers.pillow_pixels(pair.image, spec, (0.5, 1.0), draws[1])
        np.testing.assert_allclose(theirs, ours, atol=2e-6)


def test_peers_add_noise_as_we_do(pairs):
    wave = input_peers.librosa_wave(pairs[0].audio)
    augment = input_peers.Augment(crop=(1.0, 1.0), snr=(12.0, 12.0), gain=(-3.0, -3.0))
    theirs = input_peers.noisy_wave(wave, augment, np.random.default_rng(0))
    spec = AugmentSpec.from_config(bench.data_config(4, augment).augment)
    ours = augment_wave(wave, spec, np.random.default_rng(0))
    for noisy in (ours, theirs):
        assert noisy.dtype == np.float32
        added = noisy / 10 ** (-3 / 20) - wave.astype(np.float64)
        ratio = 10 * np.log10(np.square(wave, dtype=np.float64).sum() / np.square(added).sum())
        assert ratio == pytest.approx(12.0, abs=1e-4)


def test_peers_pad_to_the_longest_clip_and_cut_longer_ones(pairs):
    longest = sorted(pair.samples for pair in pairs)[-2]
    dataset = input_peers.PairDataset(
        pairs, bench.image_spec(), bench.AUGMENT, input_peers.librosa_wave, longest
    )
    batch = next(input_peers.loop_batches(dataset, 4))
    assert batch["wave"].shape == (4, longest) and batch["pixels"].shape == (4, 224, 224, 3)
    lengths = np.minimum([pair.samples for pair in pairs], longest)
    assert sorted(batch["lengths"]) == sorted(lengths)
    for wave, length in zip(batch["wave"], batch["lengths"], strict=True):
        assert wave[:length].any() and not wave[length:].any()


@pytest.mark.parametrize("kind", sorted(raw_files.KINDS))
def test_files_have_the_format_of_their_kind(kind, tmp_path):
    form, rate = raw_files.KINDS[kind]
    pairs = raw_files.make_pairs(tmp_path / kind, kind, 2)
    for pair, size in zip(pairs, raw_files.PICTURE_SIZES, strict=True):
        info = soundfile.info(pair.audio)
        assert (info.format, info.samplerate, info.channels) == (form, rate, 1)
        wave = load_audio(pair.audio)
        assert len(wave) == pair.samples
        assert 0.02 < np.sqrt(np.square(wave).mean()) < 0.3
        assert load_image(pair.image).size == size
        assert 40_000 < pair.image.stat().st_size < 120_000


def test_distribution_of_lengths():
    seconds = raw_files.clip_lengths(50_000, np.random.default_rng(0)) / 16_000
    assert seconds.mean() == pytest.approx(4.4, abs=0.05)
    assert np.log(seconds).std() == pytest.approx(0.4, abs=0.01)
    assert seconds.min() >= 1.18 and seconds.max() <= 24.9


def test_speech_without_a_synthesiser(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    murmur = raw_files.make_speech()
    assert murmur.dtype == np.float32 and len(murmur) == 20 * 16_000
    assert murmur.std() == pytest.approx(0.1, rel=1e-3)


def test_mistakes_are_named():
    for argument, message in [
        ("--kinds=mp3", "no 'mp3'; choose among flac44"),
        ("--pairs=0", "--pairs=0: must be at least 1"),
        ("--batch=97", "--batch=97: more than --pairs=96"),
        ("--cores=4096", "--cores=4096: there are"),
        ("--sigma=2", "--sigma=2.0: must be from 0 to 1"),
    ]:
        with pytest.raises(UserError, match=message):
            bench.main([argument])
