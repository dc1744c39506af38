"""Configs from the command line, and config files that cannot be used."""

import json

import pytest
from tiny_models import tiny_config

from sir_jax.cli.model.train import main
from sir_jax.config.command_line import load_config, parse_flags
from sir_jax.config.compare import to_json
from sir_jax.errors import UserError

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
    path.write_text(CONFIG.format(json.dumps(to_json(tiny_config()))))
    return path


def test_overrides_of_every_type(file):
    cfg, workdir = parse_flags(
        [
            f"--config={file}:steps=7",
            "--config.optim.learning_rate=1",
            "--config.data.batch_size=4",
            "--config.data.buckets=(1600,3200)",
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
    assert cfg.data.buckets == (1_600, 3_200)
    assert cfg.data.normalize_wave is False
    assert cfg.optim.schedule == "linear"
    assert cfg.mesh.data == -1
    assert cfg.is_locked


def test_augmentation_by_name(file):
    cfg, _ = parse_flags(
        [
            f"--config={file}",
            "--config.data.augment.noise.probability=0.9",
            "--config.data.augment",
            "people",
            "--workdir=here",
        ]
    )
    assert cfg.data.augment.noise.snr == (0.0, 30.0)
    assert cfg.data.augment.noise.probability == 0.9
    with pytest.raises(UserError, match="data.augment='loud' is none of none, people"):
        parse_flags([f"--config={file}", "--config.data.augment=loud", "--workdir=here"])


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
        (["--config.train.steps=many"], "--config.train.steps=many: must be a whole number from 1"),
        (["--config.data.normalize_wave=maybe"], "normalize_wave=maybe: must be true or false"),
        (["--config.data.buckets=(1,"], r"--config.data.buckets=\(1,: must be 1 to 64 rising"),
        (["--config.train.steps"], "--config.train.steps needs a value: --config.train.steps="),
        (["--wrkdir=x"], "no option --wrkdir; the nearest is --workdir$"),
        (["extra"], "'extra' is not an option"),
        (["--config=other.py"], "give one --config="),
    ],
)
def test_mistyped_options_stop_by_name(file, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        parse_flags([f"--config={file}", "--workdir=w", *arguments])
    assert "\n" not in str(error.value)


def test_files_that_are_no_config_stop_by_name(tmp_path, file):
    with pytest.raises(UserError, match="give --workdir=DIR"):
        parse_flags([f"--config={file}"])
    with pytest.raises(UserError, match=f"no file {tmp_path}/tinny.py; did you mean {file}?"):
        load_config(f"{tmp_path}/tinny.py")
    with pytest.raises(UserError, match="no file nowhere/x.py; give the path of a file of configs"):
        load_config("nowhere/x.py")
    with pytest.raises(UserError, match="config argument 'stepz' is unknown"):
        load_config(f"{file}:stepz=3")


BROKEN = {
    "": "defines no get_config",
    "get_config = 3": "defines no get_config",
    "def get_config(arg=''):\n    return": "get_config returns NoneType; return the config",
    "def get_config(arg='')\n    pass": r"broken.py, line 1: expected ':'$",
    "def get_config(arg=''):\n    x = 1\n    return x / 0": r"line 3: ZeroDivisionError: division",
    "def get_config():\n    pass": r"broken.py: TypeError: get_config\(\) takes 0 positional",
    "import no_such_module": r"line 1: ModuleNotFoundError: No module named 'no_such_module'$",
    "import sys\nsys.exit(3)": r"broken.py, line 2: SystemExit: 3$",
    "def get_config(arg=''):\n    raise ValueError('two\\nlines')": r"broken.py: two lines$",
    "x = 1\0": "null bytes",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_config_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=BROKEN[text]) as error:
        load_config(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_config_file_ends_in_py(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(UserError, match="demo is no file that ends in .py|is no Python file"):
        load_config(str(tmp_path / "demo"))


def test_a_bare_command_shows_the_usage_alone(capsys):
    assert main([]) == 2
    assert "--config.seed" not in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "\n  --config.seed=0\n" in capsys.readouterr().out


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
