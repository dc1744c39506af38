"""sir-jax ablate --config=configs/ablations.py --workdir=runs/ablations

What each term of the two papers adds, and look-alikes in a batch. Every run of a bed has the same
encoders to start from, the same steps and as many pairs a step; a seed changes all of order,
initial heads, negatives and noise. Three beds:
  pairs    images 2n and 2n + 1 differ in which object has which colour, size or place, and their
           captions are the same words in another order
  several  three or four objects in a picture, and a gallery of 1,000 of them
  people   the stamps of Tux Paint by name; training has heard machines, people ask

The corpora are made by
  sir-jax data spoken_scenes --engines=espeak --level=compositional --val_images=100 \
    --test_images=300
  sir-jax data spoken_scenes --engines=espeak --level=several --val_images=100 --test_images=1000 \
    --captions=2
  sir-jax data prepare tux_paint_stamps/h.none_s.fr_out.fr_p0_v16-espeak+mbrola --source=voices
The last two want `sir-jax data featurize --config=configs/ablations.py:bed=.. --out=features`, and
then `--config.data.features=features`.

Arguments, e.g. `--config=configs/ablations.py:runlocal`:
  bed       one of: pairs, several, people
  corpus    which corpus to train on
  runlocal  tiny encoders and four steps, to see the whole path run in seconds
"""

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.presets import base_config, parse_arg, shrink, small_pair

CORPUS = "spoken_scenes/compositional-i3000-d100-t300-c4-v64-p128-s0"
SEVERAL = "spoken_scenes/several-i3000-d100-t1000-c2-v64-p128-s0"
PEOPLE = "tux_paint_stamps/h.none_s.fr_out.fr_p0_v16-espeak+mbrola"

SEEDS = (0, 1, 2)

# The teacher of a run this short must follow fast: at ALBEF's momentum of 0.995 its heads would
# still be random to an eighth at the end.
QUEUE = {"loss.sic.queue": 512}
DISTILLATION = {"loss.sic.alpha": 0.4}
MATCHING = {"loss.sim.weight": 1.0}
DENOISING = {"loss.cmd.weight": 1.0}
# As configs/cmd.py: noisy tokens that see no neighbours must listen.
BLIND = DENOISING | {"loss.cmd.ratio": 0.8, "model.fusion.self_attention": False}
GROUPS = {"data.groups": 8, "data.grouped_after": 300, "data.search_space": 12_288}
POOLED = {"loss.sim.weight": 1.0, "model.match.kind": "pooled", "model.match.places": True}

# Name -> fields that differ from `get_config`.
ABLATIONS = {
    "contrastive": {},
    "+ queue": QUEUE,
    "+ queue + distillation": QUEUE | DISTILLATION,
    "+ queue + distillation + SIM": QUEUE | DISTILLATION | MATCHING,
    "+ CMD": DENOISING,
    "+ blind CMD": BLIND,
    "unified": QUEUE | DISTILLATION | MATCHING | DENOISING,
    "+ groups": GROUPS,
    "+ groups + pooled": GROUPS | POOLED,
}


def get_config(arg: str = ""):
    """Return the config that every ablation changes: contrastive learning alone."""
    arg = parse_arg(arg, bed="pairs", corpus="", runlocal=False)
    if arg.bed not in BEDS:
        raise ValueError(f"bed={arg.bed!r} is none of {', '.join(BEDS)}")
    c = BEDS[arg.bed]()
    c.data.corpus = arg.corpus or c.data.corpus
    return shrink(c) if arg.runlocal else c


def _pairs():
    c = base_config("tiny", "tiny")
    c.data.corpus = CORPUS
    c.data.batch_size = 32
    c.data.buckets = (48_000, 72_000)
    c.init.speech = "package:spoken_scenes/speech"
    c.init.image = "package:spoken_scenes/image"
    c.optim.freeze = ("speech", "image")  # [I] as both papers may be read
    c.model.speech.dropout = 0.0
    c.model.head.update(heads=4, weigh_layers=True)
    c.model.embed_width = 128
    # The image reads the speech, in matching as in denoising: it is the shorter stream.
    c.model.fusion.update(
        layers=2, width=192, heads=4, mlp_width=768, query="image", init_std=192**-0.5
    )
    c.loss.sic.alpha_ramp = 100
    c.loss.teacher.momentum = 0.98
    c.loss.cmd.ratio = 0.5
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 20
    c.optim.clip_norm = 1.0
    c.train.steps = 600
    c.train.eval_every = 0
    c.train.checkpoint_every = 300
    c.train.num_threads = 2
    c.eval.rerank = 16
    return c


def _several():
    c = _pairs()
    c.data.corpus = SEVERAL
    c.data.buckets = (96_000, 144_000)
    _shrink_to_minutes(c)
    c.model.head.update(taps=3, places=8, hidden=512, dropout=0.0)
    c.model.image_head = "pool"
    c.train.update(steps=1_200, checkpoint_every=600)
    return c


def _people():
    c = small_pair(PEOPLE)
    c.data.buckets = (20_000, 40_000, 80_000)
    c.data.image_fit = "squash"  # as configs/stamps.py, which says why
    augment_like(c, "none")
    c.model.fusion = _pairs().model.fusion
    c.loss = _pairs().loss
    _shrink_to_minutes(c)
    c.model.head.dropout = 0.3
    c.model.image_head = "mlp"
    c.optim.learning_rate = 3e-3
    c.train.update(steps=1_200, eval_every=0, checkpoint_every=600)
    c.eval.rerank = 16
    return c


def _shrink_to_minutes(c):
    """Have runs take minutes from stored features: narrow fusion, a head that learns soon."""
    c.data.batch_size = 64
    c.model.head.update(kind="conv", weigh_layers=False)
    c.model.fusion.update(width=96, mlp_width=192, init_std=96**-0.5, dropout=0.0)
    c.optim.warmup_steps = 50


BEDS = {"pairs": _pairs, "several": _several, "people": _people}
