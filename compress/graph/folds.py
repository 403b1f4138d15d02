"""Which batch-normalisations fold into the layer before them, and how such layers hold their output channels."""

import collections

import keras
from keras import layers
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv

from compress.graph import nodes

# {what computes a layer's output: (its last kernel, the axes of it that the output channels are on)}. By `call` and not
# by class: a subclass with a `call` of its own may compute anything.
PRODUCERS = {
    BaseConv.call: ("kernel", (-1,)),
    layers.Conv1D.call: ("kernel", (-1,)),
    BaseConvTranspose.call: ("kernel", (-2,)),
    BaseDepthwiseConv.call: ("kernel", (-2, -1)),
    BaseSeparableConv.call: ("pointwise_kernel", (-1,)),
    layers.Dense.call: ("kernel", (-1,)),
}


def pairs(model):
    """The batch-normalisations that fold into the layer before them.

    That layer is a convolution of any kind or Dense, has no activation, is called once, and its output is read by the
    batch-normalisation alone, which is called once as well and normalises the channels that the layer makes.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Returns:
        {batch-normalisation: layer}.
    """
    walked = [node for _, node in nodes.walk(model)]
    graphs = [nodes.graph_of(model), *(nodes.graph_of(op) for op in _operations(walked) if nodes.is_model(op))]
    reads = collections.Counter(id(tensor) for node in walked for tensor in node.input_tensors)
    reads.update(id(tensor) for graph in graphs for tensor in graph.outputs)
    calls = collections.Counter(node.operation for node in walked)
    made = {id(tensor): node.operation for node in walked for tensor in node.outputs}
    found = {}
    for node in walked:
        norm = node.operation
        if type(norm) is not layers.BatchNormalization:
            continue
        tensor = node.input_tensors[0]
        layer, rank = made.get(id(tensor)), len(tensor.shape)
        once = reads[id(tensor)] == calls[norm] == calls[layer] == 1
        if once and _is_linear(layer) and norm.axis % rank == channels_axis(layer) % rank:
            found[norm] = layer
    return found


def _operations(walked):
    return list(dict.fromkeys(node.operation for node in walked))


def _is_linear(operation):
    """Whether it multiplies what it reads by kernels and adds a bias, and nothing else, in Keras' own code."""
    return (
        getattr(type(operation), "call", None) in PRODUCERS
        and operation.activation in (None, keras.activations.linear)
        and getattr(type(operation), "convolution_op", None) in (None, BaseConv.convolution_op)
    )


def channels_axis(layer):
    """The axis of its output on which a layer of PRODUCERS has its channels."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def kernel_of(layer):
    """The variable of a layer of PRODUCERS that has its output channels."""
    return getattr(layer, PRODUCERS[type(layer).call][0])
