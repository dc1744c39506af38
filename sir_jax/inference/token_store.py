"""Store the token features of a whole corpus in a temporary file and cut them into chunks."""

import dataclasses
import tempfile

import numpy as np

from sir_jax.errors import UserError


class TokenStore:
    """Keep token sequences of any length in an unnamed file that vanishes with the process.

    A file, because the 25,031 clips of SpokenCOCO's test split take 8 GB in bfloat16 at width 768:
    too much for a list or a device.

    Args:
      directory: the folder of the file; None for Python's choice, first the variable TMPDIR.
    """

    def __init__(self, directory=None):
        self._directory = directory or tempfile.gettempdir()
        # Unbuffered: a buffer would raise the error of a full disk a second time in `close`.
        self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)
        self._map: np.ndarray | None = None
        self._width, self._dtype = 0, None
        self._owners: list[int] = []
        self._lengths: list[int] = []
        self._offsets = [0]

    def __enter__(self) -> "TokenStore":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def owners(self) -> np.ndarray:
        """Return the clip or image that each entry belongs to, int[n]."""
        return np.array(self._owners, np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each entry, int[n]."""
        return np.array(self._lengths, np.int64)

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token in a batch, its mask included."""
        return self._width * self._dtype.itemsize + 1

    def append(self, owner: int, tokens: np.ndarray) -> None:
        """Append one entry.

        Args:
          owner: the number of the clip or image that the entry belongs to; may repeat.
          tokens: [n, D], n at least 1; the first entry fixes D and the dtype.

        Raises:
          ValueError: the width or dtype differs from that of earlier entries, or n is 0.
          UserError: the disk is full.
        """
        if self._dtype is None:
            self._width, self._dtype = tokens.shape[-1], tokens.dtype
        if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] != self._width:
            raise ValueError(f"tokens must be [n, {self._width}], not {tokens.shape}")
        if tokens.dtype != self._dtype:
            raise ValueError(f"tokens must be {self._dtype}, not {tokens.dtype}")
        # As bytes, because NumPy offers no buffer of a bfloat16 array.
        left = memoryview(np.ascontiguousarray(tokens).view(np.uint8)).cast("B")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise UserError(
                f"{self._directory} has no room for token features after "
                f"{self._file.tell() >> 20} MiB ({error.strerror}); set TMPDIR to a folder that has"
            ) from None
        self._owners.append(owner)
        self._lengths.append(len(tokens))
        self._offsets.append(self._offsets[-1] + len(tokens))

    def batch(self, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Read entries into one array.

        Args:
          indices: int[B], numbers of entries in the order of `append`; may repeat.
          length: tokens of a row, at least as many as the longest of these entries has.

        Returns:
          (tokens [B, length, D] in the stored dtype, padded with zeros; mask bool[B, length], False
          for padding).
        """
        if self._map is None or len(self._map) < self._offsets[-1]:
            shape = (self._offsets[-1], self._width)
            self._map = np.memmap(self._file, self._dtype, mode="r", shape=shape)
        tokens = np.zeros((len(indices), length, self._width), self._dtype)
        mask = np.zeros((len(indices), length), bool)
        for row, index in enumerate(indices):
            start, end = self._offsets[index], self._offsets[index + 1]
            tokens[row, : end - start] = self._map[start:end]
            mask[row, : end - start] = True
        return tokens, mask

    def close(self) -> None:
        """Delete the file; nothing can be read afterwards."""
        self._map = None
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Entries of a store that are on the device together, as [rows, length, D]."""

    entries: np.ndarray  # int[n], 1 <= n <= rows; the rows after them are padding
    rows: int
    length: int

    @property
    def padded_entries(self) -> np.ndarray:
        """Return the entry of each row, int[rows]; padding rows repeat the last entry."""
        return np.pad(self.entries, (0, self.rows - len(self.entries)), mode="edge")


def plan_chunks(lengths: np.ndarray, token_bytes: int, multiple: int, budget: int) -> list[Chunk]:
    """Cut entries, sorted by length, into chunks of few shapes.

    The length of a chunk is that of its longest entry, rounded up to a multiple; all chunks of one
    length have the same number of rows. So there are at most ceil(longest / multiple) shapes.

    Args:
      lengths: int[n], tokens of each entry.
      token_bytes: bytes of one token on the device.
      multiple: lengths are rounded up to a multiple of this many tokens.
      budget: most bytes of a chunk; a chunk of a single entry may exceed them.

    Returns:
      Chunks that hold every entry once.
    """
    chunks = []
    padded = -(-lengths // multiple) * multiple
    for length in np.unique(padded).tolist():
        entries = np.flatnonzero(padded == length)
        most = max(1, budget // (length * token_bytes))
        # Spread evenly, so that the last chunk is not mostly padding.
        rows = -(-len(entries) // -(-len(entries) // most))
        chunks += [
            Chunk(entries[start : start + rows], rows, length)
            for start in range(0, len(entries), rows)
        ]
    return chunks


def plan_both(
    speech_lengths: np.ndarray,
    speech_token_bytes: int,
    image_lengths: np.ndarray,
    image_token_bytes: int,
    multiple: int,
    budget: int,
) -> tuple[list[Chunk], list[Chunk]]:
    """Plan the chunks of two stores; one chunk of each store is on the device at a time.

    Images take up to half of the budget, windows the rest.

    Args:
      speech_lengths: int[Ns], tokens of each window.
      speech_token_bytes: bytes of a window's token on the device.
      image_lengths: int[Ni], tokens of each image; all the same, so images are not padded.
      image_token_bytes: bytes of an image's token on the device.
      multiple: windows are padded to a multiple of this many tokens.
      budget: most bytes of a chunk of windows and a chunk of images together; chunks of a single
        entry may exceed them.

    Returns:
      (chunks of the windows, chunks of the images).
    """
    images = plan_chunks(image_lengths, image_token_bytes, 1, budget // 2)
    taken = max(chunk.rows * chunk.length for chunk in images) * image_token_bytes
    return plan_chunks(speech_lengths, speech_token_bytes, multiple, budget - taken), images
