"""Archives: published files are extracted, unsafe and damaged members are refused."""

import gzip
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import zipfile

import pytest
from etils.epath import backend
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from sir_jax.data.builders.archives import GIVEN, Source, extract, gather
from sir_jax.data.builders.recordings import Archive
from sir_jax.errors import UserError

FILES = {"wavs/a.wav": b"a" * 700, "wavs/b.wav": b"b" * 5000, "list.txt": b"a b\n"}
TAR = Archive("audio.tar.gz", "https://example.org/audio.tar.gz", "wavs")
ZIP = Archive("images.zip", "https://example.org/images.zip", "wavs")


def make_tar(path, files=None, extra=(), mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in (FILES if files is None else files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)


def make_zip(path, files=None, extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (FILES if files is None else files).items():
            archive.writestr(name, content)
        for member, content in extra:
            archive.writestr(member, content)


def run(folder, archive=TAR, into=None):
    source = Source(str(folder))
    return extract(source, archive, source.stat(archive.name), into or folder / "out")


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".archives" not in p.parts
    }


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_tar_is_extracted_with_its_checksum(tmp_path, mode):
    junk = {"__MACOSX/wavs/._a.wav": b"junk", "wavs/._b.wav": b"junk", "./c.txt": b"c"}
    make_tar(tmp_path / TAR.name, FILES | junk, mode=mode)
    seen = run(tmp_path)
    packed = (tmp_path / TAR.name).read_bytes()
    assert seen == {"size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    assert content(tmp_path / "out") == {**FILES, "c.txt": b"c"}


def test_zip_is_extracted_with_its_checksum(tmp_path):
    make_zip(tmp_path / ZIP.name, FILES | {"__MACOSX/._list.txt": b"junk", "empty/": b""})
    seen = run(tmp_path, ZIP)
    packed = (tmp_path / ZIP.name).read_bytes()
    assert seen == {"size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    assert content(tmp_path / "out") == FILES
    assert (tmp_path / "out/empty").is_dir()


@pytest.mark.parametrize("name", ["../evil", "wavs/../../evil", "/tmp/evil"])
@pytest.mark.parametrize("packing", ["tar", "zip"])
def test_member_that_leads_out_is_refused(tmp_path, name, packing):
    archive, make = (TAR, make_tar) if packing == "tar" else (ZIP, make_zip)
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / archive.name, FILES | {name: b"evil"})
    with pytest.raises(UserError, match="'.*evil' leads out of the folder"):
        run(tmp_path / "in", archive, tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "member_type",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_link_and_device_are_refused(tmp_path, member_type):
    member = tarfile.TarInfo("wavs/odd")
    member.type, member.linkname = member_type, "/etc/passwd"
    make_tar(tmp_path / TAR.name, extra=[member])
    with pytest.raises(UserError, match="audio.tar.gz: its member 'wavs/odd' is a link or a dev"):
        run(tmp_path)
    assert not os.path.lexists(tmp_path / "out/wavs/odd")


def test_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("wavs/odd")
    link.external_attr = 0o120777 << 16
    make_zip(tmp_path / ZIP.name, extra=[(link, b"/etc")])
    with pytest.raises(UserError, match="'wavs/odd' is a link or a device"):
        run(tmp_path, ZIP)
    assert not os.path.lexists(tmp_path / "out/wavs/odd")


def test_nothing_is_written_through_a_link_that_is_there(tmp_path):
    make_tar(tmp_path / TAR.name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/wavs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="'wavs/a.wav' lies behind a link"):
        run(tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", [".archives/audio.tar.gz.json", f"{GIVEN}/x"])
def test_reserved_name_is_refused(tmp_path, name):
    make_tar(tmp_path / TAR.name, {name: b"{}"})
    with pytest.raises(UserError, match="has a reserved name"):
        run(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("packing", ["tar.gz", "tar", "zip"])
def test_truncated_archive_is_one_line(tmp_path, share, packing):
    archive = ZIP if packing == "zip" else TAR
    path = tmp_path / archive.name
    files = {f"wavs/{i}.wav": os.urandom(3000) for i in range(40)}
    if packing == "zip":
        make_zip(path, files)
    else:
        make_tar(path, files, mode="w:gz" if packing == "tar.gz" else "w")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=f"^{archive.name}: damaged, truncated") as caught:
        run(tmp_path, archive)
    assert "\n" not in str(caught.value) and "download it again" in str(caught.value)


def test_tar_cut_between_two_members_is_truncated(tmp_path):
    make_tar(tmp_path / TAR.name, {"a": b"x" * 512, "b": b"y"}, mode="w")
    path = tmp_path / TAR.name
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(UserError, match="the end mark is missing"):
        run(tmp_path)


def test_flipped_bit_in_a_gzip_is_found(tmp_path):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo("a")
        member.size = 1000
        archive.addfile(member, io.BytesIO(b"x" * 1000))
    # Without compression the flip changes one byte of the contents and nothing else.
    packed = bytearray(gzip.compress(plain.getvalue(), compresslevel=0))
    packed[1200] ^= 1
    (tmp_path / TAR.name).write_bytes(packed)
    with pytest.raises(UserError, match="CRC check failed"):
        run(tmp_path)


def test_a_file_that_is_no_archive_gives_a_one_line_error(tmp_path):
    (tmp_path / TAR.name).write_bytes(b"<html>404 Not Found</html>" * 40)
    with pytest.raises(UserError, match="no tar or zip archive"):
        run(tmp_path)


def test_interrupted_extraction_is_resumed(tmp_path):
    """A truncated archive leaves the same files as a killed extraction."""
    path = tmp_path / TAR.name
    make_tar(path, {f"wavs/{i}.wav": os.urandom(3000) for i in range(40)})
    whole, source = path.read_bytes(), Source(str(tmp_path))
    stamp = len(whole), path.stat().st_mtime_ns
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        extract(source, TAR, stamp, tmp_path / "out")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/wavs").iterdir()}
    assert 0 < len(kept) < 40
    path.write_bytes(whole)
    extract(source, TAR, stamp, tmp_path / "out")
    assert len(content(tmp_path / "out")) == 40
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    # A complete extraction does not open the archive again.
    path.unlink()
    assert extract(source, TAR, stamp, tmp_path / "out")["size"] == len(whole)


def test_member_of_another_size_is_written_again(tmp_path):
    make_tar(tmp_path / TAR.name)
    source = Source(str(tmp_path))
    stamp = source.stat(TAR.name)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / TAR.name).write_bytes((tmp_path / TAR.name).read_bytes()[:60])
    with pytest.raises(UserError):
        extract(Source(str(cut)), TAR, stamp, tmp_path / "out")
    (tmp_path / "out/wavs").mkdir(exist_ok=True)
    (tmp_path / "out/wavs/b.wav").write_bytes(b"b")
    extract(source, TAR, stamp, tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_another_file_of_the_same_name_replaces_everything(tmp_path):
    make_tar(tmp_path / TAR.name)
    run(tmp_path)
    changed = {name: b"z" * len(value) for name, value in FILES.items()}
    make_tar(tmp_path / TAR.name, changed)
    os.utime(tmp_path / TAR.name, ns=(1, 1))
    run(tmp_path)
    assert content(tmp_path / "out") == changed


def test_published_checksum_is_checked_before_extraction(tmp_path):
    make_tar(tmp_path / TAR.name)
    right = hashlib.sha256((tmp_path / TAR.name).read_bytes()).hexdigest()
    wrong = Archive(TAR.name, TAR.url, TAR.holds, sha256="0" * 64)
    with pytest.raises(UserError, match=f"its sha256 is {right}, the publisher's 000"):
        run(tmp_path, wrong)
    assert content(tmp_path / "out") == {}
    assert run(tmp_path, Archive(TAR.name, TAR.url, TAR.holds, right))["sha256"] == right


def test_unpacked_files_are_read_where_they_are(tmp_path):
    (tmp_path / "mine/wavs").mkdir(parents=True)
    folder, seen = gather((TAR,), Source(str(tmp_path)), tmp_path / "out")
    assert (folder, seen) == (tmp_path, {})
    assert not (tmp_path / "out").exists()


def test_packed_and_unpacked_archives_are_read_together(tmp_path):
    user = tmp_path / "user"
    (user / "pictures").mkdir(parents=True)
    (user / "pictures/x.png").write_bytes(b"png")
    make_tar(user / TAR.name)
    pictures = Archive("pictures.zip", "https://example.org/p", "photos", also_holds=("pictures",))
    folder, seen = gather((TAR, pictures), Source(str(user)), tmp_path / "out")
    assert folder == tmp_path / "out" and list(seen) == [TAR.name]
    assert (folder / "wavs/a.wav").read_bytes() == FILES["wavs/a.wav"]
    assert (folder / GIVEN / "pictures/x.png").read_bytes() == b"png"
    # The folder is removed later, and the link must not take the user's files with it.
    shutil.rmtree(folder)
    assert (user / "pictures/x.png").exists()


def test_missing_archives_are_named_with_their_source(tmp_path):
    other = Archive("more.zip", "https://example.org/more", "more", optional=True)
    with pytest.raises(UserError) as caught:
        gather((TAR, ZIP, other), Source(str(tmp_path)), tmp_path / "out")
    assert str(caught.value) == (
        f"archives {str(tmp_path)!r}: put there, packed or unpacked: audio.tar.gz from "
        "https://example.org/audio.tar.gz; images.zip from https://example.org/images.zip"
    )


def test_a_wrong_folder_gives_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        gather((TAR,), Source(str(tmp_path / "none")), tmp_path / "out")
    with pytest.raises(UserError, match="give a folder, or a URL of gs://, s3://"):
        gather((TAR,), Source("ftp://host/folder"), tmp_path / "out")


class _RangeFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        return self.fs.bucket[self.path][start:end]


class Bucket(AbstractFileSystem):
    """A bucket in memory that is read by ranges, like a real one."""

    protocol = ("gs", "gcs")
    cachable = False
    bucket: dict[str, bytes] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return re.sub("^g(c)?s://", "", str(path))

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        if path not in self.bucket:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.bucket[path]), "type": "file", "mtime": 7}

    def _open(self, path, mode="rb", **kwargs):
        return _RangeFile(self, path, mode, block_size=4096)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(Bucket, "bucket", {})
    cache = type(backend.fsspec_backend)._get_filesystem
    # What fsspec.register_implementation does, but undone after the test.
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Bucket)
    cache.cache_clear()
    yield Bucket.bucket
    cache.cache_clear()


def test_archives_in_a_bucket_are_read_as_streams(tmp_path, bucket):
    make_tar(tmp_path / TAR.name)
    make_zip(tmp_path / ZIP.name, {"photos/x.png": b"x" * 9000})
    for path in tmp_path.iterdir():
        bucket[f"mine/data/{path.name}"] = path.read_bytes()
    folder, seen = gather((TAR, ZIP), Source("gs://mine/data"), tmp_path / "out")
    assert content(folder) == {**FILES, "photos/x.png": b"x" * 9000}
    assert seen[TAR.name]["sha256"] == hashlib.sha256(bucket["mine/data/audio.tar.gz"]).hexdigest()
    with pytest.raises(UserError, match="put there, packed or unpacked: audio.tar.gz"):
        gather((TAR,), Source("gs://mine/nothing"), tmp_path / "other")


def test_network_that_fails_midway_says_go_on(tmp_path, bucket, monkeypatch):
    make_tar(tmp_path / TAR.name, {f"{i}.wav": os.urandom(3000) for i in range(40)})
    bucket["b/audio.tar.gz"] = (tmp_path / TAR.name).read_bytes()
    fetch = _RangeFile._fetch_range

    class Refused(Exception):
        """Like HttpError of gcsfs, this is no OSError."""

    def flaky(self, start, end):
        if start > 60_000:
            raise Refused("503 Service Unavailable")
        return fetch(self, start, end)

    monkeypatch.setattr(_RangeFile, "_fetch_range", flaky)
    source = Source("gs://b")
    with pytest.raises(UserError, match=r"reading it stopped \(Refused: 503 .*to go on"):
        gather((TAR,), source, tmp_path / "out")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.wav")}
    assert 0 < len(kept) < 40
    monkeypatch.setattr(_RangeFile, "_fetch_range", fetch)
    gather((TAR,), source, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.wav"))) == 40
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_missing_gcsfs_says_what_to_install(tmp_path, monkeypatch):
    cache = type(backend.fsspec_backend)._get_filesystem
    cache.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://mine.*pip install gcsfs$"):
        gather((TAR,), Source("gs://mine"), tmp_path / "out")
    cache.cache_clear()
