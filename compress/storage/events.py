"""Histories for TensorBoard: an event file a run, with one scalar a curve and epoch.

Why not `tf.summary`, on which Keras' callback is built: a run that goes on after a kill shall have each epoch once, at
the time that it had, also in a TensorBoard that looks on meanwhile. A TensorBoard forgets what an earlier file of a run
said where a new one begins with a START event. `tf.summary` can write neither that event nor a time, and its scalars
need the tensorboard package. So events are made here, of TensorFlow's own messages and by its own writer of records.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path

from compress.cli import app
from compress.errors import InputError

TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/validation",
    "train_acc": "accuracy/train",
    "val_acc": "accuracy/validation",
}


def tag_of(curve):
    """The scalar that a curve of a history is shown as: 'loss/train', 'losses/backbone', 'learning_rate', ..."""
    return TAGS.get(curve) or (f"losses/{curve[6:]}" if curve.startswith("train_") else curve)


def run_folder(directory, folder, home=None):
    """Where the events of a run go, and the mark in the names of its files, which no other run there has.

    Args:
        directory: of the events of all runs.
        folder: where `training.fit` writes.
        home: folder of all that belongs to the run, as of an ablation; the place is named after it, and after the parts
            of `folder` below it. None where that is `folder` itself.

    Returns:
        (Path such as directory/base_model or directory/pruned_model/iter1, mark).
    """
    home = Path(os.path.abspath(home or folder))
    place = Path(directory) / os.path.relpath(os.path.abspath(folder), home.parent)
    way = os.path.relpath(os.path.realpath(folder), os.path.realpath(directory))  # the same after both were moved
    return place, f".{hashlib.sha256(way.encode(errors='surrogateescape')).hexdigest()[:10]}"


@contextlib.contextmanager
def _as_one_line(place):
    """Turns errors of the disk, as TensorFlow and Python raise them, into one line."""
    import tensorflow as tf

    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise InputError(
            f"`tensorboard`: {place} can't be written ({reason}); expected room and permission in a folder that stays"
        ) from None


class EventLog:
    """The event file of one process' part of a run.

    It tells the run from its first epoch on, and files of earlier parts go: so there are neither gaps nor doubled
    epochs, wherever a run was killed, and whether or not it had a log before.

    Args:
        place: a folder, which is made.
        mark: ends the names of this run's files.

    Raises:
        InputError: the folder can't be written to, or it holds events of another run.
    """

    def __init__(self, place, mark):
        with app.quiet_stderr():  # under JAX this is where TensorFlow is loaded
            import tensorflow as tf
        self.place, self.written, self.messages = place, 0, tf.compat.v1
        with _as_one_line(place):
            place.mkdir(parents=True, exist_ok=True)
            before = sorted(place.glob("*tfevents*"))
            if foreign := [path.name for path in before if not path.name.endswith(mark)]:
                raise InputError(
                    f"`tensorboard`: {place} holds events of another run ({foreign[0]}); expected a "
                    "folder for each set of runs"
                )
            path = place / f"events.out.tfevents.{time.time():.6f}{mark}"
            self.writer = tf.io.TFRecordWriter(str(path))
            self._write(file_version="brain.Event:2")
            # a TensorBoard that looks on forgets what the earlier files said
            self._write(step=0, session_log=tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START))
            self.writer.flush()
            for old in before:
                old.unlink()

    def _write(self, wall_time=None, **fields):
        event = self.messages.Event(wall_time=wall_time or time.time(), **fields)
        self.writer.write(event.SerializeToString())

    def follow(self, history):
        """Writes the epochs that are not written yet; those of earlier processes as if there had been no pause.

        Args:
            history: dict of lists, one number an epoch; other values are passed over.
        """
        curves = {name: values for name, values in history.items() if isinstance(values, list)}
        epochs, now = len(curves["val_acc"]), time.time()
        with _as_one_line(self.place):
            for epoch in range(self.written, epochs):
                summary = self.messages.Summary(
                    value=[
                        self.messages.Summary.Value(tag=tag_of(name), simple_value=values[epoch])
                        for name, values in curves.items()
                    ]
                )
                self._write(now - sum(curves["seconds"][epoch + 1 :]), step=epoch + 1, summary=summary)
            self.writer.flush()
        self.written = epochs

    def close(self):
        """Ends the file; what can't be written at this point was flushed before, or has been reported."""
        with contextlib.suppress(Exception):
            self.writer.close()
