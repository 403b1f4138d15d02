"""The names of a model's classes, in its file and in the records beside it, and whether data have the same. Imports no
Keras.

Names are text of strangers: they are bounded and made printable before they are kept, compared or shown.
"""

import contextlib
import os
import re
import unicodedata
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from compress.cli import display
from compress.data import doubts, folders, stock
from compress.errors import InputError, command
from compress.storage import archives, records

DATASET = "class_names"  # of the suite's files: (classes,) strings of UTF-8; HDF5 attributes end at 64 KiB
LABELS = "labels.txt"  # beside a model: a name a line
LONGEST, MOST = 255, 100_000  # characters of a name, names
DIGITS = tuple("0123456789")


def printable(name):
    """A name with what a terminal or a page wouldn't show as a character escaped, of at most LONGEST characters."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name)[:LONGEST]
    )[:LONGEST]


def checked(names):
    """The printable names of a list of text, as a tuple; None where a value from a file is no such list."""
    if (
        not isinstance(names, (list, tuple))
        or not 2 <= len(names) <= MOST
        or not all(isinstance(name, str) and name for name in names)
    ):
        return None
    return tuple(map(printable, names))


def of_data(images):
    """The names of a data set's classes, as records and files keep them: a list.

    Args:
        images: a dataset.Data.
    """
    return list(map(printable, images.class_names))


def write(file, names):
    """Puts names into an open h5py.File, where plain Keras doesn't look."""
    encoded = [name.encode() for name in names]
    width = max(map(len, encoded))
    file.create_dataset(
        DATASET,
        data=np.array(encoded, h5py.string_dtype("utf-8", width)),
        compression="gzip" if len(names) > 1000 else None,
    )


def _inside(path):
    """The names in a model file, or None."""
    damaged = OSError, ValueError, RuntimeError, LookupError, TypeError, zipfile.BadZipFile, zlib.error
    with contextlib.suppress(*damaged), archives.opened(path) as (file, _, _):
        item = file[DATASET] if isinstance(file.get(DATASET, getlink=True), h5py.HardLink) else None
        if (
            isinstance(item, h5py.Dataset)
            and item.dtype.kind == "S"
            and item.ndim == 1
            and (item.size <= MOST and item.dtype.itemsize <= 4 * LONGEST and not item.external and not item.is_virtual)
        ):
            return checked([name.decode() for name in item[()]])
    return None


def _run_beside(path):
    """What the record beside a model.h5 names as its run, or an empty dict."""
    for name in ("history.json", "result.json") if Path(path).name == "model.h5" else ():
        with contextlib.suppress(InputError):
            run = records.read_json(Path(path).with_name(name)).get("run")
            if isinstance(run, dict):
                return run
    return {}


def data_set_of(path):
    """The name of the data set that the record beside a model says it was trained on, or None."""
    flags = _run_beside(path).get("flags")
    dataset = flags.get("dataset") if isinstance(flags, dict) else None
    return printable(os.path.basename(os.path.normpath(dataset))) if isinstance(dataset, str) and dataset else None


def of_labels(text):
    """The names of a labels.txt, a line each, without the numbers in front that some tools write; None for none."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if all(re.match(rf"{i}[ :,\t]+\S", name) for i, name in enumerate(names)):
        names = [re.sub(r"^\d+[ :,\t]+", "", name) for name in names]
    return checked(names)


def of_model(path):
    """The names of a model's classes: from its file, else the records beside it, else a labels.txt beside it.

    An older record names no classes, but a stock data set's are known.

    Args:
        path: a model file.

    Returns:
        Tuple of names, or None where they are known nowhere.
    """
    path = Path(path)
    run = _run_beside(path)
    if names := _inside(path) or checked(run.get("class_names")):
        return names
    if run and (names := of_stock(data_set_of(path))):
        return names
    labels = path.with_name(LABELS)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if labels.is_file() and labels.stat().st_size <= 4 * LONGEST * MOST:
            return of_labels(labels.read_text(encoding="utf-8-sig"))
    return None


def of_stock(dataset):
    """The names of a stock data set's classes, or None for another one."""
    return ({"digits": DIGITS} | {name: known[0] for name, known in stock.CIFAR.items()}).get(dataset)


def _plain(name):
    """A name in one spelling: Hot_dog and hot dog are one class, and 7 and 07."""
    name = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
    return (name.lstrip("0") or "0") if name.isdecimal() else name


def same(names, others):
    """Whether two lists name the same classes in the same order; upper case, blanks, _ and - don't count."""
    return list(map(_plain, names)) == list(map(_plain, others))


def are_others(known, names):
    """Whether a model's classes, where they are known, are others than a data set's of the same number."""
    return known is not None and len(known) == len(names) and not same(known, names)


def shown(names, most=10):
    """Names in one line of text, the first `most` of them."""
    short = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_part(path, names, known):
    """InputError where the data have a part of a model's classes; another number is refused by who loads the model."""
    if set(map(_plain, names)) < set(map(_plain, known)):
        raise InputError(
            f"received {path}, whose classes are {shown(known)}; expected images of each of them in the data, which "
            f"have {len(names)} alone: {shown(names)}",
            path,
        )


def _warn_of_doubt(path, data, names, trained_on):
    """Warns where a model without class names may not be of the data that it meets; data: their name.

    Returns:
        Whether it did.
    """
    if trained_on not in (None, data):
        display.warn(
            f"{path} was trained on {trained_on}, whose class names its record doesn't have; its classes "
            f"are read as those of {data}: {shown(names)}, in this order"
        )
    elif folders.counted_as_text(names):
        display.warn(
            f"{path} has no names of its classes, which are read as {shown(names)}, in this order; if "
            "its labels were whole numbers, the accuracy is wrong: rename the folders to numbers of one "
            f"length (00, 01, ...), or give it a {LABELS} beside it, a name a line"
        )
    else:
        return False
    return True


def compare(path, images):
    """What `compare_all` gives of one model."""
    return compare_all([path], images)[0]


def compare_all(paths, images):
    """Compares the classes of models with those of data that they meet, and warns where they may be others.

    Args:
        paths: of the models, whose number of classes is that of the data.
        images: a dataset.Data.

    Returns:
        For each model the list of the names that it was trained on, for the record; None where they are known nowhere.

    Raises:
        InputError: a part of the names, the same ones in another order, or names of which some are the same: a table
            would be wrong.
    """
    # A class is a number to the network. Where its names are unknown, the data's are taken to be in the same order.
    names, found, unnamed = of_data(images), [], []
    for path in paths:
        known, trained_on = of_model(path), data_set_of(path)
        found.append(known and _compared(path, images.name, names, known, trained_on))
        if known is None and not _warn_of_doubt(path, images.name, names, trained_on) and trained_on is None:
            unnamed.append(str(path))
    if unnamed and images.reader:  # labels of a stock data set have one order; those of a folder are somebody's choice
        several = len(unnamed) > 1
        display.warn(
            f"{doubts.listed(unnamed)} {'have' if several else 'has'} no names of {'their' if several else 'its'} "
            f"classes, which are read in the alphabetical order of the class folders: {shown(names)}; if the training "
            f"labels had another order, every accuracy is wrong: a {LABELS} beside the model, a name a line, says it"
        )
    return found


def _compared(path, data, names, known, trained_on):
    """What `compare_all` gives of a model whose classes are known.

    Args:
        path: of the model.
        data: name of the data set.
        names: of its classes.
        known: names of the model's.
        trained_on: name of the data set that the record beside the model tells of, or None.
    """
    if len(known) != len(names):
        _check_part(path, names, known)
        return None
    if same(names, known):
        if trained_on not in (None, data):
            display.warn(
                f"{path} was trained on {trained_on}, the images are those of {data}; their classes have the same names"
            )
        return list(known)
    # Other names: in another order, or with some in common, they are surely other classes; wholly different ones may
    # be the same classes in another language.
    plain, ours = list(map(_plain, known)), list(map(_plain, names))
    first = next(i for i, name in enumerate(ours) if name != plain[i])
    differ = f"class {first} of {data} is {shown([names[first]])}, of {path} {shown([known[first]])}"
    if sorted(ours) == sorted(plain):
        raise InputError(
            f"`dataset`: received the classes of {path} in another order: {differ}; expected folders "
            f"called as the model's classes are, upper and lower case too, so that they sort alike: "
            f"{shown(known)}"
        )
    if set(ours) & set(plain):
        head = command("train_base_model.py", model_path=path, dataset="...")
        raise InputError(
            f"`dataset`: {differ}; expected the model's classes, {shown(known)}: rename the folders, or "
            f"give the model a head for these: {head}"
        )
    display.warn(
        f"{path} was trained on {shown(known)}; read as {shown(names)}, in this order: right only if these "
        "are other names of the same classes"
    )
    return list(known)
