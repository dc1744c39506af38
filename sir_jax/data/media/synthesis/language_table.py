"""Make espeak_languages.tsv, the table of eSpeak NG's languages; it says how it chose.

usage: python -m sir_jax.data.media.synthesis.language_table [OUT]

Every language that the library lists is tried in a process of its own, by the only text that exists
in all of them: the numbers, as digits. A language is left out, with the reason in the table, if

- the library crashes at it, or the wheel has no dictionary of it,
- it is constructed, but for Esperanto, or a second spelling of a language that is there,
- it says more than half of the numbers as another language does, or most of them alike, or with
  fewer than twelve different phonemes.

Of the variants in VARIANTS it goes without those that are silent there, or take less than half or
more than twice as long as the median variant. English is tried, but not used from here: its table
was made by a recogniser (see `espeak_voices`).
"""

import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from sir_jax.data.media.synthesis.espeak_ng import espeak
from sir_jax.data.media.synthesis.espeak_voices import LANGUAGE_TABLE, VARIANTS

_NUMBERS = [str(number) for number in (*range(21), *range(30, 101, 10))]
_SPOKEN = "1 2 3 4 5 6 7 8"
_FEWEST_PHONEMES = 12
_CONSTRUCTED_KEPT = ("eo",)
_SECOND_SPELLINGS = ("latn", "shaw")
COLUMNS = ("code", "name", "codes", "phonemes", "without", "left_out")


def try_language(code: str) -> dict:
    """Try a language: its phonemes of numbers, and the length in samples by each variant."""
    engine = espeak()
    spelled = [engine.ipa(number, code) for number in _NUMBERS]
    lengths = {}
    for variant in (variant for variants in VARIANTS.values() for variant in variants):
        try:
            lengths[variant] = len(engine.speak(_SPOKEN, f"{code}+{variant}", 170, 50))
        except RuntimeError:
            lengths[variant] = 0
    return {
        "foreign": sum("(" in spelling for spelling in spelled),
        "different": len(set(spelled)),
        "phonemes": len({p for number in _NUMBERS for p in engine.phonemes(number, code)}),
        "lengths": lengths,
    }


def reason(code: str, family: str, found: dict, complaints: str) -> str:
    """Return why a language is left out; '' if it is not.

    Args:
      code: of the language.
      family: of the language, as eSpeak NG sorts its files; 'art' if it is constructed.
      found: from `try_language`; empty if its process died.
      complaints: what the library printed.
    """
    if not found:
        return "the library crashes"
    if "dictionary" in complaints:
        return "no dictionary"
    if family == "art" and code not in _CONSTRUCTED_KEPT:
        return "constructed"
    if any(part in code for part in _SECOND_SPELLINGS):
        return "second spelling"
    if 2 * found["foreign"] > len(_NUMBERS):
        return "says numbers as another language"
    if 2 * found["different"] < len(_NUMBERS):
        return "says numbers alike"
    if found["phonemes"] < _FEWEST_PHONEMES:
        return f"only {found['phonemes']} phonemes"
    return ""


def broken(lengths: dict[str, int]) -> list[str]:
    """Return the variants whose length in samples is far from the median."""
    median = statistics.median(lengths.values())
    return [v for v, length in lengths.items() if not median / 2 <= length <= 2 * median]


def _row(code: str) -> dict[str, str]:
    engine = espeak()
    command = [sys.executable, "-m", __spec__.name, "--try", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout) if run.returncode == 0 else {}
    meaning = [other for other, meant in sorted(engine.codes.items()) if meant == code != other]
    return {
        "code": code,
        "name": engine.languages[code],
        "codes": " ".join(meaning),
        "phonemes": str(found.get("phonemes", 0)),
        "without": " ".join(broken(found["lengths"])) if found else "",
        "left_out": reason(code, engine.families[code], found, run.stderr),
    }


def main(argv: list[str]) -> None:
    """Write the table, or with --try CODE print what `try_language` finds."""
    if argv[:1] == ["--try"]:
        print(json.dumps(try_language(argv[1])))
        return
    out = Path(argv[0]) if argv else LANGUAGE_TABLE
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_row, sorted(espeak().languages)))
    lines = [f"# Made by `python -m {__spec__.name}`, which says how it chose.", "\t".join(COLUMNS)]
    lines += ["\t".join(row[column] for column in COLUMNS) for row in rows]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {len(rows)} languages, {sum(not row['left_out'] for row in rows)} of them used")


if __name__ == "__main__":
    main(sys.argv[1:])
