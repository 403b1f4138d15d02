"""ResNets by the names of their layers: widths and costs without the graph, what tests compare the graph's with."""

import math

from compress.cli.architectures import STEMS
from compress.storage import resnet
from compress.storage.bare import convolutions
from compress.storage.resnet import blocks_of, depth_of, stem_of

__all__ = ["STEMS", "convolutions"]  # the second: what a graph is compared with

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def stage_of(name):
    """The stage, 1 (the stem) to 5, of the name of a layer or group such as 'conv3_block2_1_conv'."""
    return int(name[4])


def inner_names(blocks):
    """Names of the inner convolutions (the first 1x1 and the 3x3 of each block), in network order."""
    return [
        f"conv{s}_block{b}_{i}_conv"
        for s, n in zip((2, 3, 4, 5), blocks, strict=True)
        for b in range(1, n + 1)
        for i in (1, 2)
    ]


def full_widths(depth=50, blocks=None):
    """{group: channels} of the unpruned network; blocks where some were left out."""
    widths = {"conv1_conv": 64} | {f"conv{s}_stream": 64 * 2**s for s in (2, 3, 4, 5)}
    return widths | {name: 16 * 2 ** stage_of(name) for name in inner_names(blocks or BLOCKS[depth])}


def build_resnet(depth=50, classes=10, input_shape=(32, 32, 3), stem="imagenet", widths=None, **more):
    """`resnet.build`; of the unpruned network of a depth where no widths are given."""
    return resnet.build(widths or full_widths(depth), classes, input_shape, stem, **more)


def cost_of(widths, classes=10, input_shape=(32, 32, 3), stem="imagenet"):
    """Parameters and MACs of a network from its widths alone, by following one image through it, block after block.

    Args:
        widths: {group: channels}.
        classes: number of logits.
        input_shape: (height, width, 3).
        stem: one of STEMS.

    Returns:
        (parameters, multiply-accumulate operations of convolutions and Dense layers for one image). Parameters are
        those of `model.count_params()`, biases and moving statistics among them.
    """

    def conv(side, read, written):
        size = side * side * read * written
        return size + written + 4 * written, size * height * width  # bias and batch-norm; work at every position

    height, width = input_shape[:2]
    if stem != "cifar":
        height, width = -(-height // 2), -(-width // 2)  # every stride of 2 leaves half the positions, rounded up
    x = widths["conv1_conv"]
    costs = [conv({"imagenet": 7, "half": 5, "cifar": 3}[stem], 3, x)]
    if stem == "imagenet":
        height, width = -(-height // 2), -(-width // 2)
    for stage, count in zip((2, 3, 4, 5), blocks_of(widths), strict=True):
        out = widths[f"conv{stage}_stream"]
        for block in range(1, count + 1):
            if stage > 2 and block == 1:
                height, width = -(-height // 2), -(-width // 2)
            one, two = (widths[f"conv{stage}_block{block}_{i}_conv"] for i in (1, 2))
            costs += [conv(1, x, one), conv(3, one, two), conv(1, two, out)] + [conv(1, x, out)] * (block == 1)
            x = out
    costs.append((x * classes + classes, x * classes))
    return tuple(map(sum, zip(*costs, strict=True)))


def normalization_of(scale, offset):
    """The `normalization` of `build_resnet` from a Rescaling layer: mean = -offset / scale, deviation = 1 / scale.

    Args:
        scale: three numbers, for R, G and B.
        offset: likewise.

    Returns:
        (mean, standard deviation), tuples of three numbers.

    Raises:
        ValueError: not three finite numbers each, or a scale is 0.
    """
    if len(scale) != 3 or len(offset) != 3 or not all(math.isfinite(v) for v in (*scale, *offset)) or not all(scale):
        raise ValueError(f"a normalisation by {scale} and {offset}")
    # Rounded to 12 digits: 1 / (1 / s) is not always s, and a model that is loaded and saved again and again must keep
    # its normalisation to the last bit. Adding 0.0 turns -0.0 into 0.0.
    mean = tuple(float(f"{-shift / factor + 0.0:.12g}") for factor, shift in zip(scale, offset, strict=True))
    deviation = tuple(float(f"{1 / factor:.12g}") for factor in scale)
    if not all(map(math.isfinite, mean + deviation)) or not all(deviation):
        raise ValueError(f"a normalisation by {scale} and {offset}")
    return mean, deviation


def architecture_of(model):
    """The arguments of `build_resnet` for a model of the same shapes.

    Args:
        model: of `build_resnet`, or loaded from a file of the suite.

    Returns:
        dict of all keyword arguments.

    Raises:
        ValueError: the model is no ResNet of this suite.
    """
    widths = widths_of(model)
    kernel, rescaling = model.get_layer("conv1_conv").kernel_size[0], model.get_layer("normalization")
    stem = stem_of(kernel)
    if stem is None:
        raise ValueError(f"not a ResNet50, 101 or 152 of this suite: stem {kernel}")
    return {
        "depth": depth_of(blocks_of(widths)),
        "classes": model.output_shape[-1],
        "input_shape": tuple(model.input_shape[1:]),
        "stem": stem,
        "widths": widths,
        "normalization": normalization_of(rescaling.scale, rescaling.offset),
    }


def widths_of(model):
    """The widths of a model, as `build_resnet` takes them.

    Args:
        model: of `build_resnet`, or loaded from a file of the suite.

    Returns:
        {group: channels}.

    Raises:
        ValueError: the model lacks a layer that a ResNet of this suite has.
    """
    try:
        blocks = blocks_of([layer.name for layer in model.layers])
        widths = {"conv1_conv": model.get_layer("conv1_conv").filters}
        widths |= {f"conv{s}_stream": model.get_layer(f"conv{s}_block1_3_conv").filters for s in (2, 3, 4, 5)}
        return widths | {name: model.get_layer(name).filters for name in inner_names(blocks)}
    except ValueError as error:
        raise ValueError(f"not a ResNet50, 101 or 152 of this suite: {error}") from None


def known_as(group):
    """The name in `full_widths` of a group of a ResNet's graph: 'conv3_stream' for what an Add joins."""
    return f"{group.name[:5]}_stream" if len(group.makers) > 1 else group.name
