"""Stems of students: a network whose first convolution sees more of the image's positions.

A stem is what stands in front of the first block. ImageNet's, a 7x7 convolution of stride 2 and a max-pool (He et al.
2016, arXiv 1512.03385, table 1), leaves a sixteenth of the positions; of a small image little.
"""

import collections
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

    It is a single way from the image: each layer alone reads what the one before makes, up to the pool.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
    """
    walked = list(nodes.walk(model))
    calls = collections.Counter(id(node.operation) for _, node in walked)
    graphs = [nodes.graph_of(model), *(nodes.graph_of(n.operation) for _, n in walked if nodes.is_model(n.operation))]
    first = next((node for _, node in walked if isinstance(node.operation, keras.layers.Conv2D)), None)
    graph = next((graph for graph in graphs if first in nodes.nodes_of(graph)), None)
    if graph is None or first.operation.data_format != "channels_last":
        return None
    maker, readers = {}, collections.defaultdict(list)
    for node in nodes.nodes_of(graph):
        maker |= {id(tensor): node for tensor in node.outputs}
        for tensor in node.input_tensors:
            readers[id(tensor)].append(node)

    def alone(node):
        """Whether a layer is called once, and nothing else reads what it does."""
        return calls[id(node.operation)] == 1 and readers[id(node.input_tensors[0])] == [node]

    before = maker.get(id(first.input_tensors[0]))
    padded = before is not None and isinstance(before.operation, keras.layers.ZeroPadding2D)
    if not alone(first) or (padded and not alone(before)):
        return None
    convolution, padding = first.operation, before.operation if padded else None
    side = convolution.kernel_size[0] // 2
    if padding.padding != ((side, side), (side, side)) if padding else convolution.padding != "same":
        return None
    pooled, found = _pool_behind(first, readers, alone), None
    for name, (size, stride) in STEMS.items():
        # a max-pool belongs to the first of STEMS alone
        if convolution.kernel_size == (size, size) and convolution.strides == (stride, stride):
            found = Stem(name, convolution, padding, pooled) if bool(pooled) == (name == "imagenet") else None
    return found


def _pool_behind(node, readers, alone):
    """{id(output of the max-pool behind a convolution): what it, or the padding in front of it, reads}; {} for none."""
    padding = None
    while len(behind := readers[id(node.outputs[0])]) == 1 and alone(behind[0]):
        node, layer = behind[0], behind[0].operation
        if isinstance(layer, keras.layers.MaxPooling2D):
            return {id(node.outputs[0]): (padding or node).input_tensors[0]}
        padding = node if isinstance(layer, keras.layers.ZeroPadding2D) else None
        if padding is None and tuple(node.outputs[0].shape) != tuple(node.input_tensors[0].shape):
            break  # the first block begins
    return {}


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
