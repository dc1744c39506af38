"""The pages as text, and the commands, names and links in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "launch" / "README.md",
        *ROOT.glob("sir_jax/data/builders/*/README.md"),
    ]
)
_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    """Return what a test calls a page."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's code blocks of one language."""
    return [code for kind, code in _FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """Return what stands between single backticks, on one line each."""
    return [" ".join(code.split()) for code in _INLINE.findall(prose(page))]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures that lead to no other site."""
    return [
        target
        for target in _LINK.findall(_INLINE.sub("", prose(page)))
        if not target.startswith(("http://", "https://"))
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors that a git host gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.strip().replace(" ", "-") for title in plain}


def commands(page: Path) -> list[list[str]]:
    """Return the words of every `sir-jax` command of a page, in blocks and between backticks."""
    lines = [
        line for block in blocks(page, "bash") for line in re.sub(r"\\\n", " ", block).splitlines()
    ]
    indented = re.findall(r"^    (sir-jax (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
    lines += [re.sub(r"\\\n", " ", line) for line in indented]
    lines += [code for code in inline(page) if code.startswith("sir-jax ")]
    found = []
    for line in lines:
        for part in re.split(r"&&|;", line):
            words = shlex.split(part, comments=True)
            starts = [n for n, word in enumerate(words) if word.split("/")[-1] == "sir-jax"]
            # `pip install` and the like may name the package.
            if starts and words[:1] not in (["pip"], ["git"]):
                found.append(words[starts[0] + 1 :])
    return found
