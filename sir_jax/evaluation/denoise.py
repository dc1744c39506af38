"""Test whether the denoising head uses the other modality: its cosines on unseen pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from sir_jax.data.pipeline import train_batches
from sir_jax.objective.denoising import DenoisingTask
from sir_jax.objective.switches import noisy_modalities
from sir_jax.objective.views import encode
from sir_jax.training.step import STEP_FIELDS


@functools.partial(jax.jit, static_argnames=("model", "cfg", "modality"))
def _cosines(params, batch, key, *, model, cfg, modality: str) -> jax.Array:
    """Return three mean cosines of a batch: rebuilt tokens, rebuilt with wrong context, noise."""
    keys = jax.random.split(key, 3)
    views = encode(params, None, batch, keys[:2], model=model, cfg=cfg, deterministic=True)
    task = DenoisingTask.of(views, batch["image_ids"], modality, keys[2], model, cfg.loss.cmd, 1)
    context, wrong = task.wrong_context()
    rebuilt = task.rebuild(model, params, task.context)
    return jnp.stack(
        [
            task.similarity(rebuilt, wrong),
            task.similarity(task.rebuild(model, params, context), wrong),
            task.similarity(task.noisy.tokens, wrong),
        ]
    )


def denoising_metrics(model, params, split, cfg, ratio: float | None = None) -> dict[str, float]:
    """Rebuild the replaced tokens of a split, once with the right and once with a wrong context.

    A head that uses the other modality has a higher cosine with the right context. The batches are
    one epoch of `train_batches`; the noise is drawn with seed 0.

    Args:
      model: the joint model, with the denoising tasks of `config.loss`.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`.
      cfg: the whole config.
      ratio: share of replaced tokens; None for `loss.cmd.ratio`.

    Returns:
      For each modality M that is rebuilt, the mean cosine with the clean tokens, over the replaced
      tokens: `denoise_M_cosine` of the rebuilt tokens, `denoise_M_cosine_shuffled` of tokens
      rebuilt with the context of another image, `denoise_M_cosine_noisy` of the noise that replaced
      the tokens. Empty if the CMD loss is off.
    """
    if not cfg.loss.cmd.weight:
        return {}
    cfg = cfg.copy_and_resolve_references()
    if ratio is not None:
        cfg.loss.cmd.ratio = ratio
    size = min(cfg.data.batch_size, len(split.index))
    cfg.data.batch_size = size
    frozen = FrozenConfigDict(cfg)  # hashable, as a static argument of `jit` must be
    params = jax.tree.map(jnp.asarray, params)
    stream = train_batches(split, cfg.data, seed=0, start=0, num_threads=2)
    sums = {modality: np.zeros(3) for modality in noisy_modalities(cfg.loss)}
    count = len(split.index) // size
    try:
        for number, batch in zip(range(count), stream, strict=False):
            batch = {name: jnp.asarray(batch[name]) for name in STEP_FIELDS}
            key = jax.random.fold_in(jax.random.key(0), number)
            for modality in sums:
                cosines = _cosines(params, batch, key, model=model, cfg=frozen, modality=modality)
                sums[modality] += np.asarray(cosines, np.float64)
    finally:
        stream.close()
    names = ("cosine", "cosine_shuffled", "cosine_noisy")
    return {
        f"denoise_{modality}_{name}": float(value)
        for modality, total in sums.items()
        for name, value in zip(names, total / count, strict=True)
    }
