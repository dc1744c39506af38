"""A retriever gives the same vector for a recording or picture in any form and any batch."""

import io

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever


@pytest.fixture(scope="module")
def retriever(workdir):
    return Retriever.load(workdir, "best", batch_size=4)


def test_speech_from_path_bytes_and_array_is_the_same(retriever, query):
    samples, rate = soundfile.read(query, dtype="int16")
    z = retriever.encode_speech([query, str(query), query.read_bytes(), (samples, rate)])
    assert z.shape == (4, 32) and z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(z, np.broadcast_to(z[0], z.shape), atol=1e-6)


def test_stereo_at_44100_hz_int16_is_the_same_sound(retriever, tmp_path, make_tone):
    path = tmp_path / "stereo.wav"
    wave = make_tone(44_100, 44_100)
    soundfile.write(path, np.stack([wave, wave], axis=1), 44_100, subtype="PCM_16")
    stereo = (np.stack([wave, wave], axis=1) * 32_767).astype(np.int16)
    z = retriever.encode_speech([path, (stereo, 44_100), (make_tone(16_000), 16_000)])
    assert z[0] @ z[1] > 0.99999 and z[0] @ z[2] > 0.999


def test_images_from_path_bytes_pil_and_array_are_the_same(retriever, folder):
    path = folder / "b.png"
    with Image.open(path) as image:
        image.load()
    z = retriever.encode_image([path, str(path), path.read_bytes(), image, np.asarray(image)])
    np.testing.assert_array_equal(z, np.broadcast_to(z[0], (5, 32)))


def test_order_is_kept_alone_or_together(retriever, make_tone):
    clips = [(make_tone(n), 16_000) for n in (30_000, 100, 16_000, 2, 120_000, 8_000, 399)]
    together = retriever.encode_speech(clips)
    alone = np.concatenate([retriever.encode_speech([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_unreadable_items_are_named(retriever, query, tmp_path):
    with pytest.raises(UserError, match="clip 1"):
        retriever.encode_speech([query, b"RIFF, but no more"])
    with pytest.raises(UserError, match="missing.wav"):
        retriever.encode_speech([tmp_path / "missing.wav"])
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(UserError, match="picture 1"):
        retriever.encode_image([buffer.getvalue(), b"\xff\xd8 no JPEG"])


def test_one_item_is_no_list(retriever, query):
    with pytest.raises(TypeError, match=r"write \[item\]"):
        retriever.encode_speech(str(query))
    with pytest.raises(TypeError, match=r"write \[item\]"):
        retriever.encode_image(np.zeros((8, 8, 3), np.uint8))


def test_a_text_is_the_mean_of_its_voices(retriever, said, query):
    each = np.concatenate([retriever.encode_speech([(clip, 16_000)]) for clip in said.clips])
    assert each[0] @ each[1] < 0.999  # or the mean would prove nothing
    mean = each.sum(0) / np.linalg.norm(each.sum(0))
    np.testing.assert_allclose(retriever.encode_speech([said]), mean[None], atol=1e-6)
    z = retriever.encode_speech([said, query, said])
    np.testing.assert_allclose(z[[0, 2]], np.stack([mean, mean]), atol=1e-6)
    np.testing.assert_allclose(z[1:2], retriever.encode_speech([query]), atol=1e-6)
    with pytest.raises(TypeError, match=r"got one Said: write \[item\]"):
        retriever.encode_speech(said)


def test_no_items_give_no_rows(retriever):
    assert retriever.encode_speech([]).shape == (0, 32)
    assert retriever.encode_image([]).shape == (0, 32)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(UserError, match="nor checkpoints"):
        Retriever.load(tmp_path)


def test_several_devices_give_the_vectors_of_one(matching_workdir, folder, query, make_tone):
    one = Retriever.load(matching_workdir, batch_size=4)
    four = Retriever(one.cfg, one.params, batch_size=4, devices=jax.devices()[:4])
    assert len(jax.tree.leaves(four.params)[0].sharding.device_set) == 4
    assert four.fingerprint == one.fingerprint
    clips = [query, (make_tone(60_000), 16_000), (make_tone(9_000), 16_000)]
    pictures = [folder / "b.png", folder / "a.jpg", folder / "d.bmp"]
    np.testing.assert_allclose(four.encode_speech(clips), one.encode_speech(clips), atol=1e-5)
    np.testing.assert_allclose(four.encode_image(pictures), one.encode_image(pictures), atol=1e-5)
    np.testing.assert_allclose(four.match(clips, pictures), one.match(clips, pictures), atol=1e-4)
    shares = [model.attention(query, pictures[0]).by_patch for model in (one, four)]
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-3)
