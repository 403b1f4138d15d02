"""training.py: the schedule and the optimiser against numpy, and runs that stop anywhere and go on."""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import types
import zipfile

import keras
import numpy as np
import pytest
from conftest import narrow_widths, randomised
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import dataset
from compress.errors import Diverged, InputError, Stopped
from compress.storage import files, recording, records, resuming, states
from compress.training import fit

RNG = np.random.default_rng(11)
RECIPE = fit.Recipe(epochs=4, batch_size=8, learning_rate=0.05, weight_decay=1e-3, label_smoothing=0.1,
                         warmup=0.25, seed=5, verbose=0)
RUN = {"flags": {"weight_decay": 1e-3, "verbose": 0, "resume": "auto"}}


def split(n, name, shape=(8, 8, 3), pad=0, seed=0):
    """Noise whose brightness tells its class, of 4."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 4)
    images = rng.integers(0, 120, (n, *shape)) + 30 * labels[:, None, None, None]
    return dataset.Split(images.astype("uint8"), labels, name, pad, flip=pad > 0)


IMAGES = dataset.Data("toy", split(44, "train", pad=1), split(20, "validation", seed=1), split(4, "test", seed=2),
                   tuple("abcd"), "")
STEPS = 5  # whole batches of 8 in 44


def small_model(seed=0):
    """A convolution with batch-norm in front of 4 logits."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential([  # named, for files of equal bytes
        keras.Input((8, 8, 3), name="image"), layers.Rescaling(1 / 128, -1.0, name="scale"),
        layers.Conv2D(6, 3, name="conv"), layers.BatchNormalization(momentum=0.9, name="norm"),
        layers.ReLU(name="relu"), layers.GlobalAveragePooling2D(name="pool"), layers.Dense(4, name="head")], name="toy")


class ToyJudge:
    """Stands for folded.FoldedResNet, which knows ResNets alone: the toy's logits in inference mode."""

    def __init__(self, model, precision):
        assert precision in ("float32", "mixed_float16")
        self.refold(model)

    def refold(self, model):
        self.model = type(model).from_config(model.get_config())  # a copy, as the folded network is
        self.model.set_weights(model.get_weights())

    def predict_on_batch(self, images):
        return np.asarray(self.model(np.asarray(images, np.float32), training=False))


@pytest.fixture(scope="module", autouse=True)
def judge_of_toys():
    """Lets `fit` validate models that are no ResNets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "folded", types.SimpleNamespace(FoldedResNet=ToyJudge))
        yield


def compiled(model, recipe=RECIPE):
    """Compiled as the scripts do, but run step by step: 20 small steps take less time than a trace."""
    fit.compile_classifier(model, recipe, STEPS)
    model.run_eagerly = True
    return model


def run(folder, recipe=RECIPE, run_record=RUN, seed=0, **more):
    """One call of `fit` as a script makes it, with a new model; returns (model, history)."""
    model = compiled(small_model(seed), recipe)
    history = fit.fit(model, model, IMAGES, recipe, folder, run_record, "toy", **more)
    fit.finish(folder)
    return model, history


def weights_of(path):
    """What plain Keras finds in a file."""
    return keras.models.load_model(path, compile=False).get_weights()


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def without_times(history):
    return {key: values for key, values in history.items() if key != "seconds"}


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


class Killed(Exception):
    """Stands for the end of the process."""


def at_call(function, number, monkeypatch):
    """Makes `owner.name` of `function` raise Killed instead of its call of that number, counted from 1."""
    owner, name = function
    original, calls = getattr(owner, name), iter(range(1, 10**6))

    def counted(*args, **kwargs):
        if next(calls) == number:
            raise Killed
        return original(*args, **kwargs)
    monkeypatch.setattr(owner, name, counted)


# ---- schedule and optimiser ----

def rates(recipe, steps, count=None):
    schedule = fit.schedule(recipe, steps)
    return np.array([float(schedule(i)) for i in range(recipe.epochs * steps + 1 if count is None else count)])


@settings(max_examples=15, deadline=None)
@given(epochs=st.integers(1, 6), steps=st.integers(1, 6), warmup=st.floats(0, 1), top=st.floats(1e-4, 1))
def test_schedule_is_numpys(epochs, steps, warmup, top):
    recipe = dataclasses.replace(RECIPE, epochs=epochs, learning_rate=top, warmup=warmup)
    total = epochs * steps
    rise = min(round(warmup * total), total - 1)
    step = np.arange(total + 1)
    expected = 0.5 * top * (1 + np.cos(np.pi * (step - rise) / (total - rise)))
    if rise:
        climb = top / rise + (top - top / rise) * step / rise
        expected = np.where(step < rise, climb, expected)
    np.testing.assert_allclose(rates(recipe, steps), expected, rtol=1e-4, atol=1e-6 * top)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_schedule_starts_low_peaks_at_the_end_of_the_warm_up_and_ends_at_zero(warmup):
    recipe = dataclasses.replace(RECIPE, epochs=4, learning_rate=0.3, warmup=warmup)
    found, rise = rates(recipe, 10), min(round(40 * warmup), 39)
    assert np.argmax(found) == rise and found[rise] == pytest.approx(0.3)
    assert found[-1] == pytest.approx(0, abs=1e-7)
    assert (np.diff(found[:rise + 1]) > 0).all() and (np.diff(found[rise:]) < 0).all()
    if rise:
        assert 0 < found[0] <= 0.3 / rise * 1.001  # a first step of 0 would be lost
    assert (found[:-1] > 0).all()


def test_a_run_of_one_step_has_the_full_rate():
    for warmup in (0.0, 1.0):
        assert rates(dataclasses.replace(RECIPE, epochs=1, warmup=warmup), 1)[0] == pytest.approx(0.05)


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_decay_shrinks_kernels_and_spares_biases_and_batch_norm(decay):
    recipe = dataclasses.replace(RECIPE, weight_decay=decay, warmup=0.0, learning_rate=0.1)
    model = small_model()
    for v in model.trainable_variables:
        v.assign(RNG.uniform(1, 2, v.shape))
    before = [np.array(v) for v in model.trainable_variables]
    zeros = [np.zeros(v.shape, "float32") for v in before]
    fit.optimizer_of(recipe, STEPS).apply(zeros, model.trainable_variables)
    decayed = []
    for v, old in zip(model.trainable_variables, before, strict=True):
        factor = 1 - 0.1 * decay if v.name == "kernel" else 1
        np.testing.assert_allclose(np.array(v), factor * old, rtol=1e-6)
        decayed.append(v.name)
    assert sorted(decayed) == ["beta", "bias", "bias", "gamma", "kernel", "kernel"]


def test_sgd_is_nesterovs_with_momentum_09_and_decoupled_decay():
    recipe = dataclasses.replace(RECIPE, weight_decay=0.02, warmup=0.5, learning_rate=0.1)
    optimizer, variable = fit.optimizer_of(recipe, STEPS), keras.Variable(np.float32([1.0, -2.0]), name="kernel")
    x, velocity, lr = np.array([1.0, -2.0]), np.zeros(2), rates(recipe, STEPS)
    for step in range(6):
        gradient = np.array([0.3 * step - 0.5, 1.0])
        x = x * (1 - 0.02 * lr[step])
        velocity = 0.9 * velocity - lr[step] * gradient
        x = x + 0.9 * velocity - lr[step] * gradient
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
        np.testing.assert_allclose(np.array(variable), x, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_classifiers_loss_is_numpys_smoothed_cross_entropy(smoothing):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    fit.compile_classifier(model, dataclasses.replace(RECIPE, label_smoothing=smoothing), STEPS)
    x, labels = RNG.normal(0, 2, (11, 5)).astype("float32"), RNG.integers(0, 5, 11)
    logs = model.evaluate(x, labels, batch_size=4, verbose=0, return_dict=True)
    logits = np.asarray(model(x), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    assert logs["loss"] == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)
    assert logs["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_a_recipe_takes_its_flags_and_the_given_rate():
    args = argparse.Namespace(epoch_num=7, batch_size=3, weight_decay=0.1, label_smoothing=0.2, warmup=0.3, seed=4,
                              verbose=2, resume="never", save_minutes=2.5, precision="mixed_bfloat16", learning_rate=99,
                              optimizer="muon", tensorboard="logs", other=1)
    assert fit.Recipe.from_flags(args, 0.5) == fit.Recipe(7, 3, 0.5, 0.1, 0.2, 0.3, 4, 2, "never", 2.5,
                                                                    "mixed_bfloat16", "muon", "logs")


# ---- fit ----

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(model, history, folder) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return *run(folder), folder


def test_a_finished_run_leaves_model_history_and_plot(whole):
    model, history, folder = whole
    assert {path.name for path in folder.iterdir()} == {"model.h5", "history.json", "history.png"}
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    curves = records.read_history(folder / "history.json")
    assert set(curves) == {*records.CURVES, "learning_rate", "seconds"}
    for name, values in curves.items():
        assert values == history[name] and len(values) == 4
    assert json.loads((folder / "history.json").read_text()) == history and history["run"] == RUN
    np.testing.assert_allclose(history["learning_rate"], rates(RECIPE, STEPS)[4:20:5], rtol=1e-5)
    assert same(model.get_weights(), weights_of(folder / "model.h5"))


def test_the_history_is_true_of_the_saved_epoch(whole):
    model, history, _ = whole
    best = fit.best_epoch(history)
    logits = np.asarray(model(IMAGES.val.images.astype("float32"), training=False), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert history["val_acc"][best] == pytest.approx((logits.argmax(1) == IMAGES.val.labels).mean())
    # without the smoothing of the training loss: the losses of all runs compare
    assert history["val_loss"][best] == pytest.approx(-log_p[np.arange(20), IMAGES.val.labels].mean(), rel=1e-4)


INTERRUPTIONS = {
    "at the start of epoch 3": ((recording.Recorder, "on_epoch_begin"), 3),
    "in the middle of epoch 3": ((recording.Recorder, "on_train_batch_end"), 13),
    "before any epoch is over": ((recording.Recorder, "on_train_batch_end"), 2),
    "between next model and state of epoch 1": ((states, "save_state"), 1),
    "between next model and state of epoch 3": ((states, "save_state"), 3),
    "between next model and state of the last epoch": ((states, "save_state"), 4),
    "between state and history of epoch 1": ((records, "write_json"), 1),
    "between state and history of epoch 2": ((records, "write_json"), 2),
    "between history and model of epoch 1": ((recording.files, "move"), 4),
    "between history and model of epoch 2": ((recording.files, "move"), 8),
    "after the last epoch": ((fit.style, "save_figure"), 1),
}


@pytest.mark.parametrize("when", INTERRUPTIONS)
def test_interrupted_and_resumed_equals_uninterrupted(when, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(*INTERRUPTIONS[when], patch)
        run(tmp_path)
    assert not (tmp_path / "history.png").exists()
    if "history and model" in when:
        told = records.read_json(tmp_path / "history.json", "")["checkpoint"]
        assert told["sha256"] == files.sha256(tmp_path / recording.NEXT)
    # other start weights: those of the state must win; where no state was written it is the same run from the start
    seed = 99 if (tmp_path / "state.npz").exists() else 0
    model, history = run(tmp_path, seed=seed)
    assert without_times(history) == without_times(whole[1])
    assert len(history["seconds"]) == 4
    assert same(model.get_weights(), whole[0].get_weights())
    assert same(weights_of(tmp_path / "model.h5"), whole[0].get_weights())
    assert {path.name for path in tmp_path.iterdir()} == {"model.h5", "history.json", "history.png"}


def test_the_last_epoch_is_the_same_after_two_interruptions(tmp_path, monkeypatch):
    expected, _ = run(tmp_path / "whole", keep_best=False)
    for number in (2, 2):  # the second counts from the second epoch on
        with monkeypatch.context() as patch, pytest.raises(Killed):
            at_call((states, "save_state"), number, patch)
            run(tmp_path / "parts", keep_best=False)
        assert not (tmp_path / "parts" / "model.h5").exists()
    model, _ = run(tmp_path / "parts", keep_best=False, seed=99)
    assert same(model.get_weights(), expected.get_weights())
    assert same(weights_of(tmp_path / "parts" / "model.h5"), expected.get_weights())


def test_the_state_holds_slots_and_step_count(killed):
    model = compiled(small_model(99))
    fit._build(model, 4)
    meta = states.load_state(model, killed / "state.npz")
    assert (meta["epoch"], meta["step"], len(meta["history"]["val_acc"])) == (2, 0, 2)
    assert int(model.optimizer.iterations) == 2 * STEPS
    slots = [np.array(v) for v in model.optimizer.variables if v.ndim]
    assert len(slots) == 6 and all(np.abs(v).max() > 0 for v in slots if v.ndim == 4)


@pytest.fixture
def scripted(monkeypatch):
    """function(accuracies, losses) -> (trainer, saved, snapshots): validates as prescribed, and keeps the weights."""
    validate = recording.Recorder.validate

    def prescribe(accuracies, losses=None):
        trainer, snapshots = compiled(small_model()), []

        def said(recorder):
            found, epoch = validate(recorder), len(snapshots)
            snapshots.append(trainer.get_weights())
            return found | {"acc": accuracies[epoch]} | ({"loss": losses[epoch]} if losses else {})
        monkeypatch.setattr(recording.Recorder, "validate", said)
        return trainer, keras.Model(trainer.inputs[0], trainer.outputs[0]), snapshots
    return prescribe


@pytest.mark.parametrize(("accuracies", "best"), [
    ((0.2, 0.6, 0.4, 0.6), 1), ((0, 0, 0, 0), 0), ((0.1, 0.2, 0.3, 0.4), 3)])
def test_the_first_of_the_best_epochs_is_kept(accuracies, best, tmp_path, scripted):
    trainer, saved, snapshots = scripted(accuracies)
    history = fit.fit(trainer, saved, IMAGES, RECIPE, tmp_path, RUN, "toy")
    assert history["val_acc"] == list(accuracies) and fit.best_epoch(history) == best
    assert not same(snapshots[0], snapshots[-1])
    assert same(saved.get_weights(), snapshots[best])
    assert same(weights_of(tmp_path / "model.h5"), snapshots[best])


def test_without_keep_best_the_last_epoch_is_kept(tmp_path, scripted):
    trainer, saved, snapshots = scripted((0.2, 0.6, 0.4, 0.5))
    fit.fit(trainer, saved, IMAGES, RECIPE, tmp_path, RUN, "toy", keep_best=False)
    assert same(saved.get_weights(), snapshots[3])
    assert same(weights_of(tmp_path / "model.h5"), snapshots[3])


def test_the_best_epoch_before_an_interruption_is_not_overwritten_by_a_worse_one_after(tmp_path, monkeypatch,
                                                                                       scripted):
    first, saved, snapshots = scripted((0.3, 0.7))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 3, patch)
        fit.fit(first, saved, IMAGES, RECIPE, tmp_path, RUN, "toy")
    second, saved, _ = scripted((0.5, 0.7))  # epochs 3 and 4
    history = fit.fit(second, saved, IMAGES, RECIPE, tmp_path, RUN, "toy")
    assert history["val_acc"] == [0.3, 0.7, 0.5, 0.7]
    assert same(saved.get_weights(), snapshots[1])
    assert same(weights_of(tmp_path / "model.h5"), snapshots[1])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed at the start of its third epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 3, patch)
        run(folder)
    return folder


@pytest.fixture
def unfinished(killed, tmp_path):
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "run")


def test_an_unfinished_run_shows_what_it_has(unfinished):
    assert {path.name for path in unfinished.iterdir()} == {"model.h5", "history.json", "state.npz"}
    assert len(records.read_history(unfinished / "history.json")["val_acc"]) == 2


def test_other_flags_are_refused_and_nothing_is_overwritten(unfinished):
    before = contents(unfinished)
    with pytest.raises(InputError, match=r"^--resume: .*decay 0\.001; received --weight_decay 0\.5.*--resume never"):
        run(unfinished, run_record={"flags": RUN["flags"] | {"weight_decay": 0.5}})
    with pytest.raises(InputError, match=r"no --seed; received --seed 3"):
        run(unfinished, run_record={"flags": RUN["flags"] | {"seed": 3}, "argv": ["script.py", "--seed=3"]})
    assert contents(unfinished) == before


def test_the_flag_is_named_where_it_makes_the_state_one_of_another_length(unfinished):
    shorter = {"flags": RUN["flags"] | {"epoch_num": 1}, "argv": ["script.py", "--epoch_num=1"]}
    with pytest.raises(InputError, match=r"^--epoch_num: received 1, but the run in .* is in epoch 2 already"):
        run(unfinished, dataclasses.replace(RECIPE, epochs=1), shorter)


def test_a_refused_batch_leaves_the_state_of_before(unfinished, monkeypatch):
    def refuse(*_):
        raise InputError("--batch_size: received 1 image")

    before = contents(unfinished)
    monkeypatch.setattr(fit, "check_batch", refuse)
    with pytest.raises(InputError, match="--batch_size"):
        run(unfinished, dataclasses.replace(RECIPE, resume="never"))
    assert contents(unfinished) == before


def test_flags_that_leave_the_result_alone_may_differ(unfinished, whole):
    _, history = run(unfinished, run_record={"flags": RUN["flags"] | {"verbose": 2, "num_worker": 3}})
    assert history["val_loss"] == whole[1]["val_loss"]


def test_never_starts_over_even_with_other_flags(unfinished, whole):
    other = {"flags": RUN["flags"] | {"weight_decay": 0.5}}
    model, history = run(unfinished, dataclasses.replace(RECIPE, resume="never"), other)
    assert without_times(history) == without_times(whole[1]) | {"run": other}
    assert same(model.get_weights(), whole[0].get_weights())
    assert not (unfinished / "state.npz").exists()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:1000]),
                                    lambda path: path.write_bytes(b""),
                                    lambda path: zipfile.ZipFile(path, "w").close()], ids=["cut", "empty", "hollow"])
def test_a_damaged_state_is_refused_in_one_line(unfinished, damage):
    damage(unfinished / "state.npz")
    before = contents(unfinished)
    words = r"(?s)^--resume: .*state\.npz can't be read.*--resume never"
    with pytest.raises(InputError, match=words) as caught:
        run(unfinished)
    assert "\n" not in str(caught.value)
    assert contents(unfinished) == before


@pytest.mark.parametrize("text", [None, "{", '{"run": null}'], ids=["missing", "cut", "null"])
def test_the_state_brings_the_history_back(unfinished, whole, text):
    (unfinished / "history.json").unlink()
    if text:
        (unfinished / "history.json").write_text(text)
    _, history = run(unfinished)
    assert without_times(history) == without_times(whole[1])


@pytest.mark.parametrize("change", [
    {"epoch": 3}, {"epoch": -1}, {"epoch": 2.0}, {"step": STEPS}, {"step": -1}, {"history": {}}, {"history": None},
    {"history": {name: [0.5] for name in records.CURVES} | {"run": RUN}}], ids=str)
def test_a_state_that_describes_no_run_is_refused(unfinished, change):
    model = compiled(small_model())
    fit._build(model, 4)
    meta = states.load_state(model, unfinished / "state.npz")
    states.save_state(model, unfinished / "state.npz", meta | change)
    before = contents(unfinished)
    with pytest.raises(InputError, match=r"^--resume: .*state\.npz can't be read"):
        run(unfinished)
    assert contents(unfinished) == before


def test_every_flipped_bit_of_a_state_is_found_or_harmless(unfinished, whole):
    """At 200 places all over the file."""
    path, found, rng = unfinished / "state.npz", 0, np.random.default_rng(0)
    good = path.read_bytes()
    wanted = _loaded(path)
    for place in rng.integers(0, len(good), 200):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            assert same(_loaded(path), wanted)  # in a time stamp, say
        except Exception as error:
            assert not isinstance(error, AssertionError), place
            found += 1
    assert found > 150
    path.write_bytes(bad)


def _loaded(path):
    model = compiled(small_model(99))
    fit._build(model, 4)
    meta = states.load_state(model, path)
    return [json.dumps(meta), *map(np.array, model.variables), *map(np.array, model.optimizer.variables)]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])],
                         ids=["missing", "cut"])
def test_a_best_model_that_is_not_the_states_is_refused(unfinished, damage):
    damage(unfinished / "model.h5")
    with pytest.raises(InputError, match=r"^--resume: .*model\.h5 is missing or damaged: its sha256.*--resume never"):
        run(unfinished)


def test_a_run_that_goes_on_within_an_epoch_is_the_same(whole, tmp_path, monkeypatch):
    """A state after every step; killed in the middle of steps 3, 8 and 14 of 20."""
    often = dataclasses.replace(RECIPE, save_minutes=0.0)
    for number in (3, 5, 6):  # counted from the step after the last state
        with monkeypatch.context() as patch, pytest.raises(Killed):
            at_call((recording.Recorder, "check_finite"), 2 * number, patch)
            run(tmp_path, often, seed=99 if (tmp_path / "state.npz").exists() else 0)
    meta = states.read_meta(tmp_path / "state.npz")
    assert meta["epoch"] < 3 and meta["step"] > 0
    model, history = run(tmp_path, often, seed=99)
    assert without_times(history) == without_times(whole[1])
    assert same(model.get_weights(), whole[0].get_weights())
    assert same(weights_of(tmp_path / "model.h5"), whole[0].get_weights())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", [1, 5, 8], ids=["in the first epoch", "at its last step", "in the second"])
def test_a_signal_ends_the_run_behind_the_step_and_all_is_saved(number, step, whole, tmp_path, monkeypatch):
    original, calls = recording.Recorder.on_train_batch_end, []

    def signalled(self, batch, logs=None):
        calls.append(batch)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        original(self, batch, logs)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="state.npz") as caught:
        patch.setattr(recording.Recorder, "on_train_batch_end", signalled)
        run(tmp_path)
    assert caught.value.number == number and len(calls) == step
    meta = states.read_meta(tmp_path / "state.npz")
    assert (meta["epoch"], meta["step"]) == divmod(step, STEPS)
    model, history = run(tmp_path, seed=99)
    assert without_times(history) == without_times(whole[1])
    assert same(model.get_weights(), whole[0].get_weights())


def test_histories_name_the_model_beside_them_at_every_moment(tmp_path, monkeypatch):
    """Looked at before and after every file that takes its place."""
    seen = []
    run(tmp_path)
    first = files.sha256(tmp_path / "model.h5")

    def moved(source, target, original=files.move):
        original(source, target)
        seen.append(files.sha256(tmp_path / "model.h5") in records.recorded_sha256(tmp_path / "model.h5"))
    monkeypatch.setattr(files, "move", moved)
    run(tmp_path, dataclasses.replace(RECIPE, learning_rate=0.02), {"flags": {"learning_rate": 0.02}})
    assert len(seen) > 10 and all(seen)
    assert files.sha256(tmp_path / "model.h5") != first


def test_skipped_steps_of_a_scaled_loss_do_not_cost_an_epoch(tmp_path, monkeypatch):
    def scaled(folder, seed=0):
        """Keras scales the loss; its first scale is made too large here, so that some steps are surely skipped."""
        recipe = dataclasses.replace(RECIPE, precision="mixed_float16")
        model = compiled(small_model(seed), recipe)
        model.optimizer.initial_scale = 3e38
        return model, fit.fit(model, model, IMAGES, recipe, folder, RUN, "toy")

    expected, history = scaled(tmp_path / "whole")
    assert int(expected.optimizer.iterations) < 4 * STEPS
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 3, patch)
        scaled(tmp_path / "parts")
    model, resumed = scaled(tmp_path / "parts", seed=99)
    assert without_times(resumed) == without_times(history)
    assert same(model.get_weights(), expected.get_weights())


# ---- more epochs than a run was to have ----

def with_epochs(folder, epochs, seed=0):
    """A run of so many epochs, as a script makes it that is told of it by a flag."""
    record = {"flags": RUN["flags"] | {"epoch_num": epochs}}
    recipe = fit.going_on(dataclasses.replace(RECIPE, epochs=epochs), folder, record)
    return run(folder, recipe, record, seed)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """(history after 2 epochs, its best weights, history after 4, folder)."""
    folder = tmp_path_factory.mktemp("longer") / "run"
    _, first = with_epochs(folder, 2)
    return first, weights_of(folder / "model.h5"), with_epochs(folder, 4, 99)[1], folder


def test_a_finished_run_goes_on_from_its_best_weights_with_another_cycle_of_the_schedule(longer):
    first, weights, history, folder = longer
    for name in records.CURVES:
        assert history[name][:2] == first[name] and len(history[name]) == 4
    assert history["run"]["continued"] == [{"after_epoch": 2, "epoch_num": 2, "schedule": "anew"}]
    assert history["checkpoint"]["epoch"] == fit.best_epoch(history) + 1
    assert files.sha256(folder / "model.h5") == history["checkpoint"]["sha256"]
    again = compiled(small_model(5), dataclasses.replace(RECIPE, epochs=2))  # a run of two epochs from these weights
    again.set_weights(weights)
    alone = again.fit(dataset.batches(IMAGES.train, 8, RECIPE.seed, True, 2), steps_per_epoch=STEPS, epochs=2,
                      shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["train_loss"][2:], alone["loss"], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"][2:], first["learning_rate"], rtol=1e-6)


def test_a_run_that_goes_on_so_may_stop_as_any_other(longer, tmp_path, monkeypatch):
    with_epochs(tmp_path, 2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 2, patch)
        with_epochs(tmp_path, 4, 98)
    assert states.read_meta(tmp_path / "state.npz")["epoch"] == 3
    _, history = with_epochs(tmp_path, 4, 99)
    assert without_times(history) == without_times(longer[2])
    assert same(weights_of(tmp_path / "model.h5"), weights_of(longer[3] / "model.h5"))


@pytest.mark.parametrize("epochs", [6, 3])
def test_an_unfinished_run_takes_the_schedule_of_another_length(epochs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 3, patch)
        with_epochs(tmp_path, 4)
    with pytest.raises(InputError, match="^--epoch_num: received 1, but the run in .* is in epoch 2 already; expected"):
        with_epochs(tmp_path, 1, 99)
    _, history = with_epochs(tmp_path, epochs, 99)
    expected = np.r_[rates(RECIPE, STEPS)[4:10:5],
                     rates(dataclasses.replace(RECIPE, epochs=epochs), STEPS)[14:5 * epochs:5]]
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)
    assert history["run"]["flags"]["epoch_num"] == epochs
    assert history["run"]["continued"] == [{"after_epoch": 2, "epoch_num": 4, "schedule": "stretched"}]


def test_a_finished_run_whose_model_is_another_starts_over(longer, tmp_path):
    shutil.copytree(longer[3], tmp_path / "run")
    (tmp_path / "run" / "model.h5").write_bytes(b"other")
    record = {"flags": RUN["flags"] | {"epoch_num": 9}}
    assert resuming.continuation(tmp_path / "run", record) == 0 and "continued" not in record
    shutil.copy(longer[3] / "model.h5", tmp_path / "run")
    assert resuming.continuation(tmp_path / "run", record) == 4
    assert [step["after_epoch"] for step in record["continued"]] == [2, 4]


# ---- losses that aren't numbers ----

def test_a_diverging_run_stops_at_its_step_with_a_word_on_the_rate_and_writes_no_history(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(
            Diverged, match=r"^--learning_rate: the loss became nan in epoch 1, step [23] of 5, at a learning rate of "
                            r"9\..*e\+29; no epochs were finished before it; expected a smaller"):
        run(tmp_path, dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0))
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_loss_that_turns_nan_leaves_the_epochs_before_it(tmp_path, scripted):
    trainer, saved, snapshots = scripted((0.1, 0.2, 0.3, 0.4), (1.5, 1.4, float("nan"), 1.2))
    with pytest.raises(Diverged, match="in epoch 3.*model.h5 holds epoch 2"):
        fit.fit(trainer, saved, IMAGES, RECIPE, tmp_path, RUN, "toy")
    assert records.read_history(tmp_path / "history.json")["val_loss"] == [1.5, 1.4]
    assert same(weights_of(tmp_path / "model.h5"), snapshots[1])


# ---- distillation through the same path ----

@pytest.mark.slow
def test_a_distillation_goes_on_with_discriminator_and_regressors(tmp_path, monkeypatch):
    from compress.distillation import distiller as distillation
    from compress.graph import resnet

    images = dataset.Data("toy", split(18, "train", (32, 32, 3), pad=2), split(8, "validation", (32, 32, 3), seed=1),
                       split(4, "test", (32, 32, 3), seed=2), tuple("abcd"), "")
    recipe = dataclasses.replace(RECIPE, epochs=2, learning_rate=0.01)

    def distil(folder, seed):
        keras.utils.set_random_seed(1)
        teacher = randomised(resnet.build_resnet(classes=4, widths=narrow_widths()), 1)
        keras.utils.set_random_seed(seed)
        student = resnet.build_resnet(classes=4, widths=narrow_widths(inner=5, stream=4))
        distiller = distillation.Distiller(teacher, student, (0.7, 1e-4, 0.2), hard_label_weight=0.3)
        optimizer = distillation.optimizer_pair(
            fit.optimizer_of(recipe, 2), keras.optimizers.Adam(1e-3),
            distiller.discriminator.trainable_variables)
        distiller.compile(optimizer, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
        teacher_before = teacher.get_weights()
        history = fit.fit(distiller, student, images, recipe, folder, RUN, "toy", keep_best=False)
        assert same(teacher_before, teacher.get_weights())
        return distiller, history

    whole, history = distil(tmp_path / "whole", 0)
    assert {"train_backbone", "train_intermediate", "train_adversarial", "train_hard_label",
            "train_discriminator"} <= set(history)
    parts = 0.7 * np.array(history["train_backbone"]) + 1e-4 * np.array(history["train_intermediate"]) + 0.2 * np.array(
        history["train_adversarial"]) + 0.3 * np.array(history["train_hard_label"]) + history["train_discriminator"]
    np.testing.assert_allclose(history["train_loss"], parts, rtol=1e-4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call((recording.Recorder, "on_epoch_begin"), 2, patch)
        distil(tmp_path / "parts", 0)
    resumed, again = distil(tmp_path / "parts", 99)
    assert without_times(again) == without_times(history)
    for ours, theirs in ((resumed.student, whole.student), (resumed.discriminator, whole.discriminator),
                         *zip(resumed.regressors, whole.regressors, strict=True)):
        assert same(ours.get_weights(), theirs.get_weights())
    assert same([np.array(v) for v in resumed.optimizer.variables], [np.array(v) for v in whole.optimizer.variables])
