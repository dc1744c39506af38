"""`pytorch_model.bin`, for `sir-jax convert` alone: the one place where a pickle is opened."""

import pickle
from pathlib import Path

import numpy as np

from sir_jax.errors import UserError
from sir_jax.pretrained.files import Tensors, check_shard, read_index
from sir_jax.pretrained.hub import BIN, BIN_INDEX


def open_pickled(folder: Path) -> Tensors:
    """Open `pytorch_model.bin`, or its shards, by PyTorch's loader of tensors alone.

    Files are mapped where their layout allows it (PyTorch 1.6 and later), else read whole.

    Args:
      folder: the checkpoint's directory, which has one or the other.

    Raises:
      UserError: without PyTorch; on a file that holds code, or anything but tensors; on a damaged
        file, a missing shard, and shards that differ from the index.
    """
    state: dict = {}
    if (folder / BIN).is_file():
        files = [folder / BIN]
        state = _load(files[0])
    else:
        index, files = folder / BIN_INDEX, []
        for shard, promised in read_index(index).items():
            part = _load(folder / shard)
            check_shard(index, shard, promised, part)
            files.append(folder / shard)
            state |= part
    return Tensors(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        lambda name: _to_numpy(name, state[name]),
        files,
        sum(tensor.nbytes for tensor in state.values()),
    )


def _load(path: Path) -> dict:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} needs PyTorch: pip install 'sir_jax[convert]'") from error
    try:
        with path.open("rb") as file:
            # Only files of this layout can be mapped; older ones are a bare pickle.
            mapped = file.read(4) == b"PK\x03\x04"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged; it is not opened, for a pickle can "
            "run code: get safetensors from its publisher"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read: {why}; get the file again") from error
    entries = state.items() if isinstance(state, dict) else [("the whole", state)]
    for name, value in entries:
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise UserError(f"{path} is not as transformers saves it: {name} is a {kind}")
    return state


def _to_numpy(name: str, tensor) -> np.ndarray:
    import torch

    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UserError(f"tensor {name} is {tensor.dtype}; read are float32, float16, bfloat16")
    return tensor.detach().to(torch.float32).numpy()
