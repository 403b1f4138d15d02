"""The walk over a model's nodes: Keras' own numbers, with what is substituted, and in another precision."""

import keras
import numpy as np
import pytest
import shapes
from keras import layers, ops, tree

from compress.engine import running
from compress.graph import nodes


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", shapes.quick("residual", "shared", "several", "transfer"))
def test_a_walk_gives_keras_numbers(name, training):
    """Bit for bit, and the same moving statistics; dropout and augmentation draw the same numbers."""
    keras.utils.set_random_seed(1)
    ours = shapes.lively(shapes.SHAPES[name]())
    keras.utils.set_random_seed(1)
    theirs = shapes.lively(shapes.SHAPES[name]())
    images = shapes.pixels(ours)
    for mine, other in zip(
        tree.flatten(running.run(ours, images, training=training)),
        tree.flatten(theirs(images, training=training)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_outputs_have_the_structure_of_the_model():
    model = shapes.several()
    one, two = shapes.pixels(model)
    found = running.run(model, {"two": two, "one": one})
    assert {key: value.shape for key, value in found.items()} == {"a": (6, 2), "b": (6, 3)}
    np.testing.assert_array_equal(found["a"], model([one, two])["a"])


def test_what_is_substituted_is_so_in_every_call_and_inside_models():
    model = shapes.shared()
    conv = model.get_layer("block").layers[1]
    seen = []

    def double(x, training=None):
        seen.append(training)
        return 2 * conv(x)

    images = shapes.pixels(model)
    found = running.run(model, images, {conv: double}, training=False)
    kernel, bias = conv.get_weights()
    conv.set_weights([2 * kernel, 2 * bias])
    assert seen == [False, False] and shapes.close(found, model(images), 1e-5)


def test_what_is_watched_is_seen_in_every_call():
    model = shapes.shared()
    watched, seen = running.nodes_at(model, ["block/" + model.get_layer("block").layers[-1].name])[0], []
    found = running.run(model, shapes.pixels(model), watched={watched: seen.append})
    flat = layers.Flatten()(seen[-1])
    assert len(seen) == 2 and shapes.close(model.layers[-1](flat), found, 1e-6)


def test_pixels_vectors_and_logits_stay_in_float32():
    model = shapes.transfer()
    low, base = running.lowered(model, "mixed_bfloat16"), model.get_layer("base")
    assert {type(layer).__name__ for layer in low} == {
        "Conv2D", "DepthwiseConv2D", "BatchNormalization", "Activation", "Add", "Multiply"}  # fmt: skip
    assert set(low) == {layer for layer in base.layers if type(layer) in set(map(type, low))}
    assert running.lowered(model, "float32") == []


def test_another_arithmetic_leaves_variables_and_layers_as_they_were():
    model = shapes.lively(shapes.kinds())
    images, config = shapes.pixels(model), model.to_json()
    seen, watched = {}, {node: node for _, node in nodes.walk(model)}
    watched = {node: lambda x, node=node: seen.setdefault(node.operation.name, x) for node in watched}
    with running.arithmetic(running.lowered(model, "mixed_bfloat16"), "mixed_bfloat16"):
        found = running.run(model, images, watched=watched)
    assert model.to_json() == config and {v.dtype for v in model.weights} == {"float32"}
    kinds = {name: keras.backend.standardize_dtype(x.dtype) for name, x in seen.items()}
    assert {kind for name, kind in kinds.items() if "conv" in name or "attention" in name} == {"bfloat16"}
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = model(images)
    assert shapes.close(found, expected, 0.1) and not shapes.close(found, expected, 1e-6)


def test_a_model_with_a_policy_of_its_own_keeps_it():
    with_policy = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(2, 1, dtype="mixed_float16"), layers.ReLU()])
    assert running.lowered(with_policy, "mixed_bfloat16") == []


def test_the_layers_are_back_in_their_precision_after_an_error():
    model = shapes.sequential()
    config, low = model.to_json(), running.lowered(model, "mixed_bfloat16")

    def broken(x, training=None):
        raise ArithmeticError

    with pytest.raises(ArithmeticError), running.arithmetic(low, "mixed_bfloat16"):
        running.run(model, shapes.pixels(model), {model.layers[-1]: broken})
    assert low and model.to_json() == config


def test_ops_alone_are_a_model_too():
    x = keras.Input((3,))
    assert float(running.run(keras.Model(x, ops.sum(x * 2, axis=-1)), np.ones((1, 3)))[0]) == 6
