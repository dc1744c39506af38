"""A run in groups of look-alikes: what it learns decides its order, and a stopped run keeps it."""

import jax
import numpy as np
import pytest
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.errors import UserError
from sir_jax.inference.integrity import find_faults, stored_ends
from sir_jax.runtime.sharding import make_mesh
from sir_jax.training import loop
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.metrics import JSONL, read_records
from sir_jax.training.setup import Setup, prepare

# Six steps an epoch: the second one is dealt at step 4, the third at 10, the fourth at 16.
RUN = {
    "data.buckets": (6_400,),
    "data.groups": 4,
    "train.steps": 20,
    "train.checkpoint_every": 5,
}


@pytest.fixture(scope="module")
def corpus():
    return memory_corpus()


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Compile the one program of these runs once, and make one state to begin with."""
    compile_steps, create_state, made = Setup.compile_steps, Setup.create_state, {}

    def compiled(setup):
        if "programs" not in made:
            made["programs"] = compile_steps(setup)
        return made["programs"]

    def created(setup):
        if "state" not in made:
            made["state"] = jax.device_get(create_state(setup))
        return jax.device_put(made["state"], setup.shardings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "compile_steps", compiled)
        patch.setattr(Setup, "create_state", created)
        yield


def run(workdir, corpus, stop_after=None, **fields):
    """Train, maybe up to a step at which the process is gone; return the caption ids of steps."""
    drawn, take_step = {}, loop.take_step

    def noted(*args):
        out = take_step(*args)
        drawn[out.step] = out.caption_ids.tolist()
        if out.step == stop_after:
            raise KeyboardInterrupt
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_step", noted)
        if stop_after is None:
            loop.train(tiny_config(**RUN | fields), workdir, None, corpus)
        else:
            with pytest.raises(KeyboardInterrupt):
                loop.train(tiny_config(**RUN | fields), workdir, None, corpus)
    return drawn


def losses(workdir):
    return [(r["step"], r["train/loss"]) for r in read_records(workdir / JSONL)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """Return the workdir of an uninterrupted run, and the caption ids of its steps."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir, corpus)


def test_groups_are_of_what_the_model_finds_alike(whole, corpus):
    workdir, drawn = whole
    index = corpus.splits["train"].index
    rows = dict(zip(index["caption_id"].tolist(), index["row"].tolist(), strict=True))
    opened = Checkpoints(workdir, read_only=True)
    image = opened.restore_order(20)["image"].astype(float)
    opened.close()
    image /= np.linalg.norm(image, axis=1, keepdims=True)

    def distance(step):
        groups = np.array([rows[caption] for caption in drawn[step]]).reshape(2, 4)
        return np.mean([1 - np.diag(image[g] @ image[g].T, 1).mean() for g in groups])

    at_random = np.mean([distance(step) for step in range(1, 7)])
    assert np.mean([distance(step) for step in range(7, 21)]) < 0.85 * at_random
    for first in (1, 7, 13):
        epoch = sum((drawn[step] for step in range(first, first + 6)), [])
        assert sorted(epoch) == sorted(index["caption_id"].tolist())


# After a deal of which the checkpoint has the order, one of which it has not, and within an epoch.
@pytest.mark.parametrize(
    ("stop_after", "resumed"), [pytest.param(8, 5, marks=pytest.mark.release), (11, 10), (18, 15)]
)
def test_a_killed_run_goes_on_bit_by_bit(whole, corpus, tmp_path, stop_after, resumed):
    first = run(tmp_path, corpus, stop_after, **{"train.num_threads": 3})
    last = run(tmp_path, corpus, **{"train.num_threads": 0})
    assert min(last) == resumed + 1
    assert first | last == whole[1]
    assert losses(tmp_path) == losses(whole[0])


def test_a_checkpoint_without_its_order_or_its_end_is_refused(whole, corpus, tmp_path):
    folder = whole[0] / "checkpoints" / "20"
    assert find_faults(folder.parent, [20]) == {}
    name, end = max(stored_ends(folder / "order").items(), key=lambda item: item[1])
    content = (folder / "order" / name).read_bytes()
    (folder / "order" / name).write_bytes(content[: end - 1])
    assert find_faults(folder.parent, [20])[20].startswith("order")
    (folder / "order" / name).write_bytes(content)
    checkpoints = Checkpoints(tmp_path)
    cfg = tiny_config()
    setup = prepare(cfg, make_mesh(cfg.mesh))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract)
    checkpoints.save(zeros, 1, cfg)
    checkpoints.wait()
    with pytest.raises(UserError, match="checkpoint 1 of .* has no order of batches"):
        checkpoints.restore_order(1)
    checkpoints.close()


def test_a_batch_that_groups_do_not_divide_is_refused():
    for fields, message in (
        ({}, "data.groups=3 must divide the 8 pairs .* of 1 devices; e.g. data.batch_size=6"),
        (
            {"mesh.data": 4},
            "the 2 pairs that data.batch_size=8 gives each of 4 devices",
        ),
        ({"train.grad_accum": 2}, "the 4 pairs .* of 1 devices in a microbatch; e.g. .*=6"),
        (
            {"data.search_space": 2},
            "data.search_space=2 holds no group of data.groups=3",
        ),
        (
            {"loss.sic.weight": 0.0, "loss.sim.weight": 1.0},
            "data.groups=3 with loss.sic.weight=0: nothing trains the embeddings",
        ),
    ):
        cfg = tiny_config(**{"data.groups": 3} | fields)
        with pytest.raises(UserError, match=message):
            prepare(cfg, make_mesh(cfg.mesh))
