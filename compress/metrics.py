"""Accuracy, calibration, size, MACs and latency of a classifier."""

import math
import os
import time

import keras
import numpy as np

from compress.engine import devices, processes
from compress.errors import InputError
from compress.graph.network import Graph


def predict_logits(model, images, batch_size=128, progress=iter):
    """Computes the logits of all images, in inference mode.

    Args:
        model: a keras.Model, (N, h, w, 3) -> logits (N, classes).
        images: (N, h, w, 3), RGB 0 to 255.
        batch_size: images a forward pass.
        progress: wraps the range of batch starts.

    Returns:
        (N, classes) float32.
    """
    # Batch by batch rather than by `model.predict`, so that the caller's progress bar counts the batches.
    predict = devices.predictor(model)
    return np.concatenate(
        [
            np.asarray(predict(images, part), np.float32)
            for start in progress(range(0, len(images), batch_size))
            for part in devices.parts(start, min(start + batch_size, len(images)))
        ]
    )


def classification_metrics(logits, labels):
    """Computes loss, accuracies and calibration error from logits.

    Args:
        logits: (N, classes).
        labels: (N,) integers.

    Returns:
        dict with
        'loss': mean cross-entropy in nats;
        'acc': top-1 accuracy, 0 to 1;
        'top5_acc': share of images whose label is among the five highest logits, 0 to 1;
        'class_acc': list of the accuracy of each class; None for a class without images;
        'calibration_error': see `calibration_error`.
    """
    loss = float(np.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)))
    # A stable sort gives ties to the lower class, as argmax does, so that accuracy is the same by either.
    top = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (N, 5)
    right = top[:, 0] == labels  # (N,)
    counts = np.bincount(labels, minlength=logits.shape[1])  # (classes,)
    hits = np.bincount(labels[right], minlength=logits.shape[1])
    return {
        "loss": loss,
        "acc": float(np.mean(right)),
        "top5_acc": float(np.mean((top == labels[:, None]).any(1))),
        "class_acc": [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)],
        "calibration_error": calibration_error(logits, labels),
    }


def calibration_error(logits, labels, bins=15):
    """Expected calibration error: the mean distance between confidence and accuracy.

    sum over bins b of n_b / N |accuracy of b - mean confidence of b|, where confidence is the highest probability and
    the bins have equal width. Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, section 2,
    equation 3.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        bins: number of bins of confidence between 0 and 1.

    Returns:
        0 (perfectly calibrated) to 1; NaN where a logit is not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        return float("nan")
    shifted = np.exp(logits - logits.max(1, keepdims=True))  # a softmax that can't overflow
    confidence, right = shifted.max(1) / shifted.sum(1), logits.argmax(1) == labels  # (N,) each
    places = np.minimum(np.ceil(confidence * bins).astype(int) - 1, bins - 1)  # (0, 1/15], (1/15, 2/15], ...
    # n_b cancels: n_b |hits / n_b - sum of confidences / n_b| is the absolute sum of the differences in the bin.
    gaps = np.bincount(places, right - confidence, minlength=bins)  # (bins,)
    return float(np.abs(gaps).sum() / len(labels))


def evaluate(model, split, batch_size=128, progress=iter):
    """Evaluates a model on a split.

    Args:
        model: a keras.Model, (N, h, w, 3) -> logits (N, classes).
        split: a dataset.Split.
        batch_size: images a forward pass.
        progress: wraps the range of batch starts.

    Returns:
        The dict of `classification_metrics`, with 'split', its name, and 'images', their number.
    """
    logits = predict_logits(model, split.images, batch_size, progress)
    return processes.of_main(classification_metrics(logits, split.labels)) | {"split": split.name, "images": len(split)}


def count_macs(model):
    """Multiply-accumulate operations (MACs) of a network for one image; see `graph.cost.Cost`.

    A convolution of kernel (k, k, C_in, C_out) has k k C_in C_out MACs at each position of its output map; positions
    of the padding count too, and every call of a shared layer. Batch-normalisation, activations and pooling are not
    counted, as is usual.

    Args:
        model: a keras.Model.

    Returns:
        A whole number; None where it can't be counted: images of any size, a layer with a kernel whose work isn't
        known.
    """
    macs = Graph(model).cost().macs
    return int(macs) if math.isfinite(macs) else None


def latency_ms(function, image_shape, batch_size=1, runs=30, warmup=3):
    """Latency of one call, from a numpy array of pixels to a numpy array of logits.

    Args:
        function: images uint8 (batch_size, h, w, 3) -> numpy array, such as `folding.freeze` gives.
        image_shape: (h, w, 3).
        batch_size: images a call.
        runs: number of calls that are timed.
        warmup: number of calls before those; the first one traces and compiles.

    Returns:
        (median, 10 % quantile, 90 % quantile) in milliseconds.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *image_shape)).astype("uint8")
    # The median: a mean would count the calls that other programs of the machine interrupt.
    times = []
    for i in range(warmup + runs):
        start = time.perf_counter()
        function(images)
        if i >= warmup:
            times.append(1e3 * (time.perf_counter() - start))
    return tuple(float(q) for q in np.quantile(times, (0.5, 0.1, 0.9)))


def size_of(model, path=None):
    """The size of a model.

    Args:
        model: a keras.Model.
        path: its file, or None.

    Returns:
        dict with 'parameters' (trainable or not), 'macs' for one image, None where they can't be counted, and, where a
        path is given, 'bytes' of the file.
    """
    try:
        macs = count_macs(model)
    except InputError:  # no graph that can be read
        macs = None
    size = {"parameters": int(model.count_params()), "macs": macs}
    return size | ({"bytes": os.path.getsize(path)} if path else {})
