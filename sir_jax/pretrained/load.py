"""Read and write encoder checkpoints: a directory with `config.json` and `model.safetensors`."""

import dataclasses
import functools
import json
import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sir_jax.config.specs import QFormerSpec
from sir_jax.errors import UserError
from sir_jax.models import Blip2Spec, FusionSpec, HubertSpec, VitSpec, build_encoder
from sir_jax.models.layers import ACTIVATIONS
from sir_jax.pretrained.families import bert, blip2, blip2_vision, clip, hubert
from sir_jax.pretrained.files import SINGLE, Tensors, open_tensors, read_json, write_tensors
from sir_jax.pretrained.hub import BIN, BIN_INDEX, find_weights, resolve
from sir_jax.pretrained.positions import resize_positions
from sir_jax.pretrained.processor import read_processor
from sir_jax.pretrained.rules import make_plan, read_leaves, tensor_names, tensor_shapes, to_tensor

Spec = HubertSpec | VitSpec | Blip2Spec

# model_type of config.json -> the family's rule table.
FAMILIES: dict[str, ModuleType] = {
    "hubert": hubert,
    "clip": clip,
    "clip_vision_model": clip,
    "blip-2": blip2,
    "blip_2_vision_model": blip2_vision,
}


def read_spec(
    folder: Path, source: str, families: dict[str, ModuleType] = FAMILIES
) -> tuple[ModuleType, Spec | bert.BertSpec]:
    """Read `config.json`: the family and the encoder's shape.

    Args:
      folder: the checkpoint's directory.
      source: what to call it in errors.
      families: which are wanted, by model_type.

    Raises:
      UserError: on another family, and on a setting that is not ported.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    known = ", ".join(families)
    if kind is None:
        raise UserError(f"{source}: config.json has no model_type; known are {known}")
    if kind == "clip_text_model":
        raise UserError(f"{source} is CLIP's text encoder alone; known are {known}")
    if kind not in families:
        raise UserError(f"{source} is a {kind!r} checkpoint; known are {known}")
    family = families[kind]
    try:
        spec = family.spec_from_config(config)
    except ValueError as error:
        raise UserError(f"{source}: config.json gives no encoder: {error}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    for field in ("activation", "conv_activation"):
        name = getattr(spec, field, "gelu")
        if name not in ACTIVATIONS:
            raise UserError(
                f"{source}: config.json has the activation {name!r}; "
                f"ported are {', '.join(ACTIVATIONS)}"
            )
    return family, spec


def family_of(spec: Spec) -> ModuleType:
    """Return the rule table with which an encoder of this shape is saved."""
    if isinstance(spec, VitSpec):
        return clip if spec.form == "clip" else blip2_vision
    return hubert if isinstance(spec, HubertSpec) else blip2


@functools.lru_cache(maxsize=32)
def leaf_shapes(spec: Spec) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every leaf of an encoder by '/'-joined path, computing nothing."""
    if isinstance(spec, HubertSpec):
        args = np.zeros((1, spec.min_samples), np.float32), np.full((1,), spec.min_samples)
    else:
        size = (spec.vision if isinstance(spec, Blip2Spec) else spec).image_size
        args = (np.zeros((1, size, size, 3), np.float32),)
    # The key too is made inside: outside, it would start a backend.
    tree = jax.eval_shape(lambda: build_encoder(spec).init(jax.random.key(0), *args))["params"]
    # The mapping is shared by all callers of the cache, so it is read-only.
    return MappingProxyType({k: v.shape for k, v in flatten_dict(tree, sep="/").items()})


def load(path: str | os.PathLike, image_size: int | None = None) -> tuple[Spec, dict]:
    """Load an encoder without PyTorch; nothing is downloaded, and nothing unpickled.

    Reads what `transformers` saves of HubertModel, HubertForCTC, HubertForSequenceClassification,
    CLIPVisionModel, CLIPVisionModelWithProjection, CLIPModel, Blip2VisionModel and every BLIP-2
    with an image side: text towers and heads are left out. Files may be float32, float16 or
    bfloat16, whole or in shards. Memory in use grows by the float32 parameters and one tensor.

    Args:
      path: a directory with `config.json` and `model.safetensors` (or its shards and their index);
        'package:NAME', one that ships with sir_jax; or a hub id such as
        'openai/clip-vit-base-patch32' that is in the hub's cache on this machine.
      image_size: side in pixels of the images to come, where it is not the checkpoint's: position
        embeddings are resized as by `interpolate_pos_encoding=True` of transformers.

    Returns:
      The encoder's shape (`HubertSpec`, `VitSpec` or `Blip2Spec`) and its parameters, nested,
      float32 NumPy. `sir_jax.models.build_encoder(spec).apply({"params": params}, ...)` runs it.

    Raises:
      UserError: on a checkpoint that is not there or of an unknown family, a damaged file, any
        tensor that is missing, unknown, repeated or wrongly shaped, and an image size that is no
        multiple of the patch.
    """
    source, folder = os.fspath(path), resolve(path)
    family, spec = read_spec(folder, source)
    tensors = open_weights(folder, source)
    plan = make_plan(tensors.shapes, family.RULES, leaf_shapes(spec), source, family.PREFIXES)
    params = unflatten_dict(dict(read_leaves(plan, tensors.read)), sep="/")
    if image_size is None:
        return spec, params
    return _resized(spec, params, image_size, source)


def open_weights(folder: Path, source: str, remedy: str = "") -> Tensors:
    """Open a checkpoint's safetensors.

    Args:
      folder: the checkpoint's directory.
      source: what to call it in errors.
      remedy: how to make them of `pytorch_model.bin`; empty for `sir-jax convert`.

    Raises:
      UserError: where it has none, with the command that makes them, or where they are damaged.
    """
    weights = find_weights(folder)
    if weights is None:
        raise UserError(f"{source} has no {SINGLE}; get the whole checkpoint")
    if weights in (BIN, BIN_INDEX):
        out = f"{Path(source).resolve().name}-safetensors"
        command = shlex.join(["sir-jax", "convert", "--source", source, "--out", out])
        raise UserError(
            f"{source} has {weights} and no {SINGLE}; {remedy or f'make that with: {command}'}"
        )
    return open_tensors(folder)


def _resized(spec: Spec, params: dict, size: int, source: str) -> tuple[Spec, dict]:
    """Return an encoder for images of another size; its other parameters are not copied."""
    if isinstance(spec, Blip2Spec):
        vision, tree = _resized(spec.vision, params["vision"], size, source)
        return dataclasses.replace(spec, vision=vision), params | {"vision": tree}
    if isinstance(spec, HubertSpec):
        raise UserError(f"{source} is a speech encoder; it has no image_size to change")
    if size < 1 or size % spec.patch:
        raise UserError(f"image_size={size} is no multiple of {source}'s patch of {spec.patch}")
    position = resize_positions(params["position"], size // spec.patch)
    return dataclasses.replace(spec, image_size=size), params | {"position": position}


def preprocessing(path: str | os.PathLike) -> dict:
    """Read what a checkpoint wants done to its input, as fields of `config.data`.

    Args:
      path: as `load` takes it.

    Returns:
      `normalize_wave` of a speech encoder; `image_size`, `image_mean`, `image_std` and `image_fit`
      ('crop' the short side's square, or 'squash') of an image encoder; nothing where there is
      neither `preprocessor_config.json` nor `processor_config.json`.

    Raises:
      UserError: on a step that `sir_jax.data` does not do, such as another rate than 16 kHz.
    """
    source, folder = os.fspath(path), resolve(path)
    family, _ = read_spec(folder, source)
    fields = processor_fields(family, folder)
    try:
        return family.preprocessing(fields) if fields else {}
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def processor_fields(family: ModuleType, folder: Path) -> dict:
    """Return the fields of a checkpoint's processor as its file has them; empty without one."""
    return read_processor(folder, family.PROCESSOR)


def save(path: str | Path, spec: Spec, params: dict, dtype=np.float32) -> None:
    """Save an encoder so that both `load` and `transformers` read it.

    Args:
      path: a directory, made where missing.
      spec: the encoder's shape.
      params: its parameters, nested.
      dtype: of the file; float16 and bfloat16 halve it.

    Raises:
      UserError: where a parameter is too large for float16.
      ValueError: where the parameters are not those of an encoder of this shape.
    """
    write_encoder(Path(path), spec, flatten_dict(params, sep="/"), dtype)


def write_encoder(folder: Path, spec: Spec, leaves, dtype) -> int:
    """Write `config.json` and `model.safetensors`, a tensor at a time.

    Args:
      folder: a directory, made where missing.
      spec: the encoder's shape.
      leaves: arrays by path; a mapping that reads them only when asked will do.
      dtype: of the file.

    Returns:
      How many parameters were written.

    Raises:
      UserError: where a parameter is too large for float16.
      ValueError: where the leaves are not those of an encoder of this shape.
    """
    family, shapes = family_of(spec), leaf_shapes(spec)
    if odd := shapes.keys() ^ leaves.keys():
        raise ValueError(f"leaves that are missing or no part of this encoder: {sorted(odd)}")
    folder.mkdir(parents=True, exist_ok=True)
    names, extra = tensor_names(shapes, family.RULES), family.extra_tensors(spec)

    def read(name: str) -> np.ndarray:
        return extra[name] if name in extra else to_tensor(*names[name], leaves)

    everything = tensor_shapes(shapes, family.RULES) | {k: v.shape for k, v in extra.items()}
    write_tensors(folder / SINGLE, everything, read, dtype)
    text = json.dumps(family.config_from_spec(spec), indent=2)
    (folder / "config.json").write_text(text + "\n")
    return sum(math.prod(shape) for shape in shapes.values())


def load_encoders(cfg, params: dict) -> dict:
    """Replace the encoders that `cfg.init` names by their checkpoints.

    Of a BERT the last layers go into the fusion encoder, as in ALBEF (arXiv 2107.07651); what it
    has beside them, its cross-attention and the projections before it, stays as it is.

    Args:
      cfg: the whole config; reads `init`, `model` and `data`. Where the image encoder differs in
        nothing but `image_size`, its position embeddings are resized. Where `model.image_head` is
        'qformer', `image_head` is replaced too.
      params: the model's parameters; not changed.

    Returns:
      New parameters; replaced leaves are float32 NumPy.

    Raises:
      UserError: where a checkpoint has another shape than the config's model, lacks the Q-Former
        that the config wants, or was trained on otherwise prepared input than `data` says; where
        the model has nothing that a BERT could fill.
    """
    params = dict(params)
    if path := cfg.init.speech:
        spec, params["speech"] = _load_tower(path, "speech", HubertSpec)
        _compare_shape("speech", path, HubertSpec(**cfg.model.speech), spec)
        _compare_data("speech", path, cfg.data, preprocessing(path))
    if path := cfg.init.image:
        params |= _load_image(path, cfg)
    if path := cfg.init.fusion:
        params["fusion"] = _load_fusion(path, cfg, params.get("fusion"))
    return params


def _load_tower(path: str, tower: str, kinds) -> tuple[Spec, dict]:
    spec, params = load(path)
    if not isinstance(spec, kinds):
        raise UserError(f"init.{tower}={path} is no {tower} encoder")
    return spec, params


def _load_image(path: str, cfg) -> dict:
    """Return `image`, and `image_head` where the config has a Q-Former."""
    spec, tree = _load_tower(path, "image", VitSpec | Blip2Spec)
    loaded, wanted = {}, cfg.model.image_head == "qformer"
    if wanted and not isinstance(spec, Blip2Spec):
        raise UserError(
            f"init.image={path} has no Q-Former and model.image_head is 'qformer'; give a whole "
            "BLIP-2 checkpoint, or set model.image_head=cls"
        )
    if isinstance(spec, Blip2Spec):
        if wanted:
            ours = QFormerSpec(**cfg.model.qformer)
            _compare_shape("image", path, ours, spec.qformer, "model.qformer.")
            loaded["image_head"] = tree["qformer"]
        spec, tree = spec.vision, tree["vision"]
    ours, data = VitSpec(**cfg.model.image), preprocessing(path)
    if ours == dataclasses.replace(spec, image_size=ours.image_size, dropout=ours.dropout):
        if ours.image_size != spec.image_size:
            data.pop("image_size", None)
        spec, tree = _resized(spec, tree, ours.image_size, path)
    _compare_shape("image", path, ours, spec)
    _compare_data("image", path, cfg.data, data)
    return loaded | {"image": tree}


def _load_fusion(path: str, cfg, params: dict | None) -> dict:
    """Return the fusion encoder's parameters with a BERT's last layers in them."""
    source, ours = f"init.fusion={path}", FusionSpec(**cfg.model.fusion)
    if params is None:
        raise UserError(
            f"{source} has nothing to fill: without loss.sim.weight and loss.cmd.weight there is "
            "no fusion encoder; set one of them, or init.fusion=''"
        )
    if not ours.self_attention:
        raise UserError(
            f"{source} has nothing to fill: model.fusion.self_attention is False; set it to True, "
            "or init.fusion=''"
        )
    folder = resolve(path)
    _, theirs = read_spec(folder, source, {"bert": bert})
    # More layers than ours are no difference: the last ones are taken.
    layers = min(ours.layers, theirs.layers)
    _compare_shape(
        "fusion", path, ours, dataclasses.replace(theirs, layers=layers), "model.fusion."
    )
    # `sir-jax convert` writes encoders of speech and images alone.
    tensors = open_weights(folder, source, "load it with transformers and save it again")
    leaves = flatten_dict(params, sep="/")
    block = {
        leaf: value.shape
        for leaf, value in flatten_dict(params["layers_00"], sep="/").items()
        if not leaf.startswith("cross_attention")
    }
    plan = bert.plan_last_layers(tensors.shapes, theirs.layers, ours.layers, block, source)
    return unflatten_dict(leaves | dict(read_leaves(plan, tensors.read)), sep="/")


def _compare_shape(tower: str, path: str, ours, theirs, where: str = "") -> None:
    """Refuse a checkpoint of another shape; dropout is a training choice, not a shape."""
    fields = dataclasses.asdict(theirs).items()
    differing = [
        f"{where}{k} ({v} there)" for k, v in fields if k != "dropout" and getattr(ours, k) != v
    ]
    if differing:
        raise UserError(f"init.{tower}={path} differs from the config: {', '.join(differing)}")


def _compare_data(tower: str, path: str, data_cfg, theirs: dict) -> None:
    """Refuse a config that prepares the input otherwise than the checkpoint's processor does."""
    differing = []
    for field, value in theirs.items():
        ours = data_cfg[field]
        same = np.allclose(ours, value, atol=1e-6) if isinstance(value, tuple) else ours == value
        if not same:
            differing.append(f"data.{field}={value} (here {ours})")
    if differing:
        raise UserError(
            f"init.{tower}={path} was trained with other input than the config's; set "
            f"{', '.join(differing)}"
        )
