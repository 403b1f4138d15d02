"""Blocks that are left out: the network is the one that is built without them."""

import keras
import numpy as np
import pytest
import resnets
import zoo
from conftest import narrow_widths
from keras import layers

from compress.distillation import stems
from compress.distillation import student as students
from compress.errors import InputError
from compress.graph import residuals, trimming
from compress.graph.network import Graph


def counts_of(model):
    return [len(stage) for stage in residuals.stages_of(model)]


def block(x, name, kind):
    """A residual block of one of several kinds; its branch has two convolutions."""
    width, relu = x.shape[-1], layers.Activation("relu", name=f"{name}_in")
    y = relu(x) if kind == "before" else x
    y = layers.Conv2D(5, 1, activation="relu", name=f"{name}_1")(y)
    if kind == "gated":
        y = layers.Multiply(name=f"{name}_gate")([y, layers.Dense(5, "sigmoid", name=f"{name}_dense")(y)])
    y = layers.BatchNormalization(name=f"{name}_bn")(layers.Conv2D(width, 3, padding="same", name=f"{name}_2")(y))
    if kind == "raw":
        return x + y
    y = layers.Add(name=f"{name}_add")([y, x] if kind == "gated" else [x, y])
    return layers.ReLU(name=f"{name}_out")(y) if kind == "relu" else y


def network(counts, kind, inside=None):
    """A classifier with two stages of so many blocks, the second behind a shortcut with a convolution of its own.

    Args:
        counts: blocks of both.
        kind: of `block`.
        inside: 'model' or 'sequential' for one that stands within another network.
    """
    x = keras.Input((12, 12, 3), name="image")
    y = layers.ReLU(name="stem_relu")(layers.Conv2D(6, 3, padding="same", name="stem")(x))
    for number in range(counts[0]):
        y = block(y, f"first{number}", kind)
    shortcut = layers.Conv2D(8, 1, strides=2, name="shortcut")(y)
    y = layers.Conv2D(8, 3, strides=2, padding="same", name="down")(y)
    y = layers.ReLU(name="down_relu")(layers.Add(name="down_add")([shortcut, y]))
    for number in range(counts[1] - 1):
        y = block(y, f"second{number}", kind)
    if not inside:
        return keras.Model(x, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D(name="pool")(y)))
    body, head = (
        keras.Model(x, y, name="body"),
        [layers.GlobalMaxPooling2D(name="pool"), layers.Dense(4, name="logits")],
    )
    if inside == "sequential":
        return keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(1 / 255, name="scale"), body, *head])
    outer = keras.Input((12, 12, 3))
    return keras.Model(outer, head[1](head[0](body(layers.Rescaling(1 / 255, name="scale")(outer)))))


def weights_of(model):
    """{path of the layer without the model's own name and place: its weights}."""
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return {
        layer.name: layer for net in (model, *inner) for layer in net.layers if layer.weights and layer not in inner
    }


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        pytest.param(kind, inside, marks=pytest.mark.slow if inside and kind not in ("relu", "gated") else ())
        for kind in ("relu", "linear", "raw", "before", "gated")
        for inside in (None, "model", "sequential")
    ],
)
def test_without_blocks_a_network_is_the_one_that_is_built_without_them(kind, inside):
    whole, wanted = zoo.lively(network((3, 3), kind, inside)), network((1, 2), kind, inside)
    taken, given = weights_of(wanted), weights_of(whole)
    for name, layer in taken.items():
        layer.set_weights(given[name].get_weights())
    stages = residuals.stages_of(whole)
    assert [len(stage) for stage in stages] == [3, 3]
    found = trimming.altered(whole, Graph(whole).reading, residuals.left_out(stages, (1, 2)), {})
    images = zoo.images(whole)[0]
    np.testing.assert_array_equal(np.asarray(found(images)), np.asarray(wanted(images)))
    assert set(weights_of(found)) == set(taken) and found.count_params() == wanted.count_params()
    assert counts_of(found) == [1, 2]
    if kind == "relu":  # no activation is left behind
        assert len(list(Graph(found).activations)) == len(list(Graph(wanted).activations))


def test_whole_networks_have_the_blocks_of_their_papers():
    from model import cifar_resnet

    mobile = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    assert counts_of(mobile) == [1, 2, 3, 2, 2]  # table 2 of arXiv 1801.04381, without the first of each row
    assert counts_of(cifar_resnet(20)) == [3, 3, 3]
    assert counts_of(resnets.build_resnet(widths=narrow_widths(blocks=(3, 4, 6, 3)))) == [3, 4, 6, 3]
    assert counts_of(zoo.plain_cnn()) == counts_of(zoo.unet()) == []


def test_branches_that_are_joined_begin_a_stage_each():
    """A shortcut that is pooled, as in ResNet50V2, and halves of a split, of which the branch reads one alone."""
    x = keras.Input((8, 8, 6))
    y = layers.Conv2D(6, 3, padding="same")(x) + x
    y = layers.MaxPooling2D(1, strides=2)(y) + layers.Conv2D(6, 3, strides=2, padding="same")(y)
    one, other = keras.ops.split(y, 2, axis=-1)
    y = one + layers.Conv2D(3, 3, padding="same")(other)
    assert counts_of(keras.Model(x, y)) == [1, 1, 1]


def test_an_addition_of_other_shapes_or_of_a_constant_is_no_block():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, padding="same")(x)
    y = y + layers.GlobalAveragePooling2D(keepdims=True)(y)  # broadcasts
    y = layers.Dense(2)(layers.Flatten()(y + 1.0))
    assert counts_of(keras.Model(x, y)) == []


@pytest.mark.parametrize("inside", ["model", "sequential"])
@pytest.mark.parametrize("padding", ["layer", "same"])
def test_the_stem_of_any_network_that_has_one_is_changed(padding, inside):
    begin = [layers.ZeroPadding2D(3, name="pad")] if padding == "layer" else []
    begin.append(layers.Conv2D(5, 7, 2, padding="valid" if begin else "same", name="first"))
    more = [layers.BatchNormalization(name="bn"), layers.ReLU(), layers.MaxPooling2D(3, 2, padding="same")]
    end = [layers.Conv2D(6, 3, name="second"), layers.GlobalAveragePooling2D(), layers.Dense(4)]
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), *begin, *more, *end])
    if inside == "model":
        outer = keras.Input((32, 32, 3))
        model = keras.Model(outer, model(outer))
    zoo.lively(model)
    stem = stems.stem_of(model)
    assert stem.name == "imagenet" and stems.smaller(stem) == ["imagenet", "half", "cifar"]
    for name, side, positions in (("half", 5, 14), ("cifar", 3, 30)):
        found = trimming.altered(model, Graph(model).reading, *stems.change(stem, name))
        ours, theirs = weights_of(found), weights_of(model)
        cut = (7 - side) // 2
        np.testing.assert_array_equal(ours["first"].kernel, np.asarray(theirs["first"].kernel)[cut:-cut, cut:-cut])
        np.testing.assert_array_equal(ours["second"].kernel, theirs["second"].kernel)
        assert ours["second"].output.shape[1:3] == (positions, positions)
        assert stems.stem_of(found).name == name


def behind_a_stem(kind):
    """A network that begins as a ResNet does, but for what the name says of it."""
    x = keras.Input((32, 32, 3))
    padded = layers.ZeroPadding2D(3)(x)
    y = layers.Conv2D(4, 7, strides=2, name="first")(padded)
    pool, relu = layers.MaxPooling2D(3, strides=2), layers.ReLU()
    pad = layers.ZeroPadding2D(1)
    if kind == "padding of another branch":  # walked between the ReLU and the pool
        other = pad(y)
        y, more = pool(relu(y)), [layers.GlobalMaxPooling2D()(other)]
    elif kind == "image read twice":
        y, more = pool(pad(relu(y))), [layers.GlobalMaxPooling2D()(layers.Conv2D(4, 5, strides=2)(padded))]
    elif kind == "skip from before the pool":
        z = relu(y)
        y, more = pool(pad(z)), [layers.GlobalMaxPooling2D()(z)]
    else:
        y, more = pool(pad(relu(y))), []
    y = layers.Conv2D(5, 3, padding="same", name="second")(y)
    if kind == "flattened":
        y = layers.Flatten()(y)
    elif kind == "pooled by a fixed size":
        y = layers.Flatten()(layers.AveragePooling2D(8)(y))
    else:
        y = layers.GlobalMaxPooling2D()(y)
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()([y, *more]) if more else y))


@pytest.mark.parametrize("kind", ["padding of another branch", "image read twice", "skip from before the pool"])
def test_a_stem_with_branches_is_none(kind):
    assert stems.stem_of(behind_a_stem(kind)) is None
    assert stems.stem_of(behind_a_stem("")).name == "imagenet"


@pytest.mark.parametrize("kind", ["flattened", "pooled by a fixed size"])
def test_larger_maps_that_a_layer_does_not_take_are_refused_in_a_line(kind):
    with pytest.raises(InputError, match="`student_stem`: received half, whose maps are larger, but a layer of the"):
        students.Pattern(behind_a_stem(kind), stem="half")
