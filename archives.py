"""What lies in a model file of Keras, .h5 or .keras: names, shapes and numbers; nothing is run or looked up."""

import contextlib
import io
import json
import os
import re
import zipfile

import h5py

from errors import InputError

BYTES = 4 * 2**30
MOST_COMPRESSED = 20  # bytes of weights a byte of file: Keras writes them as they are, zeros that swell are a trap
SIDE = 4096  # of an image, at most
WEIGHTS = {"Conv2D": ("kernel", "bias"), "Dense": ("kernel", "bias"),  # a .keras file numbers them in this order
           "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance")}


@contextlib.contextmanager
def opened(path, flag):
    """Opens a model file for reading.

    Args:
        path: the file.
        flag: the flag that named it, for messages.

    Yields:
        (h5py.File, layers of its model_config as {name: (class, config)}, which is empty where the file holds only
        weights, True for a .keras file).

    Raises:
        InputError: a .keras file that swells. What zipfile and h5py raise for a damaged one is passed on.
    """
    with open(path, "rb") as file:
        is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"  # is_zipfile finds any PK\5\6 in the last 64 KiB
    if is_hdf5 or not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file, _layers(file.attrs.get("model_config", "{}")), False
        return
    with zipfile.ZipFile(path) as archive:
        parts = []
        for name in ("config.json", "model.weights.h5"):
            size = archive.getinfo(name).file_size
            if size > _limit(path):
                raise InputError(f"{flag}: received {path}, whose {name} unpacks to {size} bytes; expected at most "
                                 f"{_limit(path)}")
            parts.append(archive.read(name))
    with h5py.File(io.BytesIO(parts[1]), "r") as file:
        yield file, _layers(parts[0]), True


def _limit(path):
    return min(BYTES, MOST_COMPRESSED * os.path.getsize(path))


def _layers(text):
    try:
        layers = json.loads(text)["config"]["layers"]
        return {layer["config"]["name"]: (layer["class_name"], layer["config"]) for layer in layers}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def numbered(layers):
    """The names under which a .keras file keeps its layers' weights.

    They come from the layers' classes and are counted, as keras.saving does, since a layer's name may be made up.

    Args:
        layers: from `opened`.

    Returns:
        {group: (layer, names of its weights in their order)}, such as {'conv2d_1': ('conv2_block1_1_conv', ...)}.
    """
    counts, groups = {}, {}
    for name, (kind, _) in layers.items():
        snake = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", str(kind))).lower()
        count = counts[snake] = counts.get(snake, -1) + 1
        groups[f"{snake}_{count}" if count else snake] = name, WEIGHTS.get(kind, ())
    return groups


def arrays(file, path, flag, groups=None):
    """All weights of a file; links and external storage are not followed.

    Args:
        file: from `opened`, or the h5py.File of an .h5.
        path: the file, for its size and for messages.
        flag: the flag that named it.
        groups: from `numbered`, for a .keras file.

    Returns:
        {(layer, weight): h5py.Dataset}.

    Raises:
        InputError: something else than arrays of floats, or more of them than the file's size allows.
    """
    root = file["model_weights"] if isinstance(file.get("model_weights", getlink=True), h5py.HardLink) else file
    found, total = {}, 0

    def visit(name, item):
        nonlocal total
        parts = name.split("/")
        if not isinstance(item, h5py.Dataset) or len(parts) < 2 or parts[0] in ("optimizer_weights", "optimizer"):
            return
        if item.external or item.is_virtual or item.dtype.kind != "f":
            raise InputError(f"{flag}: received {path}, whose {name} is not a plain array of numbers; expected a "
                             "model file of Keras")
        total += item.nbytes
        layer, weight = parts[-2], parts[-1].split(":")[0]
        if groups is not None:
            layer, names = groups.get(parts[-3] if len(parts) > 2 else "", (layer, ()))
            weight = names[int(weight)] if weight.isdigit() and int(weight) < len(names) else weight
        found[layer, weight] = item

    root.visititems(visit)
    if total > _limit(path):
        raise InputError(f"{flag}: received {path} with {total} bytes of weights, expected at most {_limit(path)}")
    return found


def input_shape(layers):
    """(height, width, 3) of a model's images, or None where they may have any size or the file doesn't say.

    Raises:
        ValueError: no sizes of images.
    """
    for kind, config in layers.values():
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if kind == "InputLayer" and isinstance(shape, list) and len(shape) == 4:
            if not all(type(n) is int and 0 < n <= SIDE for n in shape[1:] if n is not None):
                raise ValueError(f"images of {shape[1:]}, expected sides of at most {SIDE}")
            return None if None in shape[1:] else tuple(shape[1:])
    return None
