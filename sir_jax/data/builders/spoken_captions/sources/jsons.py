"""Captions in JSON: JSON lines, a list of records, Karpathy's files, and COCO's annotations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sir_jax.data.builders.publisher import word
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Reader, Row
from sir_jax.data.builders.spoken_captions.sources.text import read_text
from sir_jax.errors import UserError


def read_json_lines(path: Path, chosen: Sequence[str], encoding: str) -> Found:
    """Read captions from JSON lines: one object a line, its fields called as a table's columns.

    Args:
      path: of the file.
      chosen: languages that are asked for; none for all.
      encoding: see `read_text`.

    Raises:
      UserError: the file cannot be read.
    """
    found = Found()
    reader = Reader(found, chosen, path.name)
    # Not splitlines: JSON texts may hold U+2028.
    for number, line in enumerate(read_text(path, encoding, found.notes).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            found.wrong(where, f"no JSON ({error})")
            continue
        if isinstance(record, dict):
            reader.add(where, record)
        else:
            found.wrong(where, "no JSON object")
    reader.close()
    return found


def read_json(path: Path, chosen: Sequence[str], encoding: str) -> Found:
    """Read captions from a JSON file: Karpathy's form, COCO's annotations, or a list of objects.

    Args:
      path: of the file.
      chosen: languages that are asked for; none for all.
      encoding: see `read_text`.

    Raises:
      UserError: it is no JSON, or of another form.
    """
    found = Found()
    text = read_text(path, encoding, found.notes)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); JSON lines are called .jsonl") from None
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(content, list):
        reader = Reader(found, chosen, path.name)
        for number, record in enumerate(content):
            if isinstance(record, dict):
                reader.add(f"{path.name}#{number}", record)
            else:
                found.wrong(f"{path.name}#{number}", "no JSON object")
        reader.close()
    elif isinstance(images, list) and isinstance(content.get("annotations"), list):
        _annotations(found, path.name, images, content["annotations"])
    elif isinstance(images, list):
        _karpathy(found, path.name, images)
    else:
        raise UserError(
            f"{path}: neither a list of objects, nor an object with a list 'images' as in "
            "Karpathy's files and COCO's; give one of these"
        )
    return found


def _karpathy(found: Found, name: str, images: list[Any]) -> None:
    """Add the captions of `dataset_coco.json`, `dataset_flickr8k.json` or `dataset_flickr30k.json`.

    Each entry has a file name, a folder where the pictures lie in two, a split and sentences.
    """
    for index, entry in enumerate(images):
        where = f"{name}#{index}"
        entry = entry if isinstance(entry, dict) else {}
        file, folder = word(entry, "filename"), word(entry, "filepath")
        sentences = entry.get("sentences")
        if not file or not isinstance(sentences, list):
            found.wrong(where, "the entry has no file name or no sentences")
            continue
        for number, sentence in enumerate(sentences):
            sentence = sentence if isinstance(sentence, dict) else {}
            tokens = sentence.get("tokens")
            text = word(sentence, "raw")
            if not text and isinstance(tokens, list):
                text = " ".join(map(str, tokens))
            picture = f"{folder}/{file}" if folder else file
            row = Row(f"{where}.{number}", picture, text, "", word(entry, "split"))
            found.rows.append(row)


def _annotations(found: Found, name: str, images: list[Any], annotations: list[Any]) -> None:
    """Add the captions of COCO's `captions_train2014.json`."""
    files = {
        word(entry, "id"): word(entry, "file_name") for entry in images if isinstance(entry, dict)
    }
    for index, entry in enumerate(annotations):
        where = f"{name}#{index}"
        entry = entry if isinstance(entry, dict) else {}
        file = files.get(word(entry, "image_id"))
        if file:
            found.rows.append(Row(where, file, word(entry, "caption")))
        else:
            found.wrong(where, f"no image has the id {word(entry, 'image_id')!r}")
