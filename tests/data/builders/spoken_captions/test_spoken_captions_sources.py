"""Every form that captions come in gives the same rows, and what cannot be read is one line."""

import json

import pytest
from captioned import picture, write_pictures
from PIL import Image

from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.data.builders.spoken_captions.sources.read import read_captions
from sir_jax.data.builders.spoken_captions.sources.rows import Columns, language_code
from sir_jax.errors import UserError

FRENCH = "un chien, à droite"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"), ["a.png", "b.png", "sub/c.png"])


def read(images, path, chosen=(), encoding=""):
    """Return what a source holds; `path` is the file."""
    return read_captions(images, path, chosen, encoding, None)[1]


def rows(found) -> list[tuple]:
    return [(row.picture, row.language, row.text, row.split) for row in found.rows]


def problems(found) -> list[tuple]:
    return [(p.path, p.detail) for p in found.problems]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_tables_of_any_delimiter_and_encoding(images, tmp_path, delimiter, encoding):
    path = tmp_path / "list.csv"
    lines = [["File", "Caption", "Lang"], ["a.png", f'"{FRENCH}"', "fr"], ["b.png", "été", "fr"]]
    path.write_bytes("\r\n".join(map(delimiter.join, lines)).encode(encoding))
    found = read(images, path)
    assert rows(found) == [("a.png", "fr", FRENCH, ""), ("b.png", "fr", "été", "")]
    assert [row.where for row in found.rows] == ["list.csv:2", "list.csv:3"]
    assert len(found.notes) == (encoding == "cp1252") and not found.problems


def test_lines_of_mixed_encodings_are_read_each_in_its_own(images, tmp_path):
    path = tmp_path / "list.csv"
    lines = ["file,fr", "a.png,Žluť", "b.png,été “cité”", "sub/c.png,œuf"]
    path.write_bytes(b"\n".join(x.encode("cp1252" if x[0] == "b" else "utf-8") for x in lines))
    found = read(images, path)
    assert [row.text for row in found.rows] == ["Žluť", "été “cité”", "œuf"]
    assert found.notes == [
        "list.csv: 1 of 4 lines are no UTF-8, read as cp1252, the first is line 3 "
        "'b.png,été “cité”'; if that is wrong, give the encoding"
    ]
    russian = "file,ru\na.png,кошка\n".encode("cp1251")
    path.write_bytes(russian)
    assert rows(read(images, path, encoding="cp1251")) == [("a.png", "ru", "кошка", "")]
    with pytest.raises(UserError, match=r"list.csv:2: is no utf-8 \(.*save the file as UTF-8"):
        read(images, path, encoding="utf-8")
    with pytest.raises(UserError, match="encoding 'klingon' is unknown; give one such as utf-8"):
        read(images, path, encoding="klingon")


def test_quoted_line_breaks_and_quotes_are_part_of_a_caption(images, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('file,caption\na.png,"a dog\nruns, ""fast"""\nb.png,5" long\n\nsub/c.png,\n')
    found = read(images, path)
    assert rows(found) == [
        ("a.png", "", 'a dog\nruns, "fast"', ""),
        ("b.png", "", '5" long', ""),
        ("sub/c.png", "", "", ""),
    ]
    assert [row.where for row in found.rows] == ["list.csv:2", "list.csv:4", "list.csv:6"]


@pytest.mark.parametrize("rest", ["b.png,a cat\n", "b.png,a cat\n" * 60 + '"\n'])
def test_a_quote_that_is_not_closed_swallows_nothing(images, tmp_path, rest):
    path = tmp_path / "list.csv"
    path.write_text(f'file,caption\na.png,"a dog\n{rest}')
    with pytest.raises(UserError, match=r"list.csv:2: a quote opens here and is not closed for"):
        read(images, path)


def test_rows_of_another_length_are_listed(images, tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("image\tcaption\na.png\tone\ttwo\nb.png\nsub/c.png\tthree\n\tfour\n")
    found = read(images, path)
    assert [row.text for row in found.rows] == ["three"]
    assert problems(found) == [
        ("list.tsv:2", "3 fields, the first line has 2"),
        ("list.tsv:3", "1 fields, the first line has 2"),
        ("list.tsv:5", "it names no picture"),
    ]


def test_columns_may_be_languages(images, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "file,fr,caption_ru,el,size,id\na.png,chien,собака,,9,7\nb.png,chat,,γάτα,9,8\n"
    )
    found = read(images, path)
    assert rows(found) == [
        ("a.png", "fr", "chien", ""),
        ("a.png", "ru", "собака", ""),
        ("b.png", "fr", "chat", ""),
        ("b.png", "el", "γάτα", ""),
    ]
    assert found.notes == [
        "list.csv: 1 pictures have nothing in column 'el'",
        "list.csv: 1 pictures have nothing in column 'caption_ru'",
        "list.csv: not used: 'size', 'id'",
    ]


def test_codes_are_columns_of_languages_only_where_that_can_be_meant():
    assert Columns.of(["image", "caption", "id", "no", "fr"]).texts == {}
    assert Columns.of(["image", "caption", "fr"], ["fr"]).texts == {"fr": "fr"}
    assert Columns.of(["image", "id", "fr", "url"]).texts == {"fr": "fr"}
    assert Columns.of(["image", "id"], ["id"]).texts == {"id": "id"}
    assert Columns.of(["image", "pt_BR_text", "title.de"]).texts == {
        "pt_BR_text": "pt-BR",
        "title.de": "de",
    }


@pytest.mark.parametrize(
    ("word", "code"), [("PT_br", "pt-BR"), ("Greek", "el"), ("fr_FR.UTF-8", "fr-FR"), (" FR", "fr")]
)
def test_languages_are_known_by_code_locale_and_name(word, code):
    assert language_code(word) == code


def test_lists_of_flickr_have_no_first_line_of_names(images, tmp_path):
    path = tmp_path / "Flickr8k.token.txt"
    path.write_text('a.png#0\tA "dog , runs\na.png#1\tA dog .\nb.png#0\tA cat\nb.png#1\n')
    found = read(images, path)
    assert [(row.picture, row.text) for row in found.rows] == [
        ("a.png#0", 'A "dog , runs'),
        ("a.png#1", "A dog ."),
        ("b.png#0", "A cat"),
    ]
    assert problems(found) == [("Flickr8k.token.txt:4", "no caption after the picture's name")]
    assert Pictures(images).find("a.png#1") == ("a.png", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty"),
        ("name,age\nx,3\n", "list.csv:1: 'name,age' names no column of pictures or none of capt"),
        ("file,file,caption\na.png,b.png,x\n", "list.csv:1: a column is named twice; rename one"),
    ],
)
def test_a_table_without_pictures_or_captions_is_one_line(images, tmp_path, text, line):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(images, path)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_json_lines_and_lists_of_objects(images, tmp_path):
    records = [
        {"file_name": "a.png", "captions": ["one", "two"], "lang": "en", "split": "dev"},
        {"file_name": "b.png", "captions": {"fr": "un", "pt_BR": ["dois", "dos"]}},
        {"file_name": "sub/c.png", "label": 3},
        {"captions": "lost"},
    ]
    lines = tmp_path / "list.jsonl"
    lines.write_text("\n".join(map(json.dumps, records)) + "\nno json\n[1]\n")
    found = read(images, lines)
    expected = [
        ("a.png", "en", "one", "dev"),
        ("a.png", "en", "two", "dev"),
        ("b.png", "fr", "un", ""),
        ("b.png", "pt-BR", "dois", ""),
        ("b.png", "pt-BR", "dos", ""),
    ]
    assert rows(found) == expected
    assert [where for where, _ in problems(found)] == [f"list.jsonl:{n}" for n in (3, 4, 5, 6)]
    whole = tmp_path / "list.json"
    whole.write_text(json.dumps(records))
    assert rows(read(images, whole)) == expected


def test_karpathys_json(images, tmp_path):
    entries = [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000000042.jpg",
            "split": "restval",
            "sentences": [{"raw": "A dog."}, {"tokens": ["two", "dogs"]}, {"raw": ""}],
        },
        {"filename": "b.png", "split": "test", "sentences": [{"raw": "A cat."}]},
        {"filename": "b.png", "split": "test"},
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    found = read(images, path)
    coco = "val2014/COCO_val2014_000000000042.jpg"
    assert rows(found) == [
        (coco, "", "A dog.", "restval"),
        (coco, "", "two dogs", "restval"),
        (coco, "", "", "restval"),
        ("b.png", "", "A cat.", "test"),
    ]
    assert found.rows[1].where == "dataset_coco.json#0.1"
    assert problems(found) == [
        ("dataset_coco.json#2", "the entry has no file name or no sentences")
    ]


def test_annotations_of_coco(images, tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [{"image_id": 7, "caption": "A dog."}, {"image_id": 8, "caption": "A cat."}],
    }
    path = tmp_path / "captions_train2014.json"
    path.write_text(json.dumps(content))
    found = read(images, path)
    assert rows(found) == [("a.png", "", "A dog.", "")]
    assert problems(found) == [("captions_train2014.json#1", "no image has the id '8'")]
    path.write_text('{"info": 3}')
    with pytest.raises(UserError, match="neither a list of objects, nor an object with a list"):
        read(images, path)


def test_texts_beside_pictures_then_their_fields(tmp_path):
    images = write_pictures(tmp_path, ["a.png", "b.png", "sub/c.png"])
    (tmp_path / "a.txt").write_text("a dog\n\n a cat \n")
    (tmp_path / "a.fr.txt").write_bytes("un été".encode("cp1252"))
    (tmp_path / "sub/c.png.txt").write_text("a house")
    exif = Image.Exif()
    exif[270] = "une île".encode()
    picture(7).save(tmp_path / "d.jpg", exif=exif)
    exif[270] = "OLYMPUS DIGITAL CAMERA"
    picture(8).save(tmp_path / "e.jpg", exif=exif)
    found = read(images, None)
    assert rows(found) == [
        ("a.png", "fr", "un été", ""),
        ("a.png", "", "a dog", ""),
        ("a.png", "", " a cat ", ""),
        ("sub/c.png", "", "a house", ""),
        ("d.jpg", "", "une île", ""),
    ]
    assert found.rows[2].where == "a.txt:3"
    assert found.notes[-1] == (
        "captions: 2 pictures have a text beside them, 1 have some in their own fields"
    )


@pytest.mark.parametrize(
    ("give", "line"),
    [
        (lambda i, t: (None, None), "images is missing: give the folder of the pictures"),
        (lambda i, t: (i, t / "no.csv"), "no.csv': no such file"),
        (lambda i, t: (t / "no", None), "no': no such folder"),
        (lambda i, t: (i, t), "a folder without a data set of TFDS or Hugging Face; give a file"),
        (lambda i, t: (i, None), "no picture has a text beside it (dog.txt of dog.jpg) or a"),
    ],
)
def test_what_is_not_there_is_one_line(images, tmp_path, give, line):
    with pytest.raises(UserError) as caught:
        read_captions(*give(images, tmp_path), (), "", tmp_path / "work")
    assert line in str(caught.value)
