"""Which feature maps a teacher and a student are compared at: the last one before each change of resolution."""

import collections
import dataclasses
import typing

import numpy as np
from keras.src.layers.pooling.base_global_pooling import BaseGlobalPooling

from compress.errors import InputError
from compress.graph import nodes


@dataclasses.dataclass(frozen=True)
class Point:
    """A feature map.

    Attributes:
        path: of the operation that makes it, see `nodes.walk`.
        node: of its call.
        shape: (None, height, width, channels).
        order: place of the operation among all that `nodes.walk` yields.
    """

    path: str
    node: typing.Any
    shape: tuple
    order: int


def feature_points(model):
    """The last map before each change of resolution on the main path of a network, and the last map of all.

    The main path is what every way from the image to the outputs passes: the ends of residual blocks are on it, what
    lies between them and the branches of a gate are not. A resolution changes where a map has at most half the
    positions of the one before it, or where a stride is left on maps of one position. Padding changes none.

    Maps behind the first kernel alone, the stem's, are left out, and so are those of pooling alone: at a resolution
    there has to be something to learn. On a ResNet50, 101 or 152 that leaves the ends of the four stages.

    Args:
        model: a keras.Model that `nodes.graph_of` takes, of one image size, with the channels last.

    Returns:
        List of Point in network order, empty where there is no such map.
    """
    points, previous, seen = [], None, 0  # seen: kernels up to the last change of resolution

    def close():
        if previous is not None and previous.kernels > max(seen, 1):
            points.append(Point(previous.path, previous.node, previous.shape, previous.order))

    for step in _main_path(model):
        if previous is None or _positions(step) <= _positions(previous):
            if previous is not None and _falls(previous, step):
                close()
                seen = previous.kernels
            previous = step
    close()
    return points


def matched(teacher, student):
    """Pairs of feature maps of two networks, from the last ones backwards.

    The last maps of both are what their classifiers read, so that these belong together, and the ones before them
    likewise. What one network has more of than the other, at its beginning, has no partner.

    Args:
        teacher: as of `feature_points`.
        student: another, for the same images.

    Returns:
        (the teacher's, the student's): two lists of Point of one length, in network order.
    """
    both = feature_points(teacher), feature_points(student)
    count = min(map(len, both))
    return tuple(points[len(points) - count :] for points in both)


def shapes_to_match(teacher, student):
    """Shapes of the maps of `matched`, for a loss that can't do without.

    Args:
        teacher: as of `matched`.
        student: likewise.

    Returns:
        (the teacher's, the student's): two lists of (None, height, width, channels).

    Raises:
        InputError: one of them has none.
    """
    points = matched(teacher, student)
    if not points[0]:
        who, model = ("student", student) if feature_points(teacher) else ("teacher", teacher)
        raise InputError(
            f"`lambda2`: received a weight above 0, but the {who}, {model.name}, has no feature maps of a known size "
            "behind more than one convolution; expected `lambda2=0` for this pair"
        )
    return tuple([point.shape for point in found] for found in points)


@dataclasses.dataclass(frozen=True)
class _Step(Point):
    """A map on the main path.

    Attributes:
        kernels: layers with kernels up to it.
        strides: how many layers up to it have strides.
    """

    kernels: int
    strides: int


def _positions(step):
    return step.shape[1] * step.shape[2]


def _falls(before, behind):
    """Whether the resolution changes between two maps that follow each other on the main path."""
    small = _positions(behind) == 1
    return 2 * _positions(behind) <= _positions(before) or (small and behind.strides > before.strides)


def _main_path(model):
    """The maps that every way from the inputs of a model to its classifier passes, list of _Step."""
    walked = list(nodes.walk(model))
    calls, last_of = collections.Counter(node.operation for _, node in walked), dict(walked)
    on_path, found, kernels, strides = _passed_by_all(model, calls), [], 0, 0
    for order, (path, node) in enumerate(walked):
        if nodes.is_model(node.operation):
            continue
        kernels += _has_kernel(node.operation)
        strides += np.max(getattr(node.operation, "strides", 1)) > 1
        if node not in on_path:
            continue
        shape = tuple(node.outputs[0].shape)
        is_map = len(shape) == 4 and None not in shape[1:]
        if isinstance(node.operation, BaseGlobalPooling) or (found and not is_map):
            break  # the classifier begins; some have convolutions in it, on the one position that is left
        if is_map and last_of[path] is node:
            found.append(_Step(path, node, shape, order, kernels, int(strides)))
    return found


def _has_kernel(operation):
    return any("kernel" in variable.name for variable in getattr(operation, "weights", ()))


def _passed_by_all(model, calls):
    """The nodes that every way through a model passes, set; those inside it too, of models that are called once.

    In any order in which what is read comes first, these are the nodes that no edge jumps over.
    """
    graph, found = nodes.graph_of(model), set()
    inside = nodes.nodes_of(graph)
    made, read_last = {id(tensor): -1 for tensor in graph.inputs}, collections.Counter()
    for place, node in enumerate(inside):
        for tensor in node.input_tensors:
            read_last[made[id(tensor)]] = place
        made |= {id(tensor): place for tensor in node.outputs}
    for tensor in graph.outputs:
        read_last[made[id(tensor)]] = len(inside)
    furthest = read_last[-1]
    for place, node in enumerate(inside):
        if furthest <= place:
            if not nodes.is_model(node.operation):
                found.add(node)
            elif calls[node.operation] == 1:
                found |= _passed_by_all(node.operation, calls)
        furthest = max(furthest, read_last[place])
    return found
