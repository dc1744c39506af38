"""Where a run's time went: every second is of one kind, over restarts, too."""

import json

import pytest

from sir_jax.training.instruments import goodput
from sir_jax.training.instruments.goodput import FILE, Goodput


@pytest.fixture
def clock(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(goodput.time, "time", lambda: now[0])
    return now


def spend(sums, clock, **seconds):
    for kind, more in seconds.items():
        clock[0] += more
        sums.spent(kind)


def started(clock, workdir, step):
    """Return the sums of a start that took 3 s, of which 2 s to compile."""
    sums = Goodput()
    spend(sums, clock, rest=1, compile=2)
    sums.open(workdir, step)
    return sums


def test_steps_made_again_and_the_time_between_are_lost(clock, tmp_path):
    first = started(clock, tmp_path, 0)
    spend(first, clock, data=1, steps=10, evaluate=4, save=1)
    first.mark(5)
    spend(first, clock, data=1, steps=6)
    first.write(8, now=True)
    clock[0] += 0.5  # makes a ninth step, of which nobody hears
    clock[0] += 60
    second = started(clock, tmp_path, 5)
    assert second.seconds == {
        "steps": 10,
        "data": 1,
        "compile": 4,
        "save": 1,
        "evaluate": 4,
        "rest": 2,
        "lost": 7 + 0.5 + 60,
    }
    assert (second.restarts, second.steps_again) == (1, 3)
    spend(second, clock, steps=4)
    second.write(7, now=True)
    # Killed before its next checkpoint: what it lost, compiled and read stays counted once.
    third = started(clock, tmp_path, 5)
    assert third.seconds == second.seconds | {
        "steps": 10,
        "compile": 6,
        "rest": 3,
        "lost": 67.5 + 4,
    }
    assert (third.restarts, third.steps_again) == (2, 5)
    assert sum(third.seconds.values()) == clock[0] - 1_000
    assert sum(third.shares().values()) == pytest.approx(1)
    assert "10.4 % in steps, 1.0 % waiting for data, 6.2 % compiling" in third.describe()
    assert third.describe().startswith("of 96 s: ")
    assert third.describe().endswith("74.1 % lost to restarts (2 of them, 5 steps made again)")


def test_a_checkpoint_that_is_not_whole_loses_what_came_after_the_one_before(clock, tmp_path):
    first = started(clock, tmp_path, 0)
    for step in (2, 4, 6):
        spend(first, clock, steps=20)
        first.mark(step)
    assert started(clock, tmp_path, 4).seconds["lost"] == 20
    # A checkpoint from before this file has no mark, and nothing to lose.
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | {"marks": {}}))
    assert started(clock, tmp_path, 4).seconds["lost"] == 20


def test_what_cannot_be_read_begins_anew_and_a_finished_run_is_left_alone(clock, tmp_path):
    (tmp_path / FILE).write_text('{"seconds": {"steps": 1}, "ali')
    sums = started(clock, tmp_path, 0)
    assert sums.restarts == 0 and json.loads((tmp_path / FILE).read_text())["step"] == 0
    before = (tmp_path / FILE).read_text()
    clock[0] += 500
    done = Goodput()
    done.open(tmp_path, 6, training=False)
    done.end(6)
    assert (tmp_path / FILE).read_text() == before


def test_signs_of_life_are_not_written_more_often_than_each_second(clock, tmp_path):
    sums = started(clock, tmp_path, 0)
    spend(sums, clock, steps=0.4)
    sums.write(1)
    assert json.loads((tmp_path / FILE).read_text())["step"] == 0
    spend(sums, clock, steps=0.7)
    sums.write(2)
    assert json.loads((tmp_path / FILE).read_text())["step"] == 2
