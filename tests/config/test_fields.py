"""The one table of fields: what is made from it, and that it names what other rooms can do."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sir_jax.config import augment_fields, model_fields, specs
from sir_jax.config.check import check_config, check_section
from sir_jax.config.command_line import load_config
from sir_jax.config.compare import to_json
from sir_jax.config.fields import FIELDS, FORMS, TABLE, TERMS, config_fields, weighed_terms
from sir_jax.config.help import describe_fields, reference_page
from sir_jax.config.presets import base_config
from sir_jax.errors import UserError
from sir_jax.losses import denoising
from sir_jax.models import layers

CONFIGS = Path(__file__).parents[2] / "configs"


# What came after the digests were pinned. At its default it changes no run.
LATER = (
    "data.trim_silence",
    "model.match",
    "model.head.kind",
    "model.head.taps",
    "model.head.places",
    "model.head.hidden",
    "loss.sim.negatives",
    "loss.sim.list_over",
    "loss.sim.list_weight",
    "loss.sim.teach_weight",
    "loss.cmd.pattern",
    "loss.cmd.negative_weight",
    "optim.algorithm",
    "optim.rates",
    "train.overlap",
    "train.profile",
)


def as_pinned(cfg) -> dict:
    """Return a config as plain data without what came later, as far as it is at its default."""
    plain = to_json(cfg)
    for name in LATER:
        *parents, last = name.split(".")
        section = plain
        for parent in parents:
            section = section[parent]
        value = section[last]
        values = config_fields(value, f"{name}.") if isinstance(value, dict) else {name: value}
        # JSON has no tuples.
        defaults = json.loads(json.dumps({field: FIELDS[field].default for field in values}))
        if values == defaults:
            del section[last]
    return plain


def digest(plain) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def test_every_default_is_allowed_and_every_field_documented():
    assert len(FIELDS) == len(TABLE)
    for field in TABLE:
        field.check(field.default)
        assert field.doc and "\n" not in field.doc, field.name
    for speech in specs.HUBERT_VARIANTS:
        for image in specs.VIT_VARIANTS:
            cfg = base_config(speech, image)
            assert config_fields(cfg).keys() == FIELDS.keys()
            check_section("model", cfg.model)


def test_a_config_has_the_values_it_always_had():
    pairs = [
        [speech, image, as_pinned(base_config(speech, image))]
        for speech in ("tiny", "base", "large", "x-large")
        for image in specs.VIT_VARIANTS
    ]
    assert digest(pairs) == "ef9a91d6e592b2f5"


# A config's whole content, with and without `:runlocal`. A change here changes what runs compute,
# and what a stopped run refuses to go on with: tell it in the changelog.
PINNED = {
    "ablations": "d498b4a446736867",
    "cmd": "5d760879dda2a2ff",
    "coarse_to_fine": "ef8ecd3763353805",
    "demo": "6c1881541a330b5d",
    "hubert_base_clip_b32": "026fdb34382a461d",
    "hubert_large_clip_l14": "aea3aa24a3ebda64",
    "hubert_large_vit_g": "e111197b66e381cc",
    "minimal_pairs": "62463bddf85b7517",
    "small": "62936c1b3fb782f6",
    "stamps": "6d5bc293dec57a77",
    "unified": "7d819e8c16b0de24",
}


@pytest.mark.parametrize("name", sorted(PINNED))
def test_a_config_file_has_the_values_it_always_had(name):
    specs_ = [f"{CONFIGS / name}.py{arg}" for arg in ("", ":runlocal")]
    assert digest([as_pinned(load_config(spec)) for spec in specs_]) == PINNED[name]


def test_an_objective_is_told_by_every_term_that_has_a_weight():
    loss = base_config("tiny", "tiny").loss
    assert set(TERMS) <= set(loss) and "teacher" not in TERMS
    assert weighed_terms(loss) == "1 SIC"
    for term in TERMS:
        loss[term].weight = 0.25
    assert weighed_terms(loss) == " + ".join(f"0.25 {term.upper()}" for term in TERMS)


def test_base_config_names_the_variants_that_it_knows():
    with pytest.raises(ValueError, match="speech='tinny' is none of tiny, small, base, large"):
        base_config("tinny", "tiny")


def test_choices_are_what_the_other_rooms_can_do():
    from sir_jax.data.media import augment

    assert set(specs.ACTIVATIONS) == set(layers.ACTIVATIONS)
    assert FORMS == denoising.FORMS
    assert tuple(augment.NOISES) == augment_fields.NOISES
    assert tuple(augment.CODECS) == augment_fields.CODECS
    parts = {name.split(".")[1] for name in FIELDS if name.startswith("model.")}
    assert {field.name for field in model_fields.MODEL} <= FIELDS.keys()
    assert {"speech", "image", "qformer", "head", "fusion"} <= parts


def test_the_room_needs_no_jax():
    room = Path(specs.__file__).parent
    names = [f"sir_jax.config.{path.stem}" for path in room.glob("*.py") if path.stem[0] != "_"]
    code = f"import sys, {', '.join(names)}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_help_shows_every_field_with_what_it_may_be():
    lines = describe_fields().splitlines()
    shown = [line for line in lines if line.startswith("  --config.")]
    assert len(shown) == len(TABLE)
    assert "  --config.optim.schedule='cosine'" in shown
    assert all(len(line) <= 100 for line in lines)
    text = " ".join(describe_fields().split())
    assert "how the rate falls from there to the last step [cosine, linear or constant]" in text
    cfg = base_config("tiny", "tiny")
    cfg.optim.schedule = "linear"
    assert "  --config.optim.schedule='linear'" in describe_fields(cfg).splitlines()


def test_the_reference_page_has_every_field_once():
    page = reference_page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE)
    assert "| `batch_size` | `256` | a whole number from 1 to 1,048,575 |" in page
    assert "## `model.speech`" in page
    # A bar inside a cell would end it.
    assert all(len(row.replace("\\|", "").split("|")) == 6 for row in rows)


def test_fields_that_are_missing_or_too_many_are_named():
    cfg = base_config("tiny", "tiny")
    cfg.optim.lerning_rate = 1.0
    with pytest.raises(UserError, match="no field 'optim.lerning_rate'; the nearest is optim.lea"):
        check_config(cfg)
    del cfg.optim["lerning_rate"], cfg.optim["learning_rate"]
    with pytest.raises(UserError, match=r"no field optim.learning_rate; start it from base_config"):
        check_config(cfg)
