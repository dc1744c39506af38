"""The layout of SpokenCOCO, with Karpathy's split or the publishers' own."""

import re
from collections.abc import Mapping
from pathlib import Path

from sir_jax.data.builders.publisher import Collector, find, published_path, read_entries, word
from sir_jax.data.builders.recordings import Archive, Counts, Layout, Plan, PlannedCaption

# The publishers' two files. Their order fixes the numbers of recordings.
HALVES = {"SpokenCOCO_train.json": "train", "SpokenCOCO_val.json": "original_val"}

# Karpathy's 'restval', the rest of val2014, is training data, too.
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
KARPATHY_FILES = ("dataset_coco.json", "coco/dataset.json")

ORIGINAL_LEAKS = (
    "config 'original' of spoken_coco has the splits 'train' and 'original_val' and no 'val' or "
    "'test': its 'original_val' holds pictures that everybody else trains on and Karpathy's val "
    "and test pictures besides, so that no published number compares with it; evaluate on "
    "'spoken_coco/karpathy', or ask for split 'original_val' by name"
)

_COCO_NAME = re.compile(r"COCO_(?:train|val)2014_(\d{1,12})\.jpg")


def _coco_id(path: str) -> int | None:
    match = _COCO_NAME.fullmatch(path.rpartition("/")[2])
    return int(match[1]) if match else None


class _Pictures:
    """Paths of the images in COCO's two folders."""

    def __init__(self, out: Collector):
        self._prefixes = {
            name: out.prefix(find(out.folder, (name,), f"{name}.zip"))
            for name in ("train2014", "val2014")
        }

    def locate(self, published) -> str:
        """Return the path of a published name 'val2014/COCO_val2014_....jpg'; '' if invalid."""
        half, _, name = published_path(published).partition("/")
        known = half in self._prefixes and _COCO_NAME.fullmatch(name)
        return self._prefixes[half] + name if known else ""


def _read_karpathy(out: Collector) -> tuple[dict[int, str], dict[int, str]]:
    """Return the split and the published path of each listed image, both by COCO id."""
    path = find(out.folder, KARPATHY_FILES, "caption_datasets.zip (dataset_coco.json)")
    splits, paths = {}, {}
    for index, entry in enumerate(read_entries(path, "images")):
        entry = entry if isinstance(entry, dict) else {}
        published = f"{word(entry, 'filepath')}/{word(entry, 'filename')}"
        image_id = _coco_id(published)
        split = KARPATHY_SPLITS.get(entry.get("split"))
        if image_id is None or split is None:
            where = f"{out.below(path)}#{index}"
            out.leave_out(where, "bad metadata", "the entry has no COCO picture or no known split")
        else:
            splits[image_id], paths[image_id] = split, published
    return splits, paths


def _add_image(out: Collector, image_id: int, split: str, image: str, wavs: str, captions: list):
    """Add the recordings of one image.

    Args:
      out: collects recordings and problems.
      image_id: COCO's id.
      split: split of the image.
      image: path of the image.
      wavs: prefix of the recordings' paths.
      captions: (number, path for problems, JSON entry) of each recording.
    """
    name = image.rpartition("/")[2]
    for number, where, caption in captions:
        caption = caption if isinstance(caption, dict) else {}
        wav = published_path(caption.get("wav"))
        if not wav:
            detail = "the caption names no wav file"
            out.leave_out(where, "bad metadata", detail, split, word(caption, "uttid"))
            continue
        planned = PlannedCaption(
            caption_id=number,
            key=word(caption, "uttid") or wav,
            audio=wavs + wav,
            text=word(caption, "text"),
            speaker=word(caption, "speaker"),
        )
        out.add(image_id, name, split, image, planned)


def plan(folder: Path, config: str) -> Plan:
    """Plan the corpus from SpokenCOCO's two JSON files and, for 'karpathy', from Karpathy's.

    Args:
      folder: folder of the extracted archives.
      config: 'karpathy' or 'original'.

    Returns:
      The plan. `image_id` is COCO's; `caption_id` numbers the captions of SpokenCOCO_train.json
      and SpokenCOCO_val.json in turn. Both are the same in both configs.

    Raises:
      UserError: a file or folder that the plan needs does not exist.
    """
    out = Collector(folder)
    pictures = _Pictures(out)
    splits, listed = _read_karpathy(out) if config == "karpathy" else ({}, {})
    count = 0
    for name, half in HALVES.items():
        path = find(folder, (name,), "SpokenCOCO.tar.gz")
        wavs, file = out.prefix(path.parent), out.below(path)
        for index, entry in enumerate(read_entries(path, "data")):
            entry = entry if isinstance(entry, dict) else {}
            captions = entry.get("captions") if isinstance(entry.get("captions"), list) else []
            # Captions that are left out are numbered, too: ids must not depend on problems.
            where = f"{file}#{index}"
            numbered = [(count + i, f"{where}.{i}", caption) for i, caption in enumerate(captions)]
            count += len(captions)
            image = pictures.locate(entry.get("image"))
            image_id = _coco_id(image) or 0
            if not image:
                detail = f"no COCO picture for {len(captions)} recordings"
                out.leave_out(where, "bad metadata", detail)
            elif config == "karpathy" and image_id not in splits:
                detail = f"Karpathy does not list it; {len(captions)} recordings"
                out.leave_out(image, "bad metadata", detail, key=Path(image).name)
            elif splits.setdefault(image_id, half) != half and config == "original":
                detail = f"it is in {splits[image_id]} as well; {len(captions)} recordings"
                out.leave_out(where, "duplicate id", detail, half, Path(image).name)
            else:
                listed.setdefault(image_id, entry["image"])
                _add_image(out, image_id, splits[image_id], image, wavs, numbered)
    _report_silent(out, pictures, splits, listed)
    return out.plan()


def _report_silent(
    out: Collector, pictures: _Pictures, splits: Mapping[int, str], listed: Mapping[int, str]
):
    """Add a problem for each listed image that has no recording."""
    for image_id, published in listed.items():
        if not out.has(image_id):
            where = pictures.locate(published) or published
            detail = "no usable recording is published for it"
            out.leave_out(where, "no audio", detail, splits[image_id], Path(published).name)


LAYOUT = Layout(
    name="spoken_coco",
    configs={
        "karpathy": "Karpathy's split, which published numbers are on",
        "original": "COCO's 2014 halves 'train' and 'original_val'; not for comparison",
    },
    archives=(
        Archive(
            "SpokenCOCO.tar.gz",
            "https://data.csail.mit.edu/placesaudio/SpokenCOCO.tar.gz",
            holds="SpokenCOCO/SpokenCOCO_train.json",
            also_holds=("SpokenCOCO_train.json",),
        ),
        Archive(
            "train2014.zip", "http://images.cocodataset.org/zips/train2014.zip", holds="train2014"
        ),
        Archive("val2014.zip", "http://images.cocodataset.org/zips/val2014.zip", holds="val2014"),
        # Optional here because config 'original' does not need it; `plan` requires it for
        # 'karpathy'.
        Archive(
            "caption_datasets.zip",
            "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
            holds="dataset_coco.json",
            also_holds=("caption_datasets/dataset_coco.json", "coco/dataset.json"),
            optional=True,
        ),
    ),
    plan=plan,
    expected={
        "karpathy": {
            "train": Counts(113_287, 0),
            "val": Counts(5_000, 0),
            "test": Counts(5_000, 25_031),
        },
        "original": {"train": Counts(82_783, 0), "original_val": Counts(40_504, 0)},
    },
    refused={"original": {"val": ORIGINAL_LEAKS, "test": ORIGINAL_LEAKS}},
)
