"""The operations of a Keras model in the order in which Keras runs them, nested models included.

A functional model is a list of nodes. A node is one call of an operation: of a layer, of a raw operation such as
`x + y`, or of a model inside the model. The operations of an inner model have paths like 'encoder/conv1'.
"""

import random

import keras

from compress.errors import InputError
from compress.graph import registered

ELSEWHERE = {  # what can't be read, and the way out
    "Lambda": "expected layers that say what they compute; put Keras' own layer or operation in place of the Lambda",
    "TFSMLayer": "expected the model itself, saved by `model.save`, not an export of it",
}


def is_model(operation):
    """Whether an operation of a graph is a model, which has operations of its own."""
    return isinstance(operation, (keras.Model, keras.Function))


def graph_of(model):
    """The functional graph behind a model.

    Args:
        model: a keras.Model.

    Returns:
        The model itself if it is functional; for a built Sequential the functional model that Keras keeps in it.

    Raises:
        InputError: the model is subclassed, or a Sequential that was never built.
    """
    # A class of the user's own may compute something else than the graph: `call` has to be Keras'.
    computes = next((kind for kind in type(model).__mro__ if "call" in vars(kind)), type(model))
    if isinstance(model, keras.Sequential) and is_of_keras(computes):
        if model._functional is None:  # Keras has no public way to it
            raise InputError(
                f"{model.name}: received a Sequential model that isn't built, so that its shapes are "
                "open; expected one with an Input layer in front, or built by `model.build(input_shape)`"
            )
        return model._functional
    if isinstance(model, keras.Function) and is_of_keras(computes):
        return model
    kind = "a subclassed model" if isinstance(model, keras.Model) else "no model"
    raise InputError(
        f"{getattr(model, 'name', model)!s:.100}: received {kind} ({type(model).__name__}), which has no "
        "graph to read; expected a functional or a Sequential model: call its layers on keras.Input and "
        "make keras.Model(inputs, outputs) of it"
    )


def nodes_of(graph):
    """The nodes of a functional graph in the order in which Keras runs them, without its inputs.

    A node has `operation`, `arguments` (`arguments.fill_in({id(tensor): value})` gives args and kwargs of the call),
    `input_tensors` and `outputs`, which are keras.KerasTensors.

    Args:
        graph: from `graph_of`.

    Returns:
        A list; every node stands behind those whose outputs it reads.
    """
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if node.operation and not node.is_input
    ]


def walk(model, path=""):
    """All nodes of a model and of the models inside it, each once, in the order in which Keras runs them first.

    Args:
        model: a keras.Model that `graph_of` takes.
        path: of the model itself, ending in '/'; '' for the outermost.

    Yields:
        (path of the operation, node). The node of an inner model comes first, then those inside it. A model or layer
        that is called again yields its other node; what is inside a model comes once.

    Raises:
        InputError: see `graph_of`.
    """
    yield from _walk(model, path, set())


def _walk(model, path, entered):
    for node in nodes_of(graph_of(model)):
        operation = node.operation
        yield f"{path}{operation.name}", node
        if is_model(operation) and id(operation) not in entered:
            entered.add(id(operation))
            yield from _walk(operation, f"{path}{operation.name}/", entered)


def check(model):
    """Refuses a model that can't be read, before any work starts.

    Args:
        model: a keras.Model.

    Raises:
        InputError: the model or one inside it is subclassed or not built; a layer is quantised, has LoRA weights, is a
            Lambda or of a class that is neither Keras' own nor registered, or can't be made from its own config.
    """
    tried, start = set(), random.getstate()
    try:
        for path, node in walk(model):
            layer = node.operation
            if id(layer) in tried or is_model(layer) or not isinstance(layer, keras.Layer):
                continue
            tried.add(id(layer))
            for part in layer._flatten_layers():  # a wrapper has layers of its own
                _check_part(part, path)
            _check_config(layer, path)
    finally:
        # Keras draws seeds of initial weights from Python's random state, as layers are made. What a run draws later
        # doesn't depend on how often a graph was read.
        random.setstate(start)


def _check_part(part, path):
    """Raises InputError where a layer, or a part of one, is of no known class or holds other weights than its own."""
    kind = type(part)
    if kind.__name__ in ELSEWHERE and is_of_keras(kind):
        raise InputError(f"{path}: received a layer {kind.__name__}; {ELSEWHERE[kind.__name__]}")
    if kind not in registered.RULES and not is_of_keras(kind):
        raise InputError(
            f"{path}: received a layer of a class of its own, {kind.__name__}; expected Keras' own layers, or a class "
            "that compress.graph.rules.register was given a rule for"
        )
    if part.quantization_mode is not None:
        raise InputError(
            f"{path}: received a layer quantised to {part.quantization_mode}; expected float weights: prune first, "
            "then quantise"
        )
    if getattr(part, "lora_enabled", False):
        raise InputError(
            f"{path}: received a layer with LoRA weights; expected plain ones: save the model's merged weights and "
            "load them into a model without `enable_lora`"
        )


def _check_config(layer, path):
    """Raises InputError where a layer can't be made from its own config, as with a function that Keras doesn't know."""
    try:
        type(layer).from_config(layer.get_config())
    except Exception as error:
        raise InputError(
            f"{path}: received a layer {type(layer).__name__} that can't be made from its own config "
            f"({error!s:.200}); expected a complete `get_config`, and Keras' own functions as activations"
        ) from None


def is_of_keras(kind):
    """Whether a class of layers, operations or models is defined by Keras."""
    return kind.__module__.partition(".")[0] == "keras"
