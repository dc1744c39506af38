"""Published archives are prepared by the verb `data prepare`; the corpora are the expected ones."""

import io
import json
import re

import layouts
import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.cli import main as cli
from sir_jax.data.builders.spoken_coco.layout import ORIGINAL_LEAKS
from sir_jax.data.corpus import open_corpus
from sir_jax.errors import UserError

# By corpus, split and image id: the number of the image, and {caption id: number of its tone}.
EXPECTED = {
    "flickr8k_audio/official": {
        "train": {
            0: (0, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
            1: (1, {5: 5, 6: 6, 7: 7, 8: 8, 9: 9}),
            2: (2, {10: 10, 11: 11, 12: 12, 13: 13, 14: 14}),
            3: (3, {15: 15, 16: 16, 17: 17, 18: 18}),
        },
        # Image 4 has no recordings, so that the numbers of tones are five below those of captions.
        "val": {5: (5, {25: 20, 26: 21, 27: 22, 28: 23, 29: 24})},
        "test": {
            6: (6, {30: 25, 31: 26, 32: 27, 34: 29}),
            7: (7, {35: 30, 36: 31, 37: 32, 38: 33, 39: 34}),
        },
    },
    "spoken_coco/karpathy": {
        "train": {
            9: (9, {i: i for i in range(6, 11)}),
            25: (25, {i: i for i in range(6)}),
            30: (30, {i: i for i in range(11, 15)}),
            522418: (522418, {i: i for i in range(27, 32)}),
        },
        "val": {
            184613: (184613, {i: i for i in range(32, 37)}),
            554625: (554625, {i: i for i in range(37, 41)}),
        },
        "test": {
            60623: (60623, {i: i for i in (41, 42, 44, 45)}),
            325114: (325114, {i: i for i in range(16, 21)}),
            391895: (391895, {i: i for i in range(21, 27)}),
        },
    },
    "places_audio/2020": {
        "train": {0: (0, {0: 1, 1: 2}), 1: (1, {2: 3}), 2: (2, {3: 4})},
        "val_seen": {3: (3, {5: 6})},
        "val_unseen": {4: (4, {6: 7})},
        "test_seen": {5: (5, {7: 8})},
        "test_unseen": {6: (6, {9: 9}), 7: (0, {10: 10})},
    },
}
EXPECTED["spoken_coco/original"] = {
    "train": {i: EXPECTED["spoken_coco/karpathy"]["train"][i] for i in (9, 25, 30)},
    "original_val": {
        522418: EXPECTED["spoken_coco/karpathy"]["train"][522418],
        **EXPECTED["spoken_coco/karpathy"]["val"],
        **EXPECTED["spoken_coco/karpathy"]["test"],
        581929: (581929, {i: i for i in range(46, 51)}),
    },
}


def prepare(name, archives, root, *options):
    return cli.main(
        ["data", "prepare", name, f"--archives={archives}", f"--data_dir={root}", *options]
    )


# By corpus, everything left out: (path, reason, split); ':LINE' replaces a line's number.
LEFT_OUT = {
    "flickr8k_audio/official": {
        ("flickr_audio/wav2capt.txt:LINE", "bad metadata", ""),
        ("Flicker8k_Dataset/1007320043_627395c3d8.jpg", "no audio", "val"),
        ("flickr_audio/wavs/2258277193_586949ec62_0.wav", "bad metadata", ""),
        ("flickr_audio/wavs/1012212859_01547e3f17_3.wav", "missing audio", "test"),
    },
    "spoken_coco/karpathy": {
        (f"SpokenCOCO/wavs/train/0/{layouts.coco_uttid(30, 0)}.wav", "duplicate id", "train"),
        ("val2014/COCO_val2014_000000581929.jpg", "bad metadata", ""),
        ("train2014/COCO_train2014_000000581857.jpg", "no audio", "train"),
        ("val2014/COCO_val2014_000000574769.jpg", "no audio", "val"),
        (f"SpokenCOCO/wavs/val/0/{layouts.coco_uttid(60623, 2)}.wav", "missing audio", "test"),
    },
    "spoken_coco/original": {
        (f"SpokenCOCO/wavs/train/0/{layouts.coco_uttid(30, 0)}.wav", "duplicate id", "train"),
        ("val2014/COCO_val2014_000000574769.jpg", "no audio", "original_val"),
        (
            f"SpokenCOCO/wavs/val/0/{layouts.coco_uttid(60623, 2)}.wav",
            "missing audio",
            "original_val",
        ),
    },
    "places_audio/2020": {
        ("placesaudio_2020_splits/train_2020.json#4", "bad metadata", "train"),
        ("placesaudio_2020_splits/wavs/0/utterance_8.wav", "duplicate id", "test_seen"),
        ("placesaudio_2020_splits/wavs/1/utterance_11.wav", "missing audio", "test_unseen"),
        (
            "data/vision/torralba/deeplearning/images256/"
            "b/bridge/gsun_6a75d4e7daec8f5ece6e4e8ba05c9d46.jpg",
            "no audio",
            "test_unseen",
        ),
    },
}
# The largest missing share of a split, compared with published numbers or with the plan.
REFUSED = {
    "flickr8k_audio/official": "29,981 of 30,000 recordings of split 'train'",
    "spoken_coco/karpathy": "113,283 of 113,287 pictures of split 'train'",
    "spoken_coco/original": "82,780 of 82,783 pictures of split 'train'",
    "places_audio/2020": "1 of 2 recordings of split 'test_seen'",
}


@pytest.fixture(scope="module", params=EXPECTED)
def prepared(request, tmp_path_factory):
    """Prepare a corpus, refused at first, then with tolerance; return name, root and error."""
    name = request.param
    folder = tmp_path_factory.mktemp("published")
    archives = layouts.write(name.split("/")[0], folder / "archives")
    root = folder / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", errors := io.StringIO())
        status = prepare(name, archives, root, "--workers=1")
    assert status == 2
    with pytest.raises(UserError, match="make it with: sir-jax data prepare"):
        open_corpus(name, root)
    assert prepare(name, archives, root, "--workers=1", "--tolerance=1") == 0
    return name, root, errors.getvalue()


def test_the_refusal_names_the_published_number(prepared):
    name, _, errors = prepared
    line = errors.splitlines()[-1]
    assert line.startswith(f"sir-jax data prepare: {name}: {REFUSED[name]} are missing"), errors
    assert "a tolerance of" in line


def test_records_are_what_was_published(prepared):
    name, root, _ = prepared
    corpus = open_corpus(name, root)
    assert list(corpus.splits) == list(EXPECTED[name])
    for split, images in EXPECTED[name].items():
        records = [corpus.splits[split][row] for row in range(len(corpus.splits[split]))]
        assert {record.image_id for record in records} == set(images)
        assert len(records) == len(images)
        for record in records:
            picture, captions = images[record.image_id]
            shown = layouts.picture(picture, 0)
            assert record.image == shown
            assert Image.open(io.BytesIO(record.image)).size == (96, 72)
            assert {caption.caption_id for caption in record.captions} == set(captions)
            for caption in record.captions:
                spoken = io.BytesIO(layouts.tone(captions[caption.caption_id], 0))
                expected, _ = soundfile.read(spoken, dtype="int16")
                wave, rate = soundfile.read(io.BytesIO(caption.audio), dtype="int16")
                np.testing.assert_array_equal(wave, expected)
                assert rate == 16_000 and caption.samples == len(expected)


def test_index_has_an_entry_for_each_recording(prepared):
    name, root, _ = prepared
    for split, images in EXPECTED[name].items():
        index = open_corpus(name, root).splits[split].index
        pairs = [(c, image) for image, (_, captions) in images.items() for c in captions]
        assert list(zip(index["caption_id"], index["image_id"], strict=True)) == sorted(pairs)


def test_everything_left_out_is_listed(prepared):
    name, root, _ = prepared
    lines = (root / name / "quarantine.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in lines]
    listed = {(re.sub(r":\d+$", ":LINE", p["path"]), p["reason"], p["split"]) for p in problems}
    assert listed == LEFT_OUT[name] and len(problems) == len(listed)
    assert all(problem["detail"] for problem in problems)


def test_verify_finds_no_fault(prepared, capsys):
    name, root, _ = prepared
    assert cli.main(["data", "verify", name, f"--data_dir={root}"]) == 0, capsys.readouterr()


WORDS = {
    "flickr8k_audio/official": (
        "test",
        39,
        "Caption 4 of picture 1009434119_febe49276a .",
        "8",
    ),
    "spoken_coco/karpathy": ("val", 40, "Caption 3 of picture 554625.", "m071506413gb9"),
    "spoken_coco/original": ("original_val", 46, "Caption 0 of picture 581929.", "m071506410gb9"),
    "places_audio/2020": ("train", 3, "a tall tower", ""),
}


def test_words_and_speakers_are_kept(prepared):
    name, root, _ = prepared
    split, caption_id, text, speaker = WORDS[name]
    records = open_corpus(name, root).splits[split]
    (caption,) = (
        caption
        for row in range(len(records))
        for caption in records[row].captions
        if caption.caption_id == caption_id
    )
    assert (caption.text, caption.speaker) == (text, speaker)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_leaking_config_says_why_it_has_no_such_split(tmp_path, capsys, split):
    archives = layouts.write("spoken_coco", tmp_path / "archives")
    name, root = "spoken_coco/original", tmp_path / "data"
    assert prepare(name, archives, root, "--workers=1", "--tolerance=1") == 0
    capsys.readouterr()
    out = f"--out={tmp_path / 'sheet.png'}"
    assert cli.main(["data", "show", name, f"--split={split}", f"--data_dir={root}", out]) == 2
    assert capsys.readouterr().err == f"sir-jax data show: {ORIGINAL_LEAKS}\n"
    asked = ["data", "show", name, "--split=original_val", f"--data_dir={root}", out]
    assert cli.main(asked) == 0


def test_a_tree_that_is_unpacked_already_gives_the_same_corpus(tmp_path):
    trees = {}
    for form in ("archives", "nested"):
        source = layouts.write("flickr8k_audio", tmp_path / form, form)
        root = tmp_path / f"data-{form}"
        assert prepare("flickr8k_audio", source, root, "--workers=1", "--tolerance=1") == 0
        corpus = open_corpus("flickr8k_audio/official", root)
        trees[form] = {
            name: [split[row] for row in range(len(split))] for name, split in corpus.splits.items()
        }
    assert trees["nested"] == trees["archives"]
