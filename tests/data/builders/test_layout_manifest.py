"""A user's manifest, as CSV and as JSON lines, with all sorts of bad lines."""

import pytest

from sir_jax.data.builders.manifest.layout import manifest_layout
from sir_jax.data.builders.recordings import PlannedCaption
from sir_jax.errors import UserError


def test_manifest_as_csv_with_every_bad_line(tmp_path):
    rows = [
        "image,audio,image_id,split,text,speaker",
        "a.png,1.wav,one,train,words with a comma?,ann",
        'a.png,2.wav,one,train,"a, b",7',
        "b.png,3.wav,one,train,,",
        "a.png,4.wav,one,test,,",
        ",5.wav,,,,",
        "c.png,,,,,",
        "c.png,6.wav,,all,,",
        "c.png,7.wav,,two words,,",
        "c.png,8.wav",
        "c.png,9.wav,,val_seen,,",
    ]
    rows = [row.encode() for row in rows] + [b"d\xff.png,10.wav,,,,", b"a.png,2.wav,one,,,"]
    (tmp_path / "list.csv").write_bytes(b"\r\n".join(rows))
    layout = manifest_layout(tmp_path / "list.csv", "mine", tmp_path)
    plan = layout.plan(tmp_path, "mine")
    assert [(i.image_id, i.key, i.split, i.image) for i in plan.images] == [
        (0, "one", "train", "a.png"),
        (1, "c.png", "val_seen", "c.png"),
    ]
    assert plan.images[0].captions == (
        PlannedCaption(2, "1.wav", "1.wav", "words with a comma?", "ann"),
        PlannedCaption(3, "2.wav", "2.wav", "a, b", "7"),
    )
    assert [(p.path, p.reason) for p in plan.problems] == [
        ("b.png", "duplicate id"),
        *((f"list.csv:{n}", "bad metadata") for n in (5, 6, 7, 8, 9, 10, 12)),
        ("2.wav", "duplicate id"),
    ]


def test_manifest_as_json_lines(tmp_path):
    lines = [
        '{"image": "a.png", "audio": "1.wav", "speaker": 7, "text": null}',
        "",
        "[1]",
        "{}",
        '{"image": "a.png", "audio": 2}',
        '{"image": "a.png", "audio": true}',
        "null",
        '{"image": "a.png", "audio": "\\ud800.wav"}',
        '{"image": "a.png", "audio": "b\\u0000"}',
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    plan = manifest_layout(tmp_path / "list.jsonl", "mine", tmp_path).plan(tmp_path, "mine")
    assert [image.captions for image in plan.images] == [
        (PlannedCaption(1, "1.wav", "1.wav", "", "7"), PlannedCaption(5, "2", "2", "", ""))
    ]
    assert [p.path for p in plan.problems] == [f"list.jsonl:{n}" for n in (3, 4, 6, 7, 8, 9)]


@pytest.mark.parametrize(
    "name, text",
    [("x.csv", "image,audio,speeker\n"), ("x.jsonl", '{"image": "a", "audio": "b", "speeker": 1}')],
)
def test_unknown_column_is_refused_with_the_nearest(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    layout = manifest_layout(tmp_path / name, "mine", tmp_path)
    with pytest.raises(UserError, match=f"{name}:1: no column 'speeker'; did you mean 'speaker'"):
        layout.plan(tmp_path, "mine")
