"""The input pipeline: plans of epochs, contents of batches, processes, threads and workers."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from pipeline_helpers import (
    BUCKETS,
    MemorySplit,
    assert_same,
    augmented,
    caption_ids,
    data_config,
    draw,
    small_split,
)

from sir_jax.cli.data.spoken_scenes import main as make_corpus
from sir_jax.data.corpus import open_corpus
from sir_jax.data.feature_store import Features
from sir_jax.data.media.audio import load_audio, normalize_waveform
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.data.pipeline import train_batches
from sir_jax.data.plan import plan_epoch
from sir_jax.errors import UserError


@pytest.mark.parametrize("seed", range(20))
def test_plan_has_each_caption_once_in_a_bucket_that_it_fits(seed):
    rng = np.random.default_rng(seed)
    n, batch_size = int(rng.integers(5, 300)), int(rng.integers(1, 6))
    buckets = tuple(np.cumsum(rng.integers(1, 500, int(rng.integers(1, 6)))).tolist())
    samples = rng.integers(0, buckets[-1] + 100, n)
    image_ids = rng.integers(0, n // 3 + 1, n)
    items, bucket = plan_epoch(samples, image_ids, buckets, batch_size, seed, epoch=2)

    assert items.shape == (n // batch_size, batch_size) and bucket.shape == (n // batch_size,)
    assert len(set(items.ravel().tolist())) == items.size
    assert n - items.size < batch_size
    longest = samples[items].max(axis=1, initial=0)
    ends = np.array(buckets)[bucket]
    assert ((longest <= ends) | (bucket == len(buckets) - 1)).all()
    # Only captions that could not fill a batch move up: fewer than batch_size to each bucket.
    home = np.minimum(np.searchsorted(buckets, samples), len(buckets) - 1)
    for border in range(1, len(buckets)):
        crossing = (home[items] < border) & (bucket >= border)[:, None]
        assert crossing.sum() < batch_size

    again = plan_epoch(samples, image_ids, buckets, batch_size, seed, epoch=2)
    np.testing.assert_array_equal(items, again[0])
    np.testing.assert_array_equal(bucket, again[1])


def test_plan_differs_by_epoch_and_seed():
    samples, ids = np.full(40, 300), np.arange(40)
    plans = [plan_epoch(samples, ids, BUCKETS, 4, s, e)[0] for s, e in ((0, 0), (0, 1), (1, 0))]
    assert not any((plans[a] == plans[b]).all() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_plan_leaves_out_every_caption_equally_often():
    # Each epoch leaves out two of ten captions; it must not always be the long ones.
    samples, ids = np.array([300] * 5 + [1_500] * 5), np.arange(10)
    left_out = Counter()
    for epoch in range(1_000):
        left_out.update(
            set(range(10)) - set(plan_epoch(samples, ids, BUCKETS, 4, 0, epoch)[0].flat)
        )
    # Binomial(1000, 0.2) has a standard deviation of 12.6.
    assert all(abs(left_out[item] - 200) < 60 for item in range(10))


def test_plan_keeps_captions_of_one_image_apart():
    # 8 images with 4 captions each, in batches of 4: no batch needs to hold an image twice.
    ids = np.repeat(np.arange(8), 4)
    for epoch in range(20):
        items, _ = plan_epoch(np.full(32, 300), ids, BUCKETS, 4, 0, epoch)
        assert all(len(set(ids[row])) == 4 for row in items)


def test_batch_holds_the_contents_of_its_records():
    split, config = small_split(), data_config(crop_scale=(1.0, 1.0))
    spec = ImageSpec.from_config(config)
    entries = {int(e["caption_id"]): e for e in split.index}
    seen = 0
    for batch in draw(12, split, config=config):
        count, length = batch["wave"].shape
        assert count == 4 and length in BUCKETS
        assert batch["pixels"].shape == (4, 16, 16, 3)
        assert batch["wave"].dtype == batch["pixels"].dtype == np.float32
        for key in ("lengths", "image_ids", "caption_ids"):
            assert batch[key].dtype == np.int32 and batch[key].shape == (4,)
        for b in range(count):
            entry = entries[int(batch["caption_ids"][b])]
            record = split[entry["row"]]
            assert batch["image_ids"][b] == record.image_id
            pixels = preprocess_image(load_image(record.image), spec)
            np.testing.assert_array_equal(batch["pixels"][b], pixels)
            n = batch["lengths"][b]
            assert n == min(entry["samples"], length)
            assert not batch["wave"][b, n:].any()
            if entry["samples"] <= length:
                wave = normalize_waveform(load_audio(record.captions[entry["slot"]].audio))
                np.testing.assert_array_equal(batch["wave"][b, :n], wave)
                seen += 1
    assert seen > 20


def test_clip_longer_than_the_last_bucket_is_cropped_at_random():
    split = MemorySplit([[2_000], [2_000]])
    config = data_config(batch_size=2, normalize_wave=False)
    firsts = set()
    for batch in draw(10, split, config=config):
        for wave, caption in zip(batch["wave"], batch["caption_ids"], strict=True):
            whole = load_audio(split[caption // 10].captions[0].audio)
            windows = np.lib.stride_tricks.sliding_window_view(whole, 1_600)
            (first,) = np.flatnonzero((windows == wave).all(axis=1))
            firsts.add(int(first))
    assert len(firsts) > 15 and max(firsts) > 300 and min(firsts) < 100


def test_clip_without_samples_is_silence():
    (batch,) = draw(1, MemorySplit([[0], [7]]), config=data_config(batch_size=2))
    empty = int(np.flatnonzero(batch["caption_ids"] == 0)[0])
    assert batch["lengths"][empty] == 0 and not batch["wave"][empty].any()
    assert np.isfinite(batch["wave"]).all()


def test_each_epoch_sees_each_caption_at_most_once():
    per_epoch = 27 // 4
    batches = draw(5 * per_epoch)
    epochs = [caption_ids(batches[e * per_epoch :][:per_epoch]) for e in range(5)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 24
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_resume_from_any_position_is_exact():
    whole = draw(20)
    for start in range(19):
        assert_same(draw(2, start=start), whole[start : start + 2])
    assert_same(draw(14, start=6, threads=3), whole[6:])


def test_a_distant_position_is_reached_at_once():
    far = 10**12
    assert_same(draw(2, start=far, threads=2), draw(3, start=far - 1)[1:])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(processes):
    whole = draw(9)
    parts = [draw(9, process_index=p, process_count=processes, threads=p) for p in range(processes)]
    for key in whole[0]:
        for number, batch in enumerate(whole):
            joined = np.concatenate([part[number][key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key], err_msg=key)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_the_batches(threads):
    assert_same(draw(15, threads=threads), draw(15))


# One and two of them in test_pipeline_augmented.py.
def test_three_worker_processes_do_not_change_the_batches():
    expected = draw(9, start=5)
    assert_same(draw(9, start=5, threads=1, num_workers=3), expected)


def test_seed_changes_order_and_augmentation():
    a, b = draw(6, seed=1), draw(6, seed=2)
    assert caption_ids(a) != caption_ids(b)
    plain = draw(6, seed=1, config=data_config(crop_scale=(1.0, 1.0)))
    assert caption_ids(a) == caption_ids(plain)
    assert not np.array_equal(a[0]["pixels"], plain[0]["pixels"])


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_records_are_named_by_id(workers):
    split = small_split()
    clip = split[4].captions[1]
    cut = dataclasses.replace(clip, audio=clip.audio[: len(clip.audio) // 2])
    split.damage(4, captions=(split[4].captions[0], cut, split[4].captions[2]))
    with pytest.raises(UserError, match="caption 41 of split 'train': damaged or truncated"):
        draw(7, split, threads=2, num_workers=workers)


def test_damaged_images_and_wrong_indices_are_named_by_id():
    split = small_split()
    split.damage(2, image=b"no picture")
    with pytest.raises(UserError, match="image 702 of split 'train': not a picture"):
        draw(7, split)
    split = small_split()
    split.index["samples"][14] += 1
    with pytest.raises(UserError, match="caption 42 of split 'train': .* make the corpus again"):
        draw(7, split)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 28}, "batch_size=28: more than the 27 captions"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": (800, 400)}, "buckets"),
        ({"buckets": (0, 400)}, "buckets"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"image_size": 0}, "image_size"),
        ({"image_std": (0.0, 1.0, 1.0)}, "image_std"),
        ({"image_fit": "stretch"}, "image_fit"),
        ({"augment.gain.probability": 2.0}, "augment.gain.probability=2.0"),
        ({"augment.image.grey": -1.0}, "augment.image.grey=-1.0"),
    ],
)
def test_bad_configs_are_refused_before_the_first_batch(changes, message):
    config = augmented()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        train_batches(small_split(), config, seed=0, start=0, num_threads=0)


@pytest.mark.parametrize(
    ("stored", "change"), [("speech", "tempo.probability"), ("image", "image.brightness")]
)
def test_stored_features_cannot_be_augmented(stored, change):
    config = data_config()
    options = {"seed": 0, "start": 0, "num_threads": 0, "features": Features(**{stored: ()})}
    train_batches(small_split(), config, **options).close()
    config.augment.update_from_flattened_dict({change: 0.5})
    with pytest.raises(UserError, match=f"data.augment changes what the {stored} encoder reads"):
        train_batches(small_split(), config, **options)


def test_bad_calls_are_refused_before_the_first_batch():
    def call(**options):
        options = {"seed": 0, "start": 0, "num_threads": 0, **options}
        train_batches(small_split(), data_config(), **options)

    with pytest.raises(UserError, match="divide by the 3 processes"):
        call(process_count=3)
    with pytest.raises(UserError, match="start=-1"):
        call(start=-1)
    with pytest.raises(UserError, match="seed=-5"):
        call(seed=-5)


def test_close_is_final_and_may_be_repeated():
    batches = train_batches(small_split(), data_config(), seed=0, start=0, num_threads=2)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_a_real_corpus_gives_threads_and_workers_the_same_batches(tmp_path):
    options = {"level": "one", "train_images": 6, "val_images": 1, "test_images": 1, "captions": 2}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    make_corpus([*arguments, "--image_size=32", f"--data_dir={tmp_path}"])
    (folder,) = (tmp_path / "spoken_scenes").iterdir()
    split = open_corpus(f"spoken_scenes/{folder.name}", tmp_path).splits["train"]
    config = data_config(buckets=(24_000, 48_000, 96_000))
    expected = draw(7, split, config=config)
    for epoch in (expected[:3], expected[3:6]):
        assert sorted(caption_ids(epoch)) == split.index["caption_id"].tolist()
    for batch in expected:
        assert np.isfinite(batch["wave"]).all() and (batch["lengths"] > 8_000).all()
        variance = (batch["wave"].astype(np.float64) ** 2).sum(axis=1) / batch["lengths"]
        np.testing.assert_allclose(variance, 1.0, atol=1e-3)
    assert_same(draw(5, split, config=config, start=2, threads=2), expected[2:])
    assert_same(draw(5, split, config=config, start=2, num_workers=1), expected[2:])
