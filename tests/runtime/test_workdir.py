"""Where a workdir lies: in a folder, in a bucket, or at a URL that holds no folder."""

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from sir_jax.errors import UserError
from sir_jax.inference import release
from sir_jax.runtime.workdir import as_path, check_reachable


@pytest.fixture(autouse=True)
def no_cache():
    cache = type(backend.fsspec_backend)._get_filesystem
    cache.cache_clear()
    yield
    cache.cache_clear()


@pytest.mark.parametrize("url", ["https://host/name/model", "http://x", "ftp://x/y", "file:///m"])
def test_a_url_that_holds_no_folder_is_one_line(url):
    with pytest.raises(UserError) as caught:
        release.find(url)
    scheme = url.partition(":")[0]
    assert str(caught.value) == (
        f"{url}: no folder can be opened by {scheme}://; download it and give the folder, or a URL "
        "of gs://, s3://, az://, hf://"
    )


def test_a_bucket_without_its_package_names_it(monkeypatch):
    def filesystem(name, **_):
        raise ImportError(f"Install it to access {name}")

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    for url, package in (("s3://b/run", "s3fs"), ("gs://b/run", "gcsfs"), ("az://b/r", "adlfs")):
        with pytest.raises(UserError, match=f"^{url}: Install it .*; pip install {package}$"):
            release.find(url)


def test_a_bucket_that_does_not_answer_is_one_line(monkeypatch):
    class Silent(MemoryFileSystem):
        def exists(self, path, **_):
            raise TimeoutError("no route\nto host")

    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: Silent(skip_instance_cache=True))
    with pytest.raises(UserError) as caught:
        release.find("s3://b/run")
    assert str(caught.value) == "s3://b/run cannot be reached (TimeoutError: no route to host)"


def test_a_folder_need_not_be_reached(tmp_path):
    check_reachable(as_path(tmp_path / "absent"))
