"""BN recalibration: measures the means and variances of batch-normalisations again after channels were removed."""

import numpy as np
from keras import ops

from compress.engine import fast, folded
from compress.graph import resnet


def recalibrate_bn(model, images, batch_size=128, progress=iter):
    """Replaces the moving means and variances of a model by their averages over batches of images, in place.

    A layer behind a removed channel has another input distribution than its batch-normalisation was trained on. No
    weight is trained. Li et al. 2020, EagleEye, arXiv 2007.02491, section 3.3.

    Args:
        model: a ResNet of `resnet.build_resnet`.
        images: training images (N, h, w, 3), RGB 0 to 255. Images beyond the last whole batch are not used.
        batch_size: images a forward pass.
        progress: wraps the range of batch starts.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("recalibrate_bn needs images. Received: none")
    batch_size = min(batch_size, len(images))
    starts, total = range(0, len(images) - batch_size + 1, batch_size), {}
    # The weights are arguments of the compiled function: jax.jit would compile values from outside as constants.
    layers = {
        name: (model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn")) for name, *_ in resnet.wiring_of(model)
    }
    weights = {
        name: [v.value for v in (conv.kernel, conv.bias, norm.gamma, norm.beta)]
        for name, (conv, norm) in layers.items()
    }
    compiled = folded.compiled_by_backend(_batch_statistics(model))
    # A plain average over all batches. The moving average of training, with momentum 0.9, would still hold 0.9^n of the
    # old statistics after n batches. Summed in float64, as a sum of many batches loses digits in float32.
    for start in progress(starts):
        for name, pair in compiled(weights, ops.convert_to_tensor(images[start : start + batch_size])).items():
            total[name] = total.get(name, 0.0) + np.asarray(pair, np.float64)
    for name, (mean, variance) in total.items():
        norm = layers[name][1]
        norm.moving_mean.assign(mean / len(starts))
        norm.moving_variance.assign(variance / len(starts))


def _batch_statistics(model):
    """A function (weights, images (N, h, w, 3)) -> {name: (2, channels)}: mean and variance of the batch that each
    batch-normalisation receives, while all of them normalise by the batch, as in training."""
    architecture, epsilon = resnet.architecture_of(model), resnet.BN["epsilon"]

    def statistics(weights, images):
        found = {}

        def conv_bn(x, name, stride=1, relu=True):
            kernel, bias, gamma, beta = weights[name]
            x, mean, variance = fast.normalise_batch(fast.convolve(x, kernel, stride), gamma, beta, epsilon)
            found[name] = ops.stack([mean + bias, variance])  # the Keras layer sees the convolution with its bias
            return ops.relu(x) if relu else x

        fast.forward(images, architecture, "float32", conv_bn)
        return found

    return statistics
