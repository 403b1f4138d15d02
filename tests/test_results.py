"""results/build.py: tables that nobody types, from records made up here."""

import importlib.util
import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("build", ROOT / "results" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)


def record(seed, sha256, parent=None, **content):
    run = {"seed": seed, "argv": ["train.py", "--seed", str(seed)], "processor": "A", "cores": 2,
           "versions": {"keras": "3.15", "tensorflow": "2.21", "numpy": "2"}, "flags": {"epoch_num": 3}}
    return {"sha256": sha256, "parent_sha256": parent, "run": run, "images": 5000, "train_images": 45000} | content


@pytest.fixture
def folder(tmp_path):
    """Two seeds of base and student, one of a pruned teacher from the first base; the students were tested."""
    numbers = {"parameters": 23_608_202, "macs": 78_712_832, "bytes": 95_000_000}
    small = {"parameters": 1_700_000, "macs": 9_700_000, "bytes": 7_400_000}
    records = {}
    for seed, base, student in ((1, 0.80, 0.81), (2, 0.82, 0.85)):
        records[f"base12/seed{seed}"] = record(seed, f"base{seed}", epochs=12, val_acc=base, seconds=60, **numbers)
        records[f"student/seed{seed}"] = record(seed, f"student{seed}", f"base{seed}", epochs=14, val_acc=student,
                                                seconds=120.0, compression_rate=13.9, **small)
    records["pruned"] = record(1, ["one", "two"], "base1", final_acc=[0.7, 0.8], seconds=[60, 30],
                               compression_rate=[1.2, 1.5], **{key: [2 * n, n] for key, n in small.items()})
    for name, content in records.items():
        path = tmp_path / "yardstick" / name / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    models = [{"sha256": f"student{seed}", "acc": acc, "sparsity": 0.9, "images": 1000}
              for seed, acc in ((1, 0.79), (2, 0.79))]
    (tmp_path / "yardstick" / "evaluation.json").write_text(json.dumps({"split": "test", "models": models}))
    return tmp_path


def test_a_row_is_the_mean_of_its_seeds_with_the_epochs_of_all_that_it_came_from(folder):
    text = build.rebuilt("before\n<!-- results:yardstick -->\nold\n<!-- /results:yardstick -->\nafter", folder)
    assert text.startswith("before\n") and text.endswith("\nafter") and "old" not in text
    rows = {line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]]
            for line in text.splitlines() if line.startswith("|")}
    columns = [name.strip() for name in rows.pop("")]
    assert len(rows) == 4  # the line under the headings, base, pruned, student; none that has no record
    student = dict(zip(columns, rows["student"], strict=True))
    assert student["validation"] == f"{83:.2f} ± {statistics.stdev([81, 85]):.2f}"
    assert student["test"] == "79.00" and student["epochs"] == "12 + 14" and student["seeds"] == "1, 2"
    assert (student["compression rate"], student["parameters (M)"], student["minutes"]) == ("13.90x", "1.70", "2.0")
    pruned = dict(zip(columns, rows["pruned teacher"], strict=True))
    assert (pruned["validation"], pruned["epochs"], pruned["minutes"]) == ("80.00", "12 + 6", "1.5")
    assert pruned["test"] == "-" and dict(zip(columns, rows["base"], strict=True))["compression rate"] == "1.00x"
    assert "45,000 training and 5,000 validation images, the first 1,000 test images. A, 2 cores; Keras 3.15" in text
    assert text.count("python train.py --seed 1\n") == 1  # a command is told once


def test_a_validation_split_is_no_test(folder):
    path = folder / "yardstick" / "evaluation.json"
    path.write_text(path.read_text().replace('"test"', '"validation"'))
    assert build.read(folder)[1] == {}


def test_building_twice_changes_nothing_and_a_table_without_records_stays_empty(folder, tmp_path):
    text = "<!-- results:yardstick -->\n<!-- /results:yardstick -->"
    once = build.rebuilt(text, folder)
    assert build.rebuilt(once, folder) == once != text
    (tmp_path / "empty").mkdir()
    assert build.rebuilt(once, tmp_path / "empty").split() == text.split()


def test_the_readme_is_what_its_records_give():
    assert build.main(["--check"]) == 0
