"""What is on disk: damage is told, and of two writers one is refused."""

import json
import os

import numpy as np
import pytest
import soundfile

from sir_jax.cli.main import main
from sir_jax.errors import UserError
from sir_jax.index import gallery
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever
from sir_jax.runtime.locks import locked


@pytest.fixture(scope="module")
def model(workdir):
    return Retriever.load(workdir, batch_size=4)


@pytest.fixture
def media(folder, make_tone):
    """Return a folder of eight pictures and a recording."""
    soundfile.write(folder / "one.wav", make_tone(9_000), 16_000)
    return folder


def matrix_of(saved, kind="images"):
    """Return the file of an index's vectors, and where the first one begins in it."""
    entry = json.loads((saved / "index.json").read_text())["galleries"][kind]
    path = saved / entry["file"]
    return path, path.stat().st_size - 4 * 32 * len(entry["ids"])


def test_damage_is_reported_in_one_line(model, media, tmp_path):
    saved = tmp_path / "a"
    with pytest.raises(UserError, match=r"holds no index \(index\.json\)"):
        Index.load(saved)
    Index.build(model, media).save(saved)
    head = saved / "index.json"
    good = json.loads(head.read_text())
    for change, message in (
        (lambda c: c.update(version=9), "has version 9"),
        (lambda c: c.update(format="x"), "is no sir_jax.index"),
        (lambda c: c.pop("way"), "is damaged"),
        (lambda c: c["galleries"]["images"]["ids"].pop(), "is damaged"),
        (lambda c: c["galleries"]["images"].update(file="../a.safetensors"), "no file name beside"),
        (lambda c: c["model"].update(width=16), r"F32 \[8, 32\], not F32 \[8, 16\]"),
        (lambda c: c.update(failed=3), "is damaged"),
        (lambda c: c.update(normalised=False), "not normalised"),
    ):
        content = json.loads(json.dumps(good))
        change(content)
        head.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message) as caught:
            Index.load(saved)
        assert "\n" not in str(caught.value)
    head.write_text(json.dumps(good))
    matrix = saved / good["galleries"]["images"]["file"]
    matrix.write_bytes(matrix.read_bytes()[:-1])
    with pytest.raises(UserError, match="is truncated"):
        Index.load(saved)


def set_values(path, start, values):
    data = bytearray(path.read_bytes())
    data[start : start + len(values)] = values
    path.write_bytes(data)


DAMAGE = {
    "NaN": (np.full(32, np.nan, "<f4").tobytes(), r"vector of b\.png \(row 2\) is no unit vector"),
    "zeros": (bytes(128), r"vector of b\.png \(row 2\) is no unit vector, and 0 others"),
    "other vector": (np.eye(1, 32, 3, dtype="<f4").tobytes(), "its checksum differs"),
}


@pytest.mark.parametrize("kind", [*DAMAGE, "one bit"])
def test_vectors_that_were_overwritten_are_refused(model, media, tmp_path, monkeypatch, kind):
    saved = tmp_path / "a"
    Index.build(model, media, out=saved)
    path, start = matrix_of(saved)
    if kind == "one bit":
        byte = path.read_bytes()[start + 2 * 128 + 3]
        message = r"checksum differs|is no unit vector"
        set_values(path, start + 2 * 128 + 3, bytes([byte ^ 0x40]))  # of the exponent
    else:
        values, message = DAMAGE[kind]
        set_values(path, start + 2 * 128, values)
    with pytest.raises(UserError, match=message) as caught:
        Index.load(saved)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert main(["info", f"--index={saved}", "--verify"]) == 2
    assert main(["index", f"--model={saved}", f"--folder={media}", f"--out={saved}"]) == 2
    Index.load(saved, verify=False)
    # Many vectors are checked if their file has changed since, or when asked.
    monkeypatch.setattr(gallery, "CHECKED_BYTES", 100)
    for change, verify in ((10**9, None), (-(10**9), True)):
        mtime = (saved / "index.json").stat().st_mtime_ns + change
        os.utime(path, ns=(mtime, mtime))
        with pytest.raises(UserError, match=message):
            Index.load(saved, verify=verify)
    assert len(Index.load(saved)) == 9


def test_an_index_from_before_checksums_loads_and_its_rows_are_looked_at(model, media, tmp_path):
    saved = tmp_path / "a"
    Index.build(model, media).save(saved)
    head = json.loads((saved / "index.json").read_text())
    for name in ("generation", "passed", "noted"):
        del head[name]
    for entry in head["galleries"].values():
        del entry["checksum"]
        entry["stamps"] = [stamp[:2] for stamp in entry["stamps"]]
    (saved / "index.json").write_text(json.dumps(head))
    old = Index.load(saved, model)
    assert old.update(out=saved) == ([], [], [], [])
    assert "checksum" in json.loads((saved / "index.json").read_text())["galleries"]["images"]
    (saved / "index.json").write_text(json.dumps(head))
    path, start = matrix_of(saved)
    set_values(path, start, np.float32(1e19).tobytes())
    with pytest.raises(UserError, match=r"vector of C\.JPEG \(row 0\) is no unit vector"):
        Index.load(saved)


def test_info_verifies_an_index(model, media, tmp_path, capsys):
    Index.build(model, media, out=tmp_path / "a")
    assert main(["info", f"--index={tmp_path / 'a'}", "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    assert main(["info", f"--index={tmp_path / 'a'}", "--json"]) == 0
    assert "verified" not in json.loads(capsys.readouterr().out)


def test_of_two_writers_the_second_is_refused(model, media, tmp_path):
    saved = tmp_path / "a"
    Index.build(model, media, out=saved)
    first, second = Index.load(saved, model), Index.load(saved, model)
    first.remove("b.png")
    first.save(saved)
    second.remove("a.jpg")
    for write in (lambda: second.save(saved), lambda: second.update(out=saved)):
        with pytest.raises(UserError, match="was written by another process since"):
            write()
    assert "a.jpg" in (now := Index.load(saved, verify=True)).images.ids
    assert "b.png" not in now.images.ids
    # Who has written goes on, and another folder is free.
    first.remove("a.jpg")
    first.save(saved)
    second.save(tmp_path / "b")
    assert "b.png" in Index.load(tmp_path / "b").images.ids


def test_a_save_while_another_process_writes_is_refused(model, media, tmp_path):
    saved = tmp_path / "a"
    index = Index.build(model, media)
    index.save(saved)
    with locked(saved / ".lock"):
        with pytest.raises(UserError, match="another process is making 'a'"):
            index.save(saved)
        assert len(Index.load(saved)) == 9  # reading needs no lock


def test_an_index_that_is_replaced_while_it_is_read(model, media, tmp_path, monkeypatch):
    saved, read = tmp_path / "a", gallery.files.read_head
    index = Index.build(model, media)
    index.save(saved)

    def overtaken(path, kind):
        head = read(path, kind)
        if len(index) == 9:
            index.remove("b.png")
            index.save(saved)
        return head

    monkeypatch.setattr(gallery.files, "read_head", overtaken)
    assert len(Index.load(saved)) == 8
