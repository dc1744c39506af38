"""The metrics on a small matrix, against a brute-force reference, and against exact chances."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from sir_jax.evaluation import ranking
from sir_jax.evaluation.intervals import (
    mean_recall_interval,
    median_rank_interval,
    recall_interval,
)

# Scores of 8 clips (columns) for 4 images (rows); clips 2j and 2j+1 describe image j.
# Clips 4 and 5 have equal scores, and there are ties in both directions.
SCORES = np.array(
    [
        [9, 5, 2, 1, 3, 3, 8, 0],
        [4, 5, 7, 6, 3, 3, 9, 1],
        [1, 0, 7, 2, 3, 3, 4, 2],
        [2, 6, 3, 6, 1, 1, 9, 0],
    ],
    np.float32,
)
CLIP_IMAGES = np.repeat(np.arange(4), 2)
# The dot products of one-hot clips with the rows of the matrix are the matrix.
SMALL_CASE = (np.eye(8, dtype=np.float32), SCORES, CLIP_IMAGES, np.arange(4))


def brute_force(z_s, z_i, ids_s, ids_i):
    """Rank one query at a time with a sort; wrong items go before right ones of equal score."""
    scores = z_s.astype(np.float64) @ z_i.astype(np.float64).T

    def rank(row, right):
        order = sorted(range(len(row)), key=lambda j: (-row[j], right[j]))
        return next(n for n, j in enumerate(order, 1) if right[j])

    s2i = [rank(row, ids_i == own) for row, own in zip(scores, ids_s, strict=True)]
    i2s = [
        rank(column, ids_s == own)
        for column, own in zip(scores.T, ids_i, strict=True)
        if (ids_s == own).any()
    ]
    return np.array(s2i), np.array(i2s)


def random_case(seed, images, counts, width=16):
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(1000)[:images]
    speech_ids = rng.permutation(np.repeat(image_ids, counts))
    z_i = rng.normal(size=(images, width)).astype(np.float32)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    z_s = z_i[[row_of[image_id] for image_id in speech_ids]]
    z_s = (z_s + 2 * rng.normal(size=z_s.shape)).astype(np.float32)
    return z_s, z_i, speech_ids, image_ids


def test_small_matrix_with_duplicates_and_ties():
    s2i, i2s = ranking.retrieval_ranks(*SMALL_CASE)
    # Clip 1, for example, scores 5 with its image: one image scores 6 and another one 5, too, so
    # its rank is 3. Clip 7 scores 0 behind 1 and 2, and another image scores 0, too: rank 4.
    np.testing.assert_array_equal(s2i, [1, 3, 2, 2, 3, 3, 2, 4])
    # Image 2, for example, scores 3 with its best clips, behind 7 and 4: rank 3.
    np.testing.assert_array_equal(i2s, [1, 2, 3, 1])

    flat = ranking.retrieval_metrics(*SMALL_CASE).flat()
    assert flat["s2i_r1"] == 1 / 8 and flat["s2i_r5"] == flat["s2i_r10"] == 1.0
    assert flat["i2s_r1"] == 2 / 4 and flat["i2s_r5"] == 1.0
    assert flat["s2i_median_rank"] == 2.5 and flat["i2s_median_rank"] == 1.5
    assert flat["mean_r1"] == (1 / 8 + 1 / 2) / 2
    assert flat["mean_r"] == pytest.approx((1 / 8 + 1 / 2 + 4) / 6)
    assert (flat["s2i_queries"], flat["s2i_gallery"]) == (8, 4)
    assert (flat["i2s_queries"], flat["i2s_gallery"]) == (4, 8)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1024])
def test_equals_brute_force_for_every_chunk_size(chunk):
    # Images have 0 to 5 captions; those without a caption are only distractors.
    case = random_case(0, 12, [5, 1, 3, 0, 2, 2, 5, 1, 4, 0, 1, 3])
    s2i, i2s = ranking.retrieval_ranks(*case, chunk=chunk)
    expected_s2i, expected_i2s = brute_force(*case)
    np.testing.assert_array_equal(s2i, expected_s2i)
    np.testing.assert_array_equal(i2s[i2s > 0], expected_i2s)
    assert (i2s == 0).sum() == 2

    metrics = ranking.retrieval_metrics(*case, chunk=chunk)
    assert metrics.captions_per_image == (1, 5)
    assert metrics.s2i.recall == tuple(np.mean(expected_s2i <= k) for k in (1, 5, 10))
    assert metrics.i2s.recall == tuple(np.mean(expected_i2s <= k) for k in (1, 5, 10))
    assert metrics.i2s.median_rank == np.median(expected_i2s)
    assert metrics.i2s.queries == 10 and metrics.s2i.gallery == 12


def test_equal_vectors_tie_in_every_chunk():
    # The right image and 36 copies of it, spread over several tiles: each copy has the same score
    # and so counts as ranked before the right image.
    rng = np.random.default_rng(1)
    vector = rng.normal(size=(1, 256)).astype(np.float32)
    z_i = np.repeat(vector, 37, axis=0)
    z_s = rng.normal(size=(5, 256)).astype(np.float32)
    for chunk in (1, 2, 5, 8, 17, 64):
        s2i, _ = ranking.retrieval_ranks(z_s, z_i, np.arange(5), np.arange(37), chunk=chunk)
        np.testing.assert_array_equal(s2i, 37)


def test_a_collapsed_model_gets_the_worst_rank():
    ones = np.ones((6, 4), np.float32)
    metrics = ranking.retrieval_metrics(ones, ones[:3], np.repeat(np.arange(3), 2), np.arange(3))
    assert metrics.s2i.recall[0] == metrics.i2s.recall[0] == 0
    assert metrics.s2i.median_rank == 3 and metrics.i2s.median_rank == 5


def test_order_of_items_does_not_matter():
    z_s, z_i, ids_s, ids_i = random_case(2, 20, np.full(20, 3))
    rng = np.random.default_rng(3)
    p, q = rng.permutation(len(z_s)), rng.permutation(len(z_i))
    assert ranking.retrieval_metrics(z_s, z_i, ids_s, ids_i) == ranking.retrieval_metrics(
        z_s[p], z_i[q], ids_s[p], ids_i[q]
    )


def test_all_images_of_a_repeated_id_are_right():
    z_i = np.array([[1, 0], [0.9, 0], [0, 1]], np.float32)
    s2i, i2s = ranking.retrieval_ranks(z_i[:1], z_i, np.array([7]), np.array([7, 7, 8]))
    np.testing.assert_array_equal(s2i, [1])
    np.testing.assert_array_equal(i2s, [1, 1, 0])


def test_chance_is_exact():
    for gallery, c, k in [(500, 1, 1), (2000, 4, 10), (7, 3, 5), (7, 3, 6), (4, 2, 10), (9, 9, 1)]:
        shown = min(k, gallery)
        expected = 1 - Fraction(comb(gallery - c, shown), comb(gallery, shown))
        assert ranking.chance_recall(gallery, np.array([c]), k) == float(expected)
    mixed = (1 - comb(19, 5) / comb(20, 5) + 1 - comb(16, 5) / comb(20, 5)) / 2
    assert ranking.chance_recall(20, np.array([1, 4]), 5) == pytest.approx(mixed, abs=1e-15)
    assert ranking.chance_median_rank(500, np.ones(3, int)) == 250
    # With 4 right items of 2000, P(rank <= r) first reaches 1/2 at r = 318.
    below, at = (1 - comb(1996, r) / comb(2000, r) for r in (317, 318))
    assert below < 0.5 <= at and ranking.chance_median_rank(2000, np.array([4])) == 318


def test_random_embeddings_reach_the_chance_level():
    rng = np.random.default_rng(4)
    ids = np.arange(10)
    hits = []
    for _ in range(400):
        z_s, z_i = rng.normal(size=(20, 8)), rng.normal(size=(10, 8))
        metrics = ranking.retrieval_metrics(z_s, z_i, np.repeat(ids, 2), ids)
        hits.append(metrics.s2i.recall + metrics.i2s.recall)
    chance = metrics.s2i.chance + metrics.i2s.chance
    np.testing.assert_allclose(np.mean(hits, axis=0), chance, atol=0.015)


def test_table_prints_percent_gallery_captions_and_chance():
    table = ranking.format_table(ranking.retrieval_metrics(*SMALL_CASE).flat())
    header, speech, image, both, note = table.splitlines()
    assert header.split() == "gallery captions/image R@1 % R@5 % R@10 % median rank".split()
    assert speech.split() == (
        "speech->image 4 images 2 12.5 (25) 100.0 (100) 100.0 (100) 2.5 (2)".split()
    )
    assert image.split()[:6] == ["image->speech", "8", "clips", "2", "50.0", "(25)"]
    assert both.startswith("mean of both") and "31.2 (25)" in both
    assert "mean R 77.1 %" in note and "8 spoken and 4 image queries" in note
    assert note.endswith("in brackets: chance")


def test_table_prints_intervals_beside_recalls_and_ranks():
    metrics = ranking.retrieval_metrics(*SMALL_CASE)
    found = ranking.intervals_of([metrics])
    s2i, _ = ranking.retrieval_ranks(*SMALL_CASE)
    expected = recall_interval(s2i <= 1, CLIP_IMAGES)
    assert (found["s2i_r1_low"], found["s2i_r1_high"]) == expected[1:]
    assert found["mean_r1_low"] < metrics.flat()["mean_r1"] < found["mean_r1_high"]
    ranks = [found[f"i2s_median_rank_{limit}"] for limit in ("low", "high")]
    assert ranks == list(median_rank_interval(np.array([1, 2, 3, 1]), np.arange(4))[1:])

    _, speech, image, both, note = metrics.table().splitlines()
    low, high = (100 * limit for limit in expected[1:])
    assert f"12.5 [{low:.1f}, {high:.1f}] (25)" in speech
    assert f"1.5 [{ranks[0]:g}, {ranks[1]:g}] (" in image
    assert f"31.2 [{100 * found['mean_r1_low']:.1f}, " in both
    assert note.endswith("in [ ]: 95 % interval over pictures; in ( ): chance")


def test_intervals_of_folds_are_those_of_their_mean():
    fold = ranking.retrieval_metrics(*random_case(3, 30, 2))
    other = ranking.retrieval_metrics(*random_case(4, 30, 2))
    found = ranking.intervals_of([fold, other])
    expected = mean_recall_interval([fold.i2s.hits(5), other.i2s.hits(5)])
    assert (found["i2s_r5_low"], found["i2s_r5_high"]) == expected[1:]
    assert expected.value == pytest.approx((fold.i2s.recall[1] + other.i2s.recall[1]) / 2)
    assert not [name for name in found if "median" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_s": np.full((8, 8), np.nan, np.float32)}, "not finite"),
        ({"speech_image_ids": np.arange(8)}, "4 captions describe an image that is not"),
        ({"image_ids": np.arange(3)}, "ids must be one per embedding"),
        ({"z_i": np.zeros((4, 7), np.float32)}, r"\[Ns, E\]"),
        ({"z_s": np.zeros((0, 8)), "speech_image_ids": np.zeros(0, int)}, "nothing to rank"),
    ],
)
def test_inputs_that_cannot_be_ranked_are_refused(change, message):
    names = ("z_s", "z_i", "speech_image_ids", "image_ids")
    case = dict(zip(names, SMALL_CASE, strict=True))
    with pytest.raises(ValueError, match=message):
        ranking.retrieval_metrics(**(case | change))
