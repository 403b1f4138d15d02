"""events.py: what a TensorBoard is given equals the history, wherever the run was killed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import test_training
from test_training import RECIPE, RUN, killed_at, same, without_times

from compress.cli import app
from compress.cli.configs import MachineConfig, RunConfig
from compress.errors import InputError
from compress.storage import events
from compress.training import callbacks

pytestmark = pytest.mark.usefixtures("without_figures")


def told(tmp_path, name="base_model", resume="auto"):
    """The arguments of a run in tmp_path/name with events under tmp_path/logs."""
    return {
        "record": {"flags": RUN["flags"] | {"save_folder": str(tmp_path / name)}},
        "config": RunConfig(resume, tensorboard=str(tmp_path / "logs"), verbose=0, home=str(tmp_path / name)),
    }


def logged(tmp_path, seed=0, name="base_model", recipe=RECIPE, resume="auto"):
    """One such run."""
    return test_training.train(tmp_path / name, recipe, seed=seed, **told(tmp_path, name, resume))


def scalars(folder):
    """{tag: [(epoch, value), ...]} of all event files in a folder, in their order, and the times of the epochs."""
    found, times = {}, []
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            if event.summary.value:
                times.append(event.wall_time)
    return found, times


def wanted(history):
    """The same by hand: single precision, epochs from 1."""
    names = {
        "loss/train": "train_loss",
        "accuracy/train": "train_acc",
        "loss/validation": "val_loss",
        "accuracy/validation": "val_acc",
        "learning_rate": "learning_rate",
        "seconds": "seconds",
    }
    return {
        tag: [(i, float(np.float32(value))) for i, value in enumerate(history[name], 1)] for tag, name in names.items()
    }


def test_events_are_the_history_and_change_nothing(tmp_path):
    model, _ = logged(tmp_path)
    history = json.loads((tmp_path / "base_model" / "history.json").read_text())
    found, times = scalars(tmp_path / "logs" / "base_model")
    assert found == wanted(history) and len(times) == RECIPE.epochs and times == sorted(times)
    without, plain = test_training.train(tmp_path / "plain")
    assert same(model.get_weights(), without.get_weights())
    assert without_times(history) | {"run": 0} == without_times(plain) | {"run": 0}
    assert {path.name for path in (tmp_path / "base_model").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }


@pytest.mark.parametrize(
    ("number", "behind"),
    [
        (3, callbacks.KeepBest),
        pytest.param(3, callbacks.SaveState, marks=pytest.mark.slow),
        pytest.param(3, callbacks.Publish, marks=pytest.mark.slow),
        (2, callbacks.SaveState),
    ],
    ids=["before the state", "behind the state", "before the events", "an epoch earlier"],
)
def test_a_resumed_run_has_every_epoch_once(number, behind, tmp_path):
    killed_at(tmp_path / "base_model", "on_epoch_end", number, behind, **told(tmp_path))
    assert len(scalars(tmp_path / "logs" / "base_model")[1]) == number - 1
    _, history = logged(tmp_path)
    found, times = scalars(tmp_path / "logs" / "base_model")
    assert found == wanted(history)
    assert times == sorted(times) and times[-1] - times[0] >= 0.99 * sum(history["seconds"][1:])


def test_a_watching_tensorboard_is_told_to_forget_what_an_earlier_file_said(tmp_path):
    """Its rule, since brain.Event:2: a START drops the points from its step on."""
    logged(tmp_path)
    (path,) = (tmp_path / "logs" / "base_model").iterdir()
    first, second, *_ = tf.compat.v1.train.summary_iterator(str(path))
    assert first.file_version == "brain.Event:2"
    assert second.session_log.status == tf.compat.v1.SessionLog.START and second.step == 0


@pytest.mark.slow
def test_a_log_asked_for_late_has_the_epochs_before_it_and_starting_over_replaces_it(tmp_path):
    killed_at(tmp_path / "base_model", "on_epoch_end", 3, callbacks.KeepBest)
    _, history = logged(tmp_path)
    assert scalars(tmp_path / "logs" / "base_model")[0] == wanted(history)
    _, again = logged(tmp_path, recipe=dataclasses.replace(RECIPE, epochs=2), resume="never")
    assert scalars(tmp_path / "logs" / "base_model")[0] == wanted(again)


def test_events_of_another_run_are_refused_and_kept(tmp_path):
    logged(tmp_path, name="one/base_model", recipe=dataclasses.replace(RECIPE, epochs=1))
    before = {path: path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"^`tensorboard`: .* holds events of another run \(events\S+\); expected"):
        logged(tmp_path, name="two/base_model")
    assert {path: path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file()} == before


def test_a_run_may_be_moved_together_with_its_log(tmp_path):
    (tmp_path / "here").mkdir()
    killed_at(tmp_path / "here" / "base_model", "on_epoch_end", 3, callbacks.KeepBest, **told(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    _, history = logged(tmp_path / "there")
    assert scalars(tmp_path / "there" / "logs" / "base_model")[0] == wanted(history)


@pytest.mark.parametrize(
    ("folder", "home", "place"),
    [
        ("model/base_model", "./model/base_model", "base_model"),
        ("model/pruned_model/iter3", "model/pruned_model/", "pruned_model/iter3"),
        ("kd/ablation/backbone", "kd", "kd/ablation/backbone"),
        ("../b/c", "../b/c", "c"),
        ("../b/c", None, "c"),
        (".", ".", Path.cwd().name),
    ],
)
def test_a_run_is_named_after_its_home(folder, home, place):
    assert events.run_folder("logs", Path(folder), home)[0] == Path("logs") / place


def test_losses_of_a_distillation_have_tags_of_their_own():
    assert [events.tag_of(f"train_{name}") for name in ("backbone", "hard_label")] == [
        "losses/backbone",
        "losses/hard_label",
    ]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    log = events.EventLog(tmp_path, ".x")

    def full(*args):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(log, "writer", type("Writer", (), {"write": full}))
    with pytest.raises(InputError, match=r"^`tensorboard`: \S+ can't be written \(No space left on device\); expected"):
        log.follow({"val_acc": [0.5], "seconds": [1.0], "run": {}})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_disk_that_is_really_full(tmp_path):
    log = events.EventLog(tmp_path, ".x")
    log.writer = tf.io.TFRecordWriter("/dev/full")
    with pytest.raises(InputError, match=r"^`tensorboard`: \S+ can't be written \(.+\); expected room"):
        log.follow({"val_acc": [0.5], "seconds": [1.0]})
    log.writer = tf.io.TFRecordWriter(str(tmp_path / "other"))
    log.close()


def test_what_takes_no_events_is_told_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="^received .*, expected a folder that can be written to") as caught:
        app.start_keras(MachineConfig(gpu=False, tensorboard=str(tmp_path / "a")))
    assert str(caught.value.path) == str(tmp_path / "a")  # by which the command line finds the flag
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^`tensorboard`: received \S+ where there is no TensorFlow"):
        app.start_keras(MachineConfig(gpu=False, tensorboard=str(tmp_path / "b")))
    assert not (tmp_path / "b").exists()
