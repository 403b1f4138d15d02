"""What an exported file does in its own runtime: accuracy, agreement with the model it was made from, size, latency."""

import numpy as np

from compress import metrics
from compress.cli import display, formats
from compress.data import dataset
from compress.errors import InputError
from compress.export import writers

SOUND = 0.01  # a difference of probabilities that rounding leaves, at most
MADE_UP = 64  # images


def made_up(shape):
    """Images of coarse patches and of noise, without labels, to compare files on where there are no others.

    Args:
        shape: (h, w, 3).

    Returns:
        A dataset.Split of MADE_UP images.
    """
    # Patches of colour reach every layer with large activations, noise with small ones.
    rng, (height, width, _) = np.random.default_rng(0), shape
    patches = rng.integers(0, 256, (MADE_UP, 4, 4, 3)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    noise = rng.normal(0, 20, (MADE_UP, *shape))
    return dataset.Split((patches[:, :height, :width] + noise).clip(0, 255).astype("uint8"), None, "made-up")


def fastest(functions, image_shape, runs):
    """Latency of one image by the number of threads that is fastest.

    Args:
        functions: {threads: function(images) -> logits}.
        image_shape: (h, w, 3).
        runs: timed calls of each.

    Returns:
        Part of a row: median, 10 and 90 % quantile in ms, "threads", and the medians by all numbers of threads.
    """
    found = {
        threads: metrics.latency_ms(function, image_shape, 1, runs, warmup=10)
        for threads, function in functions.items()
    }
    best = min(found, key=found.get)
    keys = ("latency_ms_median", "latency_ms_p10", "latency_ms_p90")
    return dict(zip(keys, found[best], strict=True)) | {
        "threads": best,
        "latency_ms_by_threads": {str(threads): times[0] for threads, times in found.items()},
    }


def measure(name, path, start, split, config):
    """One row of the table: what a file does in its runtime.

    Args:
        name: of formats.FORMATS, or 'h5' or 'keras' for the model itself under Keras.
        path: the file or folder.
        start: function(threads) -> function(images uint8) -> logits, such as `writers.runner`.
        split: a dataset.Split; without labels no accuracy is measured.
        config: a configs.ExportConfig.

    Returns:
        (dict of the row, logits (N, classes)).

    Raises:
        InputError: a logit is no finite number.
    """
    # one function a number of threads, since a runtime fixes it when it opens a file; the last has all cores
    functions = {threads: start(threads) for threads in writers.thread_counts(name)}
    answer, bar = functions[max(functions)], display.track(f"{name}: {split.name}", config.verbose, "compiling")
    images = split.images
    starts = bar(range(0, len(images), config.batch_size))
    logits = np.concatenate([answer(images[first : first + config.batch_size]) for first in starts])
    if not np.isfinite(logits).all():
        raise InputError(
            f"`model_path`: received {config.model_path}, which outputs NaN or infinity as {name}; "
            "expected a network with finite logits"
        )
    row = {
        "format": name,
        "runtime": formats.FORMATS[name][1] if name in formats.FORMATS else "Keras",
        "path": str(path),
        "acc": None,
        "bytes": writers.size(path),
    }
    if split.labels is not None:
        row |= metrics.classification_metrics(logits, split.labels)
    if config.latency_runs:
        row |= fastest(functions, split.image_shape, config.latency_runs)
    return row, logits


def compare(row, logits, reference, config):
    """Adds to a file's row how far it agrees with the model; warns where its probabilities differ.

    Args:
        row: from `measure`.
        logits: from `measure`.
        reference: logits of the model on the same images.
        config: a configs.ExportConfig.

    Returns:
        The row, with the share of images whose most probable class is the same, and the largest difference of a
        probability.
    """
    difference = float(np.abs(writers.probabilities(logits) - writers.probabilities(reference)).max())
    if difference > SOUND and row["format"] != "litert-int8" and config.precision == "float32":
        display.warn(
            f"{row['path']} disagrees with {config.model_path}: probabilities differ by up to "
            f"{difference:.3f}; expected at most {SOUND}: don't use it"
        )
    return row | {
        "agreement": float(np.mean(logits.argmax(1) == reference.argmax(1))),
        "largest_difference": difference,
    }
