"""The peak rates of accelerators: the one place where they are written down."""

import re

# (regex of the device's kind as JAX names it, dense bfloat16 operations a second). Cloud TPU's
# documentation; NVIDIA's data sheets, without sparsity. The first that fits counts.
PEAKS: tuple[tuple[str, float], ...] = (
    (r"TPU v4", 275e12),
    (r"TPU v5 lite|TPU v5e", 197e12),
    (r"TPU v5p?", 459e12),
    (r"TPU v6 lite|TPU v6e", 918e12),
    (r"NVIDIA A100.*", 312e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA (H100|H200|GH200).*", 989e12),
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA L40S", 362e12),
)


def peak_flops(kind: str) -> float | None:
    """Return the bfloat16 operations a second of a kind of device; None where not known.

    Args:
      kind: `jax.Device.device_kind`.

    Example:
      >>> peak_flops("TPU v5 lite"), peak_flops("cpu")
      (197000000000000.0, None)
    """
    return next((peak for known, peak in PEAKS if re.fullmatch(known, kind)), None)
