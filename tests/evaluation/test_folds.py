"""Folds: which images they hold, in which order, and the mean of their metrics."""

import types

import numpy as np
import pytest

from sir_jax.data.corpus import INDEX_DTYPE
from sir_jax.errors import UserError
from sir_jax.evaluation.folds import folds_of, mean_flat


class Five:
    """A split of five images whose order differs from that of their caption ids."""

    name = "test"
    # row, slot, samples, image id, caption id
    index = np.array(
        [(3, 0, 9, 13, 1), (0, 0, 9, 10, 2), (3, 1, 9, 13, 3), (4, 0, 9, 14, 4), (1, 0, 9, 11, 5)],
        INDEX_DTYPE,
    )

    def __len__(self):
        return 5

    def __getitem__(self, row):
        return types.SimpleNamespace(image_id=10 + row)


def test_folds_follow_the_caption_ids_and_leave_out_the_last_images():
    folds = folds_of(Five(), 2)
    assert [[fold[row].image_id for row in range(len(fold))] for fold in folds] == [
        [13, 10],
        [14, 11],
    ]
    first, second = (fold.index for fold in folds)
    assert first["caption_id"].tolist() == [1, 2, 3] and first["row"].tolist() == [0, 1, 0]
    assert second["caption_id"].tolist() == [4, 5] and second["row"].tolist() == [0, 1]
    # The image without a caption is last.
    assert [fold[4].image_id for fold in folds_of(Five(), 5)] == [12]
    assert Five.index["row"].tolist() == [3, 0, 3, 4, 1]  # the split itself is unchanged


def test_a_fold_larger_than_the_split_is_refused():
    with pytest.raises(UserError, match="'test' has 5 images, not the 6 of one fold"):
        folds_of(Five(), 6)


def test_mean_and_standard_deviation_of_two_folds():
    flats = [
        {
            "s2i_r1": 0.2,
            "mean_r1": 0.25,
            "reranked_mean_r1": 0.5,
            "captions_per_image_min": 5,
            "captions_per_image_max": 6,
        },
        {
            "s2i_r1": 0.4,
            "mean_r1": 0.35,
            "reranked_mean_r1": 0.5,
            "captions_per_image_min": 4,
            "captions_per_image_max": 5,
        },
    ]
    means = mean_flat(flats)
    assert means.pop("std_mean_r1") == pytest.approx(0.1 / np.sqrt(2))
    assert means == pytest.approx(
        {
            "s2i_r1": 0.3,
            "mean_r1": 0.3,
            "reranked_mean_r1": 0.5,
            "captions_per_image_min": 4,
            "captions_per_image_max": 6,
            "std_reranked_mean_r1": 0.0,
        }
    )
    assert mean_flat(flats[:1])["std_mean_r1"] == 0.0
