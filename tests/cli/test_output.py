"""What arrives at a terminal, in a pipe, in a program that reads JSON, and in silence; and what --help offers."""

import importlib
import io
import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rich.console
import torture
from conftest import SCRIPTS

from compress.cli import app, display, flags, tables
from compress.data import dataset as data
from compress.data.augmentation import Augmentation
from compress.storage import files

ROOT = Path(__file__).parents[2]
# a pipe has no width where nobody says one; a library in pytest's own process may have
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
TINY = ["--dataset", "digits", "--subset", "80", "--val_split", "0.2", "--batch_size", "32"]


# ---- help ----


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_lies_in_a_group_with_a_name(script):
    parser = importlib.import_module(script).build_parser()
    own = {action.dest for action in parser._optionals._group_actions}
    assert own == {"help"} and not parser._positionals._group_actions
    titles = [group.title for group in parser._action_groups[2:]]
    assert len(titles) == len(set(titles)) and all(titles)
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_examples_and_more_parse_as_they_stand(script):
    parser = importlib.import_module(script).build_parser()
    lines = [line.partition(" | ")[0] for line in parser.epilog.splitlines()[1:]]
    assert parser.epilog.startswith("example:\n") and len(lines) >= 2
    for line in lines:
        python, name, *words = shlex.split(line, comments=True)
        assert (python, name) == ("python", f"{script}.py")
        parser.parse_args(words)


# ---- terminals ----

SHOW = """
import time
from compress.cli import display, tables
with display.waiting("starting"):
    time.sleep(0.3)
bar = display.EpochBar("base", 100, 2)
bar.start(0)
for epoch in (0, 1):
    time.sleep(0.5)
    bar.step(epoch, 50, {"loss": 1.5})
    bar.epoch_end(epoch, dict(train_loss=1.5, train_acc=0.25, val_loss=1.25, val_acc=0.5, seconds=2.0))
bar.stop()
for start in display.track("reading")(range(0, 4, 2)):
    time.sleep(0.2)
columns = [("model", tables.text), ("accuracy", tables.percent), *[("long heading", tables.ratio)] * 6]
display.print_table("Models", columns, [["base", 0.9777, *[1.0] * 6]])
"""


def test_what_takes_long_says_now_and_then_how_far_it_is_where_no_bar_is_drawn(capsys, monkeypatch):
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr(display.time, "monotonic", lambda: next(now))  # 20 s pass between two looks
    assert [*display.track("reading images")(range(0, 4000, 1000))] == [0, 1000, 2000, 3000]
    assert capsys.readouterr().out == "reading images: 2,000 of 4,000 images\n"
    assert [*display.track("reading images", 0)(range(4))] == [0, 1, 2, 3]
    assert capsys.readouterr().out == ""
    assert [*display.track("timing", of="networks")(range(3))] == [0, 1, 2]
    assert capsys.readouterr().out == "timing: 2 of 3 networks\n"


def test_the_speed_beside_a_bar_is_one_of_what_is_counted(monkeypatch):
    console = rich.console.Console(file=io.StringIO(), width=200, force_terminal=True)
    monkeypatch.setattr(display, "_console", lambda: console)
    monkeypatch.setattr(display, "_has_bars", lambda: True)
    for number in display.track("drawing", of="figures")(range(3)):
        time.sleep(0.15 if number else 0)
    assert "figures/s" in console.file.getvalue() and "images" not in console.file.getvalue()


BROKEN = """
import sys
from compress.cli import display
try:
    for start in display.track("reading")(range(0, 4, 2)):
        raise KeyError("x" * 300)
except KeyError as error:  # which holds the loop, and with it the bar
    display.end_bars()
    print(error, file=sys.stderr)
"""


def on_a_terminal(columns=132, code=SHOW, **environment):
    """What a program writes to a terminal."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    given = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, stdin=slave, cwd=ROOT, env=given | environment
    )
    os.close(slave)
    output, end = b"", time.monotonic() + 60
    while select.select([master], [], [], end - time.monotonic())[0]:
        try:
            output += os.read(master, 4096)
        except OSError:  # Linux: the other side is closed
            break
    os.close(master)
    assert process.wait() == 0, output
    return output.decode()


def test_an_error_behind_a_bar_is_printed_as_it_is():
    assert "x" * 300 in on_a_terminal(80, BROKEN)


LINE = (
    "base: epoch 2/2  train loss 1.5000, accuracy 25.00 %  validation loss 1.2500, accuracy 50.00 %  2.0 s, 50 images/s"
)
COLOUR = re.compile(r"\x1b\[[\d;]*3[0-8][\d;]*m")


def rows(output):
    """The table's heading and row, as columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in output.splitlines() if re.match("(model|base) ", line)]


def test_a_terminal_gets_bars_in_colour():
    output = on_a_terminal(TERM="xterm-256color")
    assert COLOUR.search(output) and "\x1b[2K" in output and "100%" in output and LINE not in output


@pytest.mark.parametrize("columns", [40, 80, 100, 120])
def test_bars_fit_and_tell_the_last_validation_accuracy(columns):
    output = on_a_terminal(columns, TERM="xterm-256color")
    drawn = [re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line) for line in re.split("[\r\n]", output)]
    assert max(map(len, drawn)) <= columns
    bars = [line for line in drawn if line.startswith("base ")]
    assert any("compiling" in line for line in bars)
    told = [line for line in bars if "val acc 50.00 %" in line]
    assert not told if columns == 40 else told and all("loss 1.5000" in line for line in told if "100%" not in line)
    assert all(("best 50.00 %" in line) == (columns >= 100) for line in told if "loss" in line)
    assert not any("…" in line for line in bars if columns >= 80)


def test_no_color_leaves_the_bars_and_takes_the_colours():
    output = on_a_terminal(TERM="xterm-256color", NO_COLOR="1")
    assert not COLOUR.search(output) and "\x1b[2K" in output and "100%" in output


def test_a_dumb_terminal_gets_lines_and_nothing_that_it_cannot_draw():
    output = on_a_terminal(TERM="dumb")
    assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f]", output)  # line ends apart, no control characters
    assert LINE in output and "%" in output
    assert rows(output) == [["model", "accuracy (%)", *["long heading"] * 6], ["base", "97.77", *["1.00x"] * 6]]


def test_a_terminal_that_can_not_show_all_characters_gets_those_that_it_can():
    output = on_a_terminal(TERM="xterm-256color", PYTHONIOENCODING="cp1252")
    assert output.isascii() and "100%" in output and rows(re.sub(r"\x1b\[[\d;]*m", "", output))[1][1] == "97.77"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_names_of_other_alphabets_are_escaped_where_they_can_not_be_written(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    display.print_table(
        "Models of 学", [("model", tables.text), ("parameters", tables.count)], [["学", 23_608_202], ["base", 604_712]]
    )
    display.say("written 学")
    stream.flush()
    printed = stream.buffer.getvalue().decode(encoding)
    assert "Models of \\u5b66" in printed and printed.endswith("written \\u5b66\n")
    assert "\\u5b66         23.61\nbase            0.6047\n" in printed


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_bars_where_it_can_draw_them(widgets, monkeypatch, capsys):
    """With what rich finds in a kernel made up; bars themselves were looked at in one."""
    monkeypatch.setitem(sys.modules, "IPython", object())
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(display.importlib.util, "find_spec", lambda name: {"ipywidgets": widgets or None}[name])
    bar = display.EpochBar("base", 100, 2)
    assert (bar.lines, bar.bar.disable, bar.bar.console.is_jupyter) == (not widgets, not widgets, True)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: False)  # IPython in a pipe
    bar = display.EpochBar("base", 100, 2)
    assert (bar.lines, bar.bar.disable) == (True, True)


@pytest.mark.parametrize("bars", [True, False])
def test_a_run_that_goes_on_says_so_with_a_bar_and_without(bars, monkeypatch, capsys):
    monkeypatch.setattr(display, "_has_bars", lambda: bars)
    for verbose, said in ((0, False), (1, True), (2, True)):
        bar = display.EpochBar("base", 1, 5, verbose)
        bar.start(1.4, [0.5])
        bar.stop()
        assert ("base: 5 epochs of 1 image, going on in epoch 2" in capsys.readouterr().out) == said


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_pipe_gets_lines_and_whole_tables(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        capture_output=True,
        check=True,
        env=ENVIRONMENT | {"TERM": "xterm-256color", "PYTHONIOENCODING": encoding},
    )
    output = done.stdout.decode(encoding)
    assert done.stderr == b"" and "\x1b" not in output and "\r" not in output and LINE in output
    assert rows(output) == [["model", "accuracy (%)", *["long heading"] * 6], ["base", "97.77", *["1.00x"] * 6]]


# ---- silence and JSON ----


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a narrow network."""
    path = tmp_path_factory.mktemp("base") / "base.h5"
    torture.write_base(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("output")


def command(script, folder, base):
    """Words that run a script on the narrow network, and the record that it writes, if it writes one."""
    train = [*TINY, "--epoch_num", "1"]
    return {
        "train_base_model": ([*train, "--model_path", base, "--save_folder", folder / "base"], "base/result.json"),
        "prune_model": (
            [*train, "--base_model_path", base, "--root_folder", folder / "pruned", "--prune_iter", 1],
            "pruned/result.json",
        ),
        "knowledge_distillation": (
            [
                *train,
                "--root_folder",
                base,
                "--stream_divisor",
                2,
                "--student_blocks",
                1,
                1,
                1,
                1,
                "--save_folder",
                folder / "kd",
            ],
            "kd/result.json",
        ),
        "evaluate_model": (
            [
                *TINY,
                "--model_path",
                base,
                base,
                "--split",
                "validation",
                "--latency_runs",
                2,
                "--output",
                folder / "r.json",
            ],
            "r.json",
        ),
        "export_model": (
            [
                *TINY,
                "--model_path",
                base,
                "--format",
                "savedmodel",
                "litert",
                "--latency_runs",
                2,
                "--output",
                folder / "exported",
            ],
            "exported/export.json",
        ),
        "sensitivity": (
            [*TINY, "--model_path", base, "--shares", 0.5, "--output", folder / "sensitivity.json"],
            "sensitivity.json",
        ),
        "sweep": ([sweep_file(folder, base)], ""),
        "report": (["--root_folder", folder, "--batch_size", 32, "--output", folder / "page.html"], ""),
        "plot_train_history": (["--history_path", folder / "base" / "history.json", "--output", folder / "h.png"], ""),
    }[script]


def sweep_file(folder, base):
    """The file of a sweep of one run."""
    flags = {"dataset": "digits", "subset": 80, "val_split": 0.2, "batch_size": 32, "latency_runs": 0}
    step = {"script": "evaluate_model.py", "flags": flags | {"model_path": [str(base)], "split": "validation"}}
    (folder / "sweep.yaml").write_text(json.dumps({"folder": str(folder / "sweep"), "steps": {"look": step}}))
    return folder / "sweep.yaml"


WRITTEN = {
    "train_base_model": "base/model.h5 base/result.json base/history.json base/history.png",
    "prune_model": "pruned/iter1/model.h5 pruned/iter1/mask.npz pruned/iter1/history.json pruned/iter1/history.png "
    "pruned/result.json pruned/pruning.png pruned/channels.png",
    "knowledge_distillation": "kd/model.h5 kd/result.json kd/history.json kd/history.png",
    "evaluate_model": "r.json r.png",
    "export_model": "exported/savedmodel exported/model.tflite exported/labels.txt exported/export.json",
    "sensitivity": "sensitivity.json sensitivity.png",
    "plot_train_history": "h.png",
    "sweep": "sweep/sweep.json",
    "report": "page.html page",
}
ORDER = [
    "train_base_model",
    "prune_model",
    "knowledge_distillation",
    "evaluate_model",
    "export_model",
    "sensitivity",
    "plot_train_history",
    "sweep",
    "report",
]


OFTEN = ("train_base_model", "plot_train_history")


@pytest.mark.parametrize(
    "script",
    [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in ORDER],
)
def test_verbose_0_is_silent_and_json_is_the_result_alone(script, folder, base, capfd):
    main = importlib.import_module(script).main
    words, record = command(script, folder, base)
    if script in ("plot_train_history", "report") and not (folder / "base" / "history.json").exists():  # run on its own
        importlib.import_module("train_base_model").main([str(w) for w in command("train_base_model", folder, base)[0]])
        capfd.readouterr()
    assert main([str(word) for word in [*words, "--verbose", 0]]) == 0
    output, error = capfd.readouterr()
    # of networks that were hardly trained one thing is said all the same
    assert output == "" and all("the loss of guessing" in line for line in error.splitlines())
    assert main([str(word) for word in [*words, "--json"]]) == 0
    output, error = capfd.readouterr()
    printed = json.loads(output)
    if record:
        assert printed == json.loads((folder / record).read_text())
    elif script == "sweep":
        assert [run["state"] for run in printed["runs"]] == ["there"]
    elif script == "report":
        assert printed["output"] == str(folder / "page.html") and printed["runs"] >= 1 and not printed["skipped"]
    else:
        assert printed["output"] == str(folder / "h.png")
        assert [history["epochs"] for history in printed["histories"].values()] == [1]
    told = re.split("\nwritten  |\nthere    ", error)[1].split("\n")[:-1]  # behind the tables, or of a finished run
    assert [str(Path(line.strip()).relative_to(folder)) for line in told] == WRITTEN[script].split()
    assert all(Path(line.strip()).exists() for line in told)


def test_every_script_has_been_tried():
    assert sorted(ORDER) == SCRIPTS


@pytest.mark.slow
def test_a_whole_process_that_is_silent_but_for_json(base, tmp_path):
    """With all that native libraries say while they start."""
    words = [*TINY, "--model_path", base, "--split", "validation", "--latency_runs", "0", "--verbose", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "evaluate_model.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["models"][0]["sha256"] == files.sha256(base) and result["images"] == 16


def test_brackets_in_a_table_are_text(capsys):
    display.print_table(
        "runs/[old]", [("[model]", tables.text), ("seeds", tables.text)], [["kd[muon]", "[/1]"], ["kd[sgd]", "[bold]2"]]
    )
    output = capsys.readouterr().out
    assert all(text in output for text in ("runs/[old]", "[model]", "kd[muon]", "[/1]", "kd[sgd]", "[bold]2"))


@pytest.mark.parametrize("kind", [MemoryError, type("ResourceExhaustedError", (Exception,), {})])
def test_memory_that_runs_out_is_one_line(kind, capsys):
    def run(args):
        raise kind("Unable to allocate 193. GiB\nfor an array")

    assert app.run_main(flags.Parser("script.py"), run, []) == 2
    assert capsys.readouterr().err == (
        "script.py: the memory is too small (Unable to allocate 193. GiB for an array); "
        "expected a smaller --batch_size, or fewer or smaller images (--subset, "
        "--image_size)\n"
    )


def test_a_disk_that_tensorflow_finds_full_is_one_line(capsys):
    def run(args):
        raise type("ResourceExhaustedError", (Exception,), {})("saved/x.pb; No space left on device")

    assert app.run_main(flags.Parser("script.py"), run, []) == 2
    assert capsys.readouterr().err == (
        "script.py: the disk is full (saved/x.pb; No space left on device); expected room for what is written\n"
    )


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/base/model.h5", "a/kd/model.h5"], ["base", "kd"]),
        (["model/kd/model.h5"], ["kd"]),
        (["net.h5", "net.keras"], ["net.h5", "net.keras"]),
        (["a/model.h5", "a/model.keras"], ["model.h5", "model.keras"]),
        (["x/1.h5", "x/1.h5"], ["1", "1"]),
        (["/tmp/x/nb_base/model.h5", "model/kd_model/model.h5"], ["/tmp/x/nb_base", "model/kd_model"]),
    ],
)
def test_rows_have_names_that_tell_files_apart(paths, names):
    assert importlib.import_module("evaluate_model").short_names(paths) == names


@pytest.mark.parametrize(
    ("speed", "shown"), [(0.474, "0.47"), (0.0312, "0.031"), (9.94, "9.9"), (9.96, "10"), (1240.4, "1,240")]
)
def test_a_speed_is_never_nothing(speed, shown):
    assert display.per_second(speed) == f"{shown} images/s"


PIPED = """
import sys
sys.path.insert(0, {root!r})
from compress.cli import app, display, flags, tables
from compress.data import dataset
def run(args):
    {what}
    return {{}}
parser = flags.Parser("script.py")
flags.add_output_flags(parser)
sys.exit(app.run_main(parser, run, {words}))
"""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("print('short')", []),
        ("display.say('flushed')", []),
        ("pass", ["--json"]),
        ("pass", ["--help"]),
        ("display.print_table('t', [('a', tables.text)], [['x']] * 9999)", []),
    ],
    ids=["at the end", "at once", "json", "help", "table"],
)
def test_a_closed_pipe_is_status_141_without_a_word(what, words):
    reader, writer = os.pipe()
    os.close(reader)
    code = PIPED.format(root=str(ROOT), what=what, words=words)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", [[], ["--help"]])
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_as_quiet_as_the_null_device(closed, words, tmp_path):
    what = (
        f"import os; os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY)\n    "
        "with app.quiet_stderr(): display.say('said')\n    display.warn('slow')\n    "
        "os.system('echo native; echo native >&2')"
    )
    code = PIPED.format(root=str(ROOT), what=what, words=words)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    said, warned = ("usage: script.py", "") if words else ("said\nnative\n", "warning: slow\nnative\n")
    assert done.returncode == 0 and done.stdout.startswith(said * ("1>" not in closed))
    assert done.stderr == warned * ("2>" not in closed)
    assert words or (tmp_path / "file").read_text() == ""  # its number isn't that of a stream


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--verbose", "1"], ["--json"], ["--help"]], ids=" ".join)
def test_a_full_standard_output_is_named(words):
    code = PIPED.format(root=str(ROOT), what="display.say('x', args.verbose - args.json)", words=words)
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert re.fullmatch(r"script.py: standard output.* can't be written \(No space left on device\); .*\n", done.stderr)
    assert done.returncode == 2


INTERRUPTED = """
import runpy, signal, sys
class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.path.insert(0, {root!r})
sys.argv = [{script!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("name", "script", "says"),
    [
        ("compress.cli.app", "report.py", "report.py: stopped by SIGINT\n"),
        ("compress.storage.files", "report.py", "report.py: stopped by SIGINT\n"),
        ("compress.cli.values", "theirs.py", "Traceback"),
    ],
)
def test_ctrl_c_while_a_script_is_still_importing_is_one_line(name, script, says, tmp_path):
    (tmp_path / "theirs.py").write_text("import compress.cli.values")
    path = str(ROOT / script if (ROOT / script).exists() else tmp_path / script)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(root=str(ROOT), script=path, name=name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith(says) and (done.stderr.count("\n") == 1) == (script == "report.py")
    assert done.returncode == -2  # what a shell calls 130


def test_a_defect_is_no_users_error():
    def run(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app.run_main(flags.Parser("script.py"), run, [])


def test_an_error_leaves_standard_output_empty(tmp_path, capfd):
    main = importlib.import_module("evaluate_model").main
    assert main(["--model_path", str(tmp_path / "none.h5"), "--json", "--verbose", "0"]) == 2
    output, error = capfd.readouterr()
    assert output == "" and error.count("\n") == 1 and error.startswith("evaluate_model.py: --model_path: received ")


@pytest.mark.parametrize(
    ("count", "batch", "says"),
    [
        (130, 128, "an epoch is 1 step of 128 images; --batch_size 16 makes 8"),
        (130, 1000, "an epoch is 1 step of 130 images; --batch_size 16 makes 8"),
        (1000, 250, "an epoch is 4 steps of 250 images; --batch_size 64 makes 15"),
        (7, 3, "an epoch is 2 steps of 3 images; --batch_size 2 makes 3"),
        (7, 2, "an epoch is 3 steps of 2 images"),
        (1, 9, "an epoch is 1 step of 1 image"),
        (640, 128, None),
    ],
)
def test_an_epoch_of_few_steps_is_told(count, batch, says, capsys):
    train = data.Split(np.zeros((count, 8, 8, 3), "uint8"), np.zeros(count, int), "train")
    display.show_images(data.Data("x", train, None, None, ("a", "b"), "x: images"), batch)
    told = ["x: images", "augmentation of the training images: none"]
    assert capsys.readouterr().out.splitlines() == [*told, *([says] if says else [])]


@pytest.mark.parametrize(
    ("pad", "hflip", "says"),
    [
        (4, 0.5, "shifts of up to 4 pixels, mirrored left to right with probability 0.5 (--hflip 0 turns that off)"),
        (0, 0.25, "mirrored left to right with probability 0.25 (--hflip 0 turns that off)"),
        (1, 0, "shifts of up to 1 pixel"),
    ],
)
def test_the_augmentation_of_a_training_is_told(pad, hflip, says, capsys):
    train = data.Split(np.zeros((640, 8, 8, 3), "uint8"), np.zeros(640, int), "train", Augmentation(pad, hflip))
    display.show_images(data.Data("x", train, None, None, ("a", "b"), "x: images"), 8)
    assert capsys.readouterr() == (f"x: images\naugmentation of the training images: {says}\n", "")


@pytest.mark.parametrize(
    ("names", "hflip", "pair"),
    [
        (("down", "left", "right", "up"), 0.5, "left and right"),
        (("Turn Right", "park", "turn left"), 0.1, "turn left and Turn Right"),
        (("left", "right"), 0, None),
        (("leftover", "right"), 0.5, None),
        (("bright", "left"), 0.5, None),
    ],
)
def test_classes_called_left_and_right_are_a_warning(names, hflip, pair, capsys):
    train = data.Split(np.zeros((640, 8, 8, 3), "uint8"), np.zeros(640, int), "train", Augmentation(1, hflip))
    display.show_images(data.Data("x", train, None, None, names, "x: images"), 8)
    error = capsys.readouterr().err
    assert (f"two classes are called {pair}: " in error and "--hflip 0 turns it off" in error) if pair else not error
