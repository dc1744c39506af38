"""Token features are read back from their file unchanged; chunks fit the budget."""

import os
import resource

import ml_dtypes
import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.inference.token_store import TokenStore, plan_both, plan_chunks


def entries(lengths, width=8, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, width)).astype(dtype) for n in lengths]


def open_files(folder):
    """List the files of a folder that this process has open or mapped, deleted ones included."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    with open("/proc/self/maps") as maps:
        return [line for line in [*links, *maps] if str(folder) in line]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_entries_are_read_back_unchanged(dtype):
    written = entries((3, 1, 7, 2, 5), dtype=dtype)
    with TokenStore() as store:
        for owner, tokens in zip((4, 0, 4), written, strict=False):
            store.append(owner, tokens)
        tokens, mask = store.batch([2, 0, 2], 9)
        assert tokens.dtype == dtype and tokens.shape == (3, 9, 8)
        np.testing.assert_array_equal(mask.sum(axis=1), [7, 3, 7])
        for row, entry in enumerate((2, 0, 2)):
            np.testing.assert_array_equal(tokens[row, mask[row]], written[entry])
        assert not tokens[~mask].any() and mask[1, :3].all()

        # A store can grow after it was read. Arrays that are not contiguous are written in order.
        store.append(1, np.asfortranarray(written[3]))
        store.append(2, np.repeat(written[4], 2, axis=0)[::2])
        tokens, mask = store.batch(np.array([4, 3]), 5)
        np.testing.assert_array_equal(tokens[0], written[4])
        np.testing.assert_array_equal(tokens[1, :2], written[3])
        np.testing.assert_array_equal(store.owners, [4, 0, 4, 1, 2])
        np.testing.assert_array_equal(store.lengths, [3, 1, 7, 2, 5])
        assert len(store) == 5 and store.token_bytes == 8 * np.dtype(dtype).itemsize + 1


def test_the_file_is_unnamed_and_vanishes_after_use_and_after_an_error(tmp_path):
    with TokenStore(tmp_path) as store:
        store.append(0, entries([3])[0])
        kept, _ = store.batch([0], 3)
        assert open_files(tmp_path) and not list(tmp_path.iterdir())
    assert not open_files(tmp_path)
    np.testing.assert_array_equal(kept[0], entries([3])[0])  # a copy outlives the file

    with pytest.raises(ZeroDivisionError), TokenStore(tmp_path) as store:
        store.append(0, entries([3])[0])
        store.batch([0], 3)
        raise ZeroDivisionError
    assert not open_files(tmp_path) and not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TokenStore(tmp_path) as store:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((3 << 20) + 100, hard))
            with pytest.raises(UserError, match="no room for token features after 3 MiB.*TMPDIR"):
                for owner in range(5):
                    store.append(owner, np.zeros((1024, 256), np.float32))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(store) == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 7), np.float32), r"\[n, 8\], not \(2, 7\)"),
        (np.zeros((0, 8), np.float32), r"\[n, 8\], not \(0, 8\)"),
        (np.zeros((2, 8), np.float16), "float32, not float16"),
    ],
)
def test_entries_of_another_shape_or_dtype_are_refused(tokens, message):
    with TokenStore() as store:
        store.append(0, entries([3])[0])
        with pytest.raises(ValueError, match=message):
            store.append(1, tokens)


def test_chunks_of_one_length_have_one_shape():
    lengths = np.array([5, 64, 65, 1, 130, 64, 20, 33])
    chunks = plan_chunks(lengths, token_bytes=2, multiple=64, budget=4 * 64 * 2)
    plan = [(list(c.entries), c.rows, c.length) for c in chunks]
    # Four of the six entries of 64 tokens would fit into a chunk; they are spread evenly, three and
    # three. The two longer entries are each the only one of their padded length.
    assert plan == [
        ([0, 1, 3], 3, 64),
        ([5, 6, 7], 3, 64),
        ([2], 1, 128),
        ([4], 1, 192),
    ]
    chunks = plan_chunks(lengths[:2], token_bytes=2, multiple=64, budget=64)
    assert [(list(c.entries), c.rows, c.length) for c in chunks] == [([0], 1, 64), ([1], 1, 64)]
    (chunk,) = plan_chunks(lengths[[0, 1, 3]], token_bytes=2, multiple=64, budget=1 << 20)
    assert chunk.rows == 3 and list(chunk.padded_entries) == [0, 1, 2]
    last = plan_chunks(np.full(7, 3), token_bytes=1, multiple=1, budget=9)[-1]
    assert last.rows == 3 and list(last.entries) == list(last.padded_entries[:1]) == [6]
    assert list(last.padded_entries) == [6, 6, 6]


@pytest.mark.parametrize(("images", "patches"), [(5000, 257), (300, 50)])
@pytest.mark.parametrize("budget", [64 << 20, 512 << 20])
def test_a_large_corpus_fits_the_budget_in_few_shapes(images, patches, budget):
    # SpokenCOCO's test split in bfloat16: clips of 1.2 to 20 s at 50 Hz.
    lengths = np.random.default_rng(1).integers(60, 1000, 25_031)
    bytes_s, bytes_i = 768 * 2 + 1, 1024 * 2 + 1
    speech, pictures = plan_both(lengths, bytes_s, np.full(images, patches), bytes_i, 64, budget)
    for plan, count in ((speech, 25_031), (pictures, images)):
        np.testing.assert_array_equal(
            np.sort(np.concatenate([c.entries for c in plan])), np.arange(count)
        )
        assert all(1 <= len(c.entries) <= c.rows for c in plan)
    assert all(lengths[c.entries].max() <= c.length for c in speech)
    size_s = [c.rows * c.length * bytes_s for c in speech]
    size_i = [c.rows * c.length * bytes_i for c in pictures]
    assert max(size_s) + max(size_i) <= budget
    assert len({(c.rows, c.length) for c in speech}) <= 16
    assert len({(c.rows, c.length) for c in pictures}) == 1
    # The budget is used well: there is little padding, and clips get what images do not need.
    assert sum(size_s) < 1.2 * (lengths * bytes_s).sum()
    assert max(size_s) > 0.75 * (budget - max(size_i))
