"""Figures of pruning: accuracy and size over the iterations, the channels that are left in each layer."""

from typing import TYPE_CHECKING

from compress.errors import InputError
from compress.plots import roles, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# {key of a pruning result: (name, unit) of its panel}
PANELS = {
    "sparsity": ("sparsity", "%"),
    "compression_rate": ("compression", "x"),
    "parameters": ("parameters", "M"),
    "macs": ("MACs", "M"),
}


def plot_pruning(result: dict) -> "Figure":
    """Accuracy, sparsity and size over the prune iterations, which count from 1, in panels one below the other.

    Args:
        result: the content of a pruning result.json. Equally long lists, one number an iteration: base_acc (its
            first is the unpruned model's), pruned_acc, final_acc and sparsity, all 0 to 1; optional are
            recalibrated_acc (0 to 1), compression_rate (x), or without it parameters, and macs.

    Returns:
        A figure whose first axes holds the accuracies (%), the second the sparsity (%), any further one the size.

    Raises:
        InputError: a list is missing, not of finite numbers in range, or not as long as the others.
    """
    panels = {
        key: words
        for key, words in PANELS.items()
        if key == "sparsity" or (result.get(key) and not (key == "parameters" and result.get("compression_rate")))
    }
    keys = ["base_acc", "pruned_acc", "final_acc", *(["recalibrated_acc"] if result.get("recalibrated_acc") else [])]
    curves = {key: style.numbers_of(result, key, "pruning result", 0) for key in [*keys, *panels]}
    lengths = {key: len(values) for key, values in curves.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"pruning result: received lists of the lengths {lengths}, expected equally long ones")

    figure = style.new_figure(7.2, 3.8 + 1.45 * len(panels))
    top, *below = figure.subplots(1 + len(panels), 1, sharex=True, height_ratios=[3] + [1.15] * len(panels))
    style.dress(top, "Accuracy while pruning", "", "accuracy (%)")
    steps = range(1, lengths["base_acc"] + 1)
    top.axhline(
        curves["base_acc"][0], color=roles.colour("base"), linestyle=(0, (1, 2)), linewidth=1.7, label="unpruned"
    )
    for key, name, colour, marker, dashes in (
        ("pruned_acc", "after pruning", roles.NEUTRALS[0], "v", style.DASHED),
        ("recalibrated_acc", "after recalibration", roles.NEUTRALS[1], "P", (0, (6, 1, 1, 1))),
        ("final_acc", "after fine-tuning", roles.colour("pruned"), roles.marker("pruned"), "-"),
    ):
        if key in curves:
            top.plot(steps, curves[key], color=colour, marker=marker, linestyle=dashes, linewidth=1.7, label=name)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    for axes, key in zip(below, panels, strict=True):
        _size_panel(axes, steps, curves[key], *panels[key])
    below[-1].set_xlabel("prune iteration")
    figure.align_ylabels([top, *below])
    style.whole_steps(below[-1], steps[-1])
    return figure


def _size_panel(axes, steps, values, name, unit):
    """A panel of one measure of size, its last value written above the last point."""
    divisor, unit = style.count_unit(max(values)) if unit == "M" else (1, unit)
    style.dress(axes, "", "", f"{name}\n({unit})")
    values = [v / divisor for v in values]
    axes.plot(steps, values, color=roles.colour("pruned"), marker=roles.marker("pruned"), markersize=4, linewidth=1.7)
    axes.set_ylim(0, max(values) * 1.45 or 1)  # room for the value above the last point
    last = {"%": "{:.1f} %", "x": "{:.2f}x"}.get(unit, f"{{:.4g}} {unit}").format(values[-1])
    place = "center" if len(steps) < 2 else "right"
    axes.annotate(last, (steps[-1], values[-1]), (0, 9), fontsize=10, textcoords="offset points", ha=place)


def plot_channels(channels: dict[str, list[int]], labels=None) -> "Figure":
    """A heat map of the channels that are left: a row a layer, a column an iteration.

    Args:
        channels: layer -> its number of channels in the base model (at least 1) and after each iteration.
        labels: one name a column; None: base, 1, 2, ...

    Returns:
        A figure whose first axes holds the image of the base's share that is left (%, 0 to 100) and, in up to
        20 columns, the numbers themselves; its second is the colour bar.

    Raises:
        InputError: no layer, layers of unequal length, or counts that are out of range.
    """
    counts = [style.numbers_of(channels, name, "channels", 0) for name in channels]
    columns = len(counts[0]) if counts else 0
    labels = ["base", *range(1, columns)] if labels is None else list(labels)
    if not counts or any(len(row) != len(labels) or row[0] < 1 for row in counts):
        raise InputError(
            f"channels: received layers of {sorted({len(row) for row in counts})} columns, expected "
            f"{len(labels) or 'some'} in each, the first of at least 1 channel"
        )
    shares = [[min(100.0, 100 * value / row[0]) for value in row] for row in counts]
    return style.heat_map(
        shares,
        [[f"{value:.0f}" for value in row] for row in counts] if columns <= 20 else [],
        list(channels),
        labels,
        (0, 100),
        ("Channels left", "prune iteration", "channels left (% of the base model's)"),
    )
