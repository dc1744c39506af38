"""The frozen-feature cache as training sees it: what a store must be of, and which one fits.

A store is known by a key, the hash of everything that its contents depend on: the encoder, its
parameters, the preprocessing and the corpus. Training computes the keys from its own state, so a
cache of another checkpoint is never read by mistake.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sir_jax.config.specs import MODALITIES, HubertSpec, VitSpec
from sir_jax.data.corpus import Corpus, Split
from sir_jax.data.feature_store import FeatureReader, Features, Layout, read_manifest
from sir_jax.data.media.audio import longest_window
from sir_jax.data.pipeline import BatchSpec
from sir_jax.errors import UserError
from sir_jax.models.hubert import conv_lengths
from sir_jax.objective.switches import is_frozen
from sir_jax.runtime.trees import leaf_paths

FORMAT = 1

# Hexadecimal digits of a key in a folder's name.
KEY_DIGITS = 12


def frozen_modalities(params, cfg) -> tuple[str, ...]:
    """Return the modalities whose encoder is frozen as a whole.

    Args:
      params: the whole parameter tree, arrays or shapes.
      cfg: the whole config.
    """
    return tuple(m for m in MODALITIES if is_frozen(params, m, cfg))


def cached_modalities(params, cfg) -> tuple[str, ...]:
    """Return the modalities that a run reads from `data.features`; see `frozen_modalities`."""
    return frozen_modalities(params, cfg) if cfg.data.features else ()


def check_cacheable(params, cfg) -> None:
    """Refuse a config whose frozen encoders have nothing constant to store.

    Args:
      params: the whole parameter tree, arrays or shapes.
      cfg: the whole config.

    Raises:
      UserError: nothing is frozen, or what a frozen encoder reads is augmented.
    """
    modalities = frozen_modalities(params, cfg)
    if not modalities:
        raise UserError(
            f"optim.freeze={tuple(cfg.optim.freeze)} freezes neither 'speech' nor 'image' as a "
            "whole: there are no features to store; freeze one, or leave data.features empty"
        )
    spec = BatchSpec.from_config(cfg.data)
    for modality, field, active in (
        ("image", f"data.crop_scale={spec.crop_scale}", spec.crop_scale != (1.0, 1.0)),
        ("image", "data.augment.image", spec.jitter.active),
        ("speech", "data.augment", spec.augment.active),
    ):
        if active and modality in modalities:
            raise UserError(
                f"{field} changes at random what the frozen {modality} encoder reads, which stored "
                "features cannot follow; switch it off, or leave data.features empty"
            )


def longest_clip(cfg, split: Split) -> int | None:
    """Return to how many samples the split's clips are cut, None where all fit a bucket."""
    longest = longest_window(cfg.data)
    return longest if (split.index["samples"] > longest).any() else None


def clip_frames(cfg, split: Split) -> np.ndarray:
    """Return the frames of every caption of a split, int32 [n], as the encoder gives them."""
    samples = np.minimum(split.index["samples"], longest_window(cfg.data))
    return np.asarray(conv_lengths(HubertSpec(**cfg.model.speech), samples), np.int32)


def bucket_frames(cfg, samples: int) -> int:
    """Return the frames of a batch of one length bucket."""
    return int(conv_lengths(HubertSpec(**cfg.model.speech), samples))


def image_tokens(cfg) -> int:
    """Return the tokens of a picture, CLS among them."""
    return 1 + (cfg.model.image.image_size // cfg.model.image.patch) ** 2


def speech_states(cfg) -> int:
    """Return how many encoder states the speech head reads: all to weigh them, or the last."""
    return 1 + cfg.model.speech.layers if cfg.model.head.weigh_layers else 1


def identity(modality: str, params, cfg, corpus: Corpus, split: Split) -> dict[str, Any]:
    """Return everything that a store's contents depend on, as JSON has it.

    Args:
      modality: 'speech' or 'image'.
      params: the whole parameter tree; of the modality's encoder the exact values are hashed.
      cfg: the whole config.
      corpus: the split's.
      split: what is encoded.
    """
    data = cfg.data
    if modality == "speech":
        spec = HubertSpec(**cfg.model.speech)
        stored = "states" if cfg.model.head.weigh_layers else "tokens"
        preprocessing = {
            "normalize_wave": bool(data.normalize_wave),
            "longest_samples": longest_clip(cfg, split),
        }
    else:
        spec, stored = VitSpec(**cfg.model.image), "tokens, pooled"
        preprocessing = {
            "image_size": int(data.image_size),
            "image_mean": [float(x) for x in data.image_mean],
            "image_std": [float(x) for x in data.image_std],
            "image_fit": data.image_fit,
        }
    encoder = dataclasses.asdict(spec)
    # A frozen encoder runs without it.
    del encoder["dropout"]
    leaves = leaf_paths(params[modality])
    found = {
        "format": FORMAT,
        "modality": modality,
        "stored": stored,
        "encoder": encoder,
        "compute_dtype": cfg.model.dtype,
        "param_dtype": sorted({np.dtype(leaf.dtype).name for leaf in leaves.values()}),
        "checkpoint": params_hash(params[modality]),
        "preprocessing": preprocessing,
        "corpus": {
            "name": corpus.name,
            "version": corpus.directory.name,
            "split": split.name,
            "index": hashlib.sha256(split.index.tobytes()).hexdigest(),
        },
    }
    # Tuples become lists, as they are when a manifest is read back.
    return json.loads(json.dumps(found))


def params_hash(params) -> str:
    """Return the SHA-256 of a parameter tree: paths, types, shapes and every value."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaf_paths(params).items()):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            from jax.experimental.multihost_utils import process_allgather

            leaf = process_allgather(leaf, tiled=True)
        value = np.ascontiguousarray(leaf)
        digest.update(f"{path} {value.dtype.name}{list(value.shape)};".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def key_of(found: dict[str, Any]) -> str:
    """Return the key of an identity, hexadecimal."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def store_folder(root: str | Path, found: dict[str, Any]) -> Path:
    """Return where under `root` the store of an identity lies."""
    return Path(root) / f"{found['modality']}-{key_of(found)[:KEY_DIGITS]}"


def make_layout(modality: str, folder: Path, cfg, split: Split, per_shard: int) -> Layout:
    """Return the layout of a split's store; see `Layout`."""
    if modality == "speech":
        sizes, states = clip_frames(cfg, split), speech_states(cfg)
        return Layout(folder, sizes, states, cfg.model.speech.width, per_shard)
    # The pooled vector comes after the tokens.
    sizes = np.full(len(split), image_tokens(cfg) + 1, np.int32)
    return Layout(folder, sizes, 1, cfg.model.image.width, per_shard)


def open_features(params, cfg, corpus: Corpus, split: Split) -> Features | None:
    """Open the stores under `data.features` that fit the frozen encoders of a run.

    Args:
      params: the whole parameter tree, as training has it.
      cfg: the whole config.
      corpus: the split's.
      split: what is trained on.

    Returns:
      None where `data.features` is empty.

    Raises:
      UserError: a frozen modality has no whole store that fits; says what the nearest differs in.
    """
    if not cfg.data.features:
        return None
    readers = {}
    for modality in cached_modalities(params, cfg):
        wanted = identity(modality, params, cfg, corpus, split)
        folder = store_folder(cfg.data.features, wanted)
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(_no_store(cfg.data.features, wanted))
        layout = make_layout(modality, folder, cfg, split, manifest["rows_per_shard"])
        missing = len(layout.missing())
        if missing:
            raise UserError(
                f"{folder} is not complete: {missing} of {layout.shards} files are missing; "
                f"go on with {_command(cfg.data.features, split.name)}"
            )
        readers[modality] = FeatureReader(layout)
    frames = {int(samples): bucket_frames(cfg, samples) for samples in cfg.data.buckets}
    return Features(readers.get("speech"), frames, readers.get("image"))


def _command(root: str, split: str) -> str:
    tail = "" if split == "train" else f" --split={split}"
    return f"`sir-jax data featurize --out={root}{tail}` and this run's --config options"


def _no_store(root: str, wanted: dict[str, Any]) -> str:
    """Say what the store that is nearest to an identity differs in."""
    modality = wanted["modality"]
    manifests = [read_manifest(folder) for folder in sorted(Path(root).glob(f"{modality}-*"))]
    others = [differences(m["identity"], wanted) for m in manifests if m is not None]
    make = f"make them with {_command(root, wanted['corpus']['split'])}"
    if not others:
        return f"data.features={root!r} has no {modality} features; {make}"
    return (
        f"data.features={root!r} has no {modality} features of this run's kind; the nearest differ "
        f"in {'; '.join(min(others, key=len))}; {make}"
    )


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a phrase for each field in which two identities differ."""
    phrases = []
    for name in sorted(there.keys() | here.keys()):
        a, b = there.get(name), here.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            phrases += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            phrases.append(f"{prefix}{name} ({_short(a)} there, {_short(b)} here)")
    return phrases


def _short(value: Any) -> str:
    digest = isinstance(value, str) and len(value) == 64
    return value[:KEY_DIGITS] if digest else repr(value)
