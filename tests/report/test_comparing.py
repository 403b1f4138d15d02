"""The runs of a sweep in a report: means, deviations and differences against numpy, and files that lie."""

import itertools
import json

import numpy as np
import pytest

from compress.report import comparing, records, sections
from compress.report.tree import Tree

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
    texts = [content for kind, content in section.parts if kind in ("text", "note")]
    assert "2 of 20 runs aren't in them" in texts[0] and sections.UNBALANCED not in texts


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
    assert sections.sweep_section(written(tmp_path, grid, **note)) is None


def test_a_hostile_list_of_runs_reads_nothing_outside_and_is_only_text(tmp_path):
    tree = written(tmp_path, {((("<b>\x1b", "x" * 999),), "<i>"): 0.5, ((("<b>\x1b", None),), "{}"): 0.25})
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["runs"][0]["values"]["list"], content["runs"][1]["values"]["list"] = [["y"]], {"z": 10**400}
    content["runs"].append({"folder": "../../etc", "step": ["a"], "values": 5})
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    members, count = comparing.read(tree)
    assert (len(members), count) == (2, 3)
    table = tables_of(sections.sweep_section(tree))["sweep-1"]
    assert table.columns[0][0] == "<b>\ufffd" and all(len(row[0][0]) <= 40 for row in table.rows)
    (tmp_path / "sweep.json").write_text("{")
    assert comparing.read(tree) == ([], 0)
    assert comparing.read(Tree(tmp_path / "base", [], [])) == ([], 0)
