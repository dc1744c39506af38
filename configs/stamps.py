"""sir-jax train --config=configs/stamps.py --workdir=runs/stamps-fr

Pictures found by people who speak a language of which training has heard no person: names of the
stamps of Tux Paint, by synthesised voices of that language and by people of the others.

The corpus is made by
  bash launch/get_voices.sh voices tuxpaint-stamps-default
  sir-jax data prepare tux_paint_stamps/h.all_s.fr_out.fr_p0_v6 --source=voices

Arguments, e.g. `--config=configs/stamps.py:language=ru,people=false`:
  language  any language that people speak in the package
  people    whether people who speak the other languages are heard in training, too
  runlocal  shrink everything to seconds
"""

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.presets import base_config, parse_arg

NAME = "tux_paint_stamps/h.{people}_s.{language}_out.{language}_p0_v6"


def get_config(arg: str = ""):
    """Return the config for one language."""
    arg = parse_arg(arg, language="fr", people=True, runlocal=False)
    c = base_config("small", "tiny")
    c.data.corpus = NAME.format(people="all" if arg.people else "none", language=arg.language)
    c.data.batch_size = 64
    c.data.buckets = (20_000, 40_000, 80_000)
    c.data.image_fit = "squash"  # a crop would lose the ends of what is long or tall
    augment_like(c, "people")
    c.init.speech = "package:voices/speech"
    c.init.image = "package:spoken_scenes/image"
    c.model.speech.dropout = 0.0
    c.model.head.update(heads=4, dropout=0.1)
    c.model.embed_width = 128
    c.optim.freeze = ("speech/frontend",)
    c.optim.learning_rate = 5e-4
    c.optim.warmup_steps = 100
    c.optim.clip_norm = 1.0
    c.train.steps = 2_000
    c.train.eval_every = 500
    c.train.checkpoint_every = 250
    c.train.num_threads = 2
    if arg.runlocal:
        c.data.batch_size = 8
        c.optim.warmup_steps = 1
        c.train.update(steps=4, eval_every=4, checkpoint_every=2, log_every=1)
    return c
