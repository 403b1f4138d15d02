"""records.py: whole files or none, histories of three kinds, runs that may go on."""

import json
import os
import shlex

import numpy as np
import pytest

import train_base_model
from compress.cli import messages
from compress.cli.configs import RunConfig
from compress.data import dataset
from compress.errors import InputError
from compress.storage import files, records, resuming


def test_replacing_leaves_the_old_file_when_the_body_fails(tmp_path):
    path = tmp_path / "deep" / "x.json"
    with pytest.raises(InputError, match="No such file or directory"):
        records.write_json(path, {})
    path.parent.mkdir()
    records.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        records.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["x.json"]


def test_replaced_files_have_the_usual_mode(tmp_path):
    (tmp_path / "plain").write_text("")
    records.write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "content",
    [
        {"train_loss": [2, 1], "train_acc": [0.1, 0.2], "val_loss": [3, 2], "val_acc": [0.3, 0.4]},
        {"loss": [2, 1], "accuracy": [0.1, 0.2], "val_loss": [3, 2], "val_accuracy": [0.3, 0.4]},
        {"history": {"loss": [2, 1], "acc": [0.1, 0.2], "val_loss": [3, 2], "val_acc": [0.3, 0.4]}, "params": {}},
    ],
)
def test_histories_of_three_kinds_read_alike(tmp_path, content):
    (tmp_path / "h.json").write_text(json.dumps(content))
    assert records.read_history(tmp_path / "h.json") == {
        "train_loss": [2, 1],
        "train_acc": [0.1, 0.2],
        "val_loss": [3, 2],
        "val_acc": [0.3, 0.4],
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"val_acc": [1' + "0" * 400 + "]}",
        "",
        "[]",
        "3",
        "{",
        "{}",
        '{"train_loss": []}',
        '{"train_loss": [1], "val_loss": [1, 2]}',
        '{"train_loss": "abc"}',
        '{"train_loss": [true]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_history_is_refused(tmp_path, text):
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(InputError, match=r"^received .*expected"):
        records.read_history(tmp_path / "h.json")


def test_a_gigabyte_is_not_read(tmp_path):
    with open(tmp_path / "h.json", "wb") as file:
        file.truncate(2**30)  # takes no room on the disk
    with pytest.raises(InputError, match=r"^received .*h\.json of 1073741824 bytes, expected at most"):
        records.read_history(tmp_path / "h.json")


def test_missing_file_suggests_the_nearest(tmp_path):
    (tmp_path / "pruned_model" / "iter1").mkdir(parents=True)
    records.write_json(tmp_path / "pruned_model" / "iter1" / "history.json", {})
    with pytest.raises(InputError, match=r"did you mean .*pruned_model/iter1/history.json"):
        records.read_json(tmp_path / "prund_model" / "iter1" / "history.json")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("historie.json", "history.json"),
        ("x.json", None),
        ("p.json", None),
        ("files.json", None),
        ("old/p.json", None),
        ("files", None),
    ],
)
def test_a_suggestion_lies_in_the_folder_that_was_typed(typed, meant, tmp_path):
    for place in ("files/p.json", "history.json"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        records.write_json(tmp_path / place, {})
    with pytest.raises(InputError) as error:
        records.read_json(tmp_path / typed)
    assert str(error.value).partition("did you mean ")[2] == (f"{tmp_path / meant}?" if meant else "")


def test_a_pruning_that_is_to_be_longer_names_the_command_that_trains_its_model_further(tmp_path):
    for number in (1, 2, 10):
        (tmp_path / "run" / f"iter{number}").mkdir(parents=True)
        (tmp_path / "run" / f"iter{number}" / "model.h5").write_bytes(b"")
    then, now = (
        records.run_record(
            {"epoch_num": n, "prune_iter": 10, "dataset": "digits", "argv": ["p.py", f"--epoch_num={n}"]}
        )
        for n in (3, 5)
    )
    with pytest.raises(InputError, match="all iterations of a run have as many epochs") as error:
        resuming.check_same_run(then, now, tmp_path / "run", "a finished")
    words = shlex.split(messages.COMMAND.search(str(error.value))[1])
    args = train_base_model.build_parser().parse_args(words[2:])
    assert words[1].endswith("train_base_model.py") and (args.epoch_num, args.dataset) == (5, "digits")
    assert (args.model_path, args.save_folder) == (str(tmp_path / "run/iter10/model.h5"), f"{tmp_path}/run_trained")


def test_a_run_from_before_the_scale_of_16_bit_colour_goes_on_where_that_is_as_it_was():
    then, now = records.run_record({"seed": 1}), records.run_record({"seed": 1})
    then["pixels"], now["pixels"] = {}, {"colour": 65535}
    resuming.check_same_run(then, now, "folder")
    now["pixels"] = {"colour": 4095}
    with pytest.raises(InputError, match="on images shown with {}, now {'colour': 4095}"):
        resuming.check_same_run(then, now, "folder")


def test_unwritable_places_are_found_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "deep", "/proc/none/deep"):
        with pytest.raises(InputError, match="received .*expected a folder that can be written to"):
            files.check_writable(place)
    files.check_writable(tmp_path / "new" / "deeper")
    assert os.listdir(tmp_path) == ["file"]


def test_only_flags_that_bear_on_the_result_stop_a_resume():
    then = records.run_record({"epoch_num": 3, "verbose": 1, "target_macs": (4.0, True), "seed": 1})
    now = records.run_record({"epoch_num": 3, "verbose": 2, "target_macs": (4.0, True), "seed": 1})
    resuming.check_same_run(json.loads(json.dumps(then)), now, "folder")
    now["flags"]["epoch_num"] = 4
    with pytest.raises(InputError, match="`epoch_num=3`; received `epoch_num=4`"):
        resuming.check_same_run(then, now, "folder")


def test_an_unfinished_run_of_another_backend_is_refused_and_a_finished_one_is_not():
    then, now = records.run_record({"seed": 1}), records.run_record({"seed": 1})
    then["backend"], now["backend"] = "tensorflow", "jax"
    with pytest.raises(
        InputError, match="run under KERAS_BACKEND=tensorflow; received KERAS_BACKEND=jax, whose numbers"
    ):
        resuming.check_same_run(then, now, "folder")
    resuming.check_same_run(then, now, "folder", "a finished")
    del then["backend"]  # records of old versions don't name it
    resuming.check_same_run(then, now, "folder")


def test_a_run_from_before_the_tilt_is_another_one_where_macs_were_a_target():
    then = records.run_record({"target_macs": (8.0, True)})
    with pytest.raises(InputError, match="with no `stage_tilt`; received `stage_tilt=0.7`"):
        now = records.run_record({"target_macs": (8.0, True), "stage_tilt": 0.7})
        resuming.check_same_run(then, now, "x")
    free = records.run_record({"target_macs": None})
    resuming.check_same_run(free, records.run_record({"target_macs": None, "stage_tilt": 1.0}), "x")


def test_pruning_runs_from_before_the_flag_spread_their_targets_by_threshold():
    then = records.run_record({"target_macs": (2.0, True)})
    now = {
        name: records.run_record({"target_macs": (2.0, True), "allocation": name})
        for name in ("threshold", "sensitivity")
    }
    resuming.check_same_run(then, now["threshold"], "x")
    with pytest.raises(InputError, match='`allocation="threshold"`; received `allocation="sensitivity"`'):
        resuming.check_same_run(then, now["sensitivity"], "x")


@pytest.mark.parametrize(("dataset", "usual"), [("./pictures", 0.5), ("cifar10", 0.5), ("digits", 0.0)])
def test_runs_from_before_the_flag_mirrored_as_its_default_does(dataset, usual):
    then = records.run_record({"dataset": dataset})
    for now in (usual, 0, 0.5):
        run = records.run_record({"dataset": dataset, "hflip": now, "argv": ["train.py", f"--hflip={now}"]})
        if now == usual:
            resuming.check_same_run(then, run, "x")
            continue
        with pytest.raises(InputError, match=f"run with `hflip={usual}`; received `hflip={now}`"):
            resuming.check_same_run(then, run, "x")
        run["argv"] = ["train.py"]  # a later version with another default
        with pytest.raises(InputError, match=f"run with `hflip={usual}`"):
            resuming.check_same_run(then, run, "x")


def test_a_flag_newer_than_a_run_differs_only_where_it_is_given():
    then = records.run_record({"epoch_num": 3})
    now = records.run_record({"epoch_num": 3, "optimizer": "sgd", "argv": ["train.py", "--epoch_num=3"]})
    resuming.check_same_run(then, now, "folder")
    now["flags"]["optimizer"], now["argv"] = "muon", ["train.py", "--optimizer=muon"]
    with pytest.raises(InputError, match='with no `optimizer`; received `optimizer="muon"`'):
        resuming.check_same_run(then, now, "folder")


def finished_record(folder, dataset, source, **flags):
    """A folder with the result of a finished run; returns its record."""
    run = {"flags": {"dataset": dataset, "epoch_num": 3, "seed": 1} | flags, "source": source, "parent_sha256": None}
    records.write_json(folder / "result.json", {"val_acc": 0.5, "run": run})
    return run


def test_a_run_goes_on_where_its_images_lie_elsewhere(tmp_path):
    (tmp_path / "there").mkdir()
    run = finished_record(tmp_path, "/gone/images", ["/gone/images", "a" * 64])
    now = {"flags": run["flags"] | {"dataset": str(tmp_path / "there")}, "parent_sha256": None}
    assert resuming.finished_result(tmp_path, now, "auto") is None  # nobody has looked at the images yet
    same = now | {"source": [str(tmp_path / "there"), "a" * 64]}
    assert resuming.finished_result(tmp_path, same, "auto")["val_acc"] == 0.5
    for other in ({"source": [str(tmp_path / "there"), "b" * 64]}, {"source": None}):
        with pytest.raises(InputError, match="other images|`dataset=./gone/images"):
            resuming.finished_result(tmp_path, now | other, "auto")
    with pytest.raises(InputError, match="`dataset=./gone/images.`; received `dataset=.cifar10.`"):
        resuming.finished_result(tmp_path, now | {"flags": run["flags"] | {"dataset": "cifar10"}}, "auto")


def test_a_share_for_validation_is_checked_wherever_the_images_lie(tmp_path):
    (tmp_path / "history.json").write_text(
        json.dumps({"run": {"source": ["/gone", "a" * 64], "flags": {"dataset": "/gone", "val_split": 0.1}}})
    )
    (tmp_path / "model.h5").write_bytes(b"x")
    split = dataset.Split(np.zeros((2, 8, 8, 3), "uint8"), [0, 1], "validation", source=["/here", "a" * 64])
    records.check_source(tmp_path / "model.h5", split, 0.1)
    with pytest.raises(InputError, match=r"^`val_split`: received 0\.2, expected 0\.1"):
        records.check_source(tmp_path / "model.h5", split, 0.2)


def test_a_finished_run_says_what_can_be_done_with_more_or_fewer_epochs(tmp_path, capsys):
    run = finished_record(tmp_path, "digits", None)
    now = {"flags": run["flags"] | {"epoch_num": 5}, "parent_sha256": None, "source": None}
    assert resuming.finished_result(tmp_path, now, "auto") is None
    with pytest.raises(InputError, match="`epoch_num=3`; received `epoch_num=5`; expected what that run had to go on"):
        resuming.finished_result(tmp_path, now, "auto", None)
    with pytest.raises(InputError, match="^`epoch_num`: received 2, but .* finished run of 3 epochs; expected 3"):
        resuming.finished_result(tmp_path, now | {"flags": now["flags"] | {"epoch_num": 2}}, "auto")
    assert (
        resuming.finished(tmp_path, run, RunConfig(), [tmp_path / "model.h5", tmp_path / "result.json"])["val_acc"]
        == 0.5
    )
    printed = capsys.readouterr().out
    assert "nothing was done or written now: a larger --epoch_num goes on from its end, another --save_f" in printed
    assert printed.endswith(f"\n\nthere    {tmp_path / 'result.json'}\n")


def test_a_model_that_a_run_started_from_may_have_moved(tmp_path):
    run = finished_record(tmp_path, "digits", None, model_path="a/m.h5") | {"parent_sha256": "c" * 64}
    moved = run | {"flags": run["flags"] | {"model_path": "b/m.h5"}}
    resuming.check_same_run(run, moved, tmp_path)
    with pytest.raises(InputError, match=r"a/m\.h5.` \(sha256 c{8}\.\.\.\); received `model_path=.b/m\.h5.` \(sha"):
        resuming.check_same_run(run, moved | {"parent_sha256": "d" * 64}, tmp_path)


def test_of_differing_flags_the_most_telling_comes_first_and_defaults_are_told_as_such():
    same = {"epoch_num": 3, "learning_rate": None, "class_num": 10}
    then = {
        "argv": ["train_base_model.py", "--epoch_num=3"],
        "parent_sha256": None,
        "flags": same | {"dataset": "cifar10", "batch_size": 128, "model_path": None},
    }
    now = {
        "argv": ["x.py", "--batch_size", "32", "--learning_rate=0.05", "--dataset", "cifar100", "--model_path=m.h5"],
        "parent_sha256": "e" * 64,
        "flags": same
        | {"dataset": "cifar100", "class_num": 100, "batch_size": 32, "learning_rate": 0.05, "model_path": "m.h5"},
    }
    with pytest.raises(InputError) as caught:
        resuming.check_same_run(then, now, "runs/one")
    assert str(caught.value) == (
        '`resume`: runs/one holds an unfinished run with `dataset="cifar10"` (default), no `model_path`, '
        '`batch_size=128` (default), no `learning_rate`; received `dataset="cifar100"`, '
        '`model_path="m.h5"` (sha256 eeeeeeee...), '
        "`batch_size=32`, `learning_rate=0.05`; expected what that run had to go on with it, another folder to write "
        'to, or `resume="never"` to start over'
    )
    assert messages.spelled(str(caught.value)) == (
        "--resume: runs/one holds an unfinished run with --dataset cifar10 (default), no --model_path, --batch_size "
        "128 (default), no --learning_rate; received --dataset cifar100, --model_path m.h5 (sha256 eeeeeeee...), "
        "--batch_size 32, --learning_rate 0.05; expected what that run had to go on with it, another folder to write "
        "to, or --resume never to start over"
    )
    now["flags"] |= {f"flag{i}": i for i in range(9)}
    now["argv"] += [f"--flag{i}={i}" for i in range(9)]
    with pytest.raises(InputError, match=r"no `flag0` and 9 more; received .*, `flag0=0` and 9 more; expected"):
        resuming.check_same_run(then, now, "runs/one")


@pytest.mark.parametrize("source", [5, {}, True, 1.5, "x", None, []])
def test_a_strangers_source_is_no_source(source, tmp_path):
    (tmp_path / "model.h5").write_bytes(b"x")
    (tmp_path / "history.json").write_text(json.dumps({"run": {"source": source}}))
    split = dataset.Split(np.zeros((2, 8, 8, 3), "uint8"), [0, 1], "validation", source=["/a", "0" * 64])
    records.check_source(tmp_path / "model.h5", split)
    (tmp_path / "history.json").write_text(json.dumps({"run": {"source": ["/a", "1" * 64]}}))
    with pytest.raises(InputError, match="holds other images than when"):
        records.check_source(tmp_path / "model.h5", split)


def test_sha256_is_the_published_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
