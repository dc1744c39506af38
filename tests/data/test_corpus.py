"""A prepared corpus holds the planned records, undecoded and with random access."""

import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from sir_jax.data.builders.spoken_scenes import SPLITS, SceneConfig, plan_corpus
from sir_jax.data.corpus import INDEX_DTYPE, Corpus, index_path, open_corpus, write_index
from sir_jax.data.features import FlacAudio
from sir_jax.data.media.audio import TRIMMING, load_audio, spoken_part
from sir_jax.data.paths import data_dir
from sir_jax.data.pipeline import read_clip
from sir_jax.data.preparation.scenes import make_spoken_scenes
from sir_jax.errors import UserError

CONFIG = SceneConfig("compositional", 14, 4, 6, captions=2, voices=12, image_size=48, seed=3)
NAME = f"spoken_scenes/{CONFIG.name}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    make_spoken_scenes(CONFIG, root, workers=1)
    return root


@pytest.fixture(scope="module")
def corpus(root):
    return open_corpus(NAME, root)


def test_threads_open_each_split_once_and_one_at_a_time(root, corpus, monkeypatch):
    """TFDS imports itself lazily under two locks; two threads once deadlocked."""
    expected = [split[0] for split in corpus.splits.values()]
    opened, inside, together = [], [], []
    from_directory = tfds.builder_from_directory

    def slow(directory):
        inside.append(directory)
        together.append(len(inside))
        opened.append(directory)
        time.sleep(0.2)
        inside.pop()
        return from_directory(directory)

    monkeypatch.setattr(tfds, "builder_from_directory", slow)
    splits = list(open_corpus(NAME, root).splits.values())
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda n: splits[n % len(splits)][0], range(16)))
    assert records[: len(splits)] == expected
    assert len(opened) == len(splits) and set(together) == {1}


def test_records_are_what_was_planned(corpus):
    planned = {image.image_id: image for image in plan_corpus(CONFIG)}
    for name, split in corpus.splits.items():
        assert len(split) == CONFIG.images(name)
        for row in range(len(split)):
            record = split[row]
            image = planned.pop(record.image_id)
            assert image.split == name
            assert Image.open(io.BytesIO(record.image)).size == (48, 48)
            for caption, plan in zip(record.captions, image.captions, strict=True):
                assert (caption.caption_id, caption.text) == (plan.caption_id, plan.text)
                assert caption.speaker == plan.speaker
                wave, rate = soundfile.read(io.BytesIO(caption.audio), dtype="int16")
                assert rate == 16_000 and len(wave) == caption.samples
                assert np.abs(wave.astype(int)).max() > 3000
    assert not planned


def test_index_points_at_every_caption(corpus):
    assert list(corpus.splits) == list(SPLITS)
    for split in corpus.splits.values():
        assert split.index.dtype == INDEX_DTYPE
        assert (np.diff(split.index["caption_id"]) > 0).all()
        assert len(split.index) == 2 * len(split)
        for entry in split.index:
            caption = split[entry["row"]].captions[entry["slot"]]
            assert caption.caption_id == entry["caption_id"]
            assert caption.samples == entry["samples"]
            assert split[entry["row"]].image_id == entry["image_id"]


def test_split_pickles_small_and_can_be_read_again(corpus):
    split = corpus.splits["train"]
    first = split[0]
    stored = pickle.dumps(split)
    assert len(stored) < 1000
    again = pickle.loads(stored)
    assert again[0] == first
    np.testing.assert_array_equal(again.index, split.index)


def test_split_can_be_read_from_many_threads(corpus):
    split = pickle.loads(pickle.dumps(corpus.splits["train"]))
    rows = np.random.default_rng(0).integers(len(split), size=200)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda row: split[row].image_id, rows))
    assert ids == [corpus.splits["train"][row].image_id for row in rows]


@pytest.mark.parametrize("row", [-1, 14, 1000])
def test_row_outside_the_split_is_an_index_error(corpus, row):
    with pytest.raises(IndexError, match="of split 'train' with 14 images"):
        corpus.splits["train"][row]


def test_plain_tfds_reads_it_decoded(root, corpus):
    source = tfds.builder_from_directory(corpus.directory).as_data_source("val")
    record = source[0]
    same = corpus.splits["val"][0]
    assert record["image"].shape == (48, 48, 3)
    assert [len(wave) for wave in record["captions"]["audio"]] == [c.samples for c in same.captions]
    assert record["captions"]["audio"][0].dtype == np.int16


def test_nothing_but_the_corpus_is_left_behind(root, corpus):
    assert sorted(p.name for p in root.iterdir()) == ["spoken_scenes"]
    assert sorted(p.name for p in corpus.directory.parent.iterdir()) == [".lock", "1.0.0"]


def test_second_call_is_the_same_corpus(root, corpus):
    stamps = {p: p.stat().st_mtime_ns for p in corpus.directory.iterdir()}
    assert make_spoken_scenes(CONFIG, root).directory == corpus.directory
    assert {p: p.stat().st_mtime_ns for p in corpus.directory.iterdir()} == stamps


def test_missing_index_is_made_again(root, corpus):
    path = index_path(corpus.directory, "val")
    before = corpus.splits["val"].index.copy()
    path.unlink()
    with pytest.raises(UserError, match="make it with: sir-jax data spoken_scenes"):
        open_corpus(NAME, root)
    make_spoken_scenes(CONFIG, root)
    np.testing.assert_array_equal(open_corpus(NAME, root).splits["val"].index, before)
    write_index(corpus.directory, "val")
    np.testing.assert_array_equal(open_corpus(NAME, root).splits["val"].index, before)


def test_missing_corpus_says_which_command_makes_it(tmp_path):
    name = "spoken_scenes/two-i10-d2-t4-c1-v12-p64-s5"
    with pytest.raises(UserError) as caught:
        open_corpus(name, tmp_path)
    assert str(caught.value) == (
        f"corpus '{name}' is not in '{tmp_path}'; make it with: sir-jax data spoken_scenes "
        "--level=two --train_images=10 --val_images=2 --test_images=4 --captions=1 --voices=12 "
        f"--image_size=64 --seed=5 --engines=espeak --data_dir={tmp_path}"
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("flickr/none", "corpus 'flickr/none' is unknown"),
        ("spoken_scenes/one", "'one' is no spoken_scenes name; one looks like"),
        ("spoken_scenes", "'' is no spoken_scenes name"),
    ],
)
def test_wrong_name_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        open_corpus(name, tmp_path)


def test_data_dir_comes_from_argument_environment_or_default(monkeypatch, tmp_path):
    monkeypatch.delenv("SIR_JAX_DATA", raising=False)
    assert str(data_dir()) == "data"
    monkeypatch.setenv("SIR_JAX_DATA", str(tmp_path))
    assert data_dir() == data_dir("") == tmp_path
    assert str(data_dir("elsewhere")) == "elsewhere"


def test_corpora_on_disk_name_the_feature_by_a_path_that_stays(corpus):
    features = (corpus.directory / "features.json").read_text()
    assert '"sir_jax.data.features.FlacAudio"' in features


def test_flac_feature_round_trips_arrays_and_bytes():
    feature = FlacAudio(sample_rate=8000)
    wave = np.arange(-500, 500, dtype=np.int16)
    stored = feature.encode_example(wave)
    assert feature.encode_example(stored) == stored
    np.testing.assert_array_equal(feature.decode_example_np(stored), wave)
    assert soundfile.info(io.BytesIO(stored)).samplerate == 8000
    assert FlacAudio.from_json_content(feature.to_json_content()).sample_rate == 8000


def test_a_split_that_leaks_is_refused_with_the_way_out(corpus, tmp_path):
    assert corpus.split("val") is corpus.splits["val"]
    with pytest.raises(UserError, match="no split 'dev'; choose one of train, val, test"):
        corpus.split("dev")
    original = Corpus("spoken_coco/original", tmp_path, {"original_val": corpus.splits["val"]})
    assert original.split("original_val") is corpus.splits["val"]
    for name in ("val", "test"):
        with pytest.raises(UserError, match="ask for split .original_val. by name"):
            original.split(name)


def test_training_reads_clips_without_their_quiet_ends(root, corpus):
    """Lengths are kept beside the index; those of another form of trimming are made again."""
    assert corpus.to_learn(ConfigDict(dict(trim_silence="faint"))) is corpus
    whole, split = (
        corpus.splits["val"],
        corpus.to_learn(ConfigDict(dict(trim_silence="speech"))).splits["val"],
    )
    lengths = []
    for before, entry in zip(whole.index, split.index, strict=True):
        wave = load_audio(whole[before["row"]].captions[before["slot"]].audio)
        first, stop = spoken_part(wave)
        np.testing.assert_array_equal(
            read_clip(split, split[entry["row"]], entry), wave[first:stop]
        )
        lengths.append(stop - first)
    assert split.index["samples"].tolist() == lengths
    assert (split.index["samples"] < whole.index["samples"]).any()
    path = split.directory / "spoken-val.npz"
    np.savez(path, samples=np.array(lengths, np.int32) + 1, form=TRIMMING)
    kept = pickle.loads(pickle.dumps(split))
    assert kept.index["samples"].tolist() == [n + 1 for n in lengths]
    np.savez(path, samples=np.zeros(len(lengths), np.int32), form=TRIMMING - 1)
    again = pickle.loads(pickle.dumps(split))
    assert again.index["samples"].tolist() == lengths
