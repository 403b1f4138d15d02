"""Stems of students: a network whose first convolution sees more of the image's positions.

A stem is what stands in front of the first block. ImageNet's, a 7x7 convolution of stride 2 and a max-pool (He et al.
2016, arXiv 1512.03385, table 1), leaves a sixteenth of the positions; of a small image little.
"""

import dataclasses
import typing

import keras

from compress.cli.architectures import STEMS
from compress.graph import nodes


@dataclasses.dataclass(frozen=True)
class Stem:
    """The stem of a network.

    Attributes:
        name: of STEMS.
        convolution: its layer.
        padding: the ZeroPadding2D in front of it, or None where the convolution pads by itself.
        pooled: {id(the max-pool's output): what stands in its place without the pool}; empty without a pool.
    """

    name: str
    convolution: typing.Any
    padding: typing.Any
    pooled: dict


def stem_of(model):
    """The Stem of a network, or None where it begins otherwise.

    Args:
        model: a keras.Model that `nodes.graph_of` takes, of images with the channels last.
    """
    convolution = padding = pool = None
    before = None  # the node in front of the one at hand
    for _, node in nodes.walk(model):
        layer = node.operation
        if nodes.is_model(layer):
            continue
        if convolution is None and isinstance(layer, keras.layers.Conv2D):
            convolution, padding = layer, before and before.operation
        elif isinstance(layer, keras.layers.MaxPooling2D):
            pool = node, before
            break
        elif convolution is not None and any("kernel" in weight.name for weight in getattr(layer, "weights", ())):
            break
        before = node
    if convolution is None or convolution.data_format != "channels_last":
        return None
    kernel, strides = convolution.kernel_size, convolution.strides
    padding = padding if isinstance(padding, keras.layers.ZeroPadding2D) else None
    side = kernel[0] // 2
    if padding.padding != ((side, side), (side, side)) if padding else convolution.padding != "same":
        return None
    for name, (size, stride) in STEMS.items():
        # a max-pool belongs to the first of STEMS alone
        if kernel == (size, size) and strides == (stride, stride) and (pool is None) == (name != "imagenet"):
            return Stem(name, convolution, padding, _without(*pool) if pool else {})
    return None


def _without(pool, before):
    """{id(output of a pool): what the pool or the padding in front of it reads}."""
    first = before if isinstance(before.operation, keras.layers.ZeroPadding2D) else pool
    return {id(pool.outputs[0]): first.input_tensors[0]}


def smaller(stem):
    """The names of the stems that one can become, itself first: each kernel is the middle of a larger one."""
    names = list(STEMS)
    return names[names.index(stem.name) :]


def change(stem, name):
    """How a network gets another stem, as `trimming.altered` takes it: (instead, settings).

    Args:
        stem: of the network.
        name: one of `smaller`.
    """
    size, stride = STEMS[name]
    settings = {id(stem.convolution): {"kernel_size": (size, size), "strides": (stride, stride)}}
    if stem.padding:
        settings[id(stem.padding)] = {"padding": ((size // 2, size // 2), (size // 2, size // 2))}
    return stem.pooled, settings
