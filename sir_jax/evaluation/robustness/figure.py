"""The grid's figure: recall under every condition, of one model or of several beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sir_jax.errors import UserError

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44")
_METRICS = (("s2i_r1", "o", "speech->image"), ("i2s_r1", "D", "image->speech"))


def draw(tables: Mapping[str, Sequence[Mapping[str, str]]]):
    """Draw R@1 both ways under every condition, with 95 % intervals.

    Args:
      tables: rows of `table.read_table` by the name of their model; the dashed lines are the clean
        condition's.

    Returns:
      A matplotlib figure: conditions at the left, parts of the clean split at the right.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figure needs matplotlib; pip install 'sir_jax[notebooks]'") from None
    rows = [row for table in tables.values() for row in table]
    grid = list(dict.fromkeys((r["family"], r["level"]) for r in rows if not r["part"]))
    parts = list(dict.fromkeys(r["part"] for r in rows if r["part"]))
    columns = 1 + bool(parts)
    figure = Figure(figsize=(6.5 * columns, 1.2 + 0.21 * max(len(grid), len(parts))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    _draw_column(axes[0], tables, [(f"{a} {b}".strip(), (a, b, "")) for a, b in grid])
    if parts:
        _draw_column(axes[1], tables, [(part, ("clean", "", part)) for part in parts])
    legend = axes[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=2 * columns, fontsize=7)
    return figure


def _draw_column(axis, tables, places: Sequence[tuple[str, tuple[str, str, str]]]) -> None:
    step = 0.7 / (len(tables) * len(_METRICS))
    for turn, ((name, rows), colour) in enumerate(zip(tables.items(), COLOURS, strict=False)):
        found = {(r["family"], r["level"], r["part"], r["metric"]): r for r in rows}
        for side, (metric, marker, title) in enumerate(_METRICS):
            offset = step * (turn * len(_METRICS) + side) - 0.35 + step / 2
            here = [
                (y + offset, found[*key, metric])
                for y, (_, key) in enumerate(places)
                if (*key, metric) in found
            ]
            values, lows, highs = (
                [100 * float(row[name]) for _, row in here] for name in ("value", "low", "high")
            )
            # Rounding may put a limit on the wrong side of its value.
            errors = [
                [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
                [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
            ]
            axis.errorbar(
                values,
                [y for y, _ in here],
                xerr=errors,
                fmt=marker,
                ms=3,
                lw=0.8,
                color=colour,
                mfc=colour if side == 0 else "white",
                label=f"{name}, {title}",
            )
        if clean := found.get(("clean", "", "", "s2i_r1")):
            axis.axvline(100 * float(clean["value"]), color=colour, ls="--", lw=0.7)
    axis.set_yticks(range(len(places)), [label for label, _ in places], fontsize=7)
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set_xlim(0, 100.5)
    axis.set_xlabel("R@1, %")
    axis.grid(axis="x", lw=0.3)


def save(tables: Mapping[str, Sequence[Mapping[str, str]]], path: Path) -> None:
    """Draw the figure into a file; see `draw`."""
    draw(tables).savefig(path, dpi=110)
