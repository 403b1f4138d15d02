"""What an error says to do about a network that isn't read: done in Keras, it makes one that is."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from compress.errors import InputError
from compress.graph import registered, rules
from compress.storage import opening

RGB = np.random.default_rng(3).uniform(0, 255, (3, 12, 12, 3)).astype("float32")


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


def replaced(model, kind, by):
    """The network, a Sequential of three layers and a head, with another layer in the place of one of a kind."""
    stack = [by(layer) if type(layer).__name__ == kind else layer for layer in model.layers]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack])


@pytest.mark.parametrize(
    ("layer", "by", "hint"),
    [
        (lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)), lambda layer: layer.layer, "its `layer`"),
        (
            lambda: layers.Pipeline([layers.RandomFlip(), layers.RandomRotation(0.1)]),
            lambda layer: keras.Sequential(layer.layers),
            "keras.Sequential(pipeline.layers)",
        ),
    ],
)
def test_what_is_said_to_stand_for_a_layer_answers_as_it_did(layer, by, hint, tmp_path):
    stack = [layers.Rescaling(1 / 255), layer(), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack])
    assert hint in refused(model, tmp_path / "net.keras")
    other = replaced(model, type(stack[1]).__name__, by)
    check_opens(other, model.predict(RGB, verbose=0), tmp_path / "other.keras")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_an_rnn_of_a_cell_of_keras_is_that_layer(kind, tmp_path):
    image, end = keras.Input((12, 12, 3)), layers.Dense(3)
    rows = layers.Reshape((12, 36))(front(image))
    rnn, layer = layers.RNN(getattr(layers, f"{kind}Cell")(4)), getattr(layers, kind)(4)
    model = keras.Model(image, end(rnn(rows)))
    assert f"{kind}(units)" in refused(model, tmp_path / "net.keras")
    other = keras.Model(image, end(layer(rows)))
    layer.set_weights(rnn.get_weights())
    check_opens(other, model.predict(RGB, verbose=0), tmp_path / "other.keras")


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


class OwnConvLSTM(layers.ConvLSTM2D):
    """Keras' layer under a name of its own, as the line asks for."""


def test_a_kind_without_a_rule_opens_as_a_registered_class(tmp_path, monkeypatch):
    monkeypatch.setattr(registered, "RULES", {})

    def build(kind):
        image = keras.Input((12, 12, 3))
        return keras.Model(image, head(kind(4, 3)(layers.Reshape((3, 4, 12, 3))(front(image)))))

    model = build(layers.ConvLSTM2D)
    line = refused(model, tmp_path / "net.keras")
    assert "(ConvLSTM2D)" in line and "of yours derived from it" in line and "docs/how-to/own-model.md" in line
    rules.register(OwnConvLSTM, lambda call: call.refuse("it has no rule"))
    other = build(OwnConvLSTM)
    other.set_weights(model.get_weights())
    other.save(tmp_path / "other.keras")
    opened = opening.open_network(tmp_path / "other.keras").model
    np.testing.assert_allclose(opened(RGB), model(RGB), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    [
        ("ConvLSTM1D", {"filters": 3, "kernel_size": 3}, (12, 12, 3)),
        ("AdaptiveMaxPooling3D", {"output_size": (4, 4, 3)}, (12, 12, 3, 1)),
        ("ReversibleEmbedding", {"input_dim": 9, "output_dim": 4}, (432,)),
        (
            "ContrastLimitedAdaptiveHistogramEqualization",
            {"value_range": (0, 1), "tile_grid_size": (2, 2)},
            (12, 12, 3),
        ),
        ("Discretization", {"bin_boundaries": [0.2, 0.5], "dtype": "float32"}, (432,)),
        ("CategoryEncoding", {"num_tokens": 4, "output_mode": "multi_hot"}, (432,)),
    ],
)
def test_kinds_that_the_page_on_own_models_names_open_as_classes_derived_from_them(
    kind, settings, shape, tmp_path, monkeypatch
):
    monkeypatch.setattr(registered, "RULES", {})
    own = type(f"Own{kind}", (getattr(layers, kind),), {})
    rules.register(own, lambda call: call.refuse("it has no rule"))
    image = keras.Input((12, 12, 3))
    x = layers.Rescaling(1.0, dtype="float32")(own(**settings)(layers.Reshape(shape)(front(image))))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras").model
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
