"""What a newcomer meets first: messages that fit the terminal, --help and a run without packages, slips in flags."""

import importlib
import itertools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SCRIPTS
from hypothesis import given
from hypothesis import strategies as st

import prune_model
from compress import errors
from compress.cli import display, flags, messages, values

ROOT = Path(__file__).parents[2]
LINE = (
    "train_base_model.py: --save_folder: received ./model/a_long_name/of_a_folder/base_model, which holds a run of "
    "other flags; go on with: python train_base_model.py --dataset './my images; all' --save_folder "
    "./model/a_long_name/of_a_folder/base_model; or choose another"
)


# ---- width ----


@given(st.lists(st.text("abc/-漢", min_size=1, max_size=60), min_size=1), st.integers(20, 120))
def test_lines_break_at_blanks_alone_and_fit(words, width):
    text = " ".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "columns", lambda stream: width)
        lines = messages.wrapped(text, None).split("\n")
    assert " ".join(lines) == text
    for line in lines:
        assert " " not in line or messages._length(line) <= width
    for line, after in itertools.pairwise(lines):  # none ends earlier than it must
        assert messages._length(f"{line} {after.split(' ')[0]}") > width


@pytest.mark.parametrize("width", [80, 120])
def test_a_command_to_copy_has_a_line_of_its_own(width, monkeypatch):
    monkeypatch.setattr(messages, "columns", lambda stream: width)
    lines = messages.wrapped(LINE, None).split("\n")
    command = LINE[LINE.index("python train") : LINE.rindex("; or")]
    assert command in lines and lines[-1] == "or choose another"
    assert all(len(line) <= width for line in lines if line != command)


def test_a_terminal_gets_lines_and_a_pipe_one():
    code = f"from compress.cli import messages; messages.print_error({LINE!r})"
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == LINE + "\n"
    outer, inner = pty.openpty()
    os.set_blocking(outer, False)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env | {"COLUMNS": "70"}, stderr=inner, check=True)
    os.close(inner)
    lines = os.read(outer, 4096).decode().split()
    os.close(outer)
    assert lines == LINE.replace("python", "\npython").replace("; or", " or").split()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_80_columns_and_its_examples_can_be_copied(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = importlib.import_module(script).build_parser()
    text = parser.format_help()
    assert max(map(len, text.splitlines())) <= 80
    examples = text[text.index("example:\n") :].replace("\\\n", "")
    commands = [re.sub(" +", " ", line).strip() for line in examples.splitlines() if line.startswith("  python")]
    assert [line.partition("  #")[0] for line in commands] == [
        line.partition("  #")[0].strip() for line in parser.epilog.splitlines()[1:]
    ]


# ---- an installation that isn't there ----

RUNS = {
    "knowledge_distillation": ["--root_folder", "model/kd_model"],
    "report": ["--root_folder", "model"],
    "evaluate_model": ["--model_path", "model/kd_model/model.h5"],
    "sweep": ["experiments/sweeps/digits.yaml"],
    "plot_train_history": ["--history_path", "model/kd_model/history.json"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_packages_help_works_and_a_run_says_how_to_install_them(script):
    code = (
        f"import sys, {script}\ntry: {script}.main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        f"sys.argv[0] = '{script}.py'\nsys.exit({script}.main({RUNS.get(script, [])!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 2 and done.stdout.startswith("usage: ")
    assert re.fullmatch(
        rf"{script}\.py: the package \w+ is not installed for \S+; expected those of requirements.txt: "
        rf"make install; then: .venv/bin/python {script}\.py\n",
        done.stderr,
    )


def test_a_missing_module_of_the_suite_is_a_defect():
    assert errors.of_the_system(ModuleNotFoundError("No module named 'compress.x'", name="compress.x")) is None
    assert "pillow" in errors.of_the_system(ModuleNotFoundError("No module named 'PIL'", name="PIL"))


# ---- slips in flags ----


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (
            "train_base_model",
            ["--dataset", "mnist"],
            "--dataset: received 'mnist', which is no data set and no folder; "
            "expected cifar10, cifar100, digits, or the path of a folder with a subfolder of images for each class",
        ),
        ("train_base_model", ["--dataset", "CIFAR-10"], "did you mean cifar10?"),
        ("train_base_model", ["--epoch_num", "1_0"], "--epoch_num: received '1_0', expected a whole number"),
        (
            "train_base_model",
            ["--seed", "9" * 20],
            f"--seed: received '{'9' * 20}', expected a whole number from 0 to 4294967295\n",
        ),
        ("train_base_model", ["--subset", "9" * 20], "expected a whole number of at least 1 and at most 1e+09\n"),
        ("train_base_model", ["--warmup", "0.1_5"], "--warmup: received '0.1_5', expected a number"),
        ("export_model", ["--format", "tflite"], "did you mean litert?"),
        ("export_model", ["--format", "TF-Lite"], "did you mean litert?"),
        ("export_model", ["--format", "onnxruntime"], "did you mean onnx?"),
        ("export_model", ["--format", "tensorrt"], "did you mean onnx?"),
        ("export_model", ["--format", "tf"], "did you mean savedmodel?"),
        ("export_model", ["--format", "coreml"], "expected one or several of savedmodel, onnx, litert, litert-int8\n"),
    ],
)
def test_a_slip_is_named_with_what_was_meant(script, words, says, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).build_parser().parse_args(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and says in error and error.count("\n") == 1


def test_a_path_that_is_gone_is_left_to_the_script(tmp_path):
    assert values.data_set("./gone") == "./gone" and values.data_set("digits") == "digits"


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        ("runs/base/model.h5", "model_path"),
        ("runs/kd/model.h5", "model_path"),  # each of several values
        ("./runs//kd/model.h5", "model_path"),
        (os.path.abspath("runs/kd/model.h5"), "model_path"),  # however it is spelled
        ("runs/pruned/iter3/mask.npz", "root_folder"),
        ("runs/base/history.json", "save_folder"),  # nearest folder above
        ("elsewhere/model.h5", None),
        ("runs/base.json", None),
        (None, None),
    ],
)
def test_an_error_about_a_path_names_the_flag_that_gave_it(path, flag):
    parser = flags.Parser("x.py")
    parser.add_argument("--save_folder")
    parser.add_argument("--root_folder", type=Path)
    parser.add_argument("--epoch_num", type=int, default=3)
    parser.add_argument("--model_path", nargs="+")
    args = parser.parse_args(
        [
            "--save_folder=runs/base",
            "--root_folder=runs/pruned",
            "--model_path",
            "runs/base/model.h5",
            "runs/kd/model.h5",
        ]
    )
    told = flags.named(errors.InputError("received it", path), args)
    assert told == (f"`{flag}`: received it" if flag else "received it")
    args.save_folder, args.model_path = "runs", ["runs"]  # the same for two
    for kind, name in ((errors.InputError, "model_path"), (errors.OutputError, "save_folder")):
        assert flags.named(kind("received it", "runs/x"), args).startswith(f"`{name}`")


def test_parameters_of_a_message_are_flags_on_a_command_line():
    text = '`epoch_num`, `resume="never"`, `preprocessing=caffe`, `verify_model=False`, `gpu=True`, `x`'
    names = ["epoch_num", "resume", "preprocessing", "verify_model", "gpu"]
    assert messages.spelled(text, names) == (
        "--epoch_num, --resume never, --preprocessing caffe, --no-verify_model, --gpu, `x`"
    )
    words = errors.command("train_base_model.py", model_path="a b.h5", json=True).split("train_base_model.py ")[1]
    assert words == "--model_path 'a b.h5' --json"


ODD = ["a b", "it's", "", "\x1b[31m\n7", "\\n\n\\'\"$x`", "\x9b\x85\u2028", "\udcff\xff", "\r", "漢\t1"]


def test_a_quoted_word_is_one_printable_line_that_a_shell_reads_as_it_was():
    words = [errors.quoted(word) for word in ODD]
    assert all(errors.one_line(word) == word and word.isprintable() for word in words)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(words)}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == list(map(os.fsencode, ODD))
    assert errors.command("x.py", "a\nb").endswith(r" $'a\012b'")


@pytest.mark.parametrize("say", [display.say, display.warn, lambda path: display.written([path], head="")])
def test_no_terminal_obeys_the_name_of_a_file(say, tmp_path, capsys):
    path = tmp_path / "\x1b[31m\n\x07\x9b"
    path.touch()
    say(str(path))
    told = "".join(capsys.readouterr()).strip("\n")
    assert told.isprintable() and r"\x1b[31m" in told and r"\x07\x9b" in told


def test_without_a_base_pruning_says_how_to_train_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "model/demo/base_model").mkdir(parents=True)
    (tmp_path / "model/demo/base_model/model.h5").touch()
    monkeypatch.chdir(tmp_path)
    assert prune_model.main(["--prune_iter", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prune_model.py: --base_model_path: there is no ./model/base_model/model.h5, the default; ")
    assert re.search(r"train one first: \S*python\S* \S*train_base_model.py --epoch_num 12\n$", error)
