"""The runs of a sweep in a report: means, deviations and differences against numpy, and files that lie."""

import itertools
import json

import numpy as np
import pytest

from compress.report import comparing, figures, page, records, sections
from compress.report.tree import Tree
from compress.sweeps import notes, plans, specs

RATES, CRITERIA, SEEDS = (0.1, 0.05), ("apoz", "l1", "l2"), (1, 2, 3)


def result(acc, **more):
    return {"val_acc": acc, "split": "validation", "images": 50, "parameters": 1000, "dataset": "digits"} | more


def written(folder, accuracies, lacking=0, **note):
    """A sweep's folder: {(settings as a tuple of pairs, seed): accuracy}, and some runs that never ended."""
    entries = []
    for number, ((settings, seed), acc) in enumerate(accuracies.items()):
        place = folder / "base" / str(number)
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(result(acc)))
        values = dict(settings) | ({} if seed is None else {"seed": seed})
        entries.append({"folder": f"base/{number}", "step": "base", "values": values})
    entries += [{"folder": f"lost/{i}", "step": "base", "values": {}} for i in range(lacking)]
    (folder / "sweep.json").write_text(json.dumps({"sweep": 1, "runs": entries} | note))
    return records.read_tree(folder)


@pytest.fixture
def grid():
    """{(settings, seed): accuracy} of all combinations."""
    rng = np.random.default_rng(3)
    return {
        ((("rate", rate), ("criterion", criterion)), seed): float(rng.uniform(0.2, 0.9))
        for rate, criterion, seed in itertools.product(RATES, CRITERIA, SEEDS)
    }


def cells(table):
    """[{heading: (text, value to sort by)}] of a table's rows."""
    return [{name: cell for (name, _), cell in zip(table.columns, row, strict=True)} for row in table.rows]


def tables_of(section):
    return {table.slug: table for kind, table in section.parts if kind == "table"}


def test_means_and_deviations_over_seeds_are_numpys(grid, tmp_path):
    section = sections.sweep_section(written(tmp_path, grid))
    table = tables_of(section)["sweep-1"]
    assert [name for name, _ in table.columns[:3]] == ["rate", "criterion", "runs"] and len(table.rows) == 6
    means = [row[3][1] for row in table.rows]
    assert means == sorted(means, reverse=True)
    for (rate, _), (criterion, _), (_, runs), (_, mean), (_, deviation), (_, low), (_, high), (_, size) in table.rows:
        accuracies = [grid[(("rate", float(rate)), ("criterion", criterion)), seed] for seed in SEEDS]
        assert runs == 3 and (low, high) == (min(accuracies), max(accuracies)) and size == 1000
        assert mean == pytest.approx(np.mean(accuracies)) and deviation == pytest.approx(
            100 * np.std(accuracies, ddof=1)
        )


def test_a_setting_is_told_by_how_far_its_means_lie_apart(grid, tmp_path):
    section = sections.sweep_section(written(tmp_path, grid, lacking=2))
    cube = np.array(list(grid.values())).reshape(len(RATES), len(CRITERIA), len(SEEDS))
    wanted = {"rate": np.ptp(cube.mean((1, 2))), "criterion": np.ptp(cube.mean((0, 2)))}
    noise = 100 * np.sqrt(cube.var(2, ddof=1).mean())
    table = tables_of(section)["effects-1"]
    rows = {row["setting"][0]: row for row in cells(table)}
    apart = {name: row["best mean - worst mean, points"][1] for name, row in rows.items()}
    assert apart == pytest.approx({name: 100 * value for name, value in wanted.items()})
    assert list(apart.values()) == sorted(apart.values(), reverse=True)
    assert all(row["deviation over seeds, points"][1] == pytest.approx(noise) for row in rows.values())
    for values, means, name in ((RATES, cube.mean((1, 2)), "rate"), (CRITERIA, cube.mean((0, 2)), "criterion")):
        for heading, at in (("best value", means.argmax()), ("worst value", means.argmin())):
            shown, sorted_by = rows[name][heading]
            assert shown.startswith(f"{values[at]}: {100 * means[at]:.2f} % (") and sorted_by == f"{means[at]:.9f}"
    assert [is_number for _, is_number in table.columns] == [False, True, True, False, False]
    for row in table.rows:  # a column of texts is sorted as texts, one of numbers as numbers
        assert [isinstance(value, float) for _, value in row] == [is_number for _, is_number in table.columns]
    assert ("list", ["unfinished: lost/0, lost/1"]) in section.parts and (
        "note",
        sections.UNBALANCED,
    ) not in section.parts


def test_runs_that_are_not_compared_are_named_with_the_command_that_goes_on(grid, tmp_path):
    written(tmp_path, grid)
    content = json.loads((tmp_path / "sweep.json").read_text()) | {"file": "my sweep.yaml", "seeds": [1, 2, 3]}
    content["runs"] += [
        {"folder": "prune/a", "step": "prune", "values": {}},  # stopped in its first iteration
        {"folder": "prune/b", "step": "prune", "values": {}},  # in its second one
        {"folder": "student/a", "step": "student", "values": {}},  # before result.json
        {"folder": "student/b", "step": "student", "values": {}, "stopped": True},
        {"folder": "layers", "step": "layers", "values": {}, "record": "layers/sensitivity.json"},
    ]
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    begun = {"finished": False, "split": "validation", "images": 50, "final_acc": []}
    more = {key: [0.5] for key in ("base_acc", "pruned_acc", "final_acc", "sparsity")}
    layers = {
        "acc": 0.5,
        "shares": [0.5],
        "layers": [{"layer": "a", "channels": 8, "acc": [0.5]}],
        "split": "validation",
    }
    files = {
        "prune/a/result.json": begun,
        "prune/b/result.json": begun | more,
        "student/a/history.json": {"val_acc": [0.5]},
        "student/b/history.json": {"val_acc": [0.5]},
        "layers/sensitivity.json": layers,
        "mine/result.json": begun,
    }
    for name, record in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(record))
    for name in ("student/a", "student/b"):
        (tmp_path / name / "state.npz").write_bytes(b"")
    tree = records.read_tree(tmp_path)
    assert list(comparing.told(tree.sweep)) == [
        "unfinished: prune/a, prune/b, student/a; go on with: python sweep.py 'my sweep.yaml' --seeds 1 2 3",
        "stopped early, as other trials were better by then: student/b",
        "1 run finished but not compared: of a script that trains nothing, or outside this folder",
    ]
    assert {member.step for member in tree.sweep.members} == {"base"}
    assert [file for file, _ in tree.skipped] == ["mine/result.json"]  # which is no run of the sweep
    (tmp_path / "sweep.json").write_text(json.dumps(content | {"study": "rates"}))
    assert next(comparing.told(comparing.read(tree))) == "unfinished: prune/a, prune/b, student/a"


def test_what_sweep_py_notes_of_a_run_is_what_the_report_reads(tmp_path):
    spec = specs.Spec("a.yaml", str(tmp_path), [1], [], ("val_acc", "maximize"), {})
    runs = [
        plans.Run(step, script, f"{tmp_path}/{step}", {"seed": 1}, (), {}, 1)
        for step, script in (("base", "train_base_model.py"), ("layers", "sensitivity.py"))
    ]
    notes.write(spec, [notes.entry(run, spec.folder) for run in runs])
    sweep = comparing.read(Tree(tmp_path, [], []))
    assert sweep.unfinished == ["base", "layers"] and sweep.command == "python sweep.py a.yaml --seeds 1"
    for run in runs:
        run.record.parent.mkdir()
        run.record.write_text("{}")
    assert comparing.read(Tree(tmp_path, [], [])).unfinished == []


def test_many_unfinished_runs_are_counted(grid, tmp_path):
    (line,) = comparing.told(written(tmp_path, grid, lacking=23).sweep)
    assert line.startswith("unfinished: lost/0, lost/1, ") and line.endswith("lost/19 and 3 more")


def test_models_of_a_sweep_are_named_by_what_they_differ_in(grid, tmp_path):
    tree = written(tmp_path, grid)
    labels = [point.label for point in tree.points]
    assert sorted(labels) == sorted(
        f"rate={rate}, {criterion}, seed={seed}" for (((_, rate), (_, criterion)), seed) in grid
    )
    for number, point in enumerate(tree.points):
        point.sizes["parameters"] = 1000 + 100 * number
    (axes,) = figures.plot_front(tree.points, "parameters")[0].axes
    best = {point.label for point in figures.unbeaten(tree.points, "parameters")}
    assert len(best) > 1 and best <= {name.get_text() for name in axes.texts}
    table = sections.models_section(tree).parts[-1][1]
    front = {row["model"][0] for row in cells(table) if row["front"][0] == "parameters"}
    wanted = {
        point.name
        for point in tree.points
        if not any(o.acc >= point.acc and o.sizes["parameters"] < point.sizes["parameters"] for o in tree.points)
    }
    assert front == wanted and len(wanted) == len(best)
    assert {row["front"][0] for row in cells(table)} == {"parameters", "-"}


def test_labels_of_several_steps_name_them(tmp_path):
    """'seed=1' of a base is not 'seed=1' of a student; where they cover each other, the step is said once."""
    runs = []
    for step, seed in itertools.product(("base", "student"), (1, 2)):
        place = tmp_path / step / str(seed)
        place.mkdir(parents=True)
        more = {"teacher_acc": 0.5} if step == "student" else {}
        size = {"parameters": 1000 if step == "base" else 100}
        (place / "result.json").write_text(json.dumps(result(0.5 if step == "base" else 0.4, **size, **more)))
        runs.append({"folder": f"{step}/{seed}", "step": step, "values": {"seed": seed}})
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": 1, "runs": runs}))
    tree = records.read_tree(tmp_path)
    assert [p.label for p in tree.points] == ["base: seed=1", "base: seed=2", "student: seed=1", "student: seed=2"]
    (axes,) = figures.plot_front(tree.points, "parameters")[0].axes
    assert {name.get_text() for name in axes.texts} == {"2 bases:\nseed=1\nseed=2", "2 students:\nseed=1\nseed=2"}


def test_the_prunings_of_a_sweep_are_folded(tmp_path):
    lists = {key: [0.5] for key in ("base_acc", "pruned_acc", "final_acc", "sparsity")}
    record = {"split": "validation", "images": 50} | lists
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(record))
    alone = sections.pruning_section(Tree(tmp_path, records.read_tree(tmp_path).runs, []))
    assert [kind for kind, _ in alone.parts] == ["heading", "text", "table", "figures"] * 2
    runs = [{"folder": name, "step": "prune", "values": {"seed": 1}} for name in "ab"]
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": 1, "runs": runs}))
    section = sections.pruning_section(records.read_tree(tmp_path))
    assert [kind for kind, _ in section.parts] == ["fold", "text", "table", "figures", "end of fold"] * 2
    drawn = dict.fromkeys((figure.slug for figure in section.figures), "")
    html = page.render([section], drawn, root="r", made="m", cards=[], folder="f")
    assert html.count('<details class="fold"><summary><b>') == html.count("</details>") == 2
    first = html.index("</details>")
    assert html.index("<summary><b>a</b>") < html.index('id="table-pruning-1"') < html.index("pruning-1.png") < first
    assert first < html.index("<summary><b>b</b>") < html.index("pruning-2.png")


def test_combinations_that_are_missing_are_told(grid, tmp_path):
    grid.pop(next(iter(grid)))
    section = sections.sweep_section(written(tmp_path, grid))
    assert ("note", sections.UNBALANCED) in section.parts


def test_numbers_of_a_search_are_put_into_thirds(tmp_path):
    values = {((("rate", n / 10),), None): n / 100 for n in range(1, 10)}
    section = sections.sweep_section(written(tmp_path, values))
    (row,) = cells(tables_of(section)["effects-1"])
    assert row["best mean - worst mean, points"][1] == pytest.approx(100 * (0.08 - 0.02))
    assert row["deviation over seeds, points"] == ("-", None)  # no seeds
    assert row["best value"][0] == "0.7 to 0.9: 8.00 % (3 runs)"
    assert row["worst value"][0] == "0.1 to 0.3: 2.00 % (3 runs)"
    assert tables_of(section)["sweep-1"].columns[0] == ("rate", True)  # 0.05 stands before 0.1


def test_runs_on_other_images_have_a_table_of_their_own_that_names_them(tmp_path):
    """Accuracies of networks on different numbers of images, as rows of a sweep have them, are not compared."""
    accuracies = {"VGG16": (0.5, 20), "resnet56": (0.75, 50), "MobileNetV2": (0.25, 50)}
    written(tmp_path, {((("row", row),), None): acc for row, (acc, _) in accuracies.items()})
    for number, (acc, images) in enumerate(accuracies.values()):
        (tmp_path / "base" / str(number) / "result.json").write_text(json.dumps(result(acc, images=images)))
    parts = sections.sweep_section(records.read_tree(tmp_path)).parts
    tables = [part for kind, part in parts if kind == "table"]
    assert [table.slug for table in tables] == ["sweep-1", "effects-1", "sweep-2"]
    assert [[row[0][0] for row in table.rows] for table in tables] == [["resnet56", "MobileNetV2"], ["row"], ["VGG16"]]
    assert "50 images" in tables[0].caption and "20 images" in tables[2].caption
    assert not any(kind == "note" for kind, _ in parts)


def test_a_step_on_many_sets_of_images_shows_the_first_ones(tmp_path):
    written(tmp_path, {((("subset", number),), None): 0.5 for number in range(9)})
    for number in range(9):
        (tmp_path / "base" / str(number) / "result.json").write_text(json.dumps(result(0.5, images=50 + number)))
    parts = sections.sweep_section(records.read_tree(tmp_path)).parts
    assert sum(kind == "table" for kind, _ in parts) == 6
    assert ("note", "Without 3 runs on other images.") in parts


def test_values_of_equal_means_have_no_best_and_no_worst(grid, tmp_path):
    equal = {((*key, ("augment", name)), seed): acc for (key, seed), acc in grid.items() for name in ("crop", "shift")}
    rows = cells(tables_of(sections.sweep_section(written(tmp_path, equal)))["effects-1"])
    assert [row["setting"][0] for row in rows][-1] == "augment" and len(rows) == 3
    assert rows[-1]["best mean - worst mean, points"][0] == "0.00"
    assert rows[-1]["best value"][0] == rows[-1]["worst value"][0] == "no difference"
    assert all("no difference" not in row["best value"][0] for row in rows[:-1])


def test_without_differences_there_is_one_row_and_no_effect(tmp_path):
    section = sections.sweep_section(written(tmp_path, {((), seed): seed / 10 for seed in SEEDS}))
    assert [table.slug for table in tables_of(section).values()] == ["sweep-1"]
    (row,) = tables_of(section)["sweep-1"].rows
    assert row[0][0] == "all runs" and row[1][1] == 3 and row[3][1] == pytest.approx(10)


@pytest.mark.parametrize("note", [{"runs": 3}, {"runs": [3, {"folder": 1}]}, {"sweep": 1, "runs": []}])
def test_a_broken_list_of_runs_is_no_sweep(note, grid, tmp_path):
    tree = written(tmp_path, grid, **note)
    assert sections.sweep_section(tree) is None and [file for file, _ in tree.skipped] == ["sweep.json"]


def test_a_hostile_list_of_runs_reads_nothing_outside_and_is_only_text(tmp_path):
    tree = written(tmp_path, {((("<b>\x1b", "x" * 999),), "<i>"): 0.5, ((("<b>\x1b", None),), "{}"): 0.25})
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["runs"][0]["values"]["list"], content["runs"][1]["values"]["list"] = [["y"]], {"z": 10**400}
    content["runs"].append({"folder": "../../etc", "step": ["a"], "values": 5})
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    sweep = comparing.read(tree)
    assert len(sweep.members) == 2 and sweep.unfinished == ["../../etc"]
    table = tables_of(sections.sweep_section(tree))["sweep-1"]
    assert table.columns[0][0] == "<b>\ufffd" and all(len(row[0][0]) <= 40 for row in table.rows)
    (tmp_path / "sweep.json").write_text("{")
    assert comparing.read(tree) is None
    assert comparing.read(Tree(tmp_path / "base", [], [])) is None
