"""Captions in the pictures' own fields, in every coding that programs write there."""

import pytest
from captioned import picture
from PIL import Image

from sir_jax.data.builders.spoken_captions.sources.fields import captions_in

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:{field}><rdf:Alt>{items}</rdf:Alt>'
    "</dc:{field}></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def saved(tmp_path, name="x.jpg", **options) -> bytes:
    picture(1).save(tmp_path / name, **options)
    return (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", ["x.jpg", "x.webp"])
def test_xmp_states_its_languages(tmp_path, name):
    items = (
        '<rdf:li xml:lang="x-default">A dog</rdf:li><rdf:li xml:lang="en-us">A dog</rdf:li>'
        '<rdf:li xml:lang="el">Ένας σκύλος</rdf:li>'
    )
    xmp = XMP.format(field="description", items=items).encode()
    data = saved(tmp_path, name, xmp=xmp)
    assert list(captions_in(data, name)) == [("en-US", "A dog"), ("el", "Ένας σκύλος")]


def test_xmp_that_is_broken_or_a_bomb_is_no_caption(tmp_path):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha"}">' for n in range(9))
    items = "<rdf:li>&e8;</rdf:li>"
    bomb = f"<!DOCTYPE x [{entities}]>" + XMP.format(field="title", items=items)
    for packet in (bomb, "<x", XMP.format(field="title", items="<rdf:li> </rdf:li>")):
        assert list(captions_in(saved(tmp_path, xmp=packet.encode()), "x.jpg")) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([(2, 120, "un été".encode())], "un été"),
        ([(1, 90, b"\x1b%G"), (2, 120, "un été".encode())], "un été"),
        ([(2, 5, b"title"), (2, 120, "un été".encode("cp1252"))], "un été"),
        ([(2, 5, b"title"), (2, 105, b"headline")], "headline"),
    ],
)
def test_iptc_in_any_coding(tmp_path, fields, text):
    iim = b"".join(
        bytes([0x1C, record, number]) + len(value).to_bytes(2) + value
        for record, number, value in fields
    )
    body = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + len(iim).to_bytes(4) + iim
    segment = b"\xff\xed" + (len(body) + 2).to_bytes(2) + body
    data = saved(tmp_path)
    assert list(captions_in(data[:2] + segment + data[2:], "x.jpg")) == [("", text)]


@pytest.mark.parametrize(
    ("tag", "value"),
    [(270, "Σκύλος".encode()), (0x9C9C, "Σκύλος\0".encode("utf-16-le"))],
)
def test_exif_in_any_coding(tmp_path, tag, value):
    exif = Image.Exif()
    exif[tag] = value
    assert list(captions_in(saved(tmp_path, exif=exif), "x.jpg")) == [("", "Σκύλος")]
