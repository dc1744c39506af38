"""Re-ranking: the lists, ranks and tables by hand, the scores against each pair alone."""

import dataclasses
import itertools

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sir_jax.data.audio import load_audio
from sir_jax.data.image import ImageSpec, load_image, preprocess_image
from sir_jax.errors import UserError
from sir_jax.evaluation.embed import embed_split, placement, windows
from sir_jax.evaluation.passes import BUDGET, _compiled, score_pairs, window_passes
from sir_jax.evaluation.ranking import format_table, retrieval_metrics, retrieval_ranks
from sir_jax.evaluation.rerank import (
    Reranked,
    coarse_lists,
    distinct_pairs,
    format_reranked,
    rerank,
    reranked_ranks,
)
from sir_jax.evaluation.tokens import TokenStore
from sir_jax.models import build_model, init_params
from sir_jax.training.sharding import make_mesh, tree_shardings

TOLERANCE = 2e-5


def tied_case(seed=0, images=9, clips=17):
    """Return few-valued vectors, so that scores tie and are negative; ids repeat on both sides."""
    rng = np.random.default_rng(seed)
    z_i = rng.integers(-1, 2, (images, 3)).astype(np.float32)
    z_s = rng.integers(-1, 2, (clips, 3)).astype(np.float32)
    image_ids = rng.integers(0, images - 2, images)
    return z_s, z_i, rng.choice(image_ids, clips), image_ids


def naive_list(scores, right, k):
    """Sort one query's items: the best first, of equal ones the wrong, then the first."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], right[j], j))
    return order[:k]


@pytest.mark.parametrize("chunk", [1, 4, 1024])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_lists_are_the_best_by_coarse_score_wrong_ones_first(k, chunk):
    z_s, z_i, ids_s, ids_i = tied_case()
    scores = z_s.astype(np.float64) @ z_i.astype(np.float64).T
    right = ids_s[:, None] == ids_i[None, :]
    lists = coarse_lists(z_s, z_i, ids_s, ids_i, k, chunk)
    for found, table, same in zip(lists, (scores, scores.T), (right, right.T), strict=True):
        assert found.items.shape == (len(table), min(k, table.shape[1]))
        for row in range(len(table)):
            expected = naive_list(table[row], same[row], k)
            np.testing.assert_array_equal(found.items[row], expected)
            np.testing.assert_array_equal(found.scores[row], table[row, expected])
            np.testing.assert_array_equal(found.right[row], same[row, expected])
    assert lists[0].scores.dtype == np.float32


def test_lists_keep_the_scores_to_the_last_bit_and_the_cap_is_the_coarse_recall():
    rng = np.random.default_rng(1)
    z_s, z_i = (rng.normal(size=(n, 16)).astype(np.float32) for n in (40, 23))
    ids_s = rng.integers(0, 20, 40)
    exact = (z_s.astype(np.float64) @ z_i.astype(np.float64).T).astype(np.float32)
    rank_s, rank_i = retrieval_ranks(z_s, z_i, ids_s, np.arange(23))
    for k in (1, 4, 11):
        s2i, i2s = coarse_lists(z_s, z_i, ids_s, np.arange(23), k, chunk=7)
        np.testing.assert_array_equal(s2i.scores, np.take_along_axis(exact, s2i.items, 1))
        np.testing.assert_array_equal(i2s.scores, np.take_along_axis(exact.T, i2s.items, 1))
        np.testing.assert_array_equal(s2i.right.any(axis=1), rank_s <= k)
        np.testing.assert_array_equal(i2s.right.any(axis=1), (0 < rank_i) & (rank_i <= k))


def test_a_negative_zero_ties_with_zero():
    # -1e-60 is -0 as float32. The right item is the one of +0, so the other goes first.
    z_s, z_i = np.array([[1e-30]]), np.array([[-1e-30], [0.0], [-1.0]])
    lists, _ = coarse_lists(z_s, z_i, np.array([1]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(lists.items, [[0, 1, 2]])
    lists, _ = coarse_lists(z_s, z_i, np.array([0]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(lists.items, [[1, 0, 2]])


def test_ranks_by_hand():
    coarse = np.array([2, 1, 9, 3, 4, 3, 1])
    scores = np.array(
        [
            [0.1, 0.9, 0.5, 0.2],  # right 0.9: first
            [0.1, 0.9, 0.5, 0.2],  # right 0.1: last, from the coarse first
            [9.0, 8.0, 7.0, 6.0],  # none right: stays where it was
            [0.5, 0.5, 0.5, 0.4],  # right 0.5 ties with two wrong ones: behind both
            [-3.0, -1.0, -2.0, -4.0],  # two right, -2 and -4: the better counts, behind -1
            [0.7, 0.7, 0.6, 0.6],  # two right of equal score: not against each other
            [0.5, 0.5, 0.5, 0.5],  # a head that has learnt nothing is last, not first
        ]
    )
    right = np.zeros((7, 4), bool)
    for row, column in ((0, 1), (1, 0), (3, 2), (4, 2), (4, 3), (5, 0), (5, 1), (6, 1)):
        right[row, column] = True
    ranks = reranked_ranks(coarse, scores, right)
    np.testing.assert_array_equal(ranks, [1, 4, 9, 3, 2, 1, 4])
    # The order within a list means nothing.
    np.testing.assert_array_equal(reranked_ranks(coarse, scores[:, ::-1], right[:, ::-1]), ranks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        reranked_ranks(np.ones(1), np.array([[0.0, value]]), np.array([[True, False]]))


def naive_ranks(coarse_ranks, coarse, fine, right, k):
    """Sort one query at a time: its list by the fine score, all others behind it as they were."""
    ranks = []
    for row in range(len(coarse)):
        order = naive_list(coarse[row], right[row], len(coarse[row]))
        head = sorted(order[:k], key=lambda j: (-fine[row, j], right[row, j]))
        ranks.append(next(n for n, j in enumerate(head + order[k:], 1) if right[row, j]))
        if not right[row, order[:k]].any():
            assert ranks[-1] == coarse_ranks[row]
    return np.array(ranks)


@pytest.mark.parametrize("k", [1, 3, 9, 50])
def test_a_list_as_long_as_the_gallery_is_a_ranking_by_the_fine_score(k):
    z_s, z_i, ids_s, ids_i = tied_case(seed=2)
    coarse = z_s.astype(np.float64) @ z_i.astype(np.float64).T
    right = ids_s[:, None] == ids_i[None, :]
    fine = np.random.default_rng(3).integers(-4, 5, coarse.shape).astype(np.float64)
    coarse_ranks, _ = retrieval_ranks(z_s, z_i, ids_s, ids_i)
    lists, _ = coarse_lists(z_s, z_i, ids_s, ids_i, k)
    listed = np.take_along_axis(fine, lists.items, axis=1)
    ranks = reranked_ranks(coarse_ranks, listed, lists.right)
    np.testing.assert_array_equal(ranks, naive_ranks(coarse_ranks, coarse, fine, right, k))
    if k >= 9:
        full = [
            next(n for n, j in enumerate(naive_list(fine[i], right[i], 9), 1) if right[i, j])
            for i in range(len(fine))
        ]
        np.testing.assert_array_equal(ranks, full)


def test_a_pair_of_both_directions_is_there_once():
    # Three clips, four images; image 2 is no query.
    speech_items = np.array([[3, 0], [1, 2], [0, 1]])
    image_items = np.array([[0, 2], [1, 0], [1, 2]])
    pairs, in_s, in_i = distinct_pairs(speech_items, np.array([0, 1, 3]), image_items, 4)
    expected = {(0, 3), (0, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 1), (1, 3), (2, 3)}
    assert len(pairs) == 9 and {tuple(pair) for pair in pairs.tolist()} == expected
    for clip, place in itertools.product(range(3), range(2)):
        assert tuple(pairs[in_s[clip, place]]) == (clip, speech_items[clip, place])
    for query, image in enumerate((0, 1, 3)):
        for place in range(2):
            assert tuple(pairs[in_i[query, place]]) == (image_items[query, place], image)


def test_each_window_of_a_clip_meets_its_images():
    # Clip 1 has entries 0 and 3 of the store, clip 0 entry 2, clip 2 entries 1, 4 and 5; images
    # were written in the order 1, 0.
    pair, window, image = window_passes(
        np.array([1, 2, 0, 1, 2, 2]), np.array([1, 0]), np.array([[2, 0], [0, 1], [1, 1], [2, 1]])
    )
    found = sorted(zip(pair.tolist(), window.tolist(), image.tolist(), strict=True))
    assert found == [
        (0, 1, 1), (0, 4, 1), (0, 5, 1), (1, 2, 0), (2, 0, 0), (2, 3, 0), (3, 1, 0), (3, 4, 0),
        (3, 5, 0),
    ]  # fmt: skip


def matching_model(cfg, dtype="float32"):
    """Return (config, model, parameters); the scores of different pairs lie well apart."""
    cfg = cfg.copy_and_resolve_references()
    cfg.model.fusion.update(layers=2, width=32, heads=2, mlp_width=64)
    cfg.model.dtype = dtype
    model = build_model(cfg.model, ("match",))
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    # Kernels of N(0, 0.02) would give all pairs almost the same scores.
    params = jax.tree.map(lambda x: 8 * x if x.ndim == 2 else x, params)
    # A log-odds then weighs a few times as much as a similarity.
    params["match_head"] = jax.tree.map(lambda x: 0.3 * x, params["match_head"])
    return cfg, model, params


def scores_alone(cfg, model, params, split):
    """Score each pair on its own, windows from the padded encoder output; float64[Ns, Ni]."""

    def apply(method):
        return jax.jit(lambda params, *x: model.apply({"params": params}, *x, method=method))

    encode_speech, encode_image, match = map(apply, ("encode_speech", "encode_image", "match"))
    longest = cfg.data.buckets[-1]
    spec = ImageSpec.from_config(cfg.data)
    pictures = []
    for record in split.records:
        pixels = preprocess_image(load_image(record.image), spec=spec)[None]
        pictures.append(encode_image(params, pixels))
    scores = np.zeros((len(split.index), len(split)))
    for clip, entry in enumerate(split.index):
        cut = windows(load_audio(split[entry["row"]].captions[entry["slot"]].audio), longest)
        for window in cut:
            normal = (window - window.mean()) / np.sqrt(window.var() + 1e-7)
            wave = np.pad(normal, (0, longest - len(normal)))[None].astype(np.float32)
            speech = encode_speech(params, wave, np.array([len(window)]))
            for row, image in enumerate(pictures):
                wrong, right = match(params, speech, image)[0]
                scores[clip, row] += float(right - wrong) / len(cut)
    return scores


@pytest.fixture(scope="module")
def case(tiny, memory_split):
    """Return (config, model, params, split, scores of each pair alone).

    13 clips of two buckets, two of two windows; 7 images: one twice, one without a caption.
    """
    cfg, model, params = matching_model(tiny[0])
    split = memory_split(
        {30: (8, 2, 90), 10: (5,), 21: (), 40: (1, 9, 3, 70), 20: (), 50: (81, 4), 60: (6, 7, 60)}
    )
    split.records[2].image_id = 30
    return cfg, model, params, split, scores_alone(cfg, model, params, split)


class ReadStore(TokenStore):
    """A store that notes the shapes it was read in."""

    def batch(self, indices, length):
        tokens, mask = super().batch(indices, length)
        self.__dict__.setdefault("shapes", []).append(mask.shape)
        return tokens, mask


def fill_stores(case):
    cfg, model, params, split, _ = case
    speech, images = ReadStore(), ReadStore()
    z = embed_split(model, params, split, cfg.data, 4, speech.append, images.append)
    return speech, images, z


@pytest.fixture(scope="module")
def stores(case):
    speech, images, z = fill_stores(case)
    with speech, images:
        yield speech, images, z


def all_pairs(scores):
    return np.stack(np.indices(scores.shape), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("batch_size", "budget", "multiple"),
    [
        (5, BUDGET, 64),  # one chunk of each, padded
        (64, 4000, 7),  # more rows than pairs in a chunk; several chunks of each
        (1, 1, 1),  # one entry in a chunk; no padding at all
        (4, 9000, 16),
    ],
)
def test_scores_are_those_of_each_pair_alone(case, stores, batch_size, budget, multiple):
    _, model, params, _, alone = case
    speech, images, _ = stores
    pairs = all_pairs(alone)
    found, passes = score_pairs(model, params, speech, images, pairs, batch_size, budget, multiple)
    np.testing.assert_allclose(found, alone.ravel(), atol=TOLERANCE)
    # Two clips have two windows.
    assert len(speech) == 15 and passes == 15 * 7
    assert np.ptp(found) > 1000 * TOLERANCE


def test_some_pairs_in_any_order(case, stores):
    _, model, params, _, alone = case
    speech, images, _ = stores
    pairs = np.random.default_rng(4).permutation(all_pairs(alone))[:11]
    found, passes = score_pairs(model, params, speech, images, pairs, 4, budget=4000)
    np.testing.assert_allclose(found, alone[tuple(pairs.T)], atol=TOLERANCE)
    assert passes == np.bincount(speech.owners)[pairs[:, 0]].sum()


def test_a_chunk_is_read_once_for_each_chunk_of_the_other(case, stores):
    _, model, params, _, alone = case
    speech, images, _ = stores
    speech.shapes, images.shapes = [], []
    score_pairs(model, params, speech, images, all_pairs(alone), 2, 4000, 7)
    # A token is 129 bytes. Seven images of 5 tokens: three fit in a half. 2065 bytes are left for
    # windows: two of the nine of up to 7 tokens, less than one of the six of up to 21.
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
    for batch_size, budget in ((3, BUDGET), (16, 4000)):  # 3 pairs become 8, one a device
        found, passes = score_pairs(
            model, spread, speech, images, all_pairs(alone), batch_size, budget
        )
        np.testing.assert_allclose(found, alone.ravel(), atol=TOLERANCE)
        assert passes == 15 * 7
    # 16 pairs: two a device, none of them as a whole anywhere.
    split_to, whole, _ = placement(spread)
    chunks = [
        tuple(jax.device_put(part, whole) for part in store.batch(range(7), length))
        for store, length in ((speech, 24), (images, 5))
    ]
    rows = jax.device_put(np.zeros((2, 16), np.int32), NamedSharding(mesh, P(None, *split_to.spec)))
    program = _compiled(model, split_to, whole).lower(spread, *chunks, *rows).compile().as_text()
    assert "f32[2,24,32]" in program and "f32[16,24,32]" not in program
    here = rerank(model, params, split, cfg.data, 4, 3)
    there = rerank(model, spread, split, cfg.data, 4, 3)
    assert dataclasses.replace(here, seconds=1.0) == dataclasses.replace(there, seconds=1.0)


@pytest.mark.parametrize("k", [1, 2, 4, 40])
def test_a_split_is_ranked_as_a_naive_loop_ranks_it(case, stores, k):
    cfg, model, params, split, alone = case
    z = stores[2]
    vectors = (z.speech, z.image, z.speech_image_ids, z.image_ids)
    out = rerank(model, params, split, cfg.data, 4, k, pair_batch=5, budget=9000)
    assert out.coarse == retrieval_metrics(*vectors)
    assert (out.k_s2i, out.k_i2s) == (min(k, 7), min(k, 13))

    coarse = (z.speech.astype(np.float64) @ z.image.astype(np.float64).T).astype(np.float32)
    right = z.speech_image_ids[:, None] == z.image_ids[None, :]
    asked = right.any(axis=0)
    assert asked.sum() == 6
    ranks_s, ranks_i = retrieval_ranks(*vectors)
    sides = (
        (ranks_s, coarse, alone, right, "s2i"),
        (ranks_i[asked], coarse.T[asked], alone.T[asked], right.T[asked], "i2s"),
    )
    # So the cases below can tell the three rankings apart.
    assert k < 4 or len({out.coarse, out.reranked, out.summed}) == 3
    pairs = set()
    for ranks, rough, fine, same, side in sides:
        for metrics, scores in ((out.reranked, fine), (out.summed, fine + rough)):
            expected = naive_ranks(ranks, rough, scores, same, k)
            found = getattr(metrics, side)
            assert found.recall == tuple(np.mean(expected <= n) for n in (1, 5, 10))
            assert found.median_rank == np.median(expected)
            assert found.chance == getattr(out.coarse, side).chance
            assert found.queries == len(expected)
        assert getattr(out, f"cap_{side}") == np.mean(ranks <= k)
        rows = np.arange(13) if side == "s2i" else np.flatnonzero(asked)
        for row, query in enumerate(rows):
            for item in naive_list(rough[row], same[row], k):
                pairs.add((query, item) if side == "s2i" else (item, query))
    assert out.pairs == len(pairs)
    assert out.passes == sum(np.bincount(stores[0].owners)[clip] for clip, _ in pairs)
    assert out.passes_per_s == out.passes / out.seconds > 0


def test_bfloat16_is_kept_as_it_is(tiny, memory_split):
    cfg, model, params = matching_model(tiny[0], "bfloat16")
    split = memory_split({30: (8, 90), 10: (5,), 20: ()})
    alone = scores_alone(cfg, model, params, split)
    speech, images, _ = fill_stores((cfg, model, params, split, alone))
    with speech, images:
        for store in (speech, images):
            assert store.batch([0], int(store.lengths[0]))[0].dtype == ml_dtypes.bfloat16
        found, _ = score_pairs(model, params, speech, images, all_pairs(alone), 4)
    np.testing.assert_allclose(found, alone.ravel(), atol=0.05 * np.ptp(alone))


def test_a_model_without_the_matching_head_is_refused(tiny, memory_split):
    cfg, model, params = tiny
    with pytest.raises(UserError, match=r"loss\.sim\.weight"):
        rerank(model, params, memory_split({30: (8,)}), cfg.data, 4, 2)


def test_an_empty_list_is_refused(case):
    cfg, model, params, split, _ = case
    with pytest.raises(ValueError, match="k is 0"):
        rerank(model, params, split, cfg.data, 4, 0)


def made_up():
    z_s, z_i, ids_s, ids_i = tied_case(seed=5)
    coarse = retrieval_metrics(z_s, z_i, ids_s, ids_i)
    side = dataclasses.replace(coarse.s2i, recall=(0.25, 0.5, 1.0), median_rank=7.5)
    other = dataclasses.replace(coarse.i2s, recall=(0.125, 0.375, 0.75), median_rank=3.0)
    return Reranked(
        coarse=coarse,
        reranked=dataclasses.replace(coarse, s2i=side),
        summed=dataclasses.replace(coarse, i2s=other),
        k_s2i=4, k_i2s=6, cap_s2i=0.625, cap_i2s=0.875, pairs=80, passes=90, seconds=4.0,
    )  # fmt: skip


def test_flat_names():
    out = made_up()
    flat = out.flat()
    assert format_table(flat) == out.coarse.table()
    for prefix, metrics in (("", out.coarse), ("reranked_", out.reranked), ("summed_", out.summed)):
        for name, value in metrics.flat().items():
            assert flat.pop(prefix + name) == value
    assert flat == {
        "rerank_k_s2i": 4, "rerank_k_i2s": 6, "rerank_cap_s2i": 0.625, "rerank_cap_i2s": 0.875,
        "rerank_pairs": 80, "rerank_passes": 90, "rerank_seconds": 4.0,
        "rerank_passes_per_s": 22.5,
    }  # fmt: skip


def test_table_has_the_three_rankings_below_each_other():
    out = made_up()
    flat = out.flat()
    assert out.table() == format_reranked(flat)
    head, *rows, means, cost = out.table().splitlines()
    assert head.split() == ("gallery captions/image R@1 % R@5 % R@10 % cap % median rank".split())
    assert len(rows) == 9 and len({len(row) for row in [head, *rows[:6]]}) == 1
    chance = [f"({100 * flat[f's2i_chance_r{k}']:.3g})" for k in (1, 5, 10)]
    middle = f"({flat['s2i_chance_median_rank']})"
    start = ["speech->image", "re-ranked", "9", "images"]
    assert rows[1].split()[:4] == start
    assert rows[1].split()[5:] == [
        "25.0", chance[0], "50.0", chance[1], "100.0", chance[2], "62.5", "7.5", middle
    ]  # fmt: skip
    assert [row.split()[1] for row in rows[:6]] == ["coarse", "re-ranked", "summed"] * 2
    assert "62.5" not in rows[0] and rows[5].split()[-3] == "87.5"
    assert rows[7].split()[:7] == ["mean", "of", "both", "re-ranked", "9", "/", "17"]
    mean = (25 + 100 * flat["i2s_r1"]) / 2
    assert rows[7].split()[8:10] == [f"{mean:.1f}", f"({100 * flat['mean_chance_r1']:.3g})"]
    assert f"re-ranked {100 * flat['reranked_mean_r']:.1f} %" in means
    assert cost == (
        "k: 4 images for a clip, 6 clips for an image; cap: coarse R@k; 90 fusion passes, "
        "22.5 passes/s"
    )
