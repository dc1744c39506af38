"""`sir-jax embed` from its command line to what is on disk."""

import codecs
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sir_jax.cli import embed as embed_main
from sir_jax.cli.main import main
from sir_jax.errors import UserError
from sir_jax.index.folder import IMAGE_SUFFIXES
from sir_jax.index.index import Index
from sir_jax.inference.retriever import Retriever


@pytest.fixture
def media(folder, make_tone):
    """Return a folder of eight pictures, one of them broken, and two recordings."""
    for number, name in enumerate(["one.wav", "deeper/two.flac"]):
        soundfile.write(folder / name, make_tone(9_000 + 6_000 * number), 16_000)
    (folder / "d.bmp").write_bytes(b"BM and no more")
    return folder


def test_shards_and_merge(workdir, media, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["embed", f"--model={workdir}", f"--inputs={media}", f"--out={out}", "--chunk=3"]
    assert main([*command, "--shard=1/2", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found == {"chunks": 4, "embedded": 4, "failed": 1, "skipped": 0}
    assert main([*command, "--merge"]) == 2
    assert "2 of 4 chunks are not there yet" in capsys.readouterr().err
    assert main([*command, "--shard=0/2"]) == 0
    assert capsys.readouterr().out == f"{out}: 4 chunks, 5 embedded, 0 failed, 0 skipped\n"
    assert main([*command, "--merge", "--json"]) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    left_out = found.pop("not_indexed")
    assert found == {"chunks": 4, "images": 7, "recordings": 2, "failed": 1}
    assert left_out.pop("neither a picture nor a recording") == {".txt": 1}
    assert list(left_out.values()) == [{".bmp": 1}]
    assert f"skipped: {media}/d.bmp" in captured.err

    merged, built = Index.load(out), Index.build(workdir, media)
    assert merged.root == media and merged.failed == built.failed
    assert list(merged.images.ids) == list(built.images.ids)
    np.testing.assert_allclose(merged.images.vectors, built.images.vectors, atol=1e-6)
    np.testing.assert_allclose(merged.recordings.vectors, built.recordings.vectors, atol=1e-5)


def test_a_list_in_one_go_and_again(workdir, media, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(media)
    inputs, out = tmp_path / "list.txt", tmp_path / "out"
    inputs.write_text("b.png\n\none.wav\nmissing.png\n")
    command = ["embed", f"--model={workdir}", f"--inputs={inputs}", f"--out={out}", "--json"]
    assert main(command) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found.pop("not_indexed") == {"no such file": {".png": 1}}
    assert found == {
        "chunks": 2,
        "embedded": 2,
        "failed": 1,
        "skipped": 0,
        "images": 1,
        "recordings": 1,
    }
    assert "skipped: missing.png: no such file" in captured.err
    index = Index.load(out, workdir)
    assert index.images.ids == ["b.png"] and index.root is None
    assert index.path_of("one.wav") == media / "one.wav"
    z = Retriever.load(workdir).encode_image([media / "b.png"])
    np.testing.assert_allclose(index.images.vectors, z, atol=1e-6)
    assert main(command) == 3
    # What failed is tried again.
    assert json.loads(capsys.readouterr().out)["skipped"] == 2
    (media / "missing.png").write_bytes((media / "b.png").read_bytes())
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["embedded"] == 1
    assert Index.load(out, workdir).images.ids == ["b.png", "missing.png"]


def test_shards():
    assert embed_main.parse_shard("0/1") == (0, 1) and embed_main.parse_shard("3/12") == (3, 12)
    for text in ("1/1", "4/3", "0/0", "-1/2", "1", "a/b", "1/2/3"):
        with pytest.raises(UserError, match="give i/n with i from 0 to n - 1"):
            embed_main.parse_shard(text)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--inputs=none.txt"], "--inputs none.txt cannot be read"),
        (["--inputs=notes.txt"], "its suffix is neither"),
        (["--inputs=empty.txt"], "empty.txt holds no picture and no recording"),
        (["--inputs=twice.txt"], "b.png is in the list twice"),
        (["--inputs=.", "--chunk=0"], "--chunk is 0; give 1 or more"),
        (["--inputs=.", "--shard=2/2"], "--shard 2/2"),
    ],
)
def test_mistakes(folder, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("\n")
    (folder / "twice.txt").write_text("b.png\nb.png\n")
    assert main(["embed", "--model=none", f"--out={tmp_path / 'out'}", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sir-jax embed: ") and message in err and err.count("\n") == 1


def test_names_in_a_list_may_hold_anything_but_line_ends(media, tmp_path, monkeypatch):
    monkeypatch.chdir(media)
    odd = ["a\u2028b.png", "tab\tx.png", "form\x0cfeed.png", "\x85.png", os.fsdecode(b"\xff.png")]
    odd += [" lead.png", "\x1c.png"]
    for name in odd:
        Path(name).write_bytes(Path("b.png").read_bytes())
    listed = tmp_path / "list.txt"
    names = ["b.png", *odd]
    for start, end in ((b"", b"\n"), (codecs.BOM_UTF8, b"\r\n")):
        listed.write_bytes(start + end.join(map(os.fsencode, names)) + end)
        assert [item.id for item in embed_main.read_inputs(str(listed))[0]] == names
    listed.write_text("b.png\r\n\u65e5.png\r\n", encoding="utf-16")
    assert embed_main.read_names(listed.read_bytes()) == ["b.png", "\u65e5.png"]


def test_a_merge_does_not_replace_an_index_of_other_files(workdir, folder, tmp_path, capsys):
    out = tmp_path / "out"
    names = sorted(path for path in folder.rglob("*.*") if path.suffix in IMAGE_SUFFIXES)
    for name, part in (("all", names), ("some", names[:2])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{path}\n" for path in part))
    words = ["embed", f"--model={workdir}", f"--out={out}"]
    assert main([*words, f"--inputs={tmp_path}/all.txt"]) == 0
    before = (out / "index.json").read_bytes()
    assert main([*words, f"--inputs={tmp_path}/some.txt"]) == 2
    assert f"{len(names) - 2} of {len(names)} items are not in the list" in capsys.readouterr().err
    assert (out / "index.json").read_bytes() == before


def test_an_index_in_a_bucket_is_refused(folder, capsys):
    for verb, source in (("embed", "--inputs"), ("index", "--folder")):
        assert main([verb, "--model=x", f"{source}={folder}", "--out=s3://bucket/index"]) == 2
        assert "s3://bucket/index: an index is a local folder" in capsys.readouterr().err
