"""Embeddings keep their order and do not depend on batch, bucket, mesh or neighbours."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from PIL import Image

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.embed import cut_windows, embed_images, embed_speech, embed_split
from sir_jax.runtime.sharding import make_mesh

TOLERANCE = 1e-5


def noise(samples, seed=0):
    return np.random.default_rng((seed, samples)).normal(size=samples).astype(np.float32) * 0.1


def pictures(count):
    rng = np.random.default_rng(1)
    sizes = [(16, 16), (40, 20), (17, 33), (8, 8)]
    return [
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        for w, h in itertools.islice(itertools.cycle(sizes), count)
    ]


def ready(images, cfg):
    spec = ImageSpec.from_config(cfg.data)
    return [preprocess_image(image, spec) for image in images]


def test_windows_cover_the_clip_and_the_last_is_right_aligned():
    wave = np.arange(25)
    assert [list(w) for w in cut_windows(wave, 25)] == [list(range(25))]
    cut = cut_windows(wave, 10)
    assert [(w[0], w[-1]) for w in cut] == [(0, 9), (10, 19), (15, 24)]
    assert [(w[0], w[-1]) for w in cut_windows(wave[:20], 10)] == [(0, 9), (10, 19)]
    assert [(w[0], w[-1]) for w in cut_windows(wave[:11], 10)] == [(0, 9), (1, 10)]
    assert [len(w) for w in cut_windows(wave[:0], 10)] == [0]


def test_a_clip_alone_equals_the_clip_in_any_batch(tiny):
    cfg, model, params = tiny
    # Clips of both buckets, a short last batch in each bucket, clips shorter than a frame, and one
    # of 0 samples.
    waves = [noise(n) for n in (1600, 700, 3200, 0, 1601, 100, 399, 400, 2000, 1599, 1)]
    together = embed_speech(model, params, waves, cfg.data, batch_size=4)
    assert together.shape == (11, 32) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for wave, z in zip(waves, together, strict=True):
        alone = embed_speech(model, params, [wave], cfg.data, batch_size=1)
        np.testing.assert_allclose(alone[0], z, atol=TOLERANCE)
    # Different clips have different vectors, so the comparisons above also check the order.
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_clip_is_the_same_in_every_bucket(tiny):
    cfg, model, params = tiny
    wave = noise(1500)
    vectors = []
    for buckets in ((1600,), (3200,), (1500, 1600), (6400,)):
        data = ConfigDict(dict(buckets=buckets, normalize_wave=True, trim_silence="none"))
        vectors.append(embed_speech(model, params, [wave], data, batch_size=4)[0])
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], (4, 32)), atol=TOLERANCE)


def test_long_clips_are_the_unit_mean_of_their_windows(tiny):
    cfg, model, params = tiny
    wave = noise(7000)
    parts = [wave[:3200], wave[3200:6400], wave[3800:]]
    z = embed_speech(model, params, parts, cfg.data, batch_size=4).astype(np.float64)
    expected = z.mean(axis=0) / np.linalg.norm(z.mean(axis=0))
    mixed = embed_speech(model, params, [noise(50), wave, noise(900)], cfg.data, batch_size=4)
    np.testing.assert_allclose(mixed[1], expected, atol=TOLERANCE)


def test_loudness_and_offset_do_not_matter_where_waves_are_normalised(tiny):
    cfg, model, params = tiny
    wave = noise(1600)
    z = embed_speech(model, params, [wave, 0.5 * wave + 0.1], cfg.data, batch_size=4)
    np.testing.assert_allclose(z[0], z[1], atol=1e-4)
    data = ConfigDict(dict(buckets=(1600,), normalize_wave=False, trim_silence="none"))
    raw = embed_speech(model, params, [wave, wave + 0.1], data, batch_size=4)
    assert np.abs(raw[0] - raw[1]).max() > 1e-3


def test_quiet_ends_do_not_matter_where_they_are_cut_off(tiny):
    cfg, model, params = tiny
    wave = noise(1_600)
    late = np.concatenate([1e-4 * noise(6_400), wave, np.zeros(3_200, np.float32)])
    kept = np.concatenate([1e-4 * noise(6_400)[-320:], wave, np.zeros(320, np.float32)])
    data = ConfigDict(dict(buckets=(16_000,), normalize_wave=True, trim_silence="speech"))
    z = embed_speech(model, params, [late, kept], data, batch_size=4)
    np.testing.assert_allclose(z[0], z[1], atol=TOLERANCE)
    data.trim_silence = "none"
    whole = embed_speech(model, params, [late, kept], data, batch_size=4)
    np.testing.assert_allclose(whole[1], z[1], atol=TOLERANCE)
    assert np.abs(whole[0] - z[0]).max() > 1e-3


def test_images_keep_their_order_in_any_batch(tiny):
    cfg, model, params = tiny
    images = ready(pictures(7), cfg)
    z = embed_images(model, params, iter(images), batch_size=3)
    assert z.shape == (7, 32) and z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    for image, row in zip(images, z, strict=True):
        alone = embed_images(model, params, [image], batch_size=1)
        np.testing.assert_allclose(alone[0], row, atol=TOLERANCE)
    assert np.abs(z[0] - z[1]).max() > 1e-3


def test_no_items_give_no_rows(tiny):
    cfg, model, params = tiny
    assert embed_speech(model, params, [], cfg.data, 4).shape == (0, 32)
    assert embed_images(model, params, [], 4).shape == (0, 32)


def test_the_same_on_a_mesh(tiny):
    cfg, model, params = tiny
    waves, images = [noise(n) for n in (1600, 3200, 40, 900, 5000)], ready(pictures(5), cfg)
    expected = embed_speech(model, params, waves, cfg.data, 4)
    expected_i = embed_images(model, params, images, 4)
    mesh = make_mesh(ConfigDict(dict(data=2, fsdp=4, tensor=1)))
    spread = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    z = embed_speech(model, spread, waves, cfg.data, 4)  # 4 rows are padded to 8, one per device
    np.testing.assert_allclose(z, expected, atol=TOLERANCE)
    z = embed_images(model, spread, images, 4)
    np.testing.assert_allclose(z, expected_i, atol=TOLERANCE)


def test_split_rows_belong_to_their_ids(tiny, memory_split):
    cfg, model, params = tiny
    split = memory_split({30: (8, 2), 10: (5,), 20: (), 40: (1, 9, 3, 70)})
    z = embed_split(model, params, split, cfg.data, batch_size=4)
    np.testing.assert_array_equal(z.image_ids, [30, 10, 20, 40])
    np.testing.assert_array_equal(z.caption_ids, [1, 2, 3, 5, 8, 9, 70])
    np.testing.assert_array_equal(z.speech_image_ids, [40, 30, 40, 10, 30, 40, 40])
    for row, record in enumerate(split.records):
        alone = embed_images(model, params, ready([load_image(record.image)], cfg), 1)
        np.testing.assert_allclose(z.image[row], alone[0], atol=TOLERANCE)
        for caption in record.captions:
            row = list(z.caption_ids).index(caption.caption_id)
            alone = embed_speech(model, params, [load_audio(caption.audio)], cfg.data, 1)
            np.testing.assert_allclose(z.speech[row], alone[0], atol=TOLERANCE)


def test_a_damaged_record_is_named(tiny, memory_split):
    cfg, model, params = tiny
    split = memory_split({30: (8, 2)})
    caption = split.records[0].captions[1]
    caption.audio = caption.audio[:200]
    with pytest.raises(UserError, match="caption 2 of test"):
        embed_split(model, params, split, cfg.data, batch_size=4)
