"""Export both encoders as StableHLO programs that run with JAX alone, without sir_jax.

There is one program per length bucket and one for pictures. Each takes any number of rows (a
symbolic batch size) and runs on all of `PLATFORMS`. Lengths are not symbolic: a model has a fixed
list of buckets, and its attention splits long rows according to their length. The weights are the
first argument of a program. They are stored once per modality, beside the programs:

    args = safetensors.numpy.load_file("speech.safetensors"), wave, lengths
    z = jax.export.deserialize(open("speech_48000.jax_export", "rb").read()).call(*args)

`encoders.json` lists the programs and describes how to prepare waves and pictures.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from safetensors.numpy import load_file, save_file

from sir_jax.data.media.audio import SAMPLE_RATE, as_encoded, longest_window
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever
from sir_jax.inference.score import Scale
from sir_jax.runtime.files import write_json

PLATFORMS = ("cpu", "cuda", "tpu")
DESCRIPTION = "encoders.json"
FORMAT = 1
# What is done before the rest, by `data.trim_silence`.
_TRIMMING = {
    "none": "none",
    "faint": "frames of 320 samples whose mean square is 35 dB below the clip's loudest frame are "
    "cut off at either end, but for 3 of them",
    "speech": "frames of 320 samples are cut off at either end, but for one, whose mean square "
    "(the median of it and its neighbours', 0 beyond the ends) is 15 dB below the 90th percentile "
    "of those within 35 dB of the largest",
}
# Numbers of rows, lengths and picture sizes that `check_export` tries. A length is a share of the
# bucket; 0 stands for one sample.
CHECK_ROWS = (1, 3)
_CHECK_LENGTHS = (1.0, 0.0, 0.37)
_CHECK_SIZES = ((200, 120), (33, 90), (64, 64))
# Largest allowed difference of a component, with float32 products and with less precise ones, which
# round at 2^-8.
_EXACT, _ROUNDED = 1e-5, 2e-2


def export_encoders(model: Retriever, out: Path) -> list[Path]:
    """Write both encoders, their weights and a description of their inputs.

    Args:
      model: a trained retriever.
      out: the folder, created if it is missing. Files of an earlier export are overwritten.

    Returns:
      The files. `encoders.json` is the last one; while it is missing, the export is incomplete.

    Raises:
      UserError: the package `flatbuffers` is missing, or the folder cannot be written to.
    """
    _export_module()
    out = Path(out)
    description = _describe(model)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / DESCRIPTION).unlink(missing_ok=True)
        paths = []
        for modality in ("speech", "image"):
            weights = _weights(model, modality)
            paths.append(out / description[modality]["weights"])
            save_file(weights, paths[-1])
            for program in description[modality]["programs"]:
                paths.append(out / program["file"])
                paths[-1].write_bytes(_export(model, modality, weights, program))
    except OSError as error:
        raise UserError(f"{out} cannot be written to ({error.strerror}); give another") from error
    write_json(out / DESCRIPTION, description)
    return [*paths, out / DESCRIPTION]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference of a program's vectors from the model's own."""

    program: str
    error: float  # largest absolute difference of a component

    def __str__(self) -> str:
        return f"{self.program}: largest difference from the model's own vectors {self.error:.1e}"


def check_export(model: Retriever, out: Path) -> list[Difference]:
    """Load the programs and compare their vectors with the model's own.

    Each program is called with one row and with three rows: clips from one sample to the whole
    bucket, and pictures of several shapes, prepared as `encoders.json` describes.

    Args:
      model: the exported model.
      out: the folder of the export.

    Returns:
      One `Difference` per program.

    Raises:
      UserError: the export is incomplete or of another model, or a difference is above 1e-5 (2e-2
        if the model or the backend is less precise than float32).
    """
    out = Path(out)
    description = read_description(out)
    if description["fingerprint"] != model.fingerprint:
        raise UserError(
            f"{out} was exported from another model ({description['name']}, fingerprint "
            f"{description['fingerprint'][:12]}); export {model.name} to a folder of its own"
        )
    exact = model.cfg.model.dtype == "float32" and jax.default_backend() == "cpu"
    bound, differences = _EXACT if exact else _ROUNDED, []
    parts = {
        modality: (_read_weights(out, about), _read_programs(out, about))
        for modality, about in description.items()
        if modality in _BATCHES
    }
    for modality, (weights, programs) in parts.items():
        for about, program in zip(description[modality]["programs"], programs, strict=True):
            error = 0.0
            for inputs, expected in _BATCHES[modality](model, about):
                # Not Python's `max`, which may drop a NaN.
                difference = np.abs(np.asarray(program.call(weights, *inputs)) - expected).max()
                error = float(np.maximum(error, difference))
            differences.append(Difference(about["file"], error))
    wrong = [d for d in differences if not d.error <= bound]
    if wrong:
        raise UserError(
            f"{out / wrong[0].program} differs from the model by {wrong[0].error:.1e}, more than "
            f"{bound:.0e}; export again with the JAX that reads it"
        )
    return differences


def read_description(out: Path) -> dict:
    """Read `encoders.json`.

    Args:
      out: the folder of an export.

    Raises:
      UserError: the file is missing, damaged or of a later format.
    """
    path = Path(out) / DESCRIPTION
    try:
        description = json.loads(path.read_text())
        written = description["format"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no whole export lies there; export again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); export again") from error
    if written != FORMAT:
        raise UserError(f"{path} has format {written}, this sir_jax reads {FORMAT}; export again")
    return description


def _describe(model: Retriever) -> dict:
    data, spec = model.cfg.data, ImageSpec.from_config(model.cfg.data)
    buckets, longest = [int(bucket) for bucket in data.buckets], longest_window(data)
    return {
        "format": FORMAT,
        "name": model.name,
        "fingerprint": model.fingerprint,
        "width": model.width,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "call": "program(weights, *inputs) -> float32[rows, width], rows of unit norm; weights is "
        "the safetensors file as {name: array}",
        "speech": {
            "weights": "speech.safetensors",
            "inputs": [
                {"name": "wave", "dtype": "float32", "shape": ["rows", "samples"]},
                {"name": "lengths", "dtype": "int32", "shape": ["rows"]},
            ],
            "sample_rate": SAMPLE_RATE,
            "channels": 1,
            "trim": data.trim_silence != "none",
            "trimming": _TRIMMING[data.trim_silence],
            "normalize": bool(data.normalize_wave),
            "normalization": "(x - mean(x)) / sqrt(var(x) + 1e-7) over the clip's own samples",
            "padding": "zeros at the end up to `samples` of the smallest program that holds the "
            "clip; `lengths` are the samples before padding",
            "longer": f"windows of {longest} samples at 0, {longest}, ..., the last one "
            "ending with the clip; each normalised and encoded alone; the mean of their vectors, "
            "scaled to unit length",
            "programs": [
                {"file": f"speech_{bucket}.jax_export", "samples": bucket} for bucket in buckets
            ],
        },
        "image": {
            "weights": "image.safetensors",
            "inputs": [
                {"name": "pixels", "dtype": "float32", "shape": ["rows", spec.size, spec.size, 3]}
            ],
            "channels": "RGB",
            "fit": spec.fit,
            "fits": {
                "crop": f"bicubic: the short side to {spec.size}, the long one in proportion, "
                "rounded down; then the centre",
                "squash": f"bicubic: both sides to {spec.size}",
            }[spec.fit],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "normalization": "(value / 255 - mean) / std for each channel",
            "programs": [{"file": "image.jax_export", "size": spec.size}],
        },
    }


def _weights(model: Retriever, modality: str) -> dict[str, np.ndarray]:
    # The encoder, its head and its projection: `speech`, `speech_head`, `speech_projection`; and
    # `pool_speech` where a vector holds the pooled match, too.
    params = model.params
    own = {name: leaf for name, leaf in params.items() if name.split("_")[0] == modality}
    if model.scale.pooled_weight:
        own[f"pool_{modality}"] = params[f"pool_{modality}"]
    flat = flatten_dict(own, sep="/")
    return {name: np.ascontiguousarray(jax.device_get(leaf)) for name, leaf in flat.items()}


def _export(model: Retriever, modality: str, weights: dict, program: dict) -> bytes:
    export = _export_module()
    (rows,) = export.symbolic_shape("rows")
    if modality == "speech":
        shape = ((rows, program["samples"]), jnp.float32), ((rows,), jnp.int32)
    else:
        shape = (((rows, program["size"], program["size"], 3), jnp.float32),)
    of_weights = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights.items()}
    inputs = [jax.ShapeDtypeStruct(*each) for each in shape]
    encode = jax.jit(_row_by_row(model.model, modality, model.scale))
    return bytes(export.export(encode, platforms=PLATFORMS)(of_weights, *inputs).serialize())


def _row_by_row(module, modality: str, scale: Scale) -> Callable:
    """Return a function (weights, *inputs) -> [rows, width] that works for a symbolic batch size.

    On CPU the models split a batch into groups in Python, which needs a known batch size. Under
    `vmap` the model sees a single row, while XLA still computes the whole batch at once.
    """

    factors = scale.similarity_temperature**-0.5, scale.pooled_weight**0.5

    def encode(weights, *inputs):
        # `setup` of the model reads these; the encoders do not use them.
        unused = ("temperature", "pooled_scale", "pooled_bias")
        params = unflatten_dict(weights, sep="/") | dict.fromkeys(unused, jnp.zeros(()))

        def one(*row):
            row, method = [each[None] for each in row], f"encode_{modality}"
            out = module.apply({"params": params}, *row, deterministic=True, method=method)
            if not scale.pooled_weight:
                return out.embed
            pooled = module.apply({"params": params}, out, modality, method="pool")
            joint = jnp.concatenate([factors[0] * out.embed, factors[1] * pooled], axis=1)
            return joint / jnp.linalg.norm(joint, axis=1, keepdims=True)

        return jax.vmap(one)(*inputs)[:, 0]

    return encode


def _speech_batches(model: Retriever, program: dict) -> Iterator[tuple[tuple, np.ndarray]]:
    rng, bucket = np.random.default_rng(0), program["samples"]
    for rows in CHECK_ROWS:
        lengths = [max(1, round(share * bucket)) for share in _CHECK_LENGTHS[:rows]]
        waves = [rng.standard_normal(length).astype(np.float32) for length in lengths]
        batch = np.zeros((rows, bucket), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            heard = as_encoded(wave, model.cfg.data)
            row[: len(heard)] = heard
        yield (batch, np.asarray(lengths, np.int32)), model.encode_waves(waves, rows)


def _image_batches(model: Retriever, program: dict) -> Iterator[tuple[tuple, np.ndarray]]:
    rng, spec = np.random.default_rng(0), ImageSpec.from_config(model.cfg.data)
    for rows in CHECK_ROWS:
        pictures = [
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            for width, height in _CHECK_SIZES[:rows]
        ]
        pixels = np.stack([preprocess_image(picture, spec) for picture in pictures])
        yield (pixels,), model.encode_pixels(pixels, rows)


_BATCHES = {"speech": _speech_batches, "image": _image_batches}


def _read_weights(out: Path, about: dict) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.asarray, _read(out / about["weights"], load_file))


def _read_programs(out: Path, about: dict) -> list:
    module = _export_module()

    def read(path: Path):
        return module.deserialize(bytearray(path.read_bytes()))

    return [_read(out / program["file"], read) for program in about["programs"]]


def _read(path: Path, read: Callable):
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; export again") from None
    # JAX does not document what it raises for damaged files.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} cannot be read ({first}); export again") from error


def _export_module():
    try:
        import flatbuffers  # noqa: F401  jax.export needs it to write and read files
        from jax import export
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; StableHLO needs it: pip install 'sir_jax[stablehlo]'"
        ) from error
    return export
