"""sir-jax train --config=configs/stamps.py --workdir=runs/stamps-fr --config.data.features=features

Pictures found by people who speak a language of which training has heard no person: names of the
stamps of Tux Paint, by voices of eSpeak NG and MBROLA of that language and by people of the others.

Corpus and features are made by
  bash launch/get_voices.sh voices tuxpaint-stamps-default mbrola
  export SIR_JAX_VOICES=voices
  sir-jax data prepare tux_paint_stamps/h.all_s.fr_out.fr_p0_v16-espeak+mbrola --source=voices
  sir-jax data featurize --config=configs/stamps.py --out=features

Arguments, e.g. `--config=configs/stamps.py:language=ru,people=false`:
  language  any language that people speak in the package
  people    whether people who speak the other languages are heard in training, too
  runlocal  shrink everything to seconds
"""

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.presets import parse_arg, shorten, small_pair

NAME = "tux_paint_stamps/h.{people}_s.{language}_out.{language}_p0_v16-espeak+mbrola"


def get_config(arg: str = ""):
    """Return the config for one language."""
    arg = parse_arg(arg, language="fr", people=True, runlocal=False)
    c = small_pair(NAME.format(people="all" if arg.people else "none", language=arg.language))
    c.data.batch_size = 128
    c.data.buckets = (20_000, 40_000, 80_000)
    # People breathe, and their rooms hum, before and after a name; machines do not.
    c.data.trim_silence = "speech"
    c.data.image_fit = "squash"  # a crop would lose the ends of what is long or tall
    augment_like(c, "none")  # both encoders are frozen: their outputs can be stored
    c.model.head.update(kind="conv", dropout=0.3)
    # The frozen image encoder has seen drawn scenes alone. Straight from its output, vectors of
    # stamps lie where it puts them, and not where their names sound alike.
    c.model.image_head = "mlp"
    c.optim.learning_rate = 3e-3
    c.optim.clip_norm = 0.0
    c.optim.warmup_steps = 100
    c.train.steps = 2_000
    c.train.eval_every = 1_000
    c.train.checkpoint_every = 250
    return shorten(c) if arg.runlocal else c
