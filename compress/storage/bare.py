"""Weights without a config: what the arrays of a ResNet are called, in this suite and in Keras 1, 2 and 3.

Nothing but names and shapes says what the network is, so every array has to have its place in a ResNet.
"""

import dataclasses
import math
import re

import numpy as np

from compress.cli.architectures import STEMS
from compress.errors import InputError, one_line
from compress.storage import preprocess, resnet, vocabulary
from compress.storage.archives import CONTAINERS
from compress.storage.entries import Unread, snake_case

EXPECTED = "a whole model, as model.save('model.keras') writes it, or the weights of a ResNet50, 101 or 152"
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
OLD_NORM = 1e-3  # epsilon of the ResNets whose layers are called res2a_branch2a: Keras' default of then
KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}  # it said std
BRANCHES = {"1": "0", "2a": "1", "2b": "2", "2c": "3"}
GROUPS = {
    "conv2d",
    "batch_normalization",
    "dense",
    "activation",
    "re_lu",
    "add",
    "zero_padding2d",
    "max_pooling2d",
    "input_layer",
    "global_average_pooling2d",
    "functional",
    "sequential",
    "softmax",
    "flatten",
    "seed_generator",
    *map(snake_case, vocabulary.IDLE),
}


@dataclasses.dataclass
class Weights:
    """The weights of a ResNet50, 101 or 152, perhaps without its last blocks, and of any widths.

    Attributes:
        path: the file, for messages.
        arrays: {(layer, weight): array}, such as ('conv1_conv', 'kernel'): (7, 7, 3, 64) float32.
        stem, widths: as `resnet.build` takes them.
        classes: number of logits, or None where the file has no classifier.
        rescaling: the Rescaling of the network, whose numbers aren't among the weights, 'rescaling (Rescaling)'; or
            None.
        old: whether the names are those of Keras before 2.2.5.
    """

    path: str
    arrays: dict
    stem: str
    widths: dict
    classes: int | None
    rescaling: str | None = None
    old: bool = False

    def pixels(self, asked="auto"):
        """The preprocess.Pixels, for what is asked, of flags.PREPROCESSING. InputError where only the user can know."""
        return preprocess.decide(self.path, (), self.rescaling, asked)

    @property
    def assumed(self):
        """What to say of them: networks of the same shapes may have other strides, activations or epsilons."""
        epsilon = OLD_NORM if self.old else resnet.BN["epsilon"]
        return (
            "not compared with plain Keras: weights alone don't say strides (assumed: as in version 1, in the first "
            f"1x1 convolution of a stage), activation (ReLU), epsilon ({epsilon:g}) and pooling (average); expected "
            "the whole model, as model.save('model.keras') writes it"
        )


def read(path, found, groups, arrays=True):
    """The Weights of a file without a config.

    Args:
        path: the file, for messages.
        found: from `archives.arrays`.
        groups: from `archives.groups`.
        arrays: False leaves them in the file, for a quick look.

    Raises:
        Unread: no ResNet50, 101 or 152, nor a part of one.
        LookupError, ValueError, TypeError: likewise, of names that no file of Keras has.
    """
    named_arrays, old, rescaling = named(found, groups)
    stem, widths, classes, head = architecture({key: item.shape for key, item in named_arrays.items()})
    weights = Weights(str(path), {}, stem, widths, classes, rescaling and f"{rescaling} (Rescaling)", old)
    if arrays:
        weights.arrays = {
            ("predictions" if key[0] == head else key[0], key[1]): np.asarray(item)
            for key, item in named_arrays.items()
        }
        if head:
            weights.arrays.setdefault(("predictions", "bias"), np.zeros(classes, "float32"))
        for layer, weight in list(weights.arrays) if old else ():
            if weight == "gamma":
                weights.arrays |= _with_our_epsilon(layer, weights.arrays)
    return weights


def _with_our_epsilon(layer, arrays):
    """Weights of a batch-normalisation of the old epsilon for one of ours: what it answers is the same."""
    gamma, beta, mean, variance = (arrays[layer, weight] for weight in NORM)
    wide = np.asarray(variance, np.float64) + OLD_NORM
    left = np.maximum(wide - resnet.BN["epsilon"], 0)  # of a variance below the epsilon, gamma takes the rest
    gamma = np.asarray(gamma * np.sqrt((left + resnet.BN["epsilon"]) / wide), "float32")
    values = gamma, beta, mean, np.asarray(left, "float32")
    return {(layer, weight): value for weight, value in zip(NORM, values, strict=True)}


def build(weights, mode, input_shape=None, classes=None):
    """The ResNet of some weights. It takes RGB from 0 to 255: what it was trained with comes as a normalisation inside.

    Of 'caffe' mode the swap of the colours and the scale of that normalisation go into the first convolution.

    Args:
        weights: the Weights.
        mode: the preprocessing that they were trained with, of flags.PREPROCESSING, but not 'auto'.
        input_shape: (height, width, 3); None takes (32, 32, 3).
        classes: number of logits of a new classifier of random weights; None keeps the file's.

    Returns:
        An uncompiled keras.Model of logits.

    Raises:
        InputError: there is no classifier and no number of classes, or weights aren't finite.
    """
    if weights.classes is None and classes is None:
        raise InputError(f"{weights.path} has no classifier; expected a number of classes (`class_num`)")
    arrays, kernel = dict(weights.arrays), weights.arrays["conv1_conv", "kernel"]
    if mode == "caffe":  # the kernel is scaled, so that it reads numbers of about 1
        normalization = preprocess.MEAN, resnet.STD
        kernel = kernel[:, :, ::-1] * np.reshape(resnet.STD, (1, 1, 3, 1)).astype(kernel.dtype)  # BGR -> RGB
        arrays["conv1_conv", "kernel"] = kernel
    else:
        normalization = preprocess.PREPROCESSING[mode]
    model = resnet.build(
        weights.widths, classes or weights.classes, input_shape or (32, 32, 3), weights.stem, normalization
    )
    # A network with NaN would train, prune and evaluate without an error, and every number would be wrong.
    for layer in model.layers:
        if layer.name == "predictions" and classes is not None:
            continue
        for variable in layer.variables:
            value, where = arrays[layer.name, variable.name], f"{weights.path}: {layer.name}/{variable.name}"
            if not math.isfinite(float(np.sum(value, dtype=np.float64))):
                raise InputError(f"{where} holds NaN or infinity, expected finite weights")
            if variable.name == "moving_variance" and np.min(value) < 0:
                raise InputError(f"{where} is negative, expected variances")
            variable.assign(value)
    return model


# ---- names ----


def new_name(layer):
    """The name that keras.applications gives today to a layer of its ResNets before Keras 2.2.5.

    'res3b_branch2a' is 'conv3_block2_1_conv'; in deeper ones a block is a letter and a number, 'res4b22_branch2a'.
    Any other name stays.
    """
    if layer in ("conv1", "bn_conv1"):
        return {"conv1": "conv1_conv", "bn_conv1": "conv1_bn"}[layer]
    match = re.fullmatch(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2a|2b|2c)", layer)
    if not match or match[1] == "scale":
        return layer
    block = int(match[4]) + 1 if match[4] else ord(match[3]) - ord("a") + 1
    return f"conv{match[2]}_block{block}_{BRANCHES[match[5]]}_{'conv' if match[1] == 'res' else 'bn'}"


def named(found, groups):
    """The arrays of a file without a config under today's names.

    Args:
        found: from `archives.arrays`.
        groups: of a .weights.h5 file of Keras 3, from `archives.groups`.

    Returns:
        ({(layer, weight): h5py.Dataset}, True where the names are those of old, the name of a Rescaling, whose numbers
        are in no such file, or None).

    Raises:
        Unread: a .weights.h5 file that is no ResNet's.
    """
    if any(key[-2] == "vars" for key in found):
        return _of_keras_3(found, groups), False, _rescaling(groups)
    arrays, old = {}, False
    for key, item in found.items():
        layer, weight = key[-2:]
        weight = weight.removeprefix(f"{layer}_")
        old = old or new_name(layer) != layer
        arrays[new_name(layer), KERAS_1.get(weight, weight)] = item
    return arrays, old, None


def _kind(group):
    return re.sub(r"_\d+$", "", group[-1])


def _rescaling(groups):
    """The name of the one Rescaling, or None. Raises Unread for a second, and for what no ResNet of this suite has."""
    found = [group for group in groups if _kind(group) == "rescaling"]
    for group in [group for group in groups if _kind(group) not in GROUPS and group not in found] + found[1:]:
        raise Unread(
            f"{'/'.join(group)}, a {'second' if group in found else 'kind of'} layer that no ResNet of this "
            "suite has; the whole model (model.save) would say what it does"
        )
    return one_line(groups[found[0]] or found[0][-1]) if found else None


def _of_keras_3(found, groups):
    """`named` for Keras 3: by the layers' names where the file keeps those of a ResNet, else by numbers."""
    layers = {}
    for key, item in found.items():
        mine = layers.setdefault(tuple(part for part in key[:-2] if part not in CONTAINERS), {})
        if mine.setdefault(key[-1], item) is not item:
            raise Unread(f"{'/'.join(key)} twice")
    weights = {
        "conv2d": ("kernel", "bias"),
        "dense": ("kernel", "bias"),
        "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    }
    names = {group: groups.get(group) or "/".join(group) for group in layers}
    inner = [name for group, name in names.items() if _kind(group) in ("conv2d", "batch_normalization")]
    if not all(re.fullmatch(r"conv1_(conv|bn)|conv\d_block\d+_\d_(conv|bn)", name) for name in inner):
        return _numbered(layers, weights)
    if len(set(names.values())) < len(names):
        raise Unread("two layers of one name")
    return {
        (names[group], of[int(number)] if int(number) < len(of := weights.get(_kind(group), ())) else number): item
        for group, items in layers.items()
        for number, item in items.items()
    }


def _numbered(layers, weights):
    """{(layer, weight): h5py.Dataset} of layers that are only counted: those of a ResNet in the order of its layers.

    Args:
        layers: {group: {number: h5py.Dataset}}.
        weights: {kind: names of its weights, in the order of their numbers}.
    """
    arrays = {}
    for kind, names in weights.items():
        mine = sorted(
            (group for group in layers if _kind(group) == kind),
            key=lambda group: int(group[-1].removeprefix(kind).lstrip("_") or 0),
        )
        if len({group[:-1] for group in mine}) > 1:
            raise Unread(f"{'/'.join(mine[-1])} beside {'/'.join(mine[0])}, which lies elsewhere")
        wanted = ["predictions"] if kind == "dense" else _order(layers, mine, "conv" if kind == "conv2d" else "bn")
        for group, name in zip(mine, wanted, strict=False):
            for number, item in layers[group].items():
                arrays[name, names[int(number)] if int(number) < len(names) else number] = item
        for group in mine[len(wanted) :]:
            arrays["/".join(group), "0"] = layers[group]["0"]
    return arrays


def _order(layers, mine, kind):
    """Names of the convolutions or batch-norms of a ResNet, in the order of its layers, for so many of them."""
    per_stage = {53: 50, 104: 101, 155: 152}.get(len(mine))
    if per_stage is None:
        raise Unread(
            f"{len(mine)} layers {'of convolution' if kind == 'conv' else 'of batch-normalisation'}, expected "
            "53, 104 or 155 as ResNet50, 101 and 152 have them; the whole model (model.save) would say more"
        )
    names = [f"conv1_{kind}"]
    for stage, count in zip((2, 3, 4, 5), resnet.BLOCKS[per_stage], strict=True):
        for block in range(1, count + 1):
            names += [f"conv{stage}_block{block}_{i}_{kind}" for i in ((1, 2, 0, 3) if block == 1 else (1, 2, 3))]
    return names


# ---- shapes ----


def architecture(shapes):
    """The network that the shapes of a file's arrays are of; every array has its place in it.

    Args:
        shapes: {(layer, weight): shape}.

    Returns:
        (stem, widths, classes or None, name of the classifier or None).

    Raises:
        Unread: no ResNet50, 101 or 152, nor a part of one.
        LookupError, ValueError, TypeError: likewise, of names that no file of Keras has.
    """
    kernel = _shape(shapes, "conv1_conv", "kernel")
    if (stem := resnet.stem_of(kernel[0])) is None:
        raise Unread(f"a first kernel of {kernel[0]}x{kernel[0]}")
    inner = {
        layer: shape[-1]
        for (layer, weight), shape in shapes.items()
        if weight == "kernel" and layer.endswith(("_1_conv", "_2_conv")) and len(shape) == 4
    }
    resnet.depth_of(resnet.blocks_of(inner))  # refuses more blocks than there are
    widths = {"conv1_conv": kernel[-1]}
    widths |= {f"conv{s}_stream": _shape(shapes, f"conv{s}_block1_3_conv", "kernel")[-1] for s in (2, 3, 4, 5)}
    widths = {name: int(width) for name, width in (widths | inner).items()}
    heads = [layer for (layer, weight), shape in shapes.items() if weight == "kernel" and len(shape) == 2]
    if len(heads) > 1:
        raise Unread(
            f"{len(heads)} Dense layers, {', '.join(heads)}, without a config that says what lies between; "
            "expected the whole model, as model.save writes it"
        )
    _check_shapes(stem, widths, heads, shapes)
    return stem, widths, shapes[heads[0], "kernel"][1] if heads else None, heads[0] if heads else None


def _shape(shapes, layer, weight):
    if len(shape := shapes.get((layer, weight), ())) != 4:
        raise Unread(f"{layer}/{weight} is {shape or 'missing'}")
    return shape


def convolutions(blocks, stem="imagenet"):
    """The convolutions whose arrays a file has, with the groups of channels that each reads and writes.

    Args:
        blocks: number of blocks in the four stages, such as (3, 4, 6, 3).
        stem: one of STEMS.

    Yields:
        (name, height and width of the kernel, group read, group written), in network order. The layers are called
        name + '_conv' and name + '_bn'. The image's three channels are the group 'rgb'.
    """
    yield "conv1", STEMS[stem][0], "rgb", "conv1_conv"
    before = "conv1_conv"
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        stream = f"conv{stage}_stream"
        yield f"conv{stage}_block1_0", 1, before, stream
        for block in range(1, count + 1):
            name = f"conv{stage}_block{block}"
            yield f"{name}_1", 1, before, f"{name}_1_conv"
            yield f"{name}_2", 3, f"{name}_1_conv", f"{name}_2_conv"
            yield f"{name}_3", 1, f"{name}_2_conv", stream
            before = stream  # the Add keeps the channels of the stream


def _check_shapes(stem, widths, heads, shapes):
    if min(widths.values()) < 1:
        raise Unread("a layer without channels")
    wanted, optional, channels = {}, set(), widths | {"rgb": 3}
    for name, kernel, read, written in convolutions(resnet.blocks_of(widths), stem):
        if gap := {read, written} - set(channels):
            raise Unread(f"{min(gap)}/kernel is missing")
        channels_in, channels_out = channels[read], channels[written]
        wanted[f"{name}_conv", "kernel"] = (kernel, kernel, channels_in, channels_out)
        wanted[f"{name}_conv", "bias"] = (channels_out,)
        wanted |= {(f"{name}_bn", w): (channels_out,) for w in ("gamma", "beta", "moving_mean", "moving_variance")}
    if heads:
        units = shapes[heads[0], "kernel"][1]
        wanted |= {(heads[0], "kernel"): (widths["conv5_stream"], units), (heads[0], "bias"): (units,)}
        optional.add((heads[0], "bias"))
    for key, shape in wanted.items():
        if shapes.get(key, shape if key in optional else None) != shape:
            raise Unread(f"{'/'.join(key)} is {shapes.get(key, 'missing')}, expected {shape}")
    # a block that is there in part is no block less, and what has no place here does something in its network
    surplus = [key for key in shapes if key not in wanted]
    surplus += [(name,) for name in widths if not name.endswith("_stream") and (name, "kernel") not in wanted]
    if surplus:
        raise Unread(f"{'/'.join(min(surplus))}, which no ResNet of blocks {resnet.blocks_of(widths)} has")
