"""Models by size: no name lies on another or on a point, one bad run presses nothing flat, numbers can be read."""

import itertools

import matplotlib
import numpy as np
import pytest
from conftest import contrast
from hypothesis import example, given
from hypothesis import strategies as st

from compress.plots import comparison, roles, size_axes, style


def boxes_of(axes):
    """Extents in pixels of names and of markers as they are drawn."""
    axes.figure.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    points = {}
    for line in axes.lines:
        if len(line.get_xdata()) == 1:
            x, y = axes.transData.transform(line.get_xydata()[0])
            half = (line.get_markersize() / 2 + 0.5) * axes.figure.dpi / 72
            points.setdefault(line.get_label(), []).append(
                matplotlib.transforms.Bbox.from_extents(x - half, y - half, x + half, y + half)
            )
    return names, points


def crowd(seed, number):
    """Models on a small place."""
    rng = np.random.default_rng(seed)
    looks = [*roles.LOOKS, None]
    return [
        {
            "name": f"model {i} {'x' * int(rng.integers(0, 9))}",
            "test_acc": float(0.9 + rng.normal(0, 0.01)),
            "parameters": int(10 ** rng.uniform(6, 6.7)),
            "macs": int(10 ** rng.uniform(7, 7.2)),
            "spread": 0.003 * (i % 2),
            "role": looks[i % len(looks)],
        }
        for i in range(number)
    ]


@pytest.mark.parametrize(("seed", "number"), [(1, 3), (2, 8), (3, 12), (4, 16)])
def test_in_a_crowd_no_name_lies_on_another_or_on_a_point(seed, number):
    rows = crowd(seed, number)
    figure = comparison.plot_models(rows)
    for axes in figure.axes:
        names, points = boxes_of(axes)
        assert len(points) == number
        assert not [pair for pair in itertools.combinations(names, 2) if names[pair[0]].overlaps(names[pair[1]])]
        assert not [
            (name, other)
            for name, box in names.items()
            for other, marks in points.items()
            for mark in marks
            if box.overlaps(mark)
        ]
        bars = [axes.transData.transform(path.vertices) for bar in axes.collections for path in bar.get_paths()]
        assert len(bars) == number // 2
        assert not [
            name
            for name, box in names.items()
            for bar in bars
            if box.overlaps(matplotlib.transforms.Bbox([bar.min(axis=0), bar.max(axis=0)]))
        ]
        assert all(axes.bbox.padded(1).contains(*corner) for box in names.values() for corner in (box.min, box.max))
        missing = number - len(names)
        assert (f"{missing} name" in axes.get_title(loc="right")) == (missing > 0)
        for name, box in names.items():  # a name that is not beside its point has a line to it
            (mark,) = points[name]
            far = max(box.x0 - mark.x1, mark.x0 - box.x1, box.y0 - mark.y1, mark.y0 - box.y1)
            at = next(line.get_xydata()[0] for line in axes.lines if line.get_label() == name)
            led = any(not text.get_text() and np.allclose(text.xy, at) for text in axes.texts)
            assert led or far < 12 * figure.dpi / 72
    if number <= 12:
        assert all(len(boxes_of(axes)[0]) == number for axes in figure.axes)


def test_long_names_of_models_at_one_place_are_shortened_and_stay_apart():
    rows = [
        {"name": f"runs/{i}/" + "a very long name " * 5 + f"{i}", "test_acc": 0.9, "parameters": 10**6, "macs": 10**7}
        for i in range(5)
    ]
    rows.append({"name": "$x_1$", "test_acc": 0.8, "parameters": 2, "macs": 2})
    for axes in comparison.plot_models(rows).axes:
        names, _ = boxes_of(axes)
        assert len(names) == 6 and not any(a.overlaps(b) for a, b in itertools.combinations(names.values(), 2))


def test_the_same_models_give_the_same_places():
    one, two = (
        [text.get_position() for axes in comparison.plot_models(crowd(5, 9)).axes for text in axes.texts]
        for _ in range(2)
    )
    assert one == two


def test_one_bad_run_stands_at_the_edge_with_its_number_and_the_others_keep_their_room():
    good = [
        {
            "name": f"m{i}",
            "test_acc": 0.93 + 0.005 * i,
            "parameters": 10**6 * (i + 1),
            "macs": 10**7 * (i + 1),
            "role": "student",
        }
        for i in range(4)
    ]
    bad = [
        {"name": "diverged", "test_acc": 0.1, "parameters": 10**6, "macs": 10**7, "role": "student"},
        {"name": "huge", "test_acc": 0.94, "parameters": 10**14, "macs": 10**15, "role": None},
    ]
    for axes in comparison.plot_models(good + bad).axes:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert 1.5 / (high - low) > 0.5 and np.log10(4) / np.log10(right / left) > 0.4  # of the range of the good ones
        shown = {line.get_label(): line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
        assert "diverged (10.00 % ↓)" in shown and any(name.startswith("huge (1e+0") and "→" in name for name in shown)
        assert all(left < x < right and low < y < high for x, y in shown.values())
        names, _ = boxes_of(axes)
        assert set(names) == set(shown)
        for row in good:
            np.testing.assert_allclose(shown[row["name"]][1], 100 * row["test_acc"])
        lane = shown["diverged (10.00 % ↓)"][1]
        assert lane < 93 and all(tick > lane for tick in axes.get_yticks())  # no tick says that it has 91 %


def test_a_front_is_of_the_others_where_one_run_is_bad():
    figure = style.new_figure(4.8, 4.6)
    axes = figure.subplots()
    dots = [size_axes.Dot(x, y, "student") for x, y in ((1, 90), (2, 92), (3, 91), (4, 94), (0.5, 10))]
    assert size_axes.draw(axes, dots, edge=True) == 0
    steps = next(line for line in axes.lines if line.get_label() == "_front")
    assert list(zip(steps.get_xdata(orig=True), steps.get_ydata(orig=True), strict=True)) == [(1, 90), (2, 92), (4, 94)]


@pytest.mark.parametrize("number", [10, 12])
def test_where_points_share_names_no_line_to_a_name_runs_through_another(number):
    rng, crossed = np.random.default_rng(6), {}
    dots = [
        size_axes.Dot(10 ** rng.uniform(0, 0.7), 90 + rng.normal(), "student", f"a longer name {i}")
        for i in range(number)
    ]
    for together in (None, lambda indices: f"{len(indices)} students"):
        axes = style.new_figure(4.8, 4.6).subplots()
        size_axes.draw(axes, dots, together=together)
        names, _ = boxes_of(axes)
        leads = [text for text in axes.texts if not text.get_text()]
        assert leads and all(text.zorder > lead.zorder for text in axes.texts if text.get_text() for lead in leads)
        crossed[together is None] = 0
        for lead in leads:
            start = axes.transData.transform(lead.xy)
            way = np.array(lead.xyann) * axes.figure.dpi / 72
            places = start + np.linspace(0, 0.9, 100)[:, None] * way
            others = [box for box in names.values() if not box.padded(1).contains(*(start + way))]
            crossed[together is None] += sum(any(box.contains(*place) for place in places) for box in others)
    assert crossed == {True: 1, False: 0}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([95, 94, 60], []),
        ([95, 94, 93, 60], [60]),
        ([95, 94, 93, 85], []),
        ([10, 10, 10, 95], [95]),
        ([50] * 9, []),
        ([10, 20, 30, 40, 50, 60, 70], []),
        ([93, 94, 95, 10, 11], [10, 11]),
        ([93, 95, 10, 11], []),
        ([1], []),
    ],
)
def test_outliers_are_few_and_far(values, wanted):
    assert [v for v, far in zip(values, size_axes.outliers(values, 15), strict=True) if far] == wanted


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
@example([0.0, 0.0, 0.0, 15.0, 61.0, 61.0])
def test_most_values_are_no_outliers_and_those_that_are_lie_apart(values):
    far = size_axes.outliers(values, 15)
    near = [v for v, out in zip(values, far, strict=True) if not out]
    assert len(near) > sum(far)
    for v in (v for v, out in zip(values, far, strict=True) if out):
        assert v < min(near) - 15 or v > max(near) + 15 or pytest.approx(15) == min(abs(v - n) for n in near)


@pytest.mark.parametrize("name", ["viridis", "viridis_r", "Blues", "coolwarm"])
def test_numbers_contrast_with_every_colour_of_a_map(name):
    cells = matplotlib.colormaps[name](np.linspace(0, 1, 256))
    assert min(contrast(cell, style.ink_on(cell)) for cell in cells) >= 4.5


def test_small_models_keep_their_digits():
    figure = comparison.plot_models([{"name": "tiny", "test_acc": 0.9, "parameters": 4712, "macs": 12345}])
    assert "(k, " in figure.axes[0].get_xlabel()
    assert [line.get_xydata()[0][0] for axes in figure.axes for line in axes.lines] == [4.712, 12.345]
