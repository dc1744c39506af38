"""Pooled match: each token stream becomes one narrow vector, so that a match is a cosine."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import MatchSpec
from sir_jax.models.layers import ACTIVATIONS, Array, dense, layer_norm
from sir_jax.models.speech_head import neighbours, place_distances


class PoolMlp(nn.Module):
    """Two dense layers that start from N(0, 1 / inputs), so that no width slows the start."""

    inputs: int
    hidden: int
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.up = dense(self.hidden, self.dtype, init_std=self.inputs**-0.5)
        self.down = dense(self.width, self.dtype, init_std=self.hidden**-0.5)

    def __call__(self, x: Array) -> Array:
        """Map [B, inputs] to [B, width]."""
        return self.down(ACTIVATIONS["gelu"](self.up(x)))


class Pool(nn.Module):
    """Learnt queries that each read all tokens once, and an MLP over what they read."""

    spec: MatchSpec
    tokens_width: int
    dtype: jnp.dtype = jnp.float32
    places: bool = False  # the tokens are a clip's, and query q reads near its place q
    taps: int = 0  # the tokens are a clip's, of which a convolution of so many comes first

    def setup(self):
        spec, d = self.spec, self.tokens_width
        # Logits of normalised tokens then vary by about 1: the queries differ from the start.
        init = nn.initializers.normal(stddev=d**-0.5)
        self.queries = self.param("queries", init, (spec.queries, d))
        # CLIP's patch tokens are not normalised; see `fusion.Fusion`.
        self.norm = layer_norm(1e-5, self.dtype)
        if self.taps:
            self.convolution = dense(d, self.dtype, init_std=(self.taps * d) ** -0.5)
        self.mlp = PoolMlp(spec.queries * d, spec.hidden, spec.width, self.dtype)

    def __call__(self, tokens: Array, mask: Array) -> Array:
        """Map tokens [B, T, D] and mask [B, T] to [B, F], not normalised."""
        x = self.norm(tokens)
        if self.taps:
            x = self._mix(x, mask)
        logits = jnp.einsum("btd,qd->bqt", x, self.queries.astype(x.dtype)).astype(jnp.float32)
        if self.places:
            # The first token stands for the whole clip, and is as near to every place.
            far = place_distances(mask[:, 1:], self.spec.queries).swapaxes(1, 2)
            logits -= jnp.pad(far, ((0, 0), (0, 0), (1, 0)))
        share = jax.nn.softmax(jnp.where(mask[:, None, :], logits, -1e9), axis=-1)
        read = jnp.einsum("bqt,btd->bqd", share.astype(x.dtype), x)
        return self.mlp(read.reshape(read.shape[0], -1))

    def _mix(self, x: Array, mask: Array) -> Array:
        """Let a clip's frames know their neighbours; its first token stays as it is."""
        # Zeros, as a convolution would read the padding into the last frames.
        frames = jnp.where(mask[:, 1:, None], x[:, 1:], 0)
        mixed = ACTIVATIONS["gelu"](self.convolution(neighbours(frames, self.taps)))
        return jnp.concatenate([x[:, :1], mixed], axis=1)
