"""Applies a mask to a network: sets channels to zero, or builds a smaller network without them; and counts both."""

import numpy as np

from compress.engine.folding import masked_values
from compress.graph.convolutions import convolutions, dense
from compress.graph.network import Graph


def apply_mask(model, mask):
    """Sets all weights that make, scale, shift or read a removed channel to zero, in place.

    The channel then adds nothing to the layers that read it. The masked model therefore has the same outputs as the
    trimmed one, where the groups are `exact`.

    Args:
        model: a keras.Model that `nodes.check` lets pass, or its Graph.
        mask: {group: bool (width,)}, True for the channels that stay; groups without a mask stay whole. 'conv3_stream'
            of earlier versions is a ResNet's residual stream.

    Raises:
        InputError: the model has no such group, a length is wrong, or nothing of a group is kept.
    """
    for variable, value in masked_values(_graph(model), mask):
        variable.assign(value)


def trim_model(model, mask):
    """Builds a smaller model without the channels that a mask removes; its outputs equal the masked model's.

    Args:
        model: a keras.Model that `nodes.check` lets pass, or its Graph; it isn't changed.
        mask: {group: bool (width,)}, True for the channels that stay; groups without a mask stay whole. 'conv3_stream'
            of earlier versions is a ResNet's residual stream.

    Returns:
        An uncompiled keras.Model of the same layer names with the remaining weights.

    Raises:
        InputError: the model has no such group, a length is wrong, or nothing of a group is kept.
    """
    return _graph(model).trimmed(mask)


def compute_sparsity(model, base):
    """Sparsity: the share of a base model's convolution parameters (kernels and biases) that were removed, 0 to 1.

    A filter counts as removed if its whole kernel is 0. So do the slices that read a channel for which the kernels of
    all layers that make it are 0. A masked model and its trimmed twin therefore have the same sparsity. A Dense
    layer on maps, as in ConvNeXt, is a convolution of 1x1. In a network without any all Dense layers are counted.

    Args:
        model: a trimmed or a masked model.
        base: the model that pruning started from.
    """
    graph, counted = _graph(model), convolutions if convolutions(base) else dense
    total = sum(layer.count_params() for layer in counted(base).values())
    return 1.0 - _live_parameters(graph, list(counted(graph.model).values())) / total if total else 0.0


def _graph(model):
    return model if isinstance(model, Graph) else Graph(model)


def _nonzero(wiring, axes, weight):
    """{id(numbers): (numbers, bool (channels,))}: which channels that a layer makes have a weight other than 0."""
    found, nonzero = {}, np.asarray(weight) != 0
    for axis, ids in enumerate(axes.ids):
        if ids is not None and nonzero.ndim > 1 and wiring.role(ids) == "makes":
            found[id(ids)] = ids, nonzero.any(tuple(other for other in range(nonzero.ndim) if other != axis))
    return found


def _live_parameters(graph, counted):
    """Number of parameters of some layers that aren't removed or masked."""
    label = graph.reading.numbers.classes()
    made, alive, filters = np.zeros(len(label), bool), np.zeros(len(label), bool), {}
    for wiring in graph.reading.wirings.values():
        own = {}
        for at, axes in wiring.variables.items():
            own |= _nonzero(wiring, axes, wiring.layer.weights[at])
        for ids, nonzero in own.values():
            made[label[ids]] = True
            alive[label[ids[nonzero]]] = True
        filters[id(wiring.layer)] = own
    alive |= ~made  # the colours of the image
    live = 0
    for wiring in graph.reading.wirings.values():
        if wiring.layer in counted:
            own = filters[id(wiring.layer)]
            for at, axes in wiring.variables.items():
                counts = [
                    size if ids is None else (own[id(ids)][1] if id(ids) in own else alive[label[ids]]).sum()
                    for size, ids in zip(wiring.layer.weights[at].shape, axes.ids, strict=True)
                ]
                live += int(np.prod(counts))
    return live
