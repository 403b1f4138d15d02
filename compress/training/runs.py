"""A training in a folder: it begins or goes on, trains, and leaves model.h5, history.json and history.png."""

import dataclasses

from compress.cli import display, tables
from compress.data import batches
from compress.engine import devices
from compress.plots import curves, roles, style
from compress.storage import recording, records, resuming
from compress.storage.records import STATE
from compress.training import callbacks, fit


def continued(recipe, run):
    """The recipe of a run that goes on in its folder, perhaps with other epochs than it was to have; says how.

    Call it before the trainer is compiled, whose schedule depends on it.

    Args:
        recipe: a Recipe.
        run: a `recording.Run`; `resuming.continuation` may add to its record.
    """
    folder, verbose = run.folder, run.config.verbose
    if run.config.resume == "never":
        return recipe
    # A finished run starts another cycle of its schedule, an unfinished one takes the schedule of the new length. The
    # curves show either as a jump of the learning rate, so a line says what happens.
    begun = resuming.continuation(folder, run.record)
    last = run.record.get("continued", [{}])[-1]
    if last.get("schedule") in resuming.RESTARTED and not (folder / STATE).exists():
        display.say(
            f"{folder} goes on behind its {tables.counted(begun, 'epoch')}, from "
            f"{'it' if begun == 1 else 'the best of them'}: the learning rate rises and falls once more up to "
            f"epoch {recipe.epochs}, with a new optimiser; {recipe.epochs} epochs from the start "
            '(`resume="never"`) would be another run',
            verbose,
        )
    elif last.get("schedule") == "stretched":
        display.say(
            f"{folder} goes on behind epoch {last['after_epoch']} with the learning rate of a run of "
            f"{tables.counted(recipe.epochs, 'epoch')}; before, it was that of {last['epoch_num']}",
            verbose,
        )
    return dataclasses.replace(recipe, begun=begun)


def train(trainer, images, recipe, run, title):
    """Trains in a folder; goes on where an earlier process stopped.

    Args:
        trainer: a compiled keras.Model around `run.saved`; all its variables exist.
        images: a dataset.Data.
        recipe: a Recipe.
        run: a `recording.Run`. Its state stays: remove it by `recording.finish` once your own results are written.
        title: for the progress bar.

    Returns:
        The history, see `fit`, with 'run' and 'checkpoint'.

    Raises:
        InputError: an unfinished run with other flags lies in the folder, or a damaged one.
        errors.Diverged: the loss is not finite.
        errors.Stopped: a signal asked the run to end; its state is saved.
    """
    # A batch is no larger than the training set. All variables are made here, those of the optimiser among them: the
    # state of an earlier process can only be read into variables that exist.
    recipe = fit.recipe_for(recipe, images)
    steps = batches.steps_per_epoch(len(images.train), recipe.batch_size)
    devices.check_rows(recipe.batch_size, "batch_size")
    fit.check_batch(run.saved, recipe.batch_size)
    fit.build(trainer, images.class_num)
    run.begin(trainer, recipe, steps)
    begun = run.progress.epoch
    # The figure comes last: model.h5 and history.json, from which it can be drawn again, are complete by then.
    history = fit.fit(trainer, images, recipe, callbacks.of_run(run, recipe, steps, title), run.progress)
    run.end(trainer)
    tell_end(run, title, begun, images.class_num)
    name = run.folder.name
    figure = curves.plot_history({name: history}, {name: roles.of_run(history["run"])})
    style.save_figure(figure, run.folder / "history.png")
    return history


def tell_end(run, title, begun, classes):
    """Says where epochs were trained in vain, and warns of a model that is worse than guessing.

    Args:
        run: a `recording.Run` that has ended.
        title: of the training.
        begun: epochs that were done before this process.
        classes: of the data.
    """
    history = run.progress.history
    kept, last = records.checkpoint_epoch(history), run.progress.epoch
    # All epochs of this process were worse than one before it: it trained, and model.h5 stayed as it was.
    if run.keep_best and kept < begun < last:
        which = f"epoch {last} was not" if last == begun + 1 else f"none of epochs {begun + 1} to {last} was"
        display.say(
            f"{title}: {which} better than epoch {kept + 1}, which {run.folder / recording.MODEL} still holds",
            run.config.verbose,
        )
    display.warn_of_guessing(title, history["val_loss"][kept], classes)
