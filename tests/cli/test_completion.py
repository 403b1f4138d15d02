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

import prune_model
from compress.cli import completion
from compress.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with completion.bash and completion.zsh of all scripts."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        texts = [subprocess.run([sys.executable, f"{script}.py", "--print_completion", shell], cwd=ROOT, check=True,
                                capture_output=True, text=True).stdout for script in SCRIPTS]
        (folder / f"completion.{shell}").write_text("".join(texts))
    return folder


def typed(shell, setup, keys, folder):
    """The words that a command gets when these keys are typed at a terminal.

    Args:
        shell: words that start it, interactive.
        setup: lines for it; `python` and the scripts become functions that tell their words.
        keys: what is typed in front of Enter.
        folder: where it runs.
    """
    master, slave = pty.openpty()
    setup = ["tell() { printf '\\n<<'; printf '[%s]' \"$@\"; printf '>>\\n'; }", "python() { tell \"$@\"; }", *setup]
    process = subprocess.Popen(shell, stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True,
                               env=os.environ | {"PS1": "$ ", "TERM": "xterm", "HOME": str(folder)})
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


@pytest.mark.parametrize(("keys", "words"), [
    ("python prune_model.py --crit\ttay\t", ["prune_model.py", "--criterion", "taylor"]),
    ("python prune_model.py --criterion=tay\t", ["prune_model.py", "--criterion=taylor"]),
    ("python -u some/prune_model.py --no-save\t--see\t3 --pruning_it\t", [
        "-u", "some/prune_model.py", "--no-save_best_model", "--seed", "3", "--pruning_it"]),
    ("prune_model.py --target_c\t4 --prec\tfl\t", ["--target_compression", "4", "--precision", "float32"]),
    ("python export_model.py --for\tonnx litert-\t", ["export_model.py", "--format", "onnx", "litert-int8"]),
    ("python evaluate_model.py --split val\t--data_\t", ["evaluate_model.py", "--split", "validation", "--data_dir"]),
    ("python train_base_model.py --dataset cifar1\t", ["train_base_model.py", "--dataset", "cifar10"]),
    ("python train_base_model.py --dataset my_im\t", ["train_base_model.py", "--dataset", "my_images/"]),
    ("python evaluate_model.py --model_path a.h5 my\t", ["evaluate_model.py", "--model_path", "a.h5", "my_images/"]),
    ("python other.py my\t", ["other.py", "my_images/"]), ("python plot_tr\t", ["plot_train_history.py"])])
def test_bash_completes(keys, words, written, tmp_path):
    (tmp_path / "my_images").mkdir()
    (tmp_path / "plot_train_history.py").write_text("")
    setup = [f"source {written}/completion.bash", "prune_model.py() { tell \"$@\"; }", "bind 'set bell-style none'"]
    assert typed(["bash", "--norc", "--noprofile", "-i"], setup, keys, tmp_path) == words


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
@pytest.mark.parametrize(("keys", "words"), [
    ("python prune_model.py --crit\ttay\t", ["prune_model.py", "--criterion", "taylor"]),
    ("python train_base_model.py --model\tmy\t", ["train_base_model.py", "--model_path", "my_images"])])
def test_zsh_completes(keys, words, written, tmp_path):
    (tmp_path / "my_images").mkdir()
    setup = ["autoload -U compinit", "compinit -u -D", f'eval "$(<{written}/completion.zsh)"']
    assert typed(["zsh", "-f", "-i"], setup, keys, tmp_path) == words


def test_without_shtab_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InputError, match="requirements-completion.txt"):
        completion.code(prune_model.build_parser(), "bash")
    with pytest.raises(SystemExit) as end:
        prune_model.main(["--print_completion", "bash"])
    captured = capsys.readouterr()
    assert end.value.code == 2 and not captured.out and captured.err.count("\n") == 1
    assert captured.err.startswith("prune_model.py: --print_completion: received bash, expected shtab")
