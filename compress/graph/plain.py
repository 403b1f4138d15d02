"""Rewrites raw operations and private layers of a model into public layers of Keras, which every file format holds.

A graph has raw operations where its author wrote `x + y` or `x / 127.5 - 1`. `.keras` holds them; a model with them in
`.h5` can't be opened again, nor one with the private layers of keras.applications (LayerScale of ConvNeXt,
CustomScaleLayer of InceptionResNetV2).

What a rewritten model answers is equal to the bit, but for a division by a constant, which becomes the multiplication
by its reciprocal, x**2, which becomes x * x, and a mean over channels, whose sum is taken in another order: those agree
to 1e-6 of the largest number.
"""

import contextlib
import dataclasses
import itertools
import math

import keras
import numpy as np
from keras import layers

from compress.errors import InputError
from compress.graph import nodes, registered

MOST_PIECES = 64  # into which a tensor is cut to turn its order
LAYERS = vars(layers)


class _NoLayer(ValueError):
    """No public layer does the same."""


@dataclasses.dataclass
class Call:
    """One call of an operation that is to be rewritten.

    Attributes:
        operation: the keras.Operation.
        name: of the last layer in its place; those before it are called so with a number behind it.
        tensors: the keras.KerasTensors among its arguments, in order.
        given: all its arguments, in order: tensors, numbers, arrays, cuts.
        outputs: the keras.KerasTensors that it gave, for shapes and types.
        taken: names in the model, to which `inner` adds.
    """

    operation: object
    name: str
    tensors: list
    given: list
    outputs: list
    taken: set

    def inner(self):
        """A name, not in the model yet, for another layer in front of the last one."""
        name = next(name for n in itertools.count(1) if (name := f"{self.name}_{n}") not in self.taken)
        self.taken.add(name)
        return name

    @property
    def dtype(self):
        return self.outputs[0].dtype


def in_public_layers(model):
    """A model that computes the same with public layers of Keras alone, so that .h5 holds it.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Returns:
        The model itself, if .h5 holds it; else a new one of the same layers' names, shapes and weights.

    Raises:
        InputError: it has no graph, or an operation that no public layer expresses.
    """
    is_held = all(_is_public(node.operation) for _, node in nodes.walk(model)) and not _has_namesakes(model)
    return model if is_held else _rewritten(model, "", {})


def _has_namesakes(model):
    """Whether a model inside has two weights of one name, as two models in it may have: .h5 lists them together."""
    for layer in model.layers:
        paths = [weight.path for weight in layer.weights] if nodes.is_model(layer) else ()
        if len(set(paths)) < len(paths):
            return True
    return False


def _is_public(operation):
    if nodes.is_model(operation) or type(operation) in registered.RULES:
        return True
    return isinstance(operation, keras.Layer) and LAYERS.get(type(operation).__name__) is type(operation)


def _rewritten(model, path, clones):
    """A new functional model.

    Args:
        model: the old one.
        path: of the model itself, ending in '/', or ''.
        clones: {id of an operation: (it, what stands for it)} of all models so far, which grows: a layer that two
            models share stays one.
    """
    graph = nodes.graph_of(model)
    values = {
        id(tensor): keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name)
        for tensor in graph.inputs
    }
    taken = {node.operation.name for node in nodes.nodes_of(graph)}
    # Within the scope the weights of a model inside have its name in front of their own.
    with keras.name_scope(model.name) if path else contextlib.nullcontext():
        for node in nodes.nodes_of(graph):
            operation = node.operation
            args, kwargs = node.arguments.fill_in(values)
            if _is_public(operation):
                if id(operation) not in clones:
                    clones[id(operation)] = operation, _clone(operation, path, clones)
                made = clones[id(operation)][1](*args, **kwargs)
            else:
                made = _in_layers(node, [*args, *kwargs.values()], taken, path)
            values |= {id(old): new for old, new in zip(node.outputs, keras.tree.flatten(made), strict=True)}
    begin, end = ([values[id(tensor)] for tensor in tensors] for tensors in (graph.inputs, graph.outputs))
    new = keras.Model(begin[0] if len(begin) == 1 else begin, end[0] if len(end) == 1 else end, name=model.name)
    for old, clone in clones.values():
        if not nodes.is_model(old):
            clone.set_weights(old.get_weights())
            if isinstance(clone, layers.Normalization):
                clone.finalize_state()
    if not model.trainable:
        new.trainable = False
    return new


def _clone(operation, path, clones):
    """A layer like another, or a model rewritten; its weights follow once it is built."""
    if nodes.is_model(operation):
        return _rewritten(operation, f"{path}{operation.name}/", clones)
    return type(operation).from_config(operation.get_config())


def _in_layers(node, given, taken, path):
    """What layers in the place of an operation give; InputError where there are none.

    Args:
        node: its call.
        given: list of its arguments.
        taken: names in the model, which grow.
        path: of the model around it.
    """
    operation, kind = node.operation, type(node.operation).__name__
    if given and isinstance(given[0], (list, tuple)) and kind not in ("GetItem",):
        given = [*given[0], *given[1:]]
    tensors = [item for item in given if isinstance(item, keras.KerasTensor)]
    call = Call(operation, operation.name, tensors, given, node.outputs, taken)
    try:
        if kind not in REWRITES:
            raise _NoLayer
        return REWRITES[kind](call)
    except _NoLayer:
        raise InputError(
            f"{path}{operation.name}: received the operation {kind} of {tuple(tensors[0].shape) if tensors else ()}, "
            "which no layer of Keras stands for and .h5 can't hold; expected a file that ends in .keras"
        ) from None


# ---- arithmetic ----


def _merged(layer):
    """A rewrite of an operation of two tensors by a merging layer, or of a tensor and a constant by a Rescaling."""

    def rewrite(call):
        if len(call.tensors) == 2 and len(call.given) == 2:
            # Operations line shapes up at their ends, merging layers at their beginnings.
            if layer is None or len({len(tensor.shape) for tensor in call.tensors}) > 1:
                raise _NoLayer
            return layer(name=call.name, dtype=call.dtype)(call.tensors)
        return _scaled(call)

    return rewrite


def _scaled(call):
    """A tensor and a constant: x + c, c - x, x * c, x / c."""
    kind = type(call.operation).__name__
    if len(call.tensors) != 1 or len(call.given) != 2 or not call.dtype.startswith(("float", "bfloat")):
        raise _NoLayer
    is_first = isinstance(call.given[0], keras.KerasTensor)
    number = np.asarray(call.given[1 if is_first else 0], np.float64)
    if number.ndim > len(call.tensors[0].shape) or (
        kind in ("Divide", "TrueDivide") and not (is_first and number.all())
    ):
        raise _NoLayer
    scale, offset = 1.0, 0.0
    if kind == "Add":
        offset = number
    elif kind == "Subtract":
        scale, offset = (1.0, -number) if is_first else (-1.0, number)
    else:
        scale = number if kind == "Multiply" else 1 / number
    return _rescaled(call.tensors[0], scale, offset, call.name, call.dtype)


def _rescaled(tensor, scale, offset, name, dtype):
    return layers.Rescaling(np.asarray(scale).tolist(), np.asarray(offset).tolist(), name=name, dtype=dtype)(tensor)


def _limited(layer):
    """Maximum and Minimum; max(x, 0) is a ReLU."""

    def rewrite(call):
        if len(call.tensors) == 2:
            return _merged(layer)(call)
        numbers = [item for item in call.given if not isinstance(item, keras.KerasTensor)]
        if layer is not layers.Maximum or len(numbers) != 1 or np.size(numbers[0]) != 1 or float(numbers[0]) != 0:
            raise _NoLayer
        return layers.ReLU(name=call.name, dtype=call.dtype)(call.tensors[0])

    return rewrite


def _clipped(call):
    low, high = call.operation.x_min, call.operation.x_max
    if np.ndim(low) or np.ndim(high) or float(low) != 0 or not float(high) > 0:
        raise _NoLayer
    return layers.ReLU(float(high), name=call.name, dtype=call.dtype)(call.tensors[0])


def _squared(call):
    (tensor,) = call.tensors
    return layers.Multiply(name=call.name, dtype=call.dtype)([tensor, tensor])


def _powered(call):
    if len(call.tensors) != 1 or isinstance(call.given[1], keras.KerasTensor) or np.size(call.given[1]) != 1:
        raise _NoLayer
    if float(call.given[1]) != 2:
        raise _NoLayer
    return _squared(call)


def _absolute(call):
    (tensor,) = call.tensors
    negative = _rescaled(tensor, -1.0, 0.0, call.inner(), call.dtype)
    return layers.Maximum(name=call.name, dtype=call.dtype)([tensor, negative])


def _cast(call):
    (tensor,) = call.tensors
    if not call.dtype.startswith(("float", "bfloat")):
        raise _NoLayer
    return _rescaled(tensor, 1.0, 0.0, call.name, call.dtype)


def _activation(name, **settings):
    """A rewrite by an activation of Keras, for an operation that has no other settings than these."""

    def rewrite(call):
        if any(getattr(call.operation, key) != value for key, value in settings.items()):
            raise _NoLayer
        return layers.Activation(name, name=call.name, dtype=call.dtype)(call.tensors[0])

    return rewrite


def _with_setting(layer, key):
    """A rewrite by a layer that has one setting of the operation's."""

    def rewrite(call):
        setting = {key: getattr(call.operation, key)}
        return layer(**setting, name=call.name, dtype=call.dtype)(call.tensors[0])

    return rewrite


# ---- numbers that move ----


def _shaped(call):
    """A rewrite by a Reshape: the batch stays, and the numbers of an image keep their order."""
    (tensor,), (output,) = call.tensors, call.outputs
    return _reshaped(tensor, output.shape[1:], call.name)


def _reshaped(tensor, shape, name):
    sizes = [math.prod(side or 0 for side in sides) for sides in (tensor.shape[1:], shape)]
    if None in shape and (None not in tensor.shape[1:] or shape.count(None) > 1):
        raise _NoLayer
    if sizes[0] != sizes[1] or (not sizes[0] and None not in shape):
        raise _NoLayer
    return layers.Reshape([-1 if side is None else side for side in shape], name=name, dtype=tensor.dtype)(tensor)


def _permuted(order_of):
    """A rewrite by a Permute; `order_of` gives the order of all axes from the operation and the number of axes."""

    def rewrite(call):
        (tensor,) = call.tensors
        order = list(order_of(call.operation, len(tensor.shape)))
        if order[0] != 0:
            raise _NoLayer
        return layers.Permute(order[1:], name=call.name, dtype=tensor.dtype)(tensor)

    return rewrite


def _transposed(operation, rank):
    return operation.axes if operation.axes is not None else range(rank)[::-1]


def _swapped(operation, rank):
    order = list(range(rank))
    one, other = operation.axis1 % rank, operation.axis2 % rank
    order[one], order[other] = other, one
    return order


def _moved(operation, rank):
    source, target = (np.atleast_1d(axes) % rank for axes in (operation.source, operation.destination))
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(target.tolist(), source.tolist(), strict=True)):
        order.insert(place, axis)
    return order


def _cut(tensor, axis, start, stop, name):
    """The numbers from start to stop, without stop, of an axis of a tensor of up to four axes."""
    rank, size, kind = len(tensor.shape), tensor.shape[axis], tensor.dtype
    if size is None or axis == 0 or rank > 4:
        raise _NoLayer
    crop = (start, size - stop)
    if rank == 4:  # the channels are brought to the place of the columns, and back
        at_columns = [1, 3, 2]
        if axis == 3:
            tensor = layers.Permute(at_columns, name=f"{name}_columns", dtype=kind)(tensor)
        crops = (crop, (0, 0)) if axis == 1 else ((0, 0), crop)
        tensor = layers.Cropping2D(crops, name=f"{name}_cut", dtype=kind)(tensor)
        return layers.Permute(at_columns, name=f"{name}_back", dtype=kind)(tensor) if axis == 3 else tensor
    if rank == 2:
        tensor = _reshaped(tensor, (size, 1), f"{name}_steps")
    elif axis == 2:
        tensor = layers.Permute([2, 1], name=f"{name}_steps", dtype=kind)(tensor)
    tensor = layers.Cropping1D(crop, name=f"{name}_cut", dtype=kind)(tensor)
    if rank == 2:
        return _reshaped(tensor, (stop - start,), f"{name}_back")
    return layers.Permute([2, 1], name=f"{name}_back", dtype=kind)(tensor) if axis == 2 else tensor


def _turned(tensor, axis, call):
    """A tensor in the opposite order along an axis."""
    size = tensor.shape[axis]
    if size is None or not 1 < size <= MOST_PIECES:
        raise _NoLayer
    pieces = [_cut(tensor, axis, place, place + 1, call.inner()) for place in range(size)[::-1]]
    return layers.Concatenate(axis=axis, name=call.inner(), dtype=tensor.dtype)(pieces)


def _flipped(call):
    (tensor,), axis = call.tensors, call.operation.axis
    axes = [axis] if isinstance(axis, int) else axis
    if axes is None:
        raise _NoLayer
    for axis in axes:
        tensor = _turned(tensor, axis % len(tensor.shape), call)
    return layers.Identity(name=call.name, dtype=tensor.dtype)(tensor)


def _picked(call):
    """x[:, 2:5], x[..., ::-1], x[:, 0], x[..., None]."""
    tensor, key = call.given[0], call.given[1]
    key = list(key) if isinstance(key, (list, tuple)) else [key]
    if any(item is not None and item is not ... and not isinstance(item, (int, slice)) for item in key):
        raise _NoLayer
    axes = sum(item is not None and item is not ... for item in key)
    fill = [slice(None)] * (len(tensor.shape) - axes)
    place = next((i for i, item in enumerate(key) if item is ...), len(key))
    key = [*key[:place], *fill, *key[place + 1 :]]
    strides = {}
    for axis, index in enumerate([item for item in key if item is not None]):
        size = tensor.shape[axis]
        item = slice(index, (index + 1) or None) if isinstance(index, int) else index
        if item == slice(None):
            continue
        if axis == 0 or size is None:
            raise _NoLayer
        start, stop, step = item.indices(size)
        if step == -1 and len(range(start, stop, step)) == size:
            tensor = _turned(tensor, axis, call)
            continue
        if step < 1 or stop <= start:
            raise _NoLayer
        if (start, stop) != (0, size):
            tensor = _cut(tensor, axis, start, stop, call.inner())
        if step > 1:
            strides[axis] = step
    tensor = _strided(tensor, strides, call)
    (output,) = call.outputs
    if tuple(tensor.shape) != tuple(output.shape):
        return _reshaped(tensor, output.shape[1:], call.name)
    return layers.Identity(name=call.name, dtype=tensor.dtype)(tensor)


def _strided(tensor, strides, call):
    """Every so many rows and columns: a max-pooling over one position."""
    if not strides:
        return tensor
    if len(tensor.shape) != 4 or 3 in strides:
        raise _NoLayer
    steps = strides.get(1, 1), strides.get(2, 1)
    return layers.MaxPooling2D(1, steps, name=call.inner(), dtype=tensor.dtype)(tensor)


def _split(call):
    (tensor,), parts = call.tensors, call.operation.indices_or_sections
    axis = call.operation.axis % len(tensor.shape)
    size = tensor.shape[axis]
    if size is None:
        raise _NoLayer
    ends = [size // parts * place for place in range(1, parts)] if isinstance(parts, int) else list(parts)
    pieces = zip([0, *ends], [*ends, size], strict=True)
    return [_cut(tensor, axis, start, stop, call.inner()) for start, stop in pieces]


def _joined(call):
    return layers.Concatenate(axis=call.operation.axis, name=call.name, dtype=call.dtype)(call.tensors)


def _stacked(call):
    (output,) = call.outputs
    axis = call.operation.axis % len(output.shape)
    if axis == 0:
        raise _NoLayer
    shape = [1 if place == axis else side for place, side in enumerate(output.shape)][1:]
    pieces = [_reshaped(tensor, tuple(shape), call.inner()) for tensor in call.tensors]
    return layers.Concatenate(axis=axis, name=call.name, dtype=call.dtype)(pieces)


def _padded(call):
    (tensor,), widths = call.tensors, call.operation.pad_width
    widths = [[width, width] if isinstance(width, int) else list(width) for width in widths]
    value = next((item for item in call.given[1:] if item is not None), 0)
    if call.operation.mode != "constant" or value != 0 or len(tensor.shape) != 4 or len(widths) != 4 or any(widths[0]):
        raise _NoLayer
    if any(widths[3]):  # the channels, brought to the place of the columns, and back
        tensor = layers.Permute([1, 3, 2], name=call.inner(), dtype=call.dtype)(tensor)
        tensor = layers.ZeroPadding2D([[0, 0], widths[3]], name=call.inner(), dtype=call.dtype)(tensor)
        tensor = layers.Permute([1, 3, 2], name=call.inner(), dtype=call.dtype)(tensor)
    return layers.ZeroPadding2D(widths[1:3], name=call.name, dtype=call.dtype)(tensor)


def _resized(call):
    (tensor,), operation = call.tensors, call.operation
    if operation.antialias or operation.pad_to_aspect_ratio or operation.data_format != "channels_last":
        raise _NoLayer
    return layers.Resizing(
        *operation.size, operation.interpolation, operation.crop_to_aspect_ratio, name=call.name, dtype=call.dtype
    )(tensor)


def _reduced(kind):
    """A mean or maximum over positions, or over channels where the size of the map is known."""

    def rewrite(call):
        (tensor,), operation = call.tensors, call.operation
        rank = len(tensor.shape)
        axes = range(rank) if operation.axis is None else np.atleast_1d(operation.axis).tolist()
        axes, keep = sorted(axis % rank for axis in axes), bool(operation.keepdims)
        if axes == list(range(1, rank - 1)) and rank in (3, 4, 5):
            pool = LAYERS[f"Global{kind}Pooling{rank - 2}D"]
            return pool(keepdims=keep, name=call.name, dtype=call.dtype)(tensor)
        if axes != [rank - 1] or rank == 2:
            raise _NoLayer
        steps = math.prod(side or 0 for side in tensor.shape[1:-1])
        if not steps:
            raise _NoLayer
        flat = _reshaped(tensor, (steps, tensor.shape[-1]), call.inner())
        pool = LAYERS[f"Global{kind}Pooling1D"](data_format="channels_first", name=call.inner(), dtype=call.dtype)
        return _reshaped(pool(flat), call.outputs[0].shape[1:], call.name)

    return rewrite


# ---- private layers of keras.applications ----


def _custom_scale(call):
    """InceptionResNetV2's: the first plus a multiple of the second."""
    stream, branch = call.tensors
    scaled = _rescaled(branch, call.operation.scale, 0.0, call.inner(), call.dtype)
    return layers.Add(name=call.name, dtype=call.dtype)([stream, scaled])


def _layer_scale(call):
    """ConvNeXt's: a number for each channel."""
    (tensor,) = call.tensors
    if len(tensor.shape) != 4:
        raise _NoLayer
    layer = layers.DepthwiseConv2D(1, use_bias=False, name=call.name, dtype=call.operation.dtype_policy)
    output = layer(tensor)
    layer.set_weights([np.asarray(call.operation.gamma).reshape(1, 1, -1, 1)])
    return output


def _stochastic_depth(call):
    """ConvNeXt's: a whole image or nothing of it, in training."""
    (tensor,) = call.tensors
    noise = (None, *[1] * (len(tensor.shape) - 1))
    return layers.Dropout(call.operation.drop_path_rate, noise_shape=noise, name=call.name, dtype=call.dtype)(tensor)


REWRITES = {
    "Add": _merged(layers.Add),
    "Subtract": _merged(layers.Subtract),
    "Multiply": _merged(layers.Multiply),
    "Divide": _merged(None),
    "TrueDivide": _merged(None),
    "Maximum": _limited(layers.Maximum),
    "Minimum": _limited(layers.Minimum),
    "Negative": lambda call: _rescaled(call.tensors[0], -1.0, 0.0, call.name, call.dtype),
    "Clip": _clipped,
    "Square": _squared,
    "Power": _powered,
    **dict.fromkeys(("Absolute", "Abs"), _absolute),
    "Cast": _cast,
    "Relu": _activation("relu"),
    "Relu6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Silu": _activation("silu"),
    "Selu": _activation("selu"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "LogSigmoid": _activation("log_sigmoid"),
    "LogSoftmax": _activation("log_softmax", axis=-1),
    "Exp": _activation("exponential"),
    "Gelu": _activation("gelu", approximate=False),
    "Elu": _with_setting(layers.ELU, "alpha"),
    "LeakyRelu": _with_setting(layers.LeakyReLU, "negative_slope"),
    "Softmax": _with_setting(layers.Softmax, "axis"),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), _shaped),
    "Transpose": _permuted(_transposed),
    "Swapaxes": _permuted(_swapped),
    "Moveaxis": _permuted(_moved),
    "Flip": _flipped,
    "GetItem": _picked,
    "Split": _split,
    "Concatenate": _joined,
    "Stack": _stacked,
    "Pad": _padded,
    "Resize": _resized,
    "Mean": _reduced("Average"),
    **dict.fromkeys(("Max", "Amax"), _reduced("Max")),
    "CustomScaleLayer": _custom_scale,
    "LayerScale": _layer_scale,
    "StochasticDepth": _stochastic_depth,
}
