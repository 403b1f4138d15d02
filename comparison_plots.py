"""Figures that compare: models by accuracy and size, losses of a distillation, layers by what channels are worth."""

import itertools
import math
import textwrap

from errors import InputError
from plots import COLOURS, GREY, MARKERS, dress, heat_map, new_figure, numbers_of, plain_text


def _column(rows, key, low=0):
    """One number a row."""
    if not rows:
        raise InputError("rows: received none, expected one or more")
    return [numbers_of({key: [row.get(key)]}, key, f"row {row.get('name')!r}", low)[0] for row in rows]


def plot_models(rows: list[dict], split="test"):
    """Accuracy against parameters and, beside it, against multiply-accumulates; smaller is to the left.

    Args:
        rows: one dict a model: name, test_acc (0 to 1), parameters and macs (each at least 1), and optionally spread
            (0 to 1), the standard deviation of test_acc, drawn to either side.
        split: what the accuracy was measured on, for the axis.

    Returns:
        A figure of two axes: accuracy (%) over millions of parameters, and over millions of MACs, both log.

    Raises:
        InputError: no row, or a number that is missing or out of range.
    """
    heights = _column(rows, "test_acc")
    spreads = _column([{"spread": 0} | row for row in rows], "spread")
    figure = new_figure(10.5, 4.6)
    both = figure.subplots(1, 2, sharey=True)
    for axes, key, name in zip(both, ("parameters", "macs"), ("parameters", "MACs"), strict=True):
        sizes = [v / 1e6 for v in _column(rows, key, 1)]
        dress(axes, f"Accuracy against {name}", f"← smaller     {name} (millions, log scale)",
               f"{split} accuracy (%)" if axes is both[0] else "")
        for i, point in enumerate(zip(sizes, heights, strict=True)):
            axes.errorbar(*point, spreads[i] or None, fmt="none", ecolor=GREY, elinewidth=1.2)
            axes.plot(*point, linestyle="none", color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                      markersize=9, markeredgecolor="white", label=plain_text(rows[i].get("name"), 40))
        size_axis(axes, sizes)
    figure.draw_without_rendering()  # fixes the places to which names are fitted
    for axes in both:
        place_names(axes)
    return figure


def size_axis(axes, sizes):
    """A logarithmic x axis with plain numbers, for sizes above 0, and room around the points."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
    axes.margins(0.2)
    axes.set_xscale("log")
    span = max(sizes) / min(sizes)  # within a small one 1, 2, 5 would leave an axis with one tick or none
    axes.xaxis.set_major_locator(MaxNLocator(5) if 1 < span < 5 else LogLocator(
        subs=(1, 2, 5) if span < 300 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def place_names(axes):
    """Writes each point's label beside it, where it covers least of other names and points.

    A point is a line of one place; one whose label begins with an underscore has no name, and others keep clear of it.
    The figure must have been drawn once, so that places are fixed.
    """
    from matplotlib.transforms import Bbox

    def shared(box, other):
        both = Bbox.intersection(box, other)
        return both.width * both.height if both else 0

    unit = axes.figure.dpi / 72  # pixels in a point; all that follows is in points
    inside, lines = Bbox(axes.bbox.get_points() / unit), [line for line in axes.lines if len(line.get_xdata()) == 1]
    centres = [axes.transData.transform(line.get_xydata()[0]) / unit for line in lines]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in centres]
    ways = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
    for line, (x, y) in zip(lines, centres, strict=True):
        if line.get_label().startswith("_"):
            continue
        point = line.get_xydata()[0]
        text = axes.annotate(line.get_label(), point, (0, 0), textcoords="offset points", fontsize=10, va="bottom")
        extent, best = text.get_window_extent(), (math.inf,)
        width, height = extent.width / unit, extent.height / unit
        for far, (dx, dy) in itertools.product((10, 18, 28, 40, 54), ways):
            corner = far * dx + width * (dx - 1) / 2, far * dy + height * (dy - 1) / 2
            box = Bbox.from_bounds(x + corner[0], y + corner[1], width, height)
            cost = sum(shared(box, other) for other in taken) + 2 * (width * height - shared(box, inside))
            cost = round(cost + far * math.hypot(dx, dy))  # whole: between equals the first way wins
            best = min(best, (cost, far, dx, dy, corner, box), key=lambda spot: spot[0])
        _, far, dx, dy, corner, box = best
        text.set(position=corner, in_layout=False)
        taken.append(box)
        if far > 10:  # too far to be seen as the point's name without a line
            axes.annotate("", point, (far * dx, far * dy), textcoords="offset points", in_layout=False,
                          arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8})


def plot_ablation(rows: list[dict]):
    """One line of dots a variant: validation accuracy and, where given, test accuracy, each with its number.

    Args:
        rows: one dict a variant: name, val_acc and optionally test_acc (0 to 1). The first is drawn on top.

    Returns:
        A figure of one axes, accuracies in per cent.

    Raises:
        InputError: no row, or a number that is missing or out of range.
    """
    tested = [i for i, row in enumerate(rows) if row.get("test_acc") is not None]
    valid, test = _column(rows, "val_acc"), _column([rows[i] for i in tested], "test_acc") if tested else []
    shift = 0.17 if tested else 0.0
    figure = new_figure(7.5, 1.4 + (0.58 if tested else 0.42) * max(2, len(rows)))
    axes = figure.subplots()
    dress(axes, "", "accuracy (%)")
    for values, places, name, colour, marker in (
            (valid, [i - shift for i in range(len(rows))], "validation", COLOURS[0], "o"),
            (test, [i + shift for i in tested], "test", COLOURS[1], "D")):
        if values:
            axes.plot(values, places, marker, linestyle="none", color=colour, markersize=7, label=name)
        for value, place in zip(values, places, strict=True):
            axes.annotate(f"{value:.2f}", (value, place), (8, 0), textcoords="offset points", va="center",
                          fontsize=10, color=colour)
    axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(plain_text(row.get("name"), 68), 34)) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, room = min(valid + test), max(max(valid + test) - min(valid + test), 0.1)
    axes.set_xlim(low - 0.08 * room, low + 1.2 * room)  # the numbers stand on the right
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    return figure


def plot_sensitivity(result: dict):
    """A heat map of the accuracy that each layer costs: a row a layer, a column a share of its channels.

    Args:
        result: what sensitivity.py records: acc (0 to 1, the whole network's), shares, and layers, a list of dicts
            with layer and acc (0 to 1, a list over the shares).

    Returns:
        A figure whose first axes holds the image of the accuracy lost (points) and, in up to 20 columns, the numbers;
        its second is the colour bar.

    Raises:
        InputError: no layer, lists of unequal length, or a number that is missing or out of range.
    """
    shares = numbers_of(result, "shares", "sensitivity", 0)
    whole = numbers_of({"val_acc": [result.get("acc")]}, "val_acc", "sensitivity")[0]
    left = [numbers_of({"val_acc": row.get("acc")}, "val_acc", f"layer {row.get('layer')!r}")
            for row in result.get("layers", [])]
    if not left or any(len(row) != len(shares) for row in left):
        raise InputError(f"sensitivity: received layers of {sorted({len(row) for row in left})} accuracies, expected "
                         f"{len(shares)} in each")
    lost = [[whole - acc for acc in row] for row in left]
    texts = [[f"{round(value, 1) + 0.0:.1f}" for value in row] for row in lost] if len(shares) <= 20 else []
    images = f", {result['images']:,} images" if isinstance(result.get("images"), int) else ""
    return heat_map(lost, texts, [str(row.get("layer")).removesuffix("_conv") for row in result["layers"]],
                    [f"{100 * share:g}" for share in shares], (0, max(1.0, *map(max, lost))),
                    (f"Sensitivity by {plain_text(result.get('criterion'), 12)}",
                     "this layer's channels removed (%)", f"accuracy lost (points of {whole:.1f} %{images})"),
                    "viridis_r")
