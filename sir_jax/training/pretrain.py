"""Make the small encoders that ship with sir_jax: each learns from text, neither meets the other.

Speech learns to spell the words it hears (CTC, Graves et al. 2006), images learn which words, and
which pairs of neighbouring words, their captions hold (sigmoid cross-entropy over both): the pairs
tell a red circle and a blue star from a blue circle and a red star. No speech is ever paired with
an image here; that is what `sir-jax train` does.
"""

import dataclasses
import functools
import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sir_jax import pretrained
from sir_jax.data.builders.spoken_scenes import words_of
from sir_jax.data.corpus import Split
from sir_jax.data.pipeline import train_batches
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec, VitSpec
from sir_jax.models.hubert import Hubert
from sir_jax.models.vit import Vit

MAX_WORDS = 24  # longer than any caption of levels one, two and compositional


@dataclasses.dataclass(frozen=True)
class Options:
    """How long and how fast an encoder learns, and where it goes.

    Attributes:
      out: the folder that gets TOWER/model.safetensors.
      init: an encoder to start from, as `config.init` has; '' for random weights.
      steps: of the schedule.
      until: the step of the schedule at which to stop; 0 for the last.
      learning_rate: the largest of the schedule.
      seed: of the batches and of dropout.
      log_every, save_every: steps.
    """

    out: str
    init: str = ""
    steps: int = 4000
    until: int = 0
    learning_rate: float = 1e-3
    seed: int = 0
    log_every: int = 50
    save_every: int = 500


class Transcripts:
    """The words of every caption of a split, as the targets of both objectives."""

    def __init__(self, split: Split, vocabulary: list[str]):
        number = {word: i + 1 for i, word in enumerate(vocabulary)}  # 0 is CTC's blank
        self._words: dict[int, list[int]] = {}
        self._image_tags: dict[int, set[int]] = {}
        classes = 1 + len(vocabulary)
        for row in range(len(split)):
            record = split[row]
            for caption in record.captions:
                words = [number[word] for word in words_of(caption.text)]
                self._words[caption.caption_id] = words
                pairs = (classes * (1 + a) + b for a, b in itertools.pairwise(words))
                self._image_tags.setdefault(record.image_id, set()).update(words, pairs)
        self._classes = classes

    def labels(self, caption_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return word numbers [B, MAX_WORDS] and a mask that is 1 where there is no word."""
        labels = np.zeros((len(caption_ids), MAX_WORDS), np.int32)
        padding = np.ones(labels.shape, np.float32)
        for i, caption_id in enumerate(caption_ids):
            words = self._words[int(caption_id)]
            labels[i, : len(words)] = words
            padding[i, : len(words)] = 0.0
        return labels, padding

    def tags(self, image_ids: np.ndarray) -> np.ndarray:
        """Return 1 for each word and pair of words that some caption of the image holds.

        [B, C (1 + C)] with C = 1 + vocabulary: the words, then every pair (a, b) at C (1 + a) + b.
        """
        tags = np.zeros((len(image_ids), self._classes * (1 + self._classes)), np.float32)
        for i, image_id in enumerate(image_ids):
            tags[i, list(self._image_tags[int(image_id)])] = 1.0
        return tags


def speech_loss(params, batch, rng, *, module: Hubert, deterministic: bool):
    """Return the CTC loss a word and the share of clips whose words are all right."""
    out = module.apply(
        {"params": params["encoder"]},
        batch["wave"],
        batch["lengths"],
        deterministic,
        rngs={"dropout": rng},
    )
    logits = out.tokens @ params["head"]["kernel"] + params["head"]["bias"]  # [B, T, 1 + words]
    frame_padding = 1.0 - out.mask.astype(jnp.float32)
    labels, padding = batch["labels"], batch["padding"]
    loss = optax.ctc_loss(logits, frame_padding, labels, padding)
    loss = loss.sum() / (1.0 - padding).sum()
    # Greedy decoding: drop repeats and blanks, then compare with the transcript.
    best = jnp.where(out.mask, logits.argmax(-1), 0)
    first = jnp.concatenate([jnp.ones((len(best), 1), bool), best[:, 1:] != best[:, :-1]], axis=1)
    spoken = first & (best > 0)
    slot = jnp.where(spoken, jnp.cumsum(spoken, axis=1) - 1, MAX_WORDS)
    decoded = jnp.zeros((len(best), MAX_WORDS + 1), best.dtype)
    decoded = decoded.at[jnp.arange(len(best))[:, None], slot].set(best)[:, :MAX_WORDS]
    return loss, (decoded == labels).all(axis=1).mean()


def image_loss(params, batch, rng, *, module: Vit, deterministic: bool):
    """Return the sigmoid cross-entropy over tags and the share of tags told rightly."""
    out = module.apply(
        {"params": params["encoder"]}, batch["pixels"], deterministic, rngs={"dropout": rng}
    )
    logits = out.pooled @ params["head"]["kernel"] + params["head"]["bias"]
    loss = optax.sigmoid_binary_cross_entropy(logits, batch["tags"]).sum(axis=-1).mean()
    # Of the tags that are there, how many stand above every tag that is not.
    absent = jnp.where(batch["tags"] > 0, -jnp.inf, logits).max(axis=-1, keepdims=True)
    right = ((logits > absent) & (batch["tags"] > 0)).sum() / batch["tags"].sum()
    return loss, right


def _mixed_batches(splits, transcripts, data_cfg, tower, seed):
    """Yield batches of each corpus in turn, with the fields that the tower's objective reads."""
    streams = [
        train_batches(split, data_cfg, seed=seed, start=0, num_threads=2) for split in splits
    ]
    for i in itertools.count():
        batch, words = next(streams[i % len(streams)]), transcripts[i % len(streams)]
        if tower == "speech":
            labels, padding = words.labels(batch["caption_ids"])
            yield {
                "wave": batch["wave"],
                "lengths": batch["lengths"],
                "labels": labels,
                "padding": padding,
            }
        else:
            yield {"pixels": batch["pixels"], "tags": words.tags(batch["image_ids"])}


def _init(tower: str, spec: HubertSpec | VitSpec, words: int, source: str):
    key, classes = jax.random.key(0), 1 + words
    if tower == "speech":
        module, loss = Hubert(spec), speech_loss
        args = jnp.zeros((1, spec.min_samples)), jnp.full((1,), spec.min_samples)
        bias = 0.0
    else:
        module, loss = Vit(spec), image_loss
        args = (jnp.zeros((1, spec.image_size, spec.image_size, 3)),)
        classes *= 1 + classes
        bias = -5.0  # most tags are absent; from 0 the first hundred steps only learn that
    if source:
        found, encoder = pretrained.load(source)
        if found != spec:
            raise UserError(f"{source} holds {found}, and tower {tower!r} is {spec}")
    else:
        encoder = jax.jit(module.init)(key, *args)["params"]
    head = {
        "kernel": 0.02 * jax.random.normal(key, (spec.width, classes)),
        "bias": jnp.full((classes,), bias),
    }
    return {"encoder": encoder, "head": head}, functools.partial(loss, module=module)


def pretrain(tower: str, spec, splits, vocabulary, data_cfg, options: Options) -> dict:
    """Train one tower and return its encoder's parameters.

    Args:
      tower: 'speech' or 'image'.
      spec: the encoder's shape.
      splits: the training splits, drawn from in turn.
      vocabulary: every word that a caption may hold.
      data_cfg: `config.data`.
      options: schedule, files and seed.
    """
    transcripts = [Transcripts(split, vocabulary) for split in splits]
    params, loss_fn = _init(tower, spec, len(vocabulary), options.init)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, max(1, options.steps // 20), options.steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, batch, rng):
        grad = jax.value_and_grad(functools.partial(loss_fn, deterministic=False), has_aux=True)
        (loss, right), grads = grad(params, batch, rng)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, right

    opt_state = tx.init(params)
    started = time.time()
    batches = _mixed_batches(splits, transcripts, data_cfg, tower, options.seed)
    last = options.until or options.steps
    for i, batch in zip(range(1, last + 1), batches, strict=False):
        rng = jax.random.fold_in(jax.random.key(options.seed), i)
        params, opt_state, loss, right = step(params, opt_state, batch, rng)
        if i % options.log_every == 0 or i == last:
            print(
                f"{tower} step {i}/{options.steps} loss {loss:.4f} right {100 * right:.1f} % "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
        if i % options.save_every == 0 or i == last:
            # Half precision: the files live in the repository.
            pretrained.save(
                Path(options.out) / tower, spec, jax.device_get(params["encoder"]), dtype=np.float16
            )
    return params["encoder"]
