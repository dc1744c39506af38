"""The form in which a trained retriever is given away: safetensors, JSON and a model card.

    DIR/model.safetensors   the parameters that inference needs, named by their path
    DIR/config.json         format, version, name, fingerprint; the fields of `model` and `data`
    DIR/README.md           the model card

No optimiser, teacher, queue or denoising head is inside, and nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from sir_jax.config.command_line import from_json, to_json
from sir_jax.errors import UserError
from sir_jax.inference.workdirs import restore_params
from sir_jax.models import build_model, init_params
from sir_jax.pretrained.files import DTYPES, SINGLE, open_tensors, read_json, write_tensors
from sir_jax.runtime.trees import leaf_paths
from sir_jax.runtime.workdir import CHECKPOINTS, as_path

CONFIG, CARD = "config.json", "README.md"
FORMAT, VERSION = "sir_jax retriever", 1

# Where the retrievers lie that ship with the package.
SHIPPED = Path(__file__).parents[1] / "pretrained" / "retrievers"

# Of `config.data`, what a vector depends on, and what evaluation goes by.
_SEEN = ("buckets", "normalize_wave", "image_size", "image_mean", "image_std", "image_fit")
_DATA = ("corpus", "batch_size", *_SEEN)
# What training may add to a retriever that has none.
_ADDED = ("fusion", "match_head", "denoise_speech", "denoise_image")
_DTYPES = {kind.name: kind for kind in DTYPES.values()}
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


class Found(NamedTuple):
    """A retriever's parts as they were found."""

    cfg: ConfigDict
    params: dict
    name: str
    fingerprint: str  # '' where nothing recorded it


def strip(params: dict) -> dict:
    """Return the parameters that inference needs: no denoising head, no fusion for it alone."""
    dropped = {"denoise_speech", "denoise_image"}
    if "match_head" not in params:
        dropped.add("fusion")
    return {name: tree for name, tree in params.items() if name not in dropped}


def fingerprint(cfg, params: dict) -> str:
    """Hash all that a vector depends on.

    Args:
      cfg: has `model` and `data`.
      params: of the model; the fusion encoder's and the temperature do not count.

    Returns:
      32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    model, data = to_json(cfg.model), to_json(cfg.data)
    for field in ("fusion", "remat", "scan", "attention", "init_temperature"):
        model.pop(field, None)
    plain = [model, {field: data[field] for field in _SEEN}]
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for path, leaf in sorted(leaf_paths(strip(params)).items()):
        if path.partition("/")[0] not in ("fusion", "match_head", "temperature"):
            value = np.ascontiguousarray(np.asarray(leaf).astype(np.float32))
            digest.update(f"{path} {value.shape}".encode())
            digest.update(memoryview(value.reshape(-1).view(np.uint8)))
    return digest.hexdigest()


def rerank_of(cfg) -> int:
    """Return how many results a run's config has re-ranked; 0 where its model cannot match."""
    # A run from before there were other losses than SIC has no `loss` in its config, and a release
    # has none either: its `eval` says all.
    if "loss" in cfg and not cfg.loss.get("sim", {}).get("weight", 0):
        return 0
    return cfg.get("eval", {}).get("rerank", 0)


def shipped() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def is_name(text: str) -> bool:
    """Tell whether a model can be called so."""
    return _NAME.fullmatch(text) is not None


def find(source: str | os.PathLike, which: str = "best") -> Found:
    """Read a model by its name, or from a release's folder or a training workdir.

    Args:
      source: see `Retriever.load`.
      which: 'best' or 'last' checkpoint of a workdir.

    Raises:
      UserError: it is none of these, or its files are damaged.
    """
    text = os.fspath(source)
    folder = as_path(text)
    if (folder / CHECKPOINTS).is_dir():
        cfg, params = restore_params(folder, which)
        return Found(cfg, strip(params), folder.name, "")
    if (folder / CONFIG).is_file():
        return _read_anywhere(folder)
    if is_name(text) and (SHIPPED / text / CONFIG).is_file():
        return read_release(SHIPPED / text)
    what = "holds neither a release nor checkpoints" if folder.is_dir() else "is no folder"
    raise UserError(
        f"model {text} {what}; give a folder that `sir-jax export` wrote, the --workdir of "
        f"`sir-jax train`, or one of {', '.join(shipped()) or 'none (no model ships)'}"
    )


def start_from(cfg, params: dict) -> dict:
    """Replace the parameters that `cfg.init.model` holds, to go on training a whole retriever.

    Args:
      cfg: the whole config; reads `init` and `data`.
      params: the model's parameters; not changed. A fusion encoder or head that the retriever lacks
        stays as it is.

    Returns:
      New parameters; replaced leaves are NumPy.

    Raises:
      UserError: there is no such retriever, it has another shape than the config's model, or it was
        trained on otherwise prepared input than `data` says.
    """
    source = f"init.model={cfg.init.model}"
    found = find(cfg.init.model)
    differing = [
        f"data.{field}={found.cfg.data[field]} (here {cfg.data[field]})"
        for field in _SEEN
        if field != "buckets" and found.cfg.data[field] != cfg.data[field]
    ]
    if differing:
        raise UserError(f"{source} was trained with other input; set {', '.join(differing)}")
    taken = {name: tree for name, tree in found.params.items() if name in params}
    ours = {name: params[name] for name in params if name in taken or name not in _ADDED}
    shapes = ({k: v.shape for k, v in leaf_paths(tree).items()} for tree in (ours, taken))
    _compare(f"{source} does not fit this config's model", *shapes)
    return params | taken


def write_release(
    out: Path,
    cfg: ConfigDict,
    params: dict,
    name: str,
    dtype: str,
    about: dict[str, Any],
    card: str,
) -> str:
    """Write a release; the folder appears whole or not at all.

    Args:
      out: its folder, which is not there yet.
      cfg: of the run.
      params: nested dict of arrays, of which `strip` is written.
      name: of the model.
      dtype: 'float32', 'float16' or 'bfloat16', in which the weights are stored.
      about: anything more for config.json.
      card: text of the model card, in which '{fingerprint}' is replaced.

    Returns:
      The fingerprint.

    Raises:
      UserError: the folder exists, or a value does not fit the dtype.
    """
    if out.exists():
        raise UserError(f"--out {out} exists already; give another folder or remove it")
    leaves = {k: np.asarray(v) for k, v in leaf_paths(jax.device_get(strip(params))).items()}
    model, data = to_json(cfg.model), to_json(cfg.data)
    model |= {"remat": "none", "scan": False, "attention": "xla"}
    fields = {
        "model": model,
        "data": {field: data[field] for field in _DATA},
        "eval": {"rerank": rerank_of(cfg)},
    }
    kept = from_json(fields)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        shapes = {key: leaf.shape for key, leaf in leaves.items()}
        write_tensors(part / SINGLE, shapes, leaves.__getitem__, _DTYPES[dtype])
        stored = _nested(part)
        mark = fingerprint(kept, stored)
        plain = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "fingerprint": mark,
            "weights": dtype,
            **fields,
            **about,
        }
        (part / CONFIG).write_text(json.dumps(plain, indent=1) + "\n")
        (part / CARD).write_text(card.replace("{fingerprint}", mark))
        part.chmod(0o755)
        os.rename(part, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return mark


def read_about(folder: Path) -> dict[str, Any]:
    """Read a release's config.json.

    Raises:
      UserError: it is damaged, of another format, or of a version to come.
    """
    plain = read_json(folder / CONFIG)
    if plain.get("format") != FORMAT:
        raise UserError(
            f"{folder} is no release of sir_jax (its config.json has format "
            f"{plain.get('format')!r}); give a folder that `sir-jax export` wrote"
        )
    if plain.get("version") != VERSION:
        raise UserError(
            f"{folder} has version {plain.get('version')!r} and this sir_jax reads {VERSION}; "
            "install the sir_jax that wrote it"
        )
    lacking = [f for f in ("model", "data", "eval", "name", "fingerprint") if f not in plain]
    if lacking:
        raise UserError(f"{folder / CONFIG} lacks {', '.join(lacking)}; get the file again")
    return plain


def read_release(folder: Path) -> Found:
    """Read a release; every parameter and every tensor is accounted for.

    Raises:
      UserError: naming what is damaged, missing, unknown or of another shape.
    """
    plain = read_about(folder)
    cfg = from_json({field: plain[field] for field in ("model", "data", "eval")})
    cfg.data.data_dir = ""
    if not (folder / SINGLE).is_file():
        raise UserError(f"{folder} lacks {SINGLE}; get it again")
    shapes = open_tensors(folder).shapes
    try:
        model = build_model(cfg.model, ("match",) if "match_head/kernel" in shapes else ())
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{folder / CONFIG}: its model cannot be built: {error}") from error
    wanted = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    _compare(
        f"{folder / SINGLE} does not fit its config.json",
        {k: v.shape for k, v in leaf_paths(wanted).items()},
        shapes,
    )
    return Found(cfg, _nested(folder), plain["name"], plain["fingerprint"])


def _compare(what: str, wanted: dict[str, tuple], found: dict[str, tuple]) -> None:
    lines = [f"{name} is missing" for name in sorted({*wanted} - {*found})]
    lines += [f"{name} is unknown" for name in sorted({*found} - {*wanted})]
    lines += [
        f"{name} has shape {tuple(found[name])}, not {tuple(wanted[name])}"
        for name in sorted({*wanted} & {*found})
        if tuple(wanted[name]) != tuple(found[name])
    ]
    if lines:
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(f"{what}: {'; '.join(lines[:3])}{more}")


def _nested(folder: Path) -> dict:
    tensors = open_tensors(folder)
    leaves = {name: tensors.read(name).astype(np.float32) for name in tensors.shapes}
    return unflatten_dict(leaves, sep="/")


def _read_anywhere(folder) -> Found:
    """Read a release from here, or from a bucket through a copy that is gone afterwards."""
    if isinstance(folder, Path) and "://" not in str(folder):
        return read_release(folder)
    with tempfile.TemporaryDirectory() as copy:
        for name in (CONFIG, SINGLE):
            if (folder / name).is_file():
                Path(copy, name).write_bytes((folder / name).read_bytes())
        return read_release(Path(copy))
