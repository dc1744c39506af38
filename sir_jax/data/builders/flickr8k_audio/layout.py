"""The layout of the Flickr 8k Audio Caption Corpus."""

from pathlib import Path

from sir_jax.data.builders.publisher import Collector, find, is_junk, published_path, read_lines
from sir_jax.data.builders.recordings import Archive, Counts, Layout, Plan, PlannedCaption

CAPTIONS = 5  # per image; numbered from 0

# The file that lists the images of each split.
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
# The published zip has the first spelling.
IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
_DATASETS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"


def _read_order(out: Collector) -> dict[str, tuple[int, str]]:
    """Return each image's id and split; ids number the images of the three lists in turn."""
    order = {}
    for split, name in LISTS.items():
        path = find(out.folder, (name,), "Flickr8k_text.zip")
        for number, image in read_lines(path):
            where = f"{out.below(path)}:{number}"
            if not published_path(image):
                out.leave_out(where, "bad metadata", f"{image!r} is no picture's name", split)
            elif image in order:
                detail = f"{image} is listed before, in {order[image][1]}"
                out.leave_out(where, "duplicate id", detail, split, image)
            else:
                order[image] = (len(order), split)
    return order


def _read_pairs(path: Path, separator: str | None) -> dict[str, str]:
    """Return the rest of each line by its first field."""
    fields = (line.split(separator, 1) for _, line in read_lines(path))
    return {pair[0].strip(): pair[1].strip() for pair in fields if len(pair) == 2}


def _read_captions(
    out: Collector, order: dict[str, tuple[int, str]], wavs: Path, images: Path
) -> set[str]:
    """Add the recordings that wav2capt.txt assigns to images; return all wav names in the file."""
    path = find(out.folder, ("wav2capt.txt",), "flickr_audio.tar.gz")
    texts = _read_pairs(find(out.folder, ("Flickr8k.token.txt",), "Flickr8k_text.zip"), "\t")
    speakers = _read_pairs(find(out.folder, ("wav2spk.txt",), "flickr_audio.tar.gz"), None)
    named = set()
    for line_number, line in read_lines(path):
        where = f"{out.below(path)}:{line_number}"
        fields = line.split()
        named.add(fields[0])
        number = fields[2].removeprefix("#") if len(fields) == 3 else ""
        if number not in map(str, range(CAPTIONS)):
            detail = f"{line[:80]!r} is not 'RECORDING PICTURE #NUMBER', 0 to {CAPTIONS - 1}"
            out.leave_out(where, "bad metadata", detail)
            continue
        wav, image = fields[:2]
        if not wav.endswith(".wav") or published_path(wav) != wav or "/" in wav:
            out.leave_out(where, "bad metadata", f"{wav!r} is no wav file's name", key=wav)
        elif image not in order:
            out.leave_out(where, "bad metadata", f"its picture {image!r} is in no split", key=wav)
        else:
            image_id, split = order[image]
            caption = PlannedCaption(
                caption_id=image_id * CAPTIONS + int(number),
                key=wav,
                audio=out.prefix(wavs) + wav,
                text=texts.get(f"{image}#{number}", ""),
                speaker=speakers.get(wav, ""),
            )
            out.add(image_id, image, split, out.prefix(images) + image, caption)
    return named


def plan(folder: Path, config: str) -> Plan:
    """Plan the corpus from its text files.

    Args:
      folder: folder of the extracted archives.
      config: 'official', the only one.

    Returns:
      The plan. `image_id` numbers the images of the train, dev and test lists in turn;
      `caption_id` is 5 * image_id + the published number.

    Raises:
      UserError: a file or folder that the plan needs does not exist.
    """
    del config
    out = Collector(folder)
    order = _read_order(out)
    wavs = find(folder, ("flickr_audio/wavs", "wavs"), "flickr_audio.tar.gz")
    images = find(folder, IMAGE_FOLDERS, "Flickr8k_Dataset.zip", holding=order)
    named = _read_captions(out, order, wavs, images)
    for name, (image_id, split) in order.items():
        if not out.has(image_id):
            detail = "no usable line of wav2capt.txt names it"
            out.leave_out(out.prefix(images) + name, "no audio", detail, split, name)
    for path in sorted(wavs.iterdir()):
        if path.name not in named and not is_junk(path.name):
            detail = "no line of wav2capt.txt names it"
            out.leave_out(out.below(path), "bad metadata", detail, key=path.name)
    return out.plan()


LAYOUT = Layout(
    name="flickr8k_audio",
    configs={"official": "the publishers' split: 6,000 / 1,000 / 1,000 pictures"},
    archives=(
        Archive(
            "flickr_audio.tar.gz",
            "https://groups.csail.mit.edu/sls/downloads/flickraudio/downloads/flickr_audio.tar.gz",
            holds="flickr_audio/wav2capt.txt",
            also_holds=("wav2capt.txt",),
        ),
        Archive(
            "Flickr8k_Dataset.zip",
            f"{_DATASETS}/Flickr8k_Dataset.zip",
            holds=IMAGE_FOLDERS[0],
            also_holds=IMAGE_FOLDERS[1:],
        ),
        Archive(
            "Flickr8k_text.zip",
            f"{_DATASETS}/Flickr8k_text.zip",
            holds="Flickr8k.token.txt",
            also_holds=("Flickr8k_text/Flickr8k.token.txt",),
        ),
    ),
    plan=plan,
    expected={
        "official": {
            "train": Counts(6_000, 30_000),
            "val": Counts(1_000, 5_000),
            "test": Counts(1_000, 5_000),
        }
    },
)
