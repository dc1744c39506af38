"""python launch/attention_bytes.py [TOPOLOGY] [CASE ...]

Compiles one attention layer with the TPU's compiler, no TPU attached, with XLA's attention and with
the kernel, and prints what a chip moves by the compiler's count. Made the table of docs/pods.md.
"""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from sir_jax.models.attention import Flash
from sir_jax.models.layers import Attention
from sir_jax.pods.topology import Topology, on_cpu

# Case: (queries, keys, heads, width of a head, whether with gradients).
CASES = {
    "speech": (750, 750, 16, 64, False),
    "speech-gradients": (750, 750, 16, 64, True),
    "vit-l": (257, 257, 16, 64, False),
    "vit-g": (257, 257, 16, 88, False),
    "vit-g-gradients": (257, 257, 16, 88, True),
    "fusion-gradients": (257, 751, 12, 64, True),
    "vit-b16": (197, 197, 12, 64, False),
    "vit-b32-gradients": (50, 50, 12, 64, True),
    "long-gradients": (1_500, 1_500, 16, 64, True),
}
ITEMS = 16  # a chip


def bytes_moved(case: str, mesh, implementation) -> float:
    """Return the bytes that a chip moves in one layer, with its four projections."""
    t, s, heads, width, gradients = CASES[case]
    layer = Attention(heads * width, heads, jnp.bfloat16, implementation=implementation)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(mesh, PartitionSpec())

    def array(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct((ITEMS * mesh.size, *shape), dtype, sharding=rows)

    args = array((t, heads * width)), array((s, heads * width)), array((s,), jnp.bool_)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=whole),
        jax.eval_shape(layer.init, jax.random.key(0), *args),
    )

    def loss(params, *args):
        return jax.checkpoint(layer.apply)(params, *args).astype(jnp.float32).sum()

    run = jax.grad(loss, (0, 1, 2)) if gradients else layer.apply
    return jax.jit(run).lower(params, *args).compile().cost_analysis()["bytes accessed"]


def main(argv: list[str]) -> None:
    """Print a line a case."""
    on_cpu()
    mesh = Topology.parse((argv or ["v5e:2x2"])[0]).mesh(dict(data=-1, fsdp=1, tensor=1))
    flash = Flash(mesh, ("data", "fsdp"), ("tensor",), always=True)
    for case in argv[1:] or CASES:
        sizes = (bytes_moved(case, mesh, one) / 1e9 for one in ("xla", flash))
        print(f"{case:20}" + "".join(f"{size:8.3f} GB" for size in sizes), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
