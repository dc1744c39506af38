"""Matches in the objective: values and gradients against float64, alone and beside."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import POOL, STILL, loss_of, made, views_and_ids
from tiny_models import tiny_config
from training_helpers import synthetic_batch

from sir_jax.losses.matching import several_hard_negatives
from sir_jax.models import Encoded
from sir_jax.objective.terms import sim_term
from sir_jax.objective.total import Objective
from sir_jax.objective.views import Views
from sir_jax.runtime.sharding import make_mesh
from sir_jax.runtime.trees import leaf_paths
from sir_jax.training.setup import prepare


def pairs_of(views, ids, temperature, keys, groups: int, negatives: int = 1):
    """Return (speech row, image row, label) of every pair, drawn group by group."""
    pairs, size = [], len(ids) // groups
    draw = partial(several_hard_negatives, count=negatives)
    split = [jax.random.split(key, groups) for key in keys]
    for g in range(groups):
        at = slice(g * size, (g + 1) * size)
        scores = views.speech.embed[at] @ views.image.embed[at].T / temperature
        images, has_image = draw(split[0][g], scores, ids[at])
        speeches, has_speech = draw(split[1][g], scores.T, ids[at])
        for b in range(size):
            row = g * size + b
            pairs.append((row, row, 1))
            pairs += [(row, g * size + int(i), 0) for i in images[b][has_image[b]]]
            pairs += [(g * size + int(s), row, 0) for s in speeches[b][has_speech[b]]]
    return pairs


def slow_loss(p_s, p_i, pairs, scale: float, bias: float) -> float:
    """Return the mean binary cross-entropy over pairs, in float64."""
    losses = []
    for speech, image, label in pairs:
        odds = np.exp(scale) * float(p_s[speech] @ p_i[image]) + bias
        losses.append(np.logaddexp(0.0, -odds if label else odds))
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def pooled():
    return made(**{"loss.sim.weight": 0.7, "model.match.kind": "pooled", **POOL, **STILL})


# In groups of three rows, the two of one image have one other to draw from.
@pytest.mark.parametrize("groups,negatives", [(1, 1), (2, 1), (2, 2)])
def test_values_are_those_of_a_loop_over_pairs(pooled, groups, negatives):
    _, model, state = pooled
    params = state.params
    views, ids = views_and_ids(model)
    keys = jax.random.split(jax.random.key(4))

    def run(params):
        p = [
            model.apply({"params": params}, x, name, method="pool")
            for x, name in ((views.speech, "speech"), (views.image, "image"))
        ]
        given = {"model": model, "groups": groups, "negatives": negatives}
        loss, metrics = sim_term(views, ids, 0.07, params, keys, **given)
        return loss, (metrics, p)

    (loss, (metrics, p)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    p_s, p_i = map(np.float64, p)
    pairs = pairs_of(views, ids, 0.07, keys, groups, negatives)
    assert float(metrics["sim_negatives"]) == pytest.approx(
        (len(pairs) - len(ids)) / (2 * negatives * len(ids))
    )
    scale, bias = float(params["pooled_scale"]), float(params["pooled_bias"])
    assert float(loss) == pytest.approx(slow_loss(p_s, p_i, pairs, scale, bias), rel=1e-5)
    assert metrics["sim"] == loss and "sim_pooled" not in metrics
    right = [(np.exp(scale) * p_s[s] @ p_i[i] + bias > 0) == label for s, i, label in pairs]
    assert float(metrics["sim_accuracy"]) == pytest.approx(np.mean(right))
    # The gradient of scale and bias against differences of the loop, and every parameter has one.
    step = 1e-5
    for name, (ds, db) in {"pooled_scale": (step, 0), "pooled_bias": (0, step)}.items():
        up, down = (slow_loss(p_s, p_i, pairs, scale + s * ds, bias + s * db) for s in (1, -1))
        assert float(grads[name]) == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)
    for name in ("pool_speech", "pool_image"):
        assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads[name]["mlp"]["up"]["kernel"]))
        assert np.abs(grads[name]["queries"]).max() > 0
    assert not any(np.any(x) for x in jax.tree.leaves(grads["speech"]))


@pytest.mark.parametrize("kind", ["fusion", "late"])
def test_a_match_of_tokens_reads_every_pair_of_several_negatives(kind):
    _, model, state = made(**{"loss.sim.weight": 0.7, "model.match.kind": kind, **POOL, **STILL})
    views, ids = views_and_ids(model)
    keys = jax.random.split(jax.random.key(4))
    speech, image, label = map(jnp.array, zip(*pairs_of(views, ids, 0.07, keys, 2, 2), strict=True))

    def with_tokens(tokens):
        named = zip(views[:2], tokens, strict=True)
        return Views(*(one._replace(tokens=x) for one, x in named), None, None)

    def one_by_one(tokens):
        told = with_tokens(tokens)
        s = jax.tree.map(lambda x: x[speech], told.speech)
        i = jax.tree.map(lambda x: x[image], told.image)
        logits = model.apply({"params": state.params}, s, i, method="match")
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, label[:, None], 1).mean()

    def in_the_objective(tokens):
        # By GradCache the pairs are read in pieces.
        given = {"model": model, "groups": 2, "negatives": 2, "pieces": 3}
        return sim_term(with_tokens(tokens), ids, 0.07, state.params, keys, **given)[1]["sim"]

    tokens = views.speech.tokens, views.image.tokens
    expected, by_tokens = jax.jit(jax.value_and_grad(one_by_one))(tokens)
    loss, grads = jax.jit(jax.value_and_grad(in_the_objective))(tokens)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for actual, wanted in zip(grads, by_tokens, strict=True):
        size = np.abs(wanted).max()
        assert size > 1e-4
        np.testing.assert_allclose(actual, wanted, atol=1e-4 * size)


@pytest.mark.parametrize("earlier", ["", "runs/earlier"])
def test_negatives_are_hard_where_this_run_or_an_earlier_one_trains_embeddings(earlier):
    fields = {"loss.sic.weight": 0.0, "loss.sim.weight": 1.0, "model.match.kind": "pooled"}
    cfg, model, state = made(**fields, **POOL, **STILL, **{"init.model": earlier})
    views, ids = views_and_ids(model)
    keys = jax.random.split(jax.random.key(3), 3)
    temperatures = 1e-3, None  # of the first one the most similar are drawn, of the other any
    params = state.params | {"temperature": jnp.float32(1e-3)}
    expected = [
        sim_term(views, ids, one, params, keys[:2], model=model, groups=1)[0]
        for one in temperatures
    ]
    assert abs(expected[0] - expected[1]) > 1e-3
    loss, _ = Objective(model, cfg).loss_of_views(views, params, None, ids, 0, keys)
    assert loss == expected[not earlier]


def test_both_matches_are_asked_about_the_same_pairs():
    fields = {"loss.sic.weight": 1.0, "loss.sim.weight": 0.7, **POOL, **STILL}
    cfg, model, state = made(**fields, **{"model.match.kind": "both"})
    batch = synthetic_batch(cfg)
    loss, aux = loss_of(cfg, model, state, batch)
    m = {name: float(value) for name, value in aux.metrics.items()}
    assert float(loss) == pytest.approx(m["sic"] + 0.7 * (m["sim"] + m["sim_pooled"]), rel=1e-6)
    assert 0 <= m["sim_pooled_accuracy"] <= 1


# Late interaction counts the frames that tell nothing, too, and so learns from fewer of them.
@pytest.mark.parametrize(
    ("kind", "parts", "length", "share"), [("pooled", "pool", 5, 0.35), ("late", "late", 3, 0.6)]
)
def test_a_match_learns_what_pairs_tell(kind, parts, length, share):
    """A bit in one random token, the same in speech and picture, is all that partners differ by."""
    _, model, state = made(**{"loss.sim.weight": 1.0, "model.match.kind": kind, **POOL, **STILL})
    rng = np.random.default_rng(1)
    bits = np.arange(8) % 2
    base = rng.normal(size=(2, 32))
    z = np.ones((8, model.embed_width)) / np.sqrt(model.embed_width)

    def encoded(length: int) -> Encoded:
        tokens = 0.3 * rng.normal(size=(8, length, 32))
        tokens[np.arange(8), rng.integers(1, length, 8)] += 2 * base[bits]
        return Encoded(jnp.float32(tokens), jnp.ones((8, length), bool), jnp.float32(z))

    pool = {name: x for name, x in state.params.items() if name.startswith(parts)}
    rest = {name: x for name, x in state.params.items() if name not in pool}
    ids = jnp.array(bits)

    @jax.jit
    def step(pool, views, key):
        def loss_of(pool):
            keys = jax.random.split(key)
            return sim_term(views, ids, None, rest | pool, keys, model=model, groups=1)[0]

        loss, grads = jax.value_and_grad(loss_of)(pool)
        return loss, jax.tree.map(lambda x, g: x - 0.3 * g, pool, grads)

    losses = []
    for number in range(150):
        views = Views(encoded(length), encoded(4), None, None)
        loss, pool = step(pool, views, jax.random.key(number))
        losses.append(float(loss))
    prior = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)  # all that one right of three tells
    assert losses[0] > 0.9 * prior and np.mean(losses[-20:]) < share * prior


def test_a_step_on_a_mesh_is_lowered_with_every_parameter_in_its_place():
    fields = {"loss.sim.weight": 1.0, "loss.sim.mining": "shard", "data.batch_size": 16, **POOL}
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "data.buckets": (3_200,)}
    cfg = tiny_config(**fields, **mesh, **{"model.match.kind": "both"})
    setup = prepare(cfg, make_mesh(cfg.mesh))
    placed = {
        path: tuple(leaf.spec)
        for path, leaf in leaf_paths(setup.shardings.params).items()
        if path.startswith("pool")
    }
    assert placed["pool_speech/queries"] == placed["pool_image/queries"] == (None, "fsdp")
    assert placed["pool_speech/mlp/up/kernel"] == ("fsdp", "tensor")
    assert placed["pool_image/mlp/down/kernel"] == ("tensor", "fsdp")
    assert placed["pooled_scale"] == ()
    lowered = setup.jit_step().lower(setup.abstract, setup.batch_shapes(3_200))
    metrics = lowered.out_info[1]
    assert {"train/sim", "train/sim_pooled", "train/sim_pooled_accuracy"} <= metrics.keys()


def test_a_match_that_is_frozen_beside_another_is_not_asked():
    """A retriever with a fusion encoder gets a pooled match, at the price of the pooled one."""
    fields = {"loss.sim.weight": 0.7, "model.match.kind": "both", **POOL, **STILL}
    names = {"sim": ("fusion", "match_head"), "sim_pooled": ("pool_.*", "pooled_.*")}
    asked = {}
    for frozen in ((), *names.values(), sum(names.values(), ())):
        cfg, model, state = made(**fields, **{"optim.freeze": frozen})
        views, ids = views_and_ids(model)
        keys = jax.random.split(jax.random.key(0))

        @jax.jit
        def run(params, cfg=cfg, model=model, views=views, ids=ids, keys=keys):
            objective = Objective(model, cfg)
            return objective.matching_loss(views, params, ids, keys, 1, None)

        loss, metrics = run(state.params)
        asked[frozen] = {name: float(metrics[name]) for name in names if name in metrics}
        assert float(loss) == pytest.approx(sum(asked[frozen].values()), rel=1e-6)
    both = asked[()]
    assert set(both) == set(names)
    # Alone, either has its usual name.
    assert asked[names["sim"]] == {"sim": pytest.approx(both["sim_pooled"], rel=1e-6)}
    assert asked[names["sim_pooled"]] == {"sim": pytest.approx(both["sim"], rel=1e-6)}
    # Where both are frozen, each is told how it does.
    assert asked[sum(names.values(), ())] == pytest.approx(both, rel=1e-6)
