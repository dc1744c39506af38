"""The options of `data prepare` for recordings of people: tux_paint_stamps and voices."""

import argparse
from pathlib import Path

from sir_jax.errors import UserError

PEOPLE = ("tux_paint_stamps", "voices")
_BOTH = "tux_paint_stamps, voices"
# Option: what it is for, and its help.
_OPTIONS = {
    "source": (_BOTH, "the folder of launch/get_voices.sh"),
    "hold_out": (_BOTH, "languages whose recordings of people are in the test split alone: fr,ru"),
    "languages": (
        "tux_paint_stamps",
        "fr,es, or each with :human, :synthesised or :both; all: those that people speak "
        "(default all:human)",
    ),
    "hold_out_pictures": ("tux_paint_stamps", "percent of the pictures that are in test alone"),
    "voices": ("tux_paint_stamps", "synthesised captions of each picture and language (default 6)"),
    "engines": ("tux_paint_stamps", "who says them: espeak,mbrola (default espeak)"),
    "parts": ("voices", "some of stamps,prompts,letters,dialogues (default all)"),
    "synthesised": ("voices", "names of the stamps that eSpeak NG says besides (default 0)"),
}
_NUMBERS = ("hold_out_pictures", "voices", "synthesised")


def add_people(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    for name, (of, text) in _OPTIONS.items():
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        kind = int if name in _NUMBERS else str
        parser.add_argument(*spellings, dest=name, type=kind, help=f"of {of}: {text}")


def refuse_people(args: argparse.Namespace) -> None:
    """Refuse options that another corpus has no use for.

    Raises:
      UserError: one was given.
    """
    for name, (of, _) in _OPTIONS.items():
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for `prepare` of {of}")


def choose_people(args: argparse.Namespace, name: str, config: str) -> tuple:
    """Return the `Layout`, the config's name, and the `Source` of the packages.

    Args:
      args: of `data prepare`.
      name: one of PEOPLE.
      config: name of a config; '' to make it of the options.

    Raises:
      UserError: an option is missing, of no use here, or wrong.
    """
    from sir_jax.data.builders.archives import Source

    for other in ("archives", "manifest", "corpus", "root"):
        if getattr(args, other) is not None:
            option = "name" if other == "corpus" else other
            raise UserError(f"--{option} is not for {name}; give --source")
    if args.allow_leaks:
        raise UserError("--allow_leaks is for `prepare manifest`; a published corpus is kept")
    given = {o: getattr(args, o) for o in _OPTIONS if getattr(args, o) is not None}
    for option in given:
        if name not in _OPTIONS[option][0]:
            raise UserError(f"--{option} is for `prepare {_OPTIONS[option][0]}`, not for {name}")
    folder = given.pop("source", "")
    if not folder:
        raise UserError("--source is missing: give the folder of launch/get_voices.sh")
    if not Path(folder).expanduser().is_dir():
        raise UserError(
            f"source {folder!r}: no such folder; run: bash launch/get_voices.sh {folder}"
        )
    if config and given:
        raise UserError(f"{name}/{config} has its options in its name; leave out --{[*given][0]}")
    make = _stamps if name == "tux_paint_stamps" else _voices
    layout = make(config, given)
    return layout, next(iter(layout.configs)), Source(folder)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _voices(config: str, given: dict):
    from sir_jax.data.builders.voices.config import VoicesConfig
    from sir_jax.data.builders.voices.layout import voices_layout

    words = {key: _words(v) if isinstance(v, str) else v for key, v in given.items()}
    return voices_layout(VoicesConfig.from_name(config) if config else VoicesConfig(**words))


def _stamps(config: str, given: dict):
    from sir_jax.data.builders.tux_paint_stamps.config import StampsConfig
    from sir_jax.data.builders.tux_paint_stamps.layout import stamps_layout

    words = {key: _words(v) if isinstance(v, str) else v for key, v in given.items()}
    return stamps_layout(StampsConfig.from_name(config) if config else StampsConfig.of(**words))
