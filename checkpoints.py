"""Reading and writing of checkpoints: .h5, and .keras as plain Keras writes it.

Writing is atomic. Reading takes shapes and numbers from the file and nothing else: the network is built by
`model.build_resnet`, so no layer, class or function that a file names is ever looked up or run.
"""

import dataclasses
import hashlib
import math
import os
import re
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

import archives
import classes
import model as resnet
from errors import InputError, one_line
from files import replacing, reserve, suggestion
from records import check_record

DIGEST = "weights_sha256"  # attribute of the suite's files
BLOCK = re.compile(r"conv[2-5]_block\d+_")  # how the layers of a block are called
PIXELS = ("Rescaling", "Normalization", "Lambda")  # layers that change what a network sees
LEARNED = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")  # a dropout's seed is no part of it


@dataclasses.dataclass
class Checkpoint:
    """What a model file holds.

    Attributes:
        path: where it came from, for messages.
        weights: {(layer, weight): array}, such as ('conv1_conv', 'kernel'): (7, 7, 3, 64) float32.
        depth, stem, widths: as `model.build_resnet` takes them.
        classes: number of logits, or None where the file has no classifier.
        input_shape: (height, width, 3), or None where the file doesn't say.
        normalization: as `model.build_resnet` takes it, where it lies inside the model, as in every file of this
            suite; None for keras.applications, whose networks want images that were preprocessed outside.
        head: name of the classifier layer.
        pixels: a layer of the file that does something to its images and isn't read, 'rescaling (Rescaling)', or None.
    """

    path: str
    weights: dict
    depth: int
    stem: str
    widths: dict
    classes: int | None
    input_shape: tuple | None
    normalization: tuple | None
    head: str | None
    pixels: str | None = None


def save_model(model, path, class_names=None):
    """Writes a model as .h5 that plain Keras opens, atomically, without slots, with a checksum of its weights.

    Args:
        model: a keras.Model.
        path: of the file.
        class_names: list of the classes' names, which then lie in the file too, see `classes`.

    Raises:
        InputError: the file can't be written.
    """
    with replacing(path) as temporary:
        reserve(temporary, 4 * model.count_params() + 2**21)  # HDF5 crashes where the disk fills up under it
        try:
            model.save(temporary, include_optimizer=False)
            with h5py.File(temporary, "r+") as file:  # travels with the file, where the records beside it may not
                weights = {key: np.asarray(item) for key, item in archives.arrays(file, temporary, "").items()}
                file.attrs[DIGEST] = _digest(weights)
                if class_names := classes.checked(class_names):
                    classes.write(file, class_names)
        except RuntimeError as error:  # h5py, where the disk is full as it closes a file
            raise OSError(one_line(error)) from None


def _digest(arrays):
    """SHA-256 over names, types, shapes and numbers of {(layer, weight): array}."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{'/'.join(key)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def _architecture(shapes):
    """Depth, stem and widths from {(layer, weight): shape}. Raises KeyError or ValueError for anything else."""
    kernel = shapes["conv1_conv", "kernel"]
    if (stem := resnet.stem_of(kernel[0])) is None:
        raise ValueError(f"a first kernel of {kernel[0]}x{kernel[0]}")
    inner = {layer: shape[-1] for (layer, weight), shape in shapes.items()
             if weight == "kernel" and layer.endswith(("_1_conv", "_2_conv")) and len(shape) == 4}
    depth = resnet.depth_of(resnet.blocks_of(inner))
    widths = {"conv1_conv": kernel[-1]}
    widths |= {f"conv{s}_stream": shapes[f"conv{s}_block1_3_conv", "kernel"][-1] for s in (2, 3, 4, 5)}
    return depth, stem, {name: int(width) for name, width in (widths | inner).items()}


def read_checkpoint(path, flag, weights=True):
    """What a file holds: a whole model, .h5 or .keras, or bare weights in Keras' HDF5 layout; ResNet50, 101 or 152.

    Args:
        path: the file.
        flag: the flag that named it, for messages.
        weights: False leaves the arrays in the file, for a quick look before anything heavy is imported.

    Returns:
        A Checkpoint.

    Raises:
        InputError: missing, empty, truncated, damaged, or no ResNet50, 101 or 152.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise InputError(f"{flag}: received {path}, which is {kind}; expected an .h5 or .keras file{suggestion(path)}")
    check_record(path, flag)
    try:
        with archives.opened(path, flag) as (file, layers, is_archive):
            datasets = archives.arrays(file, path, flag, archives.numbered(layers) if is_archive else None)
            checkpoint = _recognised(path, {key: item.shape for key, item in datasets.items()}, layers)
            if weights:
                checkpoint.weights = {key: np.asarray(item) for key, item in datasets.items()}
                if file.attrs.get(DIGEST) not in (None, _digest(checkpoint.weights)):
                    raise InputError(f"{flag}: received {path}, whose weights are damaged: they don't have the "
                                     "checksum that the file names; expected the file as it was written")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{flag}: received {path} of {os.path.getsize(path)} bytes, which is empty, truncated or "
                         f"no HDF5 file; expected an .h5 or .keras model ({error})") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:  # another zip, or a damaged one
        raise InputError(f"{flag}: received {path}, a zip file that can't be read ({error}); expected an .h5 or .keras "
                         "model") from None
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{flag}: received {path}, expected a ResNet50, 101 or 152 with the layer names of "
                         f"keras.applications ({type(error).__name__}: {error})") from None
    return checkpoint


def _recognised(path, shapes, layers):
    """The Checkpoint, without weights, of {(layer, weight): shape} and the layers of `archives.opened`.

    Raises:
        LookupError, ValueError, TypeError: it is no ResNet50, 101 or 152.
    """
    depth, stem, widths = _architecture(shapes)
    if "conv1_conv" in layers:  # bare weights don't tell
        stride, wanted = layers["conv1_conv"][1].get("strides"), resnet.STEMS[stem][1]
        if stride not in (wanted, [wanted] * 2) or ("pool1_pool" in layers) != (stem == "imagenet"):
            raise ValueError(f"a first kernel as of the stem {stem} with another stride or pool")
    heads = [(layer, shape) for (layer, weight), shape in shapes.items() if weight == "kernel" and len(shape) == 2]
    if len(heads) > 1:
        raise KeyError(f"one classifier, not {[layer for layer, _ in heads]}")
    head, shape = heads[0] if heads else (None, (0, None))
    kind, config = layers.get("normalization", ("", {}))
    normalization = resnet.normalization_of(config["scale"], config["offset"]) if kind == "Rescaling" else None
    pixels = [f"{name} ({kind})" for name, (kind, _) in layers.items()
              if kind in PIXELS and (kind, name) != ("Rescaling", "normalization")]
    checkpoint = Checkpoint(str(path), {}, depth, stem, widths, shape[1], archives.input_shape(layers), normalization,
                            head, pixels[0] if pixels else None)
    _check_shapes(checkpoint, shapes)
    return checkpoint


def _expected_shapes(stem, widths):
    """{(layer, weight): shape} of every convolution and batch-normalisation of a network."""
    shapes, channels = {}, widths | {"rgb": 3}
    for name, kernel, read, written in resnet.wiring(resnet.blocks_of(widths), stem):
        channels_in, channels_out = channels[read], channels[written]
        shapes[f"{name}_conv", "kernel"] = (kernel, kernel, channels_in, channels_out)
        shapes[f"{name}_conv", "bias"] = (channels_out,)
        shapes |= {(f"{name}_bn", w): (channels_out,) for w in ("gamma", "beta", "moving_mean", "moving_variance")}
    return shapes


def _check_shapes(checkpoint, shapes):
    if min(checkpoint.widths.values()) < 1:
        raise ValueError("a layer without channels")
    wanted = _expected_shapes(checkpoint.stem, checkpoint.widths)
    if checkpoint.head:
        features = checkpoint.widths["conv5_stream"]
        wanted |= {(checkpoint.head, "kernel"): (features, checkpoint.classes),
                   (checkpoint.head, "bias"): (checkpoint.classes,)}
    for key, shape in wanted.items():
        if shapes.get(key) != shape:
            raise ValueError(f"{'/'.join(key)} is {shapes.get(key, 'missing')}, expected {shape}")
    # a block that is there in part is no block less
    surplus = [key for key in shapes if BLOCK.match(key[0]) and key[1] in LEARNED and key not in wanted]
    surplus += [(name,) for name in checkpoint.widths
                if not name.endswith("_stream") and (name, "kernel") not in wanted]
    if surplus:
        raise ValueError(f"{'/'.join(min(surplus))}, which no ResNet of blocks "
                         f"{resnet.blocks_of(checkpoint.widths)} has")


def build(checkpoint, classes=None, input_shape=None, preprocessing="auto"):
    """The network of a checkpoint, with its weights; softmax heads give the logits before the softmax.

    A network of keras.applications expects BGR minus the mean ('caffe'); the swap of the colours and the scale of the
    suite's normalisation go into the first convolution, so the features on RGB input are the same.

    Args:
        checkpoint: from `read_checkpoint`.
        classes: number of logits; where it differs from the file's, the classifier starts from random weights.
        input_shape: (height, width, 3); None takes the file's, or (32, 32, 3) where it doesn't say.
        preprocessing: what a network of keras.applications was trained with, one of flags.PREPROCESSING; 'auto' is
            'caffe'. A file that holds its normalisation keeps it.

    Returns:
        An uncompiled keras.Model.
    """
    classes = classes or checkpoint.classes
    if classes is None:
        raise InputError(f"{checkpoint.path} has no classifier; expected a number of classes (--class_num)")
    if checkpoint.pixels and preprocessing == "auto":
        raise InputError(f"{checkpoint.path} has a layer {checkpoint.pixels} that is not read; expected "
                         "--preprocessing with what the network is to be given")
    model = resnet.build_resnet(checkpoint.depth, classes, input_shape or checkpoint.input_shape or (32, 32, 3),
                                checkpoint.stem, checkpoint.widths, checkpoint.normalization or
                                resnet.PREPROCESSING.get(preprocessing, (resnet.MEAN, resnet.STD)))
    weights = dict(checkpoint.weights)
    if not checkpoint.normalization and preprocessing not in resnet.PREPROCESSING:
        kernel = weights["conv1_conv", "kernel"][:, :, ::-1, :]  # (k, k, BGR -> RGB, channels)
        weights["conv1_conv", "kernel"] = kernel * np.reshape(resnet.STD, (1, 1, 3, 1)).astype(kernel.dtype)
    for layer in model.layers:
        if layer.name == "predictions" and classes != checkpoint.classes:
            continue
        source = checkpoint.head if layer.name == "predictions" else layer.name
        for variable in layer.variables:
            value = weights[source, variable.name]
            if not math.isfinite(float(np.sum(value, dtype=np.float64))):
                raise InputError(f"{checkpoint.path}: {source}/{variable.name} holds NaN or infinity, "
                                 "expected finite weights")
            if variable.name == "moving_variance" and np.min(value) < 0:
                raise InputError(f"{checkpoint.path}: {source}/{variable.name} is negative, expected variances")
            variable.assign(value)
    return model


def load_model(path, flag, class_num=None, input_shape=None, preprocessing="auto"):
    """The model of a file that the suite or plain Keras wrote, or keras.applications' ImageNet weights.

    Args:
        path: an .h5 file.
        flag: the flag that named it, for messages.
        class_num: number of classes that the model must have; None takes any.
        input_shape: (height, width, 3) that the model must take; None takes the file's.
        preprocessing: see `build`.

    Returns:
        An uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes).

    Raises:
        InputError: as `read_checkpoint`; or the class count or the image size is another.
    """
    checkpoint = read_checkpoint(path, flag)
    check_fits(checkpoint, flag, class_num, input_shape)
    return build(checkpoint, class_num, input_shape, preprocessing)


def check_fits(checkpoint, flag, class_num=None, input_shape=None):
    """Raises InputError where a checkpoint has another class count or another image size than the data."""
    if class_num is not None and checkpoint.classes != class_num:
        raise InputError(f"{flag}: received {checkpoint.path} with {checkpoint.classes or 'no'} classes, expected "
                         f"{class_num} (see --class_num and --dataset)")
    have = checkpoint.input_shape
    if input_shape is not None and have is not None and tuple(have) != tuple(input_shape):
        raise InputError(f"{flag}: received {checkpoint.path} for images of {have[0]}x{have[1]}, expected "
                         f"{input_shape[0]}x{input_shape[1]}, as the data set has them")


def imagenet_checkpoint(depth):
    """keras.applications' ImageNet weights of a depth, downloaded by Keras where its cache lacks them.

    Raises:
        InputError: there is no network and no copy in the cache.
    """
    import keras

    constructor = getattr(keras.applications, f"ResNet{depth}")
    try:
        model = constructor(weights="imagenet")
    except Exception as error:  # get_file raises a bare Exception for every network failure
        raise InputError(f"--model_path: received imagenet, which needs a download ({error}); without a network give "
                         f"the path of resnet{depth}_weights_tf_dim_ordering_tf_kernels.h5 instead") from None
    weights = {(layer.name, v.name): np.asarray(v) for layer in model.layers for v in layer.variables}
    return Checkpoint("imagenet", weights, depth, "imagenet", resnet.full_widths(depth), 1000, None, None,
                      "predictions")
