"""A model that matches, and the score of each pair computed on its own."""

import jax
import numpy as np
from tiny_models import random_params

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.inference.embed import cut_windows, embed_split
from sir_jax.inference.token_store import TokenStore
from sir_jax.models import build_model

TOLERANCE = 2e-5
# With these parameters the rankings of a split by its four scores differ.
SEED = 7


def matching_model(cfg, dtype="float32"):
    """Return (config, model, parameters); the scores of different pairs lie well apart."""
    cfg = cfg.copy_and_resolve_references()
    cfg.model.dtype = dtype
    model = build_model(cfg.model, ("match",))
    # Smaller kernels would give all pairs almost the same scores.
    params = jax.tree.map(lambda x: 2 * x if x.ndim == 2 else x, random_params(model, SEED))
    # A log-odds then weighs a few times as much as a similarity.
    params["match_head"] = jax.tree.map(lambda x: 0.3 * x, params["match_head"])
    return cfg, model, params


def scores_alone(cfg, model, params, split):
    """Score each pair on its own, windows from the padded encoder output; float64[Ns, Ni]."""

    def apply(method):
        return jax.jit(lambda params, *x: model.apply({"params": params}, *x, method=method))

    encode_speech, encode_image, match = map(apply, ("encode_speech", "encode_image", "match"))
    longest = cfg.data.buckets[-1]
    spec = ImageSpec.from_config(cfg.data)
    pictures = []
    for record in split.records:
        pixels = preprocess_image(load_image(record.image), spec=spec)[None]
        pictures.append(encode_image(params, pixels))
    scores = np.zeros((len(split.index), len(split)))
    for clip, entry in enumerate(split.index):
        cut = cut_windows(load_audio(split[entry["row"]].captions[entry["slot"]].audio), longest)
        for window in cut:
            normal = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
            wave = np.pad(normal, (0, longest - len(normal)))[None].astype(np.float32)
            speech = encode_speech(params, wave, np.array([len(window)]))
            for row, image in enumerate(pictures):
                wrong, right = match(params, speech, image)[0]
                scores[clip, row] += float(right - wrong) / len(cut)
    return scores


class ReadStore(TokenStore):
    """A store that notes the shapes it was read in."""

    def batch(self, indices, length):
        tokens, mask = super().batch(indices, length)
        self.__dict__.setdefault("shapes", []).append(mask.shape)
        return tokens, mask


def fill_stores(case):
    cfg, model, params, split, _ = case
    speech, images = ReadStore(), ReadStore()
    z = embed_split(model, params, split, cfg.data, 4, speech.append, images.append)
    return speech, images, z


def all_pairs(scores):
    return np.stack(np.indices(scores.shape), axis=-1).reshape(-1, 2)
