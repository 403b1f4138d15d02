"""Sweeps: which commands a file means, in which folders, and what becomes of runs that fail, stop or are finished."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import ROOT

import sweep
from compress.errors import InputError
from compress.storage import files
from compress.sweeps import plans, running, specs

FILE = """
folder: {folder}
seeds: [1, 2]
flags: {{dataset: digits}}
steps:
  base:
    script: train_base_model.py
    flags: {{epoch_num: 3, learning_rate: [0.1, 0.05]}}
  prune:
    script: prune_model.py
    flags: {{base_model_path: "{{base}}/model.h5", epoch_num: 1, prune_iter: 2, criterion: [apoz, l1], gpu: false}}
  student:
    script: knowledge_distillation.py
    flags: {{root_folder: "{{prune}}/iter2", epoch_num: 2, student_blocks: [[2, 2, 2, 2], [1, 1, 1, 1]]}}
    rows:
      plain: {{}}
      soft: {{lambda1: 2, hard_label_weight: 0}}
"""

# Stands in for a script of the suite: writes what a run would, by the words that it was given.
STUB = """
import json, os, pathlib, signal, sys, time
script, words = os.path.basename(sys.argv[0]), sys.argv[1:]
flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
folder = pathlib.Path(flags["root_folder" if script == "prune_model.py" else "save_folder"])
folder.mkdir(parents=True, exist_ok=True)
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([time.time(), str(folder), os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")
def stop(number, frame):
    (folder / "state.npz").write_text("saved")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
(folder / "begun").write_text("")
while (folder.parent / "wait").exists():
    time.sleep(0.01)
if flags.get("learning_rate") == "0.05" and os.environ.get("FAIL"):
    print("the stub: received 0.05, expected 0.1")
    sys.exit(2)
time.sleep(float(os.environ.get("SECONDS_OF_STUB", 0)))
(folder / "state.npz").unlink(missing_ok=True)
record = {"run": {"argv": [script, *words]}, "val_acc": 0.5}
(folder / "result.json").write_text(json.dumps(record))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a sweep's file and stand-ins for the scripts, which tell when they were called."""
    (tmp_path / "sweep.yaml").write_text(FILE.format(folder=tmp_path / "runs"))
    for script in specs.TRAINS:
        (tmp_path / script).write_text(STUB)
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


@pytest.fixture
def few(folder):
    """`folder` with a sweep of twelve runs in three steps."""
    text, _, _ = FILE.format(folder=folder / "runs").partition("    rows:")
    for many, one in (("[apoz, l1]", "l1"), ("[[2, 2, 2, 2], [1, 1, 1, 1]]", "[1, 1, 1, 1]")):
        text = text.replace(many, one)
    (folder / "sweep.yaml").write_text(text)
    return folder


def calls(folder):
    """(time, folder, devices) of each call of a stand-in, in their order."""
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def commands(folder, text=None, **given):
    if text is not None:
        (folder / "sweep.yaml").write_text(textwrap.dedent(text))
    return sweep.run(file=str(folder / "sweep.yaml"), print=True, verbose=0, **given)["commands"]


def parsed(line):
    """(script, {flag: value}) of a printed command."""
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return Path(words[at]).name, vars(sweep.parser_of(words[at]).parse_args(words[at + 1 :])) | {"argv": 0}


# ---- what a file means ----


def test_every_combination_is_one_command_and_a_shared_base_is_made_once(folder, capsys):
    runs = plans.expand(specs.read(folder / "sweep.yaml"), sweep.parser_of)
    made = {step: [run for run in runs if run.step == step] for step in ("base", "prune", "student")}
    assert [len(several) for several in made.values()] == [2 * 2, 2 * 2 * 2, 2 * 2 * 2 * 2 * 2]
    wanted = itertools.product((1, 2), (0.1, 0.05), ("apoz", "l1"))
    for run, (seed, rate, criterion) in zip(made["prune"], wanted, strict=True):
        found = sweep.parser_of(run.script).parse_args(run.words)
        base = f"{folder}/runs/base/learning_rate={rate},seed={seed}"
        assert found.base_model_path == f"{base}/model.h5" and run.before["base"].folder == base
        assert run.folder == f"{folder}/runs/prune/base.learning_rate={rate},criterion={criterion},seed={seed}"
        assert (found.seed, found.criterion, found.gpu, found.dataset) == (seed, criterion, False, "digits")
        assert found.root_folder == run.folder and run.epochs == 2
    shapes = {tuple(sweep.parser_of(run.script).parse_args(run.words).student_blocks) for run in made["student"]}
    assert shapes == {(2, 2, 2, 2), (1, 1, 1, 1)}
    assert len({run.folder for run in runs}) == len(runs)
    assert {run.values["row"] for run in made["student"]} == {"plain", "soft"}
    with pytest.raises(InputError, match="steps.student.rows.soft.lambda1: received 'x', expected a number"):
        commands(folder, FILE.format(folder="r").replace("lambda1: 2", "lambda1: x"))
    with pytest.raises(InputError, match="steps.student.flags.epoch_num: received 'x', expected a whole number"):
        commands(folder, FILE.format(folder="r").replace("epoch_num: 2,", "epoch_num: x,"))
    (folder / "sweep.yaml").write_text(FILE.format(folder=folder / "runs"))
    told = commands(folder)
    assert capsys.readouterr().out.splitlines() == told and len(told) == len(runs)
    assert [parsed(line)[0] for line in told] == [run.script for run in runs]
    done = set()
    for run in runs:  # dependencies come first
        assert {other.folder for other in run.before.values()} <= done
        done.add(run.folder)


def test_a_printed_command_runs_from_here_and_a_step_alone_can_be_printed(folder):
    every, students = commands(folder), commands(folder, step="student")
    assert students == [line for line in every if parsed(line)[0] == "knowledge_distillation.py"]
    assert commands(folder, step=["student", "base"]) == [line for line in every if "prune_model.py" not in line]
    assert commands(folder, seeds=[7], step="base") == [
        line.replace("seed=1", "seed=7") for line in commands(folder, step="base")[:2]
    ]


def test_values_of_one_list_stay_in_their_folders_when_others_join_them(folder):
    few = """
        folder: runs
        steps:
          base: {script: train_base_model.py, flags: {epoch_num: 1, learning_rate: [%s]}}
    """
    one, three = ({parsed(line)[1]["save_folder"] for line in commands(folder, few % n)} for n in ("0.1", "0.1, 1, 2"))
    assert one == {"runs/base/learning_rate=0.1"} < three


def test_a_run_starts_from_runs_that_were_made_from_the_same(folder):
    lines = commands(
        folder,
        """
        folder: runs
        steps:
          base: {script: train_base_model.py, flags: {epoch_num: 1, seed: [1, 2]}}
          prune: {script: prune_model.py, flags: {base_model_path: "{base}/model.h5", epoch_num: 1, prune_iter: 1}}
          compare:
            script: evaluate_model.py
            flags: {model_path: ["{base}/model.h5", "{prune}/iter1/model.h5"], split: validation}
        """,
    )
    pairs = [parsed(line)[1] for line in lines[-2:]]
    assert [found["model_path"] for found in pairs] == [
        [f"runs/base/seed={n}/model.h5", f"runs/prune/base.seed={n}/iter1/model.h5"] for n in (1, 2)
    ]
    assert [found["output"] for found in pairs] == [f"runs/compare/base.seed={n}/evaluation.json" for n in (1, 2)]


def test_a_folder_may_be_given_by_the_step(folder):
    lines = commands(
        folder,
        """
        folder: runs/table
        seeds: [3]
        steps:
          base:
            script: train_base_model.py
            folder: ../other/seed{seed}/{optimizer}{epoch_num}
            flags: {epoch_num: 1, optimizer: [muon]}
        """,
    )
    assert [parsed(line)[1]["save_folder"] for line in lines] == ["runs/other/seed3/muon1"]


NETWORKS = """
folder: runs
seeds: [1, 2]
flags: {dataset: digits}
rows:
  small:
    flags: {subset: 200, batch_size: 8}
    base: {architecture: resnet20, learning_rate: [0.1, 0.2]}
    student: {batch_size: 4}
  plain:
steps:
  base: {script: train_base_model.py, flags: {epoch_num: 1, subset: 400}}
  student:
    script: knowledge_distillation.py
    flags: {root_folder: "{base}", epoch_num: 2, batch_size: 16}
  tests: {script: evaluate_model.py, flags: {model_path: ["{base}/model.h5", "{student}/model.h5"]}}
"""


def test_rows_of_a_sweep_go_through_all_steps(folder):
    """Each with its flags, from runs of its own row alone; written out here by hand."""
    found = [parsed(line) for line in commands(folder, NETWORKS)]
    base, student, tests = ([flags for name, flags in found if name.startswith(kind)] for kind in ("t", "k", "e"))
    assert [one["save_folder"] for one in base] == [
        "runs/base/small,learning_rate=0.1,seed=1",
        "runs/base/small,learning_rate=0.2,seed=1",
        "runs/base/small,learning_rate=0.1,seed=2",
        "runs/base/small,learning_rate=0.2,seed=2",
        "runs/base/plain,seed=1",
        "runs/base/plain,seed=2",
    ]
    shown = [[one[key] for key in ("architecture", "subset", "batch_size", "learning_rate")] for one in base]
    assert shown[0] == ["resnet20", 200, 8, 0.1] and shown[4][:2] == [None, 400]  # a row's flags before a step's
    assert [one["save_folder"] for one in student] == [
        "runs/student/small,base.learning_rate=0.1,seed=1",
        "runs/student/small,base.learning_rate=0.2,seed=1",
        "runs/student/small,base.learning_rate=0.1,seed=2",
        "runs/student/small,base.learning_rate=0.2,seed=2",
        "runs/student/plain,seed=1",
        "runs/student/plain,seed=2",
    ]
    assert [one["root_folder"] for one in student] == [one["save_folder"] for one in base]
    assert [(one["batch_size"], one["subset"]) for one in student] == [(4, 200)] * 4 + [(16, None)] * 2
    assert [one["model_path"] for one in tests] == [
        [f"{one['root_folder']}/model.h5", f"{one['save_folder']}/model.h5"] for one in student
    ]
    assert [one["batch_size"] for one in tests[:4]] == [8] * 4
    runs = plans.expand(specs.read(folder / "sweep.yaml"), sweep.parser_of)
    assert runs[6].values == {"row": "small", "base.learning_rate": 0.1, "seed": 1}  # the row is named once, and first


def test_a_step_names_its_folder_by_the_row_of_the_sweep(folder):
    text = NETWORKS.replace("[0.1, 0.2]", "0.1")
    for step in ("base", "student"):
        text = text.replace(f"  {step}: {{script", f"  {step}: {{folder: 'seed{{seed}}/{{row}}/{step}', script")
        text = text.replace(
            f"  {step}:\n    script", f"  {step}:\n    folder: 'seed{{seed}}/{{row}}/{step}'\n    script"
        )
    text = text.replace("tests: {script", "tests: {folder: 'seed{seed}/{row}', script")
    found = [parsed(line)[1] for line in commands(folder, text, seeds=[3])]
    assert [one.get("save_folder") or one["output"] for one in found] == [
        *("runs/seed3/small/base", "runs/seed3/plain/base", "runs/seed3/small/student", "runs/seed3/plain/student"),
        *("runs/seed3/small/evaluation.json", "runs/seed3/plain/evaluation.json"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "architecture: resnet20",
            "architectur: a",
            r"rows.small.base.architectur: no such flag; did you mean `architecture`\?",
        ),
        (
            "subset: 200",
            "epoch_num: 3",
            "rows.small.flags.epoch_num: .*, of the step tests, has no such flag; expected it under .*",
        ),
        ("subset: 200", "subst: 9", r"rows.small.flags.subst: .* has no such flag; did you mean `subset`\?"),
        ("subset: 200", "subset: many", "rows.small.flags.subset: received 'many', expected a whole number .*"),
        ("epoch_num: 1", "epoch_num: many", "steps.base.flags.epoch_num: received 'many', expected a whole .*"),
        ("    student: {", "    studnet: {", r"rows.small.studnet: no such key; did you mean student\?"),
        ("  plain:", "  plain: 3", "rows.plain: received 3, expected a mapping, such as `name: value`"),
        ("  plain:", "  plain: {flags: [a]}", "rows.plain.flags: received .*, expected a mapping, .*"),
        ("[0.1, 0.2]", "[]", "rows.small.base.learning_rate: received an empty list, expected a value, .*"),
        ("[0.1, 0.2]", "[1, 1]", r"rows.small.base.learning_rate: received \[1, 1\], expected each value once"),
        ("[0.1, 0.2]", "{low: 1, high: 2}", "rows.small.base.learning_rate: received a range, expected values; .*"),
        ("{batch_size: 4}", "{seed: 4}", "rows.small.student.seed: received it beside seeds, expected one of them"),
        ("{batch_size: 4}", "{cache_dir: '{tests}'}", "rows.small.student.cache_dir: received {tests}, which is no .*"),
        (
            "batch_size: 16}",
            "batch_size: 16}\n    rows: {a: {}}",
            "steps.student.rows: received them beside the rows of the sweep, expected one of them",
        ),
        (" tests: ", " flags: ", "steps.flags: expected another name: in rows, `flags` are those of every step"),
    ],
)
def test_what_is_wrong_in_a_row_of_a_sweep_is_named_where_it_stands(old, new, message, folder):
    assert NETWORKS.count(old) == 1
    with pytest.raises(InputError, match=rf"sweep.yaml: {message}$"):
        commands(folder, NETWORKS.replace(old, new))


@pytest.mark.parametrize("words", [("--trials", "3"), ("--storage", "sqlite:///x.db")])
def test_flags_of_a_search_want_its_name(words, few, capsys):
    assert sweep.main([str(few / "sweep.yaml"), "--print", *words]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error == f"sweep.py: {words[0]}: received it without --study, expected both: a search has a name\n"


@pytest.mark.parametrize(
    "template", ["logs", "logs/base", "sweep.json", "study.db/x", "a/" + "d" * 201, "\u00e9" * 101]
)
def test_a_template_that_is_taken_or_too_long_is_refused(template, folder):
    text = """
        folder: runs
        steps:
          base: {script: train_base_model.py, flags: {epoch_num: 1}, folder: FOLDER}
        """
    with pytest.raises(InputError, match="steps.base.folder: received .*; expected another name than logs, "):
        commands(folder, text.replace("FOLDER", template))


def test_runs_that_two_sweeps_share_have_one_lock_and_logs_have_names_of_their_own(folder):
    text = """
        folder: FOLDER
        steps:
          a: {script: train_base_model.py, flags: {epoch_num: 1}, folder: ../shared/base}
          b: {script: train_base_model.py, flags: {epoch_num: 2}, folder: x/y}
          c: {script: train_base_model.py, flags: {epoch_num: 3}, folder: x_y}
        """
    runs = []
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text).replace("FOLDER", str(folder / name)))
        runs.append(plans.expand(specs.read(folder / f"{name}.yaml"), sweep.parser_of))
    lock = running.take(runs[0][0])
    assert lock and running.take(runs[1][0]) is None and running.take(runs[1][1])
    lock.release()
    logs = {running.log_of(run, folder / name) for name, part in zip(("one", "two"), runs, strict=True) for run in part}
    assert len(logs) == 6 and all(path.is_relative_to(folder) and ".." not in path.parts for path in logs)


def test_long_names_are_cut_and_stay_apart(folder):
    lines = commands(
        folder,
        f"""
        folder: runs
        steps:
          base: {{script: train_base_model.py, flags: {{epoch_num: 1, data_dir: [{"a" * 150}, {"a" * 149}b, c d-e]}}}}
        """,
    )
    names = [Path(parsed(line)[1]["save_folder"]).name for line in lines]
    assert len(set(names)) == 3 and max(map(len, names)) == 100 and names[2] == "data_dir=c_d-e"


WRONG = [
    ("3", "received 3, expected a mapping, such as `name: value`"),
    ("", "it is empty; expected `folder` and `steps`, as docs/how-to/sweeps.md shows"),
    ("# a comment", "it is empty; expected `folder` and `steps`, as docs/how-to/sweeps.md shows"),
    ("folder: [", "line 1: .*; expected YAML, each key once"),
    ("folder: a\nfolder: b", "line 1: the key folder twice; expected YAML, each key once"),
    ("folder: a\nstep: {}", "step: no such key; did you mean steps?"),
    ("steps: {}", "folder: received None, expected a text"),
    ("folder: a\nsteps: {}", "steps: received none, expected one or more"),
    ("folder: a\nseeds: 3\nsteps: {a: {}}", "seeds: received 3, expected a list of whole numbers"),
    ("folder: a\nsteps: {a-b: {}}", "steps.a-b: expected a name of letters, digits and _"),
    (
        "folder: a\nsteps: {a: {script: rm.py}}",
        "steps.a.script: received rm.py, expected one of train_base_model.py, .*",
    ),
    ("folder: a\nsteps: {a: {scrip: x}}", "steps.a.scrip: no such key; did you mean script?"),
    (
        "folder: a\nsteps: {a: {script: [prune_model.py]}}",
        r"steps.a.script: received \['prune_model.py'\], expected .*",
    ),
    ("folder: a\nsteps: {a: {script: {b: c}}}", "steps.a.script: received .*, expected one of .*"),
    # what would break one command a line, or can't be printed
    ('folder: "a\\nb"', r"folder: received 'a\\nb', expected no line end and no other control character"),
    ('folder: a\n"b\\nc": 1', r"received 'b\\nc', expected no line end .*"),
    ('folder: "a\\ud800"', r"folder: received 'a\\ud800', expected no line end .*"),
    # numbers and nests without end
    (f"folder: a\nseeds: [0x{'f' * 4000}]", "seeds: received a whole number of more than 308 digits, expected a .*"),
    (f"seeds: [{'1' * 4100}]", "line 1: received a value of 4100 letters; expected at most 4096"),
    *((f"seeds: {'[' * n}{']' * n}", ".*received lists or .*, more than 10 levels; .*") for n in (11, 3000)),
    ("folder: &a [*a]", r"line 1: received the alias \*a; expected its values written out"),
    (
        "folder:\n- &a [1, 1]\n" + "".join(f"- &{b} [{f'*{a},' * 10}]\n" for a, b in itertools.pairwise("abcdefghijk")),
        r"line 3: received the alias \*a; expected .*",
    ),
    # values that their tags can't have
    *(
        (
            f"folder: a\nseeds: {tag} {value}",
            f"line 2: received {value}, which is no {tag[2:]}; expected a text .*",
        )
        for tag, value in (
            ("!!int", "''"),
            ("!!int", "'_'"),
            ("!!float", "''"),
            ("!!bool", "'x'"),
            ("!!timestamp", "'x'"),
        )
    ),
    *(
        (f"folder: {value}", "folder: received .*, expected a text, in quotes where it looks like something else, .*")
        for value in ("2020-01-01", "!!binary aGVsbG8=", "!!set {a}", "!!pairs [a: b]")
    ),
]
FLAGS = [
    ("{epoch_nun: 1}", "steps.a.flags.epoch_nun: no such flag; did you mean `epoch_num`?"),
    ("{epoch_num: [1, many]}", "steps.a.flags.epoch_num: received 'many', expected a whole number .*"),
    ("{no-cache: true}", "steps.a.flags.no-cache: no such flag; write `cache: false`"),
    ("{no_cache: false}", "steps.a.flags.no_cache: no such flag; write `cache: true`"),
    ("{no-epoch_num: true}", "steps.a.flags.no-epoch_num: no such flag; did you mean `epoch_num`?"),
    ("{optimizer: [sgd, adam]}", "steps.a.flags.optimizer: received 'adam', expected one of sgd, muon"),
    ("{epoch_num: []}", "steps.a.flags.epoch_num: received an empty list, expected a value, or values to try"),
    ("{epoch_num: [1, 1]}", r"steps.a.flags.epoch_num: received \[1, 1\], expected each value once"),
    ("{save_folder: x}", "steps.a.flags.save_folder: expected it left out: a sweep gives each run a folder of its own"),
    ("{resume: never}", "steps.a.flags.resume: expected it left out: a sweep goes on where it stopped"),
    ("{learning_rate: {low: 1, high: 2}}", "steps.a.flags.learning_rate: received a range, expected values; .*"),
    ("{learning_rate: {low: 2, high: 1}}", "steps.a.flags.learning_rate: received .*, expected low and high, .*"),
    ("{learning_rate: {low: 0, high: 1, log: true}}", "steps.a.flags.learning_rate: .*, expected low above 0 .*"),
    ('{model_path: "{b}/model.h5"}', "steps.a.flags.model_path: received {b}, which is no earlier step; .*"),
    ("{epoch_num: 1, data_dir: [x/a, y/a]}", "steps.a.flags.data_dir: .* expected each value once"),
    ('{tensorboard: "a\\ntouch PWNED #"}', "steps.a.flags.tensorboard: received .*, expected no line end .*"),
    ("{row: 5}", "steps.a.flags.row: no such flag; expected one of .*"),
    ("{row: [5, 6]}", "steps.a.flags.row: no such flag; expected one of .*"),
    ("{epoch_num: .inf}", "steps.a.flags.epoch_num: received inf, expected a whole number .*"),
    ("{epoch_num: [1, -.inf]}", "steps.a.flags.epoch_num: received -inf, expected a whole number .*"),
    (f"{{learning_rate: 1{'0' * 400}}}", "steps.a.flags.learning_rate: received a whole number of more than 308 .*"),
    (f"{{epoch_num: {{low: 1, high: 0x{'f' * 4000}}}}}", "steps.a.flags.epoch_num.high: received a whole number .*"),
    *(
        (f"{{architecture: {one}}}", "steps.a.flags.architecture: received .*, expected a text")
        for one in ("5", "true")
    ),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [*WRONG, *((f"folder: a\nsteps: {{a: {{script: train_base_model.py, flags: {f}}}}}", m) for f, m in FLAGS)],
)
def test_what_is_wrong_in_a_file_is_one_line_before_anything_runs(text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(text)
    assert sweep.main(["sweep.yaml"]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1
    pattern = message.replace("?", r"\?").replace("{b}", r"\{b\}")
    assert re.fullmatch(rf"sweep\.py: sweep\.yaml: {pattern}", error.rstrip("\n")), error
    assert os.listdir() == ["sweep.yaml"]


def test_two_runs_in_one_folder_and_an_unknown_step_are_refused(folder, capsys):
    text = """
    folder: runs
    steps:
      a: {script: train_base_model.py, folder: same, flags: {epoch_num: [1, 2]}}
    """
    with pytest.raises(InputError, match=r"two runs in runs/same, a \(epoch_num=1\) and a \(epoch_num=2\); expected"):
        commands(folder, text)
    with pytest.raises(InputError, match=r"steps.a.folder: received \{depth\}, expected one of epoch_num"):
        commands(folder, text.replace("same", '"{depth}"'))
    with pytest.raises(InputError, match="^`step`: received b, expected one of a, the steps of "):
        commands(folder, text.replace("same", '"{epoch_num}"'), step="b")


@pytest.mark.parametrize(
    "folder_of_step", [".", "..", "../r", "../../r", "x/../..", "/abs/path", "../../../tmp/out", "{row}/../.."]
)
def test_a_step_stays_below_the_sweeps_folder_or_beside_it(folder_of_step, folder):
    text = """
    folder: w/r
    steps:
      a: {script: train_base_model.py, %s flags: {epoch_num: 1}, rows: {b: {}, %s: {depth: 50}}}
    """
    with pytest.raises(
        InputError, match=r"steps.a.folder: received .*; expected a folder below w/r, or beside it: ../"
    ):
        commands(folder, text % (f'folder: "{folder_of_step}",', "c"))
    for own in ("", 'folder: "a/{row}",'):
        for name in (".", "..", "../..", "x/.."):
            found = [parsed(line)[1]["save_folder"] for line in commands(folder, text % (own, name))]
            assert found == ["w/r/a/b", "w/r/a/_"]


def test_a_run_in_the_folder_of_another_is_refused_where_that_one_is_a_run_of_files(folder):
    text = """
    folder: runs
    steps:
      a: {script: %s, folder: %s, flags: {%s}}
      b: {script: train_base_model.py, folder: %s}
    """
    for one, other in (("x", "x/iter1"), ("x/y/z", "x")):
        with pytest.raises(
            InputError, match=r"steps.[ab]: two runs in runs/x, [ab] and [ab]; expected a folder of its"
        ):
            commands(folder, text % ("train_base_model.py", one, "", other))
    assert len(commands(folder, text % ("evaluate_model.py", "seed1", "model_path: a.h5", "seed1/base"))) == 2
    assert len(commands(folder, text % ("export_model.py", "x/exported", "", "x"))) == 2  # as the script does by itself


@pytest.mark.parametrize("word", ["--images=5", "--help", "-h", "--"])
def test_no_flag_hides_in_the_list_of_another(word, folder):
    text = 'folder: r\nsteps: {a: {script: evaluate_model.py, flags: {model_path: [[b, "%s"]]}}}'
    with pytest.raises(
        InputError, match=f"steps.a.flags.model_path: received {word}, which is a flag; expected ./{word}"
    ):
        commands(folder, text % word)
    [line] = commands(folder, text % f"./{word}")
    assert parsed(line)[1]["model_path"] == ["b", f"./{word}"]


def test_millions_of_combinations_are_refused_before_they_are_listed(folder):
    values = f"[{', '.join(f'd{number}' for number in range(400))}]"
    bases = "".join(f"  {name}: {{script: train_base_model.py, flags: {{data_dir: {values}}}}}\n" for name in "abc")
    last = '  d: {script: evaluate_model.py, flags: {model_path: ["{a}", "{b}", "{c}"]}}\n'
    began = time.monotonic()
    with pytest.raises(InputError, match=r"steps.d.flags: more than 5000 runs; expected fewer values"):
        commands(folder, f"folder: r\nsteps:\n{bases}{last}")
    assert time.monotonic() - began < 30  # 64 million took minutes


def test_the_most_runs_are_those_of_all_steps_together(folder, monkeypatch):
    monkeypatch.setattr(plans, "MOST_RUNS", 9)
    text = "folder: r\nsteps:\n  a: {script: train_base_model.py, flags: {epoch_num: [1, 2, 3, 4, 5]}}\n"
    more = "  b: {script: train_base_model.py, flags: {epoch_num: [1, 2, 3, %s]}}\n"
    assert len(commands(folder, text + more % "4")) == 9
    with pytest.raises(InputError, match=r"steps.b.flags: more than 9 runs"):
        commands(folder, text + more % "4, 5")


def test_a_folder_or_a_name_without_end_in_place_of_a_file_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("w").mkdir()
    assert [sweep.main([name]) for name in ("w", "a" * 300)] == [2, 2]
    folder, long = capsys.readouterr().err.splitlines()
    assert folder == "sweep.py: received w, which is a folder; expected a sweep's .yaml file"
    assert long == f"sweep.py: received {'a' * 300}, which is not a file; expected a sweep's .yaml file"


# ---- runs ----


def test_runs_are_made_in_order_some_at_a_time_and_finished_ones_are_skipped(few, monkeypatch, capsys):
    monkeypatch.setenv("SECONDS_OF_STUB", "0.05")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    result = sweep.run(file=str(few / "sweep.yaml"), jobs=2)
    assert {run["state"] for run in result["runs"]} == {"finished"} and len(result["runs"]) == 12
    seen = calls(few)
    assert len(seen) == 12 and {devices for _, _, devices in seen} == {"4", "7"}
    order = [where for _, where, _ in seen]
    runs = {run.folder: run for run in plans.expand(specs.read(few / "sweep.yaml"), sweep.parser_of)}
    for place, run in runs.items():
        assert all(order.index(other.folder) < order.index(place) for other in run.before.values())
    note = json.loads((few / "runs" / "sweep.json").read_text())
    assert {str(few / "runs" / entry["folder"]): entry["values"] for entry in note["runs"]} == {
        place: run.values for place, run in runs.items()
    }
    capsys.readouterr()
    result = sweep.run(file=str(few / "sweep.yaml"), jobs=2)
    assert {run["state"] for run in result["runs"]} == {"there"} and len(calls(few)) == 12
    assert capsys.readouterr().out.count("finished before\n") == 12


def test_a_script_is_asked_where_it_is_in_doubt_whether_a_run_is_finished(few):
    runs = plans.expand(specs.read(few / "sweep.yaml"), sweep.parser_of)
    sweep.run(file=str(few / "sweep.yaml"), jobs=8, verbose=0)
    base, prune = runs[0], next(run for run in runs if run.step == "prune")
    assert running.is_finished(base) and running.is_finished(prune)
    (Path(prune.folder) / "state.npz").write_text("")  # it was made longer, and stopped
    assert not running.is_finished(prune)
    (Path(prune.folder) / "state.npz").unlink()
    made = prune.record.read_text()
    for content in ("{", "{}", made.replace("--seed=1", "--seed=9"), made.replace("{", '{"finished": false, ', 1)):
        prune.record.write_text(content)
        assert not running.is_finished(prune)
    prune.record.write_text(made)
    os.utime(base.record, ns=(time.time_ns() + 10**9,) * 2)  # trained again since
    assert running.is_finished(base) and not running.is_finished(prune)


def test_a_run_that_fails_stops_only_those_that_start_from_it(few, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "1")
    assert sweep.main([str(few / "sweep.yaml"), "-j", "3"]) == 2
    output, error = capsys.readouterr()
    assert error.count(": the stub: received 0.05, expected 0.1\n") == 2
    assert error.splitlines()[-1].startswith("sweep.py: 2 of 12 runs failed and 4 others start from them: ")
    assert output.count("left out, as what it starts from failed") == 4
    assert len(list(few.glob("runs/*/*/result.json"))) == 6
    monkeypatch.delenv("FAIL")
    assert sweep.main([str(few / "sweep.yaml"), "-j", "3"]) == 0
    assert len(calls(few)) == 12 + 2


def test_one_at_a_time_prints_here_and_silently_to_a_log(few, capfd, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    words = [str(few / "sweep.yaml"), "--step", "base", "--seeds", "5"]
    assert sweep.main(words) == 2
    assert "the stub: received 0.05" in capfd.readouterr().out and not list(few.glob("runs/logs/**/*.log"))
    assert sweep.main([*words, "--verbose", "0"]) == 2
    output, error = capfd.readouterr()
    assert output == "" and "the stub" in error and error.count("\n") == 2
    assert "the stub" in (few / "runs" / "logs" / "base" / "learning_rate=0.05,seed=5.log").read_text()


def started(folder, *words):
    """A process of its own that makes the sweep of a folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pathlib, sweep; from compress.sweeps import running\n"
        f"running.ROOT = pathlib.Path({str(folder)!r}); sys.argv[0] = 'sweep.py'; sys.exit(sweep.main())"
    )
    command = [sys.executable, "-c", code, str(folder / "sweep.yaml"), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(there, *processes):
    """Waits until a function says yes, as long as the processes are at work."""
    end = time.monotonic() + 60
    while not there():
        assert not any(one.poll() is not None for one in processes) and time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="a child ends with its parent on Linux alone")
def test_two_sweeps_wait_for_one_another_and_a_killed_one_leaves_no_run_at_work(few):
    (few / "runs" / "base").mkdir(parents=True)
    wait = few / "runs" / "base" / "wait"
    wait.write_text("")
    killed = started(few, "-j", "2")
    wait_for(lambda: len(list(few.glob("runs/base/*/begun"))) == 2, killed)
    killed.kill()
    killed.communicate()
    wait_for(lambda: len(list(few.glob("runs/base/*/state.npz"))) == 2)  # its runs save and end
    first = started(few, "-j", "2")
    wait_for(lambda: len(calls(few)) == 4, first)
    second = started(few, "-j", "4")
    wait_for(lambda: len(calls(few)) == 6, first, second)
    wait.unlink()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert outputs[1][0].count("another process is at work on it, which is waited for\n") >= 2
    assert len(calls(few)) == 2 + 12 and len(list(few.glob("runs/*/*/result.json"))) == 12


def test_a_run_whose_folder_another_process_holds_is_not_taken(few):
    run = plans.expand(specs.read(few / "sweep.yaml"), sweep.parser_of)[0]
    with files.exclusive(run.folder):
        assert running.take(run) is None
    lock = running.take(run)
    assert lock and running.take(run) is None
    lock.release()
    running.take(run).release()


def test_a_run_that_is_killed_or_leaves_no_record_has_failed_and_it_is_said_why(few, monkeypatch, capsys):
    stub = (few / "train_base_model.py").read_text()
    words = [str(few / "sweep.yaml"), "--step", "base", "--seeds", "5"]
    for line, why in (
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, as where memory runs out"),
        ("sys.exit(0)", f"ended with status 0 and left no {few}/runs/base/learning_rate=0.1,seed=5/result.json"),
    ):
        (few / "train_base_model.py").write_text(stub.replace("record =", f"{line}\nrecord ="))
        for more in ([], ["-j", "2"]):
            assert sweep.main([*words, *more]) == 2
            output, error = capsys.readouterr()
            assert "finished" not in output and error.count("failed after") == 2
            assert sum(why in line for line in error.splitlines()) == (1 if "left no" in why else 2)


def test_runs_of_a_file_that_was_changed_are_refused_and_the_way_forward_is_told(few, monkeypatch, capsys):
    words = [str(few / "sweep.yaml"), "--step", "base", "-j", "2", "--seeds", "5"]
    assert sweep.main(words) == 0
    text, stub = (few / "sweep.yaml").read_text(), (few / "train_base_model.py").read_text()
    refuses = "if (folder / 'result.json').exists(): sys.exit(2)\n"  # as the scripts do
    (few / "train_base_model.py").write_text(stub.replace('(folder / "begun")', f'{refuses}(folder / "begun")'))
    (few / "sweep.yaml").write_text(text.replace("dataset: digits", "dataset: digits, batch_size: 8"))
    capsys.readouterr()
    assert sweep.main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("sweep.py: 2 of 2 runs failed and 0 others start from them: ")
    assert f"of them 2 hold what other flags, or another model, made: expected another folder in {few}/" in line
    assert "the same command" not in line
    run = plans.expand(specs.read(few / "sweep.yaml", [5]), sweep.parser_of)[0]
    history = Path(run.folder) / "history.json"
    (Path(run.folder) / "state.npz").write_text("")  # an unfinished one
    run.record.unlink()
    job = running.Job(run, subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"]), None, 0, 0.0)
    job.process.wait()
    for argv, refused in (([run.script, *run.words], False), ([run.script, "--seed=7"], True)):
        history.write_text(json.dumps({"run": {"argv": argv}}))
        assert running.is_refused(job) == refused


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_all_runs_which_save_and_the_sweep_goes_on(few, number):
    (few / "runs" / "base").mkdir(parents=True)
    wait = few / "runs" / "base" / "wait"
    wait.write_text("")
    process = started(few, "-j", "2")
    wait_for(lambda: len(list(few.glob("runs/base/*/begun"))) == 2, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    told, _, line = error.splitlines()[-1].partition("; go on with: ")
    assert told == f"sweep.py: stopped by {signal.Signals(number).name}; what its runs have saved stays"
    assert shlex.split(line)[:3] == ["cd", os.getcwd(), "&&"]
    assert shlex.split(line)[-4:] == ["sweep.py", str(few / "sweep.yaml"), "-j", "2"]
    assert len(list(few.glob("runs/base/*/state.npz"))) == 2 and not list(few.glob("runs/*/*/result.json"))
    wait.unlink()
    process = started(few, "-j", "2")
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    assert len(list(few.glob("runs/*/*/result.json"))) == 12 and not list(few.glob("runs/*/*/state.npz"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_sweep_is_made_killed_made_further_and_then_finished(tmp_path):
    """Two seeds of base, two criteria each; what is there at the end equals what a single command makes."""
    file = tmp_path / "sweep.yaml"
    file.write_text(
        textwrap.dedent(
            f"""
            folder: {tmp_path}/runs
            seeds: [1, 2]
            flags: {{dataset: digits, subset: 160, batch_size: 32, deterministic: true, epoch_num: 2}}
            steps:
              base: {{script: train_base_model.py, flags: {{architecture: resnet20}}}}
              prune:
                script: prune_model.py
                flags: {{base_model_path: "{{base}}/model.h5", prune_iter: 1, target_macs: 2x, criterion: [l1, l2]}}
            """
        )
    )
    command = [sys.executable, "sweep.py", str(file), "-j", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not list(tmp_path.glob("runs/base/*/state.npz")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].count("stopped by SIGINT") == 1 and process.returncode == 130
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = sorted(tmp_path.glob("runs/*/*/result.json"))
    assert [path.parent.name for path in results] == [
        "seed=1", "seed=2", "criterion=l1,seed=1", "criterion=l1,seed=2", "criterion=l2,seed=1", "criterion=l2,seed=2",
    ]  # fmt: skip
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout.count("finished before") == 6
    run = plans.expand(specs.read(file), sweep.parser_of)[0]
    alone = [word.replace("seed=1", "alone") if "save_folder" in word else word for word in run.words]
    subprocess.run([sys.executable, run.script, *alone], cwd=ROOT, capture_output=True, check=True)
    one, other = (json.loads((tmp_path / "runs" / "base" / n / "result.json").read_text()) for n in ("seed=1", "alone"))
    assert one["sha256"] == other["sha256"]
