"""Read and write encoder checkpoints: a directory with `config.json` and `model.safetensors`."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sir_jax.errors import UserError
from sir_jax.models import HubertSpec, VitSpec
from sir_jax.models.hubert import Hubert
from sir_jax.models.vit import Vit
from sir_jax.pretrained import clip, hubert
from sir_jax.pretrained.rules import to_leaves, to_tensors

# model_type of config.json -> the family's rule table.
FAMILIES: dict[str, ModuleType] = {"hubert": hubert, "clip_vision_model": clip, "clip": clip}

_PACKAGE = "package:"


def resolve(path: str) -> Path:
    """Return a checkpoint's directory; 'package:NAME' is one that ships with sir_jax.

    Raises:
      UserError: where there is none.
    """
    inside = path.startswith(_PACKAGE)
    folder = Path(__file__).parent / path.removeprefix(_PACKAGE) if inside else Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} has no config.json; give a directory as transformers saves it")
    return folder


def leaf_shapes(spec: HubertSpec | VitSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every leaf of an encoder by '/'-joined path, computing nothing."""
    if isinstance(spec, HubertSpec):
        module = Hubert(spec)
        args = np.zeros((1, spec.min_samples), np.float32), np.full((1,), spec.min_samples)
    else:
        module = Vit(spec)
        args = (np.zeros((1, spec.image_size, spec.image_size, 3), np.float32),)
    tree = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    return {k: v.shape for k, v in flatten_dict(tree, sep="/").items()}


def load(path: str) -> tuple[HubertSpec | VitSpec, dict]:
    """Load an encoder without PyTorch.

    Args:
      path: a directory with `config.json` and `model.safetensors`, or 'package:NAME'.

    Returns:
      The encoder's shape and its parameters, nested, float32 NumPy.

    Raises:
      UserError: on an unknown family, a damaged file, or any tensor that is missing, unknown,
        repeated or wrongly shaped.
    """
    folder = resolve(path)
    config = json.loads((folder / "config.json").read_text())
    family = FAMILIES.get(config.get("model_type"))
    if family is None:
        raise UserError(
            f"{path} is a {config.get('model_type')!r} checkpoint; known are {sorted(FAMILIES)}"
        )
    spec = family.spec_from_config(config)
    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            # With and without the prefix that a larger model's file has.
            full = {_strip(name, family.PREFIXES): name for name in file.keys()}  # noqa: SIM118
            leaves = to_leaves(
                list(full), lambda name: file.get_tensor(full[name]), family.RULES,
                leaf_shapes(spec), path,
            )  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}/model.safetensors cannot be read: {error}") from error
    return spec, unflatten_dict(leaves, sep="/")


def _strip(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def save(path: str | Path, spec: HubertSpec | VitSpec, params: dict, dtype=np.float32) -> None:
    """Save an encoder so that both `load` and `transformers` read it.

    Args:
      path: a directory, made where missing.
      spec: the encoder's shape.
      params: its parameters, nested.
      dtype: of the file; float16 halves it.
    """
    family = hubert if isinstance(spec, HubertSpec) else clip
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = to_tensors(flatten_dict(params, sep="/"), family.RULES) | family.extra_tensors(spec)
    save_file({k: v.astype(dtype) for k, v in tensors.items()}, folder / "model.safetensors")
    text = json.dumps(family.config_from_spec(spec), indent=2)
    (folder / "config.json").write_text(text + "\n")


def load_encoders(cfg, params: dict) -> dict:
    """Replace the encoders that `cfg.init` names by their checkpoints.

    Args:
      cfg: the whole config; reads `init` and `model`.
      params: the model's parameters; not changed.

    Returns:
      New parameters; replaced leaves are float32 NumPy.

    Raises:
      UserError: where a checkpoint has another shape than the config's model.
    """
    params = dict(params)
    for tower, wanted in (("speech", HubertSpec), ("image", VitSpec)):
        path = cfg.init[tower]
        if not path:
            continue
        spec, loaded = load(path)
        if not isinstance(spec, wanted):
            raise UserError(f"init.{tower}={path} is not a {tower} encoder")
        ours = wanted(**cfg.model[tower])
        # Dropout is a training choice, not a shape.
        theirs = dataclasses.replace(spec, dropout=ours.dropout)
        if ours != theirs:
            fields = dataclasses.asdict(theirs).items()
            differing = [f"{k} ({v} there)" for k, v in fields if getattr(ours, k) != v]
            raise UserError(f"init.{tower}={path} differs from the config: {', '.join(differing)}")
        params[tower] = loaded
    return params
