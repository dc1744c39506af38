"""Lines for people: how well it hears, how long it will take, and how to search."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENGINES = {
    "test": "eSpeak NG",
    "test_flite": "flite",
    "test_mbrola": "MBROLA",
    "test_piper": "Piper",
}


def result_line(split: str, metrics: Mapping[str, float], held_out: bool) -> str:
    """Return the line of a test split.

    Args:
      split: its name.
      metrics: of `evaluate`, with intervals.
      held_out: whether training saw none of its pictures.
    """

    def percent(name: str) -> str:
        value, low, high = (100 * metrics[f"s2i_{name}{end}"] for end in ("", "_low", "_high"))
        return f"{value:.1f} % [{low:.1f}, {high:.1f}]"

    pictures = int(metrics["s2i_gallery"])
    whose = "pictures that it never saw" if held_out else "pictures"
    return (
        f"{_ENGINES.get(split, split)}, voices that no training heard: R@1 {percent('r1')}, "
        f"R@10 {percent('r10')} of {pictures:,} {whose} (chance {100 / pictures:.2g} %)"
    )


def in_words(seconds: float) -> str:
    """Return a time in words.

    Example:
      >>> in_words(40), in_words(100), in_words(7200)
      ('1 min', '2 min', '2.0 h')
    """
    if seconds < 5_400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3_600:.1f} h"


def search_commands(out: Path, words: Mapping[str, Any]) -> tuple[str, str]:
    """Return the commands that search by voice and by typing.

    Args:
      out: the folder with release and index.
      words: 'text' and 'language' of a caption, as an example.
    """
    start = ["sir-jax", "search", f"--model={out / 'release'}", f"--index={out / 'index'}"]
    typed = [f"--say={words['text']}", f"--language={words['language']}"]
    return shlex.join([*start, "--query=YOU.wav"]), shlex.join([*start, *typed])
