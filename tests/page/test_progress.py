"""Searches tell their stage, and end when their client goes away."""

import asyncio
import io
import threading
import time

import httpx
import numpy as np
import pytest
import soundfile
from starlette.requests import ClientDisconnect

from sir_jax.page.progress import MOST, Progress


def test_stages_are_told_by_name_while_a_search_runs():
    progress = Progress()
    with progress.follow("mine") as tell, progress.follow("") as silent:
        assert progress.stage("mine") == ""
        tell("decode")
        silent("encode")
        assert (progress.stage("mine"), progress.stage("")) == ("decode", "")
        tell("search")
        assert progress.stage("mine") == "search"
    assert progress.stage("mine") == ""


def test_long_names_and_too_many_are_not_told():
    progress = Progress()
    with progress.follow("n" * 65) as tell:
        tell("decode")
        assert progress.stage("n" * 65) == ""
    followed = [progress.follow(str(n)) for n in range(MOST + 1)]
    for each in followed:
        each.__enter__()("encode")
    assert [progress.stage(str(n)) for n in (0, MOST - 1, MOST)] == ["encode", "encode", ""]
    for each in followed:
        each.__exit__(None, None, None)
    assert progress.stage("0") == ""


def test_who_is_gone_is_told_no_more():
    with Progress().follow("mine") as tell:
        tell.gone = True
        with pytest.raises(ClientDisconnect):
            tell("encode")


class Slow:
    """A search that waits in its first stage; tells whether it came to the second."""

    def __init__(self, search):
        self.search, self.go, self.done, self.began = search, threading.Event(), [], 0

    def __call__(self, kind, query, k, rerank, tell):
        tell("encode")
        self.began += 1
        assert self.go.wait(60)
        tell("search")
        self.done.append(k)
        return self.search(kind, query, k, rerank, tell)


def test_a_search_tells_its_stage_and_ends_with_its_client(
    page_engine, serve_page, spoken, monkeypatch
):
    slow = Slow(page_engine.search)
    monkeypatch.setattr(page_engine, "search", slow)

    async def work(url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:

            def ask(name, k):
                files = {"speech": ("q.wav", spoken)}
                return asyncio.create_task(
                    client.post("/api/search", files=files, data={"k": k}, headers={"watch": name})
                )

            async def reach(name, stage):
                until = time.monotonic() + 60
                while (await client.get(f"/api/progress/{name}")).json() != {"stage": stage}:
                    assert time.monotonic() < until, stage
                    await asyncio.sleep(0.02)

            first = ask("first", 3)
            await reach("first", "encode")
            second, third = ask("second", 4), ask("third", 5)
            await reach("second", "wait")
            await reach("third", "wait")
            for each in (first, second):
                each.cancel()
            await reach("first", "")
            await reach("second", "")
            slow.go.set()
            answer = (await third).json()
            assert len(answer["results"]) == 5 and answer["timing"].keys() > {"decode", "encode"}
            await reach("third", "")
        # The first ended at its next stage, and the second never began.
        assert slow.done == [5] and slow.began == 2

    with serve_page(page_engine) as url:
        asyncio.run(work(url))


def test_nothing_is_searched_for_silence(client):
    """A loud recording is searched with; one 66 dB below it is said to be silent."""
    answers = []
    for loudness in (1, 5e-4):
        file = io.BytesIO()
        wave = loudness * np.random.default_rng(0).uniform(-1, 1, 16_000)
        soundfile.write(file, wave, 16_000, format="WAV", subtype="FLOAT")
        files = {"speech": ("noise.wav", file.getvalue())}
        answers.append(client.post("/api/search", files=files).json())
    loud, still = answers
    assert loud["quiet"] is False and len(loud["results"]) == 9
    assert loud["level"] == pytest.approx(-4.7, abs=0.3)
    assert still["quiet"] is True and still["results"] == [] and still["total"] == 9
    assert still["level"] == pytest.approx(-70.7, abs=0.3) and list(still["timing"]) == ["decode"]
    assert client.get("/api/info").json()["limits"]["quiet"] == -60


def test_an_outline_of_the_index(client):
    answer = client.get("/api/outline/speech/4.flac").json()
    assert answer["seconds"] == 1.5 and len(answer["peaks"]) == 30
    assert 0.3 < max(answer["peaks"]) <= 0.4
    refused = client.get("/api/outline/speech/9.flac")
    assert refused.status_code == 404 and "holds no recording" in refused.json()["error"]
