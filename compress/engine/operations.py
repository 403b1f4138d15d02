"""Operations that give the numbers of Keras' own layers sooner, on tensors whose last axis is the channels.

- A convolution with a 1x1 kernel on a small map becomes a matrix product. oneDNN reorders the weights of a convolution
  in every step.
- A 3x3 convolution on a map of 1x1 or 2x2 positions multiplies mostly padding. It becomes one matrix product with
  those weights that meet a position of the map.
- A 1x1 convolution with a stride reads every second position, which max-pooling picks sooner than a strided slice.
- A convolution of as many groups as channels is a depthwise one, which Keras leaves to XLA under TensorFlow.
- A depthwise convolution whose kernel is larger than its map is left to a slow reference by oneDNN: up to 60 times the
  time of the products of each output with the positions that it reads.
- Batch-normalisation is one fused operation under TensorFlow. Keras' own makes several passes over memory.

`benchmarks/README.md` has the time that each of these saves. Which of them a convolution becomes depends on its kernel
and the size of its map alone.
"""

import keras
import numpy as np
from keras import ops

SMALL = 64  # positions up to which a 1x1 convolution is faster as a matrix product; benchmarks/README.md
FEW = 36  # pairs of positions up to which a depthwise convolution is faster by elementwise products than by matrices
MANY = 256  # pairs up to which one whose kernel is larger than its map is computed by either


def taps_matrix(kernel, height, width):
    """A 'same' convolution of stride 1 on a small map as a matrix from all inputs of the map to all outputs.

    Args:
        kernel: (k, k, channels in, channels out), k odd, a tensor or a numpy array; the result is of the same kind.
        height: of the map, at most (k + 1) / 2: on larger maps some pairs of positions are too far apart to share a
            weight.
        width: likewise.

    Returns:
        (height x width x channels in, height x width x channels out).
    """
    side, shape, library = kernel.shape[0], kernel.shape, np if isinstance(kernel, np.ndarray) else ops
    # k k matrices (channels in, channels out). The gradient of one unstack is one stack; that of slices would be
    # kernels filled up with zeros, and their sum.
    taps = library.unstack(library.reshape(kernel, (side**2, *shape[2:])))
    # Input position (i, j) meets output position (u, v) with the weight at row i - u + c, column j - v + c of the
    # kernel, whose centre (c, c) joins equal positions.
    places, centre = [(i, j) for i in range(height) for j in range(width)], side // 2
    rows = [[taps[side * (i - u + centre) + j - v + centre] for u, v in places] for i, j in places]
    return library.concatenate([library.concatenate(row, 1) if len(row) > 1 else row[0] for row in rows], 0)


def arranged(kernel, size, strides=(1, 1), padding="same"):
    """A kernel as a matrix where a matrix product is faster, else the kernel itself.

    Args:
        kernel: (k, l, channels in, channels out), a tensor or a numpy array; the result is of the same kind.
        size: (height, width) of the map that is read; None for a side that is not known.
        strides: (rows, columns).
        padding: 'same' or 'valid'.

    Returns:
        (channels in, channels out) of a 1x1 kernel for a map of at most SMALL positions, those that strides leave out
        apart; the matrix of `taps_matrix` of a 3x3 kernel with 'same' padding on a map of at most 2x2; the kernel of
        any other.
    """
    if None in size:
        return kernel
    positions = np.prod([-(-n // stride) for n, stride in zip(size, strides, strict=True)])
    if kernel.shape[:2] == (1, 1) and positions <= SMALL:
        return (np if isinstance(kernel, np.ndarray) else ops).reshape(kernel, kernel.shape[2:])
    if kernel.shape[:2] == (3, 3) and padding == "same" and max(strides) == 1 and max(size) <= 2:
        return taps_matrix(kernel, *size)
    return kernel


def convolve(x, kernel, strides=(1, 1), padding="valid", picked=None):
    """A convolution without bias.

    Args:
        x: (N, h, w, channels in).
        kernel: (k, l, channels in, channels out), or the matrix that `arranged` makes of it; of x's dtype.
        strides: (rows, columns).
        padding: 'same' or 'valid'.
        picked: dict in which the positions of x that strides leave are kept, so that convolutions which read the same
            tensor pick them once; None for a convolution on its own.

    Returns:
        (N, h', w', channels out).
    """
    matrix = arranged(kernel, x.shape[1:3], strides, padding) if len(kernel.shape) == 4 else kernel
    # 'same' and 'valid' are the same for a 1x1 kernel; the matrix of a larger one has no strides.
    if max(strides) > 1 and (len(matrix.shape) == 2 or tuple(matrix.shape[:2]) == (1, 1)):
        x, strides = every_nth(x, strides, picked), (1, 1)
    if len(matrix.shape) == 4:
        return ops.conv(x, matrix, strides=strides, padding=padding)
    # One row of the product is one position for a 1x1 kernel, (N h w, C_in) x (C_in, C_out), and the whole map for a
    # larger one, (N, h w C_in) x (h w C_in, h w C_out).
    height, width, channels = x.shape[1:]
    positions = matrix.shape[0] // channels
    y = ops.matmul(ops.reshape(x, (-1, matrix.shape[0])), matrix)
    return ops.reshape(y, (-1, height, width, matrix.shape[1] // positions))


def depthwise(x, kernel, strides=(1, 1), padding="valid"):
    """A depthwise convolution without bias, one output channel for each input channel.

    Args:
        x: (N, h, w, channels).
        kernel: (k, l, channels, 1), or (k, l, 1, channels) of a convolution of as many groups, of x's dtype.
        strides: (rows, columns).
        padding: 'same' or 'valid'.

    Returns:
        (N, h', w', channels).
    """
    size, out, channels = tuple(x.shape[1:3]), None, x.shape[-1]
    kernel = ops.reshape(kernel, (*kernel.shape[:2], channels, 1))
    if padding == "same" and None not in size and any(n < k for n, k in zip(size, kernel.shape[:2], strict=True)):
        out = tuple(-(-n // stride) for n, stride in zip(size, strides, strict=True))
    if out is None or np.prod(size) * np.prod(out) > MANY:
        return ops.depthwise_conv(x, kernel, strides=strides, padding=padding)
    taps = _taps(size, out, tuple(kernel.shape[:2]), strides)
    # The last tap, 0, is of pairs that don't meet. Summed in at least float32, as a convolution is.
    wide = x.dtype if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    kernel = ops.cast(ops.reshape(kernel, (-1, channels)), wide)
    weights = ops.take(ops.concatenate([kernel, ops.zeros_like(kernel[:1])]), taps, 0)  # (outputs, inputs, channels)
    flat = ops.cast(ops.reshape(x, (-1, taps.shape[1], channels)), wide)
    y = ops.sum(flat[:, None] * weights, 2) if taps.size <= FEW else ops.einsum("nic,oic->noc", flat, weights)
    return ops.cast(ops.reshape(y, (-1, *out, channels)), x.dtype)


def _taps(size, out, kernel, strides):
    """Which tap of a 'same' convolution each output position multiplies each input position by.

    Args:
        size: (height, width) of the map.
        out: (height, width) of the output.
        kernel: (height, width).
        strides: (rows, columns).

    Returns:
        int (outputs, inputs); height x width of the kernel where a pair doesn't meet.
    """
    found, met = 0, True
    for axis, (n, k, stride, m) in enumerate(zip(size, kernel, strides, out, strict=True)):
        first = np.arange(m) * stride - max((m - 1) * stride + k - n, 0) // 2  # the position under the first tap
        tap = np.arange(n) - first[:, None]  # (outputs, inputs)
        shape = (m, 1, n, 1) if axis == 0 else (1, m, 1, n)
        found = found * k + tap.reshape(shape)
        met = met & ((tap >= 0) & (tap < k)).reshape(shape)
    return np.where(met, found, kernel[0] * kernel[1]).reshape(np.prod(out), np.prod(size))


def every_nth(x, strides, picked=None):
    """The positions that a 1x1 convolution with strides reads: the first row and column and every nth behind it.

    Args:
        x: (N, h, w, channels).
        strides: (rows, columns).
        picked: see `convolve`.

    Returns:
        (N, ceil(h / rows), ceil(w / columns), channels).
    """
    picked = {} if picked is None else picked
    key = id(x), tuple(strides)
    if key not in picked:
        # Max-pooling with a window of one copies values; oneDNN does it in a third of the time of a strided slice.
        pool = keras.backend.backend() == "tensorflow"
        # x is kept with it: its id would else go to another tensor once it is gone.
        picked[key] = x, ops.max_pool(x, 1, strides) if pool else x[:, :: strides[0], :: strides[1]]
    return picked[key][1]


def normalise_batch(x, gamma, beta, epsilon):
    """Batch-normalisation by the mean and variance of the batch itself, as in training.

    Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.

    Args:
        x: (N, ..., channels), of any float dtype.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        (normalised x of x's dtype, mean (channels,) float32, biased variance (channels,) float32).
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if keras.backend.backend() == "tensorflow" and dtype != "float64":
        import tensorflow as tf

        empty = tf.zeros((0,))  # moving statistics, which the operation doesn't need in training mode
        # The operation takes maps: vectors and volumes become maps of one position.
        flat = x if len(x.shape) == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=flat,
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
        y = y if len(x.shape) == 4 else tf.reshape(y, tf.shape(x))
        return y, mean, variance * (count - 1) / count
    # At least in float32: mean and variance, and the gradients of gamma and beta, are sums over all positions.
    wide = ops.cast(x, "float64" if dtype == "float64" else "float32")
    mean, variance = ops.moments(wide, axes=tuple(range(len(x.shape) - 1)))
    return ops.cast(scale_and_shift(wide, mean, variance, gamma, beta, epsilon), dtype), mean, variance


def scale_and_shift(x, mean, variance, gamma, beta, epsilon):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with one multiplication and one addition an element.

    Args:
        x: (N, ..., channels).
        mean: (channels,) float32.
        variance: (channels,) float32.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        x's shape and dtype.
    """
    scale = gamma * ops.rsqrt(variance + epsilon)  # (channels,), computed once for all positions
    return x * ops.cast(scale, x.dtype) + ops.cast(beta - mean * scale, x.dtype)
