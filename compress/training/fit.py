"""The one path on which the suite trains: base training, fine-tuning and distillation share it."""

import contextlib
import dataclasses
import math

import keras
import numpy as np

from compress.data import batches
from compress.engine import devices, processes
from compress.errors import InputError
from compress.graph import nodes
from compress.storage.recording import Progress
from compress.training.callbacks import Validation


def fit(model, images, recipe, callbacks=(), progress=None):
    """Trains a model and validates it after every epoch.

    Args:
        model: a compiled keras.Model, such as `recipe.compile_classifier` leaves; where it only wraps what it trains,
            its `network` is that (`twin.Twin`, `distiller.Distiller`), and is what is validated.
        images: a dataset.Data; its training split is trained on, its validation split validated.
        recipe: a Recipe.
        callbacks: keras.callbacks.Callbacks; those that are context managers are entered before the first epoch and
            left whatever happens. `callbacks.of_run` gives those of a training that writes files.
        progress: a Progress of a training that goes on, whose variables the model has by now; None for a new one.

    Returns:
        The history: dict of lists, one number an epoch: train_loss, train_acc, val_loss, val_acc, learning_rate,
        seconds, and the parts of a distillation's loss.
    """
    progress = progress or Progress()
    recipe = recipe_for(recipe, images)
    devices.check_rows(recipe.batch_size, "batch_size")
    steps = batches.steps_per_epoch(len(images.train), recipe.batch_size)
    build(model, images.class_num)
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            if hasattr(callback, "__exit__"):
                stack.enter_context(callback)
        callbacks = [Validation(getattr(model, "network", model), images.val, recipe, steps, progress), *callbacks]

        def train(last):
            """Keras' fit from where the training is up to this epoch."""
            begun, own = (progress.epoch, progress.step), (processes.rank(), processes.count())
            source = batches.batches(images.train, recipe.batch_size, recipe.seed, True, *begun, own)
            try:
                model.fit(
                    batches.pipeline(source),
                    steps_per_epoch=steps - progress.step,
                    initial_epoch=progress.epoch,
                    epochs=last,
                    shuffle=False,
                    verbose=0,
                    callbacks=callbacks,
                )
            except Exception:
                if source.error is not None:
                    raise source.error from None
                raise

        ended = False  # by a callback, such as keras.callbacks.EarlyStopping
        if progress.step:  # what is left of an epoch has fewer steps than the others: it is a fit of its own
            train(progress.epoch + 1)
            ended = model.stop_training  # which the next fit would forget
        if progress.epoch < recipe.epochs and not ended:
            train(recipe.epochs)
    return progress.history


def recipe_for(recipe, images):
    """The recipe with a batch that the training images suffice for."""
    return dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(images.train)))


def build(trainer, classes):
    """Makes the optimiser's and the metrics' variables, where there are none yet.

    A step that first makes them is traced twice, and a state must find them.
    """
    if trainer.optimizer.built:
        return
    trainer.optimizer.build(trainer.trainable_variables)
    blank = np.zeros((1, classes), np.float32)
    trainer.compute_metrics(None, np.zeros(1, np.int32), blank if trainer.loss else [blank])  # own losses: a list
    trainer.reset_metrics()


def check_batch(model, batch_size, name="batch_size"):
    """Raises InputError where a batch-norm would see one value a channel, whose deviation from their mean is 0.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        batch_size: images a batch.
        name: of the parameter to blame.
    """
    # what a batch-normalisation is given, without the images of the batch and the channels: places of a map, if any
    read = [
        (list(node.input_tensors[0].shape), node.operation.axis)
        for _, node in nodes.walk(model)
        if isinstance(node.operation, keras.layers.BatchNormalization)
    ]
    maps = [[n for place, n in enumerate(shape) if place not in (0, axis % len(shape))] for shape, axis in read]
    known = [sides for sides in maps if None not in sides]
    if known and batch_size * math.prod(least := min(known, key=math.prod)) < 2:
        size = f"its smallest feature maps have {'x'.join(map(str, least))}" if least else "it has no maps"
        raise InputError(
            f"`{name}`: received {batch_size} image a batch, expected at least 2: batch-norm learns "
            f"nothing from one value a channel, and {size}"
        )
