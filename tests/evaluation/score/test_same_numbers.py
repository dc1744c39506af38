"""The same numbers by evaluation, by `Index.search` and by the page, to the last digit."""

import dataclasses
import io

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_models import random_params

from sir_jax.evaluation.ranking import metrics_of_ranks
from sir_jax.evaluation.rerank import format_reranked, rerank
from sir_jax.evaluation.score.calibration import read_reliability
from sir_jax.evaluation.score.fit import fit_score
from sir_jax.index.index import Index
from sir_jax.index.query import probabilities
from sir_jax.inference.retriever import Retriever
from sir_jax.models import build_model
from sir_jax.objective.switches import MATCH_TASKS
from sir_jax.page.engine import Engine

K = 32  # of the page; longer than the galleries here


def random_matcher(cfg, kind: str):
    """Return (config, model, parameters) whose scores of different pairs lie well apart."""
    cfg = cfg.copy_and_resolve_references()
    cfg.model.match.update(kind=kind, queries=2, hidden=16, width=8)
    model = build_model(cfg.model, MATCH_TASKS[kind])
    params = jax.tree.map(lambda x: 2 * x if x.ndim == 2 else x, random_params(model, 7))
    if "match_head" in params:
        params["match_head"] = jax.tree.map(lambda x: 0.3 * x, params["match_head"])
    return cfg, model, params


def ranks_of(orders, right) -> np.ndarray:
    """Return the rank of each query's best right item; 0 for an item that is no query."""
    ranks = np.zeros(len(right), int)
    for n, wanted in enumerate(right):
        if wanted:
            ranks[n] = 1 + min(map(orders(n).index, wanted))
    return ranks


def write_items(split, folder) -> tuple[list[str], list[str]]:
    """Write a split's pictures and clips as files; return their names in its order."""
    pictures = [f"{row}.png" for row in range(len(split))]
    for name, record in zip(pictures, split.records, strict=True):
        (folder / name).write_bytes(record.image)
    clips = [f"{entry['caption_id']}.flac" for entry in split.index]
    for name, entry in zip(clips, split.index, strict=True):
        (folder / name).write_bytes(split[entry["row"]].captions[entry["slot"]].audio)
    return pictures, clips


def score_with_weights(score):
    """Return a fitted score with a weight and a calibration, which chance would not give it."""
    assert score.fitted["images"] == 8 and score.calibration is None or score.calibration[0] > 0
    return dataclasses.replace(score, weight=0.5, pooled_weight=2.0, calibration=(0.3, 0.2, -1.0))


def check_told(shown: dict[str, list[float]], reliability) -> None:
    """See that evaluation's probabilities of first results are those that people are shown."""
    bins = read_reliability(reliability)
    assert sum(one.count for one in bins) == len(shown)
    first = [said[0] for said in shown.values()]
    told = sum(one.count * one.said for one in bins) / len(shown)
    assert told == pytest.approx(np.mean(first), abs=1e-12)
    assert 0 < min(map(min, shown.values())) < max(first) < 1


@pytest.mark.parametrize("kind", ["fusion", "pooled", "both", "late"])
def test_evaluation_search_and_page_rank_alike(tiny, memory_split, tmp_path, kind):
    cfg, model, params = random_matcher(tiny[0], kind)
    fusion, pooled = kind != "pooled", kind in ("pooled", "both")
    val = memory_split({n: (2 * n, 2 * n + 1) for n in range(1, 9)})
    # Clips of one bucket in batches of one, so that few programs are compiled.
    split = memory_split({30: (8, 2), 10: (5,), 20: (), 40: (1, 9, 3), 50: (11, 4), 60: (6, 7, 10)})
    score = score_with_weights(fit_score(model, params, val, cfg.data, 1, K))
    out = rerank(model, params, split, cfg.data, 1, K, score=score)
    assert out.fused not in (out.coarse, out.alone)

    ids_s, ids_i = split.index["image_id"], np.array([r.image_id for r in split.records])
    pictures, clips = write_items(split, tmp_path)
    same = ids_s[:, None] == ids_i[None, :]
    wanted_s = [[pictures[n] for n in np.flatnonzero(row)] for row in same]
    wanted_i = [[clips[n] for n in np.flatnonzero(row)] for row in same.T]

    retriever = Retriever(cfg, params, batch_size=1, score=score)
    assert retriever.width == 32 + 8 * pooled
    index = Index.build(retriever, tmp_path)
    index.save(tmp_path / "index")
    index = Index.load(tmp_path / "index", retriever)
    engine, rerank_k = Engine(retriever, index), K * fusion
    found = {}

    def searched(name: str, of: str) -> list[str]:
        found[name] = index.search(tmp_path / name, K, rerank=rerank_k, of=of)
        return [hit.id for hit in found[name]]

    def paged(kind: str, query) -> list[str]:
        return [hit["id"] for hit in engine.search(kind, query, K, fusion)["results"]]

    def clip(n: int):
        return soundfile.read(tmp_path / clips[n], dtype="float32")[0]

    def picture(n: int):
        return np.array(Image.open(io.BytesIO(split.records[n].image)).convert("RGB"))

    for by_speech, by_picture in (
        (lambda n: searched(clips[n], "image"), lambda n: searched(pictures[n], "speech")),
        (lambda n: paged("speech", clip(n)), lambda n: paged("picture", picture(n))),
    ):
        ranks = ranks_of(by_speech, wanted_s), ranks_of(by_picture, wanted_i)
        by_people = metrics_of_ranks(*ranks, ids_s, ids_i)
        assert by_people == out.fused and by_people.flat() == out.fused.flat()
        np.testing.assert_array_equal(by_people.s2i.ranks, out.fused.s2i.ranks)
        np.testing.assert_array_equal(by_people.i2s.ranks, out.fused.i2s.ranks)

    # Probabilities fall with the rank.
    shown = {name: probabilities(retriever, hits) for name, hits in found.items()}
    for name, hits in found.items():
        assert shown[name] == sorted(shown[name], reverse=True)
        assert all((hit.match is not None) == fusion for hit in hits)
    check_told(shown, out.reliability)
    page = engine.search("speech", clip(0), K, fusion)["results"]
    assert [hit["probability"] for hit in page] == pytest.approx(shown[clips[0]], abs=1e-6)
    text = format_reranked(out.flat())
    assert ("weight of the match 0.5" in text) == fusion and ("pooled match 2" in text) == pooled


def test_a_model_without_calibration_shows_no_probability(tiny, memory_split, tmp_path):
    cfg, _, params = random_matcher(tiny[0], "pooled")
    split = memory_split({30: (8, 2), 10: (5,)})
    for row, record in enumerate(split.records):
        (tmp_path / f"{row}.png").write_bytes(record.image)
    retriever = Retriever(cfg, params, batch_size=1)
    index = Index.build(retriever, tmp_path)
    wave = np.random.default_rng(0).normal(size=1_000).astype(np.float32)
    assert probabilities(retriever, index.search((wave, 16_000))) == [None, None]
    page = Engine(retriever, index).search("speech", wave, 2, False)
    assert [hit["probability"] for hit in page["results"]] == [None, None]
