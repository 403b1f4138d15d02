"""Models as points over their size: one axes with robust limits, a look for each role, and names beside the points.

Names are placed here and not by adjustText: in crowded figures that left 6 pairs of names on each other, where
`place_names` leaves none, since it leaves a name out that has no room; and it brings scipy.
"""

import dataclasses
import itertools
import math

from compress.plots import roles
from compress.plots.style import GREY, plain_text

LANE = 0.13  # of an axis, for what lies beyond its limits
APART = {"y": 15.0, "x": 4.0}  # how far an outlier lies from all others at least: points of accuracy, powers of ten
MARKER = 13.0  # side of the square around a marker that names keep clear of, in points
TOGETHER = 7.0  # points whose centres lie no farther apart, in points of length, cover each other
FAR = 10.0  # distance of a name from its point that needs no line between them, in points
RINGS = (FAR, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0, 94.0, 114.0, 136.0, 160.0)  # distances that are tried
WAYS = [(math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in (0, 8, 4, 12, *range(1, 16))]


@dataclasses.dataclass
class Dot:
    """A model.

    Attributes:
        x: size, above 0, in the axis's unit.
        y: accuracy in per cent.
        role: of `roles.LOOKS`.
        name: beside the point; '' for none.
        spread: half the length of its error bar, in points of accuracy.
        hollow: whether the marker is only an outline.
        apart: whether it is only to compare with, and never on the front.
        gid: of the marker in an SVG.
    """

    x: float
    y: float
    role: str | None = None
    name: str = ""
    spread: float = 0.0
    hollow: bool = False
    apart: bool = False
    gid: str | None = None


def outliers(values, apart):
    """The few values that lie so far from all others that an axis over both would press these flat.

    The widest gap between neighbours parts them: it is at least `apart`, more than three times as wide as the range of
    the larger side, and that has at least three values. Outliers are fewer than half of the values.

    Args:
        values: numbers.
        apart: smallest gap.

    Returns:
        List of bool, True for an outlier.
    """
    # Cuts at the widest gap and goes on with the larger side, as long as what is cut off is little and far away.
    far, order = [False] * len(values), sorted(range(len(values)), key=lambda i: values[i])
    while len(order) > 3:
        cut = max(range(1, len(order)), key=lambda i: values[order[i]] - values[order[i - 1]])
        few, most = sorted((order[:cut], order[cut:]), key=len)
        gap, span = values[order[cut]] - values[order[cut - 1]], values[most[-1]] - values[most[0]]
        if 2 * (sum(far) + len(few)) >= len(values) or len(most) < 3 or gap < apart or gap <= 3 * span:
            break
        for i in few:
            far[i] = True
        order = most
    return far


def draw(axes, dots, edge=False, together=None):
    """Draws models, over a logarithmic x axis, and writes their names beside them.

    An outlier of `outliers` stands in a lane beyond a dotted line at the axes's edge, its name with its number.

    Args:
        axes: with titles and labels.
        dots: list of Dot, one or more.
        edge: whether stepped lines join the models that no smaller one beats, outliers apart.
        together: function(indices of dots that cover each other, one of which has a name) -> their one name; without
            it each keeps its own.

    Returns:
        Number of names that had no free place, and are left out.
    """
    lines = _draw_dots(axes, dots, edge)
    axes.figure.draw_without_rendering()  # finds the places to which names are fitted
    for indices in _clusters(axes, lines) if together else ():
        if any(dots[i].name for i in indices):
            for i in indices:
                lines[i].set_label("_point")
            lines[indices[0]].set_label(together(indices))
    return place_names(axes, leads_clear=together is not None)


def _clusters(axes, lines):
    """Lists of two and more indices of single points that cover each other."""
    unit = axes.figure.dpi / 72
    found = []
    for i, line in enumerate(lines):
        x, y = axes.transData.transform(line.get_xydata()[0]) / unit
        near = (group for (one, two), group in found if math.hypot(x - one, y - two) <= TOGETHER)
        if (group := next(near, None)) is None:
            found.append(((x, y), [i]))
        else:
            group.append(i)
    return [group for _, group in found if len(group) > 1]


def _draw_dots(axes, dots, edge):
    """What `draw` draws but for names; returns the line of each dot, whose label is its name."""
    far_x, far_y = _far(dots)
    places_x = _limits(axes, "x", [math.log10(d.x) for d in dots], far_x)
    places_y = _limits(axes, "y", [d.y for d in dots], far_y)
    if edge and len(best := unbeaten(dots)) > 1:
        axes.step(
            [dots[i].x for i in best],
            [dots[i].y for i in best],
            where="post",
            color=GREY,
            linewidth=1.5,
            alpha=0.6,
            label="_front",
            zorder=1.5,
        )
    lines = []
    for d, x, y, log_x, place_y in zip(dots, far_x, far_y, places_x, places_y, strict=True):
        beyond = [f"{d.y:.2f} % {'↓' if place_y > d.y else '↑'}"] if y else []
        beyond += [f"{d.x:.3g} {'←' if 10**log_x > d.x else '→'}"] if x else []
        shown = plain_text(d.name, 36) if d.name else ""
        name = " ".join(filter(None, [shown, f"({', '.join(beyond)})" if beyond else ""]))
        if d.spread and not y:
            axes.errorbar(d.x if not x else 10**log_x, d.y, d.spread, fmt="none", ecolor=GREY, elinewidth=1.2)
        colour = roles.colour(d.role)
        lines += axes.plot(
            10**log_x if x else d.x,
            place_y if y else d.y,
            linestyle="none",
            color=colour,
            marker=roles.marker(d.role),
            markersize=6 if d.hollow else 9,
            markeredgewidth=1.3 if d.hollow else 1,
            fillstyle="none" if d.hollow else "full",
            markeredgecolor=colour if d.hollow else "white",
            gid=d.gid,
            label=name or "_point",
            zorder=2 if d.hollow else 2.5,
        )
    return lines


def _far(dots):
    """Which dots are outliers in their size, and which in their accuracy: two lists of bool."""
    # Sizes are compared on the logarithmic axis on which they are drawn.
    return outliers([math.log10(d.x) for d in dots], APART["x"]), outliers([d.y for d in dots], APART["y"])


def unbeaten(dots):
    """Indices of the dots that no smaller one beats, by rising size; outliers and dots that are apart are left out."""
    near = [i for i, (d, x, y) in enumerate(zip(dots, *_far(dots), strict=True)) if not (x or y or d.apart)]
    return [near[i] for i in front([(dots[i].x, dots[i].y) for i in near])]


def front(points):
    """The points that no other one beats: none at most as large is at least as accurate.

    Args:
        points: list of (size, accuracy).

    Returns:
        Indices of the front by rising size; of equal points the first.
    """
    # by rising size, a point is on the front if it is more accurate than all before it
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    chosen, best = [], -1.0
    for i in order:
        if points[i][1] > best:
            chosen.append(i)
            best = points[i][1]
    return chosen


def _limits(axes, which, values, far):
    """Sets the limits and ticks of the x axis, from logarithms, or the y axis; returns where each value is drawn."""
    near = [v for v, beyond in zip(values, far, strict=True) if not beyond]
    low, high = min(near), max(near)
    room = (0.24 if which == "x" else 0.16) * (high - low) or (0.3 if which == "x" else max(1.0, 0.02 * abs(high)))
    low, high, inside = low - room, high + room, (low - 0.7 * room, high + 0.7 * room)
    lane, places = LANE * (high - low), list(values)
    for side, beyond in ((-1, [v < low for v in values]), (1, [v > high for v in values])):
        if not any(b and f for b, f in zip(beyond, far, strict=True)):
            continue
        border = low if side < 0 else high
        places = [border + side * lane / 2 if b and f else p for b, f, p in zip(beyond, far, places, strict=True)]
        line = axes.axhline if which == "y" else axes.axvline
        line(border if which == "y" else 10**border, color=GREY, linestyle=(0, (1, 3)), linewidth=1, label="_lane")
        low, high = (low - lane, high) if side < 0 else (low, high + lane)
    if which == "x":
        size_axis(axes, [10**v for v in near], (10 ** inside[0], 10 ** inside[1]) if any(far) else None)
        axes.set_xlim(10**low, 10**high)
    else:
        axes.set_ylim(low, high)
        _keep_ticks(axes.yaxis, max(0.0, inside[0] if any(far) else low), min(100.0, inside[1] if any(far) else high))
    return places


def _keep_ticks(axis, low, high):
    """Takes away the ticks outside a range, where the axis shows none of its scale."""
    from matplotlib.ticker import FixedLocator

    ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    if ticks:
        axis.set_major_locator(FixedLocator(ticks))


def size_axis(axes, sizes, only=None):
    """A logarithmic x axis with plain numbers, for sizes above 0; `only`: the range that has ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    span = max(sizes) / min(sizes)  # within a small one 1, 2, 5 would leave an axis with one tick or none
    axes.set_xlim(*(only or (min(sizes) / 1.5, max(sizes) * 1.5)))
    axes.xaxis.set_major_locator(
        MaxNLocator(5) if 1 < span < 5 else LogLocator(subs=(1, 2, 5) if span < 300 else (1,), numticks=12)
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    if only:
        _keep_ticks(axes.xaxis, *only)


def place_names(axes, leads_clear=False):
    """Writes each point's label beside it, clear of other names, points and error bars, or leaves it out.

    A point is a line of one place; one whose label begins with an underscore has no name, and others keep clear of it.
    Names keep clear of the stepped line too, as long as there is room elsewhere. The figure must have been drawn once,
    so that places are fixed.

    Args:
        axes: whose lines are the points.
        leads_clear: whether names keep clear of the lines that lead to other names, as long as there is room.

    Returns:
        Number of names that are left out.
    """
    unit = axes.figure.dpi / 72  # pixels in a point; all that follows is in points, a box is (left, low, right, high)
    left_out = 0
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1]
    centres = [axes.transData.transform(line.get_xydata()[0]) / unit for line in lines]
    taken = [(x - MARKER / 2, y - MARKER / 2, x + MARKER / 2, y + MARKER / 2) for x, y in centres]
    bars = [axes.transData.transform(path.vertices) / unit for bar in axes.collections for path in bar.get_paths()]
    taken += [(*(bar.min(axis=0) - 1), *(bar.max(axis=0) + 1)) for bar in bars]  # error bars
    steps, names, leads = _steps(axes, unit), [], []
    ways = [([*steps], True), ([*steps], False), ([], False)] if leads_clear else [([*steps], False), ([], False)]
    # Each name takes the first free place of those around its point, the nearest ring first, and keeps it.
    for line, centre in zip(lines, centres, strict=True):
        if line.get_label().startswith("_"):
            continue
        point = line.get_xydata()[0]
        text = axes.annotate(
            line.get_label(), point, (0, 0), textcoords="offset points", fontsize=10, va="bottom", in_layout=False
        )
        size = text.get_window_extent().width / unit, text.get_window_extent().height / unit
        frame = [v / unit for v in axes.bbox.extents]
        tried = (_free(frame, centre, size, [*taken, *more], (names, leads) if apart else None) for more, apart in ways)
        found = next(filter(None, tried), None)
        if found is None:
            text.remove()
            left_out += 1
            continue
        corner, end, box = found
        text.set_position(corner)
        taken.append(box)
        names.append(box)
        if math.hypot(*end) > FAR + 0.1:  # too far to be seen as the point's name without a line
            leads.append((*centre, *end))
            axes.annotate(
                "",
                point,
                end,
                textcoords="offset points",
                in_layout=False,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 5},
                zorder=2.9,  # behind the names, which may have a background
            )
    return left_out


def _free(frame, centre, size, taken, drawn=None):
    """The first free place for a name around its point.

    With `drawn`, (boxes of names, lines that lead to some), no such line runs through a name.

    Returns:
        (offset of its lower left corner from the point, offset at which a line to it ends, its box), or None.
    """
    (x, y), (width, height) = centre, size
    for far, (dx, dy) in itertools.product(RINGS, WAYS):
        corner = far * dx + width * (dx - 1) / 2, far * dy + height * (dy - 1) / 2
        box = (x + corner[0], y + corner[1], x + corner[0] + width, y + corner[1] + height)
        inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if not inside or any(_meet(box, other) for other in taken):
            continue
        names, leads = drawn or ((), ())
        own = (x, y, far * dx, far * dy)
        if (far > FAR and any(_crosses(own, other) for other in names)) or any(_crosses(lead, box) for lead in leads):
            continue
        return corner, own[2:], box
    return None


def _crosses(lead, box):
    """Whether a line (x, y, and how far it goes in both directions) runs through a box."""
    places = ((lead[0] + part / 30 * lead[2], lead[1] + part / 30 * lead[3]) for part in range(31))
    return any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in places)


def _steps(axes, unit):
    """Boxes around the parts of the stepped lines of `draw`."""
    boxes = []
    for line in (line for line in axes.lines if line.get_label() == "_front"):
        places = axes.transData.transform(line.get_xydata()) / unit
        for (x, y), (next_x, next_y) in itertools.pairwise(places):
            boxes.append((x, y - 1.5, next_x, y + 1.5))
            boxes.append((next_x - 1.5, min(y, next_y), next_x + 1.5, max(y, next_y)))
    return boxes


def _meet(one, two):
    """Whether two boxes (left, low, right, high) have a place in common."""
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
