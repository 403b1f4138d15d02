"""experiments/build.py: tables that nobody types, from records made up here."""

import functools
import importlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import build
import readings
from compress.errors import InputError
from compress.storage import resuming

ROOT = Path(__file__).parents[2]


def record(seed, sha256, parent=None, **content):
    run = {
        "seed": seed,
        "argv": ["train.py", "--seed", str(seed)],
        "processor": "A",
        "cores": 2,
        "versions": {"keras": "3.15", "tensorflow": "2.21", "numpy": "2"},
        "flags": {"epoch_num": 3, "precision": "float32"},
    }
    return {"sha256": sha256, "parent_sha256": parent, "run": run, "images": 5000, "train_images": 45000} | content


@pytest.fixture
def folder(tmp_path):
    """Two seeds of base and student, one of a pruned teacher from the first base; the students were tested."""
    numbers = {"parameters": 23_608_202, "macs": 78_712_832, "bytes": 95_000_000}
    small = {"parameters": 1_700_000, "macs": 9_700_000, "bytes": 7_400_000}
    records = {}
    for seed, base, student in ((1, 0.80, 0.81), (2, 0.82, 0.85)):
        records[f"base12/seed{seed}"] = record(seed, f"base{seed}", epochs=12, val_acc=base, seconds=60, **numbers)
        records[f"student/seed{seed}"] = record(
            seed,
            f"student{seed}",
            f"base{seed}",
            epochs=14,
            val_acc=student,
            seconds=120.0,
            compression_rate=13.9,
            **small,
        )
    records["pruned"] = record(
        1,
        ["one", "two"],
        "base1",
        final_acc=[0.7, 0.8],
        seconds=[60, 30],
        compression_rate=[1.2, 1.5],
        **{key: [2 * n, n] for key, n in small.items()},
    )
    for name, content in records.items():
        path = tmp_path / "yardstick" / name / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    models = [
        {"sha256": f"student{seed}", "acc": acc, "sparsity": 0.9, "images": 1000}
        for seed, acc in ((1, 0.79), (2, 0.79))
    ]
    (tmp_path / "yardstick" / "evaluation.json").write_text(json.dumps({"split": "test", "models": models}))
    return tmp_path


def house(root, monkeypatch, results):
    """A folder as the repository's, with an empty README and this text as docs/results.md; returns it."""
    (root / "experiments" / "records").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "README.md").write_text("")
    (root / "docs" / "results.md").write_text(results)
    monkeypatch.setattr(build, "ROOT", root)
    return root


def test_a_row_is_the_mean_of_its_seeds_with_the_epochs_of_all_that_it_came_from(folder):
    before = "before\n<!-- results:yardstick -->\nstale\n<!-- /results:yardstick -->\nafter"
    text = build.rebuilt(before, *readings.read(folder))
    assert text.startswith("before\n") and text.endswith("\nafter") and "stale" not in text
    rows = {
        line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    columns = [name.strip() for name in rows.pop("")]
    assert len(rows) == 4  # the line under the headings, base, pruned, student; none that has no record
    student = dict(zip(columns, rows["student"], strict=True))
    assert student["validation"] == f"{83:.2f} ± {statistics.stdev([81, 85]):.2f}"
    assert student["test"] == "79.00" and student["epochs"] == "12 + 14" and student["seeds"] == "1, 2"
    assert (student["compression rate"], student["parameters (M)"], student["minutes"]) == ("13.90x", "1.70", "2.0")
    pruned = dict(zip(columns, rows["pruned"], strict=True))
    assert (pruned["validation"], pruned["epochs"], pruned["minutes"]) == ("80.00", "12 + 6", "1.5")
    assert pruned["test"] == "-" and dict(zip(columns, rows["base"], strict=True))["compression rate"] == "1.00x"
    assert "45,000 training and 5,000 validation images, the first 1,000 test images. A, 2 cores, float32; " in text
    assert text.count("Made by `./experiments/reproduce.sh yardstick 1 2`.") == 1


def test_a_spread_is_told_where_values_read_unequal():
    assert build.spread([4.70, 4.80], "{:.2f}x") == f"4.75x ± {statistics.stdev([4.7, 4.8]):.2f}"
    assert (build.spread([1.001, 1.002], "{:.2f}"), build.spread([1, None], "{:.2f}")) == ("1.00", "-")


def test_minutes_of_several_machines_have_no_mean(folder):
    path = folder / "yardstick" / "student" / "seed2" / "result.json"
    content = json.loads(path.read_text())
    content["run"] |= {"processor": "B", "flags": {"epoch_num": 3, "precision": "mixed_bfloat16"}}
    path.write_text(json.dumps(content | {"seconds": 30}))
    text = build.rebuilt("<!-- results:yardstick --><!-- /results:yardstick -->", *readings.read(folder))
    assert "| 13.90x | 2.0 / 0.5 | 12 + 14 | 1, 2 |" in text
    assert "images. A, 2 cores, float32 (seeds 1, 2); B, 2 cores, bfloat16 (seed 2); Keras 3.15" in text


def test_what_cannot_be_compared_is_no_table(folder):
    path = folder / "yardstick" / "evaluation.json"
    path.write_text(path.read_text().replace("1000", "10000", 1))
    with pytest.raises(ValueError, match=r"tests of \[1000, 10000\] images"):
        build.rebuilt("<!-- results:yardstick --><!-- /results:yardstick -->", *readings.read(folder))


def test_seeds_of_other_lengths_tell_theirs(folder):
    path = folder / "yardstick" / "base12" / "seed2" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 26}))
    text = build.rebuilt("<!-- results:yardstick --><!-- /results:yardstick -->", *readings.read(folder))
    assert "| 12 / 26 | 1, 2 |" in text and "| 12 + 14 / 26 + 14 | 1, 2 |" in text


def test_a_validation_split_is_no_test(folder):
    path = folder / "yardstick" / "evaluation.json"
    path.write_text(path.read_text().replace('"test"', '"validation"'))
    assert readings.read(folder)[1] == {}


def test_building_twice_changes_nothing_and_a_table_without_records_says_so(folder, tmp_path):
    text = "<!-- results:yardstick -->\n<!-- /results:yardstick -->"
    once = build.rebuilt(text, *readings.read(folder))
    assert build.rebuilt(once, *readings.read(folder)) == once != text
    (tmp_path / "empty").mkdir()
    assert build.rebuilt(once, *readings.read(tmp_path / "empty")).splitlines() == [
        "<!-- results:yardstick -->",
        "No record yet: `./experiments/reproduce.sh yardstick` makes them.",
        text.splitlines()[1],
    ]


def test_a_run_of_iterations_is_a_row_for_each_and_two_figures(tmp_path, monkeypatch, capsys):
    content = record(
        1,
        ["one", "two"],
        final_acc=[0.7, 0.8],
        base_acc=[0.75, 0.7],
        pruned_acc=[0.25, 0.5],
        recalibrated_acc=[0.375, 0.625],
        sparsity=[0.1, 0.2],
        seconds=[60, 30],
        compression_rate=[1.25, 1.5],
        parameters=[9_000_000, 5_000_000],
        macs=[4_000_000, 3_000_000],
        bytes=[36_000_000, 20_000_000],
        split="validation",
        channels={"conv2_block1_1_conv": [64, 60, 50], "conv2_block1_stream": [256, 256, 256]},
    )
    root = house(tmp_path, monkeypatch, "<!-- results:curve --><!-- /results:curve -->")
    (root / "experiments" / "records" / "curve").mkdir()
    (root / "experiments" / "records" / "curve" / "result.json").write_text(json.dumps(content))
    assert build.main(["--check"]) == 1  # the page isn't what the record gives
    assert capsys.readouterr().out == "docs/results.md: not what the records give; make results\n"
    assert build.main([]) == build.main(["--check"]) == 0
    lines = (tmp_path / "docs" / "results.md").read_text().splitlines()
    assert lines[1].split(" | ")[1:5] == ["after pruning", "after recalibration", "after fine-tuning", "sparsity"]
    assert lines[3].startswith("| 1 | 25.00 | 37.50 | 70.00 | 10.00 | 9.00 | 4.00 | 36.00 | 1.25x | 1.0 | 3 | 1 |")
    assert lines[4].startswith("| 2 | 50.00 | 62.50 | 80.00 | 20.00 | 5.00 | 3.00 | 20.00 | 1.50x | 0.5 | 6 | 1 |")
    for name in ("pruning.png", "channels.png"):
        assert (tmp_path / "docs" / "img" / f"curve-{name}").read_bytes().startswith(b"\x89PNG")
        assert f"(img/curve-{name})" in "\n".join(lines)


def test_a_table_that_asks_for_it_has_a_figure_of_its_means_and_spreads(folder, monkeypatch, tmp_path):
    from compress.plots import comparison

    drawn = []
    monkeypatch.setattr(
        comparison,
        "plot_models",
        lambda rows, split, plot=comparison.plot_models: drawn.append(rows) or plot(rows, split),
    )
    page = (
        house(
            tmp_path,
            monkeypatch,
            "".join(f"<!-- results:{name} --><!-- /results:{name} -->" for name in ("yardstick", "long")),
        )
        / "docs"
        / "results.md"
    )
    (folder / "yardstick").rename(tmp_path / "experiments" / "records" / "yardstick")
    assert build.main([]) == 0
    base, pruned, student = drawn.pop()
    assert not drawn  # none of a table without records
    assert (base["name"], pruned["spread"], student["name"]) == ("base", 0, "student")
    assert base["test_acc"] == pytest.approx(0.81) and base["spread"] == pytest.approx(statistics.stdev([0.80, 0.82]))
    assert (pruned["test_acc"], pruned["parameters"], student["macs"]) == (0.8, 1_700_000, 9_700_000)
    assert (tmp_path / "docs" / "img" / "yardstick-models.png").read_bytes().startswith(b"\x89PNG")
    assert page.read_text().count("(img/yardstick-models.png)") == 1 and "long-models" not in page.read_text()


def test_exported_files_are_compared_with_the_bases(tmp_path, monkeypatch):
    exports = house(tmp_path, monkeypatch, "") / "experiments" / "records" / "exports"
    assert build.exports({}) == ""
    for name, scale in (("base", 10), ("student", 1)):
        files = [
            {
                "format": "h5",
                "runtime": "Keras",
                "acc": 0.8,
                "bytes": 4_000_000 * scale,
                "latency_ms_median": 2 * scale,
                "threads": 2,
            },
            {
                "format": "litert-int8",
                "runtime": "LiteRT",
                "acc": 0.795,
                "agreement": 0.99,
                "bytes": 500_000 * scale,
                "latency_ms_median": 0.25 * scale,
                "threads": 1,
            },
        ]
        (exports / name).mkdir(parents=True)
        content = record(1, "abc", files=files, calibration_images=512)
        content["run"]["versions"] |= {"onnx": "1.23", "ai-edge-litert": "2.3"}
        (exports / name / "export.json").write_text(json.dumps(content))
    lines = build.exports({"yardstick/base12": record(7, "abc"), "curve": record(1, ["x", "abc"])}).splitlines()
    assert lines[3] == "| base, litert-int8 | LiteRT | 79.50 | 99.00 | 5.00 | 8.0x | 2.50 | 1 | 1.0x | 7 |"
    assert lines[4] == "| student, h5 | Keras | 80.00 | - | 4.00 | 10.0x | 2.00 | 2 | 1.2x | 7 |"
    assert lines[5].endswith("| 0.50 | 80.0x | 0.25 | 1 | 10.0x | 7 |")
    assert "5,000 validation images; int8 is calibrated on 512 training images" in build.exports({})
    assert "A, 2 cores, float32; Keras 3.15, TensorFlow 2.21, LiteRT 2.3. Made by `./experi" in build.exports({})
    assert lines[-1].endswith("./experiments/reproduce.sh exports 7`.")
    path = exports / "student" / "export.json"
    content = json.loads(path.read_text())
    content["run"]["processor"] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="several machines"):
        build.exports({})


def test_the_pages_are_what_their_records_give_and_they_fit_together(capsys):
    assert build.main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_base_made_anew_beside_records_of_the_one_before_is_told(folder, monkeypatch, capsys):
    (folder / "yardstick" / "base12" / "seed1" / "result.json").write_text(
        json.dumps(record(1, "another", epochs=12, val_acc=0.8, seconds=60, parameters=1, macs=1, bytes=1))
    )
    told = list(readings.gaps(*readings.read(folder), {"yardstick": {"columns": ["validation", "test"]}}))
    untested, orphans = (
        [
            f"experiments/records/yardstick/{name}: no {missing}; "
            f"./experiments/reproduce.sh yardstick {seed} makes them again"
            for name, seed in pairs
        ]
        for missing, pairs in (
            (
                "evaluation.json has its model's test accuracy",
                (("base12/seed1", 1), ("base12/seed2", 2), ("pruned", 1)),
            ),
            ("record has the model that it was made from", (("pruned", 1), ("student/seed1", 1))),
        )
    )
    assert sorted(told) == sorted(untested + orphans)
    house(folder, monkeypatch, "")
    (folder / "yardstick").rename(folder / "experiments" / "records" / "yardstick")
    assert build.main(["--check"]) == 0
    assert capsys.readouterr().err.splitlines() == told


def test_what_sensitivity_saw_is_drawn(tmp_path, monkeypatch):
    seen = {
        "acc": 0.8,
        "shares": [0.5],
        "criterion": "l1",
        "images": 1000,
        "layers": [{"layer": "conv2_block1_1_conv", "acc": [0.75]}],
    }
    house(tmp_path, monkeypatch, "")
    (tmp_path / "experiments" / "records" / "criteria").mkdir()
    (tmp_path / "experiments" / "records" / "criteria" / "sensitivity.json").write_text(json.dumps(seen))
    assert build.main([]) == 0
    assert (tmp_path / "docs" / "img" / "criteria-sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_a_shipped_student_is_whole_and_any_run_may_write_over_it(tmp_path, monkeypatch):

    run = tmp_path / "run"
    run.mkdir()
    content = record(
        1,
        "abc",
        "base",
        epochs=2,
        val_acc=0.5,
        seconds=1,
        compression_rate=12.5,
        parameters=80_000,
        macs=10**5,
        bytes=10**5,
    )
    (run / "result.json").write_text(json.dumps(content))
    for name in ("model.h5", "history.json", "history.png"):
        (run / name).write_text(name)
    records = house(tmp_path, monkeypatch, "") / "experiments" / "records"
    assert build.main(["--ship", str(run)]) == 0
    target = tmp_path / "model" / "kd_model"
    base = record(1, "base", epochs=3, val_acc=0.75, seconds=1, parameters=10**6, macs=10**6, bytes=10**6)
    (records / "yardstick" / "base12").mkdir(parents=True)
    (records / "yardstick" / "base12" / "result.json").write_text(json.dumps(base))
    lines = build.rebuilt("<!-- results:shipped --><!-- /results:shipped -->", *readings.read(records)).splitlines()
    assert lines[3].startswith("| base | - | 75.00 |") and lines[4].startswith("| student | - | 50.00 |")
    assert lines[4].endswith("| 12.50x | 3 + 2 |") and lines[6].endswith("reproduce.sh yardstick 1`.")
    teacher = record(1, "base", "first", epochs=3, val_acc=0.625, seconds=1, parameters=10**6, macs=10**6, bytes=10**6)
    for name, content_ in (("base12", base | {"sha256": "first"}), ("assistant", teacher)):
        (records / "yardstick" / name).mkdir(exist_ok=True)
        (records / "yardstick" / name / "result.json").write_text(json.dumps(content_))
    lines = build.rebuilt("<!-- results:shipped --><!-- /results:shipped -->", *readings.read(records)).splitlines()
    assert [line.split(" | ")[0] for line in lines[3:6]] == ["| base", "| the student's teacher", "| student"]
    assert lines[5].endswith("| 12.50x | 3 + 3 + 2 |")
    branch = record(
        1,
        ["p1", "p2"],
        "first",
        final_acc=[0.5, 0.25],
        seconds=[1, 1],
        parameters=[10**6, 10**5],
        macs=[10**6, 10**5],
        bytes=[10**6, 10**5],
    )
    (records / "yardstick" / "pruned").mkdir()
    (records / "yardstick" / "pruned" / "result.json").write_text(json.dumps(branch))
    lines = build.rebuilt("<!-- results:shipped --><!-- /results:shipped -->", *readings.read(records)).splitlines()
    assert [line.split(" | ")[0] for line in lines[3:7]] == [
        "| base",
        "| pruned",
        "| the student's teacher",
        "| student",
    ]
    assert lines[4].startswith("| pruned | - | 25.00 | 0.10 |")
    assert json.loads((target / "result.json").read_text()) == content | {"shipped": True}
    assert {path.name for path in target.iterdir()} == {"model.h5", "history.json", "history.png", "result.json"}
    other = {"flags": {"epoch_num": 9, "precision": "float32"}, "parent_sha256": None}
    assert resuming.finished_result(target, other, "auto") is None
    with pytest.raises(InputError, match="`epoch_num=3` .default.; received `epoch_num=9`"):
        resuming.finished_result(run, other, "auto", None)
    assert resuming.finished_result(run, other, "auto") is None  # it goes on


STAND_IN = """#!{python}
import pathlib, shlex, subprocess, sys
sys.path[:0] = [{root!r}, {root!r} + "/experiments"]
if sys.argv[1] == "sweep.py":  # its commands one by one, each by this stand-in
    import sweep
    args = sweep.build_parser().parse_args([*sys.argv[2:], "--print", "--json"])
    for line in sweep.run(args)["commands"]:
        words = shlex.split(line)
        at = next(i for i, word in enumerate(words) if word.endswith(".py"))
        subprocess.run([sys.argv[0], pathlib.Path(words[at]).name, *words[at + 1:]], check=True)
    sys.exit()
with open("commands", "a") as file:
    file.write(shlex.join(sys.argv[1:]) + "\\n")
script = __import__(pathlib.Path(sys.argv[1]).stem)
args = script.build_parser().parse_args(sys.argv[2:])
made = pathlib.Path(getattr(args, "output", None) or
                    str(getattr(args, "save_folder", args.__dict__.get("root_folder"))) + "/result.json"
                    if sys.argv[1] != "export_model.py" else
                    pathlib.Path(args.model_path).parent / "exported" / "export.json")
made.parent.mkdir(parents=True, exist_ok=True)
made.write_text("{{}}")
"""


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A function: table -> (records that its commands keep, those commands), by a stand-in that only parses them."""

    @functools.cache
    def of(table):
        root = tmp_path_factory.mktemp(table)
        (root / "experiments").mkdir()
        (root / "experiments" / "reproduce.sh").write_text((ROOT / "experiments" / "reproduce.sh").read_text())
        shutil.copytree(ROOT / "experiments" / "sweeps", root / "experiments" / "sweeps")
        python = root / "python"
        python.write_text(STAND_IN.format(python=sys.executable, root=str(ROOT)))
        python.chmod(0o755)
        environment = os.environ | {"PYTHON": str(python)}
        subprocess.run(["sh", "experiments/reproduce.sh", table, "3"], cwd=root, env=environment, check=True)
        kept = root / "experiments" / "records" / table
        records = {path.relative_to(kept).as_posix() for path in kept.rglob("*.json")}
        return records, (root / "commands").read_text().splitlines()

    return of


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(name, marks=() if name in ("families", "yardstick", "transfer", "curve") else pytest.mark.slow)
        for name in build.TABLES
        if name != "shipped"
    ],
)
def test_reproduce_makes_a_record_for_every_row_by_commands_that_the_scripts_take(table, reproduced):
    rows = build.TABLES[table].get("rows")
    made = {path for path in reproduced(table)[0] if path.endswith("result.json")}
    assert made == ({f"{row}/seed3/result.json" for row in rows} if rows else {"result.json"})


def test_reproduce_tells_its_tables_and_keeps_no_record_of_a_run_that_is_not_there(tmp_path):
    (tmp_path / "experiments").mkdir()
    script = tmp_path / "experiments" / "reproduce.sh"
    script.write_text((ROOT / "experiments" / "reproduce.sh").read_text())
    record = tmp_path / "experiments" / "records" / "curve" / "result.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    told = subprocess.run(["sh", script, "--help"], capture_output=True, text=True, check=True).stdout
    tables = [line.split()[0] for line in told.splitlines() if re.match(r"  \w", line)]
    assert {*tables} == {*build.TABLES} - {"shipped"} | {"demo", "exports"} and len(tables) == len({*tables})
    for table, seed in (("curve", "3"), ("long", "3"), ("long", "007"), ("families", "3"), ("transfer", "x")):
        done = subprocess.run(
            ["sh", script, table, seed],
            env=os.environ | {"PYTHON": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2 and "expected" in done.stderr and done.stderr.count("\n") == 1
    assert record.read_text() == "{}" and [*tmp_path.rglob("*.json")] == [record] and not [*tmp_path.rglob("[*]")]


def given(line):
    """(script, its flags) of a command."""
    script, *words = shlex.split(line)
    return script, vars(importlib.import_module(script.removesuffix(".py")).build_parser().parse_args(words)) | {
        "argv": 0
    }


SHELL = json.loads((Path(__file__).parent / "reproduced.json").read_text(encoding="utf-8"))  # commands of seed 3


def as_a_sweep_says(script, flags):
    """A command of the shell's with what a sweep says besides, and that changes no result.

    Each run has the seed, also where a script only measures; exported/ is named; each network's evaluation.json has a
    folder of its own, and all steps of a network have its `subset`, which leaves the test images alone.
    """
    if script in ("evaluate_model.py", "export_model.py"):
        flags["seed"] = 3
    if script == "export_model.py":
        flags["output"] = str(Path(flags["model_path"]).parent / "exported")
    if flags.get("output") == "runs/families/seed3/evaluation.json":
        name = Path(flags["model_path"][0]).parts[3]
        flags["output"] = f"runs/families/seed3/{name}/evaluation.json"
        flags["subset"] = 10000 if name in ("resnet56", "MobileNetV2", "EfficientNetB0") else 5000
    return script, flags


@pytest.mark.parametrize("table", SHELL)
def test_a_table_that_is_a_sweep_has_the_commands_that_made_its_records(table, reproduced):
    """reproduced.json has the commands as a shell alone wrote them; a sweep goes step by step, not row by row."""
    made = list(map(given, reproduced(table)[1]))
    wanted = [as_a_sweep_says(*given(line)) for line in SHELL[table]]
    assert sorted(made, key=str) == sorted(wanted, key=str)


def test_reproduce_keeps_what_else_the_tables_are_built_from(reproduced):
    networks = {row.partition("_")[0] for row in build.TABLES["families"]["rows"]}
    wanted = {
        "exports": {"alike/export.json", "base/export.json", "student/export.json"},
        "families": {f"{name}_test/seed3/evaluation.json" for name in networks}
        | {f"{name}_int8/seed3/export.json" for name in networks},
        **{table: {"seed3/evaluation.json"} for table in ("yardstick", "steps", "long")},
    }
    for table, records in wanted.items():
        assert {path for path in reproduced(table)[0] if not path.endswith("result.json")} == records


def test_no_record_names_a_place_on_a_machine():
    for path in (ROOT / "experiments" / "records").rglob("*.json"):
        assert not re.search(r'"/\w', path.read_text(encoding="utf-8")), path
