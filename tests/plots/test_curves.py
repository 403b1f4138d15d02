"""Training curves by role: what is one axis's and what isn't, gaps, many histories."""

import itertools
import json

import pytest

import plot_train_history
from compress.plots import curves, roles
from compress.storage import records

KD = {
    "train_loss": [9.0, 5.0],
    "train_acc": [0.25, 0.5],
    "val_loss": [2.0, 1.5],
    "val_acc": [0.25, 0.5],
    "train_backbone": [8.0, 4.0],
    "train_intermediate": [7.0, 6.0],
    "train_hard_label": [2.25, 1.25],
    "learning_rate": [0.1, 0.05],
}
BASE = {key: KD[key] for key in (*records.CURVES, "learning_rate")}


def lines(axes):
    """(label, heights) of an axes's lines, in their order."""
    return [(line.get_label(), list(line.get_ydata())) for line in axes.lines]


def test_a_distillation_s_sum_never_shares_an_axis_with_a_cross_entropy():
    figure = curves.plot_history({"kd": KD}, {"kd": "student"})
    loss, distillation, accuracy, _ = figure.axes
    assert (loss.get_title(loc="left"), loss.get_ylabel()) == ("Cross-entropy", "cross-entropy (nats)")
    assert lines(loss) == [("_train", KD["train_hard_label"]), ("kd", KD["val_loss"])]
    assert lines(distillation) == [
        (curves.SUM, KD["train_loss"]),
        ("soft labels (KL x T²)", KD["train_backbone"]),
        ("feature maps (MSE)", KD["train_intermediate"]),
    ]
    assert "distillation" in distillation.get_title(loc="left").lower() and accuracy.get_ylabel() == "accuracy (%)"
    told = {text.get_text() for text in figure.legends[0].get_texts()}
    assert told == {"validation", "training", *(label for label, _ in lines(distillation))}
    # without its record, the parts tell what it is; without both, no axis claims to be a cross-entropy
    assert len(curves.plot_history({"kd": KD}).axes) == 4
    assert curves.plot_history({"x": BASE}).axes[0].get_ylabel() == "loss"


def test_several_histories_have_the_sums_of_the_distilled_ones_alone():
    shown = curves.plot_history({"base": BASE, "kd": KD}, {"base": "base", "kd": "student"})
    loss, distillation, *_ = shown.axes
    assert lines(loss) == [
        ("_train", BASE["train_loss"]),
        ("base", BASE["val_loss"]),
        ("_train", KD["train_hard_label"]),
        ("kd", KD["val_loss"]),
    ]
    assert lines(distillation) == [("kd", KD["train_loss"])] and "weighted" in distillation.get_ylabel()
    assert curves.panels_of({"base": BASE}, {"base": "base"}) == ["loss", "accuracy", "learning rate"]
    alone = curves.plot_history({"base": BASE, "kd": KD}, {"base": "base", "kd": "student"}, "distillation")
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["kd"]


def test_a_role_has_one_colour_and_marker_and_its_members_other_lines():
    given = {"b": "base", "i1": "pruned", "i2": "pruned", "a": "assistant", "s": "student", "x": None, "y": None}
    axes = curves.plot_history({name: {"val_acc": [0.5, 0.75]} for name in given}, given).axes[0]
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines}
    assert all(looks[name] == roles.LOOKS[role] for name, role in given.items() if role)
    one, two = (next(line for line in axes.lines if line.get_label() == name) for name in ("i1", "i2"))
    assert one.get_linestyle() != two.get_linestyle() and one.get_fillstyle() != two.get_fillstyle()
    assert looks["x"] != looks["y"] and not {looks["x"][0], looks["y"][0]} & {c for c, _ in roles.LOOKS.values()}
    assert len({marker for _, marker in roles.LOOKS.values()}) == len({c for c, _ in roles.LOOKS.values()}) == 5


def test_epochs_without_a_number_are_left_out_and_the_others_keep_their_place():
    gaps = {"val_acc": [None, 0.5, None, 0.75, None], "train_acc": [0.1, 0.2, 0.3, 0.4, 0.5]}
    (axes,) = curves.plot_history({"a": gaps}).axes
    line = next(line for line in axes.lines if line.get_label() == "a")
    assert list(line.get_xdata()) == [2, 4] and list(line.get_ydata()) == [50, 75]
    assert axes.get_title(loc="right") == "best 75.00 %, epoch 4" and axes.get_xlim() == (0.5, 5.5)


@pytest.mark.parametrize(("number", "texts"), [(12, 13), (24, 14)])
def test_a_legend_names_twelve_histories_and_counts_the_others(number, texts):
    figure = curves.plot_history({f"run {i}": {"val_acc": [0.5, 0.01 * i]} for i in range(number)})
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(told) == texts and ("and 12 more" in told) == (number == 24) and told[11] == "run 11"
    (axes,) = figure.axes
    assert len(axes.lines) == number
    assert [line.get_color() == roles.PALE for line in axes.lines] == [i >= 12 for i in range(number)]
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(axes.get_tightbbox())


def flags_of(role):
    return {"epoch_num": 2} | {"base": {}, "pruned": {"prune_iter": 3}, "student": {"lambda1": 0.7}}[role]


@pytest.mark.parametrize(
    ("before", "role"), [("pruned", "pruned"), ("student", "student"), ("base", "base"), (3, "base")]
)
def test_a_network_that_is_trained_further_stays_what_it_was(before, role):
    assert roles.of_run({"flags": flags_of("base"), "parent_role": before}) == role
    assert roles.of_run({"flags": flags_of("student"), "parent_role": before}) == "student"


def test_roles_are_read_from_the_records_beside(tmp_path, monkeypatch):
    chain = (
        ("base", "base", None),
        ("iter1", "pruned", "base"),
        ("helper", "student", "iter1"),
        ("small", "student", "helper"),
        ("stranger", None, None),
    )
    for name, role, parent in chain:
        run = {"flags": flags_of(role), "parent_sha256": parent and parent[0] * 64} if role else [1]
        content = KD | {"run": run, "checkpoint": {"sha256": name[0] * 64, "epoch": 1}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.json").write_text(json.dumps(content))
    paths = [tmp_path / name / "history.json" for name, *_ in chain]
    wanted = ["base", "pruned", "assistant", "student", None]
    assert roles.of_files(paths) == wanted
    assert roles.of_files([path.parent / "model.h5" for path in paths]) == wanted
    assert roles.of_files([path.parent for path in paths[2:4]]) == wanted[2:4]
    assert roles.of_files([paths[2], tmp_path / "none.h5", tmp_path / "no" / "model.h5"]) == ["student", None, None]
    seen, plot = [], curves.plot_history
    monkeypatch.setattr(curves, "plot_history", lambda *args: seen.append(args[1]) or plot(*args))
    assert plot_train_history.main(["--no-show", "--verbose", "0", "--history_path", *map(str, paths)]) == 0
    assert seen == [dict(zip([name for name, *_ in chain], wanted, strict=True))]


@pytest.mark.parametrize(
    ("kept", "title"),
    [
        (None, "best 50.00 %, epoch 3"),  # of equal ones the lowest loss
        (1, "best 50.00 %, epoch 1"),  # an earlier version kept the first of equal ones
        (4, "kept 40.00 %, epoch 4"),
        (9, "best 50.00 %, epoch 3"),
    ],
)
def test_the_epoch_that_is_kept_is_marked(kept, title):
    history = {"val_acc": [0.5, 0.5, 0.5, 0.4], "val_loss": [3.0, 2.0, 1.0, 0.5], "checkpoint": {"epoch": kept}}
    axes = next(axes for axes in curves.plot_history({"x": history}).axes if axes.get_title(loc="left") == "Accuracy")
    (ring,) = (line for line in axes.lines if line.get_label() == "_best")
    assert axes.get_title(loc="right") == title and f"epoch {ring.get_xdata()[0]}" in title


@pytest.mark.parametrize("keys", [c for n in range(1, 6) for c in itertools.combinations(BASE, n)], ids="-".join)
def test_a_history_may_have_any_part_of_the_curves(keys):
    figure = curves.plot_history({"mine": {key: BASE[key] for key in keys}})
    drawn = sorted(list(line.get_ydata()) for axes in figure.axes for line in axes.lines if line.get_label() != "_best")
    assert drawn == sorted([100 * v for v in BASE[key]] if key.endswith("_acc") else BASE[key] for key in keys)
    shown = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert ("validation" in shown) <= any(key.startswith("val") for key in keys)
