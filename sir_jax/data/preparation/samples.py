"""Images and recordings to try the shipped model with.

The images are test scenes of spoken_scenes and are rendered here; twelve of their captions ship as
recordings: eight by eSpeak NG, two by Piper's voice `joe` (008, 009) and two by flite's `awb` (010,
011). The shipped model was trained on none of these scenes and voices, and not by Piper at all.
"""

import json
import shutil
from pathlib import Path

from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.spoken_scenes.render import encode_png, render
from sir_jax.errors import UserError

PICTURES = 200
RECORDINGS = Path(__file__).parents[1] / "sample_recordings"
# The corpus that the recordings come from.
CORPUS = SceneConfig()


def write_samples(folder: str | Path, pictures: int = PICTURES) -> Path:
    """Write images and recordings.

    Args:
      folder: gets images `pictures/NNN.png`, their captions `recordings/NNN.flac` with the words in
        `recordings/NNN.txt`, and `truth.json`, which maps recordings to images.
      pictures: number of images; at least the number of recordings.

    Returns:
      The folder.

    Raises:
      UserError: the folder cannot be written, or the number of images is out of range.
    """
    folder = Path(folder)
    recordings = sorted(RECORDINGS.glob("*.flac"))
    if not len(recordings) <= pictures <= CORPUS.test_images:
        raise UserError(f"pictures is {pictures}; give {len(recordings)} to {CORPUS.test_images}")
    planned = [image for image in plan_corpus(CORPUS) if image.split == "test"]
    try:
        for part in ("pictures", "recordings"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(planned[:pictures]):
            picture = render(image.scene, CORPUS.image_size, image.looks)
            (folder / "pictures" / f"{row:03d}.png").write_bytes(encode_png(picture))
        for source in recordings:
            row, _, slot = source.stem.partition("-")
            target = folder / "recordings" / f"{row}.flac"
            shutil.copyfile(source, target)
            words = planned[int(row)].captions[int(slot)].text
            target.with_suffix(".txt").write_text(f"{words}\n")
        truth = {f"{p.stem[:3]}.flac": f"{p.stem[:3]}.png" for p in recordings}
        (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from error
    return folder
