"""Miniatures of the Debian packages of recordings, in their exact form, with their traps."""

import gzip
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}">{}</svg>'
DISC = SVG.format("40pt", "20pt", '<circle cx="26" cy="13" r="9" fill="#ff0000"/>')
BOMB = '<!DOCTYPE svg [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;&a;">]>' + SVG.format(
    9, 9, "<text>&b;</text>"
)


def write_sound(path: Path, pitch: float, seconds: float = 0.5, channels: int = 1, rate=8000):
    """Write a tone, or silence of pitch 0, as the file's name says: .ogg or .wav."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * time)
    soundfile.write(path, np.stack([wave] * channels, -1), rate)


def write_stamps(folder: Path) -> Path:
    """Write a package of stamps with every trap that the real one has; return their folder."""
    root = folder / STAMPS
    clear = Image.new("RGBA", (12, 9), (0, 0, 0, 0))
    clear.paste((255, 200, 0, 255), (3, 3, 9, 9))
    _stamp(root / "animals/duck.png", "A duck.", {"fr": "Un canard.", "de": "Eine Ente."}, clear)
    _stamp(root / "animals/cow.svg", "A cow. (Moo!)", {"fr": "Une vache.", "es": ""}, DISC)
    _stamp(root / "food/Pie.png", "A pie.", {"fr": "Une tarte.", "de": "Ein Kuchen."})
    # The artist's own drawing of it, and one that is drawn by its points.
    (root / "food/Pie.svg").write_text(SVG.format(9, 9, ""))
    _stamp(root / "symbols/7.png", "Seven.", {"fr": "Sept.", "de": "Sieben.", "zh_TW": "七"})
    _stamp(root / "town/tank.png", "A tank.", {"fr": "Un char."})
    Image.new("RGB", (9, 9), "green").save(root / "town/tank_mirror.png")
    _stamp(root / "town/broken.svg", "Broken.", {"fr": "Cassé."}, "<svg")
    _stamp(root / "town/bomb.svg", "A bomb.", {"fr": "Une bombe."}, BOMB)
    recordings = {
        "animals/duck_desc_fr.ogg": (200, 2),  # stereo
        "animals/duck_desc.ogg": (210, 1),
        "animals/duck_desc_es.wav": (220, 1),  # no Spanish name
        "animals/duck.ogg": (230, 1),  # it quacks
        "animals/cow_desc_fr.ogg": (0, 1),  # digitally silent
        "animals/cow_desc_es.ogg": (240, 1),  # an empty Spanish name
        "animals/wallaby_desc_fr.ogg": (250, 1),  # without a picture
        "food/pie_desc_fr.ogg": (260, 1),
        "symbols/7_fr.ogg": (270, 1),
        "symbols/7_zh_tw.ogg": (280, 1),
        "town/tank_desc_fr.ogg.ogg": (290, 1),
        "town/broken_desc_fr.ogg": (300, 1),
        "town/bomb_desc_fr.ogg": (310, 1),
    }
    for path, (pitch, channels) in recordings.items():
        write_sound(root / path, pitch, channels=channels)
    return root


def write_others(folder: Path) -> None:
    """Write packages of prompts, letters and dialogues."""
    for place, (code, voice) in enumerate(zip("en es fr it ru".split(), _VOICES, strict=True)):
        package = f"asterisk-core-sounds-{code}"
        doc = folder / package / "usr/share/doc" / package
        doc.mkdir(parents=True)
        lines = f"﻿; a list\n\nhello: ...good day ({code})\ndigits/1: one\nbeep: [a beep]\n"
        (doc / f"core-sounds-{code}.txt.gz").write_bytes(gzip.compress(lines.encode()))
        sounds = folder / f"{package}-wav/usr/share/asterisk/sounds" / voice
        for number, name in enumerate(("hello", "digits/1", "beep", "silence/1", "untold")):
            write_sound(sounds / f"{name}.wav", 400 + 10 * place + number, seconds=0.6)
    menardi = folder / "asterisk-prompt-it-menardi-wav/usr/share/asterisk/sounds/it_IT_f_Menardi"
    write_sound(menardi / "hello.wav", 500)
    letters = folder / "klettres-data/usr/share/klettres"
    write_sound(letters / "fr/alpha/a-0.ogg", 510)
    write_sound(letters / "fr/syllab/a-1.ogg", 520)
    for language, sounds in {
        "fr": ("alpha/a-0.ogg", "syllab/a-1.ogg"),
        "id": ("alpha/a.ogg",),
    }.items():
        (letters / language).mkdir(exist_ok=True)
        rows = [
            f'<sound name="{"AB"[: i + 1]}" file="{language}/{p}"/>' for i, p in enumerate(sounds)
        ]
        text = f"<klettres><language code='{language}'>{''.join(rows)}</language></klettres>"
        (letters / language / "sounds.xml").write_text(text)
    for language, text in {"cs": 'Co \\"to\\" bylo?', "nl": "Wat was dat?"}.items():
        script = (
            folder
            / f"fillets-ng-data/usr/share/games/fillets-ng/script/start/dialogs_{language}.lua"
        )
        script.parent.mkdir(parents=True, exist_ok=True)
        said = [f'dialogId("s-{i}", "font_big", "What?")\ndialogStr("{text}")\n' for i in range(2)]
        script.write_text("\n".join(said))
        part = f"fillets-ng-data-{language}/usr/share/games/fillets-ng/sound/start/{language}"
        write_sound(folder / part / "s-0.ogg", 530 + len(language + text), seconds=1.0)


_VOICES = ("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_Ivr")


def _stamp(path: Path, english: str, names: dict[str, str], picture=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [english, *(f"{locale}.utf8={name}" for locale, name in names.items())]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    if isinstance(picture, str):
        path.write_text(picture)
    else:
        colour = (sum(map(ord, path.stem)) % 251, 90, 30)
        (picture or Image.new("RGB", (10, 8), colour)).save(path)
