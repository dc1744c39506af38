"""Configs as JSON: written, read, and compared with each other and with a workdir's."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sir_jax.config.check import check_stored
from sir_jax.config.fields import FIELDS, config_fields
from sir_jax.config.upgrade import upgrade
from sir_jax.errors import UserError

CONFIG_FILE = "config.json"


def to_json(cfg: ConfigDict) -> dict:
    """Return a config as plain dicts, lists, numbers and strings."""
    return json.loads(cfg.to_json())


def from_json(plain: Mapping[str, Any]) -> ConfigDict:
    """Return the config that `to_json` gave; lists come back as tuples, which can be hashed."""

    def revive(value):
        if isinstance(value, Mapping):
            return {name: revive(item) for name, item in value.items()}
        return tuple(revive(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(revive(plain))


def read_stored(plain: Mapping[str, Any], source: str) -> ConfigDict:
    """Return a stored config, brought up to date and checked.

    Args:
      plain: what `to_json` gave to a workdir or a release, maybe long ago.
      source: where it was read, for the message.

    Raises:
      UserError: it holds what no model can be built of.
    """
    plain = upgrade(plain)
    check_stored(plain, source)
    return from_json(plain)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Compare two configs.

    Args:
      old: from `to_json`, the one in the workdir.
      new: from `to_json`, the one asked for.

    Returns:
      A phrase for each differing field's dotted name.
    """
    a, b = (config_fields(from_json(plain)) for plain in (old, new))
    phrases = {}
    for name in sorted(a.keys() | b.keys()):
        if name not in a:
            phrases[name] = f"{name} is new here: {b[name]!r}"
        elif name not in b:
            phrases[name] = f"{name} is {a[name]!r} there and gone here"
        elif a[name] != b[name]:
            phrases[name] = f"{name} is {a[name]!r} there and {b[name]!r} here"
    return phrases


def compare_workdir(cfg: ConfigDict, workdir: Path) -> list[str]:
    """See that a workdir is free or holds a run with this config.

    Args:
      cfg: the run's config.
      workdir: may be missing.

    Returns:
      A phrase for each field that differs and may (`Field.free`).

    Raises:
      UserError: it is no folder, or holds a run with another config, whose fields are named.
    """
    check_folder(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        return []
    try:
        old = upgrade(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another workdir") from error
    phrases = config_differences(old, to_json(cfg))
    free = {name for name, field in FIELDS.items() if field.free}
    # Where stored features lie may change; whether they are used may not, as they are rounded.
    if config_fields(old).get("data.features") and cfg.data.features:
        free.add("data.features")
    fixed = [phrase for name, phrase in phrases.items() if name not in free]
    if fixed:
        raise UserError(
            f"workdir {workdir} holds a run with another config: {'; '.join(fixed)}; "
            "choose another workdir, or give the old values"
        )
    return list(phrases.values())


def check_folder(workdir: Path, what: str = "workdir") -> None:
    """See that a workdir is a folder that can be written to, or can become one.

    Args:
      workdir: the folder.
      what: it is called in messages.

    Raises:
      UserError: it, or what it would lie in, is a file or cannot be written to.
    """
    if "://" in str(workdir):  # a bucket has no folders
        return
    for path in (workdir, *workdir.parents):
        try:
            is_dir, is_there = path.is_dir(), path.exists()
        except OSError as error:
            raise UserError(f"{what} {workdir}: {error.strerror}; choose another folder") from error
        if is_dir and not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{what} {workdir}: {path} cannot be written to; choose another folder")
        if is_dir:
            return
        if is_there:
            raise UserError(f"{what} {workdir}: {path} is a file; choose another folder")
