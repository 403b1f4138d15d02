"""Images and labels: the training, validation and test splits of a data set."""

import dataclasses
import math
import os
from dataclasses import dataclass

import numpy as np

from compress.cli import display, values
from compress.data import decoding, duplicates, folders, keeping, known, lazily, reading, splits, stock
from compress.data.augmentation import OPERATIONS, Augmentation, middle
from compress.engine import processes
from compress.errors import InputError
from compress.storage import checkpoints, files

NAMES = ("train", "validation", "test")
NONE = Augmentation()
PHOTOGRAPHIC = ("crop", "randaugment")  # kinds of augmentation for which photographs keep their proportions
ADJECTIVES = dict(zip(NAMES, ("training", "validation", "test"), strict=True))  # as messages call the images


class Split:
    """One split of a data set: images uint8 (N, H, W, 3), RGB 0 to 255, and labels int64 (N,).

    Args:
        stored: the images as they are kept, which may be larger than what is shown of them: an array; a
            `lazily.Lazy`, where they don't lie in memory; or a reading.Pending, whose files are decoded when they are
            first read.
        labels: int64 (N,), indices into the names of the classes.
        name: "train", "validation" or "test".
        augmentation: how `batches` varies an image.
        source: `folders.listing_checksum` of the images that the split was drawn from at random; None where the data
            set itself defines the split.
        size: (H, W) of the middle of each image that is shown; None for all of it.
    """

    def __init__(self, stored, labels, name, augmentation=NONE, source=None, size=None):
        self._stored, self.labels, self.name = stored, labels, name
        self.augmentation, self.source, self._size = augmentation, source, size

    def __len__(self):
        return len(self.labels)

    @property
    def stored(self):
        """The images as they are kept, an array or a `lazily.Lazy`; decoded now if they were to be when needed."""
        if isinstance(self._stored, reading.Pending):
            self._stored = self._stored.held()
        return self._stored

    @property
    def images(self):
        """All images as they are shown, uint8 (N, H, W, 3): an array, or a `lazily.Lazy` that is read in slices."""
        return self._shown(self.stored)

    @property
    def image_shape(self):
        """(H, W, 3), known before the images are decoded."""
        return (*self._size, 3) if self._size else tuple(self._stored.shape[1:])

    @property
    def paths(self):
        """Files of the images that are still to be decoded."""
        return self._stored.paths

    def keep(self, stored):
        """Sets `stored` of a split whose images were still to be decoded."""
        self._stored = stored

    def take(self, chosen):
        """`images` of these indices alone; no others are decoded."""
        return self._shown(lazily.taken(self._stored, chosen))

    def _shown(self, images):
        size = self.image_shape[:2]
        if not isinstance(images, lazily.Lazy):
            return middle(images, size)
        return images if size == images.shape[1:3] else lazily.Lazy(lazily.Middle(images.source, size), images.rows)


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


def load_data(config, image_size=None, progress=iter, needs=NAMES, most=None, pixels=None, listed=lambda data: None):
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
        listed: function of the Data, all but its description, called before a folder's images are decoded.

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
    kept = _known(config, listing)
    source = _source(config, parts, any(drawn), kept) if listing and parts[0] else None
    parts, notes = splits.divide(config, names, parts, needs)
    _warn(config, listing, parts, notes, kept)
    reader = None
    if listing:
        # A folder is listed class by class: without a shuffle, `most` and every unshuffled batch would be one class.
        parts = [part and splits.shuffled(*part) for part in parts]
        reader = _reader(config, listing, parts, image_size, progress, pixels, kept)
        check_alike(config.dataset, [reader.stored, source])  # the size says whether a cache is filled
    parts = [
        tuple(lazily.taken(column, slice(most)) for column in part) if part and name in needs else part
        for part, name in zip(parts, NAMES, strict=True)
    ]
    # The training split always carries `source`, since the others may be drawn from what it was drawn from.
    three = [
        part and _split(reader, part, name, source if is_drawn else None)
        for part, name, is_drawn in zip(parts, NAMES, (True, *drawn[1:]), strict=True)
    ]
    # Only training images are augmented: validation and test accuracies are those of the images as they are.
    if three[0]:
        three[0].augmentation = _augmentation(config, three[0].image_shape[:2], bool(listing))
    name = os.path.basename(os.path.abspath(config.dataset)) if listing else config.dataset
    data = Data(name, *three, names, "", reader)
    listed(data)
    read = [split for split in three if split and split.name in needs]
    if reader:
        keeping.keep(read, reader, config, progress)
    left_out = three[2] if drawn[2] and three[0] else None
    return dataclasses.replace(data, description=_described(name, read, left_out, reader))


def _split(reader, part, name, source):
    """A Split of (items, labels); those of a Reader are decoded later."""
    items, labels = part
    return Split(reader.pending(items) if reader else items, labels, name, NONE, source, reader and reader.size)


def _known(config, listing):
    """A known.Known of a folder's files."""
    paths = [path for part, _ in listing.splits.values() for path in part] if listing else ()
    # a folder among those of the classes would be one of them
    keeps = config.cache and not (paths and keeping.is_inside(config, paths))
    return known.Known(keeps and config.cache_dir, config.dataset, paths)


def _source(config, parts, is_drawn, kept):
    """The checksum of the list of a folder's files, kept in the record.

    A folder may gain or lose files between two runs. Splits drawn from it would then differ, and a training image of
    the first run could become a validation image of the second. The checksum lets the second run refuse that. It covers
    the training folder where splits are drawn from it, else all.
    """
    listed = [part for part in parts if part][: 1 if is_drawn else None]
    paths = [path for part in listed for path in part[0]]
    question = ["checksum", known.digest(paths)]
    return kept.of(
        question,
        lambda: folders.listing_checksum(config.dataset, paths),
        lambda answer: known.are_texts(answer) and len(answer) == 3,
    )


def _warn(config, listing, parts, notes, kept):
    """Warns the user of the notes on a data set, and of images that lie in two of its splits or under two classes."""
    if listing:
        there = {ADJECTIVES[name]: part for name, part in zip(NAMES, parts, strict=True) if part}
        question = ["duplicates", [[name, known.digest(*part)] for name, part in there.items()]]
        notes = [
            *listing.notes,
            *notes,
            *kept.of(question, lambda: duplicates.notes(config.dataset, there), known.are_texts),
        ]
    for note in notes:
        display.warn(note)


def _described(name, read, left_out, reader):
    """'my_images: 15 training, 4 validation images' of the splits that are read; left_out: the test images where they
    had to be drawn."""
    how = f"; resized to {reader.how}" if reader and reader.resized else ""
    if left_out and read == [left_out]:
        return (
            f"{name}: {len(read[0]):,} test images, of the fifth that training leaves out; to choose them "
            f"yourself, put them into {name}/test and all others into {name}/train{how}"
        )
    rest = f"; {len(left_out):,} others, a fifth, are left out for testing" if left_out else ""
    return f"{name}: {', '.join(f'{len(split):,} {ADJECTIVES[split.name]}' for split in read)} images{rest}{how}"


def _found(config, needs):
    """(class names, [(items, labels) or None for each of NAMES], a folder's Listing or None).

    Items are images uint8 (N, 32, 32, 3) of a stock data set, an array or a `lazily.Lazy`, and paths (N,) of a folder.
    """
    if config.dataset in values.STOCK and config.image_size not in (None, checkpoints.STOCK_SIZE[0]):
        display.warn(
            f"`image_size`: received {config.image_size}, which is for folders; the images of {config.dataset} are "
            f"{'x'.join(map(str, checkpoints.STOCK_SIZE))}, and stay so"
        )
    if config.dataset == "digits":
        names, *parts = stock.read_digits()
        return names, parts, None
    if config.dataset in stock.CIFAR:
        names, *parts = processes.in_turn(  # what process 0 downloads the others find
            lambda: stock.read_cifar(config.dataset, config.data_dir, {*needs} != {"test"}, config.instead)
        )
        return names, parts, None
    listing = folders.list_folder(config.dataset)
    folders.check_has(listing, config.dataset, needs)
    check_alike(config.dataset, [listing.class_names, {n: files.digest(part[1]) for n, part in listing.splits.items()}])
    processes.check_same(
        bool(config.cache),
        f"`cache`: received {config.cache}, unlike another process of this run; expected the same for all",
    )
    return listing.class_names, [listing.splits.get(name) for name in NAMES], listing


def check_alike(dataset, found):
    """Raises InputError where the processes of a run would read a data set otherwise: each would wait for the others.

    Args:
        dataset: as the flag names it.
        found: what they have to have in common, as JSON holds it.
    """
    processes.check_same(
        found,
        f"`dataset`: received {dataset}, where the processes of this run find different images; expected the same for "
        "all",
    )


def _reader(config, listing, parts, image_size, progress, pixels, kept):
    """A Reader of a folder's images. Their size is the config's, else the model's, else their own common one."""
    # All images of the folder, also unused ones: a subset must be converted to 8 bits as the full set would be.
    paths = np.concatenate([paths for paths, _ in listing.splits.values()])
    reader = reading.Reader(paths, config.num_worker, progress, decoding.Look(**pixels or {}), display.warn)
    reader.known = kept
    size = (config.image_size,) * 2 if config.image_size else image_size
    reader.size = size or reader.common_size(np.concatenate([part[0] for part in parts if part]))
    # What a model was trained on decides how images are decoded for it; only a first training chooses.
    if pixels is None:
        if config.augment in PHOTOGRAPHIC:
            reader.look = dataclasses.replace(reader.look, fit="crop")
        if keeping.bytes_of(len(paths), reader) > reading.HELD:
            reader.look = dataclasses.replace(reader.look, jpeg="scaled")
    return reader


def _augmentation(config, sides, of_folder):
    """The Augmentation of training images of `sides` (h, w); of_folder: whether they are a folder's."""
    kind, hflip = config.augment, config.hflip
    if hflip is None:
        hflip = values.usual_hflip(config.dataset, kind)
    # RandAugment comes behind what the paper puts it behind: shifts of CIFAR's images, crops of photographs.
    crop = kind == "crop" or (kind == "randaugment" and of_folder)
    if config.crop_padding is not None and (crop or kind == "none"):
        raise InputError(
            f"`crop_padding`: received {config.crop_padding} beside `augment={kind}`, which shifts no images; expected "
            "`augment=shift`, or none of it"
        )
    pad = 0 if crop or kind == "none" else _padding(config, sides)
    return Augmentation(pad, hflip, crop, OPERATIONS if kind == "randaugment" else 0)


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
        (images uint8 (count, H, W, 3), an array or, where memory does not hold them, a `lazily.Lazy`; labels int64
        (count,)).
    """
    if count is None or count >= len(split):
        return _held(split.images), split.labels
    # The beginning of one permutation, so that samples of different sizes contain each other.
    chosen = np.random.default_rng(splits.SPLIT_SEED).permutation(len(split))[:count]
    return _held(split.take(chosen)), split.labels[chosen]


def _held(images):
    """The images as an array where memory holds them: a sample is often passed over once for each layer."""
    return images if math.prod(images.shape) > reading.HELD else np.asarray(images)
