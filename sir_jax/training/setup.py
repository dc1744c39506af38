"""Model, optimiser, shapes and shardings of a config on a mesh.

Whoever runs or inspects a train step starts with `prepare`: the loop, `sir-jax data featurize`, the
pods' compiler, benchmarks and tests.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from sir_jax.config.check import check_batch, check_config
from sir_jax.config.fields import weighed_terms
from sir_jax.models import Flash, SpeechImageModel, build_model
from sir_jax.objective.switches import frozen_patterns, fusion_tasks, has_teacher, queue_size
from sir_jax.runtime import distributed, sharding
from sir_jax.runtime.console import say
from sir_jax.runtime.trees import split_tree
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import (
    TrainState,
    check_param_patterns,
    count_params,
    init_ema,
    init_state,
    schedule_free_state,
    state_shardings,
)
from sir_jax.training.step import batch_shapes, bucket_length, jit_train_step
from sir_jax.training.stored_features import cached_modalities, check_cacheable


@dataclasses.dataclass(frozen=True)
class Setup:
    """A checked config on a mesh. It holds no arrays.

    Attributes:
      cfg: the whole config.
      mesh: of devices, or of a topology that is only described.
      model: the joint model with the heads that the objective needs.
      tx: the optimiser.
      init: function from a random key to the `TrainState` at step 0; call it under `jax.jit`.
      abstract: shapes and dtypes of the state.
      shardings: shardings of the state.
    """

    cfg: Any
    mesh: Mesh
    model: SpeechImageModel
    tx: optax.GradientTransformation
    init: Callable[[jax.Array], TrainState]
    abstract: TrainState
    shardings: TrainState

    @property
    def cached(self) -> tuple[str, ...]:
        """Return the modalities whose features are read from a store."""
        return cached_modalities(self.abstract.params, self.cfg)

    def batch_shapes(self, samples: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of the fields that a step reads of a batch."""
        return batch_shapes(self.cfg, samples, self.cached)

    def jit_step(self) -> Callable:
        """Return `train_step` under jit, to be called or lowered with (state, batch)."""
        fields = tuple(self.batch_shapes(self.cfg.data.buckets[0]))
        return jit_train_step(self.cfg, self.mesh, self.shardings, fields, self.model, self.tx)

    def compile_steps(self) -> dict[int, Callable]:
        """Compile `train_step` for every length bucket before the first step.

        Returns:
          The programs by the `bucket_length` of their batches.
        """
        jitted, programs = self.jit_step(), {}
        for samples in self.cfg.data.buckets:
            batch, began = self.batch_shapes(samples), time.perf_counter()
            program = jitted.lower(self.abstract, batch).compile()
            programs[bucket_length(batch)] = distributed.meeting_first(program)
            say(f"  {shape_text(batch)[0]} compiled in {time.perf_counter() - began:.1f} s")
        return programs

    def create_state(self) -> TrainState:
        """Create the sharded state at step 0, with the checkpoints that `config.init` names."""
        cfg, shardings = self.cfg, self.shardings
        check_encoders_are_here(cfg)
        state = jax.jit(self.init, out_shardings=shardings)(jax.random.key(cfg.seed))
        if not any(cfg.init.values()):
            return state
        params = jax.tree.map(
            lambda new, old: new.astype(old.dtype), initial_params(cfg, state.params), state.params
        )
        state = state.replace(params=jax.tree.map(distributed.place, params, shardings.params))
        # No other optimiser's state depends on the parameters' values.
        if schedule_free_state(state.opt_state) is not None:
            trainable, _ = split_tree(state.params, frozen_patterns(cfg))
            begin = jax.jit(self.tx.init, out_shardings=shardings.opt_state)
            state = state.replace(opt_state=begin(trainable))
        if state.ema_params is not None:
            copy = jax.jit(functools.partial(init_ema, cfg=cfg), out_shardings=shardings.ema_params)
            state = state.replace(ema_params=copy(state.params))
        return state


def prepare(cfg, mesh: Mesh) -> Setup:
    """Check a config and set up its model and optimiser on a mesh, without running anything.

    Args:
      cfg: the whole config.
      mesh: from `runtime.sharding.make_mesh`, or of a topology that is only described.

    Raises:
      UserError: a field is invalid, the batch does not fit the mesh, or a pattern matches no
        parameter.
    """
    check_config(cfg)
    check_batch(cfg, mesh)
    on_tpu = mesh.devices.flat[0].platform == "tpu"
    flash = Flash(mesh, rows=sharding.BATCH_SPEC[0], heads=("tensor",)) if on_tpu else None
    model = build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind), flash)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    abstract = jax.eval_shape(init, jax.random.key(cfg.seed))
    sharding.check_rules(abstract.params)
    check_param_patterns(abstract.params, cfg)
    if cfg.data.features:
        check_cacheable(abstract.params, cfg)
    return Setup(cfg, mesh, model, tx, init, abstract, state_shardings(abstract, mesh, cfg))


def check_encoders_are_here(cfg) -> None:
    """Raise the UserError of a missing checkpoint before a large model is compiled for it."""
    from sir_jax.pretrained import resolve

    for name in (cfg.init.speech, cfg.init.image, cfg.init.fusion):
        if name and not cfg.init.model:
            resolve(name)


def initial_params(cfg, params: dict) -> dict:
    """Replace random parameters by the checkpoints that `config.init` names.

    Args:
      cfg: the whole config.
      params: the whole parameter tree; it is not changed.

    Returns:
      A new tree, in which replaced parameters are NumPy arrays.

    Raises:
      UserError: a checkpoint does not exist, or does not fit the model.
    """
    if cfg.init.model:
        from sir_jax.inference.release import start_from

        return start_from(cfg, params)
    from sir_jax.pretrained import load_encoders

    return load_encoders(cfg, params)


def describe(setup: Setup) -> None:
    """Print the size of the model, the objective, the mesh, the programs, and how batches split."""
    cfg, mesh, abstract = setup.cfg, setup.mesh, setup.abstract
    trainable, frozen = count_params(abstract.params, frozen_patterns(cfg))
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    say(f"parameters: {trainable:,} trainable, {frozen:,} frozen")
    say(f"objective: {describe_objective(cfg.loss)}")
    say(f"mesh: {axes} on {mesh.size} of {jax.device_count()} {jax.default_backend()} devices")
    for line in sharding.fallback_lines(abstract.params, mesh):
        say(line)
    if setup.cached:
        say(f"features of frozen encoders from {cfg.data.features}: {', '.join(setup.cached)}")
    shapes = [shape_text(setup.batch_shapes(samples)) for samples in cfg.data.buckets]
    say(
        f"train_step: {len(shapes)} programs, one a length bucket: "
        f"{', '.join(speech for speech, _ in shapes)}; each with {shapes[0][1]}"
    )
    if cfg.data.groups:
        data = cfg.data
        say(
            f"batches: groups of {data.groups} look-alikes by {data.group_by}, found among "
            f"{data.search_space:,} captions, in epochs after {data.grouped_after:,} steps"
        )
    batch, accum, cache = cfg.data.batch_size, cfg.train.grad_accum, cfg.train.grad_cache
    if accum > 1:
        say(
            f"train.grad_accum={accum}: a gradient is the mean over {accum} microbatches of "
            f"{batch // accum}; a caption's negatives come from its own microbatch only, so it "
            f"sees {batch // accum - 1} other pairs, not {batch - 1} as under train.grad_cache"
        )
    if cache > 1:
        say(
            f"train.grad_cache={cache}: activations of {batch // cache} pairs at a time; "
            f"a caption's negatives come from all {batch}"
        )


def shape_text(shapes: dict[str, jax.ShapeDtypeStruct]) -> tuple[str, str]:
    """Return the shapes of a batch's speech and of its images as text."""
    names = ("wave", "speech_tokens", "speech_states"), ("pixels", "image_tokens")
    return tuple(
        next(
            f"{name}{list(shapes[name].shape)}".replace(" ", "") for name in group if name in shapes
        )
        for group in names
    )


def describe_objective(loss_cfg) -> str:
    """Return the terms of the objective, teacher and queue as one line of text."""
    text = weighed_terms(loss_cfg)
    if has_teacher(loss_cfg):
        sic = loss_cfg.sic
        text += f"; teacher with momentum {loss_cfg.teacher.momentum:g}"
        text += f", alpha {sic.alpha:g} after {sic.alpha_ramp} steps" if sic.alpha else ""
    return text + (f"; queue of {queue_size(loss_cfg):,}" if queue_size(loss_cfg) else "")
