"""sir-jax train --config=configs/named_things.py --workdir=runs/named

The model that ships as `sir_jax.load("named-things")`: the stamps of Tux Paint, by their names in
13 languages, said by voices of eSpeak NG and MBROLA, and by people of the languages that are not
held out. launch/release.sh makes, evaluates and exports it, from stored features.

Arguments, e.g. `--config=configs/named_things.py:runlocal`:
  more      the second half of training: with --config.init.model=runs/named
  runlocal  shrink everything to seconds
"""

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.presets import parse_arg, shorten, small_pair

LANGUAGES = "be.bg.ca.de.el.en.es.fr.it.nl.pt.ro.ru"
HELD_OUT = "es.fr.ru"  # of these, no person is heard in training
CORPUS = f"tux_paint_stamps/h.all_s.{LANGUAGES}_out.{HELD_OUT}_p0_v8-espeak+mbrola"


def get_config(arg: str = ""):
    """Return the config."""
    arg = parse_arg(arg, more=False, runlocal=False)
    c = small_pair(CORPUS)
    c.data.batch_size = 128
    c.data.buckets = (20_000, 40_000, 80_000)
    c.data.image_fit = "squash"  # a crop would lose the ends of what is long or tall
    augment_like(c, "none")  # both encoders are frozen: their outputs can be stored
    c.data.trim_silence = "faint"
    c.model.head.update(kind="conv", dropout=0.3)
    c.model.image_head = "mlp"
    c.optim.learning_rate = 3e-3
    c.optim.clip_norm = 0.0
    c.optim.warmup_steps = 100
    c.train.update(steps=4_500, eval_every=0, checkpoint_every=250)
    if arg.more:
        c.model.head.dropout = 0.15
        c.init.update(speech="", image="")
        c.train.steps = 10_000
    return shorten(c) if arg.runlocal else c
