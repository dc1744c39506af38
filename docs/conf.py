"""Sphinx settings. `bash launch/docs.sh` builds the pages; nothing is downloaded.

The source folder is the repository's root, so that a relative link between pages, notebooks and
files is the same here and on a git host.
"""

import importlib
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # autodoc reads the tree beside these pages, not another install
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import sir_jax  # noqa: E402

project = "sir_jax"
author = "the authors of sir_jax"
copyright = "the authors of sir_jax, Apache-2.0"
version = release = sir_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb", "launch/README.md", "C*.md"]
# Not looked through: .venv alone holds tens of thousands of files.
exclude_patterns = [".*", "build", "data", "runs", "sir_jax", "tests", "configs"]

# Notebooks are run by tests/notebooks; the pages show the outputs that are stored with them.
nb_execution_mode = "off"
nb_merge_streams = True
# `[x](page.md#heading)`: anchors as a git host makes them, so that links work there as well.
myst_heading_anchors = 4

smartquotes = False  # a quoted message is searched for as it was printed
# Docstrings are prose with `code` in single backticks, and name shapes themselves.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "sir_jax"
html_additional_pages = {"index": "redirect.html"}  # build/docs/index.html -> the first page
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["sir_jax.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
# A page is a file on this machine: nothing is fetched from elsewhere.
html_theme_options = {"footer_icons": [], "navigation_with_keys": True}

CONFIG_REFERENCE = "<!-- config reference -->"
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples?):$")


def insert_config_reference(app, docname: str, source: list[str]) -> None:
    """Put the table of every config field where config.md asks for it."""
    if docname == "docs/config":
        for path in Path(app.confdir, "../sir_jax/config").glob("*.py"):
            app.env.note_dependency(str(path.resolve()))
        page = importlib.import_module("sir_jax.config.help").reference_page()
        _, _, page = page.partition("\n")  # config.md has the heading
        source[0] = source[0].replace(CONFIG_REFERENCE, page)


def keep_displayed_lines(app, what, name, obj, options, lines: list[str]) -> None:
    """Show the indented lines of a docstring's prose, as formulas, as they stand."""
    prose = next((n for n, line in enumerate(lines) if SECTION.match(line)), len(lines))
    starts = [
        n
        for n in range(1, prose)
        if lines[n].startswith(" ")
        and not lines[n - 1]
        and not lines[max(n - 2, 0)].startswith(" ")
    ]
    for n in reversed(starts):
        lines[n:n] = [".. code-block:: text", ""]


def setup(app) -> None:
    """Connect what these pages need of Sphinx."""
    app.connect("source-read", insert_config_reference)
    # Before napoleon reads the sections.
    app.connect("autodoc-process-docstring", keep_displayed_lines, priority=400)
