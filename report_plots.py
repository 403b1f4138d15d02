"""The figures of a report that no other script draws: fronts, APoZ histograms, confusion matrices, classes."""

import numpy as np

from comparison_plots import place_names, size_axis
from plots import COLOURS, DASHED, GREY, MARKERS, dress, new_figure, plain_text

# what accuracy is drawn against: (in a title, unit, on the axis)
SIZES = {"parameters": ("parameters", 1e6, "parameters (millions, log scale)"),
         "bytes": ("file size", 1e6, "file (MB, log scale)"), "macs": ("MACs", 1e6, "MACs (millions, log scale)"),
         "latency_ms_median": ("latency", 1, "latency of one image (ms, log scale)")}
KINDS = {"base": "base", "pruned": "pruned", "student": "student", "ablation": "ablation", "evaluation": "evaluated",
         "export": "exported"}
NAMED = 10  # points that a figure can name before names cover each other


def front(points):
    """The points that no other one beats: none at most as large is at least as accurate.

    Args:
        points: list of (size, accuracy).

    Returns:
        Indices of the front by rising size; of equal points the first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    chosen, best = [], -1.0
    for i in order:
        if points[i][1] > best:
            chosen.append(i)
            best = points[i][1]
    return chosen


def plot_front(points, key, groups):
    """Accuracy against one measure of size; a colour for what accuracies were measured on, a marker a kind of model.

    Stepped lines join the models that none of the same colour beats.

    Args:
        points: report_tree.Points, all with `key` among their sizes.
        key: of SIZES.
        groups: what accuracies may have been measured on, as many as COLOURS at most; a group's place is its colour.

    Returns:
        (figure of one axes, {gid of a point's marker: what it stands for}).
    """
    from matplotlib.text import Text
    title, unit, xlabel = SIZES[key]
    names, used = _names(points), {point.group for point in points}
    shown = {group: colour for group, colour in zip(groups, COLOURS, strict=False) if group in used}
    kinds = [kind for kind in KINDS if any((p.role or p.kind) == kind for p in points)]
    columns = 2 if len(shown) <= len(kinds) + 1 else 1  # a set's name is too long for the second one
    lines = -(-(len(shown) + len(kinds)) // columns)
    figure = new_figure(4.8, 4.4 + 0.2 * max(0, lines - 4))
    axes, tips = figure.subplots(), {}
    dress(axes, f"Accuracy against {title}", f"← smaller     {xlabel}", "accuracy (%)")
    for group, colour in shown.items():
        members = [p for p in points if p.group == group]
        places = [(p.sizes[key] / unit, 100 * p.acc) for p in members]
        edge = [places[i] for i in front(places)]
        if len(edge) > 1:
            axes.step(*zip(*edge, strict=True), where="post", color=colour, linewidth=1.5, alpha=0.6, label="_front",
                      zorder=1.5)
        for point, place in zip(members, places, strict=True):
            tips[f"point{len(tips)}"] = f"{point.name}: {place[1]:.2f} % of {group}, {place[0]:,.4g} {xlabel[:-12]})"
            axes.plot(*place, linestyle="none", color=colour, marker=_marker(point), markersize=8,
                      markeredgecolor="white", gid=f"point{len(tips) - 1}", label=names.get(id(point), "_point"),
                      zorder=2 if point.kind == "ablation" else 2.5)
    size_axis(axes, [p.sizes[key] / unit for p in points])
    axes.margins(0.16, 0.14)
    _front_legend(figure, shown, kinds, columns)
    figure.draw_without_rendering()
    place_names(axes)
    for name in filter(Text.get_text, axes.texts):  # a front may run through it
        name.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8})
    return figure, tips


def _marker(point):
    return MARKERS[list(KINDS).index(point.role or point.kind)]


def _names(points):
    """{id of a point: name}: each model's topmost point; where they are many, the first and the last of each kind.

    The students of an ablation lie upon each other, and have a figure of their own.
    """
    top = {}
    for point in points:
        if point.kind == "ablation":
            continue
        if point.name not in top or point.acc > top[point.name].acc:
            top[point.name] = point
    chosen = list(top.values())
    if len(chosen) > NAMED:
        ends = [same[i] for kind in KINDS if (same := [p for p in chosen if p.kind == kind]) for i in (0, -1)]
        chosen = list({id(point): point for point in ends}.values())[:NAMED]
    return {id(point): plain_text(point.name, 22) for point in chosen}


def _front_legend(figure, shown, kinds, columns):
    """Under the axes: what colours and what markers stand for."""
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], color=colour, linewidth=2, label=plain_text(group, 32))
               for group, colour in shown.items()]
    handles += [Line2D([], [], color=GREY, linestyle="none", marker=MARKERS[list(KINDS).index(kind)], markersize=7,
                       label=KINDS[kind]) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=10)


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
        axes.hist(parts, np.linspace(0, 1, 21), stacked=True, color=[COLOURS[0], COLOURS[1]][:len(parts)],
                  edgecolor="white", linewidth=0.5)
        axes.axvline(apoz.mean() + apoz.std(), color=COLOURS[6], linestyle=DASHED, linewidth=1.5)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0, 1)
    for axes in grid.flat[len(layers):]:
        axes.remove()
    for axes in grid.flat[max(0, len(layers) - 2):len(layers)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("APoZ", fontsize=11)
    known = all(left is not None for _, left in layers.values())
    handles = [Patch(color=COLOURS[i], label=label) for i, label in
               enumerate(("left at the end", "cut")) if known]
    handles.append(Line2D([], [], color=COLOURS[6], linestyle=DASHED, label="mean + 1 standard deviation"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def plot_confusion(matrix, names, title):
    """A confusion matrix: rows are true classes, columns answers; right ones blue, wrong ones red.

    A right cell's depth is the share of its class that is right, a wrong one's its share of its class against the
    largest such share. Up to 20 classes have their counts written in.

    Args:
        matrix: (classes, classes) whole numbers, [true, answered].
        names: of the classes.
        title: above the figure.

    Returns:
        A figure of one axes.
    """
    from matplotlib.colors import to_rgba
    matrix, count = np.asarray(matrix), len(names)
    share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    right = np.eye(count, dtype=bool)
    depth = np.where(right, share, share / max(share[~right].max(initial=0), 1e-9))
    cells = np.where(right[..., None], to_rgba(COLOURS[0]), to_rgba(COLOURS[1]))
    cells[..., 3] = np.where(matrix > 0, 0.1 + 0.75 * depth, 0)
    figure = new_figure(4.8, 4.8)
    axes = figure.subplots()
    axes.imshow(cells, interpolation="nearest")
    dress(axes, plain_text(title, 48), "answer", "true class")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    step = -(-count // 25)  # no more names than fit
    labels = [plain_text(name, 14) for name in names[::step]]
    axes.set_yticks(range(0, count, step), labels, fontsize=9)
    axes.set_xticks(range(0, count, step), labels, fontsize=9, rotation=0 if max(map(len, labels)) < 3 else 90)
    for row, column in zip(*np.nonzero(matrix), strict=True) if count <= 20 else ():
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=9 if count <= 12 else 7,
                  **({"color": "white"} if cells[row, column, 3] > 0.6 else {}))
    return figure


def plot_classes(names, before, after, labels):
    """The accuracy of classes in two models: a dot each, joined by a line; the class that lost most is on top.

    Args:
        names: of the classes that are drawn, in their order.
        before: accuracies (0 to 1) in the first model.
        after: likewise in the second.
        labels: the two models' names.

    Returns:
        A figure of one axes, accuracies in per cent.
    """
    figure = new_figure(4.8, 1.5 + 0.32 * max(4, len(names)))
    axes, places = figure.subplots(), range(len(names))
    dress(axes, "Classes that lost most", "accuracy of the class (%)")
    axes.hlines(places, [100 * v for v in before], [100 * v for v in after], color=GREY, linewidth=1.5, zorder=2)
    for values, label, colour, marker, size in ((before, labels[0], COLOURS[0], MARKERS[0], 10),
                                                (after, labels[1], COLOURS[1], MARKERS[2], 6)):
        axes.plot([100 * v for v in values], places, linestyle="none", marker=marker, color=colour, markersize=size,
                  markeredgecolor="white", label=plain_text(label, 24))
    axes.set_yticks(places, [plain_text(name, 20) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.08)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure
