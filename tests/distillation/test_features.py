"""Where feature maps are compared: on ResNets the ends of the stages, on any network by a definition of its own."""

import keras
import numpy as np
import pytest
import resnets
import zoo
from conftest import narrow_widths, stage_outputs
from keras import layers

from compress.distillation import features
from compress.distillation import regressors as regressing
from compress.errors import InputError
from compress.graph import nodes


def paths(model):
    return [point.path for point in features.feature_points(model)]


def conv(x, filters, name, **more):
    return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, **more)(x)


@pytest.mark.parametrize("stem", list(resnets.STEMS))
@pytest.mark.parametrize(
    "depth", [50, pytest.param(101, marks=pytest.mark.slow), pytest.param(152, marks=pytest.mark.slow)]
)
def test_points_of_a_resnet_are_the_ends_of_its_stages(depth, stem):
    model = resnets.build_resnet(depth, widths=narrow_widths(3, 4, 3, depth, None), stem=stem)
    assert paths(model) == stage_outputs(model)
    shapes = [point.shape for point in features.feature_points(model)]
    assert shapes == [tuple(model.get_layer(name).output.shape) for name in stage_outputs(model)]


@pytest.mark.parametrize("size", [16, 45])
def test_points_of_a_resnet_don_t_depend_on_the_size_of_its_images(size):
    """Of 16x16 the last two stages have one position each."""
    model = resnets.build_resnet(widths=narrow_widths(), input_shape=(size, size, 3))
    assert paths(model) == stage_outputs(model)


def jumped_over(model):
    """Nodes of a flat model without which its output still depends on its input, by cutting each out in turn."""
    walked, found = nodes.nodes_of(nodes.graph_of(model)), set()
    for cut in walked:
        reached = {id(tensor) for tensor in model.inputs}
        for node in walked:
            if node is not cut and any(id(tensor) in reached for tensor in node.input_tensors):
                reached |= {id(tensor) for tensor in node.outputs}
        if id(model.outputs[0]) in reached:
            found.add(cut.operation.name)
    return found


@pytest.mark.parametrize("name", ["residual", "squeeze_excite_maps", "inverted_residual", "inception_added", "unet"])
def test_points_lie_on_every_way_and_each_is_the_last_of_its_resolution(name):
    model = zoo.NETWORKS[name]()
    points, aside = features.feature_points(model), jumped_over(model)
    assert not aside & {point.path for point in points}
    for point in points:
        behind = [
            node.outputs[0].shape
            for order, (path, node) in enumerate(nodes.walk(model))
            if order > point.order and path not in aside and len(node.outputs[0].shape) == 4
        ]
        assert not behind or np.prod(behind[0][1:3]) <= np.prod(point.shape[1:3]) / 2 or name == "unet"


def test_points_leave_out_the_stem_pooling_padding_and_the_classifier():
    x = keras.Input((32, 32, 3))
    y = layers.Rescaling(1 / 255)(x)
    y = layers.MaxPooling2D(name="before_any_kernel")(y)
    y = layers.MaxPooling2D(name="stem_pool")(conv(y, 4, "stem"))
    y = layers.ZeroPadding2D(name="padding")(conv(y, 5, "one"))
    y = layers.MaxPooling2D(2, name="pool")(conv(y, 6, "two", strides=2))
    y = layers.AveragePooling2D(2, name="last_pool")(y)
    y = layers.GlobalAveragePooling2D(keepdims=True)(y)
    model = keras.Model(x, layers.Flatten()(layers.Conv2D(10, 1, name="classifier")(y)))
    assert paths(model) == ["one", "two"]


def test_points_inside_a_model_that_is_called_once():
    base = keras.Model(
        x := keras.Input((16, 16, 3)), conv(conv(conv(x, 4, "a"), 4, "b"), 4, "c", strides=2), name="base"
    )
    model = keras.Sequential([keras.Input((16, 16, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    assert paths(model) == ["base/b", "base/c"]
    x = keras.Input((8, 8, 4))
    block = keras.Model(x, conv(x, 4, "inside"), name="block")
    x = keras.Input((8, 8, 3))
    y = conv(block(block(conv(x, 4, "stem"))), 5, "last")
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    assert paths(model) == ["last"]  # not `inside`, which is two maps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MobileNetV2", ["block_1_expand_relu", *(f"block_{n}_expand_relu" for n in (3, 6, 13)), "out_relu"]),
        ("EfficientNetB0", [*(f"block{n}a_expand_activation" for n in (2, 3, 4, 6)), "top_activation"]),
        ("VGG16", ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"]),
        ("DenseNet121", ["pool2_conv", "pool3_conv", "pool4_conv", "relu"]),
        ("MobileNet", [*(f"conv_pw_{n}_relu" for n in (1, 3, 5, 11, 13))]),
    ],
)
def test_points_of_networks_of_keras_applications(name, expected):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    assert paths(model) == expected


def test_points_of_two_networks_are_matched_from_the_last_one():
    x = keras.Input((32, 32, 3))
    y = conv(conv(x, 4, "stem"), 4, "one")
    for number in range(3):
        y = conv(y, 4, f"stage{number}", strides=2)
    long = keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))
    x = keras.Input((32, 32, 3))
    y = conv(conv(conv(x, 4, "first"), 4, "second"), 5, "third", strides=4)
    short = keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))
    theirs, ours = features.matched(long, short)
    assert [point.path for point in theirs] == ["stage1", "stage2"] and [point.path for point in ours] == [
        "second",
        "third",
    ]
    theirs, ours = features.shapes_to_match(short, long)
    assert theirs == [(None, 32, 32, 4), (None, 8, 8, 5)] and ours == [(None, 8, 8, 4), (None, 4, 4, 4)]


def test_networks_without_maps_are_told():
    for pair, who in (((zoo.mlp(), zoo.residual()), "teacher"), ((zoo.residual(), zoo.mlp()), "student")):
        with pytest.raises(InputError, match=f"`lambda2`: .* but the {who}, mlp, has no feature maps"):
            features.shapes_to_match(*pair)


@pytest.mark.parametrize(("size", "sides"), [((8, 7), (5, 7)), ((9, 4), (4, 1)), ((5, 5), (5, 5)), ((7, 7), (4, 3))])
def test_maps_are_averaged_to_any_smaller_sides(size, sides):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    wanted = np.zeros((2, *sides, 3))
    for i, j in np.ndindex(*sides):
        rows, columns = (
            range(place * n // side, -(-(place + 1) * n // side))
            for place, n, side in zip((i, j), size, sides, strict=True)
        )
        wanted[:, i, j] = x[:, rows][:, :, columns].mean((1, 2))
    np.testing.assert_allclose(
        np.asarray(regressing.averaged(keras.ops.convert_to_tensor(x), sides)), wanted, atol=1e-6
    )


@pytest.mark.parametrize("name", ["conv1x1", "constant"])
@pytest.mark.parametrize(("student", "teacher"), [((8, 8), (5, 7)), ((2, 2), (4, 4)), ((7, 2), (4, 4))])
def test_regressors_of_maps_of_any_two_sizes_meet_at_the_smaller_sides(name, student, teacher):
    (regress,) = regressing.build_regressors(name, [(None, *student, 3)], [(None, *teacher, 6)])
    sides = tuple(map(min, student, teacher))
    assert regress(np.zeros((2, *student, 3), "float32")).shape == (2, *sides, 6)
