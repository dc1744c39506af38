"""An index of recordings that are longer than the model reads at once, with a model of width 32."""

import json

import numpy as np
import pytest
import soundfile

from sir_jax.errors import UserError
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever

WINDOW = 48_000  # the last bucket of `search_config`


@pytest.fixture(scope="module")
def model(matching_workdir):
    # Batches of one, so that few programs are compiled.
    return Retriever.load(matching_workdir, batch_size=1)


@pytest.fixture(scope="module")
def talk(make_tone):
    """Return 15 s: three loud ones, six of silence, three faint ones, and three loud ones."""
    loudness = np.repeat([3.0, 0.0, 0.012, 1.5], np.array([3, 6, 3, 3]) * 16_000)
    noise = np.random.default_rng(0).uniform(0.2, 1, len(loudness))
    noise[-WINDOW:] = 1
    return (make_tone(len(loudness)) * noise * loudness).astype(np.float32)


@pytest.fixture
def media(folder, talk, make_tone):
    """Return a folder of eight pictures, a long recording, and two short ones."""
    soundfile.write(folder / "talk.wav", talk, 16_000, subtype="FLOAT")
    for number, name in enumerate(["one.wav", "deeper/two.flac"]):
        soundfile.write(folder / name, make_tone(9_000 + 30_000 * number), 16_000)
    return folder


def test_windows_are_found_to_the_second(model, media, talk, tmp_path):
    index = Index.build(model, media, out=tmp_path / "index")
    about = index.describe()
    # Nine windows, of which those at 3, 4.5 and 6 s are silent, and those at 7.5 and 9 s too faint.
    assert (about["recordings"], about["long"], about["moments"], about["silent"]) == (3, 1, 4, 5)
    moments = index.recordings.moments
    assert moments.spans.tolist() == [[0, 3], [1.5, 4.5], [10.5, 13.5], [12, 15]]
    starts = (moments.spans[:, 0] * 16_000).astype(int)
    clips = [(talk[start : start + WINDOW], 16_000) for start in starts]
    np.testing.assert_allclose(moments.vectors, model.encode_speech(clips), atol=1e-5)

    picture = media / "b.png"
    z = model.encode_image([picture])[0]
    scores = moments.vectors @ z
    hits = {hit.id: hit.score for hit in index.search(picture, 3)}
    assert hits["talk.wav"] == pytest.approx(scores.max(), abs=1e-6)
    short = model.encode_speech([media / "one.wav"])[0] @ z
    assert hits["one.wav"] == pytest.approx(short, abs=1e-5)
    found = index.moments(picture, ["talk.wav", "one.wav"], k=2)
    assert found["one.wav"] == [] and found == index.moments(z, ["talk.wav", "one.wav"], k=2)
    best = found["talk.wav"][0]
    assert best.start == moments.spans[scores.argmax(), 0] and best.end == best.start + 3
    # Only the moment is matched, not all of the recording.
    ranked = {hit.id: hit.match for hit in index.search(picture, 3, rerank=3)}
    cut = talk[int(best.start * 16_000) :][:WINDOW], 16_000
    assert ranked["talk.wav"] == pytest.approx(model.match([cut], [picture])[0], abs=1e-4)

    again = Index.load(tmp_path / "index", model)
    assert again.search(picture, 3) == index.search(picture, 3)
    assert again.moments(picture, ["talk.wav"]) == index.moments(picture, ["talk.wav"])


def test_an_older_index_ranks_as_before(model, media, tmp_path):
    index = Index.build(model, media, out=tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    content = json.loads(path.read_text())
    del content["galleries"]["recordings"]["moments"]
    path.write_text(json.dumps(content))
    old = Index.load(tmp_path / "index", model)
    z = model.encode_image([media / "b.png"])[0]
    scores = dict(zip(index.recordings.ids, index.recordings.vectors @ z, strict=True))
    hits = old.search(media / "b.png", 3)
    assert [hit.id for hit in hits] == sorted(scores, key=lambda name: -scores[name])
    assert old.describe()["long"] == 0 and old.moments(z, ["talk.wav"]) == {"talk.wav": []}


def test_updates_keep_drop_and_renew_windows(model, media, talk, tmp_path):
    index = Index.build(model, media, out=tmp_path / "index")
    before = index.recordings.moments
    soundfile.write(media / "more.wav", talk[: 4 * 16_000], 16_000, subtype="FLOAT")
    assert index.update(out=tmp_path / "index").added == ["more.wav"]
    after = Index.load(tmp_path / "index", model).recordings.moments
    assert list(after.ids) == ["talk.wav", "more.wav"] and list(after.counts) == [4, 2]
    np.testing.assert_array_equal(after.vectors[:4], before.vectors)
    index.remove("talk.wav")
    assert list(index.recordings.moments.ids) == ["more.wav"]
    index.remove("more.wav")
    assert index.recordings.moments is None
    index.save(tmp_path / "index")
    left = {path.name.partition("-")[0] for path in (tmp_path / "index").glob("*.safetensors")}
    assert left == {"images", "recordings"}
    assert not list((tmp_path / "index").glob("*-spans*"))


def test_a_long_recording_that_breaks_off_is_named(model, media, tmp_path):
    whole = (media / "talk.wav").read_bytes()
    (media / "talk.wav").write_bytes(whole[:-100_000])
    index = Index.build(model, media)
    assert list(index.failed) == ["talk.wav"] and index.recordings.moments is None
    assert "talk.wav: truncated" in index.failed["talk.wav"].reason
    with pytest.raises(UserError, match=r"talk\.wav: truncated"):
        Index.build(model, media, errors="raise")
    (media / "talk.wav").write_bytes(whole)
    assert index.update().changed == ["talk.wav"] and index.describe()["moments"] == 4


def test_silence_has_one_window_and_is_said(model, tmp_path):
    soundfile.write(tmp_path / "still.wav", np.zeros(40 * 16_000), 16_000)
    index = Index.build(model, [tmp_path / "still.wav"])
    moments = index.recordings.moments
    # Windows at every 1.5 s up to 36 s, and one that ends at 40 s.
    assert moments.counts == (1,) and moments.silent == (25,)
    assert moments.spans.tolist() == [[0, 3]]
    assert list(index.noted.values()) == ["digital silence"]
