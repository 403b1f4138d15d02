"""One device and one process, which TensorFlow has: nothing of the others is in the way, and more are refused."""

import argparse
import dataclasses
import socket
import sys

import numpy as np
import pytest
from conftest import ROOT, SCRIPTS

from compress.cli import configs, values
from compress.data import batches, dataset
from compress.data.augmentation import Augmentation
from compress.engine import devices, processes
from compress.errors import InputError
from compress.storage import files, resuming

SPREADING = ("train_base_model", "prune_model", "knowledge_distillation", "evaluate_model", "sensitivity")
NEW = {"devices", "coordinator", "num_processes", "process_id", "distributed"}
tensorflow_only = pytest.mark.skipif("__import__('keras').backend.backend() != 'tensorflow'")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_that_train_or_score_have_the_flags(script):
    sys.path.insert(0, str(ROOT))
    parser = __import__(script).build_parser()
    flags = {action.dest for action in parser._actions}
    assert flags & NEW == (NEW if script in SPREADING else set())


@pytest.mark.parametrize("text", ["10.0.0.1:8476", "node-3.cluster:1", "[::1]:65535", "localhost:00080"])
def test_addresses_are_taken(text):
    host, port = values.address(text).rsplit(":", 1)
    assert text.startswith(host) and int(port) == int(text.rsplit(":", 1)[1])


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "a b:80", "::1:80"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"received .*, expected HOST:PORT"):
        values.address(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "h:1"}, "`num_processes`: not given beside `coordinator=h:1`; expected"),
        ({"coordinator": "h:1", "num_processes": 2}, "`process_id`: not given beside `coordinator=h:1`; expected"),
        ({"num_processes": 2, "process_id": 0}, "`coordinator`: not given beside `num_processes=2`; expected"),
        (
            {"coordinator": "h:1", "num_processes": 2, "process_id": 2},
            "`process_id`: received 2, expected 0 to 1, as there are `num_processes=2`",
        ),
        (
            {"coordinator": "h:1", "distributed": True},
            "`coordinator`: received h:1 beside `distributed`, which finds all that out; expected one of them",
        ),
    ],
)
def test_half_of_what_several_processes_take_is_refused(given, message):
    with pytest.raises(InputError) as error:
        processes.asked(configs.MachineConfig(**given))
    assert str(error.value).startswith(message)


def test_one_process_asks_for_nothing():
    assert not processes.asked(configs.MachineConfig())
    assert processes.asked(configs.MachineConfig(coordinator="h:1", num_processes=1, process_id=0))
    assert processes.asked(configs.MachineConfig(distributed=True))


def test_what_is_computed_alone_asks_for_no_others():
    config = configs.MachineConfig(devices=4, coordinator="h:1", num_processes=2, process_id=1, seed=7)
    assert config.alone == configs.MachineConfig(seed=7)
    assert not processes.asked(dataclasses.replace(config, distributed=True).alone)


@tensorflow_only
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"devices": 2}, "`devices`: received 2"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 0}, "`coordinator`: received h:1"),
        ({"distributed": True}, "`distributed`: received True"),
    ],
)
def test_tensorflow_has_one_device(given, named):
    with pytest.raises(InputError) as error:
        devices.setup(configs.MachineConfig(**given))
    line = str(error.value)
    assert line.startswith(named) and "KERAS_BACKEND=jax" in line and "\n" not in line


@tensorflow_only
@pytest.mark.parametrize("wanted", [None, 1])
def test_tensorflow_computes_on_its_one_device(wanted):
    devices.setup(configs.MachineConfig(devices=wanted, batch_size=7))
    assert devices.count() == 1 and processes.count() == 1 and processes.is_main()


@tensorflow_only
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--devices", "2"],
            "--devices: received 2 under KERAS_BACKEND=tensorflow, which runs on one device here; ",
        ),
        (
            ["--coordinator", "h:1", "--num_processes", "2", "--process_id", "2"],
            "--process_id: received 2, expected 0 to 1, as there are --num_processes 2",
        ),
        (["--coordinator", "h:1"], "--num_processes: not given beside --coordinator h:1; expected "),
        (
            ["--distributed"],
            "--distributed: received True under KERAS_BACKEND=tensorflow, which runs on one device",
        ),
    ],
)
def test_a_script_says_it_in_one_line(words, line, tmp_path, capsys):
    import train_base_model

    assert train_base_model.main(["--dataset", "digits", "--save_folder", str(tmp_path / "run"), *words]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"train_base_model.py: {line}") and found.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_rows_of_one_device_are_the_array():
    array = np.arange(24).reshape(6, 4)
    assert devices.parts(2, 6) == [slice(2, 6)] and devices.parts(3, 3) == []
    np.testing.assert_array_equal(devices.rows(array, slice(2, 9)), array[2:])
    np.testing.assert_array_equal(devices.everywhere(array), array)
    devices.check_rows(7, "batch_size")


def test_rows_of_several_devices(monkeypatch):
    monkeypatch.setattr(devices, "_spreads", [devices._Spread(4, None, None)])
    assert devices.parts(0, 8) == [slice(0, 8)]
    assert devices.parts(8, 19) == [slice(8, 16), slice(16, 19)]
    assert devices.parts(8, 11) == [slice(8, 11)]
    devices.check_rows(12, "batch_size")
    with pytest.raises(InputError, match="`batch_size`: received 13 images a batch, expected a multiple of 4, .*as 12"):
        devices.check_rows(13, "batch_size")
    with pytest.raises(InputError, match="received 3 images a batch, .*such as 4"):
        devices.check_rows(3, "batch_size")


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_parts_of_a_batch_are_the_batch(varied, count):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 6, 3)).astype("uint8"), rng.integers(0, 5, 40)
    split = dataset.Split(images, labels, "train", Augmentation(2, 0.5))
    whole = batches.batches(split, 12, 3, varied, 1, 2)
    parts = [batches.batches(split, 12, 3, varied, 1, 2, (i, count)) for i in range(count)]
    for item in (0, 1, 5):
        found = [np.concatenate(arrays) for arrays in zip(*(part[item] for part in parts), strict=True)]
        for one, other in zip(found, whole[item], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_batch_without_equal_parts_is_refused():
    split = dataset.Split(np.zeros((9, 4, 4, 3), np.uint8), np.zeros(9, int), "train")
    with pytest.raises(ValueError, match="a batch must have 2 equal parts. Received: 5 images"):
        batches.batches(split, 5, 0, part=(0, 2))


def test_one_process_speaks_to_itself():
    big = np.array([2**53 + 1, -1], np.int64)
    np.testing.assert_array_equal(processes.summed(big), big)
    assert processes.gathered(np.float64(0.1)).tolist() == [0.1]
    assert processes.of_main({"a": [1, None]}) == {"a": [1, None]}
    processes.check_same({"any": 1}, "never")
    processes.meet("nobody")


def test_a_coordinator_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(InputError, match=rf"`coordinator`: received {address}, where nothing answered in 0.3 s"):
            processes._check_address(address, 1)
        listening.listen()
        processes._check_address(address, 1)
        with pytest.raises(InputError, match=rf"`coordinator`: received {address}, where process 0 can't listen"):
            processes._check_address(address, 0)


def test_process_0_listens_no_further_than_it_has_to():
    assert processes._bound("127.0.0.1:80") == "127.0.0.1:80" and processes._bound("[::1]:80") == "[::1]:80"
    assert processes._bound("10.0.0.1:80") is processes._bound("node:80") is processes._bound(None) is None


def test_the_folder_of_another_process_is_seen_as_it_was(tmp_path):
    run, own = tmp_path / "run", tmp_path / "own"
    for name in ("state.npz", "iter1/model.h5", "iter2/state.npz", "iter2/trimmed.h5", ".lock", ".partial-x"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    files.copy_run(run, own)
    assert files.sizes(run) == files.sizes(own)
    assert not (own / ".lock").exists() and not (own / ".partial-x").exists()
    assert (own / "iter1/model.h5").is_symlink() and not (own / "iter2/trimmed.h5").is_symlink()
    with files.replacing(own / "iter1/model.h5") as temporary:
        temporary.write_text("another")
    (own / "state.npz").unlink()
    assert (run / "iter1/model.h5").read_text() == "iter1/model.h5" and (run / "state.npz").exists()


def test_a_record_lists_the_devices_of_a_run_in_turn(capsys):
    before, now = {"devices": [4]}, {}
    resuming.tell_devices(before, now, "run", 1)
    assert before["devices"] == now["devices"] == [4, 1]
    assert "run goes on on 1 device, before on 4: the same run but for rounding" in capsys.readouterr().out
    again = {"devices": [1]}
    resuming.tell_devices(before, again, "run", 1)
    assert again["devices"] == [4, 1] and not capsys.readouterr().out
    plain, same = {}, {}
    resuming.tell_devices(plain, same, "run", 1)
    assert plain == same == {}


def test_who_computes_is_no_part_of_what_a_run_is():
    flags = {"dataset": "digits", "batch_size": 8}
    before = {"flags": flags | {"devices": 4, "coordinator": "h:1", "num_processes": 2, "process_id": 0}}
    resuming.check_same_run(before, {"flags": flags | {"devices": 1, "distributed": True}}, "run")


def test_a_lost_connection_is_told_from_a_defect():
    class JaxRuntimeError(RuntimeError):
        pass

    assert processes.is_loss(JaxRuntimeError("INTERNAL")) and processes.is_loss(ValueError("Gloo all-reduce failed"))
    assert not processes.is_loss(KeyError("name"))
    try:
        try:
            raise JaxRuntimeError("UNKNOWN")
        except JaxRuntimeError:
            raise TypeError("as the callbacks ended") from None
    except TypeError as error:
        assert processes.is_loss(error)
