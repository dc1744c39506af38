"""sir-jax ablate --config=configs/minimal_pairs.py --workdir=runs/pairs

What tells look-alikes apart: heads that read all tokens, batches of look-alikes, a pooled match, a
fusion encoder, both, late interaction. Images 2n and 2n + 1 differ in which object has which
colour, size or place, and their captions are the same words in another order. Every run has the
same frozen encoders, the same steps and as many pairs a step.

Corpus and features are made by
  sir-jax data spoken_scenes --engines=espeak --level=compositional --val_images=100 \
    --test_images=300
  sir-jax data featurize --config=configs/minimal_pairs.py --out=features
and `--config.data.features=features` has the runs read them, which is several times faster.

Arguments, e.g. `--config=configs/minimal_pairs.py:runlocal`:
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.presets import base_config, parse_arg, shrink

CORPUS = "spoken_scenes/compositional-i3000-d100-t300-c4-v64-p128-s0"

SEEDS = (0, 1, 2, 3, 4)

# The search covers all captions: a partner outside of it would not be found.
GROUPS = {
    "data.groups": 8,
    "data.grouped_after": 350,
    "data.search_space": 12_288,
}
MATCH = {"loss.sim.weight": 1.0}
POOLED = MATCH | {"model.match.kind": "pooled", "model.match.places": True}
BOTH = POOLED | {"model.match.kind": "both"}
LATE = MATCH | {"model.match.kind": "late"}
# Of noisy tokens that see no neighbours, most can be rebuilt from the other side alone.
BLIND = {"loss.cmd.weight": 1.0, "loss.cmd.ratio": 0.8, "model.fusion.self_attention": False}
# Of two pictures that are alike, a whole thing of the one in the place of a thing of the other.
ALIKE = BLIND | {"loss.cmd.source": "group", "loss.cmd.pattern": "alike", "loss.cmd.ratio": 0.3}

# What an embedding read before: one token of a picture; places of a clip, put together linearly.
PLAIN = {"model.image_head": "cls", "model.head.hidden": 0}

# Name -> fields that differ from `get_config`. The papers' form is batches at random and fusion.
ABLATIONS = {
    "contrastive": {},
    "plain heads": PLAIN,
    "plain heads + groups": PLAIN | GROUPS,
    "+ groups": GROUPS,
    "+ pooled": POOLED,
    "+ fusion (papers)": MATCH,
    "+ late": LATE,
    "+ groups + pooled": GROUPS | POOLED,
    "+ groups + fusion": GROUPS | MATCH,
    "+ groups + both": GROUPS | BOTH,
    "+ groups + late": GROUPS | LATE,
    "+ groups + pooled + 3 negatives": GROUPS | POOLED | {"loss.sim.negatives": 3},
    "+ groups + pooled + lists": GROUPS | POOLED | {"loss.sim.list_weight": 1.0},
    "+ groups + pooled + taught": GROUPS | POOLED | {"loss.sim.teach_weight": 1.0},
    "+ CMD": {"loss.cmd.weight": 1.0},
    "+ blind CMD": BLIND,
    "+ blind CMD of speech": BLIND | {"loss.cmd.direction": "speech"},
    "+ groups + blind CMD": GROUPS | BLIND | {"loss.cmd.source": "group"},
    "+ groups + alike CMD": GROUPS | ALIKE,
    "+ groups + CMD negatives": GROUPS | ALIKE | {"loss.cmd.negative_weight": 0.5},
}


def get_config(arg: str = ""):
    """Return the config that every ablation changes: contrastive learning alone."""
    arg = parse_arg(arg, corpus=CORPUS, runlocal=False)
    c = base_config("tiny", "tiny")
    c.data.corpus = arg.corpus
    c.data.batch_size = 64
    c.data.buckets = (48_000, 72_000)
    c.init.speech = "package:spoken_scenes/speech"
    c.init.image = "package:spoken_scenes/image"
    c.optim.freeze = ("speech", "image")
    c.model.speech.dropout = 0.0
    c.model.head.update(kind="conv", taps=3, places=8, hidden=512, dropout=0.0)
    c.model.image_head = "pool"
    c.model.embed_width = 128
    # Small, so that a run takes minutes: its narrow layers learn sooner from 1 / sqrt(width).
    c.model.fusion.update(
        layers=2, width=96, heads=4, mlp_width=192, query="image", init_std=96**-0.5, dropout=0.0
    )
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 50
    c.optim.clip_norm = 1.0
    c.train.steps = 2_500  # 13 epochs, of which groups are dealt from the third on
    c.train.eval_every = 0
    c.train.checkpoint_every = 500
    c.train.num_threads = 2
    c.eval.rerank = 16
    return shrink(c) if arg.runlocal else c
