"""Small copies of the published corpora's layouts, every oddity included, made from a seed.

    python tests/support/data/layouts.py NAME FOLDER [--form=archives|tree|nested] [--seed=0]

Names, folders and fields are the publishers'; sounds are tones, pictures are coloured blocks.
"""

import argparse
import colorsys
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

RATE = 16_000

FLICKR_LISTS = {
    "train": (
        "1003163366_44323f5815.jpg",
        "1000268201_693b08cb0e.jpg",
        "1001773457_577c3a7d70.jpg",
        "1002674143_1b742ab4b8.jpg",
    ),
    "dev": ("1007320043_627395c3d8.jpg", "1007129816_e794419615.jpg"),
    "test": ("1012212859_01547e3f17.jpg", "1009434119_febe49276a.jpg"),
}
FLICKR_SILENT = "1007320043_627395c3d8.jpg"  # in the dev list, never described
FLICKR_NO_SPLIT = "1015118661_980735411b.jpg"  # one of the 91
FLICKR_MISSING = "1012212859_01547e3f17_3.wav"  # named, not shipped
FLICKR_UNNAMED = "2258277193_586949ec62_0.wav"  # shipped, not named
FLICKR_NO_SPEAKER = "1000268201_693b08cb0e_2.wav"
FLICKR_NOT_WAV = "1002674143_1b742ab4b8_4.txt"

# COCO id, captions, Karpathy's split ('' where he does not list it), in the order of the JSON.
COCO_TRAIN = ((25, 6, "train"), (9, 5, "train"), (30, 5, "train"))
COCO_VAL = (
    (325114, 5, "test"),
    (391895, 6, "test"),
    (522418, 5, "restval"),
    (184613, 5, "val"),
    (554625, 4, "val"),
    (60623, 5, "test"),
    (581929, 5, ""),
    (574769, 0, "val"),
)
COCO_UNSPOKEN = 581857  # Karpathy's train, in neither JSON of SpokenCOCO
COCO_TWICE = 30  # its last caption has the first one's uttid
COCO_MISSING = (60623, 2)  # the recording that is named and not shipped

# wav number, speaker, picture, text; None where the entry lacks the field.
_ABBEY = "a/abbey/gsun_0003586c3eedd97457b2d729ebfe18b5.jpg"
PLACES = {
    "train_2020": (
        (1, "A1K5ILJMG439M4", _ABBEY, "an old stone abbey on a green hill"),
        (2, "A2W5DT1WMHGJFX", _ABBEY, "there is a church with a broken roof"),
        (3, "A1K5ILJMG439M4", "l/laundromat/gsun_df5b011043802b4049b632a005de20e3.jpg", None),
        (4, None, "c/cathedral/outdoor/gsun_1b4a6ec0c0a64bd2a71b7a1a4a3d6a11.jpg", "a tall tower"),
        (5, "A2W5DT1WMHGJFX", None, "nobody knows which picture this was"),
    ),
    "dev_seen_2020": (
        (6, "A1K5ILJMG439M4", "b/beach/gsun_2c31f0a3f6a84b1a8a2a0a4d6c1e5f02.jpg", "white sand"),
    ),
    "dev_unseen_2020": (
        (7, "A3FZ4Z6TGQ2JHS", "k/kitchen/gsun_3d42a1b4a7b95c2b9b3b1b5e7d2f6a13.jpg", "a kitchen"),
    ),
    "test_seen_2020": (
        (8, "A2W5DT1WMHGJFX", "f/forest_road/gsun_4e53b2c5b8ca6d3cac4c2c6f8e3a7b24.jpg", "a road"),
        (8, "A2W5DT1WMHGJFX", "f/forest_road/gsun_4e53b2c5b8ca6d3cac4c2c6f8e3a7b24.jpg", "a road"),
    ),
    "test_unseen_2020": (
        (9, "A3FZ4Z6TGQ2JHS", "s/skyscraper/gsun_5f64c3d6c9db7e4dbd5d3d7a9f4b8c35.jpg", "glass"),
        (10, "A3FZ4Z6TGQ2JHS", _ABBEY, "the ruin of a monastery"),
        (11, "A3FZ4Z6TGQ2JHS", "b/bridge/gsun_6a75d4e7daec8f5ece6e4e8ba05c9d46.jpg", "a bridge"),
    ),
}
PLACES_MISSING = 11  # named, not shipped


def tone(number: int, seed: int) -> bytes:
    """Return a WAV file of a tone; pitch and length go by the number."""
    hertz, seconds = 300 + 40 * (number % 80) + seed, 0.3 + 0.05 * (number % 10)
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)
    out = io.BytesIO()
    soundfile.write(out, (wave * 32_767).astype(np.int16), RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def picture(number: int, seed: int) -> bytes:
    """Return a JPEG file of a block on a ground; the hue goes by the number."""
    hue = (0.381966 * number + 0.05 * seed) % 1  # golden section: neighbours differ
    ground, block = (
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue + turn, 0.6, 0.9))
        for turn in (0, 0.5)
    )
    image = Image.new("RGB", (96, 72), ground)
    image.paste(block, (24 + 3 * (number % 8), 18, 60, 54))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _lines(lines, end: str = "\n") -> bytes:
    return (end.join(lines) + end).encode()


def flickr8k_audio(seed: int = 0) -> dict[str, dict[str, bytes]]:
    """Return archive -> path -> content."""
    images = [image for split in FLICKR_LISTS.values() for image in split]
    spoken = [image for image in images if image != FLICKR_SILENT]
    names = [(f"{Path(image).stem}_{k}.wav", image, k) for image in spoken for k in range(5)]
    audio = {
        f"flickr_audio/wavs/{wav}": tone(i, seed)
        for i, (wav, _, _) in enumerate(names)
        if wav not in (FLICKR_MISSING, FLICKR_NOT_WAV.replace(".txt", ".wav"))
    }
    audio[f"flickr_audio/wavs/{FLICKR_UNNAMED}"] = tone(70, seed)
    audio[f"flickr_audio/wavs/{FLICKR_NOT_WAV}"] = b"not a sound\n"
    audio[f"flickr_audio/wavs/._{names[0][0]}"] = b"\0\5\x16\7 of a Mac"
    shipped = {FLICKR_NOT_WAV.replace(".txt", ".wav"): FLICKR_NOT_WAV}
    # The publishers' order is none.
    order = np.random.default_rng(seed).permutation(len(names))
    audio["flickr_audio/wav2capt.txt"] = _lines(
        f"{shipped.get(wav, wav)} {image} #{k}" for wav, image, k in (names[i] for i in order)
    )
    audio["flickr_audio/wav2spk.txt"] = _lines(
        (f"{wav} {7 + i % 3}" for i, (wav, _, _) in enumerate(names) if wav != FLICKR_NO_SPEAKER),
        "\r\n",
    )
    pictures = [*images, FLICKR_NO_SPLIT]
    shown = {f"Flicker8k_Dataset/{name}": picture(i, seed) for i, name in enumerate(pictures)}
    shown[f"__MACOSX/Flicker8k_Dataset/._{images[0]}"] = b"\0\5\x16\7 of a Mac"
    shown["Flicker8k_Dataset/.DS_Store"] = b"\0\0\0\1Bud1"
    # One name ends in .jpg.1; no such picture is shipped.
    described = [*pictures, "2258277193_586949ec62.jpg.1"]
    text = {
        "Flickr8k.token.txt": _lines(
            f"{image}#{k}\tCaption {k} of picture {Path(image).stem} ."
            for image in described
            for k in range(5)
        ),
        "Flickr_8k.trainImages.txt": _lines(FLICKR_LISTS["train"]),
        "Flickr_8k.devImages.txt": _lines(FLICKR_LISTS["dev"]),
        "Flickr_8k.testImages.txt": _lines(FLICKR_LISTS["test"], "\r\n"),
        "__MACOSX/._Flickr8k.token.txt": b"\0\5\x16\7 of a Mac",
        "readme.txt": b"If you publish work based on this data set, please cite ...\n",
    }
    return {"flickr_audio.tar.gz": audio, "Flickr8k_Dataset.zip": shown, "Flickr8k_text.zip": text}


def coco_uttid(image: int, slot: int) -> str:
    """Return the published form WORKER-HIT_IMAGE_CAPTION."""
    return f"m07150641{slot}gb9-3LUY3GC63Z0R9PYEETJGN5HO4UEP7B_{image}_{629297 + 10 * image + slot}"


def spoken_coco(seed: int = 0) -> dict[str, dict[str, bytes]]:
    """Return archive -> path -> content."""
    archives = {"SpokenCOCO.tar.gz": {}, "train2014.zip": {}, "val2014.zip": {}}
    audio, listed, number = archives["SpokenCOCO.tar.gz"], [], 0
    for half, rows in (("train", COCO_TRAIN), ("val", COCO_VAL)):
        entries = []
        for image, captions, split in rows:
            name = f"COCO_{half}2014_{image:012d}.jpg"
            archives[f"{half}2014.zip"][f"{half}2014/{name}"] = picture(image, seed)
            entry = {"image": f"{half}2014/{name}", "captions": []}
            for slot in range(captions):
                uttid = coco_uttid(image, slot)
                if image == COCO_TWICE and slot == captions - 1:
                    uttid = coco_uttid(image, 0)
                wav = f"wavs/{half}/0/{uttid}.wav"
                text = f"Caption {slot} of picture {image}."
                entry["captions"].append(
                    {"text": text, "speaker": f"m07150641{slot}gb9", "uttid": uttid, "wav": wav}
                )
                if (image, slot) != COCO_MISSING:
                    audio.setdefault(f"SpokenCOCO/{wav}", tone(number, seed))
                number += 1
            entries.append(entry)
            if split:
                listed.append((f"{half}2014", name, image, split))
        audio[f"SpokenCOCO/SpokenCOCO_{half}.json"] = json.dumps({"data": entries}).encode()
    name = f"COCO_train2014_{COCO_UNSPOKEN:012d}.jpg"
    archives["train2014.zip"][f"train2014/{name}"] = picture(COCO_UNSPOKEN, seed)
    listed.append(("train2014", name, COCO_UNSPOKEN, "train"))
    karpathy = [
        {
            "filepath": filepath,
            "sentids": [770337 + i],
            "filename": name,
            "imgid": i,
            "split": split,
            "sentences": [{"raw": "A man.", "tokens": ["a", "man"], "sentid": 770337 + i}],
            "cocoid": image,
        }
        for i, (filepath, name, image, split) in enumerate(reversed(listed))
    ]
    archives["caption_datasets.zip"] = {
        "dataset_coco.json": json.dumps({"images": karpathy, "dataset": "coco"}).encode(),
        "dataset_flickr8k.json": json.dumps({"images": [], "dataset": "flickr8k"}).encode(),
    }
    return archives


def places_audio(seed: int = 0) -> dict[str, dict[str, bytes]]:
    """Return archive -> path -> content."""
    audio, images = {}, {}
    for name, rows in PLACES.items():
        entries = []
        for number, speaker, image, text in rows:
            wav = f"wavs/{number % 2}/utterance_{number}.wav"
            entry = {"uttid": f"{speaker or 'ANONYMOUS'}-utterance_{number}", "wav": wav}
            fields = {"speaker": speaker, "image": image, "asr_text": text}
            entries.append(entry | {key: value for key, value in fields.items() if value})
            if number != PLACES_MISSING:
                audio[f"placesaudio_2020_splits/{wav}"] = tone(number, seed)
            if image:
                path = f"data/vision/torralba/deeplearning/images256/{image}"
                images.setdefault(path, picture(len(images), seed))
        content = {
            "image_base_path": "/data/sls/scratch/publisher/places/images256/",
            "audio_base_path": "/data/sls/scratch/publisher/places/audio/",
            "data": entries,
        }
        audio[f"placesaudio_2020_splits/{name}.json"] = json.dumps(content).encode()
    return {"placesaudio_2020_splits.tar.gz": audio, "imagesPlaces205_resize.tar.gz": images}


NAMES = {
    "flickr8k_audio": flickr8k_audio,
    "spoken_coco": spoken_coco,
    "places_audio": places_audio,
}


def _write_archive(path: Path, files: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write(name: str, folder: Path, form: str = "archives", seed: int = 0) -> Path:
    """Write a layout.

    Args:
      name: of `NAMES`.
      folder: where to; made if need be.
      form: 'archives' as published, 'tree' for all of them unpacked side by side, 'nested' for
        each of them unpacked in a folder of its own.
      seed: of pitches and colours.

    Returns:
      The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for archive, files in NAMES[name](seed).items():
        if form == "archives":
            _write_archive(folder / archive, files)
            continue
        root = folder if form == "tree" else folder / archive.split(".")[0]
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
    return folder


def main() -> None:
    """Write the layout that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", choices=("archives", "tree", "nested"), default="archives")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.name, args.folder, args.form, args.seed)
    print("\n".join(str(path) for path in sorted(args.folder.iterdir())))


if __name__ == "__main__":
    main()
