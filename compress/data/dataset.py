"""Images and labels in memory: their training, validation and test splits, and batches of them."""

import os
from dataclasses import dataclass

import numpy as np

from compress.cli import display
from compress.data import decoding, drawing, duplicates, folders, reading, stock
from compress.errors import InputError

NAMES = ("train", "validation", "test")
TOLD = dict(zip(NAMES, ("training", "validation", "test"), strict=True))


class Split:
    """Images uint8 (N, H, W, 3), RGB 0 to 255; labels int64 (N,); name "train", "validation" or "test".

    Args:
        images: the array, or a reading.Pending, which is read when `images` is first asked for.
        labels: (N,).
        name: of the split.
        pad: how many pixels `batches` may shift an image at most.
        flip: whether it may mirror one.
        source: what a folder's split was drawn from, [folder, checksum of its listing]; None where it is given as such.
    """

    def __init__(self, images, labels, name, pad=0, flip=False, source=None):
        self._images, self.labels, self.name = images, labels, name
        self.pad, self.flip, self.source = pad, flip, source

    def __len__(self):
        return len(self.labels)

    @property
    def images(self):
        """All images; read now if they weren't before."""
        if not isinstance(self._images, np.ndarray):
            self._images = self._images[:]
        return self._images

    @property
    def image_shape(self):
        """(H, W, 3), known before the images are read."""
        return tuple(self._images.shape[1:])

    def take(self, chosen):
        """The images of these numbers; no others are read."""
        return self._images[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its three splits; labels index `class_names`.

    A split is None where the data set has none and none was needed. pixels: the decoding.Look by which its images are
    shown, as a dict without what they have no need of.
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
        """How pixels are shown that aren't plain 8-bit RGB, for the record: what `load_data` takes as `pixels`."""
        return {name: value for name, value in vars(self.reader.look).items() if value} if self.reader else {}


def load_data(config, image_size=None, progress=iter, needs=NAMES, most=None, pixels=None):
    """The data set that a config asks for.

    Training and validation images are told apart with SPLIT_SEED, never with the seed: a prune or a distillation under
    another seed must not validate on images that its parent was trained on. `subset` takes a part of either side, so
    that holds between a subset and the full set too. The test images are always all of them.

    Args:
        config: a configs.DataConfig.
        image_size: (h, w) that a loaded model wants, or None; used for a folder where config.image_size is None.
        progress: wraps the range of a folder's images while they are read.
        needs: names of the splits that have to be there; a folder's are read now, its others when they are asked for.
        most: of each of those splits the first so many alone; None for all.
        pixels: `Data.pixels` of the images that a model was trained on: a folder's are shown in the same way.

    Returns:
        Data; images uint8 (N, H, W, 3), labels int64 (N,). CIFAR and digits are 32x32.

    Raises:
        InputError: the data are missing, damaged, too few for the splits, or not what `class_num` says.
    """
    names, parts, listing = _found(config, needs)
    if config.class_num not in (None, len(names)):
        raise InputError(f"`class_num`: received {config.class_num}, expected {len(names)} "
                         f"(the classes of {config.dataset})")
    drawn = [listing and part is None for part in parts]
    # the images that splits are drawn from, or else all of them
    listed = [part for part in parts if part][:1 if any(drawn) else None] if listing and parts[0] else []
    source = folders.listing_checksum(config.dataset, [path for part in listed for path in part[0]]) if listed else None
    parts, notes = drawing.divide(config, names, parts, needs)
    _tell(config, listing, parts, notes)
    reader = None
    if listing:
        parts = [part and drawing.mixed(*part) for part in parts]
        reader = _reader(config, listing, parts, image_size, progress, pixels)
    parts = [(part[0][:most], part[1][:most]) if part and name in needs else part
             for part, name in zip(parts, NAMES, strict=True)]
    splits = [part and Split(reader.pending(part[0]) if reader else part[0], part[1], name,
                             source=source if is_drawn else None)
              for part, name, is_drawn in zip(parts, NAMES, (True, *drawn[1:]), strict=True)]
    if splits[0]:
        splits[0].flip = config.dataset != "digits"  # a mirrored digit is another sign
        splits[0].pad = _padding(config, splits[0].image_shape[:2], splits[0].flip)
    if reader:
        _read([split for split in splits if split and split.name in needs], reader)
    name = os.path.basename(os.path.abspath(config.dataset)) if listing else config.dataset
    return Data(name, *splits, names, _described(name, splits, {*needs} == {"test"} and drawn[2], reader), reader)


def _tell(config, listing, parts, notes):
    """Warns of what a person has to know of the images of the three parts."""
    if listing:
        there = {TOLD[name]: part[0] for name, part in zip(NAMES, parts, strict=True) if part}
        notes = [*listing.notes, *notes, *duplicates.across(config.dataset, there)]
    for note in notes:
        display.warn(note)


def _described(name, splits, test_drawn, reader):
    """'my_images: 15 training, 4 validation, 5 test images'; only the test images where they were drawn for their own
    sake."""
    # a model that was trained on pictures resized otherwise sees other ones here
    how = f"; resized to {reader.size[0]}x{reader.size[1]}: bilinear, antialiased" if reader and reader.resized else ""
    if test_drawn and splits[0]:
        return (f"{name}: {len(splits[2]):,} test images, the fifth that training leaves out; classes in {name}/test "
                f"would count in full{how}")
    return f"{name}: {', '.join(f'{len(split):,} {TOLD[split.name]}' for split in splits if split)} images{how}"


def _read(splits, reader):
    """Reads the images of several splits together, so that all broken files are told of at once."""
    for split, images in zip(splits, reader.read(*[split._images.paths for split in splits]), strict=True):
        split._images = images


def _found(config, needs):
    """Names of the classes, [(items, labels), None for what there isn't] by NAMES, a folder's Listing or None."""
    if config.dataset == "digits":
        names, *parts = stock.read_digits()
        return names, parts, None
    if config.dataset in stock.CIFAR:
        names, *parts = stock.read_cifar(config.dataset, config.data_dir, with_train={*needs} != {"test"})
        return names, parts, None
    listing = folders.list_folder(config.dataset)
    folders.check_has(listing, config.dataset, needs)
    return listing.class_names, [listing.splits.get(name) for name in NAMES], listing


def _reader(config, listing, parts, image_size, progress, pixels):
    """A Reader of a folder's images, in the size that a flag or the model wants, or else in their own."""
    paths = np.concatenate([paths for paths, _ in listing.splits.values()])
    reader = reading.Reader(paths, config.num_worker, progress, decoding.Look(**pixels or {}), display.warn)
    size = (config.image_size,) * 2 if config.image_size else image_size
    reader.size = size or reader.common_size(np.concatenate([part[0] for part in parts if part]))
    return reader


def steps_per_epoch(n, batch_size):
    """Whole batches that n images give; a split smaller than a batch gives one batch of all of it."""
    return max(1, n // batch_size)


def batches(split, batch_size, seed, augment=True, start_epoch=0, start_step=0):
    """An endless keras.utils.PyDataset for fit(batches, steps_per_epoch=steps_per_epoch(len(split), batch_size)).

    Item i is a pure function of (seed, start_epoch, start_step + i), however far Keras fetches ahead: with S steps an
    epoch, j = start_step + i is step j % S of epoch start_epoch + j // S. Every epoch has an order of its own, in which
    no image comes twice.

    Args:
        split: a Split.
        batch_size: images an item; fewer only where the split has fewer.
        seed: whole number of at least 0.
        augment: vary the images as split.pad and split.flip allow.
        start_epoch: epoch of item 0, for a run that goes on.
        start_step: its step in that epoch.

    Returns:
        PyDataset of (uint8 (B, H, W, 3), int64 (B,)).
    """
    import keras

    images = np.ascontiguousarray(split.images)
    size = min(batch_size, len(split))
    steps = steps_per_epoch(len(split), batch_size)

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__(workers=1)  # more would start Keras' enqueuer, which drops what it fetched ahead
            self.order = (None, None)

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
            chosen = order[step * size:(step + 1) * size]
            if augment and (split.pad or split.flip):
                rng = np.random.default_rng((seed, epoch, step, 1))
                return _varied(images, chosen, split.pad, split.flip, rng), split.labels[chosen]
            return images[chosen], split.labels[chosen]

    return Batches()


def _varied(images, chosen, pad, flip, rng):
    """The chosen images, each shifted by up to `pad` pixels over a mirrored border and flipped half the time."""
    (h, w), n = images.shape[1:3], len(chosen)
    rows = np.abs(rng.integers(-pad, pad + 1, (n, 1)) + np.arange(h))
    cols = np.abs(rng.integers(-pad, pad + 1, (n, 1)) + np.arange(w))
    rows, cols = np.minimum(rows, 2 * (h - 1) - rows), np.minimum(cols, 2 * (w - 1) - cols)
    if flip:
        cols = np.where(rng.random((n, 1)) < 0.5, cols[:, ::-1], cols)
    where = (chosen[:, None, None] * h + rows[:, :, None]) * w + cols[:, None, :]  # (n, h, w)
    pixels = images.view("V3").reshape(-1)  # one gather of three-byte pixels: 0.5 ms for 128 images of 32x32
    return pixels.take(where.reshape(-1)).view(np.uint8).reshape(n, h, w, 3)


def _padding(config, sides, flip):
    """The largest shift of a training image: `crop_padding`, or a part of the shorter side."""
    padding, most = config.crop_padding, min(sides) - 1  # a border can mirror no more
    if padding is None:
        return min(sides) // (8 if flip else 16)  # 4 at 32x32, as is usual for CIFAR
    if padding > most:
        raise InputError(f"`crop_padding`: received {padding}, expected at most {most} for images of "
                         f"{sides[0]}x{sides[1]}")
    return padding


def sample(split, count=None):
    """A fixed random part of a split, the same in every run; a larger count adds to what a smaller one takes.

    Args:
        split: a Split; where its images weren't read before, no others than those of the part are.
        count: images; None, or more than there are, for all of them in their own order.

    Returns:
        (images, labels).
    """
    if count is None or count >= len(split):
        return split.images, split.labels
    chosen = np.random.default_rng(drawing.SPLIT_SEED).permutation(len(split))[:count]
    return split.take(chosen), split.labels[chosen]
