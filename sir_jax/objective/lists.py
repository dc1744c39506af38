"""The list-wise part of SIM: all pairs of a group of look-alikes against each other. Pure.

A batch that is dealt in groups has each group's rows beside each other (`data.groups`); before the
first epoch of groups these are rows at random. By `loss.sim.list_over=batch` the batch is one list.
"""

import jax
import jax.numpy as jnp

from sir_jax.losses.fused_score import fused_score
from sir_jax.losses.matching import list_matching, list_teaching, match_score, pooled_log_odds
from sir_jax.objective.rows import grouped
from sir_jax.objective.terms import barred_pairs, match_pairs, pooled_vectors
from sir_jax.objective.views import Views

Array = jax.Array


@jax.named_scope("sim")
@jax.named_scope("list")
def list_term(
    views: Views,
    ids,
    temperature,
    params,
    key,
    *,
    model,
    sim,
    groups: int,
    pieces: int = 1,
    share: Array | None = None,
) -> tuple[Array, dict]:
    """Compute the list-wise loss of each match, and what the match teaches the embedding.

    Lists are ranked as search ranks, by similarity / temperature + log-odds: the match learns what
    the embedding lacks, as it does from negatives that are drawn by similarity. The similarity gets
    no gradient from that. With `teach_weight` it learns from the same scores: from those of the
    pooled match where the model has one, else from those of the fusion encoder.

    Args:
      views: the encoded batch.
      ids: image ids, [B].
      temperature: of the similarities; None leaves them out, where nothing has trained them.
      params: the whole parameter tree.
      key: random key of dropout.
      model: from `build_model`.
      sim: `config.loss.sim`.
      groups: number of groups, each of B / groups neighbouring rows.
      pieces: number of pieces in which pairs go through the fusion encoder, one after the other.
      share: of a true pair's cosine, above which a pair is no negative; None without a limit.

    Returns:
      The loss, weighed within SIM, and metrics by name.
    """
    barred = barred_pairs(views, ids, groups, share)
    speech, image, ids = grouped((views.speech.embed, views.image.embed, ids), groups)
    similarity, scale = jnp.einsum("gse,gie->gsi", speech, image), temperature
    if temperature is None:
        similarity, scale = jnp.zeros_like(similarity), 1.0
    fixed = jax.lax.stop_gradient((similarity, scale))
    loss, metrics, scores = 0.0, {}, None
    for name, odds in group_odds(views, params, key, model, groups, pieces).items():
        scores = fused_score(*fixed, odds)
        if sim.list_weight:
            losses, right = jax.vmap(list_matching)(scores, ids, barred)
            metrics |= {name: losses.mean(), f"{name}_accuracy": right.mean()}
            loss += sim.list_weight * metrics[name]
    if sim.teach_weight:
        taught = jax.vmap(list_teaching)(similarity / scale, scores, barred)
        metrics["sic_taught"] = taught.mean()
        loss += sim.teach_weight * metrics["sic_taught"]
    return loss, metrics


def group_odds(views: Views, params, key, model, groups: int, pieces: int = 1) -> dict[str, Array]:
    """Match every speech with every image of its group.

    Args:
      views, params, key, model, groups, pieces: see `list_term`.

    Returns:
      By the name of its metric each match's log-odds, float32 [groups, n, n] for the n rows of a
      group; those of the pooled match come last.
    """
    found = {}
    if "match" in model.tasks:
        size = views.speech.embed.shape[0] // groups

        # The speech of a row with all images of its group, row by row: a row stays on its device.
        def spread(tree, axis: int):
            return jax.tree.map(
                lambda x: jnp.repeat(jnp.expand_dims(x, axis), size, axis).reshape(
                    -1, *x.shape[2:]
                ),
                grouped(tree, groups),
            )

        pairs = spread(views.speech, 2), spread(views.image, 1)
        logits = match_pairs(*pairs, params, key, model, pieces)
        found["sim_list"] = match_score(logits).reshape(groups, size, size)
    if "pool" in model.tasks:
        p_s, p_i = pooled_vectors(views, params, model, groups)
        cosines = jnp.einsum("gsf,gif->gsi", p_s, p_i)
        name = "sim_pooled_list" if found else "sim_list"
        found[name] = pooled_log_odds(cosines, params["pooled_scale"], params["pooled_bias"])
    return found
