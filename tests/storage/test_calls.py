"""What stands in the call of a layer beside its tensors, in the forms of tf.keras 2 and Keras 3: kept, or refused."""

import json

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from compress.engine import running
from compress.engine.twin import Twin
from compress.errors import InputError
from compress.graph.network import Graph
from compress.storage import opening, saving

SIZE = 8
RGB = np.random.default_rng(3).uniform(0, 255, (6, SIZE, SIZE, 3)).astype("float32")
LABELS = np.arange(6) % 3


def body(said, kind=None, **settings):
    """A network with a layer 'told', which is called with some arguments, or two of them where kind is a pair."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, name="first")(layers.Rescaling(1 / 255)(image))
    x = (kind or layers.BatchNormalization)(name="told", **settings)(x, **said)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def inner(name):
    return keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(name="norm"), layers.Dropout(0.5)], name=name
    )


def written(model, path, old, said=None):
    """The file of a model; `old`: in the form of tf.keras 2, whose calls have the arguments `said` of {layer: dict}."""
    model.save(path)
    if not old:
        return path
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            layer["inbound_nodes"] = [
                [[*call["args"][0]["config"]["keras_history"], (said or {}).get(layer["name"], {})]]
                for call in layer["inbound_nodes"]
            ]
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.15.0"
    return path


FORMS = [("h5", True), ("h5", False), ("keras", False)]


@pytest.mark.parametrize(("suffix", "old"), FORMS)
@pytest.mark.parametrize(
    ("kind", "settings", "who"),
    [
        (layers.BatchNormalization, {}, "told (BatchNormalization), called with training=True: it acts"),
        (layers.Dropout, {"rate": 0.5}, "told (Dropout), called with training=True: it acts"),
        (inner, {}, "told (Sequential), called with training=True: norm (BatchNormalization) in it acts"),
    ],
)
def test_what_is_always_in_training_is_refused_and_opens_without(kind, settings, who, suffix, old, tmp_path):
    model, said = body({"training": True}, kind, **settings), {"told": {"training": True}}
    with pytest.raises(InputError) as caught:
        opening.open_network(written(model, tmp_path / f"net.{suffix}", old, said), "none")
    assert who in str(caught.value)
    other = body({}, kind, **settings)
    other.set_weights(model.get_weights())
    opened = opening.open_network(written(other, tmp_path / f"net.{suffix}", old), "none")
    np.testing.assert_allclose(opened.model(RGB), other(RGB, training=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("old", [True, False])
def test_training_is_no_matter_to_a_layer_that_acts_alike(old, tmp_path):
    model = body({"training": True}, layers.Conv2D, filters=4, kernel_size=3)
    path = written(model, tmp_path / "net.h5", old, {"told": {"training": True}})
    np.testing.assert_allclose(opening.open_network(path, "none").model(RGB), model(RGB), rtol=1e-5, atol=1e-5)


def test_augmentation_is_refused_only_where_its_author_said_so(tmp_path):
    """Keras 3 writes the default of these layers, True, into every file."""
    model = body({}, layers.RandomFlip)
    for suffix, old in FORMS:
        opened = opening.open_network(written(model, tmp_path / f"net.{suffix}", old), "none")
        np.testing.assert_allclose(opened.model(RGB, training=False), model(RGB, training=False), rtol=1e-5)
    with pytest.raises(InputError, match=r"told \(RandomFlip\), called with training=True"):
        opening.open_network(written(model, tmp_path / "net.h5", True, {"told": {"training": True}}))


@pytest.mark.parametrize(("suffix", "old"), FORMS)
def test_a_norm_that_was_called_as_in_inference_keeps_its_statistics_in_training(suffix, old, tmp_path):
    model = body({"training": False})
    path = written(model, tmp_path / f"net.{suffix}", old, {"told": {"training": False}})
    net = opening.load_network(path, preprocessing="none")
    np.testing.assert_allclose(net(RGB), model(RGB, training=False), rtol=1e-5, atol=1e-5)
    small = Graph(net).trimmed({"first": np.array([True, True, False, True])})
    saving.save_network(small, tmp_path / "small.h5")
    for trained in (net, small, opening.load_network(tmp_path / "small.h5")):
        before = [np.array(weight) for weight in trained.get_layer("told").weights]
        trainer = Twin(trained)
        trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        trainer.train_on_batch(RGB, LABELS)
        moved = [(np.asarray(w) != old).any() for w, old in zip(trained.get_layer("told").weights, before, strict=True)]
        assert moved == [True, True, False, False]  # gamma, beta; moving mean and variance


def test_a_dropout_that_tf_keras_called_as_in_inference_is_idle_in_training(tmp_path):
    model = body({}, layers.Dropout, rate=0.9)
    wanted = np.asarray(model(RGB, training=False))
    for said, is_idle in (({"training": False}, True), ({}, False)):
        net = opening.open_network(written(model, tmp_path / "net.h5", True, {"told": said}), "none").model
        assert np.allclose(running.run(net, RGB, training=True), wanted, rtol=1e-5) == is_idle
        np.testing.assert_allclose(net(RGB, training=False), wanted, rtol=1e-5)


def of_a_mask(x):
    tokens = layers.Reshape((12, 16))(x)
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens, mask=ops.cast(tokens[..., 0], "bool")))


def of_the_past(x):
    tokens = layers.Reshape((12, 16))(x)
    return layers.Dense(3)(layers.Flatten()(layers.MultiHeadAttention(2, 3)(tokens, tokens, use_causal_mask=True)))


def of_some_classes(x):
    scores = layers.Dense(3)(layers.Flatten()(x))
    return layers.Softmax()(scores, mask=np.array([True, False, True]))


@pytest.mark.parametrize("end", [of_a_mask, of_the_past, of_some_classes])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_masks_are_kept(end, suffix, tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, end(ops.maximum(layers.Rescaling(1 / 99, -1)(image), 0.0)))
    saving.save_network(model, tmp_path / f"net.{suffix}")
    opened = opening.open_network(tmp_path / f"net.{suffix}", "none")
    np.testing.assert_allclose(opened.model(RGB), model(RGB), rtol=1e-5, atol=1e-6)
    assert opened.outputs == ("probabilities" if end is of_some_classes else "logits")


def test_a_mask_that_tf_keras_wrote_as_words_is_one(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    scores = layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    model = keras.Model(image, layers.Softmax(name="told")(scores))
    path = written(model, tmp_path / "net.h5", True, {"told": {"mask": ["True", "False", "True"]}})
    share = np.exp(np.asarray(keras.Model(image, scores)(RGB), np.float64)) * [1, 0, 1]
    opened = opening.open_network(path, "none")
    np.testing.assert_allclose(opened.model(RGB), share / share.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="which is no array of True and False"):
        opening.open_network(written(model, path, True, {"told": {"mask": ["True", "no", "True"]}}), "none")


def test_a_setting_of_an_operation_that_isnt_known_is_refused(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, layers.Dense(3)(ops.mean(image / 9, axis=(1, 2))))
    saving.save_network(model, tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Mean")["config"]["ddof"] = 1
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(InputError, match=r"\(Mean\) with ddof=1, a setting that is not known here"):
        opening.open_network(tmp_path / "net.h5")
