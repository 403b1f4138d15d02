"""What depends on the version of Keras that wrote a file: files in the form of tf.keras 2, references in NumPy."""

import json
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from compress.errors import InputError
from compress.storage import archives, opening

RGB = np.random.default_rng(4).uniform(-1, 1, (3, 5, 5, 3)).astype("float32")
SLOPES = {"2.15.0": 0.2, "2.2.4-tf": 0.2, "1.2.2": 0.2, "3.4.1": 1 / 6}  # of hard_sigmoid


def entry(kind, name, config, *calls):
    """A layer as tf.keras 2 writes it; calls: of each call the layers that it reads."""
    nodes = [[[*(read if isinstance(read, tuple) else (read, 0)), 0, {}] for read in call] for call in calls]
    return {"class_name": kind, "name": name, "config": {"name": name, "trainable": True} | config} | {
        "inbound_nodes": nodes
    }


def network(activation="hard_sigmoid", kind="Activation", settings=None):
    """(keras.Model for its weights, config): 1x1 convolutions, a layer that both outputs go through, their sum."""
    image = keras.Input((5, 5, 3), name="image")
    one, two = layers.Conv2D(4, 1, name="one")(image), layers.Conv2D(4, 1, name="two")(image)
    end = layers.Dense(2, name="end")(layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([one, two])))
    model = keras.Model(image, end)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 2, weight.shape) for weight in model.get_weights()])
    conv = {"filters": 4, "kernel_size": [1, 1]}
    gate = {"activation": activation} if settings is None else settings
    config = [
        entry("InputLayer", "image", {"batch_input_shape": [None, 5, 5, 3], "dtype": "float32"}),
        entry("Conv2D", "one", conv | {"activation": activation}, ["image"]),
        entry("Conv2D", "two", conv, ["image"]),
        entry(kind, "gate", gate, ["one"], ["two"]),
        entry("Add", "sum", {}, [("gate", 0), ("gate", 1)]),
        entry("GlobalAveragePooling2D", "pool", {}, ["sum"]),
        entry("Dense", "end", {"units": 2, "activation": "linear"}, ["pool"]),
    ]
    ends = {"input_layers": [["image", 0, 0]], "output_layers": [["end", 0, 0]]}
    return model, {"class_name": "Functional", "config": {"name": "net", "layers": config} | ends}


def write(path, model, config, version):
    """The file of a model with another config, .h5 or .keras, of a version of Keras, or of one that it doesn't say."""
    model.save(path)
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
            del file.attrs["keras_version"]
            if version:
                file.attrs["keras_version"] = version
        return path
    with zipfile.ZipFile(path) as archive:
        weights = archive.read(archives.WEIGHTS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr(archives.WEIGHTS, weights)
        if version:
            archive.writestr("metadata.json", json.dumps({"keras_version": version, "date_saved": ""}))
    return path


def answers(model, first, gate):
    """What the network of `network` answers, in double precision; first: the activation of the convolution `one`."""
    weights = {layer.name: [np.asarray(value, np.float64) for value in layer.get_weights()] for layer in model.layers}
    one, two = (RGB.astype("float64") @ weights[name][0][0, 0] + weights[name][1] for name in ("one", "two"))
    return (gate(first(one)) + gate(two)).mean((1, 2)) @ weights["end"][0] + weights["end"][1]


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("version", SLOPES)
def test_hard_sigmoid_is_that_of_the_keras_that_wrote_the_file(version, suffix, tmp_path):
    model, config = network()
    path = write(tmp_path / f"net.{suffix}", model, config, version)

    def hard(x):
        return np.clip(SLOPES[version] * x + 0.5, 0, 1)

    opened = opening.open_network(path, "none")
    np.testing.assert_allclose(opened.model(RGB), answers(model, hard, hard), rtol=1e-5, atol=1e-5)
    assert {"one", "gate"} <= {layer.name for layer in opened.model.layers}
    opened.model.save(tmp_path / "again.keras")  # by the Keras of today, in whose words it now stands
    again = opening.open_network(tmp_path / "again.keras", "none")
    np.testing.assert_allclose(again.model(RGB), opened.model(RGB), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_file_that_doesnt_say_its_version_is_refused_where_that_matters(suffix, tmp_path):
    with pytest.raises(InputError, match="hard_sigmoid, which Keras 2 and 3 compute differently"):
        opening.open_network(write(tmp_path / f"net.{suffix}", *network(), None))
    model, config = network("relu")
    opened = opening.open_network(write(tmp_path / f"net.{suffix}", model, config, None), "none")
    np.testing.assert_allclose(
        opened.model(RGB), answers(model, lambda x: np.maximum(x, 0), lambda x: np.maximum(x, 0)), rtol=1e-5, atol=1e-5
    )


def test_a_sequential_of_keras_2_has_its_hard_sigmoid_too(tmp_path):
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 1, activation="hard_sigmoid"), layers.Flatten()])
    model.add(layers.Dense(2))
    model.set_weights([np.random.default_rng(1).normal(0, 2, weight.shape) for weight in model.get_weights()])
    model.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["keras_version"] = b"2.9.0"
    kernel, bias, end, shift = model.get_weights()
    wanted = np.clip(0.2 * (RGB @ kernel[0, 0] + bias) + 0.5, 0, 1).reshape(3, -1) @ end + shift
    found = opening.open_network(tmp_path / "net.h5", "none").model(RGB)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def recurrent(x, weights):
    """A LSTM whose gates go through Keras 2's hard_sigmoid."""
    kernel, inner, bias = (np.asarray(item, np.float64) for item in weights)
    state = cell = np.zeros((len(x), len(inner)))
    for step in x.transpose(1, 0, 2):
        entering, forgetting, new, leaving = np.split(step @ kernel + state @ inner + bias, 4, axis=1)
        entering, forgetting, leaving = (np.clip(0.2 * z + 0.5, 0, 1) for z in (entering, forgetting, leaving))
        cell = forgetting * cell + entering * np.tanh(new)
        state = leaving * np.tanh(cell)
    return state


def test_gates_of_keras_2_are_refused_and_the_way_out_answers_as_they_did(tmp_path):
    lstm = layers.LSTM(4, recurrent_activation="hard_sigmoid")
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Reshape((5, 15)), lstm, layers.Dense(2)])
    weights = [np.random.default_rng(1).normal(0, 1, weight.shape) for weight in model.get_weights()]
    wanted = recurrent(RGB.reshape(3, 5, 15), weights[:3]) @ weights[3] + weights[4]
    model.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["keras_version"] = "2.9.0"
    with pytest.raises(InputError, match=r"\(LSTM\) with .* those of the gates\) times 1.2, and saved"):
        opening.open_network(tmp_path / "net.h5")
    for weight in weights[:3]:
        weight[..., [*range(8), *range(12, 16)]] *= 1.2  # all but the third quarter, which tanh takes
    model.set_weights(weights)
    model.save(tmp_path / "net.h5")
    found = opening.open_network(tmp_path / "net.h5", "none").model(RGB)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "version"), [("hswish", "3.4.1"), ("hswish", "2.9.0"), ("hard_swish", "2.9.0")])
def test_a_function_of_its_authors_is_refused_and_the_printed_code_names_keras_own(name, version, tmp_path):
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 1, activation="hard_silu"), layers.Flatten()])
    model.add(layers.Dense(2))
    wanted = model(RGB)
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = file.attrs["model_config"].replace("hard_silu", name)
    with pytest.raises(InputError, match=rf"activation {name}, which") as caught:
        opening.open_network(tmp_path / "old.h5")
    code = re.search(r"(keras\.models\..*'\)) writes", str(caught.value))[1]
    exec(code.replace("old.h5", str(tmp_path / "old.h5")).replace("new.keras", str(tmp_path / "new.keras")))
    np.testing.assert_allclose(opening.open_network(tmp_path / "new.keras", "none").model(RGB), wanted, atol=1e-5)


@pytest.mark.parametrize("metadata", [b"[]", b"{}", b'{"keras_version": 7}', b'{"keras_version": ["2.1"]}'])
def test_metadata_without_a_version_say_none(metadata, tmp_path):
    path = write(tmp_path / "net.keras", *network(), None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata)
    with pytest.raises(InputError, match="doesn't say which one wrote it"):
        opening.open_network(path)


def test_a_random_crop_is_refused_with_what_stands_for_it(tmp_path):
    """Keras 2 crops and resizes outside training, Keras 3.15 leaves images as they are."""
    model, config = network("relu", "RandomCrop", {"height": 3, "width": 3})
    with pytest.raises(InputError, match=r"RandomCrop\).*expected Resizing\(height, width, crop_to_aspect_ratio=True"):
        opening.open_network(write(tmp_path / "net.h5", model, config, "2.9.0"))


def normalised(x, weights):
    gamma, beta, mean, variance = (np.asarray(item, np.float64) for item in weights)
    return (x - mean) / np.sqrt(variance + 0.01) * gamma + beta


OTHERS = {  # what files of TensorFlow 1, of Keras 2 and of others call a layer: (settings, what it computes, weights)
    "BatchNormalizationV1": ({"axis": [3], "epsilon": 0.01, "fused": True}, normalised),
    "BatchNormalizationV2": ({"axis": [3], "epsilon": 0.01}, normalised),
    "ThresholdedReLU": ({"theta": 1.5}, lambda x, _: np.where(x > 1.5, x, 0)),
    "FixedDropout": ({"rate": 0.25, "noise_shape": [None, 1, 1, 1], "seed": None}, lambda x, _: x),
}


def of_another_name(name, path, **entries):
    """Writes a file with a layer of OTHERS between two layers; gives what the network answers."""
    settings, computes = OTHERS[name]
    gate = layers.BatchNormalization(name="gate") if "Norm" in name else layers.ReLU(name="gate")
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 1, name="one"), gate])
    model.add(layers.GlobalAveragePooling2D(name="pool"))
    model.add(layers.Dense(2, name="end"))
    rng = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign(rng.uniform(0.2, 2, weight.shape) if "var" in weight.name else rng.normal(0, 2, weight.shape))
    config = [
        entry("InputLayer", "image", {"batch_input_shape": [None, 5, 5, 3]}),
        entry("Conv2D", "one", {"filters": 4, "kernel_size": [1, 1]}, ["image"]),
        entry(name, "gate", settings, ["one"]) | entries,
        entry("GlobalAveragePooling2D", "pool", {}, ["gate"]),
        entry("Dense", "end", {"units": 2}, ["pool"]),
    ]
    config = {"name": "net", "layers": config, "input_layers": [["image", 0, 0]], "output_layers": [["end", 0, 0]]}
    write(path, model, {"class_name": "Functional", "config": config}, "2.2.4-tf")
    kernel, bias, *inner, end, shift = model.get_weights()

    return computes(RGB.astype("float64") @ kernel[0, 0] + bias, inner).mean((1, 2)) @ end + shift


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_names_of_a_layer_of_keras_are_read_as_that_layer(name, suffix, tmp_path):
    wanted = of_another_name(name, tmp_path / f"net.{suffix}")
    opened = opening.load_network(tmp_path / f"net.{suffix}", preprocessing="none")
    np.testing.assert_allclose(opened(RGB, training=False), wanted, rtol=1e-4, atol=1e-5)
    if name == "FixedDropout":  # in training it drops whole images
        kept = np.asarray(opened.get_layer("gate")(np.ones((64, 2, 2, 3), "float32"), training=True)).reshape(64, -1)
        assert {*np.unique(kept.round(4))} == {0, np.float32(1.3333)} and (np.ptp(kept, 1) == 0).all()


def test_a_class_of_another_author_of_the_same_name_is_refused(tmp_path):
    of_another_name("FixedDropout", tmp_path / "net.h5", module="efficientnet.model", registered_name="FixedDropout")
    opening.open_network(tmp_path / "net.h5", "none")
    of_another_name("FixedDropout", tmp_path / "net.h5", module="mine", registered_name="FixedDropout")
    with pytest.raises(InputError, match=r"gate \(FixedDropout\), a class of its author's own"):
        opening.open_network(tmp_path / "net.h5", "none")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("CuDNNLSTM", r"expected the same network with LSTM\(units\)"),
        ("LocallyConnected2D", "a class of your own of this name"),
        ("RandomHeight", "expected the network without it"),
        ("TensorFlowOpLayer", "expected Keras' own layers"),
        ("Swish", r"expected Activation\('silu'\), if it is x \* sigmoid\(x\)"),
        ("HSwish", r"expected Activation\('hard_silu'\), if it is x \* relu6\(x \+ 3\) / 6"),
        ("DropConnect", r"expected Dropout\(rate, noise_shape=\(None, 1, 1, 1\)\)"),
    ],
)
def test_kinds_that_keras_3_hasnt_are_refused_with_what_stands_for_them(kind, words, tmp_path):
    model, config = network("relu", kind, {})
    with pytest.raises(InputError, match=rf"gate \({kind}\), .*{words}"):
        opening.open_network(write(tmp_path / "net.h5", model, config, "2.9.0"))
