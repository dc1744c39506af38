"""The views of a batch: its tokens and embeddings by the student and by the momentum teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.models import Encoded
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.vit import VitOutput
from sir_jax.objective.switches import is_frozen
from sir_jax.runtime.trees import overlay

Array = jax.Array


class Views(NamedTuple):
    """A batch encoded by the student and, where there is one, by the momentum teacher (`_m`)."""

    speech: Encoded
    image: Encoded
    speech_m: Encoded | None
    image_m: Encoded | None


def best_embeds(views: Views) -> tuple[Array, Array]:
    """Return the embeddings that are trusted most, without a gradient: the teacher's, if any.

    Returns:
      Speech and image, float32 [B, E].
    """
    speech, image = views.speech_m or views.speech, views.image_m or views.image
    return jax.lax.stop_gradient(
        (speech.embed.astype(jnp.float32), image.embed.astype(jnp.float32))
    )


def stored_features(batch, modality: str, dtype) -> HubertOutput | VitOutput | None:
    """Return a frozen encoder's output that is stored in the batch.

    Args:
      batch: fields by name; those of `data.feature_store.Features.read` are looked for.
      modality: 'speech' or 'image'.
      dtype: dtype of the model's computation.

    Returns:
      The encoder's output, or None if the batch does not hold it and it must be computed.
    """
    if modality == "image":
        if "image_tokens" not in batch:
            return None
        tokens, pooled = batch["image_tokens"].astype(dtype), batch["image_pooled"].astype(dtype)
        return VitOutput(tokens, pooled, ())
    if "frames" not in batch:
        return None
    # The store has either all states or the tokens: a head that weighs states reads no tokens.
    tokens, states = None, ()
    if "speech_states" in batch:
        states = jnp.unstack(batch["speech_states"].astype(dtype), axis=1)
    else:
        tokens = batch["speech_tokens"].astype(dtype)
    frames = (states[0] if states else tokens).shape[1]
    return HubertOutput(tokens, jnp.arange(frames)[None, :] < batch["frames"][:, None], states)


def encode(params, ema_params, batch, keys, *, model, cfg, deterministic: bool = False) -> Views:
    """Encode a batch with the student and, where there is one, with the momentum teacher.

    Student and teacher share a frozen encoder. It runs once, without dropout, or not at all if the
    batch holds its output.

    Args:
      params: the whole parameter tree.
      ema_params: the teacher's parameters; None without one.
      batch: fields of `Objective.loss`.
      keys: two random keys, of speech and of images.
      model: from `build_model`.
      cfg: the whole config.
      deterministic: True turns the student's dropout off; the teacher never has any.
    """

    def apply(params, method, *args, key=None):
        rngs = None if key is None else {"dropout": key}
        return model.apply(
            {"params": params}, *args, deterministic=key is None, method=method, rngs=rngs
        )

    teacher = None if ema_params is None else overlay(params, ema_params)
    inputs = {"speech": ("wave", "lengths"), "image": ("pixels",)}
    student, momentum = [], []
    for modality, key in zip(MODALITIES, keys, strict=True):
        frozen = is_frozen(params, modality, cfg)
        key_features, key_embed = jax.random.split(key)
        if deterministic:
            key_features = key_embed = None
        features = stored_features(batch, modality, model.dtype)
        if features is None:
            raw = [batch[name] for name in inputs[modality]]
            features = apply(
                params, f"{modality}_features", *raw, key=None if frozen else key_features
            )
        student.append(apply(params, f"embed_{modality}", features, key=key_embed))
        if teacher is None:
            momentum.append(None)
            continue
        with jax.named_scope("teacher"):
            if not frozen:
                features = apply(teacher, f"{modality}_features", *raw)
            momentum.append(apply(teacher, f"embed_{modality}", features))
    return Views(*student, *jax.lax.stop_gradient(momentum))
