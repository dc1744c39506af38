"""launch/get_voices.sh, with stand-ins for apt-get and dpkg-deb."""

import os
import subprocess
from pathlib import Path

import pytest

from sir_jax.data.builders.tux_paint_stamps.debian import check_whole
from sir_jax.errors import UserError

SCRIPT = Path(__file__).parents[2] / "launch/get_voices.sh"
# Knows every package but those called 'gone*'; a package is its own name.
APT = """#!/usr/bin/env bash
name=${!#}
echo "$name" >> "$LOG"
case $name in gone*) echo "E: Unable to locate package $name" >&2; exit 100;; esac
echo "$name" > "${name}_1_all.deb"
"""
# Stops half-way where the file 'full' lies beside the log.
DPKG = """#!/usr/bin/env bash
name=$(cat "$2")
doc=$3/usr/share/doc/$name
mkdir -p "$doc"
printf 'License: CC-BY-SA-3.0\\n See /usr/share/common-licenses/GPL-2.\\n' > "$doc/copyright"
[ ! -e "${LOG%/*}/full" ] || exit 2
echo "speech of $name" > "$3/usr/share/$name.wav"
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script with packages, below the folder 'voices'."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
    }

    def call(*words: str):
        return subprocess.run(
            ["bash", SCRIPT, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def test_packages_are_fetched_once_and_their_licences_are_printed(run, tmp_path):
    first = run("voices", "letters", "flite")
    assert first.returncode == 0, first.stderr
    doc = tmp_path / "voices/letters/usr/share/doc/letters/copyright"
    assert f"letters: CC-BY-SA-3.0, GPL-2 ({doc})" in first.stdout.splitlines()
    fetched = ["letters", "flite", "libflite1", "libasound2"]
    assert (tmp_path / "log").read_text().split() == fetched
    held = tmp_path / "voices/flite/usr/share"
    assert sorted(p.stem for p in held.glob("*.wav")) == ["flite", "libasound2", "libflite1"]
    check_whole(tmp_path / "voices/letters", "letters")
    second = run("voices", "letters", "flite")
    assert "letters: there already" in second.stdout.splitlines()
    assert (tmp_path / "log").read_text().split() == fetched


def test_interrupted_unpacking_leaves_no_package_and_is_done_again(run, tmp_path):
    (tmp_path / "full").touch()
    stopped = run("voices", "letters")
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines() == [
        "get_voices: letters: cannot be unpacked (is the disk full?); mend that and run this again"
    ]
    assert list((tmp_path / "voices").iterdir()) == []
    (tmp_path / "full").unlink()
    assert run("voices", "letters").returncode == 0
    lost = tmp_path / "voices/letters/usr/share/letters.wav"
    lost.write_text("spee")
    with pytest.raises(UserError) as caught:
        check_whole(tmp_path / "voices/letters", "letters")
    assert str(caught.value) == (
        f"{tmp_path}/voices/letters: half unpacked, 1 of 2 files are missing or cut, such as "
        f"usr/share/letters.wav; remove it and run: bash launch/get_voices.sh {tmp_path}/voices "
        "letters"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("voices", "gone"), "get_voices: cannot fetch gone; look at the network and apt's"),
        ((), "get_voices: usage: bash launch/get_voices.sh DIR [PACKAGE ...]"),
        (("--help",), "get_voices: usage: bash launch/get_voices.sh DIR [PACKAGE ...]"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, words, line):
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(line)


def test_folder_that_another_program_has_unpacked_is_left_alone(run, tmp_path):
    own = tmp_path / "voices/letters/usr"
    own.mkdir(parents=True)
    done = run("voices", "letters")
    assert done.returncode == 1 and own.is_dir()
    assert "letters: may be half unpacked, it has no list .files; remove it" in done.stderr
