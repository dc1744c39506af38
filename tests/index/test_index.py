"""Building, searching, updating, saving and loading an index, with a model of width 32."""

import os
import shutil

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

import sir_jax
from sir_jax.errors import UserError
from sir_jax.index import vectors
from sir_jax.index.engines import faiss_search
from sir_jax.index.index import Index
from sir_jax.index.query import Hit
from sir_jax.inference.retriever import Retriever


@pytest.fixture(scope="module")
def model(matching_workdir):
    # Batches of one, so that few programs are compiled.
    return Retriever.load(matching_workdir, batch_size=1)


@pytest.fixture(scope="module")
def other(model):
    """Return another model, without a matching head."""
    params = {name: tree for name, tree in model.params.items() if name != "match_head"}
    return Retriever(model.cfg, jax.tree.map(jax.numpy.negative, params), 1, name="other")


@pytest.fixture
def media(folder, make_tone):
    """Return a folder of eight pictures and three recordings."""
    for number, name in enumerate(["one.wav", "deeper/two.flac", "three.ogg"]):
        soundfile.write(folder / name, make_tone(9_000 + 6_000 * number), 16_000)
    return folder


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def later(path):
    """Set a file's time of change one second later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def assert_same(a: Index, b: Index):
    for x, y in ((a.images, b.images), (a.recordings, b.recordings)):
        assert list(x.ids) == list(y.ids) and list(x.sources) == list(y.sources)
        assert list(x.stamps) == list(y.stamps)
        np.testing.assert_array_equal(x.vectors, y.vectors)
    assert (a.about, a.root, a.way) == (b.about, b.root, b.way)
    assert (a.failed, a.passed, a.noted) == (b.failed, b.passed, b.noted)


def test_typed_words_find_pictures(model, folder, query, said):
    index = Index.build(model, folder)
    vector = model.encode_speech([said])[0]
    hits = index.search(said, 3)
    assert hits == index.search(vector, 3, of="image") and len(hits) == 3
    assert index.search([query, said], 3) == [index.search(query, 3), hits]
    ranked = index.search(said, 3, rerank=8)
    path = index.path_of(ranked[0].id)
    match = model.match([(clip, 16_000) for clip in said.clips], [path, path]).mean()
    np.testing.assert_allclose(ranked[0].match, match, atol=1e-4)
    index.add([said], ["typed"])
    assert index.search(said, 1, of="speech")[0].id == "typed"


def files_of(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def by_id(gallery):
    return dict(zip(gallery.ids, gallery.vectors, strict=True))


def test_build_from_a_folder(model, media):
    (media / "broken.png").write_bytes(b"no picture")
    index = Index.build(model, media)
    assert index.images.ids == [
        "C.JPEG",
        "a.jpg",
        "b.png",
        "d.bmp",
        "deeper/a.png",
        "deeper/g.png",
        "e.gif",
        "f.webp",
    ]
    assert index.recordings.ids == ["deeper/two.flac", "one.wav", "three.ogg"]
    assert len(index) == 11 and index.root == media
    z = model.encode_image([media / name for name in index.images.ids])
    np.testing.assert_allclose(index.images.vectors, z, atol=1e-6)
    z = model.encode_speech([media / name for name in index.recordings.ids])
    np.testing.assert_allclose(index.recordings.vectors, z, atol=1e-5)
    assert list(index.failed) == ["broken.png"]
    assert "broken.png" in index.failed["broken.png"].reason
    with pytest.raises(UserError, match=r"broken\.png"):
        Index.build(model, media, errors="raise")


def test_search_both_ways(model, media, query):
    index = Index.build(model, media)
    z = model.encode_speech([query])
    scores = index.images.vectors @ z[0]
    best = np.argsort(-scores)[:3]
    hits = index.search(query, 3)
    assert [hit.id for hit in hits] == [index.images.ids[row] for row in best]
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-6)
    assert [hit.match for hit in hits] == [None] * 3
    samples, rate = soundfile.read(query, dtype="int16")
    for same in (str(query), (samples, rate), {"array": samples, "sampling_rate": rate}):
        assert [hit.id for hit in index.search(same, 3)] == [hit.id for hit in hits]
    assert index.search(query.read_bytes(), 3, of="image") == hits
    assert index.search(z[0], 3, of="image") == hits
    assert index.search(z, 3, of="image") == [hits]

    recordings = index.search(media / "b.png")
    assert sorted(hit.id for hit in recordings) == sorted(index.recordings.ids)
    assert [hit.score for hit in recordings] == sorted((h.score for h in recordings), reverse=True)
    with Image.open(media / "b.png") as image:
        image.load()
    assert index.search(image) == recordings
    mixed = index.search([query, image, media / "a.jpg"], 2)
    assert [len(hits) for hits in mixed] == [2, 2, 2]
    assert [hit.id for hit in mixed[0]] == [hit.id for hit in hits[:2]]
    assert [hit.id for hit in mixed[1]] == [hit.id for hit in recordings[:2]]
    # Searching for its own kind, a picture finds itself.
    assert index.search(media / "b.png", 1, of="image")[0].id == "b.png"


def test_rerank_orders_by_score_and_match(model, media, query):
    index = Index.build(model, media)
    coarse = index.search(query, 5)
    hits = index.search(query, 3, rerank=5)
    paths = [media / hit.id for hit in coarse]
    match = model.match([query], paths)
    scores = np.array([hit.score for hit in coarse])
    order = np.argsort(-(scores / 0.07 + match), kind="stable")[:3]  # 0.07: initial temperature
    assert [hit.id for hit in hits] == [coarse[n].id for n in order]
    np.testing.assert_allclose([hit.match for hit in hits], match[order], atol=1e-4)
    assert {hit.id: hit.score for hit in hits}.items() <= {h.id: h.score for h in coarse}.items()
    recordings = index.search(media / "b.png", 2, rerank=100)
    match = model.match([media / hit.id for hit in recordings], [media / "b.png"])
    np.testing.assert_allclose([hit.match for hit in recordings], match, atol=1e-4)
    first, second = (hit.score / 0.07 + hit.match for hit in recordings)
    assert first >= second


def test_search_refuses(model, other, media, query):
    with pytest.raises(UserError, match="has no matching head"):
        Index.build(other, media).search(query, rerank=10)
    index = Index.build(model, media)
    for arguments, message in (
        ({"k": 0}, "k is 0"),
        ({"rerank": 3}, "rerank is 3, below k=10"),
        ({"of": "text"}, "of='text' is none of image, speech"),
        ({"of": "speech", "rerank": 20}, "this search has one kind"),
    ):
        with pytest.raises(UserError, match=message):
            index.search(query, **arguments)
    with pytest.raises(UserError, match="query 1 .5 bytes. does not say"):
        index.search([query, b"12345"])
    with pytest.raises(UserError, match="vectors do not say"):
        index.search(np.zeros(32, np.float32))
    with pytest.raises(UserError, match="16 wide, the gallery 32"):
        index.search(np.ones(16, np.float32), of="image")
    with pytest.raises(UserError, match="vectors cannot be re-ranked"):
        index.search(np.ones(32, np.float32), of="image", rerank=10)


def test_hits_that_cannot_be_read_come_last_when_reranked(model, media, query):
    index = Index.build(model, media)
    best, second, *_ = (hit.id for hit in index.search(query, 10, rerank=10))
    (media / best).unlink()
    (media / second).write_bytes(b"no picture any more")
    hits = index.search(query, 10, rerank=10)
    assert {hit.id for hit in hits[-2:]} == {best, second} and len(hits) == 8
    assert [hit.match is None for hit in hits] == [False] * 6 + [True] * 2
    assert [hit.id for hit in hits[-2:]] == [
        hit.id for hit in index.search(query, 10) if hit.id in (best, second)
    ]
    with pytest.raises(UserError, match="no such file"):
        index.search(media / "none.wav", rerank=10)


def test_build_from_paths_keeps_them_as_ids(model, media):
    paths = [str(media / "b.png"), media / "one.wav", media / "missing.png"]
    index = Index.build(model, iter(paths))
    assert index.images.ids == [str(media / "b.png")]
    assert index.recordings.ids == [str(media / "one.wav")]
    assert index.root is None and list(index.failed) == [str(media / "missing.png")]
    assert index.path_of(str(media / "b.png")) == media / "b.png"
    with pytest.raises(UserError, match="not built from a folder"):
        index.update()
    with pytest.raises(UserError, match=r"notes\.txt: its suffix is neither"):
        Index.build(model, [media / "notes.txt"])
    with pytest.raises(UserError, match="in the list twice"):
        Index.build(model, [media / "b.png", media / "b.png"])


def test_nothing_to_index(model, tmp_path):
    with pytest.raises(UserError, match="holds no picture and no recording"):
        Index.build(model, tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        Index.build(model, tmp_path / "none")
    index = Index(model)
    assert len(index) == 0
    assert index.search(np.ones((2, 32), np.float32), of="speech") == [[], []]


def test_add_and_remove(model, media, tmp_path):
    index = Index.build(model, media)
    picture(tmp_path / "far.png", 5)
    picture(media / "deeper" / "near.png", 6)
    index.add([tmp_path / "far.png", media / "deeper" / "near.png"])
    index.add([np.zeros((8, 8, 3), np.uint8), (np.ones(4_000, np.float32), 16_000)], ["x", "y"])
    index.add([(media / "b.png").read_bytes()], ids=["bytes"], of="image")
    assert index.images.ids[8:] == [str(tmp_path / "far.png"), "deeper/near.png", "x", "bytes"]
    assert index.recordings.ids[3:] == ["y"]
    np.testing.assert_allclose(
        by_id(index.images)["bytes"], by_id(index.images)["b.png"], atol=1e-6
    )
    assert index.path_of("deeper/near.png") == media / "deeper" / "near.png"
    with pytest.raises(UserError, match="x was added from memory"):
        index.path_of("x")
    before = len(index)
    for items, ids, message in (
        ([tmp_path / "far.png"], None, r"far\.png is in the index already"),
        ([media / "b.png"], ["y"], "y is in the index already"),
        ([media / "b.png", media / "a.jpg"], ["p", "p"], "p is in the list twice"),
        ([media / "b.png", b"x"], ["p", "q"], "q: bytes do not say"),
        ([np.zeros((8, 8, 3), np.uint8)], None, "item 0 is no path; give ids"),
        ([media / "b.png"], ["p", "q"], "2 ids for 1 items"),
        ([media / "b.png", tmp_path / "none.png"], ["p", "q"], r"none\.png: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            index.add(items, ids)
        assert len(index) == before
    vectors = by_id(index.images)
    index.remove(["a.jpg", "y", "x"])
    assert len(index) == before - 3 and "a.jpg" not in index.images.ids
    for name, vector in by_id(index.images).items():
        np.testing.assert_array_equal(vector, vectors[name])
    with pytest.raises(UserError, match=r"a\.jpg is not in the index"):
        index.remove(["b.png", "a.jpg"])
    assert "b.png" in index.images.ids
    index.remove("b.png")
    assert "b.png" not in index.images.ids


def test_save_and_load(model, media, tmp_path, query):
    (media / "broken.png").write_bytes(b"no picture")
    index = Index.build(model, media)
    index.add([np.zeros((8, 8, 3), np.uint8)], ["memory"])
    index.save(tmp_path / "saved")
    loaded = Index.load(tmp_path / "saved", model)
    assert_same(index, loaded)
    assert isinstance(loaded.images.vectors, np.memmap)
    assert loaded.search(query, 4) == index.search(query, 4)
    assert loaded.update() == ([], [], [], ["broken.png"])
    # Saving to its own folder writes no vectors again and leaves no unused file.
    names = files_of(tmp_path / "saved")
    loaded.save(tmp_path / "saved")
    assert files_of(tmp_path / "saved") == names and len(names) == 3
    loaded.remove("b.png")
    loaded.save(tmp_path / "saved")
    assert len(files_of(tmp_path / "saved")) == 3
    assert "b.png" not in Index.load(tmp_path / "saved").images.ids
    # Saving to another folder copies everything.
    loaded.save(tmp_path / "second")
    shutil.rmtree(tmp_path / "saved")
    assert_same(Index.load(tmp_path / "second", model), loaded)


def test_an_interrupted_save_leaves_the_old_index(model, media, tmp_path, monkeypatch):
    out = tmp_path / "out"
    index = Index.build(model, media, out=out)
    for cut in ("write_matrix", "write_head"):
        changed = Index.load(out, model)
        changed.remove("b.png")
        with monkeypatch.context() as patched:
            patched.setattr(vectors, cut, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                changed.save(out)
        assert_same(Index.load(out), index)
    (out / "images-0.safetensors.part").write_bytes(b"left by a kill")
    changed.save(out)
    assert_same(Index.load(out), changed)
    assert len(files_of(out)) == 3


def test_build_into_a_folder_that_has_an_index(model, media, tmp_path):
    index = Index.build(model, media, out=tmp_path)
    assert index.describe() | {"fingerprint": "", "model": ""} == {
        "images": 8,
        "recordings": 3,
        "long": 0,
        "moments": 0,
        "silent": 0,
        "failed": 0,
        "passed_over": 1,
        "noted": 0,
        "root": str(media),
        "model": "",
        "fingerprint": "",
        "width": 32,
        "way": "auto",
    }
    with pytest.raises(UserError, match="holds an index already"):
        Index.build(model, media, out=tmp_path)


def test_an_index_of_one_kind_and_of_none(model, media, tmp_path):
    index = Index.build(model, [media / "one.wav"])
    index.save(tmp_path / "a")
    loaded = Index.load(tmp_path / "a", model)
    assert_same(index, loaded)
    assert loaded.search(media / "one.wav") == []
    loaded.remove(list(loaded.recordings.ids))
    loaded.save(tmp_path / "a")
    assert len(Index.load(tmp_path / "a")) == 0


def test_another_models_vectors_are_refused(model, other, media, tmp_path):
    assert other.fingerprint != model.fingerprint
    Index.build(model, [media / "b.png"]).save(tmp_path / "a")
    with pytest.raises(UserError) as caught:
        Index.load(tmp_path / "a", other)
    for part in (
        model.name,
        model.fingerprint[:8],
        other.name,
        other.fingerprint[:8],
        str(tmp_path),
    ):
        assert part in str(caught.value)


def test_loaded_without_a_model(model, media, tmp_path, query):
    index = Index.build(model, media)
    index.save(tmp_path / "a")
    bare = Index.load(tmp_path / "a")
    z = model.encode_speech([query])
    assert bare.search(z, 3, of="image") == index.search(z, 3, of="image")
    for call in (lambda: bare.search(query), bare.update, lambda: bare.add([media / "b.png"])):
        with pytest.raises(UserError, match="loaded without a model"):
            call()


def test_model_by_name_and_lazy_attribute(model, matching_workdir, media, tmp_path):
    index = sir_jax.Index.build(matching_workdir, [media / "b.png"], out=tmp_path / "a")
    assert index.about["fingerprint"] == model.fingerprint
    assert Index.load(tmp_path / "a", matching_workdir).images.ids == [str(media / "b.png")]


def test_faiss_is_chosen_by_way_or_size_and_saved_and_loaded(
    model, media, tmp_path, query, monkeypatch
):
    pytest.importorskip("faiss")
    exact = Index.build(model, media)
    index = Index.build(model, media, way="ivf")
    assert index.search(query, 3) == exact.search(query, 3)
    index.save(tmp_path / "a")
    assert len(list((tmp_path / "a").glob("images-*.faiss"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(faiss_search.FaissSearch, "build", None)  # a new build would fail
        loaded = Index.load(tmp_path / "a", model)
        assert loaded.search(query, 3) == index.search(query, 3)
    loaded.remove("b.png")
    assert "b.png" not in [hit.id for hit in loaded.search(query, 10)]
    with pytest.raises(UserError, match="way of search 'fast'"):
        Index(model, way="fast")
    # With way='auto', a large gallery is searched with FAISS, a small one exactly.
    monkeypatch.setattr(faiss_search, "EXACT_UP_TO", 5)
    big = Index.build(model, media)
    big.search(query, 3), big.search(media / "b.png", 3)
    uses_faiss = {kind: searcher.faiss is not None for kind, searcher in big._searchers.items()}
    assert uses_faiss == {"image": True, "speech": False}


def test_hits_are_plain_tuples():
    assert Hit("a", 0.5) == ("a", 0.5, None)
