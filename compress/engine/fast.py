"""The same ResNet on the same variables by faster operations: what trains, while plain Keras is what is saved.

A Keras layer alone cannot know what stands before and behind it. Here every convolution is taken together with its
batch-normalisation, on a map of known size:

- the bias in front of a batch-normalisation, which takes it out again, is not added, and so has no gradient to sum;
- batch-normalisation is one fused operation under TensorFlow, where Keras' own takes several passes over memory;
- a 3x3 convolution on a map of 1x1 or 2x2 positions multiplies mostly padding: it becomes one matrix product of the
  taps that meet a position;
- a 1x1 convolution on a small map is one matrix product, whose weights need no reordering in every step;
- a stride of 2 in front of a 1x1 convolution skips positions once for both convolutions that read them.

`benchmarks/README.md` has what each is worth.
"""

import keras
import numpy as np
from keras import ops

from compress.graph import resnet

SMALL = 64  # positions up to which a 1x1 convolution is faster as a matrix product; benchmarks/README.md


def taps_matrix(kernel, height, width):
    """The matrix of a 3x3 'same' convolution on a small map: each input position to each output position.

    Args:
        kernel: (3, 3, channels in, channels out), a tensor, or a numpy array that shall stay one.
        height: of the map, 1 or 2, so that every input position meets every output position.
        width: likewise.

    Returns:
        (height x width x channels in, height x width x channels out).
    """
    shape, library = kernel.shape, np if isinstance(kernel, np.ndarray) else ops
    taps = library.unstack(library.reshape(kernel, (9, *shape[2:])))  # its gradient is one stack, a slice's is nine
    places = [(i, j) for i in range(height) for j in range(width)]
    rows = [[taps[3 * (i - u + 1) + j - v + 1] for u, v in places] for i, j in places]
    return library.concatenate([library.concatenate(row, 1) if len(row) > 1 else row[0] for row in rows], 0)


def arranged(kernel, height, width):
    """The matrix that makes a convolution of stride 1 on a small map one product, or the kernel where that is slower.

    Args:
        kernel: (k, k, channels in, channels out), a tensor, or a numpy array that shall stay one.
        height: of the map.
        width: likewise.

    Returns:
        (channels in, channels out) of 1x1; as `taps_matrix` of 3x3; or the kernel.
    """
    if kernel.shape[0] == 1 and height * width <= SMALL:
        return (np if isinstance(kernel, np.ndarray) else ops).reshape(kernel, kernel.shape[2:])
    if kernel.shape[0] == 3 and height <= 2 and width <= 2:
        return taps_matrix(kernel, height, width)
    return kernel


def convolve(x, kernel, stride=1):
    """A convolution without bias: 'same' for 3x3 of stride 1, 'valid' for any other.

    Args:
        x: (N, h, w, channels in).
        kernel: (k, k, channels in, channels out), or what `arranged` made of it; of x's dtype.
        stride: of 'valid' convolutions.

    Returns:
        (N, h', w', channels out).
    """
    height, width, channels = x.shape[1:]
    matrix = arranged(kernel, height, width) if stride == 1 and len(kernel.shape) == 4 else kernel
    if len(matrix.shape) == 4:
        same = kernel.shape[0] == 3 and stride == 1
        return ops.conv(x, kernel, strides=stride, padding="same" if same else "valid")
    positions = matrix.shape[0] // channels  # that one row of the product holds
    y = ops.matmul(ops.reshape(x, (-1, matrix.shape[0])), matrix)
    return ops.reshape(y, (-1, height, width, matrix.shape[1] // positions))


def forward(images, architecture, dtype, conv_bn):
    """The way of images through a ResNet, whatever a convolution with its batch-normalisation is.

    Args:
        images: (N, h, w, 3), RGB 0 to 255.
        architecture: from `resnet.architecture_of`.
        dtype: of the arithmetic.
        conv_bn: function(x, name, stride=1, relu=True), with the names of `resnet.wiring`.

    Returns:
        (mean over positions of the last feature map (N, channels) float32, the four stages' feature maps).
    """
    stem, blocks = architecture["stem"], resnet.blocks_of(architecture["widths"])
    mean, deviation = map(np.float32, architecture["normalization"])
    kernel, stride = resnet.STEMS[stem]
    x = ops.cast((ops.cast(images, "float32") - mean) / deviation, dtype)
    x = conv_bn(_padded(x, kernel // 2) if stride > 1 else x, "conv1", stride)  # stride 1 is 'same' of itself
    if stem == "imagenet":
        x = ops.max_pool(_padded(x, 1), 3, 2)  # zeros are no maximum above what a ReLU gives
    stages = []
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(1, count + 1):
            x = every_second(x) if block == 1 and stage > 2 else x
            name = f"conv{stage}_block{block}"
            skip = conv_bn(x, f"{name}_0", relu=False) if block == 1 else x
            inner = conv_bn(conv_bn(x, f"{name}_1"), f"{name}_2")
            x = ops.relu(skip + conv_bn(inner, f"{name}_3", relu=False))
        stages.append(x)
    return ops.mean(ops.cast(x, "float32"), axis=(1, 2)), stages


def every_second(x):
    """Every second row and column of (N, h, w, channels): what a 1x1 convolution of stride 2 looks at."""
    if keras.backend.backend() == "tensorflow":
        return ops.max_pool(x, 1, 2)  # a window of one: oneDNN's pooling takes a third of a strided slice's time
    return x[:, ::2, ::2]


def _padded(x, width):
    return ops.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def normalise_batch(x, gamma, beta, epsilon):
    """Batch-normalisation by the batch's own mean and variance.

    Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.

    Args:
        x: (N, h, w, channels), float32, bfloat16 or float16.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        (normalised x, mean (channels,) float32, biased variance (channels,) float32).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        empty = tf.zeros((0,))
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=empty, variance=empty, epsilon=epsilon, exponential_avg_factor=1.0,
            is_training=True)
        count = tf.cast(tf.size(x, out_type=tf.int64) // x.shape[-1], "float32")
        return y, mean, variance * (count - 1) / count  # TensorFlow gives the unbiased one
    wide = ops.cast(x, "float32")  # the gradients of gamma and beta are sums over all positions
    mean, variance = ops.moments(wide, axes=(0, 1, 2))
    return ops.cast(scale_and_shift(wide, mean, variance, gamma, beta, epsilon), x.dtype), mean, variance


def scale_and_shift(x, mean, variance, gamma, beta, epsilon):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, in one multiplication and one addition an element."""
    scale = gamma * ops.rsqrt(variance + epsilon)
    return x * ops.cast(scale, x.dtype) + ops.cast(beta - mean * scale, x.dtype)


class FastResNet(keras.Model):
    """A ResNet of `resnet.build_resnet` on its own variables, for training.

    What it trains is the model that it was given: nothing has to be copied back. The biases in front of
    batch-normalisations, whose gradient is 0, are marked as not trainable.

    Args:
        net: a model of `resnet.build_resnet`, float32.
        precision: dtype policy of the arithmetic; variables, statistics and logits are float32 in any.
        features: answer [logits, the four stages' feature maps] instead of the logits.
    """

    def __init__(self, net, precision="float32", features=False):
        # itself float32: a mixed policy would have Keras read gamma, beta and the statistics in half precision
        super().__init__(name=f"fast_{net.name}", dtype="float32")
        self.net, self.features, self.arithmetic = net, features, keras.DTypePolicy(precision).compute_dtype
        self.architecture = resnet.architecture_of(net)
        for name, *_ in resnet.wiring_of(net):
            net.get_layer(f"{name}_conv").bias.trainable = False
        self.built = True

    def call(self, images, training=None):
        """(N, h, w, 3), RGB 0 to 255 -> logits (N, classes) float32, with `features` a list."""
        def conv_bn(x, name, stride=1, relu=True):
            return self._conv_bn(x, name, training, stride, relu)

        pooled, stages = forward(images, self.architecture, self.arithmetic, conv_bn)
        for name, _ in resnet.head_of(self.architecture["widths"]):
            pooled = self.net.get_layer(name)(pooled)  # the last one gives the logits
        return [pooled, *stages] if self.features else pooled

    def _conv_bn(self, x, name, training, stride, relu):
        conv, norm = self.net.get_layer(f"{name}_conv"), self.net.get_layer(f"{name}_bn")
        x = convolve(x, ops.cast(conv.kernel, x.dtype), stride)
        if training:
            x, mean, variance = normalise_batch(x, norm.gamma, norm.beta, norm.epsilon)
            keep = norm.momentum
            norm.moving_mean.assign(keep * norm.moving_mean + (1 - keep) * (mean + conv.bias))
            norm.moving_variance.assign(keep * norm.moving_variance + (1 - keep) * variance)
        else:
            x = scale_and_shift(x, norm.moving_mean - conv.bias, norm.moving_variance, norm.gamma, norm.beta,
                                norm.epsilon)
        return ops.relu(x) if relu else x
