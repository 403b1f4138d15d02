"""callbacks.py: each callback alone, beside a real training of a toy or called as Keras calls it."""

import dataclasses
import os
import signal

import h5py
import keras
import numpy as np
import pytest
import test_events
from test_training import IMAGES, RECIPE, STEPS, compiled, recorded, same, schedule, small_model, weights_of

from compress.cli import display
from compress.cli.configs import RunConfig
from compress.data import batches
from compress.errors import Diverged, Stopped
from compress.storage import recording, records, states
from compress.training import callbacks, fit

ONE = dataclasses.replace(RECIPE, epochs=1)


@pytest.fixture
def run(tmp_path):
    """A run in a folder with nothing in it, whose network is compiled."""
    model = compiled(small_model())
    fit.build(model, 4)
    return recorded(tmp_path, model)


def listing(run):
    return {path.name for path in run.folder.iterdir()}


def test_a_fit_without_callbacks_is_keras_fit_validated_by_numpy(tmp_path):
    model, plain = compiled(small_model()), compiled(small_model())
    history = fit.fit(model, IMAGES, RECIPE)
    alone = plain.fit(
        batches.batches(IMAGES.train, 8, RECIPE.seed), steps_per_epoch=STEPS, epochs=4, shuffle=False, verbose=0
    ).history
    assert same(model.get_weights(), plain.get_weights())
    assert history["train_loss"] == alone["loss"] and history["train_acc"] == alone["accuracy"]
    logits = np.asarray(model(IMAGES.val.images.astype("float32"), training=False), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert history["val_acc"][-1] == pytest.approx((logits.argmax(1) == IMAGES.val.labels).mean())
    assert history["val_loss"][-1] == pytest.approx(-log_p[np.arange(20), IMAGES.val.labels].mean(), rel=1e-4)
    rate = schedule(RECIPE, STEPS)
    np.testing.assert_allclose(history["learning_rate"], [float(rate(i)) for i in (4, 9, 14, 19)], rtol=1e-5)
    assert list(tmp_path.iterdir()) == [] and all(seconds > 0 for seconds in history["seconds"])


def test_a_batch_larger_than_the_training_images_is_all_of_them():
    model = compiled(small_model())
    fit.fit(model, IMAGES, dataclasses.replace(ONE, batch_size=1000))
    assert int(model.optimizer.iterations) == 1


def test_early_stopping_of_keras_sees_the_validation():
    stop = keras.callbacks.EarlyStopping("val_accuracy", min_delta=2.0, patience=0)  # no accuracy rises by that
    history = fit.fit(compiled(small_model()), IMAGES, RECIPE, [stop])
    assert len(history["val_acc"]) == 2 < RECIPE.epochs  # it lets the first epoch be
    assert stop.best == history["val_acc"][0]


@pytest.mark.parametrize("step", [0, 2])
def test_a_callback_ends_the_training_behind_an_epoch_begun_before_too(step):
    model, progress = compiled(small_model()), recording.Progress(step=step)
    end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True))
    assert len(fit.fit(model, IMAGES, RECIPE, [end], progress)["val_acc"]) == progress.epoch == 1


@pytest.mark.parametrize(
    ("epoch", "kept", "says"),
    [
        (0, None, "in epoch 1, step 3 of 5, at a learning rate of 0.026; no epochs were finished before it; expected"),
        (1, None, "in epoch 2, step 3 of 5, at a learning rate of .*; 1 epoch was finished before it; expected"),
        (2, 2, r"in epoch 3, step 3 of 5, .*model\.h5 holds epoch 2, the best before it; expected a smaller learning"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_training_with_a_word_on_what_is_left(epoch, kept, says, run):
    guard = callbacks.StopOnNaN(run, RECIPE, STEPS)
    run.progress.epoch, run.progress.step = epoch, 3
    run.progress.history |= {"checkpoint": {"epoch": kept}} if kept else {}
    guard.on_train_batch_end(2, {"loss": 1.5})
    for loss in (float("nan"), float("inf")):
        with pytest.raises(Diverged, match=f"^the loss became {loss} {says}"):
            guard.on_train_batch_end(2, {"loss": loss})


def test_a_validation_that_is_no_number_is_found_too(run):
    guard = callbacks.StopOnNaN(run, RECIPE, STEPS)
    run.progress.history |= {name: [1.0, 2.0] for name in records.CURVES}
    guard.on_epoch_end(1)
    run.progress.history["val_loss"][-1] = float("nan")
    with pytest.raises(Diverged, match="in epoch 2, step 5 of 5"):
        guard.on_epoch_end(1)


def test_the_best_epoch_is_written_and_of_equal_ones_that_of_the_lower_loss(run):
    best, written, history = callbacks.KeepBest(run), [], run.progress.history
    for epoch, (accuracy, loss) in enumerate(((0.0, 1), (0.5, 3), (0.5, 3), (0.4, 0), (0.5, 2), (0.5, 4), (0.6, 9))):
        history["val_acc"].append(accuracy)
        history["val_loss"].append(loss)
        best.on_epoch_end(epoch)
        written.append(listing(run) == {recording.NEXT})
        (run.folder / recording.NEXT).unlink(missing_ok=True)
        assert history["checkpoint"]["epoch"] == records.best_epoch(history) + 1
    assert written == [True, True, False, False, True, False, True] and history["checkpoint"]["epoch"] == 7


def test_a_run_of_an_earlier_version_goes_on_from_the_epoch_that_it_kept(run):
    """Of equal accuracies it kept the first, whatever its loss; the second one's weights are gone."""
    history = run.progress.history
    history |= {"val_acc": [0.5, 0.5], "val_loss": [3.0, 1.0], "checkpoint": {"sha256": "0" * 64, "epoch": 1}}
    assert records.best_epoch(history) == 0
    for loss, kept in ((3.0, 1), (2.0, 4)):
        history["val_acc"].append(0.5)
        history["val_loss"].append(loss)
        callbacks.KeepBest(run).on_epoch_end(len(history["val_acc"]) - 1)
        assert history["checkpoint"]["epoch"] == kept == records.best_epoch(history) + 1


def test_a_state_holds_all_that_goes_on(run):
    asked = callbacks.StopOnSignal(run, STEPS)
    fit.fit(run.saved, IMAGES, ONE, [callbacks.SaveState(run, STEPS, asked)], run.progress)
    other = compiled(small_model(9))
    fit.build(other, 4)
    meta = states.load_state(other, run.folder / records.STATE)
    assert (meta["epoch"], meta["step"], meta["history"]) == (1, 0, run.progress.history)
    assert same(other.get_weights(), run.saved.get_weights()) and int(other.optimizer.iterations) == STEPS
    for ours, theirs in zip(other.optimizer.variables, run.saved.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_within_an_epoch_a_state_is_written_when_it_is_due_and_loss_and_accuracy_go_on_from_it(run):
    run.config = RunConfig(save_minutes=1e9)
    state = callbacks.SaveState(run, STEPS, callbacks.StopOnSignal(run, STEPS))
    state.set_model(run.saved)
    run.progress.step = 2
    state.on_train_batch_end(1)
    assert listing(run) == set()
    run.config = RunConfig(save_minutes=0.0)
    state.on_train_batch_end(1)
    assert states.read_meta(run.folder / records.STATE)["step"] == 2 and run.stored == (0, 2)
    (metric,) = (m for m in run.saved.metrics if m.name == "loss")
    metric.update_state(3.0)
    state.on_train_begin()
    run.saved.reset_metrics()  # as Keras does when an epoch begins
    state.on_epoch_begin(0)
    assert float(metric.result()) == 3.0
    run.progress.step = 0
    run.saved.reset_metrics()
    state.on_epoch_begin(1)
    assert float(metric.result()) == 0.0


def test_published_is_the_kept_model_and_the_result_of_an_older_one_goes(run):
    publish = callbacks.Publish(run)
    (run.folder / "result.json").write_text("{}")
    publish.on_epoch_end(0)
    assert listing(run) == {"history.json", "result.json"}
    run.keep(1)
    publish.on_epoch_end(1)
    assert listing(run) == {"history.json", "model.h5"}
    assert records.read_json(run.folder / "history.json")["checkpoint"]["epoch"] == 1
    assert same(weights_of(run.folder / "model.h5"), run.saved.get_weights())
    with h5py.File(run.folder / "model.h5") as file:
        assert "class_names" not in file  # the record names none


def test_events_follow_the_history(run):
    run.config = RunConfig(tensorboard=str(run.folder / "logs"))
    history = fit.fit(run.saved, IMAGES, ONE, [callbacks.WriteEvents(run)], run.progress)
    assert test_events.scalars(run.folder / "logs" / run.folder.name)[0] == test_events.wanted(history)


def test_a_signal_waits_for_the_state_and_its_handlers_go(run):
    before, asked = signal.getsignal(signal.SIGTERM), callbacks.StopOnSignal(run, STEPS)
    run.progress.epoch, run.progress.step = 1, 2
    with pytest.raises(Stopped, match="SIGTERM; epoch 2, step 2 of 5 is saved in .*state.npz") as caught, asked:
        asked.on_epoch_end(0)  # nobody asked
        os.kill(os.getpid(), signal.SIGTERM)
        asked.on_train_batch_end(1)  # there is no state of this step
        run.stored = (1, 2)
        asked.on_train_batch_end(1)
    assert run.stored == (1, 2) and caught.value.number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before


def test_a_signal_behind_the_last_epoch_is_heard(run):
    run.progress.epoch = 4
    with pytest.raises(Stopped, match="SIGHUP; epoch 4 is saved"), callbacks.StopOnSignal(run, STEPS):
        os.kill(os.getpid(), signal.SIGHUP)


def test_the_bar_says_a_line_an_epoch_and_is_closed_where_it_was_opened(run, capsys):
    bar = display.EpochBar("toy", 40, 1, 2)
    history = fit.fit(run.saved, IMAGES, ONE, [callbacks.ShowBar(bar, run.progress, STEPS)], run.progress)
    start, line = capsys.readouterr().out.split("\n")[:2]
    assert start == "toy: 1 epoch of 40 images; compiling"
    assert line.startswith(f"toy: epoch 1/1  train loss {history['train_loss'][0]:.4f}, accuracy ")
    fit.fit(run.saved, IMAGES, ONE, [callbacks.ShowBar(bar, run.progress, STEPS)], run.progress)
    assert capsys.readouterr().out == "toy: its training was finished before\n"


def test_what_holds_something_lets_go_whatever_happens(run):
    """Keras' on_train_end isn't called where a training ends by an exception; a context manager's end is."""
    calls = []

    class Holds(callbacks.Publish):
        def __enter__(self):
            calls.append("enter")

        def __exit__(self, *exc):
            calls.append("exit")

        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit.fit(run.saved, IMAGES, ONE, [Holds(run)], run.progress)
    assert calls == ["enter", "exit"]
