"""Operations that a config has beside layers, such as x / 127.5 - 1, x[..., ::-1] or functions of TensorFlow.

tf.keras (Keras 2) writes them as TFOpLambda with the name of a TensorFlow function, Keras 3 as classes of keras.ops.
Here both become the same names, those of Keras 3.
"""

import dataclasses

import numpy as np

from compress.graph.reader import Step, Unread

# {TensorFlow's function in a config of tf.keras: Keras 3's class}
FUNCTIONS = {
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
    "math.subtract": "Subtract",
    "math.add": "Add",
    "math.multiply": "Multiply",
    "math.negative": "Negative",
    "nn.bias_add": "Add",
    "__operators__.add": "Add",
    "__operators__.sub": "Subtract",
    "__operators__.mul": "Multiply",
    "__operators__.truediv": "TrueDivide",
    "__operators__.getitem": "GetItem",
    "cast": "Cast",
    "nn.relu": "Relu",
    "nn.relu6": "Relu6",
    "nn.silu": "Silu",
    "nn.swish": "Silu",
    "nn.sigmoid": "Sigmoid",
    "math.sigmoid": "Sigmoid",
    "nn.tanh": "Tanh",
    "math.tanh": "Tanh",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "math.square": "Square",
    "math.sqrt": "Sqrt",
    "math.rsqrt": "Rsqrt",
    "math.exp": "Exp",
    "math.reduce_max": "Max",
    "math.reduce_sum": "Sum",
    "nn.softmax": "Softmax",
    "math.reduce_mean": "Mean",
    "identity": "Identity",
    "stack": "Stack",
    "concat": "Concatenate",
    "reverse": "Flip",
}

# {Keras 3's class: module}, and those of its arguments that Keras 3 writes into the config of the operation
OPERATIONS = dict.fromkeys(
    (
        "Add",
        "Subtract",
        "Multiply",
        "TrueDivide",
        "Divide",
        "Negative",
        "GetItem",
        "Stack",
        "Concatenate",
        "Flip",
        "Mean",
        "Max",
        "Sum",
        "Maximum",
        "Minimum",
        "Square",
        "Sqrt",
        "Exp",
        "Tanh",
    ),
    "keras.src.ops.numpy",
) | {
    **dict.fromkeys(("Relu", "Relu6", "Silu", "Sigmoid", "Softmax"), "keras.src.ops.nn"),
    "Cast": "keras.src.ops.core",
    "Rsqrt": "keras.src.ops.math",
}
SETTINGS = {
    **dict.fromkeys(("Mean", "Max", "Sum"), ("axis", "keepdims")),
    "Cast": ("dtype",),
    **dict.fromkeys(("Stack", "Concatenate", "Flip", "Softmax"), ("axis",)),
}
TENSORFLOW = ("TFOpLambda", "SlicingOpLambda")


@dataclasses.dataclass
class Part:
    """One elementary operation. A Conv2D with activation='relu' has two: 'conv' and 'relu'.

    Attributes:
        what: 'same' (the identity), 'affine', 'normalization', 'conv', 'norm', 'dense', 'relu', 'softmax', 'pad',
            'max pool', 'average pool', 'mean' or 'max' (over positions), 'flat', 'add', 'cast', 'pick', 'stack',
            'batches' (a stack of batches), 'flip', 'lambda' or 'image'.
        step: the reader.Step that it belongs to.
        values: dict of its settings.
    """

    what: str
    step: Step
    values: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        return str(self.step)


def plain(step):
    """A step that calls a TensorFlow function, under Keras 3's name of it; any other step unchanged."""
    function = step.config.get("function") if step.kind in TENSORFLOW else None
    function = function.removeprefix("compat.v1.") if isinstance(function, str) else None
    if function not in FUNCTIONS:
        return step
    return dataclasses.replace(
        step, kind=FUNCTIONS[function], kwargs={key: item for key, item in step.kwargs.items() if key != "name"}
    )


def as_of_keras(step):
    """How Keras 3 writes an operation that was a function of TensorFlow.

    The config of an old file is written this way for Keras 3 to open.

    Args:
        step: from `plain`.

    Returns:
        (class, settings, arguments): dict of its config, list of its inputs.

    Raises:
        Unread: Keras 3 has no such operation.
    """
    if step.kind not in OPERATIONS:
        raise Unread(f"{step}, which Keras 3 can't open")
    given, settings = dict(step.kwargs), {}
    for key in SETTINGS.get(step.kind, ()):
        if key in given:
            settings[key] = given.pop(key)
    if step.kind == "GetItem":  # Keras 3 writes slices and the ellipsis of an index as dicts
        items = [
            {"class_name": "__ellipsis__", "config": {}}
            if item is ...
            else {"class_name": "__slice__", "config": {"start": item.start, "stop": item.stop, "step": item.step}}
            if isinstance(item, slice)
            else item
            for item in map(_index, _key(step))
        ]
        return step.kind, settings, [step.args[0], items]
    # Stack and Concatenate take one list of tensors; all other operations take their tensors one by one.
    arguments = [*step.args, *given.values()]
    many = step.kind in ("Stack", "Concatenate") and not isinstance(arguments[0], list)
    return step.kind, settings, [arguments] if many else arguments


def mean(step):
    """[Part] of a mean over height and width; Unread for other axes."""
    axis = step.config.get("axis", step.kwargs.get("axis", step.args[1] if len(step.args) > 1 else None))
    if axis not in ([1, 2], [-3, -2], [2, 1]):
        raise Unread(f"{step} over axis {axis}; expected the positions, [1, 2]")
    return [Part("mean", step)]


def binary(step):
    """[Part] of +, -, * or / with two operands: the sum of two tensors, or a tensor and a constant; else Unread."""
    if len(step.inputs) == 2:
        if step.kind != "Add":
            raise Unread(f"{step} of two tensors")
        return [Part("add", step)]
    given = [*step.args, *(step.kwargs[key] for key in ("x1", "x2", "x", "y", "value", "bias") if key in step.kwargs)]
    if len(step.inputs) != 1 or len(given) != 2:
        raise Unread(f"{step} of {len(step.inputs)} tensors")
    # first: the tensor is the first operand. x - 1 is x + (-1), but 1 - x is -x + 1, and 1 / x isn't affine at all.
    first = not isinstance(given[1], type(given[0])) and _is_ref(given[0])
    number = constant(given[1 if first else 0], step)
    one, zero = np.ones(()), np.zeros(())
    if step.kind in ("TrueDivide", "Divide"):
        if not first or not np.all(number):
            raise Unread(f"{step}, which divides by what it reads, or by 0")
        scale, offset = 1 / number, zero
    elif step.kind == "Multiply":
        scale, offset = number, zero
    elif step.kind == "Subtract":
        scale, offset = (one, -number) if first else (-one, number)
    else:
        scale, offset = one, number
    return [Part("affine", step, {"scale": scale, "offset": offset})]


def _is_ref(value):
    return hasattr(value, "step")


def constant(value, step):
    """A constant of a config as float64 (channels,) or ().

    Args:
        value: a number, a list of numbers, or such in the form {'config': {'value': ...}}.
        step: that it belongs to, for the message.

    Raises:
        Unread: it is no number, not finite, or differs between positions.
    """
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("value")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise Unread(f"{step} with {value!s:.60} where numbers are expected") from None
    if array.size != array.shape[-1:][0] if array.ndim else False:
        raise Unread(f"{step} with an array of {array.shape}; expected one number a channel")
    if not np.isfinite(array).all():
        raise Unread(f"{step} with NaN or infinity")
    return array.reshape(array.shape[-1:])


def pick(step):
    """[Part] of an index on the channels, such as x[..., ::-1] or x[:, :, :, 0]; Unread for indices on other axes."""
    key = _key(step)
    *before, last = [_index(item) for item in key] if isinstance(key, list) and key else [None]
    whole = before == [...] or before == [slice(None)] * 3
    if not whole or not isinstance(last, (int, slice)) or isinstance(last, bool):
        raise Unread(f"{step}, which cuts something else than channels")
    return [Part("pick", step, {"channels": last})]


def _key(step):
    """The index of a GetItem, a list of one item for each axis."""
    key = step.kwargs.get("slice_spec", step.kwargs.get("key", step.args[1] if len(step.args) > 1 else None))
    return key.get("items", key.get("config")) if isinstance(key, dict) else key  # tf.keras writes tuples as dicts


def _index(item):
    """An item of an index as Python has it: ..., a slice or a number; configs write the first two as dicts."""
    if not isinstance(item, dict):
        return item
    if item.get("class_name") == "__ellipsis__":
        return ...
    item = item.get("config", item)
    return slice(*(item.get(name) for name in ("start", "stop", "step")))


def channels_last(what):
    """A function step -> [Part] for an operation along the channels, the last axis; `what` is that of the Part."""

    def read(step):
        axis = step.config.get("axis", step.kwargs.get("axis", -1))
        if axis == 0 and what == "stack":  # keras.utils.multi_gpu_model joins the batches of its GPUs like this
            return [Part("batches", step)]
        if axis not in (-1, 3, [-1], [3]):
            raise Unread(f"{step} on axis {axis}; expected the channels, the last")
        return [Part(what, step)]

    return read
