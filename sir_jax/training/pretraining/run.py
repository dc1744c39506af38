"""The loop of pretraining: steps, a log, and a state from which a killed run goes on."""

import dataclasses
import functools
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import serialization

from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file

STATE = "pretraining.msgpack"


@dataclasses.dataclass(frozen=True)
class Options:
    """How long and how fast an encoder learns, and where it goes.

    Attributes:
      out: the folder that gets the encoder.
      init: an encoder to start from, as `config.init` has; '' for random weights.
      steps: of the schedule.
      until: the step of the schedule at which to stop; 0 for the last.
      learning_rate: the largest of the schedule.
      seed: of the batches and of dropout.
      log_every, save_every: steps.
    """

    out: str
    init: str = ""
    steps: int = 4000
    until: int = 0
    learning_rate: float = 1e-3
    seed: int = 0
    log_every: int = 50
    save_every: int = 500


def run(
    params: dict,
    loss_fn: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
    options: Options,
    save: Callable[[dict], None],
    workdir: Path | None = None,
) -> dict:
    """Train and return the parameters.

    Args:
      params: to start from.
      loss_fn: from (params, batch, rng) to the loss and its terms by name.
      batches: from the number of steps that are done to the batches that follow.
      options: schedule and seed.
      save: called with the parameters now and then, and at the end.
      workdir: keeps the state of the run, which goes on from there; None for a run that cannot.

    Raises:
      UserError: the state in `workdir` is of another run.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, max(1, options.steps // 20), options.steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, batch, rng):
        (_, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, rng)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, terms

    state = {"params": params, "opt": tx.init(params), "step": 0, "seconds": 0.0}
    if workdir is not None:
        state = _restore(workdir / STATE, state, options)
    params, opt_state, done = state["params"], state["opt"], int(state["step"])
    before, started, kept = float(state["seconds"]), time.time(), []
    last = options.until or options.steps
    key = jax.random.key(options.seed)
    if done < last:
        stream = batches(done)
    for i in range(done + 1, last + 1):
        params, opt_state, terms = step(params, opt_state, next(stream), jax.random.fold_in(key, i))
        kept.append(terms)
        seconds = before + time.time() - started
        if i % options.log_every == 0 or i == last:
            _log(kept, i, seconds, options, workdir)
            kept = []
        if i % options.save_every == 0 or i == last:
            save(jax.device_get(params))
            if workdir is not None:
                state = {"params": params, "opt": opt_state, "step": i, "seconds": seconds}
                _store(workdir / STATE, state, options)
    return params


def _log(kept, step: int, seconds: float, options: Options, workdir: Path | None) -> None:
    terms = {name: float(np.mean([float(t[name]) for t in kept])) for name in kept[0]}
    shown = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
    print(f"step {step}/{options.steps} {shown} {seconds:.0f} s", flush=True)
    if workdir is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
        record = {"step": step, **terms, "seconds": round(seconds, 1), "peak_mib": round(peak)}
        with (workdir / "pretraining.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def _store(path: Path, state: dict[str, Any], options: Options) -> None:
    content = {"options": _identity(options), "state": serialization.to_state_dict(state)}
    with whole_file(path) as part:
        part.write_bytes(serialization.msgpack_serialize(jax.device_get(content)))


def _restore(path: Path, state: dict[str, Any], options: Options) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return state
    stored = serialization.msgpack_restore(path.read_bytes())
    if stored["options"] != _identity(options):
        raise UserError(f"{path} is of another run ({stored['options']}); choose another --workdir")
    found = serialization.from_state_dict(state, stored["state"])
    print(f"goes on after step {int(found['step'])} of {path}", flush=True)
    return found


def _identity(options: Options) -> str:
    """Return what must be the same when a run goes on."""
    return f"{options.steps} steps, learning rate {options.learning_rate:g}, seed {options.seed}"
