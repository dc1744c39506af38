"""Every experiment file: loads with all that its docstring offers, and its state can be built.

States are built with few layers: nothing that is looked at here differs from layer to layer.
"""

import ast
import functools
import inspect
import itertools
import re
from pathlib import Path

import jax
import pytest

from sir_jax.config import papers
from sir_jax.config.check import check_config
from sir_jax.config.command_line import load_config, load_module
from sir_jax.config.presets import parse_arg
from sir_jax.errors import UserError
from sir_jax.evaluation.ablate import run_config
from sir_jax.models import build_model
from sir_jax.objective.switches import fusion_tasks
from sir_jax.runtime.sharding import check_rules
from sir_jax.runtime.trees import split_tree
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import check_param_patterns, init_state

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.py"))
ABLATIONS = ("ablations", "minimal_pairs")
PARTS = ("speech", "image", "qformer", "head", "fusion")


@functools.cache
def shallow_state(name: str, layers: int = 2):
    """Return a config and the shapes of its state with at most so many layers in each part."""
    cfg = load_config(f"{FOLDER}/{name}")
    check_config(cfg)
    for part in PARTS:
        cfg.model[part].layers = min(cfg.model[part].layers, layers)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    model = build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind))
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    return cfg, jax.eval_shape(init, jax.random.key(0))


def offered(path: Path) -> dict[str, list[str]]:
    """Read a config file's docstring: the values that it offers for each of its arguments."""
    doc = ast.get_docstring(ast.parse(path.read_text()))
    found = {}
    for name, text in re.findall(r"^  (\w+)  +(\S.*)$", doc.partition("\nArguments,")[2], re.M):
        text = re.sub(r" \([^)]*\)", "", text)
        variants = re.fullmatch(r"(?:HuBERT|ViT|one of): (.*)", text)
        if variants:
            found[name] = re.split(r", | or ", variants[1])
        elif name == "gpu":
            found[name] = [text.partition(":")[0]]
        elif name == "pod":
            found[name] = [*load_module(str(path)).PODS]
        else:
            found[name] = ["any/name"] if name == "corpus" else ["true"]
    return found


def test_the_docstrings_offer_what_the_test_reads():
    assert offered(FOLDER / "cmd.py") == {
        "speech": ["tiny", "small", "base", "large", "x-large"],
        "image": ["tiny", "B/32", "B/16", "L/14", "L/14-336", "g/14"],
        "corpus": ["any/name"],
        "gpu": ["80GB"],
        "pod": ["v4:2x2x2", "v5e:4x4", "v5p:4x4x4", "v6e:16x16", "2*v5e:4x4"],
        "runlocal": ["true"],
    }
    assert offered(FOLDER / "demo.py") == {"scratch": ["true"], "runlocal": ["true"]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_variant_that_a_docstring_offers_loads(path):
    values = offered(path)
    # The file's own list of arguments: what it takes, it offers.
    with pytest.raises(UserError) as error:
        load_config(f"{path}:no_such_argument")
    assert ast.literal_eval(str(error.value).rpartition("choose from ")[2]) == sorted(values)
    args = ["", *(f"{name}={value}" for name in values for value in values[name])]
    if "speech" in values:
        pairs = itertools.product(values["speech"], values["image"])
        args += [f"speech={s},image={i}{end}" for s, i in pairs for end in ("", ",runlocal")]
    for arg in args:
        cfg = load_config(f"{path}:{arg}")
        check_config(cfg)
        if "runlocal" in arg:
            assert cfg.train.steps <= 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_builds_its_state(path):
    cfg, state = shallow_state(path.name)
    check_rules(state.params)
    check_param_patterns(state.params, cfg)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_first_line_is_the_command(path):
    verb = "ablate" if path.stem in ABLATIONS else "train"
    first = path.read_text().splitlines()[0]
    assert first.startswith(f'"""sir-jax {verb} --config=configs/{path.name} --workdir=')


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_works_when_it_is_copied_elsewhere(path, tmp_path, monkeypatch):
    copy = tmp_path / "mine.py"
    copy.write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    assert load_config("mine.py") == load_config(str(path))


PAPERS = {
    "cmd": {"fusion", "denoise_image"},
    "coarse_to_fine": {"fusion", "match_head"},
    "unified": {"fusion", "denoise_image", "match_head"},
}


# The default of each, and an image encoder of the other kind: with or without a Q-Former.
@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("cmd", ""),
        ("cmd", ":speech=tiny,image=g/14"),
        ("coarse_to_fine", ""),
        ("coarse_to_fine", ":speech=base,image=B/32"),
        ("unified", ""),
    ],
)
def test_papers_train_their_terms_over_any_pair_of_encoders(name, arg):
    cfg, state = shallow_state(f"{name}.py{arg}")
    trainable, frozen = split_tree(state.params, cfg.optim.freeze)
    assert set(frozen) == {"speech", "image"}
    heads = {"speech_head", "speech_projection", "temperature"}
    heads |= {"image_head"} if cfg.model.image_head == "qformer" else {"image_projection"}
    assert set(trainable) == heads | PAPERS[name]
    queue = name != "cmd"
    assert (state.queue is not None) == queue == (state.ema_params is not None)
    if queue:
        # Only what is trained and has a teacher has a copy.
        assert set(state.ema_params) == heads - {"temperature"}


def test_the_unified_config_is_both_papers():
    both = load_config(f"{FOLDER}/unified.py:image=g/14")
    coarse = load_config(f"{FOLDER}/coarse_to_fine.py")
    cmd = load_config(f"{FOLDER}/cmd.py")
    # Alone, denoising is made to listen; beside matching it shares a fusion encoder that sees all.
    assert both.loss.cmd.ratio == 0.3 and cmd.loss.cmd.ratio == 0.8
    assert both.model.fusion.self_attention and not cmd.model.fusion.self_attention
    cmd.loss.cmd.ratio = 0.3
    assert both.loss.cmd == cmd.loss.cmd
    coarse.loss.cmd = cmd.loss.cmd
    assert both == coarse


def test_unknown_encoder_of_a_paper_is_refused():
    with pytest.raises(UserError, match="image='B/3' is none of tiny, B/32"):
        load_config(f"{FOLDER}/cmd.py:image=B/3")


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_one_gpu_keeps_the_papers_batch(name):
    cfg = load_config(f"{FOLDER}/{name}.py:gpu=80GB")
    assert cfg.data.batch_size == 256 and cfg.train.grad_cache == 2


def test_unknown_gpu_is_refused():
    with pytest.raises(UserError, match="gpu='8GB' is none of 80GB"):
        load_config(f"{FOLDER}/cmd.py:gpu=8GB")


def test_every_inferred_value_of_the_papers_is_marked():
    bodies = [
        (FOLDER / f"{name}.py").read_text().split("frozen_pair(arg.speech", 1)[1] for name in PAPERS
    ]
    bodies += map(inspect.getsource, (papers.denoise, papers.align_coarse_to_fine))
    for body in bodies:
        blocks = re.sub(r'""".*"""', "", body).split("\n    # [I]")
        # What stands outside a marked block is marked on its own line, or a piece that is.
        for line in blocks[0].splitlines()[1:]:
            marked = "[I]" in line or re.fullmatch(r"    (denoise|listen|align_\w+)\(c\)", line)
            assert marked or not line.strip() or line.startswith("    #"), line


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_change_fields_that_exist(name):
    base = load_config(f"{FOLDER}/{name}.py")
    module = load_module(f"{FOLDER}/{name}.py")
    assert len(module.SEEDS) >= 3
    for variant, deltas in module.ABLATIONS.items():
        cfg = run_config(base, deltas, 7)
        assert cfg.seed == 7 and base.seed == 0, variant


# Parameters of the released encoders, in millions as published, and exactly.
PUBLISHED = {
    # HuBERT (arXiv 2106.07447) rounds 94.4 to 95 and 315.4 to 317 with its training head.
    "hubert_base_clip_b32": dict(speech=94_370_944, image=87_456_000),
    "hubert_large_clip_l14": dict(speech=315_437_696, image=303_179_776),
    "hubert_large_vit_g": dict(speech=315_437_696, image=985_952_256, image_head=105_359_104),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_full_size_pairs_have_the_published_numbers_of_parameters(name):
    model = load_config(f"{FOLDER}/{name}.py").model
    layers = {
        "speech": model.speech.layers,
        "image": model.image.layers,
        "image_head": model.qformer.layers,
    }
    cfg, state = shallow_state(f"{name}.py")
    _, deeper = shallow_state(f"{name}.py", 4)
    counts = {}
    for tower in PUBLISHED[name]:
        # Two more layers, of a Q-Former one of each kind, as often as they come.
        two, four = count(state.params[tower]), count(deeper.params[tower])
        counts[tower] = two + (four - two) * (layers[tower] - 2) // 2
    assert counts == PUBLISHED[name]
    trainable, frozen = split_tree(state.params, cfg.optim.freeze)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trainable)} == {"float32"}
    # Adam's two moments and its two counters, of trainable leaves only.
    assert count(state.opt_state) == 2 * count(trainable) + 2


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_numbers_are_those_of_transformers():
    import torch
    import transformers

    from sir_jax.models import HUBERT_VARIANTS, HubertSpec
    from sir_jax.pretrained.families import hubert

    def on_meta(cls, config) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in cls(config).parameters())

    base = transformers.HubertConfig()
    large = transformers.HubertConfig(
        **hubert.config_from_spec(HubertSpec(**HUBERT_VARIANTS["large"]))
    )
    # Less the vector that only masked pre-training reads.
    assert on_meta(transformers.HubertModel, base) - 768 == 94_370_944
    assert on_meta(transformers.HubertModel, large) - 1024 == 315_437_696
    assert on_meta(transformers.CLIPVisionModel, transformers.CLIPVisionConfig()) == 87_456_000
    assert on_meta(transformers.Blip2VisionModel, transformers.Blip2VisionConfig()) == 985_952_256


def test_argument_names_and_types():
    arg = parse_arg("runlocal,res=128", runlocal=False, res=224)
    assert (arg.runlocal, arg.res) == (True, 128)
    assert parse_arg("runlocal=false", runlocal=True).runlocal is False
    with pytest.raises(ValueError, match=r"'rse' is unknown; choose from \['res'\]"):
        parse_arg("rse=1", res=224)
    with pytest.raises(ValueError, match="res='large' must be of type int"):
        parse_arg("res=large", res=224)
    with pytest.raises(ValueError, match="runlocal='yes' must be true or false"):
        parse_arg("runlocal=yes", runlocal=False)
