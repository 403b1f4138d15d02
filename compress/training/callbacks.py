"""What happens beside the steps of a training, as Keras callbacks with one task each.

Keras calls them in the order of their list, and on the order hangs what a killed run can be taken up from: the loss is
looked at before anything is written, and files are written as the head of `storage.recording` says. Those that hold
something (the handlers of signals, a file, the terminal) are context managers, which `fit` enters and leaves: Keras'
own on_train_end isn't called where a training ends by an exception.
"""

import time

import keras
import numpy as np

from compress import metrics
from compress.cli import display, signals, tables
from compress.engine import folding, processes
from compress.errors import Diverged, Stopped
from compress.storage import events, recording, records
from compress.training.recipe import schedule

PARTS = [name.removeprefix("train_") for name in records.PARTS]  # a distillation's losses, as its logs call them


def of_run(run, recipe, steps, title):
    """The callbacks of a training that writes into a folder, in their order.

    Args:
        run: a `recording.Run`.
        recipe: a Recipe.
        steps: of an epoch.
        title: for the progress bar.
    """
    config, asked = run.config, StopOnSignal(run, steps)
    bar = display.EpochBar(title, steps * recipe.batch_size, recipe.epochs, config.verbose)
    best = [KeepBest(run)] if run.keep_best else []
    log = [WriteEvents(run)] if config.tensorboard is not None else []
    return [
        StopOnNaN(run, recipe, steps),
        *best,
        SaveState(run, steps, asked),
        Publish(run),
        *log,
        asked,
        ShowBar(bar, run.progress, steps),
    ]


class Validation(keras.callbacks.Callback):
    """Validates after every epoch and writes the epoch's numbers down; counts the steps on the way.

    `fit` puts it in front of all others, which read what it counts.

    Args:
        network: what is validated.
        val: a dataset.Split.
        recipe: a Recipe.
        steps: of an epoch.
        progress: a `recording.Progress`, which it keeps up to date.
    """

    def __init__(self, network, val, recipe, steps, progress):
        super().__init__()
        self.val, self.progress = val, progress
        self.batch_size = 2 * recipe.batch_size  # no gradients are kept: twice as many images fit
        self.rate, self.evaluator = schedule(recipe, steps), folding.evaluator_of(network, recipe.precision)
        self.first, self.started = 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        # both are 0, but in an epoch that was begun by another process: Keras counts what is left of it from 0
        self.first, self.started = self.progress.step, time.monotonic() - self.progress.seconds

    def on_train_batch_end(self, batch, logs=None):
        self.progress.step = self.first + batch + 1
        self.progress.seconds = time.monotonic() - self.started

    def on_epoch_end(self, epoch, logs=None):
        found, progress = metrics.evaluate(self.evaluator(), self.val, self.batch_size), self.progress
        values = {
            "train_loss": logs["loss"],
            "train_acc": logs["accuracy"],
            "val_loss": found["loss"],
            "val_acc": found["acc"],
            "learning_rate": self.rate(self.model.optimizer.iterations - 1),
            "seconds": time.monotonic() - self.started,
        }
        values |= {f"train_{name}": logs[name] for name in PARTS if name in logs}
        for name, value in values.items():
            progress.history.setdefault(name, []).append(float(value))
        progress.epoch, progress.step, progress.seconds = epoch + 1, 0, 0.0
        # under Keras' own names, for those of its callbacks that look at validation: one dict goes to all in turn
        logs.update(val_loss=float(found["loss"]), val_accuracy=float(found["acc"]))


class StopOnNaN(keras.callbacks.Callback):
    """Raises Diverged where a loss, or another number of an epoch, isn't finite, before anything is written of it.

    keras.callbacks.TerminateOnNaN looks at the loss of the steps alone, not at validation, and names no learning rate.

    Args:
        run: a `recording.Run`.
        recipe: a Recipe.
        steps: of an epoch.
    """

    def __init__(self, run, recipe, steps):
        super().__init__()
        self.run, self.recipe, self.steps, self.rate = run, recipe, steps, schedule(recipe, steps)

    def on_train_batch_end(self, batch, logs=None):
        self.check(self.run.progress.epoch, self.run.progress.step, logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        for values in self.run.progress.history.values():
            if isinstance(values, list):
                self.check(epoch, self.steps, values[-1])

    def check(self, epoch, step, loss):
        """Raises Diverged where the loss behind this step of this epoch (from 0) isn't finite."""
        if np.isfinite(float(loss)):
            return
        kept = self.run.progress.history.get("checkpoint")
        rate = float(self.rate(max((epoch - self.recipe.begun) * self.steps + step - 1, 0)))
        done = f"{tables.counted(epoch, 'epoch') if epoch else 'no epochs'} {'was' if epoch == 1 else 'were'} finished"
        left = f"{self.run.folder / recording.MODEL} holds epoch {kept['epoch']}, the best" if kept else done
        raise Diverged(
            f"the loss became {float(loss)} in epoch {epoch + 1}, step {step} of {self.steps}, at a "
            f"learning rate of {rate:.4g}; {left} before it; expected a smaller learning rate (with "
            '`resume="never"`)'
        )


class KeepBest(keras.callbacks.Callback):
    """Writes `.next.h5`, which is to be model.h5, where the epoch is better than the one that is kept.

    What is better says `records.rank`.

    Args:
        run: a `recording.Run`.
    """

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        history = self.run.progress.history
        kept = records.checkpoint_epoch(history)
        if kept is None or records.rank(history, epoch) < records.rank(history, kept):
            self.run.keep(epoch + 1)


class SaveState(keras.callbacks.Callback):
    """Writes state.npz behind every epoch; within one every `save_minutes`, and when a signal asks the run to end.

    Args:
        run: a `recording.Run`.
        steps: of an epoch.
        asked: a StopOnSignal.
    """

    def __init__(self, run, steps, asked):
        super().__init__()
        self.run, self.steps, self.asked = run, steps, asked
        self.metrics, self.saved_at = [], time.monotonic()

    def on_train_begin(self, logs=None):
        self.metrics = [np.array(v) for v in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        # Keras clears loss and accuracy as an epoch begins; of one that was begun before they go on
        if self.run.progress.step:
            for variable, value in zip(self.model.metrics_variables, self.metrics, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch, logs=None):
        progress = self.run.progress
        self.asked.listen()
        due = time.monotonic() - self.saved_at >= 60 * self.run.config.save_minutes
        if progress.step < self.steps and (due or self.asked.number is not None):
            if keras.backend.backend() == "jax":  # its variables are brought up to date at the end of an epoch alone
                self.model.jax_state_sync()
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        self.asked.listen()
        self.save()

    def save(self):
        """Writes it now."""
        self.run.save_state(self.model)
        self.saved_at = time.monotonic()


class Publish(keras.callbacks.Callback):
    """Replaces history.json and model.h5, for others to read.

    Args:
        run: a `recording.Run`.
    """

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        self.run.publish()


class WriteEvents(keras.callbacks.Callback):
    """Writes the history for TensorBoard, see `storage.events`.

    Args:
        run: a `recording.Run`.
    """

    def __init__(self, run):
        super().__init__()
        self.run, self.log = run, None

    def __enter__(self):
        config = self.run.config
        self.log = events.EventLog(*events.run_folder(config.tensorboard, self.run.folder, config.home))
        try:
            self.log.follow(self.run.progress.history)  # what earlier processes trained
        except BaseException:
            self.log.close()
            raise
        return self

    def __exit__(self, *exc):
        self.log.close()

    def on_epoch_end(self, epoch, logs=None):
        self.log.follow(self.run.progress.history)


class StopOnSignal(keras.callbacks.Callback):
    """Ends a training that a signal (Ctrl-C, SIGTERM, a closed terminal) asked to end, once its state is saved.

    Args:
        run: a `recording.Run`.
        steps: of an epoch.
    """

    def __init__(self, run, steps):
        super().__init__()
        self.run, self.steps, self.deferred, self.heard = run, steps, signals.Deferred(), None

    @property
    def number(self):
        """Of the signal that came, or None; of several processes they have to `listen` first."""
        return self.deferred.number if processes.count() == 1 else self.heard

    def listen(self):
        """Asks all processes of the run for a signal: they have to end behind the same step.

        Of several signals it is the one with the highest number.
        """
        if processes.count() > 1:
            self.heard = int(processes.gathered(np.int32(self.deferred.number or 0)).max()) or None

    def __enter__(self):
        self.deferred.__enter__()
        return self

    def __exit__(self, kind, *exc):
        self.deferred.__exit__(kind, *exc)
        if kind is None:
            self.end_if_asked()  # it came behind the last epoch; of several processes each would be alone with it

    def on_train_batch_end(self, batch, logs=None):
        if self.run.stored == (self.run.progress.epoch, self.run.progress.step):  # it may have come behind `SaveState`
            self.end_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self.end_if_asked()

    def end_if_asked(self):
        """Raises Stopped where a signal came."""
        if self.number is not None:
            epoch, step = self.run.progress.epoch, self.run.progress.step
            place = f"epoch {epoch + 1}, step {step} of {self.steps}" if step else f"epoch {epoch}"
            raise Stopped(self.number, f"{place} is saved in {self.run.folder / records.STATE}")


class ShowBar(keras.callbacks.Callback):
    """Feeds the progress bar; the last one, since drawing fails where the terminal is gone.

    Args:
        bar: a `display.EpochBar`.
        progress: a `recording.Progress`.
        steps: of an epoch.
    """

    def __init__(self, bar, progress, steps):
        super().__init__()
        self.bar, self.progress, self.steps, self.started = bar, progress, steps, False

    def __enter__(self):
        if self.progress.epoch == self.bar.epochs:
            display.say(f"{self.bar.title}: its training was finished before", self.bar.verbose)
        else:
            self.started = True
            self.bar.start(self.progress.epoch + self.progress.step / self.steps, self.progress.history["val_acc"])
        return self

    def __exit__(self, *exc):
        if self.started:
            self.bar.stop()

    def on_train_batch_end(self, batch, logs=None):
        step = self.progress.step
        self.bar.step(self.progress.epoch, step * self.bar.images // self.steps, logs)
        if step == self.steps:
            self.bar.validating()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.epoch_end(
            epoch, {name: values[-1] for name, values in self.progress.history.items() if isinstance(values, list)}
        )
