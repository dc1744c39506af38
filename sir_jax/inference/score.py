"""How a model's results are scored: weights and calibration, fitted on a validation split.

They lie in a release's config.json, and in `score.json` of a workdir, where each checkpoint that
was fitted has its own. What was never fitted has weights of 1 and no calibration.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sir_jax.errors import UserError
from sir_jax.losses.fused_score import (
    fused_score,
    joint_rows,
    joint_temperature,
    probability,
    rivals,
)
from sir_jax.runtime.files import write_json
from sir_jax.runtime.trees import leaf_paths

FILE = "score.json"
CALIBRATION = ("scale", "against", "bias")
FORMAT, VERSION = "sir_jax score", 1
# Parameters that tell one checkpoint from another, and take no time to hash.
_TELLING = (
    "temperature",
    "match_head",
    "late",
    "pooled_scale",
    "pooled_bias",
    "speech_projection",
)


@dataclasses.dataclass(frozen=True)
class Score:
    """The weights of the score, and what it means as a probability.

    Attributes:
      weight: of the fusion encoder's log-odds.
      pooled_weight: of the pooled match's log-odds.
      calibration: scale, against and bias of `losses.fused_score.probability`; None where there is
        none, and then no probability is shown to anybody.
      fitted: how the weights were found, as plain data: corpus, split, k and what was reached;
        empty where they were not.
      typical: similarity, of the vectors that an index holds, that 19 of 20 true pairs of the
        validation split reach; None where nothing was fitted.
    """

    weight: float = 1.0
    pooled_weight: float = 1.0
    calibration: tuple[float, float, float] | None = None
    fitted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    typical: float | None = None

    def fused(self, similarity, temperature: float, log_odds):
        """Return `fused_score` of similarities and, where it is not None, log-odds; float64."""
        similarity = np.asarray(similarity, np.float64)
        if log_odds is None:
            return similarity / temperature
        return fused_score(similarity, temperature, np.asarray(log_odds, np.float64), self.weight)

    def probabilities(self, scores: np.ndarray) -> np.ndarray | None:
        """Return the calibrated probability of each result of a query, or of several queries.

        Args:
          scores: float[..., k] of `fused`, the results of a query along the last axis.

        Returns:
          float64[..., k]; None without a calibration, or where a result has no other beside it.
        """
        if self.calibration is None or np.shape(scores)[-1] < 2:
            return None
        return probability(scores, rivals(scores), self.calibration)

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain data."""
        calibration = None
        if self.calibration is not None:
            calibration = dict(zip(CALIBRATION, self.calibration, strict=True))
        return {
            "weight": self.weight,
            "pooled_weight": self.pooled_weight,
            "calibration": calibration,
            "fitted": dict(self.fitted),
            "typical": self.typical,
        }


# Of a model that was never fitted.
UNFITTED = Score()


def read_score(plain: Mapping[str, Any] | None, source: str) -> Score:
    """Read what `Score.to_json` gave.

    Args:
      plain: None for a score that was never fitted, as of older releases.
      source: where it was read, for the message.

    Raises:
      UserError: a number is none that a score can have.
    """
    if plain is None:
        return UNFITTED
    try:
        found = plain["calibration"]
        calibration = None if found is None else tuple(float(found[x]) for x in CALIBRATION)
        weights = float(plain["weight"]), float(plain["pooled_weight"])
        typical = plain.get("typical")
        typical = None if typical is None else float(typical)
        score = Score(*weights, calibration, dict(plain["fitted"]), typical)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: its score is damaged ({error!r}); fit it again") from None
    numbers = score.weight, score.pooled_weight, *(calibration or (1.0, 0.0, 0.0)), typical or 0.0
    if not all(map(math.isfinite, numbers)) or min(numbers[:4]) < 0:
        raise UserError(f"{source}: its score has the numbers {numbers}; fit it again")
    return score


def mark_of(params: Mapping) -> str:
    """Return 16 hexadecimal digits that tell a checkpoint from others of its run."""
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in sorted(leaf_paths(params).items()):
        if path.partition("/")[0] in _TELLING:
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(np.asarray(leaf), np.float32).tobytes())
    return digest.hexdigest()


def _read_all(workdir: Path) -> dict[str, Any]:
    path = workdir / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise UserError(f"{path} is of another sir_jax; remove it and fit again")
        return dict(content["checkpoints"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); remove it and fit again") from None


def score_of_workdir(workdir: Path, params: Mapping) -> Score:
    """Return the score of a checkpoint; that of weights 1 where none was fitted.

    Raises:
      UserError: the file is damaged.
    """
    return read_score(_read_all(workdir).get(mark_of(params)), str(workdir / FILE))


def write_score(workdir: Path, params: Mapping, score: Score) -> None:
    """Keep the score of a checkpoint in its workdir, beside those of others.

    Raises:
      UserError: the file is damaged.
    """
    scores = _read_all(workdir) | {mark_of(params): score.to_json()}
    content = {"format": FORMAT, "version": VERSION, "checkpoints": scores}
    write_json(workdir / FILE, content, indent=1)


class Scale:
    """What a found model's vectors are made and compared with.

    Attributes:
      width: of the vectors.
      temperature: by which their products are divided.
    """

    def __init__(self, params: Mapping, embed_width: int, pooled_width: int, score: Score):
        """Take what concerns the score of a model's parameters.

        Args:
          params: of the model.
          embed_width, pooled_width: of the model.
          score: whose `pooled_weight` the vectors hold.
        """
        self.similarity_temperature = float(params["temperature"])
        self.pooled_weight = 0.0
        if pooled_width:
            self.pooled_weight = score.pooled_weight * math.exp(float(params["pooled_scale"]))
        self.embed_width = embed_width
        self.width = embed_width + (pooled_width if self.pooled_weight else 0)
        self.temperature = self.similarity_temperature
        if self.pooled_weight:
            self.temperature = joint_temperature(self.similarity_temperature, self.pooled_weight)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows of the encoders, see `losses.fused_score.joint_rows`."""
        given = self.embed_width, self.similarity_temperature, self.pooled_weight
        return joint_rows(rows, *given)
