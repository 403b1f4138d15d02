"""The figures of a report that no other script draws: fronts, APoZ histograms, confusion matrices, classes."""

import numpy as np

from compress.plots import roles, size_axes
from compress.plots.comparison import known_role, role_legend
from compress.plots.style import DASHED, GREY, count_unit, dress, ink_on, new_figure, plain_text

# what accuracy is drawn against: (in a title, unit, on the axis)
SIZES = {
    "parameters": ("parameters", 1e6, "parameters (M, log scale)"),
    "bytes": ("file size", 1e6, "file (MB, log scale)"),
    "macs": ("MACs", 1e6, "MACs (M, log scale)"),
    "latency_ms_median": ("latency", 1, "latency of one image (ms, log scale)"),
}
HOLLOW = {"ablation": "of an ablation", "export": "exported"}  # kinds whose points are outlines
CUT = (roles.NEUTRALS[3], roles.NEUTRALS[1])  # of channels that are left and that were cut
EMPTY = "#f2f3f5"  # of a confusion's cell without an image
NAMED = 10  # points that a figure can name before names cover each other
LISTED = 4  # of the names of points that cover each other
SEVERAL = {"base": "bases", "pruned": "pruned models", "assistant": "assistants", "student": "students"}


def plot_front(points, key):
    """Accuracy against one measure of size, in the colour and marker of each model's role.

    A stepped line joins the models that no smaller one beats. Students of an ablation and exported files are hollow.
    Points that cover each other have one name, which counts them.

    Args:
        points: report_tree.Points of one group, all with `key` among their sizes.
        key: of SIZES.

    Returns:
        (figure of one axes, {gid of a point's marker: what it stands for}).
    """
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    title, unit, xlabel = SIZES[key]
    if unit > 1 and key != "bytes":
        unit, letter = count_unit(max(p.sizes[key] for p in points))
        xlabel = xlabel.replace("(M", f"({letter}")
    figure = new_figure(4.8, 4.6)
    axes, tips, dots, best = figure.subplots(), {}, [], unbeaten(points, key)
    points = sorted(points, key=lambda point: all(point is not one for one in best))  # the front is named first
    names = _names(points, len(best))
    dress(axes, f"Accuracy against {title}", f"← smaller     {xlabel}", f"{plain_text(points[0].split)} accuracy (%)")
    for number, point in enumerate(points):
        x, y = point.sizes[key] / unit, 100 * point.acc
        measured = f"{x:,.4g} {xlabel.removesuffix(', log scale)')})"
        tips[f"point{number}"] = f"{point.name}: {y:.2f} % of {point.group}, {measured}"
        dots.append(
            size_axes.Dot(
                x,
                y,
                point.role,
                names.get(id(point), ""),
                gid=f"point{number}",
                hollow=point.kind in HOLLOW or point.shipped,
                apart=point.shipped,
            )
        )
    outlined = [
        *(name for kind, name in HOLLOW.items() if any(p.kind == kind for p in points)),
        *(["shipped with the suite"] if any(p.shipped for p in points) else []),
    ]
    extra = [
        Line2D([], [], linestyle="none", color=GREY, marker="o", markersize=6, fillstyle="none", label=name)
        for name in outlined
    ]
    role_legend(figure, [role for role in roles.LOOKS if any(known_role(p.role) == role for p in points)], extra)
    size_axes.draw(axes, dots, edge=True, together=lambda indices: _together([points[i] for i in indices]))
    figure.set_layout_engine("none")
    for name in filter(Text.get_text, axes.texts):  # where there is no room elsewhere, a front runs behind it
        name.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.8})
    return figure, tips


def unbeaten(points, key):
    """The points that no smaller one beats, by rising size.

    Args:
        points: report_tree.Points of one group, all with `key` among their sizes.
        key: of SIZES.
    """
    dots = [size_axes.Dot(point.sizes[key], 100 * point.acc, apart=point.shipped) for point in points]
    return [points[i] for i in size_axes.unbeaten(dots)]


def newest(points, key):
    """One point a model that has a size: where it was measured more than once, the latest.

    Args:
        points: report_tree.Points of one group.
        key: of SIZES.
    """
    found = {}
    for point in points:
        if key in point.sizes:
            model = point.name if point.kind == "export" or not point.sha256 else point.sha256
            if model not in found or point.when >= found[model].when:
                found[model] = point
    return list(found.values())


def _together(points):
    """The one name of points that cover each other: how many they are, and what the first of them are called."""
    found = {known_role(point.role) for point in points}
    kind = SEVERAL.get(found.pop(), "models") if len(found) == 1 else "models"
    names = list(dict.fromkeys(map(_name, points)))
    steps = {name.partition(": ")[0] for name in names}
    if len(steps) == 1 and all(": " in name for name in names):
        names = [name.partition(": ")[2] for name in names]
    rest = [f"and {len(names) - LISTED + 1} more"] if len(names) > LISTED else []
    return "\n".join([f"{len(points)} {kind}:", *names[: LISTED - len(rest)], *rest])


def _name(point):
    """A point's name in a figure."""
    return plain_text(point.label, 36) or plain_text(point.name, 22)


def _names(points, front):
    """{id of a point: name}: each model's topmost point; where they are many, the front, and the ends of each role.

    The runs of a sweep are named by what they differ in; where they are many, the first ones. The students of an
    ablation lie upon each other, and have a figure of their own.

    Args:
        points: those of `plot_front`, the front first.
        front: how many lie on the front.
    """
    top = {}
    for point in points:
        if point.kind == "ablation":
            continue
        if point.name not in top or point.acc > top[point.name].acc:
            top[point.name] = point
    chosen = list(top.values())
    if len(chosen) > NAMED and any(point.label for point in chosen):
        chosen = chosen[:NAMED]
    elif len(chosen) > NAMED:
        ends = [
            same[i]
            for role in roles.LOOKS
            if (same := [p for p in chosen if known_role(p.role) == role])
            for i in (0, -1)
        ]
        ends = [*(point for point in points[:front] if point.kind != "ablation"), *ends]
        chosen = list({id(point): point for point in ends}.values())[:NAMED]
    return {id(point): _name(point) for point in chosen}


def plot_apoz(layers):
    """Histograms of the share of zeros a channel has after its ReLU, those that were cut set apart where known.

    Args:
        layers: layer -> ((channels,) APoZ from 0 to 1, (channels,) bool, True for what is left, or None).

    Returns:
        A figure with one axes a layer, in two columns.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = -(-len(layers) // 2)
    figure = new_figure(5.6, 0.9 + 1.9 * rows)
    grid = figure.subplots(rows, min(2, len(layers)), sharex=True, squeeze=False)
    for axes, (name, (apoz, left)) in zip(grid.flat, layers.items(), strict=False):
        dress(axes, plain_text(name, 30), "", "channels")
        parts = [apoz] if left is None else [apoz[left], apoz[~left]]
        axes.hist(parts, np.linspace(0, 1, 21), stacked=True, color=CUT[: len(parts)], edgecolor="white", linewidth=0.5)
        axes.axvline(apoz.mean() + apoz.std(), color="black", linestyle=DASHED, linewidth=1.5)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0, 1)
    for axes in grid.flat[len(layers) :]:
        axes.remove()
    for axes in grid.flat[max(0, len(layers) - 2) : len(layers)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("APoZ", fontsize=11)
    known = all(left is not None for _, left in layers.values())
    handles = [Patch(color=CUT[i], label=label) for i, label in enumerate(("left at the end", "cut")) if known]
    handles.append(Line2D([], [], color="black", linestyle=DASHED, label="mean + 1 standard deviation"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def plot_confusion(matrix, names, title, role=None):
    """A confusion matrix: rows are true, columns predicted classes; right ones in the role's colour, wrong ones grey.

    A right cell's depth is the share of its class that is right, a wrong one's its share of its class against the
    largest such share. Up to 20 classes have their counts written in.

    Args:
        matrix: (classes, classes) whole numbers, [true, predicted].
        names: of the classes.
        title: above the figure.
        role: of the model, of `roles.LOOKS`.

    Returns:
        A figure of one axes.
    """
    from matplotlib.colors import to_rgb

    matrix, count = np.asarray(matrix), len(names)
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    right = np.eye(count, dtype=bool)
    depth = np.where(right, share, share / max(share[~right].max(initial=0), 1e-9))
    depth = np.where(matrix > 0, 0.12 + 0.88 * depth, 0)[..., None]
    deep = np.where(right[..., None], to_rgb(roles.colour(role)), to_rgb(GREY))
    cells = depth * deep + (1 - depth) * np.array(to_rgb(EMPTY))  # opaque: the same on a light page and a dark one
    figure = new_figure(4.8, 4.8)
    axes = figure.subplots()
    axes.imshow(cells, interpolation="nearest")
    dress(axes, plain_text(title, 48), "predicted class", "true class")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    step = -(-count // 25)  # no more names than fit
    labels = [plain_text(name, 14) for name in names[::step]]
    axes.set_yticks(range(0, count, step), labels, fontsize=9)
    axes.set_xticks(range(0, count, step), labels, fontsize=9, rotation=0 if max(map(len, labels)) < 3 else 90)
    for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 20 else ():
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}",
            ha="center",
            va="center",
            fontsize=9 if count <= 12 else 7,
            color=ink_on(cells[row, column]),
        )
    return figure


def plot_classes(names, before, after, labels, looks):
    """The accuracy of classes in two models: a dot each, joined by a line; the class that lost most is on top.

    Args:
        names: of the classes that are drawn, in their order.
        before: accuracies (0 to 1) in the first model.
        after: likewise in the second.
        labels: the two models' names.
        looks: their roles, of `roles.LOOKS`.

    Returns:
        A figure of one axes, accuracies in per cent.
    """
    figure = new_figure(4.8, 1.5 + 0.32 * max(4, len(names)))
    axes, places = figure.subplots(), range(len(names))
    dress(axes, "Classes that lost most", "accuracy of the class (%)")
    axes.hlines(places, [100 * v for v in before], [100 * v for v in after], color=GREY, linewidth=1.5, zorder=2)
    for values, label, role in zip((before, after), labels, looks, strict=True):
        axes.plot(
            [100 * v for v in values],
            places,
            linestyle="none",
            marker=roles.marker(role),
            markersize=8,
            color=roles.colour(role),
            markeredgecolor="white",
            label=plain_text(label, 24),
            zorder=3,
        )
    axes.set_yticks(places, [plain_text(name, 20) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.08)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure
