"""What was asked for holds from the first finished stage on, and files that change are noticed."""

import os

import pytest
from captioned import write_pictures

from sir_jax.errors import UserError
from sir_jax.learning import Wish
from sir_jax.learning.record import Record, stamp_of


def test_what_is_asked_may_change_until_a_stage_is_finished(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    record = Record(out, {"voices": 2})
    record.chosen["steps"] = 7
    record.write()
    assert Record(out, {"voices": 2}).chosen == {"steps": 7}
    assert Record(out, {"voices": 3}).chosen == {}
    record.finish("corpus", name="a")
    assert Record(out, {"voices": 2}).done == {"corpus": {"name": "a"}}
    with pytest.raises(
        UserError, match="was begun otherwise: voices is 2 there and 3 here; choose"
    ):
        Record(out, {"voices": 3})


def test_a_stamp_follows_pictures_and_captions(tmp_path):
    images = write_pictures(tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "names.csv").write_text("file,fr\na.png,oui\n")
    wish = Wish(images, tmp_path / "out", captions=tmp_path / "names.csv")
    stamps = [stamp_of(wish)]
    assert stamp_of(wish) == stamps[0]
    (tmp_path / "names.csv").write_text("file,fr\na.png,non\n")
    os.utime(tmp_path / "names.csv", ns=(1, 1))
    stamps.append(stamp_of(wish))
    (images / "a.txt").write_text("words beside it")
    stamps.append(stamp_of(wish))
    (images / "b.png").unlink()
    stamps.append(stamp_of(wish))
    assert len(set(stamps)) == 4
