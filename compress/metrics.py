"""Accuracy, size, work and speed of a classifier."""

import os
import time

import keras
import numpy as np


def predict_logits(model, images, batch_size=128, progress=iter):
    """Logits of all images, in inference mode.

    Args:
        model: a keras.Model, (N, h, w, 3) -> logits (N, classes).
        images: (N, h, w, 3), RGB 0 to 255.
        batch_size: images a pass.
        progress: wraps the list of batch starts.

    Returns:
        (N, classes) float32.
    """
    return np.concatenate([np.asarray(model.predict_on_batch(images[start:start + batch_size]), np.float32)
                           for start in progress(range(0, len(images), batch_size))])


def classification_metrics(logits, labels):
    """Loss, accuracies and calibration of logits.

    Args:
        logits: (N, classes).
        labels: (N,) integers.

    Returns:
        dict with 'loss' (mean cross-entropy in nats), 'acc' and 'top5_acc' (0 to 1; top 5 counts as right where the
        label is among the five highest logits), 'class_acc' (list, one a class: the share of its images that are
        right; None for a class without images) and 'calibration_error' (see `calibration_error`).
    """
    loss = float(np.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)))
    top = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = top[:, 0] == labels
    counts = np.bincount(labels, minlength=logits.shape[1])
    hits = np.bincount(labels[right], minlength=logits.shape[1])
    return {"loss": loss, "acc": float(np.mean(right)), "top5_acc": float(np.mean((top == labels[:, None]).any(1))),
            "class_acc": [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)],
            "calibration_error": calibration_error(logits, labels)}


def calibration_error(logits, labels, bins=15):
    """Expected calibration error: how far confidence is from accuracy.

    sum_b n_b / N |accuracy of bin b - its mean confidence|, bins of equal width over the highest probability; Guo et
    al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, section 2, equation 3.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        bins: of confidence from 0 to 1.

    Returns:
        0 to 1; 0 is perfect. NaN where a logit is not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        return float("nan")
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    confidence, right = shifted.max(1) / shifted.sum(1), logits.argmax(1) == labels
    places = np.minimum(np.ceil(confidence * bins).astype(int) - 1, bins - 1)  # (0, 1/15], (1/15, 2/15], ...
    gaps = np.bincount(places, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def evaluate(model, split, batch_size=128, progress=iter):
    """Loss and accuracies on a split, with the split's name and its number of images.

    Args:
        model: a keras.Model, (N, h, w, 3) -> logits (N, classes).
        split: a dataset.Split.
        batch_size: images a pass.
        progress: wraps the list of batch starts.
    """
    logits = predict_logits(model, split.images, batch_size, progress)
    return classification_metrics(logits, split.labels) | {"split": split.name, "images": len(split)}


def count_macs(model):
    """Multiply-accumulates of all convolutions and dense layers for one image.

    Counted layer by layer from kernel and output shapes; batch-norm, ReLU and pooling are left out, as is usual.
    """
    macs = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            shape = layer.output.shape
            positions = shape[1] * shape[2] if isinstance(layer, keras.layers.Conv2D) else 1
            macs += positions * int(np.prod(layer.kernel.shape))
    return macs


def latency_ms(function, image_shape, batch_size=1, runs=30, warmup=3):
    """Time of one call, from a numpy array of pixels to a numpy array of logits.

    Args:
        function: images (N, h, w, 3) uint8 -> numpy array, such as `folded.freeze` gives.
        image_shape: (h, w, 3).
        batch_size: images a call.
        runs: timed calls.
        warmup: calls before them.

    Returns:
        (median, 10 % quantile, 90 % quantile) in milliseconds.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *image_shape)).astype("uint8")
    times = []
    for i in range(warmup + runs):
        start = time.perf_counter()
        function(images)
        if i >= warmup:
            times.append(1e3 * (time.perf_counter() - start))
    return tuple(float(q) for q in np.quantile(times, (0.5, 0.1, 0.9)))


def size_of(model, path=None):
    """Parameters, MACs and, of a saved file, bytes.

    Args:
        model: a keras.Model.
        path: its file, or None.

    Returns:
        dict with 'parameters', 'macs' and, if there is a file, 'bytes'.
    """
    size = {"parameters": int(model.count_params()), "macs": count_macs(model)}
    return size | ({"bytes": os.path.getsize(path)} if path else {})
