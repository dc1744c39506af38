"""Every experiment file: loads, starts with its command, and its state can be built."""

import functools
from pathlib import Path

import jax
import pytest
import torch
import transformers

from sir_jax.config.command_line import check_config, load_config, load_module
from sir_jax.config.presets import parse_arg
from sir_jax.errors import UserError
from sir_jax.evaluation.ablate import run_config
from sir_jax.models import HUBERT_VARIANTS, HubertSpec, build_model
from sir_jax.objective.switches import fusion_tasks
from sir_jax.pretrained.families import hubert
from sir_jax.runtime.sharding import check_rules
from sir_jax.runtime.trees import split_tree
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import check_param_patterns, init_state

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.py"))


def abstract_state(cfg):
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    model = build_model(cfg.model, fusion_tasks(cfg.loss))
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", ":runlocal"])
def test_config_builds_its_state(path, arg):
    cfg = load_config(f"{path}{arg}")
    check_config(cfg)
    params = abstract_state(cfg).params
    check_rules(params)
    check_param_patterns(params, cfg)
    if arg:
        assert cfg.train.steps <= 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_first_line_is_the_command(path):
    verb = "ablate" if path.stem == "ablations" else "train"
    first = path.read_text().splitlines()[0]
    assert first.startswith(f'"""sir-jax {verb} --config=configs/{path.name} --workdir=')


PAPERS = {
    "cmd": {"fusion", "denoise_image"},
    "coarse_to_fine": {"fusion", "match_head"},
    "unified": {"fusion", "denoise_image", "match_head"},
}


@pytest.mark.parametrize("name", sorted(PAPERS))
@pytest.mark.parametrize(
    "pair", ["", "speech=base,image=B/32", "speech=tiny,image=tiny", "speech=large,image=g/14"]
)
def test_papers_train_their_terms_over_any_pair_of_encoders(name, pair):
    cfg = load_config(f"{CONFIGS[0].parent}/{name}.py:{pair}")
    check_config(cfg)
    state = abstract_state(cfg)
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


def test_unknown_encoder_of_a_paper_is_refused():
    with pytest.raises(UserError, match="image='B/3' is none of tiny, B/32"):
        load_config(f"{CONFIGS[0].parent}/cmd.py:image=B/3")


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_one_gpu_keeps_the_papers_batch(name):
    cfg = load_config(f"{CONFIGS[0].parent}/{name}.py:gpu=80GB")
    check_config(cfg)
    assert cfg.data.batch_size == 256 and cfg.train.grad_cache == 2


def test_unknown_gpu_is_refused():
    with pytest.raises(UserError, match="gpu='8GB' is none of 80GB"):
        load_config(f"{CONFIGS[0].parent}/cmd.py:gpu=8GB")


def test_every_inferred_value_of_the_papers_is_marked():
    for name in PAPERS:
        text = (CONFIGS[0].parent / f"{name}.py").read_text()
        body = text.split("frozen_pair(arg.speech", 1)[1]
        blocks = body.split("\n    # [I]")
        # What stands outside a marked block is marked on its own line.
        for line in blocks[0].splitlines()[1:]:
            assert "[I]" in line or line.startswith("    #"), (name, line)


def test_ablations_change_fields_that_exist():
    base = load_config(f"{CONFIGS[0].parent}/ablations.py")
    module = load_module(f"{CONFIGS[0].parent}/ablations.py")
    assert len(module.SEEDS) >= 3
    for name, deltas in module.ABLATIONS.items():
        cfg = run_config(base, deltas, 7)
        check_config(cfg)
        assert cfg.seed == 7 and base.seed == 0, name


# Parameters of the released encoders, in millions as published, and exactly.
PUBLISHED = {
    # HuBERT (arXiv 2106.07447) rounds 94.4 to 95 and 315.4 to 317 with its training head.
    "hubert_base_clip_b32": dict(speech=94_370_944, image=87_456_000),
    "hubert_large_clip_l14": dict(speech=315_437_696, image=303_179_776),
    "hubert_large_vit_g": dict(speech=315_437_696, image=985_952_256, image_head=105_359_104),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_full_size_pairs_have_the_published_numbers_of_parameters(name):
    cfg = load_config(f"{CONFIGS[0].parent}/{name}.py")
    state = abstract_state(cfg)
    counts = {tower: count(state.params[tower]) for tower in PUBLISHED[name]}
    assert counts == PUBLISHED[name]
    frozen, trainable = split_tree(state.params, cfg.optim.freeze)[::-1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trainable)} == {"float32"}
    # Adam's two moments and its two counters, of trainable leaves only.
    assert count(state.opt_state) == 2 * count(trainable) + 2


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def on_meta(cls, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in cls(config).parameters())


def test_published_numbers_are_those_of_transformers():
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
    with pytest.raises(ValueError, match=r"'rse' is unknown; choose from \['res'\]"):
        parse_arg("rse=1", res=224)
