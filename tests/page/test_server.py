"""The page's server over real sockets: results, refusals, and files that it must not serve."""

import base64
import concurrent.futures
import io
import os
import signal
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import soundfile
from page_client import ask, error
from PIL import Image

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever
from sir_jax.page import engine as engines
from sir_jax.page.engine import Engine
from sir_jax.page.item_files import Missing
from sir_jax.page.server import one_line
from sir_jax.page.workers import Decoders


def test_info(client, page_engine):
    info = client.get("/api/info").json()
    assert (info["pictures"], info["recordings"]) == (9, 5) and info["can_match"] is True
    assert info["model"] == page_engine.model.name
    limits = {"bytes": 400_000, "seconds": 5, "pixels": 500_000, "results": 48, "letters": 500}
    assert info["limits"] == limits | {"quiet": -60}


def test_search_equals_the_librarys(client, page_engine, spoken):
    answer = ask(client, "speech", "q.wav", spoken, k=4).json()
    hits = page_engine.index.search(spoken, 4, of="image")
    assert [(hit["id"], hit["match"]) for hit in answer["results"]] == [(h.id, None) for h in hits]
    np.testing.assert_allclose([h["score"] for h in answer["results"]], [h.score for h in hits])
    assert answer["total"] == 9 and answer["seconds"] == 1.0 and answer["quiet"] is False
    assert list(answer["timing"]) == ["decode", "encode", "search"]
    assert all(0 < value < 120_000 for value in answer["timing"].values())
    assert len(answer["peaks"]) == 800 and 0.35 < max(answer["peaks"]) <= 0.4


def test_reranking_equals_the_librarys(client, page_engine, spoken):
    answer = ask(client, "speech", "q.wav", spoken, k=3, rerank=1).json()
    # The link leads to another file than was indexed: it is not read, and comes last.
    names = [n for n in page_engine.index.images.ids if _inside(page_engine)(n)]
    match = page_engine.model.match([spoken], list(map(_inside(page_engine), names)))
    score = {hit.id: hit.score for hit in page_engine.index.search(spoken, 9, of="image")}
    keys = np.array([score[n] for n in names]) / 0.07 + match  # 0.07: initial temperature
    best = np.argsort(-keys)[:3]
    assert [h["id"] for h in answer["results"]] == [names[n] for n in best]
    np.testing.assert_allclose([h["match"] for h in answer["results"]], match[best], atol=1e-4)
    assert list(answer["timing"]) == ["decode", "encode", "search", "rerank"]
    everything = ask(client, "speech", "q.wav", spoken, k=48, rerank=1).json()["results"]
    assert len(everything) == 9 and everything[-1]["id"] == "pictures/link.png"
    assert [hit["match"] is None for hit in everything] == [False] * 8 + [True]


def _inside(engine):
    """Return a function that gives the file of an id, or None if it is outside of the folder."""

    def path(name):
        try:
            return engine.pictures.path(name)
        except Missing:
            return None

    return path


def test_search_by_picture_equals_the_librarys(client, page_engine, page_root):
    picture = page_root / "pictures" / "3.png"
    answer = ask(client, "picture", "3.png", picture.read_bytes(), k=5, rerank=1).json()
    hits = page_engine.index.search(picture, 5, rerank=5)
    assert [hit["id"] for hit in answer["results"]] == [hit.id for hit in hits]
    np.testing.assert_allclose(
        [h["match"] for h in answer["results"]], [h.match for h in hits], atol=1e-4
    )
    assert "peaks" not in answer and answer["total"] == 5


@pytest.mark.parametrize("kind", ["speech", "picture"])
def test_explanations_equal_the_models_attention(client, page_engine, page_root, spoken, kind):
    picture, clip = page_root / "pictures" / "2.png", page_root / "speech" / "4.flac"
    if kind == "speech":
        token = ask(client, "speech", "q.wav", spoken).json()["token"]
        answer = client.post("/api/explain", json={"token": token, "id": "pictures/2.png"})
        wave = load_audio(spoken)
    else:
        token = ask(client, "picture", "2.png", picture.read_bytes()).json()["token"]
        answer = client.post("/api/explain", json={"token": token, "id": "speech/4.flac"})
        wave = load_audio(clip)
    plain = answer.json()
    expected = page_engine.model.attention((wave, 16_000), load_image(picture))
    shape = len(expected.by_frame), plain["rows"], plain["cols"]
    assert shape == expected.weights.shape
    for name in ("weights", "by_frame", "by_patch"):
        values = np.frombuffer(base64.b64decode(plain[name]), "<f4")
        np.testing.assert_allclose(values, getattr(expected, name).ravel(), atol=1e-6)
    assert plain["seconds"] == len(wave) / 16_000
    assert plain["score"] == pytest.approx(expected.score)
    assert plain["box"] == [75, 0, 525, 450]
    assert (plain["width"], plain["height"]) == (600, 450)


def test_a_long_recording_is_heard_and_explained_at_its_moment(
    page_engine, page_root, serve_page, make_tone, tmp_path
):
    (tmp_path / "long").mkdir()
    wave = make_tone(100_000) * np.random.default_rng(0).uniform(0, 1, 100_000)
    soundfile.write(tmp_path / "long" / "talk.flac", wave, 16_000)
    picture = page_root / "pictures" / "3.png"
    model = page_engine.model
    index = Index.build(model, tmp_path / "long")
    with (
        serve_page(Engine(model, index), seconds=4) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        answer = ask(client, "picture", "3.png", picture.read_bytes()).json()
        ((hit,),) = (answer["results"],)
        expected = index.moments(picture, ["talk.flac"])["talk.flac"]
        np.testing.assert_allclose(hit["moments"], expected, atol=1e-6)
        start, end, score, _ = hit["moments"][0]
        assert hit["score"] == score and end == start + 3
        heard = client.get(f"/api/recording/talk.flac?span={start},{end}")
        part = load_audio(tmp_path / "long" / "talk.flac")[int(16_000 * start) :][:48_000]
        assert heard.headers["content-type"] == "audio/wav"
        np.testing.assert_allclose(load_audio(heard.content), part, atol=1e-4)
        body = {"token": answer["token"], "id": "talk.flac"}
        plain = client.post("/api/explain", json=body | {"span": [start, end]}).json()
        attention = model.attention((part, 16_000), picture)
        assert plain["seconds"] == 3 and plain["score"] == pytest.approx(attention.score, abs=1e-4)
        # The whole is longer than the page explains.
        assert "over the limit of 4 s" in error(client.post("/api/explain", json=body), 413)
        for span in ("1", "2,1", "-1,2", "0,61", "nan,1", "0,inf", "a,b", "1,2,3"):
            refusal = error(client.get(f"/api/recording/talk.flac?span={span}"), 400)
            assert "is not 'start,end' in seconds" in refusal
        for span in ([1], {"a": 1}, 7, [[1], 2]):
            error(client.post("/api/explain", json=body | {"span": span}), 400)


def test_grouped_frames_are_averages_weighted_by_dependence():
    rng = np.random.default_rng(0)
    frames = engines.FRAMES * 2 + 10
    weights = rng.random((frames, 2, 3)).astype(np.float32)
    by_frame = rng.random(frames).astype(np.float32)
    grouped, share, size = engines._group_frames(weights, by_frame)
    assert size == 3 and len(grouped) == len(share) == -(-frames // 3)
    first = (weights[:3] * by_frame[:3, None, None]).sum(0) / by_frame[:3].sum()
    np.testing.assert_allclose(grouped[0], first, rtol=1e-5)
    np.testing.assert_allclose(share.sum(), by_frame.sum(), rtol=1e-5)
    assert engines._group_frames(weights[:7], by_frame[:7])[2] == 1


def test_a_query_that_is_no_longer_held(page_engine, serve_page, spoken):
    with (
        serve_page(page_engine, held_bytes=100_000) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        tokens = [ask(client, "speech", "q.wav", spoken).json()["token"] for _ in range(2)]
        bodies = [{"token": token, "id": "pictures/1.png"} for token in tokens]
        assert "search again" in error(client.post("/api/explain", json=bodies[0]), 404)
        assert client.post("/api/explain", json=bodies[1]).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"token": 1, "id": "a"}', b'{"token": "a"}', b"[" * 60_000, b"\xff"],
)
def test_invalid_bodies_of_explain(client, body):
    assert "send JSON" in error(client.post("/api/explain", content=body), 400)


def test_a_long_body_of_json_is_refused(client):
    error(client.post("/api/explain", content=b" " * 70_000), 413)


def test_silence_is_reported(client):
    file = io.BytesIO()
    soundfile.write(file, np.full(16_000, 0.001), 16_000, format="WAV", subtype="PCM_16")
    assert ask(client, "speech", "still.wav", file.getvalue()).json()["quiet"] is True


def test_files_of_the_index(client, page_root):
    for name in ("pictures/0.png", "pictures/a b#?%41.png", "pictures/ü.jpg"):
        address = f"/api/picture/{quote(name)}"
        answer = client.get(address)
        assert answer.content == (page_root / name).read_bytes()
        assert answer.headers["content-type"].startswith("image/")
        small = client.get(address + "?size=thumbnail")
        with Image.open(io.BytesIO(small.content)) as image:
            assert (image.format, image.size) == ("JPEG", (480, 360))
    whole = (page_root / "speech" / "1.flac").read_bytes()
    assert client.get("/api/recording/speech/1.flac").content == whole
    part = client.get("/api/recording/speech/1.flac", headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole[10:20]
    assert part.headers["content-type"] == "audio/flac"
    assert "thumbnail" in error(client.get("/api/picture/pictures/0.png?size=huge"), 400)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": "0"}, "k='0' is not a whole number from 1 to 48"),
        ({"k": "49"}, "k='49' is"),
        ({"k": "-1"}, "k='-1'"),
        ({"k": "1e3"}, "k='1e3'"),
        ({"k": "٣"}, "is not a whole number"),
        ({"k": ""}, "k=''"),
        ({"k": "9" * 64}, "from 1 to 48"),
        ({"k": "9" * 500}, "too long"),
        ({"rerank": "2"}, "rerank='2' is not a whole number from 0 to 1"),
    ],
)
def test_invalid_fields_are_refused(client, spoken, fields, message):
    assert message in error(ask(client, "speech", "q.wav", spoken, **fields), 400)


def test_invalid_forms_and_routes_are_refused(client, spoken):
    both = {"speech": ("a.wav", spoken), "picture": ("b.png", spoken)}
    for request in (
        {"files": both},
        {"files": {"other": ("a.wav", spoken)}},
        {"data": {"speech": "words"}},
        {"content": b"nothing"},
        {"content": b"x" * 1000, "headers": {"content-type": "multipart/form-data; boundary=b"}},
        {"content": b"x" * 1000, "headers": {"content-type": "multipart/form-data"}},
        {"files": {"speech": ("a.wav", spoken)}, "data": {str(n): "x" for n in range(9)}},
        {"files": [("speech", ("a.wav", spoken)), ("speech", ("b.wav", spoken))]},
        {"files": {"speech": ("a" * 5000, spoken)}},
        {"files": {"": ("a.wav", spoken)}},
    ):
        error(client.post("/api/search", **request), 400)
    error(client.get("/api/search"), 405)
    error(client.get("/nothing"), 404)
    error(client.get("/static/..%2fserver.py"), 404)
    error(client.get("/static/none.js"), 404)


def test_media_over_the_limits(client):
    def wav(seconds, rate=16_000, channels=1):
        file = io.BytesIO()
        soundfile.write(file, np.zeros((seconds * rate, channels)), rate, "PCM_U8", format="WAV")
        return file.getvalue()

    def png(*size):
        file = io.BytesIO()
        Image.new("RGB", size).save(file, "PNG")
        return file.getvalue()

    assert "6.00 s is over the limit of 5 s" in error(ask(client, "speech", "a.wav", wav(6)), 413)
    assert "9 channels" in error(ask(client, "speech", "a.wav", wav(1, channels=9)), 413)
    assert "no sound" in error(ask(client, "speech", "a.wav", wav(0)), 415)
    assert "1000 x 501" in error(ask(client, "picture", "a.png", png(1000, 501)), 413)
    assert "a.wav: not a wav" in error(ask(client, "speech", "../a.wav", b"x" * 99), 415)
    assert "empty" in error(ask(client, "picture", "a.png", b""), 415)
    assert "truncated" in error(ask(client, "speech", "a.wav", wav(1)[:-9]), 415)


def test_the_upload_is_counted_while_it_arrives(client, url):
    message = error(ask(client, "speech", "a.wav", bytes(500_000)), 413)
    assert message == "more than 0.4 MB; send a smaller file"

    # An upload without a stated size and without an end is cut off early.
    sent = 0

    def endless():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="speech"; filename="a"\r\n\r\n'
        for _ in range(100_000):
            sent += 10_000
            yield bytes(10_000)

    with pytest.raises(httpx.TransportError):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = client.post("/api/search", content=endless(), headers=headers)
        error(answer, 413)
        raise httpx.WriteError("the server answered instead of closing, which is fine, too")
    assert sent < 50_000_000
    assert client.get("/api/info").status_code == 200


def test_too_many_requests_at_once_are_refused(page_engine, serve_page, page_root):
    picture = (page_root / "pictures" / "1.png").read_bytes()
    with serve_page(page_engine, posts=2) as url:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(
                pool.map(
                    lambda _: httpx.post(
                        f"{url}api/search",
                        files={"picture": ("a.png", picture)},
                        timeout=120,
                        trust_env=False,
                    ),
                    range(24),
                )
            )
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert "too many requests" in error(refused, 503)
        again = httpx.post(f"{url}api/search", files={"picture": ("a.png", picture)}, timeout=120)
        assert again.status_code == 200


def test_a_request_that_takes_too_long_is_ended(page_engine, serve_page, spoken):
    decoders = Decoders(1)
    with serve_page(page_engine, decoders, answer_seconds=3) as url:
        files = {"speech": ("a.wav", spoken)}
        httpx.get(f"{url}api/info", trust_env=False)
        os.kill(decoders._idle._queue[0].process.pid, signal.SIGSTOP)
        answer = httpx.post(f"{url}api/search", files=files, timeout=180, trust_env=False)
        assert "no answer within 3 s" in error(answer, 503)
        # The stopped process is killed; its replacement starts within the time of an answer, or is
        # killed, too, and the next one tried.
        for _ in range(60):
            answer = httpx.post(f"{url}api/search", files=files, timeout=180, trust_env=False)
            if answer.status_code == 200:
                break
        assert answer.status_code == 200


def test_an_index_of_one_kind_and_a_model_that_cannot_match(
    workdir, folder, serve_page, spoken, page_root
):
    model = Retriever.load(workdir)
    engine = Engine(model, Index.build(model, folder))
    with (
        serve_page(engine) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        info = client.get("/api/info").json()
        assert (info["pictures"], info["recordings"], info["can_match"]) == (8, 0, False)
        picture = (page_root / "pictures" / "1.png").read_bytes()
        nothing = ask(client, "picture", "a.png", picture, rerank=1).json()
        assert nothing["results"] == [] and nothing["total"] == 0
        assert "matching head" in error(ask(client, "speech", "a", spoken, rerank=1), 400)
        answer = ask(client, "speech", "a", spoken).json()
        pair = {"token": answer["token"], "id": answer["results"][0]["id"]}
        assert "matching head" in error(client.post("/api/explain", json=pair), 400)


def test_an_internal_error_is_reported_in_one_line(page_engine, serve_page, spoken, monkeypatch):
    monkeypatch.setattr(page_engine.index, "search", lambda *_, **__: 1 / 0)
    with serve_page(page_engine) as url:
        answer = httpx.post(
            f"{url}api/search", files={"speech": ("a.wav", spoken)}, timeout=180, trust_env=False
        )
        assert "internal error" in error(answer, 500)
        assert httpx.get(f"{url}api/info", trust_env=False).status_code == 200


def test_file_names_in_messages_are_short_and_printable():
    assert one_line("../../etc/pass\nwd") == "pass wd"
    assert one_line("C:\\a\\b.wav") == "b.wav" and one_line("\0/") == "the file"
    assert one_line("x" * 200) == "x" * 80
