"""The pages build without a warning, and what they say exists: links, verbs, options, names."""

import ast
import configparser
import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys

import pytest
from doc_helpers import (
    PAGES,
    ROOT,
    anchors,
    blocks,
    commands,
    inline,
    links,
    name_of,
    prose,
)

from sir_jax.cli.main import VERBS, is_group, main
from sir_jax.config.command_line import load_config
from sir_jax.config.fields import config_fields
from sir_jax.config.presets import base_config

per_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
FIELDS = config_fields(base_config("tiny", "tiny"))
SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}
# Written by a run, and not part of the tree.
MADE = re.compile(r"(runs|build|data|samples)(/|$)|.*(NAME|DIR)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the pages as launch/docs.sh does."""
    out = tmp_path_factory.mktemp("site")
    command = re.search(r"^python -m (sphinx.*)$", (ROOT / "launch/docs.sh").read_text(), re.M)
    words = command[1].replace('"$@"', "").replace("build/docs", str(out)).split()
    built = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, text=True, capture_output=True, timeout=300
    )
    assert built.returncode == 0 and not built.stderr, built.stdout + built.stderr
    return out


def test_pages_build_without_a_warning(site):
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    wanted = {name_of(page).removesuffix(".md") for page in PAGES if "sir_jax" not in page.parts}
    assert wanted - {"README"} <= pages
    assert {"notebooks/quickstart", "notebooks/corpus", "notebooks/ablations", "index"} <= pages
    assert "alpha_ramp" in (site / "docs/config.html").read_text()
    assert "encode_speech" in (site / "docs/api.html").read_text()


def test_pages_load_nothing_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe)[^>]*src=\"https?:|<link[^>]*href=\"https?:")
    for path in site.rglob("*.html"):
        assert not loads.search(path.read_text()), path


@per_page
def test_links_and_pictures_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@functools.cache
def help_of(verb: str) -> str:
    """Return what `sir-jax VERB --help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main([*verb.split(), "--help"]) == 0
    return out.getvalue()


@functools.cache
def fields_of(config: str) -> dict:
    """Return the fields of `--config=FILE.py:ARG`."""
    return config_fields(load_config(config))


@per_page
def test_commands_have_verbs_and_options_that_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if not words or words[0] == "VERB":
            continue
        verb, *rest = words
        assert verb in VERBS, words
        if is_group(verb) and rest and rest[0] not in ("...", "NAME"):
            verb, *rest = f"{verb} {rest[0]}", *rest[1:]
            assert verb in VERBS, words
        for word in rest:
            option, _, value = word.partition("=")
            if not option.startswith("-") or option in ("--help", "-h"):
                continue
            if option.startswith("--config."):
                name = option.removeprefix("--config.")
                whole = f"{name}.noise.probability" in FIELDS  # a preset's name
                assert name in FIELDS or whole or name == "any.field", words
            else:
                known = re.findall(r"(?<![\w-])--?[\w-]+", help_of(verb))
                assert option in known, words
            # A config of one's own does not exist here.
            if option == "--config" and value.startswith("configs/") and "*" not in value:
                if "FILE" not in value and "NAME" not in value and ".." not in value:
                    fields_of(value)


def test_git_ignores_what_the_commands_write():
    # Else `launch/tpu.sh sync` refuses the tree of whoever tried the README.
    written = {"grid.png"}
    for page in PAGES:
        for words in commands(page):
            line = " ".join(words)
            written |= set(re.findall(r"--(?:out|workdir)[= ]([\w./-]+)", line))
    written = {path for path in written if not re.search("DIR|NAME|OUT|^[./]|^sir_jax", path)}
    assert {"samples", "samples.index", "runs/mine", "release", "sheet.png"} <= written
    seen = subprocess.run(
        ["git", "check-ignore", "--no-index", *written], cwd=ROOT, text=True, capture_output=True
    )
    assert set(seen.stdout.split()) == written


@per_page
def test_python_compiles(page):
    for code in blocks(page, "python"):
        ast.parse(code)


@per_page
def test_names_in_backticks_exist(page):
    for code in inline(page):
        if re.fullmatch(r"sir_jax(\.\w+)+", code):
            assert resolve(code), code
        elif re.fullmatch(r"(sir_jax|tests|configs|launch|docs|notebooks)/[\w./-]*", code):
            assert MADE.match(code) or (ROOT / code).exists(), code
        elif re.fullmatch(rf"({'|'.join(SECTIONS)})(\.\w+)+", code):
            # NAME stands for what a reader is to put there.
            known = code in FIELDS or any(name.startswith(f"{code}.") for name in FIELDS)
            assert known or "NAME" in code.split("."), code


@per_page
def test_python_imports_what_exists(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("sir_jax"):
                for alias in node.names:
                    assert resolve(f"{node.module}.{alias.name}"), alias.name


@per_page
def test_python_imports_the_modules_that_it_uses(page):
    for code in blocks(page, "python"):
        nodes = list(ast.walk(ast.parse(code)))
        bound = {
            alias.asname or alias.name for node in nodes for alias in getattr(node, "names", ())
        }
        bound |= {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        used = {
            node.value.id
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert not (used - bound) & sys.stdlib_module_names, code


@functools.cache
def resolve(name: str) -> bool:
    """Tell whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def messages() -> list[str]:
    """Return every text of the package, with a gap where a value is filled in."""
    texts = []
    for path in (ROOT / "sir_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_troubleshooting_quotes_messages_that_exist():
    page = ROOT / "docs" / "troubleshooting.md"
    quotes = re.findall(r'"([^"]+)"', " ".join(re.findall(r"\*\*(.+?)\*\*", prose(page), re.S)))
    quotes = [" ".join(quote.split()) for quote in quotes]
    assert len(quotes) >= 20
    known = messages()
    for quote in quotes:
        parts = quote.split("...")
        assert any(all(part in text for part in parts) for text in known), quote


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_getting_started_names_every_extra():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    table = (ROOT / "docs" / "getting_started.md").read_text()
    for extra in setup["options.extras_require"]:
        assert f"`{extra}`" in table, extra
