"""MACs of what has no channels that could go: kinds without a rule, and those whose rule refused a call.

`rules` tells the work of what follows its channels, term by term (`cost.CostModel`). Here is the rest, a fixed number
of MACs a call: recurrent layers, attention, products of tensors. A kind with a kernel that isn't here either has an
unknown number, NaN, and so has the network: too few MACs would be a wrong figure.
"""

import keras
import numpy as np

from compress.graph.nodes import is_of_keras

NAN = float("nan")


def macs_of(call):
    """Multiply-accumulates of one call of a layer or raw operation for one image.

    Args:
        call: a channels.Call that no rule has told the work of.

    Returns:
        float; NaN where it isn't known: a size is open, or the kind has a kernel and no entry here.
    """
    name = type(call.layer).__name__ if is_of_keras(type(call.layer)) else None
    if not isinstance(call.layer, keras.Layer):
        return OPERATIONS[name](call) if name in OPERATIONS else NAN if name in OTHERS else 0.0
    if name in LAYERS:
        return LAYERS[name](call)
    return NAN if any(len(weight.shape) > 1 for weight in call.layer.weights) else 0.0


def _size(shape, axes=None):
    """Product of the sizes on some axes, or of all but the batch's; NaN where one is open."""
    sizes = shape[1:] if axes is None else [shape[axis] for axis in axes]
    return NAN if None in sizes else float(np.prod(sizes, dtype=float))


def _kernels(layer):
    """Number of weights of a layer's kernels; a bias can have two axes as well."""
    return sum(int(np.prod(weight.shape)) for weight in layer.weights if "kernel" in weight.name)


def _recurrent(call):
    """Every kernel is applied once a step."""
    return _size(call.shapes[0], [1]) * _kernels(call.layer)


def _convolutional(call):
    """ConvLSTM: two kernels at every position of what it makes, once a step."""
    made = call.made[0]
    positions = range(2 if call.layer.return_sequences else 1, len(made) - 1)
    return _size(call.shapes[0], [1]) * _size(made, positions) * _kernels(call.layer)


def _wrapped(call):
    """TimeDistributed and SpectralNormalization, of a layer with one kernel at every position of what it makes."""
    inner = call.layer.layer
    if type(inner) in (keras.layers.Dense, *(getattr(keras.layers, f"Conv{n}D") for n in (1, 2, 3))):
        return _size(call.made[0][:-1]) * _kernels(inner)
    return NAN if any(len(weight.shape) > 1 for weight in inner.weights) else 0.0


def _attention(call):
    """Attention and AdditiveAttention: scores of each query for each key, and the mean of the values by them."""
    query, value = call.shapes[:2]  # then the key, as deep as the query
    return _size(query[:-1]) * _size(value, [-2]) * (query[-1] + value[-1])


def _multi_head(call):
    """A projection of queries, keys, values and of the result, and attention in each head.

    Axes between the batch and the channels that attention isn't taken over (`attention_axes`) are like more images.
    """
    layer, (query, value, key) = call.layer, _given(call, "query", "value", "key")
    key = key or value
    parts = [layer._query_dense, layer._value_dense, layer._key_dense, layer._output_dense]
    parts += [layer._gate_dense] if getattr(layer, "_gate_dense", None) is not None else []
    tokens = [_size(shape[:-1]) for shape in (query, value, key, query, query)]
    projections = sum(count * _kernels(part) for count, part in zip(tokens, parts, strict=False))
    over = getattr(layer, "_attention_axes", None) or range(1, len(query) - 1)
    made = [part.kernel.shape for part in parts[:2]]  # (channels, heads, channels of each)
    return projections + tokens[0] * _size(key, over) * made[0][1] * (made[0][2] + made[1][2])


def _einsum_dense(call):
    return _einsum(call.layer.equation, [call.shapes[0], call.layer.kernel.shape], call.made[0])


def _einsum(equation, shapes, made):
    """MACs of an equation of two tensors: what it makes times what it sums over."""
    inputs, _, out = equation.replace(" ", "").partition("->")
    sizes = {}
    for part, shape in zip(inputs.split(","), shapes, strict=True):
        start, _, end = part.partition("...")
        sizes |= dict(zip(start, shape, strict=False)) | dict(zip(end[::-1], shape[::-1], strict=False))
    return _size(made) * _size([1, *(size for letter, size in sizes.items() if letter not in out)])


def _matmul(call):
    first, _ = _given(call, "x1", "x2")
    return _size(call.made[0]) * _size(first, [-1])


def _einsum_of_tensors(call):
    operands = call.node.arguments.args
    # of more tensors the order decides; without an arrow the result is one of the alphabet's order
    if len(operands) != 2 or "->" not in call.layer.subscripts:
        return NAN
    return _einsum(call.layer.subscripts, [call.shape_of(one) for one in operands], call.made[0])


def _dot(call):
    """The layer Dot: a sum over one axis of each tensor."""
    axes = call.layer.axes
    return _size(call.made[0]) * _size(call.shapes[0], [axes if isinstance(axes, int) else axes[0]])


def _convolution(call):
    """ops.conv and ops.depthwise_conv: the kernel at each position of the output."""
    _, kernel = _given(call, "inputs", "kernel")
    made = call.made[0]
    positions = range(2, len(made)) if call.layer.data_format == "channels_first" else range(1, len(made) - 1)
    return _size(made, positions) * _size([1, *kernel])


def _given(call, *names):
    """Shapes of the first arguments of a call, tensors and constants alike; None for what isn't given."""
    given = dict(zip(names, call.node.arguments.args, strict=False)) | call.node.arguments.kwargs
    return [None if given.get(name) is None else call.shape_of(given[name]) for name in names]


LAYERS = (
    dict.fromkeys(("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional"), _recurrent)
    | dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _convolutional)
    | dict.fromkeys(("TimeDistributed", "SpectralNormalization"), _wrapped)
    | dict.fromkeys(("Attention", "AdditiveAttention"), _attention)
    | dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _multi_head)
    | {"EinsumDense": _einsum_dense, "Dot": _dot}
)
OPERATIONS = {"Matmul": _matmul, "Einsum": _einsum_of_tensors, "Conv": _convolution, "DepthwiseConv": _convolution}
OTHERS = ("ConvTranspose", "SeparableConv", "DotProductAttention", "Dot", "Inner", "Outer", "Vdot", "Tensordot")
