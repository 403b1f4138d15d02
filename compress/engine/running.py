"""Computes a Keras model node by node, with some of its operations substituted by others.

The training twin, folded inference, counting zeros and measuring batch statistics are this one walk with different
substitutes. None of them has a description of any network of its own.
"""

import contextlib
import inspect

import keras
from keras import tree

from compress.graph import nodes


def run(model, inputs, replaced=None, watched=None, training=False):
    """Computes the outputs of a model as Keras does, but for the operations that are substituted.

    Args:
        model: a keras.Model that `nodes.graph_of` takes. Models inside it are walked too.
        inputs: what the model is called with: a tensor, or a list or dict of tensors.
        replaced: {operation: function}. The function is called in place of the operation, with the same arguments.
        watched: {node: function}. The function is called with what the operation of that node made, in every call of a
            model that the node is in.
        training: whether layers such as Dropout behave as in training. What was called with training=False, such as
            `base(x, training=False)`, stays in inference mode whatever this says. That is what Keras' guide to transfer
            learning promises; its own `fit` trains there.

    Returns:
        The outputs, in the structure that the model has them in.

    Raises:
        InputError: see `nodes.graph_of`.
    """
    graph, replaced, watched = nodes.graph_of(model), replaced or {}, watched or {}
    # What Keras' own models do with their inputs: tensors of the dtype and rank that their Input layers have.
    values = graph._standardize_inputs(inputs) if isinstance(graph, keras.Model) else tree.flatten(inputs)
    tensors = {id(tensor): value for tensor, value in zip(graph.inputs, values, strict=True)}
    for node in nodes.nodes_of(graph):
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        mode = mode_of(node, training)
        if operation not in replaced and nodes.is_model(operation):
            outputs = run(operation, args[0] if args else kwargs["inputs"], replaced, watched, mode)
        else:
            if isinstance(operation, keras.Layer):
                kwargs["training"] = mode  # Keras' layers take it whether their `call` does or not
            outputs = replaced.get(operation, operation)(*args, **kwargs)
        if node in watched:
            watched[node](outputs)
        tensors |= {id(tensor): value for tensor, value in zip(node.outputs, tree.flatten(outputs), strict=True)}
    outputs = tree.pack_sequence_as(graph._outputs_struct, [tensors[id(tensor)] for tensor in graph.outputs])
    return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs


def mode_of(node, training):
    """Whether a node behaves as in training where the model around it does so."""
    if not training or node.arguments.kwargs.get("training") is not False:
        return training
    # Keras notes the default of a layer's `call` as if the user had said it; Dropout's is False.
    default = inspect.signature(type(node.operation).call).parameters.get("training")
    return default is not None and default.default is False


def nodes_at(model, paths):
    """The node of each path, the last one where an operation is called more than once.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        paths: of operations, as `nodes.walk` has them.
    """
    found = dict(nodes.walk(model)) if paths else {}
    return [found[path] for path in paths]


def lowered(model, precision):
    """The layers that compute in another dtype than their own when a model is run in a lower precision.

    Not among them, so in float32: what comes before the first kernel, since bfloat16 would round the mean and the
    deviation that pixels are normalised by; vectors, such as the pooled features and the logits, which cost nothing.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        precision: dtype policy of the arithmetic, such as 'mixed_bfloat16'.

    Returns:
        A list of layers, for `arithmetic`; empty for float32, and for a model with kernels in another policy than
        float32: such a model says itself what is computed in what.
    """
    kernels = [layer for layer in model._flatten_layers() if _has_kernel(layer)]
    if precision == "float32" or any(layer.dtype_policy.name != "float32" for layer in kernels):
        return []
    found = {}
    _collect(nodes.graph_of(model), [False] * len(model.inputs), found)
    # A layer that is called in both places stays in float32. Layers such as MultiHeadAttention consist of others.
    return [part for layer, low in found.items() if low for part in layer._flatten_layers()]


def _has_kernel(layer):
    return any(len(variable.shape) > 1 for variable in layer._trainable_variables)


def _collect(graph, behind, found):
    """Notes in `found` which layers are lowered; returns which outputs lie behind a kernel.

    Args:
        graph: from `nodes.graph_of`.
        behind: whether each of its inputs lies behind a kernel, list of bool.
        found: {layer: bool}, which it adds to.
    """
    known = {id(tensor): flag for tensor, flag in zip(graph.inputs, behind, strict=True)}
    for node in nodes.nodes_of(graph):
        operation, tensors = node.operation, [*node.input_tensors, *node.outputs]
        reads = [known[id(tensor)] for tensor in node.input_tensors]
        if nodes.is_model(operation):
            flags = _collect(nodes.graph_of(operation), reads, found)
        else:
            flag = any(reads) or (
                isinstance(operation, keras.Layer)
                and bool(operation._flatten_layers())
                and any(map(_has_kernel, operation._flatten_layers()))
            )
            flags = [flag] * len(node.outputs)
            if isinstance(operation, keras.Layer):
                low = flag and all(len(tensor.shape) > 2 for tensor in tensors)
                found[operation] = found.get(operation, True) and low
        known |= {id(tensor): flag for tensor, flag in zip(node.outputs, flags, strict=True)}
    return [known[id(tensor)] for tensor in graph.outputs]


@contextlib.contextmanager
def arithmetic(layers, precision):
    """Has layers compute under another dtype policy meanwhile; their variables keep the dtype that they have.

    Args:
        layers: from `lowered`.
        precision: dtype policy.
    """
    policy, own = keras.DTypePolicy(precision), [layer._dtype_policy for layer in layers]
    for layer in layers:
        layer._dtype_policy = policy
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            layer._dtype_policy = before


def in_inference(graph, training=True):
    """Yields the operations of a graph that some call of a model around them keeps in inference mode."""
    for node in nodes.nodes_of(graph):
        mode = mode_of(node, training)
        if not mode:
            yield node.operation
        if nodes.is_model(node.operation):
            yield from in_inference(nodes.graph_of(node.operation), mode)
