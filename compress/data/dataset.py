"""Images and labels in memory: their training, validation and test splits, and batches of them."""

import os
from dataclasses import dataclass

import numpy as np

from compress.cli import display, values
from compress.data import decoding, duplicates, folders, reading, splits, stock
from compress.errors import InputError

NAMES = ("train", "validation", "test")
ADJECTIVES = dict(zip(NAMES, ("training", "validation", "test"), strict=True))  # as messages call the images


class Split:
    """One split of a data set: images uint8 (N, H, W, 3), RGB 0 to 255, and labels int64 (N,).

    Args:
        images: the array, or a reading.Pending, whose files are decoded when `images` is first read.
        labels: int64 (N,), indices into the names of the classes.
        name: "train", "validation" or "test".
        pad: largest random shift in pixels that `batches` applies to an image; 0 for none.
        hflip: probability with which `batches` mirrors an image left to right; 0 for never.
        source: `folders.listing_checksum` of the images that the split was drawn from at random; None where the data
            set itself defines the split.
    """

    def __init__(self, images, labels, name, pad=0, hflip=0.0, source=None):
        self._images, self.labels, self.name = images, labels, name
        self.pad, self.hflip, self.source = pad, hflip, source

    def __len__(self):
        return len(self.labels)

    @property
    def images(self):
        """All images, uint8 (N, H, W, 3); decoded now if they weren't before."""
        if not isinstance(self._images, np.ndarray):
            self._images = self._images[:]
        return self._images

    @property
    def image_shape(self):
        """(H, W, 3), known before the images are decoded."""
        return tuple(self._images.shape[1:])

    def take(self, chosen):
        """The images with these indices, uint8 (len(chosen), H, W, 3); no others are decoded."""
        return self._images[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its three splits.

    Attributes:
        name: of the data set, or the folder's own name.
        train, val, test: a Split each; None where the data set has no such split and none was needed.
        class_names: label i is class_names[i].
        description: one line for the user: how many images each split has.
        reader: the reading.Reader of a folder's images; None for a stock data set.
    """

    name: str
    train: Split | None
    val: Split | None
    test: Split | None
    class_names: tuple
    description: str
    reader: reading.Reader | None = None

    @property
    def class_num(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self):
        """(H, W, 3)."""
        return next(split for split in (self.train, self.val, self.test) if split).image_shape

    @property
    def pixels(self):
        """How pixels other than 8-bit RGB are converted: the set values of the reader's decoding.Look, as a dict.

        The record of a run keeps it, and `load_data` takes it as `pixels`, so that a model is evaluated on images that
        were converted as its training images were.
        """
        return {name: value for name, value in vars(self.reader.look).items() if value} if self.reader else {}


def load_data(config, image_size=None, progress=iter, needs=NAMES, most=None, pixels=None):
    """Loads the data set that a config names.

    The validation images are drawn with the constant SPLIT_SEED, not with the seed of the run. A pruning or
    distillation run under another seed would otherwise validate on images that its parent model was trained on.
    `subset` takes a part of the training and a part of the validation images, so this also holds between a subset and
    the full set. `subset` never reduces the test images.

    Args:
        config: a configs.DataConfig.
        image_size: (h, w) of a loaded model's input, or None; used for a folder where config.image_size is None.
        progress: wraps the range of a folder's images while they are decoded.
        needs: names of the required splits, from NAMES. A folder's are decoded now, its others on first use.
        most: keeps only the first so many images of each required split; None for all.
        pixels: `Data.pixels` of the images that a model was trained on; a folder's are converted in the same way.

    Returns:
        Data; images uint8 (N, H, W, 3), labels int64 (N,). CIFAR and digits are 32x32.

    Raises:
        InputError: the data are missing or damaged, there are too few for the splits, or their number of classes isn't
            `class_num`.
    """
    names, parts, listing = _found(config, needs)
    if config.class_num not in (None, len(names)):
        raise InputError(
            f"`class_num`: received {config.class_num}, expected {len(names)} (the classes of {config.dataset})"
        )
    drawn = [listing and part is None for part in parts]
    # A folder may gain or lose files between two runs. Splits drawn from it would then differ, and a training image of
    # the first run could become a validation image of the second. The checksum of the list of files, kept in the
    # record, lets the second run refuse that. It covers the training folder where splits are drawn from it, else all.
    listed = [part for part in parts if part][: 1 if any(drawn) else None] if listing and parts[0] else []
    source = folders.listing_checksum(config.dataset, [path for part in listed for path in part[0]]) if listed else None
    parts, notes = splits.divide(config, names, parts, needs)
    _warn(config, listing, parts, notes)
    reader = None
    if listing:
        # A folder is listed class by class: without a shuffle, `most` and every unshuffled batch would be one class.
        parts = [part and splits.shuffled(*part) for part in parts]
        reader = _reader(config, listing, parts, image_size, progress, pixels)
    parts = [
        (part[0][:most], part[1][:most]) if part and name in needs else part
        for part, name in zip(parts, NAMES, strict=True)
    ]
    # The training split always carries `source`, since the others may be drawn from what it was drawn from.
    three = [
        part
        and Split(reader.pending(part[0]) if reader else part[0], part[1], name, source=source if is_drawn else None)
        for part, name, is_drawn in zip(parts, NAMES, (True, *drawn[1:]), strict=True)
    ]
    # Only training images are augmented: validation and test accuracies are those of the images as they are.
    if three[0]:
        three[0].hflip = values.usual_hflip(config.dataset) if config.hflip is None else config.hflip
        three[0].pad = _padding(config, three[0].image_shape[:2])
    if reader:
        _read([split for split in three if split and split.name in needs], reader)
    name = os.path.basename(os.path.abspath(config.dataset)) if listing else config.dataset
    read, test_drawn = [split for split in three if split and split.name in needs], drawn[2] and three[0]
    return Data(name, *three, names, _described(name, read, {*needs} == {"test"} and test_drawn, reader), reader)


def _warn(config, listing, parts, notes):
    """Warns the user of the notes on a data set, and of images that lie in two of its splits or under two classes."""
    if listing:
        there = {ADJECTIVES[name]: part for name, part in zip(NAMES, parts, strict=True) if part}
        notes = [*listing.notes, *notes, *duplicates.notes(config.dataset, there)]
    for note in notes:
        display.warn(note)


def _described(name, read, test_drawn, reader):
    """'my_images: 15 training, 4 validation images' of the splits that are read; test_drawn: where only the test images
    are, and had to be drawn."""
    how = f"; resized to {reader.how}" if reader and reader.resized else ""
    if test_drawn:
        return (
            f"{name}: {len(read[0]):,} test images, of the fifth that training leaves out; to choose them "
            f"yourself, put them into {name}/test and all others into {name}/train{how}"
        )
    return f"{name}: {', '.join(f'{len(split):,} {ADJECTIVES[split.name]}' for split in read)} images{how}"


def _read(three, reader):
    """Decodes the images of several splits in one call, so that one message names the damaged files of all."""
    for split, images in zip(three, reader.read(*[split._images.paths for split in three]), strict=True):
        split._images = images


def _found(config, needs):
    """(class names, [(items, labels) or None for each of NAMES], a folder's Listing or None).

    Items are images uint8 (N, 32, 32, 3) of a stock data set, paths (N,) of a folder.
    """
    if config.dataset == "digits":
        names, *parts = stock.read_digits()
        return names, parts, None
    if config.dataset in stock.CIFAR:
        names, *parts = stock.read_cifar(config.dataset, config.data_dir, {*needs} != {"test"}, config.instead)
        return names, parts, None
    listing = folders.list_folder(config.dataset)
    folders.check_has(listing, config.dataset, needs)
    return listing.class_names, [listing.splits.get(name) for name in NAMES], listing


def _reader(config, listing, parts, image_size, progress, pixels):
    """A Reader of a folder's images. Their size is the config's, else the model's, else their own common one."""
    # All images of the folder, also unused ones: a subset must be converted to 8 bits as the full set would be.
    paths = np.concatenate([paths for paths, _ in listing.splits.values()])
    reader = reading.Reader(paths, config.num_worker, progress, decoding.Look(**pixels or {}), display.warn)
    size = (config.image_size,) * 2 if config.image_size else image_size
    reader.size = size or reader.common_size(np.concatenate([part[0] for part in parts if part]))
    return reader


def steps_per_epoch(n, batch_size):
    """Number of whole batches in n images, at least 1: fewer images than a batch make one smaller batch."""
    return max(1, n // batch_size)


def batches(split, batch_size, seed, augment=True, start_epoch=0, start_step=0):
    """An endless keras.utils.PyDataset for fit(batches, steps_per_epoch=steps_per_epoch(len(split), batch_size)).

    Item i depends only on (seed, start_epoch, start_step + i). With S steps an epoch, j = start_step + i is step j % S
    of epoch start_epoch + j // S. Every epoch has its own random order, in which no image comes twice. A run that was
    killed and resumed therefore sees the same batches as one that wasn't.

    Args:
        split: a Split.
        batch_size: images an item; fewer only where the split has fewer.
        seed: whole number, at least 0.
        augment: shift and mirror the images as split.pad and split.hflip say.
        start_epoch: epoch of item 0, from 0; more than 0 for a resumed run.
        start_step: step of item 0 in that epoch, from 0.

    Returns:
        PyDataset of (uint8 (B, H, W, 3), int64 (B,)).
    """
    import keras

    images = np.ascontiguousarray(split.images)
    size = min(batch_size, len(split))
    steps = steps_per_epoch(len(split), batch_size)

    # Keras fetches batches ahead of the step that it trains on, and calls `on_epoch_end` ahead of time too. A random
    # state that moves with each call would be ahead by an unknown number of batches when a run is resumed, so both
    # random generators below are seeded from the epoch and the step themselves.
    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__(workers=1)  # more would start Keras' enqueuer, which drops batches fetched ahead
            self.order = (None, None)  # the epoch whose permutation is kept, and the permutation

        @property
        def num_batches(self):
            return None  # endless

        def __getitem__(self, index):
            ahead, step = divmod(start_step + index, steps)
            epoch = start_epoch + ahead
            known, order = self.order
            if known != epoch:
                order = np.random.default_rng((seed, epoch)).permutation(len(split))
                self.order = (epoch, order)
            chosen = order[step * size : (step + 1) * size]
            if augment and (split.pad or split.hflip):
                rng = np.random.default_rng((seed, epoch, step, 1))
                return _varied(images, chosen, split.pad, split.hflip, rng), split.labels[chosen]
            return images[chosen], split.labels[chosen]

    return Batches()


def _varied(images, chosen, pad, hflip, rng):
    """Augments a batch: each image is shifted by up to `pad` pixels, and mirrored with probability `hflip`.

    The augmentation of He et al. 2016, arXiv 1512.03385, section 4.2, for CIFAR: a random crop from the padded image.
    Here reflected pixels fill the padding.

    Args:
        images: uint8 (N, h, w, 3), contiguous.
        chosen: (n,) indices of the images of the batch.
        pad: 0 to min(h, w) - 1.
        hflip: 0 to 1.
        rng: a numpy Generator.

    Returns:
        uint8 (n, h, w, 3).
    """
    (h, w), n = images.shape[1:3], len(chosen)
    # Shift and mirror only choose which pixel is copied where, so the batch is one gather by index.
    # rows (n, h): the source row of each output row; index -1 reflects to 1, index h to h - 2. cols (n, w): likewise.
    rows = np.abs(rng.integers(-pad, pad + 1, (n, 1)) + np.arange(h))
    cols = np.abs(rng.integers(-pad, pad + 1, (n, 1)) + np.arange(w))
    rows, cols = np.minimum(rows, 2 * (h - 1) - rows), np.minimum(cols, 2 * (w - 1) - cols)
    # Last: with another probability a run draws the same shifts, so that nothing else of it changes.
    if hflip:
        cols = np.where(rng.random((n, 1)) < hflip, cols[:, ::-1], cols)
    where = (chosen[:, None, None] * h + rows[:, :, None]) * w + cols[:, None, :]  # (n, h, w)
    pixels = images.view("V3").reshape(-1)  # RGB as one item of three bytes: 0.5 ms for 128 images of 32x32
    return pixels.take(where.reshape(-1)).view(np.uint8).reshape(n, h, w, 3)


def _padding(config, sides):
    """The largest shift of a training image in pixels: `crop_padding`, or a part of the shorter side."""
    padding, most = config.crop_padding, min(sides) - 1  # reflection has no pixels for a larger shift
    if padding is None:
        return min(sides) // (16 if config.dataset == "digits" else 8)  # 4 at 32x32, as is usual for CIFAR
    if padding > most:
        raise InputError(
            f"`crop_padding`: received {padding}, expected at most {most} for images of {sides[0]}x{sides[1]}"
        )
    return padding


def sample(split, count=None):
    """A random sample of a split, the same in every run; a larger sample contains every smaller one.

    Args:
        split: a Split; images that aren't in the sample are not decoded.
        count: images; None, or more than there are, for all of them in their own order.

    Returns:
        (images uint8 (count, H, W, 3), labels int64 (count,)).
    """
    if count is None or count >= len(split):
        return split.images, split.labels
    # The beginning of one permutation, so that samples of different sizes contain each other.
    chosen = np.random.default_rng(splits.SPLIT_SEED).permutation(len(split))[:count]
    return split.take(chosen), split.labels[chosen]
