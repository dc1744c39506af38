"""The benchmark of augmentation: a row for every effect, and refusals."""

import pytest

from sir_jax.benchmarks import augment as bench
from sir_jax.config.augment_fields import EFFECTS
from sir_jax.data.media.augment import AugmentSpec
from sir_jax.errors import UserError


def test_every_effect_has_a_row_whose_average_is_its_share(capsys):
    assert bench.main(["--seconds=0.1", "--clips=1", "--rounds=1"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    names = [line[:18].strip() for line in lines]
    assert [name.split()[0] for name in names[:-1]] == [
        name for effect in EFFECTS for name in ([effect] * 3 if effect == "codec" else [effect])
    ]
    for line in lines[:-1]:
        ms, share, average = map(float, line.split()[-3:])
        assert ms > 0 and average == pytest.approx(ms * share, abs=0.02)
    assert names[-1].startswith("all of it")


def test_the_parts_of_a_preset_are_alone():
    people = AugmentSpec.preset("people")
    for name, share, one in bench.alone(people):
        on = [effect for effect in EFFECTS if getattr(one, effect)]
        assert on == [name.split()[0]] and 0 < share <= getattr(people, on[0])


@pytest.mark.parametrize("argument", ["--seconds=0", "--clips=0", "--preset=loud"])
def test_mistakes_are_named(argument):
    name = argument.split("=")[0].strip("-").replace("preset", "data.augment")
    with pytest.raises(UserError, match=name):
        bench.main([argument])
