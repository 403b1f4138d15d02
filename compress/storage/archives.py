"""What lies in a model file of Keras, .h5 or .keras: names, shapes and numbers; nothing is run or looked up."""

import contextlib
import glob
import io
import itertools
import json
import os
import re
import zipfile

import h5py

from compress.errors import InputError

BYTES = 4 * 2**30
MOST_COMPRESSED = 20  # bytes of weights a byte of file: Keras writes them as they are, zeros that swell are a trap
CONFIG = 2**26  # bytes of a config, that of ResNet152 has 2**18
SIDE = 4096  # of an image, at most
WEIGHTS = "model.weights.h5"  # of a .keras file, which is a zip archive
METADATA = "metadata.json"
OPTIMIZER = ("optimizer_weights", "optimizer")  # groups of an .h5 and of a .keras file
CONTAINERS = ("layers", "vars", "_layer_checkpoint_dependencies")  # groups of a .keras file that are no layers


def kind_of(path):
    """'HDF5' or 'zip' by how a file begins, or None."""
    with open(path, "rb") as file:
        first = file.read(8)
    return "HDF5" if first == b"\x89HDF\r\n\x1a\n" else "zip" if first[:4] == b"PK\x03\x04" else None


def models_below(folder, most=4):
    """What to say of the models below a folder: '; models below x: x/a/model.h5, x/b/model.h5 and 3 more', or ''."""
    found = []
    for depth in range(4):  # a bounded look: it may be the root of a large disk
        pattern = os.path.join(glob.escape(str(folder)), *["*"] * depth, "*")
        names = itertools.islice(glob.iglob(pattern), 500)
        found += sorted(name for name in names if name.endswith((".h5", ".keras")))
    found, rest = [os.path.normpath(name) for name in found[:most]], len(found) - most
    more = f" and {rest} more" if rest > 0 else ""
    return f"; models below {folder}: {', '.join(found)}{more}" if found else ""


@contextlib.contextmanager
def opened(path):
    """Opens a model file for reading.

    Args:
        path: the file.

    Yields:
        (h5py.File, its model config as JSON has it, None where the file holds only weights, True for a .keras file).

    Raises:
        InputError: a .keras file that swells, or a config of more than CONFIG bytes. What zipfile and h5py raise for a
            damaged one is passed on.
    """
    if kind_of(path) == "HDF5" or not zipfile.is_zipfile(path):  # is_zipfile finds any PK\5\6 in the last 64 KiB
        with h5py.File(path, "r") as file:
            yield file, _config(file.attrs["model_config"], path) if "model_config" in file.attrs else None, False
        return
    # The size that a zip's index claims is checked before anything is unpacked, and nothing is unpacked to the disk.
    with zipfile.ZipFile(path) as archive:
        parts = []
        for name in ("config.json", WEIGHTS):
            size = archive.getinfo(name).file_size
            if size > _limit(path):
                raise InputError(
                    f"received {path}, whose {name} unpacks to {size} bytes; expected at most {_limit(path)}", path
                )
            parts.append(archive.read(name))
    with h5py.File(io.BytesIO(parts[1]), "r") as file:
        yield file, _config(parts[0], path), True


def version(file, path):
    """The version of Keras that wrote a file, its first number: 3, 2 or 1; None where the file doesn't say it.

    Args:
        file: from `opened`.
        path: the file.

    Raises:
        ValueError, KeyError: its metadata are none of Keras.
    """
    # An .h5 has it as an attribute, a .keras file in a part of its own.
    if kind_of(path) != "HDF5" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if METADATA not in archive.namelist():
                return None
            if archive.getinfo(METADATA).file_size > CONFIG:
                raise ValueError(f"{METADATA} of more than {CONFIG:,} bytes")
            found = json.loads(archive.read(METADATA))
            text = found.get("keras_version") if isinstance(found, dict) else None
    else:
        text = file.attrs.get("keras_version")
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    number = re.match(r"([123])\.", text)
    return int(number[1]) if number else None


def _config(text, path):
    if len(text) > CONFIG:
        raise InputError(f"received {path}, whose config has {len(text):,} bytes; expected at most {CONFIG:,}", path)
    return json.loads(text)


def _limit(path):
    return min(BYTES, MOST_COMPRESSED * os.path.getsize(path))


def arrays(file, path):
    """All weights of a file; links and external storage are not followed.

    Args:
        file: from `opened`, or the h5py.File of an .h5.
        path: the file, for its size and for messages.

    Returns:
        {names of its groups and its own: h5py.Dataset}, such as ('conv1_conv', 'conv1_conv', 'kernel').

    Raises:
        InputError: something else than arrays of floats, or more of them than the file's size allows.
    """
    # A hard link can't leave the file. Soft and external links, external and virtual storage could name any file of
    # this machine, so visititems, which follows none of them, does the walk.
    root = file["model_weights"] if isinstance(file.get("model_weights", getlink=True), h5py.HardLink) else file
    found, total = {}, 0

    def visit(name, item):
        nonlocal total
        parts = name.split("/")
        if not isinstance(item, h5py.Dataset) or len(parts) < 2 or parts[0] in OPTIMIZER:
            return
        if item.dtype.kind == "V":  # what HDF5 has no name for
            raise InputError(
                f"received {path}, whose {name} is of {item.dtype}, as Keras writes bfloat16; expected "
                "float32 (build the model with the dtype policy float32 and load the weights)",
                path,
            )
        if item.external or item.is_virtual or item.dtype.kind not in "fiu":
            raise InputError(
                f"received {path}, whose {name} is not a plain array of numbers; expected a model file of Keras", path
            )
        total += item.nbytes
        if item.dtype.kind == "f":  # whole numbers are counters and seeds
            found[(*parts[:-1], parts[-1].split(":")[0])] = item

    root.visititems(visit)
    if total > _limit(path):
        raise InputError(f"received {path} with {total} bytes of weights, expected at most {_limit(path)}", path)
    return found


def check_no_links(file, path):
    """Raises InputError for a file in which a name stands for another place: Keras would follow it.

    Args:
        file: an h5py.File.
        path: for the message.
    """

    def visit(name, item):
        for key in item if isinstance(item, h5py.Group) else ():
            if not isinstance(item.get(key, getlink=True), h5py.HardLink):
                raise InputError(
                    f"received {path}, whose {name}/{key} is a link to another place; expected a model file of Keras",
                    path,
                )

    visit("", file)
    file.visititems(visit)


def optimizer_bytes(path):
    """Bytes of a model file that are the state of its optimizer, as plain Keras saves it beside the weights.

    Adam keeps two numbers a weight: such a file has three times the size of its network.

    Args:
        path: an .h5 or .keras file.
    """
    total = 0

    def visit(name, item):
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += item.id.get_storage_size()

    with opened(path) as (file, _, _):
        for name in OPTIMIZER:
            if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Group):
                file[name].visititems(visit)
    return min(total, os.path.getsize(path))  # a hostile file may tell anything


def groups(file):
    """The layers' groups of a .weights.h5 file of Keras 3: {('functional', 'conv2d_1'): the layer's own name or None}.

    Newer ones of Keras keep a layer's name as an attribute of its group.
    """
    found = {}

    def visit(name, item):
        *parents, last = name.split("/")
        if last == "vars" and isinstance(item, h5py.Group) and parents and parents[0] not in ("optimizer",):
            own = item.attrs.get("name")
            found[tuple(part for part in parents if part not in CONTAINERS)] = own if isinstance(own, str) else None

    file.visititems(visit)
    return found


def by_layer(found):
    """{(layer, weight): array} of what `arrays` gives for a file whose groups are called as its layers."""
    return {key[-2:]: item for key, item in found.items()}


def input_shape(shape):
    """(height, width, 3) of a model's images, or None where they may have any size or the file doesn't say.

    Args:
        shape: batch_shape or batch_input_shape of its InputLayer, or None.

    Raises:
        ValueError: no sizes of images.
    """
    if not isinstance(shape, list) or len(shape) != 4:
        return None
    if not all(type(n) is int and 0 < n <= SIDE for n in shape[1:] if n is not None):
        raise ValueError(f"images of {shape[1:]}, expected sides of at most {SIDE}")
    return None if None in shape[1:] else tuple(shape[1:])
