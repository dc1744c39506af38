"""Make the small speech encoder: targets, alphabet, training, and what it understands."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sir_jax import pretrained
from sir_jax.config.specs import HubertSpec
from sir_jax.data.corpus import Split
from sir_jax.data.media.augment import AugmentSpec
from sir_jax.errors import UserError
from sir_jax.models.hubert import Hubert
from sir_jax.runtime.files import write_json
from sir_jax.training.pretraining.clips import Buckets, Mixture, Source
from sir_jax.training.pretraining.phones import Alphabet
from sir_jax.training.pretraining.run import Options, run
from sir_jax.training.pretraining.speech import Scale, init_speech, phone_errors, speech_loss
from sir_jax.training.pretraining.targets import make_targets
from sir_jax.training.pretraining.teacher import Teacher

# A phone that occurs less often than this is one that a single language borrows.
LEAST = 30
# Clips of each group of whom phone errors are counted.
EVALUATED = 100


@dataclasses.dataclass(frozen=True)
class SpeechOptions:
    """What the speech encoder learns from, beside `Options`.

    Attributes:
      workdir: keeps targets, log, and the state from which a killed run goes on.
      teacher: the folder of the teacher's networks.
      teacher_weight: of the teacher's term beside CTC.
      augment: what happens to clips.
      buckets: lengths of batches, and their size.
    """

    workdir: Path
    teacher: Path
    teacher_weight: float = 2.0
    augment: AugmentSpec = AugmentSpec()
    buckets: Buckets = Buckets()


def pretrain_speech(
    spec: HubertSpec,
    splits: Sequence[Split],
    held_out: Sequence[Split],
    transcribe: Callable[[str, str], str],
    options: Options,
    speech: SpeechOptions,
) -> dict:
    """Train a speech encoder and return its parameters.

    Args:
      spec: the encoder's shape.
      splits: to learn from.
      held_out: to count phone errors on, at the end.
      transcribe: from text and language to the IPA.
      options: schedule, files and seed.
      speech: targets and augmentation.

    Raises:
      UserError: the teacher is missing, a clip cannot be decoded, or `init` holds another shape.
    """

    @functools.cache
    def teach():
        return Teacher(speech.teacher).frames

    def source(split: Split) -> Source:
        return Source(split, make_targets(split, speech.workdir / "targets", teach, transcribe))

    sources, others = [source(s) for s in splits], [source(s) for s in held_out]
    spoken = (phones for each in sources for phones in each.targets.phones)
    alphabet = Alphabet.of(spoken, LEAST)
    scale = Scale.of(np.concatenate([each.targets.frames[::7] for each in sources]))
    mixture = Mixture(sources, alphabet, spec, speech.buckets, speech.augment, options.seed)
    _describe(mixture, alphabet)
    module, out = Hubert(spec), Path(options.out) / "speech"

    def save(params: dict) -> None:
        # Half precision: the files live in the repository.
        pretrained.save(out, spec, params["encoder"], dtype=np.float16)

    params = init_speech(spec, len(alphabet), options.seed)
    if options.init:
        found, params["encoder"] = pretrained.load(options.init)
        if found != spec:
            raise UserError(f"{options.init} holds {found}, and tower 'speech' is {spec}")
    loss_fn = functools.partial(
        speech_loss, module=module, scale=scale, teacher_weight=speech.teacher_weight
    )
    params = run(params, loss_fn, mixture.batches, options, save, speech.workdir)
    errors = {}
    for each in others:
        for group, counts in phone_errors(params, module, each, alphabet, EVALUATED).items():
            name = f"{each.split.directory.parent.name} {each.split.name}: {group}"
            errors[name] = counts
            print(f"{name}: {100 * counts[0] / counts[1]:.1f} % phone errors of {counts[2]} clips")
    write_json(speech.workdir / "phone_errors.json", errors)
    return params["encoder"]


def _describe(mixture: Mixture, alphabet: Alphabet) -> None:
    total = sum(mixture.groups.values())
    print(f"{total:,} clips in {len(mixture.groups)} groups, {mixture.left_out:,} too long")
    print(", ".join(f"{group} {count}" for group, count in mixture.groups.items()))
    print(f"{len(alphabet)} phones: {' '.join(alphabet.phones)}", flush=True)
