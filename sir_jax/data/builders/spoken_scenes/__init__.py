"""spoken_scenes: rendered scenes with spoken captions by synthetic voices."""

from sir_jax.data.builders.spoken_scenes.captions import attributes, vocabulary, words_of
from sir_jax.data.builders.spoken_scenes.config import LEVELS, SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.plan import PlannedCaption, PlannedImage, plan_corpus
from sir_jax.data.builders.spoken_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "LEVELS",
    "PLACES",
    "PlannedCaption",
    "PlannedImage",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Scene",
    "SceneConfig",
    "SceneObject",
    "attributes",
    "plan_corpus",
    "vocabulary",
    "words_of",
]
