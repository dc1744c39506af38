"""Search runs where nothing that trains is installed: everything from `load` to the page."""

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# What the base install does without, and `[train]` brings. flax would bring three of them along.
TRAINING = [
    "array_record",
    "grain",
    "optax",
    "orbax",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "tensorstore",
    "tqdm",
]

# Who types needs the extra `synth`; nobody else does.
SPEECH = ["espeakng_loader", "piper"]

SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


folder, MISSING = Path(sys.argv[1]), sys.argv[2].split()
sys.meta_path.insert(0, Absent())
told = {}

import sir_jax
from sir_jax.cli.main import main


def run(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main([*map(str, words)])
    assert status == 0, (words, out.getvalue())
    return out.getvalue()


run("samples", "--out", folder, "--pictures", 12)
model = sir_jax.load("spoken-scenes")
pictures = [folder / "pictures" / f"{row:03d}.png" for row in (0, 1, 2)]
recording = folder / "recordings" / "001.flac"
index = sir_jax.Index.build(model, pictures)
told["hits"] = [Path(hit.id).name for hit in index.search(recording, 3)]

from sir_jax.page.engine import Engine
from sir_jax.page.server import Decoders, Limits, make_app

told["app"] = type(make_app(Engine(model, index), Limits(), Decoders())).__name__
three = folder / "three"
three.mkdir()
for picture in pictures:
    (three / picture.name).write_bytes(picture.read_bytes())
run("index", "--folder", three, "--out", folder / "index")
run("embed", "--inputs", three, "--out", folder / "embedded")
for made in ("index", "embedded"):
    told[made] = json.loads(run("info", "--index", folder / made, "--json"))
run("info")
words = ("search", "--index", folder / "embedded", "--query", recording, "-k", 3)
told["found"] = json.loads(run(*words, "--json"))
run(*words, "--out", folder / "grid.png")
told["said"] = {}
for language in ("en", "fr"):
    try:
        sir_jax.say("a fish", language, engines=["espeak", "piper"])
    except sir_jax.errors.UserError as error:
        told["said"][language] = str(error)
import sir_jax.cli.demo, sir_jax.page.serve

(folder / "run" / "checkpoints").mkdir(parents=True)
try:
    sir_jax.load(folder / "run")
except sir_jax.errors.UserError as error:
    told["workdir"] = str(error)
told["loaded"] = sorted({name.partition(".")[0] for name in sys.modules} & {*MISSING})
told["modules"] = sorted(name for name in sys.modules if name.startswith("sir_jax."))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return what the script tells of its one process."""
    folder = tmp_path_factory.mktemp("search")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, " ".join(TRAINING + SPEECH)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"folder": folder}


def test_search_finds_the_picture_that_was_spoken_of(told):
    assert told["hits"][0] == "001.png" and sorted(told["hits"][1:]) == ["000.png", "002.png"]
    (found,) = told["found"]
    assert [hit["id"] for hit in found["hits"]] == told["hits"]
    for made in ("index", "embedded"):
        assert (told[made]["images"], told[made]["failed"]) == (3, 0)
    assert (told["folder"] / "grid.png").stat().st_size > 10_000
    assert told["app"] == "Guard"


def test_no_room_of_training_was_loaded(told):
    assert told["loaded"] == []
    rooms = {name.split(".")[1] for name in told["modules"]}
    assert rooms == {
        *("errors", "config", "runtime", "models", "losses", "pretrained", "data", "inference"),
        *("index", "page", "cli"),
    }


def test_a_training_run_asks_for_the_extra_in_one_line(told):
    assert told["workdir"] == (
        f"workdir {told['folder']}/run: reading a training run needs orbax; "
        "pip install 'sir_jax[train]', or `sir-jax export` it where that is installed"
    )


def test_typed_words_ask_for_the_extra_in_one_line(told):
    remedy = (
        "the speech synthesiser espeakng-loader is not installed; run: pip install 'sir_jax[synth]'"
    )
    assert told["said"] == {
        "en": f"nothing here speaks English (en): {remedy}",
        "fr": f"nothing here speaks French (fr): {remedy}",
    }


def test_the_base_install_names_none_of_them():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")

    def names(text):
        return {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in text.split("\n") if line}

    base = names(setup["options"]["install_requires"])
    train = names(setup["options.extras_require"]["train"])
    theirs = {*TRAINING, "orbax_checkpoint"} - {"orbax", "tensorflow"}
    assert not base & theirs and theirs <= train
