"""The folder of samples: images of the corpus, with recordings and their words."""

import json

import numpy as np
import pytest

from sir_jax.cli import main as cli
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.spoken_scenes.render import render
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.data.preparation.samples import CORPUS, RECORDINGS, write_samples
from sir_jax.errors import UserError


def test_pictures_recordings_and_words_belong_together(tmp_path, capsys):
    assert cli.main(["samples", f"--out={tmp_path}", "--pictures=14"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 14 pictures, 12 recordings\n"
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 14
    truth = json.loads((tmp_path / "truth.json").read_text())
    planned = [image for image in plan_corpus(CORPUS) if image.split == "test"]
    assert len(truth) == 12
    for recording, picture in truth.items():
        path = tmp_path / "recordings" / recording
        assert 1.5 < len(load_audio(path)) / 16_000 < 5
        image = planned[int(path.stem)]
        said = path.with_suffix(".txt").read_text().strip()
        assert said in [caption.text for caption in image.captions]
        drawn = render(image.scene, CORPUS.image_size, image.looks)
        np.testing.assert_array_equal(load_image(tmp_path / "pictures" / picture), drawn)
    # There are eight voices of eSpeak NG, and two of other engines.
    stems = [path.stem.partition("-") for path in sorted(RECORDINGS.glob("*.flac"))[:8]]
    assert len({planned[int(row)].captions[int(slot)].speaker for row, _, slot in stems}) == 8


def test_bad_numbers_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="^pictures is 3; give 12 to 500"):
        write_samples(tmp_path, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        write_samples(tmp_path / "file" / "samples")
