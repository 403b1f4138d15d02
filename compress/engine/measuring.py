"""What is counted on the maps of a network: the zeros behind its ReLUs, which APoZ is."""

import functools

import numpy as np
from keras import ops

from compress.engine import devices, folding
from compress.errors import InputError


def count_zeros(model, watched, images, batch_size=128, progress=iter):
    """How often each channel of some activations is 0, in inference mode.

    Counted on the folded network in float32: what comes out of a ReLU is the same, sooner. A batch's counts are summed
    on the device, so memory does not grow with N.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        watched: {node whose output is counted: axis of its channels}; of a layer with an inline activation that is the
            layer's own node.
        images: (N, ...), as the model takes them.
        batch_size: images a pass.
        progress: wraps the range of batch starts.

    Returns:
        {node: (channels,) float64 from 0 to 1}, the share of all images and positions, in all calls of the node.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("count_zeros needs images. Received: none")
    plan, nodes_ = folding.Folding(model), list(watched)

    def count(weights, images):
        zeros, positions = [0] * len(nodes_), [0] * len(nodes_)

        def watch(place, x):
            axis = watched[nodes_[place]] % len(x.shape)
            zeros[place] += ops.sum(ops.cast(ops.equal(x, 0), "int32"), [i for i in range(len(x.shape)) if i != axis])
            positions[place] += ops.size(x) // x.shape[axis]

        plan.run(weights, images, {node: functools.partial(watch, place) for place, node in enumerate(nodes_)})
        return zeros, positions

    # The weights are arguments of the compiled function: jax.jit would compile values from outside as constants.
    weights = {path: tuple(map(devices.everywhere, arrays)) for path, arrays in plan.weights().items()}
    compiled, total = folding.compiled_by_backend(count), [(0, 0)] * len(nodes_)
    for start in progress(range(0, len(images), batch_size)):
        for part in devices.parts(start, min(start + batch_size, len(images))):
            found = zip(*compiled(weights, devices.rows(images, part)), strict=True)
            total = [
                (zeros + np.asarray(more, np.int64), positions + int(size))
                for (zeros, positions), (more, size) in zip(total, found, strict=True)
            ]
    return {node: zeros / positions for node, (zeros, positions) in zip(nodes_, total, strict=True)}


def compute_apoz(graph, images, batch_size=128, progress=iter, names=None):
    """Average percentage of zeros of each channel behind its ReLU-like activations, in inference mode.

    APoZ_c = (zero activations of channel c over all N images and M positions) / (N M); Hu et al. 2016, Network
    Trimming, arXiv 1607.03250, equation 1. Where channels are tied, or have several such activations, theirs are
    averaged.

    Args:
        graph: a `network.Graph`.
        images: (N, ...), as the model takes them, not augmented, none of them from the test set.
        batch_size: images a pass.
        progress: wraps the range of batch starts.
        names: of the groups that are counted; None for all.

    Returns:
        {group: (width,) float64 from 0 to 1}, for the groups that have a ReLU-like activation; 1 means that the channel
        was never active.

    Raises:
        InputError: the network has no ReLU-like activation.
        ValueError: there are no images.
    """
    wanted = {name: places for name, places in graph.activations.items() if names is None or name in names}
    where = {node: graph.places(node.outputs[0]) for places in wanted.values() for node, _ in places}
    if not where:
        raise InputError(
            f"`criterion`: received apoz for {graph.model.name}, which has no ReLU-like activation, so that no channel "
            "is ever 0; expected l1, l2, bn, taylor, fpgm or random"
        )
    shares = count_zeros(graph.model, {node: axis for node, (axis, _) in where.items()}, images, batch_size, progress)
    found = {}
    for name, places in wanted.items():
        total, count = (np.zeros(graph.groups[name].width) for _ in range(2))
        for node, _ in places:
            channels, positions = where[node][1][name]
            np.add.at(total, positions, shares[node][channels])
            np.add.at(count, positions, 1)
        if places:
            found[name] = total / count
    return found
