"""Several devices and several processes under JAX (`make test-jax`): two virtual devices of the processor, and two real
processes that talk over loopback. Both compute the same bits, and one device the same but for rounding."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import small_memory
import spread
import torture
from conftest import ROOT
from PIL import Image

from compress.cli import configs
from compress.data import cache
from compress.engine import devices
from compress.errors import InputError
from compress.storage import checkpoints

pytestmark = [pytest.mark.jax, pytest.mark.timeout(1800)]
TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The variables of a process: what one of them has compiled the others read."""
    return os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def start(words, environment, cwd=ROOT):
    """Starts a process."""
    words = list(map(str, words))
    return subprocess.Popen(words, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """(status, standard output, standard error) of a process that has ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def listened_at(port):
    """Whether a process listens at a port of this host."""
    with socket.socket() as look:
        return look.connect_ex(("127.0.0.1", port)) == 0


def of_pair(port, number):
    """The flags of one of two processes."""
    return ["--coordinator", f"127.0.0.1:{port}", "--num_processes", 2, "--process_id", number]


def pair(words, environment):
    """Starts the two processes of a run, process 0 first."""
    port = free_port()
    return [start([*words, *of_pair(port, i)], environment) for i in range(2)]


# ---- the same numbers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(environment, tmp_path_factory):
    """What `spread.py` computes on 'one' device, on 'two', and in two 'processes'."""
    folder = tmp_path_factory.mktemp("spread")
    words = [sys.executable, ROOT / "tests/engine/spread.py"]
    ended(start([*words, folder / "one.npz"], environment))
    ended(start([*words, folder / "two.npz"], environment | TWO))
    silent = [ended(process) for process in pair([*words, folder / "processes.npz"], environment)]
    assert silent == [("", "")] * 2
    return {name: dict(np.load(folder / f"{name}.npz")) for name in ("one", "two", "processes")}


def of(found, prefix):
    """The arrays of that beginning, as computed on one and on two devices."""
    names = [name for name in found["one"] if name.startswith(prefix)]
    assert names
    return [(found["one"][name], found["two"][name]) for name in names]


def test_two_devices_and_two_processes_compute_the_same_bits(found):
    assert [int(arrays["devices"]) for arrays in found.values()] == [1, 2, 2]
    assert found["two"].keys() == found["processes"].keys()
    for name, array in found["two"].items():
        assert array.tobytes() == found["processes"][name].tobytes(), name


@pytest.mark.parametrize("prefix", ["step/", "distil/"])
def test_a_step_on_two_devices_is_that_on_one(found, prefix):
    # loss, weights and batch-norm statistics: those of the whole batch, not those of the rows of one device
    for one, two in of(found, prefix):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


def test_the_devices_do_share_the_batch(found):
    assert any((one != two).any() for one, two in of(found, "steps/"))  # sums in another order


def test_zeros_are_counted_exactly(found):
    assert all((one == two).all() for one, two in of(found, "apoz/"))
    assert any(((one > 0) & (one < 1)).any() for one, _ in of(found, "apoz/"))


@pytest.mark.parametrize("prefix", ["taylor/", "logits", "odd_logits", "sensitivity", "recalibrated/"])
def test_scores_on_two_devices_are_those_on_one(found, prefix):
    for one, two in of(found, prefix):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"`devices`: received 2, expected at most 1, the devices that JAX finds here"):
        devices.setup(configs.MachineConfig(devices=2))


def test_an_uneven_batch_is_refused(environment, tmp_path):
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    done = start([*words, "--batch_size", 15], environment | TWO)
    err = done.communicate()[1]
    assert done.returncode == 2
    assert err == (
        "train_base_model.py: --batch_size: received 15 images a batch, expected a multiple of 2, the devices that "
        "share it, such as 14\n"
    )
    assert not (tmp_path / "run").exists()


def test_without_a_manager_nothing_is_announced(environment, tmp_path):
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    done = start([*words, "--distributed"], environment)
    err = done.communicate()[1]
    assert done.returncode == 2
    assert err.startswith("train_base_model.py: --distributed: nothing here announces") and err.count("\n") == 1


def test_a_cluster_that_does_not_answer(environment, tmp_path):
    # what JAX asks Kubernetes with, in a pod whose account has no token
    (tmp_path / "kubernetes.py").write_text(
        "class config:\n    def load_incluster_config():\n        raise OSError('no token\\nof an account')\n"
    )
    pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    done = start([*words, "--distributed"], environment | pod)
    err = done.communicate()[1]
    assert done.returncode == 2
    assert err.startswith(
        "train_base_model.py: --distributed: received no word of which processes this job has (no token of an account)"
    )
    assert "Indexed" in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_processes_with_other_flags_are_refused(environment, tmp_path):
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    port = free_port()
    both = [start([*words, *of_pair(port, i), "--batch_size", 16 + 2 * i], environment) for i in range(2)]
    errs = [process.communicate(timeout=120)[1] for process in both]
    assert both[0].returncode == 2 and both[1].returncode in (2, 134, -signal.SIGABRT), errs
    assert errs[0] == (
        "train_base_model.py: --process_id: the processes of this run have different flags (--batch_size); expected "
        "the same command for all (process 1 has others than process 0)\n"
    )
    assert not (tmp_path / "run").exists()


def test_one_process_may_be_all_there_are(environment, tmp_path):
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    words += ["--architecture", "resnet20", "--subset", "40", "--epoch_num", "1", "--batch_size", "20"]
    alone = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", 1, "--process_id", 0]
    assert ended(start([*words, *alone], environment))[0]
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_ends_a_process_that_waits_for_the_others(number, environment, tmp_path):
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", tmp_path / "run"]
    port = free_port()
    if number == 1:  # process 0, which never says a word: native code waits for it
        silent = socket.create_server(("127.0.0.1", port))
    process = start([*words, *of_pair(port, number)], environment)
    if number == 1:
        silent.settimeout(120)
        kept = [silent.accept(), silent.accept()]  # a look whether it is there, then JAX
    else:
        while not listened_at(port):
            assert process.poll() is None
            time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    err = process.communicate(timeout=60)[1]
    if number == 1:
        for connection, _ in kept:
            connection.close()
        silent.close()
    assert process.returncode == 143 and time.monotonic() - asked < 20
    assert "stopped by SIGTERM; nothing new was saved in" in err and err.count("\n") <= 2


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a small network, which compiles soon."""
    path = tmp_path_factory.mktemp("base") / "base.h5"
    checkpoints.save_model(spread.network(keras, 32), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(environment, base, tmp_path_factory):
    """The folder of a training on two devices."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    ended(start(torture.command("train_base_model", folder, base), environment | TWO))
    return folder


def when_saved(processes, folder, behind=0.0):
    """Waits for a state that is newer than `behind`."""
    state = folder / "state.npz"
    while not (state.exists() and state.stat().st_mtime > behind):
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.05)


@pytest.mark.parametrize("one", [0, 1])  # 0 is the coordinator
def test_two_processes_go_on_after_a_signal_and_after_a_death(one, environment, base, undisturbed, tmp_path):
    folder = tmp_path / "run"
    words = torture.command("train_base_model", folder, base)
    # a signal to one of them: both end behind the same step, whose state is saved
    processes = pair(words, environment)
    when_saved(processes, folder)
    processes[one].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    for _, err in said:
        assert "stopped by SIGTERM; epoch " in err and f"is saved in {folder}/state.npz; go on with: cd " in err
    assert not said[1][0]
    # one of them dies
    saved = (folder / "state.npz").stat().st_mtime
    processes = pair(words, environment)
    when_saved(processes, folder, saved)
    processes[one].kill()
    died, other = time.monotonic(), 1 - one
    err = processes[other].communicate(timeout=60)[1]
    assert time.monotonic() - died < 30 and processes[other].returncode in (134, -signal.SIGABRT)
    line = err.splitlines()[-1]
    assert f"process {other} of 2 has ended because it, or another process of this run, has died" in line
    assert "start all of them again to go on, this one with: cd " in line and f"--process_id {other}" in line
    assert f"process {one} of 2 has ended" in processes[one].communicate()[1]
    # the same command goes on, and ends with the bits of a run that nobody disturbed, on two devices of one process
    for place, process in enumerate(pair(words, environment)):
        out, _ = ended(process)
        assert ("goes on" in out or "going on" in out) == (place == 0) and bool(out) == (place == 0)
    assert torture.contents(folder) == torture.contents(undisturbed)


@pytest.mark.parametrize("one", [0, 1])
def test_a_process_that_falls_silent_ends_the_run(one, environment, base, tmp_path):
    """As where its host has gone: no connection is closed, so a missing heartbeat has to tell."""
    folder = tmp_path / "run"
    words = torture.command("train_base_model", folder, base)
    words[words.index("--epoch_num") + 1] = "1000"
    processes = pair(words, environment)
    when_saved(processes, folder)
    processes[one].send_signal(signal.SIGSTOP)
    silent = time.monotonic()
    try:
        err = processes[1 - one].communicate(timeout=90)[1]
    finally:
        processes[one].kill()
    processes[one].communicate()
    assert time.monotonic() - silent < 30 and processes[1 - one].returncode == -signal.SIGABRT
    assert "this one with: cd " in err.splitlines()[-1]
    torture.readable(folder)


def test_a_run_goes_on_on_fewer_devices(environment, base, tmp_path):
    folder = tmp_path / "run"
    words = torture.command("train_base_model", folder, base)
    process = start(words, environment | TWO)
    when_saved([process], folder)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    out, _ = ended(start(words, environment))
    assert f"{folder} goes on on 1 device, before on 2: the same run but for rounding, not the same bits" in out
    assert json.loads((folder / "result.json").read_text())["run"]["devices"] == [2, 1]
    assert json.loads((folder / "history.json").read_text())["run"]["devices"] == [2, 1]


def test_pruning_is_the_same_on_two_devices_and_in_two_processes(environment, base, tmp_path):
    """APoZ scores, curves of sensitivity, BN recalibration, fine-tuning; then evaluation."""
    words = torture.command("prune_model", tmp_path / "processes", base)
    words[words.index("--prune_iter") + 1] = "1"
    place = words.index("--prune_ratio")
    words[place : place + 2] = ["--target_macs", "2x"]
    both = pair(words, environment)
    outs = [ended(process) for process in both]
    assert outs[0][0] and outs[1] == ("", "")
    words[-1] = str(tmp_path / "devices")
    ended(start(words, environment | TWO))
    assert torture.contents(tmp_path / "processes") == torture.contents(tmp_path / "devices")

    words = [sys.executable, "evaluate_model.py", "--dataset", "digits", "--latency_runs", 0, "--batch_size", 64]
    words += ["--model_path", base, tmp_path / "processes" / "iter1" / "model.h5", "--output"]
    for process in pair([*words, tmp_path / "processes.json"], environment):
        ended(process)
    ended(start([*words, tmp_path / "one.json"], environment))
    results = [json.loads((tmp_path / name).read_text())["models"] for name in ("processes.json", "one.json")]
    for ours, theirs in zip(*results, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["sha256"] == theirs["sha256"] and ours["acc"] == pytest.approx(theirs["acc"], abs=1.5 / 359)


def test_a_student_is_the_same_on_two_devices_and_in_two_processes(environment, base, tmp_path):
    words = torture.command("knowledge_distillation", tmp_path / "processes", base)
    words[words.index("--epoch_num") + 1] = "1"
    words += ["--lambda2", "0.3", "--lambda3", "0.2"]
    divided = words.index("--stream_divisor")
    words[divided : divided + 2] = ["--target_compression", "2", "--round_to", "2"]
    place = words.index("--save_folder") + 1
    for process in pair(words, environment):
        ended(process)
    words[place] = str(tmp_path / "devices")
    ended(start(words, environment | TWO))
    assert torture.contents(tmp_path / "processes") == torture.contents(tmp_path / "devices")


# ---- more images than memory -------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """A folder of 120 JPEGs in ten classes."""
    rng = np.random.default_rng(0)
    for i in range(120):
        folder = tmp_path / "photos" / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((70 + i, 70 + 2 * i), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg")
    return tmp_path / "photos"


def of_little_memory(photographs, base, folder, place):
    """The words of a training on photographs that memory doesn't hold, whose cache lies in `place`."""
    words = [sys.executable, small_memory.__file__, f"{folder}-did", "train_base_model", "--dataset", photographs]
    words += ["--image_size", 32, "--model_path", base, "--epoch_num", 2, "--batch_size", 16, "--deterministic"]
    return [*words, "--verbose", 2, "--save_folder", folder, "--cache_dir", place]


def did(folder, number):
    """What a process did to the cache: {word: list of files}."""
    path, found = folder.parent / f"{folder.name}-did{number}.txt", {"lock": [], "decode": [], "keep": []}
    for line in path.read_text().splitlines() if path.exists() else ():
        word, name = line.split(" ", 1)
        if word != "lock" or name.startswith(str(folder.parent / "cache")):
            found[word].append(name)
    return found


def decoded(place):
    """(bytes of all images, their sums) of the one cache in a folder."""
    (folder,) = (path for path in place.iterdir() if path.name != "known")
    return (folder / cache.IMAGES).read_bytes(), (folder / cache.SUMS).read_bytes()


def test_process_0_alone_decodes_into_a_cache_that_all_share(environment, base, photographs, tmp_path):
    folders = {name: tmp_path / name for name in ("devices", "shared", "own")}
    places = [tmp_path / f"cache{i}" for i in range(4)]
    ended(start(of_little_memory(photographs, base, folders["devices"], places[0]), environment | TWO))
    alone = did(folders["devices"], 0)
    assert len(alone["decode"]) == len({*alone["decode"]}) > 90 and alone["lock"] and len(alone["keep"]) > 2

    outs = [
        ended(process)
        for process in pair(of_little_memory(photographs, base, folders["shared"], places[1]), environment)
    ]
    assert "decoded into" in outs[0][0] and outs[1] == ("", "")
    first, other = did(folders["shared"], 0), did(folders["shared"], 1)
    assert sorted(first["decode"]) == sorted(alone["decode"]) and len(first["lock"]) == len(alone["lock"])
    assert len(first["keep"]) == len(alone["keep"]) and not any(other.values())
    assert torture.contents(folders["shared"]) == torture.contents(folders["devices"])

    # hosts whose folders are their own: each process decodes into that which it sees
    port = free_port()
    both = [
        start([*of_little_memory(photographs, base, folders["own"], places[2 + i]), *of_pair(port, i)], environment)
        for i in range(2)
    ]
    for process in both:
        ended(process)
    assert all(sorted(did(folders["own"], i)["decode"]) == sorted(alone["decode"]) for i in range(2))
    assert decoded(places[0]) == decoded(places[1]) == decoded(places[2]) == decoded(places[3])
    assert torture.contents(folders["own"]) == torture.contents(folders["devices"])


def test_photographs_of_other_sizes_in_two_processes_are_told(environment, base, photographs, tmp_path):
    """One of them would fill a cache, where the other has room in memory."""
    folders, port = [tmp_path / name for name in ("large", "small")], free_port()
    for folder, side in zip(folders, (96, 8), strict=True):
        for path in sorted(photographs.glob("class[01]/*.jpg"))[7:17]:  # 2 kB where they are small
            (folder / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((side, side)).save(folder / "photos" / path.parent.name / path.name)
    words = of_little_memory("photos", "imagenet", tmp_path / "run", tmp_path / "cache")
    words = [word for word in words if word not in ("--image_size", 32, "--model_path", "imagenet")]
    words += ["--architecture", "resnet20", "--epoch_num", 1]
    both = [start([*words, *of_pair(port, i)], environment, folder) for i, folder in enumerate(folders)]
    for process in both:
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 2, err
        assert (
            "--dataset: received photos, where the processes of this run find different images" in err.splitlines()[-1]
        )


def test_an_image_that_process_0_can_not_decode_ends_all(environment, base, photographs, tmp_path):
    path = photographs / "class3" / "013.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    both = pair(of_little_memory(photographs, base, tmp_path / "run", tmp_path / "cache"), environment)
    err = both[0].communicate(timeout=120)[1]
    failed = time.monotonic()
    assert both[0].returncode == 2 and "013.jpg cannot be read as an image" in err.splitlines()[-1]
    err = both[1].communicate(timeout=60)[1]
    assert time.monotonic() - failed < 10 and both[1].returncode == 2
    assert "process 0 of this run has failed or was stopped, and says why; expected all" in err.splitlines()[-1]
