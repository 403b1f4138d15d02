"""What maps a student's feature maps onto its teacher's, which have other channels and perhaps other sides."""

import keras
import numpy as np
from keras import layers, ops

from compress.engine import operations


class PointwiseConv(layers.Conv2D):
    """A 1x1 convolution that is a matrix product where `operations.convolve` makes it one."""

    def call(self, x):
        """(N, h, w, channels in) -> (N, h, w, filters)."""
        y = operations.convolve(x, ops.cast(self.kernel, x.dtype))
        if keras.backend.backend() == "tensorflow":  # sums the gradient of a half-precision bias in float32 by itself
            return self.activation(y + ops.cast(self.bias, x.dtype))
        return self.activation(ops.cast(ops.cast(y, "float32") + ops.cast(self.bias, "float32"), x.dtype))


class ConstantRegressor(layers.Layer):
    """A fixed kernel, ones / k^2 of shape (k, k, student's, teacher's channels), valid padding.

    It averages over k x k positions and sums over the student's channels; between stages of one size k is 1.

    Args:
        channels: the teacher's.
        kernel: (k, k) = student's sides - teacher's sides + 1, at least 1.
    """

    def __init__(self, channels, kernel, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.kernel_size = channels, kernel

    def call(self, x):
        """(N, h, w, student's channels) -> (N, h - k + 1, w - k + 1, teacher's channels)."""
        x = ops.sum(x, axis=-1, keepdims=True)  # every output channel is the same
        x = ops.average_pool(x, self.kernel_size, 1) if max(self.kernel_size) > 1 else x
        return ops.repeat(x, self.channels, axis=-1)


class AverageTo(layers.Layer):
    """Averages a map down to given sides, which need not divide its own; each position of the result has its window.

    Position i of n reads the rows from floor(i h / n) to ceil((i + 1) h / n), as PyTorch's AdaptiveAvgPool2d does.

    Args:
        sides: (height, width), at most those of the map.
    """

    def __init__(self, sides, **kwargs):
        super().__init__(**kwargs)
        self.sides = tuple(sides)

    def call(self, x):
        """(N, h, w, channels) -> (N, *sides, channels)."""
        for axis, side in enumerate(self.sides, 1):
            size = x.shape[axis]
            if size != side:
                windows = [np.arange(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
                weights = np.stack([np.isin(np.arange(size), rows) / len(rows) for rows in windows])  # (side, size)
                equation = ("nhwc,ih->niwc", "nhwc,iw->nhic")[axis - 1]
                x = ops.einsum(equation, x, ops.cast(weights, x.dtype))
        return x


def averaged(x, sides):
    """A map, averaged down to given sides where it has others.

    Args:
        x: (N, h, w, channels).
        sides: (height, width), at most those of x.
    """
    return x if tuple(x.shape[1:3]) == tuple(sides) else AverageTo(sides, dtype=x.dtype)(x)


def build_regressors(name, student_shapes, teacher_shapes, precision="float32"):
    """One regressor a pair of feature maps, from the student's to the teacher's.

    Where the student's map is the larger one it is averaged down first. Where the teacher's is, that one has to be
    averaged, see `averaged`: the regressor keeps the student's sides (as SimKD does: Chen et al. 2022, Knowledge
    Distillation with the Reused Teacher Classifier, arXiv 2203.14001).

    Args:
        name: 'conv1x1' (three 1x1 convolutions with ReLU between, width (C_s + C_t) // 2, trained with the student) or
            'constant' (`ConstantRegressor`, nothing to train).
        student_shapes: list of (None, h, w, channels), of the points of `features.matched`.
        teacher_shapes: list of the same length.
        precision: dtype policy of the layers.

    Returns:
        List of layers, (N, h, w, C_s) -> (N, least h, least w, C_t).
    """
    regressors = []
    for i, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True)):
        sides = tuple(map(min, student[1:3], teacher[1:3]))
        if name == "constant":
            kernel = tuple(large - small + 1 for large, small in zip(student[1:3], sides, strict=True))
            regressors.append(ConstantRegressor(teacher[-1], kernel, dtype=precision))
        else:
            width = (student[-1] + teacher[-1]) // 2
            regressors.append(
                keras.Sequential(
                    [
                        keras.Input(student[1:]),
                        *_pools(student[1:3], sides, precision),
                        PointwiseConv(width, 1, activation="relu", dtype=precision),
                        PointwiseConv(width, 1, activation="relu", dtype=precision),
                        PointwiseConv(teacher[-1], 1, dtype=precision),
                    ],
                    name=f"regressor{i + 1}",
                )
            )
    return regressors


def _pools(before, sides, precision):
    """Layers that average a map of some sides down to others: none, or one."""
    if tuple(before) == tuple(sides):
        return []
    pool = tuple(-(-large // small) for large, small in zip(before, sides, strict=True))
    if all(-(-large // step) == small for large, step, small in zip(before, pool, sides, strict=True)):
        return [layers.AveragePooling2D(pool, padding="same", dtype=precision)]
    return [AverageTo(sides, dtype=precision)]  # such as 8 down to 5
