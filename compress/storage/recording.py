"""What is written while a network trains, in an order in which a run may be killed between any two files.

An epoch ends with these steps; the second is what counts. A run that goes on does what was left of the others.

1. `.next.h5` is written, where the epoch is the best so far.
2. `state.npz` is replaced: the variables, the history and the checksum that model.h5 shall have.
3. `history.json` is replaced; it names the checksums of model.h5 after step 4 and before it.
4. `.next.h5` becomes model.h5.
"""

import dataclasses
import time

import keras
import numpy as np

from compress import metrics
from compress.cli import tables
from compress.engine import folded
from compress.errors import Diverged, InputError, Stopped
from compress.storage import checkpoints, files, records, states
from compress.storage.records import STATE

MODEL, NEXT, HISTORY = "model.h5", ".next.h5", "history.json"
EXTRA_CURVES = ("backbone", "intermediate", "adversarial", "hard_label", "discriminator")


@dataclasses.dataclass
class Progress:
    """How far a run is; what its state holds beside variables.

    Attributes:
        history: what history.json holds: lists with a number an epoch, 'run' and, once there is one, 'checkpoint'.
        epoch: whole epochs done.
        step: steps done of the next one.
        seconds: that these steps took.
    """

    history: dict
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def checked(cls, meta, epochs, steps):
        """The progress that a state's meta describes. Raises ValueError where it describes none of this run."""
        found = cls(**{field.name: meta[field.name] for field in dataclasses.fields(cls)})
        history = found.history
        if not (type(found.epoch) is int and type(found.step) is int and isinstance(history, dict)
                and records.is_number(found.seconds)):
            raise ValueError(f"received {meta!s:.100}")
        if not (0 <= found.epoch <= epochs and 0 <= found.step < steps):
            raise ValueError(f"epoch {found.epoch}, step {found.step} of {epochs} x {steps}")
        curves = set(history) - {"run", "checkpoint"}
        wanted = {*records.CURVES, *(("learning_rate", "seconds") if found.epoch else ())}
        if not wanted <= curves or not all(records.is_curve(history[name], found.epoch) for name in curves):
            raise ValueError(f"no history of {found.epoch} epochs")
        kept = history.get("checkpoint", {"sha256": "0" * 64, "epoch": 1})
        if not (isinstance(kept, dict) and type(kept.get("epoch")) is int and isinstance(kept.get("sha256"), str)
                and len(kept["sha256"]) == 64):
            raise ValueError("no checksum of the model")
        return found


def from_model(saved, folder, epochs, steps, run):
    """The Progress of a finished run that is to go on, whose model `saved` then holds.

    Raises:
        InputError: its history or its model is not as it left them.
    """
    history = records.read_json(folder / HISTORY, "--resume") | {"run": run}
    try:
        progress = Progress.checked({"history": history, "epoch": epochs, "step": 0, "seconds": 0.0}, epochs, steps)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--resume: {folder / HISTORY} is not that of a finished run of "
                         f"{tables.counted(epochs, 'epoch')} ({error}); expected it, or --resume never to start "
                         "over") from None
    settle(folder, history)
    saved.load_weights(folder / MODEL)
    return progress


def publish(folder, history):
    """Steps 3 and 4, where there is a next model; a result of an older run goes with the model that it tells of."""
    records.write_json(folder / HISTORY, history)
    if (folder / NEXT).exists():
        (folder / "result.json").unlink(missing_ok=True)
        files.move(folder / NEXT, folder / MODEL)


def settle(folder, history):
    """Does what was left of steps 3 and 4 when a run was killed.

    Raises:
        InputError: neither model.h5 nor the next one is the file that the history names.
    """
    wanted = history.get("checkpoint", {}).get("sha256")
    if (folder / NEXT).exists() and files.sha256(folder / NEXT) != wanted:
        (folder / NEXT).unlink()  # of an epoch that the state doesn't hold
    publish(folder, history)
    if wanted and not ((folder / MODEL).is_file() and files.sha256(folder / MODEL) == wanted):
        raise InputError(f"--resume: {folder / MODEL} is missing or damaged: its sha256 is not {wanted:.8}..., as "
                         f"{folder / STATE} says; expected the file of this run, or --resume never to start over")


class Recorder(keras.callbacks.Callback):
    """Validates after every epoch, writes what the module's head says, and feeds the progress bar.

    Within an epoch it writes a state every recipe.save_minutes, and when a signal asks the run to end.

    Args:
        saved: the network that goes into model.h5.
        val: the validation split.
        folder: a Path.
        progress: a Progress, which it keeps up to date.
        bar: a display.EpochBar.
        rate: function(step) -> learning rate.
        recipe: a fit.Recipe.
        steps: of an epoch.
        keep_best: whether the best epoch goes into model.h5.
        rate_flag: the flag that a diverging loss is blamed on.
        signals: an signals.Deferred.
        follow: function(history), called when an epoch is written.
    """

    def __init__(self, saved, val, folder, progress, bar, rate, recipe, steps, keep_best, rate_flag, signals,
                 follow):
        super().__init__()
        self.saved, self.val, self.folder, self.progress, self.bar = saved, val, folder, progress, bar
        self.rate, self.recipe, self.steps, self.keep_best = rate, recipe, steps, keep_best
        self.rate_flag, self.signals, self.follow = rate_flag, signals, follow
        self.judge, self.epoch, self.first, self.started, self.restored = None, 0, 0, 0.0, None
        self.last, self.saved_at = None, time.monotonic()

    def resume(self):
        """The metrics' variables, as a state gave them: `fit` clears them, and they are set again."""
        self.restored = [np.array(v) for v in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.first, self.started = epoch, 0, time.monotonic()
        if self.restored is not None:
            self.first, self.started = self.progress.step, self.started - self.progress.seconds
            for variable, value in zip(self.model.metrics_variables, self.restored, strict=True):
                variable.assign(value)
            self.restored = None

    def on_train_batch_end(self, batch, logs=None):
        step = self.first + batch + 1
        self.check_finite()  # of the step before: this one may still be computed
        self.last = (step, logs["loss"])
        self.bar.step(self.epoch, step * self.recipe.batch_size, logs)
        due = time.monotonic() - self.saved_at >= 60 * self.recipe.save_minutes
        if step < self.steps and (due or self.signals.number is not None):
            self.check_finite()
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            self.progress.step, self.progress.seconds = step, time.monotonic() - self.started
            self.write_state()
            self.end_if_asked(f"epoch {self.epoch + 1}, step {step} of {self.steps}")

    def check_finite(self, value=None):
        """Raises Diverged where the running loss, or the value given, is none."""
        step, loss = (self.steps, value) if value is not None else self.last or (0, 0.0)
        if np.isfinite(float(loss)):
            return
        kept = self.progress.history.get("checkpoint")
        rate = float(self.rate(max((self.epoch - self.recipe.begun) * self.steps + step - 1, 0)))
        raise Diverged(f"{self.rate_flag}: the loss became {float(loss)} in epoch {self.epoch + 1}, step {step} of "
                       f"{self.steps}, at a learning rate of {rate:.4g}; "
                       + (f"{self.folder / MODEL} holds epoch {kept['epoch']}, the best before it" if kept else
                          self.finished_before())
                       + "; expected a smaller one (with --resume never)")

    def finished_before(self):
        """How many epochs were finished, as a clause."""
        done = self.progress.epoch
        count, verb = tables.counted(done, "epoch") if done else "no epochs", "was" if done == 1 else "were"
        return f"{count} {verb} finished before it"

    def validate(self):
        """Loss and accuracy of the model that is saved, in the precision that trains it."""
        if self.judge is None:
            self.judge = folded.FoldedResNet(self.saved, self.recipe.precision)
        else:
            self.judge.refold(self.saved)
        return metrics.evaluate(self.judge, self.val, 2 * self.recipe.batch_size)  # no gradients: twice as many fit

    def on_epoch_end(self, epoch, logs=None):
        self.check_finite()
        self.bar.validating()
        found = self.validate()
        values = {"train_loss": logs["loss"], "train_acc": logs["accuracy"],
                  "val_loss": found["loss"], "val_acc": found["acc"],
                  "learning_rate": self.rate(self.model.optimizer.iterations - 1),
                  "seconds": time.monotonic() - self.started}
        values |= {f"train_{name}": logs[name] for name in EXTRA_CURVES if name in logs}
        values = {name: float(value) for name, value in values.items()}
        for value in values.values():
            self.check_finite(value)
        history = self.progress.history
        improved = values["val_acc"] > max(history["val_acc"], default=-1.0)
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        if self.keep_best and improved:
            self.keep(epoch + 1)
        self.progress.epoch, self.progress.step, self.progress.seconds, self.last = epoch + 1, 0, 0.0, None
        self.write_state()
        publish(self.folder, history)
        self.follow(history)
        self.end_if_asked(f"epoch {epoch + 1}")  # before the bar, which fails where the terminal is gone
        self.bar.epoch_end(epoch, values)

    def keep(self, epoch):
        """Step 1: the network as it is now shall be model.h5."""
        history, model = self.progress.history, self.folder / MODEL
        before = history.get("checkpoint", {}).get("sha256") or (files.sha256(model) if model.is_file() else None)
        checkpoints.save_model(self.saved, self.folder / NEXT, history["run"].get("class_names"))
        history["checkpoint"] = {"sha256": files.sha256(self.folder / NEXT), "previous_sha256": before, "epoch": epoch}

    def write_state(self):
        """Step 2."""
        states.save_state(self.model, self.folder / STATE, dataclasses.asdict(self.progress))
        self.saved_at = time.monotonic()

    def end_if_asked(self, place):
        """Raises Stopped where a signal came."""
        if self.signals.number is not None:
            raise Stopped(self.signals.number, f"{place} is saved in {self.folder / STATE}")
