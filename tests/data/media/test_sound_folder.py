"""A user's folder of sounds: its files, their order, and the cache."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.sound_folder import SoundFolder
from sir_jax.errors import UserError

FIELD = "data.augment.noise.folder"


def write(path, samples: int, container: str = "WAV", rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 0.1 * np.random.default_rng(samples).standard_normal(samples)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=container)
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "b.wav", 300)
    write(tmp_path / "a" / "z.FLAC", 200, "FLAC")
    write(tmp_path / "a" / "c.ogg", 4_000, "OGG", 8_000)
    (tmp_path / "README.txt").write_text("who recorded what")
    (tmp_path / "empty.wav").mkdir()
    return tmp_path


def test_sounds_come_sorted_at_16_khz(folder):
    sounds = SoundFolder(str(folder), FIELD)
    expected = [folder / "a" / "c.ogg", folder / "a" / "z.FLAC", folder / "b.wav"]
    assert len(sounds) == 3
    for number, path in enumerate(expected):
        np.testing.assert_array_equal(sounds[number], load_audio(path))
    assert [len(sounds[i]) for i in range(3)] == [8_000, 200, 300]


def test_a_file_is_read_once_and_cannot_be_changed_in_memory(folder):
    sounds = SoundFolder(str(folder), FIELD)
    first = sounds[2]
    (folder / "b.wav").write_bytes(b"gone")
    assert sounds[2] is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1.0


def test_memory_is_bounded_and_the_least_recently_used_sound_is_evicted(folder):
    # 200 and 300 float32 fit into the cache, 8000 more do not.
    sounds = SoundFolder(str(folder), FIELD, cache_bytes=2_000)
    short, longer = sounds[1], sounds[2]
    assert sounds[1] is short and sounds[2] is longer
    assert sounds[0] is not sounds[0] and sounds[1] is short
    sounds = SoundFolder(str(folder), FIELD, cache_bytes=1_500)
    kept = sounds[1]
    sounds[2]
    again = sounds[1]
    assert again is not kept
    np.testing.assert_array_equal(again, kept)


def test_sounds_are_found_by_their_content(folder):
    write(folder / "d.opus.part", 200, "OGG")
    write(folder / "._b.wav", 200)
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))
    sounds = SoundFolder(str(folder), FIELD)
    assert len(sounds) == 4
    np.testing.assert_array_equal(sounds[3], load_audio(folder / "d.opus.part"))


def test_threads_share_a_folder(folder):
    sounds = SoundFolder(str(folder), FIELD, cache_bytes=2_000)
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda i: sounds[i % 3], range(60)))
    for i, sound in enumerate(actual):
        np.testing.assert_array_equal(sound, actual[i % 3])


def test_workers_scan_the_folder_again_and_refuse_other_files(folder):
    for i in range(200):
        write(folder / "more" / f"a-long-name-for-a-sound-{i}.wav", 10)
    sounds = SoundFolder(str(folder), FIELD)
    sounds[0]
    data = pickle.dumps(sounds)
    assert len(data) < 1_000
    twin = pickle.loads(data)
    assert len(twin) == 203
    np.testing.assert_array_equal(twin[2], sounds[2])
    (folder / "b.wav").unlink()
    with pytest.raises(UserError, match=f"{FIELD}='.*': its files changed while it was in use"):
        pickle.loads(data)[0]
    assert len(sounds) == 203


def test_bad_folders_and_files_are_named(folder):
    with pytest.raises(UserError, match=f"{FIELD}='.*absent': no such folder"):
        SoundFolder(str(folder / "absent"), FIELD)
    with pytest.raises(UserError, match=f"{FIELD}='.*empty.wav': holds no sound file"):
        SoundFolder(str(folder / "empty.wav"), FIELD)
    (folder / "b.wav").write_bytes(b"no sound")
    write(folder / "c.wav", 0)
    sounds = SoundFolder(str(folder), FIELD)
    with pytest.raises(UserError, match="b.wav: not a wav"):
        sounds[2]
    with pytest.raises(UserError, match=f"c.wav: holds no samples; remove it from {FIELD}"):
        sounds[3]
