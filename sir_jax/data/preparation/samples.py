"""Pictures and recordings to try the model that ships with.

Test scenes of spoken_scenes, drawn on the spot, and eight of their captions, which ship: voices and
pictures that no training has met.
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
# Of the corpus that the recordings come from.
CORPUS = SceneConfig()


def write_samples(folder: str | Path, pictures: int = PICTURES) -> Path:
    """Write pictures and recordings.

    Args:
      folder: gets `pictures/NNN.png`, `recordings/NNN.flac` of the picture of that number with its
        words in a .txt beside, and `truth.json`, recording to picture.
      pictures: how many; at least as many as there are recordings.

    Returns:
      The folder.

    Raises:
      UserError: it cannot be written, or a number that cannot be.
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
