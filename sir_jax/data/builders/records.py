"""From finished chunks to record files: what every builder's last step shares."""

import contextlib
import io
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from sir_jax.errors import UserError


def progress(total: int, unit: str, desc: str, **options) -> tqdm:
    """Return a progress bar: ten times a second on a terminal, else a line a half minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit=unit, desc=desc, mininterval=interval, **options)


def write_records(builder, **download_config) -> None:
    """Write a builder's records and metadata.

    Args:
      builder: of TFDS; its chunks are all there.
      **download_config: of `tfds.download.DownloadConfig`.

    Raises:
      UserError: the disk is full, or the like.
    """
    import tensorflow_datasets as tfds

    corpus = Path(builder.data_path).parent
    # What a killed run left half written.
    for leftover in corpus.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    tfds.disable_progress_bar()
    # TFDS talks of a download of unknown size.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=str(builder.chunks / "downloads"),
                download_config=tfds.download.DownloadConfig(**download_config),
            )
    # How ArrayRecord reports what the operating system refused.
    except RuntimeError as error:
        raise UserError(
            f"cannot write the records: {' '.join(str(error).split())}; mend that and run the same "
            "command again, finished chunks are kept"
        ) from error
