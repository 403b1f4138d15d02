"""Classifiers that are no ResNet of this suite: opened by Keras itself, for `evaluate_model.py --any_model` alone."""

import contextlib
import json
import os
import re
import shutil
import tempfile

import h5py
import keras
import numpy as np
from keras import ops

from compress.cli import display
from compress.errors import InputError, one_line
from compress.graph import operations, reader
from compress.storage import archives, conventions, preprocess

# layers whose multiply-accumulates are output positions x kernel; none of another kind may have a kernel
COUNTED = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
FREE = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)
PRODUCTS = ("Matmul", "Dot", "Einsum", "Tensordot", "Attention", "AdditiveAttention", "Conv")  # of two tensors


def load_classifier(path, preprocessing="auto", verbose=0):
    """Any image classifier that Keras opens, .keras or .h5, as a model of pixels and logits.

    Keras' safe mode is on: a file that brings its own code is refused. Its own layers run.

    Args:
        path: the file.
        preprocessing: what the model was trained with, one of flags.PREPROCESSING; see `preprocess.decide`.
        verbose: 0 doesn't say what pixels go through.

    Returns:
        An uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes); where the file answers
        probabilities, their logarithms. Its `labels_apart` says whether those are of a sigmoid and don't add up to 1.

    Raises:
        InputError: Keras can't open it, it is no image classifier, or what its pixels or outputs are can't be told.
    """
    config = _config(path)
    net = _opened(path, config)
    shape, out = getattr(net, "input_shape", None), getattr(net, "output_shape", None)
    if not _is_shape(shape, 4) or shape[-1] != 3 or not _is_shape(out, 2) or (out[-1] or 0) < 2:
        grey = _is_shape(shape, 4) and shape[-1] == 1
        raise InputError(
            f"received {path}, {shape} -> {out}{', of grey images' * grey}; expected a classifier of one "
            "input of RGB images and one output of two classes or more",
            path,
        )
    pixels = _pixels(path, net, preprocessing, verbose)
    image = keras.Input(shape[1:], name="image")
    seen = preprocess.apply(image, pixels.mode) if pixels.mode != "none" else image
    answers = ops.cast(net(seen, training=False), "float32")  # of half precision, too
    meaning = _meaning(net, path)
    if meaning != "logits":
        answers = ops.log(ops.maximum(answers, float(np.finfo("float32").tiny)))
    if meaning == "labels":
        display.warn(
            f"{path} ends in a sigmoid, a label of its own for each class: the largest is the predicted "
            "class, and loss and calibration are those of each one's share of their sum, as in Keras' "
            "categorical cross-entropy"
        )
    model = keras.Model(image, answers, name="foreign")
    model.labels_apart = meaning == "labels"
    return model


def _pixels(path, net, asked, verbose):
    """The preprocess.Pixels of an opened network, told; what is assumed is told as a warning."""
    pixels, _, assumed = conventions.pixels_of(path, net, asked)
    told = f"{path}: opened by Keras itself; {pixels.summary}"
    if assumed:
        display.warn(told)
    else:
        display.say(told, verbose)
    return pixels


def _is_shape(shape, rank):
    return isinstance(shape, tuple) and len(shape) == rank and all(n is None or isinstance(n, int) for n in shape)


def _config(path):
    """A file's model config, an empty dict where it has none. Raises InputError where it needs its author's code."""
    try:
        with archives.opened(path) as (_, config, _):
            for layer in _inside((config or {}).get("config")):
                reader.check_own(layer)
                settings = layer.get("config") if isinstance(layer.get("config"), dict) else {}
                if layer["class_name"] == "Lambda":
                    raise reader.Unread(
                        f"{settings.get('name')} (Lambda), which is code that no file of this suite runs"
                    )
                if isinstance(settings.get("vocabulary"), str):
                    raise reader.Unread(f"{settings.get('name')} ({layer['class_name']}), which reads another file")
            return config or {}
    except reader.Unread as error:
        raise InputError(
            f"received {path}, which Keras can't open: it has {error}; expected layers of Keras alone", path
        ) from None
    except InputError:
        raise
    except Exception:  # whatever a damaged file raises: Keras says it
        return {}


def _layers(model):
    """All layers of a config, at any depth, in their order."""
    config = model.get("config", {})
    for layer in config if isinstance(config, list) else config.get("layers", ()):
        yield layer
        if layer.get("class_name") in reader.MODELS:
            yield from _layers(layer)


def _inside(value):
    """All dicts in a config that name a class, also in layers that wrap others."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _inside(item)


def _opened(path, config):
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever layers and files raise
        if config and h5py.is_hdf5(path):
            with contextlib.suppress(Exception):
                return _mended(path, config)
        why = re.split(r"\s*(?:Full config|config=|Exception encountered|Arguments received)", one_line(error))[0]
        raise InputError(
            f"received {path}, which Keras {keras.__version__} can't open ({why:.600}); expected a "
            "classifier that keras.models.load_model opens",
            path,
        ) from None


def _mended(path, config):
    """The model of an .h5 file of tf.keras 2, or with operations beside layers, both of which Keras 3 stumbles over."""
    for layer in _layers(config):
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"].pop("groups", None)
        if layer["class_name"] in operations.OPERATIONS and "trainable" not in layer["config"]:
            layer |= {"module": operations.OPERATIONS[layer["class_name"]], "registered_name": layer["class_name"]}
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copyfile(path, os.path.join(folder, "model.h5"))
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        return keras.models.load_model(copy, compile=False, safe_mode=True)


def _meaning(net, path):
    """What a network's outputs are: 'logits', 'probabilities' that add up to 1, or 'labels', each with its own.

    Raises:
        InputError: nobody can tell, or the network can't take images.
    """
    shape = [n or 224 for n in net.input_shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (5, *shape)).astype("float32")
    try:
        answers = np.asarray(ops.cast(net(noise, training=False), "float32"), np.float64)
    except Exception as error:  # whatever layers raise
        raise InputError(
            f"received {path}, which can't take images of {shape[0]}x{shape[1]} ({error!s:.200}); "
            "expected a classifier that can",
            path,
        ) from None
    word, layer = conventions.activation_of(net)
    if meaning := {"softmax": "probabilities", "log_softmax": "logits", "linear": "logits", "sigmoid": "labels"}.get(
        word
    ):
        return meaning
    if (answers >= 0).all() and np.abs(answers.sum(1) - 1).max() < 0.02:  # as far as half precision goes
        return "probabilities"
    raise InputError(
        f"received {path}, which ends in {layer}: what its outputs mean is not known; expected logits or "
        "the outputs of a softmax or sigmoid",
        path,
    )


def count_macs(net):
    """Multiply-accumulates of one image, each call of a shared layer counted; None where one can't be counted."""
    total = 0
    for layer, shape in _calls(net):
        if type(layer).__name__ in PRODUCTS or layer is None:
            return None
        weights = getattr(layer, "weights", None)  # operations have none
        if not weights or isinstance(layer, FREE):
            continue
        if not isinstance(layer, COUNTED) or None in shape[1:]:
            return None
        first = getattr(layer, "data_format", None) == "channels_first"
        positions = int(np.prod(shape[2:] if first else shape[1:-1]))
        kernels = [w for w in weights if w.name.endswith("kernel")]
        total += sum(positions * int(np.prod(kernel.shape)) for kernel in kernels)
    return total


def _calls(net):
    """(layer or operation, shape of its output) of every call in a model and in those inside it; None for code."""
    graph = conventions.graph_of(net)
    if graph is None:
        yield None, ()
        return
    for node in [node for nodes in graph._nodes_by_depth.values() for node in nodes]:
        if isinstance(node.operation, keras.Model):
            yield from _calls(node.operation)
        else:
            yield node.operation, node.outputs[0].shape
