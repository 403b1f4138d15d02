"""Tiny networks of many shapes, with lively random weights, for the tests of the engine."""

import keras
import numpy as np
import pytest
from keras import layers, ops

SIDE = 12


def lively(model, seed=0):
    """The model with random weights, biases and statistics, so that nothing cancels by chance."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        n = variable.shape
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, n))
        elif variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, n))
        elif len(n) > 1:
            variable.assign(rng.normal(0, 1.5 / np.sqrt(np.prod(n[:-1])), n))
    return model


def _conv_bn(x, filters, kernel, act="relu", **more):
    x = layers.Conv2D(filters, kernel, padding="same", **more)(x)
    x = layers.BatchNormalization(momentum=0.8)(x)
    return layers.Activation(act)(x) if act else x


def sequential():
    """Convolutions with a bias in front of batch-norms, down to a map of 1x1."""
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(5, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3),
            layers.Conv2D(6, 3, strides=2, padding="same"),
            layers.BatchNormalization(scale=False),
            layers.ReLU(max_value=6),
            layers.Conv2D(6, 3, padding="same", use_bias=False),
            layers.BatchNormalization(center=False),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(7, 3, padding="same"),
            layers.BatchNormalization(epsilon=0.1),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def residual():
    """Raw operations, two strided 1x1 convolutions that read one map, a batch-norm in front of a convolution."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    # Eight channels: without AVX-512 oneDNN computes a wrong gradient of a strided 1x1 kernel that reads fewer.
    x = _conv_bn(ops.subtract(x / 128.0, 1.0), 8, 3)
    y = _conv_bn(_conv_bn(x, 4, 1, strides=2), 8, 3, act=None)
    x = ops.relu(layers.Add()([_conv_bn(x, 8, 1, act=None, strides=2), y]))
    y = layers.BatchNormalization()(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.ReLU()(y))
    x = layers.BatchNormalization()(x + y)
    x = layers.Dense(8)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(4)(layers.ReLU()(layers.BatchNormalization()(x))))


def mobile():
    """Depthwise convolutions, squeeze-and-excite, no ReLU at all."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = _conv_bn(layers.Rescaling(1 / 255)(x), 6, 3, act="silu", strides=2, use_bias=False)
    y = _conv_bn(x, 12, 1, act="silu", use_bias=False)
    y = layers.DepthwiseConv2D(5, padding="same", use_bias=False)(y)
    y = layers.Activation("silu")(layers.BatchNormalization()(y))
    gate = layers.Reshape((1, 1, 12))(layers.GlobalAveragePooling2D()(y))
    gate = layers.Conv2D(3, 1, activation="silu")(gate)
    y = layers.Multiply()([y, layers.Conv2D(12, 1, activation="sigmoid")(gate)])
    x = layers.Add()([x, _conv_bn(y, 6, 1, act=None, use_bias=False)])
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(x)
    x = layers.Activation("silu")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def narrowing():
    """Depthwise convolutions with a bias and without, down to a map of 1x1, smaller than their kernels."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(6, 3, strides=3, padding="same")(x)
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, groups=6, padding="same")(x))
    for side, strides, more in ((5, 1, {"use_bias": False}), (5, 2, {}), (3, 1, {}), (3, 2, {"activation": "relu6"})):
        x = layers.DepthwiseConv2D(side, strides=strides, padding="same", **more)(x)
        x = layers.Activation("silu")(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3, groups=6, padding="same")(x)
    x = layers.DepthwiseConv2D(5, padding="same", activation="silu")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


def dense():
    """Concatenations with batch-norms behind them, inline activations, Flatten, a Dense in front of a batch-norm."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, activation="relu")(x / 255.0)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(3, 3, padding="same", activation="relu")(y)])
    x = layers.Flatten()(layers.AveragePooling2D(5)(x))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Dense(6, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(4)(x))


def shared():
    """One convolution, one batch-norm and one ReLU that are called more than once; a block that is a model, too."""
    relu, conv, norm = layers.ReLU(), layers.Conv2D(5, 3, padding="same"), layers.BatchNormalization()
    inner = keras.Input((6, 6, 5))
    block = keras.Model(inner, relu(_conv_bn(inner, 5, 3, act=None) + inner), name="block")
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = relu(norm(layers.Conv2D(5, 1)(x / 255.0)))
    x = relu(norm(conv(layers.MaxPooling2D(2)(x))))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(block(block(conv(x))))))


def kinds():
    """The other kinds of convolution in front of a batch-norm, and layers with weights that stay as they are."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization()(layers.SeparableConv2D(6, 3)(layers.Normalization(mean=100, variance=99)(x)))
    x = layers.BatchNormalization()(layers.Conv2DTranspose(4, 3, strides=2)(layers.PReLU()(x)))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=3, groups=2)(layers.ReLU()(x)))
    x = layers.LayerNormalization()(layers.Conv2D(4, 3, dilation_rate=2)(layers.ReLU()(x)))
    x = layers.Reshape((-1, 4))(x)
    x = layers.BatchNormalization()(layers.Conv1D(6, 3, padding="causal", use_bias=False)(x))
    x = layers.BatchNormalization()(layers.Conv1D(4, 3)(layers.ReLU(negative_slope=0.1)(x)))
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalMaxPooling1D()(x)))


def several():
    """Two inputs, two outputs in a dict."""
    one, two = keras.Input((SIDE, SIDE, 3), name="one"), keras.Input((SIDE, SIDE, 3), name="two")
    x = _conv_bn(layers.Concatenate()([one, two]) / 255.0, 5, 3)
    vector = layers.GlobalAveragePooling2D()(x)
    return keras.Model([one, two], {"a": layers.Dense(2)(vector), "b": layers.Dense(3)(vector)})


def transfer(training=None):
    """Augmentation, preprocessing, a network inside and a head; `training` is what the inner one is called with."""
    base = mobile()
    base = keras.Model(base.input, base.layers[-3].output, name="base")
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.RandomFlip("horizontal", seed=1)(x)
    x = base(x) if training is None else base(x, training=training)
    x = layers.Dropout(0.3, seed=2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4)(x))


SHAPES = {f.__name__: f for f in (sequential, residual, mobile, narrowing, dense, shared, kinds, several, transfer)}


def quick(*names, of=tuple(SHAPES)):
    """Parameters of a test for the networks `of`: those that are not named are for `make test-slow`."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in of]


def pixels(model, n=6, seed=3):
    """Random images for all inputs of a model, float32 0 to 255."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 256, (n, *x.shape[1:])).astype("float32") for x in model.inputs]
    return found if len(found) > 1 else found[0]


def close(ours, theirs, limit):
    """Whether two arrays differ by less than `limit` of the larger one's norm."""
    ours, theirs = (np.asarray(ops.convert_to_numpy(x), np.float64) for x in (ours, theirs))
    return ours.shape == theirs.shape and np.linalg.norm(ours - theirs) <= limit * np.linalg.norm(theirs)
