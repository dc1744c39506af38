"""The ordered map over threads."""

import pytest

from sir_jax.data.parallel import AHEAD, ordered_map


def test_ordered_map_is_lazy_and_ordered():
    drawn = []

    def source():
        for number in range(1000):
            drawn.append(number)
            yield number

    out = ordered_map(lambda n: n * n, source())
    assert [next(out) for _ in range(20)] == [n * n for n in range(20)]
    assert len(drawn) <= 20 + AHEAD
    out.close()


def test_groups_change_neither_the_order_nor_when_an_error_is_raised():
    assert list(ordered_map(lambda n: -n, range(21), group=4)) == [-n for n in range(21)]
    out = ordered_map(lambda n: 60 // (n - 10), range(21), group=4)
    assert [next(out) for _ in range(10)] == [60 // (n - 10) for n in range(10)]
    with pytest.raises(ZeroDivisionError):
        next(out)
