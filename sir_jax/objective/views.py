"""A batch as the encoders see it: tokens and embeddings of the student and of its teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.models import Encoded
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.vit import VitOutput
from sir_jax.objective.switches import is_frozen
from sir_jax.runtime.trees import overlay


class Views(NamedTuple):
    """A batch as the student and, where there is one, the momentum teacher see it."""

    speech: Encoded
    image: Encoded
    speech_m: Encoded | None
    image_m: Encoded | None


def stored_features(batch, modality: str, dtype) -> HubertOutput | VitOutput | None:
    """Return what a batch brings of a frozen encoder's output, None where that is to be computed.

    Args:
      batch: with the fields of `sir_jax.data.feature_store.Features.read`, or without.
      modality: 'speech' or 'image'.
      dtype: of the model's computation.
    """
    if modality == "image":
        if "image_tokens" not in batch:
            return None
        tokens, pooled = batch["image_tokens"].astype(dtype), batch["image_pooled"].astype(dtype)
        return VitOutput(tokens, pooled, ())
    if "frames" not in batch:
        return None
    # A head that weighs all states has no use for the tokens, which are not stored beside them.
    tokens, states = None, ()
    if "speech_states" in batch:
        states = jnp.unstack(batch["speech_states"].astype(dtype), axis=1)
    else:
        tokens = batch["speech_tokens"].astype(dtype)
    frames = (states[0] if states else tokens).shape[1]
    return HubertOutput(tokens, jnp.arange(frames)[None, :] < batch["frames"][:, None], states)


def encode(params, ema_params, batch, keys, *, model, cfg, deterministic: bool = False) -> Views:
    """Encode a batch once by the student and, where there is one, once by the teacher.

    A frozen encoder is the same for both: it is run once, without dropout, or not at all where the
    batch brings its output. `deterministic` leaves out the student's dropout as well.
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
        if not frozen:
            features = apply(teacher, f"{modality}_features", *raw)
        momentum.append(apply(teacher, f"embed_{modality}", features))
    return Views(*student, *jax.lax.stop_gradient(momentum))
