"""keywords.py: the scripts from Python, with keywords; the README's examples as they stand."""

import dataclasses
import importlib
import inspect
import json
import pydoc
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
import resnets
import torture
from conftest import SCRIPTS

import evaluate_model
import export_model
import knowledge_distillation
import plot_train_history
import prune_model
import train_base_model
from compress.cli import configs, display, keywords
from compress.errors import Diverged, InputError, Stopped

ROOT = Path(__file__).parents[2]


def parsed(script, **given):
    return keywords.arguments(script.build_parser(), given)


@pytest.mark.parametrize(
    ("script", "given", "words"),
    [
        (prune_model, {}, ""),
        (
            prune_model,
            {"prune_iter": 3, "weight_decay": 1e-5, "gpu": False, "save_best_model": np.True_},
            "--prune_iter 3 --weight_decay 1e-05 --no-gpu --save_best_model",
        ),
        (
            prune_model,
            {"deterministic": True, "json": False, "prune_ratio": None, "subset": np.int64(80)},
            "--deterministic --subset 80",
        ),
        (prune_model, {"root_folder": Path("a b/-c"), "target_macs": "4x"}, "--root_folder 'a b/-c' --target_macs 4x"),
        (prune_model, {"target_macs": 20e6}, "--target_macs 20M"),
        (prune_model, {"dataset": "cifar100", "class_num": None}, "--dataset cifar100"),
        (prune_model, {"dataset": "./my_images", "class_num": 7}, "--dataset ./my_images --class_num 7"),
        (evaluate_model, {"model_path": ["a.h5", Path("b.h5")]}, "--model_path a.h5 b.h5"),
        (evaluate_model, {"model_path": "a.h5"}, "--model_path a.h5"),
        (plot_train_history, {"history_path": ("a", "b"), "show": False}, "--history_path a b --no-show"),
    ],
)
def test_keywords_are_the_command_line(script, given, words):
    found, wanted = vars(parsed(script, **given)), vars(script.build_parser().parse_args(shlex.split(words)))
    assert vars(script.build_parser().parse_args(found["argv"][1:])) == found
    assert {**found, "argv": 0} == {**wanted, "argv": 0}


@pytest.mark.parametrize(
    ("script", "given", "message"),
    [
        (prune_model, {"prune_iters": 3}, r"`prune_iters`: no such keyword; did you mean `prune_iter`\?"),
        (
            plot_train_history,
            {"zzz": 3},
            "`zzz`: no such keyword; expected one of history_path, json, output, show, verbose",
        ),
        (prune_model, {"help": True}, "`help`: no such keyword; .*"),
        (prune_model, {"xyz": True}, "`xyz`: no such keyword; expected one of allocation, apoz_images, .*"),
        (prune_model, {"prune_iter": 0}, "`prune_iter`: received 0, expected a whole number from 1 to 1000"),
        (prune_model, {"prune_iter": True}, "`prune_iter`: received True, expected a whole number from 1 to 1000"),
        (prune_model, {"prune_iter": [1, 2]}, r"`prune_iter`: received \[1, 2\], expected one value"),
        (prune_model, {"gpu": "no"}, "`gpu`: received 'no', expected True or False"),
        (prune_model, {"deterministic": 1}, "`deterministic`: received 1, expected True or False"),
        (prune_model, {"criterion": "best"}, "`criterion`: received 'best', expected one of apoz, .*"),
        (
            prune_model,
            {"prune_ratio": 0.5, "target_macs": "4x"},
            "`target_macs`: received it beside `prune_ratio`, expected one of them",
        ),
        (
            prune_model,
            {"epoch_num": float("inf")},
            "`epoch_num`: received inf, expected a whole number from 1 to 100000",
        ),
        (prune_model, {"epoch_num": 16**5000}, "`epoch_num`: received a value of type int that can't be printed, .*"),
        (prune_model, {"gpu": 16**5000}, "`gpu`: received a value of type int that can't be printed, expected True .*"),
        (prune_model, {"learning_rate": 10**400}, "`learning_rate`: received 10{400}, expected a number .*"),
        (prune_model, {"target_macs": 10**400}, "`target_macs`: received '10{400}', expected MACs left .*"),
        (prune_model, {"target_macs": "1e300G"}, "`target_macs`: received '1e300G', expected MACs left .*"),
        (prune_model, {"target_macs": True}, "`target_macs`: received 'True', expected MACs left .*"),
        (prune_model, {"target_macs": ["a", True]}, r"`target_macs`: received .*'a', True.*, expected MACs left .*"),
        (prune_model, {"target_latency": ("a", True)}, r"`target_latency`: received .*'a', True.*, expected milli.*"),
        (
            knowledge_distillation,
            {"root_folder": "a", "student_blocks": [3, float("inf")]},
            "`student_blocks`: .* inf, .*",
        ),
        (train_base_model, {"architecture": 5}, "`architecture`: received 5, expected a text"),
        (train_base_model, {"architecture": {}}, "`architecture`: received {}, expected a text"),
        (export_model, {"model_path": "a", "format": [5]}, "`format`: received 5, expected a text"),
        (evaluate_model, {"model_path": ["a", "--images=5"]}, "`model_path`: received --images=5, which is a flag; .*"),
        (evaluate_model, {}, "`model_path`: not given; expected one or more .*"),
        (evaluate_model, {"model_path": []}, r"`model_path`: received \[\], expected at least one value"),
    ],
)
def test_what_can_not_be_used_is_an_input_error(script, given, message, capfd):
    with pytest.raises(InputError) as error:
        script.run(**given)
    assert re.fullmatch(message, str(error.value))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_flag_with_its_default(script):
    module = importlib.import_module(script)
    found = {name: keyword for name, keyword in inspect.signature(module.run).parameters.items() if name != "args"}
    assert all(keyword.kind is keyword.KEYWORD_ONLY for keyword in found.values())
    needed = {name: "x.h5" for name, keyword in found.items() if keyword.default is keyword.empty}
    defaults = {name: keyword.default for name, keyword in found.items()} | needed
    bare, told = vars(parsed(module, **needed)), vars(parsed(module, **defaults))
    assert found.keys() == bare.keys() - {"argv"} and bare | {"argv": 0} == told | {"argv": 0}
    shown = pydoc.plain(pydoc.render_doc(module.run))
    assert all(re.search(rf"^ *{name}: \S", shown, re.MULTILINE) for name in found)
    assert "Returns:" in shown and "verbose=1" in shown and "(default: 1)" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InputError("--x: received 1"), "InputError: --x: received 1"),
        (Diverged("--x: nan"), "Diverged: --x: nan"),
        (Stopped(2, "epoch 3 is saved"), "Stopped: by SIGINT; epoch 3 is saved; the same call goes on from there"),
        (Stopped(15), "Stopped: by SIGTERM"),
        (PermissionError(13, "denied", "x.h5"), "PermissionError: [Errno 13] denied: 'x.h5'"),
        (MemoryError("193 GiB"), "MemoryError: the memory is too small (193 GiB); expected .*"),
        (KeyboardInterrupt(), "KeyboardInterrupt: stopped"),
    ],
)
def test_a_notebook_shows_one_line(error, shown):
    def run(args):
        raise error

    with pytest.raises(type(error)) as caught:
        keywords.callable_with(plot_train_history.build_parser)(run)(history_path="x")
    (line,) = caught.value._render_traceback_()  # as IPython calls it, after all
    assert re.fullmatch(re.sub(r"([\[\]()])", r"\\\1", shown), line)


def test_a_notebook_names_parameters_in_notes_and_warnings_as_in_errors(capsys):
    def run(args):
        display.say("`batch_size=8` makes 11")
        display.warn("`preprocessing` says it")

    call = keywords.callable_with(plot_train_history.build_parser)(run)
    call(history_path="x")
    assert capsys.readouterr() == ("`batch_size=8` makes 11\n", "warning: `preprocessing` says it\n")
    call(plot_train_history.build_parser().parse_args(["--history_path", "x"]))  # of a command line
    assert capsys.readouterr() == ("--batch_size 8 makes 11\n", "warning: --preprocessing says it\n")


def test_a_notebook_shows_a_defect_in_full():
    def run(args):
        raise KeyError("a defect")

    with pytest.raises(KeyError) as caught:
        keywords.callable_with(plot_train_history.build_parser)(run)(history_path="x")
    assert not hasattr(caught.value, "_render_traceback_")


def test_the_flags_of_a_record_are_keywords():
    words = ["--root_folder", "x", "--target_macs", "3.5x", "--no-gpu", "--lambda3", "0"]
    args = knowledge_distillation.build_parser().parse_args(words)
    student = configs.StudentConfig.of(args).with_targets()
    flags = {key: value for key, value in vars(args).items() if key != "argv"} | dataclasses.asdict(student)
    again = vars(parsed(knowledge_distillation, **json.loads(json.dumps(flags))))
    assert {key: value for key, value in again.items() if key != "argv"} == flags


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_takes_a_namespace_or_keywords_but_not_both(script):
    module = importlib.import_module(script)
    with pytest.raises(TypeError, match=f"^{script}.run takes a namespace or keywords, not both"):
        module.run(object(), seed=3)
    with pytest.raises(InputError, match="^`no_flag`: no such keyword"):
        module.run(no_flag=1)
    assert module.run.__doc__ and module.run.__name__ == "run"


@pytest.mark.slow
def test_the_readmes_examples_run(tmp_path, monkeypatch, capsys):
    for place in ("base_model", "demo/base_model"):
        (tmp_path / "model" / place).mkdir(parents=True)
        torture.write_base(tmp_path / "model" / place / "model.h5")
    np.save(tmp_path / "my_images.npy", np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8"))
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## In Python")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        names = {}
        exec(block, names)
    assert resnets.widths_of(keras.models.load_model("small.h5"))
    result, again = names["result"], names["again"]
    assert str(result["sparsity"]) in capsys.readouterr().out
    assert (len(result["final_acc"]), result["run"]["seed"], again["run"]["seed"]) == (1, 826, 3)
    flags, other = result["run"]["flags"], again["run"]["flags"]
    assert {key for key in flags if flags[key] != other[key]} == {"root_folder", "seed"}
    assert json.loads(Path("model/two/result.json").read_text()) == json.loads(json.dumps(again))
    assert result["run"]["argv"][:2] == ["prune_model.py", "--base_model_path=model/demo/base_model/model.h5"]


def test_a_value_without_the_name_of_its_flag_is_one_line():
    with pytest.raises(InputError, match="^run: received 5, expected flags as keywords"):
        prune_model.run(5)
