"""Late interaction: each frame of a clip finds the token of the picture that is most like it."""

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.models.layers import Array, dense, unit_norm


class Late(nn.Module):
    """ColBERT's sum of maxima (arXiv 2004.12832) as a mean, which FILIP takes (arXiv 2111.07783).

    Of speech and picture it goes one way: what is said must be seen, but what is seen need not be
    said.
    """

    width: int
    speech_width: int
    image_width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.speech_in, self.image_in = (
            dense(self.width, self.dtype, use_bias=False, init_std=inputs**-0.5)
            for inputs in (self.speech_width, self.image_width)
        )
        # Of the similarity as log-odds; the scale is kept as its logarithm.
        self.scale = self.param("scale", nn.initializers.constant(2.3), ())
        self.bias = self.param("bias", nn.initializers.zeros, ())

    def __call__(self, speech: Array, mask: Array, image: Array, image_mask: Array) -> Array:
        """Return the log-odds that pairs match: exp(scale) s + bias.

        s is the mean over a clip's valid frames of `cosines`' maximum over the picture's tokens.
        Tokens that tie for a maximum share its gradient evenly.

        Args:
          speech: [B, 1 + T, D_s]; the first token stands for the whole clip and is not counted.
          mask: True for valid tokens of speech, [B, 1 + T].
          image: [B, P, D_i].
          image_mask: True for valid tokens of images, [B, P].

        Returns:
          float32 [B].
        """
        best = self.cosines(speech, image, image_mask).max(axis=-1)
        counted = mask[:, 1:]
        total = jnp.where(counted, best, 0.0).sum(axis=-1)
        similarity = total / jnp.maximum(counted.sum(axis=-1), 1)
        return jnp.exp(self.scale) * similarity + self.bias

    def cosines(self, speech: Array, image: Array, image_mask: Array) -> Array:
        """Return the cosine of each frame with each token of its picture, both projected.

        Args:
          speech, image, image_mask: as `__call__` has them.

        Returns:
          float32 [B, T, P]; -2, below every cosine, for tokens that are not valid.
        """
        frames, tokens = unit_norm(self.speech_in(speech[:, 1:])), unit_norm(self.image_in(image))
        cosines = jnp.einsum("btf,bpf->btp", frames, tokens)
        return jnp.where(image_mask[:, None, :], cosines, -2.0)
