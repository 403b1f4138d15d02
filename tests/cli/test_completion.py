"""Completion as a person meets it: a shell at a terminal, the TAB key, and the words that arrive."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SCRIPTS

argcomplete = pytest.importorskip("argcomplete")
ROOT = Path(__file__).parents[2]


# in front of the user's PATH: tells its words, and leaves what a shell asks to Python
PYTHON = f"""#!/bin/bash
if [[ -n $_ARGCOMPLETE ]]; then exec {sys.executable} "$@"; fi
printf '\\n<<'; printf '[%s]' "$@"; printf '>>\\n'
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with the scripts, images and a python that tells its words."""
    for name in ("bin/python", "my_images/1.png", "some/other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    for script in SCRIPTS:
        (tmp_path / f"{script}.py").symlink_to(ROOT / f"{script}.py")
    return tmp_path


def typed(shell, setup, keys, folder):
    """The words that a command gets when these keys are typed at a terminal.

    Args:
        shell: words that start it, interactive.
        setup: lines for it, in front of those that load argcomplete's completion.
        keys: what is typed in front of Enter.
        folder: where it runs.
    """
    master, slave = pty.openpty()
    loader = Path(argcomplete.__file__).parent / "bash_completion.d" / "_python-argcomplete"
    setup = [f"PATH={folder}/bin:$PATH", *setup, f'eval "$(<{loader})"']
    process = subprocess.Popen(
        shell,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        start_new_session=True,
        env=os.environ | {"PS1": "$ ", "TERM": "xterm", "HOME": str(folder)},
    )
    os.close(slave)
    try:
        output = b""
        for text, mark in (("; ".join(setup) + "; printf 'rea''dy\\n'\n", b"ready\r\n"), (f"{keys}\n", b">>\r\n")):
            os.write(master, text.encode())
            end = time.monotonic() + 30
            while mark not in output:
                assert select.select([master], [], [], end - time.monotonic())[0], output
                output += os.read(master, 4096)
        return re.findall(r"\[(.*?)\]", output.decode().rpartition("<<")[2].partition(">>")[0])
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("python prune_model.py --crit\ttay\t", ["prune_model.py", "--criterion", "taylor"]),
        ("python prune_model.py --criterion=tay\t", ["prune_model.py", "--criterion=taylor"]),
        ("python export_model.py --for\tonnx litert-\t", ["export_model.py", "--format", "onnx", "litert-int8"]),
        ("python train_base_model.py --dataset cifar100\t", ["train_base_model.py", "--dataset", "cifar100"]),
        (
            "python evaluate_model.py --model_path a.h5 my\t",
            ["evaluate_model.py", "--model_path", "a.h5", "my_images/"],
        ),
        ("python train_base_model.py --dataset my_im\t", ["train_base_model.py", "--dataset", "my_images/"]),
        ("python some/other.py my\t", ["some/other.py", "my_images/"]),
        ("python plot_tr\t", ["plot_train_history.py"]),
    ],
)
def test_bash_completes(keys, words, folder):
    setup = ["bind 'set bell-style none'"]
    assert typed(["bash", "--norc", "--noprofile", "-i"], setup, keys, folder) == words


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("python prune_model.py --crit\ttay\t", ["prune_model.py", "--criterion", "taylor"]),
        ("python train_base_model.py --model\tmy\t", ["train_base_model.py", "--model_path", "my_images/"]),
    ],
)
def test_zsh_completes(keys, words, folder):
    assert typed(["zsh", "-f", "-i"], ["autoload -U compinit", "compinit -u -D"], keys, folder) == words


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_that_it_may_be_asked(script):
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / f"{script}.py").read_text(encoding="utf-8")[:1024]


def test_a_shell_that_asks_starts_no_run():
    """A base model would train with its defaults."""
    code = "import sys; sys.modules['argcomplete'] = None; import train_base_model; train_base_model.main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"_ARGCOMPLETE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
