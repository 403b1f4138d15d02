"""Searches: what Optuna is told, which runs are stopped early, and several processes on one study."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from conftest import ROOT

import sweep
from compress.errors import InputError
from compress.storage import records
from compress.sweeps import running, search, specs

optuna = pytest.importorskip("optuna")

FILE = """
folder: {folder}/runs
seeds: [1]
flags: {{dataset: digits}}
steps:
  base:
    script: train_base_model.py
    flags: {{epoch_num: 3}}
  student:
    script: knowledge_distillation.py
    flags:
      root_folder: "{{base}}"
      epoch_num: 9
      student_learning_rate: {{low: 0.001, high: 0.1, log: true}}
      optimizer: [sgd, muon]
"""

# Stands in for a script that trains: its validation accuracy comes nearer to 1 the nearer the rate is to 0.1.
STUB = """
import json, os, pathlib, signal, sys, time
script, words = os.path.basename(sys.argv[0]), sys.argv[1:]
flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
folder = pathlib.Path(flags["save_folder"])
folder.mkdir(parents=True, exist_ok=True)
with open(os.environ["CALLS"], "a") as file:
    file.write(f"{folder}\\n")
def write(name, content):
    (folder / f"{name}.new").write_text(json.dumps(content))
    os.replace(folder / f"{name}.new", folder / name)
def stop(number, frame):
    (folder / "state.npz").write_text("saved")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
best = 10 * float(flags.get("student_learning_rate", 0.1))
if os.environ.get("FAIL"):
    print("the stub fails")
    sys.exit(3)
history = []
(folder / "begun").write_text("")
for epoch in range(int(flags["epoch_num"])):
    while os.path.exists(os.environ["CALLS"] + ".wait"):
        time.sleep(0.01)
    history.append(best * (1 - 0.5 ** (epoch + 1)))
    write("history.json", {"val_acc": history})
    time.sleep(float(os.environ.get("SECONDS_OF_STUB", 0)))
(folder / "state.npz").unlink(missing_ok=True)
write("result.json", {"run": {"argv": [script, *words]}, "val_acc": history[-1], "split": "validation", "macs": 7})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a sweep's file and stand-ins for the scripts, which tell that they were called."""
    (tmp_path / "sweep.yaml").write_text(FILE.format(folder=tmp_path))
    for script in specs.TRAINS:
        (tmp_path / script).write_text(STUB)
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(search, "LOOK", 0.02)
    monkeypatch.setattr(search, "WAIT", 0.1)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def calls(folder):
    return (folder / "calls").read_text().split()


def run(folder, trials, name="rates", **given):
    return sweep.run(file=str(folder / "sweep.yaml"), study=name, trials=trials, verbose=0, **given)["trials"]


def started(folder, trials):
    """A process of its own that searches."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pathlib, sweep\n"
        f"from compress.sweeps import running, search; running.ROOT = pathlib.Path({str(folder)!r})\n"
        "search.LOOK = 0.02; sys.argv[0] = 'sweep.py'; sys.exit(sweep.main())"
    )
    words = [str(folder / "sweep.yaml"), "--study", "rates", "--trials", str(trials)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_trial_is_a_run_of_each_step_with_values_of_their_ranges(folder):
    found = run(folder, 4)
    assert len(found) == 4 and {trial["state"] for trial in found} <= {"complete", "pruned"}
    made = calls(folder)
    assert made.count(f"{folder}/runs/base/seed=1") == 1 and len(made) == 5  # the base serves all trials
    for trial in found:
        rate, optimizer = (
            trial["params"]["student.student_learning_rate"],
            json.loads(trial["params"]["student.optimizer"]),
        )
        assert 0.001 <= rate <= 0.1 and optimizer in ("sgd", "muon")
        place = (
            folder / "runs" / "student" / f"student_learning_rate={float(f'{rate:.4g}')},optimizer={optimizer},seed=1"
        )
        assert str(place) in made
        if trial["state"] == "complete":
            result = json.loads((place / "result.json").read_text())
            assert trial["value"] == result["val_acc"] == pytest.approx(10 * rate * (1 - 0.5**9), rel=1e-3)
    done = [trial["value"] for trial in found if trial["state"] == "complete"]
    assert done == sorted(done, reverse=True)
    note = json.loads((folder / "runs" / "sweep.json").read_text())
    assert note["study"] == "rates" and len(note["runs"]) == 5
    assert len(run(folder, 4)) == 4 and len(calls(folder)) == 5  # it has them already
    assert len(run(folder, 5)) == 5 and len(calls(folder)) == 6


def test_a_hopeless_run_is_stopped_and_saves_its_state(folder, monkeypatch):
    monkeypatch.setenv("SECONDS_OF_STUB", "0.1")
    study = search.open_study(specs.read(folder / "sweep.yaml"), "rates", None, 9)
    for rate in (0.1, 0.09, 0.08, 0.001):
        study.enqueue_trial({"student.student_learning_rate": rate, "student.optimizer": '"sgd"'})
    found = {trial["number"]: trial for trial in run(folder, 4)}
    assert found[0]["state"] == "complete" and found[3]["state"] == "pruned"
    place = folder / "runs" / "student" / "student_learning_rate=0.001,optimizer=sgd,seed=1"
    assert (place / "state.npz").exists() and not (place / "result.json").exists()
    assert len(json.loads((place / "history.json").read_text())["val_acc"]) < 9


class AtTheEnd(optuna.pruners.BasePruner):
    """Holds a trial for hopeless once it has all nine epochs."""

    def prune(self, study, trial):
        """Whether the ninth epoch was reported."""
        return trial.last_step >= 9


def test_a_trial_is_never_stopped_at_its_last_epoch(folder, monkeypatch):
    monkeypatch.setenv("SECONDS_OF_STUB", "0.1")  # from the last epoch until result.json is written too
    monkeypatch.setattr(optuna.pruners, "SuccessiveHalvingPruner", lambda *given: AtTheEnd())
    (trial,) = run(folder, 1)
    assert trial["state"] == "complete"
    assert list(folder.glob("runs/student/*/result.json")) and not list(folder.glob("runs/student/*/state.npz"))


@pytest.mark.parametrize("script", specs.TRAINS)
def test_the_numbers_that_can_be_searched_for_are_those_of_real_results(script):
    found = set()
    for path in (ROOT / "experiments" / "records").glob("**/result.json"):
        content = json.loads(path.read_text())
        if Path(content["run"]["argv"][0]).name == script:
            found |= {key for key, value in content.items() if records.is_number(value) or records.is_curve(value)}
    more = {"latency_ms"} if script == "prune_model.py" else set()  # of one that is pruned by timings
    assert found and set(specs.NUMBERS[script]) == found | more


def test_two_processes_share_a_study_and_its_base(folder, monkeypatch):
    monkeypatch.setenv("SECONDS_OF_STUB", "0.05")
    processes = [started(folder, 8) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0 and error == ""
    study = search.open_study(specs.read(folder / "sweep.yaml"), "rates", None, 9)
    states = [trial.state.name for trial in study.trials]
    assert 8 <= len(states) <= 9 and {*states} <= {"COMPLETE", "PRUNED"}  # both may begin the last one
    made = calls(folder)
    assert made.count(f"{folder}/runs/base/seed=1") == 1 and len(made) == len({*made}) == 1 + len(states)


def test_an_interrupted_trial_is_made_further_by_the_next_process(folder):
    (folder / "calls.wait").write_text("")
    process, end = started(folder, 2), time.monotonic() + 60
    while not (folder / "runs" / "base" / "seed=1" / "begun").exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by SIGINT; what its runs have saved stays" in error
    assert error.rstrip().endswith(f"sweep.py {folder}/sweep.yaml --study rates --trials 2")
    assert (folder / "runs" / "base" / "seed=1" / "state.npz").exists()
    (folder / "calls.wait").unlink()
    study = search.open_study(specs.read(folder / "sweep.yaml"), "rates", None, 9)
    before = study.trials[0]
    assert before.state.name == "FAIL" and not search.counted(study)
    found = {trial["number"]: trial for trial in run(folder, 2)}
    assert len(found) == 2 and found[min(found)]["params"] == before.params
    assert (folder / "runs" / "base" / "seed=1" / "result.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps:", "maximize: epochs\nsteps:", r"searched for: \"val_acc\" then, \"epochs\" now"),
        ("high: 0.1", "high: 0.2", r"steps.student.flags.student_learning_rate.high: 0.1 then, 0.2 now"),
        ("optimizer: [sgd, muon]", "batch_size: 9", r"steps.student.flags.\w+: .*nothing.*"),
        ("seeds: [1]", "seeds: [2]", r"seeds: \[1\] then, \[2\] now"),
    ],
)
def test_a_study_of_another_file_is_refused(old, new, message, folder):
    run(folder, 1)
    text = (folder / "sweep.yaml").read_text()
    assert old in text
    (folder / "sweep.yaml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=rf"^`study`: received rates, which was begun with other settings \({message}"):
        run(folder, 2)
    assert len(calls(folder)) == 2
    (folder / "sweep.yaml").write_text(f"# a comment\n{text}")
    assert len(run(folder, 2)) == 2


def held(folder, monkeypatch):
    """A process of its own that searches, held while its first student is at work."""
    monkeypatch.setenv("SECONDS_OF_STUB", "0.2")
    process, end = started(folder, 1), time.monotonic() + 120
    while not [*(folder / "runs").glob("student/*/begun")]:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    (folder / "calls.wait").write_text("")
    return process


def test_a_trial_of_a_process_that_was_killed_is_waited_for_and_made_again(folder, monkeypatch, capsys):
    process = held(folder, monkeypatch)
    process.kill()
    process.communicate()
    (folder / "calls.wait").unlink()
    say = sweep.say_busy

    def say_and_let_time_pass(*words):
        say(*words)
        with sqlite3.connect(folder / "runs" / "study.db") as database:
            database.execute("update trial_heartbeats set heartbeat = datetime(heartbeat, '-1 hour')")
        database.close()

    monkeypatch.setattr(sweep, "say_busy", say_and_let_time_pass)
    (trial,) = sweep.run(file=str(folder / "sweep.yaml"), study="rates", trials=1)["trials"]
    assert trial["state"] == "complete" and trial["value"] == pytest.approx(
        10 * trial["params"]["student.student_learning_rate"] * (1 - 0.5**9), rel=1e-3
    )
    assert "trial 0: another process is at work on it" in capsys.readouterr().out


def test_another_process_with_the_last_trial_is_waited_for(folder, monkeypatch, capsys):
    process = held(folder, monkeypatch)
    say = sweep.say_busy

    def say_and_let_go(*words):
        say(*words)
        (folder / "calls.wait").unlink(missing_ok=True)

    monkeypatch.setattr(sweep, "say_busy", say_and_let_go)
    (trial,) = sweep.run(file=str(folder / "sweep.yaml"), study="rates", trials=1)["trials"]
    assert trial["state"] == "complete" and "trial 0: another process is at work on it" in capsys.readouterr().out
    process.communicate()


@pytest.mark.parametrize("where", ["datetime_start = '2026-11-30 11:56:20.7V0032'", "state = 'NONE'"])
def test_a_database_of_damaged_values_is_one_line(where, folder):
    run(folder, 1)
    with sqlite3.connect(folder / "runs" / "study.db") as database:
        database.execute(f"update trials set {where}")
    database.close()
    with pytest.raises(InputError, match=r"^`storage`: the database can't be used any more|study.db: a database that"):
        run(folder, 2)


def test_a_search_ends_with_its_trials_and_the_folder_of_the_best(folder, capsys):
    sweep.run(file=str(folder / "sweep.yaml"), study="rates", trials=6)  # some of them end early, as a rule
    lines = capsys.readouterr().out.splitlines()
    found = run(folder, 6)
    assert lines[-3] == f"best: trial {found[0]['number']}, {found[0]['folder']}"
    record = json.loads((Path(found[0]["folder"]) / "result.json").read_text())
    assert record["val_acc"] == found[0]["value"] == max(t["value"] for t in found if t["state"] == "complete")
    for trial in found:
        (line,) = [line for line in lines if line.startswith(f"trial {trial['number']}: ")]
        (row,) = [line.split() for line in lines if line.split()[:1] == [str(trial["number"])]]
        value = trial["value"] if trial["state"] == "complete" else trial["reached"]
        assert row[1] == f"{100 * value:.2f}" and f" {100 * value:.2f} % (" in line
        assert ("after" in row) == ("stopped" in line) == (trial["state"] == "pruned")


def test_trials_that_fail_count_and_say_why(folder, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "1")
    assert sweep.main([str(folder / "sweep.yaml"), "--study", "rates", "--trials", "2"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in error[:2]] == ["trial 0 failed", "trial 1 failed"]
    assert error[0].endswith("the stub fails") and "no trial of 2 came to its end" in error[2] and len(error) == 3


REFUSED = [
    ({"jobs": 2}, "", "^`jobs`: received it beside `study`, expected one of them; the same command, started again"),
    ({"print": True}, "", "^`print`: received it beside `study`"),
    ({"seeds": [1, 2]}, "", "seeds: received 2, expected one where values are searched"),
    (
        {},
        "maximize: test_acc",
        "maximize: received test_acc, expected a key of result.json that is of validation images",
    ),
    (
        {},
        "maximize: val_ac",
        "sweep.yaml: maximize: received val_ac, which the result.json of knowledge_distillation.py has no number for; "
        "did you mean val_acc?",
    ),
    ({}, "minimize: foo", "minimize: received foo, which .* has no number for; expected one of val_acc, val_loss, .*"),
    ({}, "maximize: a\nminimize: b", "minimize: received it beside maximize, expected one of them"),
    ({"storage": "nothing://x"}, "", "^`storage`: received a database that can't be used"),
    ({"storage": "postgresql://u:p@ss:w0rd@h/x"}, "", r"^`storage`: .* can't be used \(ValueError\); expected a URL"),
]


@pytest.mark.parametrize(("given", "line", "message"), REFUSED)
def test_what_can_not_be_searched_is_one_line_and_no_run(given, line, message, folder):
    with open(folder / "sweep.yaml", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=message):
        run(folder, 2, **given)
    assert not (folder / "calls").exists()


def test_every_value_and_both_ends_of_a_range_are_checked_before_anything_runs(folder):
    text = (folder / "sweep.yaml").read_text()
    for old, new, message in (
        ("[sgd, muon]", "[sgd, muon, adam]", "optimizer: received 'adam', expected one of sgd, muon"),
        ("{low: 0.001, high: 0.1, log: true}", "{low: -1, high: 0.1}", "student_learning_rate: received -1"),
        ("epoch_num: 9", "epoch_num: {low: 1.0, high: 3.0}", r"student.flags.epoch_num: received '?2\.236"),
        (
            "epoch_num: 9",
            "epoch_num: {low: 1, high: 10, step: 4}",
            "student.flags.epoch_num: received .*, expected a step that leads to high, such as high: 9$",
        ),
        ("epoch_num: 9", "epoch_num: {low: 1, high: 3, step: 4}", "expected a step that leads to high, .* high: 5$"),
        ("epoch_num: 9", "epoch_num: {low: 1, high: 3, step: 1.0e-320}", "expected a step that leads to high"),
        ("optimizer: [sgd, muon]", "temperature: {low: 1, high: 1.0e+12}", "temperature: received 1000000000000.0"),
    ):
        (folder / "sweep.yaml").write_text(text.replace(old, new))
        with pytest.raises(InputError, match=message):
            run(folder, 2)
    nothing = text.replace("{low: 0.001, high: 0.1, log: true}", "0.1").replace("[sgd, muon]", "sgd")
    (folder / "sweep.yaml").write_text(nothing)
    with pytest.raises(InputError, match="steps: nothing varies; expected a list or a range"):
        search.check(specs.read(folder / "sweep.yaml"), sweep.parser_of)
    (folder / "sweep.yaml").write_text(f"rows: {{one: {{}}, two: {{student: {{lambda1: 1}}}}}}\n{nothing}")
    assert search.check(specs.read(folder / "sweep.yaml"), sweep.parser_of) == 9  # two rows to choose from
    (folder / "sweep.yaml").write_text(f"rows: {{one: {{}}}}\n{nothing}")
    with pytest.raises(InputError, match="steps: nothing varies; expected a list or a range"):
        run(folder, 2)


def test_steps_that_lead_to_the_end_of_a_range_are_taken(folder):
    text = (folder / "sweep.yaml").read_text()
    for given in ("{low: 1, high: 9, step: 4}", "{low: 1.0, high: 3.0, step: 1.0}", "{low: 2, high: 32, log: true}"):
        (folder / "sweep.yaml").write_text(text.replace("epoch_num: 9", f"epoch_num: {given}"))
        assert search.check(specs.read(folder / "sweep.yaml"), sweep.parser_of) in (9, 3, 32)
    (folder / "sweep.yaml").write_text(text.replace("log: true", "step: 0.011"))
    search.check(specs.read(folder / "sweep.yaml"), sweep.parser_of)


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text("garbled" * 9999)])
def test_a_database_that_is_lost_in_a_trial_is_one_line(harm, folder, monkeypatch, capsys):
    start = running.start

    def lose(*given):
        harm(folder / "runs" / "study.db")
        return start(*given)

    monkeypatch.setattr(running, "start", lose)
    assert sweep.main([str(folder / "sweep.yaml"), "--study", "rates", "--trials", "2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sweep.py: --storage: the database can't be used any more (") and error.count("\n") == 1


def test_a_database_that_is_none_is_named_and_so_is_a_folder_that_takes_no_files(folder, monkeypatch):
    file = folder / "runs" / "study.db"
    file.parent.mkdir()
    file.write_text("garbled" * 999)
    with pytest.raises(InputError, match=rf"^{file}: a database that can't be used .*; without that file a new study"):
        run(folder, 1)
    file.unlink()
    (folder / "file").write_text("")
    (folder / "sweep.yaml").write_text(FILE.format(folder=folder / "file"))
    with pytest.raises(InputError, match=f"^received {folder}/file/runs, expected a folder that can be written to"):
        run(folder, 1)


def test_trials_and_studies_of_other_programs_are_taken_as_they_are(folder):
    spec = specs.read(folder / "sweep.yaml")
    study = search.open_study(spec, "rates", None, 9)
    ranges = {"student.student_learning_rate": optuna.distributions.FloatDistribution(0.001, 0.1, log=True)}
    for value, runs in ((float("inf"), "x"), (0.1, 5), (0.2, [{}]), (0.3, None)):
        made = optuna.trial.create_trial(
            value=value, params={next(iter(ranges)): 0.01}, distributions=ranges, user_attrs={"runs": runs}
        )
        study.add_trial(made)
    found = run(folder, 5)
    assert [trial["value"] for trial in found if trial["number"] < 4] == [0.3, 0.2, 0.1, None]
    json.dumps(found, allow_nan=False)
    assert len(json.loads((folder / "runs" / "sweep.json").read_text())["runs"]) == 2
    optuna.create_study(
        storage=f"sqlite:///{folder}/runs/study.db", study_name="two", directions=["maximize", "minimize"]
    )
    with pytest.raises(InputError, match="^`study`: received two, which does not maximize; expected another name"):
        run(folder, 1, name="two")


def test_a_study_of_other_values_or_of_another_goal_wants_another_name(folder):
    run(folder, 1)
    text = (folder / "sweep.yaml").read_text()
    (folder / "sweep.yaml").write_text(text.replace("[sgd, muon]", "[muon, sgd]"))
    with pytest.raises(InputError, match="^`study`: received rates, which was begun with other settings"):
        run(folder, 2)
    with sqlite3.connect(folder / "runs" / "study.db") as database:  # as an earlier version left it
        database.execute("delete from study_user_attributes")
    database.close()
    with pytest.raises(InputError, match="^`study`: received rates, which searches other values"):
        run(folder, 2)
    (folder / "sweep.yaml").write_text(f"{text}\nminimize: macs\n")
    with pytest.raises(InputError, match="^`study`: received rates, which does not minimize; expected another name"):
        run(folder, 2)
    assert run(folder, 1, name="cost")[0]["value"] == 7  # no history tells of it: nothing is stopped early
    (folder / "sweep.yaml").write_text(f"{text}\nminimize: bytes\n")
    with pytest.raises(
        InputError,
        match="yaml: minimize: received bytes, which .*result.json has no number for; expected one of val_acc, macs",
    ):
        run(folder, 1, name="size")


def test_rows_whole_numbers_and_lists_of_lists_are_searched(folder):
    (folder / "sweep.yaml").write_text(
        textwrap.dedent(
            f"""
            folder: {folder}/runs
            steps:
              student:
                script: knowledge_distillation.py
                flags: {{root_folder: x, epoch_num: {{low: 1, high: 3}}, student_blocks: [[2, 2, 2, 2], [1, 1, 1, 1]]}}
                rows: {{plain: {{}}, soft: {{lambda1: {{low: 1, high: 2, step: 0.5}}}}}}
            """
        )
    )
    for trial in run(folder, 6):
        params = trial["params"]
        assert params["student.epoch_num"] in (1, 2, 3)
        assert json.loads(params["student.student_blocks"]) in ([2, 2, 2, 2], [1, 1, 1, 1])
        assert params["student.row"] == "plain" or params["student.soft.lambda1"] in (1.0, 1.5, 2.0)
    names = [Path(place).name for place in calls(folder)]
    assert all("student_blocks=" in name and name.startswith(("plain,", "soft,")) for name in names)


@pytest.mark.parametrize("of_all", [False, True])
def test_a_row_has_values_of_its_own_to_search_in(of_all, folder):
    """Both rows name one flag with other values; a row of the sweep is that of each step."""
    rates = {"slow": [0.01, 0.02], "fast": [0.03, 0.04, 0.05]}
    text = FILE.format(folder=folder).replace("      student_learning_rate: {low: 0.001, high: 0.1, log: true}\n", "")
    if of_all:
        rows = {row: {"flags": {"batch_size": 8}, "student": {"student_learning_rate": rates[row]}} for row in rates}
        text = text.replace("steps:", f"rows: {json.dumps(rows)}\nsteps:")
    else:
        rows = {row: {"student_learning_rate": values} for row, values in rates.items()}
        text += f"    rows: {json.dumps(rows)}\n"
    (folder / "sweep.yaml").write_text(text)
    name = "row" if of_all else "student.row"
    study = search.open_study(specs.read(folder / "sweep.yaml"), "rates", None, 9)
    for row in rates:
        study.enqueue_trial({name: row})
    for trial in run(folder, 4):
        params = trial["params"]
        row = params.pop(name)
        assert params.keys() == {"student.optimizer", f"student.{row}.student_learning_rate"}
        assert json.loads(params[f"student.{row}.student_learning_rate"]) in rates[row]
    note = json.loads((folder / "runs" / "sweep.json").read_text())["runs"]
    students = [entry["values"] for entry in note if entry["step"] == "student"]
    assert {values["row"] for values in students} == set(rates)
    assert all(values["student_learning_rate"] in rates[values["row"]] for values in students)
    bases = [place for place in calls(folder) if "/base/" in place]
    assert sorted(bases) == [f"{folder}/runs/base/{row}seed=1" for row in (("fast,", "slow,") if of_all else ("",))]


def test_a_pruning_is_followed_over_its_iterations(tmp_path):
    run_ = type("Run", (), {"folder": str(tmp_path), "script": "prune_model.py"})
    for number, values in ((2, [0.3]), (10, [0.4, 0.5]), (1, [0.1, 0.2])):
        (tmp_path / f"iter{number}").mkdir()
        (tmp_path / f"iter{number}" / "history.json").write_text(json.dumps({"val_acc": values}))
    assert search.curve(run_, "val_acc") == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_study_says_that_it_waits_for_a_run_of_another_process(folder, capsys, monkeypatch):
    place = folder / "runs" / "base" / "seed=1"
    path = running.lock_of(SimpleNamespace(folder=str(place)))
    path.parent.mkdir(parents=True)
    lock, say = filelock.FileLock(path).acquire().lock, sweep.say_busy

    def say_and_end(*words):
        say(*words)
        lock.release()

    monkeypatch.setattr(sweep, "say_busy", say_and_end)
    sweep.run(file=str(folder / "sweep.yaml"), study="rates", trials=1)
    assert capsys.readouterr().out.count(f"{place}: another process is at work on it, which is waited for\n") == 1
    assert len(calls(folder)) == 2
