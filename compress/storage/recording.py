"""What is written while a network trains, in an order in which a run may be killed between any two files.

An epoch ends with these steps; the second is what counts. A run that goes on does what was left of the others.

1. `.next.h5` is written, where the epoch is the best so far.
2. `state.npz` is replaced: the variables, the history and the checksum that model.h5 shall have.
3. `history.json` is replaced; it names the checksums of model.h5 after step 4 and before it.
4. `.next.h5` becomes model.h5.

Why not keras.callbacks.BackupAndRestore and ModelCheckpoint: a run that goes on here equals one that nobody stopped, to
the last bit and wherever it was killed. Theirs can't: the backup knows neither the history nor the metrics of an epoch
that was begun, it replaces its files one by one, and a new ModelCheckpoint forgets which epoch was the best.
"""

import dataclasses
from pathlib import Path

import keras

from compress.cli import tables
from compress.cli.configs import RunConfig
from compress.engine import processes
from compress.errors import InputError
from compress.storage import checkpoints, files, records, resuming, saving, states
from compress.storage.records import STATE
from compress.storage.resuming import NEVER

MODEL, NEXT, HISTORY = "model.h5", ".next.h5", "history.json"


@dataclasses.dataclass
class Progress:
    """How far a training is. `fit` and its callbacks share one; a state holds it beside the variables.

    Attributes:
        history: what history.json holds: lists with a number an epoch, 'run' and, once there is one, 'checkpoint'.
        epoch: whole epochs done.
        step: steps done of the next one.
        seconds: that these steps took.
    """

    history: dict = dataclasses.field(default_factory=lambda: {name: [] for name in records.CURVES})
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def checked(cls, meta, epochs, steps):
        """The progress that a state's meta describes. Raises ValueError where it describes none of this run."""
        found = cls(**{field.name: meta[field.name] for field in dataclasses.fields(cls)})
        history = found.history
        if not (
            type(found.epoch) is int
            and type(found.step) is int
            and isinstance(history, dict)
            and records.is_number(found.seconds)
        ):
            raise ValueError(f"received {meta!s:.100}")
        if not (0 <= found.epoch <= epochs and 0 <= found.step < steps):
            raise ValueError(f"epoch {found.epoch}, step {found.step} of {epochs} x {steps}")
        curves = set(history) - {"run", "checkpoint"}
        wanted = {*records.CURVES, *(("learning_rate", "seconds") if found.epoch else ())}
        if not wanted <= curves or not all(records.is_curve(history[name], found.epoch) for name in curves):
            raise ValueError(f"no history of {found.epoch} epochs")
        kept = history.get("checkpoint")
        if "checkpoint" in history and not (
            records.checkpoint_epoch(history) is not None
            and isinstance(kept.get("sha256"), str)
            and len(kept["sha256"]) == 64
        ):
            raise ValueError("no checksum of the model")
        return found


@dataclasses.dataclass
class Run:
    """A training in a folder: where it writes, and what it knows of itself.

    Attributes:
        folder: where model.h5, history.json, history.png and the state go.
        record: what `records.run_record` gives.
        saved: the network that goes into model.h5, of layers that .h5 holds, see `opening.load_network`.
        config: how the run is kept and shown.
        keep_best: True leaves the best epoch, see `records.rank`, in model.h5 and in `saved`, False the last.
        progress: how far it is.
        stored: (epoch, step) of the last state that this process wrote, or None.
    """

    folder: Path
    record: dict
    saved: keras.Model
    config: RunConfig = dataclasses.field(default_factory=RunConfig)
    keep_best: bool = True
    progress: Progress = dataclasses.field(default_factory=Progress)
    stored: tuple | None = None

    def __post_init__(self):
        self.folder = Path(self.folder)
        self.progress.history["run"] = self.record

    def begin(self, trainer, recipe, steps):
        """Goes on where the folder's run stopped, or begins a new one.

        Of an unfinished run with the same flags the state goes into the trainer. Of a finished one that is to have more
        epochs the model goes into `saved`.

        Args:
            trainer: a compiled keras.Model, all of whose variables exist.
            recipe: a `recipe.Recipe`; its epochs may be others than the unfinished run was to have.
            steps: of an epoch.

        Raises:
            InputError: an unfinished run with other flags lies in the folder, or a damaged one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.config.resume == "never":
            finish(self.folder)
        if (self.folder / STATE).exists():
            self._take_up_state(trainer, recipe.epochs, steps)
        else:
            (self.folder / NEXT).unlink(missing_ok=True)  # of a run that was killed before its first state
            if recipe.begun:
                self._take_up_model(recipe.begun, steps)

    def _take_up_state(self, trainer, epochs, steps):
        """Of an unfinished run."""
        path = self.folder / STATE
        try:
            meta = states.read_meta(path)
            before, done = meta["history"]["run"], meta["epoch"] + (meta["step"] > 0)
        except Exception as error:  # a damaged zip can raise nearly anything
            raise _unreadable(path, error) from None
        resuming.check_same_run(before, self.record, self.folder, length="epoch_num")  # first: others have other steps
        changed = before["flags"].get("epoch_num") != self.record["flags"].get("epoch_num")
        if changed and done > epochs:
            raise InputError(
                f"`epoch_num`: received {epochs}, but the run in {self.folder} is in epoch {done} "
                f"already; expected at least {done}, another folder to write to, {NEVER}"
            )
        try:
            progress = Progress.checked(meta, epochs, steps)
            if self.keep_best and progress.epoch and "checkpoint" not in progress.history:
                raise ValueError("no checksum of the model")
            states.load_state(trainer, path)
        except Exception as error:
            raise _unreadable(path, error) from None
        resuming.tell_devices(before, self.record, self.folder, self.config.verbose)
        progress.history["run"] = self.record if changed else before
        self.progress = progress
        self.settle()

    def _take_up_model(self, epochs, steps):
        """Of a finished run of so many epochs."""
        path = self.folder / HISTORY
        history = records.read_json(path) | {"run": self.record}
        meta = {"history": history, "epoch": epochs, "step": 0, "seconds": 0.0}
        try:
            self.progress = Progress.checked(meta, epochs, steps)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"`resume`: {path} is not that of a finished run of {tables.counted(epochs, 'epoch')} "
                f"({error}); expected it, {NEVER}"
            ) from None
        self.settle()
        checkpoints.load_weights(self.saved, self.folder / MODEL)

    def keep(self, epoch):
        """Step 1: the network as it is now, behind so many epochs, shall be model.h5."""
        history, model = self.progress.history, self.folder / MODEL
        # Between steps 3 and 4 the history tells of both files, so that a reader at that moment finds neither damaged.
        before = history.get("checkpoint", {}).get("sha256") or (files.sha256(model) if model.is_file() else None)
        saving.save_network(self.saved, self.folder / NEXT, history["run"].get("class_names"))
        history["checkpoint"] = {"sha256": files.sha256(self.folder / NEXT), "previous_sha256": before, "epoch": epoch}

    def save_state(self, trainer):
        """Step 2. Of several processes the first one's state is what all go on from."""
        if processes.is_main():
            states.save_state(trainer, self.folder / STATE, dataclasses.asdict(self.progress))
        self.stored = self.progress.epoch, self.progress.step

    def publish(self):
        """Steps 3 and 4, where there is a next model; a result of an older run goes with the model that it is of."""
        records.write_json(self.folder / HISTORY, self.progress.history)
        if (self.folder / NEXT).exists():
            (self.folder / "result.json").unlink(missing_ok=True)
            files.move(self.folder / NEXT, self.folder / MODEL)

    def settle(self):
        """Does what was left of steps 3 and 4 when a run was killed.

        Raises:
            InputError: neither model.h5 nor the next one is the file that the history names.
        """
        model, following = self.folder / MODEL, self.folder / NEXT
        wanted = self.progress.history.get("checkpoint", {}).get("sha256")
        if following.exists() and files.sha256(following) != wanted:
            following.unlink()  # of an epoch that the state doesn't hold
        self.publish()
        if wanted and not (model.is_file() and files.sha256(model) == wanted):
            raise InputError(
                f"`resume`: {model} is missing or damaged: its sha256 is not {wanted:.8}..., as "
                f"{self.folder / STATE} says; expected the file of this run, {NEVER}"
            )

    def end(self, trainer):
        """What is left when all epochs are done: model.h5 and `saved` hold the epoch that is kept.

        The state stays until the caller's own results are written: until then the same command goes on behind the
        training, see `finish`.
        """
        history = self.progress.history
        if "checkpoint" not in history:  # the last epoch is kept, and nothing was until now
            self.keep(self.progress.epoch)
            self.save_state(trainer)
            self.publish()
        if self.keep_best:
            checkpoints.load_weights(self.saved, self.folder / MODEL)
        history["checkpoint"].pop("previous_sha256", None)
        records.write_json(self.folder / HISTORY, history)


def finish(folder):
    """Removes the state of a training, so that the next run in the folder is a new one."""
    (Path(folder) / STATE).unlink(missing_ok=True)


def _unreadable(state, error):
    return InputError(
        f"`resume`: {state} can't be read ({type(error).__name__}: {error!s:.200}); expected the state "
        f"of this run, {NEVER}"
    )
