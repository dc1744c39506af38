"""Minimal pairs query by query: partners of a corpus, who beats whom, differences by pair."""

import csv
import types

import numpy as np
import pytest

from sir_jax.evaluation.ablate import summarise
from sir_jax.evaluation.differences import (
    draw_gains,
    format_denoising,
    format_gains,
    format_partners,
    measure_gains,
    queries_path,
    read_queries,
    write_gains,
    write_queries,
)
from sir_jax.evaluation.intervals import paired_mean_difference
from sir_jax.evaluation.partners import Partners, partner_hits, partner_metrics, partners_of
from sir_jax.evaluation.ranking import retrieval_metrics, retrieval_ranks
from sir_jax.evaluation.score.lists import Side, coarse_lists
from sir_jax.evaluation.score.scored import Scored
from sir_jax.inference.score import Score

IMAGES = np.array([30, 31, 32, 33])
CLIPS = np.array([30, 31, 32, 33, 33, 30])
PAIRS = Partners(
    {30: 31, 31: 30, 32: 33, 33: 32}, {30: "size", 31: "size", 32: "colour", 33: "colour"}
)


def unit(rng, rows: int):
    x = rng.normal(size=(rows, 3))
    return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


def scored(seed: int = 0, k: int = 0, pooled: bool = False) -> Scored:
    """Return random vectors, and where k is not 0 lists with random log-odds."""
    rng = np.random.default_rng(seed)
    plain, joint = ((unit(rng, 6), unit(rng, 4)) for _ in range(2))
    vectors = joint if pooled else plain
    ranks = retrieval_ranks(*vectors, CLIPS, IMAGES)
    lists = coarse_lists(*vectors, CLIPS, IMAGES, k or 2)
    sides = tuple(map(Side.of, ranks, lists))
    match = tuple(rng.normal(size=side.lists.items.shape) for side in sides) if k else None
    own = (unit(rng, 6), unit(rng, 4)) if pooled else None
    scale = types.SimpleNamespace(temperature=0.5)
    return Scored(plain, own, vectors, (CLIPS, IMAGES), scale, Score(), sides, match)


def slow_hits(score_of) -> dict[str, list[bool]]:
    """Compare own and partner's items one by one; `score_of` is None for who is not listed."""

    def beats(own, other, fallback):
        own, other = ([x for x in side if x is not None] for side in (own, other))
        if not own and not other:
            return fallback
        return max(own, default=-np.inf) > max(other, default=-np.inf)

    clips, images = [], []
    for clip, image in enumerate(CLIPS):
        other = PAIRS.other[image]
        clips.append(beats(*([score_of("s2i", clip, i)] for i in (image, other)), ("s2i", clip)))
    for image in IMAGES:
        of = [
            [score_of("i2s", c, image) for c in np.flatnonzero(CLIPS == i)]
            for i in (image, PAIRS.other[image])
        ]
        images.append(beats(*of, ("i2s", image)))
    return {"s2i": clips, "i2s": images}


def products(vectors):
    z_s, z_i = map(np.float64, vectors)
    rows = {image: row for row, image in enumerate(IMAGES)}
    return lambda side, clip, image: z_s[clip] @ z_i[rows[image]]


def check(hits, slow, fallback=None):
    for side, expected in slow.items():
        for at, value in enumerate(expected):
            if isinstance(value, tuple):
                value = fallback[side][at]
            assert bool(hits[side][0][at]) == value, (side, at)


@pytest.mark.parametrize("seed", range(4))
def test_embeddings_beat_the_partner_as_a_loop_says(seed):
    found = scored(seed)
    hits = partner_hits(found, Score(), PAIRS)
    assert list(hits) == [""]
    check(hits[""], slow_hits(products(found.plain)))
    np.testing.assert_array_equal(hits[""]["s2i"][1], CLIPS)
    np.testing.assert_array_equal(hits[""]["i2s"][1], IMAGES)


def test_a_model_that_pools_is_ranked_by_pooled_and_by_joint_vectors():
    found = scored(5, pooled=True)
    hits = partner_hits(found, Score(), PAIRS)
    assert set(hits) == {"", "reranked_", "fused_"}
    check(hits["reranked_"], slow_hits(products(found.pooled)))
    check(hits["fused_"], slow_hits(products(found.vectors)))


@pytest.mark.parametrize(("seed", "k", "pooled"), [(1, 1, False), (2, 2, True), (3, 3, False)])
def test_lists_count_before_what_is_not_in_them(seed, k, pooled):
    found, score = scored(seed, k, pooled), Score(weight=0.3)
    hits = partner_hits(found, score, PAIRS)
    assert set(hits) == {"", "reranked_", "fused_"} | ({"pooled_"} if pooled else set())
    rows = {image: row for row, image in enumerate(IMAGES)}

    def listed(of_entry):
        def score_of(direction, clip, image):
            number = direction == "i2s"
            side, odds = found.sides[number], found.match[number]
            query, item = (rows[image], clip) if number else (clip, rows[image])
            at = np.flatnonzero(side.lists.items[query] == item)
            if not len(at):
                return None
            entry = float(side.lists.scores[query, at[0]]), odds[query, at[0]]
            return of_entry(*entry)

        return score_of

    fallback = slow_hits(products(found.vectors))
    check(hits["reranked_"], slow_hits(listed(lambda _, odds: odds)), fallback)
    check(hits["fused_"], slow_hits(listed(lambda s, odds: s / 0.5 + 0.3 * odds)), fallback)


def test_rates_are_by_what_is_swapped():
    hits = {"": {"s2i": (np.array([1, 0, 1, 1, 0, 1], bool), CLIPS), "i2s": (np.ones(4), IMAGES)}}
    flat = partner_metrics(hits, PAIRS)
    assert flat["s2i_partner"] == pytest.approx(4 / 6) and flat["i2s_partner"] == 1.0
    assert flat["mean_partner"] == pytest.approx(5 / 6)
    assert flat["mean_partner_size"] == pytest.approx((2 / 3 + 1) / 2)
    assert flat["mean_partner_colour"] == pytest.approx((2 / 3 + 1) / 2)
    assert "mean_partner_relation" not in flat


def test_the_partners_of_a_corpus_are_those_of_its_plan():
    from sir_jax.data.builders.spoken_scenes import SceneConfig, plan_corpus
    from sir_jax.data.builders.spoken_scenes.scenes import SWAPS, swapped

    config = SceneConfig("compositional", 6, 2, 8, 2)
    plan = [image for image in plan_corpus(config) if image.split == "test"]
    ids = np.repeat([image.image_id for image in plan], 2)
    index = np.array([(i,) for i in ids], [("image_id", "i8")])
    split = types.SimpleNamespace(index=index)
    corpus = types.SimpleNamespace(name=f"spoken_scenes/{config.name}", split=lambda _: split)
    partners = partners_of(corpus, "test")
    scenes = {image.image_id: image.scene for image in plan}
    assert partners.other.keys() == scenes.keys()
    for image, scene in scenes.items():
        assert swapped(scene) == scenes[partners.other[image]]
        assert partners.kind[image] == SWAPS[scene.swap]
    for name in ("spoken_scenes/one-i6-d2-t8-c2-v64-p128-s0", "manifest/compositional"):
        assert partners_of(types.SimpleNamespace(name=name), "test") is None


def test_differences_are_paired_by_query_and_drawn_by_pair(tmp_path):
    folders = {name: {s: tmp_path / f"{name}-{s}" for s in (0, 1)} for name in ("plain", "more")}
    z_i = np.eye(4)
    runs = {}
    for name, of in folders.items():
        for seed, folder in of.items():
            folder.mkdir()
            rng = np.random.default_rng([seed, name == "more"])
            z_s = z_i[CLIPS - 30] + (0.2 if name == "more" else 1.5) * rng.normal(size=(6, 4))
            metrics = retrieval_metrics(z_s, z_i, CLIPS, IMAGES)
            hits = {"": {"s2i": (rng.random(6) < 0.5, CLIPS), "i2s": (rng.random(4) < 0.5, IMAGES)}}
            write_queries(queries_path(folder, "test"), metrics.rankings(), hits, PAIRS)
            runs[name, seed] = metrics
    both = read_queries([queries_path(f, "test") for f in folders["more"].values()])
    mean = np.mean([runs["more", seed].s2i.hits(1)[0] for seed in (0, 1)], axis=0)
    np.testing.assert_array_equal(both["s2i_r1"], mean)
    np.testing.assert_array_equal(both["s2i_r1_unit"], [30, 30, 32, 32, 32, 30])
    gains = measure_gains(folders, "test")
    head, line = format_gains(gains).splitlines()
    assert head.split()[:3] == ["ablation", "scored", "seeds"] and "partner more" in head
    sides = []
    for side in ("s2i", "i2s"):
        a, b = (
            np.mean([getattr(runs[name, s], side).hits(1)[0] for s in (0, 1)], axis=0)
            for name in ("more", "plain")
        )
        sides.append((a, b, PAIRS.pair(CLIPS if side == "s2i" else IMAGES)))
    found = paired_mean_difference(sides)
    cells = line.split()
    assert cells[:4] == ["more", "coarse", "2", f"{100 * found.value:+.1f}"]
    assert cells[4:7] == [f"{100 * found.low:+.1f}", "to", f"{100 * found.high:+.1f}"]
    write_gains(gains, tmp_path / "gains.csv")
    with open(tmp_path / "gains.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["ablation"], r["measure"]) for r in rows] == [("more", "r1"), ("more", "partner")]
    assert float(rows[0]["low"]) == found.low and float(rows[0]["p"]) == found.p_value
    (axis,) = draw_gains(gains, "plain").axes
    assert [x.get_text() for x in axis.get_yticklabels()] == ["more, coarse"]
    assert axis.lines[0].get_xdata()[0] == 100 * found.value
    # Of a run without the file nothing is compared.
    for folder in folders["plain"].values():
        queries_path(folder, "test").unlink()
    assert measure_gains(folders, "test") == [] and format_gains([]) == ""


def test_partners_and_gaps_are_laid_out_with_their_spread():
    metrics = {"s2i_partner": 0.6, "i2s_partner": 0.8, "mean_partner": 0.7}
    metrics |= {"mean_partner_size": 0.9, "denoise_image_cosine": 0.75}
    metrics |= {"denoise_image_cosine_shuffled": 0.5, "denoise_image_cosine_noisy": 0.1}
    rows = summarise(
        {"ablation": "a", "seed": str(s), "split": "test", "metric": m, "value": str(x + 0.1 * s)}
        for s in (0, 1)
        for m, x in metrics.items()
    )
    head, line = format_partners(rows).splitlines()
    assert head.split()[-1] == "size" and line.split()[:5] == ["a", "coarse", "65.0", "+-", "7.1"]
    assert line.endswith("95.0 +- 7.1")
    head, line = format_denoising(rows).splitlines()
    assert line.split() == ["a", "image", "0.800", "0.550", "0.250", "0.150"]
    assert format_partners([]) == format_denoising([]) == ""
