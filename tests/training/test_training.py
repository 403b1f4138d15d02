"""training/: the schedule and the optimiser against numpy, and runs that stop anywhere and go on."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import zipfile

import keras
import numpy as np
import pytest
from conftest import narrow_widths, randomised
from hypothesis import given, settings
from hypothesis import strategies as st

import train_base_model
from compress.cli.configs import RunConfig
from compress.data import batches, dataset
from compress.data.augmentation import Augmentation
from compress.errors import Diverged, InputError, Stopped
from compress.storage import files, recording, records, resuming, states
from compress.training import callbacks, fit, runs
from compress.training.recipe import Recipe, compile_classifier, optimizer_of, schedule

RNG = np.random.default_rng(11)
pytestmark = pytest.mark.usefixtures("without_figures")
RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=0.05, weight_decay=1e-3, label_smoothing=0.1, warmup=0.25, seed=5)
QUIET = RunConfig(verbose=0)
NEVER = RunConfig(verbose=0, resume="never")
RUN = {"flags": {"weight_decay": 1e-3, "verbose": 0, "resume": "auto"}}


def split(n, name, shape=(8, 8, 3), pad=0, seed=0):
    """Noise whose brightness tells its class, of 4."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 4)
    images = rng.integers(0, 120, (n, *shape)) + 30 * labels[:, None, None, None]
    return dataset.Split(images.astype("uint8"), labels, name, Augmentation(pad, 0.5 * (pad > 0)))


IMAGES = dataset.Data(
    "toy", split(44, "train", pad=1), split(20, "validation", seed=1), split(4, "test", seed=2), tuple("abcd"), ""
)
STEPS = 5  # whole batches of 8 in 44


def small_model(seed=0):
    """A convolution with batch-norm in front of 4 logits."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [  # named, for files of equal bytes
            keras.Input((8, 8, 3), name="image"),
            layers.Rescaling(1 / 128, -1.0, name="scale"),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(4, name="head"),
        ],
        name="toy",
    )


class Killed(Exception):
    """Stands for the end of the process."""


class Kill(keras.callbacks.Callback):
    """Ends the process, so to speak, the time of this number that Keras calls one of its hooks.

    Args:
        hook: such as 'on_epoch_end'.
        number: from 1.
        behind: the class of callbacks that are called just before it; of a training without it, the first.
        then: function() that is called first.
    """

    def __init__(self, hook, number, behind=None, then=None):
        super().__init__()
        self.behind, self.then, self.left = behind, then, number
        setattr(self, hook, self.count)

    def count(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            if self.then:
                self.then()
            raise Killed

    def among(self, listed):
        """The list of callbacks with this one at its place."""
        place = next((i + 1 for i, c in enumerate(listed) if self.behind and isinstance(c, self.behind)), 0)
        return [*listed[:place], self, *listed[place:]]


def compiled(model, recipe=RECIPE):
    """Compiled as the scripts do, but run step by step: 20 small steps take less time than a trace."""
    compile_classifier(model, recipe, STEPS)
    model.run_eagerly = True
    return model


def recorded(folder, model, record=RUN, config=QUIET, keep_best=True):
    """A Run of a toy that is its own trainer."""
    return recording.Run(folder, record, model, config, keep_best)


def go(run, recipe=RECIPE, *more, trainer=None):
    """What `runs.train` does, with callbacks of the test's own: Kills, and others in front. No figure."""
    trainer = trainer or run.saved
    fit.build(trainer, 4)
    run.begin(trainer, recipe, STEPS)
    listed = callbacks.of_run(run, recipe, STEPS, "toy")
    for one in more:
        listed = one.among(listed) if isinstance(one, Kill) else [one, *listed]
    history = fit.fit(trainer, IMAGES, recipe, listed, run.progress)
    run.end(trainer)
    return history


def train(folder, recipe=RECIPE, record=RUN, seed=0, config=QUIET, keep_best=True):
    """A training as a script makes it, with a new model; returns (model, history)."""
    model = compiled(small_model(seed), recipe)
    history = runs.train(model, IMAGES, recipe, recorded(folder, model, record, config, keep_best), "toy")
    recording.finish(folder)
    return model, history


def killed_at(folder, *where, recipe=RECIPE, record=RUN, seed=0, config=QUIET, keep_best=True, then=None):
    """The same, killed where a Kill says."""
    with pytest.raises(Killed):
        go(
            recorded(folder, compiled(small_model(seed), recipe), record, config, keep_best),
            recipe,
            Kill(*where, then=then),
        )


def weights_of(path):
    """What plain Keras finds in a file."""
    return keras.models.load_model(path, compile=False).get_weights()


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def without_times(history):
    return {key: values for key, values in history.items() if key != "seconds"}


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# ---- schedule and optimiser ----


def rates(recipe, steps, count=None):
    rate = schedule(recipe, steps)
    return np.array([float(rate(i)) for i in range(recipe.epochs * steps + 1 if count is None else count)])


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
    assert (np.diff(found[: rise + 1]) > 0).all() and (np.diff(found[rise:]) < 0).all()
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
    optimizer_of(recipe, STEPS, model).apply(zeros, model.trainable_variables)
    decayed = []
    for v, old in zip(model.trainable_variables, before, strict=True):
        factor = 1 - 0.1 * decay if v.name == "kernel" else 1
        np.testing.assert_allclose(np.array(v), factor * old, rtol=1e-6)
        decayed.append(v.name)
    assert sorted(decayed) == ["beta", "bias", "bias", "gamma", "kernel", "kernel"]


def test_sgd_is_nesterovs_with_momentum_09_and_decoupled_decay():
    recipe = dataclasses.replace(RECIPE, weight_decay=0.02, warmup=0.5, learning_rate=0.1)
    optimizer, variable = optimizer_of(recipe, STEPS, None), keras.Variable(np.float32([1.0, -2.0]), name="kernel")
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
    compile_classifier(model, dataclasses.replace(RECIPE, label_smoothing=smoothing), STEPS)
    x, labels = RNG.normal(0, 2, (11, 5)).astype("float32"), RNG.integers(0, 5, 11)
    logs = model.evaluate(x, labels, batch_size=4, verbose=0, return_dict=True)
    logits = np.asarray(model(x), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    assert logs["loss"] == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)
    assert logs["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_a_recipe_takes_its_flags_and_the_given_rate():
    args = train_base_model.build_parser().parse_args(
        [
            "--epoch_num=7",
            "--batch_size=3",
            "--weight_decay=0.1",
            "--label_smoothing=0.2",
            "--warmup=0.3",
            "--seed=4",
            "--verbose=2",
            "--resume=never",
            "--save_minutes=2.5",
            "--precision=mixed_bfloat16",
            "--learning_rate=99",
            "--optimizer=muon",
            "--tensorboard=logs",
        ]
    )
    assert Recipe.of(args, epochs=args.epoch_num, learning_rate=0.5) == Recipe(
        7, 3, 0.5, 0.1, 0.2, 0.3, 4, "mixed_bfloat16", "muon"
    )
    assert RunConfig.of(args) == RunConfig("never", 2.5, "logs", 2)


# ---- fit ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(model, history, folder) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return *train(folder), folder


def test_a_finished_run_leaves_model_history_and_plot(whole):
    model, history, folder = whole
    assert {path.name for path in folder.iterdir()} == {"model.h5", "history.json", "history.png"}
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    curves = records.read_history(folder / "history.json")
    assert curves.pop("checkpoint") == {"epoch": history["checkpoint"]["epoch"]}
    assert set(curves) == {*records.CURVES, "learning_rate", "seconds"}
    for name, values in curves.items():
        assert values == history[name] and len(values) == 4
    assert json.loads((folder / "history.json").read_text()) == history and history["run"] == RUN
    np.testing.assert_allclose(history["learning_rate"], rates(RECIPE, STEPS)[4:20:5], rtol=1e-5)
    assert same(model.get_weights(), weights_of(folder / "model.h5"))


def test_the_history_is_true_of_the_saved_epoch(whole):
    model, history, _ = whole
    best = records.best_epoch(history)
    logits = np.asarray(model(IMAGES.val.images.astype("float32"), training=False), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert history["val_acc"][best] == pytest.approx((logits.argmax(1) == IMAGES.val.labels).mean())
    # without the smoothing of the training loss: the losses of all runs compare
    assert history["val_loss"][best] == pytest.approx(-log_p[np.arange(20), IMAGES.val.labels].mean(), rel=1e-4)


INTERRUPTIONS = {
    "at the start of epoch 3": ("on_epoch_begin", 3),
    "in the middle of epoch 3": ("on_train_batch_end", 13),
    "before any epoch is over": ("on_train_batch_end", 2),
    "between next model and state of epoch 1": ("on_epoch_end", 1, callbacks.KeepBest),
    "between next model and state of epoch 3": ("on_epoch_end", 3, callbacks.KeepBest),
    "between next model and state of the last epoch": ("on_epoch_end", 4, callbacks.KeepBest),
    "between state and history of epoch 1": ("on_epoch_end", 1, callbacks.SaveState),
    "between state and history of epoch 2": ("on_epoch_end", 2, callbacks.SaveState),
    "between history and model of epoch 1": ("on_epoch_end", 1, callbacks.SaveState),
    "between history and model of epoch 2": ("on_epoch_end", 2, callbacks.SaveState),
    "behind all files of epoch 2": ("on_epoch_end", 2, callbacks.Publish),
    "after the last epoch": ("on_train_end", 1),
}


OFTEN = ("in the middle of epoch 3", "between state and history of epoch 2", "behind all files of epoch 2")


@pytest.mark.parametrize(
    "when", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in INTERRUPTIONS]
)
def test_interrupted_and_resumed_equals_uninterrupted(when, whole, tmp_path):
    model = compiled(small_model())
    run = recorded(tmp_path, model)
    half = "history and model" in when

    def history_alone():  # what `Publish` does first
        records.write_json(tmp_path / "history.json", run.progress.history)

    with pytest.raises(Killed):
        go(run, RECIPE, Kill(*INTERRUPTIONS[when], then=history_alone if half else None))
    if half:
        told = records.read_json(tmp_path / "history.json")["checkpoint"]
        assert told["sha256"] == files.sha256(tmp_path / recording.NEXT)
    # other start weights: those of the state must win; where no state was written it is the same run from the start
    seed = 99 if (tmp_path / "state.npz").exists() else 0
    model, history = train(tmp_path, seed=seed)
    assert without_times(history) == without_times(whole[1])
    assert len(history["seconds"]) == 4
    assert same(model.get_weights(), whole[0].get_weights())
    assert same(weights_of(tmp_path / "model.h5"), whole[0].get_weights())
    assert {path.name for path in tmp_path.iterdir()} == {"model.h5", "history.json", "history.png"}


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_state_went_has_nothing_left_to_train(whole, tmp_path):
    go(recorded(tmp_path, compiled(small_model())))
    assert (tmp_path / "state.npz").exists()
    model, history = train(tmp_path, seed=99)
    assert without_times(history) == without_times(whole[1])
    assert same(model.get_weights(), whole[0].get_weights())


@pytest.mark.slow
def test_the_last_epoch_is_the_same_after_two_interruptions(tmp_path):
    expected, _ = train(tmp_path / "whole", keep_best=False)
    for seed in (0, 99):  # the second counts from the second epoch on
        killed_at(tmp_path / "parts", "on_epoch_end", 2, callbacks.StopOnNaN, seed=seed, keep_best=False)
        assert not (tmp_path / "parts" / "model.h5").exists()
    model, _ = train(tmp_path / "parts", keep_best=False, seed=99)
    assert same(model.get_weights(), expected.get_weights())
    assert same(weights_of(tmp_path / "parts" / "model.h5"), expected.get_weights())


def test_the_state_holds_slots_and_step_count(killed):
    model = compiled(small_model(99))
    fit.build(model, 4)
    meta = states.load_state(model, killed / "state.npz")
    assert (meta["epoch"], meta["step"], len(meta["history"]["val_acc"])) == (2, 0, 2)
    assert int(model.optimizer.iterations) == 2 * STEPS
    slots = [np.array(v) for v in model.optimizer.variables if v.ndim]
    assert len(slots) == 6 and all(np.abs(v).max() > 0 for v in slots if v.ndim == 4)


class Prescribed(keras.callbacks.Callback):
    """Stands first: the epochs have these validation accuracies (and losses); keeps the weights that each had.

    Args:
        run: the training's.
        accuracies, losses: one an epoch that this process trains.
    """

    def __init__(self, run, accuracies, losses=()):
        super().__init__()
        self.run, self.said, self.snapshots = run, {"val_acc": accuracies, "val_loss": losses}, []

    def on_epoch_end(self, epoch, logs=None):
        for name, values in self.said.items():
            if values:
                self.run.progress.history[name][-1] = values[len(self.snapshots)]
        self.snapshots.append(self.model.get_weights())


def scripted(folder, accuracies, losses=(), keep_best=True):
    """(run, trainer, Prescribed) of a training in which `run.saved` is another model with the same variables."""
    trainer = compiled(small_model())
    run = recorded(folder, keras.Model(trainer.inputs[0], trainer.outputs[0]), keep_best=keep_best)
    return run, trainer, Prescribed(run, accuracies, losses)


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ((0.2, 0.6, 0.4, 0.6), (9, 2, 1, 2), 1),
        pytest.param((0, 0, 0, 0), (5, 5, 5, 5), 0, marks=pytest.mark.slow),
        pytest.param((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4), 3, marks=pytest.mark.slow),
        ((0.357, 0.357, 0.357, 0.357), (22.7, 25.9, 8.4, 14.3), 2),
    ],
)
def test_of_the_best_epochs_the_one_of_the_lowest_loss_is_kept(accuracies, losses, best, tmp_path):
    run, trainer, said = scripted(tmp_path, accuracies, losses)
    history = go(run, RECIPE, said, trainer=trainer)
    assert history["val_acc"] == list(accuracies) and records.best_epoch(history) == best
    assert not same(said.snapshots[0], said.snapshots[-1])
    assert same(run.saved.get_weights(), said.snapshots[best])
    assert same(weights_of(tmp_path / "model.h5"), said.snapshots[best])


def test_without_keep_best_the_last_epoch_is_kept(tmp_path):
    run, trainer, said = scripted(tmp_path, (0.2, 0.6, 0.4, 0.5), keep_best=False)
    go(run, RECIPE, said, trainer=trainer)
    assert same(run.saved.get_weights(), said.snapshots[3])
    assert same(weights_of(tmp_path / "model.h5"), said.snapshots[3])


def test_the_best_epoch_before_an_interruption_is_not_overwritten_by_a_worse_one_after(tmp_path):
    run, trainer, first = scripted(tmp_path, (0.3, 0.7), (2.0, 1.0))
    with pytest.raises(Killed):
        go(run, RECIPE, first, Kill("on_epoch_begin", 3), trainer=trainer)
    run, trainer, second = scripted(tmp_path, (0.5, 0.7), (0.5, 1.5))  # epochs 3 and 4
    history = go(run, RECIPE, second, trainer=trainer)
    assert history["val_acc"] == [0.3, 0.7, 0.5, 0.7]
    assert same(run.saved.get_weights(), first.snapshots[1])
    assert same(weights_of(tmp_path / "model.h5"), first.snapshots[1])


def test_fit_gets_batches_that_no_thread_of_tensorflow_tunes(tmp_path, monkeypatch):
    """That thread sleeps for up to a minute, and is now and then not woken as a fit ends, which waits for it."""
    given, fit = [], keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda self, data, **words: given.append(data) or fit(self, data, **words))
    train(tmp_path / "run")
    assert [data.options().autotune.enabled for data in given] == [False]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed at the start of its third epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    killed_at(folder, "on_epoch_begin", 3)
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
    with pytest.raises(InputError, match=r"^`resume`: .*decay=0\.001`; received `weight_decay=0\.5`.*`resume=.never.`"):
        train(unfinished, record={"flags": RUN["flags"] | {"weight_decay": 0.5}})
    with pytest.raises(InputError, match=r"no `seed`; received `seed=3`"):
        train(unfinished, record={"flags": RUN["flags"] | {"seed": 3}, "argv": ["script.py", "--seed=3"]})
    assert contents(unfinished) == before


def test_the_flag_is_named_where_it_makes_the_state_one_of_another_length(unfinished):
    shorter = {"flags": RUN["flags"] | {"epoch_num": 1}, "argv": ["script.py", "--epoch_num=1"]}
    with pytest.raises(InputError, match=r"^`epoch_num`: received 1, but the run in .* is in epoch 2 already"):
        train(unfinished, dataclasses.replace(RECIPE, epochs=1), shorter)


def test_a_refused_batch_leaves_the_state_of_before(unfinished):
    layers, before = keras.layers, contents(unfinished)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 8), layers.BatchNormalization(), layers.Flatten(), layers.Dense(4)]
    )  # maps of 1x1
    recipe = dataclasses.replace(RECIPE, batch_size=1)
    with pytest.raises(InputError, match="^`batch_size`: received 1 image a batch, expected at least 2.*have 1x1"):
        runs.train(compiled(model, recipe), IMAGES, recipe, recorded(unfinished, model, config=NEVER), "toy")
    assert contents(unfinished) == before


def test_flags_that_leave_the_result_alone_may_differ(unfinished, whole):
    _, history = train(unfinished, record={"flags": RUN["flags"] | {"verbose": 2, "num_worker": 3}})
    assert history["val_loss"] == whole[1]["val_loss"]


def test_never_starts_over_even_with_other_flags(unfinished, whole):
    other = {"flags": RUN["flags"] | {"weight_decay": 0.5}}
    model, history = train(unfinished, record=other, config=NEVER)
    assert without_times(history) == without_times(whole[1]) | {"run": other}
    assert same(model.get_weights(), whole[0].get_weights())
    assert not (unfinished / "state.npz").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b""),
        lambda path: zipfile.ZipFile(path, "w").close(),
    ],
    ids=["cut", "empty", "hollow"],
)
def test_a_damaged_state_is_refused_in_one_line(unfinished, damage):
    damage(unfinished / "state.npz")
    before = contents(unfinished)
    words = r"(?s)^`resume`: .*state\.npz can't be read.*`resume=\"never\"`"
    with pytest.raises(InputError, match=words) as caught:
        train(unfinished)
    assert "\n" not in str(caught.value)
    assert contents(unfinished) == before


@pytest.mark.parametrize("text", [None, "{", '{"run": null}'], ids=["missing", "cut", "null"])
def test_the_state_brings_the_history_back(unfinished, whole, text):
    (unfinished / "history.json").unlink()
    if text:
        (unfinished / "history.json").write_text(text)
    _, history = train(unfinished)
    assert without_times(history) == without_times(whole[1])


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3},
        {"epoch": -1},
        {"epoch": 2.0},
        {"step": STEPS},
        {"step": -1},
        {"history": {}},
        {"history": None},
        {"history": {name: [0.5] for name in records.CURVES} | {"run": RUN}},
    ],
    ids=str,
)
def test_a_state_that_describes_no_run_is_refused(unfinished, change):
    model = compiled(small_model())
    fit.build(model, 4)
    meta = states.load_state(model, unfinished / "state.npz")
    states.save_state(model, unfinished / "state.npz", meta | change)
    before = contents(unfinished)
    with pytest.raises(InputError, match=r"^`resume`: .*state\.npz can't be read"):
        train(unfinished)
    assert contents(unfinished) == before


@pytest.mark.slow
def test_every_flipped_bit_of_a_state_is_found_or_harmless(unfinished, whole):
    """At 100 places all over the file."""
    path, found, rng = unfinished / "state.npz", 0, np.random.default_rng(0)
    good = path.read_bytes()
    wanted = _loaded(path)
    for place in rng.integers(0, len(good), 100):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            assert same(_loaded(path), wanted)  # in a time stamp, say
        except Exception as error:
            assert not isinstance(error, AssertionError), place
            found += 1
    assert found > 75
    path.write_bytes(bad)


def _loaded(path):
    model = compiled(small_model(99))
    fit.build(model, 4)
    meta = states.load_state(model, path)
    return [json.dumps(meta), *map(np.array, model.variables), *map(np.array, model.optimizer.variables)]


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])],
    ids=["missing", "cut"],
)
def test_a_best_model_that_is_not_the_states_is_refused(unfinished, damage):
    damage(unfinished / "model.h5")
    with pytest.raises(InputError, match=r"^`resume`: .*model\.h5 is missing or damaged: its sha256.*`resume=.never.`"):
        train(unfinished)


def test_a_run_that_goes_on_within_an_epoch_is_the_same(whole, tmp_path):
    """A state after every step; killed in the middle of steps 3, 8 and 14 of 20."""
    often = RunConfig(verbose=0, save_minutes=0.0)
    for number in (3, 6, 7):  # counted from the step after the last state
        killed_at(
            tmp_path,
            "on_train_batch_end",
            number,
            callbacks.StopOnNaN,
            config=often,
            seed=99 if (tmp_path / "state.npz").exists() else 0,
        )
    meta = states.read_meta(tmp_path / "state.npz")
    assert (meta["epoch"], meta["step"]) == (2, 3)
    model, history = train(tmp_path, config=often, seed=99)
    assert without_times(history) == without_times(whole[1])
    assert same(model.get_weights(), whole[0].get_weights())
    assert same(weights_of(tmp_path / "model.h5"), whole[0].get_weights())


class Signalled(keras.callbacks.Callback):
    """Sends this process a signal behind the step of this number, from 1."""

    def __init__(self, number, step):
        super().__init__()
        self.number, self.step, self.done = number, step, 0

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self.done == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        (signal.SIGINT, 5),
        pytest.param(signal.SIGINT, 8, marks=pytest.mark.slow),
        (signal.SIGTERM, 8),
        pytest.param(signal.SIGHUP, 8, marks=pytest.mark.slow),
    ],
    ids=["in the first epoch", "at its last step", "in the second", "terminated", "without a terminal"],
)
def test_a_signal_ends_the_run_behind_the_step_and_all_is_saved(number, step, whole, tmp_path):
    sender = Signalled(number, step)
    with pytest.raises(Stopped, match="state.npz") as caught:
        go(recorded(tmp_path, compiled(small_model())), RECIPE, sender)
    assert caught.value.number == number and sender.done == step
    meta = states.read_meta(tmp_path / "state.npz")
    assert (meta["epoch"], meta["step"]) == divmod(step, STEPS)
    model, history = train(tmp_path, seed=99)
    assert without_times(history) == without_times(whole[1])
    assert same(model.get_weights(), whole[0].get_weights())


class Looked(Kill):
    """Looks, behind the callback of one kind, whether the records beside model.h5 speak of it; kills nothing."""

    def __init__(self, run, behind):
        super().__init__("on_epoch_end", 0, behind)
        self.run, self.seen = run, []

    def count(self, *_, **__):
        model = self.run.folder / "model.h5"
        self.seen.append(files.sha256(model) in records.recorded_sha256(model))
        if self.behind is callbacks.SaveState:  # the moment between the two files of `Publish`
            records.write_json(self.run.folder / "history.json", self.run.progress.history)
            self.seen.append(files.sha256(model) in records.recorded_sha256(model))


@pytest.mark.slow
def test_histories_name_the_model_beside_them_at_every_moment(tmp_path):
    train(tmp_path)
    first, other = files.sha256(tmp_path / "model.h5"), dataclasses.replace(RECIPE, learning_rate=0.02)
    run = recorded(tmp_path, compiled(small_model(), other), {"flags": {"learning_rate": 0.02}})
    looks = [
        Looked(run, kind) for kind in (callbacks.StopOnNaN, callbacks.KeepBest, callbacks.SaveState, callbacks.Publish)
    ]
    go(run, other, *looks)
    assert [len(look.seen) for look in looks] == [4, 4, 8, 4] and all(all(look.seen) for look in looks)
    assert files.sha256(tmp_path / "model.h5") != first


@pytest.mark.slow
def test_skipped_steps_of_a_scaled_loss_do_not_cost_an_epoch(tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="mixed_float16")

    def scaled(folder, *more, seed=0):
        """Keras scales the loss; its first scale is made too large here, so that some steps are surely skipped."""
        model = compiled(small_model(seed), recipe)
        model.optimizer.initial_scale = 3e38
        return model, go(recorded(folder, model), recipe, *more)

    expected, history = scaled(tmp_path / "whole")
    assert int(expected.optimizer.iterations) < 4 * STEPS
    with pytest.raises(Killed):
        scaled(tmp_path / "parts", Kill("on_epoch_begin", 3))
    model, resumed = scaled(tmp_path / "parts", seed=99)
    assert without_times(resumed) == without_times(history)
    assert same(model.get_weights(), expected.get_weights())


# ---- what is said at the end ----


def ended(folder, losses, kept, accuracies=(0.4, 0.5, 0.4, 0.4)):
    history = {"val_acc": list(accuracies), "val_loss": list(losses), "checkpoint": {"epoch": kept}}
    return recording.Run(folder, {}, None, RunConfig(), progress=recording.Progress(history, len(losses)))


@pytest.mark.parametrize(
    ("begun", "kept", "says"),
    [
        (0, 2, ""),
        (4, 2, ""),  # a new run; one that was finished before
        (2, 2, "toy: none of epochs 3 to 4 was better than epoch 2, which {}/model.h5 still holds\n"),
        (3, 2, "toy: epoch 4 was not better than epoch 2, which {}/model.h5 still holds\n"),
        (2, 3, ""),
    ],
)
def test_epochs_that_were_trained_in_vain_are_told(begun, kept, says, tmp_path, capsys):
    runs.tell_end(ended(tmp_path, [1.0] * 4, kept), "toy", begun, 10)
    assert capsys.readouterr() == (says.format(tmp_path), "")


def test_a_kept_model_that_is_worse_than_guessing_is_one_warning(tmp_path, capsys):
    runs.tell_end(ended(tmp_path, [9.0, 1.0, 9.0, 9.0], 2), "toy", 0, 3)
    assert capsys.readouterr().err == ""  # ln 3 is 1.0986; only the epoch that is kept counts
    runs.tell_end(ended(tmp_path, [0.1, 18.9, 0.1, 0.1], 2), "toy", 0, 3)
    assert capsys.readouterr().err == (
        "warning: toy: validation loss 18.90, above 1.099, the loss of guessing among 3 classes; what helps are more "
        "steps (a smaller --batch_size, a larger --epoch_num) or a smaller learning rate\n"
    )


# ---- more epochs than a run was to have ----


def with_epochs(folder, epochs, seed=0, *more):
    """A run of so many epochs, as a script makes it that is told of it by a flag."""
    model = small_model(seed)
    run = recorded(folder, model, {"flags": RUN["flags"] | {"epoch_num": epochs}})
    recipe = runs.continued(dataclasses.replace(RECIPE, epochs=epochs), run)
    history = go(run, recipe, *more, trainer=compiled(model, recipe))
    recording.finish(folder)
    return history


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """(history after 2 epochs, its best weights, history after 4, folder)."""
    folder = tmp_path_factory.mktemp("longer") / "run"
    first = with_epochs(folder, 2)
    return first, weights_of(folder / "model.h5"), with_epochs(folder, 4, 99), folder


def test_a_finished_run_goes_on_from_its_best_weights_with_another_cycle_of_the_schedule(longer):
    first, weights, history, folder = longer
    for name in records.CURVES:
        assert history[name][:2] == first[name] and len(history[name]) == 4
    assert history["run"]["continued"] == [{"after_epoch": 2, "epoch_num": 2, "schedule": "restarted"}]
    assert history["checkpoint"]["epoch"] == records.best_epoch(history) + 1
    assert files.sha256(folder / "model.h5") == history["checkpoint"]["sha256"]
    again = compiled(small_model(5), dataclasses.replace(RECIPE, epochs=2))  # a run of two epochs from these weights
    again.set_weights(weights)
    alone = again.fit(
        batches.batches(IMAGES.train, 8, RECIPE.seed, True, 2),
        steps_per_epoch=STEPS,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    np.testing.assert_allclose(history["train_loss"][2:], alone["loss"], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"][2:], first["learning_rate"], rtol=1e-6)


def test_a_run_that_goes_on_so_may_stop_as_any_other(longer, tmp_path):
    with_epochs(tmp_path, 2)
    with pytest.raises(Killed):
        with_epochs(tmp_path, 4, 98, Kill("on_epoch_begin", 2))
    assert states.read_meta(tmp_path / "state.npz")["epoch"] == 3
    history = with_epochs(tmp_path, 4, 99)
    assert without_times(history) == without_times(longer[2])
    assert same(weights_of(tmp_path / "model.h5"), weights_of(longer[3] / "model.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [6, 3])
def test_an_unfinished_run_takes_the_schedule_of_another_length(epochs, tmp_path):
    with pytest.raises(Killed):
        with_epochs(tmp_path, 4, 0, Kill("on_epoch_begin", 3))
    with pytest.raises(InputError, match="^`epoch_num`: received 1, but the run in .* is in epoch 2 already; expected"):
        with_epochs(tmp_path, 1, 99)
    history = with_epochs(tmp_path, epochs, 99)
    expected = np.r_[
        rates(RECIPE, STEPS)[4:10:5], rates(dataclasses.replace(RECIPE, epochs=epochs), STEPS)[14 : 5 * epochs : 5]
    ]
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


def test_a_longer_run_recorded_in_format_1_goes_on(longer, tmp_path):
    shutil.copytree(longer[3], tmp_path / "run")
    history = tmp_path / "run" / "history.json"
    text = history.read_text()
    assert text.count('"restarted"') == 1
    history.write_text(text.replace('"restarted"', '"anew"'))
    record = {"flags": RUN["flags"] | {"epoch_num": 9}}
    assert resuming.continuation(tmp_path / "run", record) == 4
    assert [step["schedule"] for step in record["continued"]] == ["anew", "restarted"]


# ---- losses that aren't numbers ----


@pytest.mark.slow
def test_a_diverging_run_stops_at_its_step_with_a_word_on_the_rate_and_writes_no_history(tmp_path):
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            Diverged,
            match=r"^the loss became nan in epoch 1, step [23] of 5, at a learning rate of 9\..*e\+29; no "
            r"epochs were finished before it; expected a smaller learning rate",
        ),
    ):
        train(tmp_path, dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0))
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_loss_that_turns_nan_leaves_the_epochs_before_it(tmp_path):
    run, trainer, said = scripted(tmp_path, (0.1, 0.2, 0.3, 0.4), (1.5, 1.4, float("nan"), 1.2))
    with pytest.raises(Diverged, match="in epoch 3.*model.h5 holds epoch 2"):
        go(run, RECIPE, said, trainer=trainer)
    assert records.read_history(tmp_path / "history.json")["val_loss"] == [1.5, 1.4]
    assert same(weights_of(tmp_path / "model.h5"), said.snapshots[1])


# ---- distillation through the same path ----


@pytest.mark.slow
def test_a_distillation_goes_on_with_discriminator_and_regressors(tmp_path):
    import resnets

    import knowledge_distillation
    from compress.cli.configs import DistilConfig
    from compress.distillation.distiller import Distiller, optimizer_for

    images = dataset.Data(
        "toy",
        split(18, "train", (32, 32, 3), pad=2),
        split(8, "validation", (32, 32, 3), seed=1),
        split(4, "test", (32, 32, 3), seed=2),
        tuple("abcd"),
        "",
    )
    recipe = dataclasses.replace(RECIPE, epochs=2, learning_rate=0.01)

    def distil(folder, seed, *more):
        keras.utils.set_random_seed(1)
        teacher = randomised(resnets.build_resnet(classes=4, widths=narrow_widths()), 1)
        keras.utils.set_random_seed(seed)
        student = resnets.build_resnet(classes=4, widths=narrow_widths(inner=5, stream=4))
        losses = knowledge_distillation.losses_of(
            DistilConfig(
                lambda1=0.7, lambda2=1e-4, lambda3=0.2, hard_label_weight=0.3, discriminator_learning_rate=1e-3
            ),
            teacher,
            student,
            1,
        )
        distiller = Distiller(teacher, student, losses)
        distiller.compile(
            optimizer_for(losses, optimizer_of(recipe, 2, student)),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )
        teacher_before = teacher.get_weights()
        run = recorded(folder, student, keep_best=False)
        fit.build(distiller, 4)
        run.begin(distiller, recipe, 2)
        history = fit.fit(distiller, images, recipe, [*more, *callbacks.of_run(run, recipe, 2, "toy")], run.progress)
        run.end(distiller)
        assert same(teacher_before, teacher.get_weights())
        return distiller, history

    whole, history = distil(tmp_path / "whole", 0)
    assert {
        "train_backbone",
        "train_intermediate",
        "train_adversarial",
        "train_hard_label",
        "train_discriminator",
    } <= set(history)
    parts = (
        0.7 * np.array(history["train_backbone"])
        + 1e-4 * np.array(history["train_intermediate"])
        + 0.2 * np.array(history["train_adversarial"])
        + 0.3 * np.array(history["train_hard_label"])
        + history["train_discriminator"]
    )
    np.testing.assert_allclose(history["train_loss"], parts, rtol=1e-4)
    with pytest.raises(Killed):
        distil(tmp_path / "parts", 0, Kill("on_epoch_begin", 2))
    resumed, again = distil(tmp_path / "parts", 99)
    assert without_times(again) == without_times(history)
    assert len(whole.learners) == 5  # four regressors and the discriminator
    for ours, theirs in ((resumed.student, whole.student), *zip(resumed.learners, whole.learners, strict=True)):
        assert same(ours.get_weights(), theirs.get_weights())
    assert same([np.array(v) for v in resumed.optimizer.variables], [np.array(v) for v in whole.optimizer.variables])
