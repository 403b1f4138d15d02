"""Figures that compare: models by accuracy and size, losses of a distillation, layers by what channels are worth."""

import textwrap

from compress.errors import InputError
from compress.plots import roles, size_axes
from compress.plots.style import GREY, count_unit, dress, heat_map, legend_below, new_figure, numbers_of, plain_text


def _column(rows, key, low=0):
    """One number a row."""
    if not rows:
        raise InputError("rows: received none, expected one or more")
    return [numbers_of({key: [row.get(key)]}, key, f"row {row.get('name')!r}", low)[0] for row in rows]


def plot_models(rows: list[dict], split="test"):
    """Accuracy against parameters and, beside it, against multiply-accumulates; smaller is to the left.

    Args:
        rows: one dict a model: name, test_acc (0 to 1), parameters and macs (each at least 1), and optionally spread
            (0 to 1), the standard deviation of test_acc, drawn to either side, and role, of `roles.LOOKS`.
        split: what the accuracy was measured on, for the axis.

    Returns:
        A figure of two axes: accuracy (%) over millions or thousands of parameters, and over MACs, both log.

    Raises:
        InputError: no row, or a number that is missing or out of range.
    """
    heights = _column(rows, "test_acc")
    spreads = _column([{"spread": 0} | row for row in rows], "spread")
    figure = new_figure(10.5, 4.9)
    both = figure.subplots(1, 2, sharey=True)
    used = [role for role in roles.LOOKS if any(known_role(row.get("role")) == role for row in rows)]
    role_legend(figure, used)
    for axes, key, name in zip(both, ("parameters", "macs"), ("parameters", "MACs"), strict=True):
        sizes = _column(rows, key, 1)
        divisor, unit = count_unit(max(sizes))
        dress(
            axes,
            f"Accuracy against {name}",
            f"← smaller     {name} ({unit}, log scale)",
            f"{split} accuracy (%)" if axes is both[0] else "",
        )
        left_out = size_axes.draw(
            axes,
            [
                size_axes.Dot(size / divisor, height, row.get("role"), str(row.get("name")), spread)
                for row, size, height, spread in zip(rows, sizes, heights, spreads, strict=True)
            ],
        )
        if left_out:
            axes.set_title(
                f"{left_out} {'name has' if left_out == 1 else 'names have'} no room",
                loc="right",
                fontsize=9,
                color=GREY,
            )
    return figure


def known_role(role):
    """The role itself, or 'other' for what is none."""
    return role if role in roles.LOOKS else "other"


def role_legend(figure, used, extra=()):
    """Under the axes: the colour and marker of each role that is used; `extra` handles behind them."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=roles.colour(role),
            marker=roles.marker(role),
            markersize=8,
            linestyle="none",
            markeredgecolor="white",
            label=role,
        )
        for role in used
    ]
    legend_below(figure, [*(handles if used != ["other"] else []), *extra])


def plot_ablation(rows: list[dict], roles_of=None, width=7.5):
    """One line of dots a variant: validation accuracy and, where given, test accuracy, each with its number.

    Args:
        rows: one dict a variant: name, val_acc and optionally test_acc (0 to 1). The first is drawn on top.
        roles_of: role of each row's network, of `roles.LOOKS`; None: a teacher of unknown role and its students.
        width: of the figure, in inches.

    Returns:
        A figure of one axes, accuracies in per cent.

    Raises:
        InputError: no row, or a number that is missing or out of range.
    """
    from matplotlib.lines import Line2D

    # Validation and test accuracy of a row lie on two lines, a little above and below its middle.
    tested = [i for i, row in enumerate(rows) if row.get("test_acc") is not None]
    valid, test = _column(rows, "val_acc"), _column([rows[i] for i in tested], "test_acc") if tested else []
    shift = 0.17 if tested else 0.0
    figure = new_figure(width, 1.7 + (0.58 if tested else 0.42) * max(2, len(rows)))
    axes = figure.subplots()
    dress(axes, "", "accuracy (%)" if tested else "validation accuracy (%)")
    looks = [known_role(role) for role in (roles_of or [None] + ["student"] * (len(rows) - 1))]
    for values, places, members, name, fill in (
        (valid, [i - shift for i in range(len(rows))], looks, "validation", "full"),
        (test, [i + shift for i in tested], [looks[i] for i in tested], "test", "none"),
    ):
        for value, place, role in zip(values, places, members, strict=True):
            axes.plot(
                [value],
                [place],
                marker=roles.marker(role),
                linestyle="none",
                color=roles.colour(role),
                markersize=7,
                fillstyle=fill,
                label=f"_{name}",
            )
            axes.annotate(f"{value:.2f}", (value, place), (8, 0), textcoords="offset points", va="center", fontsize=10)
    names = ["\n".join(textwrap.wrap(plain_text(row.get("name"), 68), int(4.5 * width))) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, room = min(valid + test), max(max(valid + test) - min(valid + test), 0.1)
    axes.set_xlim(low - 0.08 * room, low + 1.2 * room)  # the numbers stand on the right
    axes.grid(False, axis="x")
    role_legend(
        figure,
        [role for role in roles.LOOKS if role in looks],
        [
            Line2D([], [], linestyle="none", marker="o", color=GREY, fillstyle=fill, label=name)
            for name, fill in (("validation", "full"), ("test", "none"))
            if tested
        ],
    )
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
    left = [
        numbers_of({"val_acc": row.get("acc")}, "val_acc", f"layer {row.get('layer')!r}")
        for row in result.get("layers", [])
    ]
    if not left or any(len(row) != len(shares) for row in left):
        raise InputError(
            f"sensitivity: received layers of {sorted({len(row) for row in left})} accuracies, expected "
            f"{len(shares)} in each"
        )
    lost = [[whole - acc for acc in row] for row in left]
    texts = [[f"{round(value, 1) + 0.0:.1f}" for value in row] for row in lost] if len(shares) <= 20 else []
    images = f", {result['images']:,} images" if isinstance(result.get("images"), int) else ""
    return heat_map(
        lost,
        texts,
        [str(row.get("layer")).removesuffix("_conv") for row in result["layers"]],
        [f"{100 * share:g}" for share in shares],
        (0, max(1.0, *map(max, lost))),
        (
            f"Sensitivity by {plain_text(result.get('criterion'), 12)}",
            "this layer's channels removed (%)",
            f"accuracy lost (points of {whole:.1f} %{images})",
        ),
        "viridis_r",
    )
