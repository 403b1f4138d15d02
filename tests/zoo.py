"""Tiny networks of every shape that users build, one function each: `NETWORKS` has them by name.

Each takes seconds less than a real one and has what is special about its shape. Weights are lively: no batch-norm at
its start values, no bias of zeros.
"""

import keras
import numpy as np
from keras import layers, ops

NETWORKS = {}


def network(function):
    """Enters a network of the zoo."""
    NETWORKS[function.__name__] = function
    return function


def lively(model, seed=0):
    """The model with random weights everywhere: nothing cancels by chance, nothing is 0 or 1."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for variable in () if layer._layers and isinstance(layer, keras.Model) else layer.weights:
            shape, name = variable.shape, variable.name
            if "variance" in name:
                variable.assign(rng.uniform(0.5, 1.5, shape))
            elif name in ("gamma", "scale"):
                variable.assign(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
            elif name not in ("kernel", "count", "seed_generator_state") and "kernel" not in name:
                variable.assign(rng.normal(0, 0.3, shape))
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def calibrated(model, count=16):
    """The lively model with batch-norm statistics of random images: in deep networks the signal would die without."""
    norms = [layer for layer in lively(model)._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    for variable in () if norms else model.weights:
        if "kernel" in variable.name:
            variable.assign(variable * 2**0.5)  # He et al. 2015: half of what a ReLU reads is lost
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # one batch is enough
    batch = images(model, count, seed=2)
    model(batch if len(batch) > 1 else batch[0], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def images(model, count=3, seed=1):
    """A batch for each input of a model, normal float32; 8 where a size is open; whole numbers for an Embedding."""
    rng = np.random.default_rng(seed)
    batch = []
    for tensor in model.inputs:
        shape = (count, *(size or 8 for size in tensor.shape[1:]))
        whole = "int" in tensor.dtype
        batch.append(rng.integers(0, 7, shape) if whole else rng.normal(0, 1, shape).astype("float32"))
    return batch


def _model(x, y, name):
    return keras.Model(x, y, name=name)


def _conv(x, filters, name, size=3, norm=True, **more):
    x = layers.Conv2D(filters, size, padding="same", name=name, **more)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x)) if norm else x


def _head(x, classes=3):
    return layers.Dense(classes, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))


# ---- plain ones


@network
def plain_cnn():
    x = keras.Input((8, 8, 3), name="image")
    y = _conv(_conv(x, 6, "one"), 7, "two")
    return _model(x, _head(layers.MaxPooling2D()(y)), "plain_cnn")


@network
def flatten_head():
    """Sequential with Flatten, inline ReLU, two Dense layers: the first CNN of every tutorial."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(5, 3, activation="relu", name="one"),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 2, activation="relu", name="two"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(7, activation="relu", name="hidden"),
            layers.Dense(4, activation="softmax", name="classes"),
        ]
    )


@network
def mlp():
    x = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="one")(x)
    return _model(x, layers.Dense(2)(layers.Dense(5, activation="relu", name="two")(y)), "mlp")


@network
def inline_sigmoid():
    """sigmoid(0) is not 0: zeros in the maker's kernel don't silence a channel."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, activation="sigmoid", name="one")(x)
    y = layers.Rescaling(2.0, 0.5)(y)
    y = layers.Conv2D(5, 3, activation=layers.LeakyReLU(0.2), name="two")(y)
    return _model(x, _head(layers.Activation("softplus")(y)), "inline_sigmoid")


@network
def rescaled_channels():
    x = keras.Input((8, 8, 3))
    y = _conv(x, 4, "one")
    y = layers.Rescaling([1.0, 2.0, 3.0, 4.0], [0.5, 0.1, 0.2, 0.3])(y)
    return _model(x, _head(_conv(y, 5, "two")), "rescaled_channels")


@network
def rescaled_positions():
    """Constants that broadcast from a shape of their own: as raw operations, once written for .h5, become."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 4, "one")
    y = layers.Rescaling(np.full((1, 1, 1, 4), 0.5).tolist(), np.arange(8.0).reshape(8, 1).tolist())(y)
    y = layers.Reshape((64, 5))(_conv(y, 5, "two"))
    y = layers.Rescaling(1.0, np.arange(320.0).reshape(1, 64, 5).tolist())(y)  # an embedding of positions
    return _model(x, layers.Dense(2)(layers.Flatten()(layers.Dense(6, activation="relu")(y))), "rescaled_positions")


@network
def open_image_size():
    x = keras.Input((None, None, 3))
    y = _conv(_conv(x, 6, "one"), 7, "two")
    return _model(x, _head(y[..., 1:5]), "open_image_size")


@network
def channels_along_a_sequence():
    x = keras.Input((12, 4))
    y = layers.Conv1D(6, 3, padding="causal", activation="relu", name="one")(x)
    y = layers.SeparableConv1D(7, 3, padding="same", name="two")(y)
    y = layers.BatchNormalization()(layers.DepthwiseConv1D(3, name="three")(y))
    y = layers.Conv1DTranspose(5, 2, strides=2, name="four")(layers.MaxPooling1D()(y))
    return _model(x, layers.Dense(3)(layers.GlobalMaxPooling1D()(y)), "channels_along_a_sequence")


@network
def volumes():
    x = keras.Input((6, 6, 6, 2))
    y = layers.Conv3D(5, 3, activation="relu", name="one")(x)
    y = layers.BatchNormalization()(layers.Conv3D(4, 3, name="two")(layers.ZeroPadding3D()(y)))
    return _model(x, layers.Dense(3)(layers.GlobalAveragePooling3D()(y)), "volumes")


# ---- models in models


def _base(name="base"):
    x = keras.Input((8, 8, 3), name=f"{name}_image")
    y = _conv(x, 6, "stem")
    skip = layers.Conv2D(5, 1, name="skip")(y)
    y = layers.Conv2D(5, 1, name="last")(_conv(y, 7, "inner"))
    return _model(x, layers.ReLU(name="out")(layers.Add(name="add")([skip, y])), name)


@network
def transfer_learning():
    """Sequential([application, pooling, Dropout, Dense]), the commonest shape there is."""
    base = _base()
    base.trainable = False
    return keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dropout(0.3), layers.Dense(4)])


@network
def augmented():
    """Augmentation, preprocessing as operations and base(x, training=False)."""
    x = keras.Input((8, 8, 3))
    y = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)], name="augmentation")(x)
    y = _base()(y / 127.5 - 1.0, training=False)
    return _model(x, _head(layers.Dropout(0.2)(y), 4), "augmented")


@network
def two_floors():
    """A model in a model in a model, which reads and makes channels of its neighbours."""
    x = keras.Input((8, 8, 5))
    inner = _model(x, _conv(x, 6, "conv"), "inner")
    x = keras.Input((8, 8, 4))
    middle = _model(x, layers.ReLU(name="relu")(inner(_conv(x, 5, "conv"))), "middle")
    x = keras.Input((8, 8, 3))
    return _model(x, _head(middle(_conv(x, 4, "conv"))), "two_floors")


@network
def block_called_twice():
    x = keras.Input((8, 8, 6))
    block = _model(x, layers.Add()([x, _conv(_conv(x, 5, "one"), 6, "two")]), "block")
    x = keras.Input((8, 8, 3))
    return _model(x, _head(block(block(_conv(x, 6, "stem")))), "block_called_twice")


@network
def open_block_called_at_two_sizes():
    """A nested model that leaves the sizes open, which its calls give it: residual at 6x6, then at 3x3."""
    x = keras.Input((None, None, 6))
    block = _model(x, layers.Add()([x, _conv(_conv(x, 5, "one"), 6, "two")]), "block")
    tail = [keras.Input((None, None, 6)), layers.Conv2D(6, 3, padding="same", name="conv"), layers.ReLU()]
    tail = keras.Sequential(tail, name="tail")
    x = keras.Input((8, 8, 3))
    y = tail(block(layers.Resizing(6, 6)(_conv(x, 6, "stem"))))
    return _model(x, _head(block(tail(layers.MaxPooling2D()(y)))), "open_block_called_at_two_sizes")


@network
def activations_called_twice():
    """A nested model without weights, called on channels of two layers."""
    x = keras.Input((8, 8, 6))
    block = _model(x, layers.MaxPooling2D()(layers.ReLU()(x)), "block")
    x = keras.Input((8, 8, 3))
    one = block(layers.Conv2D(6, 3, padding="same", name="one")(x))
    two = block(layers.Conv2D(6, 1, name="two")(x))
    return _model(x, _head(_conv(layers.Concatenate()([one, two]), 4, "three")), "activations_called_twice")


@network
def shared_layers():
    x = keras.Input((8, 8, 3))
    relu, shared = layers.ReLU(), layers.Conv2D(6, 3, padding="same", name="shared")
    y = relu(layers.Conv2D(6, 3, padding="same", name="one")(x))
    y = relu(shared(relu(shared(y))))
    return _model(x, _head(relu(layers.Conv2D(4, 1, name="two")(y))), "shared_layers")


@network
def siamese():
    x = keras.Input((8, 8, 3))
    tower = _model(x, layers.Dense(6, name="code")(layers.Flatten()(_conv(x, 5, "conv"))), "tower")
    one, two = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="two")
    apart = ops.abs(tower(one) - tower(two))
    return _model([one, two], layers.Dense(1, activation="sigmoid")(apart), "siamese")


@network
def several_outputs():
    one, two = keras.Input((8, 8, 3), name="one"), keras.Input((4,), name="two")
    y = _conv(one, 6, "conv")
    z = layers.Concatenate()([layers.GlobalMaxPooling2D()(y), layers.Dense(5, activation="relu", name="side")(two)])
    outputs = {"scores": layers.Dense(3, name="scores")(z), "map": layers.Conv2D(1, 1, name="map")(y)}
    return keras.Model({"one": one, "two": two}, outputs, name="several_outputs")


# ---- joined and added


@network
def residual():
    x = keras.Input((8, 8, 3))
    y = _conv(x, 6, "stem")
    for number in (1, 2):
        z = layers.Conv2D(6, 3, padding="same", name=f"{number}_second")(_conv(y, 5, f"{number}_first"))
        y = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(z)]))
    return _model(x, _head(y), "residual")


@network
def before_activation():
    """Batch-norm and ReLU in front of the convolution, as in ResNet V2 and DenseNet; a joined stream."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, name="stem")(x)
    for number in (1, 2):
        z = layers.ReLU()(layers.BatchNormalization()(y))
        z = layers.Conv2D(4, 3, padding="same", name=f"grow{number}")(z)
        y = layers.Concatenate()([y, z])
    return _model(x, _head(layers.ReLU()(layers.BatchNormalization()(y))), "before_activation")


@network
def inception_added():
    """A concatenation that is added into a residual stream: parts of the stream have makers of their own."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 9, "stem")
    joined = layers.Concatenate()([_conv(y, 4, "left"), _conv(y, 5, "right", 1)])
    y = layers.Add()([y, joined])
    return _model(x, _head(_conv(y, 6, "last")), "inception_added")


@network
def unet():
    x = keras.Input((8, 8, 3))
    one = _conv(x, 4, "down1")
    two = _conv(layers.MaxPooling2D()(one), 6, "down2")
    up = layers.Conv2DTranspose(5, 2, strides=2, name="up")(_conv(two, 7, "deep"))
    y = _conv(layers.Concatenate()([one, up, layers.UpSampling2D()(two)]), 6, "merged")
    return _model(x, layers.Conv2D(2, 1, activation="sigmoid", name="mask")(y), "unet")


@network
def averaged_branches():
    x = keras.Input((8, 8, 3))
    one, two, three = (_conv(x, 6, name) for name in ("one", "two", "three"))
    y = layers.Maximum()([layers.Average()([one, two]), three])
    return _model(x, _head(layers.Subtract()([_conv(y, 4, "four"), _conv(y, 4, "five")])), "averaged_branches")


@network
def padded_shortcut():
    """The parameter-free shortcut of CIFAR's ResNets: every second position, channels padded with zeros."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 4, "stem")
    z = layers.BatchNormalization()(layers.Conv2D(8, 3, 2, padding="same", name="second")(_conv(y, 5, "first")))
    skip = ops.pad(y[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (2, 2)))
    return _model(x, _head(layers.ReLU()(skip + z)), "padded_shortcut")


# ---- kinds of convolution


@network
def grouped_convolution():
    """A ResNeXt block: of a grouped convolution whole groups go."""
    x = keras.Input((8, 8, 3))
    y = _conv(_conv(x, 8, "reduce", 1), 12, "grouped", groups=4)
    y = _conv(y, 6, "expand", 1)
    return _model(x, _head(_conv(y, 6, "each", groups=6)), "grouped_convolution")


@network
def inverted_residual():
    x = keras.Input((8, 8, 3))
    y = _conv(x, 4, "stem")
    z = layers.Activation("relu6")(layers.BatchNormalization()(layers.Conv2D(9, 1, name="expand")(y)))
    z = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(z)
    z = layers.ReLU(6)(layers.BatchNormalization()(z))
    z = layers.BatchNormalization(scale=False)(layers.Conv2D(4, 1, name="project")(z))
    return _model(x, _head(y + z), "inverted_residual")


@network
def depth_multiplier():
    x = keras.Input((8, 8, 3))
    y = _conv(x, 4, "one")
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2, name="two")(y))
    return _model(x, _head(_conv(y, 5, "three")), "depth_multiplier")


@network
def separable_convolutions():
    x = keras.Input((8, 8, 3))
    y = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu", name="one")(x)
    y = layers.BatchNormalization()(layers.SeparableConv2D(5, 3, depth_multiplier=2, name="two")(y))
    return _model(x, _head(y), "separable_convolutions")


# ---- gates


def _squeeze_excite(y, as_maps):
    channels = y.shape[-1]
    pooled = layers.GlobalAveragePooling2D(keepdims=as_maps)(y)
    if as_maps:
        gate = layers.Conv2D(3, 1, activation="relu", name="squeeze")(pooled)
        gate = layers.Conv2D(channels, 1, activation="hard_sigmoid", name="excite")(gate)
    else:
        gate = layers.Dense(3, activation="relu", name="squeeze")(pooled)
        gate = layers.Dense(channels, activation="sigmoid", name="excite")(gate)
        gate = layers.Reshape((1, 1, channels))(gate)
    return layers.Multiply()([y, gate])


@network
def squeeze_excite_dense():
    x = keras.Input((8, 8, 3))
    return _model(x, _head(_squeeze_excite(_conv(_conv(x, 4, "stem"), 6, "conv"), False)), "squeeze_excite_dense")


@network
def squeeze_excite_maps():
    x = keras.Input((8, 8, 3))
    y = _squeeze_excite(_conv(_conv(x, 4, "stem"), 6, "conv"), True)
    return _model(x, _head(_conv(y, 5, "last")), "squeeze_excite_maps")


@network
def spatial_attention():
    """One number a position, which all channels are multiplied by."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 6, "conv")
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(_conv(y, 4, "look"))
    return _model(x, _head(layers.Multiply()([y, gate])), "spatial_attention")


@network
def mean_over_channels():
    """CBAM's spatial attention: the mean over the channels holds them."""
    x = keras.Input((8, 8, 3))
    y = _conv(_conv(x, 5, "free"), 6, "held")
    gate = layers.Concatenate()([ops.mean(y, axis=-1, keepdims=True), ops.max(y, axis=-1, keepdims=True)])
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(gate)
    return _model(x, _head(y * gate), "mean_over_channels")


@network
def gated_linear_unit():
    x = keras.Input((8, 8, 3))
    value, gate = ops.split(layers.Conv2D(10, 3, name="both")(x), 2, axis=-1)
    return _model(x, _head(_conv(value * ops.sigmoid(gate), 4, "last")), "gated_linear_unit")


@network
def hard_swish():
    """x relu6(x + 3) / 6 as operations, as MobileNetV3 has it."""
    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization()(layers.Conv2D(6, 3, name="one")(x))
    y = y * (ops.relu6(y + 3.0) * (1.0 / 6.0))
    return _model(x, _head(_conv(y, 5, "two")), "hard_swish")


@network
def divided():
    """Standardised by hand: what is divided by is held. A gate with new axes, and a power."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 6, "held")
    y = (y - ops.mean(y, (1, 2), keepdims=True)) / (ops.std(y, (1, 2), keepdims=True) + 0.1)
    gate = layers.Dense(5, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D()(y))
    return _model(x, _head(_conv(_conv(y, 5, "free") ** 2.0 * gate[:, None, None, :], 4, "last")), "divided")


# ---- normalisations


@network
def group_normalisation():
    x = keras.Input((8, 8, 3))
    y = layers.ReLU()(layers.GroupNormalization(3)(layers.Conv2D(6, 3, name="one")(x)))
    y = layers.ReLU()(layers.GroupNormalization(-1)(layers.Conv2D(5, 3, name="two")(y)))
    return _model(x, _head(_conv(y, 4, "three")), "group_normalisation")


@network
def layer_normalisation():
    """ConvNeXt's block: the stream behind a LayerNormalization is not exact, what lies between is."""
    x = keras.Input((8, 8, 3))
    y = layers.LayerNormalization()(layers.Conv2D(6, 2, 2, name="stem")(x))
    z = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y))
    z = layers.Dense(6, name="narrow")(layers.Activation("gelu")(layers.Dense(10, name="wide")(z)))
    return _model(x, _head(y + z), "layer_normalisation")


@network
def parametric_relu():
    x = keras.Input((8, 8, 3))
    y = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(6, 3, name="one")(x))
    y = layers.PReLU()(layers.Conv2D(5, 3, name="two")(y))
    return _model(x, _head(_conv(y, 4, "three")), "parametric_relu")


@network
def adapted_normalization():
    x = keras.Input((8, 8, 3))
    y = layers.Normalization()(x)
    y = layers.Normalization(name="between")(_conv(y, 6, "one"))
    y = layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0])(_conv(y, 4, "two"))
    return _model(x, _head(_conv(y, 5, "three")), "adapted_normalization")


@network
def mixed_precision():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, dtype=policy, name="one")(x)
    y = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(y))
    y = layers.GlobalAveragePooling2D(dtype="float32")(layers.Conv2D(5, 3, dtype="float32", name="two")(y))
    return _model(x, layers.Dense(3, dtype="float32")(y), "mixed_precision")


# ---- data that moves


@network
def channel_shuffle():
    x = keras.Input((8, 8, 3))
    y = _conv(x, 8, "one")
    y = ops.transpose(ops.reshape(y, (-1, 8, 8, 2, 4)), (0, 1, 2, 4, 3))
    y = layers.Reshape((8, 8, 8))(y)
    return _model(x, _head(_conv(y, 5, "two")), "channel_shuffle")


@network
def slices():
    """Two halves go different ways: their channels are groups of their own."""
    x = keras.Input((8, 8, 3))
    y = _conv(x, 8, "one")
    left, right = y[..., :3], y[:, 1:-1, 1:-1, 3:]
    y = layers.Concatenate()([_conv(left, 4, "left"), layers.ZeroPadding2D()(right)])
    return _model(x, _head(_conv(y, 5, "two")), "slices")


@network
def unequal_split():
    x = keras.Input((8, 8, 3))
    one, two, three = ops.split(_conv(x, 9, "one"), [2, 5], axis=-1)
    y = layers.Concatenate()([three, _conv(one, 4, "two"), two])
    return _model(x, _head(y), "unequal_split")


@network
def from_a_vector():
    """A generator: a Dense layer reshaped into a map."""
    x = keras.Input((5,))
    y = layers.Reshape((2, 2, 6))(layers.Dense(24, activation="relu", name="map")(x))
    y = layers.Conv2DTranspose(4, 4, strides=2, padding="same", activation="relu", name="up")(y)
    return _model(x, layers.Conv2D(1, 3, padding="same", activation="tanh", name="image")(y), "from_a_vector")


@network
def permuted():
    x = keras.Input((4, 8, 3))
    y = layers.Permute((3, 1, 2))(_conv(x, 6, "one"))
    y = ops.squeeze(ops.expand_dims(ops.flip(layers.Permute((2, 3, 1))(y), axis=-1), 1), 1)
    y = layers.RepeatVector(2)(layers.GlobalAveragePooling2D()(y))
    return _model(x, layers.Dense(3)(layers.Flatten()(layers.Dense(5, name="two")(y))), "permuted")


@network
def reduced():
    x = keras.Input((8, 8, 3))
    y = ops.max(ops.stack([_conv(x, 6, "one"), _conv(x, 6, "two")], axis=1), axis=1)
    return _model(x, layers.Dense(3)(ops.mean(y, axis=(1, 2))), "reduced")


# ---- sequences and kinds without a rule


@network
def attention():
    """A transformer's block: whole heads and the width between two Dense layers can go."""
    x = keras.Input((6, 8))
    y = layers.MultiHeadAttention(3, 4, name="attention")(x, x)
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="gelu", name="wide")(layers.Add()([x, y])))
    return _model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)), "attention")


@network
def patches_attended():
    x = keras.Input((8, 8, 3))
    y = layers.Reshape((4, 8))(layers.Conv2D(8, 4, 4, name="patches")(x))
    z = layers.Dense(6, activation="relu", name="context")(layers.Flatten()(x))
    z = layers.RepeatVector(3)(z)
    y = y + layers.MultiHeadAttention(2, 3, value_dim=5, name="attention")(query=y, value=z)
    y = layers.Dense(8, name="narrow")(layers.Dense(7, activation="silu", name="wide")(y))
    # nothing but the layer itself ties what it makes to what its queries read
    y = layers.Dense(6, activation="relu", name="tokens")(y)
    y = layers.MultiHeadAttention(2, 2, name="alone")(query=y, value=y)
    return _model(x, layers.Dense(3)(y[:, 0]), "patches_attended")


@network
def einsum():
    x = keras.Input((6, 4))
    y = layers.EinsumDense("abc,cd->abd", (6, 7), bias_axes="d", activation="relu", name="one")(x)
    y = layers.EinsumDense("abc,dc->abd", (6, 5), name="two")(y)
    return _model(x, layers.Dense(3)(layers.Flatten()(y)), "einsum")


@network
def words():
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(7, 5, name="table")(x)
    y = layers.Conv1D(6, 3, activation="relu", name="conv")(y)
    return _model(x, layers.Dense(2)(layers.GlobalMaxPooling1D()(y)), "words")


@network
def recurrent():
    """A kind without a rule holds what it reads."""
    x = keras.Input((8, 4))
    y = layers.Conv1D(6, 3, activation="relu", name="free")(x)
    y = layers.Conv1D(5, 3, activation="relu", name="held")(y)
    y = layers.Dense(7, activation="relu", name="behind")(layers.LSTM(4, name="lstm")(y))
    return _model(x, layers.Dense(2)(y), "recurrent")


@network
def frames():
    """A network for single frames, on several of them: no rule sees through the wrapper, which holds what it reads."""
    x = keras.Input((4, 8, 8, 3))
    y = layers.Conv3D(5, (1, 3, 3), activation="relu", name="free")(x)
    y = layers.Conv3D(6, (1, 3, 3), activation="relu", name="held")(y)
    y = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"), name="each")(y)
    y = layers.TimeDistributed(layers.Flatten(), name="flat")(y)
    y = layers.Dense(7, activation="relu", name="behind")(layers.GlobalAveragePooling1D()(y))
    return _model(x, layers.Dense(2)(y), "frames")


@network
def softmax_inside():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, activation="softmax", name="held")(_conv(x, 5, "free"))
    return _model(x, _head(_conv(y, 4, "last")), "softmax_inside")
