"""CIFAR's binary files (.bin), whose images are read when they are asked for: files of any size.

A record is the labels, a byte each, and 3,072 bytes of pixels: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import contextlib
import os

import numpy as np

from compress.data import lazily
from compress.errors import InputError

PIXELS = 3072  # bytes of an image: all red values, then all green, then all blue
TOGETHER = 4096  # records that are read into one buffer


def pictures(rows):
    """Rows of pixels as the files have them, uint8 (N, 3072), as images uint8 (N, 32, 32, 3)."""
    # (N, 3, 32, 32) to Keras' channels_last
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def check_labels(labels, classes):
    """Raises ValueError where labels (N,) of a file are not all below the number of classes."""
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}")


def no_batch(path, classes, error):
    """The InputError for a file that holds no images of CIFAR, and an exception that says why."""
    return InputError(
        f"`data_dir`: {path} is not a CIFAR file of rows of 3,072 pixels and labels from 0 to {classes - 1} "
        f"({error!r:.200})"
    )


class Records:
    """A source of `lazily.Lazy`: row i is image i of several files, one behind the other.

    The files are held open, so one that is removed or replaced while a run reads it is read to the end all the same.

    Args:
        paths: of the files.
        skip: bytes of labels in front of an image's pixels; the last one is its label.
        classes: number of classes; labels are below it.

    Attributes:
        shape: (32, 32, 3) of an image.
        starts: (files + 1,) the first row of each file, and the number of all rows.

    Raises:
        InputError: a file can't be opened, or holds no whole records.
    """

    shape = (32, 32, 3)

    def __init__(self, paths, skip, classes):
        self.paths, self.skip, self.classes, self.bytes = list(paths), skip, classes, skip + PIXELS
        self.files, counts = [], []
        for path in self.paths:
            with self._told(path):
                self.files.append(open(path, "rb", buffering=0))  # noqa: SIM115 (as long as this source)
                size = os.fstat(self.files[-1].fileno()).st_size
            if not size or size % self.bytes:
                raise no_batch(path, classes, ValueError(f"{size:,} bytes in records of {self.bytes:,}"))
            counts.append(size // self.bytes)
        self.starts = np.cumsum([0, *counts])

    def __del__(self):
        with contextlib.suppress(AttributeError, OSError):
            for file in self.files:
                file.close()

    def parts(self):
        """[(images, a `lazily.Lazy`, labels int64 (N,))] of each file.

        Raises:
            InputError: a label is that of no class, or a file became shorter.
        """
        return [
            (lazily.Lazy(self, np.arange(*self.starts[number : number + 2])), self._labels(number))
            for number in range(len(self.paths))
        ]

    def read(self, rows):
        """The images of these rows, uint8 (len(rows), 32, 32, 3).

        Raises:
            InputError: a file became shorter, or can't be read any more.
        """
        rows = np.asarray(rows)
        images, of = np.empty((len(rows), *self.shape), np.uint8), np.searchsorted(self.starts, rows, "right") - 1
        raw = np.empty((min(len(rows), TOGETHER), self.bytes), np.uint8)
        for begin in range(0, len(rows), TOGETHER):
            part = slice(begin, begin + TOGETHER)
            buffer = raw[: len(rows[part])]
            for record, number, row in zip(buffer, of[part].tolist(), rows[part].tolist(), strict=True):
                self._fill(record, number, row - int(self.starts[number]))
            images[part] = pictures(buffer[:, self.skip :])
        return images

    def _labels(self, number):
        """The labels of one file, int64 (N,), a block of records after the other."""
        first, end = map(int, self.starts[number : number + 2])
        labels, raw = np.empty(end - first, np.int64), np.empty((min(end - first, TOGETHER), self.bytes), np.uint8)
        for begin in range(0, len(labels), TOGETHER):
            part = labels[begin : begin + TOGETHER]
            buffer = raw[: len(part)]
            self._fill(buffer, number, begin)
            part[:] = buffer[:, self.skip - 1]
        try:
            check_labels(labels, self.classes)
        except ValueError as error:
            raise no_batch(self.paths[number], self.classes, error) from None
        return labels

    def _fill(self, buffer, number, record):
        """Fills a buffer with the records of one file that begin with that of a number."""
        path = self.paths[number]
        with self._told(path):
            # Read, not mapped into memory: pages of a mapped file would count as memory of this process.
            count = os.preadv(self.files[number].fileno(), [buffer.data], record * self.bytes)
        if count != buffer.nbytes:
            had = int(self.starts[number + 1] - self.starts[number])
            raise InputError(
                f"`data_dir`: {path} ends before image {record + count // self.bytes + 1:,} of the {had:,} that it had "
                "when the run began; expected files that stay as they are while a run reads them: start it again with "
                "the whole file"
            )

    @contextlib.contextmanager
    def _told(self, path):
        """Makes an error of the system an InputError with the file's name."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"`data_dir`: {path} can't be read ({error.strerror}); expected a file that can, and stays while a run "
                "reads it"
            ) from None
