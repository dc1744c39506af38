"""Chunks: an item that kills or hangs its process is isolated, and the others are made."""

import functools
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from orphans import left_behind

from sir_jax.data.builders.chunk_files import new_chunk, read_record, record_sizes
from sir_jax.data.builders.work_chunks import chunks_of, files_of, make_chunks, parts_of
from sir_jax.errors import UserError


def make(tries, path, items):
    """Record the attempt, then act as each item tells."""
    with (tries / path.stem).open("a") as stream:
        stream.write("x")
    for item in items:
        if item == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if item == "hang":
            time.sleep(60)
        if item == "raise":
            raise RuntimeError("as an unknown error of a decoder does")
        if item == "once" and len((tries / path.stem).read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    with new_chunk(path) as chunk:
        for i, item in enumerate(items):
            chunk.add(i, item.encode(), b"", {})


@pytest.fixture
def tries(tmp_path):
    (tmp_path / "tries").mkdir()
    return tmp_path / "tries"


def run(tries, items, folder, deadline=5.0, size=3):
    reported, dead = [], []

    def give_up(path, item, why):
        dead.append((path.stem, item, why))
        with new_chunk(path):
            pass

    make_chunks(
        chunks_of(items, folder, size),
        functools.partial(make, tries),
        2,
        reported.append,
        deadline,
        give_up,
    )
    return reported, dead


def stored(items, folder, size=3):
    files = [path for path, _ in files_of(chunks_of(items, folder, size))]
    return [read_record(path, i).decode() for path in files for i in record_sizes(path)]


def attempts(tries):
    return {p.name: len(p.read_text()) for p in tries.iterdir()}


def test_names_and_sizes_of_chunks():
    chunks = chunks_of("abcde", Path("f"), 2)
    assert chunks == {
        Path("f/000000.chunk"): "ab",
        Path("f/000002.chunk"): "cd",
        Path("f/000004.chunk"): "e",
    }
    assert parts_of(Path("f/000002.chunk"), "cd") == {
        Path("f/000002+0000.chunk"): ["c"],
        Path("f/000002+0001.chunk"): ["d"],
    }


def test_item_that_crashes_is_isolated(tries, tmp_path):
    items = ["a", "b", "c", "d", "crash", "e", "f"]
    reported, dead = run(tries, items, tmp_path / "chunks")
    assert dead == [("000003+0001", "crash", "killed its process (SIGSEGV)")]
    assert stored(items, tmp_path / "chunks") == ["a", "b", "c", "d", "e", "f"]
    assert sum(reported) == 7
    assert attempts(tries) == {
        "000000": 1,
        "000003": 2,
        "000003+0000": 1,
        "000003+0001": 2,
        "000003+0002": 1,
        "000006": 1,
    }


def test_item_that_hangs_is_killed_and_isolated(tries, tmp_path):
    _, dead = run(tries, ["a", "hang", "b"], tmp_path / "chunks", deadline=1.5)
    assert dead == [("000000+0001", "hang", "not done after 1.5 s")]
    assert stored(["a", "hang", "b"], tmp_path / "chunks") == ["a", "b"]
    # It took two deadlines: that of the chunk and that of the item.
    assert attempts(tries)["000000"] == attempts(tries)["000000+0001"] == 1


def test_item_with_an_unknown_error_is_isolated(tries, tmp_path):
    _, dead = run(tries, ["raise", "a"], tmp_path / "chunks")
    assert dead == [("000000+0000", "raise", "stopped its process (exit status 1)")]


def test_chunk_that_fails_once_is_not_split(tries, tmp_path):
    reported, dead = run(tries, ["a", "once"], tmp_path / "chunks")
    assert (reported, dead) == ([0, 2], [])
    assert [p.name for p in (tmp_path / "chunks").iterdir()] == ["000000.chunk"]


def test_second_call_makes_the_missing_parts_alone(tries, tmp_path):
    items = ["a", "crash", "b"]
    run(tries, items, tmp_path / "chunks")
    (tmp_path / "chunks/000000+0002.chunk").unlink()
    before = attempts(tries)
    reported, dead = run(tries, items, tmp_path / "chunks")
    assert (reported, dead) == ([2, 1], [])
    assert stored(items, tmp_path / "chunks") == ["a", "b"]
    assert attempts(tries) == before | {"000000+0002": 2}


def test_chunk_torn_by_a_crash_of_the_machine_is_made_again(tries, tmp_path):
    """The name may be on the disk before the bytes are."""
    run(tries, "abcd", tmp_path / "chunks", size=1)
    whole = (tmp_path / "chunks/000001.chunk").read_bytes()
    (tmp_path / "chunks/000001.chunk").write_bytes(b"")
    (tmp_path / "chunks/000002.chunk").write_bytes(whole[: len(whole) // 2])
    reported, _ = run(tries, "abcd", tmp_path / "chunks", size=1)
    assert reported == [2, 1, 1]
    assert stored("abcd", tmp_path / "chunks", size=1) == ["a", "b", "c", "d"]


def test_full_disk_stops_with_one_line_and_blames_no_item(tries, tmp_path):
    with pytest.raises(
        UserError, match="^cannot write '.*000000.chunk': File too large; mend that"
    ):
        run(tries, ["full"], tmp_path / "chunks")


def test_without_give_up_a_crash_stops_everything(tries, tmp_path):
    chunks = chunks_of(["a", "crash"], tmp_path / "chunks", 1)
    with pytest.raises(UserError, match=r"making 000001.chunk failed 2 times \(exit status -11\)"):
        make_chunks(chunks, functools.partial(make, tries), 1)
    assert [p.name for p in (tmp_path / "chunks").glob("*.chunk")] == ["000000.chunk"]


KILLED = """
import functools, sys, time
from pathlib import Path
from sir_jax.data.builders.work_chunks import chunks_of, make_chunks

def make(path, items):
    print("ready", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    make_chunks(chunks_of("ab", Path(sys.argv[1]), 1), make, 2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_preparation_leaves_no_process_behind(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    # The fork server, the resource tracker, and two workers.
    before, after = left_behind(tmp_path / "killed.py", 4, str(tmp_path / "chunks"))
    assert len(before) == 5 and not after
