"""Scores of many pairs equal the score of each pair computed alone."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from rerank_helpers import TOLERANCE, all_pairs, fill_stores, matching_model, scores_alone

from sir_jax.evaluation.rerank import rerank
from sir_jax.inference.embed import placement
from sir_jax.inference.matching import BUDGET, expand_to_windows, jit_score, score_pairs
from sir_jax.inference.token_store import TokenStore
from sir_jax.runtime.sharding import make_mesh, tree_shardings


def test_each_window_of_a_clip_is_paired_with_the_clips_images():
    # In the speech store clip 0 owns entry 2, clip 1 entries 0 and 3, clip 2 entries 1, 4 and 5. In
    # the image store image 1 comes before image 0.
    pair, window, image = expand_to_windows(
        np.array([1, 2, 0, 1, 2, 2]), np.array([1, 0]), np.array([[2, 0], [0, 1], [1, 1], [2, 1]])
    )
    passes = sorted(zip(pair.tolist(), window.tolist(), image.tolist(), strict=True))
    assert passes == [
        (0, 1, 1),
        (0, 4, 1),
        (0, 5, 1),
        (1, 2, 0),
        (2, 0, 0),
        (2, 3, 0),
        (3, 1, 0),
        (3, 4, 0),
        (3, 5, 0),
    ]


@pytest.mark.parametrize(
    ("batch_size", "budget", "multiple"),
    [
        (5, BUDGET, 64),  # one padded chunk per store
        (64, 4000, 7),  # several chunks per store, each with fewer pairs than a batch has rows
        (1, 1, 1),  # one entry per chunk, no padding
        (4, 9000, 16),
    ],
)
def test_scores_are_those_of_each_pair_alone(case, stores, batch_size, budget, multiple):
    _, model, params, _, alone = case
    speech, images, _ = stores
    pairs = all_pairs(alone)
    scores, passes = score_pairs(model, params, speech, images, pairs, batch_size, budget, multiple)
    np.testing.assert_allclose(scores, alone.ravel(), atol=TOLERANCE)
    # 13 clips, two of which are cut into two windows.
    assert len(speech) == 15 and passes == 15 * 7
    assert np.ptp(scores) > 1000 * TOLERANCE


def test_some_pairs_in_any_order(case, stores):
    _, model, params, _, alone = case
    speech, images, _ = stores
    pairs = np.random.default_rng(4).permutation(all_pairs(alone))[:11]
    scores, passes = score_pairs(model, params, speech, images, pairs, 4, budget=4000)
    np.testing.assert_allclose(scores, alone[tuple(pairs.T)], atol=TOLERANCE)
    assert passes == np.bincount(speech.owners)[pairs[:, 0]].sum()


def test_chunks_are_read_as_rarely_as_possible(case, stores):
    _, model, params, _, alone = case
    speech, images, _ = stores
    speech.shapes, images.shapes = [], []
    score_pairs(model, params, speech, images, all_pairs(alone), 2, 4000, 7)
    # A token takes 129 bytes. Of the seven images of 5 tokens, three fit into half of the budget.
    # The remaining 2065 bytes hold two of the nine windows of up to 7 tokens, or less than one of
    # the six windows of up to 21 tokens, which then get a chunk each.
    assert images.shapes == [(3, 5)] * 3 * (5 + 6)
    assert speech.shapes == [(2, 7)] * 5 + [(1, 21)] * 6


def test_a_long_clip_scores_the_mean_of_its_windows(case, stores):
    _, model, params, _, alone = case
    speech, images, _ = stores
    (clip, _) = np.flatnonzero(np.bincount(speech.owners) == 2)
    entries = np.flatnonzero(speech.owners == clip)
    with TokenStore() as apart:
        for number, entry in enumerate(entries):
            tokens, mask = speech.batch([entry], int(speech.lengths[entry]))
            apart.append(number, tokens[0, mask[0]])
        each, _ = score_pairs(model, params, apart, images, all_pairs(alone[:2]), 4)
    each = each.reshape(2, -1)
    np.testing.assert_allclose(each.mean(axis=0), alone[clip], atol=TOLERANCE)
    assert np.abs(each[0] - each[1]).max() > 10 * TOLERANCE


def test_the_same_scores_and_ranks_on_a_mesh(case, stores):
    cfg, model, params, split, alone = case
    speech, images, _ = stores
    mesh = make_mesh(ConfigDict(dict(data=2, fsdp=4, tensor=1)))
    spread = jax.device_put(params, tree_shardings(params, mesh))
    for batch_size, budget in ((3, BUDGET), (16, 4000)):  # 3 pairs are padded to 8, one per device
        scores, passes = score_pairs(
            model, spread, speech, images, all_pairs(alone), batch_size, budget
        )
        np.testing.assert_allclose(scores, alone.ravel(), atol=TOLERANCE)
        assert passes == 15 * 7
    # 16 pairs are two per device: the compiled program must hold no array of all 16.
    split_to, whole, _ = placement(spread)
    chunks = [
        tuple(jax.device_put(part, whole) for part in store.batch(range(7), length))
        for store, length in ((speech, 24), (images, 5))
    ]
    rows = jax.device_put(np.zeros((2, 16), np.int32), NamedSharding(mesh, P(None, *split_to.spec)))
    program = jit_score(model, split_to, whole).lower(spread, *chunks, *rows).compile().as_text()
    assert "f32[2,24,32]" in program and "f32[16,24,32]" not in program
    here = rerank(model, params, split, cfg.data, 4, 3)
    there = rerank(model, spread, split, cfg.data, 4, 3)
    assert dataclasses.replace(here, seconds=1.0) == dataclasses.replace(there, seconds=1.0)


def test_bfloat16_tokens_are_stored_unconverted(tiny, memory_split):
    cfg, model, params = matching_model(tiny[0], "bfloat16")
    split = memory_split({30: (8, 90), 10: (5,), 20: ()})
    alone = scores_alone(cfg, model, params, split)
    speech, images, _ = fill_stores((cfg, model, params, split, alone))
    with speech, images:
        for store in (speech, images):
            assert store.batch([0], int(store.lengths[0]))[0].dtype == ml_dtypes.bfloat16
        scores, _ = score_pairs(model, params, speech, images, all_pairs(alone), 4)
    np.testing.assert_allclose(scores, alone.ravel(), atol=0.05 * np.ptp(alone))


@pytest.mark.parametrize("head", ["cls", "qformer"])
def test_the_image_reads_the_speech_where_the_config_says_so(head, tiny, memory_split):
    base = tiny[0].copy_and_resolve_references()
    base.model.fusion.query = "image"
    base.model.image_head = head
    base.model.qformer.update(queries=3, width=32, layers=2, heads=2, mlp_width=48, projection=32)
    cfg, model, params = matching_model(base)
    split = memory_split({30: (8, 90), 10: (5,), 20: ()})
    alone = scores_alone(cfg, model, params, split)
    speech, images, _ = fill_stores((cfg, model, params, split, alone))
    with speech, images:
        scores, _ = score_pairs(model, params, speech, images, all_pairs(alone), 4)
    np.testing.assert_allclose(scores, alone.ravel(), atol=TOLERANCE)
    assert np.ptp(scores) > 1000 * TOLERANCE
