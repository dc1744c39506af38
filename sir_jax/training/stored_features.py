"""Stored features in training: which modalities can be stored, and which store fits a run.

A store has a key, the hash of everything that its contents depend on: the encoder, its parameters,
the preprocessing and the corpus. Training computes the key from its own state, so it can never read
the features of another checkpoint.
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
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.pipeline import BatchSpec
from sir_jax.errors import UserError
from sir_jax.models.hubert import conv_lengths
from sir_jax.objective.switches import is_frozen
from sir_jax.runtime.trees import leaf_paths

FORMAT = 1

# Number of hexadecimal digits of a key in a folder's name.
KEY_DIGITS = 12


def frozen_modalities(params, cfg) -> tuple[str, ...]:
    """Return the modalities whose encoder has no trainable parameter.

    Args:
      params: the whole parameter tree, arrays or shapes.
      cfg: the whole config.
    """
    return tuple(m for m in MODALITIES if is_frozen(params, m, cfg))


def cached_modalities(params, cfg) -> tuple[str, ...]:
    """Return the modalities that a run reads from `data.features`: the frozen ones, or none."""
    return frozen_modalities(params, cfg) if cfg.data.features else ()


def check_cacheable(params, cfg) -> None:
    """Check that the outputs of a config's frozen encoders can be stored.

    Args:
      params: the whole parameter tree, arrays or shapes.
      cfg: the whole config.

    Raises:
      UserError: no encoder is frozen, the input of a frozen one is augmented in a way that cannot
        be stored, or the match reads what is not stored.
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
        ("speech", "data.augment", not spec.augment.can_be_stored),
    ):
        if active and modality in modalities:
            means = ".speed, .tempo, .silence or a folder" if modality == "speech" else ""
            raise UserError(
                f"{field}{means} changes at random what the frozen {modality} encoder reads, which "
                "stored features cannot follow; switch it off, or leave data.features empty"
            )
    if "speech" in modalities and cfg.model.match.frames and cfg.model.head.weigh_layers:
        raise UserError(
            "model.match.frames reads the encoder's last frames, and model.head.weigh_layers has "
            "hidden states stored in their place; switch one off, or leave data.features empty"
        )


def longest_clip(cfg, split: Split) -> int | None:
    """Return the length in samples that clips of a split are cut to; None if none is cut."""
    longest = longest_window(cfg.data)
    return longest if (split.index["samples"] > longest).any() else None


def clip_frames(cfg, split: Split) -> np.ndarray:
    """Return the number of encoder frames of each caption of a split, int32 [n]."""
    samples = np.minimum(split.index["samples"], longest_window(cfg.data))
    return np.asarray(conv_lengths(HubertSpec(**cfg.model.speech), samples), np.int32)


def bucket_frames(cfg, samples: int) -> int:
    """Return the number of encoder frames of a length bucket."""
    return int(conv_lengths(HubertSpec(**cfg.model.speech), samples))


def image_tokens(cfg) -> int:
    """Return the number of an image's tokens, including CLS."""
    return 1 + (cfg.model.image.image_size // cfg.model.image.patch) ** 2


def speech_states(cfg) -> int:
    """Return the number of hidden states that the speech head reads: all, or the last one."""
    return 1 + cfg.model.speech.layers if cfg.model.head.weigh_layers else 1


def identity(modality: str, params, cfg, corpus: Corpus, split: Split) -> dict[str, Any]:
    """Return the identity of a store: everything that its contents depend on, as plain JSON.

    Args:
      modality: 'speech' or 'image'.
      params: the whole parameter tree; the values of the modality's encoder are hashed.
      cfg: the whole config.
      corpus: the corpus of the split.
      split: the split that is encoded.
    """
    data = cfg.data
    if modality == "speech":
        spec = HubertSpec(**cfg.model.speech)
        stored = "states" if cfg.model.head.weigh_layers else "tokens"
        preprocessing = {
            "normalize_wave": bool(data.normalize_wave),
            "longest_samples": longest_clip(cfg, split),
        }
        augment = AugmentSpec.from_config(data.augment)
        if augment.active:
            # One draw a clip, by the run's seed and the clip's row.
            drawn = {field: value for field, value in vars(augment).items() if value is not None}
            preprocessing |= {"augment": drawn, "seed": int(cfg.seed)}
    else:
        spec, stored = VitSpec(**cfg.model.image), "tokens, pooled"
        preprocessing = {
            "image_size": int(data.image_size),
            "image_mean": [float(x) for x in data.image_mean],
            "image_std": [float(x) for x in data.image_std],
            "image_fit": data.image_fit,
        }
    encoder = dataclasses.asdict(spec)
    # A frozen encoder runs without dropout.
    del encoder["dropout"]
    leaves = leaf_paths(params[modality])
    fields = {
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
    # Tuples become lists, as they do in a manifest.
    return json.loads(json.dumps(fields))


def params_hash(params) -> str:
    """Return the SHA-256 of a parameter tree: its paths, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaf_paths(params).items()):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            from jax.experimental.multihost_utils import process_allgather

            leaf = process_allgather(leaf, tiled=True)
        value = np.ascontiguousarray(leaf)
        digest.update(f"{path} {value.dtype.name}{list(value.shape)};".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def key_of(fields: dict[str, Any]) -> str:
    """Return the key of an identity, a hexadecimal hash."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def store_folder(root: str | Path, fields: dict[str, Any]) -> Path:
    """Return the folder in `root` for the store of an identity."""
    return Path(root) / f"{fields['modality']}-{key_of(fields)[:KEY_DIGITS]}"


def make_layout(modality: str, folder: Path, cfg, split: Split, per_shard: int) -> Layout:
    """Return the layout of a split's store.

    Args:
      modality: 'speech' or 'image'.
      folder: folder of the store.
      cfg: the whole config.
      split: the split that is stored.
      per_shard: number of rows per shard.
    """
    if modality == "speech":
        sizes, states = clip_frames(cfg, split), speech_states(cfg)
        return Layout(folder, sizes, states, cfg.model.speech.width, per_shard)
    # The pooled vector comes after the tokens.
    sizes = np.full(len(split), image_tokens(cfg) + 1, np.int32)
    return Layout(folder, sizes, 1, cfg.model.image.width, per_shard)


def open_features(params, cfg, corpus: Corpus, split: Split) -> Features | None:
    """Open the stores in `data.features` that fit the frozen encoders of a run.

    Args:
      params: the parameters of the run, the whole tree.
      cfg: the whole config.
      corpus: the corpus of the split.
      split: the split that is trained on.

    Returns:
      The stored features; None if `data.features` is empty.

    Raises:
      UserError: a frozen modality has no complete store that fits. The message names the
        differences to the most similar one.
    """
    if not cfg.data.features:
        return None
    readers = {}
    for modality in cached_modalities(params, cfg):
        fields = identity(modality, params, cfg, corpus, split)
        folder = store_folder(cfg.data.features, fields)
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(_no_store(cfg.data.features, fields))
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


def _no_store(root: str, fields: dict[str, Any]) -> str:
    """Return the error message for a missing store, with the differences to the most similar."""
    modality = fields["modality"]
    manifests = [read_manifest(folder) for folder in sorted(Path(root).glob(f"{modality}-*"))]
    others = [differences(m["identity"], fields) for m in manifests if m is not None]
    make = f"make them with {_command(root, fields['corpus']['split'])}"
    if not others:
        return f"data.features={root!r} has no {modality} features; {make}"
    return (
        f"data.features={root!r} has no {modality} features of this run's kind; the nearest differ "
        f"in {'; '.join(min(others, key=len))}; {make}"
    )


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a phrase for each field in which two identities differ.

    Args:
      there: identity of an existing store.
      here: identity that is needed.
      prefix: prepended to names of fields.
    """
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
