"""Configs as JSON, and compared with a workdir's."""

import json

import pytest
from tiny_models import tiny_config

from sir_jax.config.compare import (
    check_folder,
    compare_workdir,
    config_differences,
    from_json,
    to_json,
)
from sir_jax.config.fields import config_fields
from sir_jax.errors import UserError
from sir_jax.runtime.workdir import claim_workdir


def test_json_round_trip_keeps_tuples():
    cfg = tiny_config()
    back = from_json(json.loads(json.dumps(to_json(cfg))))
    assert config_fields(back) == config_fields(cfg)
    assert back.data.buckets == (3_200, 6_400) and back.optim.freeze == ()


def test_workdir_of_another_config_names_the_fields(tmp_path):
    old = tiny_config(**{"optim.learning_rate": 0.5, "model.embed_width": 8})
    claim_workdir(old, tmp_path / "run")
    with pytest.raises(UserError) as error:
        compare_workdir(tiny_config(), tmp_path / "run")
    assert str(error.value) == (
        f"workdir {tmp_path}/run holds a run with another config: model.embed_width is 8 there and "
        "16 here; optim.learning_rate is 0.5 there and 0.001 here; choose another workdir, or "
        "give the old values"
    )


def test_workdir_may_go_on_with_another_mesh(tmp_path):
    claim_workdir(tiny_config(), tmp_path)
    other = tiny_config(**{"mesh.data": 8, "data.data_dir": "elsewhere"})
    assert compare_workdir(other, tmp_path) == [
        "data.data_dir is '' there and 'elsewhere' here",
        "mesh.data is 1 there and 8 here",
    ]


def test_features_may_move_but_not_come_or_go(tmp_path):
    claim_workdir(tiny_config(**{"data.features": "a"}), tmp_path)
    assert len(compare_workdir(tiny_config(**{"data.features": "b"}), tmp_path)) == 1
    with pytest.raises(UserError, match="data.features is 'a' there and '' here"):
        compare_workdir(tiny_config(), tmp_path)


def test_config_with_a_field_more_or_less_differs():
    old, new = tiny_config(), tiny_config()
    del old.train.log_every
    new.extra = 1
    phrases = config_differences(to_json(old), to_json(new))
    assert phrases == {
        "extra": "extra is new here: 1",
        "train.log_every": "train.log_every is new here: 1",
    }


def test_a_workdir_that_is_a_file_is_refused_at_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for workdir in (file, file / "run" / "deeper"):
        with pytest.raises(UserError, match="/file is a file; choose another folder$"):
            compare_workdir(tiny_config(), workdir)
    check_folder(tmp_path / "new" / "run")
    with pytest.raises(UserError, match="File name too long; choose another folder"):
        check_folder(tmp_path / ("x" * 300))


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"data": 3, "train": 4}'])
def test_a_workdir_whose_config_is_damaged_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json cannot be read|holds a run with another"):
        compare_workdir(tiny_config(), tmp_path)
