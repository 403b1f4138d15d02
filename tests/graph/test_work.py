"""MACs of what has no channels that could go, against products of sizes by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from compress import metrics
from compress.cli import configs
from compress.errors import InputError
from compress.graph.network import Graph
from compress.pruning import budgets, scope


def rows(*shape):
    """An input of a batch of rows."""
    return keras.Input(shape)


def recurrent(layer):
    x = rows(7, 6)
    return keras.Model(x, layer(x))


def paired(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, function(*inputs))


NETWORKS = {
    # 4 gates, each with a kernel of 6 x 5 and one of 5 x 5, in each of 7 steps
    "LSTM": (lambda: recurrent(layers.LSTM(5)), 7 * 4 * (6 * 5 + 5 * 5)),
    "GRU": (lambda: recurrent(layers.GRU(5, return_sequences=True)), 7 * 3 * (6 * 5 + 5 * 5)),
    "SimpleRNN": (lambda: recurrent(layers.SimpleRNN(5)), 7 * (6 * 5 + 5 * 5)),
    "Bidirectional": (lambda: recurrent(layers.Bidirectional(layers.GRU(5))), 2 * 7 * 3 * (6 * 5 + 5 * 5)),
    "RNN": (lambda: recurrent(layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)])), 7 * (4 * 11 * 5 + 3 * 9 * 4)),
    # in each of 7 steps, at 4 x 4 positions, 4 gates of kernels of 3 x 3 from 2 and from 5 channels
    "ConvLSTM2D": (lambda: paired(layers.ConvLSTM2D(5, 3), (7, 6, 6, 2)), 7 * 16 * 9 * (2 + 5) * 4 * 5),
    "ConvLSTM2D of all steps": (
        lambda: paired(layers.ConvLSTM2D(5, 3, return_sequences=True), (7, 6, 6, 2)),
        7 * 16 * 9 * (2 + 5) * 4 * 5,
    ),
    "SpectralNormalization": (
        lambda: paired(layers.SpectralNormalization(layers.Conv2D(5, 3, 2)), (9, 9, 2)),
        16 * 9 * 2 * 5,
    ),
    "TimeDistributed": (lambda: recurrent(layers.TimeDistributed(layers.Dense(5))), 7 * 6 * 5),
    "TimeDistributed without a kernel": (
        lambda: paired(layers.TimeDistributed(layers.MaxPooling2D()), (7, 6, 6, 2)),
        0,
    ),
    # 3 queries for 4 keys of 8 channels, values of 5
    "Attention": (
        lambda: paired(lambda q, v, k: layers.Attention()([q, v, k]), (3, 8), (4, 5), (4, 8)),
        3 * 4 * (8 + 5),
    ),
    "AdditiveAttention": (lambda: paired(lambda q, v: layers.AdditiveAttention()([q, v]), (3, 8), (4, 8)), 3 * 4 * 16),
    # 2 heads, 5 channels a key, 4 a value: the projections, and in each head scores and means
    "attention with an output_shape": (
        lambda: paired(layers.MultiHeadAttention(2, 5, 4, output_shape=9), (3, 8), (6, 7)),
        3 * 8 * 10 + 6 * 7 * (10 + 8) + 3 * 8 * 9 + 2 * 3 * 6 * (5 + 4),
    ),
    "attention of a query, a value and a key, each its own": (
        lambda: paired(
            lambda q, v, k: layers.MultiHeadAttention(2, 5, output_shape=9)(q, key=k, value=v), (3, 8), (6, 7), (6, 4)
        ),
        3 * 8 * 10 + 6 * 7 * 10 + 6 * 4 * 10 + 3 * 10 * 9 + 2 * 3 * 6 * (5 + 5),
    ),
    # along rows of 4 alone, in each of 3 of them
    "attention along an axis": (
        lambda: paired(lambda x: layers.MultiHeadAttention(2, 5, attention_axes=(2,))(x, x), (3, 4, 8)),
        4 * 12 * 8 * 10 + 2 * 12 * 4 * (5 + 5),
    ),
    "attention along an axis, refused": (
        lambda: paired(lambda x: layers.MultiHeadAttention(2, 5, attention_axes=(2,), output_shape=8)(x, x), (3, 4, 8)),
        4 * 12 * 8 * 10 + 2 * 12 * 4 * (5 + 5),
    ),
    # 4 heads of queries, 2 of keys and values
    "GroupQueryAttention": (
        lambda: paired(layers.GroupQueryAttention(5, 4, 2), (3, 8), (6, 8)),
        3 * 8 * 20 + 2 * 6 * 8 * 10 + 3 * 20 * 8 + 4 * 3 * 6 * (5 + 5),
    ),
    "EinsumDense of three axes": (
        lambda: paired(layers.EinsumDense("abc,cde->abde", (3, 4, 5)), (3, 8)),
        3 * 8 * 4 * 5,
    ),
    "EinsumDense of any rank": (
        lambda: paired(layers.EinsumDense("...c,cd->...d", 4), (3, 8)),
        3 * 8 * 4,
    ),
    "matmul": (lambda: paired(ops.matmul, (3, 8), (8, 5)), 3 * 8 * 5),
    "matmul with a constant": (lambda: paired(lambda x: x @ np.ones((8, 5), "float32"), (3, 8)), 3 * 8 * 5),
    "einsum": (lambda: paired(lambda a, b: ops.einsum("bij,bkj->bik", a, b), (3, 8), (5, 8)), 3 * 8 * 5),
    "Dot": (lambda: paired(lambda a, b: layers.Dot(axes=2)([a, b]), (3, 8), (5, 8)), 3 * 8 * 5),
    "conv": (lambda: paired(lambda x: ops.conv(x, np.ones((3, 3, 2, 4), "float32")), (6, 6, 2)), 4 * 4 * 9 * 2 * 4),
    "no product": (lambda: paired(lambda a, b: layers.PReLU()(a) * b, (3, 8), (3, 8)), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_by_hand(name):
    network, wanted = NETWORKS[name][0](), NETWORKS[name][1]
    assert metrics.count_macs(network) == wanted and not Graph(network).uncounted


def test_each_call_of_a_shared_layer_counts():
    layer = layers.LSTM(6, return_sequences=True)
    assert metrics.count_macs(recurrent(lambda x: layer(layer(x)))) == 2 * 7 * 4 * (6 * 6 + 6 * 6)


def test_a_model_inside_of_open_sizes_works_at_those_of_its_calls():
    tokens = keras.Input((None, 8))
    attended = layers.Reshape((-1, 8))(layers.MultiHeadAttention(2, 3)(tokens, tokens) @ np.ones((8, 8), "float32"))
    inner = keras.Model(tokens, layers.Conv1D(8, 3, padding="same")(attended))
    outer = keras.Sequential([keras.Input((None, 8)), inner])
    x = rows(5, 8)
    y = outer(layers.Concatenate(axis=1)([inner(x), x]))  # at 5 and at 10 positions
    by_hand = [4 * n * 8 * 6 + 2 * n * n * (3 + 3) + n * 8 * 8 + n * 3 * 8 * 8 for n in (5, 10)]
    assert metrics.count_macs(keras.Model(x, y)) == sum(by_hand)
    assert metrics.count_macs(outer) is None  # alone it has no sizes


def unknown():
    """A network with a layer whose work isn't known, behind a convolution."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, activation="relu", name="free")(image)
    x = layers.Conv2D(12, 3, activation="relu", name="next")(x)
    x = layers.TimeDistributed(layers.SeparableConv1D(4, 2), name="each")(x)
    return keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))


def test_an_unknown_kernel_makes_the_macs_unknown_and_is_named():
    network = unknown()
    graph = Graph(network)
    assert metrics.count_macs(network) is None and graph.uncounted == ["each"]
    assert graph.cost().parameters == network.count_params()
    assert np.isnan(graph.cost().macs) and "free" in graph.groups
    with pytest.raises(InputError, match="`target_macs`: received it for .*: those of each aren't; expected `target_c"):
        budgets.of(configs.PruneConfig(target_macs=(2.0, True), verbose=0), scope.Scope(graph, ["free"]))
