"""Features of frozen encoders, written once and read at every step of training.

Speech: the last hidden states, or all of them where `model.head.weigh_layers` is on; images: the
tokens and the pooled vector; all in bfloat16. A clip longer than the longest of `data.buckets` is
cut to its first so many samples. Augmentation that keeps a clip's length is drawn once a clip, and
stored. Stopped at any moment, the same call goes on where it was.
"""

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from sir_jax.data.corpus import Corpus, Split
from sir_jax.data.feature_store import (
    Layout,
    read_manifest,
    rows_per_shard,
    shard_writer,
    write_manifest,
)
from sir_jax.data.media.audio import longest_window, normalize_waveform
from sir_jax.data.media.augment.apply import augment_wave
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.data.parallel import ordered_map
from sir_jax.data.pipeline import read_clip, read_image
from sir_jax.errors import UserError
from sir_jax.runtime import sharding
from sir_jax.runtime.console import say
from sir_jax.runtime.locks import only_one
from sir_jax.training.setup import prepare
from sir_jax.training.stored_features import (
    check_cacheable,
    frozen_modalities,
    identity,
    key_of,
    longest_clip,
    make_layout,
    store_folder,
)

SAMPLE_RATE = 16_000

_DRAW = 0xFEA7  # the stream of random numbers that augment what is stored
NOUNS = {"speech": "clip", "image": "picture"}


def featurize(cfg, corpus: Corpus, split: str, out: Path, batch_size: int) -> list[Path]:
    """Write the stores of a config's frozen encoders, or what is missing of them.

    Args:
      cfg: the whole config.
      corpus: to read.
      split: its name in the corpus.
      out: gets one folder a modality.
      batch_size: rows that are encoded at once; more where the devices' number asks for it.

    Returns:
      The folders.

    Raises:
      UserError: a config that freezes nothing or augments what it freezes, no such split, a
        disk that is too small, or a clip or picture that cannot be decoded.
    """
    mesh = sharding.make_mesh(cfg.mesh)
    setup = prepare(cfg, mesh)
    check_cacheable(setup.abstract.params, cfg)
    records = corpus.to_learn(cfg.data).split(split)
    # The whole state, as in training: a random encoder then has the same values there and here.
    model, params = setup.model, setup.create_state().params
    layouts = {}
    for modality in frozen_modalities(params, cfg):
        found = identity(modality, params, cfg, corpus, records)
        folder = store_folder(out, found)
        manifest = read_manifest(folder) or _new_manifest(modality, found, cfg, records, batch_size)
        rows = manifest["rows_per_shard"]
        layouts[modality] = make_layout(modality, folder, cfg, records, rows), manifest
    _check_room(out, [layout for layout, _ in layouts.values()], cfg, records)
    for modality, (layout, manifest) in layouts.items():
        with only_one(layout.folder, "out"):
            if read_manifest(layout.folder) not in (None, manifest):
                raise UserError(f"{layout.folder} was made by another process; run this again")
            write_manifest(layout.folder, manifest)
            _write_store(modality, layout, model, params, cfg, records, mesh, batch_size)
    return [layout.folder for layout, _ in layouts.values()]


def _new_manifest(modality: str, found: dict, cfg, split: Split, batch_size: int) -> dict:
    whole = make_layout(modality, Path(), cfg, split, 1)
    return {
        "key": key_of(found),
        "identity": found,
        "initialised_from": cfg.init.model or cfg.init[modality] or f"random, seed {cfg.seed}",
        "dtype": "bfloat16",
        "records": len(whole.sizes),
        "states": whole.states,
        "width": whole.width,
        "bytes": whole.row_bytes(),
        "rows_per_shard": rows_per_shard(
            whole.sizes, whole.states, whole.width, least=2 * batch_size
        ),
    }


def _check_room(out: Path, layouts: list[Layout], cfg, split: Split) -> None:
    """Say how large the stores will be, known from headers alone, and that the disk can take it."""
    needed = 0
    for layout in layouts:
        modality = layout.folder.name.partition("-")[0]
        mean = layout.row_bytes() / len(layout.sizes)
        say(
            f"{modality}: {len(layout.sizes):,} {NOUNS[modality]}s x {layout.states} x "
            f"{layout.sizes.mean():.1f} x {layout.width} in bfloat16, {_size(mean)} each: "
            f"{_size(layout.row_bytes())} in {layout.folder}, files: {layout.shards}"
        )
        needed += sum(layout.row_bytes(layout.shard_rows(shard)) for shard in layout.missing())
        if modality == "speech" and longest_clip(cfg, split):
            longest = longest_clip(cfg, split)
            count = int((split.index["samples"] > longest).sum())
            say(
                f"{count:,} of {len(layout.sizes):,} clips are longer than the longest bucket, "
                f"{longest:,} samples, and are cut to their first {longest:,}"
            )
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    # A file's blocks have headers of half a per cent.
    if 1.01 * needed > free:
        raise UserError(
            f"{out} needs {_size(1.01 * needed)} and has {_size(free)} free; make room, "
            "choose another disk, or store one state (model.head.weigh_layers=False)"
        )


def _size(count: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def _write_store(
    modality: str, layout: Layout, model, params, cfg, split: Split, mesh: Mesh, batch_size: int
) -> None:
    """Encode and write the shards that are missing."""
    missing = layout.missing()
    if not missing:
        say(f"{layout.folder} is complete already")
        return
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    count = -(-batch_size // parts) * parts
    program, place = _compiled(model, modality, layout.states, mesh), sharding.batch_sharding(mesh)

    def encode(*inputs: np.ndarray) -> jax.Array:
        return program(params, *jax.device_put(inputs, place))

    load, buckets = _loader(modality, cfg, split), tuple(cfg.data.buckets)

    def batches(rows: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        items = ordered_map(load, rows)
        while group := list(itertools.islice(items, count)):
            yield _stacked(modality, group, count, buckets)

    done, began = np.concatenate([layout.shard_rows(k) for k in missing]), time.perf_counter()
    # Into a file, a line a half minute; on a terminal, twice a second.
    bar = tqdm(
        total=len(layout.sizes),
        initial=len(layout.sizes) - len(done),
        desc=modality,
        unit=f" {NOUNS[modality]}s",
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )
    with bar:
        for shard in missing:
            rows = layout.shard_rows(shard)
            with shard_writer(layout.shard_path(shard)) as write:
                for group, features in _encoded(rows, batches(rows), count, encode):
                    # Shorter than the batch where it was filled.
                    for row, record in zip(group, features, strict=False):
                        write(record[:, : layout.sizes[row]])
                    bar.update(len(group))
    seconds = time.perf_counter() - began
    speed = f"{len(done) / seconds:,.1f} {NOUNS[modality]}s/s"
    if modality == "speech":
        audio = split.index["samples"][done].sum(dtype=np.int64) / SAMPLE_RATE
        speed += f", {audio / seconds:,.0f} s of audio/s"
    say(
        f"{modality}: {len(done):,} {NOUNS[modality]}s in {seconds:.1f} s, {speed}, "
        f"{_size(layout.row_bytes(done))} written to {layout.folder}"
    )


def _compiled(model, modality: str, states: int, mesh: Mesh) -> Callable:
    """Return the program that encodes a batch: (params, inputs) -> bfloat16 [B, L, T, D]."""

    def encode(params, *inputs):
        out = model.apply({"params": params}, *inputs, method=f"{modality}_features")
        if modality == "image":
            x = jnp.concatenate([out.tokens, out.pooled[:, None]], axis=1)[:, None]
        else:
            x = out.tokens[:, None] if states == 1 else jnp.stack(out.states, axis=1)
        return x.astype(jnp.bfloat16)

    return jax.jit(encode, out_shardings=sharding.batch_sharding(mesh))


def _loader(modality: str, cfg, split: Split) -> Callable[[int], np.ndarray]:
    """Return the function that reads what the encoder gets of a row: samples [N] or pixels."""
    if modality == "image":
        spec = ImageSpec.from_config(cfg.data)
        return lambda row: preprocess_image(read_image(split, split[int(row)]), spec)
    longest, augment = longest_window(cfg.data), AugmentSpec.from_config(cfg.data.augment)

    def clip(row: int) -> np.ndarray:
        entry = split.index[row]
        wave = read_clip(split, split[int(entry["row"])], entry)[:longest]
        samples = len(wave)
        wave = augment_wave(wave, augment, np.random.default_rng((cfg.seed, _DRAW, int(row))))
        assert len(wave) == samples  # the store's sizes are known before its clips are read
        return normalize_waveform(wave) if cfg.data.normalize_wave else wave

    return clip


def _stacked(
    modality: str, items: list[np.ndarray], count: int, buckets: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Return a batch of `count` rows, filled up with copies, in the shape of a length bucket."""
    items = items + items[-1:] * (count - len(items))
    if modality == "image":
        return (np.stack(items),)
    lengths = np.array([len(clip) for clip in items], np.int32)
    wave = np.zeros((count, next(b for b in buckets if b >= lengths.max())), np.float32)
    for row, clip in enumerate(items):
        wave[row, : len(clip)] = clip
    return wave, lengths


def _encoded(
    rows: np.ndarray, batches: Iterable[tuple[np.ndarray, ...]], count: int, encode: Callable
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encode batches; each is brought to the host while the devices run the next one.

    Yields:
      Up to `count` of the rows, in order, and bfloat16 [count, L, T, D], the filling at the end.
    """
    waiting = None
    for first, inputs in zip(itertools.count(0, count), batches, strict=False):
        started = rows[first : first + count], encode(*inputs)
        if waiting is not None:
            yield waiting[0], np.asarray(waiting[1])
        waiting = started
    yield waiting[0], np.asarray(waiting[1])
