"""Metrics on disk, and the rates of the progress bar."""

import json

from sir_jax.training.metrics import JSONL, MetricWriter, Progress, read_records


def test_resume_drops_later_records_and_an_incomplete_line(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"train/loss": step / 2})
    writer.write(2, {"val/mean_r1": 0.5})
    writer.close()
    with open(tmp_path / JSONL, "a") as file:
        file.write('{"step": 4, "train/lo')
    assert len(read_records(tmp_path / JSONL)) == 4
    writer = MetricWriter(tmp_path, 2)
    writer.write(3, {"train/loss": 9.0})
    writer.close()
    lines = (tmp_path / JSONL).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "train/loss": 1.0},
        {"step": 2, "val/mean_r1": 0.5},
        {"step": 3, "train/loss": 9.0},
    ]


def test_records_are_on_disk_before_close(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"train/loss": 0.1})
    assert read_records(tmp_path / JSONL) == [{"step": 1, "train/loss": 0.1}]
    writer.close()


def test_start_at_step_zero_removes_records_of_a_run_that_saved_nothing(tmp_path):
    (tmp_path / JSONL).write_text('{"step": 1, "train/loss": 3.0}\n')
    MetricWriter(tmp_path, 0).close()
    assert (tmp_path / JSONL).read_text() == ""


def test_rates_leave_out_pauses(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("sir_jax.training.metrics.time.perf_counter", lambda: clock[0])
    bar = Progress(0, 10, 8)
    for _ in range(4):
        clock[0] += 0.5
        bar.data_wait(0.125)
        bar.update(1.0)
    with bar.paused():
        clock[0] += 60.0
    assert bar.rates() == {"perf/examples_per_s": 16.0, "perf/data_wait_share": 0.25}
    clock[0] += 1.0
    bar.update(1.0)
    assert bar.rates()["perf/examples_per_s"] == 8.0
    # Of two seconds, a step of which the devices need a quarter of one at their peak.
    clock[0] += 2.0
    bar.update(1.0, at_peak=0.25)
    assert bar.rates()["perf/mfu"] == 0.125
    bar.close()
