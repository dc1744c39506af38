"""The layout of the Flickr 8k Audio Caption Corpus: the expected plan of a small corpus."""

import layouts
import pytest

from sir_jax.data.builders.flickr8k_audio.layout import LAYOUT
from sir_jax.data.builders.recordings import Counts, PlannedCaption
from sir_jax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return layouts.write("flickr8k_audio", tmp_path_factory.mktemp("flickr"), "tree")


@pytest.fixture(scope="module")
def plan(tree):
    return LAYOUT.plan(tree, "official")


def test_ids_splits_and_counts(plan):
    # The lists have 4 images for train, 2 for dev, of which the first has no recording, and 2 for
    # test.
    assert [
        (image.image_id, image.split, image.key, [c.caption_id for c in image.captions])
        for image in plan.images
    ] == [
        (0, "train", "1003163366_44323f5815.jpg", [0, 1, 2, 3, 4]),
        (1, "train", "1000268201_693b08cb0e.jpg", [5, 6, 7, 8, 9]),
        (2, "train", "1001773457_577c3a7d70.jpg", [10, 11, 12, 13, 14]),
        # Its fifth line names a .txt.
        (3, "train", "1002674143_1b742ab4b8.jpg", [15, 16, 17, 18]),
        (5, "val", "1007129816_e794419615.jpg", [25, 26, 27, 28, 29]),
        (6, "test", "1012212859_01547e3f17.jpg", [30, 31, 32, 33, 34]),
        (7, "test", "1009434119_febe49276a.jpg", [35, 36, 37, 38, 39]),
    ]


def test_a_caption_has_its_words_speaker_and_paths(plan):
    image = plan.images[1]
    assert image.image == "Flicker8k_Dataset/1000268201_693b08cb0e.jpg"
    assert image.captions[3] == PlannedCaption(
        caption_id=8,
        key="1000268201_693b08cb0e_3.wav",
        audio="flickr_audio/wavs/1000268201_693b08cb0e_3.wav",
        text="Caption 3 of picture 1000268201_693b08cb0e .",
        speaker="9",
    )
    # wav2spk.txt does not name the third recording.
    assert [caption.speaker for caption in image.captions] == ["9", "7", "", "9", "7"]


def test_problems_name_everything_that_is_left_out(plan, tree):
    lines = (tree / "flickr_audio" / "wav2capt.txt").read_text().splitlines()
    number = 1 + lines.index("1002674143_1b742ab4b8_4.txt 1002674143_1b742ab4b8.jpg #4")
    assert [(p.path, p.reason, p.split, p.key) for p in plan.problems] == [
        (f"flickr_audio/wav2capt.txt:{number}", "bad metadata", "", layouts.FLICKR_NOT_WAV),
        (
            "Flicker8k_Dataset/1007320043_627395c3d8.jpg",
            "no audio",
            "val",
            "1007320043_627395c3d8.jpg",
        ),
        (
            "flickr_audio/wavs/2258277193_586949ec62_0.wav",
            "bad metadata",
            "",
            "2258277193_586949ec62_0.wav",
        ),
    ]


def test_a_captions_number_comes_from_the_list_not_from_its_file_name(tmp_path):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    path = tree / "flickr_audio" / "wav2capt.txt"
    swapped = {"44323f5815_0.wav": "44323f5815_1.wav", "44323f5815_1.wav": "44323f5815_0.wav"}
    lines = [
        line.replace(wav, swapped[wav])
        if (wav := line.split()[0].split("_", 1)[1]) in swapped
        else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    first, second = LAYOUT.plan(tree, "official").images[0].captions[:2]
    assert (first.caption_id, first.key) == (0, "1003163366_44323f5815_1.wav")
    assert first.text == "Caption 0 of picture 1003163366_44323f5815 ."
    assert (second.caption_id, second.key) == (1, "1003163366_44323f5815_0.wav")


@pytest.mark.parametrize("name", ["Flickr8k_Dataset", "Images"])
def test_the_picture_folder_has_three_names(tmp_path, name):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    (tree / "Flicker8k_Dataset").rename(tree / name)
    plan = LAYOUT.plan(tree, "official")
    assert plan.images[0].image == f"{name}/1003163366_44323f5815.jpg"


def test_folders_may_lie_deeper(tmp_path, plan):
    # As in Kaggle's copy: flickr_audio/flickr_audio/wavs.
    nested = LAYOUT.plan(layouts.write("flickr8k_audio", tmp_path, "nested"), "official")
    assert nested.images[0].image == "Flickr8k_Dataset/" + plan.images[0].image
    assert nested.images[0].captions[0].audio == "flickr_audio/" + plan.images[0].captions[0].audio
    assert [image.key for image in nested.images] == [image.key for image in plan.images]
    assert [p.reason for p in nested.problems] == [p.reason for p in plan.problems]


def test_odd_lines_are_left_out_one_by_one(tmp_path, plan):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    path = tree / "flickr_audio" / "wav2capt.txt"
    image = "1003163366_44323f5815.jpg"
    odd = [
        f"a_5.wav {image} #5",
        f"b_0.wav {image}",
        f"../c_0.wav {image} #0",
        f"1003163366_44323f5815_0.wav {image} #1",
        f"d_0.wav {image} #0",
        f"e_0.wav {layouts.FLICKR_NO_SPLIT} #0",
    ]
    path.write_text(path.read_text() + "\n".join(odd) + "\n")
    again = LAYOUT.plan(tree, "official")
    assert again.images == plan.images
    reasons = [p.reason for p in again.problems if p not in plan.problems]
    assert reasons == [*["bad metadata"] * 3, *["duplicate id"] * 2, "bad metadata"]


def test_a_picture_in_two_lists_stays_where_it_was_first(tmp_path):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    path = tree / "Flickr_8k.testImages.txt"
    path.write_text(path.read_text() + "1001773457_577c3a7d70.jpg\n")
    plan = LAYOUT.plan(tree, "official")
    assert [image.split for image in plan.images if image.image_id == 2] == ["train"]
    (problem,) = (p for p in plan.problems if p.reason == "duplicate id")
    assert (problem.path, problem.key) == (
        "Flickr_8k.testImages.txt:3",
        "1001773457_577c3a7d70.jpg",
    )


def test_missing_text_is_refused_by_name(tmp_path):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    (tree / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(UserError, match=r"'Flickr_8k.devImages.txt'; unpack Flickr8k_text.zip"):
        LAYOUT.plan(tree, "official")


def test_missing_pictures_altogether_are_refused(tmp_path):
    tree = layouts.write("flickr8k_audio", tmp_path, "tree")
    for path in (tree / "Flicker8k_Dataset").glob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds '1003163366_44323f5815.jpg' and the like; unpack"):
        LAYOUT.plan(tree, "official")


def test_published_counts():
    assert LAYOUT.expected == {
        "official": {
            "train": Counts(6000, 30000),
            "val": Counts(1000, 5000),
            "test": Counts(1000, 5000),
        }
    }
