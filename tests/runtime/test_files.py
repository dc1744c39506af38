"""Files and folders that are whole or not there, whatever goes wrong meanwhile."""

import json
import os

import pytest

from sir_jax.runtime.files import PART, whole_file, whole_folder, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and names(tmp_path) == ["a.json", f"a.json{PART}"]
    assert path.read_text() == "new" and names(tmp_path) == ["a.json"]


def test_an_error_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]
    # An error before there is anything.
    with pytest.raises(ValueError), whole_file(tmp_path / "b"):
        raise ValueError
    assert names(tmp_path) == ["a.json"]


def test_a_part_that_a_kill_left_is_written_over(tmp_path):
    (tmp_path / f"a{PART}").write_text("half of what a killed process wanted to write")
    write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "whole"


def test_two_processes_may_write_one_file(tmp_path):
    with whole_file(tmp_path / "a", own=True) as part:
        assert part.name == f"a.{os.getpid()}{PART}"
        part.write_text("")


def test_sync_waits_for_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    seen = []

    def fsync(number):
        seen.append((os.fstat(number).st_size, names(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(tmp_path / "a", sync=True) as part:
        part.write_text("four")
    assert seen == [(4, [f"a{PART}"])]


def test_json_is_indented_and_ends_a_line(tmp_path):
    content = {"a": [1, 2.5], "b": None}
    for indent in (2, 1, None):
        write_json(tmp_path / "a", content, indent)
        assert (tmp_path / "a").read_text() == json.dumps(content, indent=indent) + "\n"


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "new" / "out"
    with whole_folder(out) as part:
        (part / "x").write_text("1")
        assert not out.exists()
    assert names(out) == ["x"] and names(out.parent) == ["out"]


def test_a_folder_that_failed_is_gone(tmp_path):
    with pytest.raises(ValueError), whole_folder(tmp_path / "out") as part:
        (part / "x").write_text("1")
        raise ValueError
    assert names(tmp_path) == []


def test_a_folder_replaces_another_only_where_asked(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with pytest.raises(OSError), whole_folder(out) as part:
        (part / "new").write_text("2")
    assert names(out) == ["old"] and names(tmp_path) == ["out"]
    with pytest.raises(ValueError), whole_folder(out, replace=True):
        raise ValueError
    assert names(out) == ["old"] and names(tmp_path) == ["out"]
    with whole_folder(out, replace=True) as part:
        (part / "new").write_text("2")
        assert names(out) == ["old"]
    assert names(out) == ["new"] and names(tmp_path) == ["out"]
