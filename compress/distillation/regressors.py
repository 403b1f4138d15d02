"""What maps a student's feature maps onto its teacher's, which have other channels and perhaps other sides."""

import keras
from keras import layers, ops

from compress.engine import fast
from compress.graph import resnet


class PointwiseConv(layers.Conv2D):
    """A 1x1 convolution that is a matrix product where `fast.convolve` makes it one."""

    def call(self, x):
        """(N, h, w, channels in) -> (N, h, w, filters)."""
        y = fast.convolve(x, ops.cast(self.kernel, x.dtype))
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


def feature_shapes(net):
    """Shapes (None, h, w, channels) of the feature maps behind the four stages of a ResNet."""
    return [net.get_layer(name).output.shape for name in resnet.stage_outputs(net)]


def build_regressors(name, student_shapes, teacher_shapes, precision="float32"):
    """One regressor a stage, from the student's feature map to the teacher's.

    Args:
        name: 'conv1x1' (three 1x1 convolutions with ReLU between, width (C_s + C_t) // 2, trained with the student,
            behind an average over positions where the student's map is the larger one) or 'constant'
            (`ConstantRegressor`, nothing to train).
        student_shapes: list of (None, h, w, channels), from `feature_shapes`.
        teacher_shapes: list of the same length.
        precision: dtype policy of the layers.

    Returns:
        List of layers.
    """
    regressors = []
    for i, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True)):
        if name == "constant":
            kernel = tuple(large - small + 1 for large, small in zip(student[1:3], teacher[1:3], strict=True))
            regressors.append(ConstantRegressor(teacher[-1], kernel, dtype=precision))
        else:
            width = (student[-1] + teacher[-1]) // 2
            pool = tuple(-(-large // small) for large, small in zip(student[1:3], teacher[1:3], strict=True))
            pools = [layers.AveragePooling2D(pool, padding="same", dtype=precision)] if max(pool) > 1 else []
            regressors.append(
                keras.Sequential(
                    [
                        keras.Input(student[1:]),
                        *pools,
                        PointwiseConv(width, 1, activation="relu", dtype=precision),
                        PointwiseConv(width, 1, activation="relu", dtype=precision),
                        PointwiseConv(teacher[-1], 1, dtype=precision),
                    ],
                    name=f"regressor{i + 1}",
                )
            )
    return regressors
