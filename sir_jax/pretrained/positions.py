"""Position embeddings for images of another size than a checkpoint was trained on."""

import numpy as np

# PyTorch's cubic kernel; Keys (1981) has a = -0.5.
_A = -0.75


def cubic_matrix(size: int, to: int) -> np.ndarray:
    """Return the weights [to, size] of PyTorch's bicubic resize of one axis.

    As `torch.nn.functional.interpolate(mode='bicubic', align_corners=False)`: pixel centres at
    halves, the edge repeated, no low-pass filter where it shrinks.
    """
    centre = (np.arange(to) + 0.5) * size / to - 0.5
    left = np.floor(centre).astype(int)
    weights = np.zeros((to, size))
    for tap in range(-1, 3):
        d = np.abs(centre - (left + tap))
        near = ((_A + 2) * d - (_A + 3)) * d * d + 1
        far = ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A
        column = np.clip(left + tap, 0, size - 1)
        np.add.at(weights, (np.arange(to), column), np.where(d <= 1, near, far))
    return weights


def resize_positions(position: np.ndarray, grid: int) -> np.ndarray:
    """Resize a ViT's position embeddings as `interpolate_pos_encoding=True` of transformers does.

    Args:
      position: [1 + P, D], CLS first, then a square grid of P patches by rows.
      grid: patches along a side of the new image.

    Returns:
      [1 + grid * grid, D], float32; CLS as it was.
    """
    old = round((len(position) - 1) ** 0.5)
    if old == grid:
        return position
    weights = cubic_matrix(old, grid)
    patches = position[1:].reshape(old, old, -1)
    patches = np.einsum("ai,bj,ijd->abd", weights, weights, patches, optimize=True)
    patches = patches.reshape(grid * grid, -1).astype(np.float32)
    return np.concatenate([position[:1], patches])
