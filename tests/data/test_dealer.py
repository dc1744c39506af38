"""The dealer and those who wait for its orders: threads, worker processes, resumed runs."""

import shutil
import threading
from itertools import islice

import numpy as np
import pytest
from pipeline_helpers import assert_same, caption_ids, small_split

from sir_jax.config.presets import base_config
from sir_jax.data.dealer import Dealer
from sir_jax.data.epochs import Orders, Schedule
from sir_jax.data.groups import pack_rows
from sir_jax.data.pipeline import train_batches
from sir_jax.errors import UserError

STEPS, PER_EPOCH = 30, 6  # 27 captions in batches of 4


def config(**changes):
    cfg = base_config("tiny", "tiny")
    cfg.data.update(batch_size=4, buckets=(400, 800, 1_600), image_size=16, groups=2)
    cfg.data.augment.silence.update(probability=0.5, before=(0.0, 0.02), after=(0.0, 0.02))
    cfg.train.steps, cfg.model.embed_width = STEPS, 8
    cfg.update_from_flattened_dict(changes)
    return cfg


@pytest.mark.parametrize("per_epoch", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("after", [0, 7, 60])
def test_schedule_deals_every_epoch_before_its_first_batch_is_needed(per_epoch, after):
    schedule = Schedule(per_epoch, after, total=200)
    dealt = {}
    for step in range(1, 201):
        # Drawn after the steps before are made, of which the last one is not noted yet.
        epoch = (step - 1) // per_epoch
        assert (epoch in dealt) == schedule.is_grouped(epoch)
        assert not schedule.is_grouped(epoch) or dealt[epoch] <= step - 2
        dealt |= dict.fromkeys(schedule.due(step), step)
        open_now = [e for e in dealt if (e + 1) * per_epoch > step]
        assert schedule.open_epochs(step) == sorted(open_now)
    firsts = [e * per_epoch for e in dealt]
    assert min(firsts) <= max(after, 2 * per_epoch, 3 if per_epoch < 3 else 0) + per_epoch
    assert min(firsts) >= after and max(firsts) >= 200 - per_epoch
    assert len(firsts) == (max(firsts) - min(firsts)) // per_epoch + 1


def made_up(batch, step):
    """Return embeddings as a model's would be: of the ids, and changing from step to step."""
    seeds = [(0, batch["caption_ids"]), (1, batch["image_ids"])]
    return [
        np.stack(
            [pack_rows(np.random.default_rng((kind, int(i), step)).normal(size=8)) for i in ids]
        )
        for kind, ids in seeds
    ]


def run(cfg, begin=0, end=STEPS, stored=None, threads=0, workers=0, split=None):
    """Return the batches of some steps, and what a checkpoint of the last one holds."""
    split = split or small_split()
    dealer = Dealer(split, cfg, begin, np.arange(4), stored)
    options = dict(seed=0, num_threads=threads, num_workers=workers, orders=dealer.orders)
    batches = train_batches(split, cfg.data, start=begin, **options)
    taken, noted = [], begin
    try:
        for batch in islice(batches, end - begin):
            taken.append({name: np.array(x) for name, x in batch.items()})
            # As in the loop, a step is noted once the next batch is drawn.
            if len(taken) > 1:
                noted += 1
                dealer.note(noted, *made_up(taken[-2], noted))
        dealer.note(noted + 1, *made_up(taken[-1], noted + 1))
        return taken, dealer.state()
    finally:
        dealer.close()
        batches.close()


@pytest.fixture(scope="module")
def whole():
    return run(config())[0]


def test_epochs_of_groups_come_after_one_at_random(whole):
    split, cfg = small_split(), config()
    plain = train_batches(split, cfg.data, seed=0, start=0, num_threads=0)
    at_random = [{name: np.array(x) for name, x in b.items()} for b in islice(plain, STEPS)]
    plain.close()
    assert_same(whole[:PER_EPOCH], at_random[:PER_EPOCH])
    for first in range(PER_EPOCH, STEPS, PER_EPOCH):
        ours, theirs = (caption_ids(x[first : first + PER_EPOCH]) for x in (whole, at_random))
        assert ours != theirs and sorted(ours) == sorted(theirs)
    pairs = np.concatenate([batch["image_ids"].reshape(2, 2) for batch in whole[PER_EPOCH:]])
    # With nine images, the last of a bucket may have to be of one.
    assert (pairs[:, 0] == pairs[:, 1]).sum() <= 4 < len(pairs) == 48


@pytest.mark.parametrize(("threads", "workers"), [(5, 0), (1, 2)])
def test_threads_and_workers_get_the_same_order(whole, threads, workers):
    assert_same(run(config(), threads=threads, workers=workers)[0], whole)


# Before the first deal, between a deal and its epoch, at an epoch's begin, and within.
@pytest.mark.parametrize("step", [2, 4, 5, 6, 9, 16, 24])
def test_a_run_goes_on_with_the_same_order(whole, step):
    first, stored = run(config(), end=step, threads=2)
    assert stored["speech"].dtype == stored["image"].dtype == np.int8
    last, _ = run(config(), begin=step, stored=stored, threads=step % 2)
    assert_same(first + last, whole)


def test_steps_at_random_first(whole):
    later, stored = run(config(**{"data.grouped_after": 13}), end=20)
    assert stored["orders"].keys() == {"3"}
    at_random, _ = run(config(**{"data.grouped_after": STEPS}), end=18)
    assert_same(later[:18], at_random)
    index = {caption: row for row, caption in enumerate(small_split().index["caption_id"].tolist())}
    for batch, items in zip(later[18:], stored["orders"]["3"]["items"], strict=False):
        assert [index[caption] for caption in batch["caption_ids"].tolist()] == items.tolist()
    assert caption_ids(later[6:18]) != caption_ids(whole[6:18])


def test_rows_are_noted_where_they_lie_on_the_devices():
    split, cfg = small_split(), config()
    order = np.array([2, 3, 0, 1])
    dealers = [Dealer(split, cfg, 0, rows, None) for rows in (np.arange(4), order)]
    rows = pack_rows(np.random.default_rng(0).normal(size=(2, 4, 8)))
    dealers[0].note(1, *rows)
    dealers[1].note(1, *rows[:, order])
    states = [dealer.state() for dealer in dealers]
    assert states[0].keys() == {"speech", "image"} and states[0]["speech"].any(axis=1).sum() == 4
    for name in ("speech", "image"):
        np.testing.assert_array_equal(states[0][name], states[1][name])
    for dealer in dealers:
        dealer.close()
        assert not dealer.orders.folder.exists()


def test_a_checkpoint_of_another_corpus_or_without_its_order_is_refused():
    _, stored = run(config(), end=9)
    with pytest.raises(UserError, match=r"speech embeddings \[27, 8\], and this corpus and model "):
        Dealer(small_split(), config(**{"model.embed_width": 4}), 9, np.arange(4), stored)
    del stored["orders"]
    with pytest.raises(UserError, match="step 9 lacks the order of epoch 1"):
        Dealer(small_split(), config(), 9, np.arange(4), stored)


def test_who_waits_is_let_go(tmp_path):
    folder, told = tmp_path / "orders", []
    folder.mkdir()
    orders = Orders(folder, Schedule(6, 0, 100))
    assert orders.wait(0) is None

    def wait():
        try:
            orders.wait(2)
        except UserError as error:
            told.append(str(error))

    def begin():
        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    waiting = begin()
    shutil.rmtree(folder)
    waiting.join(10)
    folder.mkdir()
    waiting = begin()
    orders.fail("no memory")
    waiting.join(10)
    assert told == [
        "epoch 2 is not dealt: the run has ended",
        "epoch 2 cannot be dealt in groups: no memory",
    ]


def test_an_error_of_the_deal_stops_the_run(monkeypatch, capsys):
    def fails(*args):
        raise MemoryError("too many neighbours")

    monkeypatch.setattr("sir_jax.data.dealer.deal_epoch", fails)
    with pytest.raises(UserError, match="epoch 1 cannot be dealt in groups: .*too many neighbours"):
        run(config())
    with pytest.raises(UserError, match="epoch 1 cannot be dealt in groups: .*too many neighbours"):
        run(config(), end=5)
    assert "epoch 1 cannot be dealt in groups: MemoryError('too many" in capsys.readouterr().out
