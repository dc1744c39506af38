"""Re-ranking: lists, ranks and tables, compared with naive loops."""

import dataclasses
import itertools

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.evaluation.ranking import (
    format_table,
    intervals_of,
    retrieval_metrics,
    retrieval_ranks,
)
from sir_jax.evaluation.rerank import Reranked, format_reranked, rerank
from sir_jax.evaluation.score.lists import coarse_lists, distinct_pairs, reranked_ranks
from sir_jax.inference.score import Score


def tied_case(seed=0, images=9, clips=17):
    """Return vectors of small integers, with tied and negative scores; ids repeat on both sides."""
    rng = np.random.default_rng(seed)
    z_i = rng.integers(-1, 2, (images, 3)).astype(np.float32)
    z_s = rng.integers(-1, 2, (clips, 3)).astype(np.float32)
    image_ids = rng.integers(0, images - 2, images)
    return z_s, z_i, rng.choice(image_ids, clips), image_ids


def naive_list(scores, right, k):
    """Return the list of one query: best first, among equals wrong items first, then by number."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], right[j], j))
    return order[:k]


@pytest.mark.parametrize("chunk", [1, 4, 1024])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_lists_hold_the_best_items_with_wrong_ones_first_among_equals(k, chunk):
    z_s, z_i, ids_s, ids_i = tied_case()
    scores = z_s.astype(np.float64) @ z_i.astype(np.float64).T
    right = ids_s[:, None] == ids_i[None, :]
    lists = coarse_lists(z_s, z_i, ids_s, ids_i, k, chunk)
    for side, table, same in zip(lists, (scores, scores.T), (right, right.T), strict=True):
        assert side.items.shape == (len(table), min(k, table.shape[1]))
        for row in range(len(table)):
            expected = naive_list(table[row], same[row], k)
            np.testing.assert_array_equal(side.items[row], expected)
            np.testing.assert_array_equal(side.scores[row], table[row, expected])
            np.testing.assert_array_equal(side.right[row], same[row, expected])
    assert lists[0].scores.dtype == np.float32


def test_lists_keep_exact_scores_and_their_cap_is_the_coarse_recall():
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
    # The score of item 0, -1e-60, becomes -0.0 as float32. Item 1, which scores +0.0, is right, so
    # the wrong item 0 comes first.
    z_s, z_i = np.array([[1e-30]]), np.array([[-1e-30], [0.0], [-1.0]])
    lists, _ = coarse_lists(z_s, z_i, np.array([1]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(lists.items, [[0, 1, 2]])
    lists, _ = coarse_lists(z_s, z_i, np.array([0]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(lists.items, [[1, 0, 2]])


def test_ranks_of_small_lists():
    coarse = np.array([2, 1, 9, 3, 4, 3, 1])
    scores = np.array(
        [
            [0.1, 0.9, 0.5, 0.2],  # the right item, 0.9, is first
            [0.1, 0.9, 0.5, 0.2],  # the right item, 0.1, is last, though first by coarse score
            [9.0, 8.0, 7.0, 6.0],  # no right item: the coarse rank stays
            [0.5, 0.5, 0.5, 0.4],  # the right item ties with two wrong ones and is behind both
            [-3.0, -1.0, -2.0, -4.0],  # of two right items, -2 and -4, the better one counts
            [0.7, 0.7, 0.6, 0.6],  # two right items of equal score do not count for each other
            [0.5, 0.5, 0.5, 0.5],  # with all scores equal, the right item is last
        ]
    )
    right = np.zeros((7, 4), bool)
    for row, column in ((0, 1), (1, 0), (3, 2), (4, 2), (4, 3), (5, 0), (5, 1), (6, 1)):
        right[row, column] = True
    ranks = reranked_ranks(coarse, scores, right)
    np.testing.assert_array_equal(ranks, [1, 4, 9, 3, 2, 1, 4])
    # The order of the items in a list does not matter.
    np.testing.assert_array_equal(reranked_ranks(coarse, scores[:, ::-1], right[:, ::-1]), ranks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        reranked_ranks(np.ones(1), np.array([[0.0, value]]), np.array([[True, False]]))


def naive_ranks(coarse_ranks, coarse, fine, right, k):
    """Rank one query at a time: its list by fine score, then the other items in coarse order."""
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


def test_a_pair_in_the_lists_of_both_directions_is_collected_once():
    # Three clips, four images; image 2 is not a query.
    speech_items = np.array([[3, 0], [1, 2], [0, 1]])
    image_items = np.array([[0, 2], [1, 0], [1, 2]])
    pairs, in_s, in_i = distinct_pairs(speech_items, np.array([0, 1, 3]), image_items, 4)
    expected = {(0, 3), (0, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 1), (1, 3), (2, 3)}
    assert len(pairs) == 9 and {tuple(pair) for pair in pairs.tolist()} == expected
    for clip, column in itertools.product(range(3), range(2)):
        assert tuple(pairs[in_s[clip, column]]) == (clip, speech_items[clip, column])
    for query, image in enumerate((0, 1, 3)):
        for column in range(2):
            assert tuple(pairs[in_i[query, column]]) == (image_items[query, column], image)


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
    # So the cases below can tell the rankings apart.
    assert k < 4 or len({out.coarse, out.alone, out.fused}) == 3
    pairs = set()
    for ranks, rough, fine, same, side in sides:
        for metrics, scores in (
            (out.alone, fine),
            (out.fused, fine + rough / float(params["temperature"])),
        ):
            expected = naive_ranks(ranks, rough, scores, same, k)
            side_metrics = getattr(metrics, side)
            assert side_metrics.recall == tuple(np.mean(expected <= n) for n in (1, 5, 10))
            assert side_metrics.median_rank == np.median(expected)
            assert side_metrics.chance == getattr(out.coarse, side).chance
            assert side_metrics.queries == len(expected)
        assert getattr(out, f"cap_{side}") == np.mean(ranks <= k)
        rows = np.arange(13) if side == "s2i" else np.flatnonzero(asked)
        for row, query in enumerate(rows):
            for item in naive_list(rough[row], same[row], k):
                pairs.add((query, item) if side == "s2i" else (item, query))
    assert out.pairs == len(pairs)
    assert out.passes == sum(np.bincount(stores[0].owners)[clip] for clip, _ in pairs)
    assert out.passes_per_s == out.passes / out.seconds > 0


def test_a_model_without_the_matching_head_is_refused(tiny, memory_split):
    cfg, model, params = tiny
    with pytest.raises(UserError, match=r"loss\.sim\.weight"):
        rerank(model, params, memory_split({30: (8,)}), cfg.data, 4, 2)


def test_a_k_of_zero_is_refused(case):
    cfg, model, params, split, _ = case
    with pytest.raises(ValueError, match="k is 0"):
        rerank(model, params, split, cfg.data, 4, 0)


def example_result():
    z_s, z_i, ids_s, ids_i = tied_case(seed=5)
    coarse = retrieval_metrics(z_s, z_i, ids_s, ids_i)
    side = dataclasses.replace(coarse.s2i, recall=(0.25, 0.5, 1.0), median_rank=7.5)
    other = dataclasses.replace(coarse.i2s, recall=(0.125, 0.375, 0.75), median_rank=3.0)
    return Reranked(
        coarse=coarse,
        alone=dataclasses.replace(coarse, s2i=side),
        fused=dataclasses.replace(coarse, s2i=side, i2s=other),
        k_s2i=4,
        k_i2s=6,
        cap_s2i=0.625,
        cap_i2s=0.875,
        pairs=80,
        passes=90,
        seconds=4.0,
        score=Score(0.5, 1.0, (1.0, 0.5, 0.0), {"split": "val"}),
        curve={4: 0.25, 8: 0.5},
        reliability={"calibration_error": 0.0125, "calibration_error_first": 0.034},
    )


def test_flat_names():
    out = example_result()
    flat = out.flat()
    assert format_table(flat) == format_table(out.coarse.flat())
    for prefix, metrics in (
        ("", out.coarse),
        ("reranked_", out.alone),
        ("fused_", out.fused),
    ):
        for name, value in metrics.flat().items():
            assert flat.pop(prefix + name) == value
    assert flat == {
        "rerank_k_s2i": 4,
        "rerank_k_i2s": 6,
        "rerank_cap_s2i": 0.625,
        "rerank_cap_i2s": 0.875,
        "rerank_pairs": 80,
        "rerank_passes": 90,
        "rerank_seconds": 4.0,
        "rerank_passes_per_s": 22.5,
        "weight": 0.5,
        "pooled_weight": 1.0,
        "weights_fitted": 1.0,
        "fused_at_4_mean_r1": 0.25,
        "fused_at_8_mean_r1": 0.5,
        "calibration_error": 0.0125,
        "calibration_error_first": 0.034,
    }


def test_table_has_the_rankings_below_each_other():
    out = example_result()
    flat = out.flat()
    head, *rows, means, cost, weight, curve, reliable = format_reranked(flat).splitlines()
    assert head.split() == ("gallery captions/image R@1 % R@5 % R@10 % cap % median rank".split())
    assert len(rows) == 9 and len({len(row) for row in [head, *rows[:6]]}) == 1
    chance = [f"({100 * flat[f's2i_chance_r{k}']:.3g})" for k in (1, 5, 10)]
    middle = f"({flat['s2i_chance_median_rank']})"
    assert rows[1].split() == [
        *("speech->image", "match", "alone", "9", "images", rows[1].split()[5]),
        *("25.0", chance[0], "50.0", chance[1], "100.0", chance[2], "62.5", "7.5", middle),
    ]
    assert [row.split()[1] for row in rows[:6]] == ["coarse", "match", "fused"] * 2
    assert "62.5" not in rows[0] and rows[5].split()[-3] == "87.5"
    assert rows[7].split()[:8] == ["mean", "of", "both", "match", "alone", "9", "/", "17"]
    mean = (25 + 100 * flat["i2s_r1"]) / 2
    assert rows[7].split()[9:11] == [f"{mean:.1f}", f"({100 * flat['mean_chance_r1']:.3g})"]
    assert f"match alone {100 * flat['reranked_mean_r']:.1f} %" in means
    assert cost == (
        "k: 4 images for a clip, 6 clips for an image; cap: R@k of what the lists are cut from; "
        "90 fusion passes, 22.5 passes/s"
    )
    assert weight == "weight of the match 0.5 (fitted on the validation split)"
    assert curve == "fused, mean R@1 % by k: 4: 25.0, 8: 50.0"
    assert reliable.endswith(
        "calibration error 1.2% over all results of the lists, 3.4% over the first ones"
    )
    found = intervals_of([out])
    assert out.table() == format_reranked(flat | found)
    low, high = (100 * found[f"reranked_s2i_r1_{limit}"] for limit in ("low", "high"))
    assert f"  25.0 [{low:.1f}, {high:.1f}] {chance[0]}" in out.table().splitlines()[2]


def test_table_of_a_file_from_before_the_weight():
    """A file from before the fused ranking gives a table without it, and without its sum."""
    flat = {name: x for name, x in example_result().flat().items() if "weight" not in name}
    old = {
        name: value
        for name, value in flat.items()
        if not name.startswith(("fused_", "calibration")) and name != "pooled_weight"
    }
    old |= {
        name.replace("reranked_", "summed_"): x for name, x in old.items() if "reranked" in name
    }
    text = format_reranked(old)
    assert "fused" not in text and "summed" not in text and "match alone" in text
    assert len(text.splitlines()) == 9
