"""kinds.py, graphs.py, folding.py, recognition.py: networks of all kinds of heads and preprocessing, and those refused.

The oracle is plain Keras: the same model, asked directly. All backbones are the suite's own, a few channels wide.
"""

import dataclasses
import inspect
import json
import random
import re
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import narrow_widths
from keras import layers, ops

import prune
from compress import metrics
from compress.engine import folding, twin
from compress.errors import InputError
from compress.graph import reader, recognition, resnet, rules
from compress.storage import checkpoints, plain_keras

SIZE = 40  # maps of 2x2 at the end
RNG = np.random.default_rng(12)
RGB = RNG.integers(0, 256, (3, SIZE, SIZE, 3)).astype("float32")


def plain_backbone(size=SIZE, image=None, widths=None, **changes):
    """The convolutions of a narrow ResNet50 by keras.layers alone, under names of its own, images in, map out.

    Args:
        size: of the images.
        image: a tensor of pixels to grow it on; None makes a model of its own.
        widths: as `model.build_resnet` takes them.
        changes: {name of `model.wiring`: settings of its convolution or, with '_bn' behind it, its norm} to change.
    """
    widths = widths or narrow_widths()
    inputs = keras.Input((size, size, 3)) if image is None else image

    def conv_norm(x, name, channels, side, stride=1, relu=True, padding="valid"):
        settings = {"kernel_size": side, "strides": stride, "padding": padding} | changes.get(name, {})
        x = layers.Conv2D(channels, **settings)(x)
        x = layers.BatchNormalization(**({"epsilon": 1.001e-5} | changes.get(f"{name}_bn", {})))(x)
        return changes.get("relu", layers.ReLU)()(x) if relu else x

    x = conv_norm(layers.ZeroPadding2D(3)(inputs), "conv1", widths["conv1_conv"], 7, 2)
    x = changes.get("pool", layers.MaxPooling2D(3, 2))(layers.ZeroPadding2D(1)(x))
    for stage, count in zip((2, 3, 4, 5), resnet.blocks_of(widths), strict=True):
        for block in range(1, count + 1):
            name, stride = f"conv{stage}_block{block}", 2 if block == 1 and stage > 2 else 1
            stream = widths[f"conv{stage}_stream"]
            skip = conv_norm(x, f"{name}_0", stream, 1, stride, relu=False) if block == 1 else x
            x = conv_norm(x, f"{name}_1", widths[f"{name}_1_conv"], 1, stride)
            x = conv_norm(x, f"{name}_2", widths[f"{name}_2_conv"], 3, padding="same")
            x = conv_norm(x, f"{name}_3", stream, 1, relu=False)
            x = layers.ReLU()(changes.get("add", layers.Add)()([x, skip]))
    return x if image is not None else keras.Model(inputs, x, name="backbone")


SMALL = narrow_widths(blocks=(1, 1, 1, 1))


def lively(model, seed=1):
    """The model with random weights of every layer, none at a start value."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":
            name = weight.path.split("/")[-1]
            weight.assign(
                rng.uniform(0.5, 1.5, weight.shape)
                if name in ("gamma", "moving_variance", "variance")
                else rng.normal(0, 0.3, weight.shape)
                if len(weight.shape) < 2
                else rng.normal(0, (2 / np.prod(weight.shape[:-1])) ** 0.5, weight.shape)
            )
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


@pytest.fixture(scope="module")
def small():
    """A backbone of four blocks."""
    return plain_backbone(widths=SMALL)


def around(pixels, head, backbone):
    """A model of something in front, a backbone and something behind."""
    image = keras.Input((SIZE, SIZE, 3))
    return lively(keras.Model(image, head(backbone(pixels(image), training=False))))


def found_in(model):
    """What is found in a model's config, without a file."""
    shapes = {
        layer.name: {weight.name: weight.shape for weight in layer.weights}
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.Model)
    }

    def shape_of(part, weight):
        return shapes[part.step.name][weight]

    return recognition.find_resnet(reader.unfold(json.loads(model.to_json())), None, shape_of)


def pool_dense(x, units=5):
    return layers.Dense(units, activation="softmax")(layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x)))


def pool(x):
    return layers.GlobalAveragePooling2D()(x)


def norms(x):
    x = layers.BatchNormalization(epsilon=0.03, center=False)(pool(x))
    return layers.Dense(4)(layers.BatchNormalization()(layers.Dense(7, use_bias=False)(x)))


def augmented(x):
    return keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.Rescaling(1 / 99, offset=-1),
            layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1, 2]),
        ]
    )(x)


# each reading is of another way with pixels and of another head, in .h5 and .keras by turns
READ = {
    "x / 127.5 - 1, two norms": (keras.applications.mobilenet_v2.preprocess_input, norms),
    "caffe": (keras.applications.resnet.preprocess_input, pool_dense),
    "torch, no bias": (
        lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"),
        lambda x: layers.Dense(4, use_bias=False)(pool(x)),
    ),
    "odd arithmetic, norm on the map": (
        lambda x: 1 - (x - np.array([9.0, 5, 2], "float32")) * 2 / np.array([60.0, 70, 80], "float32"),
        lambda x: pool_dense(layers.BatchNormalization()(x)),
    ),
    "flipped, two linear layers": (
        lambda x: ops.flip(layers.Rescaling([0.01, 0.02, 0.03], [-1, 0.5, 0.2])(x), axis=-1) / 2,
        lambda x: layers.Dense(4)(layers.Dense(6)(pool(x))),
    ),
    "a slice, a softmax of its own": (
        lambda x: layers.Normalization()(x[..., ::-1] / 9),
        lambda x: layers.Softmax()(layers.Dense(4)(layers.Dropout(0.2)(pool(x)))),
    ),
    "a norm on pixels, a temperature": (
        lambda x: layers.BatchNormalization(epsilon=0.01, scale=False)(layers.Rescaling(0.02)(x)),
        lambda x: layers.Activation("softmax")(layers.Rescaling(0.5, 0.1)(layers.Dense(4)(pool(x)))),
    ),
    "augmented in one graph": (
        lambda x: layers.GaussianNoise(0.5)(layers.RandomFlip()(x), training=True) / 127.5 - 1,
        pool_dense,
    ),
    "two layers with a ReLU": (
        lambda x: x,
        lambda x: layers.Dense(4, activation="softmax")(
            layers.Dropout(0.5)(
                layers.BatchNormalization()(layers.Dense(9, activation="relu")(layers.BatchNormalization()(pool(x))))
            )
        ),
    ),
    "nested, a pool as large as the map": (
        augmented,
        lambda x: layers.Dense(4)(layers.Flatten()(layers.AveragePooling2D(2)(x))),
    ),
}


def assert_read_alike(model, path):
    """The suite's reading of a model's file answers what plain Keras answers to raw pixels."""
    model.save(path)
    ours = checkpoints.load_model(path, preprocessing="none", verify=False)
    wanted, found = (np.asarray(net(RGB, training=False)) for net in (model, ours))
    if np.allclose(wanted.sum(1), 1, atol=1e-4):
        found = np.asarray(ops.softmax(found))
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5 * max(1, np.abs(wanted).max()))
    return ours


@pytest.mark.parametrize("name", READ)
def test_what_lies_around_the_blocks_is_read(name, small, tmp_path):
    path = tmp_path / f"m.{('h5', 'keras')[list(READ).index(name) % 2]}"
    assert_read_alike(around(*READ[name], small), path)


REFUSED_FRONTS = {
    "resizing": (lambda x: layers.Resizing(SIZE, SIZE)(layers.UpSampling2D(2)(x)), "up_sampling2d.*UpSampling2D"),
    "resize": (layers.Resizing(SIZE, SIZE), "Resizing.*`image_size`"),
    "grey": (lambda x: ops.stack([x[..., 0]] * 3, axis=-1), "channels come from R, G and B"),
    "square": (lambda x: x * x, "Multiply.*two tensors"),
    "transposed": (layers.Conv2DTranspose(3, 1), "Conv2DTranspose"),
    "crop": (lambda x: layers.ZeroPadding2D(1)(layers.CenterCrop(SIZE - 2, SIZE - 2)(x)), "CenterCrop"),
    "random crop": (layers.RandomCrop(SIZE, SIZE), "RandomCrop.*`image_size`"),
    "mixing": (layers.Conv2D(3, 1), "first kernel of 1x1"),
    "always": (lambda x: layers.BatchNormalization()(x, training=True), "training on"),
}
REFUSED_HEADS = {
    "max": (lambda x: layers.Dense(3)(layers.GlobalMaxPooling2D()(x)), "GlobalMaxPooling2D.*2x2"),
    "flatten": (lambda x: layers.Dense(3)(layers.Flatten()(x)), "Flatten.*2x2"),
    "sigmoid": (
        lambda x: layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(x)),
        "sigmoid; expected a softmax",
    ),
    "tanh": (
        lambda x: layers.Dense(3)(layers.Dense(4, activation="tanh")(layers.GlobalAveragePooling2D()(x))),
        "activation tanh",
    ),
    "relu at the end": (lambda x: layers.ReLU()(layers.Dense(3)(layers.GlobalAveragePooling2D()(x))), "at the end"),
    "more convolution": (lambda x: pool_dense(layers.Conv2D(8, 3, padding="same")(x)), "Conv2D"),
    "pool in parts": (
        lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.AveragePooling2D(1)(x))),
        "AveragePooling2D.* on a map of 2x2",
    ),
    "norm of vectors": (lambda x: layers.Dense(3)(layers.LayerNormalization()(x)), "LayerNormalization"),
    "two": (lambda x: layers.Concatenate()([pool_dense(x), pool_dense(x)]), "read by 2 layers at once behind the b"),
}


@pytest.mark.parametrize("name", [*REFUSED_FRONTS, *REFUSED_HEADS])
def test_what_cannot_be_carried_over_is_named(name, small):
    front, words = REFUSED_FRONTS.get(name, (lambda x: x, None))
    head, words = REFUSED_HEADS.get(name, (pool_dense, words))
    image = keras.Input((SIZE, SIZE, 3))
    with pytest.raises(reader.Unread, match=words):
        found_in(keras.Model(image, head(small(front(image)))))


CHANGED = {
    "stride in the 3x3": ({"conv3_block1_1": {"strides": 1}, "conv3_block1_2": {"strides": 2}}, r"strides \(2, 2\)"),
    "dilated": ({"conv2_block1_2": {"dilation_rate": 2}}, "dilation_rate"),
    "groups": ({"conv2_block1_2": {"groups": 2}}, "groups=2"),
    "inline": ({"conv2_block1_1": {"activation": "relu"}}, "where a batch-normalisation is expected"),
    "kernel": ({"conv4_block1_2": {"kernel_size": 5}}, "3x3, not 5x5"),
    "leaky": ({"relu": layers.LeakyReLU}, "LeakyReLU"),
    "cut": ({"relu": lambda: layers.ReLU(6.0)}, "cut off at 6"),
    "slope": ({"relu": lambda: layers.ReLU(negative_slope=0.1)}, "negative_slope"),
    "pool": ({"pool": layers.AveragePooling2D(3, 2)}, "max-pooling is expected"),
    "pool 2": ({"pool": layers.MaxPooling2D(2, 2)}, "3x3 windows"),
    "maximum": ({"add": layers.Maximum}, "Maximum"),
    "stem": ({"conv1": {"strides": 4}}, "another stride or pool"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_block_is_named(name):
    changes, words = CHANGED[name]
    net = plain_backbone(64, widths=SMALL, **changes)
    with pytest.raises(reader.Unread, match=words):
        found_in(keras.Model(net.inputs, pool_dense(net.output)))


def test_other_names_epsilons_and_missing_biases_of_a_whole_resnet_are_read(tmp_path):
    changes = {
        "conv2_block1_1_bn": {"epsilon": 1e-3},
        "conv1_bn": {"epsilon": 1e-7, "scale": False},
        "conv3_block1_2": {"use_bias": False},
        "conv5_block1_3_bn": {"center": False},
    }
    image = keras.Input((SIZE, SIZE, 3))
    model = lively(keras.Model(image, pool_dense(plain_backbone(image=image, widths=SMALL, **changes))))
    first = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    first.moving_variance.assign(first.moving_variance * 1e-9)  # below the epsilon that the suite's networks have
    first.moving_mean.assign(first.moving_mean * 1e-3)
    assert_read_alike(model, tmp_path / "m.h5")
    found = checkpoints.read_checkpoint(tmp_path / "m.h5")
    assert found.widths == SMALL and found.depth == 50


def test_a_network_without_a_classifier_gets_one_behind_the_same_features(small, tmp_path, capsys):
    model = around(lambda x: x / 99, lambda x: x, small)
    model.save(tmp_path / "m.keras")
    found = checkpoints.read_checkpoint(tmp_path / "m.keras")
    net = checkpoints.open_checkpoint(found, 3, verbose=1)
    assert found.classes is None and net.output_shape == (None, 3)
    assert "equal to plain Keras" in capsys.readouterr().out
    features = keras.Model(net.inputs[0], net.get_layer("avg_pool").output)(RGB, training=False)
    np.testing.assert_allclose(features, np.mean(model(RGB, training=False), (1, 2)), rtol=1e-4, atol=1e-4)


def test_hidden_layers_go_the_whole_way(small, tmp_path):
    """Read, counted, trained, folded, pruned, inherited and written: a head of two Dense layers with ReLUs."""

    def head(x):
        return layers.Dense(5)(layers.Dense(3, activation="relu")(layers.Dense(9, activation="relu")(pool(x))))

    net = assert_read_alike(around(lambda x: x / 99, head, small), tmp_path / "m.keras")
    widths = resnet.widths_of(net)
    assert (widths["hidden1"], widths["hidden2"]) == (9, 3)
    checkpoints.save_model(net, tmp_path / "ours.h5")
    again = checkpoints.load_model(tmp_path / "ours.h5")
    wanted = np.asarray(net(RGB, training=False))
    np.testing.assert_array_equal(again(RGB, training=False), wanted)
    for fast_net in (folding.FoldedModel(net), twin.Twin(again)):
        np.testing.assert_allclose(fast_net(RGB, training=False), wanted, rtol=1e-3, atol=1e-4)
    assert resnet.cost_of(widths, 5, (SIZE, SIZE, 3)) == (net.count_params(), metrics.count_macs(net))
    mask = {"conv2_block1_1_conv": np.arange(6) > 2, "conv5_block1_3_conv": np.arange(8) != 3}
    small_net = prune.trim_model(net, mask)
    prune.apply_mask(again, mask)
    np.testing.assert_allclose(small_net(RGB, training=False), again(RGB, training=False), rtol=1e-3, atol=1e-4)


FUNCTIONS = {"TrueDivide": "math.truediv", "Subtract": "math.subtract", "GetItem": "__operators__.getitem"}


def of_old(model):
    """A model's config as tf.keras 2.15 writes it: lists for calls, of a nested model counted from 1, functions of
    TensorFlow, short settings."""
    config = model["config"]
    nested = {layer["name"] for layer in config["layers"] if "layers" in layer["config"]}

    def tensor(item):
        name, number, place = item["config"]["keras_history"]
        return [name, number + (name in nested), place]

    def rewrite(layer):
        kept = {"class_name": layer["class_name"], "name": layer["config"]["name"], "inbound_nodes": []}
        kept["config"] = of_old(layer)["config"] if kept["name"] in nested else layer["config"] | {"dtype": "float32"}
        if kept["class_name"] == "InputLayer":
            kept["config"]["batch_input_shape"] = kept["config"].pop("batch_shape")
        if kept["class_name"] == "BatchNormalization":
            kept["config"] |= {"axis": [3]}
        function = FUNCTIONS.get(kept["class_name"])
        for node in layer.get("inbound_nodes", ()):
            args = node["args"][0] if isinstance(node["args"][0], list) else node["args"][:1]
            kept["inbound_nodes"].append([[*tensor(item), {}] for item in args])
            if function:
                given = {"y": node["args"][1], "name": None}
                if function.endswith("getitem"):
                    given = {
                        "slice_spec": {
                            "class_name": "__tuple__",
                            "items": [{"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}],
                        }
                    }
                kept["inbound_nodes"][-1] = [*tensor(args[0]), given]
        if function:
            kept |= {
                "class_name": "SlicingOpLambda" if function.endswith("getitem") else "TFOpLambda",
                "config": {"name": kept["name"], "function": function, "dtype": "float32"},
            }
        return kept

    ends = {key: [config[key]] for key in ("input_layers", "output_layers") if key in config}  # a Sequential has none
    inside = {"layers": [rewrite(layer) for layer in config["layers"]]}
    return {"class_name": model["class_name"], "config": config | ends | inside}


def test_a_file_of_tf_keras_2_is_read_and_proven(small, tmp_path, capsys):
    model = around(lambda x: (x / 127.5 - 1)[..., ::-1], pool_dense, small)
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.attrs["model_config"] = json.dumps(of_old(json.loads(model.to_json())))
    ours = checkpoints.load_model(tmp_path / "m.h5", verbose=1)
    np.testing.assert_allclose(ops.softmax(ours(RGB, training=False)), model(RGB, training=False), rtol=1e-4, atol=1e-5)
    told = capsys.readouterr().out
    assert "equal to plain Keras on 4 images" in told and "functions of TensorFlow as operations of Keras 3" in told
    found = checkpoints.read_checkpoint(tmp_path / "m.h5")
    ours.get_layer("conv3_block1_2_bn").epsilon = 0.3
    with pytest.raises(InputError, match="differs from plain Keras"):
        checkpoints.compare_with_keras(found, ours)


def test_logits_in_the_thousands_and_a_softmax_layer_are_proven(small, tmp_path):
    """Probabilities are 0 or 1 there, and rounding alone turns some over."""
    model = around(
        lambda x: layers.GaussianNoise(0.1)(x, training=True) / 99,
        lambda x: layers.Softmax()(layers.Dropout(0.1)(layers.Dense(3)(pool(x)))),
        small,
    )
    model.layers[-3].kernel.assign(model.layers[-3].kernel * 1e6)
    model.save(tmp_path / "m.keras")
    found = checkpoints.read_checkpoint(tmp_path / "m.keras")
    net = checkpoints.build(found)
    assert checkpoints.compare_with_keras(found, net).startswith("equal to plain Keras")
    net.get_layer("conv4_block1_2_bn").epsilon = 0.5
    with pytest.raises(InputError, match="differs from plain Keras"):
        checkpoints.compare_with_keras(found, net)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_the_calls_of_a_nested_model_keep_their_order(kind, old):
    """Called twice, in a row: a number too many or too few would swap the calls, or close a circle."""
    image, inside = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    twice = (
        keras.Model(inside, layers.ReLU()(inside), name="twice")
        if kind == "Functional"
        else keras.Sequential([keras.Input((4, 4, 3)), layers.ReLU()], name="twice")
    )
    x = twice(layers.Rescaling(3.0, name="a")(image))
    for end in (
        layers.Rescaling(5.0, name="c")(twice(layers.Rescaling(-1.0, name="b")(x))),
        twice(layers.Rescaling(-1.0, name="b")(x)),
    ):
        config = json.loads(keras.Model(image, end).to_json())
        if old:
            output = config["config"]["output_layers"]
            output[1] += output[0] == "twice" and kind == "Sequential"  # which tf.keras counts from 1 there, too
            config = of_old(config)
        steps = [step for step in reader.unfold(config) if step.kind != "InputLayer"]
        assert [step.kind for step in steps] == ["Rescaling", "ReLU"] * 2 + ["Rescaling"] * (len(steps) > 4)
        assert [step.name for step in steps][::2] == ["a", "b", "c"][: len(steps) // 2 + len(steps) % 2]
        assert [step.inputs for step in steps] == [[n] for n in range(len(steps))]


def test_idle_layers_do_nothing_once_training_is_over():
    values = {"rate": 0.5, "stddev": 1.0, "factor": 0.5, "height_factor": 0.5, "width_factor": 0.5, "x_factor": 0.5}
    for name in rules.IDLE:
        kind = getattr(layers, name)
        wanted = inspect.signature(kind.__init__).parameters
        layer = kind(
            **{
                key: value
                for key, value in values.items()
                if key in wanted and (wanted[key].default is inspect.Parameter.empty)
            }
        )
        np.testing.assert_array_equal(layer(RGB, training=False), RGB, err_msg=name)


def test_a_wrong_reading_is_found(small, tmp_path):
    """The comparison at the moment of reading: one weight off, one activation less."""
    model = around(lambda x: x / 255, pool_dense, small)
    model.save(tmp_path / "m.keras")
    found = checkpoints.read_checkpoint(tmp_path / "m.keras")
    net = checkpoints.build(found)
    assert checkpoints.compare_with_keras(found, net).endswith(")")
    assert "where the file says bfloat16 and mixed_float16" in plain_keras.conditions_of(
        {"a": ["mixed_float16", "bfloat16", "float32", "float16"]}
    )
    text = json.dumps(found.config).replace('"name": "float32"', '"name": "mixed_float16"')
    half = dataclasses.replace(found, config=json.loads(text))
    assert checkpoints.compare_with_keras(half, net).endswith("), both in float32, where the file says mixed_float16")
    assert "equal to plain Keras" in checkpoints.compare_with_keras(found, net)
    assert plain_keras.same_config(json.loads(net.to_json()), net)
    states = []
    for verify in (True, False):  # what a run draws afterwards is the same
        random.seed(1)
        checkpoints.open_checkpoint(found, verify=verify)
        states.append(random.getstate())
    assert states[0] == states[1]
    net.get_layer("conv4_block1_2_bn").epsilon = 0.5
    for file in (found, half):
        with pytest.raises(InputError, match="differs from plain Keras"):
            checkpoints.compare_with_keras(file, net)


def test_a_layer_that_is_called_again_and_again_stands_once_for_each_call():
    image = keras.Input((4,))
    relu, x = layers.ReLU(name="again"), image
    for name in "abc":
        x = relu(layers.Dense(4, name=name)(x))
    config = json.loads(keras.Model(image, x).to_json())
    assert [layer["config"]["name"] for layer in config["config"]["layers"]][1:4] == ["a", "again", "b"]
    steps = reader.unfold(config)
    assert [step.name for step in steps][1:] == ["a", "again", "b", "again", "c", "again"]
    assert [step.inputs for step in steps] == [[], *([n] for n in range(6))]


def test_a_config_that_asks_for_more_than_the_file_holds_is_refused(small):
    config = json.loads(keras.Model(image := small.inputs[0], pool_dense(small(image))).to_json())

    def refused(words):
        with pytest.raises(reader.Unread, match=words):
            recognition.find_resnet(reader.unfold(config), None, shape_of)

    shapes = {"/".join(step.layers): step for step in reader.unfold(config)}
    inner = {layer.name: layer for layer in small.layers}

    def shape_of(part, weight):
        layer = inner.get(part.step.name)
        return tuple(layer.kernel.shape) if layer else (small.output_shape[-1], 5)

    dense = next(step for step in shapes.values() if step.kind == "Dense").config
    dense["units"] = 10**9
    refused("whose kernel has 5 units and whose config says 1000000000")
    dense["units"] = 5
    conv = next(step for step in shapes.values() if step.kind == "Conv2D").config
    conv["filters"] = 10**9
    refused("whose config says 1000000000 of")
    config["config"]["layers"].append(
        {
            "class_name": "Dense",
            "name": "unseen",
            "config": {"name": "unseen"},
            "inbound_nodes": config["config"]["layers"][-1]["inbound_nodes"],
        }
    )
    refused("unseen .Dense., which the output doesn't depend on")


def test_one_relu_for_the_whole_network_is_read(tmp_path):
    """Its calls stand in the config beside its first one, in front of what they read."""
    relu, image = layers.ReLU(), keras.Input((SIZE, SIZE, 3))
    model = lively(keras.Model(image, pool_dense(plain_backbone(image=image, widths=SMALL, relu=lambda: relu))))
    assert len([layer for layer in model.layers if isinstance(layer, layers.ReLU)]) == 5  # and one behind each addition
    assert_read_alike(model, tmp_path / "m.keras")


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_weights_that_no_layer_of_the_config_has_are_refused(small, suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    model = around(lambda x: x, lambda x: layers.Dense(4, name="last")(pool(x)), small)
    config = json.loads(model.to_json())
    next(layer for layer in config["config"]["layers"] if layer["name"] == "last")["config"]["use_bias"] = False
    model.save(path)
    if suffix == "h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
    else:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, json.dumps(config) if name == "config.json" else content)
    with pytest.raises(InputError, match="the weights .*, which no layer of the file's own config has"):
        checkpoints.read_checkpoint(path)


def _model(layers_, end):
    return {
        "class_name": "Functional",
        "config": {"name": "m", "layers": layers_, "input_layers": [["i", 0, 0]], "output_layers": [[end, 0, 0]]},
    }


def _entry(name, reads, kind="Dropout", config=None):
    return {
        "class_name": kind,
        "name": name,
        "config": config or {"name": name},
        "inbound_nodes": [[[place, 0, 0, {}] for place in reads]] if reads else [],
    }


def _nested(depth):
    """Models that call the one inside them three times, the innermost without a layer."""
    model = _model([_entry("i", [], "InputLayer")], "i")
    for _ in range(depth):
        model = _model(
            [
                _entry("i", [], "InputLayer"),
                *(
                    model | {"name": f"n{k}", "inbound_nodes": [[[f"n{k - 1}" if k else "i", 0, 0, {}]]]}
                    for k in range(3)
                ),
            ],
            "n2",
        )
    return model


IMAGE = _entry("i", [], "InputLayer", {"name": "i", "batch_input_shape": [None, 32, 32, 3]})
HOSTILE = {
    "backwards": (
        lambda: _model(
            [*(_entry(f"l{k}", [f"l{k - 1}"]) for k in range(9999, 0, -1)), _entry("l0", ["i"]), IMAGE], "l9999"
        ),
        "reads the pixels in more than one way",
    ),
    "many": (lambda: _model([IMAGE, *(_entry(f"l{k}", ["i"]) for k in range(20_000))], "l0"), "more than 20,000 calls"),
    "nested": (lambda: _nested(16), "more than 20,000 calls"),
    "circle": (lambda: _model([IMAGE, _entry("a", ["b"]), _entry("b", ["a"])], "b"), "reads what no layer writes"),
    "namesakes": (lambda: _model([IMAGE, _entry("a", ["i"]), _entry("a", ["i"])], "a"), "two layers of one name"),
    "doubling": (
        lambda: _model(
            [IMAGE, *(_entry(f"c{k}", [f"c{k - 1}" if k else "i"] * 2, "Concatenate") for k in range(60))], "c59"
        ),
        "more than 1000 channels",
    ),
    "no epsilon": (
        lambda: _model([IMAGE, _entry("b", ["i"], "BatchNormalization", {"epsilon": float("nan")})], "b"),
        "epsilon=nan",
    ),
    "small numbers": (
        lambda: _model([_entry("i", [], "InputLayer", IMAGE["config"] | {"dtype": "int8"})], "i"),
        "of int8, which pixels",
    ),
    "not stripped": (lambda: _model([IMAGE, _entry("p", ["i"], "PruneLowMagnitude")], "p"), "strip_pruning"),
    "own activation": (
        lambda: _model(
            [
                IMAGE,
                _entry(
                    "a",
                    ["i"],
                    "Activation",
                    {"activation": {"class_name": "ReLU", "config": {}, "registered_name": "mine>ReLU"}},
                ),
            ],
            "a",
        ),
        "author's own",
    ),
    "escapes": (lambda: _model([IMAGE, _entry("\x1b[31m", ["i"], "Evil")], "\x1b[31m"), r"\\x1b\[31m \(Evil"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_refused_at_once(name):
    make, words = HOSTILE[name]
    start = time.monotonic()
    with pytest.raises(reader.Unread) as caught:
        recognition.find_resnet(reader.unfold(make()), None, None)
    assert time.monotonic() - start < 20  # without end before
    assert re.search(words, told := str(InputError(str(caught.value)))) and "\x1b" not in told


@pytest.mark.parametrize("kind", ["Dense", "Conv2D"])
def test_a_lora_adapter_is_refused_with_how_to_merge_it(kind):
    config = {"units": 3, "lora_rank": 4, "lora_alpha": 4}
    with pytest.raises(reader.Unread, match=r"head \(\w+\) with lora_rank=4, a LoRA adapter; expected it merged"):
        rules.parts_of(reader.Step(kind, "head", config, [reader.Ref(0)], {}))
