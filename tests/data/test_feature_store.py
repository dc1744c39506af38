"""Feature stores with random contents, written and read by the production code."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pipeline_helpers import BUCKETS, assert_same, data_config, draw, small_split

from sir_jax.config.presets import base_config
from sir_jax.data.feature_store import (
    BFLOAT16,
    FeatureReader,
    Features,
    Layout,
    read_manifest,
    rows_per_shard,
    shard_writer,
    write_manifest,
)
from sir_jax.data.pipeline import train_batches
from sir_jax.errors import UserError

FRAMES = {samples: samples // 100 for samples in BUCKETS}
WIDTH, TOKENS = 3, 5


def vectors(row: int, states: int, size: int) -> np.ndarray:
    """Return the record of a row; its values differ in every row, state, vector and channel."""
    x = np.random.default_rng((row, states, size)).standard_normal((states, size, WIDTH))
    return x.astype(BFLOAT16)


def make_store(folder: Path, sizes, states: int, per_shard: int) -> Layout:
    folder.mkdir(parents=True, exist_ok=True)
    layout = Layout(folder, np.asarray(sizes, np.int32), states, WIDTH, per_shard)
    for shard in range(layout.shards):
        with shard_writer(layout.shard_path(shard)) as write:
            for row in layout.shard_rows(shard):
                write(vectors(row, states, layout.sizes[row]))
    return layout


def clip_sizes(split) -> np.ndarray:
    """Return the frames of an encoder with 100 samples per frame; a clip has at least one."""
    return np.maximum(np.minimum(split.index["samples"], BUCKETS[-1]) // 100, 1)


def make_features(folder: Path, split, states: int = 2, speech: bool = True, image: bool = True):
    sizes = [TOKENS + 1] * len(split)
    return Features(
        FeatureReader(make_store(folder / "s", clip_sizes(split), states, 4)) if speech else None,
        FRAMES,
        FeatureReader(make_store(folder / "i", sizes, 1, 2)) if image else None,
    )


def plain_config():
    return data_config(crop_scale=(1.0, 1.0))


def test_every_row_is_read_back_in_any_order(tmp_path):
    sizes = np.random.default_rng(0).integers(1, 30, 23)
    layout = make_store(tmp_path, sizes, states=3, per_shard=5)
    assert layout.shards == 5 and layout.missing() == []
    # Records are sorted by size within a shard, so that the encoder's batches have little padding.
    first = layout.shard_rows(0)
    assert sorted(first) == [0, 1, 2, 3, 4] and (np.diff(sizes[first]) >= 0).all()
    reader = FeatureReader(layout)
    for row in np.random.default_rng(1).permutation(23):
        np.testing.assert_array_equal(reader[row], vectors(row, 3, sizes[row]))
    assert layout.row_bytes() == sizes.sum() * 3 * WIDTH * 2


def test_shards_are_near_their_size_and_never_too_many():
    sizes = np.full(10_000, 1_000, np.int32)
    # A record has 2,048,000 bytes, so that 131 of them fill 256 MiB.
    assert rows_per_shard(sizes, 1, 1_024, least=1) == 131
    assert rows_per_shard(sizes, 1, 1_024, least=200) == 200
    # Records 40 times as large: three would fill a shard, which would need 3,334 files.
    assert rows_per_shard(sizes, 40, 1_024, least=1) == 40


def test_a_batch_has_the_rows_of_its_captions_padded_with_zeros(tmp_path):
    split = small_split()
    features = make_features(tmp_path, split)
    captions, samples = np.array([4, 0, 20]), 1_600
    batch = features.read(captions, split.index["row"][captions], samples)
    assert set(batch) == {"speech_states", "frames", "image_tokens", "image_pooled"}
    assert batch["speech_states"].shape == (3, 2, 16, WIDTH)
    assert {x.dtype for name, x in batch.items() if name != "frames"} == {BFLOAT16}
    frames = clip_sizes(split)[captions]
    np.testing.assert_array_equal(batch["frames"], frames)
    assert batch["frames"].dtype == np.int32
    for out, row in enumerate(captions):
        states = batch["speech_states"][out]
        np.testing.assert_array_equal(states[:, : frames[out]], vectors(row, 2, frames[out]))
        assert not states[:, frames[out] :].any()
        (picture,) = vectors(split.index["row"][row], 1, TOKENS + 1)
        np.testing.assert_array_equal(batch["image_tokens"][out], picture[:TOKENS])
        np.testing.assert_array_equal(batch["image_pooled"][out], picture[TOKENS])


def test_one_state_comes_without_its_axis(tmp_path):
    split = small_split()
    features = make_features(tmp_path, split, states=1, image=False)
    assert features.modalities == ("speech",)
    batch = features.read(np.array([4]), np.array([1]), 1_600)
    assert set(batch) == {"speech_tokens", "frames"}
    size = clip_sizes(split)[4]
    np.testing.assert_array_equal(batch["speech_tokens"][0, :size], vectors(4, 1, size)[0])


def test_batches_have_the_captions_of_the_live_ones(tmp_path):
    split = small_split()
    live = draw(12, split, config=plain_config())
    stored = draw(12, split, config=plain_config(), features=make_features(tmp_path, split))
    for a, b in zip(live, stored, strict=True):
        np.testing.assert_array_equal(a["caption_ids"], b["caption_ids"])
        np.testing.assert_array_equal(a["image_ids"], b["image_ids"])
        assert not {"wave", "lengths", "pixels"} & set(b)
        assert b["speech_states"].shape[2] == FRAMES[a["wave"].shape[1]]


def test_a_modality_that_is_not_stored_is_decoded_as_before(tmp_path):
    split = small_split()
    live = draw(6, split, config=plain_config())
    speech = make_features(tmp_path / "a", split, image=False)
    image = make_features(tmp_path / "b", split, speech=False)
    for features, fields in ((speech, ("pixels",)), (image, ("wave", "lengths"))):
        for a, b in zip(
            live, draw(6, split, config=plain_config(), features=features), strict=True
        ):
            assert not (set(a) - set(fields) - {"image_ids", "caption_ids"}) & set(b)
            for name in fields:
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("options", [{"threads": 2}, {"num_workers": 1}])
def test_threads_and_workers_change_nothing(tmp_path, options):
    split = small_split()
    features = make_features(tmp_path, split)
    base = draw(8, split, config=plain_config(), features=features)
    again = draw(8, split, config=plain_config(), features=features, **options)
    assert again[0]["speech_states"].dtype == BFLOAT16
    assert_same(base, again)


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_resume_continues_with_the_next_batch(tmp_path, start):
    split = small_split()
    features = make_features(tmp_path, split)
    base = draw(14, split, config=plain_config(), features=features)
    assert_same(
        base[start:], draw(14 - start, split, config=plain_config(), features=features, start=start)
    )


def test_processes_share_the_rows_of_the_global_batch(tmp_path):
    split = small_split()
    features = make_features(tmp_path, split)
    whole = draw(6, split, config=plain_config(), features=features)
    parts = [
        draw(6, split, config=plain_config(), features=features, process_index=p, process_count=2)
        for p in range(2)
    ]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_augmentation_of_a_stored_modality_is_refused(tmp_path):
    split = small_split()
    features = make_features(tmp_path, split)
    config = plain_config()
    config.augment = base_config("tiny", "tiny").data.augment
    config.augment.image.brightness = 0.5
    with pytest.raises(UserError, match="data.augment changes what the image encoder reads"):
        train_batches(split, config, seed=0, start=0, num_threads=0, features=features)


def test_a_changed_byte_is_named_and_never_read(tmp_path):
    layout = make_store(tmp_path, [7] * 200, states=40, per_shard=100)
    path = layout.shard_path(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reader, named = FeatureReader(layout), []
    for row in range(200):
        try:
            np.testing.assert_array_equal(reader[row], vectors(row, 40, 7))
        except UserError as error:
            assert str(error).startswith(f"{path}: row {row} cannot be read")
            assert str(error).endswith("remove the file and featurize again")
            named.append(row)
    assert named and min(named) >= 100


def test_a_cut_shard_is_named(tmp_path):
    layout = make_store(tmp_path, [7] * 200, states=40, per_shard=100)
    path = layout.shard_path(1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"^{path} is damaged .*; remove the file and featurize"):
        FeatureReader(layout)


def test_records_of_another_size_are_refused(tmp_path):
    make_store(tmp_path, [4, 4, 4], states=2, per_shard=3)
    longer = Layout(tmp_path, np.array([5, 5, 5], np.int32), 2, WIDTH, 3)
    with pytest.raises(UserError, match="row 1 has 48 bytes, not \\(2, 5, 3\\)"):
        FeatureReader(longer)[1]
    more = Layout(tmp_path, np.array([4] * 2, np.int32), 2, WIDTH, 2)
    more.shard_path(0).write_bytes(longer.shard_path(0).read_bytes())
    with pytest.raises(UserError, match="holds 3 records and its manifest says 2"):
        FeatureReader(more)


def test_a_shard_takes_its_name_only_when_it_is_whole(tmp_path):
    layout = Layout(tmp_path, np.array([4, 4], np.int32), 1, WIDTH, 1)
    with pytest.raises(KeyError):
        with shard_writer(layout.shard_path(0)) as write:
            write(vectors(0, 1, 4))
            raise KeyError
    assert layout.missing() == [0, 1]
    with shard_writer(layout.shard_path(0)) as write:
        write(vectors(0, 1, 4))
    assert layout.missing() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["features-00000-of-00002.array_record"]


def test_manifest_comes_back_and_a_damaged_one_is_named(tmp_path):
    assert read_manifest(tmp_path) is None
    manifest = {"identity": {"modality": "speech"}, "rows_per_shard": 3}
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    for text in ("{", "[]", '{"identity": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="manifest.json cannot be read"):
            read_manifest(tmp_path)


def test_the_stream_has_no_end(tmp_path):
    """With 27 captions in batches of 4, the second epoch begins with the seventh batch."""
    split = small_split()
    features = make_features(tmp_path, split)
    batches = train_batches(
        split, plain_config(), seed=0, start=0, num_threads=0, features=features
    )
    seen = [tuple(batch["caption_ids"]) for batch in islice(batches, 12)]
    batches.close()
    for epoch in (seen[:6], seen[6:]):
        ids = [i for batch in epoch for i in batch]
        assert len(set(ids)) == 24
