"""Where `sir-jax train` keeps compiled programs."""

import jax
import pytest

from sir_jax.cli.model.train import keep_programs
from sir_jax.config.presets import base_config


@pytest.mark.parametrize(
    ("field", "workdir", "folder"),
    [
        ("", "runs/a", None),
        ("/programs", "runs/a", "/programs"),
        ("workdir", "runs/a", "runs/a/programs"),
        ("workdir", "gs://bucket/a/", "gs://bucket/a/programs"),
        ("workdir", "", None),  # of a verb without one
    ],
)
def test_compiled_programs_are_kept_where_the_config_says(monkeypatch, field, workdir, folder):
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    cfg = base_config("base", "B/32")
    cfg.train.compile_cache = field
    keep_programs(cfg, workdir)
    assert set_to == ({"jax_compilation_cache_dir": folder} if folder else {})
