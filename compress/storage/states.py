"""The state of an unfinished run, in one file: all variables, optimiser and metrics too, and how far it is.

The file is numpy's .npz. A flipped bit fails the checksum that every array in it has; nothing in it is ever run.
"""

import json
import zipfile

import numpy as np
from keras import ops

from compress.storage.files import replacing

META = "meta"
META_BYTES = 64 * 2**20


def _variables(trainer):
    """What training changes, each once; a trainer's `constants` (a teacher's weights) are left out.

    Random state is none of it: order and augmentation are functions of seed, epoch and step, see `batches.batches`.
    """
    left_out = {id(v) for v in getattr(trainer, "constants", ())}
    every = {id(v): v for v in (*trainer.variables, *trainer.optimizer.variables, *trainer.metrics_variables)}
    return [v for key, v in every.items() if key not in left_out]


def save_state(trainer, path, meta):
    """Writes a compiled and built trainer's variables and what else the run has to remember, atomically.

    Args:
        trainer: a keras.Model.
        path: ends in .npz.
        meta: dict that JSON can hold.
    """
    text = json.dumps(meta, allow_nan=False).encode()
    # By number, not by path: Keras counts the names of layers up, so that a second model of a process has other paths.
    arrays = {f"{i:05}": ops.convert_to_numpy(v) for i, v in enumerate(_variables(trainer))}
    with replacing(path) as temporary:
        np.savez(temporary, **{META: np.frombuffer(text, np.uint8)}, **arrays)


def read_meta(path):
    """What `save_state` was given as meta.

    Raises:
        Exception: of nearly any kind; the file is damaged or no state.
    """
    with zipfile.ZipFile(path) as archive:
        return _meta(archive)


def load_state(trainer, path):
    """Gives a compiled and built trainer the variables that a state holds; all of them or none.

    Returns:
        meta.

    Raises:
        Exception: of nearly any kind; the file is damaged, no state, or the state of another network.
    """
    variables = _variables(trainer)
    with zipfile.ZipFile(path) as archive:
        meta, count = _meta(archive), len(archive.namelist()) - 1
        if count != len(variables):
            raise ValueError(f"{count} arrays, expected {len(variables)}")
        arrays = [
            _array(archive, f"{i:05}", int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize)
            for i, v in enumerate(variables)
        ]
    # All shapes are compared before the first variable is assigned: all of them or none.
    for i, (variable, array) in enumerate(zip(variables, arrays, strict=True)):
        if (array.shape, array.dtype.name) != (tuple(variable.shape), variable.dtype):
            raise ValueError(f"array {i} is {array.dtype}{array.shape}, expected {variable.dtype}{variable.shape}")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return meta


def _array(archive, name, limit):
    """One array of at most `limit` bytes, its header apart."""
    # Stored, not compressed, and of a size that is known beforehand: a file can't unpack to more than it should be.
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit + 1024:
        raise ValueError(f"{info.filename} of {info.file_size} bytes, expected at most {limit}")
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f"{info.filename} goes on behind its array")
    return array


def _meta(archive):
    array = _array(archive, META, META_BYTES)
    if array.dtype != np.uint8:
        raise ValueError(f"{META} is {array.dtype}, expected text")
    meta = json.loads(array.tobytes().decode())
    if not isinstance(meta, dict):
        raise ValueError(f"{META} is a {type(meta).__name__}, expected an object")
    return meta
