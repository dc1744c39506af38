"""The training loop.

The order of operations is an invariant:

  evaluate -> save -> next batch -> step -> log

A checkpoint at step n therefore holds n updates, n drawn batches and the evaluation of these very
parameters, and a resumed run draws batch n next.

Logging runs one step behind, so that the devices never wait for the host. It catches up before each
evaluation and each save, so that only parameters that were checked to be finite are evaluated or
saved.

This also double-buffers the input. Placing a batch and running a step are asynchronous: batch n + 1
is drawn and sent to the devices while they run step n, and only then the host waits for step n.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sir_jax.config.compare import compare_workdir
from sir_jax.data.corpus import Corpus, open_pictures
from sir_jax.data.dealer import Dealer
from sir_jax.data.feature_store import Features
from sir_jax.data.pipeline import check_enough, train_batches
from sir_jax.errors import UserError
from sir_jax.models import SpeechImageModel
from sir_jax.runtime import distributed, sharding
from sir_jax.runtime.console import say
from sir_jax.runtime.interrupt import Interrupt, Interrupted
from sir_jax.runtime.watchdog import Watchdog
from sir_jax.runtime.workdir import (
    CHECKPOINTS,
    Hold,
    as_path,
    check_reachable,
    check_shared,
    claim_workdir,
    make_folder,
)
from sir_jax.training.checkpoint import Checkpoints
from sir_jax.training.collapse import Collapse, Guessing
from sir_jax.training.fingerprint import check_same
from sir_jax.training.instruments.flops import seconds_at_peak
from sir_jax.training.instruments.goodput import Goodput
from sir_jax.training.instruments.profile import StepTrace, step_mark
from sir_jax.training.metrics import MetricWriter, Progress
from sir_jax.training.setup import Setup, describe, prepare
from sir_jax.training.state import TrainState, shown_params
from sir_jax.training.step import EMBED_ROWS, bucket_length
from sir_jax.training.stored_features import open_features

Evaluate = Callable[[Any, SpeechImageModel, Any], dict[str, float]]

# Number of caption ids in the message about a non-finite loss.
IDS_SHOWN = 32


@dataclasses.dataclass
class Run:
    """The parts of a run; only `state` and `step` change."""

    setup: Setup
    workdir: Path
    programs: dict[int, Callable]  # compiled train steps by the `bucket_length` of a batch
    features: Features | None  # stored features of frozen encoders; None without them
    checkpoints: Checkpoints
    watchdog: Watchdog
    watches: tuple[Collapse | Guessing, ...]
    dealer: Dealer | None  # deals epochs in groups; None where batches are at random
    at_peak: dict[int, float]  # seconds of a step at the devices' peak by its `bucket_length`
    goodput: Goodput
    trace: StepTrace
    state: TrainState
    step: int  # the value of state.step, on the host

    @property
    def cfg(self) -> Any:
        """Return the whole config."""
        return self.setup.cfg

    @property
    def mesh(self) -> Mesh:
        """Return the mesh."""
        return self.setup.mesh


@dataclasses.dataclass(frozen=True)
class Pending:
    """A step that was dispatched and whose metrics were not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    caption_ids: np.ndarray
    length: int  # the `bucket_length` of its batch


def train(
    cfg, workdir: str | Path, evaluate: Evaluate | None = None, corpus: Corpus | None = None
) -> dict[str, float]:
    """Train the model of a config in a workdir, or resume its training.

    Args:
      cfg: the whole config.
      workdir: folder that gets `config.json`, `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
      evaluate: function (params, model, cfg) -> metrics by name, called every `train.eval_every`
        steps and at the end. The metric `val/mean_r1` decides which checkpoint is the best.
      corpus: the corpus to train on; None to open `data.corpus`.

    Returns:
      The metrics of the last evaluation, and the last `train/loss` of this call.

    Raises:
      UserError: config, workdir, corpus or checkpoint do not fit each other, or a step is not
        finite.
      Interrupted: on SIGTERM or SIGINT, after the state was saved.
    """
    workdir, goodput = as_path(workdir), Goodput()
    check_reachable(workdir)
    setup = prepare(cfg, sharding.make_mesh(cfg.mesh))
    corpus = open_pictures(cfg.data.corpus, cfg.data.data_dir or None) if corpus is None else corpus
    corpus = corpus.to_learn(cfg.data)
    check_same(cfg, corpus)
    check_shared(workdir)
    with Hold(workdir) as hold:
        hold.take()
        run = begin(setup, workdir, corpus, hold, goodput)
        writer = MetricWriter(run.workdir, run.step)
        try:
            with Interrupt() as interrupt, run.watchdog:
                return run_loop(run, corpus.splits["train"], evaluate, writer, interrupt)
        finally:
            run.goodput.end(run.step)
            writer.close()
            run.checkpoints.close()


def begin(setup: Setup, workdir: Path, corpus: Corpus, hold: Hold, goodput: Goodput) -> Run:
    """Build the parts of a run: compiled programs, and the state created or restored.

    Raises:
      UserError: workdir, corpus or checkpoint do not fit the config.
    """
    cfg = setup.cfg
    for phrase in compare_workdir(cfg, workdir):
        say(f"goes on with another setting: {phrase}")
    # Before anything is compiled, and before the folder is claimed for a batch that cannot be.
    check_enough(corpus.splits["train"], cfg.data.batch_size)
    describe(setup)
    # Process 0 decides: another process could look after process 0 has created the folder.
    begun = distributed.from_first("begun", (workdir / CHECKPOINTS).is_dir())
    checkpoints = Checkpoints(workdir) if begun else None
    step = distributed.from_first("step", checkpoints.last or 0 if checkpoints else 0)
    if step:
        state = checkpoints.restore(step, setup.abstract, setup.shardings)
        say(f"resumes {workdir} at step {step}")
    else:
        state = setup.create_state()
    programs, features, dealer, at_peak = {}, None, None, {}
    if step < cfg.train.steps:
        features = open_features(state.params, cfg, corpus, corpus.splits["train"])
        goodput.spent("rest")
        programs, at_peak = setup.compile_steps(), seconds_at_peak(setup)
        goodput.spent("compile")
        distributed.meet("programs")
    # Only now: a run that failed to start must not claim the folder for its config.
    if distributed.is_first():
        make_folder(workdir)
        hold.take()
        claim_workdir(cfg, workdir)
    checkpoints = checkpoints or Checkpoints(workdir)
    if (checkpoints.last or 0) != step:
        raise UserError(
            f"workdir {workdir} was used by another job while this one started; run "
            "the same command again to go on from there"
        )
    if step < cfg.train.steps:
        dealer = open_dealer(setup, corpus, checkpoints, step)
    watchdog = Watchdog(cfg.train.watchdog_seconds, step)
    goodput.open(workdir, step, training=step < cfg.train.steps)
    trace = StepTrace(cfg.train.profile, workdir, programs.values())
    parts = (programs, features, checkpoints, watchdog, (Collapse(cfg), Guessing(cfg)), dealer)
    return Run(setup, workdir, *parts, at_peak, goodput, trace, state, step)


def open_dealer(setup: Setup, corpus: Corpus, checkpoints: Checkpoints, step: int) -> Dealer | None:
    """Return who deals epochs in groups, as of a checkpoint; None where batches are at random.

    Raises:
      UserError: the checkpoint does not fit the corpus.
    """
    cfg = setup.cfg
    if not cfg.data.groups:
        return None
    stored = checkpoints.restore_order(step) if step else None
    rows = distributed.row_order(setup.mesh, cfg.data.batch_size)
    return Dealer(corpus.splits["train"], cfg, step, rows, stored)


def is_due(step: int, every: int, total: int) -> bool:
    """Tell whether an action that runs every `every` steps, and at the end, is due.

    Args:
      step: number of updates made so far.
      every: interval in steps; 0 for at the end only.
      total: number of updates of the whole run.

    Example:
      >>> [is_due(step, 2, 5) for step in range(6)]
      [False, False, True, False, True, True]
    """
    return step == total or (every > 0 and step > 0 and step % every == 0)


def run_loop(run: Run, split, evaluate, writer: MetricWriter, interrupt: Interrupt) -> dict:
    """Run the loop from `run.step` to the end; keep the order of operations at the module's top."""
    cfg, total = run.cfg, run.cfg.train.steps
    evaluated, saved = run.checkpoints.evaluations, run.checkpoints.configs
    if run.step >= total:
        say(f"{run.workdir} is at its last step {run.step} already; nothing to train")
    bar = Progress(run.step, total, cfg.data.batch_size)
    part, parts = distributed.own_part(run.mesh, cfg.data.batch_size)
    batches = train_batches(
        split,
        cfg.data,
        seed=cfg.seed,
        start=run.step,
        process_index=part,
        process_count=parts,
        num_threads=cfg.train.num_threads,
        num_workers=cfg.train.num_workers,
        features=run.features,
        orders=run.dealer and run.dealer.orders,
    )
    pending, last = None, {}
    run.goodput.spent("rest")
    try:
        while True:
            step, stop = run.step, interrupt.requested()
            run.checkpoints.check()
            if run.trace.ends(step):
                last, pending = settle(run, pending, writer, bar) or last, None
                with bar.paused():
                    run.trace.stop(step)
            eval_due = evaluate is not None and is_due(step, cfg.train.eval_every, total)
            # A resumed run has the evaluation of its first step, unless a signal interrupted it.
            eval_due = eval_due and step not in evaluated
            save_due = eval_due or is_due(step, cfg.train.checkpoint_every, total)
            if save_due or stop:
                last, pending = settle(run, pending, writer, bar) or last, None
                with bar.paused():
                    if eval_due and not stop:
                        run_evaluation(run, evaluate, writer, interrupt)
                        stop = interrupt.requested()
                    if step and step not in saved:
                        save(run, writer)
            if step >= total and (not eval_due or step in evaluated):
                run.checkpoints.wait()
                run.goodput.spent("save")
                return {**evaluated.get(step, {}), **last}
            if stop:
                run.checkpoints.wait()
                run.goodput.spent("save")
                raise Interrupted(step, total, interrupt.signal)
            if run.trace.begins(step):
                last, pending = settle(run, pending, writer, bar) or last, None
                with bar.paused():
                    run.trace.start(step)
            dispatched = take_step(run, batches, bar, pending)
            last, pending = settle(run, pending, writer, bar) or last, dispatched
    finally:
        run.trace.stop(run.step)
        if run.dealer:
            run.dealer.close()
        batches.close()
        bar.close()


def save(run: Run, writer: MetricWriter) -> None:
    """Begin to write a checkpoint of the current state."""
    run.goodput.spent("rest")
    writer.sync()
    run.checkpoints.save(run.state, run.step, run.cfg, run.dealer and run.dealer.state())
    run.goodput.spent("save")
    run.goodput.mark(run.step)


def run_evaluation(run: Run, evaluate: Evaluate, writer: MetricWriter, interrupt) -> None:
    """Evaluate the current parameters, log and print the result; a signal ends it without one."""
    began, metrics = time.perf_counter(), None
    with interrupt.cutting(), run.watchdog.paused():
        metrics = evaluate(shown_params(run.state), run.setup.model, run.cfg)
    run.goodput.spent("evaluate")
    if metrics is None:
        return
    scores = {name: float(x) for name, x in metrics.items()}
    writer.write(run.step, scores)
    run.checkpoints.note_evaluation(run.step, scores)
    recalls = [
        f"{name} {x:.4f}"
        for name, x in scores.items()
        if name.endswith("_r1") and "chance" not in name
    ]
    seconds = time.perf_counter() - began
    say(f"step {run.step}: {', '.join(recalls or ['evaluated'])} ({seconds:.1f} s)")


def take_step(run: Run, batches, bar: Progress, before: Pending | None) -> Pending:
    """Draw the next batch and dispatch one update, without waiting for it.

    Args:
      run: its state is replaced.
      batches: to draw from.
      bar: hears how long that took.
      before: the step that the devices may still be at.
    """
    run.goodput.spent("rest")
    began = time.perf_counter()
    batch = next(batches)
    bar.data_wait(time.perf_counter() - began)
    # A wait costs nothing while the devices have the step before to do.
    idle = before is None or before.metrics["train/loss"].is_ready()
    run.goodput.spent("data" if idle else "steps")
    fields = {name: rows for name, rows in batch.items() if name != "caption_ids"}
    placed, length = sharding.place_batch(fields, run.mesh), bucket_length(batch)
    # The update must send nothing to or from the devices.
    with jax.transfer_guard("disallow"), step_mark(run.step + 1):
        run.state, metrics = run.programs[length](run.state, placed)
    run.step += 1
    run.goodput.spent("steps")
    return Pending(run.step, metrics, np.array(batch["caption_ids"]), length)


def settle(run: Run, pending: Pending | None, writer: MetricWriter, bar: Progress) -> dict:
    """Wait for a dispatched step, check that it is finite, and log it.

    Returns:
      {'train/loss': loss of the step}; empty if `pending` is None.

    Raises:
      UserError: the step is not finite.
    """
    if pending is None:
        return {}
    metrics = jax.device_get(pending.metrics)
    run.goodput.spent("steps")
    rows = [metrics.pop(name) for name in EMBED_ROWS if name in metrics]
    metrics = {name: float(x) for name, x in metrics.items()}
    if not metrics.pop("train/finite"):
        stop_non_finite(run, pending, metrics)
    if run.dealer:
        run.dealer.note(pending.step, *rows)
    run.watchdog.finished(pending.step)
    for watch in run.watches:
        watch.see(pending.step, metrics)
    bar.update(metrics["train/loss"], run.at_peak.get(pending.length, 0.0))
    if is_due(pending.step, run.cfg.train.log_every, run.cfg.train.steps):
        writer.write(pending.step, {**metrics, **bar.rates(), **run.goodput.shares()})
        run.goodput.write(pending.step)
    return {"train/loss": metrics["train/loss"]}


def stop_non_finite(run: Run, pending: Pending, metrics: dict[str, float]) -> None:
    """Stop at a step whose loss, gradient or update is not finite, without saving it.

    Raises:
      UserError: always. The message names the step and caption ids of its batch; all of these are
        also in `nonfinite_PROCESS.json` in the workdir.
    """
    ids = pending.caption_ids.tolist()
    report = {
        "step": pending.step,
        "metrics": {k: repr(v) for k, v in metrics.items()},
        "caption_ids": ids,
    }
    path = run.workdir / f"nonfinite_{jax.process_index()}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    shown = ", ".join(map(str, ids[:IDS_SHOWN]))
    more = f", ... ({len(ids)} in all)" if len(ids) > IDS_SHOWN else ""
    kept = run.checkpoints.last
    good = f"the checkpoint of step {kept} is good" if kept else "no checkpoint was written yet"
    raise UserError(
        f"step {pending.step} is not finite: loss {metrics['train/loss']}, gradient norm "
        f"{metrics['train/grad_norm']}; caption ids of its batch: {shown}{more} (also in {path}); "
        f"{good}; look at these captions, or start in a new workdir with a lower "
        "optim.learning_rate or optim.clip_norm"
    )
