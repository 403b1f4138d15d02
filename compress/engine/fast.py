"""The training twin: the same ResNet on the same variables, computed by faster operations.

Training runs the twin, and the plain Keras model with its trained variables is what is saved. A Keras layer doesn't
know its neighbours. Here every convolution is computed together with its batch-normalisation, on a map of known size:

- The bias of a convolution is not added where a batch-normalisation follows, which would subtract it again. So no
  gradient of it is summed either.
- Batch-normalisation is one fused operation under TensorFlow. Keras' own makes several passes over memory.
- A 3x3 convolution on a map of 1x1 or 2x2 positions multiplies mostly padding. It becomes one matrix product with those
  weights that meet a position of the map.
- A 1x1 convolution on a small map becomes a matrix product. oneDNN reorders the weights of a convolution in every step.
- Where two 1x1 convolutions of stride 2 read one map, every second position is taken once for both.

`benchmarks/README.md` has the time that each of these saves.
"""

import keras
import numpy as np
from keras import ops

from compress.graph import resnet

SMALL = 64  # positions up to which a 1x1 convolution is faster as a matrix product; benchmarks/README.md


def taps_matrix(kernel, height, width):
    """A 3x3 'same' convolution on a small map as a matrix from all inputs of the map to all outputs.

    Args:
        kernel: (3, 3, channels in, channels out), a tensor or a numpy array; the result is of the same kind.
        height: of the map, 1 or 2: on larger maps some pairs of positions are too far apart to share a weight.
        width: likewise.

    Returns:
        (height x width x channels in, height x width x channels out).
    """
    shape, library = kernel.shape, np if isinstance(kernel, np.ndarray) else ops
    # Nine matrices (channels in, channels out). The gradient of one unstack is one stack; that of nine slices would be
    # nine kernels filled up with zeros, and their sum.
    taps = library.unstack(library.reshape(kernel, (9, *shape[2:])))
    # Input position (i, j) meets output position (u, v) with the weight at row i - u + 1, column j - v + 1 of the
    # kernel, whose centre (1, 1) joins equal positions.
    places = [(i, j) for i in range(height) for j in range(width)]
    rows = [[taps[3 * (i - u + 1) + j - v + 1] for u, v in places] for i, j in places]
    return library.concatenate([library.concatenate(row, 1) if len(row) > 1 else row[0] for row in rows], 0)


def arranged(kernel, height, width):
    """A kernel of stride 1 as a matrix where a matrix product is faster, else the kernel itself.

    Args:
        kernel: (k, k, channels in, channels out), a tensor or a numpy array; the result is of the same kind.
        height: of the map.
        width: likewise.

    Returns:
        (channels in, channels out) of a 1x1 kernel on a map of at most SMALL positions; the matrix of `taps_matrix` of
        a 3x3 kernel on a map of at most 2x2; the kernel of any other.
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
        kernel: (k, k, channels in, channels out), or the result of `arranged`; of x's dtype.
        stride: of 'valid' convolutions.

    Returns:
        (N, h', w', channels out).
    """
    height, width, channels = x.shape[1:]
    matrix = arranged(kernel, height, width) if stride == 1 and len(kernel.shape) == 4 else kernel
    if len(matrix.shape) == 4:
        same = kernel.shape[0] == 3 and stride == 1
        return ops.conv(x, kernel, strides=stride, padding="same" if same else "valid")
    # One row of the product is one position for a 1x1 kernel, (N h w, C_in) x (C_in, C_out), and the whole map for a
    # 3x3 kernel, (N, h w C_in) x (h w C_in, h w C_out).
    positions = matrix.shape[0] // channels
    y = ops.matmul(ops.reshape(x, (-1, matrix.shape[0])), matrix)
    return ops.reshape(y, (-1, height, width, matrix.shape[1] // positions))


def forward(images, architecture, dtype, conv_bn):
    """The forward pass of a ResNet up to the global pooling, with a given function for convolution and batch-norm.

    Training, inference and BN recalibration differ only in that function.

    Args:
        images: (N, h, w, 3), RGB 0 to 255.
        architecture: from `resnet.architecture_of`.
        dtype: of the arithmetic.
        conv_bn: function(x, name, stride=1, relu=True), with the names of `resnet.wiring`.

    Returns:
        (last feature map averaged over its positions (N, channels) float32, list of the four stages' feature maps
        (N, h, w, channels) in `dtype`).
    """
    stem, blocks = architecture["stem"], resnet.blocks_of(architecture["widths"])
    mean, deviation = map(np.float32, architecture["normalization"])
    kernel, stride = resnet.STEMS[stem]
    # Normalised in float32: bfloat16 has 8 significant bits, which would round mean and deviation.
    x = ops.cast((ops.cast(images, "float32") - mean) / deviation, dtype)
    # `convolve` pads a 3x3 convolution of stride 1 itself.
    x = conv_bn(_padded(x, kernel // 2) if stride > 1 else x, "conv1", stride)
    if stem == "imagenet":
        x = ops.max_pool(_padded(x, 1), 3, 2)  # padding with zeros is harmless: after a ReLU nothing is below 0
    stages = []
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(1, count + 1):
            # The first block of stages 3 to 5 halves the map by 1x1 convolutions of stride 2, one in the shortcut and
            # one in the block. Both read every second position of x, so these are picked once here.
            x = every_second(x) if block == 1 and stage > 2 else x
            name = f"conv{stage}_block{block}"
            skip = conv_bn(x, f"{name}_0", relu=False) if block == 1 else x
            inner = conv_bn(conv_bn(x, f"{name}_1"), f"{name}_2")
            x = ops.relu(skip + conv_bn(inner, f"{name}_3", relu=False))
        stages.append(x)
    return ops.mean(ops.cast(x, "float32"), axis=(1, 2)), stages


def every_second(x):
    """Every second row and column: the positions that a 1x1 convolution of stride 2 reads.

    (N, h, w, channels) -> (N, ceil(h / 2), ceil(w / 2), channels).
    """
    # Max-pooling with a window of one copies values; oneDNN does it in a third of the time of a strided slice.
    if keras.backend.backend() == "tensorflow":
        return ops.max_pool(x, 1, 2)
    return x[:, ::2, ::2]


def _padded(x, width):
    return ops.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def normalise_batch(x, gamma, beta, epsilon):
    """Batch-normalisation by the mean and variance of the batch itself, as in training.

    Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.

    Args:
        x: (N, h, w, channels), float32, bfloat16 or float16.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        (normalised x of x's dtype, mean (channels,) float32, biased variance (channels,) float32).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        empty = tf.zeros((0,))  # moving statistics, which the operation doesn't need in training mode
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=empty,
            variance=empty,
            epsilon=epsilon,
            exponential_avg_factor=1.0,
            is_training=True,
        )
        count = tf.cast(tf.size(x, out_type=tf.int64) // x.shape[-1], "float32")
        # TensorFlow returns the unbiased variance, where Keras' layer accumulates the biased one.
        return y, mean, variance * (count - 1) / count
    # In float32: mean and variance, and the gradients of gamma and beta, are sums over all N h w positions.
    wide = ops.cast(x, "float32")
    mean, variance = ops.moments(wide, axes=(0, 1, 2))
    return ops.cast(scale_and_shift(wide, mean, variance, gamma, beta, epsilon), x.dtype), mean, variance


def scale_and_shift(x, mean, variance, gamma, beta, epsilon):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with one multiplication and one addition an element.

    Args:
        x: (N, h, w, channels).
        mean: (channels,) float32.
        variance: (channels,) float32.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        (N, h, w, channels) of x's dtype.
    """
    scale = gamma * ops.rsqrt(variance + epsilon)  # (channels,), computed once for all positions
    return x * ops.cast(scale, x.dtype) + ops.cast(beta - mean * scale, x.dtype)


class FastResNet(keras.Model):
    """A ResNet of `resnet.build_resnet` for training, on the variables of the given model.

    Training it trains the given model: there is nothing to copy back. The biases of convolutions in front of a
    batch-normalisation have a gradient of 0 and become not trainable.

    Args:
        net: a model of `resnet.build_resnet`, float32.
        precision: dtype policy of the arithmetic; variables, statistics and logits are float32 in any.
        features: whether to return [logits, the four stages' feature maps] instead of the logits.
    """

    def __init__(self, net, precision="float32", features=False):
        # The twin's own policy is float32. Under a mixed policy Keras would read gamma, beta and the statistics in half
        # precision; only the activations and kernels are cast, below.
        super().__init__(name=f"fast_{net.name}", dtype="float32")
        self.net, self.features, self.arithmetic = net, features, keras.DTypePolicy(precision).compute_dtype
        self.architecture = resnet.architecture_of(net)
        for name, *_ in resnet.wiring_of(net):
            net.get_layer(f"{name}_conv").bias.trainable = False
        self.built = True  # there are no variables of its own for Keras to create

    @property
    def network(self):
        """What it trains, for `training.fit`."""
        return self.net

    def call(self, images, training=None):
        """(N, h, w, 3), RGB 0 to 255 -> logits (N, classes) float32; with `features` a list, see the class."""

        def conv_bn(x, name, stride=1, relu=True):
            return self._conv_bn(x, name, training, stride, relu)

        pooled, stages = forward(images, self.architecture, self.arithmetic, conv_bn)
        for name, _ in resnet.head_of(self.architecture["widths"]):
            pooled = self.net.get_layer(name)(pooled)  # the last one gives the logits
        return [pooled, *stages] if self.features else pooled

    def _conv_bn(self, x, name, training, stride, relu):
        conv, norm = self.net.get_layer(f"{name}_conv"), self.net.get_layer(f"{name}_bn")
        x = convolve(x, ops.cast(conv.kernel, x.dtype), stride)
        # The bias isn't added to x, but the saved Keras model adds it. So the moving mean, which that model subtracts,
        # must contain it: it is added to the batch's mean in training, and taken off again in inference.
        if training:
            x, mean, variance = normalise_batch(x, norm.gamma, norm.beta, norm.epsilon)
            momentum = norm.momentum
            norm.moving_mean.assign(momentum * norm.moving_mean + (1 - momentum) * (mean + conv.bias))
            norm.moving_variance.assign(momentum * norm.moving_variance + (1 - momentum) * variance)
        else:
            x = scale_and_shift(
                x, norm.moving_mean - conv.bias, norm.moving_variance, norm.gamma, norm.beta, norm.epsilon
            )
        return ops.relu(x) if relu else x
