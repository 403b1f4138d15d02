"""What a model file holds, as a Checkpoint: the network found in it, and its weights under the suite's names."""

import dataclasses

import numpy as np

from compress.graph import ends, reader, recognition, resnet
from compress.storage import archives, bare

NORM = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclasses.dataclass
class Checkpoint:
    """What a model file holds.

    Attributes:
        path: where it came from, for messages.
        weights: {(layer, weight): array}, such as ('conv1_conv', 'kernel'): (7, 7, 3, 64) float32.
        depth, stem, widths: as `resnet.build_resnet` takes them.
        classes: number of logits, or None where the file has no classifier.
        input_shape: (height, width, 3), or None where the file doesn't say.
        normalization: as `resnet.build_resnet` takes it, where it lies inside the model, as in every file of this
            suite; None for keras.applications, whose networks want images that were preprocessed outside.
        pixels: a layer of the file that does something to its images and isn't read, 'lambda_1 (Lambda)', or None.
        touched: the layers of the file that do something to its images, which went into `normalization`; for messages.
        old: whether it holds bare weights under the names of Keras before 2.2.5.
        config: of the whole model, as the file has it, or None.
    """

    path: str
    weights: dict
    depth: int
    stem: str
    widths: dict
    classes: int | None
    input_shape: tuple | None
    normalization: tuple | None
    pixels: str | None = None
    touched: tuple = ()
    old: bool = False
    config: dict | None = dataclasses.field(default=None, repr=False, compare=False)


def read_bare(path, found, groups, weights):
    """The Checkpoint of a file without a config; as `read_whole`."""
    arrays, old, rescaling = bare.named(found, groups)
    shapes = {key: item.shape for key, item in arrays.items()}
    depth, stem, widths, classes, head = bare.architecture(shapes)
    checkpoint = Checkpoint(
        str(path), {}, depth, stem, widths, classes, None, None, rescaling and f"{rescaling} (Rescaling)", old=old
    )
    if weights:
        checkpoint.weights = {
            ("predictions" if key[0] == head else key[0], key[1]): np.asarray(item) for key, item in arrays.items()
        }
        if head:
            checkpoint.weights.setdefault(("predictions", "bias"), np.zeros(classes, "float32"))
        if old:
            for name, *_ in resnet.wiring(resnet.blocks_of(widths), stem):
                norm = [checkpoint.weights[f"{name}_bn", weight] for weight in NORM]
                checkpoint.weights |= _norm_weights(f"{name}_bn", *norm, bare.OLD_NORM)
    return checkpoint


def read_whole(path, config, arrays, weights):
    """The Checkpoint of a model with its config.

    Args:
        path: the file.
        config: from `archives.opened`.
        arrays: an archives.Weights.
        weights: False leaves the weights out.

    Raises:
        reader.Unread: it is no ResNet50, 101 or 152 that can be carried over exactly.
        LookupError, ValueError, TypeError, AttributeError: it is no model of Keras.
    """
    found = recognition.find_resnet(reader.unfold(config), arrays.read, arrays.shape)
    shape = found.image.step.config.get("batch_shape") or found.image.step.config.get("batch_input_shape")
    normalization, order = ends.normalization_of(found.pixels)
    plain = not found.touched
    checkpoint = Checkpoint(
        str(path),
        {},
        resnet.depth_of(resnet.blocks_of(found.widths)),
        found.stem,
        found.widths,
        found.classes,
        archives.input_shape(shape),
        None if plain else normalization,
        found.unread and str(found.unread),
        tuple(str(part) for part in found.touched),
        config=config,
    )
    if weights:
        checkpoint.weights = _canonical(found, arrays.read, order)
        arrays.check_all_read()
    return checkpoint


def _canonical(found, read, order):
    """{(layer, weight): array} of a recognition.Found under the names of `resnet.build_resnet`."""
    # Two layers a step: a convolution, whose bias may be missing, and its batch-normalisation, whose scale, shift or
    # statistics may be. What is missing gets the value that changes nothing.
    weights, channels = {}, found.widths | {"rgb": 3}
    for name, side, reads, written in resnet.wiring(resnet.blocks_of(found.widths), found.stem):
        (conv, norm), width = found.layers[name], channels[written]
        kernel = np.asarray(read(conv, "kernel", (side, side, channels[reads], width)), "float32")
        weights[f"{name}_conv", "kernel"] = kernel[:, :, order] if name == "conv1" else kernel
        weights[f"{name}_conv", "bias"] = (
            np.asarray(read(conv, "bias", (width,)), "float32") if conv.values["bias"] else np.zeros(width, "float32")
        )
        values = [
            np.asarray(read(norm, weight, (width,)), "float32")
            if norm.values.get(weight, True)
            else np.full(width, other, "float32")
            for weight, other in zip(NORM, (1, 0, 0, 1), strict=True)
        ]
        weights |= _norm_weights(f"{name}_bn", *values, norm.values["epsilon"])
    width = found.widths["conv5_stream"]
    for name, parts in zip(found.dense_names, found.head, strict=True):
        kernel, bias = ends.dense_of(parts, width, read)
        weights |= {(name, "kernel"): kernel, (name, "bias"): bias}
        width = kernel.shape[1]
    return weights


def _norm_weights(layer, gamma, beta, mean, variance, epsilon):
    """Weights of a batch-normalisation of another epsilon for one of ours: what it answers is the same."""
    if abs(epsilon - resnet.BN["epsilon"]) > 1e-12:
        wide = np.asarray(variance, np.float64) + epsilon
        left = np.maximum(wide - resnet.BN["epsilon"], 0)  # of a variance below the epsilon, gamma takes the rest
        gamma = np.asarray(gamma * np.sqrt((left + resnet.BN["epsilon"]) / wide), "float32")
        variance = np.asarray(left, "float32")
    return {(layer, weight): value for weight, value in zip(NORM, (gamma, beta, mean, variance), strict=True)}
