"""Epochs dealt in groups: against a slow reference, and what must hold whatever is dealt."""

import jax.numpy as jnp
import numpy as np
import pytest

from sir_jax.data.corpus import INDEX_DTYPE
from sir_jax.data.groups import (
    GroupSpec,
    Vectors,
    deal_epoch,
    group_captions,
    pack_rows,
    walk,
)
from sir_jax.data.plan import plan_epoch

BUCKETS = (400, 800, 1_600)


def slow_walk(queries, keys, ids, size):
    """Walk by lists, in whole numbers: a neighbour's rank is the sign and square of its cosine."""

    def score(item, other):
        key = [int(x) for x in keys[other]]
        squares = sum(x * x for x in key)
        if not squares:
            return float("-inf")
        product = sum(int(q) * k for q, k in zip(queries[item], key, strict=True))
        return np.sign(product) * product**2 / squares

    left = [i for i in range(len(ids)) if keys[i].any()]
    left += [i for i in range(len(ids)) if not keys[i].any()]
    groups = []
    while left:
        group = [left.pop(0)]
        while len(group) < size:
            others = [i for i in sorted(left) if ids[i] not in [ids[j] for j in group]]
            item = max(others, key=lambda i: score(group[-1], i)) if others else left[0]
            left.remove(item)
            group.append(item)
        groups.append(group)
    return groups


@pytest.mark.parametrize("seed", range(8))
def test_walk_is_that_of_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    size, width = int(rng.integers(2, 6)), int(rng.integers(3, 40))
    items = size * int(rng.integers(1, 13))
    queries, keys = rng.integers(-127, 128, (2, items, width)).astype(np.int8)
    keys[rng.random(items) < 0.1] = 0  # not known yet
    ids = rng.integers(0, items if seed % 2 else 4, items)  # 4: groups must repeat an image
    groups = walk(queries, keys, ids, size)
    assert groups.tolist() == slow_walk(queries, keys, ids, size)
    assert sorted(groups.ravel()) == list(range(items))


def made_index(rng, images, captions, longest=1_700):
    """Return an index in random order, as no builder would write it."""
    index = np.zeros(images * captions, INDEX_DTYPE)
    index["row"] = rng.permutation(np.repeat(np.arange(images), captions))
    index["image_id"] = 70 + index["row"]
    index["samples"] = rng.integers(1, longest, len(index))
    return index


def random_vectors(rng, index, width=16):
    rows = (len(index), int(index["row"].max()) + 1)
    return Vectors(*(pack_rows(rng.normal(size=(n, width)).astype(np.float32)) for n in rows))


def deal(index, spec, vectors, batch_size=24, seed=3, epoch=2):
    return deal_epoch(index["samples"], index, BUCKETS, batch_size, seed, epoch, spec, vectors)


@pytest.mark.parametrize("by", ["image", "caption", "both"])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_an_epoch_in_groups_has_the_captions_and_buckets_of_one_at_random(by, microbatches):
    rng = np.random.default_rng(0)
    index = made_index(rng, images=120, captions=3)
    vectors = random_vectors(rng, index)
    spec = GroupSpec(4, by=by, space=50, microbatches=microbatches)
    items, bucket = deal(index, spec, vectors)
    again = deal(index, spec, vectors)
    np.testing.assert_array_equal(items, again[0])
    np.testing.assert_array_equal(bucket, again[1])
    others = [deal(index, spec, vectors, epoch=3)[0], deal(index, spec, vectors, seed=4)[0]]
    assert all((items != other).mean() > 0.9 for other in others)

    plain, plain_bucket = plan_epoch(index["samples"], index["image_id"], BUCKETS, 24, 3, 2)
    for b in range(len(BUCKETS)):
        ours, theirs = items[bucket == b].ravel(), plain[plain_bucket == b].ravel()
        assert len(set(ours.tolist())) == len(ours)
        assert sorted(ours) == sorted(theirs)

    # Each group is one of those of its bucket, in one microbatch, in rows that follow each other.
    found = items.reshape(len(items), -1, microbatches).swapaxes(1, 2).reshape(-1, 4)
    ids = index["image_id"][found]
    assert sum(len(set(group)) < 4 for group in ids.tolist()) <= 0.03 * len(found)
    # The groups of a batch are from anywhere: neighbours of neighbours are not beside each other.
    assert len({tuple(sorted(group)) for group in found.tolist()}) == len(found)


def test_planted_look_alikes_are_together():
    """Pairs of pictures that differ by little, as minimal pairs do, and four captions of each."""
    rng = np.random.default_rng(1)
    index = made_index(rng, images=400, captions=2, longest=300)
    base = rng.normal(size=(200, 32))
    image = np.repeat(base, 2, axis=0) + 0.05 * rng.normal(size=(400, 32))
    speech = image[index["row"]] + 0.3 * rng.normal(size=(800, 32))
    vectors = Vectors(*(pack_rows(x.astype(np.float32)) for x in (speech, image)))

    def together(items):
        pairs = index["row"][items].reshape(-1, 8) // 2
        return np.mean([[list(group).count(pair) > 1 for pair in group] for group in pairs])

    # One space has half of the captions: here the first one of each image.
    for by, least in (("image", 0.97), ("caption", 0.9), ("both", 0.97)):
        assert together(deal(index, GroupSpec(8, by=by, space=400), vectors, 16)[0]) > least
    at_random = plan_epoch(index["samples"], index["image_id"], BUCKETS, 16, 3, 2)[0]
    assert together(at_random) < 0.1
    # A space that seldom holds both members cannot bring them together.
    small = together(deal(index, GroupSpec(8, space=40), vectors, 16)[0])
    assert 0.03 < small < 0.5
    # What is not known is dealt with its like.
    vectors.image[:100] = 0
    items, _ = deal(index, GroupSpec(8, space=400), vectors, 16)
    unknown = index["row"][items].reshape(-1, 8) < 100
    assert unknown.all(axis=1).sum() >= 22 and unknown.any(axis=1).sum() <= 28
    assert together(items) > 0.7


def test_search_spaces_are_as_asked_for():
    """With one group a space, groups are what the order at random gives."""
    rng = np.random.default_rng(2)
    index = made_index(rng, images=30, captions=1)
    vectors, captions = random_vectors(rng, index), rng.permutation(30)
    args = captions, index["image_id"][captions], index["row"][captions]
    groups = group_captions(*args, GroupSpec(3, space=5), vectors)
    np.testing.assert_array_equal(np.sort(groups), np.sort(captions.reshape(-1, 3)))
    whole = group_captions(*args, GroupSpec(3, space=30), vectors)
    halves = group_captions(*args, GroupSpec(3, space=29), vectors)
    assert set(halves[:5].ravel()) == set(captions[:15]) and (whole != halves).any()
    assert group_captions(*(x[:0] for x in args), GroupSpec(3), vectors).shape == (0, 3)


@pytest.mark.parametrize("width", [2, 128, 512, 2_048, 8_192])
def test_whole_numbers_keep_the_cosine_and_have_exact_products(width):
    rng = np.random.default_rng(width)
    x = rng.normal(size=(20, width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[3], x[4] = 0.0, np.eye(width)[0]
    packed = pack_rows(x)
    assert packed.dtype == np.int8 and not packed[3].any() and packed[4, 0] == 127
    np.testing.assert_array_equal(packed, np.asarray(pack_rows(jnp.asarray(x), jnp)))
    products = packed.astype(np.int64) @ packed.astype(np.int64).T
    assert np.abs(products).max() < 2**24
    np.testing.assert_array_equal(packed.astype(np.float32) @ packed.astype(np.float32).T, products)
    known = np.arange(20) != 3
    lengths = np.sqrt(np.diag(products)[known])
    cosines = products[np.ix_(known, known)] / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines, x[known] @ x[known].T, atol=0.01)
