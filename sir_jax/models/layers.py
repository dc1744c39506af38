"""Layers shared by the encoders: activations, normalisation, attention, transformer blocks."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from sir_jax.config.specs import REMAT
from sir_jax.models.attention import Flash, attend, attention_weights

Array = jax.Array

# Kernels start from N(0, 0.02), as in the published code of HuBERT, CLIP and BERT.
INIT_STD = 0.02
kernel_init = nn.initializers.normal(stddev=INIT_STD)


def gelu(x: Array) -> Array:
    """Apply the exact GELU; its erf is 1.3-1.5x faster on CPU than the erfc of `jax.nn.gelu`."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def unit_norm(x: Array) -> Array:
    """Scale the last axis to unit length in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-12))


def quick_gelu(x: Array) -> Array:
    """Apply CLIP's sigmoid approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


# Never call `jax.nn.gelu` without `approximate`: its default is the tanh approximation.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}

# The name by which a policy of `jax.checkpoint` knows the products of `dense`.
_DENSE_PRODUCT = "dense"


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel)


def _matmul_fwd(x, kernel):
    return _matmul(x, kernel), (x, kernel)


def _matmul_bwd(residuals, dy):
    # Without the barrier XLA recomputes x and dy in transposed form, with all operations that were
    # fused into them. On CPU this costs more than the products.
    (x, kernel), dy = jax.lax.optimization_barrier((residuals, dy))
    rows, d_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return (d_rows @ kernel.T).reshape(x.shape), rows.T @ d_rows


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def dense_dot(x, kernel, dimension_numbers, precision=None, preferred_element_type=None):
    """Multiply x [..., D] by kernel [D, F] for `nn.Dense`, with a gradient that is fast on CPU."""
    del dimension_numbers, precision, preferred_element_type
    # Policies of `jax.checkpoint` cannot see a product inside a custom VJP: hence the name.
    return checkpoint_name(_matmul(x, kernel), _DENSE_PRODUCT)


def layer_norm(epsilon: float, dtype, name: str | None = None) -> nn.LayerNorm:
    """Build a LayerNorm with two-pass float32 statistics, as in PyTorch."""
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
    """Multi-head attention of one stream of tokens to another, or to itself."""

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    init_std: float = INIT_STD
    implementation: str | Flash = "xla"  # see `attend`

    def setup(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        self.query = dense(self.width, self.dtype, init_std=self.init_std)
        self.key = dense(self.width, self.dtype, init_std=self.init_std)
        self.value = dense(self.width, self.dtype, init_std=self.init_std)
        self.out = dense(self.width, self.dtype, init_std=self.init_std)

    def __call__(self, x: Array, context: Array, mask: Array | None) -> Array:
        """Attend from x [B, T, D] to context [B, S, D'] where mask [B, S] is True: [B, T, D].

        If the collection 'intermediates' is mutable, the attention weights [B, H, T, S] are sown
        into it; otherwise they are not computed.
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
    """A transformer encoder layer: pre-norm (CLIP, HuBERT large) or post-norm (HuBERT base)."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    norm_first: bool
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    implementation: str | Flash = "xla"

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
    """A post-norm transformer layer in BERT's order, with optional self- and cross-attention."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    cross: bool
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    self_attention: bool = True
    init_std: float = INIT_STD
    implementation: str | Flash = "xla"

    def setup(self):
        fields = self.width, self.heads, self.dtype, self.init_std, self.implementation
        if self.self_attention:
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
        """Map x [B, T, D] to [B, T, D], or to [B, rows, D].

        Args:
          x: tokens, [B, T, D].
          mask: True where a token of x may be attended to, [B, T]; None for all.
          context: tokens to cross-attend to, [B, S, C] of any width C; ignored unless `cross`.
          context_mask: True where a token of the context may be attended to, [B, S]; None for all.
          deterministic: False turns dropout on (needs the rng 'dropout').
          rows: number of leading tokens to compute, which still attend to all of x; None for all.

        Raises:
          ValueError: `cross` is True and there is no context.
        """
        stream, x = x, x[:, :rows]
        if self.self_attention:
            h = self.attention(x, stream, mask)
            x = self.attention_norm(x + self.drop(h, deterministic=deterministic))
        if self.cross:
            if context is None:
                raise ValueError("a layer with cross=True needs a context")
            h = self.cross_attention(x, context, context_mask)
            x = self.cross_attention_norm(x + self.drop(h, deterministic=deterministic))
        return self.mlp_norm(x + self.drop(self.mlp(x), deterministic=deterministic))


def rematerialised(cls: type[nn.Module], remat: str, static_argnums: tuple[int, ...]):
    """Return a module class that recomputes its activations in the backward pass.

    Args:
      cls: the module class.
      remat: one of `REMAT`: 'none' returns `cls` itself, 'full' recomputes everything, 'dots' keeps
        the products with weights.
      static_argnums: positions of the call's arguments that are Python values; `self` is 0.

    Raises:
      ValueError: `remat` is unknown.
    """
    if remat not in REMAT:
        raise ValueError(f"remat {remat!r} is none of {', '.join(REMAT)}")
    if remat == "none":
        return cls
    policy = None
    if remat == "dots":
        policy = jax.checkpoint_policies.save_only_these_names(_DENSE_PRODUCT)
    return nn.remat(cls, policy=policy, static_argnums=static_argnums)


def cross_stack(layers: int, remat: str, cross_every: int = 1, **kwargs) -> list[CrossBlock]:
    """Build `CrossBlock`s. Checkpoints contain their names: `layers_00`, `layers_01`, ...

    Args:
      layers: number of blocks.
      remat: one of `REMAT`.
      cross_every: layers 0, n, 2n, ... have cross-attention, for n = `cross_every`.
      **kwargs: the other fields of `CrossBlock`.
    """
    # 5 and 6 are `deterministic` and `rows` of CrossBlock.__call__.
    cls = rematerialised(CrossBlock, remat, (5, 6))
    return [
        cls(**kwargs, cross=i % cross_every == 0, name=f"layers_{i:02d}") for i in range(layers)
    ]


def block_stack(layers: int, remat: str, **kwargs) -> list[Block]:
    """Build `Block`s. Checkpoints contain their names: `layers_00`, `layers_01`, ...

    Args:
      layers: number of blocks.
      remat: one of `REMAT`.
      **kwargs: fields of `Block`.
    """
    # 3 is `deterministic` of Block.__call__.
    cls = rematerialised(Block, remat, (3,))
    return [cls(**kwargs, name=f"layers_{i:02d}") for i in range(layers)]


def run_blocks(
    blocks: Sequence[Block], x: Array, mask: Array | None, deterministic: bool, scan: bool
) -> tuple[Array, ...]:
    """Apply blocks of equal shape one after the other.

    Args:
      blocks: from `block_stack`.
      x: [B, T, D].
      mask: True where a token may be attended to, [B, T]; None for all.
      deterministic: False turns dropout on (needs the rng 'dropout').
      scan: True to run the blocks as a loop. The program then contains one layer, whatever their
        number, and compiles several times faster; the price is a copy of their parameters. Ignored
        while parameters are initialised or attention weights are recorded.

    Returns:
      The output of each block, [B, T, D].
    """
    first = blocks[0]
    mutable = first.is_initializing() or first.is_mutable_collection("intermediates")
    if not scan or mutable or len(blocks) == 1:
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
