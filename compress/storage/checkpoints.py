"""Writing of model files, and what is checked of a file before its network is read: that it is one, whole, and fits.

`opening` reads the network itself.
"""

import contextlib
import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from compress.errors import InputError, command, one_line
from compress.storage import archives, classes
from compress.storage.entries import Unread
from compress.storage.files import replacing, reserve, suggestion
from compress.storage.records import check_record

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
    with replacing(path) as temporary:
        reserve(temporary, 4 * model.count_params() + 2**21)  # HDF5 crashes where the disk fills up under it
        try:
            with in_the_order_of_files(model):
                model.save(temporary, include_optimizer=False)  # a run resumes from its state.npz, not from this file
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
    no config says so: whoever builds the model anew has them in another place.
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
    if not path.exists():
        in_a_folder = path.name == "model.h5" and path.parent.is_dir()  # which was given in the model's place
        raise InputError(
            f"received {path}, which is not a file; expected an .h5 or .keras file"
            f"{(in_a_folder and archives.models_below(path.parent)) or suggestion(path)}",
            path,
        )
    if other := archives.other_kind(path):
        below = archives.models_below(path) if other == "a folder" else ""
        raise InputError(f"received {path}, which is {other}; expected an .h5 or .keras file of Keras{below}", path)
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
        what = f"a truncated or damaged HDF5 file of {os.path.getsize(path):,} bytes ({error})"
        raise InputError(
            f"received {path}, which is {what if archives.is_hdf5(path) else 'no HDF5 and no zip file'}; "
            "expected an .h5 or .keras model",
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


def check_fits(header, class_num=None, input_shape=None, dataset=None):
    """Raises InputError where a file has another class count or another image size than the data.

    Args:
        header: a headers.Header, whose classes are None where only the network itself tells them.
        class_num: classes of the data, or None.
        input_shape: (height, width, 3) of their images, or None.
        dataset: where the data lie, for the message.
    """
    if class_num is not None and header.classes not in (None, class_num):
        head = command(
            "train_base_model.py",
            model_path=header.path,
            dataset=dataset or "IMAGES",
            save_folder=f"./model/of_{class_num}_classes",
        )
        raise InputError(
            f"received {header.path} with {header.classes or 'no'} classes, expected {class_num}, "
            f"as {dataset or 'the data'} has them; a model with a new head of {class_num} classes is "
            f"trained by: {head}",
            header.path,
        )
    have = header.input_shape
    if input_shape is not None and have is not None and tuple(have) != tuple(input_shape):
        raise InputError(
            f"received {header.path} for images of {have[0]}x{have[1]}, expected {input_shape[0]}x"
            f"{input_shape[1]}, as the data set has them",
            header.path,
        )
