"""Captions in the pictures' own fields: XMP, IPTC and EXIF, as photographers' programs write them.

Of a picture the description counts, else its title; XMP says the language of each.
"""

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from PIL import ExifTags, Image, IptcImagePlugin

from sir_jax.data.builders.records import progress
from sir_jax.data.builders.spoken_captions.pictures import Pictures
from sir_jax.data.builders.spoken_captions.sources.rows import Found, Row, language_code
from sir_jax.data.media.image import MAX_PIXELS
from sir_jax.data.media.picture_files import open_picture
from sir_jax.data.media.sources import read_source
from sir_jax.data.parallel import GROUP, ordered_map

_DC = "{http://purl.org/dc/elements/1.1/}"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_RDF_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
# IPTC's caption, headline and object name; and how they are written, UTF-8 by these bytes.
_IPTC = ((2, 120), (2, 105), (2, 5))
_IPTC_CODING, _IPTC_UTF8 = (1, 90), b"\x1b%G"
# Windows' comment and title, in UTF-16, beside EXIF's description.
_XP = (0x9C9C, 0x9C9B)
_USER_COMMENT = 0x9286
# What cameras write there by themselves.
_BY_CAMERAS = re.compile(
    r"\W*|(olympus|minolta|konica minolta|samsung)?\s*digital camera|sony dsc|samsung|dcim|"
    r"exif_jpeg_picture|hdrpl|cof|oppo.*|charset=\w*.*|untitled",
    re.I,
)
_MOST_XMP = 1 << 20


def read_fields(pictures: Pictures, names: Sequence[str]) -> Found:
    """Read the captions in the fields of pictures.

    Args:
      pictures: of the folder.
      names: of those to read. One that cannot be read has no captions here.
    """

    def read(name: str) -> list[tuple[str, str]]:
        try:
            _, data = read_source(pictures.folder / name, name, "picture")
            return list(captions_in(data, name))
        # On damaged files Pillow's parsers raise any exception; making the corpus says which.
        except Exception:
            return []

    found = Found()
    with progress(len(names), "picture", "read their fields") as bar:
        for name, captions in zip(names, ordered_map(read, names, GROUP), strict=True):
            found.rows += [Row(name, name, text, language) for language, text in captions]
            bar.update(1)
    return found


def captions_in(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Yield (language, caption) of what a picture's fields hold; the language is '' if unknown.

    Args:
      data: the picture's file.
      name: of the picture, for messages.

    Raises:
      BadMedia: it is no picture.
    """
    with open_picture(data, name, MAX_PIXELS) as image:
        for read in (_xmp, _iptc, _exif):
            texts = [(language, text.strip(" \0\r\n\t")) for language, text in read(image)]
            texts = [entry for entry in texts if not _BY_CAMERAS.fullmatch(entry[1])]
            if texts:
                yield from texts
                return


def _xmp(image: Image.Image) -> list[tuple[str, str]]:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    packet = packet.encode() if isinstance(packet, str) else packet
    if len(packet) > _MOST_XMP:
        return []
    try:
        # expat bounds the growth of entities.
        root = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError):
        return []
    for field in ("description", "title"):
        texts = {}
        for element in root.iter(_DC + field):
            for item in element.iter(_RDF_ITEM):
                code = item.get(_LANG, "")
                code = "" if code == "x-default" else language_code(code)
                # The default repeats the text of one of the languages.
                if item.text and item.text.strip() not in texts:
                    texts[item.text.strip()] = code
                elif item.text and code:
                    texts[item.text.strip()] = code
        if texts:
            return [(code, text) for text, code in texts.items()]
    return []


def _iptc(image: Image.Image) -> list[tuple[str, str]]:
    fields = IptcImagePlugin.getiptcinfo(image) or {}
    for key in _IPTC:
        values = fields.get(key, [])
        values = [values] if isinstance(values, bytes) else values
        texts = [("", _decoded(value, fields.get(_IPTC_CODING))) for value in values if value]
        if texts:
            return texts
    return []


def _decoded(value: bytes, coding: bytes | None) -> str:
    # Many programs write UTF-8 without saying so.
    for encoding in ("utf-8", "cp1252"):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            if coding == _IPTC_UTF8:
                break
    return value.decode("latin-1")


def _exif(image: Image.Image) -> list[tuple[str, str]]:
    exif = image.getexif()
    description = exif.get(ExifTags.Base.ImageDescription, "")
    texts = [_text(description)]
    texts += [_text(exif.get(tag, b""), "utf-16-le") for tag in _XP]
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT, b"")
    if isinstance(comment, bytes) and len(comment) > 8:
        wide = comment[:8].startswith(b"UNICODE")
        # The byte order of the file, which Pillow keeps to itself: letters' upper byte is mostly 0.
        order = "utf-16-be" if comment[8:9] == b"\0" else "utf-16-le"
        texts.append(_text(comment[8:], order if wide else "utf-8"))
    for text in texts:
        if not _BY_CAMERAS.fullmatch(text):
            return [("", text)]
    return []


def _text(value: str | bytes, encoding: str = "utf-8") -> str:
    if isinstance(value, str):
        # Pillow reads ASCII fields as Latin-1; most programs write UTF-8 there.
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return value.strip(" \0\r\n\t")
    if encoding.startswith("utf-16"):
        return bytes(value).decode(encoding, "replace").strip(" \0\r\n\t")
    try:
        return bytes(value).decode().strip(" \0\r\n\t")
    except UnicodeDecodeError:
        return bytes(value).decode("cp1252", "replace").strip(" \0\r\n\t")
