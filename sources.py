"""Where images come from: CIFAR files, scikit-learn's digits, a folder of images. Reads files, trusts none."""

import concurrent.futures
import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path

import numpy as np

from errors import InputError

SPLITS = {"train", "val", "validation", "test"}  # folders that may hold the classes
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")  # of a folder's images
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""
# the decoders of these alone: Pillow looks at the content, and has one that starts Ghostscript
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
# data set: class names, folder of pickles, folder of binaries, training files, test file, key of the labels
CIFAR = {
    "cifar10": (tuple(CIFAR10.split()), "cifar-10-batches-py", "cifar-10-batches-bin",
                [f"data_batch_{i}" for i in range(1, 6)], "test_batch", b"labels"),
    "cifar100": (tuple(CIFAR100.split()), "cifar-100-python", "cifar-100-binary", ["train"], "test", b"fine_labels"),
}


def read_cifar(dataset, data_dir):
    """CIFAR-10 or CIFAR-100 from `data_dir`, else from Keras' cache, else downloaded by Keras.

    Args:
        dataset: 'cifar10' or 'cifar100'.
        data_dir: holds the folder of pickled or of binary batches, directly or one level down, or is it.

    Returns:
        Class names, (images, labels) for training, None (no validation split of its own), (images, labels) for test;
        images uint8 (N, 32, 32, 3), labels int64 (N,).

    Raises:
        InputError: a file is damaged, or there is none and no network; then two lines say which files to put where.
    """
    names, pickles, binaries, trains, test, key = CIFAR[dataset]
    cache = _keras_cache()
    if found := find_cifar(dataset, data_dir):
        parts = [read_batch(found[0] / (name + found[1]), key, len(names)) for name in (*trains, test)]
        return names, tuple(np.concatenate(column) for column in zip(*parts[:-1], strict=True)), None, parts[-1]
    try:
        import keras

        parts = getattr(keras.datasets, dataset).load_data()
    except Exception as error:  # get_file raises a plain Exception for a failed download
        raise InputError(
            f"--data_dir: received {data_dir}, which has no {pickles} or {binaries}, nor has {cache}; "
            f"downloading failed ({error!r:.200})",
            f"expected the files {' '.join((*trains, test))} of https://www.cs.toronto.edu/~kriz/cifar.html "
            f"(python version) in {Path(data_dir) / pickles}") from None
    parts = [(x if x.shape[-1] == 3 else np.moveaxis(x, 1, -1), y.reshape(-1).astype(np.int64)) for x, y in parts]
    return names, parts[0], None, parts[1]


def _keras_cache():
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def find_cifar(dataset, data_dir):
    """(folder, suffix of its files) in `data_dir` or Keras' cache, without a download; None where there is none."""
    return _cifar_folder(dataset, Path(data_dir)) or _cifar_folder(dataset, _keras_cache())


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


def _plain_keys(load):
    """A step of the unpickler, refused where a key is no text: hashing nested tuples can take years."""
    def checked(self):
        if any(type(key) not in (bytes, str, int) for key in self.stack[-2::-2]):
            raise pickle.UnpicklingError("a key is neither text nor a number")
        load(self)
    return checked


class _BatchUnpickler(pickle._Unpickler):  # the C one sets aside what a damaged length says: 64 GB for five bytes
    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012 (the base class' own)
    for code in (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.DICT):
        del dispatch[code[0]]  # no batch has them; the first would set memory aside too
    dispatch[pickle.SETITEMS[0]] = _plain_keys(pickle._Unpickler.load_setitems)

    def load_setitem(self):
        """One item of a dictionary: the key is the last but one on the stack."""
        if type(self.stack[-2]) not in (bytes, str, int):
            raise pickle.UnpicklingError("a key is neither text nor a number")
        super().load_setitem()
    dispatch[pickle.SETITEM[0]] = load_setitem

    def find_class(self, module, name):
        if (module.replace("_core", "core"), name) not in (
                ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _StandIn


def read_batch(path, key, classes):
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


def read_digits():
    """scikit-learn's 1,797 digits as 32x32 RGB: class names, (images, labels), None, None."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
            for image in np.rint(digits.images * (255 / 16)).astype(np.uint8)]
    images = np.repeat(np.stack(grey)[..., None], 3, axis=-1)  # (1797, 32, 32, 3)
    return tuple("0123456789"), (images, digits.target.astype(np.int64)), None, None


def list_folder(name):
    """Class names and (paths, labels) of the training, validation and test images; None for what has no folder."""
    if not name or not os.path.isdir(name):
        raise InputError(f"--dataset: received {name!r}, expected cifar10, cifar100, digits or a folder that exists")
    whole = Path(name).resolve()
    tops = {path.name: path for path in _visible(Path(name))}
    first = tops.get("train")
    _check_split_folders(Path(name), tops)
    if not first or not _visible(first) or any(map(_is_image, first.iterdir())):
        return *_scanned(Path(name), whole), None, None  # a "train" that holds images itself is a class
    names, train = _scanned(first, whole)
    others = []
    for folder in (tops.get("val", tops.get("validation")), tops.get("test")):
        theirs, pair = _scanned(folder, whole) if folder else (names, None)
        if odd := sorted(set(theirs) ^ set(names)):
            raise InputError(f"--dataset: received {name}, expected the same classes in {folder} as in {first}; "
                             f"they differ in {', '.join(odd[:5])}")
        others.append(pair)
    return names, train, *others


def _check_split_folders(root, tops):
    """Raises InputError where train, test and val hold classes but would be taken for classes themselves."""
    if not tops or not tops.keys() <= SPLITS or not any(map(_visible, tops.values())):
        return
    if "train" not in tops:
        raise InputError(f"--dataset: received {root} with {', '.join(tops)} alone, expected a folder train beside "
                         "them, with the same classes (links are not followed)")
    if stray := sorted(filter(_is_image, tops["train"].iterdir())):
        raise InputError(f"--dataset: received {root} whose train holds images itself, such as {stray[0].name}, "
                         "expected each in the subfolder of its class")


def _visible(folder):
    """The subfolders that may be classes: neither hidden nor links, which may lead out of the folder or round it."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    except OSError as error:
        raise InputError(f"--dataset: {folder} cannot be read ({error.strerror})") from None


def _is_image(path):
    return path.name.lower().endswith(SUFFIXES) and path.name[0] != "." and path.is_file()


def _scanned(root, whole):
    """Class names, the subfolders of `root`, and the paths of all images in and below each, with their labels.

    A link to a file outside `whole`, the data set's folder, is refused: a folder of someone else's must not make this
    machine's other files part of a data set.
    """
    folders, paths, labels = _visible(root), [], []
    for label, folder in enumerate(folders):
        left, files = [folder], []
        while left:
            left += _visible(left[0])
            files += filter(_is_image, left.pop(0).iterdir())
        for path in files:
            if path.is_symlink() and not path.resolve().is_relative_to(whole):
                raise InputError(f"--dataset: {path} is a link to {path.resolve()}, expected a file in {whole}")
        paths += sorted(map(str, files))
        labels += [label] * len(files)
    if len(folders) < 2 or len(set(labels)) < len(folders):
        empty = "".join(f"; {p.name} has 0 images" for i, p in enumerate(folders) if i not in set(labels))
        raise InputError(f"--dataset: received {root}, expected at least two subfolders, one a class, each with images "
                         f"({' '.join(SUFFIXES)}); found {len(folders)} (links are not followed){empty:.300}")
    return tuple(p.name for p in folders), (np.array(paths, dtype=object), np.array(labels, dtype=np.int64))


def listing(folder, paths):
    """What tells a folder's images from those of another day: [its path, SHA-256 of their names and sizes]."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{os.path.relpath(path, folder)} {os.path.getsize(path)}\n".encode(errors="surrogateescape"))
    return [os.path.abspath(folder), digest.hexdigest()]


def read_images(parts, size, workers=0, progress=iter):
    """Reads the images of a folder's splits, all resized to one size.

    Args:
        parts: list of (paths, labels).
        size: (h, w), or None for the images' own size if they share one of at most 1024, else (224, 224).
        workers: threads; 0 for one a core.
        progress: wraps the range of images of each part.

    Returns:
        List of (uint8 (N, h, w, 3), labels).

    Raises:
        InputError: a file that cannot be decoded, or a decompression bomb.
    """
    from PIL import Image

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(workers or cores) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if size is None:
            own = set(pool.map(_decoded, np.concatenate([paths for paths, _ in parts])))
            size = own.pop() if len(own) == 1 else (224, 224)
            size = size if max(size) <= 1024 else (224, 224)  # as --image_size: photographs would fill the memory
        read = []
        for paths, labels in parts:
            images = np.empty((len(paths), *size, 3), np.uint8)
            for i, image in zip(progress(range(len(paths))), pool.map(_decoded, paths, [size] * len(paths)),
                                strict=True):
                images[i] = image
            read.append((images, labels))
    return read


def _decoded(path, size=None):
    """One image as RGB uint8 (*size, 3); without a size, its own (h, w) from the file's header."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as file:
            if size is None:
                return file.size[::-1]
            image = file.convert("RGBA") if "transparency" in file.info else file  # Pillow warns on the direct way
            if file.mode.startswith("I"):  # 16-bit grey, which convert would clip to white
                image = Image.fromarray((np.asarray(file) >> 8).clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise InputError(f"--dataset: {path} cannot be read as an image ({error!r:.200})") from None
