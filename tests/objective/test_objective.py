"""The composed objective: the inputs, the cost and the trained parameters of each term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import EVERYTHING, STILL, TERMS, assert_queue_stays, gradient, made
from tiny_models import tiny_config
from training_helpers import synthetic_batch

from sir_jax.losses.contrastive import contrastive, id_targets
from sir_jax.losses.denoising import add_noise, cosine, denoising, draw_noise, other_rows
from sir_jax.losses.matching import hard_negatives
from sir_jax.objective.switches import has_teacher, queue_size
from sir_jax.objective.total import loss_fn, ramped_alpha
from sir_jax.runtime import sharding
from sir_jax.runtime.trees import leaf_paths, overlay, restrict
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import init_ema, init_state, update_ema
from sir_jax.training.step import train_step

# Rows of the queue, half of them filled: a number that no other size of a program has.
ROWS = 1009
LOGGED = 2
# What version 0.1.0 computes with the same parameters, batch and random numbers.
PINNED = {
    "loss": 11.741107,
    "gradient": 113.79944,
    "sic": 10.772155,
    "sim": 0.63974923,
    "cmd_speech": 1.0750101,
    "cmd_image": 1.0095054,
    "cmd_image_cosine_shuffled": -0.0064934751,
}
PINNED_ROWS = {"speech": [-0.11782998, 0.17906430], "image": [0.27600148, -0.19817330]}


@pytest.fixture(scope="module")
def everything():
    fields = {"loss.sic.queue": ROWS, "train.log_every": LOGGED + 1, "train.steps": 8}
    return made(**EVERYTHING | fields, **STILL)


@pytest.fixture(scope="module")
def differentiated(everything):
    """Return (parts, run): run(parts, batch, step, key) -> (loss, aux, gradients of the parts).

    The parts are teacher, queue and student. One program serves all tests of the whole objective:
    to compile it takes most of their time.
    """
    cfg, model, state = everything

    @jax.jit
    def run(parts, batch, step, key):
        def loss(parts):
            ema, queue, params = parts
            queue = state.queue._replace(**queue)
            return loss_fn(params, ema, queue, batch, step, key, model=model, cfg=cfg)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(parts)
        return value, aux, grads

    queue = {name: getattr(state.queue, name) for name in ("speech", "image")}
    return (state.ema_params, queue, state.params), run


@pytest.fixture(scope="module")
def whole(everything, differentiated):
    """Return a function (step, key) -> (loss, aux, gradients) on one device."""
    parts, run = differentiated
    batch = synthetic_batch(everything[0])
    return lambda step=0, key=1: run(parts, batch, jnp.int32(step), jax.random.key(key))


def test_teacher_and_queue_have_no_gradient(everything, whole):
    _, _, (ema, tables, params) = whole(step=5)
    for path, leaf in leaf_paths((ema, tables)).items():
        assert not np.any(np.asarray(leaf)), path
    # The same call gives every part of the student a gradient.
    parts = {path.split("/")[0] for path, leaf in leaf_paths(params).items() if np.any(leaf)}
    assert parts == set(everything[2].params)


def test_total_is_the_weighted_sum_of_the_terms(whole):
    loss, aux, _ = whole()
    m = {name: float(value) for name, value in aux.metrics.items()}
    assert float(loss) == pytest.approx(m["sic"] + 0.7 * m["sim"] + 0.5 * m["cmd"], rel=1e-6)
    assert float(m["cmd"]) == pytest.approx((m["cmd_speech"] + m["cmd_image"]) / 2, rel=1e-6)
    assert float(m["queue_fill"]) == pytest.approx((ROWS // 2) / ROWS)
    assert float(m["sim_negatives"]) == 1.0
    assert 0 <= float(m["sim_accuracy"]) <= 1


def test_values_are_those_that_they_always_were(whole):
    # Who changes them says so in the changelog: old runs, releases and indexes hold such values.
    loss, aux, (_, _, grads) = whole(step=5)
    norm = np.sqrt(sum(float(np.square(leaf).sum()) for leaf in leaf_paths(grads).values()))
    values = aux.metrics | {"loss": loss, "gradient": norm}
    actual = {name: float(values[name]) for name in PINNED}
    assert actual == pytest.approx(PINNED, rel=1e-5, abs=1e-6)
    for name, row in PINNED_ROWS.items():
        np.testing.assert_allclose(getattr(aux.queue_rows, name)[0, :2], row, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def views_of(model, params, batch):
    return (
        model.apply({"params": params}, batch["wave"], batch["lengths"], method="encode_speech"),
        model.apply({"params": params}, batch["pixels"], method="encode_image"),
    )


def test_sic_is_made_of_the_right_embeddings(everything, whole):
    cfg, model, state = everything
    batch = synthetic_batch(cfg)
    metrics = whole(step=0)[1].metrics
    s, i = views_of(model, state.params, batch)
    s_m, i_m = views_of(model, overlay(state.params, state.ema_params), batch)
    # Student and teacher must differ for this test to tell them apart.
    assert np.abs(s.embed - s_m.embed).max() > 0.01
    filled_rows = np.arange(ROWS) < ROWS // 2
    hard = id_targets(jnp.array(batch["image_ids"]), state.queue.ids, filled_rows)
    tau, alpha = state.params["temperature"], 0.4 * 1 / 2
    assert float(metrics["alpha"]) == pytest.approx(alpha)
    s2i, _ = contrastive(
        s.embed, i_m.embed, state.queue.image, filled_rows, hard, tau, s_m.embed, alpha
    )
    i2s, _ = contrastive(
        i.embed, s_m.embed, state.queue.speech, filled_rows, hard, tau, i_m.embed, alpha
    )
    assert float(metrics["sic"]) == pytest.approx(float((s2i + i2s).mean() / 2), rel=1e-5)


def test_queue_rows_are_the_teachers(everything, whole):
    cfg, model, state = everything
    batch = synthetic_batch(cfg)
    rows = whole()[1].queue_rows
    s_m, i_m = views_of(model, overlay(state.params, state.ema_params), batch)
    np.testing.assert_allclose(rows.speech, s_m.embed, atol=1e-6)
    np.testing.assert_allclose(rows.image, i_m.embed, atol=1e-6)
    np.testing.assert_array_equal(rows.ids, batch["image_ids"])


def test_matching_scores_the_pairs_it_says(everything, whole):
    cfg, model, state = everything
    batch = synthetic_batch(cfg)
    metrics = whole(key=3)[1].metrics
    s, i = views_of(model, state.params, batch)
    keys = jax.random.split(jax.random.key(3), 5)
    scores = s.embed @ i.embed.T / state.params["temperature"]
    ids = jnp.array(batch["image_ids"])
    image_rows, _ = hard_negatives(jax.random.split(keys[2], 1)[0], scores, ids)
    speech_rows, _ = hard_negatives(jax.random.split(keys[3], 1)[0], scores.T, ids)
    match = jax.jit(lambda *one: model.apply({"params": state.params}, *one, method="match"))
    losses = []
    for b in range(len(ids)):
        for speech_row, image_row, label in (
            (b, b, 1),
            (b, int(image_rows[b]), 0),
            (int(speech_rows[b]), b, 0),
        ):
            one = [
                jax.tree.map(lambda x, r=r: x[r : r + 1], e)
                for e, r in ((s, speech_row), (i, image_row))
            ]
            logits = np.float64(match(*one)[0])
            losses.append(np.log(np.exp(logits).sum()) - logits[label])
    assert float(metrics["sim"]) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("modality", ["speech", "image"])
def test_denoising_rebuilds_towards_the_teacher_and_its_control_has_another_context(
    everything, whole, modality
):
    cfg, model, state = everything
    batch = synthetic_batch(cfg)
    logged = whole(step=LOGGED, key=3)[1].metrics
    s, i = views_of(model, state.params, batch)
    s_m, i_m = views_of(model, overlay(state.params, state.ema_params), batch)
    clean, context, target = (s, i, s_m.tokens) if modality == "speech" else (i, s, i_m.tokens)
    ids = jnp.array(batch["image_ids"])
    number = ("speech", "image").index(modality)
    key_noise, _ = jax.random.split(
        jax.random.fold_in(jax.random.split(jax.random.key(3), 5)[4], number)
    )
    noise = draw_noise(jax.random.split(key_noise, 1)[0], clean.mask, ids, cfg.loss.cmd.ratio)
    noisy = clean._replace(tokens=add_noise(clean.tokens, noise))

    @jax.jit
    def rebuild(context):
        return model.apply({"params": state.params}, noisy, context, modality, method="denoise")

    valid = clean.mask & (jnp.arange(clean.mask.shape[1]) > 0)
    values, counted = denoising(rebuild(context), target, noise, valid, "cosine")
    assert float(logged[f"cmd_{modality}"]) == pytest.approx(
        float(values.sum() / counted.sum()), rel=1e-5
    )
    rows, wrong = other_rows(ids)
    assert bool(wrong.all()) and not np.any(ids[rows] == ids)
    for name, seen in (("", context), ("_shuffled", jax.tree.map(lambda x: x[rows], context))):
        similar = cosine(rebuild(seen), target)[noise.replaced].mean()
        assert float(logged[f"cmd_{modality}_cosine{name}"]) == pytest.approx(
            float(similar), abs=1e-5
        ), name


def test_control_is_computed_at_logged_steps_alone(whole):
    # At each third step, and at the last one.
    shuffled = [float(whole(step)[1].metrics["cmd_image_cosine_shuffled"]) for step in range(8)]
    assert [step for step, value in enumerate(shuffled) if value != 0.0] == [LOGGED, 5, 7]


def test_gradients_on_eight_devices_are_those_of_one_and_the_queue_stays(
    everything, differentiated, whole
):
    cfg, (parts, run) = everything[0].copy_and_resolve_references(), differentiated
    cfg.mesh.data = 8
    mesh = sharding.make_mesh(cfg.mesh)
    spread = (
        jax.device_put(parts, sharding.replicated(mesh)),
        sharding.place_batch(synthetic_batch(cfg), mesh),
        *jax.device_put((jnp.int32(0), jax.random.key(1)), sharding.replicated(mesh)),
    )
    program = run.lower(*spread).compile()
    loss, _, (_, _, grads) = program(*spread)
    assert_queue_stays(program.as_text(), ROWS)
    expected_loss, _, (_, _, expected) = whole()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    actual, expected = leaf_paths(grads), leaf_paths(expected)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in expected.values()))
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path] / norm, leaf / norm, atol=1e-6, err_msg=path)


def lowered_flops(fn, *args) -> float:
    """Count the operations before XLA merges equal ones."""
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]


def loss_flops(**fields) -> float:
    """Count the operations of the loss; a gradient has none of a term that the loss has not."""
    cfg, model, state = made(**STILL, **fields)
    batch = synthetic_batch(cfg)

    def loss(params):
        return loss_fn(
            params, state.ema_params, state.queue, batch, 0, jax.random.key(0), model=model, cfg=cfg
        )[0]

    return lowered_flops(loss, state.params)


def test_a_term_that_is_off_costs_no_operation():
    plain = loss_flops()
    # The other fields of a term with weight 0 change nothing.
    assert plain == loss_flops(
        **{
            "loss.cmd.direction": "both",
            "loss.cmd.form": "infonce",
            "loss.cmd.tokens": "all",
            "model.fusion.layers": 12,
            "model.fusion.width": 256,
            "loss.teacher.momentum": 0.5,
        }
    )
    costs = {
        term: loss_flops(**TERMS["sic"], **TERMS[term]) - plain for term in ("queue", "sim", "cmd")
    }
    assert all(cost > 0.02 * plain for cost in costs.values()), (plain, costs)


@functools.cache
def frozen_flops(frozen):
    """Return the operations of the loss where encoders are frozen, and (model, state, batch)."""
    cfg, model, state = made(**EVERYTHING, **STILL, **{"optim.freeze": frozen})
    batch = synthetic_batch(cfg)
    loss = functools.partial(loss_fn, model=model, cfg=cfg)
    rest = state.queue, batch, 0, jax.random.key(0)
    flops = lowered_flops(lambda *trees: loss(*trees, *rest)[0], state.params, state.ema_params)
    return flops, (model, state, batch)


# Both at once: training/test_stored_features.py.
@pytest.mark.parametrize("frozen", [("image",), ("speech",)])
def test_a_frozen_encoder_is_run_once(frozen):
    flops, (model, state, batch) = frozen_flops(frozen)
    inputs = {"speech": (batch["wave"], batch["lengths"]), "image": (batch["pixels"],)}
    saved = sum(
        lowered_flops(
            lambda params, name=name: model.apply(
                {"params": params}, *inputs[name], method=f"{name}_features"
            ),
            state.params,
        )
        for name in frozen
    )
    assert frozen_flops(())[0] - flops == pytest.approx(saved, rel=0.01)
    # The teacher holds exactly the trainable leaves of the parts that have a teacher.
    copied = set(leaf_paths(state.ema_params))
    taught = {"speech", "speech_head", "speech_projection", "image", "image_projection"}
    assert copied == {
        path for path in leaf_paths(state.params) if path.split("/")[0] in taught - set(frozen)
    }
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.ema_params)} == {"float32"}


def test_teacher_follows_in_closed_form_for_a_thousand_steps():
    rng = np.random.default_rng(0)
    momentum, steps = 0.995, 1000
    start = {"speech": {"a": rng.normal(size=(3, 4)).astype(np.float32)}}
    path = [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(steps)]
    ema = start
    update = jax.jit(functools.partial(update_ema, momentum=momentum))
    for value in path:
        ema = update(ema, {"speech": {"a": value, "b": value}, "fusion": value})
    assert leaf_paths(ema).keys() == {"speech/a"}
    expected = momentum**steps * start["speech"]["a"].astype(np.float64)
    for number, value in enumerate(path):
        expected += (1 - momentum) * momentum ** (steps - 1 - number) * value
    np.testing.assert_allclose(ema["speech"]["a"], expected, atol=1e-6)


def test_step_moves_teacher_and_queue_after_the_update():
    # No other term has a part in it; all at once are stepped in training/test_stored_features.py.
    cfg, model, state = made(**TERMS["queue"], **STILL)
    batch = synthetic_batch(cfg)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    step = jax.jit(functools.partial(train_step, model=model, tx=tx, cfg=cfg))
    after, _ = step(state, batch)
    m = cfg.loss.teacher.momentum
    moved = leaf_paths(restrict(after.params, state.ema_params))
    for path, leaf in leaf_paths(after.ema_params).items():
        old = leaf_paths(state.ema_params)[path]
        np.testing.assert_allclose(leaf, m * old + (1 - m) * moved[path], atol=1e-6, err_msg=path)
    assert int(after.queue.head) == 18 and int(after.queue.filled) == 18
    np.testing.assert_array_equal(after.queue.ids[10:18], batch["image_ids"])
    np.testing.assert_array_equal(after.queue.speech[:10], state.queue.speech[:10])


def test_teacher_starts_as_a_copy_that_can_be_donated():
    # The terms that read the fusion encoder change nothing: it has no teacher.
    cfg, model, _ = made(**TERMS["queue"])
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    state = jax.jit(init)(jax.random.key(0))
    params = leaf_paths(state.params)
    for path, leaf in leaf_paths(state.ema_params).items():
        np.testing.assert_array_equal(leaf, params[path], err_msg=path)
    # A buffer that two leaves share cannot be donated.
    add = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert int(add(state).step) == 1 and state.step.is_deleted()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.ema_params)))


def test_there_is_no_teacher_where_no_term_needs_one():
    cfg = tiny_config(**{"loss.sim.weight": 1.0, "loss.cmd.weight": 1.0})
    assert not has_teacher(cfg.loss) and queue_size(cfg.loss) == 0
    assert init_ema({"speech": {"a": np.ones(2)}}, cfg) is None
    cfg.loss.sic.update(queue=5, weight=0.0)
    assert not has_teacher(cfg.loss) and queue_size(cfg.loss) == 0


def test_alpha_rises_from_its_first_step_to_the_end_of_the_ramp():
    sic = tiny_config(**{"loss.sic.alpha": 0.4, "loss.sic.alpha_ramp": 4}).loss.sic
    actual = [float(ramped_alpha(sic, step)) for step in (0, 1, 3, 4, 100)]
    np.testing.assert_allclose(actual, [0.1, 0.2, 0.4, 0.4, 0.4], rtol=1e-6)
    sic.alpha_ramp = 0
    assert float(ramped_alpha(sic, 0)) == pytest.approx(0.4)


def test_accumulation_queues_every_row_in_the_batchs_order():
    cfg, model, state = made(**TERMS["queue"], **STILL)
    batch = synthetic_batch(cfg)
    batch["image_ids"] = np.arange(8, dtype=np.int32)
    speech, image = views_of(model, overlay(state.params, state.ema_params), batch)
    cfg.train.grad_accum = 2
    rows = gradient(cfg, model, state, batch)[1].queue_rows
    np.testing.assert_array_equal(rows.ids, np.arange(8))
    np.testing.assert_allclose(rows.speech, speech.embed, atol=1e-6)
    np.testing.assert_allclose(rows.image, image.embed, atol=1e-6)
