import json

import pytest
from training_helpers import tiny_config

from sir_jax.cli.model.train import main
from sir_jax.config import command_line as config
from sir_jax.errors import UserError
from sir_jax.runtime.workdir import claim_workdir

CONFIG = '''
import json
from sir_jax.config.presets import parse_arg
from sir_jax.config.compare import from_json

def get_config(arg=""):
    arg = parse_arg(arg, steps=6)
    c = from_json(json.loads(r"""{}"""))
    c.train.steps = arg.steps
    return c
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(json.dumps(config.to_json(tiny_config()))))
    return path


def test_overrides_of_every_type(file):
    cfg, workdir = config.parse_flags(
        [
            f"--config={file}:steps=7",
            "--config.optim.learning_rate=1",
            "--config.data.batch_size=4",
            "--config.data.buckets=(100,200)",
            "--config.data.normalize_wave=false",
            "--config.optim.schedule",
            "linear",
            "-config.mesh.data=-1",
            "--workdir=here",
        ]
    )
    assert workdir == "here"
    assert cfg.train.steps == 7
    assert cfg.optim.learning_rate == 1.0 and isinstance(cfg.optim.learning_rate, float)
    assert cfg.data.batch_size == 4
    assert cfg.data.buckets == (100, 200)
    assert cfg.data.normalize_wave is False
    assert cfg.optim.schedule == "linear"
    assert cfg.mesh.data == -1
    assert cfg.is_locked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.optim.lerning_rate=1"],
            "no field 'optim.lerning_rate'; the nearest is optim.learning_rate$",
        ),
        (
            ["--config.learning_rate=1"],
            "no field 'learning_rate'; the nearest is optim.learning_rate$",
        ),
        (
            ["--config.train.batch_size=1"],
            "no field 'train.batch_size'; the nearest is data.batch_size$",
        ),
        (["--config.train.stepz", "3"], "no field 'train.stepz'; the nearest is train.steps$"),
        (["--config.train.steps=many"], "config.train.steps=many"),
        (["--config.train.steps"], "--config.train.steps needs a value: --config.train.steps="),
        (["--wrkdir=x"], "no option --wrkdir; the nearest is --workdir$"),
        (["extra"], "'extra' is not an option"),
        (["--config=other.py"], "give one --config="),
    ],
)
def test_mistyped_options_stop_by_name(file, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        config.parse_flags([f"--config={file}", "--workdir=w", *arguments])
    assert "\n" not in str(error.value)


def test_files_that_are_no_config_stop_by_name(tmp_path, file):
    with pytest.raises(UserError, match="give --workdir=DIR"):
        config.parse_flags([f"--config={file}"])
    with pytest.raises(UserError, match=f"no file {tmp_path}/tinny.py; did you mean {file}?"):
        config.load_config(f"{tmp_path}/tinny.py")
    with pytest.raises(UserError, match="no file nowhere/x.py; give the path of a file of configs"):
        config.load_config("nowhere/x.py")
    with pytest.raises(UserError, match="config argument 'stepz' is unknown"):
        config.load_config(f"{file}:stepz=3")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="defines no get_config"):
        config.load_config(str(tmp_path / "empty.py"))


def test_help_lists_the_fields(file, capsys):
    assert main(["--help", f"--config={file}"]) == 0
    out = capsys.readouterr().out
    assert "sir-jax train --config=" in out
    assert "  --config.data.batch_size=8\n" in out


def test_missing_corpus_says_which_command_makes_it(file, tmp_path):
    name = "spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0"
    with pytest.raises(UserError, match="sir-jax data spoken_scenes --level=one") as error:
        main(
            [
                f"--config={file}",
                f"--config.data.corpus={name}",
                f"--config.data.data_dir={tmp_path}/none",
                f"--workdir={tmp_path}/run",
            ]
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_json_round_trip_keeps_tuples():
    cfg = tiny_config()
    back = config.from_json(json.loads(json.dumps(config.to_json(cfg))))
    assert config.config_fields(back) == config.config_fields(cfg)
    assert back.data.buckets == (3_200, 6_400) and back.optim.freeze == ()


def test_workdir_of_another_config_names_the_fields(tmp_path):
    old = tiny_config(**{"optim.learning_rate": 0.5, "model.embed_width": 8})
    claim_workdir(old, tmp_path / "run")
    with pytest.raises(UserError) as error:
        config.compare_workdir(tiny_config(), tmp_path / "run")
    assert str(error.value) == (
        f"workdir {tmp_path}/run holds a run with another config: model.embed_width is 8 there and "
        "16 here; optim.learning_rate is 0.5 there and 0.001 here; choose another --workdir, or "
        "give the old values"
    )


def test_workdir_may_go_on_with_another_mesh(tmp_path):
    claim_workdir(tiny_config(), tmp_path)
    other = tiny_config(**{"mesh.data": 8, "data.data_dir": "elsewhere"})
    assert config.compare_workdir(other, tmp_path) == [
        "data.data_dir is '' there and 'elsewhere' here",
        "mesh.data is 1 there and 8 here",
    ]


def test_cudnn_wants_bfloat16():
    with pytest.raises(UserError, match="'cudnn' computes in bfloat16, and model.dtype='float32'"):
        config.check_config(tiny_config(**{"model.attention": "cudnn"}))
    config.check_config(tiny_config(**{"model.attention": "cudnn", "model.dtype": "bfloat16"}))


def test_config_with_a_field_more_or_less_differs():
    old, new = tiny_config(), tiny_config()
    del old.train.log_every
    new.extra = 1
    phrases = config.config_differences(config.to_json(old), config.to_json(new))
    assert phrases == {
        "extra": "extra is new here: 1",
        "train.log_every": "train.log_every is new here: 1",
    }


def test_workdir_that_cannot_be_one_stops_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: .*; choose another folder"):
        claim_workdir(tiny_config(), tmp_path / "file")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        config.compare_workdir(tiny_config(), tmp_path)
