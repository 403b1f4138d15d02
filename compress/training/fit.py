"""The one path on which the suite trains: base training, fine-tuning and distillation share it."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
from keras import ops

from compress.cli import display, tables
from compress.cli import signals as interrupts
from compress.data import dataset
from compress.errors import InputError
from compress.plots import curves, roles, style
from compress.storage import events, recording, records, resuming, states
from compress.storage.records import STATE
from compress.training import optimizers


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
        save_minutes: between two states within an epoch.
        precision: dtype policy of the arithmetic.
        optimizer: 'sgd' or 'muon', see --optimizer.
        tensorboard: folder of event files, see `events`, or None.
        begun: epochs that were done when this schedule began, see `going_on`.
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
    save_minutes: float = 10.0
    precision: str = "float32"
    optimizer: str = "sgd"
    tensorboard: str | None = None
    begun: int = 0

    @classmethod
    def from_flags(cls, args, learning_rate):
        """The recipe that a script's flags describe, with this learning rate."""
        same = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)
                if field.name not in ("epochs", "learning_rate", "begun")}
        return cls(epochs=args.epoch_num, learning_rate=learning_rate, **same)


def going_on(recipe, folder, run):
    """The recipe of a run that goes on in its folder, perhaps with other epochs than it was to have; says how.

    Call it before the trainer is compiled, whose schedule depends on it.

    Args:
        recipe: a Recipe.
        folder: where `fit` will write.
        run: what `records.run_record` gives; see `resuming.continuation`, which may add to it.
    """
    if recipe.resume == "never":
        return recipe
    begun = resuming.continuation(folder, run)
    last = run.get("continued", [{}])[-1]
    if last.get("schedule") == "anew" and not (Path(folder) / STATE).exists():
        display.say(f"{folder} goes on behind its {tables.counted(begun, 'epoch')}, from "
                    f"{'it' if begun == 1 else 'the best of them'}: the learning rate rises and falls once more up to "
                    f"epoch {recipe.epochs}, with a new optimiser; {recipe.epochs} epochs from the start (--resume "
                    "never) would be another run", recipe.verbose)
    elif last.get("schedule") == "stretched":
        display.say(f"{folder} goes on behind epoch {last['after_epoch']} with the learning rate of a run of "
                    f"{tables.counted(recipe.epochs, 'epoch')}; before, it was that of {last['epoch_num']}",
                    recipe.verbose)
    return dataclasses.replace(recipe, begun=begun)


def schedule(recipe, steps):
    """Learning rate over all steps of the epochs behind recipe.begun: linear to the highest, then a cosine to 0.

    Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983, equation 5, with warm-up (Goyal et al. 2017, 1706.02677, 2.2).

    Args:
        recipe: a Recipe.
        steps: steps an epoch.
    """
    total = (recipe.epochs - recipe.begun) * steps
    rise = min(round(recipe.warmup * total), total - 1)
    if rise == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(recipe.learning_rate / rise, total - rise, warmup_steps=rise,
                                                  warmup_target=recipe.learning_rate)


def optimizer_of(recipe, steps):
    """SGD with Nesterov momentum 0.9, or Muon, on the recipe's schedule; no decay on biases and batch-norm."""
    kind = {"sgd": optimizers.FusedSGD, "muon": optimizers.Muon}[recipe.optimizer]
    return kind(schedule(recipe, steps), decay=recipe.weight_decay)


def compile_classifier(model, recipe, steps):
    """Compiles a model of logits for cross-entropy on integer labels."""
    def cross_entropy(labels, logits):
        targets = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True,
                                                     label_smoothing=recipe.label_smoothing)

    compile_trainer(model, optimizer_of(recipe, steps), recipe, cross_entropy)


def compile_trainer(trainer, optimizer, recipe, loss=None):
    """Compiles what `fit` trains: with accuracy, and with a scaled loss where float16 would underflow.

    Micikevicius et al. 2018, Mixed Precision Training, arXiv 1710.03740, section 3.2.
    """
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    trainer.compile(optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])


def tell_images(args, images):
    """Says what is trained on, and what becomes of a --batch_size that is larger than that."""
    display.say(images.description, args.verbose)
    if args.batch_size > (most := len(images.train)):
        display.say(f"--batch_size {args.batch_size}: there are {tables.counted(most, 'training image')}, so that each "
                    f"step takes all {most} and an epoch is one step; a smaller one makes more steps", args.verbose)


def _start(trainer, saved, folder, recipe, steps, run, keep_best):
    """The Progress of an unfinished run with the same flags, whose state is then loaded, of a finished one that
    goes on, whose model is, or of a new run."""
    state = folder / STATE
    if not state.exists():
        (folder / recording.NEXT).unlink(missing_ok=True)  # of a run that was killed before its first state
        return recording.from_model(saved, folder, recipe.begun, steps, run) if recipe.begun else (
            recording.Progress({name: [] for name in records.CURVES} | {"run": run}))
    try:
        meta = states.read_meta(state)
        before, done = meta["history"]["run"], meta["epoch"] + (meta["step"] > 0)
    except Exception as error:  # a damaged zip can raise nearly anything
        raise _unreadable(state, error) from None
    resuming.check_same_run(before, run, folder, length="epoch_num")  # first: other flags have other steps
    changed = before["flags"].get("epoch_num") != run["flags"].get("epoch_num")
    if changed and done > recipe.epochs:
        raise InputError(f"--epoch_num: received {recipe.epochs}, but the run in {folder} is in epoch {done} already; "
                         f"expected at least {done}, another folder to write to, or --resume never to start over")
    try:
        progress = recording.Progress.checked(meta, recipe.epochs, steps)
        if keep_best and progress.epoch and "checkpoint" not in progress.history:
            raise ValueError("no checksum of the model")
        states.load_state(trainer, state)
    except Exception as error:
        raise _unreadable(state, error) from None
    if changed:
        progress.history["run"] = run
    recording.settle(folder, progress.history)
    return progress


def _unreadable(state, error):
    return InputError(f"--resume: {state} can't be read ({type(error).__name__}: {error!s:.200}); expected the state "
                      "of this run, or --resume never to start over")


def check_batch(model, batch_size, flag="--batch_size"):
    """Raises InputError where a batch-norm would see one value a channel, whose deviation from their mean is 0.

    Args:
        model: any Keras model.
        batch_size: images a batch.
        flag: the one to blame.
    """
    maps = [layer.output.shape[1:3] for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    height, width = min(maps, key=lambda size: size[0] * size[1])
    if batch_size * height * width < 2:
        raise InputError(f"{flag}: received {batch_size} image a batch, expected at least 2: batch-norm learns nothing "
                         f"from one value a channel, and the last feature maps have {height}x{width}")


def _build(trainer, classes):
    """Makes the optimiser's and the metrics' variables.

    A step that first makes them is traced twice, and a state must find them.
    """
    trainer.optimizer.build(trainer.trainable_variables)
    blank = np.zeros((1, classes), np.float32)
    trainer.compute_metrics(None, np.zeros(1, np.int32), blank if trainer.loss else [blank])  # own losses: a list
    trainer.reset_metrics()


def fit(trainer, saved, images, recipe, folder, run, title, keep_best=True, rate_flag="--learning_rate"):
    """Trains, validates after every epoch, keeps the best epoch, writes history and plot; goes on where it stopped.

    Args:
        trainer: a compiled keras.Model to fit; all its variables exist.
        saved: a model of `resnet.build_resnet`, the network inside the trainer, which goes into model.h5.
        images: a dataset.Data; its training split is trained on, its validation split chooses the epoch.
        recipe: a Recipe.
        folder: where model.h5, history.json and history.png go, and the state, which `finish` removes.
        run: what `records.run_record` gives.
        title: for the progress bar.
        keep_best: True leaves the epoch of highest validation accuracy in the file and in `saved`, False the last.
        rate_flag: the flag that a learning rate too high is blamed on.

    Returns:
        The history: dict of lists, one number an epoch, and 'run'.

    Raises:
        InputError: an unfinished run with other flags lies in the folder, or a damaged one.
        errors.Diverged: the loss is not finite.
        errors.Stopped: a signal asked the run to end; its state is saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(images.train)))
    steps = dataset.steps_per_epoch(len(images.train), recipe.batch_size)
    check_batch(saved, recipe.batch_size)
    if recipe.resume == "never":
        finish(folder)
    _build(trainer, images.class_num)
    progress = _start(trainer, saved, folder, recipe, steps, run, keep_best)
    bar = display.EpochBar(title, steps * recipe.batch_size, recipe.epochs, recipe.verbose)
    log = events.following(recipe.tensorboard, folder, run, progress.history)
    with interrupts.Deferred() as signals, log as follow:
        recorder = recording.Recorder(saved, images.val, folder, progress, bar, schedule(recipe, steps), recipe, steps,
                                      keep_best, rate_flag, signals, follow)
        _run_epochs(trainer, recorder, images.train, recipe, steps)
        if not keep_best and "checkpoint" not in progress.history:
            recorder.set_model(trainer)
            recorder.keep(recipe.epochs)
            recorder.write_state()
            recording.publish(folder, progress.history)
        recorder.end_if_asked(f"epoch {recipe.epochs}")  # a signal that came behind the last epoch
    if keep_best:
        saved.load_weights(folder / recording.MODEL)
    progress.history["checkpoint"].pop("previous_sha256", None)
    records.write_json(folder / recording.HISTORY, progress.history)
    role = roles.of_run(progress.history.get("run"))
    style.save_figure(curves.plot_history({folder.name: progress.history}, {folder.name: role}), folder / "history.png")
    return progress.history


def _run_epochs(trainer, recorder, split, recipe, steps):
    """Keras' fit over the epochs that are left; what is left of one that was begun is a fit of its own."""
    progress = recorder.progress
    if progress.epoch == recipe.epochs:
        display.say(f"{recorder.bar.title}: its training was finished before", recipe.verbose)
        return
    recorder.bar.start(progress.epoch + progress.step / steps, progress.history["val_acc"])
    try:
        if progress.step:
            recorder.set_model(trainer)
            recorder.resume()
            batches = dataset.batches(split, recipe.batch_size, recipe.seed, True, progress.epoch, progress.step)
            _fit(trainer, batches, steps - progress.step, progress.epoch, progress.epoch + 1, recorder)
        if progress.epoch < recipe.epochs:
            batches = dataset.batches(split, recipe.batch_size, recipe.seed, True, progress.epoch)
            _fit(trainer, batches, steps, progress.epoch, recipe.epochs, recorder)
    finally:
        recorder.bar.stop()


def _fit(trainer, batches, steps, first, last, recorder):
    trainer.fit(batches, steps_per_epoch=steps, initial_epoch=first, epochs=last, shuffle=False, verbose=0,
                callbacks=[recorder])


def finish(folder):
    """Removes the state that `fit` leaves, so that the next run in the folder is a new one.

    A script calls it once its own results are written: until then the same command goes on behind the finished fit.
    """
    (Path(folder) / STATE).unlink(missing_ok=True)


def best_epoch(history):
    """Index of the epoch with the highest validation accuracy; of equals the first, as `fit` keeps it."""
    return int(np.argmax(history["val_acc"]))
