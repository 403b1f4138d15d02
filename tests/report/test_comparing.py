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
    rows = tables_of(section)["effects-1"].rows
    assert {row[0][0]: row[1][1] for row in rows} == pytest.approx({name: 100 * v for name, v in wanted.items()})
    assert all(row[2][1] == pytest.approx(noise) for row in rows) and rows[0][1][1] >= rows[1][1][1]
    best = CRITERIA[int(cube.mean((0, 2)).argmax())]
    assert next(row for row in rows if row[0][0] == "criterion")[3][0].startswith(f"{best}: ")
    texts = [content for kind, content in section.parts if kind in ("text", "note")]
    assert "2 of 20 runs aren't in them" in texts[0] and sections.UNBALANCED not in texts


def test_combinations_that_are_missing_are_told(grid, tmp_path):
    grid.pop(next(iter(grid)))
    section = sections.sweep_section(written(tmp_path, grid))
    assert ("note", sections.UNBALANCED) in section.parts


def test_numbers_of_a_search_are_put_into_thirds(tmp_path):
    values = {((("rate", n / 10),), None): n / 100 for n in range(1, 10)}
    section = sections.sweep_section(written(tmp_path, values))
    (row,) = tables_of(section)["effects-1"].rows
    assert row[1][1] == pytest.approx(100 * (0.08 - 0.02)) and row[2] == ("-", None)  # no seeds
    assert row[3][0] == "0.7 to 0.9: 8.00 % (3 runs)" and row[4][0] == "0.1 to 0.3: 2.00 % (3 runs)"


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
