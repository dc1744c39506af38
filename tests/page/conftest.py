"""The page's index has a link to a file outside of its folder, which was another one then."""

import os
import shutil

import httpx
import pytest

from sir_jax.errors import UserError
from sir_jax.page import server as servers


@pytest.fixture(scope="session")
def page_engine(page_engine, page_root):
    """Return the engine, with another file where a link of its index leads to."""
    outside = page_root.parent / "outside.png"
    shutil.copy2(outside, outside.with_name("indexed.png"))
    shutil.copyfile(page_root / "pictures" / "0.png", outside)
    os.utime(outside, ns=(0, 0))
    return page_engine


@pytest.fixture(scope="module")
def url(page_engine, serve_page):
    with serve_page(page_engine, upload_bytes=400_000, seconds=5, pixels=500_000) as url:
        yield url


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        yield client


@pytest.fixture
def spoken(query):
    return query.read_bytes()


@pytest.fixture
def speaks(monkeypatch, said):
    """Let the page say one text, whatever is typed; return what was to be said."""
    asked = []

    def say(*what):
        asked.append(what)
        if what[0] == "🙂":
            raise UserError("there is nothing to be said")
        return said

    monkeypatch.setattr(servers, "say", say)
    return asked
