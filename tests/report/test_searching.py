"""The trials of a search in a report: their order, what stopped ones reached, and files that lie."""

import json

import pytest

from compress.report import records, searching, sections

TRIALS = {  # number: (learning rate, accuracy or None of one that has no result, curve, stopped)
    0: (0.1, 0.5, [0.4, 0.5, 0.45], False),
    1: (0.01, None, [0.3, 0.25], True),
    2: (0.2, 0.75, [0.6, 0.7, 0.75], False),
    3: (0.3, None, [0.35], True),
    4: (0.4, None, None, False),
}


def written(folder, content=None, **note):
    """A search's folder with TRIALS, read; `content`: more of each result.json."""
    entries = []
    for number, (rate, acc, curve, stopped) in TRIALS.items():
        place = folder / "base" / str(number)
        place.mkdir(parents=True)
        if curve:
            (place / "history.json").write_text(json.dumps({"val_acc": curve}))
        if acc is not None:
            result = {"val_acc": acc, "val_loss": 1 - acc, "split": "validation", "images": 50, "dataset": "digits"}
            (place / "result.json").write_text(json.dumps(result | (content or {})))
        else:
            (place / "state.npz").write_bytes(b"")
        values = {"learning_rate": rate, "optimizer": "sgd", "seed": 1}
        entries.append({"folder": f"base/{number}", "step": "base", "values": values})
        entries[-1] |= {"stopped": True} if stopped else {}
    found = {"sweep": 1, "study": "rates", "objective": {"key": "val_acc", "direction": "maximize"}, "runs": entries}
    (folder / "sweep.json").write_text(json.dumps(found | note))
    return records.read_tree(folder)


def rows_of(section):
    """[{heading: text}] of the table of trials."""
    (table,) = [part for kind, part in section.parts if kind == "table" and part.slug == "trials"]
    assert all((value is None) == (shown == "-") for row in table.rows for shown, value in row)
    return [{name: cell[0] for (name, _), cell in zip(table.columns, row, strict=True)} for row in table.rows]


def test_trials_have_values_state_and_accuracy_and_one_is_the_best(tmp_path):
    section = sections.sweep_section(written(tmp_path))
    assert section.heading == "Search"
    heads = ("learning_rate", "state", "validation accuracy", "best")
    assert [[row[head] for head in heads] for row in rows_of(section)] == [
        ["0.2", "finished", "75.00 %", "best"],
        ["0.1", "finished", "50.00 %", "-"],
        ["0.01", "stopped at epoch 2", "30.00 %", "-"],
        ["0.3", "stopped at epoch 1", "35.00 %", "-"],
        ["0.4", "unfinished", "-", "-"],
    ]
    assert "optimizer" not in rows_of(section)[0]  # the same in all
    texts = [part for kind, part in section.parts if kind == "text"]
    assert texts[0].startswith(
        "The best trial is the first one, by the highest validation accuracy. 2 of 5 trials were"
    )
    told = [line for kind, lines in section.parts if kind == "list" for line in lines]
    assert not any("stopped" in line for line in told)  # names in a row, which the table has
    assert not any(part.slug == "sweep-1" for kind, part in section.parts if kind == "table")


def test_what_is_searched_for_has_a_column_where_it_is_no_accuracy(tmp_path):
    objective = {"key": "val_loss", "direction": "minimize"}
    section = sections.sweep_section(written(tmp_path, objective=objective))
    rows = rows_of(section)
    assert [(row["learning_rate"], row["val_loss"], row["best"]) for row in rows[:3]] == [
        ("0.2", "0.25", "best"),
        ("0.1", "0.5", "-"),
        ("0.01", "-", "-"),
    ]
    assert "by the lowest val_loss" in next(part for kind, part in section.parts if kind == "text")


def test_without_a_study_there_are_no_trials(tmp_path):
    tree = written(tmp_path, study=None)
    content = json.loads((tmp_path / "sweep.json").read_text())
    content.pop("study")
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert searching.read(tree) is None
    section = sections.sweep_section(tree)
    assert section.heading == "Sweep" and any(
        "stopped early" in line for kind, lines in section.parts if kind == "list" for line in lines
    )


@pytest.mark.parametrize("objective", [None, 3, {"key": ["<b>"], "direction": {}}, {"key": "seconds"}])
def test_a_search_for_what_no_record_has_names_no_best(objective, tmp_path):
    section = sections.sweep_section(written(tmp_path, {"val_acc": 0.5}, objective=objective))
    best = [row["best"] for row in rows_of(section)]
    assert best.count("best") == (1 if objective in (None, 3) else 0)  # without a key it is the validation accuracy


def test_histories_are_not_read_outside_the_folder(tmp_path):
    written(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "history.json").write_text('{"val_acc": [0.99]}')
    content = json.loads((tmp_path / "in" / "sweep.json").read_text())
    content["runs"] += [{"folder": "../out", "step": "base", "values": {"learning_rate": 5}, "stopped": True}]
    (tmp_path / "in" / "sweep.json").write_text(json.dumps(content))
    (tmp_path / "in" / "base" / "3" / "history.json").write_text('{"val_acc": [99]}')
    rows = {row["learning_rate"]: row for row in rows_of(sections.sweep_section(records.read_tree(tmp_path / "in")))}
    assert rows["5"]["validation accuracy"] == rows["0.3"]["validation accuracy"] == "-"
    assert rows["5"]["state"] == "stopped"


def test_the_iterations_of_a_pruning_are_counted_together(tmp_path):
    tree = written(tmp_path)
    for number, curve in ((1, [0.5, 0.6]), (2, [0.2, 0.3]), (10, [0.1])):
        place = tmp_path / "base" / "4" / f"iter{number}"
        place.mkdir()
        (place / "history.json").write_text(json.dumps({"val_acc": curve}))
    row = next(row for row in rows_of(sections.sweep_section(tree)) if row["learning_rate"] == "0.4")
    assert (row["state"], row["validation accuracy"]) == ("unfinished at epoch 5", "10.00 %")
