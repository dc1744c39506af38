"""Old configs brought up to date, in one place: called wherever a stored config is read.

A field that came later had no choice before; its default today is what was done then.
"""

from collections.abc import Mapping
from typing import Any

from sir_jax.config.fields import FIELDS

# Fields, and whole sections of them, that runs from before they existed lack.
ADDED = (
    "data.image_fit",
    "data.trim_silence",
    "data.augment",
    "data.features",
    "data.groups",
    "data.grouped_after",
    "data.group_by",
    "data.search_space",
    "model.image.form",
    "model.image_head",
    "model.qformer",
    "model.head.kind",
    "model.head.taps",
    "model.head.places",
    "model.head.hidden",
    "model.fusion",
    "model.match",
    "model.scan",
    "model.attention",
    "init.fusion",
    "init.model",
    "loss",
    "optim.algorithm",
    "optim.frozen_dtype",
    "optim.rates",
    "train.grad_cache",
    "train.overlap",
    "train.profile",
    "train.watchdog_seconds",
    "eval",
    "mesh.frozen_whole",
)

# `model.remat` and `data.trim_silence` were true or false.
_REMAT = {False: "none", True: "full"}
_TRIM = {False: "none", True: "faint"}


def upgrade(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config as it would be written today.

    Args:
      plain: nested dicts, of a whole run, or some sections of one, as of a release; not changed.

    Returns:
      New dicts. What a release never had, it does not get.
    """
    out = _copied(plain)
    whole = "train" in out
    for name in FIELDS:
        if any(name == added or name.startswith(f"{added}.") for added in ADDED):
            _add(out, name, whole)
    for section, name, names in (("model", "remat", _REMAT), ("data", "trim_silence", _TRIM)):
        fields = out.get(section)
        if isinstance(fields, dict) and isinstance(fields.get(name), bool):
            fields[name] = names[fields[name]]
    return out


def _copied(plain: Any) -> Any:
    if not isinstance(plain, Mapping):
        return plain
    return {name: _copied(value) for name, value in plain.items()}


def _add(out: dict[str, Any], name: str, whole: bool) -> None:
    """Set one field to its default, where it is missing and its section may be."""
    section, *parents, last = name.split(".")
    if section not in out and not whole:
        return
    target = out.setdefault(section, {})
    for parent in parents:
        if isinstance(target, dict):
            target = target.setdefault(parent, {})
    if isinstance(target, dict):
        target.setdefault(last, FIELDS[name].default)
