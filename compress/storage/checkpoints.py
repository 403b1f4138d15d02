"""Writing of model files, and what is checked of a file before its network is read: that it is one, whole, and fits.

`opening` reads the network itself.
"""

import contextlib
import hashlib
import itertools
import os
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from compress.cli.values import STOCK
from compress.errors import InputError, command, one_line
from compress.storage import archives, classes, kinds
from compress.storage.entries import Unread
from compress.storage.files import replacing, reserve, suggestion
from compress.storage.records import check_record

STOCK_SIZE = (32, 32)  # of the images of every data set of STOCK
RESIZED = "resized.keras"  # what a message calls a network that the user is to build for another size
DIGEST = "weights_sha256"  # attribute of the suite's files


def save_model(model, path, class_names=None):
    """Writes a model as .h5 that plain Keras opens, atomically, without slots, with a checksum of its weights.

    Args:
        model: a keras.Model.
        path: of the file.
        class_names: list of the classes' names, which then lie in the file too, see `classes`.

    Raises:
        InputError: the file can't be written.
    """
    from compress.storage import hdf5  # which imports Keras

    with replacing(path) as temporary:
        reserve(temporary, 4 * model.count_params() + 2**21)  # HDF5 crashes where the disk fills up under it
        try:
            with in_the_order_of_files(model):
                hdf5.write(model, temporary)  # a run resumes from its state.npz, not from this file
            # Checksum and class names lie inside: the records beside a file may not travel with it.
            with h5py.File(temporary, "r+") as file:
                file.attrs[DIGEST] = digest_of(archives.arrays(file, temporary))
                if class_names := classes.checked(class_names):
                    classes.write(file, class_names)
        except RuntimeError as error:  # h5py, where the disk is full as it closes a file
            raise OSError(one_line(error)) from None


def load_weights(model, path):
    """Gives a model the weights of its own .h5 file, from `save_model`, also while it is trained."""
    with in_the_order_of_files(model):
        model.load_weights(path)


@contextlib.contextmanager
def in_the_order_of_files(model):
    """Has a model's weights meanwhile in the order in which plain Keras reads them from an .h5 file.

    An .h5 lists those of a model inside, trainable ones first. A training twin leaves some biases out of training, and
    no config says so: whoever builds the model again has them in another place.
    """
    changed = []
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.trainable != layer.trainable:
                changed.append((variable, variable.trainable))
                variable.trainable = layer.trainable
    try:
        yield
    finally:
        for variable, before in changed:
            variable.trainable = before


def digest_of(arrays):
    """SHA-256 over names, types, shapes and numbers of what `archives.arrays` gives."""
    # A layer and a weight name an array, as in every file of one flat network; where two models inside a model have
    # layers of one name, the whole path does.
    named = archives.by_layer(arrays)
    named = named if len(named) == len(arrays) else arrays
    digest = hashlib.sha256()
    for key in sorted(named):
        array = np.ascontiguousarray(np.asarray(named[key]))
        digest.update(f"{'/'.join(key)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def check_digest(file, arrays, path):
    """Raises InputError where a file of the suite has other weights than those that it was written with.

    Args:
        file: from `archives.opened`.
        arrays: from `archives.arrays`.
        path: the file, for the message.
    """
    if DIGEST in file.attrs and file.attrs[DIGEST] != digest_of(arrays):
        raise InputError(
            f"received {path}, whose weights are damaged: they don't have the checksum that the "
            "file names; expected the file as it was written",
            path,
        )


def existing(path):
    """The Path of a file that may be a model; InputError for none, a folder, another kind or a broken record."""
    path = Path(path)
    if other := kinds.of_other(path):
        raise InputError(f"received {path}, which is {other[0]}; {other[1]}", path)
    if not path.exists():
        in_a_folder = path.name == "model.h5" and path.parent.is_dir()  # which was given in the model's place
        raise InputError(
            f"received {path}, which is not a file; expected an .h5 or .keras file"
            f"{(in_a_folder and archives.models_below(path.parent)) or suggestion(path)}",
            path,
        )
    check_record(path)
    return path


@contextlib.contextmanager
def errors_in_a_line(path, expected):
    """Turns whatever h5py, zipfile and the walk through a config raise for a damaged or hostile file into one line.

    Args:
        path: the file.
        expected: what it was to hold, for the message.

    Raises:
        InputError: what the file is and what was expected.
    """
    try:
        yield
    except InputError:
        raise
    except Unread as error:
        raise InputError(f"received {path}, expected {expected}; found {error}", path) from None
    except OSError as error:
        kind = archives.kind_of(path)
        why = f" ({error})" if kind == "HDF5" else ""  # of a zip h5py says only that it is no HDF5
        what = f"a truncated or damaged {kind} file of {os.path.getsize(path):,} bytes{why}"
        raise InputError(
            f"received {path}, which is {what if kind else 'no HDF5 and no zip file'}; expected an .h5 or .keras model",
            path,
        ) from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:  # another zip, or a damaged one
        raise InputError(
            f"received {path}, a zip file that can't be read ({error}); expected an .h5 or .keras model", path
        ) from None
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        # a KeyError's text is a name of Python's, which says nothing to a user
        why = "" if isinstance(error, LookupError | TypeError | AttributeError) else f" ({error})"
        raise InputError(
            f"received {path}, expected {expected}; found what no file of Keras holds, or a damaged one{why}", path
        ) from None


def check_fits(header, class_num=None, input_shape=None, dataset=None, also=None):
    """Raises InputError where a file has another class count or another image size than the data.

    Args:
        header: a headers.Header, whose classes are None where only the network itself tells them.
        class_num: classes of the data, or None.
        input_shape: (height, width, 3) of their images, or None; a stock data set's are known.
        dataset: where the data lie, for the message.
        also: {parameter: value} that were given and say how data and model are read, for the command in the message.
    """
    also, have = dict(also or {}), header.input_shape and tuple(header.input_shape[:2])
    asked = also.pop("image_size", None) if have or dataset in STOCK else also.get("image_size")
    size = STOCK_SIZE if dataset in STOCK else tuple(input_shape[:2]) if input_shape else asked and (asked, asked)
    classes_fit = class_num is None or header.classes in (None, class_num)
    size_fits = None in (have, size) or have == size
    if classes_fit and size_fits:
        return
    of_data = f"as {dataset or 'the data set'} has them"
    ours, wanted, train = [], [], ""
    if not classes_fit:
        ours, wanted = [f"with {header.classes or 'no'} class{'es' * (header.classes != 1)}"], [f"{class_num}"]
        source = header.path if size_fits or dataset not in STOCK else RESIZED
        # what is asked of its pixels goes with the file: an operation of code that stood for it is refused without
        flags = {"model_path": source, "dataset": dataset or "IMAGES"} | also
        train = command("train_base_model.py", **flags, save_folder=_free(f"./model/of_{class_num}_classes"))
        train = f"a model with a new head of {class_num} classes is trained by: {train}"
    if not size_fits:
        ours.append(f"for images of {have[0]}x{have[1]}")
        wanted = [*(f"{text} classes" for text in wanted), f"{'images of ' * bool(wanted)}{size[0]}x{size[1]}"]
        train = f"{_way_to_size(have, size, dataset, asked)}{'; ' * bool(train)}{train}"
    raise InputError(
        f"received {header.path} {' '.join(ours)}, expected {' and '.join(wanted)}, {of_data}"
        f"{'; ' * bool(train)}{train}",
        header.path,
    )


def _way_to_size(have, size, dataset, asked):
    """What to do where a network takes images of `have` and the data are of `size`, both (height, width)."""
    if dataset not in STOCK and asked:
        return f"without `image_size` the images of a folder are resized to {have[0]}x{have[1]}"
    return (
        f"the photographs of a folder, given as `dataset`, are resized to {have[0]}x{have[1]}; for images of "
        f"{size[0]}x{size[1]} build the same network in Keras with input_shape=({size[0]}, {size[1]}, 3), or with "
        f"(None, None, 3), which takes any size, give it these weights by set_weights, and save it as {RESIZED}"
    )


def _free(folder):
    """The name of a folder that isn't there: this one, or with a number behind it."""
    names = (f"{folder}_{number}" if number > 1 else folder for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
