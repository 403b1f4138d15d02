"""Figures from records: training curves, pruning, channels, models. Imports matplotlib only when it draws."""

import itertools
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import records
from errors import InputError
from files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one more than colours: 56 histories before a pair repeats
GREY, PALE, DASHED = "#595959", COLOURS[5], (0, (4, 2))
MOST = 1e30  # beyond it axes overflow
SHARES = ("train_acc", "val_acc", "test_acc", "base_acc", "pruned_acc", "recalibrated_acc", "final_acc", "sparsity",
          "spread")
PANELS = (("Loss", "loss", "train_loss", "val_loss"), ("Accuracy", "accuracy (%)", "train_acc", "val_acc"),
          ("Learning rate", "learning rate", None, "learning_rate"))


def plain_text(label, width=60):
    """A name as matplotlib may draw it: one line, no mathematics in dollar signs, not hidden by an underscore."""
    label = " ".join(str(label).encode("utf-8", "replace").decode("utf-8").split())
    label = "".join(c if c.isprintable() else "\ufffd" for c in label)  # a control character would make no SVG
    if len(label) > width:
        label = f"{label[:width // 2 - 1]}…{label[-(width // 2):]}"
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def numbers_of(content, key, where, low=-math.inf):
    """The list of numbers that `content` has under `key`, none below low; shares from 0 to 1 come back in per cent."""
    share = key in SHARES
    low, high = (0, 1) if share else (low, MOST)
    values = content.get(key)
    if not (isinstance(values, (list, tuple)) and values and all(
            records.is_number(v) and max(low, -MOST) <= v <= high for v in values)):
        raise InputError(f"{where}: received {key}={textwrap.shorten(repr(values), 80)}, expected finite numbers, one "
                         f"or more, " + (f"from {low:g} to {high:g}" if share else f"of at most {MOST:g} in size"))
    return [100 * float(v) if share else float(v) for v in values]


def new_figure(width, height):
    """An empty white figure, sizes in inches."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def dress(axes, title="", xlabel="", ylabel=""):
    """Titles, labels, grid and spines as all figures of the suite have them."""
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10, color=GREY)
    axes.grid(True, color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def _whole_steps(axes, last):
    """An x axis of whole numbers from 1 to `last`, with half a step of room at both ends."""
    from matplotlib.ticker import MaxNLocator
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def plot_history(histories: dict[str, dict[str, list[float]]]) -> "Figure":
    """Loss, accuracy (%) and, where recorded, learning rate over the epochs, which count from 1.

    One history shows its best validation epoch; several share the panels, one colour and marker each.

    Args:
        histories: label -> curves as `records.read_history` returns them: any of train_loss, train_acc, val_loss,
            val_acc (accuracies 0 to 1) and learning_rate, each one number an epoch.

    Returns:
        A figure with one axes a panel. A validation line's label is the history's; a training line's is "_train".

    Raises:
        InputError: no history, no curve to draw, or numbers that are not finite or out of range.
    """
    panels = [p for p in PANELS if any(key in curves for curves in histories.values() for key in p[2:])]
    if not panels:
        raise InputError("histories: received no curve, expected train_loss, train_acc, val_loss or val_acc")
    figure = new_figure(max(6.5, 4.6 * len(panels)), 4.6)
    for axes, (title, ylabel, *keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        dress(axes, title, "epoch", ylabel)
        for index, (label, curves) in enumerate(histories.items()):
            drawn = {key: numbers_of(curves, key, label) for key in keys if key in curves}
            for key, values in drawn.items():
                _draw_curve(axes, values, index, len(histories), label if key == keys[1] else None)
            if len(histories) == 1 and keys[1] in drawn and keys[1] == ("val_acc" if "val_acc" in curves
                                                                         else "val_loss"):
                _mark_best(axes, drawn[keys[1]], keys[1])
        _whole_steps(axes, max(len(line.get_xdata()) for line in axes.lines))
        heights = sorted(v for line in axes.lines for v in line.get_ydata())
        if title == "Loss" and heights[0] > 0 and heights[-1] > 20 * heights[len(heights) // 2]:
            axes.set_yscale("log")  # one outlier, such as a first epoch, would press all other losses flat
            axes.set_ylabel("loss (log scale)", fontsize=11)
        elif title == "Learning rate":
            axes.set_ylim(-0.04 * (heights[-1] or 1), 1.08 * (heights[-1] or 1))
    if len(histories) == 1:
        figure.suptitle(plain_text(next(iter(histories))), fontsize=12)
    _history_legend(figure, histories)
    return figure


def _draw_curve(axes, values, index, number, label):
    """One line; without a label it is a training curve: dashed and lighter than the validation's."""
    few = len(values) <= 30  # then every epoch gets its marker; else a single line gets none
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    epochs = range(1, len(values) + 1)
    if label is None:
        axes.plot(epochs, values, color=PALE if number == 1 else colour, alpha=1 if number == 1 else 0.6,
                  linestyle=DASHED, linewidth=1.2, marker=marker if few else None, markersize=4, label="_train")
        return
    step = 1 if few else max(1, len(values) // 8)
    every = (index * step // number % len(values), step)  # histories put theirs at different epochs
    axes.plot(epochs, values, color=colour, linewidth=1.7, marker=marker if few or number > 1 else None,
              markevery=every, markersize=5, markeredgecolor="white", markeredgewidth=0.5,
              label=plain_text(label), zorder=3)


def _mark_best(axes, values, key):
    """A dot at the highest accuracy or lowest loss; its value goes above the axes, where it covers no curve."""
    best = values.index(max(values) if key == "val_acc" else min(values))
    axes.plot([best + 1], [values[best]], "o", color=COLOURS[1], markersize=8, markeredgecolor="white", label="_best",
              zorder=5, clip_on=False)
    value = f"{values[best]:.2f} %" if key == "val_acc" else f"{values[best]:.4g}"
    axes.set_title(f"best {value}, epoch {best + 1}", loc="right", fontsize=11, color=COLOURS[1])


def _history_legend(figure, histories):
    """Under the panels: a colour and marker for each of several histories, a line style for training, validation."""
    from matplotlib.lines import Line2D
    several = len(histories) > 1
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], linewidth=1.7,
                      markeredgecolor="white", markeredgewidth=0.5, label=plain_text(label))
               for i, label in enumerate(histories) if several]
    for name, style, colour in (("validation", "-", COLOURS[0]), ("training", DASHED, PALE)):
        if any(key.startswith((name[:3] + "_", name[:5] + "_")) for curves in histories.values() for key in curves):
            handles.append(Line2D([], [], color=GREY if several else colour, linestyle=style, label=name))
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.075 * longest + 0.7))))  # inches
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)


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
    panels = [("sparsity", "sparsity\n(%)", 1, "{:.1f} %"), ("compression_rate", "compression\n(x)", 1, "{:.2f}x"),
              ("parameters", "parameters\n(M)", 1e6, "{:.2f} M"), ("macs", "MACs\n(M)", 1e6, "{:.1f} M")]
    panels = [p for p in panels if p[0] == "sparsity" or (
        result.get(p[0]) and not (p[0] == "parameters" and result.get("compression_rate")))]
    keys = ["base_acc", "pruned_acc", "final_acc", *(["recalibrated_acc"] if result.get("recalibrated_acc") else [])]
    curves = {key: numbers_of(result, key, "pruning result", 0) for key in keys + [p[0] for p in panels]}
    lengths = {key: len(values) for key, values in curves.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"pruning result: received lists of the lengths {lengths}, expected equally long ones")

    figure = new_figure(7.2, 3.8 + 1.45 * len(panels))
    top, *below = figure.subplots(1 + len(panels), 1, sharex=True, height_ratios=[3] + [1.15] * len(panels))
    dress(top, "Accuracy while pruning", "", "accuracy (%)")
    steps = range(1, lengths["base_acc"] + 1)
    top.axhline(curves["base_acc"][0], color=GREY, linestyle=(0, (1, 2)), linewidth=1.5, label="unpruned")
    for key, name, colour, marker, style in (
            ("pruned_acc", "after pruning", COLOURS[1], "v", DASHED),
            ("recalibrated_acc", "after BN recalibration", COLOURS[4], "s", (0, (6, 1, 1, 1))),
            ("final_acc", "after fine-tuning", COLOURS[0], "o", "-")):
        if key in curves:
            top.plot(steps, curves[key], color=colour, marker=marker, linestyle=style, linewidth=1.7, label=name)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    for axes, (key, ylabel, unit, form) in zip(below, panels, strict=True):
        dress(axes, "", "prune iteration" if axes is below[-1] else "", ylabel)
        values = [v / unit for v in curves[key]]
        axes.plot(steps, values, color=COLOURS[2], marker="D", markersize=4, linewidth=1.7)
        axes.set_ylim(0, max(values) * 1.45 or 1)  # room for the value above the last point
        axes.annotate(form.format(values[-1]), (steps[-1], values[-1]), (0, 9), fontsize=10,
                      textcoords="offset points", ha="center" if len(steps) < 2 else "right")
    figure.align_ylabels([top, *below])
    _whole_steps(below[-1], steps[-1])
    return figure


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
    counts = [numbers_of(channels, name, "channels", 0) for name in channels]
    columns = len(counts[0]) if counts else 0
    labels = ["base", *range(1, columns)] if labels is None else list(labels)
    if not counts or any(len(row) != len(labels) or row[0] < 1 for row in counts):
        raise InputError(f"channels: received layers of {sorted({len(row) for row in counts})} columns, expected "
                         f"{len(labels) or 'some'} in each, the first of at least 1 channel")
    shares = [[min(100.0, 100 * value / row[0]) for value in row] for row in counts]
    return heat_map(shares, [[f"{value:.0f}" for value in row] for row in counts] if columns <= 20 else [],
                    list(channels), labels, (0, 100), ("Channels left", "prune iteration",
                                                       "channels left (% of the base model's)"))


def heat_map(values, texts, rows, columns, limits, words, colours="viridis"):
    """Rows of layers as coloured cells, with a number in each, a colour bar, and a gap between stages.

    Args:
        values: a list of numbers for each row.
        texts: likewise, what stands in the cells; an empty list for nothing.
        rows: names of the layers.
        columns: names of the columns.
        limits: (lowest, highest) value that the colours tell apart.
        words: title, label of the x axis, label of the colour bar.
        colours: 'viridis', or 'viridis_r', in which high values are the dark ones.

    Returns:
        A figure of two axes: the image and its colour bar.
    """
    row_height, size = (0.27, 10) if len(rows) <= 40 else (0.2, 8)
    figure = new_figure(3.2 + 0.5 * max(4, min(len(columns), 24)), 1.5 + row_height * max(6, len(rows)))
    axes = figure.subplots()
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    dress(axes, *words[:2])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    step = -(-len(columns) // 25)  # no more names than fit side by side
    axes.set_xticks(range(0, len(columns), step), [plain_text(label, 12) for label in columns[::step]], fontsize=10)
    axes.set_yticks(range(len(rows)), [plain_text(name, 40) for name in rows], fontsize=size)
    stages = [name.split("_block")[0] if "_block" in name else "" for name in rows]
    for row in (r for r in range(1, len(stages)) if stages[r] != stages[r - 1]):
        axes.axhline(row - 0.5, color="white", linewidth=2.5)  # sets the stages apart
    for row, column in itertools.product(range(len(texts)), range(len(columns))):
        place = image.norm(values[row][column]) if colours == "viridis" else 1 - image.norm(values[row][column])
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=size - 1,
                  color="black" if place > 0.46 else "white")  # both contrast 4.5 to 1 with viridis's 46 %
    bar = figure.colorbar(image, ax=axes, shrink=min(1, 5 / figure.get_figheight()), aspect=25, pad=0.03)
    bar.set_label(words[2], fontsize=11)
    bar.outline.set_visible(False)
    return figure


def figure_format(path) -> str:
    """The format that a path's suffix stands for: png, pdf or svg.

    Raises:
        InputError: another suffix, or a folder.
    """
    found = Path(path).suffix.lower().removeprefix(".")
    if found not in FORMATS or Path(path).is_dir():
        raise InputError(f"--output: received {path}, expected a file that ends in .{', .'.join(FORMATS)}")
    return found


def save_figure(figure, path) -> None:
    """Writes a figure at 150 dots an inch, whole or not at all.

    Args:
        figure: a matplotlib Figure.
        path: a file that ends in .png, .pdf or .svg, in a folder that exists.

    Raises:
        InputError: another suffix, or the file can't be written.
    """
    form = figure_format(path)
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a folder's name in a script DejaVu lacks
            figure.savefig(temporary, dpi=150, format=form)
    except OSError as error:
        raise InputError(f"--output: received {path}, which can't be written ({error.strerror or error})") from None
