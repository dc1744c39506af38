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

from sir_jax.config.presets import parse_arg, shorten, small_pair

NAME = "tux_paint_stamps/h.{people}_s.{language}_out.{language}_p0_v6"


def get_config(arg: str = ""):
    """Return the config for one language."""
    arg = parse_arg(arg, language="fr", people=True, runlocal=False)
    c = small_pair(NAME.format(people="all" if arg.people else "none", language=arg.language))
    c.data.buckets = (20_000, 40_000, 80_000)
    c.data.image_fit = "squash"  # a crop would lose the ends of what is long or tall
    c.optim.freeze = ("speech",)  # drawn scenes are all that the image encoder has seen
    c.optim.learning_rate = 5e-4
    c.optim.warmup_steps = 50
    c.train.steps = 1_000
    c.train.eval_every = 500
    c.train.checkpoint_every = 250
    return shorten(c) if arg.runlocal else c
