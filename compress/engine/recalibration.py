"""Recalibration: what a cut network needs before any fine-tuning, from some images and without training a weight.

Behind removed channels a layer gets another input than it was trained on. Batch-normalisations are given the statistics
of that input. Without any, the layers themselves are scaled and shifted, so that what they make is spread as before.
"""

import functools

import keras
import numpy as np
from keras import layers, ops

from compress.engine import devices, folding, operations, running, twin
from compress.graph import folds, nodes

LIMIT = 10.0  # times: a channel that lost nearly all of its input is mostly noise, and more would make it loud


def recalibrate(model, graph, masks, images, batch_size=128, progress=iter):
    """Recalibrates a cut network in place: `recalibrate_bn`, or `restore` where it has no batch-normalisation.

    Args:
        model: what `graph.trimmed(masks)` returned.
        graph: the network.Graph of the network before the cut.
        masks: {group: bool (width,)}, True for what stayed.
        images: training images (N, ...), as the model takes them.
        batch_size: images a forward pass.
        progress: wraps the range of batch starts.

    Raises:
        ValueError: there are no images.
    """
    if norms_of(model):
        recalibrate_bn(model, images, batch_size, progress)
    elif not all(np.all(mask) for mask in masks.values()):
        restore(model, graph, masks, images, batch_size, progress)


def recalibrate_bn(model, images, batch_size=128, progress=iter):
    """Replaces the moving means and variances of a model by their averages over batches of images, in place.

    A layer behind a removed channel has another input distribution than its batch-normalisation was trained on. Every
    batch-normalisation normalises by the batch meanwhile, frozen ones too; all other layers are in inference mode. No
    weight is trained. Li et al. 2020, EagleEye, arXiv 2007.02491, section 3.3.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        images: training images (N, ...), as the model takes them. Images beyond the last whole batch are not used.
        batch_size: images a forward pass.
        progress: wraps the range of batch starts.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("recalibrate_bn needs images. Received: none")
    norms = norms_of(model)
    found = _averaged(_batch_statistics(model), model.variables, images, batch_size, progress)
    for path, (mean, variance) in found.items():
        norms[path].moving_mean.assign(mean)
        norms[path].moving_variance.assign(variance)


def restore(model, graph, masks, images, batch_size=128, progress=iter):
    """Scales and shifts the channels of a cut network so that they have the mean and deviation of before, in place.

    Of every convolution and Dense layer: kernel' = kernel s and bias' = (bias - mean) s + mean_before for each output
    channel, before the activation, with s = deviation_before / deviation. A layer is measured on what the layers in
    front of it make once they are restored. A layer without a bias is scaled alone. Jordan et al. 2023, REPAIR, arXiv
    2211.08403, section 3, where networks without normalisation fade in the same way.

    Args: as of `recalibrate`.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("restore needs images. Received: none")
    before, after = _producers(graph.model), _producers(model)
    kept = {path: graph.kept(node.outputs[0], masks)[1] for path, node in before.items()}
    function = _statistics_of_both(graph.model, model, before, after, kept)
    variables = graph.model.variables + model.variables
    for path, (mean, deviation, own_mean, own_deviation) in _averaged(
        function, variables, images, batch_size, progress
    ).items():
        layer, scale = after[path].operation, _ratio(np, deviation, own_deviation)
        kernel = folds.kernel_of(layer)
        axes = [axis % len(kernel.shape) for axis in folds.PRODUCERS[type(layer).call][1]]
        kernel.assign(kernel.numpy() * scale.reshape([n if axis in axes else 1 for axis, n in enumerate(kernel.shape)]))
        if layer.use_bias:
            layer.bias.assign((layer.bias.numpy() - own_mean) * scale + mean)


def _averaged(function, variables, images, batch_size, progress):
    """The mean over whole batches of what a function (values of the variables, images) -> {path: array} measures."""
    batch_size = min(batch_size, len(images))
    starts, compiled = range(0, len(images) - batch_size + 1, batch_size), folding.compiled_by_backend(function)
    # The weights are arguments of the compiled function: jax.jit would compile values from outside as constants.
    values, total = [variable.value for variable in variables], {}
    # A plain average over all batches. The moving average of training, with momentum 0.9, would still hold 0.9^n of the
    # old statistics after n batches. Summed in float64, as a sum of many batches loses digits in float32.
    for start in progress(starts):
        for path, found in compiled(values, devices.rows(images, slice(start, start + batch_size))).items():
            total[path] = total.get(path, 0.0) + np.asarray(found, np.float64)
    return {path: found / len(starts) for path, found in total.items()}


def _producers(model):
    """{path: node} of the convolutions and Dense layers of a model and the models inside it, each layer once."""
    found, seen = {}, set()
    for path, node in nodes.walk(model):
        if getattr(type(node.operation), "call", None) in folds.PRODUCERS and node.operation not in seen:
            seen.add(node.operation)
            found[path] = node
    return found


def _statistics_of_both(whole, cut, before, after, kept):
    """A function (values of the variables of both networks, images) -> {path: (4, channels)}: mean and deviation of a
    batch before the activation of each layer, of the whole network's channels that stay and of the cut network's."""

    def statistics(values, images):
        found = {path: [] for path in after}
        measured = {
            node.operation: functools.partial(_noted, node.operation, kept[path], found[path])
            for path, node in before.items()
        }
        with keras.StatelessScope(list(zip(whole.variables + cut.variables, values, strict=True))):
            running.run(whole, images, measured, training=False)
            # a layer that is called more than once has the mean of its calls, as Keras' moving averages do
            wanted = {path: sum(calls) / len(calls) for path, calls in found.items()}
            found = {path: [] for path in after}
            restored = {
                node.operation: functools.partial(_restored, node.operation, wanted[path], found[path])
                for path, node in after.items()
            }
            running.run(cut, images, restored, training=False)
        return {path: ops.concatenate([wanted[path], sum(calls) / len(calls)]) for path, calls in found.items()}

    return statistics


def _ratio(numpy, deviation, own):
    """What a channel is multiplied by; 1 where it or what it was is constant. numpy: np, or keras.ops for tensors."""
    constant = numpy.logical_or(deviation < 1e-12, own < 1e-12)
    ratio = deviation / numpy.where(constant, numpy.ones_like(own), own)
    return numpy.where(constant, numpy.ones_like(own), numpy.minimum(ratio, LIMIT))


def _linear(layer, x):
    """What a layer makes before its activation, float32, its channels last; and the axis that they were on."""
    own, layer.activation = layer.activation, keras.activations.linear
    try:
        y = ops.cast(layer(x), "float32")
    finally:
        layer.activation = own
    return ops.moveaxis(y, folds.channels_axis(layer), -1)


def _activated(layer, y):
    """What a layer makes of `_linear`."""
    return layer.activation(ops.cast(ops.moveaxis(y, -1, folds.channels_axis(layer)), layer.compute_dtype))


def _spread(y):
    """Mean and deviation of each channel, (2, channels)."""
    mean, variance = ops.moments(y, list(range(len(y.shape) - 1)))
    return ops.stack([mean, ops.sqrt(variance)])


def _noted(layer, kept, found, x, **_):
    """A layer that appends the statistics of the channels that stay to `found`; kept: bool (channels,), or None."""
    y = _linear(layer, x)
    statistics = _spread(y)
    found.append(statistics if kept is None else ops.take(statistics, np.flatnonzero(kept), 1))
    return _activated(layer, y)


def _restored(layer, wanted, found, x, **_):
    """A layer of the cut network as it is once it was restored; it appends the statistics of before to `found`."""
    y = _linear(layer, x)
    own = _spread(y)
    found.append(own)
    scale = _ratio(ops, wanted[1], own[1])
    y = (y - own[0]) * scale + wanted[0] if layer.use_bias else y * scale
    return _activated(layer, y)


def norms_of(model):
    """{path: batch-normalisation} of a model and the models inside it, each once."""
    found = {}
    for path, node in nodes.walk(model):
        if isinstance(node.operation, layers.BatchNormalization) and node.operation not in found.values():
            found[path] = node.operation
    return found


def _batch_statistics(model):
    """A function (values of the model's variables, images) -> {path: (2, channels)}: mean and variance of the batch
    that each batch-normalisation receives, while all of them normalise by the batch, as in training."""
    norms, substitutes = norms_of(model), twin.Substitutes(model)

    def statistics(values, images):
        found = {path: [] for path in norms}
        measured = {norm: functools.partial(_measured, norm, found[path]) for path, norm in norms.items()}
        with keras.StatelessScope(list(zip(model.variables, values, strict=True))):
            running.run(model, images, substitutes.table() | measured, training=False)
        # a batch-normalisation that is called more than once has the mean of its calls, as Keras' moving averages do
        return {path: sum(calls) / len(calls) for path, calls in found.items()}

    return statistics


def _measured(norm, found, x, **_):
    """A batch-normalisation by the batch, whose mean and variance, (2, channels), it appends to `found`."""
    x, (gamma, beta) = ops.cast(x, norm.compute_dtype), twin.scale_of(norm)
    axis = norm.axis % len(x.shape)
    if axis == len(x.shape) - 1:
        y, mean, variance = operations.normalise_batch(x, gamma, beta, norm.epsilon)
    else:
        wide = ops.cast(x, "float32")
        mean, variance = ops.moments(wide, axes=[i for i in range(len(x.shape)) if i != axis])
        y = ops.batch_normalization(wide, mean, variance, axis, beta, gamma, norm.epsilon)
    found.append(ops.stack([mean, variance]))
    return ops.cast(y, x.dtype)
