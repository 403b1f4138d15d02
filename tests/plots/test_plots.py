"""What is drawn is read back from the figures: lines, dots, cells, and the files they end up in."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import plot_train_history
from compress.errors import InputError
from compress.plots import comparison, curves, pruning, style

matplotlib.use("Agg")
ROOT = Path(__file__).parents[2]
CURVES = {
    "train_loss": [2.0, 1.0, 0.5, 0.25],
    "train_acc": [0.25, 0.5, 0.75, 0.875],
    "val_loss": [1.5, 1.25, 1.0, 1.125],
    "val_acc": [0.25, 0.625, 0.8125, 0.75],
}
RATES = {"learning_rate": [0.0, 0.1, 0.05, 0.0]}
PRUNING = {
    "base_acc": [0.9375, 0.9375, 0.9375],
    "pruned_acc": [0.5, 0.25, 0.125],
    "final_acc": [0.9375, 0.875, 0.75],
    "sparsity": [0.25, 0.5, 0.75],
}


def drawn(axes):
    """Label -> heights of an axes's lines; epochs are checked on the way."""
    for line in axes.lines:
        assert line.get_label() == "_best" or list(line.get_xdata()) == list(range(1, len(line.get_xdata()) + 1))
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def script(*words):
    return plot_train_history.main(["--no-show", *map(str, words)])


def test_one_history_is_drawn_as_it_is_with_its_best_epoch():
    figure = curves.plot_history({"base": CURVES | RATES})
    loss, accuracy, rate = figure.axes
    assert drawn(loss) == {"_train": CURVES["train_loss"], "base": CURVES["val_loss"]}
    assert drawn(accuracy) == {"_train": [25, 50, 75, 87.5], "base": [25, 62.5, 81.25, 75], "_best": [81.25]}
    assert drawn(rate) == {"base": RATES["learning_rate"]}
    best = int(np.argmax(CURVES["val_acc"])) + 1
    assert [list(line.get_xdata()) for line in accuracy.lines if line.get_label() == "_best"] == [[best]]
    assert accuracy.get_title(loc="right") == f"best 81.25 %, epoch {best}"
    assert accuracy.get_ylabel() == "accuracy (%)" and accuracy.get_xlabel() == "epoch"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"validation", "training"}


@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_epoch_axis_has_whole_ticks_and_short_curves_have_markers(epochs):
    figure = curves.plot_history({"a": {"val_acc": [0.5] * epochs}})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)
    assert (axes.lines[0].get_markevery() == 1) == (epochs < 200)


def test_missing_curves_leave_out_their_panel_and_best_is_the_lowest_loss():
    figure = curves.plot_history({"a": {"val_loss": [3.0, 1.0, 2.0]}})
    (axes,) = figure.axes
    assert drawn(axes) == {"a": [3, 1, 2], "_best": [1]} and axes.get_title(loc="right") == "best 1, epoch 2"
    figure = curves.plot_history({"a": {"train_acc": [0.5, 1.0]}})
    assert drawn(figure.axes[0]) == {"_train": [50, 100]}


def test_an_outlier_turns_the_loss_axis_logarithmic():
    assert curves.plot_history({"a": CURVES}).axes[0].get_yscale() == "linear"
    spike = CURVES | {"val_loss": [500.0, 1.25, 1.0, 1.125]}
    axes = curves.plot_history({"a": spike}).axes[0]
    assert axes.get_yscale() == "log" and "log" in axes.get_ylabel()


def test_overlay_has_one_distinguishable_validation_line_each():
    histories = {f"run{i}": CURVES | {"val_acc": [0.1 * i, 0.5]} for i in range(9)}
    figure = curves.plot_history(histories)
    lines = [line for line in figure.axes[1].lines if line.get_label() != "_train"]
    assert [line.get_label() for line in lines] == list(histories)
    for line, history in zip(lines, histories.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(history["val_acc"]))
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*histories, "validation", "training"]


def test_names_with_underscores_dollars_and_foreign_letters_are_drawn(tmp_path):
    histories = {"_hidden": CURVES, "a$b$c": CURVES, "模型": CURVES, "x" * 300: CURVES}
    figure = curves.plot_history(histories)
    assert len(figure.legends[0].get_texts()) == 6
    style.save_figure(figure, tmp_path / "a.png")


@pytest.mark.parametrize(
    "extra, panels",
    [
        ({}, 2),
        ({"recalibrated_acc": [0.75, 0.5, 0.25], "compression_rate": [1.5, 2, 4], "macs": [4e6, 2e6, 1e6]}, 4),
        ({"parameters": [4e6, 2e6, 1e6]}, 3),
    ],
)
def test_pruning_curves(extra, panels):
    figure = pruning.plot_pruning(PRUNING | extra)
    assert len(figure.axes) == panels
    top, sparsity, *sizes = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in top.lines}
    assert lines["after pruning"] == [50, 25, 12.5] and lines["after fine-tuning"] == [93.75, 87.5, 75]
    assert lines["unpruned"] == [93.75, 93.75]
    assert ("after recalibration" in lines) == ("recalibrated_acc" in extra)
    assert list(sparsity.lines[0].get_ydata()) == [25, 50, 75] and list(sparsity.lines[0].get_xdata()) == [1, 2, 3]
    assert sparsity.texts[0].get_text() == "75.0 %"
    expected = [v for key, v in extra.items() if key != "recalibrated_acc"]
    for axes, values in zip(sizes, expected, strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), np.array(values) / (1e6 if values[0] > 1e3 else 1))


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": [0.5]},
        {"final_acc": [0.5, math.nan, 0.5]},
        {"pruned_acc": []},
        {"base_acc": [93, 93, 93]},
        {"compression_rate": "high"},
    ],
)
def test_bad_pruning_results_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        pruning.plot_pruning(PRUNING | change)


def test_heat_map_is_channels_over_base():
    channels = {"conv2_block1_1": [64, 32, 16], "conv2_block1_2": [64, 64, 4], "conv3_block1_1": [128, 96, 1]}
    figure = pruning.plot_channels(channels)
    axes, bar = figure.axes
    counts = np.array(list(channels.values()))
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * counts / counts[:, :1])
    assert axes.images[0].get_clim() == (0, 100) and "%" in bar.get_ylabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(channels)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["base", "1", "2"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (c, r): str(counts[r, c]) for r in range(3) for c in range(3)
    }
    assert len(axes.lines) == 1  # between conv2 and conv3


def test_heat_map_numbers_contrast_with_their_cells():
    channels = {"a": list(range(19, -1, -1)), "b": list(range(400, 0, -20)), "c": [100, *range(56, 37, -1)]}
    axes = pruning.plot_channels(channels).axes[0]

    def luminance(rgb):
        return sum(
            w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
            for w, v in zip((0.2126, 0.7152, 0.0722), rgb, strict=False)
        )

    image = axes.images[0]
    assert len(axes.texts) == 60
    for text, value in zip(axes.texts, image.get_array().ravel(), strict=True):
        cell, ink = luminance(image.cmap(image.norm(value))), luminance(matplotlib.colors.to_rgb(text.get_color()))
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.5
    assert not pruning.plot_channels({"a": [5] * 30}).axes[0].texts


@pytest.mark.parametrize("channels", [{}, {"a": [4, 2], "b": [4]}, {"a": [0, 0]}, {"a": []}])
def test_bad_channels_are_refused(channels):
    with pytest.raises(InputError, match="channels"):
        pruning.plot_channels(channels)


def test_models_stand_at_their_size_and_names_do_not_overlap():
    rows = [
        {"name": "base", "test_acc": 0.9375, "parameters": 23_500_000, "macs": 84_000_000, "bytes": 1},
        {"name": "pruned, 15 iterations", "test_acc": 0.93, "parameters": 21_000_000, "macs": 60_000_000},
        {"name": "pruned and recalibrated", "test_acc": 0.929, "parameters": 20_500_000, "macs": 60_000_000},
        {"name": "student", "test_acc": 0.875, "parameters": 450_000, "macs": 3_000_000},
    ]
    figure = comparison.plot_models(rows)
    figure.draw_without_rendering()
    for axes, key in zip(figure.axes, ("parameters", "macs"), strict=True):
        assert axes.get_xscale() == "log" and "smaller" in axes.get_xlabel() and "(M, " in axes.get_xlabel()
        points = {line.get_label(): line.get_xydata()[0] for line in axes.lines}
        for row in rows:
            np.testing.assert_allclose(points[row["name"]], (row[key] / 1e6, 100 * row["test_acc"]))
        names = [text for text in axes.texts if text.get_text()]
        assert [text.get_text() for text in names] == [row["name"] for row in rows]
        boxes = [text.get_window_extent() for text in names]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    with pytest.raises(InputError, match=r"'base'.*macs"):
        comparison.plot_models([rows[0] | {"macs": None}])
    with pytest.raises(InputError, match=r"'base'.*spread=\[2\]"):
        comparison.plot_models([rows[0] | {"spread": 2}])
    with pytest.raises(InputError, match="rows"):
        comparison.plot_models([])


def test_a_spread_is_a_bar_of_its_size_and_only_where_there_is_one():
    one = {"name": "one", "test_acc": 0.75, "parameters": 10**6, "macs": 10**6}
    for axes in comparison.plot_models([one | {"spread": 0.0625}, one | {"name": "two"}]).axes:
        bars = [np.asarray(path.vertices) for bar in axes.collections for path in bar.get_paths()]
        assert len(bars) == 1
        np.testing.assert_allclose(bars[0], [(1, 75 - 6.25), (1, 75 + 6.25)])


def test_ablation_dots_and_numbers():
    rows = [{"name": "none", "val_acc": 0.5}, {"name": "all", "val_acc": 0.75, "test_acc": 0.625}]
    figure = comparison.plot_ablation(rows)
    (axes,) = figure.axes
    found = {(line.get_label(), line.get_xdata()[0]): line.get_fillstyle() for line in axes.lines}
    assert found == {("_validation", 50): "full", ("_validation", 75): "full", ("_test", 62.5): "none"}
    assert sorted(text.get_text() for text in axes.texts) == ["50.00", "62.50", "75.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "all"]
    assert axes.yaxis_inverted()
    with pytest.raises(InputError, match="val_acc"):
        comparison.plot_ablation([{"name": "x", "val_acc": 75.0}])


@pytest.mark.parametrize("suffix, start", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_saved_in_the_format_of_the_suffix(tmp_path, suffix, start):
    figure = curves.plot_history({"a": CURVES})
    path = tmp_path / f"figure{suffix}"
    style.save_figure(figure, path)
    assert path.read_bytes().startswith(start) and list(path.parent.iterdir()) == [path]
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.size == tuple(round(150 * side) for side in figure.get_size_inches())


def test_three_formats_give_the_same_curves(tmp_path, monkeypatch):
    figures = []
    plot = curves.plot_history
    monkeypatch.setattr(curves, "plot_history", lambda *h: figures.append(plot(*h)) or figures[-1])
    keras = dict(zip(("loss", "accuracy", "val_loss", "val_accuracy"), CURVES.values(), strict=True))
    for name, content in (
        ("suite", CURVES | RATES | {"seconds": [1.0] * 4, "run": {"seed": 1}}),
        ("original", CURVES),
        ("keras", keras),
    ):
        assert script("--history_path", write(tmp_path / name / "history.json", content)) == 0
        with Image.open(tmp_path / name / "history.png") as image:
            assert image.size[1] == 690
    lines = [[list(drawn(axes).values()) for axes in figure.axes[:2]] for figure in figures]
    assert lines[0] == lines[1] == lines[2]
    assert lines[0][1] == [[25, 50, 75, 87.5], [25, 62.5, 81.25, 75], [81.25]]


def test_several_histories_with_the_table(tmp_path, capsys):
    first = write(tmp_path / "model/base_model/history.json", CURVES)
    second = write(tmp_path / "model/pruned_model/iter1/history.json", {"train_loss": [1.0], "train_acc": [0.5]})
    args = plot_train_history.build_parser().parse_args(
        ["--no-show", "--history_path", str(first), str(second.parent), str(first)]
    )
    result = plot_train_history.run(args)
    assert result["output"] == first.parent / "history_compare.png" and result["output"].is_file()
    assert list(result["histories"]) == ["base_model", "pruned_model/iter1"]
    assert result["histories"]["base_model"] == {
        "epochs": 4,
        "best_val_acc": 0.8125,
        "best_epoch": 3,
        "last_train_loss": 0.25,
        "last_val_loss": 1.125,
    }
    out, err = capsys.readouterr()
    assert err == "" and "81.25" in out and str(result["output"]) in out


@pytest.mark.parametrize(
    "paths, labels",
    [
        (["m/iter1/history.json"], ["m/iter1"]),
        (["m/iter1/other.json"], ["iter1/other"]),
        (["m/iter1/history.json", "m/iter2/history.json"], ["iter1", "iter2"]),
        (["m/history.json", "m/iter1/history.json"], ["m", "m/iter1"]),
        (["m/a.json", "m/b.json"], ["a", "b"]),
        (["new/base_model/history.json", "scratch/plain.json"], ["new/base_model", "scratch/plain"]),
        (["m/a.json", "m/a.txt"], ["a.json", "a.txt"]),
    ],
)
def test_labels_are_the_shortest_that_differ(paths, labels):
    assert plot_train_history.short_labels([Path("/data") / path for path in paths]) == labels


def test_pruning_result_is_drawn_alone(tmp_path, capsys):
    result = write(tmp_path / "result.json", PRUNING)
    assert script("--history_path", tmp_path) == 0
    assert (tmp_path / "pruning.png").is_file() and "93.75" in capsys.readouterr().out
    history = write(tmp_path / "history.json", CURVES)
    assert script("--history_path", history, result, "--output", tmp_path / "x.png") == 2
    assert "alone" in capsys.readouterr().err and not (tmp_path / "x.png").exists()


def test_misspelt_folder_of_the_original_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model/pruned_model/iter1/history.json", CURVES)
    assert script("--history_path=./model/prued_model/iter1/history.json") == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pruned_model" in err
    assert (tmp_path / "model/pruned_model/iter1/history.png").is_file()
    assert script("--history_path=./model/prued_model/iter1/history.json", "--verbose=0") == 0
    assert capsys.readouterr() == ("", "")


BAD_FILES = {
    "no_history": '{"a": 1}',
    "empty_list": '{"train_loss": []}',
    "garbage": "{oops",
    "array": "[1, 2]",
    "words": '{"train_loss": ["a", 2]}',
    "uneven": '{"loss": [1, 2], "lr": [1], "accuracy": [0, 1]}',
    "keras_nan": '{"loss": [NaN], "accuracy": [null]}',
    "per_mille": '{"val_acc": [935]}',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_histories_end_in_one_line_and_write_nothing(tmp_path, capsys, name):
    path = tmp_path / "history.json"
    path.write_text(BAD_FILES[name])
    assert script("--history_path", path) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "history.json" in err and "--history_path" in err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["--history_path", "modle/history.json"], "did you mean model/history.json"),
        (["--history_path", "model/empty"], "without history.json"),
        (["--history_path", "x" * 5000], "--history_path"),
        (["--history_path", "model", "--output", "a.bmp"], ".png, .pdf, .svg"),
        (["--history_path", "model", "--output", "model"], "--output"),
        (["--history_path", "model", "--output", "model/history.json/a.png"], "--output"),
    ],
)
def test_bad_paths_end_in_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, words, wanted):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model/history.json", CURVES)
    (tmp_path / "model/empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert script(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and wanted in err
    assert sorted(tmp_path.rglob("*")) == before


def test_show_needs_a_display(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    path = write(tmp_path / "history.json", CURVES)
    assert plot_train_history.main(["--history_path", str(path), "--show"]) == 2
    assert "--no-show" in capsys.readouterr().err and not (tmp_path / "history.png").exists()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")  # a display, but Agg opens no window
    assert plot_train_history.main(["--history_path", str(path)]) == 0


def test_a_window_shows_the_figure_that_was_drawn(monkeypatch):
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    figure = curves.plot_history({"a": CURVES})
    plot_train_history.show(figure)
    assert len(shown) == 1 and figure.canvas.figure is figure
    pyplot.close("all")


def test_help_is_quick_and_imports_no_heavy_library():
    code = (
        "import sys, plot_train_history\n"
        "try: plot_train_history.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout and done.stderr == ""


def test_the_table_names_the_epoch_that_the_run_kept(tmp_path):
    content = {"val_acc": [0.5, 0.75, 0.75], "val_loss": [3.0, 2.0, 1.0]}
    for kept, epoch in (({}, 3), ({"checkpoint": {"epoch": 2, "sha256": "0" * 64}}, 2)):
        path = write(tmp_path / "history.json", content | kept)
        pruning, found = plot_train_history.read_all([path])
        assert pruning is None and plot_train_history.summarise(next(iter(found.values())))["best_epoch"] == epoch
