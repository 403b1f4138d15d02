"""What an error says to do about a network that isn't read: done in Keras, it makes one that is."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from compress.errors import InputError
from compress.graph import registered, rules
from compress.graph.network import Graph
from compress.storage import headers, opening, saving, vocabulary

RNG = np.random.default_rng(3)
RGB = RNG.uniform(0, 255, (3, 12, 12, 3)).astype("float32")


def head(x):
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def front(x):
    return layers.Rescaling(1 / 255)(x)


def refused(model, path):
    """The line that a network is refused with."""
    model.save(path)
    with pytest.raises(InputError) as caught:
        opening.open_network(path)
    return str(caught.value)


def check_opens(model, wanted, path):
    """The network is read, and answers what the one that was refused does."""
    model.save(path)
    answers = opening.load_network(path).predict(RGB, verbose=0)
    np.testing.assert_allclose(answers, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("inputs", [1, 3])
def test_a_network_of_several_ends_becomes_one_by_the_printed_code(inputs, outputs, tmp_path):
    if inputs == outputs == 1:
        return
    image, others = keras.Input((12, 12, 3)), [keras.Input((width,)) for width in (4, 2)[: inputs - 1]]
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(front(image)))
    x = layers.Concatenate()([x, *others]) if others else x
    model = keras.Model([image, *others], [layers.Dense(3)(x) for _ in range(outputs)])
    line = refused(model, tmp_path / "net.keras")
    v = [np.full((1, width), 0.5, "float32") for width in (4, 2)]
    wanted = model([RGB, *(np.repeat(values, 3, 0) for values in v[: inputs - 1])] if others else [RGB])
    scope = {"keras": keras, "model": model, "v1": v[0], "v2": v[1]}
    for code in re.findall(r"((?:image|zero|model) = .*?)(?=; | has it|$)", line):
        exec(code, scope)
    check_opens(scope["model"], np.asarray(wanted[0] if outputs > 1 else wanted), tmp_path / "one.keras")


def check_reads(network, tmp_path):
    """Both formats are read as the network answers; what the suite writes of it opens in plain Keras."""
    for weight in network.weights:
        if "float" in weight.dtype:
            weight.assign(RNG.uniform(0.1, 0.4, weight.shape))
    wanted = network(RGB, training=False)
    for ending in ("keras", "h5"):
        network.save(tmp_path / f"net.{ending}")
        opened = opening.load_network(tmp_path / f"net.{ending}")
        np.testing.assert_allclose(opened(RGB, training=False), wanted, rtol=1e-5, atol=1e-5)
        saving.save_network(opened, tmp_path / f"again.{ending}")
        again = keras.models.load_model(tmp_path / f"again.{ending}")
        np.testing.assert_allclose(again(RGB, training=False), wanted, rtol=1e-5, atol=1e-5)
    return opened


def behind_a_convolution(build):
    """A network of a function of a tensor (n, 10, 10, 6) that a convolution makes."""
    image = keras.Input((12, 12, 3))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(build(layers.Conv2D(6, 3)(front(image))))))


def steps(x):
    return layers.Reshape((10, 60))(x)


SELDOM = {
    "SpectralNormalization": layers.SpectralNormalization(layers.Conv2D(4, 3)),
    "RNN of a cell": lambda x: layers.RNN(layers.LSTMCell(4))(steps(x)),
    "RNN of two cells": lambda x: layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(5)])(steps(x)),
    "Bidirectional RNN": lambda x: layers.Bidirectional(layers.RNN(layers.GRUCell(4)))(steps(x)),
    "ConvLSTM1D": layers.ConvLSTM1D(4, 3),
    "ConvLSTM2D": lambda x: layers.ConvLSTM2D(4, 3)(layers.Reshape((2, 5, 10, 6))(x)),
    "ConvLSTM3D": lambda x: layers.ConvLSTM3D(4, 2)(layers.Reshape((2, 5, 5, 2, 6))(x)),
    "ReversibleEmbedding": lambda x: layers.ReversibleEmbedding(9, 4)(layers.Reshape((600,))(x)),
}


@pytest.mark.parametrize("name", SELDOM)
def test_kinds_that_seldom_stand_in_a_classifier_are_read(name, tmp_path):
    opened = check_reads(behind_a_convolution(SELDOM[name]), tmp_path)
    assert Graph(opened).cost().parameters == opened.count_params()


@pytest.mark.parametrize("in_front", [True, False])
def test_a_pipeline_is_its_layers_one_behind_the_other(in_front, tmp_path):
    inner = layers.Pipeline([layers.Conv2D(4, 3, activation="relu"), layers.RandomFlip()])
    pipeline = layers.Pipeline([layers.Rescaling(1 / 255), layers.RandomZoom(0.1), layers.Conv2D(5, 3), inner])
    both = [layers.Rescaling(1.0), pipeline] if not in_front else [pipeline]
    between = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization()])  # counted with Pipelines or not
    network = keras.Sequential([keras.Input((12, 12, 3)), *both, between, layers.Flatten(), layers.Dense(3)])
    opened = check_reads(network, tmp_path)
    assert not any(isinstance(layer, layers.Pipeline) for layer in opened._flatten_layers())
    assert [type(layer) for layer in opened.layers if isinstance(layer, keras.Model)] == [keras.Sequential] * 2
    assert any("conv2d" in group for group in Graph(opened).groups)  # pruned as what it is


class Pipeline(layers.Pipeline):
    """A class of a user's, which is called as Keras' own and may do anything."""


@pytest.mark.parametrize(
    ("kind", "inside", "words"),
    [
        (layers.Pipeline, lambda: layers.Lambda(lambda x: x), r"\(Lambda\), a layer of code"),
        (Pipeline, layers.RandomFlip, r"\(Pipeline\), a class of its author's own"),
    ],
)
def test_the_layers_and_the_class_of_a_pipeline_are_looked_at(kind, inside, words, tmp_path):
    stack = [kind([inside()]), layers.Flatten(), layers.Dense(3)]
    keras.Sequential([keras.Input((12, 12, 3)), *stack]).save(tmp_path / "a.keras")
    for reading in (headers.read_header, opening.open_network):
        with pytest.raises(InputError, match=words):
            reading(tmp_path / "a.keras")


def test_a_pipeline_that_names_no_module_or_is_registered_is_its_authors(monkeypatch):
    parts = [{"class_name": "RandomFlip", "config": {}}]
    entry = {"class_name": "Pipeline", "config": {"layers": parts}}  # as Keras 2, which has none, would write a user's
    assert vocabulary.as_own(entry) == entry
    monkeypatch.setattr(registered, "RULES", {Pipeline: None})
    own = entry | {"module": "mine", "registered_name": "mine>Pipeline"}
    assert vocabulary.as_own(own) == own


def test_a_loop_of_a_layer_in_each_step_has_an_end(tmp_path):
    layer = layers.SpectralNormalization(layers.Conv2D(4, 3), power_iterations=10**9)
    stack = [layers.Rescaling(1 / 255), layer, layers.Flatten(), layers.Dense(3)]
    keras.Sequential([keras.Input((12, 12, 3)), *stack]).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="with power_iterations=1000000000; expected at most 100"):
        opening.open_network(tmp_path / "net.keras")


def test_patches_are_those_of_a_convolution(tmp_path):
    image = keras.Input((12, 12, 3))
    end = layers.Dense(3)
    model = keras.Model(image, end(layers.Flatten()(ops.image.extract_patches(front(image), 4))))
    line = refused(model, tmp_path / "net.keras")
    kernel = eval(re.search(r"numpy\.(eye.*?, -1\))", line)[1], {"eye": np.eye, "size": 4})
    patches = layers.Conv2D(48, 4, 4, use_bias=False)
    other = keras.Model(image, end(layers.Flatten()(patches(front(image)))))
    patches.set_weights([kernel])
    check_opens(other, model.predict(RGB, verbose=0), tmp_path / "other.keras")


def test_a_kind_without_an_entry_opens_as_a_registered_class_derived_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(registered, "RULES", {})
    own = type("OwnPooling", (layers.AdaptiveMaxPooling3D,), {})

    def build(kind):
        image = keras.Input((12, 12, 3))
        x = kind((4, 4, 3))(layers.Reshape((12, 12, 3, 1))(front(image)))
        return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))

    model = build(layers.AdaptiveMaxPooling3D)
    line = refused(model, tmp_path / "net.keras")
    assert "(AdaptiveMaxPooling3D)" in line and "of yours derived from it" in line
    assert "docs/how-to/own-model.md" in line
    rules.register(own, lambda call: call.refuse("it has no rule"))
    other = build(own)
    other.set_weights(model.get_weights())
    other.save(tmp_path / "other.keras")
    opened = opening.open_network(tmp_path / "other.keras").model
    np.testing.assert_allclose(opened(RGB), model(RGB), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["AdaptiveAveragePooling1D", "AdaptiveMaxPooling1D"])
def test_adaptive_pooling_of_rows_and_an_embedding_open(kind, tmp_path):
    image = keras.Input((12, 12, 3))
    x = layers.Embedding(9, 4)(layers.Rescaling(1 / 32)(layers.Reshape((432,))(image)))
    x = getattr(layers, kind)(3)(x)
    volume = layers.Reshape((12, 12, 3, 1))(front(image))
    y = layers.AdaptiveAveragePooling3D((6, 6, 3))(volume)
    model = keras.Model(image, layers.Dense(3)(layers.Concatenate()([layers.Flatten()(x), layers.Flatten()(y)])))
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras", "none").model
    np.testing.assert_allclose(opened(RGB), model(RGB), rtol=1e-5, atol=1e-5)
