"""tables.py: what is in a cell, and that it fits any terminal; the tables of every script at real widths."""

import io
import json
import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

import evaluate_model
import export_model
import knowledge_distillation
import plot_train_history
import prune_model
import sensitivity
import train_base_model
from compress.cli import display, photographs, tables
from compress.distillation import student
from compress.plots import comparison, style

# ---- cells ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6047123, "0.6047"),
        (23.608202, "23.61"),
        (9.99996, "10.00"),
        (999.96, "1,000"),
        (12345.6, "12,346"),
        (0.00001234, "0.00001234"),
        (1e-9, "1.000e-09"),
        (-0.5, "-0.5000"),
        (0, "0"),
        (float("nan"), "nan"),
        (None, "-"),
    ],
)
def test_four_significant_digits(value, text):
    assert tables.significant(value) == text


@given(st.floats(1e-6, 1e12), st.integers(1, 6))
def test_significant_digits_round_to_the_nearest(value, digits):
    shown = float(tables.significant(value, digits).replace(",", ""))
    assert (
        abs(shown - value) <= 0.5000001 * 10 ** (len(f"{value:.0f}") - digits)
        if value >= 1
        else (shown == pytest.approx(value, rel=0.5000001 * 10 ** (1 - digits)))
    )


@pytest.mark.parametrize(
    ("kind", "values", "unit", "texts"),
    [
        (tables.count, [23608202, 604712, None], "M", ["23.61", "0.6047", "-"]),
        (tables.count, [604712, 12345], "k", ["604.7", "12.35"]),
        (tables.count, [999_960, 71_000], "M", ["1.000", "0.07100"]),
        (tables.count, [812, 3], "", ["812", "3"]),
        (tables.count, [None], "", ["-"]),
        (tables.size, [95_030_000, 2_754_000], "MB", ["95.03", "2.754"]),
        (tables.size, [12_300, 800], "kB", ["12.30", "0.8000"]),
        (tables.size, [17], "bytes", ["17"]),
        (tables.percent, [0.98887, 1, 0, None], "%", ["98.89", "100.00", "0.00", "-"]),
        (tables.ratio, [1, 39.034, 1234.5, 0.05], "", ["1.00x", "39.03x", "1,234.50x", "0.05000x"]),
        (tables.milliseconds, [9.314, 0.0402, 123.4], "ms", ["9.31", "0.0402", "123"]),
        (tables.number, [0.0402, 2.30259], "", ["0.04020", "2.303"]),
    ],
)
def test_a_column_has_one_unit(kind, values, unit, texts):
    assert kind(values) == (unit, texts)


# ---- forms ----

SMALL = [
    ["model", "base", "runs/学生"],
    ["test accuracy (%)", "98.89", "-"],
    ["loss", "0.04020", "1.234"],
    ["file (MB)", "95.03", "2.754"],
]


def drawn(columns, width):
    return ["\n".join([*head, *body]) for head, body in tables.layout(columns, width)]


def test_a_table_in_each_of_its_forms():
    whole = drawn(SMALL, 48)
    assert (
        whole
        == drawn(SMALL, 500)
        == [
            "model      test accuracy (%)     loss  file (MB)\n"
            "base                   98.89  0.04020     95.03\n"
            "runs/学生                  -  1.234        2.754"
        ]
    )
    # what is left of a line goes to headings and text, in equal shares
    assert drawn(SMALL, 47) == [
        "           test accuracy\n"
        "model                (%)     loss  file (MB)\n"
        "base               98.89  0.04020     95.03\n"
        "runs/学生              -  1.234        2.754"
    ]
    assert drawn(SMALL, 36) == [
        "               test\n"
        "           accuracy             file\n"
        "model           (%)     loss    (MB)\n"
        "base          98.89  0.04020  95.03\n"
        "runs/学生         -  1.234     2.754"
    ]
    assert drawn([["group", "conv"], ["channels", "10"], ["what", "held by add: it has no rule"]], 34) == [
        "group  channels  what\nconv         10  held by add: it\n                 has no rule"
    ]
    assert drawn([*SMALL, ["latency (ms)", "9.3", "12"]], 40) == [
        "model                  base  runs/学生\n"
        "test accuracy (%)  98.89             -\n"
        "loss                0.04020      1.234\n"
        "file (MB)          95.03         2.754\n"
        "latency (ms)        9.3         12"
    ]
    assert drawn([["format", "h5"], ["runtime", "Keras"], ["size", "9"]], 40) == [
        "format  runtime  size\nh5      Keras       9"
    ]
    assert drawn(SMALL, 24) == [
        "           test\n"
        "       accuracy\n"
        "model       (%)     loss\n"
        "base      98.89  0.04020\n"
        "runs/         -  1.234\n"
        "学生",
        "         file\nmodel    (MB)\nbase   95.03\nruns/   2.754\n学生",
    ]


@pytest.mark.parametrize("width", [1, 2, 5, 20, 40])
def test_a_narrow_terminal_has_fewer_columns_at_once(width):
    parts = tables.layout(SMALL, width)
    words = Counter(" ".join(line for head, body in parts for line in [*head, *body]).split())
    assert all(words[cell] for column in SMALL[1:] for cell in column[1:])


WORD = st.text(st.sampled_from("abcXYZ019-_.λ学é😀"), min_size=1, max_size=12)
NUMBERS = st.one_of(st.just("-"), st.floats(0, 1e6).map(tables.significant), st.floats(0, 99).map("{:.2f}x".format))


@st.composite
def grids(draw):
    """Columns of text such as the scripts print, of up to 30 columns and 8 rows."""
    rows = draw(st.integers(1, 8))
    names = st.lists(WORD, min_size=1, max_size=5).map("/".join)
    headings = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
    columns = draw(st.lists(st.tuples(headings, st.lists(NUMBERS, min_size=rows, max_size=rows)), max_size=30))
    first = draw(st.lists(names, min_size=rows, max_size=rows))
    return [["model", *first], *[[heading, *cells] for heading, cells in columns]]


def words(text):
    """The pieces at which a line may be broken."""
    return Counter(re.findall(r"[^\s/]+/?", text))


@given(grids(), st.integers(72, 200))
def test_nothing_is_broken_or_wider_than_the_terminal(grid, width):
    parts = tables.layout(grid, width)
    lines = [line for head, body in parts for line in [*head, *body]]
    assert max(map(tables.width_of, lines)) <= width
    assert words("\n".join(lines)) >= words("\n".join(cell for column in grid for cell in column)) - Counter(["model"])


def test_a_heading_may_be_a_number():
    parts = tables.layout([["model", "a" * 30], ["12", "12"], ["parameters of it all", "7"]], 20)
    assert words("\n".join(line for head, body in parts for line in [*head, *body]))["12"] == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(2, 30))
@example("ab      \u0301", 2)  # an accent on a blank
def test_wrapping_loses_nothing_but_blanks(text, width):
    line = tables.printable(text)
    lines = tables.wrap(line, width)
    assert "".join(lines).replace(" ", "") == line.replace(" ", "")
    assert all(tables.width_of(part) <= width for part in lines)


def test_nothing_that_a_terminal_obeys_gets_through():
    assert tables.printable("a\x1b[2J\n\x07\u202e\udc80é学") == r"a\x1b[2J\n\x07\u202e\udc80é学"


# ---- the tables of the scripts ----


def flags_of(script, *words):
    return script.build_parser().parse_args(words)


TAUGHT = flags_of(knowledge_distillation, "--root_folder", "x")
EVALUATED = flags_of(evaluate_model, "--model_path", "x.h5", "--split", "validation")
SIZES = {"parameters": 23_608_202, "macs": 78_713_344, "bytes": 95_030_000, "compression_rate": 21.443}
LAYERS = [f"conv{stage}_block{block}_{i}_conv" for stage in (2, 3, 4, 5) for block in range(1, 7) for i in (1, 2)]


def evaluated(name, classes=10, **other):
    return (
        {
            "name": name,
            "compared_with": "its network unpruned",
            "images": 10_000,
            "acc": 0.9889,
            "top5_acc": 1.0,
            "loss": 0.0402,
            "calibration_error": 0.0123,
            "sparsity": 0.9543,
            "latency_ms_median": 9.31,
            "class_acc": [0.9777] * classes,
        }
        | SIZES
        | other
    )


MODELS = [
    evaluated("base_model"),
    evaluated("pruned_model/iter12", parameters=604_712, loss=1e-3, sparsity=None),
    evaluated("kd_model/ablation/soft_labels_intermediate_adversarial", macs=None, acc=None),
]
RESULT = SIZES | {
    "images": 5000,
    "val_acc": 0.9,
    "val_loss": 0.31,
    "teacher_acc": 0.92,
    "best_epoch": 117,
    "epochs": 200,
}
CURVES = ("base_acc", "pruned_acc", "recalibrated_acc", "final_acc", "sparsity", *SIZES)
PRUNED = {"images": 5000} | {key: [SIZES.get(key, 0.9876)] * 16 for key in CURVES}
EXPORTED = {
    "format": "litert-int8",
    "runtime": "ONNX Runtime",
    "acc": 0.9,
    "agreement": 0.999,
    "bytes": 2.7e6,
    "latency_ms_median": 0.404,
    "threads": 2,
}
HISTORY = {"epochs": 200, "best_val_acc": 0.9, "best_epoch": 117, "last_train_loss": 0.012, "last_val_loss": 0.31}
TABLES = {
    "evaluation": lambda: evaluate_model.show(EVALUATED, MODELS),
    "evaluation of one": lambda: evaluate_model.show(EVALUATED, MODELS[:1]),
    "evaluation of twelve": lambda: evaluate_model.show(EVALUATED, MODELS * 4),
    "classes": lambda: evaluate_model.show_classes(
        EVALUATED, MODELS, ["aeroplane", "学生", "a rather long class name"]
    ),
    "classes of twelve": lambda: evaluate_model.show_classes(EVALUATED, MODELS * 4, list("0123456789")),
    "base": lambda: train_base_model.show(flags_of(train_base_model), RESULT),
    "pruning": lambda: prune_model.show(flags_of(prune_model), PRUNED),
    "distillation": lambda: knowledge_distillation.show(TAUGHT, None, 23e6, RESULT),
    "ablation": lambda: knowledge_distillation.show_ablation(
        TAUGHT, {"images": 5000, "rows": [{"name": "soft labels + intermediate + adversarial", "val_acc": 0.9}]}
    ),
    "exports": lambda: export_model.show(
        flags_of(export_model),
        {"files": [EXPORTED, EXPORTED | {"format": "h5", "agreement": None}], "images": 5000, "not_measured": None},
    ),
    "sensitivity": lambda: sensitivity.show(
        flags_of(sensitivity, "--criterion", "taylor"),
        {
            "acc": 0.9,
            "images": 1000,
            "shares": [0.1, 0.25, 0.5, 0.75, 0.9],
            "layers": [{"layer": name, "channels": 512, "acc": [1.0] * 5} for name in LAYERS],
        },
    ),
    "photographs": lambda: photographs.show(
        "model/kd_model/model.h5",
        [{"path": "x" * 50 + ".jpg", "classes": [{"class": "a" * 50, "probability": 1.0}] * 5}] * 9,
    ),
    "histories": lambda: plot_train_history.print_table(None, {"runs/a/base": HISTORY, "runs/b/学生": HISTORY}),
    "pruning again": lambda: plot_train_history.print_table(PRUNED, {}),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_the_tables_of_the_scripts_fit(name, width, monkeypatch):
    console, printed, print_table = Console(width=width, file=io.StringIO()), [], display.print_table
    monkeypatch.setattr(display, "_console", lambda: console)
    monkeypatch.setattr(student, "sizes_of", lambda model: (23_608_202, 78_712_832))
    monkeypatch.setattr(display, "print_table", lambda *a: [printed.append(a), print_table(*a)])
    TABLES[name]()
    ((_, columns, rows, *_),) = printed
    output = console.file.getvalue()
    assert max(map(tables.width_of, output.splitlines())) <= width
    cells = [cell for i, (_, kind) in enumerate(columns) for cell in kind([row[i] for row in rows])[1]]
    assert len(cells) == len(columns) * len(rows)
    assert all(re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", output) for cell in cells if re.search(r"^[\d-]", cell))
    wanted = " ".join([*cells, *(heading for heading, _ in columns)])
    assert width == 40 or words(output) >= words(wanted) - words("model class format layer")


def test_ratios_say_which_side_is_larger_and_counts_know_their_nouns():
    assert tables.against([3.98, 0.9473, 1.0, 1.00001, None])[1] == [
        "3.980x smaller",
        "1.056x larger",
        "the same",
        "the same",
        "-",
    ]
    assert [tables.counted(n, "epoch") for n in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]
    assert [tables.counted(n, "accuracy", "accuracies") for n in (1, 2)] == ["1 accuracy", "2 accuracies"]


@pytest.mark.parametrize(("told", "width"), [("80", 80), ("", 200), ("many", 200), ("0", 200)])
def test_in_a_pipe_tables_are_as_wide_as_columns_says(told, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", told)
    assert display.width() == width
    evaluate_model.show(EVALUATED, MODELS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(tables.width_of, lines)) <= width and (max(map(tables.width_of, lines)) > 80) == (width == 200)


def test_an_evaluation_tells_what_it_compares_with_and_what_of_a_file_is_no_network(capsys):
    rows = [evaluated("plain", 3, bytes=283_500_000, optimizer_bytes=189_000_000), evaluated("kd_model", 3)]
    evaluate_model.show(EVALUATED, rows)
    out = capsys.readouterr().out
    assert "plain: its file has 283.5 MB, of which 189.0 MB are the optimizer's state and no part of the network" in out
    assert "sparsity and compression rate: against plain; " in out and out.count("optimizer's") == 1
    assert "top-5" not in out  # of three classes all are among the five
    evaluate_model.show(EVALUATED, [evaluated("kd_model", 6)])
    out = capsys.readouterr().out
    assert "against its network unpruned; " in out and "top-5" in out and "optimizer" not in out


def test_what_others_are_compared_with_is_drawn_as_the_base(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparison, "plot_models", lambda rows, split: drawn.append([row["role"] for row in rows]))
    monkeypatch.setattr(style, "save_figure", lambda figure, path: None)
    for paths in (["plain.keras", "small.h5"], ["small.h5"]):
        args = flags_of(evaluate_model, "--output", str(tmp_path / "r.json"), "--model_path", *paths)
        evaluate_model.write(args, {"models": [evaluated(path) for path in paths]})
    assert drawn == [["base", None], [None]]


def test_pruning_and_distillation_name_the_epoch_that_is_kept(tmp_path, capsys):
    for i, kept in ((1, 3), (2, 1)):
        (tmp_path / f"iter{i}").mkdir()
        history = {"val_acc": [0.5, 0.6, 0.6], "val_loss": [1.0] * 3, "checkpoint": {"epoch": kept}}
        (tmp_path / f"iter{i}" / "history.json").write_text(json.dumps(history))
    result = {key: values[:3] for key, values in PRUNED.items() if key != "images"} | {"images": 5000}
    prune_model.show(flags_of(prune_model, "--root_folder", str(tmp_path)), result)
    out = capsys.readouterr().out
    assert "best epoch" in out and "3 of 3" in out and "1 of 3" in out
    prune_model.show(flags_of(prune_model, "--root_folder", str(tmp_path), "--no-save_best_model"), result)
    assert "last epoch" in capsys.readouterr().out
    assert [path.name for path in prune_model.outputs(flags_of(prune_model, "--prune_iter", "1"))[:4]] == [
        "model.h5",
        "mask.npz",
        "history.json",
        "history.png",
    ]
