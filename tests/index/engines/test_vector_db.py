"""A gallery in Milvus: a local file, and a server that speaks the same protocol."""

import subprocess
import sys

import numpy as np
import pytest
from milvus_lite.adapter.grpc.server import start_server_in_thread

from sir_jax.errors import UserError
from sir_jax.index.engines import vector_db
from sir_jax.index.engines.vector_db import RemoteGallery, Upserted, export_index

OURS, THEIRS = "ab" * 32, "cd" * 32
STRANGE = ["it's.png", 'a "b".png', "back\\slash.png", "ü/漢字.png", "new\nline.png", "x' or id!='"]


def unit_vectors(rows, width=32, seed=0):
    z = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "gallery.db")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(vector_db, "BATCH", 16)
    monkeypatch.setattr(vector_db, "_QUERIES", 4)


def assert_exact(gallery, ids, vectors, queries, k):
    hit_ids, scores = gallery.search(queries, k)
    expected = queries @ vectors.T
    order = np.argsort(-expected, axis=1)[:, :k]
    assert hit_ids == [[ids[i] for i in row] for row in order]
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), atol=1e-6)
    assert scores.dtype == np.float32


def test_both_galleries_of_an_index_are_searched_exactly_after_reopening(uri, small_batches):
    ids = STRANGE + [f"folder/{n}.png" for n in range(54)]
    images, speech = unit_vectors(60), unit_vectors(20, seed=1)
    clips = [f"{n}.wav" for n in range(20)]
    assert export_index(ids, images, OURS, uri, "demo", "image", index="FLAT") == Upserted(60, 0)
    assert export_index(clips, speech, OURS, uri, "demo", "speech", index="FLAT") == (20, 0)
    with RemoteGallery(OURS, uri, "demo", "image") as gallery:
        assert (len(gallery), gallery.width) == (60, 32)
        assert_exact(gallery, ids, images, np.concatenate([images[:6], speech]), 7)
        hit_ids, scores = gallery.search(speech[:2], 1000)  # k exceeds the size of the gallery
        assert scores.shape == (2, 60) and len(set(hit_ids[1])) == 60
        assert gallery.search(speech[:0], 5)[1].shape == (0, 0)
    with RemoteGallery(OURS, uri, "demo", "speech") as gallery:
        assert_exact(gallery, clips, speech, images[:5], 3)


def test_an_interrupted_export_continues_and_only_changed_rows_are_written(uri, small_batches):
    ids, vectors = [f"{n}.png" for n in range(50)], unit_vectors(50)
    broken = vectors.copy()
    broken[40, 3] = np.nan
    with pytest.raises(UserError, match=r"vector 40 \(40.png\) is not finite"):
        export_index(ids, broken, OURS, uri, "demo", "image")
    assert export_index(ids, vectors, OURS, uri, "demo", "image") == Upserted(18, 32)
    assert export_index(ids, vectors, OURS, uri, "demo", "image") == Upserted(0, 50)
    vectors[[7, 33]] = unit_vectors(2, seed=5)
    assert export_index(ids, vectors, OURS, uri, "demo", "image") == Upserted(2, 48)
    with RemoteGallery(OURS, uri, "demo", "image") as gallery:
        assert len(gallery) == 50
        assert_exact(gallery, ids, vectors, vectors[[7, 33]], 3)


def test_rows_are_deleted_by_id(uri):
    ids, vectors = [*STRANGE, "a.png", "b.png"], unit_vectors(8)
    export_index(ids, vectors, OURS, uri, "demo", "image", index="FLAT")
    with RemoteGallery(OURS, uri, "demo", "image") as gallery:
        gallery.delete([*STRANGE[1:], "never there", STRANGE[1]])
        assert len(gallery) == 3
        keep = [0, 6, 7]
        assert_exact(gallery, [ids[i] for i in keep], vectors[keep], vectors, 3)
        assert gallery.upsert(ids[:3], vectors[:3]) == Upserted(2, 1)
        assert len(gallery) == 5


def test_another_models_vectors_are_refused(uri):
    export_index(["a"], unit_vectors(1), OURS, uri, "demo", "image")
    refused = "gallery.db: collection demo_image holds vectors of the model abababababab, not of cd"
    with pytest.raises(UserError, match=refused):
        export_index(["a"], unit_vectors(1), THEIRS, uri, "demo", "image")
    with pytest.raises(UserError, match=refused):
        RemoteGallery(THEIRS, uri, "demo", "image")
    with pytest.raises(UserError, match="16 wide, collection demo_image 32"):
        export_index(["b"], unit_vectors(1, 16), OURS, uri, "demo", "image")
    with RemoteGallery(OURS, uri, "demo", "image") as gallery:
        assert len(gallery) == 1
        gallery._client.create_collection("foreign_image", dimension=32)
        with pytest.raises(UserError, match="16 wide"):
            gallery.search(unit_vectors(2, 16), 1)
    with pytest.raises(UserError, match="foreign_image is none of ours"):
        RemoteGallery(OURS, uri, "foreign", "image")


SECOND = """
import sys
import numpy as np
from sir_jax.errors import UserError
from sir_jax.index.engines.vector_db import RemoteGallery
try:
    RemoteGallery(sys.argv[2], sys.argv[1], "demo", "image")
except UserError as error:
    print(error, flush=True)
input()
with RemoteGallery(sys.argv[2], sys.argv[1], "demo", "image") as gallery:
    print(gallery.search(np.eye(1, 32, dtype=np.float32), 1)[0], flush=True)
"""


def test_one_process_at_a_time_can_open_a_file(uri):
    export_index(["a"], unit_vectors(1), OURS, uri, "demo", "image")
    second = [sys.executable, "-c", SECOND, uri, OURS]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with RemoteGallery(OURS, uri, "demo", "image"):
        process = subprocess.Popen(second, **pipes)
        refused = process.stdout.readline()
    out, error = process.communicate("\n")
    assert "gallery.db cannot be opened" in refused and "no other process has it" in refused
    assert out == "[['a']]\n" and error == ""


def test_the_same_calls_work_with_a_server(tmp_path):
    server, database, port = start_server_in_thread(str(tmp_path / "server"))
    ids, vectors = [f"{n}.png" for n in range(30)], unit_vectors(30)
    try:
        uri = f"http://127.0.0.1:{port}"
        assert export_index(ids, vectors, OURS, uri, "demo", "image", index="HNSW") == (30, 0)
        with RemoteGallery(OURS, uri, "demo", "image") as gallery:
            assert_exact(gallery, ids, vectors, vectors[:4], 2)
            with pytest.raises(UserError, match=f"{uri} has no collection other_image"):
                RemoteGallery(OURS, uri, "other", "image")
    finally:
        server.stop(grace=None)
        database.close()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(of="sound"), "of='sound': give 'image' or 'speech'"),
        (dict(name="my gallery"), "name 'my gallery': start with a letter"),
        (dict(fingerprint="'"), "is not that of a model"),
        (dict(uri="folder/index"), "folder/index is neither http://host:port .* nor a local"),
        (dict(ids=["a", "b", "a"]), "id 'a' is given twice"),
        (dict(ids=["a", "b"]), "2 ids for 3 vectors"),
        (dict(ids=["a", "b", 3]), "id 3 is int; give text"),
        (dict(ids=["a", "b", "é" * 2049]), "has 4098 bytes; give 1 to 4096"),
        (dict(ids=["a", "b", "\udcff.png"]), "is no UTF-8; rename the file"),
        (dict(vectors=np.zeros((3, 32))), r"vectors are float64 \[3, 32\]; give float32"),
        (dict(index="flat"), "index 'flat': give one of AUTOINDEX, FLAT"),
    ],
)
def test_a_bad_argument_is_named(uri, change, message):
    good = dict(ids=list("abc"), vectors=unit_vectors(3), fingerprint=OURS, uri=uri, name="demo")
    with pytest.raises(UserError, match=message):
        export_index(**{**good, "of": "image", **change})


def test_a_bad_query_is_named(uri):
    export_index(["a"], unit_vectors(1), OURS, uri, "demo", "image")
    with RemoteGallery(OURS, uri, "demo", "image") as gallery:
        for k in (0, 16_385):
            with pytest.raises(UserError, match=f"k is {k}; give 1 to 16384"):
                gallery.search(unit_vectors(1), k)
        with pytest.raises(UserError, match="query 1 is not finite"):
            gallery.search(np.full((2, 32), [[0.0], [np.inf]], np.float32), 1)


def test_a_missing_server_and_a_missing_package_give_one_line(uri, monkeypatch):
    monkeypatch.setattr(vector_db, "TIMEOUT", 1)
    with pytest.raises(UserError, match="^http://127.0.0.1:1 cannot be opened .*server runs$"):
        RemoteGallery(OURS, "http://127.0.0.1:1", "demo", "image")
    monkeypatch.setitem(sys.modules, "milvus_lite", None)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[vectordb\]'$"):
        RemoteGallery(OURS, uri, "demo", "image")
