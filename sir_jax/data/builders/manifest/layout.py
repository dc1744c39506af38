"""The layout of a user's own corpus, which a manifest lists as JSON lines or CSV."""

import csv
import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from sir_jax.data.builders.publisher import RealPaths
from sir_jax.data.builders.recordings import Layout, Plan, PlannedCaption, PlannedImage, Problem
from sir_jax.errors import UserError

COLUMNS = ("image", "audio", "image_id", "split", "text", "speaker")
SUFFIXES = (".jsonl", ".csv")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_name(name: str) -> str:
    """Return the name of a manifest corpus if it is valid.

    Raises:
      UserError: the name cannot be that of a folder.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: use letters, digits, '-' and '_', a letter first")
    return name


def manifest_layout(manifest: Path, name: str, root: Path) -> Layout:
    """Return the layout of a corpus that a manifest lists.

    Args:
      manifest: a .jsonl or .csv file with the columns COLUMNS; only image and audio are required.
      name: name of the corpus.
      root: folder that the manifest's paths are relative to.

    Raises:
      UserError: the name is invalid, or the file or folder does not exist.
    """
    if manifest.suffix not in SUFFIXES:
        raise UserError(f"manifest {str(manifest)!r}: give a file in {' or '.join(SUFFIXES)}")
    if not manifest.is_file():
        raise UserError(f"manifest {str(manifest)!r}: no such file")
    if not root.is_dir():
        raise UserError(f"root {str(root)!r}: no such folder")
    return Layout(
        name="manifest",
        configs={check_name(name): f"what {manifest.name} lists"},
        archives=(),
        plan=lambda folder, config: plan_manifest(manifest, folder),
        expected={name: {}},
        rate=None,
        own=True,
    )


def plan_manifest(manifest: Path, root: Path) -> Plan:
    """Plan a corpus from its manifest.

    Files are told apart by where they lie, not by how a line spells it. A picture or recording that
    lines of two splits name is planned in both: that is a leak, which the preparation refuses.

    Args:
      manifest: a .jsonl or .csv file.
      root: folder that its paths are relative to.

    Returns:
      The plan. `image_id` numbers the images in the order of their first lines; `caption_id` is
      the recording's line number.

    Raises:
      UserError: the manifest has a column that is none of COLUMNS.
    """
    lines = _read_json(manifest) if manifest.suffix == ".jsonl" else _read_csv(manifest)
    planner = _Planner(root)
    for number, row in lines:
        planner.add(f"{manifest.name}:{number}", number, row)
    return planner.plan()


class _Planner:
    """The plan while the lines are read."""

    def __init__(self, root: Path):
        self._real = RealPaths(root)
        self._problems: list[Problem] = []
        # By split and key, or by split and file. A given image_id has one split.
        self._images: dict[tuple[str, str], _Image] = {}
        self._files: dict[tuple[str, str], _Image] = {}
        self._splits: dict[str, str] = {}
        self._sounds: dict[tuple[str, str], str] = {}

    def add(self, where: str, number: int, row: dict[str, str] | str) -> None:
        """Add a line: a row, or what is wrong with it."""
        if isinstance(row, str):
            self._problems.append(Problem(where, "bad metadata", row))
            return
        split = row.get("split") or "train"
        key = row.get("image_id") or row.get("image", "")
        fault = _fault(row, split)
        before = self._splits.get(key, split) if row.get("image_id") else split
        if not fault and before != split:
            fault = f"its picture {key!r} is in split {before!r} by an earlier line"
        if fault:
            known = split if _SPLIT.fullmatch(split) else ""
            self._problems.append(Problem(where, "bad metadata", fault, known))
            return
        picture, sound = self._real(row["image"]), self._real(row["audio"])
        image = self._images.get((split, key))
        if not row.get("image_id"):
            image = self._files.get((split, picture), image)
        if image and image.real != picture:
            detail = f"{where}: an earlier line gives the image_id {key!r} to {image.path}"
            self._problems.append(Problem(row["image"], "duplicate id", detail, split, key))
        elif (split, sound) in self._sounds:
            detail = f"{where}: {self._sounds[split, sound]} names this recording as well"
            self._problems.append(
                Problem(row["audio"], "duplicate id", detail, split, row["audio"])
            )
        else:
            if image is None:
                image = _Image(key, split, row["image"], picture)
                self._images[split, key] = image
                self._files.setdefault((split, picture), image)
                self._splits.setdefault(key, split)
            self._sounds[split, sound] = where
            image.add(number, row)

    def plan(self) -> Plan:
        """Return the plan."""
        images = enumerate(self._images.values())
        return Plan(tuple(image.planned(i) for i, image in images), tuple(self._problems))


class _Image:
    """One image while the lines are read."""

    def __init__(self, key: str, split: str, path: str, real: str):
        self.key, self.split, self.path, self.real = key, split, path, real
        self._captions: list[PlannedCaption] = []

    def add(self, number: int, row: dict[str, str]) -> None:
        """Add the recording of a line."""
        audio = row["audio"]
        self._captions.append(
            PlannedCaption(number, audio, audio, row.get("text", ""), row.get("speaker", ""))
        )

    def planned(self, image_id: int) -> PlannedImage:
        """Return the image with its recordings."""
        return PlannedImage(image_id, self.key, self.split, self.path, tuple(self._captions))


def _fault(row: dict[str, str], split: str) -> str:
    """Return what is wrong with a line; '' if nothing is."""
    for column in ("image", "audio"):
        if not row.get(column):
            return f"no {column}"
    for column, value in row.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{column} is not UTF-8"
        if "\0" in value:
            return f"{column} holds a zero byte"
    if not _SPLIT.fullmatch(split) or split == "all":
        return f"split {split!r} is no word of letters, digits and '_', or is 'all'"
    return ""


def _check_columns(columns, where: str) -> None:
    for column in columns:
        if column not in COLUMNS:
            near = difflib.get_close_matches(str(column), COLUMNS, 1, 0.0)[0]
            raise UserError(
                f"{where}: no column {column!r}; did you mean {near!r}? (columns: "
                f"{', '.join(COLUMNS)})"
            )


def _read_json(manifest: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the number of each line, and its row or what is wrong with it."""
    with manifest.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"no JSON ({error})"
                continue
            if not isinstance(row, dict):
                yield number, "no JSON object"
                continue
            _check_columns(row, f"{manifest.name}:{number}")
            row = {column: value for column, value in row.items() if value is not None}
            # Ids and speakers are often numbers.
            wrong = [c for c, value in row.items() if type(value) not in (str, int)]
            if wrong:
                yield number, f"{wrong[0]} is no text"
            else:
                yield number, {column: str(value) for column, value in row.items()}


def _read_csv(manifest: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the number of each row's last line, and the row or what is wrong with it."""
    with manifest.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, None)
        if not header:
            raise UserError(f"{manifest.name}: empty; its first line names the columns")
        header = [column.strip() for column in header]
        _check_columns(header, f"{manifest.name}:1")
        if len(set(header)) < len(header):
            raise UserError(f"{manifest.name}:1: a column is named twice")
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, str(error)
                continue
            if len(fields) == len(header):
                yield reader.line_num, dict(zip(header, fields, strict=True))
            elif fields:
                yield reader.line_num, f"{len(fields)} fields, the first line has {len(header)}"
