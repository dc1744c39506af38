"""Layers shared by every encoder: activations, normalisation, attention, transformer block."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from sir_jax.config.specs import REMAT
from sir_jax.models.attention import attend, attention_weights

Array = jax.Array

# Gain-free inits follow the published code of HuBERT, CLIP and BERT: N(0, 0.02).
INIT_STD = 0.02
kernel_init = nn.initializers.normal(stddev=INIT_STD)


def gelu(x: Array) -> Array:
    """Apply the exact (erf) GELU; this form is 1.3-1.5x faster on CPU than `jax.nn.gelu`'s erfc."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def quick_gelu(x: Array) -> Array:
    """Apply CLIP's sigmoid approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


# `jax.nn.gelu` is never called by its default, which is the tanh approximation.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}


_PRODUCT = "dense"


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel)


def _matmul_fwd(x, kernel):
    return _matmul(x, kernel), (x, kernel)


def _matmul_bwd(residuals, dy):
    # Without the barrier XLA computes x and dy a second time, transposed, with all that was fused
    # into them: on CPU this costs more than the products.
    (x, kernel), dy = jax.lax.optimization_barrier((residuals, dy))
    rows, d_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return (d_rows @ kernel.T).reshape(x.shape), rows.T @ d_rows


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def dense_dot(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """Multiply x [..., D] by kernel [D, F] for `nn.Dense`, with a gradient that is fast on CPU."""
    del dimension_numbers, precision, preferred_element_type
    # Named, because a policy of `jax.checkpoint` does not see the product inside the custom rule.
    return checkpoint_name(_matmul(x, kernel), _PRODUCT)


def layer_norm(epsilon: float, dtype, name: str | None = None) -> nn.LayerNorm:
    """Build a LayerNorm whose statistics are float32 and two-pass, as PyTorch's are."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def dense(
    features: int,
    dtype,
    name: str | None = None,
    use_bias: bool = True,
    init_std: float = INIT_STD,
) -> nn.Dense:
    """Build a Dense layer whose kernel starts from N(0, init_std)."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        name=name,
        dot_general=dense_dot,
        kernel_init=nn.initializers.normal(stddev=init_std),
    )


class Attention(nn.Module):
    """Multi-head attention of a query stream over a key/value stream."""

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    init_std: float = INIT_STD
    implementation: str = "xla"  # of `attention.IMPLEMENTATIONS`

    def setup(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        self.query = dense(self.width, self.dtype, init_std=self.init_std)
        self.key = dense(self.width, self.dtype, init_std=self.init_std)
        self.value = dense(self.width, self.dtype, init_std=self.init_std)
        self.out = dense(self.width, self.dtype, init_std=self.init_std)

    def __call__(self, x: Array, context: Array, mask: Array | None) -> Array:
        """Attend from x [B, T, D] to context [B, S, D'] where mask [B, S] is True: [B, T, D].

        Where the collection 'intermediates' is mutable, the weights [B, H, T, S] go there; they
        are computed for nobody else.
        """
        b, t, _ = x.shape
        s = context.shape[1]
        q = self.query(x).reshape(b, t, self.heads, -1)
        k = self.key(context).reshape(b, s, self.heads, -1)
        v = self.value(context).reshape(b, s, self.heads, -1)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, mask))
        x = attend(q, k, v, mask, self.implementation)
        return self.out(x.reshape(b, t, self.width))


class Mlp(nn.Module):
    """Two dense layers with an activation between them."""

    width: int
    hidden: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    init_std: float = INIT_STD

    def setup(self):
        self.up = dense(self.hidden, self.dtype, init_std=self.init_std)
        self.down = dense(self.width, self.dtype, init_std=self.init_std)

    def __call__(self, x: Array) -> Array:
        """Map [..., D] to [..., D]."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nn.Module):
    """A transformer encoder layer, normalised first (CLIP, HuBERT large) or last (HuBERT base)."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    norm_first: bool
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    implementation: str = "xla"

    def setup(self):
        self.attention = Attention(
            self.width, self.heads, self.dtype, implementation=self.implementation
        )
        self.attention_norm = layer_norm(self.epsilon, self.dtype)
        self.mlp = Mlp(self.width, self.mlp_width, self.activation, self.dtype)
        self.mlp_norm = layer_norm(self.epsilon, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: Array, mask: Array | None, deterministic: bool) -> Array:
        """Map x [B, T, D] to [B, T, D], attending where mask [B, T] is True."""
        if self.norm_first:
            h = self.attention_norm(x)
            x = x + self.drop(self.attention(h, h, mask), deterministic=deterministic)
            return x + self.drop(self.mlp(self.mlp_norm(x)), deterministic=deterministic)
        h = self.attention(x, x, mask)
        x = self.attention_norm(x + self.drop(h, deterministic=deterministic))
        return self.mlp_norm(x + self.drop(self.mlp(x), deterministic=deterministic))


class CrossBlock(nn.Module):
    """A post-norm transformer layer of BERT's order that may also attend to another stream."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    cross: bool
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    own: bool = True  # whether a token attends to its own stream
    init_std: float = INIT_STD
    implementation: str = "xla"

    def setup(self):
        fields = self.width, self.heads, self.dtype, self.init_std, self.implementation
        if self.own:
            self.attention = Attention(*fields)
            self.attention_norm = layer_norm(self.epsilon, self.dtype)
        if self.cross:
            self.cross_attention = Attention(*fields)
            self.cross_attention_norm = layer_norm(self.epsilon, self.dtype)
        self.mlp = Mlp(self.width, self.mlp_width, self.activation, self.dtype, self.init_std)
        self.mlp_norm = layer_norm(self.epsilon, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Array,
        mask: Array | None,
        context: Array | None,
        context_mask: Array | None,
        deterministic: bool,
        rows: int | None = None,
    ) -> Array:
        """Map x [B, T, D] to [B, T, D], or to its first `rows` tokens.

        Args:
          x: the layer's own stream.
          mask: True where a token of x may be attended to, [B, T]; None for all.
          context: the other stream, [B, S, C] of any width C; read only where `cross`.
          context_mask: True where a token of the context may be attended to, [B, S]; None for all.
          deterministic: False turns dropout on.
          rows: how many leading tokens to compute, all of x being attended to; None for all.

        Raises:
          ValueError: where a cross layer has no context.
        """
        stream, x = x, x[:, :rows]
        if self.own:
            h = self.attention(x, stream, mask)
            x = self.attention_norm(x + self.drop(h, deterministic=deterministic))
        if self.cross:
            if context is None:
                raise ValueError("a layer with cross=True needs a context")
            h = self.cross_attention(x, context, context_mask)
            x = self.cross_attention_norm(x + self.drop(h, deterministic=deterministic))
        return self.mlp_norm(x + self.drop(self.mlp(x), deterministic=deterministic))


def rematerialised(cls: type[nn.Module], remat: str, static_argnums: tuple[int, ...]):
    """Return a module class whose activations are computed again in the backward pass.

    Args:
      cls: the module class.
      remat: of `REMAT`; 'none' returns `cls` itself.
      static_argnums: which arguments of its call are Python values, the module itself being 0.

    Raises:
      ValueError: an unknown `remat`.
    """
    if remat not in REMAT:
        raise ValueError(f"remat {remat!r} is none of {', '.join(REMAT)}")
    if remat == "none":
        return cls
    kept = jax.checkpoint_policies.save_only_these_names(_PRODUCT) if remat == "dots" else None
    return nn.remat(cls, policy=kept, static_argnums=static_argnums)


def cross_stack(layers: int, remat: str, cross_every: int = 1, **kwargs) -> list[CrossBlock]:
    """Build cross blocks named `layers_00`, ...: names are the checkpoint's schema.

    Args:
      layers: how many.
      remat: of `REMAT`.
      cross_every: layers 0, n, 2n, ... attend to the other stream.
      **kwargs: further fields of `CrossBlock`.
    """
    # Arguments 5 and 6 of CrossBlock.__call__ (self counts as 0), `deterministic` and `rows`, are
    # Python values.
    cls = rematerialised(CrossBlock, remat, (5, 6))
    return [
        cls(**kwargs, cross=i % cross_every == 0, name=f"layers_{i:02d}") for i in range(layers)
    ]


def block_stack(layers: int, remat: str, **kwargs) -> list[Block]:
    """Build blocks named `layers_00`, `layers_01`, ...: names are the checkpoint's schema.

    Args:
      layers: how many.
      remat: of `REMAT`.
      **kwargs: fields of `Block`.
    """
    # Argument 3 of Block.__call__ (self counts as 0) is the Python bool `deterministic`.
    cls = rematerialised(Block, remat, (3,))
    return [cls(**kwargs, name=f"layers_{i:02d}") for i in range(layers)]


def run_blocks(
    blocks: Sequence[Block], x: Array, mask: Array | None, deterministic: bool, scan: bool
) -> tuple[Array, ...]:
    """Apply blocks of one shape one after the other.

    Args:
      blocks: from `block_stack`.
      x: [B, T, D].
      mask: True where a token may be attended to, [B, T]; None for all.
      deterministic: False turns dropout on.
      scan: run them as a loop. The program then has one layer however many there are and compiles
        several times sooner, for a copy of their parameters. Ignored where parameters are made or
        attention weights are looked at.

    Returns:
      The stream after each block.
    """
    first = blocks[0]
    seen = first.is_initializing() or first.is_mutable_collection("intermediates")
    if not scan or seen or len(blocks) == 1:
        states = []
        for block in blocks:
            x = block(x, mask, deterministic)
            states.append(x)
        return tuple(states)
    params = [block.variables["params"] for block in blocks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = None
    if first.dropout and not deterministic:
        keys = jax.random.split(first.make_rng("dropout"), len(blocks))
    layer = first.clone(parent=None, name=None)

    def body(x, inputs):
        params, key = inputs
        rngs = None if key is None else {"dropout": key}
        x = layer.apply({"params": params}, x, mask, deterministic, rngs=rngs)
        return x, x

    return tuple(jnp.unstack(jax.lax.scan(body, x, (stacked, keys))[1]))
