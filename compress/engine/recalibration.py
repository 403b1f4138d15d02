"""Batch-norm statistics measured anew on training images, after channels went (BN recalibration)."""

import numpy as np
from keras import ops

from compress.engine import fast, folded
from compress.graph import resnet


def recalibrate_bn(model, images, batch_size=128, progress=iter):
    """Replaces the batch-norm means and variances by averages over images, in place; no weight is trained.

    What a layer reads has changed when channels went. Li et al. 2020, EagleEye, arXiv 2007.02491, section 3.3.

    Args:
        model: a ResNet of `resnet.build_resnet`.
        images: (N, h, w, 3), RGB 0 to 255, training images; whole batches of them are used.
        batch_size: images a pass.
        progress: wraps the list of batch starts.

    Raises:
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("recalibrate_bn needs images. Received: none")
    batch_size = min(batch_size, len(images))
    starts, total = range(0, len(images) - batch_size + 1, batch_size), {}
    layers = {name: (model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn"))
              for name, *_ in resnet.wiring_of(model)}
    weights = {name: [v.value for v in (conv.kernel, conv.bias, norm.gamma, norm.beta)]
               for name, (conv, norm) in layers.items()}
    compiled = folded.compiled_by_backend(_batch_statistics(model))
    for start in progress(starts):
        for name, pair in compiled(weights, ops.convert_to_tensor(images[start:start + batch_size])).items():
            total[name] = total.get(name, 0.0) + np.asarray(pair, np.float64)
    for name, (mean, variance) in total.items():
        norm = layers[name][1]
        norm.moving_mean.assign(mean / len(starts))
        norm.moving_variance.assign(variance / len(starts))


def _batch_statistics(model):
    """function(weights, images) -> {name: (2, channels)}, mean and variance of what each batch-norm sees of a batch."""
    architecture, epsilon = resnet.architecture_of(model), resnet.BN["epsilon"]

    def statistics(weights, images):
        found = {}

        def conv_bn(x, name, stride=1, relu=True):
            kernel, bias, gamma, beta = weights[name]
            x, mean, variance = fast.normalise_batch(fast.convolve(x, kernel, stride), gamma, beta, epsilon)
            found[name] = ops.stack([mean + bias, variance])
            return ops.relu(x) if relu else x

        fast.forward(images, architecture, "float32", conv_bn)
        return found
    return statistics
