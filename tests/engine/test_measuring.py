"""Zeros against numpy's count on Keras' own activations."""

import types

import keras
import numpy as np
import pytest
import shapes
from keras import layers

from compress.engine import measuring
from compress.errors import InputError
from compress.graph import network, nodes


def named(model, chosen):
    """{path: node} of the operations whose path `chosen` says yes to."""
    return {path: node for path, node in nodes.walk(model) if chosen(path)}


def test_zeros_are_numpys_count():
    """Of ReLU layers, of inline ReLUs, of a ReLU on vectors."""
    model = shapes.lively(shapes.dense())
    watched = named(model, lambda path: any(word in path for word in ("re_lu", "conv", "activation")))
    images = shapes.pixels(model, 7)
    found = measuring.count_zeros(model, dict.fromkeys(watched.values(), -1), images, batch_size=3)
    assert len(found) == 6
    for path, node in watched.items():
        maps = np.asarray(keras.Model(model.input, model.get_layer(path).output)(images))
        np.testing.assert_allclose(found[node], (maps == 0).mean(tuple(range(maps.ndim - 1))), atol=1e-12)
        assert found[node].max() > 0 and found[node].min() < 1


def test_zeros_are_counted_on_any_axis():
    model = shapes.lively(shapes.dense())
    node = next(iter(named(model, lambda path: "re_lu" in path).values()))
    images = shapes.pixels(model, 7)
    maps = np.asarray(keras.Model(model.input, node.outputs[0])(images))
    found = measuring.count_zeros(model, {node: 1}, images)[node]
    np.testing.assert_allclose(found, (maps == 0).mean((0, 2, 3)), atol=1e-12)


def test_zeros_inside_a_model_are_those_of_all_its_calls():
    model = shapes.lively(shapes.shared())
    block, images = model.get_layer("block"), shapes.pixels(model, 4)
    (last,) = named(model, lambda path: path == f"block/{block.layers[-1].name}").values()
    first = keras.Model(model.input, [node.outputs[0] for _, node in nodes.walk(model) if node.operation is block])
    maps = np.concatenate([np.asarray(x) for x in first(images)])
    found = measuring.count_zeros(model, {last: -1}, images)[last]
    np.testing.assert_allclose(found, (maps == 0).mean((0, 1, 2)), atol=1e-12)


def test_no_images_are_refused():
    model = shapes.dense()
    with pytest.raises(ValueError, match="needs images"):
        measuring.count_zeros(model, {}, np.zeros((0, 12, 12, 3)))


def graph(model, activations, places, width):
    """What `compute_apoz` asks a graph: one group and where its zeros are counted."""
    return types.SimpleNamespace(
        model=model,
        groups={"group": types.SimpleNamespace(width=width)},
        activations={"group": [(node, node.operation) for node in activations]},
        places=lambda tensor: (3, {"group": places[id(tensor)]}),
    )


def test_apoz_averages_over_tied_channels_and_over_activations():
    model = shapes.lively(shapes.dense())
    first, second = list(named(model, lambda path: "re_lu" in path).values())
    images = shapes.pixels(model, 7)
    one, two = ((np.asarray(keras.Model(model.input, node.outputs[0])(images)) == 0) for node in (first, second))
    one, two = one.mean((0, 1, 2)), two.mean((0, 1, 2))
    # two channels of the first are tied in position 0, which has one of the second as well
    (low, a, b), c = np.argsort(one)[-3:], int(np.argmax(two))
    places = {id(first.outputs[0]): ([a, low, b], [0, 1, 0]), id(second.outputs[0]): ([c], [0])}
    found = measuring.compute_apoz(graph(model, [first, second], places, 2), images)["group"]
    np.testing.assert_allclose(found, [(one[a] + one[b] + two[c]) / 3, one[low]], atol=1e-12)
    assert one[a] + two[c] > 0.1


def test_apoz_of_a_graph_is_numpys_count():
    """Of the groups behind ReLUs: the first convolution's, which two ReLUs see, and that of the Dense."""
    model = shapes.lively(shapes.dense())
    images = shapes.pixels(model, 7)
    found = measuring.compute_apoz(network.Graph(model), images)
    convs = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert set(found) >= {convs[-1]} and len(found) == 4
    maps = np.asarray(keras.Model(model.input, model.get_layer(convs[-1]).output)(images))
    np.testing.assert_allclose(found[convs[-1]], (maps == 0).mean((0, 1, 2)), atol=1e-12)


def test_a_network_without_relu_is_told_which_criteria_apply():
    with pytest.raises(InputError, match="no ReLU-like activation.*expected l1, l2, bn, taylor, fpgm or random"):
        measuring.compute_apoz(network.Graph(shapes.mobile()), np.zeros((1, 12, 12, 3)))
