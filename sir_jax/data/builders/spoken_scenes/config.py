"""The parameters of a spoken_scenes corpus, and the name that encodes them."""

import dataclasses
import re

from sir_jax.data.builders.spoken_scenes.voices import MAX_VOICES, MIN_VOICES, other_voices
from sir_jax.data.media.synthesis.engines import ENGINES
from sir_jax.errors import UserError

LEVELS = ("one", "among", "two", "several", "compositional", "mixed")
# The splits of every corpus. Each engine with held-out voices adds one; see `SceneConfig.splits`.
SPLITS = ("train", "val", "test")

_NAME = re.compile(
    r"(?P<level>[a-z]+)-i(?P<train_images>\d+)-d(?P<val_images>\d+)-t(?P<test_images>\d+)"
    r"-c(?P<captions>\d+)-v(?P<voices>\d+)-p(?P<image_size>\d+)-s(?P<seed>\d+)"
    r"(-(?P<engines>espeak(\+[a-z]+)+))?"
)


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """Parameters of one corpus; its content is a pure function of them.

    Attributes:
      level: one of LEVELS, from one object to minimal pairs.
      train_images: number of distinct scenes in the split 'train'.
      val_images: number of distinct scenes in the split 'val'.
      test_images: number of distinct scenes in the split 'test'.
      captions: number of spoken captions per image.
      voices: number of voices over all splits: the first ones of the voice table.
      image_size: side of the square images, in pixels.
      seed: of the choice of scenes, captions and voices. It does not change the split that a scene
        or a voice belongs to.
      engines: the synthesisers, joined by commas; eSpeak NG is always among them. Engines with
        training voices speak every second caption of 'train'; those with held-out voices speak the
        captions of 'test' once more.
    """

    level: str = "one"
    train_images: int = 3000
    val_images: int = 250
    test_images: int = 500
    captions: int = 4
    voices: int = 64
    image_size: int = 128
    seed: int = 0
    engines: str = "espeak"

    def __post_init__(self):
        chosen = self.engines.split(",")
        for engine in chosen:
            if engine not in ENGINES:
                raise UserError(
                    f"engines has {engine!r}; there is no such speech synthesiser, choose among "
                    f"{', '.join(ENGINES)}"
                )
        if "espeak" not in chosen:
            raise UserError(
                f"engines is {self.engines!r}; add espeak, which speaks 'val' and 'test'"
            )
        # In one order, so that one corpus has one name.
        ordered = ",".join(engine for engine in ENGINES if engine in chosen)
        object.__setattr__(self, "engines", ordered)
        if self.level not in LEVELS:
            raise UserError(f"level {self.level!r} is unknown; choose one of {', '.join(LEVELS)}")
        for field, low, high in (
            ("train_images", 1, 10**8),
            ("val_images", 1, 10**8),
            ("test_images", 1, 10**8),
            ("captions", 1, 100),
            ("voices", MIN_VOICES, MAX_VOICES),
            ("image_size", 32, 1024),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise UserError(f"{field} is {value}; choose a number from {low} to {high}")
        if self.level in ("compositional", "mixed"):
            for split in SPLITS:
                if self.images(split) % 2:
                    raise UserError(
                        f"{split}_images is {self.images(split)}; level {self.level} comes in "
                        "pairs, choose an even number"
                    )

    @property
    def splits(self) -> dict[str, str]:
        """Return the splits, and the engine that all of each is by; '' for 'train'.

        'test_ENGINE' has the pictures and the words of 'test', spoken by voices of an engine that
        no training may hear.
        """
        held_out = [
            engine
            for engine in self.engines.split(",")
            if engine != "espeak" and other_voices([engine], "test")
        ]
        splits = {"train": "", "val": "espeak", "test": "espeak"}
        return splits | {f"test_{engine}": engine for engine in held_out}

    def images(self, split: str) -> int:
        """Return the number of images of a split."""
        return getattr(self, f"{split.partition('_')[0]}_images")

    def picture_of(self, image_id: int) -> int:
        """Return the image id that a picture has in the split where it comes first.

        Image k of 'test' has the ids n + k in 'test', n + k + test_images in the first further test
        split, and so on.
        """
        others = self.train_images + self.val_images
        if image_id < others:
            return image_id
        return others + (image_id - others) % self.test_images

    @property
    def name(self) -> str:
        """Return the name that encodes all parameters."""
        return (
            f"{self.level}-i{self.train_images}-d{self.val_images}-t{self.test_images}"
            f"-c{self.captions}-v{self.voices}-p{self.image_size}-s{self.seed}"
            # Names of corpora by eSpeak NG alone are older than the other engines.
            + ("" if self.engines == "espeak" else f"-{self.engines.replace(',', '+')}")
        )

    @classmethod
    def from_name(cls, name: str) -> "SceneConfig":
        """Return the parameters that a name encodes.

        Raises:
          UserError: no corpus has such a name.
        """
        match = _NAME.fullmatch(name)
        if not match:
            raise UserError(
                f"{name!r} is no spoken_scenes name; one looks like {cls().name!r} (level, train, "
                "val and test images, captions, voices, pixels, seed; behind them the engines, "
                "such as -espeak+flite)"
            )
        fields = match.groupdict()
        level, engines = fields.pop("level"), fields.pop("engines") or "espeak"
        numbers = {field: int(value) for field, value in fields.items()}
        config = cls(level=level, engines=engines.replace("+", ","), **numbers)
        if config.name != name:
            raise UserError(f"{name!r} is no spoken_scenes name; it is written {config.name!r}")
        return config

    def command(self) -> str:
        """Return the command that makes this corpus."""
        options = " ".join(f"--{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))
        return f"sir-jax data spoken_scenes {options}"
