"""Fit a model's score on the validation split: the weights, and what scores mean to people."""

import dataclasses
from pathlib import Path

import numpy as np

from sir_jax.data.corpus import Corpus
from sir_jax.evaluation.folds import folds_of
from sir_jax.evaluation.ranking import retrieval_ranks
from sir_jax.evaluation.score.calibration import fit_calibration, reliability_flat
from sir_jax.evaluation.score.scored import Pair, Scored, score_split
from sir_jax.evaluation.score.weight import Candidates, fit_weight, measure_weight
from sir_jax.inference.release import find
from sir_jax.inference.score import UNFITTED, Score, write_score
from sir_jax.models import build_model, tasks_of_params
from sir_jax.runtime.console import say
from sir_jax.runtime.workdir import as_path

# Of a larger validation split the first ones: more would cost more than they tell.
IMAGES = 1_000
# Of the true pairs, the share that is less similar than `Score.typical`.
TYPICAL = 0.05
# Length of a list where the config says nothing; what the page re-ranks.
K = 32


def validation_split(corpus: Corpus):
    """Return the split `val`, or the first whose name begins so, as Places' `val_seen`; or None."""
    names = [name for name in corpus.splits if name == "val" or name.startswith("val_")]
    return corpus.splits[names[0]] if names else None


def fit_pooled(
    plain: Pair,
    pooled: Pair,
    ids: Pair,
    temperature: float,
    scale: float,
    cautious: bool = False,
) -> float:
    """Find the weight of the pooled match by which a whole gallery is ranked best.

    Args:
      plain: embeddings of speech and images.
      pooled: pooled vectors, likewise.
      ids: the image id of each caption, and of each image.
      temperature: of the embeddings.
      scale: by which a cosine of pooled vectors becomes log-odds.
      cautious: see `fit_weight`.
    """
    similarity, cosine = (a.astype(np.float64) @ b.astype(np.float64).T for a, b in (plain, pooled))
    right = ids[0][:, None] == ids[1][None, :]
    ranks = retrieval_ranks(*plain, *ids)
    asked = ranks[1] > 0
    heard = Candidates(ranks[0], similarity, scale * cosine, right)
    seen = (x.T[asked] for x in (similarity, scale * cosine, right))
    sides = heard, Candidates(ranks[1][asked], *seen)
    return fit_weight(sides, temperature, cautious=cautious).weight


def fit_score(
    model, params, split, data_cfg, batch_size: int, k: int = K, cautious: bool = False
) -> Score:
    """Fit weights and calibration on a split; the same split gives the same numbers.

    The weight of the pooled match comes first, by R@1 over the whole gallery, as an index ranks by
    it. Then the k best of each query are matched by the fusion encoder, whose weight is fitted on
    these lists. Last the scores of all results in the lists are calibrated.

    Args:
      model: the joint model, with the tasks 'match' or 'pool' or both.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`, of which `IMAGES` images are used.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      k: length of a list.
      cautious: of the pooled match's weight, see `fit_weight`.
    """
    part = folds_of(split, IMAGES)[0] if len(split) > IMAGES else split
    temperature = float(params["temperature"])

    def choose(plain, pooled, ids) -> Score:
        if pooled is None:
            return UNFITTED
        scale = float(np.exp(np.asarray(params["pooled_scale"], np.float64)))
        weight = fit_pooled(plain, pooled, ids, temperature, scale, cautious)
        return dataclasses.replace(UNFITTED, pooled_weight=weight)

    scored = score_split(model, params, part, data_cfg, batch_size, k, choose)
    about = {"split": split.name, "images": len(part), "k": k}
    return score_of(scored, about | ({"cautious": True} if cautious else {}))


def score_of(scored: Scored, about: dict) -> Score:
    """Fit the fusion encoder's weight and the calibration on a scored split; see `fit_score`."""
    score, fitted = scored.score, dict(about)
    if scored.match is not None:
        sides, temperature = scored.candidates(), scored.scale.temperature
        best = fit_weight(sides, temperature)
        score = dataclasses.replace(score, weight=best.weight)
        for name, weight in (("r1_without", 0.0), ("r1_weight_1", 1.0)):
            fitted[name] = measure_weight(sides, temperature, weight).r1
        fitted["r1"] = best.r1
    calibration = fit_calibration(*scored.results(score)[:3])
    score = dataclasses.replace(score, calibration=calibration, typical=typical_of(scored))
    if calibration is not None:
        shown = scored.results(score)
        flat = reliability_flat(shown.chances, shown.right, shown.first)
        fitted |= {name: flat[name] for name in ("calibration_error", "calibration_error_first")}
    return dataclasses.replace(score, fitted=fitted)


def typical_of(scored: Scored) -> float:
    """Return what `Score.typical` holds, of a scored split."""
    return round(float(np.quantile(true_similarities(scored), TYPICAL)), 4)


def true_similarities(scored: Scored) -> np.ndarray:
    """Return the similarity of each caption with its own image, float64[n]."""
    (speech, images), (captions, pictures) = scored.vectors, scored.ids
    order = np.argsort(pictures)
    own = images[order[np.searchsorted(pictures, captions, sorter=order)]]
    return (speech.astype(np.float64) * own).sum(axis=1)


def fit_workdir(
    workdir: str | Path,
    corpus: Corpus,
    which: str = "best",
    again: bool = True,
    cautious: bool = False,
    typical: Corpus | None = None,
) -> Score | None:
    """Fit the score of a run's checkpoint, and keep it in the workdir.

    Args:
      workdir: the run's folder.
      corpus: whose validation split is used.
      which: 'best' or 'last' checkpoint.
      again: whether to fit what has been fitted already.
      cautious: of the pooled match's weight, see `fit_weight`.
      typical: whose validation split tells how alike a true pair is; None for `corpus`.

    Returns:
      The score; None where the model does not match, or the corpus has no validation split.

    Raises:
      UserError: there is no such checkpoint.
    """
    found, split = find(workdir, which), validation_split(corpus)
    tasks = tasks_of_params(found.params)
    if not tasks or split is None:
        return None
    if found.score.fitted and not again:
        return found.score
    model, cfg = build_model(found.cfg.model, tasks), found.cfg
    given = model, found.params, split, cfg.data, cfg.data.batch_size
    score = fit_score(*given, cfg.eval.rerank or K, cautious)
    score = dataclasses.replace(score, fitted={"corpus": corpus.name, **score.fitted})
    if typical is not None:
        given = model, found.params, validation_split(typical), cfg.data, cfg.data.batch_size
        alike = typical_of(score_split(*given, 1, lambda *_: score))
        about = {**score.fitted, "typical_corpus": typical.name}
        score = dataclasses.replace(score, typical=alike, fitted=about)
    write_score(as_path(workdir), found.params, score)
    say(f"{which} checkpoint: {describe_score(score)}")
    return score


def describe_score(score: Score) -> str:
    """Return one line that says what was fitted."""
    told = score.fitted
    text = f"fitted on {told['images']} images of split {told['split']}"
    if "r1" in told:
        text += (
            f": weight of the match {score.weight:.3g}, mean R@1 {told['r1']:.4f} "
            f"(without {told['r1_without']:.4f}, with weight 1 {told['r1_weight_1']:.4f})"
        )
    if score.pooled_weight != 1.0 or "r1" not in told:
        text += f"; weight of the pooled match {score.pooled_weight:.3g}"
    if score.calibration is None:
        return text + "; scores do not tell right from wrong: no probability is shown"
    return text + f"; calibration error {told['calibration_error_first']:.1%} of first results"
