"""Try a published corpus at its full count, without its files.

    python launch/published_size.py spoken_coco --folder=/big/disk [--share=1] [--stages=...]

Makes a tree of the form that the publishers ship, with as many pictures and recordings, but small
ones: noise of a tenth to a third of a second, pictures of 24 x 24 pixels, no two alike. Then it
prepares the corpus, kills that half-way and goes on, verifies it, opens it, plans an epoch, trains
100 steps with tiny encoders and kills that. Each stage is a process of its own; its time and the
memory of it and its children are printed, and added to `size.jsonl` in the folder.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

RATE, SIDE = 16_000, 24
# Pictures of each of Karpathy's splits: COCO's folder, and how many have a sixth caption. All
# others have five.
COCO = {
    "train": ("train2014", 82_783, 202),
    "restval": ("val2014", 30_504, 99),
    "val": ("val2014", 5_000, 0),
    "test": ("val2014", 5_000, 31),
}
FLICKR = {"train": 6_000, "dev": 1_000, "test": 1_000}
CORPORA = {"spoken_coco": "spoken_coco/karpathy", "flickr8k_audio": "flickr8k_audio/official"}
STAGES = ("make", "killed", "prepare", "verify", "open", "plan", "train")

_VERB = "import sys; from sir_jax.cli.main import entry; sys.exit(entry())"
_OPEN = """
import sys, time
from sir_jax.data.corpus import open_corpus
start = time.monotonic()
corpus = open_corpus(sys.argv[1], sys.argv[2])
for name, split in corpus.splits.items():
    record = split[len(split) - 1]
    print(f"{name}: {len(split):,} pictures, {len(split.index):,} recordings, "
          f"index of {split.index.nbytes / 2**20:.1f} MiB")
print(f"opened and read in {time.monotonic() - start:.2f} s")
"""
_PLAN = """
import sys, time
from sir_jax.data.corpus import open_corpus
from sir_jax.data.pipeline import plan_epoch
index = open_corpus(sys.argv[1], sys.argv[2]).splits["train"].index
start = time.monotonic()
items, bucket = plan_epoch(index["samples"], index["image_id"], (3_200, 4_800), 256, 0, 0)
print(f"{len(items):,} batches of 256 in {time.monotonic() - start:.2f} s")
"""


class Files:
    """Writes distinct sounds and pictures, fast: noise from one block, and a number of its own."""

    def __init__(self, folder: Path):
        rng = np.random.default_rng(0)
        self._folder, self._made = folder, set()
        self._noise = rng.integers(-3_000, 3_000, 1 << 16).astype("<i2")
        self._colours = rng.integers(0, 256, (4_096, 3), np.uint8)

    def put(self, path: str, content: bytes) -> None:
        """Write a file."""
        parent, _, _ = path.rpartition("/")
        if parent not in self._made:
            (self._folder / parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)
        (self._folder / path).write_bytes(content)

    def sound(self, path: str, number: int) -> None:
        """Write a WAV file of 0.1 to 0.3 s; its first samples spell the number."""
        length = RATE // 10 + number * 37 % (RATE // 5)
        wave = np.roll(self._noise, number)[:length].copy()
        wave[:24] = [1_000 * (number >> bit & 1) for bit in range(24)]
        data = wave.tobytes()
        header = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt "
        header += (16).to_bytes(4, "little") + np.array([1, 1], "<u2").tobytes()
        header += np.array([RATE, 2 * RATE], "<u4").tobytes() + np.array([2, 16], "<u2").tobytes()
        self.put(path, header + b"data" + len(data).to_bytes(4, "little") + data)

    def picture(self, path: str, number: int) -> None:
        """Write a JPEG file of four times four fields, whose light and dark spell the number."""
        fields = self._colours[np.arange(16) + number * 16 % 4_080] // 3
        fields = fields + 160 * (number >> np.arange(16) & 1).astype(np.uint8)[:, None]
        fields[0] = (number >> 16 & 15) * 16, 0, 0
        pixels = fields.reshape(4, 4, 3).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=90)
        self.put(path, out.getvalue())


def make_spoken_coco(folder: Path, share: float) -> None:
    """Write a tree of SpokenCOCO's form: its two JSON files, COCO's folders, Karpathy's list."""
    files, listed, recording, picture = Files(folder), [], 0, 0
    entries: dict[str, list] = {"train": [], "val": []}
    for split, (images, count, more) in COCO.items():
        for i in range(scaled(count, share)):
            picture += 1
            name = f"COCO_{images}_{picture:012d}.jpg"
            half = images.removesuffix("2014")
            files.picture(f"{images}/{name}", picture)
            captions = []
            for slot in range(5 + (i < scaled(more, share))):
                uttid = f"m{picture:09d}gb{slot}-3LUY3GC63Z0R9PYEETJGN5HO4UEP7B_{picture}_{slot}"
                wav = f"wavs/{half}/{recording // 10_000}/{uttid}.wav"
                files.sound(f"SpokenCOCO/{wav}", recording)
                text = f"Caption {slot} of picture {picture}, which shows some noise in a square."
                speaker = f"m{recording % 2_353:09d}gb"
                captions.append({"text": text, "speaker": speaker, "uttid": uttid, "wav": wav})
                recording += 1
            entries[half].append({"image": f"{images}/{name}", "captions": captions})
            listed.append({"filepath": images, "filename": name, "split": split, "cocoid": picture})
    for half, data in entries.items():
        files.put(f"SpokenCOCO/SpokenCOCO_{half}.json", json.dumps({"data": data}).encode())
    files.put("dataset_coco.json", json.dumps({"images": listed, "dataset": "coco"}).encode())


def make_flickr8k_audio(folder: Path, share: float) -> None:
    """Write a tree of Flickr8k Audio's form."""
    files, number = Files(folder), 0
    captions, speakers, texts = [], [], []
    for split, count in FLICKR.items():
        names = [f"{10**9 + number + i}_{i:010x}.jpg" for i in range(scaled(count, share))]
        for name in names:
            files.picture(f"Flicker8k_Dataset/{name}", number)
            for slot in range(5):
                wav = f"{Path(name).stem}_{slot}.wav"
                files.sound(f"flickr_audio/wavs/{wav}", 5 * number + slot)
                captions.append(f"{wav} {name} #{slot}")
                speakers.append(f"{wav} {number % 183}")
                texts.append(f"{name}#{slot}\tCaption {slot} of picture {number} .")
            number += 1
        files.put(f"Flickr_8k.{split}Images.txt", lines(names))
    files.put("flickr_audio/wav2capt.txt", lines(captions))
    files.put("flickr_audio/wav2spk.txt", lines(speakers))
    files.put("Flickr8k.token.txt", lines(texts))


def scaled(count: int, share: float) -> int:
    """Return a share of a count, at least one of any."""
    return max(round(count * share), min(count, 1))


def lines(words: list[str]) -> bytes:
    """Return the content of a text file."""
    return ("\n".join(words) + "\n").encode()


def family(root: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def runs(process: int) -> bool:
    """Tell whether a process runs, and has not only been left unburied by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def memory(process: int, field: str) -> int:
    """Return a process's memory in bytes: 'Pss' counts a page that n processes share as 1/n."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return 0


def watch(
    command: list[str], log: Path, enough: Callable[[], bool] = lambda: False
) -> dict[str, object]:
    """Run a command and return its status, seconds and peak memory.

    Args:
      command: words.
      log: gets what it prints.
      enough: the command is killed, it alone, when this is true.
    """
    start, peak, alone, left = time.monotonic(), 0, 0, []
    with log.open("a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            while process.poll() is None:
                everyone = list(family(process.pid))
                sizes = [memory(each, "Pss") for each in everyone]
                peak, alone = max(peak, sum(sizes)), max(alone, sizes[0])
                if enough():
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    left = everyone[1:]
                time.sleep(0.5)
        finally:
            process.kill()
    result: dict[str, object] = {"status": process.returncode}
    result["seconds"] = round(time.monotonic() - start, 1)
    result["peak_mib"], result["first_process_mib"] = peak >> 20, alone >> 20
    if left:
        killed = time.monotonic()
        while left and time.monotonic() < killed + 60:
            time.sleep(0.05)
            left = [each for each in left if runs(each)]
        result["left_behind"] = len(left)
        result["gone_after"] = round(time.monotonic() - killed, 1)
    return result


def stage_command(stage: str, corpus: str, folder: Path) -> list[str]:
    """Return the command of a stage."""
    data, verb = f"--data_dir={folder / 'data'}", [sys.executable, "-c", _VERB]
    if stage in ("killed", "prepare"):
        tree = f"--archives={folder / 'tree'}"
        more = [] if (folder / "whole").exists() else ["--tolerance=1"]
        return [*verb, "data", "prepare", corpus, tree, data, *more]
    if stage == "verify":
        return [*verb, "data", "verify", corpus, data]
    if stage == "train":
        fields = {
            "data.data_dir": folder / "data",
            "data.buckets": "3200,4800",
            "data.batch_size": 16,
            "train.steps": 1_000,
            "train.eval_every": 0,
            "train.checkpoint_every": 50,
            "train.num_workers": 1,
        }
        config = f"--config=configs/hubert_base_clip_b32.py:corpus={corpus},runlocal"
        workdir = folder / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        options = [f"--config.{field}={value}" for field, value in fields.items()]
        return [*verb, "train", config, f"--workdir={workdir}", *options]
    code = {"open": _OPEN, "plan": _PLAN}[stage]
    return [sys.executable, "-c", code, corpus, str(folder / "data")]


def run_stage(stage: str, name: str, folder: Path, share: float) -> dict[str, object]:
    """Run a stage; return its measurements."""
    corpus, log = CORPORA[name], folder / f"{stage}.log"
    if stage == "make":
        start = time.monotonic()
        {"spoken_coco": make_spoken_coco, "flickr8k_audio": make_flickr8k_audio}[name](
            folder / "tree", share
        )
        if share == 1:
            (folder / "whole").touch()
        return {"status": 0, "seconds": round(time.monotonic() - start, 1)}
    made = folder / "data" / corpus
    half = sum(count for _, count, _ in COCO.values()) if name == "spoken_coco" else 8_000
    half = scaled(half, share) // 24 // 2

    def half_way() -> bool:
        return sum(1 for _ in made.glob("chunks-*/*.chunk")) >= half

    def hundred_steps() -> bool:
        metrics = folder / "run/metrics.jsonl"
        return metrics.exists() and '"step": 100,' in metrics.read_text()

    enough = {"killed": half_way, "train": hundred_steps}.get(stage, lambda: False)
    result = watch(stage_command(stage, corpus, folder), log, enough)
    if stage == "prepare":
        files = list(made.glob("1.0.0/*"))
        result["corpus_mib"] = sum(file.stat().st_size for file in files) >> 20
        index = sum(file.stat().st_size for file in files if file.name.startswith("index-"))
        result["index_mib"] = round(index / 2**20, 1)
    return result


def main() -> int:
    """Run the stages that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--folder", type=Path, required=True, help="gets it all, 15 GB for coco")
    parser.add_argument("--share", type=float, default=1.0, help="of the published count")
    parser.add_argument("--stages", default=",".join(STAGES), help="default %(default)s")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for stage in args.stages.split(","):
        result = {"corpus": args.corpus, "share": args.share, "stage": stage}
        result |= run_stage(stage, args.corpus, folder, args.share)
        with (folder / "size.jsonl").open("a") as out:
            out.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)
        if result["status"] not in (0, -signal.SIGKILL):
            print(f"{stage} failed; see {folder / f'{stage}.log'}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
