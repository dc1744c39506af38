"""Configs: from the command line, checked, compared with a workdir's, and as JSON."""

import difflib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from sir_jax.config.specs import IMPLEMENTATIONS, REMAT
from sir_jax.data.pipeline import BatchSpec
from sir_jax.errors import UserError
from sir_jax.losses.denoising import FORMS

CONFIG_FILE = "config.json"

# A run may go on with other values of these: they change where or how fast it runs, or what it
# writes down, never what it computes.
FREE_FIELDS = (
    "data.data_dir",
    "mesh.data",
    "mesh.frozen_whole",
    "mesh.fsdp",
    "mesh.tensor",
    "model.attention",
    "model.scan",
    "train.checkpoint_every",
    "train.compile_cache",
    "train.log_every",
    "train.num_threads",
    "train.num_workers",
    "train.watchdog_seconds",
)


def config_fields(cfg: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return every field of a config by its dotted name."""
    fields = {}
    for name, value in cfg.items():
        if isinstance(value, (ConfigDict, FrozenConfigDict)):
            fields.update(config_fields(value, f"{prefix}{name}."))
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def load_module(spec: str) -> ModuleType:
    """Run a config file.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; the argument is not read.

    Raises:
      UserError: where the file is missing, or fails with a ValueError.
    """
    name = spec.partition(":")[0]
    path = Path(name)
    if not path.is_file():
        here = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(name, here, n=1)
        hint = f"did you mean {near[0]}?" if near else "give the path of a file of configs/"
        raise UserError(f"--config={spec}: there is no file {name}; {hint}")
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except ValueError as error:
        raise UserError(f"--config={spec}: {error}") from error
    return module


def load_config(spec: str) -> ConfigDict:
    """Load a config file.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; the file defines `get_config(arg='')`.

    Raises:
      UserError: where the file is missing, has no `get_config`, or refuses the argument.
    """
    name, _, arg = spec.partition(":")
    module = load_module(spec)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={spec}: {name} defines no get_config(arg='')")
    try:
        return module.get_config(arg)
    except ValueError as error:
        raise UserError(f"--config={spec}: {error}") from error


def parse_flags(argv: list[str]) -> tuple[ConfigDict, str]:
    """Read `--config=FILE[:arg] --config.any.field=value --workdir=DIR`.

    Args:
      argv: arguments after the verb.

    Returns:
      The config with the overrides in place, locked, and the workdir.

    Raises:
      UserError: on anything mistyped; for a field, with the nearest field's name.
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

    Args:
      argv: arguments after the verb.
      options: the default of each of the verb's own options.

    Returns:
      The config with the overrides in place, locked, and the value of each option.

    Raises:
      UserError: on anything mistyped; for a field, with the nearest field's name.
    """
    argv = list(_joined(argv))
    specs = [arg.split("=", 1)[1] for arg in argv if arg.startswith("--config=")]
    if len(specs) != 1:
        raise UserError("give one --config=FILE.py[:arg], e.g. --config=configs/demo.py")
    cfg = load_config(specs[0])
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
        raise UserError(" ".join(str(error).split())) from error
    if extra:
        raise UserError(f"{extra[0]!r} is not an option; options look like --config.field=value")
    return values.config, {name: values[name].value for name in options}


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
        raise UserError(f"the config has no field {field!r}; the nearest is {nearest(field, cfg)}")


def nearest(field: str, cfg: ConfigDict) -> str:
    """Return the dotted name most like a mistyped one; the same last name elsewhere counts."""
    fields = sorted(config_fields(cfg))

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, field, candidate).ratio()
        ends = (name.rsplit(".", 1)[-1] for name in (field, candidate))
        return max(whole, 0.99 * difflib.SequenceMatcher(None, *ends).ratio())

    return max(fields, key=likeness)


def check_config(cfg: ConfigDict) -> None:
    """Refuse values that no run can use, before anything is built.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    at_least = {
        "train.steps": 1,
        "train.log_every": 1,
        "train.eval_every": 0,
        "train.checkpoint_every": 0,
        "train.grad_accum": 1,
        "train.grad_cache": 1,
        "train.num_threads": 0,
        "train.num_workers": 0,
        "train.watchdog_seconds": 0,
        "loss.sic.queue": 0,
        "loss.sic.alpha_ramp": 0,
        "loss.cmd.block": 1,
        "eval.rerank": 0,
        "loss.sic.weight": 0,
        "loss.sim.weight": 0,
        "loss.cmd.weight": 0,
    }
    fields = config_fields(cfg)
    for name, least in at_least.items():
        if name not in fields:
            raise UserError(f"the config has no field {name}; start it from base_config()")
        if fields[name] < least:
            raise UserError(f"{name}={fields[name]} is below {least}")
    choices = {
        "model.image_head": ("cls", "qformer"),
        "model.dtype": ("float32", "bfloat16"),
        "model.remat": REMAT,
        "model.attention": IMPLEMENTATIONS,
        "optim.frozen_dtype": ("float32", "bfloat16"),
        "model.fusion.query": ("speech", "image"),
        "loss.sim.mining": ("global", "shard"),
        "loss.cmd.direction": ("image", "speech", "both"),
        "loss.cmd.form": FORMS,
        "loss.cmd.tokens": ("replaced", "all"),
        "loss.cmd.source": ("global", "shard"),
    }
    for name, allowed in choices.items():
        if fields[name] not in allowed:
            raise UserError(f"{name}={fields[name]!r} is none of {', '.join(allowed)}")
    check_loss(cfg.loss)
    if cfg.model.attention == "cudnn" and cfg.model.dtype != "bfloat16":
        raise UserError(
            f"model.attention='cudnn' computes in bfloat16, and model.dtype={cfg.model.dtype!r}; "
            "set model.dtype='bfloat16' or model.attention='xla'"
        )
    if cfg.train.grad_accum > 1 and cfg.train.grad_cache > 1:
        raise UserError(
            f"train.grad_accum={cfg.train.grad_accum} and train.grad_cache={cfg.train.grad_cache}: "
            "both cut the batch; set one of them to 1"
        )
    if cfg.model.image_head == "qformer" and cfg.model.qformer.projection != cfg.model.embed_width:
        raise UserError(
            f"model.embed_width={cfg.model.embed_width} differs from model.qformer.projection="
            f"{cfg.model.qformer.projection}, which makes the embedding"
        )
    BatchSpec.from_config(cfg.data)
    size, wanted = cfg.data.image_size, cfg.model.image.image_size
    if size != wanted:
        raise UserError(f"data.image_size={size} differs from model.image.image_size={wanted}")


def check_loss(loss) -> None:
    """Refuse an objective that cannot be computed.

    Raises:
      UserError: naming the field, its value and what it may be.
    """
    if not (loss.sic.weight or loss.sim.weight or loss.cmd.weight):
        raise UserError(
            "loss.sic.weight, loss.sim.weight and loss.cmd.weight are all 0; set one of them"
        )
    for name, value, fits, wanted in (
        ("sic.alpha", loss.sic.alpha, 0 <= loss.sic.alpha <= 1, "from 0 to 1"),
        ("cmd.ratio", loss.cmd.ratio, 0 < loss.cmd.ratio <= 1, "above 0 and at most 1"),
        ("cmd.temperature", loss.cmd.temperature, loss.cmd.temperature > 0, "above 0"),
        (
            "teacher.momentum",
            loss.teacher.momentum,
            0 <= loss.teacher.momentum < 1,
            "from 0 to below 1",
        ),
    ):
        if not fits:
            raise UserError(f"loss.{name}={value} must be {wanted}")


def check_batch(cfg: ConfigDict, mesh) -> None:
    """Refuse a batch whose microbatches do not divide over the mesh.

    Raises:
      UserError: naming the fields and the nearest batch size that fits.
    """
    field = "grad_cache" if cfg.train.grad_cache > 1 else "grad_accum"
    unit = cfg.train[field] * mesh.shape["data"] * mesh.shape["fsdp"]
    batch = cfg.data.batch_size
    if batch % unit:
        raise UserError(
            f"data.batch_size={batch} must be a multiple of {unit} = train.{field} "
            f"{cfg.train[field]} x mesh.data {mesh.shape['data']} x mesh.fsdp "
            f"{mesh.shape['fsdp']}; e.g. {max(unit, batch - batch % unit)}"
        )


def to_json(cfg: ConfigDict) -> dict:
    """Return a config as plain dicts, lists, numbers and strings."""
    return json.loads(cfg.to_json())


def from_json(plain: dict) -> ConfigDict:
    """Return the config that `to_json` gave; lists come back as tuples, which can be hashed."""

    def revive(value):
        if isinstance(value, dict):
            return {name: revive(item) for name, item in value.items()}
        return tuple(revive(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(revive(plain))


def config_differences(old: dict, new: dict) -> dict[str, str]:
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
      A phrase for each field that differs and may (`FREE_FIELDS`).

    Raises:
      UserError: where the workdir holds a run with another config, naming the fields.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        return []
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another --workdir") from error
    phrases = config_differences(old, to_json(cfg))
    # Where stored features lie may change; whether they are used may not, as they are rounded.
    both = old.get("data", {}).get("features") and cfg.data.features
    free = (*FREE_FIELDS, "data.features") if both else FREE_FIELDS
    fixed = [phrase for name, phrase in phrases.items() if name not in free]
    if fixed:
        raise UserError(
            f"workdir {workdir} holds a run with another config: {'; '.join(fixed)}; "
            "choose another --workdir, or give the old values"
        )
    return list(phrases.values())


def claim_workdir(cfg: ConfigDict, workdir: Path) -> None:
    """Make the folder where it is missing, and write the config into it.

    Raises:
      UserError: where that cannot be done.
    """
    path = workdir / CONFIG_FILE
    part = path.with_suffix(".part")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(to_json(cfg), indent=2) + "\n")
        part.replace(path)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}; choose another folder") from error
