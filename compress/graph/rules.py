"""One entry a kind of layer or raw operation: what it reads and makes, and what of it follows its channels.

A rule is a function of a `channels.Call`. It says which numbers the layer reads (`read`), makes (`make`) or follows
(`follow`), which axes of its variables (`variable`) and which numbers of its config (`setting`) go with them, and
returns the Span of each output. A kind without an entry pins what it touches: the model stays right, only less of it
can be pruned, and `Graph.pinned` says why.

`register` adds a rule for a layer of your own.
"""

import functools

import keras
import numpy as np
from keras import tree

from compress.errors import InputError
from compress.graph import registered, work
from compress.graph.channels import Span, counted, is_keras_tensor
from compress.graph.nodes import is_of_keras

ELEMENTWISE = (  # functions of keras.activations that compute each output from the one input at its place
    *("linear", "relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "celu", "exponential", "softplus"),
    *("softsign", "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink", "leaky_relu", "log_sigmoid", "mish"),
    *("tanh_shrink", "soft_shrink", "squareplus", "sparse_plus", "sparse_sigmoid", "threshold"),
)


def register(kind, rule):
    """Adds a rule for a layer of your own, so that models with it can be read, pruned and trimmed.

    Args:
        kind: the class, a keras.Layer with a `get_config` from which `from_config` makes the layer again.
        rule: function(channels.Call) -> Span of the output, or None where its channels have to stay; a list of them for
            a layer of several outputs.

    Raises:
        InputError: the class is no layer, is one of Keras' own, or is called as one of these.
    """
    if not (isinstance(kind, type) and issubclass(kind, keras.Layer)) or is_of_keras(kind):
        raise InputError(f"`kind`: received {kind!r:.100}; expected a class of your own, derived from keras.Layer")
    if hasattr(keras.layers, kind.__name__):
        raise InputError(
            f"`kind`: received a class {kind.__name__}, which files have for Keras' own layer; expected another name"
        )
    registered.RULES[kind] = rule


def rule_of(operation):
    """The rule of an operation: its own, that of its kind, or `unknown`."""
    if type(operation) in registered.RULES:
        return registered.RULES[type(operation)]
    table = LAYERS if isinstance(operation, keras.Layer) else OPERATIONS
    return table.get(type(operation).__name__, unknown) if is_of_keras(type(operation)) else unknown


def unknown(call):
    """The rule of every kind without an entry."""
    return refused(call, f"{type(call.layer).__name__} has no rule")


def refused(call, why):
    """Refuses a call of a kind with MACs, which are counted all the same."""
    if macs := work.macs_of(call):
        call.work(macs)
    return call.refuse(why)


def is_elementwise(activation):
    """Whether an activation computes each output from the one input at its place."""
    if isinstance(activation, keras.Layer):
        return rule_of(activation) in (same, activated) and is_elementwise(getattr(activation, "activation", None))
    return activation is None or any(activation is getattr(keras.activations, name, 0) for name in ELEMENTWISE)


def makes_zeros(operation, arguments=None):
    """Whether what an operation puts out is zero wherever its input is below a threshold, as behind a ReLU.

    Args:
        operation: a layer or raw operation.
        arguments: of its call, which of max(x, 0) say that it is a ReLU.
    """
    if isinstance(operation, keras.layers.ReLU):
        return not operation.negative_slope
    if not isinstance(operation, keras.Layer):
        kind, given = type(operation).__name__, tree.flatten((arguments.args, arguments.kwargs)) if arguments else ()
        limits = [operation.x_min] if kind == "Clip" else [x for x in given if not is_keras_tensor(x)]
        at_zero = len(limits) == 1 and np.size(limits[0]) == 1 and not np.any(limits[0])
        return is_of_keras(type(operation)) and (kind in ("Relu", "Relu6") or (kind in ("Maximum", "Clip") and at_zero))
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.Layer):
        return makes_zeros(activation)
    return activation is not None and activation in (keras.activations.relu, keras.activations.relu6)


def follows(rule):
    """Marks a rule as one that hands out no channels: it is asked only where an input has some that could go."""

    @functools.wraps(rule)
    def asked(call):
        return rule(call) if call.spans else [None] * len(call.made)

    return asked


# ---- layers that make channels


def channel_axis(layer, rank):
    """The axis of a layer's channels by its data format; the last where it has none."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def behind(call, axis, ids):
    """The Span of a layer's output, pinned where its own activation mixes the channels."""
    span = Span(axis, ids)
    if not is_elementwise(getattr(call.layer, "activation", None)):
        name = getattr(call.layer.activation, "__name__", type(call.layer.activation).__name__)
        call.pin(span, f"the activation {name} mixes channels or has no rule")
    return span


def convolution(call):
    """Kernel (..., channels in / groups, filters). Of a grouped convolution whole groups go."""
    layer, axis = call.layer, channel_axis(call.layer, len(call.shapes[0]))
    read, made, kernel = call.read(axis), call.make(layer.filters), None
    if layer.groups == 1:
        kernel = read
    else:
        groups = read.reshape(layer.groups, -1)
        call.numbers.tie(groups, groups[:, :1])
        call.numbers.tie(made.reshape(layer.groups, -1), groups[:, :1])
        call.setting("groups", groups[:, 0])
    call.variable(layer.kernel, *[None] * layer.rank, kernel, made, positions=call.positions(axis))
    call.variable(layer.bias, made)
    call.setting("filters", made)
    return behind(call, axis, made)


def depthwise(call):
    """Kernel (..., channels in, multiplier): each output has the number of the channel that it is made of."""
    layer, axis = call.layer, channel_axis(call.layer, len(call.shapes[0]))
    read = call.follow(axis)
    made = call.pass_on(np.repeat(read, layer.depth_multiplier))
    call.variable(layer.kernel, *[None] * layer.rank, read, None, positions=call.positions(axis))
    call.variable(layer.bias, made)
    return behind(call, axis, made)


def separable(call):
    """A depthwise convolution with a 1x1 convolution behind it."""
    layer, axis = call.layer, channel_axis(call.layer, len(call.shapes[0]))
    read, made, free = call.read(axis), call.make(layer.filters), [None] * layer.rank
    between = np.repeat(read, layer.depth_multiplier)
    call.variable(layer.depthwise_kernel, *free, read, None, positions=call.positions(axis))
    call.variable(layer.pointwise_kernel, *free, between, made, positions=call.positions(axis))
    call.variable(layer.bias, made)
    call.setting("filters", made)
    return behind(call, axis, made)


def transposed(call):
    """Kernel (..., filters, channels in), applied at every position of the input."""
    layer, axis = call.layer, channel_axis(call.layer, len(call.shapes[0]))
    read, made = call.read(axis), call.make(layer.filters)
    call.variable(layer.kernel, *[None] * layer.rank, made, read, positions=call.positions(axis, call.shapes[0]))
    call.variable(layer.bias, made)
    call.setting("filters", made)
    return behind(call, axis, made)


def dense(call):
    """Kernel (channels in, units), applied at every position of the input."""
    axis = len(call.shapes[0]) - 1
    read, made = call.read(axis), call.make(call.layer.units)
    call.variable(call.layer.kernel, read, made, positions=call.positions(axis))
    call.variable(call.layer.bias, made)
    call.setting("units", made)
    return behind(call, axis, made)


def einsum_dense(call):
    """An equation such as 'abc,cd->abd', in which one axis is read and the last one made."""
    layer = call.layer
    inputs, _, out = layer.equation.partition("->")
    inputs, _, kernel = inputs.partition(",")
    read = [letter for letter in kernel if letter in inputs and letter not in out]
    made = [letter for letter in kernel if letter in out and letter not in inputs]
    plain = len(kernel) == 2 and len(read) == len(made) == 1 and out.endswith(made[0]) and "." not in inputs + out
    if not plain or layer.bias_axes not in (None, made[0]):
        return refused(call, "an EinsumDense has a rule only for a kernel of two axes, one read and the last one made")
    axis = inputs.index(read[0])
    ids = {read[0]: call.read(axis), made[0]: call.make(call.made[0][-1])}
    call.variable(layer.kernel, *(ids[letter] for letter in kernel), positions=call.positions(-1))
    call.variable(layer.bias, ids[made[0]])
    last = len(call.made[0]) - 1
    call.setting("output_shape", ids[made[0]], lambda kept, old: (*tuple(old)[:-1], counted(kept, old)))
    return behind(call, last, ids[made[0]])


def embedding(call):
    """A table (words, channels)."""
    made = call.make(call.layer.output_dim)
    call.variable(call.layer.embeddings, None, made)
    call.setting("output_dim", made)
    return Span(len(call.made[0]) - 1, made)


def attention(call):
    """Multi-head attention: whole heads can go, and what queries, keys and values read.

    Without `output_shape` the layer makes as many channels as the query has, so these are tied.
    """
    layer, arguments = call.layer, call.node.arguments
    named = dict(zip(("query", "value", "key"), arguments.args, strict=False)) | {
        name: value for name, value in arguments.kwargs.items() if name in ("query", "value", "key")
    }
    named = {name: tensor for name, tensor in named.items() if is_keras_tensor(tensor)}
    at = {id(tensor): number for number, tensor in enumerate(call.node.input_tensors)}
    if (
        not {"query", "value"} <= set(named)
        or {id(tensor) for tensor in named.values()} != set(at)
        or len(call.made) > 1
        or layer._use_gate
        or layer._output_shape
    ):
        return refused(call, "MultiHeadAttention has a rule only without mask, gate, output_shape and returned scores")
    named.setdefault("key", named["value"])
    read = {name: call.read(-1, at[id(tensor)], name) for name, tensor in named.items()}
    heads = call.slot("heads", call.wiring.slots.get("heads", call.numbers.new(layer.num_heads)))
    made = call.make(len(read["query"]))
    call.numbers.tie(made, read["query"])
    tokens = {name: call.positions(-1, call.shape_of(tensor)) for name, tensor in named.items()}
    for name, part in (("query", layer.query_dense), ("key", layer.key_dense), ("value", layer.value_dense)):
        call.variable(part.kernel, read[name], heads, None, positions=tokens[name])
        call.variable(part.bias, heads, None)
    call.variable(layer.output_dense.kernel, heads, None, made, positions=tokens["query"])
    call.variable(layer.output_dense.bias, made)
    # scores of each query for each key, and the mean of the values by them
    keys = call.positions(-1, [1, *(call.shape_of(named["key"])[axis] for axis in layer._attention_axes), 1])
    call.work(tokens["query"] * keys * (layer.key_dim + layer.value_dim), heads)
    call.setting("num_heads", heads)
    return Span(len(call.made[0]) - 1, made)


# ---- layers that treat every channel alone


@follows
def same(call):
    """Every element, or every channel, alone, without variables."""
    noise = getattr(call.layer, "noise_shape", None)  # of a Dropout that drops whole rows, say
    if len(call.inputs) > 1 or (noise and noise[call.inputs[0].axis] not in (None, 1)):
        return call.refuse("it has a rule only for one tensor, without a shape of its own")
    return call.inputs[0]


@follows
def spatial(call):
    """Positions are moved or averaged, each channel alone."""
    span = call.inputs[0]
    if span.axis != channel_axis(call.layer, len(call.shapes[0])):
        return call.refuse("it works along the axis of the channels")
    return span


@follows
def pooled(call):
    """One value a channel."""
    span, layer = call.inputs[0], call.layer
    if span.axis != channel_axis(layer, len(call.shapes[0])):
        return call.refuse("it pools over the channels")
    return span if layer.keepdims else Span(1, span.ids)


@follows
def activated(call):
    """Activation."""
    if not is_elementwise(call.layer.activation):
        name = getattr(call.layer.activation, "__name__", type(call.layer.activation).__name__)
        return call.refuse(f"the activation {name} mixes channels or has no rule")
    return call.inputs[0]


@follows
def softmax(call):
    """Shares of a whole: along another axis than the channels' each of them is alone."""
    axes = {axis % len(call.shapes[0]) for axis in tree.flatten(call.layer.axis)}
    if call.inputs[0].axis in axes or len(call.shapes) > 1:
        return call.refuse("a softmax mixes channels")
    return call.inputs[0]


def normalised(call, divisors=(), mixes=False):
    """A normalisation whose variables have one entry a channel.

    Args:
        call: a Call.
        divisors: variables that it divides by.
        mixes: whether one statistic is taken over all channels: then those that stay are normalised otherwise once
            others are gone.
    """
    span, rank = call.inputs[0], len(call.shapes[0])
    if {axis % rank for axis in tree.flatten(call.layer.axis)} != {span.axis}:
        return call.refuse("it normalises another axis than the channels', or several")
    ids = call.follow(span.axis)
    if mixes:
        call.reading.mixed.append(ids)
    for variable in call.layer.weights:
        if variable.shape == (len(ids),):
            call.variable(variable, ids, divides=any(variable is other for other in divisors))
    return Span(span.axis, span.ids)


@follows
def batch_norm(call):
    """gamma, beta, moving_mean and moving_variance (channels,)."""
    if getattr(call.layer, "renorm", False):
        return call.refuse("a batch-normalisation with renorm has no rule")
    return normalised(call, [call.layer.moving_variance])


@follows
def layer_norm(call):
    """gamma and beta (channels,); one mean and variance over all channels."""
    return normalised(call, mixes=True)


@follows
def group_norm(call):
    """gamma and beta (channels,); whole groups go, so that the statistics of the others stay."""
    layer = call.layer
    found = normalised(call, mixes=layer.groups == 1)
    if layer.groups > 1 and isinstance(found, Span):
        groups = found.ids.reshape(layer.groups, -1)
        call.numbers.tie(groups, groups[:, :1])
        call.setting("groups", groups[:, 0])
    return found


@follows
def unit_norm(call):
    """Divides by the length of the vector of channels."""
    span = call.inputs[0]
    if span.axis in {axis % len(call.shapes[0]) for axis in tree.flatten(call.layer.axis)}:
        call.reading.mixed.append(span.ids)
    return span


@follows
def given_statistics(call):
    """Normalization: mean and variance by `adapt`, as variables, or in the config."""
    layer, span = call.layer, call.inputs[0]
    if not layer._keep_axis:  # one mean for all
        return span
    if tuple(layer._keep_axis) != (span.axis,):
        return call.refuse("it normalises another axis than the channels', or several")
    ids = call.follow(span.axis)
    if layer.input_mean is None:
        call.variable(layer.adapt_mean, ids)
        call.variable(layer.adapt_variance, ids, divides=True)
    else:
        for key in ("mean", "variance"):
            if np.size(getattr(layer, f"input_{key}")) > 1:
                call.setting(key, ids, lambda kept, old: np.compress(kept, old, -1).tolist())
    return span


@follows
def prelu(call):
    """alpha (...) has the shape of an input, with 1 along shared axes."""
    span, alpha = call.inputs[0], call.layer.alpha
    ids = call.follow(span.axis)
    axes = [None] * len(alpha.shape)
    if alpha.shape[span.axis - 1] == len(ids):
        axes[span.axis - 1] = ids
    call.variable(alpha, *axes)
    return span


@follows
def rescaled(call):
    """Rescaling: scale and offset are constants that broadcast, one for all, one a channel, or one an element."""
    span = call.inputs[0]
    for key in ("scale", "offset"):
        shape = np.shape(getattr(call.layer, key))
        axis = span.axis - len(call.shapes[0])  # of the channels, counted from the end as broadcasting does
        if len(shape) >= -axis and shape[axis] > 1:
            call.setting(
                key, call.follow(span.axis), lambda kept, old, axis=axis: np.compress(kept, old, axis).tolist()
            )
    return span


@follows
def layer_scale(call):
    """gamma (channels,)."""
    span = call.inputs[0]
    ids = call.follow(-1)
    call.variable(call.layer.gamma, ids)
    call.setting("projection_dim", ids)
    return span


# ---- operations that bring channels together


def paired(adds, call):
    """Element by element with broadcasting: channels that meet are tied.

    Args:
        adds: whether it adds, or takes the larger one: a channel of the result then has several makers.
        call: a Call.
    """
    made, rank = call.made[0], len(call.made[0])
    held = []  # (axis of the output, Span) of those that meet the others channel by channel
    for span, shape in zip(call.inputs, call.shapes, strict=True):
        if span is not None and shape[span.axis] == 1 != made[span.axis + rank - len(shape)]:
            call.pin(span, "a single channel meets all of another tensor")
        elif span is not None:
            held.append((span.axis + rank - len(shape), span))
    if not held:
        return None
    axis, first = held[0]
    if any(other != axis for other, _ in held):
        return call.refuse("channels meet positions")
    for _, span in held[1:]:
        if adds and not np.array_equal(first.ids, span.ids):
            call.reading.added.append(span.ids)
        call.numbers.tie(first.ids, span.ids)
    # What has no numbers, tensors and constants alike, has as many channels as it has: they can't go along.
    constants = [
        np.shape(x)
        for x in tree.flatten((call.node.arguments.args, call.node.arguments.kwargs))
        if not is_keras_tensor(x) and np.ndim(x)
    ]
    fixed = [shape for span, shape in zip(call.inputs, call.shapes, strict=True) if span is None] + constants
    if any(axis - rank + len(shape) >= 0 and shape[axis - rank + len(shape)] != 1 for shape in fixed):
        call.pin(first, "they are paired with channels that have to stay")
    return Span(axis, first.ids)


added = follows(functools.partial(paired, True))
multiplied = follows(functools.partial(paired, False))


@follows
def divided(call):
    """Element by element. Removed channels are 0, so they may not be what is divided by."""
    by = _second(call)
    if any(by is tensor for tensor, span in zip(call.node.input_tensors, call.inputs, strict=True) if span is not None):
        return call.refuse("they are divided by, which a removed channel can't be")
    return multiplied(call)


@follows
def powered(call):
    """A power of each element. Removed channels are 0, which has no negative power."""
    exponent = _second(call)
    if is_keras_tensor(exponent) or np.min(exponent) < 0:
        return call.refuse("a power has a rule only for a constant exponent that isn't negative")
    return multiplied(call)


def _second(call):
    """The second argument of an operation of two."""
    given = call.node.arguments
    return given.args[1] if len(given.args) > 1 else given.kwargs["x2"]


@follows
def concatenated(call):
    """Channels side by side; along another axis all tensors have to have the same ones."""
    axis = call.layer.axis % len(call.made[0])
    if any(span.axis != axis for span in call.spans):
        return (
            multiplied(call)
            if all(shape[call.spans[0].axis] == call.made[0][call.spans[0].axis] for shape in call.shapes)
            else call.refuse("it joins channels to positions")
        )
    return Span(axis, np.concatenate([call.on_axis(axis, number) for number in range(len(call.shapes))]))


@follows
def reduced(call):
    """A sum, mean or the like over some axes."""
    span, rank = call.inputs[0], len(call.shapes[0])
    over = getattr(call.layer, "axis", None)
    axes = set(range(rank)) if over is None else {axis % rank for axis in tree.flatten(over)}
    if span.axis in axes or len(call.shapes) > 1:
        return call.refuse(f"{type(call.layer).__name__} is taken over the channels")
    return Span(span.axis - (0 if call.layer.keepdims else sum(axis < span.axis for axis in axes)), span.ids)


# ---- operations that move data


@follows
def moved(call):
    """An operation that only moves data, run on the numbers of its input."""
    span, shape = call.inputs[0], call.shapes[0]
    if shape[span.axis] > 1:
        return _moved(call)
    # Numbers of a single channel are all the same: where it goes shows only beside a second one.
    two = Span(span.axis, np.arange(2))
    axis = _along(np.asarray(_run_on(call, two, (*shape[: span.axis], 2, *shape[span.axis + 1 :]))[0]))
    return _moved(call, axis[-1])


def _run_on(call, span, shape):
    """The outputs of the operation for an input of channel numbers; 2 stands for a size that is open."""
    numbers = span.ids.reshape([-1 if axis == span.axis else 1 for axis in range(len(shape))])
    numbers = np.broadcast_to(numbers, (1, *(size or 2 for size in shape[1:]))).astype("int32")
    tensor = call.node.input_tensors[0]
    args, kwargs = call.node.arguments.fill_in({id(tensor): keras.ops.convert_to_tensor(numbers)})
    return [np.asarray(out) for out in tree.flatten(call.layer(*args, **kwargs))]


def _along(numbers):
    """The axes that numbers differ along."""
    return [axis for axis in range(1, numbers.ndim) if (numbers != numbers.take([0], axis)).any()]


def _moved(call, alone=-1, open_sizes=True):
    """Spans of what an operation makes of the numbers of its only input; None where it can't be told.

    Args:
        call: a Call.
        alone: the axis of the output where a single channel stands.
        open_sizes: whether it does the same whatever the sizes apart from the channels are.
    """
    span, shape = call.inputs[0], call.shapes[0]
    if len(call.inputs) > 1 or (None in shape[1:] and not open_sizes):
        return call.refuse("it moves several tensors, or one of open size")
    return [_one_axis(call, numbers, alone) for numbers in _run_on(call, span, shape)]


def _one_axis(call, numbers, alone):
    """The Span of numbers that differ along axes; along all but the last of these they become tied."""
    if not numbers.size:
        return call.refuse("it leaves nothing of an open size")[0]
    differ = _along(numbers) or [alone % numbers.ndim]
    flat = np.moveaxis(numbers, differ[-1], 0).reshape(numbers.shape[differ[-1]], -1)
    if flat.shape[1] > 1:
        call.numbers.tie(flat, flat[:, :1])
    return Span(differ[-1], flat[:, 0].astype(int))


def _resized(at):
    """The new value of a target shape whose entry `at` is the number of channels."""
    return lambda kept, old: tuple(
        counted(kept, size) if i == at and size != -1 else size for i, size in enumerate(old)
    )


@follows
def reshaped(call):
    """Reshape, the layer (a target shape without the batch) and the operation (a new shape with it)."""
    spans = _moved(call, open_sizes=False)
    if spans[0] is not None:
        layer = isinstance(call.layer, keras.Layer)
        call.setting("target_shape" if layer else "newshape", spans[0].ids, _resized(spans[0].axis - layer))
    return spans


@follows
def flattened(call):
    """Flatten and ravel: each channel has one place at every position."""
    return _moved(call, open_sizes=False)


@follows
def split(call):
    """Parts along an axis."""
    span, spans = call.inputs[0], _moved(call, call.inputs[0].axis)
    if call.layer.axis % len(call.shapes[0]) == span.axis:
        ends = np.cumsum([shape[span.axis] for shape in call.made])
        call.setting(
            "indices_or_sections", span.ids, lambda kept, old: tuple(int(kept[:end].sum()) for end in ends[:-1])
        )
    return spans


@follows
def sliced(call):
    """x[...] by slices, numbers and new axes; of the channels a plain slice, from start to stop."""
    span, rank = call.inputs[0], len(call.shapes[0])
    key = call.node.arguments.args[1] if len(call.node.arguments.args) > 1 else call.node.arguments.kwargs.get("key")
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(not (isinstance(part, (slice, int)) or part is None or part is Ellipsis) for part in parts):
        return call.refuse("its index has a rule only for numbers, slices and new axes")
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    parts[at : at + 1] = [slice(None)] * (rank - sum(part is not None for part in parts) + 1)
    place = [at for at, part in enumerate(parts) if part is not None][span.axis]  # of the channels' own part
    part, axis = parts[place], place - sum(isinstance(part, int) for part in parts[:place])
    if part == slice(None):
        return _moved(call, axis)
    if not isinstance(part, slice) or (part.step or 1) != 1:
        return call.refuse("it takes channels by more than a plain slice")
    start, stop, _ = part.indices(len(span.ids))

    def cut(kept, given):
        new = slice(int(kept[:start].sum()), int(kept[:stop].sum()))
        return (given[0], tuple(new if at == place else other for at, other in enumerate(parts)))

    call.argument(span.ids, cut)
    return _moved(call, axis)


@follows
def padded(call):
    """ops.pad; zeros that are put beside the channels are channels of their own, and can go."""
    span, layer = call.inputs[0], call.layer
    before, after = layer.pad_width[span.axis if len(layer.pad_width) > 1 else 0]
    if layer.mode != "constant" or len(call.shapes) > 1:
        return call.refuse("a padding by more than a constant has no rule")
    if not before and not after:
        return span
    ids = call.slot("padding", call.wiring.slots.get("padding", call.numbers.new(before + after)))
    ids = np.concatenate([ids[:before], span.ids, ids[before:]])

    def widths(kept, old):
        ends = int(kept[:before].sum()), int(kept[len(kept) - after :].sum())
        return tuple(ends if axis == span.axis else tuple(pair) for axis, pair in enumerate(layer.pad_width))

    if len(layer.pad_width) == 1:
        return call.refuse("a padding of all axes alike has no rule")
    call.setting("pad_width", ids, widths)
    return Span(span.axis, ids)


@follows
def stacked(call):
    """Stack: tensors of the same channels along a new axis."""
    first, axis = call.spans[0], call.layer.axis % len(call.made[0])
    if len(call.spans) < len(call.inputs) or any(span.axis != first.axis for span in call.spans):
        return call.refuse("it stacks channels on others that have to stay")
    for span in call.spans[1:]:
        call.numbers.tie(first.ids, span.ids)
    return Span(first.axis + (axis <= first.axis), first.ids)


def _ranks(name, ranks=(1, 2, 3)):
    return [f"{name}{rank}D" for rank in ranks]


def _table(*entries):
    return {name: rule for rule, names in entries for name in names}


LAYERS = _table(
    (convolution, _ranks("Conv")),
    (depthwise, _ranks("DepthwiseConv", (1, 2))),
    (separable, _ranks("SeparableConv", (1, 2))),
    (transposed, [f"Conv{rank}DTranspose" for rank in (1, 2, 3)]),
    (dense, ["Dense"]),
    (einsum_dense, ["EinsumDense"]),
    (embedding, ["Embedding"]),
    (attention, ["MultiHeadAttention"]),
    (batch_norm, ["BatchNormalization"]),
    (layer_norm, ["LayerNormalization", "RMSNormalization"]),
    (group_norm, ["GroupNormalization"]),
    (unit_norm, ["UnitNormalization"]),
    (given_statistics, ["Normalization"]),
    (prelu, ["PReLU"]),
    (rescaled, ["Rescaling"]),
    (layer_scale, ["LayerScale"]),
    (activated, ["Activation"]),
    (softmax, ["Softmax"]),
    (same, ["ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization", "StochasticDepth"]),
    (same, ["Dropout", *_ranks("SpatialDropout"), "AlphaDropout", "GaussianDropout", "GaussianNoise"]),
    (spatial, [*_ranks("ZeroPadding"), *_ranks("Cropping"), *_ranks("UpSampling"), "Resizing"]),
    (spatial, [*_ranks("MaxPooling"), *_ranks("AveragePooling")]),
    (spatial, [*_ranks("AdaptiveMaxPooling"), *_ranks("AdaptiveAveragePooling")]),
    (pooled, [*_ranks("GlobalAveragePooling"), *_ranks("GlobalMaxPooling")]),
    (added, ["Add", "Subtract", "Average", "Maximum", "Minimum", "CustomScaleLayer"]),
    (multiplied, ["Multiply"]),
    (concatenated, ["Concatenate"]),
    (reshaped, ["Reshape"]),
    (flattened, ["Flatten"]),
    (moved, ["Permute", "RepeatVector"]),
)
OPERATIONS = _table(
    (same, ["Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSilu"]),
    (same, ["LeakyRelu", "Softplus", "Softsign", "LogSigmoid", "Absolute", "Abs", "Square", "Sqrt", "Exp"]),
    (same, ["Log1p", "Negative", "Clip", "Cast", "Copy", "StopGradient", "Identity", "Sign"]),
    (same, ["Erf", "Sin", "Cos", "HardTanh", "Mish", "Squareplus", "TanhShrink"]),
    (added, ["Add", "Subtract", "Maximum", "Minimum"]),
    (multiplied, ["Multiply"]),
    (divided, ["Divide", "TrueDivide"]),
    (powered, ["Power"]),
    (concatenated, ["Concatenate"]),
    (stacked, ["Stack"]),
    (reduced, ["Mean", "Max", "Min", "Amax", "Amin", "Sum", "Prod", "Std", "Var"]),
    (softmax, ["Softmax", "LogSoftmax"]),
    (reshaped, ["Reshape"]),
    (flattened, ["Ravel"]),
    (moved, ["Transpose", "Squeeze", "ExpandDims", "Swapaxes", "Moveaxis", "Flip"]),
    (split, ["Split"]),
    (sliced, ["GetItem"]),
    (padded, ["Pad"]),
)
