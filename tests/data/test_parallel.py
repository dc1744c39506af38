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
