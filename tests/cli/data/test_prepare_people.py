"""The options of `data prepare` for recordings of people."""

import pytest

from sir_jax.cli.data.prepare import choose, parse
from sir_jax.errors import UserError


def test_options_choose_a_corpus(tmp_path):
    source = f"--source={tmp_path}"
    words = ["tux_paint_stamps", source, "--languages=all,fr:both", "--hold_out=fr", "--voices=3"]
    layout, config, found = choose(parse(words))
    assert (layout.name, config) == ("tux_paint_stamps", "h.all_s.fr_out.fr_p0_v3")
    assert layout.same_pictures and found.local == tmp_path
    layout, again, _ = choose(parse([f"tux_paint_stamps/{config}", source]))
    assert again == config
    words = ["voices", source, "--parts=letters,stamps", "--hold-out=fr,es", "--synthesised=9"]
    layout, config, _ = choose(parse(words))
    assert (layout.name, config) == ("voices", "stamps.letters_out.es.fr_s9")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["voices"], "--source is missing: give the folder of launch/get_voices.sh"),
        (["voices", "--source=gone"], "source 'gone': no such folder; run: bash launch/get_voices"),
        (["voices", "--source=.", "--voices=3"], "--voices is for `prepare tux_paint_stamps`, not"),
        (["voices", "--archives=."], "--archives is not for voices; give --source"),
        (["voices", "--source=.", "--name=x"], "--name is not for voices; give --source"),
        (["voices", "--source=.", "--allow_leaks"], "--allow_leaks is for `prepare manifest`; a"),
        (["flickr8k_audio", "--hold_out=fr"], "--hold_out is for `prepare` of tux_paint_stamps, v"),
        (
            ["voices/letters_out.none_s0", "--source=.", "--parts=letters"],
            "voices/letters_out.none_s0 has its options in its name; leave out --parts",
        ),
        (
            ["tux_paint_stamps/all", "--source=."],
            "'all' is no name of a tux_paint_stamps corpus; one looks like 'h.all_s.none_out",
        ),
    ],
)
def test_wrong_options_are_one_line(words, line):
    with pytest.raises(UserError) as caught:
        choose(parse(words))
    assert str(caught.value).startswith(line)
