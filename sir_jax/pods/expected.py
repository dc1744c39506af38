"""The traffic that a train step should cause, derived from the config to check the compiler.

The batch is split over the mesh axes `data` and `fsdp` into shards; every chip holds all weights. A
step of B pairs then needs

- an all-reduce of the gradient of every trained parameter over the shards, in the dtype that it is
  computed in: the compute dtype for kernels of dense layers, float32 for the rest. The gradient of
  the fusion encoder is reduced once for each task that uses it;
- an all-gather of all embeddings for the similarities, and as much for their gradient. With a
  teacher also an all-gather of the keys, which are the queue's new rows, too;
- with global mining, an all-gather of all tokens among which hard negatives or noisy tokens are
  chosen; the gradient of a hard negative goes back to the shard of its pair;
- with groups, an all-gather of all embeddings in int8, for the host to keep;
- in logged steps, the contexts of other pairs for the control of denoising.

On several slices a gradient is reduced within each slice (reduce-scatter), then between the slices,
and the result is gathered within each slice (all-gather): the whole array is sent twice.

Masks, ids, random numbers and scalars are ignored; at full size they are less than a thousandth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.objective.switches import frozen_patterns, has_teacher, noisy_modalities
from sir_jax.runtime.sharding import count_slices
from sir_jax.runtime.trees import leaf_paths, split_tree
from sir_jax.training.setup import Setup
from sir_jax.training.stored_features import bucket_frames


class Expected(NamedTuple):
    """Bytes of whole arrays per step, by their purpose."""

    gradients: int
    embeddings: int
    tokens: int
    token_gradients: int
    control: int
    kept: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return sum(self)

    @property
    def text(self) -> str:
        """Return total and parts in MB, in one line."""
        parts = (
            f"{name.replace('_', ' ')} {size / 1e6:.1f}" for name, size in self._asdict().items()
        )
        return f"{self.total / 1e6:.1f} MB: {', '.join(parts)}"


def expected_traffic(setup: Setup, samples: int) -> Expected:
    """Compute the traffic that a train step of one length bucket should cause.

    Args:
      setup: the config on its mesh; every chip holds all weights.
      samples: the length of the bucket.
    """
    cfg, loss, model = setup.cfg, setup.cfg.loss, setup.model
    item, b, e = jnp.dtype(model.dtype).itemsize, cfg.data.batch_size, model.embed_width
    trained, _ = split_tree(setup.abstract.params, frozen_patterns(cfg))
    gradients = sum(
        leaf.size
        * (item if path.endswith("/kernel") and leaf.ndim == 2 else 4)
        * (len(model.fused_tasks) if path.startswith("fusion/") else 1)
        for path, leaf in leaf_paths(trained).items()
    )
    if count_slices(setup.mesh.devices.flat) > 1:
        gradients *= 2
    # For each of the two modalities, in float32: the embeddings, and their gradient or the keys.
    embeddings = 2 * 2 * b * e * 4 if loss.sic.weight or loss.sim.weight else 0
    pooled = 2 * 2 * b * model.pooled_width * 4 if loss.sim.mining == "global" else 0
    speech = b * (1 + bucket_frames(cfg, samples)) * cfg.model.speech.width * item
    image = b * _image_tokens(setup) * model.image_width * item
    size = {"speech": speech, "image": image}
    mined = MODALITIES if "match" in model.tasks and loss.sim.mining == "global" else ()
    noisy = noisy_modalities(loss) if loss.cmd.weight and loss.cmd.source == "global" else ()
    # Image tokens have a gradient only if a Q-Former computes them.
    with_gradient = MODALITIES if model.qformer_spec is not None else ("speech",)
    return Expected(
        gradients=gradients,
        embeddings=embeddings * (2 if has_teacher(loss) else 1) + pooled,
        tokens=sum(size[name] for name in {*mined, *noisy}),
        token_gradients=sum(size[name] for name in {*mined, *noisy} & {*with_gradient}),
        control=sum(size[name] for name in MODALITIES if set(noisy) - {name}),
        kept=2 * b * e if cfg.data.groups else 0,
    )


def _image_tokens(setup: Setup) -> int:
    pixels = jax.ShapeDtypeStruct((1, *2 * (setup.cfg.data.image_size,), 3), jnp.float32)
    encoded = jax.eval_shape(
        lambda params, x: setup.model.apply({"params": params}, x, method="encode_image"),
        setup.abstract.params,
        pixels,
    )
    return encoded.tokens.shape[1]
