"""Writes any model of the suite, .h5 or .keras, so that plain Keras opens it without custom objects."""

import io
import zipfile
from pathlib import Path

import h5py
import keras

from compress.errors import InputError
from compress.graph import nodes
from compress.storage import archives, checkpoints, classes
from compress.storage.files import replacing

SUFFIXES = (".h5", ".keras")


def save_network(model, path, class_names=None):
    """Writes a model atomically, without the state of its optimiser, with a checksum of its weights.

    Args:
        model: a keras.Model with a graph, which `hdf5.check` lets pass.
        path: of the file, which ends in .h5 or .keras.
        class_names: list of the classes' names, which then lie in the file too, see `classes`.

    Raises:
        InputError: another ending, or the file can't be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"received {path}, expected a file that ends in {' or '.join(SUFFIXES)}", path)
    if path.suffix == ".h5":
        checkpoints.save_model(model, path, class_names)
        return
    graph = nodes.graph_of(model)
    if model.compiled:  # what a run trained with is no part of the network, and may be of classes of the suite
        begin, end = (ends[0] if len(ends) == 1 else ends for ends in (graph.inputs, graph.outputs))
        model = keras.Model(begin, end, name=model.name)
    with replacing(path) as temporary:
        model.save(temporary)
        _complete(temporary, class_names)


def _complete(path, class_names):
    """Puts the checksum of the weights, and the names of the classes, into a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO(members[archives.WEIGHTS])
    with h5py.File(stream, "r+") as file:
        file.attrs[checkpoints.DIGEST] = checkpoints.digest_of(archives.arrays(file, path))
        if names := classes.checked(class_names):
            classes.write(file, names)
    members[archives.WEIGHTS] = stream.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
