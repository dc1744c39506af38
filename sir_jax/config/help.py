"""The table of fields for people: as text for `sir-jax train --help`, and as a page of the docs."""

import textwrap
from collections.abc import Mapping

from ml_collections import ConfigDict

from sir_jax.config.augment_fields import PRESETS
from sir_jax.config.fields import TABLE, Field, config_fields
from sir_jax.config.rules import Text

_WIDTH = 100
_SHAPES = "those of model.speech and model.image are of HuBERT base and ViT B/32"

# What stands before the table of each section on the page.
_SECTIONS: Mapping[str, str] = {
    "": "The whole run.",
    "data": "What is trained on, and how clips and pictures become arrays.",
    "data.augment": "What happens to training clips and pictures at random, in this order. "
    "Evaluation never augments. `--config.data.augment=people` takes a set of values by its name, "
    f"of {', '.join(PRESETS)}; single fields may be set beside it.",
    "model": "The computation, and the space that both encoders embed into.",
    "model.speech": "The shape of HuBERT; the defaults are those of HuBERT base. A config file "
    "chooses a variant: tiny, base, large or x-large.",
    "model.image": "The shape of the ViT; the defaults are those of CLIP ViT-B/32. A config file "
    "chooses a variant: tiny, B/32, B/16, L/14, L/14-336 or g/14.",
    "model.qformer": "The shape of BLIP-2's Q-Former, where `model.image_head` is `qformer`.",
    "model.head": "What makes the tokens of a clip on top of HuBERT, the first for the whole clip.",
    "model.fusion": "The encoder in which one modality reads the other; it is there where matching "
    "or denoising is trained.",
    "init": "What to start from. Empty fields are random.",
    "loss": "The three terms of the objective; a weight of 0 leaves one out.",
    "optim": "The optimiser, its schedule, and what is not trained.",
    "train": "The length of the run, its microbatches, its input and its records.",
    "eval": "Evaluation after training.",
    "mesh": "How the devices are shared out.",
}


def describe_fields(cfg: ConfigDict | None = None) -> str:
    """Return every field with its value, what it may be, and what it is for.

    Args:
      cfg: whose values are shown; None for the defaults.
    """
    values = {} if cfg is None else config_fields(cfg)
    title = f"fields, with their defaults ({_SHAPES}):" if cfg is None else "fields:"
    lines = [title]
    for field in TABLE:
        lines.append(f"  --config.{field.name}={values.get(field.name, field.default)!r}")
        text = f"{field.doc} [{field.rule}]"
        indent = 6 * " "
        lines += textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    known = {field.name for field in TABLE}
    lines += [f"  --config.{name}={values[name]!r}" for name in values if name not in known]
    return "\n".join(lines)


def reference_page() -> str:
    """Return the docs' page of all fields, in Markdown."""
    free = ", ".join(f"`{field.name}`" for field in TABLE if field.free)
    parts = [
        "# Config reference",
        "Every field of a config, made from the one table in `sir_jax/config/fields.py`. On the "
        "command line a field is set as `--config.data.batch_size=64`, a tuple as "
        "`--config.data.buckets=40000,80000`; `sir-jax train --help` prints the same table, and "
        "`sir-jax train --help --config=FILE.py` the values of a config file.",
        "A value out of bounds is refused in one line, with status 2, before anything is built.",
        f"A run may go on in its workdir with another value of {free}: they change where or how "
        "fast it runs, or what it writes down, never what it computes.",
    ]
    for section, about in _SECTIONS.items():
        rows = [field for field in TABLE if _section(field) == section]
        title = f"`{section}`" if section else "Seed"
        parts += [f"## {title}", about, _markdown(rows, section)]
    return "\n\n".join(parts) + "\n"


def _section(field: Field) -> str:
    """Return the longest section of the page that holds a field."""
    return max(
        (name for name in _SECTIONS if not name or field.name.startswith(f"{name}.")),
        key=len,
    )


def _markdown(rows: list[Field], section: str) -> str:
    """Return a table of some fields, whose names are shown without their section's."""
    lines = ["| field | default | may be | what for |", "|---|---|---|---|"]
    for field in rows:
        name = field.name.removeprefix(f"{section}.")
        default = "empty" if field.default == "" else f"`{field.default!r}`"
        allowed = "text" if field.rule == Text() else str(field.rule)
        cells = (f"`{name}`", default, allowed, field.doc)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)
