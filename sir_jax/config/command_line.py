"""Configs from the command line: `--config=FILE.py[:arg] --config.any.field=value`."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.check import check_config
from sir_jax.config.fields import FIELDS, config_fields, nearest
from sir_jax.errors import UserError

# The one section that takes the name of a set of values.
_PRESET = "--config.data.augment="


def load_module(spec: str) -> ModuleType:
    """Run a config file.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; the argument is not read.

    Raises:
      UserError: the file is missing, is no Python file, or fails.
    """
    name = spec.partition(":")[0]
    path = Path(name)
    if not path.is_file():
        here = sorted(str(p) for p in path.parent.glob("*.py") if p.is_file())
        near = difflib.get_close_matches(name, here, n=1)
        hint = f"did you mean {near[0]}?" if near else "give the path of a file of configs/"
        raise UserError(f"--config={spec}: there is no file {name}; {hint}")
    if path.suffix != ".py":
        raise UserError(
            f"--config={spec}: {name} is no Python file; give one whose name ends in .py"
        )
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    _run(spec, name, module_spec.loader.exec_module, module)
    return module


def load_config(spec: str) -> ConfigDict:
    """Load a config file.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; the file defines `get_config(arg='')`.

    Raises:
      UserError: the file is missing, fails, has no `get_config`, or refuses the argument.
    """
    name, _, arg = spec.partition(":")
    module = load_module(spec)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--config={spec}: {name} defines no get_config(arg='')")
    cfg = _run(spec, name, module.get_config, arg)
    if not isinstance(cfg, ConfigDict):
        kind = type(cfg).__name__
        raise UserError(
            f"--config={spec}: get_config returns {kind}; return the config of base_config()"
        )
    return cfg


def _run(spec: str, name: str, function: Callable, given: Any) -> Any:
    """Call what a config file defines; say in one line what it raises, and where.

    Raises:
      UserError: anything that it raises. A ValueError refuses the argument, in its own words.
    """
    try:
        return function(given)
    except (UserError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        where = f"{name}, line {error.lineno}" if error.lineno else name
        raise UserError(f"--config={spec}: {where}: {_one_line(error.msg)}") from error
    except ValueError as error:
        raise UserError(f"--config={spec}: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:
        lines = [
            at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == name
        ]
        where = f"{name}, line {lines[-1]}" if lines else name
        raise UserError(
            f"--config={spec}: {where}: {type(error).__name__}: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def parse_flags(argv: list[str]) -> tuple[ConfigDict, str]:
    """Read `--config=FILE[:arg] --config.any.field=value --workdir=DIR`.

    Args:
      argv: arguments after the verb.

    Returns:
      The config with the overrides in place, checked and locked, and the workdir.

    Raises:
      UserError: see `parse_options`.
    """
    cfg, options = parse_options(argv, {"workdir": ""})
    return cfg, require_workdir(options)


def require_workdir(options: dict[str, str]) -> str:
    """Return the option `workdir`.

    Raises:
      UserError: it was not given.
    """
    if not options["workdir"]:
        raise UserError("give --workdir=DIR, the folder that gets checkpoints and metrics")
    return options["workdir"]


def parse_options(argv: list[str], options: dict[str, str]) -> tuple[ConfigDict, dict[str, str]]:
    """Read `--config=FILE[:arg] --config.any.field=value` and a verb's own options.

    `--config.data.augment=NAME` takes a preset of augmentation; its fields may still be set.

    Args:
      argv: arguments after the verb.
      options: the default of each of the verb's own options.

    Returns:
      The config with the overrides in place, checked and locked, and the value of each option.

    Raises:
      UserError: on anything mistyped, with the nearest field's name, and on values that no run can
        use.
    """
    argv = list(_joined(argv))
    specs = [arg.split("=", 1)[1] for arg in argv if arg.startswith("--config=")]
    if len(specs) != 1:
        raise UserError("give one --config=FILE.py[:arg], e.g. --config=configs/demo.py")
    cfg = load_config(specs[0])
    # First, so that a single field may differ, wherever it is typed.
    for name in (arg.removeprefix(_PRESET) for arg in argv if arg.startswith(_PRESET)):
        augment_like(cfg, name)
    argv = [arg for arg in argv if not arg.startswith(_PRESET)]
    _check_names(argv, cfg, options)
    values = flags.FlagValues()
    for name, default in options.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    rest = ["sir-jax", *(arg for arg in argv if not arg.startswith("--config="))]
    config_flags.DEFINE_config_dict("config", cfg, flag_values=values, sys_argv=rest)
    try:
        extra = values(rest)[1:]
    # absl wraps a bad value; ml_collections raises the rest.
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_say_allowed(_one_line(error), rest)) from error
    if extra:
        raise UserError(f"{extra[0]!r} is not an option; options look like --config.field=value")
    check_config(values.config)
    return values.config, {name: values[name].value for name in options}


def _say_allowed(message: str, argv: Sequence[str]) -> str:
    """Replace absl's words on a value of another type by what the table says of its field."""
    found = re.match(r"flag (--config\.([\w.]+)=)", message)
    if not found or found[2] not in FIELDS:
        return message
    typed = [arg for arg in argv if arg.startswith(found[1])]
    return f"{typed[-1]}: must be {FIELDS[found[2]].rule}"


def _joined(argv: list[str]) -> Iterator[str]:
    """Spell every option as --name=value, whether typed so, with one dash, or as two words."""
    rest = iter(argv)
    for arg in rest:
        if not arg.startswith("-"):
            yield arg
            continue
        arg = "--" + arg.lstrip("-")
        if "=" not in arg:
            value = next(rest, "--")
            if value.startswith("--"):
                raise UserError(f"{arg} needs a value: {arg}=VALUE")
            arg = f"{arg}={value}"
        yield arg


def _check_names(argv: list[str], cfg: ConfigDict, options: dict[str, str]) -> None:
    """Refuse an option that is no field, naming the nearest one."""
    fields = config_fields(cfg)
    own = (f"--{name}" for name in options)
    names = {"--config", *own, *(f"--config.{field}" for field in fields)}
    for arg in argv:
        name = arg.split("=", 1)[0]
        if not name.startswith("--") or name in names:
            continue
        if not name.startswith("--config."):
            near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)[0]
            raise UserError(f"there is no option {name}; the nearest is {near}")
        field = name.removeprefix("--config.")
        near = nearest(field, fields)
        raise UserError(f"the config has no field {field!r}; the nearest is {near}")
