"""hdf5.py, saving.py: whatever a network is made of is written so that plain Keras opens it.

The oracle is the network itself, and plain Keras, which has to open the file without custom objects.
"""

import random
import zipfile

import h5py
import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from keras.src.applications import convnext, inception_resnet_v2, mobilenet_v3
from keras.src.backend.common import global_state

from compress.errors import InputError
from compress.graph import nodes, registered
from compress.graph.network import Graph
from compress.storage import classes, hdf5, opening, saving

SIZE = 12
IMAGES = np.random.default_rng(3).normal(size=(3, SIZE, SIZE, 6)).astype("float32")
PIXELS = np.random.default_rng(4).integers(0, 256, (3, 32, 32, 3)).astype("float32")


def functional(build):
    image = keras.Input(IMAGES.shape[1:])
    return lively(keras.Model(image, build(image)))


def lively(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(
                rng.uniform(0.5, 1.5, weight.shape)
                * (-1) ** (rng.random(weight.shape) < 0.3 * ("kernel" in weight.name))
            )
    return model


def flat(x):
    return layers.GlobalAveragePooling2D()(x)


OPERATIONS = {
    "sum": lambda x: x + layers.Conv2D(6, 1)(x),
    "difference": lambda x: 1.0 - (x - 2.0) - layers.ReLU()(x),
    "product": lambda x: x * flat(x)[:, None, None, :] * 0.25,
    "a number a channel": lambda x: x * np.arange(6, dtype="float32") + np.ones((1, 1, 1, 6), "float32"),
    "power of two": lambda x: x / 128.0 - 1.0,
    "extremes": lambda x: ops.maximum(ops.minimum(x, -x), 0.0) + ops.maximum(x, x * 0.5),
    "cut off": lambda x: ops.clip(x, 0, 6) * ops.relu6(x + 3.0) * (1.0 / 6.0),
    "squares": lambda x: ops.square(x) + ops.abs(x),
    "activations": lambda x: ops.silu(x) + ops.sigmoid(x) + ops.tanh(x) + ops.gelu(x, approximate=False) + ops.relu(x),
    "with settings": lambda x: ops.leaky_relu(x, 0.3) + ops.elu(x, 0.5) + ops.softmax(x, axis=-1) + ops.hard_silu(x),
    "channels": lambda x: ops.concatenate([x[..., 1:4], x[..., ::-1], x[:, :, :, 5:]], axis=-1),
    "one channel": lambda x: (
        layers.Dense(2)(x[..., 0]) + layers.Dense(2)(ops.stack([x[..., 1], x[..., 2]], axis=1)[:, 1])
    ),
    "rows and columns": lambda x: x[:, 1:-1, ::2] + x[:, :10, 1::2],
    "space to depth": lambda x: ops.concatenate([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2]], axis=-1),
    "vectors": lambda x: flat(x)[:, 2:5] + flat(x)[:, ::-1][:, :3] + flat(x)[:, None, :3][:, 0],
    "tokens": lambda x: (t := layers.Reshape((144, 6))(x))[:, 0] + t[:, 1:, :][:, 5] + ops.mean(t, axis=1),
    "split": lambda x: ops.split(x, 3, axis=-1)[1] * ops.split(x, 6, axis=3)[0] + ops.split(x, [1, 3, 5], axis=-1)[2],
    "shuffled": lambda x: ops.reshape(
        ops.transpose(ops.reshape(x, (-1, 12, 12, 2, 3)), (0, 1, 2, 4, 3)), (-1, 12, 12, 6)
    ),
    "axes": lambda x: ops.squeeze(ops.expand_dims(ops.moveaxis(ops.swapaxes(x, 1, 2), 1, 3), 1), 1),
    "borders": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "more channels": lambda x: ops.pad(x[:, ::2, ::2], ((0, 0), (0, 1), (0, 0), (1, 2))),
    "flipped": lambda x: ops.flip(x, axis=[1, 3]),
    "resized": lambda x: ops.image.resize(x, (7, 9)),
    "means": lambda x: ops.mean(x, axis=(1, 2)) + ops.max(x, axis=[1, 2], keepdims=True)[:, 0, 0],
    "largest of channels": lambda x: x * ops.max(x, axis=-1, keepdims=True),
    "whole numbers": lambda x: ops.cast(layers.Rescaling(2.0, dtype="float32")(x), "float32") * 2,
    "scaled layer": lambda x: convnext.StochasticDepth(0.3)(convnext.LayerScale(1e-6, 6)(x)),
    "residual block": lambda x: inception_resnet_v2.CustomScaleLayer(0.17)([x, layers.Conv2D(6, 1)(x)]),
    "division": lambda x: x / 127.5 - np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0], "float32") / 3,
    "power": lambda x: x**2 + 1,
    "mean of channels": lambda x: ops.mean(x, axis=-1, keepdims=True) * x,
    "sums and spreads": lambda x: (
        ops.sum(x, axis=(1, 2)) / 144.0 + ops.std(x, axis=[1, 2]) + ops.sqrt(ops.var(x, axis=(1, 2)))
    ),
    "generalised mean": lambda x: ops.power(ops.mean(ops.power(ops.maximum(x, 1e-6), 3.0), axis=(1, 2)), 1 / 3),
    "products of tensors": lambda x: ops.matmul(t := layers.Reshape((144, 6))(x), ops.transpose(t, (0, 2, 1)))[..., :5],
    "shifted": lambda x: ops.roll(x, 1, axis=1) / (1.0 + ops.exp(-x)) + ops.clip(x, -1, 1) + ops.cumsum(x, axis=1),
    "ellipses": lambda x: x[..., 1:3][:, 0, ..., None] + x[:, 1, ..., 2:4][:, None, ..., None][:, 0],
    "grey": lambda x: ops.image.rgb_to_grayscale(x[..., :3]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_written_as_they_are(name, tmp_path):
    model = functional(OPERATIONS[name])
    assert kinds(reopened(model, tmp_path)) == kinds(model)


def reopened(model, folder):
    """A model that passed the check, written and opened again by plain Keras, which computes the same."""
    hdf5.check(model)
    saving.save_network(model, folder / "net.h5")
    again = keras.models.load_model(folder / "net.h5", compile=False)
    np.testing.assert_array_equal(again(IMAGES, training=False), model(IMAGES, training=False))
    return again


def kinds(model):
    return [type(node.operation) for _, node in nodes.walk(model)]


LOST = {  # what `model.save` writes as .h5 so that Keras can't open it, or opens another layer
    "attention": lambda x: layers.Attention()([t := layers.Reshape((144, 6))(x), t]),
    "attention by sums": lambda x: layers.Attention(score_mode="concat")([t := layers.Reshape((144, 6))(x), t]),
    "axes": layers.LayerNormalization(axis=[1, 2, 3]),
    "axes without weights": layers.LayerNormalization(axis=[1, 2], center=False, scale=False),
    "all axes": lambda x: layers.Normalization(axis=None, mean=0.5, variance=2.0)(layers.Softmax(axis=[1, 2])(x)),
    "length": layers.UnitNormalization(axis=[1, 3]),
}


@pytest.mark.parametrize("name", LOST)
def test_what_keras_loses_in_h5_is_kept(name, tmp_path):
    model = functional(LOST[name])
    assert kinds(reopened(model, tmp_path)) == kinds(model)


AUGMENTATION = [  # which Keras can't write as .h5 once they come from a file
    *(getattr(layers, f"Random{kind}")(0.5) for kind in ("Contrast", "Brightness", "Hue", "Saturation", "Sharpness")),
    *(
        layers.RandomErasing(),
        layers.RandomInvert(),
        layers.RandomPosterization(2),
        layers.RandomColorDegeneration(0.9),
    ),
]
SLOW_AUGMENTATION = [
    *(layers.RandomGaussianBlur(), layers.RandomElasticTransform(), layers.RandAugment(), layers.AugMix()),
]


@pytest.mark.parametrize(
    "layer",
    [*AUGMENTATION, *(pytest.param(layer, marks=pytest.mark.slow) for layer in SLOW_AUGMENTATION)],
    ids=lambda layer: layer.name,
)
def test_augmentation_goes_on_in_a_file_that_is_written(layer, tmp_path):
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(
        keras.Sequential([type(layer).from_config(layer.get_config())], name="augment")(image)
    )
    given = lively(keras.Model(image, layers.Dense(3)(layers.Flatten()(x))))
    given.save(tmp_path / "net.keras")
    model = opening.load_network(tmp_path / "net.keras")
    saving.save_network(model, tmp_path / "net.h5")
    again = keras.models.load_model(tmp_path / "net.h5", compile=False)
    wanted = np.asarray(given(PIXELS, training=False))
    np.testing.assert_allclose(again(PIXELS, training=False), wanted, rtol=1e-5, atol=1e-4)
    keras.utils.set_random_seed(2)
    assert any(np.abs(np.asarray(again(PIXELS, training=True)) - wanted).max() > 1e-3 for _ in range(8))


def test_a_written_file_trains_in_plain_keras(tmp_path):
    image = keras.Input((32, 32, 3))
    x = layers.RandomContrast(0.5)(image) / 255.0
    model = lively(keras.Model(image, layers.Dense(3)(ops.sum(x, axis=(1, 2)) / 1024.0)))
    saving.save_network(model, tmp_path / "net.h5")
    again = keras.models.load_model(tmp_path / "net.h5", compile=False)
    again.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    again.fit(PIXELS, np.arange(3), verbose=0)
    assert not np.array_equal(again.get_weights()[0], model.get_weights()[0])


class Own(layers.Layer):
    """A layer that says of itself what it is told to."""

    told = ()  # what it says beside or in place of that

    def __init__(self, factor=1.0, units=3, **more):
        super().__init__(**more)
        self.factor, self.units = factor, units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return self.factor * (x @ self.kernel)

    def get_config(self):
        return super().get_config() | {"factor": self.factor, "units": self.units} | dict(self.told)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(registered.RULES, Own, lambda call: None)
    return Own


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"power": 2}, "can't open again from a file"),
        ({"factor": object()}, "can't open again from a file"),
    ],
)
def test_a_layer_that_keras_cannot_open_is_refused_by_name(own, monkeypatch, told, what):
    inner = keras.Model(image := keras.Input(IMAGES.shape[1:]), own(name="mine")(image), name="inner")
    model = functional(inner)
    hdf5.check(model)
    monkeypatch.setattr(own, "told", told)
    with pytest.raises(InputError, match=f"^inner/mine: received a layer Own that plain Keras .* {what}"):
        hdf5.check(model)


def test_a_layer_that_opens_as_another_is_refused(own, monkeypatch):
    model = functional(own(2.0, 3, name="mine"))
    hdf5.check(model)
    monkeypatch.setattr(own, "from_config", classmethod(lambda cls, config: cls(1.0, config["units"], name="mine")))
    with pytest.raises(InputError, match="^mine: received a layer Own .* opens as another one"):
        hdf5.check(model)
    monkeypatch.setattr(own, "from_config", classmethod(lambda cls, config: cls(2.0, 4, name="mine")))
    monkeypatch.setattr(own, "told", {"units": 3})
    with pytest.raises(InputError, match="^mine: received a layer Own .* opens with weights of other shapes"):
        hdf5.check(model)


def test_a_check_draws_no_random_numbers_and_makes_no_weights():
    model = functional(layers.Conv2D(4, 3))
    keras.utils.set_random_seed(3)
    before, weights = random.getstate(), model.get_weights()
    hdf5.check(model)
    assert random.getstate() == before and not global_state.get_global_attribute("uninitialized_variables")
    for weight, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def given_channels():
    """A shortcut padded with channels, and halves that go different ways: rules for operations."""
    image = keras.Input((16, 16, 3))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="stem")(image / 255.0))
    y = layers.Conv2D(12, 3, 2, padding="same", name="wide")(x)
    x = ops.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2))) + y
    first, second = ops.split(layers.Conv2D(12, 3, name="halves")(ops.relu(x)), 2, axis=-1)
    x = layers.Conv2D(6, 3, name="last")(first * ops.sigmoid(second))
    return lively(keras.Model(image, layers.Dense(3, name="logits")(ops.sum(ops.relu(x), axis=(1, 2)) / 100.0)))


def test_a_network_is_pruned_as_it_was_given_and_written_so(tmp_path):
    given = given_channels()
    saving.save_network(given, tmp_path / "net.keras")
    graph, wanted = Graph(opening.load_network(tmp_path / "net.keras")), Graph(given).groups
    assert {name: group.width for name, group in graph.groups.items()} == {n: g.width for n, g in wanted.items()}
    assert [pin.layer for pin in graph.pinned] == ["logits"]
    keep = {name: np.arange(group.width) % 3 > 0 for name, group in graph.groups.items()}
    small = graph.trimmed(keep)
    saving.save_network(small, tmp_path / "small.h5")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    answers = np.asarray(small(pixels))
    np.testing.assert_allclose(answers, graph.masked(keep)(pixels), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "small.h5", compile=False)(pixels), answers)
    again = opening.load_network(tmp_path / "small.h5")
    np.testing.assert_array_equal(again(pixels), answers)
    assert sum(group.width for group in Graph(again).groups.values()) == sum(mask.sum() for mask in keep.values())


def small_convnext():
    image = keras.Input((32, 32, 3))
    return convnext.ConvNeXt(
        [1, 1, 1, 1],
        [4, 6, 8, 8],
        0.2,
        include_preprocessing=True,
        weights=None,
        input_tensor=image,
        classes=3,
        name="own",
    )


def inception_block():
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(320, 3, 4)(layers.Rescaling(1 / 127.5, -1)(image))
    x = inception_resnet_v2.inception_resnet_block(x, 0.17, "block35", 1)
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def nested():
    """Operations inside models inside a Sequential."""
    inner = keras.Model(image := keras.Input((32, 32, 3)), layers.Conv2D(4, 3)(image / 128.0 - 1), name="inner")
    inner.trainable = False
    model = keras.Sequential([keras.Input((32, 32, 3)), inner, layers.BatchNormalization(), layers.Flatten()])
    model.add(layers.Dense(3, activation="softmax"))
    return model


def mobile_block():
    """Of MobileNetV3, with its gate by hand: ReLU6(x + 3) / 6."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, 4)(layers.Rescaling(1 / 127.5, -1)(image))
    x = mobilenet_v3._inverted_res_block(x, 3, 4, 3, 1, 0.25, mobilenet_v3.hard_swish, 1)
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


SMALL = {
    "MobileNetV3": mobile_block,
    "ConvNeXt": small_convnext,
    "InceptionResNet": inception_block,
    "nested": nested,
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, "h5") for name in SMALL if name != "ConvNeXt"),
        ("nested", "keras"),
        pytest.param("ConvNeXt", "h5", marks=pytest.mark.slow),
    ],
)
def test_saved_networks_open_equal_here_and_in_plain_keras(name, suffix, tmp_path):
    model = lively(SMALL[name]())
    wanted = np.asarray(model(PIXELS, training=False))
    path = tmp_path / f"model.{suffix}"
    model.compile("adam", lambda y, p: p, metrics=[])  # of which nothing is left in the file
    saving.save_network(model, path, ["a", "b", "c"])
    reopened = keras.models.load_model(path)
    np.testing.assert_allclose(reopened(PIXELS, training=False), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    opened = opening.open_network(path)
    logits = np.asarray(opened.model(PIXELS, training=False))
    shares = np.asarray(ops.softmax(logits)) if np.allclose(wanted.sum(1), 1, atol=1e-4) else logits
    np.testing.assert_allclose(shares, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert classes.of_model(path) == ("a", "b", "c") == opened.names
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_weights_of_one_name_in_two_models_inside_a_third_keep_apart_in_h5(tmp_path):
    def floor(inner):
        image = keras.Input((32, 32, 3))
        return keras.Model(image, inner(image))

    images = [keras.Input((32, 32, 3)) for _ in "ab"]
    ground = [
        keras.Model(image, layers.Conv2D(3, 3, padding="same", name="conv")(image), name=name)
        for image, name in zip(images, "ab", strict=True)
    ]
    model = lively(
        keras.Sequential(
            [keras.Input((32, 32, 3)), floor(lambda x: ground[1](ground[0](x))), layers.Flatten(), layers.Dense(3)]
        )
    )
    saving.save_network(model, tmp_path / "net.h5")
    for found in (keras.models.load_model(tmp_path / "net.h5"), opening.open_network(tmp_path / "net.h5").model):
        np.testing.assert_array_equal(found(PIXELS), model(PIXELS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*The structure of `inputs` doesn't match")  # of a network of named inputs
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_networks_of_every_shape_are_saved_and_open_equal(name, tmp_path):
    model = zoo.NETWORKS[name]()
    images = zoo.images(model)
    images = images[0] if len(images) == 1 else images
    wanted = keras.tree.flatten(model(images, training=False))
    for path in (tmp_path / "net.h5", tmp_path / "net.keras"):
        saving.save_network(model, path)
        reopened = keras.models.load_model(path, compile=False)
        for found, expected in zip(keras.tree.flatten(reopened(images, training=False)), wanted, strict=True):
            scale = np.abs(np.asarray(expected, "float32")).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)


def test_a_damaged_archive_is_found(tmp_path):
    path = tmp_path / "net.keras"
    saving.save_network(nested(), path)
    opening.open_network(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "inner.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "inner.h5", "r+") as file:
        file["layers/dense/vars/1"][0] += 1
    members["model.weights.h5"] = (tmp_path / "inner.h5").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="weights are damaged"):
        opening.open_network(path)


def test_a_file_of_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a file that ends in \.h5 or \.keras"):
        saving.save_network(nested(), tmp_path / "model.onnx")


CONSTRUCTORS = sorted(
    name
    for name, item in vars(keras.applications).items()
    if callable(item) and name[0].isupper() and not name.startswith("_")
)
SIDES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}  # the others take 32


def calm(model):
    """The model with random weights under which a signal reaches the output of a deep network."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_constructor_is_saved_and_opens_equal(name, tmp_path):
    side = SIDES.get(name, 32)
    model = calm(getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=5))
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3)).astype("float32")
    wanted = np.asarray(model(images, training=False))
    saving.save_network(model, tmp_path / "net.h5")
    reopened = keras.models.load_model(tmp_path / "net.h5", compile=False)
    np.testing.assert_allclose(reopened(images, training=False), wanted, rtol=0, atol=1e-6)
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras", "none")
    np.testing.assert_allclose(ops.softmax(opened.model(images, training=False)), wanted, rtol=0, atol=1e-5)


def test_there_are_forty_constructors():
    assert len(CONSTRUCTORS) == 40
