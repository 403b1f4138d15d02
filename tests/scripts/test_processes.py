"""Real processes that signals end: what they say, what they leave, and how the same command goes on."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torture

from compress.storage import states

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a narrow network."""
    path = tmp_path_factory.mktemp("base") / "base.h5"
    torture.write_base(path)
    return path


def started(script, folder, base):
    """A run of a script in a process group of its own."""
    return subprocess.Popen(
        torture.command(script, folder, base),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, condition, seconds=120):
    """Until the condition holds; fails where the process ends before that."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base):
    """What a run of train_base_model.py leaves that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = started("train_base_model", folder, base)
    assert done.communicate()[1] == "" and done.returncode == 0
    return torture.contents(folder)


@pytest.mark.slow  # `test_training.py` does the same within a process
def test_sigterm_ctrl_c_and_sigkill_one_after_the_other_change_nothing(whole, base, tmp_path):
    folder, state = tmp_path / "run", tmp_path / "run" / "state.npz"
    process = started("train_base_model", folder, base)
    wait_for(process, state.exists)
    second = started("train_base_model", folder, base)  # while the first is at work
    error = second.communicate()[1]
    assert second.returncode == 2 and error.count("\n") == 1
    assert f"--save_folder: received {folder}, where another run is writing" in error
    os.killpg(process.pid, signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 143 and error.count("\n") == 2
    assert error.startswith("SIGTERM: the state is saved as soon as")
    assert "stopped by SIGTERM; epoch " in error and f"is saved in {state}; go on with: " in error
    assert f"--save_folder {folder}" in error.split("go on with: ")[1]
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = states.read_meta(state)
        process = started("train_base_model", folder, base)
        changed = state.stat().st_mtime_ns
        wait_for(process, lambda changed=changed: state.stat().st_mtime_ns != changed)
        os.killpg(process.pid, number)
        assert (process.communicate() and process.returncode) == status
        after = states.read_meta(state)
        assert (after["epoch"], after["step"]) > (before["epoch"], before["step"])
    torture.readable(folder)
    process = started("train_base_model", folder, base)
    assert process.communicate()[1] == "" and process.returncode == 0
    found = torture.contents(folder)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []


@pytest.mark.slow  # `test_files.py` has a full disk under every kind of file
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone limits another process")
def test_a_disk_that_fills_up_under_a_run_costs_nothing_that_was_saved(whole, base, tmp_path):
    folder, model = tmp_path / "run", tmp_path / "run" / "model.h5"
    process = started("train_base_model", folder, base)
    wait_for(process, model.exists)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, 1000))  # no file may have more bytes from now on
    error = process.communicate()[1]
    assert process.returncode == 2 and error.count("\n") == 1
    assert error.startswith(f"train_base_model.py: {folder}") and "can't be written (File too large)" in error
    assert torture.readable(folder) >= 3 and not list(folder.glob(".partial-*"))
    assert started("train_base_model", folder, base).communicate()[1] == ""
    assert torture.contents(folder) == whole


@pytest.mark.slow
def test_a_folder_that_goes_away_under_a_run_is_one_line(base, tmp_path):
    folder = tmp_path / "run"
    process = started("train_base_model", folder, base)
    wait_for(process, (folder / "state.npz").exists)
    os.rename(folder, tmp_path / "elsewhere")
    error = process.communicate()[1]
    assert process.returncode == 2 and error.count("\n") == 1
    assert "can't be written (No such file or directory)" in error and not folder.exists()
    assert torture.readable(tmp_path / "elsewhere") > 0


@pytest.mark.slow
@pytest.mark.parametrize("script", ["prune_model", "knowledge_distillation"])
def test_kills_of_the_other_scripts_change_nothing(script, base, tmp_path):
    whole, parts, rng = tmp_path / "whole", tmp_path / "parts", np.random.default_rng(3)
    subprocess.run(torture.command(script, whole, base), check=True, stdout=subprocess.DEVNULL)
    for _ in range(4):
        torture.killed_once(torture.command(script, parts, base), parts, rng, subprocess.DEVNULL)
        torture.readable(parts)
    subprocess.run(torture.command(script, parts, base), check=True, stdout=subprocess.DEVNULL)
    assert torture.contents(whole) == torture.contents(parts)


@pytest.mark.slow
def test_a_reader_may_come_at_any_moment(base, tmp_path):
    """evaluate_model.py's reader, again and again while train_base_model.py writes."""
    folder, looks = tmp_path / "run", 0
    process = started("train_base_model", folder, base)
    while process.poll() is None:
        looks += torture.readable(folder) if folder.exists() else 0
    assert process.communicate()[1] == "" and process.returncode == 0
    assert looks > 100
    assert not list(Path(folder).glob(".*"))


BUSY = """
import hashlib, sys
sys.path.insert(0, {root!r})
from compress.cli import app, flags, signals
def run(args):
    with signals.{kind}:
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)  # native code, which no handler of Python's can interrupt
sys.exit(app.run_main(flags.Parser("script.py"), run, []))
"""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("Deferred()", "SIGINT: the state is saved as soon as"),
        ("raising()", "SIGINT: ending as soon as what is being computed"),
    ],
)
def test_ctrl_c_is_answered_within_a_second_whatever_is_computed_and_twice_ends_at_once(kind, says):
    code = BUSY.format(root=str(Path(__file__).parents[2]), kind=kind)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.2)  # until native code is at work
    sent = time.monotonic()
    for _ in range(3):  # as `timeout` and a terminal send one: the others are no second wish
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert process.stderr.readline().startswith(says)
    assert time.monotonic() - sent < 1
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130 and process.communicate()[1] == "SIGINT once more: ended at once\n"
    assert time.monotonic() - sent < 4


def test_ctrl_c_while_its_handlers_are_put_in_place_is_a_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # the signal comes between the handlers and what they are for
        "import os, signal, socket\nreal = socket.socketpair\n"
        "def pair(*given):\n    made = real(*given)\n    os.kill(os.getpid(), signal.SIGINT)\n    return made\n"
        "socket.socketpair = pair\n"
    )
    words = [sys.executable, "train_base_model.py", "--dataset", "digits", "--save_folder", str(tmp_path / "run")]
    done = subprocess.run(
        words,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    told = f"train_base_model.py: stopped by SIGINT; nothing new was saved in {tmp_path / 'run'}; start it again with:"
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_signal_that_comes_twice_within_milliseconds_is_one_and_leaves_the_message_and_the_status():
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        "from compress.cli import app, flags\n"
        "sys.exit(app.run_main(flags.Parser('script.py'), lambda args: (print(1, flush=True), time.sleep(60)), "
        "[]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.communicate()[1] == "script.py: stopped by SIGTERM\n" and process.returncode == 143
