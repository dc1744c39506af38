"""The layout of a corpus of spoken captions, which is planned before it has a name."""

from sir_jax.data.builders.recorded import CHUNK_IMAGES
from sir_jax.data.builders.recordings import Layout, Plan
from sir_jax.data.builders.spoken_captions.config import CaptionsConfig
from sir_jax.data.builders.spoken_captions.plan import most_spoken, said_everywhere

# Piper takes 0.6 s of a core, and a busy machine three times as long.
_SECONDS_A_CAPTION = 2.0


def captions_layout(config: CaptionsConfig, plan: Plan) -> Layout:
    """Return the layout of a planned corpus.

    Args:
      config: its parameters, with the digest of the plan.
      plan: from `plan_captions`.
    """
    everywhere = said_everywhere(plan)
    return Layout(
        name="spoken_captions",
        configs={config.name: "captioned pictures, the captions said by synthesisers"},
        archives=(),
        plan=lambda folder, name: plan,
        expected={},
        rate=None,
        own=True,
        readers="sir_jax.data.builders.spoken_captions.readers",
        same_pictures=everywhere,
        said_again="" if everywhere else "test",
        deadline=Layout.deadline + _SECONDS_A_CAPTION * most_spoken(plan, CHUNK_IMAGES),
    )
