"""The scripts as a user runs them: the whole chain on a tiny set, the original's commands, bad input."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import resnets
import yaml
from conftest import narrow_widths, randomised
from PIL import Image

import evaluate_model
import export_model
import knowledge_distillation
import plot_train_history
import prune
import prune_model
import report
import sensitivity
import train_base_model
from compress.cli import configs
from compress.data import dataset
from compress.errors import Stopped
from compress.graph.network import Graph
from compress.pruning import masks
from compress.storage import checkpoints, files, opening, records

ROOT = Path(__file__).parents[2]
TINY = ["--dataset", "digits", "--subset", "80", "--val_split", "0.2", "--batch_size", "32", "--epoch_num", "1"]
MODULES = {
    "train_base_model.py": train_base_model,
    "prune_model.py": prune_model,
    "knowledge_distillation.py": knowledge_distillation,
    "evaluate_model.py": evaluate_model,
    "plot_train_history.py": plot_train_history,
}


def call(script, *words):
    """Exit status of a script's main, also where the parser ends it."""
    try:
        return script.main([str(word) for word in words])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder in which every script has run once, from a narrow network in first.h5 beside it."""
    folder = tmp_path_factory.mktemp("chain")
    checkpoints.save_model(
        randomised(resnets.build_resnet(widths=narrow_widths(48, 64, 16, blocks=(1, 1, 1, 1)))), folder / "first.h5"
    )
    (folder / "runs").mkdir()
    for script, words in chain_of(folder / "runs"):
        assert call(script, *words) == 0
    return folder / "runs"


def chain_of(folder, first=("--model_path", "first.h5"), student=("--stream_divisor", 2)):
    """The commands of the chain.

    Args:
        folder: of the runs; first.h5 lies beside it.
        first: words of what the base starts from.
        student: words of what the student looks like.
    """
    base, pruned = folder / "base", folder / "pruned"
    first = [folder.with_name(word) if word == "first.h5" else word for word in first]
    return [
        (train_base_model, [*TINY, *first, "--save_folder", base]),
        (
            prune_model,
            [
                *TINY,
                "--base_model_path",
                base / "model.h5",
                "--root_folder",
                pruned,
                "--prune_iter",
                2,
                "--target_compression",
                2,
                "--criterion",
                "l2",
            ],
        ),
        (
            knowledge_distillation,
            [*TINY, *student, "--root_folder", pruned / "iter2", "--save_folder", folder / "student"],
        ),
    ]


def test_names_of_classes_go_from_file_to_file(chain):
    names = list("0123456789")
    for place in ("base", "pruned/iter1", "pruned/iter2", "student"):
        with h5py.File(chain / place / "model.h5") as file:
            assert list(file["class_names"].asstr()) == names, place
        assert json.loads((chain / place / "history.json").read_text())["run"]["class_names"] == names
    for place in ("base", "pruned", "student"):
        result = json.loads((chain / place / "result.json").read_text())
        assert result["class_names"] == names and result.get("parent_class_names", names) == names


def test_a_finished_run_is_neither_repeated_nor_written_over(chain, monkeypatch, capsys):
    from compress.training import fit

    def again(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(fit, "fit", again)
    before = {path: path.read_bytes() for path in chain.rglob("*") if path.is_file()}
    for script, words in chain_of(chain):
        assert call(script, *words) == 0
        told = capsys.readouterr().out
        assert (
            "holds this run, finished before; nothing was done or written now: " in told
            and "written " not in (told.partition("now: ")[2])
            and "\nthere    " in told
        )
        assert call(script, *words, "--seed", 3) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "a finished run with --seed 826 (default); received --seed 3; exp" in error
        if script != prune_model:  # which trims first
            with pytest.raises(AssertionError, match="trained again"):
                call(script, *words, "--resume", "never")
    assert {path: path.read_bytes() for path in chain.rglob("*") if path.is_file()} == before


def test_every_promised_file_is_there(chain):
    found = {str(path.relative_to(chain)) for path in chain.rglob("*") if path.is_file()}
    run = ("model.h5", "history.json", "history.png")
    assert found == {
        f"{folder}/{name}" for folder in ("base", "pruned/iter1", "pruned/iter2", "student") for name in run
    } | {
        "base/result.json",
        "student/result.json",
        "pruned/result.json",
        "pruned/pruning.png",
        "pruned/channels.png",
        "pruned/iter1/mask.npz",
        "pruned/iter2/mask.npz",
    }


def test_models_open_in_plain_keras_and_shrink(chain):
    sizes = []
    for name in ("base", "pruned/iter1", "pruned/iter2", "student"):
        plain = keras.models.load_model(chain / name / "model.h5")
        assert plain(np.zeros((1, 32, 32, 3))).shape == (1, 10)
        sizes.append(plain.count_params())
    assert sizes[0] / sizes[2] >= 2
    assert sizes[0] / sizes[1] == pytest.approx(2**0.5, rel=0.01)  # an equal factor of the way
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
def test_the_chain_of_a_whole_resnet50_by_its_defaults(tmp_path):
    for script, words in chain_of(tmp_path, first=(), student=()):
        assert call(script, *words) == 0
    sizes = [
        keras.models.load_model(tmp_path / name / "model.h5").count_params()
        for name in ("base", "pruned/iter1", "pruned/iter2", "student")
    ]
    assert sizes[0] == keras.applications.ResNet50(weights=None, classes=10).count_params()
    assert sizes[0] / sizes[1] == pytest.approx(2**0.5, rel=0.01)
    assert sizes[0] / sizes[2] >= 2 and sizes[0] / sizes[3] >= 12.82


def test_pruning_result_holds_the_originals_lists_and_the_truth(chain):
    result = json.loads((chain / "pruned" / "result.json").read_text())
    base = opening.load_network(chain / "base" / "model.h5")
    assert result["finished"] is True and result["images"] == 16 and result["split"] == "validation"
    assert result["parent_sha256"] == files.sha256(chain / "base" / "model.h5")
    for i in (0, 1):
        path = chain / "pruned" / f"iter{i + 1}" / "model.h5"
        small = opening.load_network(path)
        assert result["parameters"][i] == small.count_params() and result["bytes"][i] == path.stat().st_size
        assert result["sparsity"][i] == pytest.approx(prune.compute_sparsity(small, base))
        assert result["compression_rate"][i] == pytest.approx(base.count_params() / small.count_params())
        assert result["sha256"][i] == files.sha256(path)
        history = json.loads(path.with_name("history.json").read_text())
        assert result["seconds"][i] == sum(history["seconds"])
        widths = {name: group.width for name, group in Graph(small).groups.items()}
        assert {name: left[i + 1] for name, left in result["channels"].items()} == widths
        assert sorted(widths.values()) == sorted(resnets.widths_of(small).values())
        with np.load(path.with_name("mask.npz"), allow_pickle=False) as mask:
            assert {name: int(keep.sum()) for name, keep in mask.items()} == {
                name: width for name, width in widths.items() if name in mask
            }
    for key in ("base_acc", "sparsity", "pruned_acc", "recalibrated_acc", "final_acc"):
        assert len(result[key]) == 2 and all(0 <= value <= 1 for value in result[key])
    assert result["base_acc"][1] == result["final_acc"][0]


@pytest.mark.slow
def test_a_model_alone_is_compared_with_its_network_unpruned(chain):
    path = chain / "student" / "model.h5"
    (row,) = evaluate_model.run(dataset="digits", model_path=[path], latency_runs=0, split="validation", val_split=0.2)[
        "models"
    ]
    student, whole = keras.models.load_model(path), keras.applications.ResNet50(weights=None, classes=10)
    assert row["compression_rate"] == pytest.approx(whole.count_params() / student.count_params())
    convolutions = [
        sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
        for model in (student, whole)
    ]
    assert row["sparsity"] == pytest.approx(1 - convolutions[0] / convolutions[1])
    assert row["sparsity"] > 0.8


def test_records_name_split_count_parent_and_seed(chain):
    student = json.loads((chain / "student" / "result.json").read_text())
    assert student["parent_sha256"] == files.sha256(chain / "pruned" / "iter2" / "model.h5")
    assert (student["split"], student["images"], student["run"]["seed"]) == ("validation", 16, 826)
    history = json.loads((chain / "base" / "history.json").read_text())
    assert [len(history[key]) for key in (*records.CURVES, "learning_rate", "seconds")] == [1] * 6
    assert history["run"]["argv"][0] and history["run"]["versions"]["keras"] == keras.__version__


def test_evaluation_agrees_with_plain_keras_and_writes_what_it_shows(chain, capsys):
    paths = [chain / "base" / "model.h5", chain / "student" / "model.h5"]
    assert call(evaluate_model, "--dataset", "digits", "--model_path", *paths, "--output", chain / "r.json") == 0
    shown = capsys.readouterr().out
    result = json.loads((chain / "r.json").read_text())
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    _, test = train_test_split(np.arange(1797), test_size=359, stratify=digits.target, random_state=826)
    pixels = np.rint(digits.images[np.sort(test)] * 255 / 16).astype(np.uint8)
    images = np.stack(
        [np.stack([Image.fromarray(p).resize((32, 32), Image.Resampling.BILINEAR)] * 3, -1) for p in pixels]
    )
    for path, row in zip(paths, result["models"], strict=True):
        logits = keras.models.load_model(path).predict(images, verbose=0)
        assert row["acc"] == pytest.approx((logits.argmax(1) == digits.target[np.sort(test)]).mean())
        assert row["bytes"] == path.stat().st_size and row["sha256"] == files.sha256(path)
        assert f"{100 * row['acc']:.2f}" in shown and f"{row['compression_rate']:.2f}x" in shown
    assert result["images"] == 359 and result["split"] == "test" and (chain / "r.png").stat().st_size > 10_000
    first = evaluate_model.run(dataset="digits", model_path=paths, images=100, latency_runs=0)
    assert first["images"] == 100 and first["models"][-1]["acc"] == pytest.approx(
        (logits.argmax(1) == digits.target[np.sort(test)])[:100].mean()
    )
    (chain / "r.json").unlink()
    (chain / "r.png").unlink()


def test_the_originals_fifth_command_with_its_misspelt_folder(chain, monkeypatch, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pruned_model").symlink_to(chain / "pruned")
    monkeypatch.chdir(tmp_path)
    assert call(plot_train_history, "--history_path=./model/prued_model/iter1/history.json", "--output", "x.png") == 0
    assert (tmp_path / "x.png").exists() and "pruned_model" in capsys.readouterr().err


ORIGINAL = """train_base_model.py --save_folder=./model/base_model --model_path=./model/pretrained_resnet50.h5
prune_model.py --prune_iter=15
knowledge_distillation.py --root_folder=./model/pruned_model/iter15 --lambda1=0.7, --lambda2=0.3, --lambda3=0.2, \
--regressor_name=conv1x1
evaluate_model.py --model_path=./model/base_model/model.h5
plot_train_history.py --history_path=./model/prued_model/iter1/history.json"""


@pytest.mark.parametrize("line", ORIGINAL.splitlines())
def test_the_originals_commands_parse_with_their_commas(line):
    script, *words = shlex.split(line)
    args = MODULES[script].build_parser().parse_args(words)
    if script == "knowledge_distillation.py":
        assert (args.lambda1, args.lambda2, args.lambda3, args.regressor_name) == (0.7, 0.3, 0.2, "conv1x1")
    if script == "prune_model.py":
        assert (args.prune_iter, args.base_model_path) == (15, "./model/base_model/model.h5")


def test_the_originals_flags_have_their_defaults_but_for_the_losses():
    both = {"batch_size": 128, "class_num": 10, "num_worker": 0, "gpu": True}
    long = both | {"epoch_num": 200}
    wanted = {
        "train_base_model.py": ([], long | {"save_folder": "./model/base_model"}),
        "prune_model.py": (
            [],
            long
            | {"root_folder": "./model/pruned_model", "prune_iter": 16, "save_best_model": True, "learning_rate": 0.01},
        ),
        "knowledge_distillation.py": (
            ["--root_folder", "x"],
            long
            | {"save_folder": "./model/kd_model", "discriminator_learning_rate": 0.0001, "regressor_name": "conv1x1"},
        ),
        "evaluate_model.py": (["--model_path", "x"], both),
    }
    for script, (words, defaults) in wanted.items():
        args = vars(MODULES[script].build_parser().parse_args(words))
        assert {key: args[key] for key in defaults} == defaults
        assert vars(MODULES[script].build_parser().parse_args([*words, "--no-gpu"]))["gpu"] is False
    assert prune_model.build_parser().parse_args(["--no-save_best_model"]).save_best_model is False


def test_class_num_follows_the_data_set():
    parse = train_base_model.build_parser().parse_args
    assert parse(["--dataset", "cifar100"]).class_num == 100
    assert parse(["--dataset", "./my_folder"]).class_num is None
    assert parse(["--dataset", "cifar100", "--class_num=7"]).class_num == 7


BAD_NUMBERS = [
    (train_base_model, "--epoch_num", "0"),
    (train_base_model, "--epoch_num", "-1"),
    (train_base_model, "--batch_size", "1.5"),
    (train_base_model, "--learning_rate", "nan"),
    (train_base_model, "--learning_rate", "-0.1"),
    (train_base_model, "--val_split", "1"),
    (train_base_model, "--class_num", "1"),
    (train_base_model, "--subset", "0"),
    (train_base_model, "--seed", "-1"),
    (train_base_model, "--depth", "18"),
    (prune_model, "--prune_iter", "-1"),
    (prune_model, "--prune_ratio", "1.5"),
    (prune_model, "--target_compression", "0.5"),
    (prune_model, "--target_macs", "many"),
    (prune_model, "--criterion", "best"),
    (knowledge_distillation, "--lambda1", "inf"),
    (knowledge_distillation, "--target_macs", "0.5x"),
    (knowledge_distillation, "--temperature", "0"),
    (knowledge_distillation, "--stream_divisor", "0"),
    (evaluate_model, "--batch_size", "10000000000"),
    (evaluate_model, "--split", "all"),
]


@pytest.mark.parametrize(("script", "flag", "value"), BAD_NUMBERS, ids=lambda part: str(part).split("'")[-1])
def test_absurd_values_get_one_line_with_flag_value_and_expectation(script, flag, value, capsys):
    assert call(script, f"{flag}={value}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and flag in error and value in error
    assert "expected" in error or "choose from" in error


@pytest.mark.parametrize(
    ("given", "rate", "macs", "tilt"),
    [
        ([], 12.82, (8.0, True), 0.7),
        (["--target_compression", "4"], 4, None, 1),
        (["--target_macs", "3M"], None, (3e6, False), 0.7),
        (["--stream_divisor", "32"], None, None, None),
        (["--target_compression", "4", "--target_macs", "3x", "--stage_tilt", "1"], 4, (3.0, True), 1),
    ],
)
def test_a_record_names_the_targets_that_no_flag_named(given, rate, macs, tilt):
    args = knowledge_distillation.build_parser().parse_args(["--root_folder", "x", *given])
    resolved = configs.StudentConfig.of(args).with_targets()
    assert (resolved.target_compression, resolved.target_macs, resolved.stage_tilt) == (rate, macs, tilt)
    assert resolved.with_targets() == resolved


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--stream_divisor", 32, "--target_macs", "8x"], "--target_macs: received it beside --stream_divisor 32,"),
        (["--teacher_annealing", "--hard_label_weight", 0], "--teacher_annealing: received it beside --hard_label"),
        (["--mirror_teacher"], "--mirror_teacher: received it for digits, whose mirror images are other signs;"),
        (["--mirror_teacher", "--lambda1", 0], "--mirror_teacher: received it beside --lambda1 0 and --lambda3 0,"),
        (["--lambda1", 0, "--hard_label_weight", 0, "--lambda2", 1], "--lambda1: received 0, as --lambda3 and"),
        (["--lambda3", 0.2, "--batch_size", 1], "--batch_size: received 1 beside --lambda3 or --ablation,"),
        (["--recalibrate_images", 1, "--stream_divisor", 2], "--recalibrate_images: received 1 image a batch,"),
        pytest.param(
            ["--target_compression", 1e6, "--target_macs", "2x"],
            "--target_compression: received 1000000.0,",
            marks=pytest.mark.slow,
        ),
        (["--stream_divisor", 32, "--stage_tilt", "0.7"], "--stage_tilt: received it beside --stream_divisor 32,"),
        (["--target_macs", "1k"], "--target_macs: received 1000,"),
        pytest.param(["--target_macs", "9000x"], "--target_macs: received 9000x,", marks=pytest.mark.slow),
        pytest.param(
            ["--target_compression", 1e6], "--target_compression: received 1000000.0,", marks=pytest.mark.slow
        ),
    ],
)
def test_a_student_that_cannot_be_is_told(flags, named, bad_files, tmp_path, capsys):
    assert (
        call(
            knowledge_distillation,
            "--root_folder",
            bad_files / "good.h5",
            "--save_folder",
            tmp_path / "new",
            "--dataset",
            "digits",
            *flags,
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error and "expected" in error


@pytest.mark.parametrize(("hflip", "told"), [(0, True), (0.1, False)])
def test_a_mirrored_teacher_of_unmirrored_images_is_a_warning(hflip, told, capsys):
    words = ["--root_folder", "x", "--mirror_teacher", "--hflip", str(hflip)]
    knowledge_distillation.check_flags(knowledge_distillation.build_parser().parse_args(words))
    error = capsys.readouterr().err
    assert error.count("\n") == told and ("--hflip 0 keeps from the student" in error) == told


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """A folder with files that are no models, a narrow one that is, and a history that isn't one."""
    folder = tmp_path_factory.mktemp("bad")
    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths())), folder / "good.h5")
    (folder / "empty.h5").write_bytes(b"")
    (folder / "half.h5").write_bytes((folder / "good.h5").read_bytes()[:100_000])
    h5py.File(folder / "foreign.h5", "w").close()
    (folder / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    (folder / "no.json").write_text("{}")
    (folder / "images" / "cat").mkdir(parents=True)
    (folder / "images" / "dog").mkdir()
    (folder / "file").write_text("")
    return folder


BAD_FILES = [
    (train_base_model, "--model_path", "missing.h5", []),
    (train_base_model, "--model_path", "empty.h5", []),
    (train_base_model, "--model_path", "half.h5", []),
    (train_base_model, "--model_path", "foreign.h5", []),
    (prune_model, "--base_model_path", "missing.h5", []),
    (prune_model, "--base_model_path", "half.h5", []),
    (train_base_model, "--model_path", "net.tflite", []),
    (prune_model, "--base_model_path", "net.tflite", []),
    (knowledge_distillation, "--root_folder", "net.tflite", []),
    (evaluate_model, "--model_path", "net.tflite", []),
    (prune_model, "--base_model_path", "good.h5", ["--class_num", "7"]),
    (prune_model, "--base_model_path", "good.h5", ["--dataset", "cifar100"]),
    (knowledge_distillation, "--root_folder", "images", []),
    (knowledge_distillation, "--root_folder", "empty.h5", []),
    (evaluate_model, "--model_path", "foreign.h5", []),
    (evaluate_model, "--model_path", "images", []),
    (plot_train_history, "--history_path", "no.json", []),
    (plot_train_history, "--history_path", "missing.json", []),
    (train_base_model, "--dataset", "images", []),
    (train_base_model, "--dataset", "missing", []),
    (train_base_model, "--save_folder", "file/deep", []),
    (prune_model, "--root_folder", "file/deep", []),
]


@pytest.mark.parametrize(
    ("script", "flag", "name", "more"),
    BAD_FILES,
    ids=[f"{s.__name__}-{n}{'-' * bool(m)}{''.join(m[1:])}" for s, _, n, m in BAD_FILES],
)
def test_bad_files_get_one_line_and_nothing_is_written(script, flag, name, more, bad_files, tmp_path, capsys):
    before = sorted(bad_files.rglob("*"))
    folder = {train_base_model: "--save_folder", prune_model: "--root_folder", knowledge_distillation: "--save_folder"}
    where = [] if folder.get(script) in (flag, None) else [folder[script], tmp_path / "new"]
    assert call(script, *where, *more, flag, bad_files / name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error
    assert error.startswith(f"{script.__name__}.py: {flag}: received ")
    assert sorted(bad_files.rglob("*")) == before and not list(tmp_path.iterdir())


def test_an_unreachable_budget_says_what_can_be_reached(bad_files, tmp_path, capsys):
    assert (
        call(
            prune_model,
            "--base_model_path",
            bad_files / "good.h5",
            "--dataset",
            "digits",
            "--root_folder",
            tmp_path / "new",
            "--target_macs",
            "1k",
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--target_macs" in error and "expected one from" in error
    assert not list(tmp_path.iterdir())


def test_a_process_prints_one_line_even_when_the_error_comes_after_keras(bad_files):
    done = subprocess.run(
        [
            sys.executable,
            "evaluate_model.py",
            "--dataset",
            "digits",
            "--model_path",
            bad_files / "good.h5",
            "--subset",
            "9",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--subset: received 9" in done.stderr


def test_unknown_flags_name_the_nearest(capsys):
    assert call(prune_model, "--prune_iters", "3") == 2
    assert capsys.readouterr().err == "prune_model.py: --prune_iters: no such flag; did you mean --prune_iter?\n"


# ---- numbers at their ends ----


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The file of a narrow network with lively weights."""
    path = tmp_path_factory.mktemp("narrow") / "narrow.h5"
    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths(12, 16, 8))), path)
    return path


def test_a_loss_that_is_no_number_ends_with_status_3_and_leaves_no_model(narrow, tmp_path, capsys):
    assert (
        call(
            train_base_model,
            *TINY,
            "--epoch_num",
            2,
            "--model_path",
            narrow,
            "--save_folder",
            tmp_path / "new",
            "--learning_rate",
            "1e8",
            "--warmup",
            0,
        )
        == 3
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(
        r"train_base_model.py: the loss became (nan|inf) in epoch 1, step \d of 2, at a "
        r"learning rate of \S+e\+0\d; no epochs were finished before it; expected a smaller learning "
        r"rate \(with --resume never\)",
        error,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("never", [["--resume", "never"], ["--resume=never"], []])
def test_the_command_to_go_on_with_does_not_start_over(never, tmp_path, monkeypatch, capsys):
    def stop(args):
        raise Stopped(15, "epoch 1 is saved")

    monkeypatch.setattr(train_base_model, "run", stop)
    folder = tmp_path / "two words"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert call(train_base_model, *never, "--save_folder", folder, "--seed", 3) == 143
    before, command = capsys.readouterr().err.split("; go on with: ")
    assert before == "train_base_model.py: stopped by SIGTERM; epoch 1 is saved"
    there, also, python, script, *words = shlex.split(command)[1:]  # it runs wherever it is pasted
    assert there == str(folder) and also == "&&" and Path(script).samefile(ROOT / "train_base_model.py")
    assert words == ["--save_folder", str(folder), "--seed", "3"]
    assert python == "python" or Path(python).samefile(sys.executable)


def test_a_run_that_was_stopped_before_it_saved_anything_says_so_and_still_starts_over(tmp_path, monkeypatch, capsys):
    def stop(args, write=False):
        if write:
            (tmp_path / "run" / "iter1").mkdir(parents=True)
            (tmp_path / "run" / "iter1" / "state.npz").write_bytes(b"")
        raise Stopped(2)

    words = ["--resume", "never", "--root_folder", tmp_path / "run"]
    monkeypatch.setattr(prune_model, "run", stop)
    assert call(prune_model, *words) == 130
    before, command = capsys.readouterr().err.split("; start it again with: ")
    assert before == f"prune_model.py: stopped by SIGINT; nothing new was saved in {tmp_path / 'run'}"
    assert command.endswith(f"prune_model.py --resume never --root_folder {tmp_path / 'run'}\n")
    monkeypatch.setattr(prune_model, "run", lambda args: stop(args, True))
    assert call(prune_model, *words) == 130  # what it saved would be lost with 'never'
    before, command = capsys.readouterr().err.split("; go on with: ")
    assert before.endswith("; what was saved stays") and "--resume" not in command


@pytest.mark.slow
def test_a_batch_of_one_is_refused_where_the_last_map_is_one_position(narrow, tmp_path, capsys):
    for script, words in (
        (train_base_model, ["--model_path", narrow, "--save_folder"]),
        (prune_model, ["--base_model_path", narrow, "--prune_iter", 1, "--root_folder"]),
        (knowledge_distillation, ["--stream_divisor", 2, "--root_folder", narrow, "--save_folder"]),
    ):
        assert call(script, *TINY, "--batch_size", 1, *words, tmp_path / "new") == 2
        *told, error = capsys.readouterr().err.splitlines()
        assert "--batch_size: received 1 image a batch, expected at least 2" in error
        assert all("the loss of guessing" in line for line in told)  # of a teacher that was never trained
        assert not list((tmp_path / "new").glob("*"))  # another batch size may follow in the same folder
    assert (
        call(
            prune_model,
            *TINY,
            "--recalibrate_images",
            1,
            "--base_model_path",
            narrow,
            "--root_folder",
            tmp_path / "new",
        )
        == 2
    )
    assert "--recalibrate_images: received 1 image a batch, expected at least 2" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.slow
def test_another_share_of_validation_images_than_the_parents_is_refused(chain, tmp_path, capsys):
    base = chain / "base" / "model.h5"
    for script, words in (
        (train_base_model, ["--save_folder", tmp_path / "new", "--model_path"]),
        (prune_model, ["--root_folder", tmp_path / "new", "--base_model_path"]),
        (knowledge_distillation, ["--save_folder", tmp_path / "new", "--root_folder"]),
        (sensitivity, ["--model_path"]),
        (export_model, ["--output", tmp_path / "new", "--model_path"]),
        (evaluate_model, ["--split", "validation", "--model_path"]),
    ):
        assert call(script, "--dataset", "digits", "--val_split", 0.25, *words, base) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"--val_split: received 0.25, expected 0.2, under which {base} was" in error
    assert not list((tmp_path / "new").glob("*"))
    (row,) = evaluate_model.run(dataset="digits", model_path=base, val_split=0.25, latency_runs=0)["models"]
    assert 0 <= row["acc"] <= 1  # test images are those of any share


@pytest.mark.slow
def test_a_folder_of_other_images_than_the_parents_is_refused_where_splits_are_drawn_from_it(
    narrow, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def paint(folder, count):
        for label in "ab":
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    tmp_path / folder / label / f"{i}.png"
                )

    paint("pictures", 12)
    words = ["--dataset", "pictures", "--val_split", 0.2, "--batch_size", 8, "--epoch_num", 1, "--model_path", narrow]
    assert call(train_base_model, *words, "--save_folder", "base") == 0
    paint("pictures", 13)
    common = ["--dataset", "./pictures/", "--val_split", 0.2]
    capsys.readouterr()
    for script, flags in (
        (prune_model, ["--root_folder", "new", "--base_model_path"]),
        (sensitivity, ["--model_path"]),
        (knowledge_distillation, ["--save_folder", "new", "--root_folder"]),
        (evaluate_model, ["--model_path"]),
        (evaluate_model, ["--split", "validation", "--model_path"]),
    ):
        assert call(script, *common, *flags, "base/model.h5") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "./pictures/" not in error and "holds other images than when base" in error
    assert (
        call(prune_model, *common, "--val_split", 0.1, "--root_folder", "new", "--base_model_path", "base/model.h5")
        == 2
    )
    assert "--val_split: received 0.1, expected 0.2" in capsys.readouterr().err  # in any spelling of the folder
    paint("pictures/test", 3)
    (tmp_path / "pictures" / "train").mkdir()
    for label in "ab":
        (tmp_path / "pictures" / label).rename(tmp_path / "pictures" / "train" / label)
    assert call(evaluate_model, *common, "--model_path", "base/model.h5") == 0  # test images of their own


@pytest.mark.slow
def test_a_teacher_of_infinite_logits_is_refused(tmp_path, capsys):
    net = randomised(resnets.build_resnet(widths=narrow_widths()))
    net.get_layer("predictions").kernel.assign(np.full((8, 10), 3e38, "float32"))
    checkpoints.save_model(net, tmp_path / "teacher.h5")
    assert (
        call(
            knowledge_distillation,
            *TINY,
            "--root_folder",
            tmp_path / "teacher.h5",
            "--save_folder",
            tmp_path / "new",
            "--stream_divisor",
            2,
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--root_folder" in error and "finite logits" in error


@pytest.mark.slow
def test_every_layer_keeps_its_floor_whatever_the_ratio(narrow, tmp_path):
    assert (
        call(
            prune_model,
            *TINY,
            "--base_model_path",
            narrow,
            "--prune_iter",
            1,
            "--prune_ratio",
            0.99,
            "--root_folder",
            tmp_path,
        )
        == 0
    )
    widths = resnets.widths_of(keras.models.load_model(tmp_path / "iter1" / "model.h5"))
    assert {n for name, n in widths.items() if name.endswith(("_1_conv", "_2_conv"))} == {masks.FLOOR}


def paint_classes(folder, classes, images, size, mode):
    """A folder of noise, one subfolder a class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"{label:04}").mkdir(parents=True)
        for i in range(images):
            noise = rng.integers(0, 256, (*size, 3)).astype("uint8")
            Image.fromarray(noise).convert(mode).save(folder / f"{label:04}" / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("classes", "words", "flag"), [(1, [], "--dataset"), (3, ["--subset", "2", "--val_split", "0.4"], "--subset")]
)
def test_splits_that_lack_a_class_are_refused_before_any_training(classes, words, flag, tmp_path, capsys):
    folder = paint_classes(tmp_path / "images", classes, 6, (32, 32), "RGB")
    assert call(train_base_model, "--dataset", folder, "--save_folder", tmp_path / "new", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"train_base_model.py: {flag}: received")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "images", "size", "mode"),
    [(2, 6, (33, 47), "L"), (1000, 3, (16, 16), "RGB")],
    ids=["grey, odd sides, two classes", "a thousand classes"],
)
def test_ends_of_sizes_and_classes_go_through_all_scripts(classes, images, size, mode, tmp_path):
    folder = paint_classes(tmp_path / "images", classes, images, size, mode)
    words = ["--dataset", folder, "--epoch_num", 1, "--val_split", 0.5, "--batch_size", 4 if classes == 2 else 128]
    base, pruned = tmp_path / "base", tmp_path / "pruned"
    assert call(train_base_model, *words, "--save_folder", base) == 0
    assert (
        call(prune_model, *words, "--base_model_path", base / "model.h5", "--root_folder", pruned, "--prune_iter", 1)
        == 0
    )
    assert (
        call(knowledge_distillation, *words, "--root_folder", pruned / "iter1", "--save_folder", tmp_path / "kd") == 0
    )
    assert call(evaluate_model, *words[:2], *words[4:], "--model_path", tmp_path / "kd" / "model.h5") == 0
    student = keras.models.load_model(tmp_path / "kd" / "model.h5")
    assert student.input_shape == (None, *size, 3) and student.output_shape == (None, classes)


def test_a_model_is_not_overwritten_by_what_starts_from_it(narrow, tmp_path, capsys):
    for script, words, folder in (
        (train_base_model, ["--model_path", "{}", "--save_folder"], ""),
        (prune_model, ["--base_model_path", "{}", "--root_folder"], "iter2"),
        (knowledge_distillation, ["--root_folder", "{}", "--save_folder"], ""),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        model = tmp_path / folder / "model.h5"
        model.write_bytes(narrow.read_bytes())
        assert call(script, *TINY, *[word.format(model) for word in words], tmp_path) == 2
        told = capsys.readouterr().err
        assert f": {words[-1]}: received" in told and "which the run starts from and would overwrite" in told
        assert model.read_bytes() == narrow.read_bytes()


def test_pruning_beside_the_base_would_overwrite_its_record_and_is_refused(narrow, tmp_path, capsys):
    model = Path(shutil.copy(narrow, tmp_path / "model.h5"))
    for name in ("history.json", "result.json"):
        (tmp_path / name).write_text('{"val_acc": 0.5}')
    assert call(prune_model, *TINY, "--base_model_path", model, "--root_folder", tmp_path) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        f"prune_model.py: --root_folder: received {tmp_path}, the folder of the base, whose result.json"
    )
    assert told.endswith(f"such as {tmp_path / 'pruned'}\n") and told.count("\n") == 1


def ablated(own, hard, folder, monkeypatch, trained):
    """The rows of an ablation whose students are not trained; `trained` gets the weights that each would have had."""

    def distil(args, config, *rest):
        trained.append((config.lambda1, config.lambda2, config.lambda3, config.hard_label_weight))
        return {"val_acc": [0.25, 0.5], "checkpoint": {"sha256": f"{len(trained)}"}}

    monkeypatch.setattr(knowledge_distillation, "distil", distil)
    monkeypatch.setattr(knowledge_distillation, "make_student", lambda *args: None)
    args = knowledge_distillation.build_parser().parse_args(
        [
            "--root_folder",
            "x",
            "--save_folder",
            str(folder),
            "--hard_label_weight",
            hard,
            "--verbose",
            "0",
            *[f"--lambda{i}={weight}" for i, weight in enumerate(own, 1)],
        ]
    )
    plan = knowledge_distillation.Plan(Path("x"), None, configs.StudentConfig(), {})
    images = dataset.Data("x", [], range(9), [], (), "")
    full = {"val_acc": 0.625, "sha256": "own", "teacher_acc": 0.75, "parent_sha256": "teacher"}
    return knowledge_distillation.ablation(args, plan, knowledge_distillation.Teacher(None, None), images, full)


@pytest.mark.parametrize(
    ("own", "weights"),
    [
        ((0.7, 0, 0), [(0, 0, 0, 1), (0.7, 0.3, 0, 0.4), (0.7, 0, 0.2, 0.4), (0.7, 0.3, 0.2, 0.4)]),
        ((0, 0.9, 0), [(0, 0, 0, 1), (0.5, 0, 0, 0.4), (0.5, 0.9, 0, 0.4), (0.5, 0, 0.2, 0.4), (0.5, 0.9, 0.2, 0.4)]),
    ],
)
def test_an_ablation_tries_losses_of_weight_0_and_never_the_student_itself_again(own, weights, tmp_path, monkeypatch):
    trained = []

    rows = ablated(own, "0.4", tmp_path, monkeypatch, trained)
    assert trained == weights
    names = list(knowledge_distillation.ABLATION)
    assert [row["name"] for row in rows] == ["teacher", *names, *(["the student"] if own[1] else [])]
    assert [row["val_acc"] for row in rows if row["sha256"] == "own"] == [0.625]


@pytest.mark.parametrize(("hard", "row"), [("1", "trained directly"), ("0.4", "the student")])
def test_trained_directly_is_by_whole_labels_in_any_ablation(hard, row, tmp_path, monkeypatch):
    trained = []
    rows = ablated((0, 0, 0), hard, tmp_path, monkeypatch, trained)
    assert [found["name"] for found in rows if found["sha256"] == "own"] == [row]
    assert [weights[3] for weights in trained] == ([1.0] if hard == "0.4" else []) + [float(hard)] * 4


def test_the_defaults_of_a_student_are_those_that_the_tables_were_made_with():
    sweep = (Path(__file__).parents[2] / "experiments" / "sweeps" / "yardstick.yaml").read_text()
    told = yaml.safe_load(sweep)["steps"]["alike"]["flags"] | {"lambda2": 0, "lambda3": 0}
    parse, epochs = knowledge_distillation.build_parser().parse_args, f"--epoch_num={told['epoch_num']}"
    given = vars(parse([f"--{name}={value}" for name, value in told.items()]))
    default = vars(parse(["--root_folder", told["root_folder"], epochs]))
    assert {**given, "argv": None} == {**default, "argv": None} and default["optimizer"] == "muon"


@pytest.mark.slow
@pytest.mark.parametrize(("regressor", "stem"), [("constant", "imagenet"), ("constant", "half"), ("conv1x1", "half")])
def test_ablation_trains_the_same_student_with_each_combination(regressor, stem, tmp_path):
    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths(20, 40, 10))), tmp_path / "teacher.h5")
    assert (
        call(
            knowledge_distillation,
            *TINY,
            "--root_folder",
            tmp_path / "teacher.h5",
            "--save_folder",
            tmp_path / "kd",
            "--stream_divisor",
            "4",
            "--regressor_name",
            regressor,
            "--student_stem",
            stem,
            "--student_learning_rate",
            0.001,
            "--ablation",
        )
        == 0
    )
    content = json.loads((tmp_path / "kd" / "ablation.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["teacher", *knowledge_distillation.ABLATION]
    shapes = [resnets.architecture_of(keras.models.load_model(path)) for path in (tmp_path / "kd").rglob("model.h5")]
    assert len(shapes) == 5 and all(shape == shapes[0] for shape in shapes) and shapes[0]["stem"] == stem
    assert (tmp_path / "kd" / "ablation.png").exists()
    again = knowledge_distillation.run(**json.loads((tmp_path / "kd" / "result.json").read_text())["run"]["flags"])
    assert again["ablation"] == content["rows"]  # finished: nothing trains


@pytest.mark.slow
def test_a_student_of_fewer_blocks_is_taught_pruned_taught_again_evaluated_and_exported(tmp_path, capsys):
    teacher = tmp_path / "teacher.h5"  # with all blocks of a ResNet50
    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths(12, 16, 8, blocks=None))), teacher)
    assert (
        call(
            knowledge_distillation,
            *TINY,
            "--root_folder",
            teacher,
            "--save_folder",
            tmp_path / "kd",
            "--crop_padding",
            2,
            "--stream_divisor",
            2,
            "--student_blocks",
            1,
            3,
            2,
            1,
            "--lambda2",
            0.1,
            "--student_init",
            "random",
        )
        == 0
    )
    student = tmp_path / "kd" / "model.h5"
    assert resnets.blocks_of(resnets.widths_of(keras.models.load_model(student))) == (1, 3, 2, 1)
    record = json.loads((tmp_path / "kd" / "result.json").read_text())
    assert record["run"]["flags"]["student_blocks"] == [1, 3, 2, 1] and record["run"]["flags"]["crop_padding"] == 2
    assert (
        call(prune_model, *TINY, "--base_model_path", student, "--root_folder", tmp_path / "p", "--prune_iter", 1) == 0
    )
    assert (
        call(
            knowledge_distillation,
            *TINY,
            "--root_folder",
            tmp_path / "p" / "iter1",
            "--save_folder",
            tmp_path / "2",
            "--stream_divisor",
            2,
        )
        == 0
    )
    capsys.readouterr()
    assert (
        call(
            knowledge_distillation,
            *TINY,
            "--root_folder",
            student,
            "--save_folder",
            tmp_path / "3",
            "--student_blocks",
            3,
            4,
            6,
            3,
        )
        == 2
    )
    assert "--student_blocks: received 3 4 6 3, expected at most the teacher's 1 3 2 1\n" in capsys.readouterr().err
    assert call(evaluate_model, *TINY[:2], "--model_path", tmp_path / "2" / "model.h5", "--json", "--verbose", 0) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    for script, words in (
        (sensitivity, [*TINY[:-2], "--model_path", student, "--shares", 0.5, "--output", tmp_path / "s.json"]),
        (export_model, [*TINY[:-2], "--model_path", student, "--format", "savedmodel", "--latency_runs", 2]),
        (train_base_model, [*TINY, "--model_path", student, "--save_folder", tmp_path / "base"]),
        (report, ["--root_folder", tmp_path, "--output", tmp_path / "page.html"]),
    ):
        assert call(script, *words) == 0
    capsys.readouterr()
    assert call(train_base_model, *TINY, "--model_path", student, "--save_folder", tmp_path / "b", "--depth", 50) == 2
    assert re.search(
        r"--depth: received 50 beside --model_path .*model.h5; expected it left out: the file says what .* is\n$",
        capsys.readouterr().err,
    )
    whole = resnets.build_resnet()
    assert row["compression_rate"] == pytest.approx(whole.count_params() / row["parameters"])
    assert row["macs"] == resnets.cost_of(resnets.widths_of(keras.models.load_model(tmp_path / "2" / "model.h5")))[1]


@pytest.mark.slow
def test_a_softmax_model_of_plain_keras_and_a_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in (("blue", 2), ("red", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            picture = rng.integers(0, 60, (50, 60, 3)).astype("uint8")
            picture[..., colour] += 180
            Image.fromarray(picture).save(tmp_path / "images" / name / f"{i}.png")
    keras.applications.ResNet50(weights=None, classes=2, input_shape=(40, 48, 3)).save(tmp_path / "plain.h5")
    words = ["--dataset", tmp_path / "images", "--batch_size", 16, "--epoch_num", 1]
    assert (
        call(
            prune_model,
            *words,
            "--base_model_path",
            tmp_path / "plain.h5",
            "--root_folder",
            tmp_path / "p",
            "--prune_iter",
            1,
            "--prune_ratio",
            0.5,
            "--round_to",
            8,
        )
        == 0
    )
    pruned = keras.models.load_model(tmp_path / "p" / "iter1" / "model.h5")
    assert pruned.input_shape == (None, 40, 48, 3) and pruned.output_shape == (None, 2)
    assert pruned.get_layer("conv4_block3_2_conv").filters == 128
    assert (
        call(knowledge_distillation, *words, "--root_folder", tmp_path / "plain.h5", "--save_folder", tmp_path / "kd")
        == 0
    )
    assert call(evaluate_model, *words[:4], "--model_path", tmp_path / "kd" / "model.h5") == 0


@pytest.mark.slow
def test_pruning_goes_on_in_the_iteration_where_it_stopped(tmp_path, monkeypatch):
    from compress.training import fit

    checkpoints.save_model(randomised(resnets.build_resnet(widths=narrow_widths(20, 16, 8))), tmp_path / "base.h5")
    words = [*TINY, "--base_model_path", tmp_path / "base.h5", "--prune_iter", 2, "--deterministic"]
    assert call(prune_model, *words, "--root_folder", tmp_path / "whole") == 0
    original, calls = fit.fit, []

    def killed_in_the_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", killed_in_the_second)
        assert call(prune_model, *words, "--root_folder", tmp_path / "parts") == 130
    assert call(prune_model, *words, "--root_folder", tmp_path / "parts", "--criterion", "l1") == 2
    (tmp_path / "parts").rename(tmp_path / "moved")
    monkeypatch.setattr(fit, "fit", lambda *args, **kwargs: calls.append(2) or original(*args, **kwargs))
    assert call(prune_model, *words, "--root_folder", tmp_path / "moved", "--tensorboard", tmp_path / "logs") == 0
    assert [path.parent for path in tmp_path.rglob("*tfevents*")] == [tmp_path / "logs" / "moved" / "iter2"]
    assert calls == [1, 1, 2]  # the first iteration was not trained again
    assert call(prune_model, *words[:-3], "--prune_iter", 1, "--deterministic", "--root_folder", tmp_path / "one") == 0
    assert call(prune_model, *words, "--root_folder", tmp_path / "one") == 0  # finished, and goes on
    assert calls == [1, 1, 2, 2, 2]
    one = json.loads((tmp_path / "one" / "result.json").read_text())
    assert one["finished"] is True and one["run"]["flags"]["prune_iter"] == 2
    whole, parts = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "moved"))
    assert one["final_acc"] == whole["final_acc"] and one["channels"] == whole["channels"]
    for key in ("base_acc", "pruned_acc", "recalibrated_acc", "final_acc", "sparsity", "parameters", "channels"):
        assert whole[key] == parts[key]
    for ours, theirs in zip(
        *(keras.models.load_model(tmp_path / name / "iter2" / "model.h5").get_weights() for name in ("whole", "moved")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
