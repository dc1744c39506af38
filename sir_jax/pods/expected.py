"""What a train step must send, worked out by hand from the config: the check on the compiler.

With n groups of rows (`data` x `fsdp`) and the weights whole on every chip, a step of B pairs must

- add up the gradient of every trained parameter over the groups (all-reduce), in the type that it
  was computed in: the compute type for dense layers' kernels, float32 for the rest; the fusion
  encoder's once for each task that it serves;
- show every group all embeddings, for the similarities (all-gather, and the same back for the
  gradient), and with a teacher the keys as well, which are also the queue's new rows;
- with global mining, show every group all tokens that a hard negative or a noisy token may come
  from (all-gather), and send a hard negative's gradient back to where it came from;
- at logged steps, show denoising the contexts of other pairs, its control.

On several slices a gradient is added up within each (reduce-scatter), its parts between them, and
the sums shown to all of a slice (all-gather): the whole array is sent twice.

Masks, ids, random rows and scalars are left out: below a thousandth of the rest at full size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sir_jax.config.specs import MODALITIES
from sir_jax.objective.switches import frozen_patterns, has_teacher, noisy_modalities
from sir_jax.runtime.sharding import count_slices
from sir_jax.runtime.trees import leaf_paths, split_tree
from sir_jax.training.features import bucket_frames
from sir_jax.training.setup import Setup


class Expected(NamedTuple):
    """Bytes of whole arrays a step, by what they are."""

    gradients: int
    embeddings: int
    tokens: int
    token_gradients: int
    control: int

    @property
    def total(self) -> int:
        """Return all of it."""
        return sum(self)


def expected_traffic(setup: Setup, samples: int) -> Expected:
    """Work out what a train step of one length bucket must send.

    Args:
      setup: the config on its mesh; the weights are whole on every chip.
      samples: of the bucket.
    """
    cfg, loss, model = setup.cfg, setup.cfg.loss, setup.model
    item, b, e = jnp.dtype(model.dtype).itemsize, cfg.data.batch_size, model.embed_width
    trained, _ = split_tree(setup.abstract.params, frozen_patterns(cfg))
    gradients = sum(
        leaf.size
        * (item if path.endswith("/kernel") and leaf.ndim == 2 else 4)
        * (len(model.tasks) if path.startswith("fusion/") else 1)
        for path, leaf in leaf_paths(trained).items()
    )
    if count_slices(setup.mesh.devices.flat) > 1:
        gradients *= 2
    # Of each modality, float32: what is compared with the rows, and its gradient or the keys.
    embeddings = 2 * 2 * b * e * 4 if loss.sic.weight or loss.sim.weight else 0
    speech = b * (1 + bucket_frames(cfg, samples)) * cfg.model.speech.width * item
    image = b * _image_tokens(setup) * model.image_width * item
    size = {"speech": speech, "image": image}
    mined = MODALITIES if loss.sim.weight and loss.sim.mining == "global" else ()
    noisy = noisy_modalities(loss) if loss.cmd.weight and loss.cmd.source == "global" else ()
    # An image's tokens are trained only where a Q-Former makes them.
    learning = MODALITIES if model.qformer_spec is not None else ("speech",)
    return Expected(
        gradients=gradients,
        embeddings=embeddings * (2 if has_teacher(loss) else 1),
        tokens=sum(size[name] for name in {*mined, *noisy}),
        token_gradients=sum(size[name] for name in {*mined, *noisy} & {*learning}),
        control=sum(size[name] for name in MODALITIES if set(noisy) - {name}),
    )


def _image_tokens(setup: Setup) -> int:
    pixels = jax.ShapeDtypeStruct((1, *2 * (setup.cfg.data.image_size,), 3), jnp.float32)
    encoded = jax.eval_shape(
        lambda params, x: setup.model.apply({"params": params}, x, method="encode_image"),
        setup.abstract.params,
        pixels,
    )
    return encoded.tokens.shape[1]
