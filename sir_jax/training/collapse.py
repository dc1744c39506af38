"""See that a training learns nothing, and say once what to change.

The embeddings of a retriever can collapse: all recordings get one vector, all pictures another. The
loss then stays at that of guessing and nothing else fails. So the accuracy of the contrastive term
within the batch is held against chance, over a window of updates after the warm-up.

A matching head may fail while the embeddings learn: its loss then stays at the entropy of the
prior, that of a head that knows nothing but how many pairs are true.
"""

import collections
import math
from collections.abc import Mapping

import numpy as np

from sir_jax.runtime.console import say

WINDOW = 200  # updates

# Standard errors above chance, below which a window's accuracy is noise. In a window of 200 that is
# a fifth above chance, whatever the batch.
_NOISE = 3.0
# Embeddings of less spread are called collapsed, where accuracy is at chance, too. Encoders from
# random weights begin below it.
_COLLAPSED = 0.05

# Updates over which matching is watched, as it begins late; and how near to the prior's entropy, as
# a share of it, its mean loss is called a guess.
MATCH_WINDOW, _NEAR = 500, 0.005

_ACCURACIES = ("train/s2i_accuracy", "train/i2s_accuracy")
_CHANCE, _NORM = "train/chance_accuracy", "train/grad_norm"
_SPREADS = ("train/speech_spread", "train/image_spread")


class Collapse:
    """Watch the metrics of every update; warn once where accuracy stays at chance."""

    def __init__(self, cfg, window: int = WINDOW):
        """Begin to watch.

        Args:
          cfg: the whole config.
          window: number of updates after the warm-up that accuracy is averaged over.
        """
        self._cfg, self._warned = cfg, False
        self._seen: collections.deque[tuple[float, ...]] = collections.deque(maxlen=window)

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one update, and warn if it completes a window without learning.

        Args:
          step: number of updates made, this one included.
          metrics: by name, as the step returns them; without the contrastive term nothing is
            judged.
        """
        if self._warned or _CHANCE not in metrics or step <= self._cfg.optim.warmup_steps:
            return
        # With a queue, chance and accuracy are those among the batch's own keys: of a collapsed
        # model those are the newest, and so the most similar ones.
        names = [f"{x}_in_batch" if f"{x}_in_batch" in metrics else x for x in _ACCURACIES]
        self._seen.append(
            tuple(metrics[name] for name in (*names, _CHANCE, *_SPREADS, _NORM)),
        )
        if len(self._seen) < self._seen.maxlen:
            return
        s2i, i2s, chance, *_ = means = np.mean(self._seen, axis=0)
        trials = self._seen.maxlen * self._cfg.data.batch_size
        noise = _NOISE * math.sqrt(chance * (1 - chance) / trials)
        if (s2i + i2s) / 2 <= chance + noise:
            self._warned = True
            say(self._warning(step, *means))

    def _warning(self, step, s2i, i2s, chance, speech, image, norm) -> str:
        optim = self._cfg.optim
        collapsed = "have collapsed" if min(speech, image) < _COLLAPSED else "differ"
        remedies = [
            f"lower optim.learning_rate ({optim.learning_rate:g})",
            f"raise optim.warmup_steps ({optim.warmup_steps})",
            f"lower optim.clip_norm ({optim.clip_norm:g})"
            if optim.clip_norm
            else "set optim.clip_norm",
            "freeze lower layers by optim.freeze",
        ]
        if self._cfg.loss.sic.queue:
            remedies.append(f"begin without loss.sic.queue ({self._cfg.loss.sic.queue})")
        return (
            f"warning: step {step}: nothing is learnt: accuracy within the batch was "
            f"{50 * (s2i + i2s):.2f} % over the last {self._seen.maxlen} updates, chance is "
            f"{100 * chance:.2f} %; embeddings {collapsed} (spread of speech {speech:.2g}, of "
            f"images {image:.2g}; 0: all equal), gradient norm {norm:.2g}; {', or '.join(remedies)}"
        )


class Guessing:
    """Watch the matching losses of every update; warn once where one stays at the prior's."""

    def __init__(self, cfg, window: int = MATCH_WINDOW):
        """Begin to watch.

        Args:
          cfg: the whole config.
          window: number of updates after the warm-up that losses are averaged over.
        """
        self._cfg = cfg
        self._seen: dict[str, collections.deque[tuple[float, float]]] = {
            f"train/{name}": collections.deque(maxlen=window) for name in ("sim", "sim_pooled")
        }

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one update, and warn if it completes a window of guesses.

        Args:
          step: number of updates made, this one included.
          metrics: by name, as the step returns them; without the matching term nothing is judged.
        """
        if step <= self._cfg.optim.warmup_steps:
            return
        for name, seen in [*self._seen.items()]:
            if name not in metrics:
                continue
            seen.append((metrics[name], metrics["train/sim_prior"]))
            if len(seen) < seen.maxlen:
                continue
            loss, prior = np.mean(seen, axis=0)
            if loss >= (1 - _NEAR) * prior > 0:
                del self._seen[name]
                say(self._warning(step, name.removeprefix("train/"), seen.maxlen, loss, prior))

    def _warning(self, step, name, window, loss, prior) -> str:
        data, match = self._cfg.data, self._cfg.model.match
        remedies = [f"raise data.batch_size ({data.batch_size})"]
        if match.kind == "fusion":
            remedies.append("set model.match.kind to pooled or both")
        if data.groups:
            remedies.append(
                f"begin at random for longer by data.grouped_after ({data.grouped_after})"
            )
        remedies.append("give the new layers a rate of their own by optim.rates")
        return (
            f"warning: step {step}: matching guesses: {name} was {loss:.4f} over the last {window} "
            f"updates, and a head that knows nothing but how many pairs are true has {prior:.4f}; "
            f"{', or '.join(remedies)}"
        )
