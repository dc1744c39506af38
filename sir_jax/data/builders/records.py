"""The last step of every builder: from finished chunks to record files."""

import contextlib
import io
import shutil
import sys
import zipfile
from pathlib import Path

from tqdm import tqdm

from sir_jax.errors import UserError


def progress(total: int, unit: str, desc: str, **options) -> tqdm:
    """Return a progress bar, which prints ten times a second on a terminal, else every 30 s."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit=unit, desc=desc, mininterval=interval, **options)


def write_records(builder, **download_config) -> None:
    """Write a builder's records and metadata.

    Args:
      builder: a TFDS builder whose chunks are complete.
      **download_config: fields of `tfds.download.DownloadConfig`.

    Raises:
      UserError: a file cannot be written, for example because the disk is full.
    """
    import tensorflow_datasets as tfds

    corpus = Path(builder.data_path).parent
    # Left by a run that was killed.
    for leftover in corpus.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    tfds.disable_progress_bar()
    # TFDS prints a message about a download of unknown size: there is no download.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=str(builder.chunks / "downloads"),
                download_config=tfds.download.DownloadConfig(**download_config),
            )
    except zipfile.BadZipFile as error:
        raise UserError(f"{error}; run the same command again, which makes it anew") from None
    # ArrayRecord reports errors of the operating system so.
    except RuntimeError as error:
        raise UserError(
            f"cannot write the records: {' '.join(str(error).split())}; mend that and run the same "
            "command again, finished chunks are kept"
        ) from error
