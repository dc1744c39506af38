"""Write the model card of a release: what it was trained on, how, and how well it does."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sir_jax.config.fields import weighed_terms
from sir_jax.errors import UserError
from sir_jax.evaluation.ranking import format_table
from sir_jax.evaluation.rerank import format_reranked
from sir_jax.inference import release
from sir_jax.runtime.trees import leaf_paths

# Limits of every release.
_LIMITS = (
    "It knows what its corpus shows and says. Other pictures, words, languages and voices are "
    "outside of what was measured.",
    "A score is a cosine, not a probability; it ranks one gallery and does not compare galleries.",
    "Recordings longer than the last bucket are cut into windows whose vectors are averaged.",
)

_OPTIMISERS = {"adamw": "AdamW", "muon": "Muon and NAdamW", "schedule_free": "schedule-free AdamW"}


def read_evaluations(workdir: Path) -> list[dict[str, Any]]:
    """Read the results that `sir-jax evaluate` wrote into a workdir, sorted by file name.

    Raises:
      UserError: a file is not JSON.
    """
    evaluations = []
    for path in sorted(workdir.glob("eval_*.json")):
        try:
            evaluations.append(json.loads(path.read_text()))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); evaluate again") from error
    return evaluations


def run_stages(cfg) -> list:
    """Return the configs of the runs that made a model, the first run first.

    A run starts from the workdir or release in its `init.model`. Earlier runs are left out if they
    cannot be read any more, or if they are behind a release, whose own card describes them.

    Args:
      cfg: the config of the last run.
    """
    stages = [cfg]
    while source := stages[0].init.model:
        try:
            before = release.find(source).cfg
        except UserError:
            break
        if "train" not in before:  # a release
            break
        stages.insert(0, before)
    return stages


def make_release(
    workdir: Path,
    out: Path,
    name: str,
    command: str,
    which: str = "best",
    dtype: str = "float32",
    licence: str = "",
    notes: str = "",
    probabilities: bool = True,
) -> str:
    """Make a release of a training run, with the results that are in its workdir.

    Args:
      workdir: where `sir-jax train` wrote.
      out: a folder that is not there yet.
      name: the model's name.
      command: the command that makes it, for the card.
      which: 'best' or 'last' checkpoint.
      dtype: that the weights are stored in.
      licence: of the weights; '' if it is not stated.
      notes: Markdown for the card, on what no config tells, such as the licences of the data.
      probabilities: whether the release tells how probable a match is, as far as that was fitted.

    Returns:
      The fingerprint.

    Raises:
      UserError: there is no such checkpoint, or the folder cannot be written.
    """
    found = release.find(workdir, which)
    stages, results = run_stages(found.cfg), read_evaluations(workdir)
    card = write_card(name, stages, found.params, results, command, licence, dtype, notes)
    about = {"licence": licence}
    given = found.cfg, found.params, name, dtype, about, card
    score = found.score if probabilities else dataclasses.replace(found.score, calibration=None)
    return release.write_release(out, *given, score)


def write_card(
    name: str,
    stages: list,
    params: dict,
    evaluations: list[dict[str, Any]],
    command: str,
    licence: str,
    dtype: str,
    notes: str = "",
) -> str:
    """Write a model card.

    Args:
      name: the model's name.
      stages: the configs of the training runs, each of which started from the run before it.
      params: the released parameters.
      evaluations: the results of `read_evaluations`.
      command: the command that made the release.
      licence: the licence of the weights; '' if it is not stated.
      dtype: the dtype that the weights are stored in.
      notes: Markdown that stands before what was measured.

    Returns:
      Markdown, with '{fingerprint}' as a placeholder for the fingerprint.
    """
    lines = [
        f"# {name}",
        "",
        *_introduction(name, stages[-1], params, licence, dtype),
        "",
        "## Training",
        "",
        *_training(stages),
        "",
        *([notes.strip(), ""] if notes.strip() else []),
        "## Measured",
        "",
        *_measured(evaluations, {cfg.data.corpus for cfg in stages}),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in _LIMITS),
        "",
        f"Made by `{command}`.",
        "",
    ]
    return "\n".join(lines)


def _introduction(name: str, cfg, params: dict, licence: str, dtype: str) -> list[str]:
    leaves = leaf_paths(params)
    count = sum(leaf.size for leaf in leaves.values())
    fused, pooled = "match_head/kernel" in leaves, "pool_speech/queries" in leaves
    late = "late/scale" in leaves
    width = f"{cfg.model.embed_width}"
    if pooled:
        width += f" + {cfg.model.match.width} (embedding and pooled match)"
    return [
        "A speech-image retriever made with sir_jax: recordings and pictures to unit vectors of "
        f"width {width}, in which a dot product is the similarity"
        + ("; a fusion encoder re-ranks and shows where it looks" if fused else "")
        + ("; late interaction re-ranks and shows which patch a frame is most like" if late else "")
        + ".",
        "",
        "```python",
        "import sir_jax",
        "",
        f'model = sir_jax.load("{name}")  # or the folder of this card',
        'speech, image = model.encode_speech(["hello.wav"]), model.encode_image(["a.jpg"])',
        "print(speech @ image.T)",
        "```",
        "",
        f"- {count:,} parameters, stored as {dtype}; fingerprint `{{fingerprint}}`",
        f"- licence of the weights: {licence or 'not stated; ask whoever gave it to you'}",
        "- inside: both encoders and heads"
        + (", the fusion encoder and its matching head" if fused else "")
        + (", the projections of late interaction" if late else "")
        + (", the pooled match" if pooled else "")
        + "; no optimiser, no teacher, no queue, no denoising head",
    ]


def _training(stages: list) -> list[str]:
    if len(stages) == 1:
        return _stage(stages[0], 1)
    lines = []
    for number, cfg in enumerate(stages, 1):
        lines += [f"### Stage {number}", "", *_stage(cfg, number), ""]
    return lines[:-1]


def _stage(cfg, number: int) -> list[str]:
    started = [f"{k} from `{v}`" for k, v in cfg.init.items() if v]
    if model := cfg.init.model:
        started = ["all from " + (f"stage {number - 1}" if number > 1 else f"`{model}`")]
    frozen = ", ".join(f"`{pattern}`" for pattern in cfg.optim.freeze)
    return [
        f"- corpus: `{cfg.data.corpus}`, its train split",
        f"- {cfg.train.steps:,} steps of {cfg.data.batch_size:,} pairs, seed {cfg.seed}; "
        f"{_OPTIMISERS[cfg.optim.algorithm]} at {cfg.optim.learning_rate:g}, {cfg.optim.schedule}",
        f"- objective: {weighed_terms(cfg.loss)}",
        f"- started: {', '.join(started) if started else 'from random weights'}",
        f"- frozen: {frozen or 'nothing'}",
    ]


def _measured(evaluations: list[dict[str, Any]], trained_on: set[str]) -> list[str]:
    if not evaluations:
        return ["Nothing: `sir-jax evaluate --workdir=..` was not run before this was exported."]
    lines = []
    for one in evaluations:
        flat = one["metrics"]
        zero_shot = "" if one["corpus"] in trained_on else ", zero-shot"
        folds = f", mean over folds of {one['fold_images']} images" if one["fold_images"] else ""
        own = one["corpus"] == one["trained_on"]
        options = "" if own else f" --corpus={one['corpus']}"
        options += f" --fold_images={one['fold_images']}" if one["fold_images"] else ""
        reranked = "rerank_k_s2i" in flat
        options += f" --rerank={flat['rerank_k_s2i']:g}" if reranked else " --rerank=0"
        table = format_reranked(flat) if "fused_mean_r" in flat or reranked else format_table(flat)
        lines += [
            f"`{one['corpus']}`, split {one['split']}{zero_shot}{folds}: "
            f"`sir-jax evaluate --workdir=.. --split={one['split']} --which={one['which']}"
            f"{options}`",
            "",
            "```",
            table,
            "```",
            "",
        ]
    return lines[:-1]
