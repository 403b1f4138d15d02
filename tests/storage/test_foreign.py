"""opening.open_network of models that others made: what their pixels and outputs are."""

import json

import h5py
import keras
import numpy as np
import pytest
from conftest import small_net
from keras import layers

from compress.errors import InputError
from compress.storage import opening

RGB = np.random.default_rng(8).integers(0, 256, (6, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("activation", ["softmax", None])
def test_probabilities_and_logits_are_both_told_and_pixels_preprocessed(activation, suffix, tmp_path):
    net, path = small_net(activation, scale=False), tmp_path / f"net.{suffix}"
    net.save(path)
    for mode, seen in (
        ("auto", RGB),
        ("none", RGB),
        ("unit", RGB / 255),
        *(
            (m, keras.applications.imagenet_utils.preprocess_input(RGB.copy(), mode=m))
            for m in ("caffe", "tf", "torch")
        ),
    ):
        wanted = net.predict_on_batch(seen)
        answers = opening.open_network(path, mode).model(RGB, training=False)
        np.testing.assert_allclose(keras.ops.softmax(answers) if activation else answers, wanted, rtol=1e-3, atol=1e-5)


def test_what_the_file_does_to_pixels_is_not_done_twice(tmp_path, capsys):
    """Operations beside layers in an .h5, tf.keras 2's groups, over which Keras' own reading stumbles."""
    image = keras.Input((32, 32, 3))
    x = layers.DepthwiseConv2D(3, name="depthwise")(
        keras.applications.mobilenet_v2.preprocess_input(layers.RandomFlip()(image))
    )
    net = keras.Model(image, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))
    net.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        next(layer for layer in config["config"]["layers"] if layer["name"] == "depthwise")["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
    for mode, told in (("auto", "0 to 255 through the file's own true_div"), ("tf", "without --preprocessing tf on")):
        loaded = opening.open_network(tmp_path / "net.h5", mode, verbose=1).model
        np.testing.assert_allclose(loaded(RGB, training=False), net(RGB, training=False), rtol=1e-4, atol=1e-5)
        assert told in capsys.readouterr().out


@keras.saving.register_keras_serializable("mine")
class Doubled(layers.Layer):
    """A layer of its author's own."""


def test_a_layer_of_its_authors_own_is_named(tmp_path):
    keras.Sequential([keras.Input((8, 8, 3)), Doubled(name="twice"), layers.Flatten(), layers.Dense(3)]).save(
        tmp_path / "net.keras"
    )
    with pytest.raises(InputError, match=r"twice \(Doubled\), a class of its author's own"):
        opening.open_network(tmp_path / "net.keras")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_probabilities_of_half_precision_are_told_too(kind, tmp_path):
    image = keras.Input((8, 8, 3))
    logits = layers.Dense(10, name="logits")(layers.Flatten()(image))
    net = keras.Model(image, layers.Softmax(dtype=kind)(logits))
    net.save(tmp_path / "net.keras")
    pixels = np.random.default_rng(2).uniform(0, 255, (6, 8, 8, 3)).astype("float32")
    found = np.asarray(keras.ops.log_softmax(opening.open_network(tmp_path / "net.keras").scores()(pixels)))
    wanted = np.asarray(keras.Model(image, logits)(pixels), np.float64)
    wanted -= np.log(np.exp(wanted - wanted.max(1, keepdims=True)).sum(1, keepdims=True)) + wanted.max(1, keepdims=True)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    likely = wanted > -5  # half precision has no smaller probabilities of use
    np.testing.assert_allclose(found[likely], wanted[likely], atol=0.02)
