"""Batches of training images: shuffled, varied at random, each a function of seed, epoch and step alone."""

import concurrent.futures
import itertools

import numpy as np

from compress.data import augmentation, lazily
from compress.errors import InputError

AHEAD = 4  # batches that are read while others are trained on, where images don't lie in memory
PREFETCHED = 2  # batches that are made while one is trained on


def steps_per_epoch(n, batch_size):
    """Number of whole batches in n images, at least 1: fewer images than a batch make one smaller batch."""
    return max(1, n // batch_size)


def batches(split, batch_size, seed, augment=True, start_epoch=0, start_step=0, part=(0, 1)):
    """An endless keras.utils.PyDataset for fit(batches, steps_per_epoch=steps_per_epoch(len(split), batch_size)).

    Item i depends only on (seed, start_epoch, start_step + i). With S steps an epoch, j = start_step + i is step j % S
    of epoch start_epoch + j // S. Every epoch has its own random order, in which no image comes twice. A run that was
    killed and resumed therefore sees the same batches as one that wasn't, and one whose images lie in memory the same
    as one that reads them from a file.

    Args:
        split: a dataset.Split.
        batch_size: images an item; fewer only where the split has fewer.
        seed: whole number, at least 0.
        augment: vary the images as split.augmentation says.
        start_epoch: epoch of item 0, from 0; more than 0 for a resumed run.
        start_step: step of item 0 in that epoch, from 0.
        part: (i, n): of the n equal parts of each batch the one of number i, from 0. Side by side they are the batch.

    Returns:
        PyDataset of (uint8 (B / n, H, W, 3), int64 (B / n,)).

    Raises:
        ValueError: the batch has no n equal parts.
    """
    import keras

    size, steps = min(batch_size, len(split)), steps_per_epoch(len(split), batch_size)
    if size % part[1]:
        raise ValueError(f"a batch must have {part[1]} equal parts. Received: {size} images")
    own = slice(part[0] * size // part[1], (part[0] + 1) * size // part[1])
    orders = _Orders(len(split), seed)
    read = _reading(split, split.augmentation if augment else augmentation.Augmentation())

    # Keras fetches batches ahead of the step that it trains on, and calls `on_epoch_end` ahead of time too. A random
    # state that moves with each call would be ahead by an unknown number of batches when a run is resumed, so both
    # random generators are seeded from the epoch and the step themselves.
    def item(index):
        ahead, step = divmod(start_step + index, steps)
        epoch = start_epoch + ahead
        chosen = orders.of(epoch)[step * size : (step + 1) * size]
        return read(chosen, own, np.random.default_rng((seed, epoch, step, 1))), split.labels[chosen[own]]

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__(workers=1)  # more would start Keras' enqueuer, which drops batches fetched ahead
            self.item = Ahead(item) if isinstance(split.stored, lazily.Lazy) else item
            self.error = None  # an InputError of an image that can't be read, which Keras would wrap in its own

        @property
        def num_batches(self):
            return None  # endless

        def __getitem__(self, index):
            try:
                return self.item(index)
            except InputError as error:
                self.error = error
                raise

    return Batches()


def pipeline(source):
    """What Keras' fit is given: under TensorFlow a tf.data.Dataset of the batches, elsewhere the batches themselves.

    Keras would make such a Dataset too, one whose buffers TensorFlow adjusts as it goes. The thread that does that
    sleeps longer and longer, up to a minute, and now and then isn't woken as a fit ends, which then waits for it.

    Args:
        source: what `batches` returned.

    Raises:
        InputError: an image of item 0 can't be read.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return source
    import tensorflow as tf

    kinds = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in source[0])
    made = tf.data.Dataset.from_generator(lambda: map(source.__getitem__, itertools.count()), output_signature=kinds)
    options = tf.data.Options()
    options.autotune.enabled = False
    return made.prefetch(PREFETCHED).with_options(options)


class _Orders:
    """The random order of each epoch's images; the last one is kept."""

    def __init__(self, count, seed):
        self.count, self.seed, self.last = count, seed, (None, None)

    def of(self, epoch):
        known, order = self.last
        if known != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            self.last = (epoch, order)
        return order


def _reading(split, varied):
    """A function (indices of a batch, slice of it, numpy Generator) -> uint8 (n, H, W, 3): the slice's images, varied.

    Args:
        split: a dataset.Split.
        varied: an augmentation.Augmentation.
    """
    stored, size = split.stored, split.image_shape[:2]
    sides = stored.shape[1:3]
    in_place = isinstance(stored, np.ndarray) and not (varied.crop or varied.operations) and sides == size
    each = map if in_place else lazily.pool(0).map

    def read(batch, own, rng):
        chosen = batch[own]
        if not varied:
            return np.ascontiguousarray(augmentation.middle(stored[chosen], size))
        # drawn for the whole batch: its parts are varied as they would be in one
        numbers = [drawn[own] for drawn in augmentation.draw(varied, len(batch), sides, rng)]
        if in_place:  # one copy, rather than one to choose the images and one to move them
            return augmentation.moved(stored, chosen, *numbers[:3])
        return augmentation.apply(varied, stored[chosen], numbers, size, each)

    return read


class Ahead:
    """Calls a function of an index for the next indices on threads, while the last value is used.

    Args:
        function: of an index, whose value depends on nothing else.
        depth: how many values are made ahead.
    """

    def __init__(self, function, depth=AHEAD):
        self.function, self.depth, self.waiting = function, depth, {}
        # two: while one batch waits for its last image, or is varied, the images of the next one are read
        self.threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="batches")

    def __call__(self, index):
        # What lies behind is kept for two more calls: Keras looks at the first two batches, and then begins with them.
        for i in [i for i in self.waiting if not index - 2 <= i <= index + self.depth]:
            self.waiting.pop(i).cancel()
        for i in range(index, index + self.depth + 1):
            if i not in self.waiting:
                self.waiting[i] = self.threads.submit(self.function, i)
        return self.waiting[index].result()
