"""Classifiers that are no ResNet of this suite: opened by Keras itself, for `evaluate_model.py --any_model` alone."""

import keras
import numpy as np
from keras import ops

import model as resnet
from errors import InputError

# layers whose multiply-accumulates are output positions x kernel; none of another kind may have a kernel
COUNTED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
           keras.layers.Dense)
FREE = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization,
        keras.layers.Normalization, keras.layers.PReLU)


def load_classifier(path, flag, preprocessing="auto"):
    """Any image classifier that Keras opens, .keras or .h5, as a model of pixels and logits.

    Keras' safe mode is on: a file that brings its own code is refused. Its own layers run.

    Args:
        path: the file.
        flag: the flag that named it, for messages.
        preprocessing: what the model was trained with, one of flags.PREPROCESSING; 'auto' is 'none': the model
            preprocesses by itself.

    Returns:
        An uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes); where the file answers
        probabilities, their logarithms.

    Raises:
        InputError: Keras can't open it, or it is no image classifier.
    """
    try:
        net = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever layers and files raise
        raise InputError(f"{flag}: received {path}, which Keras can't open ({type(error).__name__}: {error!s:.300}); "
                         "expected a classifier that keras.models.load_model opens") from None
    shape, out = getattr(net, "input_shape", None), getattr(net, "output_shape", None)
    if not _is_shape(shape, 4) or shape[-1] != 3 or not _is_shape(out, 2) or (out[-1] or 0) < 2:
        raise InputError(f"{flag}: received {path}, {shape} -> {out}; expected a classifier of one input of RGB images "
                         "and one output of two classes or more")
    image = keras.Input(shape[1:], name="image")
    answers = ops.cast(net(preprocess(image, preprocessing), training=False), "float32")  # of half precision, too
    if _answers_probabilities(net, path, flag):
        answers = ops.log(ops.maximum(answers, float(np.finfo("float32").tiny)))
    return keras.Model(image, answers, name="foreign")


def _is_shape(shape, rank):
    return isinstance(shape, tuple) and len(shape) == rank and all(n is None or isinstance(n, int) for n in shape)


def preprocess(image, mode):
    """RGB pixels of 0 to 255 as a mode of flags.PREPROCESSING has them; 'auto' as 'none'."""
    if mode == "caffe":
        return image[..., ::-1] - np.float32(resnet.MEAN[::-1])
    mean, deviation = resnet.PREPROCESSING["none" if mode == "auto" else mode]
    return (image - np.float32(mean)) / np.float32(deviation)


def _answers_probabilities(net, path, flag):
    """Whether what a network answers to noise are numbers from 0 that add up to 1, as far as half precision goes."""
    shape = [n or 224 for n in net.input_shape[1:]]
    noise = np.random.default_rng(0).normal(0, 2, (4, *shape)).astype("float32")
    try:
        answers = np.asarray(ops.cast(net(noise, training=False), "float32"), np.float64)
    except Exception as error:  # whatever layers raise
        raise InputError(f"{flag}: received {path}, which can't answer to images of {shape[0]}x{shape[1]} "
                         f"({error!s:.200}); expected a classifier that can") from None
    return bool((answers >= 0).all() and np.abs(answers.sum(1) - 1).max() < 0.02)


def count_macs(net):
    """Multiply-accumulates of one image, or None where a layer has weights that this can't count."""
    total = 0
    for layer in net._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model) or not layer.weights or isinstance(layer, FREE):
            continue
        if not isinstance(layer, COUNTED) or None in layer.output.shape[1:]:
            return None
        positions = int(np.prod(layer.output.shape[1:-1]))
        kernels = [w for w in layer.weights if w.name.endswith("kernel")]
        total += sum(positions * int(np.prod(kernel.shape)) for kernel in kernels)
    return total
