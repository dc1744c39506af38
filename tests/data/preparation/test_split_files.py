"""The choice of spoken queries of a split."""

from types import SimpleNamespace

import numpy as np

from sir_jax.data.corpus import INDEX_DTYPE
from sir_jax.data.preparation.split_files import choose_queries


class VoicedSplit:
    """A split whose captions have speakers and nothing else."""

    def __init__(self, speakers_of_rows):
        self.rows = speakers_of_rows
        entries = [
            (row, slot, 1, 100 + row, 10 * row + slot)
            for row, speakers in enumerate(speakers_of_rows)
            for slot in range(len(speakers))
        ]
        self.index = np.array(entries, INDEX_DTYPE)

    def __getitem__(self, row):
        return SimpleNamespace(captions=[SimpleNamespace(speaker=s) for s in self.rows[row]])


def test_queries_are_of_different_images_and_voices():
    split = VoicedSplit([[f"v{(row * 3 + slot) % 7}" for slot in range(3)] for row in range(9)])
    for seed in range(20):
        chosen = choose_queries(split, 5, seed)
        speakers = {split.rows[q.row][q.slot] for q in chosen}
        assert len(chosen) == len({q.row for q in chosen}) == len(speakers) == 5
        assert all(
            q.image_id == 100 + q.row and q.caption_id == 10 * q.row + q.slot for q in chosen
        )
    assert choose_queries(split, 5, 0) == choose_queries(split, 5, 0)
    assert choose_queries(split, 5, 0) != choose_queries(split, 5, 1)


def test_voices_repeat_only_if_there_are_too_few():
    chosen = choose_queries(VoicedSplit([["a", "b"]] * 5), 5)
    assert len({q.row for q in chosen}) == 5
    assert len(choose_queries(VoicedSplit([["a"]] * 3), 5)) == 3
