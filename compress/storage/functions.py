"""Functions of TensorFlow in the config of a model of tf.keras 2, as the operations of Keras 3 that do the same.

tf.keras writes x / 127.5 - 1 as TFOpLambda with the name of a function, Keras 3 as classes of keras.ops.
"""

from compress.storage import entries
from compress.storage.entries import Unread

TENSORFLOW = ("TFOpLambda", "SlicingOpLambda")

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
    "stack": "Stack",
    "concat": "Concatenate",
    "reverse": "Flip",
}

# those of an operation's arguments that Keras 3 writes into its config
SETTINGS = {
    **dict.fromkeys(("Mean", "Max", "Sum"), ("axis", "keepdims")),
    "Cast": ("dtype",),
    **dict.fromkeys(("Stack", "Concatenate", "Flip", "Softmax"), ("axis",)),
}


def as_of_keras(layer, node):
    """How Keras 3 writes a call of a function of TensorFlow.

    Args:
        layer: an entries.Layer of a kind of TENSORFLOW.
        node: one of its nodes.

    Returns:
        (class, settings, arguments): dict of its config, list of its inputs, its tensors as Keras 3 writes them.

    Raises:
        Unread: no operation of Keras 3 is known for it.
    """
    function = layer.config.get("function")
    kind = FUNCTIONS.get(function.removeprefix("compat.v1.")) if isinstance(function, str) else None
    if kind is None:
        raise Unread(f"{layer}, which Keras 3 can't open")
    tensors, kwargs = entries.arguments(
        node,
        lambda *history: {
            "class_name": "__keras_tensor__",
            "config": {"shape": [], "dtype": "float32", "keras_history": list(history)},
        },
    )
    given, settings = {key: item for key, item in kwargs.items() if key != "name"}, {}
    for key in SETTINGS.get(kind, ()):
        if key in given:
            settings[key] = given.pop(key)
    if kind == "GetItem":  # Keras 3 writes slices and the ellipsis of an index as dicts
        items = [
            {"class_name": "__ellipsis__", "config": {}}
            if item is ...
            else {"class_name": "__slice__", "config": {"start": item.start, "stop": item.stop, "step": item.step}}
            if isinstance(item, slice)
            else item
            for item in map(_index, _key(tensors, given))
        ]
        return kind, settings, [tensors[0], items]
    # Stack and Concatenate take one list of tensors; all other operations take their tensors one by one.
    arguments = [*tensors, *given.values()]
    many = kind in ("Stack", "Concatenate") and not isinstance(arguments[0], list)
    return kind, settings, [arguments] if many else arguments


def _key(tensors, given):
    """The index of a GetItem, a list of one item for each axis."""
    key = given.get("slice_spec", given.get("key", tensors[1] if len(tensors) > 1 else None))
    return key.get("items", key.get("config")) if isinstance(key, dict) else key  # tf.keras writes tuples as dicts


def _index(item):
    """An item of an index as Python has it: ..., a slice or a number; configs write the first two as dicts."""
    if not isinstance(item, dict):
        return item
    if item.get("class_name") == "__ellipsis__":
        return ...
    item = item.get("config", item)
    return slice(*(item.get(name) for name in ("start", "stop", "step")))
