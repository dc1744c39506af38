"""The plan of an epoch: which captions make a batch, and how long its clips may be."""

import numpy as np

# Of the random streams of one seed; `pipeline` has the others.
_STREAM = 0


def plan_epoch(
    samples: np.ndarray,
    image_ids: np.ndarray,
    buckets: tuple[int, ...],
    batch_size: int,
    seed: int,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Plan an epoch: divide the captions into batches, each of one length bucket.

    The epoch leaves out n % batch_size captions, chosen at random, and has each other caption once.
    A caption goes into the shortest bucket that it fits, or into the longest if it fits none.
    Captions that do not fill a batch of their bucket move up to the next longer one, so that there
    are exactly n // batch_size batches. Captions of one image are spread over a bucket's batches.
    The order of the batches is random.

    Args:
      samples: length of each caption, int [n].
      image_ids: image id of each caption, int [n].
      buckets: lengths in samples, ascending.
      batch_size: captions in a global batch.
      seed: seed of the run.
      epoch: number of the epoch, from 0.

    Returns:
      The captions of each batch, indices into `samples`, int64 [n // batch_size, batch_size]; and
      the bucket of each batch, an index into `buckets`, int64 [n // batch_size].

    Example:
      >>> lengths, image_ids = np.array([5, 20, 6, 30]), np.arange(4)
      >>> captions, bucket = plan_epoch(lengths, image_ids, (10, 40), 2, seed=0, epoch=0)
      >>> sorted(map(sorted, captions.tolist())), sorted(bucket.tolist())
      ([[0, 2], [1, 3]], [0, 1])
    """
    rng = np.random.default_rng((seed, _STREAM, epoch))
    n_batches = len(samples) // batch_size
    chosen = rng.permutation(len(samples))[: n_batches * batch_size]
    home = np.minimum(np.searchsorted(buckets, samples[chosen]), len(buckets) - 1)
    waiting, items, bucket = chosen[:0], [], []
    for b in range(len(buckets)):
        waiting = _spread(np.concatenate([waiting, chosen[home == b]]), image_ids)
        full = len(waiting) // batch_size
        items.append(waiting[: full * batch_size].reshape(full, batch_size))
        bucket += [b] * full
        waiting = waiting[full * batch_size :]
    order = rng.permutation(n_batches)
    return np.concatenate(items)[order], np.array(bucket, np.int64)[order]


def _spread(items: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    """Order captions so that the first captions of all images come first, then the second ones.

    Consecutive captions, and so batches, then repeat an image as late as possible.
    """
    ids = image_ids[items]
    by_image = np.argsort(ids, kind="stable")
    # In sorted order, a caption's distance from its image's first caption counts the repeats.
    begins = np.searchsorted(ids[by_image], ids[by_image], side="left")
    repeats = np.empty(len(items), np.int64)
    repeats[by_image] = np.arange(len(items)) - begins
    return items[np.argsort(repeats, kind="stable")]
