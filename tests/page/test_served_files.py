"""Over real sockets: what the index took is shown, as what it is; and nothing outlives the page."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def client(page_engine, serve_page):
    with serve_page(page_engine) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def refusal(answer) -> str:
    assert answer.status_code == 404
    return answer.json()["error"]


def test_a_link_is_shown_while_it_leads_to_what_was_indexed(client, page_root):
    outside = page_root.parent / "outside.png"
    swapped = outside.with_name("swapped.png")
    outside.rename(swapped)
    shutil.copy2(outside.with_name("indexed.png"), outside)
    try:
        answer = client.get("/api/picture/pictures/link.png")
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        assert answer.content == outside.read_bytes()
    finally:
        swapped.replace(outside)
    answer = client.get("/api/picture/pictures/link.png")
    assert "nor what was indexed" in refusal(answer)


def test_an_item_is_what_it_holds_and_not_its_suffix(client, page_root):
    path = page_root / "pictures" / "1.png"
    whole = path.read_bytes()
    try:
        for format, media_type in (("JPEG", "image/jpeg"), ("GIF", "image/gif")):
            Image.new("RGB", (9, 9)).save(path, format)
            answer = client.get("/api/picture/pictures/1.png")
            assert answer.headers["content-type"] == media_type
        path.write_text("<script>alert()</script>")
        assert "is none any more" in refusal(client.get("/api/picture/pictures/1.png"))
    finally:
        path.write_bytes(whole)


PAGE = """
import asyncio, os, time
from sir_jax.page.workers import Decoders

async def main():
    decoders = Decoders(2)
    await decoders.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoders_end_with_a_page_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PAGE], stdout=subprocess.PIPE) as page:
        assert page.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{page.pid}/task/{page.pid}/children").read_text().split()
        page.kill()
    assert len(children) == 2
    until = time.monotonic() + 10
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            pytest.fail(f"{len(left)} decoders outlived their page")
        time.sleep(0.05)
