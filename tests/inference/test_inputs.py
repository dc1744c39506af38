"""Items are read in order, and an item that cannot be read follows the policy `errors`."""

import numpy as np
import pytest
from PIL import Image

from sir_jax.errors import UserError
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


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (np.zeros(100), "clip 1: an array does not say its rate; give .samples, rate in Hz."),
        ([0.0, 0.1], "clip 1: an array does not say its rate"),
        (dict(array=np.zeros(9)), "clip 1: a dict needs 'array' and 'sampling_rate'"),
        ((np.zeros(9), 16_000, 1), "clip 1: a tuple of 3 is not .samples, rate in Hz."),
    ],
)
def test_an_array_without_its_rate(retriever, query, item, said):
    with pytest.raises(UserError, match=said):
        retriever.encode_speech([query, item])


@pytest.mark.parametrize(
    "item",
    ["a.wav", b"RIFF", np.zeros(3), dict(array=[]), (np.zeros(3), 16_000), Image.new("L", (2, 2))],
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
