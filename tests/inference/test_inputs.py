"""Items are read in order, and an item that cannot be read follows the policy `errors`."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.inference.inputs import QuietMedia
from sir_jax.inference.retriever import Retriever


@pytest.fixture(scope="module")
def retriever(workdir):
    return Retriever.load(workdir, batch_size=4)


def test_a_generator_is_as_good_as_a_list(retriever, folder):
    paths = sorted(folder.glob("*.*g"))
    np.testing.assert_allclose(
        retriever.encode_image(path for path in paths), retriever.encode_image(paths), atol=1e-5
    )


def test_a_dict_of_array_and_rate_is_a_recording(retriever, make_tone):
    samples = make_tone(8_000, 8_000)
    z = retriever.encode_speech([dict(array=samples, sampling_rate=8_000), (samples, 8_000)])
    np.testing.assert_allclose(z[0], z[1], atol=1e-6)


class Decoder:
    """Audio as `datasets` 4 hands it out, by torchcodec's decoder."""

    def __init__(self, samples, rate: int):
        self._samples = types.SimpleNamespace(data=samples, sample_rate=rate)

    def get_all_samples(self):
        if self._samples.data is None:
            raise RuntimeError("no stream\nand much more")
        return self._samples


def test_audio_of_datasets_decoded_or_not(retriever, query, make_tone):
    (z,) = retriever.encode_speech([query])
    undecoded = [dict(bytes=query.read_bytes(), path="a.flac"), dict(bytes=None, path=str(query))]
    np.testing.assert_allclose(retriever.encode_speech(undecoded), [z, z], atol=1e-6)
    stereo = np.stack([make_tone(8_000, 8_000), make_tone(8_000, 16_000)])
    expected = retriever.encode_speech([(stereo.T, 8_000)])
    np.testing.assert_allclose(
        retriever.encode_speech([Decoder(stereo, 8_000)]), expected, atol=1e-6
    )
    with pytest.raises(UserError, match=r"clip 0: its Decoder fails \(no stream\)$"):
        retriever.encode_speech([Decoder(None, 1)])
    with pytest.raises(TypeError, match=r"write \[item\]"):
        retriever.encode_speech(Decoder(stereo, 8_000))


def test_arrays_of_names_and_of_jax(retriever, query, folder, make_tone):
    names = np.array([str(query), str(query)])
    z = retriever.encode_speech(list(names))
    for items in (names, names.astype(object)):
        np.testing.assert_array_equal(retriever.encode_speech(items), z)
    tone = make_tone(8_000)
    same = [
        (tone, 16_000),
        (jnp.asarray(tone), 16_000),
        dict(array=jnp.asarray(tone), sampling_rate=16_000),
    ]
    same.append(((tone * 32_767).round().astype(">i2"), np.int64(16_000)))
    rows = retriever.encode_speech(same)
    np.testing.assert_allclose(rows, rows[:1].repeat(4, 0), atol=1e-3)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    rows = retriever.encode_image([pixels, jnp.asarray(pixels)])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_url_is_one_line(retriever):
    with pytest.raises(UserError, match="https://a.org/b.wav: is a URL; download it"):
        retriever.encode_speech(["https://a.org/b.wav"])


def test_what_cannot_be_heard_or_seen_is_said(retriever, make_tone):
    tone = make_tone(8_000)
    clips = [
        (tone, 16_000),
        (np.zeros(8_000, np.int16), 16_000),
        (np.stack([tone, -tone], axis=1), 16_000),
    ]
    notes = []
    rows = retriever.encode_speech(clips, notes=notes)
    assert rows.shape == (3, 32) and np.isfinite(rows).all()
    assert notes == [
        (1, "clip 1: digital silence"),
        (2, "clip 2: its channels cancel each other"),
    ]
    with pytest.warns(QuietMedia, match="2 of 3 clips hold nothing to find: clip 1: digital"):
        np.testing.assert_array_equal(retriever.encode_speech(clips), rows)
    with pytest.warns(QuietMedia, match="1 of 1 pictures .*: picture 0 is of one colour"):
        retriever.encode_image([np.full((9, 9, 3), 255, np.uint8)])


def test_a_clip_without_samples_fails_as_any_bad_item(retriever, make_tone):
    clips = [(np.zeros(0, np.float32), 16_000), (make_tone(8_000), 16_000)]
    failures = []
    rows = retriever.encode_speech(clips, errors="nan", failures=failures)
    assert failures == [(0, "clip 0: holds no sound (0 samples); record it again")]
    assert np.isnan(rows[0]).all() and np.isfinite(rows[1]).all()
    loud = [(make_tone(8_000) * np.float32(1e30), 16_000), clips[1]]
    rows = retriever.encode_speech(loud, errors="nan", failures=failures)
    assert "clip 0: holds a sample of" in failures[1][1] and np.isfinite(rows[1]).all()


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (np.zeros(100), "clip 1: an array does not say its rate; give .samples, rate in Hz."),
        ([0.0, 0.1], "clip 1: an array does not say its rate"),
        (dict(array=np.zeros(9)), "clip 1: a dict needs 'array' and 'sampling_rate'"),
        (jnp.zeros(9), "clip 1: an array does not say its rate"),
        (dict(bytes=None, path=None), "clip 1: a dict .* it has 'bytes', 'path'"),
        ((np.zeros(9), 16_000, 1), "clip 1: a tuple of 3 is not .samples, rate in Hz."),
    ],
)
def test_an_array_without_its_rate(retriever, query, item, said):
    with pytest.raises(UserError, match=said):
        retriever.encode_speech([query, item])


@pytest.mark.parametrize(
    "item",
    [
        "a.wav",
        b"RIFF",
        np.zeros(3),
        jnp.zeros(3),
        dict(array=[]),
        (np.zeros(3), 16_000),
        Image.new("L", (2, 2)),
    ],
)
def test_one_item_is_no_list(retriever, item):
    with pytest.raises(TypeError, match=r"write \[item\]"):
        retriever.encode_speech(item)


def test_skip_and_nan(retriever, folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    items = [folder / "b.png", bad, folder / "a.jpg", tmp_path / "gone.png"]
    good = retriever.encode_image([items[0], items[2]])
    failures = []
    skipped = retriever.encode_image(items, errors="skip", failures=failures)
    np.testing.assert_allclose(skipped, good, atol=1e-5)
    assert [position for position, _ in failures] == [1, 3]
    assert str(bad) in failures[0][1] and "no such file" in failures[1][1]
    marked = retriever.encode_image(items, errors="nan")
    assert np.isnan(marked[[1, 3]]).all()
    np.testing.assert_allclose(marked[[0, 2]], good, atol=1e-5)
    assert retriever.encode_image([bad], errors="nan").shape == (1, 32)
    assert retriever.encode_image([bad], errors="skip").shape == (0, 32)
    with pytest.raises(UserError, match="bad.png"):
        retriever.encode_image(items)
    with pytest.raises(UserError, match="errors='ignore' is none of raise, skip, nan"):
        retriever.encode_image(items, errors="ignore")


def test_batches_of_any_size_give_the_same_vectors(retriever, make_tone):
    clips = [(make_tone(n), 16_000) for n in (9_000, 20_000, 30_000, 50_000, 400)]
    one = retriever.encode_speech(clips, batch_size=1)
    np.testing.assert_allclose(retriever.encode_speech(clips, batch_size=5), one, atol=1e-5)
    assert one.tobytes() == retriever.encode_speech(clips, batch_size=1).tobytes()


def test_progress_is_reported_on_stderr(retriever, folder, capsys):
    retriever.encode_image([folder / "b.png"] * 3, progress=True)
    assert "pictures: 3 of 3 (" in capsys.readouterr().err
    retriever.encode_image((folder / "b.png" for _ in range(2)), progress=True)
    assert "pictures: 2 (" in capsys.readouterr().err
