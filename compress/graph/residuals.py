"""Residual blocks: parts of a network that can be left out, since what they compute is added to what they read.

He et al. 2016, arXiv 1512.03385, section 3.1: y = F(x) + x. Without the block, y = x.
"""

import dataclasses
import typing

import keras

from compress.graph import nodes


@dataclasses.dataclass(frozen=True)
class Block:
    """An addition of a residual stream.

    Attributes:
        end: its last tensor: the output of the addition, or of the ReLU behind it.
        outputs: the tensors that are replaced by x where the block is left out: the addition's output, and that of the
            ReLU where x comes from such a ReLU as well.
        stream: x, the tensor that the block's result is added to; None where the addition joins two branches, as where
            a shortcut has a convolution of its own: such a block begins a stream and has to stay.
    """

    end: typing.Any
    outputs: tuple
    stream: typing.Any


def stages_of(model):
    """The residual blocks of a network by the streams that they add to.

    Blocks that follow each other directly, each adding to what the one before gave, are a stage: of a ResNet50 3, 4, 6
    and 3 blocks, the first of each with a convolution in its shortcut; of a MobileNetV2 1, 2, 3, 2 and 2.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Returns:
        List of lists of Block, in network order; empty for a network without additions of this kind.
    """
    found, seen = [], set()
    for graph in _graphs(model):
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        stages, ends = [], {}  # ends: {id(tensor that a stage's last block gave): the stage}
        for block in _blocks(graph):
            stage = ends.pop(id(block.stream), None)
            if stage is None:
                stages.append(stage := [])
            stage.append(block)
            ends[id(block.end)] = stage
        found += stages
    return found


def left_out(stages, counts):
    """What stands for the outputs of the blocks that go, all but the first of each stage.

    Args:
        stages: from `stages_of`.
        counts: of each stage how many blocks stay, at least 1.

    Returns:
        {id(output of a block): the tensor in its place}, as `trimming.altered` takes it.
    """
    return {
        id(tensor): block.stream
        for stage, count in zip(stages, counts, strict=True)
        for block in stage[count:]
        for tensor in block.outputs
    }


def _graphs(model):
    """The functional graph of a model and those of the models inside it, in the order of their first calls."""
    graph = nodes.graph_of(model)
    yield graph
    for node in nodes.nodes_of(graph):
        if nodes.is_model(node.operation):
            yield from _graphs(node.operation)


def _blocks(graph):
    """The Blocks of a functional graph, without those of models inside it, in network order."""
    inside = nodes.nodes_of(graph)
    maker = {id(tensor): node for node in inside for tensor in node.outputs}
    readers = {}
    for node in inside:
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)
    # by tensor the set of all that it is computed from, itself included; a bit each
    bit = {id(tensor): 1 << place for place, tensor in enumerate(graph.inputs)}
    above = dict(bit)
    for node in inside:
        reached = 0
        for tensor in node.input_tensors:
            reached |= above[id(tensor)]
        for tensor in node.outputs:
            bit[id(tensor)] = 1 << len(bit)
            above[id(tensor)] = reached | bit[id(tensor)]
    for node in inside:
        terms = node.input_tensors
        if not _adds(node.operation) or len(terms) != 2 or tuple(terms[0].shape) != tuple(terms[1].shape):
            continue
        end, outputs = node.outputs[0], [node.outputs[0]]
        stream = next((x for x, y in (terms, terms[::-1]) if x is not y and above[id(y)] & bit[id(x)]), None)
        behind = readers.get(id(end), [])
        if len(behind) == 1 and _is_relu(behind[0].operation):
            end = behind[0].outputs[0]
            # relu(relu(x)) is relu(x): without the second the network looks as if it was built without the block
            if stream is not None and id(stream) in maker and _alike(maker[id(stream)].operation, behind[0].operation):
                outputs.append(end)
        yield Block(end, tuple(outputs), stream)


def _adds(operation):
    kind = type(operation)
    if not nodes.is_of_keras(kind):
        return False
    # CustomScaleLayer is InceptionResNetV2's x + scale * y
    return isinstance(operation, keras.layers.Add) or kind.__name__ in ("CustomScaleLayer", "Add")


def _is_relu(operation):
    """Whether an operation is a ReLU, which does nothing to what comes from one like it."""
    if isinstance(operation, keras.layers.ReLU):
        return not operation.negative_slope and not operation.threshold
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    return not isinstance(operation, keras.Layer) and type(operation).__name__ in ("Relu", "Relu6")


def _alike(one, other):
    """Whether two operations differ in their names alone."""
    return type(one) is type(other) and all(
        one.get_config().get(key) == value for key, value in other.get_config().items() if key != "name"
    )
