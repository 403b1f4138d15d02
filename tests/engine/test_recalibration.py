"""Recalibrated networks against numpy's statistics of Keras' own maps."""

import keras
import numpy as np
import pytest
import shapes
from keras import layers

from compress.engine import recalibration
from compress.graph import network, nodes


def statistics(norms):
    """All moving means and variances in one array."""
    return np.concatenate([w.numpy() for norm in norms for w in (norm.moving_mean, norm.moving_variance)])


@pytest.mark.parametrize(
    "name", shapes.quick("residual", "transfer", of=("sequential", "residual", "mobile", "dense", "kinds", "transfer"))
)
def test_recalibrated_statistics_are_those_of_keras_maps(name):
    """Plain Keras in training mode, its momentum 0, leaves the statistics of one batch; here is the mean of two."""
    model, theirs = (shapes.lively(shapes.SHAPES[name]()) for _ in range(2))
    images, total = shapes.pixels(model, 13), 0
    images[:6] *= 0.7
    norms = list(recalibration.norms_of(theirs).values())
    for norm in norms:
        norm.momentum = 0.0
    for start in (0, 6):
        # without what stands around the inner model: augmentation and dropout are no part of the measurement
        inner = theirs.get_layer("base") if name == "transfer" else theirs
        inner(images[start : start + 6], training=True)
        total = total + statistics(norms)
    others = [v.numpy() for v in model.weights if not v.name.startswith("moving")]
    recalibration.recalibrate_bn(model, images, batch_size=6)
    np.testing.assert_allclose(statistics(recalibration.norms_of(model).values()), total / 2, rtol=1e-3, atol=1e-4)
    now = [v.numpy() for v in model.weights if not v.name.startswith("moving")]
    assert all(np.array_equal(v, w) for v, w in zip(now, others, strict=True))


def test_a_batch_norm_that_is_called_twice_has_the_mean_of_its_calls():
    x, norm = keras.Input((4, 4, 3)), layers.BatchNormalization()
    model = keras.Model(x, norm(x) + norm(2 * x + 1))
    images = np.random.default_rng(1).normal(3, 2, (8, 4, 4, 3)).astype("float32")
    recalibration.recalibrate_bn(model, images)
    mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, (3 * mean + 1) / 2, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, (variance + 4 * variance) / 2, rtol=1e-5)


def test_a_batch_norm_of_another_axis_is_measured_along_it():
    x, norm = keras.Input((4, 5, 3)), layers.BatchNormalization(axis=1)
    model, images = keras.Model(x, norm(x)), np.random.default_rng(1).normal(3, 2, (8, 4, 5, 3)).astype("float32")
    recalibration.recalibrate_bn(model, images)
    np.testing.assert_allclose(norm.moving_mean, images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, images.var((0, 2, 3)), rtol=1e-5)


def test_batch_norms_have_their_paths():
    model = shapes.transfer()
    assert {path.split("/")[0] for path in recalibration.norms_of(model)} == {"base"}
    assert all(isinstance(norm, layers.BatchNormalization) for norm in recalibration.norms_of(model).values())


# ---- networks without batch-normalisation ----


def plain(use_bias=True):
    """Kinds of convolutions and Dense layers without a norm, two of them inside a model."""
    same, bias = {"padding": "same", "use_bias": use_bias}, {"use_bias": use_bias}
    x = image = keras.Input((shapes.SIDE, shapes.SIDE, 3))
    x = layers.Conv2D(12, 3, activation="relu", name="first", **same)(x)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise", **same)(x)
    x = layers.MaxPooling2D(2)(x)
    y = inside = keras.Input(x.shape[1:])
    y = layers.SeparableConv2D(10, 3, activation="relu6", name="separable", **same)(y)
    y = layers.Conv2DTranspose(9, 2, name="transposed", **bias)(y)
    x = keras.Model(inside, y, name="inner")(x)
    x = layers.Flatten()(layers.MaxPooling2D(3)(layers.ReLU()(x)))
    x = layers.Dense(16, activation="gelu", name="hidden", **bias)(x)
    return keras.Model(image, layers.Dense(5, activation="softmax", name="classes", **bias)(x))


def before_activation(model, path, images):
    """What a layer makes before its activation, by plain Keras."""
    inner, _, name = path.rpartition("/")
    inside, values = model, images
    if inner:
        inside = model.get_layer(inner)
        values = keras.Model(model.input, model.layers[model.layers.index(inside) - 1].output)(images)
    layer = inside.get_layer(name)
    own, layer.activation = layer.activation, keras.activations.linear
    y = np.asarray(layer(keras.Model(inside.input, layer.input)(values)), np.float64)
    layer.activation = own
    return y.reshape(-1, y.shape[-1])


PATHS = ("first", "depthwise", "inner/separable", "inner/transposed", "hidden", "classes")


def cut(model, seed=0, share=0.5):
    """(graph, masks, trimmed model), some channels of every group away."""
    graph, rng = network.Graph(model), np.random.default_rng(seed)
    masks = {name: rng.permutation(group.width) < max(1, group.width * share) for name, group in graph.groups.items()}
    return graph, masks, graph.trimmed(masks)


@pytest.mark.parametrize("use_bias", [True, False])
def test_channels_have_the_mean_and_deviation_from_before_the_cut(use_bias):
    model = shapes.lively(plain(use_bias))
    images = shapes.pixels(model, 16) / 255
    graph, masks, trimmed = cut(model)
    assert len(masks) >= 4
    recalibration.recalibrate(trimmed, graph, masks, images, batch_size=16)
    made = dict(nodes.walk(model))
    for path in PATHS:
        kept = graph.kept(made[path].outputs[0], masks)[1]
        wanted, found = (before_activation(network_, path, images) for network_ in (model, trimmed))
        wanted = wanted if kept is None else wanted[:, kept]
        live = (wanted.std(0) > 0) & (found.std(0) > 0)
        assert live.any()
        np.testing.assert_allclose(found.std(0)[live], wanted.std(0)[live], rtol=1e-3, err_msg=path)
        if use_bias:
            np.testing.assert_allclose(found.mean(0), wanted.mean(0), rtol=1e-3, atol=1e-3, err_msg=path)


def test_a_network_that_lost_nothing_stays_as_it_is():
    model = shapes.lively(plain())
    graph, masks, trimmed = cut(model, share=1)
    recalibration.recalibrate(trimmed, graph, masks, shapes.pixels(model, 4))
    assert all(np.array_equal(v, w) for v, w in zip(trimmed.get_weights(), model.get_weights(), strict=True))


def test_channels_without_effect_leave_the_layers_behind_them_alone():
    """Channels that are always 0 go: statistics, and so the weights, are as they were, but for rounding."""
    model = shapes.lively(plain())
    hidden = model.get_layer("classes")
    kernel = hidden.kernel.numpy()
    kernel[:8] = 0
    hidden.kernel.assign(kernel)
    graph = network.Graph(model)
    (name,) = (name for name in graph.groups if "hidden" in name)
    masks = {name: np.arange(16) >= 8}
    trimmed = graph.trimmed(masks)
    wanted = trimmed.get_weights()
    recalibration.recalibrate(trimmed, graph, masks, shapes.pixels(model, 6) / 255, batch_size=3)
    for found, weights in zip(trimmed.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(found, weights, rtol=1e-3, atol=1e-4)


def test_a_channel_that_lost_all_of_its_input_keeps_its_kernel_and_its_mean():
    """Its deviation is 0; and one that lost nearly all isn't made more than ten times as loud."""
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1, activation="relu", name="maker")(image)
    model = shapes.lively(keras.Model(image, layers.Conv2D(2, 1, name="reader")(x)))
    model.get_layer("maker").bias.assign([3, 3, 3])
    model.get_layer("reader").kernel.assign(np.array([[[[1, 1], [1, 1], [0, 1e-6]]]], "float32"))
    graph, images = network.Graph(model), np.random.default_rng(0).normal(0, 1, (8, 4, 4, 3)).astype("float32")
    masks = {name: np.array([False, False, True]) for name in graph.groups}
    trimmed = graph.trimmed(masks)
    recalibration.recalibrate(trimmed, graph, masks, images)
    kernel = trimmed.get_layer("reader").kernel.numpy().ravel()
    np.testing.assert_allclose(kernel, [0, 1e-5], rtol=1e-5)
    found, wanted = (np.asarray(network_(images)).mean((0, 1, 2)) for network_ in (trimmed, model))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_deep_network_without_norms_does_not_fade():
    """Half of the channels of twelve layers away: without recalibration the logits are all but alike."""
    keras.utils.set_random_seed(3)
    image = x = keras.Input((8, 8, 3))
    for _ in range(12):
        x = layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).normal(0, 1, (64, 8, 8, 3)).astype("float32")
    graph, masks, trimmed = cut(model)
    spread = [float(np.std(net(images), 0).mean()) for net in (model, trimmed)]
    recalibration.recalibrate(trimmed, graph, masks, images)
    restored = float(np.std(trimmed(images), 0).mean())
    assert spread[1] < 0.2 * spread[0] and abs(restored / spread[0] - 1) < 0.01, (spread, restored)


def test_no_images_are_refused():
    model = shapes.dense()
    with pytest.raises(ValueError, match="needs images"):
        recalibration.recalibrate_bn(model, np.zeros((0, 12, 12, 3)))
    graph, masks, trimmed = cut(plain())
    with pytest.raises(ValueError, match="needs images"):
        recalibration.recalibrate(trimmed, graph, masks, np.zeros((0, 12, 12, 3)))
