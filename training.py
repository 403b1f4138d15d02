"""The one path on which the suite trains: base training, fine-tuning and distillation share it."""

import dataclasses
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

import checkpoints
import data
import display
import folded
import metrics
import optimizers
import plots
import records
from errors import InputError

STATE = "state.weights.h5"
EXTRA_CURVES = ("backbone", "intermediate", "adversarial", "hard_label", "discriminator")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the highest of the schedule.
        weight_decay: decoupled, see --weight_decay.
        label_smoothing: share of each label spread over all classes.
        warmup: share of all steps in which the learning rate rises.
        seed: of order and augmentation.
        verbose: 0, 1 or 2.
        resume: 'auto' or 'never'.
        precision: dtype policy of the arithmetic.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-3
    label_smoothing: float = 0.0
    warmup: float = 0.1
    seed: int = 826
    verbose: int = 1
    resume: str = "auto"
    precision: str = "float32"

    @classmethod
    def from_flags(cls, args, learning_rate):
        """The recipe that a script's flags describe, with this learning rate."""
        same = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)
                if field.name not in ("epochs", "learning_rate")}
        return cls(epochs=args.epoch_num, learning_rate=learning_rate, **same)


def schedule(recipe, steps):
    """Learning rate over all steps: linear from nearly 0 to the highest, then a cosine to 0.

    Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983, equation 5, with warm-up (Goyal et al. 2017, 1706.02677, 2.2).

    Args:
        recipe: a Recipe.
        steps: steps an epoch.
    """
    total = recipe.epochs * steps
    rise = min(round(recipe.warmup * total), total - 1)
    if rise == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(recipe.learning_rate / rise, total - rise, warmup_steps=rise,
                                                  warmup_target=recipe.learning_rate)


def sgd(recipe, steps):
    """SGD with Nesterov momentum 0.9 on the recipe's schedule; no decay on biases and batch-norm."""
    return optimizers.FusedSGD(schedule(recipe, steps), decay=recipe.weight_decay)


def compile_classifier(model, recipe, steps):
    """Compiles a model of logits for cross-entropy on integer labels."""
    def cross_entropy(labels, logits):
        targets = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True,
                                                     label_smoothing=recipe.label_smoothing)

    compile_trainer(model, sgd(recipe, steps), recipe, cross_entropy)


def compile_trainer(trainer, optimizer, recipe, loss=None):
    """Compiles what `fit` trains: with accuracy, and with a scaled loss where float16 would underflow.

    Micikevicius et al. 2018, Mixed Precision Training, arXiv 1710.03740, section 3.2.
    """
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    trainer.compile(optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    optimizer.build(trainer.trainable_variables)  # a step that first makes its variables is traced twice


class _Recorder(keras.callbacks.Callback):
    """Validates, writes history, best model and training state after every epoch, and feeds the progress bar."""

    def __init__(self, saved, val, folder, history, bar, rate, recipe, keep_best, rate_flag):
        super().__init__()
        self.saved, self.val, self.folder, self.history, self.bar = saved, val, folder, history, bar
        self.judge = None
        self.rate, self.keep_best, self.rate_flag = rate, keep_best, rate_flag
        self.batch_size, self.precision = recipe.batch_size, recipe.precision
        self.epoch = self.started = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.started = epoch, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.step(self.epoch, (batch + 1) * self.batch_size, logs)

    def validate(self):
        """Loss and accuracy of the model that is saved, in the precision that trains it."""
        if self.judge is None:
            self.judge = folded.FoldedResNet(self.saved, self.precision)
        else:
            self.judge.refold(self.saved)
        return metrics.evaluate(self.judge, self.val, 2 * self.batch_size)  # no gradients: twice as many fit

    def on_epoch_end(self, epoch, logs=None):
        found = self.validate()
        values = {"train_loss": logs["loss"], "train_acc": logs["accuracy"],
                  "val_loss": found["loss"], "val_acc": found["acc"],
                  "learning_rate": self.rate(self.model.optimizer.iterations - 1),
                  "seconds": time.monotonic() - self.started}
        values |= {f"train_{name}": logs[name] for name in EXTRA_CURVES if name in logs}
        values = {name: float(value) for name, value in values.items()}
        if not all(np.isfinite(value) for value in values.values()):
            raise InputError(f"{self.rate_flag}: the loss became NaN or infinite in epoch {epoch + 1}, at a learning "
                             f"rate of {values['learning_rate']:.4g}; expected a smaller one (with --resume never)")
        best = max(self.history["val_acc"], default=-1.0)
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        if self.keep_best and values["val_acc"] > best:
            checkpoints.save_model(self.saved, self.folder / "model.h5")
        # history before state: a run killed between the two goes on from the state, and cuts the history to it
        records.write_json(self.folder / "history.json", self.history)
        checkpoints.save_state(self.model, self.folder / STATE, epoch + 1)
        self.bar.epoch_end(epoch, values)


def _epochs_done(trainer, folder, history, run):
    """Epochs behind an unfinished run with the same flags, whose state is then loaded; 0 for a new run."""
    state = folder / STATE
    if not state.exists():
        return 0
    before = records.read_json(folder / "history.json", "--resume")
    if not isinstance(before.get("run"), dict):
        raise InputError(f"--resume: received {folder / 'history.json'}, which names no run; expected the history of "
                         f"{state}, or --resume never to start over")
    records.check_same_run(before["run"], run, folder)
    try:
        done = checkpoints.load_state(trainer, state)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"--resume: {state} cannot be read ({reason}); expected the state of this run, or "
                         "--resume never to start over") from None
    curves = {key: values[:done] for key, values in before.items() if isinstance(values, list)}
    if any(len(curves.get(name, ())) < done for name in records.CURVES):
        raise InputError(f"--resume: {folder / 'history.json'} holds fewer epochs than the {done} of {state}; "
                         "expected as many, or --resume never to start over")
    history.update(curves)
    return done


def fit(trainer, saved, images, recipe, folder, run, title, keep_best=True, rate_flag="--learning_rate"):
    """Trains, validates after every epoch, keeps the best epoch, writes history and plot; goes on where it stopped.

    Args:
        trainer: a compiled keras.Model to fit; all its variables exist.
        saved: a model of `model.build_resnet`, the network inside the trainer, which goes into model.h5.
        images: a data.Data; its training split is trained on, its validation split chooses the epoch.
        recipe: a Recipe.
        folder: where model.h5, history.json and history.png go, and the state, which `finish` removes.
        run: what `records.run_record` gives.
        title: for the progress bar.
        keep_best: True leaves the epoch of highest validation accuracy in the file and in `saved`, False the last.
        rate_flag: the flag that a learning rate too high is blamed on.

    Returns:
        The history: dict of lists, one number an epoch, and 'run'.

    Raises:
        InputError: an unfinished run with other flags lies in the folder, or the loss isn't finite.
    """
    folder = Path(folder)
    if recipe.resume == "never":
        finish(folder)
    steps = data.steps_per_epoch(len(images.train), recipe.batch_size)
    history = {name: [] for name in records.CURVES} | {"run": run}
    done = _epochs_done(trainer, folder, history, run)
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(images.train)))
    bar = display.EpochBar(title, steps * recipe.batch_size, recipe.epochs, recipe.verbose)
    recorder = _Recorder(saved, images.val, folder, history, bar, schedule(recipe, steps), recipe, keep_best, rate_flag)
    if done < recipe.epochs:
        bar.start(done)
        try:
            trainer.fit(data.batches(images.train, recipe.batch_size, recipe.seed, start_epoch=done),
                        steps_per_epoch=steps, epochs=recipe.epochs, initial_epoch=done, shuffle=False, verbose=0,
                        callbacks=[recorder])
        finally:
            bar.stop()
    if keep_best:
        saved.load_weights(folder / "model.h5")
    else:
        checkpoints.save_model(saved, folder / "model.h5")
    records.write_json(folder / "history.json", history)
    plots.save_figure(plots.plot_history({folder.name: history}), folder / "history.png")
    return history


def finish(folder):
    """Removes the state that `fit` leaves, so that the next run in the folder is a new one.

    A script calls it once its own results are written: until then the same command goes on behind the finished fit.
    """
    (Path(folder) / STATE).unlink(missing_ok=True)


def best_epoch(history):
    """Index of the epoch with the highest validation accuracy; of equals the first, as `fit` keeps it."""
    return int(np.argmax(history["val_acc"]))
