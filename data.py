"""Images and labels in memory: their training, validation and test splits, and batches of them."""

import os
from dataclasses import dataclass

import numpy as np

import sources
from errors import InputError

SPLIT_SEED = 826  # a constant of the suite, not --seed: see load_data


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, H, W, 3), RGB 0 to 255; labels int64 (N,); name "train", "validation" or "test".

    pad and flip say how `batches` may vary an image: a shift of at most `pad` pixels, a mirror image. source tells what
    a folder's split was drawn from, [folder, checksum of its listing]; None where it is given as such.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str
    pad: int = 0
    flip: bool = False
    source: list | None = None

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its three splits; labels index `class_names`."""

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple
    description: str

    @property
    def class_num(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self):
        """(H, W, 3)."""
        return self.train.images.shape[1:]


def load_data(args, image_size=None, progress=iter):
    """The data set that the data flags ask for.

    Training and validation images are told apart with SPLIT_SEED, never with --seed: a prune or a distillation under
    another seed must not validate on images that its parent was trained on. --subset takes a part of either side, so
    that holds between a subset and the full set too. The test images are always all of them.

    Args:
        args: namespace with dataset, data_dir, val_split, subset, image_size, class_num and num_worker, and
            crop_padding in a script that trains.
        image_size: (h, w) that a loaded model wants, or None; used for a folder where args.image_size is None.
        progress: wraps the range of a folder's images while they are read.

    Returns:
        Data; images uint8 (N, H, W, 3), labels int64 (N,). CIFAR and digits are 32x32.

    Raises:
        InputError: the data are missing, damaged, too few for the splits, or not what --class_num says.
    """
    is_folder = args.dataset not in (*sources.CIFAR, "digits")
    if is_folder:
        names, *parts = sources.list_folder(args.dataset)
    elif args.dataset == "digits":
        names, *parts = sources.read_digits()
    else:
        names, *parts = sources.read_cifar(args.dataset, args.data_dir)
    if args.class_num not in (None, len(names)):
        raise InputError(f"--class_num: received {args.class_num}, expected {len(names)} "
                         f"(the classes of {args.dataset})")
    drawn = [is_folder and part is None for part in parts]
    source = sources.listing(args.dataset, parts[0][0]) if any(drawn) else None
    parts = _splits(args, names, *parts)
    if is_folder:
        size = (args.image_size,) * 2 if args.image_size else image_size
        parts = [_mixed(*part) for part in parts]
        parts = sources.read_images(parts, size, args.num_worker, progress)
    flip = args.dataset != "digits"  # a mirrored digit is another sign
    pad = _padding(args, parts[0][0].shape[1:3], flip)
    train = Split(*parts[0], "train", pad, flip, source)
    val, test = (Split(*part, name, source=source if is_drawn else None) for part, name, is_drawn in
                 zip(parts[1:], ("validation", "test"), drawn[1:], strict=True))
    name = os.path.basename(os.path.abspath(args.dataset)) if is_folder else args.dataset
    return Data(name, train, val, test, names,
                f"{name}: {len(train):,} training, {len(val):,} validation, {len(test):,} test images")


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


def _padding(args, sides, flip):
    """The largest shift of a training image: --crop_padding, or a part of the shorter side."""
    padding, most = getattr(args, "crop_padding", None), min(sides) - 1  # a border can mirror no more
    if padding is None:
        return min(sides) // (8 if flip else 16)  # 4 at 32x32, as is usual for CIFAR
    if padding > most:
        raise InputError(f"--crop_padding: received {padding}, expected at most {most} for images of "
                         f"{sides[0]}x{sides[1]}")
    return padding


def _splits(args, names, train, val, test):
    """(items, labels) of the three splits, as the data set has them or cut from its training images."""
    counts, need = np.bincount(train[1], minlength=len(names)), 1 + (val is None) + (test is None)
    classes = np.count_nonzero(counts)
    if short := [f"{names[i]} ({counts[i]})" for i in np.flatnonzero((counts > 0) & (counts < need))]:
        raise InputError(f"--dataset: received {args.dataset}, expected at least {need} training images a class, "
                         f"found fewer for {', '.join(short[:5])}")
    if test is None:
        train, test = _divided(train, max(round(0.2 * len(train[1])), classes))
    if val is None:
        count = round(len(train[1]) * args.val_split)
        if count < classes:
            raise InputError(f"--val_split: received {args.val_split}, which makes {count} validation images of "
                             f"{len(train[1])}; expected at least one for each of {classes} classes")
        train, val = _divided(train, count)
    if args.subset is not None:
        count = round(args.subset * args.val_split)
        train, val = _part(args.subset, train, args.subset - count), _part(args.subset, val, count)
    return train, val, test


def _part(subset, pair, count):
    """A stratified (items, labels) of `count`; a larger count adds to what a smaller one takes."""
    labels = pair[1]
    if not len(np.unique(labels)) <= count <= len(labels):
        raise InputError(f"--subset: received {subset}, which takes {count} of {len(labels)} training or validation "
                         f"images; expected {len(np.unique(labels))} (one for each class) to {len(labels)}")
    order, place = np.random.default_rng(SPLIT_SEED).permutation(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):  # scikit-learn's split refuses a class of one image and a rest of few
        mine = order[labels[order] == label]
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    taken = np.sort(order[np.argsort(place[order], kind="stable")[:count]])
    return tuple(column[taken] for column in pair)


def _divided(pair, count):
    """Two stratified (items, labels), in their old order: the rest, and `count` taken by SPLIT_SEED."""
    from sklearn.model_selection import train_test_split

    order = np.arange(len(pair[1]))
    sides = train_test_split(order, test_size=count, stratify=pair[1], random_state=SPLIT_SEED)
    return [tuple(column[np.sort(side)] for column in pair) for side in sides]


def _mixed(items, labels):
    """A folder's items and labels, which come class by class, in a fixed random order: any run of them has its share
    of the classes, be it a batch of validation images or the first N."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    return items[order], labels[order]


def sample(split, count=None):
    """A fixed random part of a split, the same in every run; a larger count adds to what a smaller one takes.

    Args:
        split: a Split.
        count: images; None, or more than there are, for all of them in their own order.

    Returns:
        (images, labels).
    """
    if count is None or count >= len(split):
        return split.images, split.labels
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(split))[:count]
    return split.images[chosen], split.labels[chosen]
