"""Images and labels in memory: CIFAR files, scikit-learn's digits or a folder of images; their splits and batches."""

import concurrent.futures
import io
import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError

SPLIT_SEED = 826  # a constant of the suite, not --seed: see load_data
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")  # of a folder's images
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""
# data set: class names, folder of pickles, folder of binaries, training files, test file, key of the labels
CIFAR = {
    "cifar10": (tuple(CIFAR10.split()), "cifar-10-batches-py", "cifar-10-batches-bin",
                [f"data_batch_{i}" for i in range(1, 6)], "test_batch", b"labels"),
    "cifar100": (tuple(CIFAR100.split()), "cifar-100-python", "cifar-100-binary", ["train"], "test", b"fine_labels"),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, H, W, 3), RGB 0 to 255; labels int64 (N,); name "train", "validation" or "test".

    pad and flip say how `batches` may vary an image: a shift of at most `pad` pixels, a mirror image.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str
    pad: int = 0
    flip: bool = False

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


def load_data(args, image_size=None):
    """The data set that the data flags ask for.

    Training and validation images are told apart with SPLIT_SEED, never with --seed: a prune or a distillation under
    another seed must not validate on images that its parent was trained on. --subset takes a part of either side, so
    that holds between a subset and the full set too. The test images are always all of them.

    Args:
        args: namespace with dataset, data_dir, val_split, subset, image_size, class_num and num_worker.
        image_size: (h, w) that a loaded model wants, or None; used for a folder where args.image_size is None.

    Returns:
        Data; images uint8 (N, H, W, 3), labels int64 (N,). CIFAR and digits are 32x32.

    Raises:
        InputError: the data are missing, damaged, too few for the splits, or not what --class_num says.
    """
    is_folder = args.dataset not in (*CIFAR, "digits")
    names, *parts = _folder(args.dataset) if is_folder else _cifar(args) if args.dataset in CIFAR else _digits()
    if args.class_num not in (None, len(names)):
        raise InputError(f"--class_num: received {args.class_num}, expected {len(names)} "
                         f"(the classes of {args.dataset})")
    parts = _splits(args, names, *parts)
    if is_folder:
        parts = _read_images(args, image_size, parts)
    flip = args.dataset != "digits"  # a mirrored digit is another sign
    pad = min(parts[0][0].shape[1:3]) // (8 if flip else 16)  # 4 at 32x32, as is usual for CIFAR
    train, val, test = Split(*parts[0], "train", pad, flip), Split(*parts[1], "validation"), Split(*parts[2], "test")
    name = os.path.basename(os.path.abspath(args.dataset)) if is_folder else args.dataset
    return Data(name, train, val, test, names,
                f"{name}: {len(train):,} training, {len(val):,} validation, {len(test):,} test images")


def steps_per_epoch(n, batch_size):
    """Whole batches that n images give; a split smaller than a batch gives one batch of all of it."""
    return max(1, n // batch_size)


def batches(split, batch_size, seed, augment=True, start_epoch=0):
    """An endless keras.utils.PyDataset for fit(batches, steps_per_epoch=steps_per_epoch(len(split), batch_size)).

    Item i is a pure function of (seed, start_epoch, i), however far Keras fetches ahead: step i % S of epoch
    start_epoch + i // S, with S steps an epoch. Every epoch has an order of its own, in which no image comes twice.

    Args:
        split: a Split.
        batch_size: images an item; fewer only where the split has fewer.
        seed: whole number of at least 0.
        augment: vary the images as split.pad and split.flip allow.
        start_epoch: epoch of item 0, for a run that goes on.

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
            epoch, step = start_epoch + index // steps, index % steps
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


def _cifar(args):
    names, pickles, binaries, trains, test, key = CIFAR[args.dataset]
    cache = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"
    if found := _cifar_folder(args.dataset, Path(args.data_dir)) or _cifar_folder(args.dataset, cache):
        parts = [_read_cifar(found[0] / (name + found[1]), key, len(names)) for name in (*trains, test)]
        return names, tuple(np.concatenate(column) for column in zip(*parts[:-1], strict=True)), None, parts[-1]
    try:
        import keras

        parts = getattr(keras.datasets, args.dataset).load_data()
    except Exception as error:  # get_file raises a plain Exception for a failed download
        raise InputError(
            f"--data_dir: received {args.data_dir}, which has no {pickles} or {binaries}, nor has {cache}; "
            f"downloading failed ({error!r:.200})\n"
            f"expected the files {' '.join((*trains, test))} of https://www.cs.toronto.edu/~kriz/cifar.html "
            f"(python version) in {Path(args.data_dir) / pickles}") from None
    parts = [(x if x.shape[-1] == 3 else np.moveaxis(x, 1, -1), y.reshape(-1).astype(np.int64)) for x, y in parts]
    return names, parts[0], None, parts[1]


def _cifar_folder(dataset, root):
    """(folder, suffix of its files) at `root`, in it or one level down; None where there is none."""
    _, pickles, binaries, trains, test, _ = CIFAR[dataset]
    for name, suffix in ((pickles, ""), (binaries, ".bin")):
        for folder in (root, root / name, *sorted(root.glob(f"*/{name}"))):
            complete = all(os.path.isfile(folder / (file + suffix)) for file in (trains[0], test))
            if complete or (folder.name == name and os.path.isdir(folder)):
                return folder, suffix
    return None


class _StandIn:
    """Stands for every numpy name in a pickled batch, so that a file's words never reach numpy's own code."""

    def __init__(self, *words):
        self.words = words

    def __setstate__(self, state):
        self.state = state


class _BatchUnpickler(pickle._Unpickler):  # the C one sets aside what a damaged length says: 64 GB for five bytes
    def find_class(self, module, name):
        if (module.replace("_core", "core"), name) not in (
                ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _StandIn


def _read_cifar(path, key, classes):
    """(N, 32, 32, 3) uint8 images and (N,) int64 labels of one file, pickled by Python 2 or binary (.bin)."""
    if not os.path.isfile(path):
        raise InputError(f"--data_dir: {path} is missing, or not a file")
    try:
        if path.suffix == ".bin":
            skip = 1 if key == b"labels" else 2  # CIFAR-100 has the coarse label before the fine one
            table = np.fromfile(path, np.uint8).reshape(-1, skip + 3072)
            rows, labels = table[:, skip:], table[:, skip - 1]
        else:
            batch = _BatchUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            _, shape, dtype, fortran, pixels = batch[b"data"].state
            labels = batch[key]
            if dtype.words[0] not in (b"u1", "u1") or type(labels) is not list or {*map(type, labels)} != {int}:
                raise ValueError("expected uint8 pixels and a list of whole numbers")
            rows = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")
        if rows.ndim != 2 or rows.shape[1] != 3072 or not 0 < len(rows) == len(labels):
            raise ValueError(f"pixels of shape {rows.shape} for {len(labels)} labels")
        labels = np.array(labels, np.int64)
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"--data_dir: {path} is not a CIFAR file of rows of 3,072 pixels and labels from 0 to "
                         f"{classes - 1} ({error!r:.200})") from None
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _digits():
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
            for image in np.rint(digits.images * (255 / 16)).astype(np.uint8)]
    images = np.repeat(np.stack(grey)[..., None], 3, axis=-1)  # (1797, 32, 32, 3)
    return tuple("0123456789"), (images, digits.target.astype(np.int64)), None, None


def _folder(name):
    """Class names and (paths, labels) of the training, validation and test images; None for what has no folder."""
    if not name or not os.path.isdir(name):
        raise InputError(f"--dataset: received {name!r}, expected cifar10, cifar100, digits or a folder that exists")
    tops = {path.name: path for path in _visible(Path(name))}
    first = tops.get("train")
    if not first or not _visible(first) or any(map(_is_image, first.iterdir())):
        return *_scanned(Path(name)), None, None  # a "train" that holds images itself is a class
    names, train = _scanned(first)
    others = []
    for folder in (tops.get("val", tops.get("validation")), tops.get("test")):
        theirs, pair = _scanned(folder) if folder else (names, None)
        if odd := sorted(set(theirs) ^ set(names)):
            raise InputError(f"--dataset: received {name}, expected the same classes in {folder} as in {first}; "
                             f"they differ in {', '.join(odd[:5])}")
        others.append(pair)
    return names, train, *others


def _visible(folder):
    """The subfolders that may be classes: neither hidden nor links, which may lead out of the folder or round it."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    except OSError as error:
        raise InputError(f"--dataset: {folder} cannot be read ({error.strerror})") from None


def _is_image(path):
    return path.name.lower().endswith(SUFFIXES) and path.name[0] != "." and path.is_file()


def _scanned(root):
    """Class names, the subfolders of `root`, and the paths of all images in and below each, with their labels."""
    folders, paths, labels = _visible(root), [], []
    for label, folder in enumerate(folders):
        left, files = [folder], []
        while left:
            left += _visible(left[0])
            files += filter(_is_image, left.pop(0).iterdir())
        paths += sorted(map(str, files))
        labels += [label] * len(files)
    if len(folders) < 2 or len(set(labels)) < len(folders):
        empty = "".join(f"; {p.name} has 0 images" for i, p in enumerate(folders) if i not in set(labels))
        raise InputError(f"--dataset: received {root}, expected at least two subfolders, one a class, each with images "
                         f"({' '.join(SUFFIXES)}); found {len(folders)} (links are not followed){empty:.300}")
    return tuple(p.name for p in folders), (np.array(paths, dtype=object), np.array(labels, dtype=np.int64))


def _read_images(args, size, parts):
    """The (paths, labels) of each part as (uint8 (N, h, w, 3), labels), all resized to one size."""
    from PIL import Image

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(args.num_worker or cores) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        size = (args.image_size,) * 2 if args.image_size else size
        if size is None:
            own = set(pool.map(_decoded, np.concatenate([paths for paths, _ in parts])))
            size = own.pop() if len(own) == 1 else (224, 224)
            size = size if max(size) <= 1024 else (224, 224)  # as --image_size: photographs would fill the memory
        read = []
        for paths, labels in parts:
            images = np.empty((len(paths), *size, 3), np.uint8)
            for i, image in enumerate(pool.map(_decoded, paths, [size] * len(paths))):
                images[i] = image
            read.append((images, labels))
    return read


def _decoded(path, size=None):
    """One image as RGB uint8 (*size, 3); without a size, its own (h, w) from the file's header."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            if size is None:
                return file.size[::-1]
            image = file.convert("RGBA") if "transparency" in file.info else file  # Pillow warns on the direct way
            if file.mode.startswith("I"):  # 16-bit grey, which convert would clip to white
                image = Image.fromarray((np.asarray(file) >> 8).clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise InputError(f"--dataset: {path} cannot be read as an image ({error!r:.200})") from None
