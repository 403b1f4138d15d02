"""What all figures share. Imports matplotlib only when it draws."""

import itertools
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from compress.engine import processes
from compress.errors import InputError
from compress.storage import records
from compress.storage.files import replacing

if TYPE_CHECKING:
    pass

FORMATS = ("png", "pdf", "svg")
GREY, DASHED = "#595959", (0, (4, 2))
MOST = 1e30  # beyond it axes overflow
SHARES = (
    "train_acc",
    "val_acc",
    "test_acc",
    "base_acc",
    "pruned_acc",
    "recalibrated_acc",
    "final_acc",
    "sparsity",
    "spread",
)


def plain_text(label, width=60):
    """A name as matplotlib may draw it: one line, no mathematics in dollar signs, not hidden by an underscore."""
    label = " ".join(str(label).encode("utf-8", "replace").decode("utf-8").split())
    label = "".join(c if c.isprintable() else "\ufffd" for c in label)  # a control character would make no SVG
    if len(label) > width:
        label = f"{label[: width // 2 - 1]}…{label[-(width // 2) :]}"
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def numbers_of(content, key, where, low=-math.inf):
    """The list of numbers that `content` has under `key`, none below low; shares from 0 to 1 come back in per cent."""
    share = key in SHARES
    low, high = (0, 1) if share else (low, MOST)
    values = content.get(key)
    if not (
        isinstance(values, (list, tuple))
        and values
        and all(records.is_number(v) and max(low, -MOST) <= v <= high for v in values)
    ):
        raise InputError(
            f"{where}: received {key}={textwrap.shorten(repr(values), 80)}, expected finite numbers, one "
            f"or more, " + (f"from {low:g} to {high:g}" if share else f"of at most {MOST:g} in size")
        )
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


def legend_below(figure, handles, width=None):
    """A legend under the axes, in as many columns as fit side by side; `width`: of the figure, where it will change."""
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        fit = int((width or figure.get_figwidth()) / (0.08 * longest + 0.65))  # inches
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=max(1, min(len(handles), fit)),
            frameon=False,
            fontsize=10,
        )


def count_unit(largest):
    """(divisor, letter) in which a count and smaller ones read well: millions, or thousands below 100,000."""
    return (1e6, "M") if largest >= 1e5 else (1e3, "k")


def luminance(colour):
    """Relative luminance of an opaque colour, 0 (black) to 1 (white), as WCAG 2 defines it."""
    from matplotlib.colors import to_rgb

    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(cell):
    """'black' or 'white', whichever contrasts more with an opaque colour: with any at least 4.58 to 1."""
    return "black" if (luminance(cell) + 0.05) ** 2 > 1.05 * 0.05 else "white"


def whole_steps(axes, last):
    """An x axis of whole numbers from 1 to `last`, with half a step of room at both ends."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def heat_map(values, texts, rows, columns, limits, words, colours="viridis"):
    """Rows of layers as coloured cells, with a number in each, a colour bar, and a gap between stages.

    Args:
        values: a list of numbers for each row.
        texts: likewise, what stands in the cells; an empty list for nothing.
        rows: names of the layers.
        columns: names of the columns.
        limits: (lowest, highest) value of the colour scale.
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
        axes.text(
            column,
            row,
            texts[row][column],
            ha="center",
            va="center",
            fontsize=size - 1,
            color=ink_on(image.cmap(image.norm(values[row][column]))),
        )
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
        raise InputError(f"received {path}, expected a file that ends in .{', .'.join(FORMATS)}", path)
    return found


def save_figure(figure, path) -> None:
    """Writes a figure at 150 dots an inch, whole or not at all; of several processes the first one alone draws it.

    Args:
        figure: a matplotlib Figure.
        path: a file that ends in .png, .pdf or .svg, in a folder that exists.

    Raises:
        InputError: another suffix, or the file can't be written.
    """
    form = figure_format(path)
    if not processes.is_main():
        return
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a folder's name in a script DejaVu lacks
            figure.savefig(temporary, dpi=150, format=form)
    except OSError as error:
        raise InputError(
            f"received {path}, which can't be written ({error.strerror or error}); expected room and permission there",
            path,
        ) from None
