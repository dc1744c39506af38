"""Run a checkpoint in PyTorch and its conversion in Flax, and compare what they return."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sir_jax.models import Blip2Spec, HubertSpec, build_encoder
from sir_jax.pretrained.load import load, read_spec

# Relative error that is still no mistake, by the converted file's dtype. Rounding the weights to
# a half moves deep layers' outputs by several times the half's own precision.
BOUNDS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

_SECONDS = 1.0


class Difference(NamedTuple):
    """How far one output is from PyTorch's.

    Attributes:
      name: of the output.
      absolute: largest absolute error.
      relative: `absolute` over PyTorch's largest magnitude.
    """

    name: str
    absolute: float
    relative: float


def compare(source: Path, converted: Path) -> list[Difference]:
    """Compare a checkpoint with its conversion on the same seeded input of two examples.

    Args:
      source: directory of the checkpoint, read by the encoder's class in `transformers`.
      converted: directory that `sir-jax convert` made of it, read by `load`.

    Returns:
      The difference of every output; of hidden states, the worst layer's.
    """
    spec, params = load(converted)
    rng = np.random.default_rng(0)
    if isinstance(spec, HubertSpec):
        samples = max(int(16_000 * _SECONDS), spec.min_samples)
        x = rng.normal(size=(2, samples)).astype(np.float32)
        args = x, np.full((2,), samples)
    else:
        size = (spec.vision if isinstance(spec, Blip2Spec) else spec).image_size
        x = rng.normal(size=(2, 3, size, size)).astype(np.float32)
        args = (x.transpose(0, 2, 3, 1),)
    run = jax.jit(lambda p, *a: build_encoder(spec).apply({"params": p}, *a))
    ours = _named(jax.device_get(run(params, *args)), isinstance(spec, Blip2Spec))
    del params  # before PyTorch's copy comes
    theirs = _run_pytorch(source, spec, x)
    return [_difference(name, ours[name], value) for name, value in theirs.items()]


def _named(output, both: bool) -> dict:
    """Return the outputs by the names that `_run_pytorch` gives them."""
    if not both:
        pooled = {"pooled": output.pooled} if hasattr(output, "pooled") else {}
        return {"tokens": output.tokens} | pooled | {"states": output.states}
    vision, qformer = output
    named = {f"vision {name}": value for name, value in _named(vision, False).items()}
    named |= {"qformer tokens": qformer.tokens, "qformer states": qformer.states}
    return named | {"qformer projected": qformer.projected}


def _run_pytorch(source: Path, spec, x: np.ndarray) -> dict:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    family, _ = read_spec(source, str(source))
    model = getattr(transformers, family.CLASS).from_pretrained(
        source, dtype=torch.float32, local_files_only=True
    )
    model.eval()
    with torch.no_grad():
        x = torch.from_numpy(x)
        if not isinstance(spec, Blip2Spec):
            return _outputs(model(x, output_hidden_states=True))
        vision = model.vision_model(x, output_hidden_states=True)
        qformer = model.qformer(
            query_embeds=model.query_tokens.expand(len(x), -1, -1),
            encoder_hidden_states=vision.last_hidden_state,
            output_hidden_states=True,
        )
        named = {f"vision {k}": v for k, v in _outputs(vision).items()}
        named |= {
            "qformer tokens": qformer.last_hidden_state.numpy(),
            "qformer states": tuple(s.numpy() for s in qformer.hidden_states),
        }
        if spec.qformer.projection:
            projected = model.vision_projection(qformer.last_hidden_state)
            named["qformer projected"] = projected.numpy()
        return named


def _outputs(output) -> dict:
    named = {"tokens": output.last_hidden_state.numpy()}
    if "pooler_output" in output:
        named["pooled"] = output.pooler_output.numpy()
    return named | {"states": tuple(state.numpy() for state in output.hidden_states)}


def _difference(name: str, ours, theirs) -> Difference:
    if isinstance(theirs, tuple):
        layers = [_difference(name, a, b) for a, b in zip(ours, theirs, strict=True)]
        return max(layers, key=lambda layer: layer.relative)
    absolute = float(np.abs(ours - theirs).max())
    return Difference(name, absolute, absolute / float(np.abs(theirs).max()))
