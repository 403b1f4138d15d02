"""Every script under the JAX backend (`make test-jax`); what it writes evaluates the same under TensorFlow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.jax, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
TINY = ["--dataset", "digits", "--subset", "80", "--val_split", "0.2", "--batch_size", "32", "--epoch_num", "1"]


def script(backend, name, *words):
    """Runs a script in a process of its own."""
    done = subprocess.run(
        [sys.executable, f"{name}.py", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder in which every script has run once under JAX."""
    folder = tmp_path_factory.mktemp("jax")
    script("jax", "train_base_model", *TINY, "--save_folder", folder / "base")
    script(
        "jax",
        "prune_model",
        *TINY,
        "--base_model_path",
        folder / "base" / "model.h5",
        "--root_folder",
        folder / "pruned",
        "--prune_iter",
        1,
        "--criterion",
        "taylor",
        "--prune_ratio",
        0.5,
    )
    script(
        "jax",
        "knowledge_distillation",
        *TINY,
        "--root_folder",
        folder / "pruned" / "iter1",
        "--save_folder",
        folder / "student",
        "--lambda2",
        0.3,
        "--lambda3",
        0.2,
        "--student_stem",
        "half",
        "--student_learning_rate",
        0.001,
    )
    script("jax", "plot_train_history", "--history_path", folder / "student" / "history.json", "--no-show")
    return folder


def test_a_checkpoint_of_jax_evaluates_the_same_under_tensorflow(chain):
    results = {}
    for backend in ("jax", "tensorflow"):
        script(
            backend,
            "evaluate_model",
            "--dataset",
            "digits",
            "--latency_runs",
            0,
            "--output",
            chain / f"{backend}.json",
            "--model_path",
            *(chain / name / "model.h5" for name in ("base", "pruned/iter1", "student")),
        )
        results[backend] = json.loads((chain / f"{backend}.json").read_text())
        assert results[backend]["run"]["backend"] == backend
    for ours, theirs in zip(results["jax"]["models"], results["tensorflow"]["models"], strict=True):
        assert ours["acc"] == pytest.approx(theirs["acc"], abs=1.5 / 359)  # a tie may fall the other way
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert {key: ours[key] for key in ("parameters", "macs", "sparsity", "sha256")} == {
            key: theirs[key] for key in ("parameters", "macs", "sparsity", "sha256")
        }


def test_a_run_under_jax_goes_on_within_an_epoch(tmp_path):
    import test_events
    import torture

    environment = os.environ | {"KERAS_BACKEND": "jax"}
    torture.write_base(tmp_path / "base.h5")
    words = {
        name: torture.command("train_base_model", tmp_path / name, tmp_path / "base.h5") for name in ("whole", "parts")
    }
    words["parts"] += ["--tensorboard", str(tmp_path / "logs")]
    subprocess.run(words["whole"], check=True, env=environment)
    process = subprocess.Popen(words["parts"], env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "parts" / "state.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM; epoch " in process.communicate()[1] and process.returncode == 143
    subprocess.run(words["parts"], check=True, env=environment)
    assert torture.contents(tmp_path / "whole") == torture.contents(tmp_path / "parts")
    found, _ = test_events.scalars(tmp_path / "logs" / "parts")
    assert found == test_events.wanted(json.loads((tmp_path / "parts" / "history.json").read_text()))


def test_histories_of_jax_hold_every_loss(chain):
    history = json.loads((chain / "student" / "history.json").read_text())
    for name in ("train_backbone", "train_intermediate", "train_adversarial", "train_discriminator"):
        assert history[name][0] > 0
    assert history["run"]["backend"] == "jax"


def test_the_teacher_falls_silent_under_jax_as_under_tensorflow(chain, tmp_path):
    losses = {}
    for backend, flag in (
        ("jax", "--teacher_annealing"),
        ("tensorflow", "--teacher_annealing"),
        ("jax", "--no-teacher_annealing"),
    ):
        folder = tmp_path / f"{backend}{flag}"
        script(
            backend,
            "knowledge_distillation",
            *TINY,
            "--root_folder",
            chain / "base",
            "--save_folder",
            folder,
            "--lambda1",
            2,
            "--hard_label_weight",
            1,
            "--student_learning_rate",
            0.0001,
            flag,
        )
        losses[backend, flag] = json.loads((folder / "history.json").read_text())["train_loss"][0]
    annealed, expected, constant = losses.values()
    assert annealed == pytest.approx(expected, rel=0.01)
    assert annealed < 0.95 * constant


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_a_half_precision_batch_norm_are_those_of_float32(dtype):
    import jax
    from test_resnets import batch_norm_gradients, close

    def gradient(function, *values):
        return jax.grad(function, argnums=(0, 1, 2))(*values)

    for low, full in zip(*batch_norm_gradients(gradient, dtype), strict=True):
        assert close(low, full, 0.01)
