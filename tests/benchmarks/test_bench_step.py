"""The step benchmark: a run with a tiny config, its variants and its table."""

import json

import pytest

from sir_jax.benchmarks import step
from sir_jax.benchmarks.timing import Times
from sir_jax.config.presets import base_config
from sir_jax.errors import UserError

ARGS = [
    "--config=configs/unified.py:runlocal",
    "--config.mesh.data=1",
    "--rounds=1",
    "--batch=4",
    "--samples=4000",
    "--config.model.speech.layers=1",
    "--config.model.image.layers=1",
    "--config.model.fusion.layers=1",
    "--config.model.remat=none",
    "--config.model.dtype=float32",
]


# Six train steps are compiled.
@pytest.mark.release
def test_every_term_adds_to_contrastive_alone(tmp_path, capsys):
    path = tmp_path / "costs.json"
    assert step.main([*ARGS, f"--json={path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    costs = {cost["variant"]: cost for cost in json.loads(path.read_text())}
    assert list(costs) == [
        "contrastive",
        "+ queue",
        "+ distillation",
        "+ SIM",
        "+ CMD of image",
        "all",
    ]
    alone = costs.pop("contrastive")
    for name, cost in costs.items():
        # Each term adds a teacher, a queue or a fusion encoder to the state.
        assert cost["state_bytes"] > alone["state_bytes"], name
        assert cost["flops"] > alone["flops"], name
        assert cost["peak_bytes"] > cost["state_bytes"]
        assert cost["flops"] <= costs["all"]["flops"]
    # Both variants have the teacher. The queue has 20 rows of two embeddings and an id, and two
    # numbers: `head` and `filled`.
    queue = costs["+ queue"]["state_bytes"] - costs["+ distillation"]["state_bytes"]
    assert queue == 20 * (2 * 256 * 4 + 4) + 8
    table = {line.split("  ")[0]: line for line in lines}
    assert "(x1.00)" in table["contrastive"]
    ratio = costs["all"]["flops"] / alone["flops"]
    assert table["all"].endswith(f"(x{ratio:.2f})")


def test_variants_keep_the_options_of_the_config():
    cfg = base_config("tiny", "tiny")
    cfg.loss.sic.queue = 12
    cfg.loss.cmd.update(weight=0.5, direction="both")
    variants = step.variants(cfg.loss)
    assert list(variants) == ["contrastive", "+ queue", "+ CMD of both", "all"]
    assert variants["contrastive"]["loss.sic.queue"] == 0
    assert variants["+ queue"]["loss.sic.queue"] == 12
    assert variants["+ queue"]["loss.cmd.weight"] == 0
    assert variants["+ CMD of both"]["loss.cmd.weight"] == 0.5
    assert variants["all"] == {}


def test_table_divides_by_the_first_variant():
    costs = [
        step.Cost("contrastive", Times(0.1, 0.1), 2**20, 2**21, 1e9),
        step.Cost("+ SIM", Times(0.25, 0.2), 3 * 2**20, 2**22, 3e9),
    ]
    cells = step.format_table(costs).splitlines()[2].split("  ")
    assert [cell.strip() for cell in cells if cell] == [
        "+ SIM",
        "250 (x2.50)",
        "3 (x3.00)",
        "4 (x2.00)",
        "3 (x3.00)",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rounds=0"], "--rounds=0: give a whole number"),
        (["--batch=x"], "--batch=x: give a whole number"),
        (["--round=2"], "there is no option --round"),
        (["--config=configs/demo.py"], "contrastive learning and something more"),
        (["--config=configs/unified.py", "--config.loss.sic.weight=0."], "something more"),
    ],
)
def test_mistakes_are_named(args, message):
    with pytest.raises(UserError, match=message):
        step.main(args)
