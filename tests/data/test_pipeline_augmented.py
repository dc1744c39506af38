"""The input pipeline with augmentation: processes, threads and workers change no batch."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from pipeline_helpers import MemorySplit, assert_same, augmented, draw

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.augment import change_speed, change_tempo


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> tuple[ConfigDict, list[dict]]:
    """Return the config and the first hundred batches, over eight epochs, with all effects on."""
    config = augmented(tmp_path_factory.mktemp("noise"), batch_size=2)
    return config, draw(100, config=config)


# One worker in the next two tests.
@pytest.mark.parametrize(("workers", "threads"), [(0, 2), (2, 1)])
def test_hundred_augmented_batches_do_not_depend_on_workers(hundred, workers, threads):
    config, expected = hundred
    assert_same(draw(100, config=config, num_workers=workers, threads=threads), expected)


def test_hundred_augmented_batches_are_shared_by_two_processes(hundred):
    config, expected = hundred
    halves = [
        draw(100, config=config, process_index=p, process_count=2, threads=2, num_workers=p)
        for p in range(2)
    ]
    for number, batch in enumerate(expected):
        joined = {k: np.concatenate([half[number][k] for half in halves]) for k in batch}
        assert_same([joined], [batch])


def test_augmented_batches_resume_at_any_of_a_hundred(hundred):
    config, expected = hundred
    for start in range(100):
        assert_same(draw(1, start=start, config=config), expected[start : start + 1])
    assert_same(draw(37, start=63, config=config, num_workers=1), expected[63:])


def test_augmentation_of_waveforms_changes_neither_order_nor_images():
    plain, off = draw(9), augmented()
    for effect in ("speed", "reverb", "noise", "telephone", "gain"):
        off.augment[effect].probability = 0.0
    off.augment.image.update(brightness=0.0, contrast=0.0, saturation=0.0, grey=0.0)
    assert_same(draw(9, config=off), plain)
    only_waves, only_colours = augmented(), augmented()
    only_waves.augment.image = off.augment.image
    only_colours.augment = off.augment.copy_and_resolve_references()
    only_colours.augment.image = augmented().augment.image
    waves, colours, both = (
        draw(9, config=config) for config in (only_waves, only_colours, augmented())
    )
    for was, wave, colour, all_on in zip(plain, waves, colours, both, strict=True):
        for key in ("image_ids", "caption_ids"):
            np.testing.assert_array_equal(all_on[key], was[key])
        np.testing.assert_array_equal(wave["pixels"], was["pixels"])
        np.testing.assert_array_equal(colour["wave"], was["wave"])
        np.testing.assert_array_equal(all_on["wave"], wave["wave"])
        np.testing.assert_array_equal(all_on["pixels"], colour["pixels"])
        assert not np.array_equal(wave["wave"], was["wave"])
        assert not np.array_equal(colour["pixels"], was["pixels"])


def only(effect: str, **values) -> ConfigDict:
    """Return a config with one effect on, in every clip."""
    config = augmented(normalize_wave=False, batch_size=2)
    for other in ("speed", "reverb", "noise", "telephone", "gain"):
        config.augment[other].probability = 0.0
    config.augment[effect].update(probability=1.0, **values)
    return config


@pytest.mark.parametrize("effect", ["speed", "tempo"])
def test_a_clip_is_slowed_only_as_far_as_its_bucket_allows(effect):
    change = {"speed": change_speed, "tempo": change_tempo}[effect]
    split = MemorySplit([[700], [800]])
    (batch,) = draw(1, split, config=only(effect, factor=(0.5, 0.5)))
    assert batch["wave"].shape == (2, 800) and batch["lengths"].tolist() == [800, 800]
    for wave, caption in zip(batch["wave"], batch["caption_ids"], strict=True):
        whole = load_audio(split[caption // 10].captions[0].audio)
        np.testing.assert_array_equal(wave, change(whole, len(whole) / 800))
    (batch,) = draw(1, split, config=only(effect, factor=(2.0, 2.0)))
    assert sorted(batch["lengths"].tolist()) == [350, 400]


def test_clips_go_into_the_bucket_that_has_room_for_their_silence():
    # 25 to 31 ms before and after each of 200 samples make 1,000 to 1,192 of them.
    spans = {"before": (0.025, 0.031), "after": (0.025, 0.031), "digital": 1.0}
    config = only("silence", **spans)
    config.buckets = (400, 1_200)
    split = MemorySplit([[200]] * 6)
    batches = draw(9, split, config=config)
    for batch in batches:
        assert batch["wave"].shape == (2, 1_200)
        for wave, length, caption in zip(
            batch["wave"], batch["lengths"], batch["caption_ids"], strict=True
        ):
            whole = load_audio(split[caption // 10].captions[0].audio)
            first = int(np.flatnonzero(wave)[0]) - int(np.flatnonzero(whole)[0])
            assert 400 <= first <= 496 and 400 <= length - first - 200 <= 496
            np.testing.assert_array_equal(wave[first : first + 200], whole)
            assert not wave[:first].any() and not wave[first + 200 :].any()
    assert_same(draw(9, split, config=config, num_workers=1), batches)
    assert_same(draw(2, split, start=7, config=config), batches[7:])


def test_silence_that_finds_no_room_shrinks():
    config = only("silence", before=(0.03, 0.03), after=(0.01, 0.01), digital=1.0)
    config.buckets = (300, 480)
    split = MemorySplit([[400], [400]])
    (batch,) = draw(1, split, config=config)
    # 640 samples of silence, three quarters of it before, shrink to 80.
    for wave, caption in zip(batch["wave"], batch["caption_ids"], strict=True):
        whole = load_audio(split[caption // 10].captions[0].audio)
        np.testing.assert_array_equal(wave[60:460], whole)
