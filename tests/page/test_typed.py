"""Words that are typed into the page, at the server: what is searched, said, refused."""

import httpx
import numpy as np
import pytest
from page_client import error

from sir_jax.data.media.audio import load_audio
from sir_jax.page import server as servers


@pytest.fixture
def typing(page_engine, serve_page, speaks):
    """Serve the page where one text can be said; return its client and what was to be said."""
    with (
        serve_page(page_engine, held_bytes=100_000) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        yield client, speaks


def form(**fields):
    """Return the fields of a form without a file, as httpx takes them."""
    return {"files": {name: (None, value) for name, value in fields.items()}}


def test_typed_words_are_searched_as_the_library_does(typing, page_engine, said):
    client, asked = typing
    words = {"say": "un poisson", "language": "fr"}
    answer = client.post("/api/search", **form(**words, k="3", rerank="1")).json()
    hits = page_engine.index.search(said, 9, of="image")
    score = {hit.id: hit.score for hit in hits}
    assert all(hit["score"] == pytest.approx(score[hit["id"]]) for hit in answer["results"])
    paths = [page_engine.pictures.path(hit["id"]) for hit in answer["results"]]
    match = page_engine.model.match([said], paths)
    np.testing.assert_allclose([hit["match"] for hit in answer["results"]], match, atol=1e-4)
    assert list(answer["timing"]) == ["speak", "encode", "search", "rerank"]
    assert (answer["name"], answer["kind"]) == ("a red fish", "speech")
    assert answer["voices"] == ["espeak en+m1", "espeak en+f1"]
    assert answer["seconds"] == 9_000 / 16_000 and not answer["quiet"]
    # For other options, it is not said again.
    plain = client.post("/api/search", **form(**words)).json()
    assert [hit["id"] for hit in plain["results"]] == [hit.id for hit in hits]
    assert asked == [("un poisson", "fr")]

    heard = client.get(f"/api/query/{answer['token']}")
    assert heard.headers["content-type"] == "audio/wav"
    np.testing.assert_allclose(load_audio(heard.content), said.waves[0], atol=1e-4)
    body = {"token": answer["token"], "id": "pictures/2.png"}
    expected = page_engine.model.attention(said, page_engine.pictures.path("pictures/2.png"))
    explained = client.post("/api/explain", json=body).json()
    assert explained["score"] == pytest.approx(expected.score, abs=1e-4)
    for _ in range(3):
        client.post("/api/search", **form(**words))
    assert "search again" in error(client.get(f"/api/query/{answer['token']}"), 404)


def test_words_that_cannot_be_said(typing, spoken):
    client, asked = typing
    assert "nothing to be said" in error(client.post("/api/search", **form(say="🙂")), 400)
    long = error(client.post("/api/search", **form(say="a" * 100_000)), 400)
    assert long == "the text is too long; type at most 500 letters"
    assert "too long" in error(client.post("/api/search", **form(say="a", language="x" * 65)), 400)
    both = {"files": {"say": (None, "a"), "speech": ("a.wav", spoken)}}
    assert "send one file" in error(client.post("/api/search", **both), 400)
    assert asked == [("🙂", "en")]
    info = client.get("/api/info").json()
    assert info["limits"]["letters"] == 500
    assert all(map(info["languages"].__contains__, (["fr", "French (France)"], ["en", "English"])))


def test_where_nothing_can_speak(monkeypatch):
    monkeypatch.setattr(servers, "spoken_languages", dict)
    monkeypatch.setattr(servers, "missing_engines", lambda: {"espeak": "run: pip", "flite": "x"})
    assert servers._typing() == {"languages": [], "mute": "run: pip"}
