"""The layout of Places Audio with its splits of 2020."""

from pathlib import Path

from sir_jax.data.builders.publisher import (
    Collector,
    find,
    find_root,
    published_path,
    read_entries,
    word,
)
from sir_jax.data.builders.recordings import Archive, Layout, Plan, PlannedCaption

# The file of each split. Their order fixes the numbers of images and recordings.
FILES = {
    "train": "train_2020.json",
    "val_seen": "dev_seen_2020.json",
    "val_unseen": "dev_unseen_2020.json",
    "test_seen": "test_seen_2020.json",
    "test_unseen": "test_unseen_2020.json",
}
_AUDIO = "placesaudio_2020_splits.tar.gz"
_IMAGES = "imagesPlaces205_resize.tar.gz"


def plan(folder: Path, config: str) -> Plan:
    """Plan the corpus from its five JSON files.

    The folders of recordings and images are searched for by the paths of the entries: the files'
    `audio_base_path` and `image_base_path` are folders of the publishers' machine.

    Args:
      folder: folder of the extracted archives.
      config: '2020', the only one.

    Returns:
      The plan. `caption_id` numbers the entries of the five files in turn; `image_id` numbers the
      images of each split in the order of their first entries. An image in two splits has one id in
      each.

    Raises:
      UserError: a file or folder that the plan needs does not exist.
    """
    del config
    out = Collector(folder)
    usable = []  # (caption_id, split, entry, wav, image)
    count = 0
    for split, name in FILES.items():
        path = find(folder, (name,), _AUDIO)
        for index, entry in enumerate(read_entries(path, "data")):
            entry = entry if isinstance(entry, dict) else {}
            wav, image = (published_path(entry.get(field)) for field in ("wav", "image"))
            if wav and image:
                usable.append((count, split, entry, wav, image))
            else:
                detail = f"the entry names no {'picture' if wav else 'recording'}"
                where = f"{out.below(path)}#{index}"
                out.leave_out(where, "bad metadata", detail, split, word(entry, "uttid"))
            count += 1
    wavs = out.prefix(find_root(folder, (row[3] for row in usable), _AUDIO))
    images = out.prefix(find_root(folder, (row[4] for row in usable), _IMAGES))
    image_ids: dict[tuple[str, str], int] = {}
    for caption_id, split, entry, wav, image in usable:
        caption = PlannedCaption(
            caption_id=caption_id,
            key=word(entry, "uttid") or wav,
            audio=wavs + wav,
            text=word(entry, "asr_text"),
            speaker=word(entry, "speaker"),
        )
        image_id = image_ids.setdefault((split, image), len(image_ids))
        out.add(image_id, image, split, images + image, caption)
    return out.plan()


LAYOUT = Layout(
    name="places_audio",
    configs={"2020": "the publishers' split of 2020: speakers seen and unseen in training"},
    archives=(
        Archive(
            _AUDIO,
            f"https://data.csail.mit.edu/placesaudio/{_AUDIO}",
            holds="placesaudio_2020_splits/train_2020.json",
            also_holds=(
                "placesaudio_2020_splits/metadata/train_2020.json",
                "PlacesAudio_400k_distro/metadata/train_2020.json",
                "PlacesAudio_400k_distro/train_2020.json",
                "metadata/train_2020.json",
                "train_2020.json",
            ),
        ),
        Archive(
            _IMAGES,
            f"http://data.csail.mit.edu/places/places205/{_IMAGES}",
            holds="data/vision/torralba/deeplearning/images256",
            also_holds=("images256", "vision/torralba/deeplearning/images256"),
        ),
    ),
    plan=plan,
    # The publishers state no counts that we could confirm.
    expected={"2020": {}},
)
