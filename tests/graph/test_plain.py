"""plain.py, saving.py: what .h5 can't hold is rewritten into public layers, equal to the original.

The oracle is the network itself, and plain Keras, which has to open the file without custom objects.
"""

import zipfile

import h5py
import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from keras.src.applications import convnext, inception_resnet_v2, mobilenet_v3

from compress.errors import InputError
from compress.graph import nodes, plain
from compress.storage import classes, opening, saving

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


EXACT = {
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
}
CLOSE = {
    "division": lambda x: x / 127.5 - np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0], "float32") / 3,
    "power": lambda x: x**2 + 1,
    "mean of channels": lambda x: ops.mean(x, axis=-1, keepdims=True) * x,
}


def is_public(model):
    return all(
        nodes.is_model(node.operation)
        or (isinstance(node.operation, keras.Layer) and hasattr(layers, type(node.operation).__name__))
        for _, node in nodes.walk(model)
    )


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_operations_become_public_layers(name, tmp_path):
    model = functional(EXACT.get(name) or CLOSE[name])
    rewritten = plain.in_public_layers(model)
    assert is_public(rewritten) and not is_public(model)
    wanted = np.asarray(model(IMAGES, training=False))
    rewritten.save(tmp_path / "net.h5")
    for found in (rewritten, keras.models.load_model(tmp_path / "net.h5", compile=False)):
        answers = np.asarray(found(IMAGES, training=False))
        if name in EXACT:
            np.testing.assert_array_equal(answers, wanted)
        else:
            np.testing.assert_allclose(answers, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_new_layers_take_no_name_that_another_has():
    def build(x):
        x = inception_resnet_v2.CustomScaleLayer(0.17, name="scaled")([x, layers.ReLU(name="scaled_2")(x)])
        return inception_resnet_v2.CustomScaleLayer(0.5, name="scaled_1")([x, layers.ReLU()(x)])

    model = functional(build)
    rewritten = plain.in_public_layers(model)
    np.testing.assert_array_equal(rewritten(IMAGES), model(IMAGES))
    assert {"scaled", "scaled_1", "scaled_2"} < {layer.name for layer in rewritten.layers}


def test_a_public_model_stays_itself():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)])
    assert plain.in_public_layers(model) is model


@pytest.mark.parametrize(
    "operation",
    [ops.sqrt, lambda x: 1 / x, lambda x: ops.clip(x, -1, 1), lambda x: ops.cumsum(x, axis=1), lambda x: x / x],
)
def test_what_no_layer_stands_for_is_named_with_the_way_out(operation, tmp_path):
    inner = keras.Model(image := keras.Input(IMAGES.shape[1:]), operation(image), name="inner")
    with pytest.raises(InputError, match=r"inner/\w+: received the operation .* expected a file that ends in \.keras"):
        saving.save_network(functional(inner), tmp_path / "net.h5")
    assert not list(tmp_path.iterdir())


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

    ground = [
        keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(3, 3, padding="same", name="conv")], name=name)
        for name in "ab"
    ]
    model = lively(
        keras.Sequential(
            [keras.Input((32, 32, 3)), floor(lambda x: ground[1](ground[0](x))), layers.Flatten(), layers.Dense(3)]
        )
    )
    saving.save_network(model, tmp_path / "net.h5")
    for found in (keras.models.load_model(tmp_path / "net.h5"), opening.open_network(tmp_path / "net.h5").model):
        np.testing.assert_array_equal(found(PIXELS), model(PIXELS))


NOT_IN_H5 = {"reduced": "Max", "divided": "Std"}  # operations over groups of channels and over channels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*The structure of `inputs` doesn't match")  # of a network of named inputs
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_networks_of_every_shape_are_saved_and_open_equal(name, tmp_path):
    model = zoo.NETWORKS[name]()
    images = zoo.images(model)
    images = images[0] if len(images) == 1 else images
    wanted = keras.tree.flatten(model(images, training=False))
    for path in (tmp_path / "net.h5", tmp_path / "net.keras"):
        if name in NOT_IN_H5 and path.suffix == ".h5":
            with pytest.raises(InputError, match=f"the operation {NOT_IN_H5[name]} of .* no layer of Keras stands for"):
                saving.save_network(model, path)
            continue
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


def test_a_layer_that_two_models_inside_share_stays_one():
    image, map_ = keras.Input((8, 8, 3)), keras.Input((8, 8, 4))
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    first = keras.Model(map_, shared(map_), name="first")
    other = keras.Input((8, 8, 4))
    second = keras.Model(other, shared(keras.layers.ReLU()(other)), name="second")
    x = keras.layers.Conv2D(4, 1, name="stem")(image / 127.5 - 1.0)  # an operation, so that the model is rewritten
    x = keras.layers.GlobalAveragePooling2D()(second(first(x)))
    net = lively(keras.Model(image, keras.layers.Dense(3, name="logits")(x)))
    new = plain.in_public_layers(net)
    assert new is not net and new.count_params() == net.count_params()
    assert new.get_layer("first").get_layer("shared") is new.get_layer("second").get_layer("shared")
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(new(images), net(images), rtol=1e-5, atol=1e-5)
