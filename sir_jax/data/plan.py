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
    rng, filled = fill_buckets(samples, image_ids, buckets, batch_size, seed, epoch)
    items = [captions.reshape(-1, batch_size) for captions in filled]
    return shuffle_batches(items, rng)


def fill_buckets(
    samples: np.ndarray,
    image_ids: np.ndarray,
    buckets: tuple[int, ...],
    batch_size: int,
    seed: int,
    epoch: int,
) -> tuple[np.random.Generator, list[np.ndarray]]:
    """Choose the captions of an epoch and their buckets; see `plan_epoch`.

    Returns:
      The random generator of what is left to draw; and the captions of each bucket, int64, a
      multiple of `batch_size`: first the first captions of all images, then the second ones.
    """
    rng = np.random.default_rng((seed, _STREAM, epoch))
    n_batches = len(samples) // batch_size
    chosen = rng.permutation(len(samples))[: n_batches * batch_size]
    home = np.minimum(np.searchsorted(buckets, samples[chosen]), len(buckets) - 1)
    waiting, filled = chosen[:0], []
    for b in range(len(buckets)):
        waiting = np.concatenate([waiting, chosen[home == b]])
        waiting = waiting[np.argsort(count_repeats(image_ids[waiting]), kind="stable")]
        full = len(waiting) // batch_size * batch_size
        filled.append(waiting[:full])
        waiting = waiting[full:]
    return rng, filled


def shuffle_batches(
    items: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Put the batches of all buckets in random order.

    Args:
      items: the batches of each bucket, [batches, batch_size].
      rng: from `fill_buckets`.

    Returns:
      What `plan_epoch` returns.
    """
    bucket = np.repeat(np.arange(len(items)), [len(batches) for batches in items])
    order = rng.permutation(len(bucket))
    return np.concatenate(items)[order], bucket[order]


def count_repeats(ids: np.ndarray) -> np.ndarray:
    """Return how many equal ids come before each.

    Ordered by that, consecutive captions, and so batches, repeat an image as late as possible.

    Example:
      >>> count_repeats(np.array([7, 8, 7, 7]))
      array([0, 0, 1, 2])
    """
    by_image = np.argsort(ids, kind="stable")
    # In sorted order, a caption's distance from its image's first caption counts the repeats.
    begins = np.searchsorted(ids[by_image], ids[by_image], side="left")
    repeats = np.empty(len(ids), np.int64)
    repeats[by_image] = np.arange(len(ids)) - begins
    return repeats
