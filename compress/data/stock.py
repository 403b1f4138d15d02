"""The stock data sets: CIFAR-10 and CIFAR-100 from folders, archives or Keras, and scikit-learn's digits.

CIFAR's official files are pickles, and an ordinary `pickle.load` runs whatever code a file names. The files here are
read by an unpickler that knows three names of numpy and calls none of them.
"""

import contextlib
import errno
import gzip
import io
import os
import pickle
import re
import socket
import tarfile
from pathlib import Path

import numpy as np

from compress.cli import display
from compress.data import binaries, lazily
from compress.errors import InputError

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
    "cifar10": (
        tuple(CIFAR10.split()),
        "cifar-10-batches-py",
        "cifar-10-batches-bin",
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
        b"labels",
    ),
    "cifar100": (tuple(CIFAR100.split()), "cifar-100-python", "cifar-100-binary", ["train"], "test", b"fine_labels"),
}
# cifar-10-python.tar.gz, as browsers and Keras call it too: "cifar-10-python (1).tar.gz", cifar-10-batches-py-target
ARCHIVE = {
    "cifar10": re.compile(r"cifar-?10(?!0).*\.(tar\.gz|tgz|tar)", re.IGNORECASE),
    "cifar100": re.compile(r"cifar-?100.*\.(tar\.gz|tgz|tar)", re.IGNORECASE),
}
IMAGES = 10_000  # in each file; CIFAR-100 has one of five times as many for training
MOST_HELD = 2**29  # bytes of files that lie in memory, and are read of an archive: the official ones have under 200 MB
QUIET_SECONDS = 10  # a download has failed when the server sends nothing for so long


def read_cifar(dataset, data_dir, with_train=True, instead=""):
    """Reads CIFAR-10 or CIFAR-100 from `data_dir`, else from Keras' cache, else has Keras download it.

    Args:
        dataset: 'cifar10' or 'cifar100'.
        data_dir: a folder that holds the folder of pickled or binary batches, directly or one level down, or the
            archive of either; or that folder or archive itself.
        with_train: False reads the test file only.
        instead: what can be done without these images, for the error.

    Returns:
        (class names, (images, labels) for training or None, None as there is no validation split, (images, labels) for
        test); images uint8 (N, 32, 32, 3), a `lazily.Lazy` of binary files that are more than MOST_HELD, labels int64
        (N,).

    Raises:
        InputError: a file is missing, damaged or too large, or there is none and the download failed; the message says
            which file to put where.
    """
    names, _, _, trains, test, key = CIFAR[dataset]
    wanted = [*trains, test] if with_train else [test]
    # What the user put into `data_dir` comes first. A folder there that lacks a file is an error: going on to the cache
    # or the network would silently use other files than the user's.
    if not (found := _found(dataset, Path(data_dir), wanted)):
        _check_not_in_part(dataset, data_dir, wanted)
        found = _found(dataset, _keras_cache(), wanted)
    parts = _read(found, wanted, key, len(names)) if found else _downloaded(dataset, data_dir, instead)
    train = None
    if with_train:
        images, labels = zip(*parts[:-1], strict=True)
        train = lazily.joined(images), np.concatenate(labels)
    return names, train, None, parts[-1]


def _read(places, wanted, key, classes):
    """[(images, labels)] of the wanted files, from the first of several places that has them all in order.

    Args:
        places: of `_found`.
        wanted: names of files.
        key: as of `read_batch`.
        classes: number of classes.

    Raises:
        InputError: what is wrong with the first place, where no other is in order.
    """
    failed = None
    for place, suffix in places:
        try:
            if place.is_file():
                read = _of_archive(place, wanted, key, classes)
            else:
                read = _of_folder([place / (name + suffix) for name in wanted], key, classes)
        except InputError as error:
            failed = failed or error
            continue
        if failed:
            display.warn(f"{str(failed).removeprefix('`data_dir`: ')}; {place} is read instead")
        # Binary files that were cut at the end of an image look whole.
        short = [
            f"{name} {len(read[name][1]):,} of {of:,}"
            for name in wanted
            if len(read[name][1]) < (of := IMAGES * (5 if name == "train" else 1))
        ]
        if short:
            more = f" and {len(short) - 3} files more" if len(short) > 3 else ""
            display.warn(
                f"{place} has fewer images than CIFAR: {', '.join(short[:3])}{more}; if that isn't meant, "
                "fetch it again"
            )
        return [read[name] for name in wanted]
    raise failed


def _of_archive(archive, wanted, key, classes):
    """{name: (images, labels)} of the wanted files of an archive; arguments as of `_read`."""
    batches = _unpacked(archive, wanted)
    return {path.name.removesuffix(".bin"): read_batch(path, key, classes, raw) for path, raw in batches}


def _of_folder(paths, key, classes):
    """{name: (images, labels)} of files, all pickled or all binary; images of binary ones that are too large for memory
    are a `lazily.Lazy`.

    Raises:
        InputError: as `read_batch`, or pickled files are too large.
    """
    if (size := _bytes(paths)) <= MOST_HELD:
        read = [read_batch(path, key, classes) for path in paths]
    elif paths[0].suffix:
        read = binaries.Records(paths, _label_bytes(key), classes).parts()
    else:
        raise InputError(
            f"`data_dir`: {paths[0].parent} holds {size:,} bytes of pickled batches, which are read whole, expected at "
            f"most {MOST_HELD:,}; put the binary version of the same data there instead, whose images are read as they "
            "are needed"
        )
    return {path.name.removesuffix(".bin"): batch for path, batch in zip(paths, read, strict=True)}


def _bytes(paths):
    """Bytes of those files that are there."""
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def _label_bytes(key):
    """Bytes of labels in front of a binary record's pixels: CIFAR-100 has the coarse label before the fine one."""
    return 1 if key == b"labels" else 2


def _downloaded(dataset, data_dir, instead):
    """[(images, labels) for training, (images, labels) for test], downloaded by Keras into its cache."""
    pickles = CIFAR[dataset][1]
    archive = f"{dataset.replace('cifar', 'cifar-')}-python.tar.gz"
    patience = socket.getdefaulttimeout()
    try:
        import keras

        socket.setdefaulttimeout(QUIET_SECONDS)  # Keras sets no time-out: behind a firewall it would wait for ever
        parts = getattr(keras.datasets, dataset).load_data()
    except Exception as error:  # get_file raises a plain Exception for a failed download
        if isinstance(error, ModuleNotFoundError) or getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise InputError(
            f"`data_dir`: {data_dir} has no {pickles}, and downloading failed; expected it there, or {archive} "
            f"of cs.toronto.edu/~kriz{instead and f'; {instead}'}"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    # Keras gives labels (N, 1), and images (N, 3, 32, 32) where keras.json says "channels_first".
    return [(x if x.shape[-1] == 3 else np.moveaxis(x, 1, -1), y.reshape(-1).astype(np.int64)) for x, y in parts]


def _keras_cache():
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"


def find_cifar(dataset, data_dir):
    """Whether `read_cifar` finds all files of a data set without a download; its arguments are the same."""
    names = [*CIFAR[dataset][3], CIFAR[dataset][4]]
    return any(_found(dataset, root, names) for root in (Path(data_dir), _keras_cache()))


def _found(dataset, root, wanted):
    """[(folder, suffix of its files)] at or in `root` with all wanted files, else of all archives there; [] without.

    It is one folder, and where that has pickles that are too large also one of binary files.
    """
    whole = [
        (folder, suffix)
        for folder, suffix in _folders(dataset, root)
        if all(os.path.isfile(folder / (name + suffix)) for name in wanted)
    ]
    if not whole:
        return [(archive, "") for archive in _archives(dataset, root)]
    (folder, suffix), *others = whole
    is_too_large = not suffix and _bytes([folder / name for name in wanted]) > MOST_HELD
    return [(folder, suffix), *[place for place in others if is_too_large and place[1]][:1]]


def _folders(dataset, root):
    """Yields (folder, suffix of its files) for `root` itself and the folders in it that may hold the batches."""
    for name, suffix in zip(CIFAR[dataset][1:3], ("", ".bin"), strict=True):
        for folder in (root, root / name, *sorted(root.glob(f"*/{name}"))):
            if os.path.isdir(folder):
                yield folder, suffix


def _archives(dataset, root):
    """The archives at or in `root`. The version for Matlab, which isn't read, comes last."""
    with contextlib.suppress(OSError):
        found = [root] if root.is_file() else sorted(root.iterdir()) if root.is_dir() else []
        found = [path for path in found if ARCHIVE[dataset].fullmatch(path.name) and path.is_file()]
        return sorted(found, key=lambda path: "matlab" in path.name.lower())
    return []


def _check_not_in_part(dataset, data_dir, wanted):
    """Checks that no folder in `data_dir` holds only some of the files.

    Raises:
        InputError: a folder with the official name, or with one of the files, lacks others.
    """
    for folder, suffix in _folders(dataset, Path(data_dir)):
        missing = [name + suffix for name in wanted if not os.path.isfile(folder / (name + suffix))]
        if folder.name in CIFAR[dataset][1:3] or len(missing) < len(wanted):
            raise InputError(
                f"`data_dir`: {folder} was unpacked in part: {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing, or not a file; unpack the archive "
                f"again, or put it in {data_dir} as it was downloaded"
            )


class _TooLargeError(ValueError):
    """An archive unpacks to more than is read of one."""


class _Bounded:
    """A stream that raises after MOST_HELD bytes: a small gzip file can unpack to any size."""

    def __init__(self, stream):
        self.stream, self.left = stream, MOST_HELD

    def read(self, size):
        """At most `size` bytes; _TooLargeError beyond the limit."""
        content = self.stream.read(min(size, self.left + 1))  # one byte more than allowed shows that there is more
        self.left -= len(content)
        if self.left < 0:
            raise _TooLargeError
        return content


def _unpacked(archive, wanted):
    """Yields (path within, content) of the wanted files of an archive, in the archive's order.

    Nothing is written to the disk, so a member called '../../x' can't write anywhere.

    Args:
        archive: Path of a .tar or .tar.gz file.
        wanted: names of files, without folder and without '.bin'.

    Raises:
        InputError: the archive is damaged, too large or lacks a file.
    """
    left = set(wanted)
    try:
        with open(archive, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"  # the mark of a gzip file, since suffixes are unreliable
            raw.seek(0)
            stream = _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw)
            tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 (opens no file of its own)
            for member in tar:
                # Sparse members are refused: their holes take no bytes of the stream, and so escape its limit.
                name = member.name.rsplit("/", 1)[-1]
                if name.removesuffix(".bin") in left and member.isreg() and not member.issparse():
                    left.remove(name.removesuffix(".bin"))
                    yield archive / name, tar.extractfile(member).read()
                if not left:
                    return
    except _TooLargeError:
        raise InputError(
            f"`data_dir`: {archive} unpacks to more than {MOST_HELD:,} bytes, the most that is read of an archive; "
            "unpack it, of CIFAR's two versions the binary one: its images are then read as they are needed"
        ) from None
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"`data_dir`: {archive} is a damaged archive ({error!r:.200}); download it again") from None
    raise InputError(
        f"`data_dir`: {archive} holds no {', '.join(sorted(left))}; expected the python or the binary "
        "version of https://www.cs.toronto.edu/~kriz/cifar.html"
    )


class _Repickled(ValueError):
    """A batch isn't pickled as the official files are: another program read it and wrote it again."""


class _StandIn:
    """Takes the place of every numpy name in a pickled batch.

    A pickle rebuilds an array by calling functions of numpy with arguments from the file. This class only keeps the
    arguments; `read_batch` makes the array from them after checking it.
    """

    def __init__(self, *words):
        self.words = words

    def __setstate__(self, state):
        self.state = state


def _plain_keys(load):
    """Wraps a step of the unpickler that fills a dictionary, to refuse keys other than text and whole numbers.

    A key is hashed, and the hash of a tuple hashes its items: tuples of tuples in a small file can take years.
    """

    def checked(self):
        # The stack ends in key, value, key, value, ...
        if any(type(key) not in (bytes, str, int) for key in self.stack[-2::-2]):
            raise pickle.UnpicklingError("a key is neither text nor a number")
        load(self)

    return checked


class _BatchUnpickler(pickle._Unpickler):
    """Unpickles a CIFAR batch, whoever wrote it. It looks up nothing and runs nothing that the file names.

    It derives from Python's own implementation. The one in C allocates as much memory as a length in the file says,
    which a damaged file of five bytes turns into 64 GB.
    """

    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012 (the base class' own)
    # No batch uses these steps. Bytearrays allocate by length here too, sets hash their items, and DICT fills a
    # dictionary without the check of its keys.
    for code in (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.DICT):
        del dispatch[code[0]]
    dispatch[pickle.SETITEMS[0]] = _plain_keys(pickle._Unpickler.load_setitems)

    def load_setitem(self):
        """Sets one item of a dictionary; the stack ends in its key and its value."""
        if type(self.stack[-2]) not in (bytes, str, int):
            raise pickle.UnpicklingError("a key is neither text nor a number")
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def find_class(self, module, name):
        # numpy 2 renamed numpy.core to numpy._core; files of both kinds exist.
        if (module.replace("_core", "core"), name) not in (
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
        ):
            asked = f"it asks for {module}.{name}"
            # what Python 3 writes for bytes and for arrays
            raise (
                _Repickled(asked)
                if (module, name) == ("_codecs", "encode") or (module.startswith("numpy."))
                else pickle.UnpicklingError(asked)
            )
        return _StandIn


def read_batch(path, key, classes, content=None):
    """Reads one CIFAR file, pickled by Python 2 or binary (.bin).

    The formats are described at https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        path: of the file, or its place in an archive.
        key: of the labels in a pickle, b'labels' or b'fine_labels'.
        classes: number of classes; labels are below it.
        content: the bytes of the file; None to read them from `path`.

    Returns:
        (images uint8 (N, 32, 32, 3), labels int64 (N,)).

    Raises:
        InputError: the file is missing or is no such file.
    """
    if content is None and not os.path.isfile(path):
        raise InputError(f"`data_dir`: {path} is missing, or not a file")
    try:
        content = path.read_bytes() if content is None else content
        if path.suffix == ".bin":
            skip = _label_bytes(key)
            table = np.frombuffer(content, np.uint8).reshape(-1, skip + binaries.PIXELS)
            rows, labels = table[:, skip:], table[:, skip - 1]
        else:
            batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
            if isinstance(batch, dict) and key.decode() in batch:
                raise _Repickled("its keys are text")
            # the state of a pickled numpy array: version, shape, dtype, whether in column order, bytes
            _, shape, dtype, fortran, pixels = batch[b"data"].state
            labels = batch[key]
            if dtype.words[0] not in (b"u1", "u1") or type(labels) is not list or {*map(type, labels)} != {int}:
                raise ValueError("expected uint8 pixels and a list of whole numbers")
            rows = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")
        if rows.ndim != 2 or rows.shape[1] != binaries.PIXELS or not 0 < len(rows) == len(labels):
            raise ValueError(f"pixels of shape {rows.shape} for {len(labels)} labels")
        labels = np.array(labels, np.int64)
        binaries.check_labels(labels, classes)
    except _Repickled as error:
        raise InputError(
            f"`data_dir`: {path} was pickled again by another program ({error}); expected the file as it "
            "was downloaded: unpack the archive again"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise binaries.no_batch(path, classes, error) from None
    return binaries.pictures(rows), labels


def read_digits():
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8 grey to 32x32 RGB.

    Returns:
        (class names, (images uint8 (1797, 32, 32, 3), labels int64 (1797,)), None, None): it has one split only.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = [
        Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        for image in np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ]  # their grey values are 0 to 16
    images = np.repeat(np.stack(grey)[..., None], 3, axis=-1)  # (1797, 32, 32, 3)
    return tuple("0123456789"), (images, digits.target.astype(np.int64)), None, None
