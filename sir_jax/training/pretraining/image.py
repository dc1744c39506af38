"""The small image encoder's objective: which words, and pairs of neighbours, its captions hold.

Sigmoid cross-entropy over both: the pairs tell a red circle and a blue star from a blue circle and
a red star.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sir_jax import pretrained
from sir_jax.config.specs import VitSpec
from sir_jax.data.builders.spoken_scenes import words_of
from sir_jax.data.corpus import Split
from sir_jax.data.pipeline import train_batches
from sir_jax.errors import UserError
from sir_jax.models.vit import Vit
from sir_jax.training.pretraining.run import Options, run


class Tags:
    """The words of every image's captions, and their pairs, as numbers."""

    def __init__(self, split: Split, vocabulary: list[str]):
        number = {word: i + 1 for i, word in enumerate(vocabulary)}
        self._tags: dict[int, set[int]] = {}
        self._classes = 1 + len(vocabulary)
        for row in range(len(split)):
            record = split[row]
            for caption in record.captions:
                words = [number[word] for word in words_of(caption.text)]
                pairs = (self._classes * (1 + a) + b for a, b in itertools.pairwise(words))
                self._tags.setdefault(record.image_id, set()).update(words, pairs)

    def of(self, image_ids: np.ndarray) -> np.ndarray:
        """Return 1 for each word and pair of words that some caption of the image holds.

        [B, C (1 + C)] with C = 1 + vocabulary: the words, then every pair (a, b) at C (1 + a) + b.
        """
        tags = np.zeros((len(image_ids), self._classes * (1 + self._classes)), np.float32)
        for i, image_id in enumerate(image_ids):
            tags[i, list(self._tags[int(image_id)])] = 1.0
        return tags


def image_loss(params, batch, rng, *, module: Vit):
    """Return the sigmoid cross-entropy over tags, and the terms of the log.

    Args:
      params: of the encoder and of its head.
      batch: pixels [B, h, w, 3] and tags [B, classes].
      rng: of dropout; None for none.
      module: the encoder.
    """
    rngs = None if rng is None else {"dropout": rng}
    out = module.apply({"params": params["encoder"]}, batch["pixels"], rng is None, rngs=rngs)
    logits = out.pooled @ params["head"]["kernel"] + params["head"]["bias"]
    loss = optax.sigmoid_binary_cross_entropy(logits, batch["tags"]).sum(axis=-1).mean()
    # Of the tags that are there, how many stand above every tag that is not.
    absent = jnp.where(batch["tags"] > 0, -jnp.inf, logits).max(axis=-1, keepdims=True)
    right = ((logits > absent) & (batch["tags"] > 0)).sum() / batch["tags"].sum()
    return loss, {"loss": loss, "right": right}


def init_image(spec: VitSpec, words: int, init: str, seed: int) -> dict:
    """Return the parameters of an encoder and its head.

    Args:
      spec: the encoder's shape.
      words: of the vocabulary.
      init: an encoder to start from; '' for random weights.
      seed: of random weights.

    Raises:
      UserError: `init` holds another shape.
    """
    key, classes = jax.random.key(seed), 1 + words
    classes *= 1 + classes
    if init:
        found, encoder = pretrained.load(init)
        if found != spec:
            raise UserError(f"{init} holds {found}, and tower 'image' is {spec}")
    else:
        pixels = jnp.zeros((1, spec.image_size, spec.image_size, 3))
        encoder = jax.jit(Vit(spec).init)(key, pixels)["params"]
    head = {
        "kernel": 0.02 * jax.random.normal(key, (spec.width, classes)),
        # Most tags are absent; from 0 the first hundred steps only learn that.
        "bias": jnp.full((classes,), -5.0),
    }
    return {"encoder": encoder, "head": head}


def pretrain_image(spec: VitSpec, splits, vocabulary, data_cfg, options: Options) -> dict:
    """Train an image encoder and return its parameters.

    Args:
      spec: the encoder's shape.
      splits: the training splits, drawn from in turn.
      vocabulary: every word that a caption may hold.
      data_cfg: `config.data`.
      options: schedule, files and seed.
    """
    tags = [Tags(split, vocabulary) for split in splits]

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        streams = [
            train_batches(
                split, data_cfg, seed=options.seed, start=start // len(splits), num_threads=2
            )
            for split in splits
        ]
        for i in itertools.count(start):
            batch = next(streams[i % len(streams)])
            yield {
                "pixels": batch["pixels"],
                "tags": tags[i % len(streams)].of(batch["image_ids"]),
            }

    def save(params: dict) -> None:
        # Half precision: the files live in the repository.
        folder = Path(options.out) / "image"
        pretrained.save(folder, spec, params["encoder"], dtype=np.float16)

    params = init_image(spec, len(vocabulary), options.init, seed=0)
    loss_fn = functools.partial(image_loss, module=Vit(spec))
    return run(params, loss_fn, batches, options, save)["encoder"]
