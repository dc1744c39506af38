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
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from sir_jax.config.compare import from_json, read_stored, to_json
from sir_jax.errors import UserError, first_few
from sir_jax.inference.score import UNFITTED, Score, read_score, score_of_workdir
from sir_jax.inference.workdirs import restore_params
from sir_jax.models import build_model, init_params, tasks_of_params
from sir_jax.pretrained.files import DTYPES, SINGLE, open_tensors, read_json, write_tensors
from sir_jax.runtime.files import whole_folder, write_json, write_text
from sir_jax.runtime.trees import leaf_paths
from sir_jax.runtime.workdir import CHECKPOINTS, as_path, check_reachable

CONFIG, CARD = "config.json", "README.md"
FORMAT, VERSION = "sir_jax retriever", 1

# Where the retrievers lie that ship with the package.
SHIPPED = Path(__file__).parents[1] / "pretrained" / "retrievers"

# Of `config.data`, what a vector depends on, and what evaluation goes by.
_SEEN = (
    "buckets",
    "normalize_wave",
    "trim_silence",
    "image_size",
    "image_mean",
    "image_std",
    "image_fit",
)
_DATA = ("corpus", "batch_size", *_SEEN)
# What training may add to a retriever that has none.
_POOLED = ("pool_speech", "pool_image", "pooled_scale", "pooled_bias")
_ADDED = ("fusion", "match_head", "late", "denoise_speech", "denoise_image", *_POOLED)
_DTYPES = {kind.name: kind for kind in DTYPES.values()}
_CONV_HEAD = ("kind", "taps", "places", "hidden")  # fields that a transformer head does not read
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


class Found(NamedTuple):
    """A retriever's parts as they were found."""

    cfg: ConfigDict
    params: dict
    name: str
    fingerprint: str  # '' where nothing recorded it
    score: Score = UNFITTED


def strip(params: dict) -> dict:
    """Return the parameters that inference needs: no denoising head, no fusion for it alone."""
    dropped = {"denoise_speech", "denoise_image"}
    if "match_head" not in params:
        dropped.add("fusion")
    return {name: tree for name, tree in params.items() if name not in dropped}


def fingerprint(cfg, params: dict, score: Score = UNFITTED) -> str:
    """Hash all that a vector depends on.

    Args:
      cfg: has `model` and `data`.
      params: of the model; those that only re-rank do not count, and the temperature only where
        vectors hold a pooled match.
      score: of the model; its `pooled_weight` counts there.

    Returns:
      32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    model, data = to_json(cfg.model), to_json(cfg.data)
    pooled = _POOLED[0] in params and score.pooled_weight > 0
    for field in ("fusion", "match", "remat", "scan", "attention", "init_temperature"):
        model.pop(field, None)
    if model["head"]["kind"] == "transformer":
        # Models from before there was another kind keep their fingerprints, and their indexes.
        model["head"] = {k: v for k, v in model["head"].items() if k not in _CONV_HEAD}
    elif not model["head"].get("hidden"):
        model["head"].pop("hidden", None)  # as above
    seen = {field: data[field] for field in _SEEN}
    if seen["trim_silence"] == "none":
        del seen["trim_silence"]  # as above
    elif seen["trim_silence"] == "faint":
        seen["trim_silence"] = True  # its name before there was another way
    plain = [model, seen]
    if pooled:
        plain.append(["pooled", score.pooled_weight])
    digest.update(json.dumps(plain, sort_keys=True).encode())
    unseen = {"fusion", "match_head", "late", "pooled_bias"}
    unseen |= set() if pooled else {"temperature", *_POOLED}
    for path, leaf in sorted(leaf_paths(strip(params)).items()):
        if path.partition("/")[0] not in unseen:
            value = np.ascontiguousarray(np.asarray(leaf).astype(np.float32))
            digest.update(f"{path} {value.shape}".encode())
            digest.update(memoryview(value.reshape(-1).view(np.uint8)))
    return digest.hexdigest()


def verify(model) -> None:
    """Hash a model's weights again.

    Args:
      model: a `Retriever`.

    Raises:
      UserError: they are not those that its fingerprint was made of.
    """
    found = fingerprint(model.cfg, model.params, model.score)
    if found != model.fingerprint:
        raise UserError(
            f"model {model.name}: its weights hash to {found}, not to its fingerprint "
            f"{model.fingerprint}; get it again"
        )


def rerank_of(cfg) -> int:
    """Return how many results a run's config has re-ranked; 0 where its model cannot match."""
    # A release has no `loss`: its `eval` says all. Pooled vectors need no second ranking.
    if "loss" in cfg and not cfg.loss.sim.weight or cfg.model.match.kind == "pooled":
        return 0
    return cfg.eval.rerank


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
    check_reachable(folder)
    if (folder / CHECKPOINTS).is_dir():
        cfg, params = restore_params(folder, which)
        params = strip(params)
        return Found(cfg, params, folder.name, "", score_of_workdir(folder, params))
    if (folder / CONFIG).is_file():
        return _read_anywhere(folder)
    if is_name(text) and (SHIPPED / text / CONFIG).is_file():
        return read_release(SHIPPED / text)
    what = "holds neither a release nor checkpoints" if folder.is_dir() else "is no folder"
    raise UserError(
        f"model {text} {what}; give a folder that `sir-jax export` wrote, the workdir of "
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
    score: Score = UNFITTED,
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
      score: of the model.

    Returns:
      The fingerprint.

    Raises:
      UserError: the folder exists, or a value does not fit the dtype.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give another folder or remove it")
    leaves = {k: np.asarray(v) for k, v in leaf_paths(jax.device_get(strip(params))).items()}
    model, data = to_json(cfg.model), to_json(cfg.data)
    model |= {"remat": "none", "scan": False, "attention": "xla"}
    fields = {
        "model": model,
        "data": {field: data[field] for field in _DATA},
        "eval": {"rerank": rerank_of(cfg)},
    }
    kept = from_json(fields)
    try:
        with whole_folder(out) as part:
            shapes = {key: leaf.shape for key, leaf in leaves.items()}
            write_tensors(part / SINGLE, shapes, leaves.__getitem__, _DTYPES[dtype])
            # What is read back counts: a dtype may have rounded it.
            mark = fingerprint(kept, _nested(part), score)
            plain = {
                "format": FORMAT,
                "version": VERSION,
                "name": name,
                "fingerprint": mark,
                "weights": dtype,
                **fields,
                **({"score": score.to_json()} if score.fitted else {}),
                **about,
            }
            write_json(part / CONFIG, plain, indent=1)
            write_text(part / CARD, card.replace("{fingerprint}", mark))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
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
    stored = {field: plain[field] for field in ("model", "data", "eval")}
    cfg = read_stored(stored, str(folder / CONFIG))
    cfg.data.data_dir = ""
    if not (folder / SINGLE).is_file():
        raise UserError(f"{folder} lacks {SINGLE}; get it again")
    shapes = open_tensors(folder).shapes
    misfit = f"{folder / SINGLE} does not fit its config.json"
    _compare(misfit, *_layers(cfg.model, shapes))
    try:
        model = build_model(cfg.model, tasks_of_params({x.partition("/")[0] for x in shapes}))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{folder / CONFIG}: its model cannot be built: {error}") from error
    wanted = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    _compare(misfit, {k: v.shape for k, v in leaf_paths(wanted).items()}, shapes)
    score = read_score(plain.get("score"), str(folder / CONFIG))
    return Found(cfg, _nested(folder), plain["name"], plain["fingerprint"], score)


def _layers(model_cfg, shapes: dict[str, tuple]) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Return the layers of a config and those in a file, to be compared before a model is traced.

    Tracing takes longer with each layer, and a damaged config may name any number.
    """
    parts = {"speech": model_cfg.speech, "image": model_cfg.image, "speech_head": model_cfg.head}
    if model_cfg.image_head == "qformer":
        parts["image_head"] = model_cfg.qformer
    if "match_head/kernel" in shapes:
        parts["fusion"] = model_cfg.fusion
    wanted = [f"{name}/layers_{n:02d}" for name, part in parts.items() for n in range(part.layers)]
    found = ["/".join(name.split("/")[:2]) for name in shapes if "/layers_" in name]
    return dict.fromkeys(wanted, ()), dict.fromkeys(found, ())


def _compare(what: str, wanted: dict[str, tuple], found: dict[str, tuple]) -> None:
    lines = [f"{name} is missing" for name in sorted({*wanted} - {*found})]
    lines += [f"{name} is unknown" for name in sorted({*found} - {*wanted})]
    lines += [
        f"{name} has shape {tuple(found[name])}, not {tuple(wanted[name])}"
        for name in sorted({*wanted} & {*found})
        if tuple(wanted[name]) != tuple(found[name])
    ]
    if lines:
        raise UserError(f"{what}: {first_few(lines)}")


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
