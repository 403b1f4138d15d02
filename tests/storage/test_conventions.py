"""conventions.py: what a classifier of others expects of its pixels and means by its outputs, as its layers say."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

import evaluate_model
from compress.errors import InputError
from compress.storage import conventions, opening

RGB = np.random.default_rng(4).integers(0, 256, (5, 8, 8, 3)).astype("float32")
VGG = ("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1")


def network(front, names=("mine",), name=None, activation=None):
    """A tiny classifier behind some layers or operations, its own layers called so."""
    image = keras.Input((8, 8, 3))
    x = image
    for layer in front:
        x = layer(x)
    for layer in names:
        x = (layers.MaxPooling2D if layer.endswith("pool") else lambda **given: layers.Conv2D(3, 1, **given))(
            **{"name": layer}
        )(x)
    return keras.Model(
        image, layers.Dense(3, activation=activation)(layers.Flatten()(x)), **{} if name is None else {"name": name}
    )


def load(path, mode="auto", verbose=0):
    """function(images) -> the scores of the classifier in a file; random layers rest."""
    scores = opening.open_network(path, mode, verbose=verbose).scores()
    return lambda images: scores(images, training=False)


def assert_refused(path, words):
    with pytest.raises(InputError, match=words):
        opening.open_network(path)


def caffe(pixels):
    return keras.applications.vgg16.preprocess_input(pixels.copy())


def test_what_moves_pixels_hides_no_scaling_behind_it(tmp_path):
    front = [
        layers.Resizing(8, 8),
        layers.RandomGrayscale(0.5),
        layers.CenterCrop(8, 8),
        layers.RandomInvert(0.5),
        lambda x: ops.clip(x, 0, 255),
        layers.AveragePooling2D(2),
        layers.Rescaling(1 / 255),
    ]
    net = network(front, VGG, "vgg_mine")
    net.save(tmp_path / "net.keras")
    found = load(tmp_path / "net.keras")(RGB)
    np.testing.assert_allclose(found, net(RGB, training=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("front", "named"),
    [
        ([layers.UnitNormalization(), layers.Rescaling(0.1)], "unit_norm"),
        ([lambda x: ops.clip(x, 0, 1)], "clip"),
        ([ops.sqrt, layers.Rescaling(1 / 16)], "sqrt"),
        ([layers.LayerNormalization()], "layer_norm"),
        ([lambda x: x / ops.max(x)], "max"),
        ([layers.RandomBrightness(0.1, value_range=(0, 1))], "random_brightness"),
        ([layers.Rescaling(2.0, -1.0)], "rescaling"),
        ([lambda x: x * 255], "multiply"),
        ([layers.Normalization(mean=[0.5] * 3, variance=[0.06] * 3)], "normalization"),
        ([lambda x: layers.Concatenate()([x, layers.Rescaling(1 / 255)(x)])], "rescaling"),
        (
            [lambda x: layers.Add()([layers.Conv2D(3, 1)(x), layers.Conv2D(3, 1)(layers.Rescaling(0.01)(x))])],
            "rescaling",
        ),
    ],
)
def test_a_layer_on_pixels_that_is_not_read_is_refused_by_name(front, named, tmp_path):
    net = network(front)
    net.save(tmp_path / "net.keras")
    assert_refused(tmp_path / "net.keras", rf"(?i){named}\w* \(.*expected `preprocessing`")
    # with the user's word it is taken, in front of the file's own layers
    found = load(tmp_path / "net.keras", "unit")(RGB)
    np.testing.assert_allclose(found, net(RGB / 255, training=False), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet8", "vgg_mine"])
def test_a_name_that_only_begins_like_a_known_one_is_no_family(name, tmp_path, capsys):
    net = network([], name=name)
    net.save(tmp_path / "net.keras")
    found = load(tmp_path / "net.keras")(RGB)
    np.testing.assert_allclose(found, net(RGB, training=False), rtol=1e-4)
    assert "assumed" in capsys.readouterr().err
    load(tmp_path / "net.keras", "none")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("front", "names", "name", "why"),
    [
        ([], ("mine",), "vgg16", "the name vgg16"),
        ([], ("mine",), "mobilenet_1.00_32", "but not its layers"),
        ([], (*VGG, "mixed0", "mixed1"), None, "VGG and InceptionV3"),
        ([lambda x: x[..., ::-1]], VGG, None, "get_item"),
        ([], ("stem_conv", "block1a_dwconv"), None, "EfficientNet without"),
    ],
)
def test_what_could_be_two_conventions_is_left_to_the_user(front, names, name, why, tmp_path):
    network(front, names, name).save(tmp_path / "net.keras")
    assert_refused(tmp_path / "net.keras", f"{why}.*expected `preprocessing`")


def test_a_resnet_of_keras_applications_with_another_head_is_known_by_its_layers():
    base = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False)
    x = layers.Dense(2, activation="sigmoid")(layers.GlobalAveragePooling2D()(base.output))
    net = keras.Model(base.input, x, name="mine")
    assert conventions.family_of(net) == ("ResNet", "caffe") and conventions.front_of(net).ends == {False}


def test_a_network_known_by_its_layers_is_given_its_familys_pixels(tmp_path, capsys):
    net = network([], VGG, activation="sigmoid")
    net.save(tmp_path / "net.keras")
    found = load(tmp_path / "net.keras", verbose=1)(RGB)
    np.testing.assert_allclose(np.exp(found), net(caffe(RGB)), rtol=1e-3, atol=1e-6)
    assert "pixels by --preprocessing caffe" in "".join(capsys.readouterr())


def ended(*ends):
    image = keras.Input((8, 8, 3))
    x = layers.Dense(4)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    for end in ends:
        x = end(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    ("ends", "means"),
    [
        ([], "logits"),
        ([layers.Softmax()], "shares"),
        ([ops.log_softmax], "logits"),
        ([ops.softmax], "shares"),
        ([lambda x: layers.Average()([ops.softmax(x), ops.softmax(2 * x)])], "shares"),
        ([layers.Activation("softmax"), layers.Dropout(0.5), layers.Activation("linear")], "shares"),
        ([layers.Rescaling(0.5)], "logits"),
        ([layers.ReLU(), layers.Dense(3)], "logits"),
        ([layers.Activation("sigmoid"), layers.Reshape((4,))], "labels"),
        ([ops.sigmoid], "labels"),
        ([keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="sigmoid")])], "labels"),
        ([layers.Dense(1, activation="sigmoid"), lambda p: layers.Concatenate()([1 - p, p])], "shares"),
        ([layers.ReLU()], "re_lu"),
        ([layers.Dense(3, activation="tanh")], "tanh"),
        ([ops.square], "square"),
        ([layers.Activation("sigmoid"), layers.Rescaling(2.0)], "rescaling"),
        ([layers.Softmax(axis=0)], "softmax"),
        ([layers.Activation("sigmoid"), lambda x: layers.Add()([x, x])], "add"),
    ],
)
def test_outputs_are_read_by_the_last_activation_or_refused(ends, means, tmp_path, capsys):
    net, path = ended(*ends), tmp_path / "net.keras"
    net.save(path)
    if means not in ("logits", "shares", "labels"):
        assert_refused(path, rf"ends in .*{means}.*not known; expected logits")
        return
    opened = opening.open_network(path)
    found, wanted = np.asarray(opened.scores()(RGB)), np.asarray(net(RGB))
    read = {"logits": lambda x: x, "shares": lambda x: np.asarray(ops.softmax(x)), "labels": np.exp}[means]
    np.testing.assert_allclose(read(found), wanted, rtol=1e-4, atol=1e-5)
    assert (opened.outputs == "labels") == (means == "labels") == ("outputs of a sigmoid" in capsys.readouterr().err)


def test_a_sigmoids_probabilities_are_shown_as_they_are(tmp_path):
    net = ended(layers.Activation("sigmoid"))
    net.save(tmp_path / "net.keras")
    Image.fromarray(RGB[0].astype("uint8")).save(tmp_path / "a.png")
    result = evaluate_model.run(
        model_path=[str(tmp_path / "net.keras")], any_model=True, verbose=0, predict=[str(tmp_path / "a.png")]
    )
    shown = sorted(item["probability"] for item in result["photographs"][0]["classes"])
    np.testing.assert_allclose(shown, np.sort(np.asarray(net(RGB[:1]))[0]), rtol=1e-4)
