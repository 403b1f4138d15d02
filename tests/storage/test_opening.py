"""opening.py, rebuilding.py: files of any network answer as plain Keras answers; hostile and other ones get one line.

The oracle is the network that was saved, asked directly. All are tiny.
"""

import inspect
import json
import resource
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import resnets
from keras import layers, ops

from compress import metrics
from compress.errors import InputError
from compress.graph import registered, rules
from compress.storage import checkpoints, entries, opening, rebuilding, vocabulary

SIZE = 16
RGB = np.random.default_rng(5).integers(0, 256, (4, SIZE, SIZE, 3)).astype("float32")
VGG = ("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1")  # the names that tell a VGG


def lively(model, seed=0):
    """The model with random weights of every layer, none at a start value."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance", "variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "float" in weight.dtype:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def base(name="base", size=SIZE):
    """A network without a head, to be nested."""
    image = keras.Input((size, size, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(image))
    x = layers.ReLU()(x)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    return keras.Model(image, layers.ReLU()(layers.Add()([x, y])), name=name)


def functional(build):
    image = keras.Input((SIZE, SIZE, 3))
    return lively(keras.Model(image, build(image)))


def head(x, units=3, activation=None):
    return layers.Dense(units, activation=activation)(layers.GlobalAveragePooling2D()(x))


def shared(x):
    """A layer and a model that are called twice, in an order that isn't that of the config."""
    conv, inner = layers.Conv2D(3, 3, padding="same"), base()
    once = inner(conv(layers.Rescaling(0.01)(x)))
    twice = inner(conv(layers.Conv2D(3, 1)(once)))
    return head(layers.Concatenate()([once, twice]))


def two_ended(x):
    """A model inside that has two inputs and two outputs."""
    one, other = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))
    inner = keras.Model([one, other], [layers.Conv2D(2, 3)(one), layers.Conv2D(2, 3, 2)(other)], name="pair")
    left, right = inner([layers.Rescaling(1 / 255)(x), layers.Rescaling(1 / 99)(x)])
    return layers.Dense(3)(layers.Concatenate()([layers.Flatten()(left), layers.Flatten()(right)]))


def shuffled(x):
    """Grouped convolution, channel shuffle, slices, a split."""
    x = layers.Conv2D(6, 3, padding="same")(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(6, 3, groups=2)(x)
    x = ops.reshape(ops.transpose(ops.reshape(x, (-1, SIZE - 2, SIZE - 2, 2, 3)), (0, 1, 2, 4, 3)), (-1, 14, 14, 6))
    one, other = ops.split(x, 2, axis=-1)
    return head(ops.concatenate([one * other, x[..., 1:3]], axis=-1))


def excited(x):
    """Two styles of squeeze-and-excite, hard swish by hand, statistics over channels."""
    x = layers.Conv2D(4, 3, activation="silu")(keras.applications.mobilenet_v2.preprocess_input(x))
    gate = layers.ReLU(6.0)(layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)) + 3.0) * (1.0 / 6.0)
    x = layers.Multiply()([x, gate])
    spatial = layers.Concatenate()([ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)])
    return head(x * layers.Conv2D(1, 3, padding="same", activation="sigmoid")(spatial))


def attentive(x):
    x = layers.Conv2D(8, 4, 4)(layers.Rescaling(1 / 255)(x))
    tokens = layers.LayerNormalization()(layers.Reshape((16, 8))(x))
    tokens = layers.Add()([tokens, layers.MultiHeadAttention(2, 4)(tokens, tokens)])
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens))


def many_kinds(x):
    x = layers.Normalization(mean=[120.0, 110, 100], variance=[4000.0, 4100, 4200])(layers.RandomFlip()(x))
    x = layers.SeparableConv2D(4, 3, depth_multiplier=2)(layers.ZeroPadding2D(1)(x))
    x = layers.PReLU(shared_axes=[1, 2])(layers.GroupNormalization(2)(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.UpSampling2D()(x))
    x = layers.LeakyReLU(0.1)(layers.Conv2DTranspose(4, 3, 2)(layers.MaxPooling2D()(x)))
    x = layers.Activation("gelu")(layers.SpatialDropout2D(0.2)(layers.AveragePooling2D(2)(x)))
    return head(layers.Conv2D(4, 3, kernel_regularizer="l2", kernel_constraint="max_norm")(x))


def transferred():
    return lively(
        keras.Sequential(
            [keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255), base(), layers.Flatten(), layers.Dense(3)]
        )
    )


def augmented(x):
    augment = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])
    inner = base()
    inner.trainable = False
    return head(inner(layers.Rescaling(1 / 127.5, -1)(augment(x)), training=False))


def adapted(x):
    return head(layers.Conv2D(4, 3)(layers.Normalization()(x)))


def resized_in_front(x):
    """Models inside that leave their sizes open, as those of keras.applications do, not called at the image's."""
    nested = keras.Sequential([keras.Input((None, None, 3)), base("inner", None)], name="outer")
    return head(nested(layers.Resizing(24, 20)(layers.Rescaling(1 / 255)(x))))


def of_two_sizes(x):
    """Blocks of open sizes, a functional one and a Sequential, each called at two sizes."""
    block = base("block", None)
    more = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(3, 3)], name="more")
    once = more(block(layers.Rescaling(1 / 255)(x)))
    return head(more(block(layers.AveragePooling2D(2)(once))))


def open_in_a_sequence():
    inner = base("inner", None)
    first = [keras.Input((SIZE, SIZE, 3)), layers.RandomFlip(), layers.Resizing(24, 20), layers.Rescaling(1 / 255)]
    return lively(keras.Sequential([*first, inner, layers.GlobalAveragePooling2D(), layers.Dense(3)]))


NETWORKS = {
    "resized in front": resized_in_front,
    "of two sizes": of_two_sizes,
    "shared": shared,
    "two ended": two_ended,
    "shuffled": shuffled,
    "excited": excited,
    "attentive": attentive,
    "many kinds": many_kinds,
    "augmented": augmented,
    "adapted": adapted,
}
SEQUENCES = {"transferred": transferred, "open in a sequence": open_in_a_sequence}


@pytest.mark.parametrize("name", [*NETWORKS, *SEQUENCES])
def test_any_network_answers_as_keras_does(name, tmp_path):
    model = SEQUENCES[name]() if name in SEQUENCES else functional(NETWORKS[name])
    wanted = np.asarray(model(RGB, training=False))
    for suffix in ("h5", "keras"):
        model.save(tmp_path / f"net.{suffix}")
        opened = opening.open_network(tmp_path / f"net.{suffix}", "none")
        np.testing.assert_allclose(opened.model(RGB, training=False), wanted, rtol=1e-5, atol=1e-5)
        assert (opened.outputs, opened.classes) == ("logits", 3)
        assert metrics.count_macs(opened.model) == metrics.count_macs(model) > 0
        assert [layer.name for layer in opened.model.layers] == [layer.name for layer in model.layers]
        assert len(opened.model.trainable_weights) == len(
            [w for w in model.weights if w.name.split("/")[-1] not in (*STATISTICS, "count")]
        )


STATISTICS = ("moving_mean", "moving_variance", "mean", "variance")


def pool(x):
    return layers.GlobalAveragePooling2D()(x)


# what others put in front of a network and behind it: of each line other arithmetic on pixels and another end
AROUND = {
    "x / 127.5 - 1, two norms": (
        keras.applications.mobilenet_v2.preprocess_input,
        lambda x: layers.Dense(4)(
            layers.BatchNormalization()(
                layers.Dense(7, use_bias=False)(layers.BatchNormalization(epsilon=0.03, center=False)(pool(x)))
            )
        ),
    ),
    "caffe": (keras.applications.resnet.preprocess_input, lambda x: head(layers.Dropout(0.3)(x), 5, "softmax")),
    "torch, no bias": (
        lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"),
        lambda x: layers.Dense(4, use_bias=False)(pool(x)),
    ),
    "odd arithmetic, norm on the map": (
        lambda x: 1 - (x - np.array([9.0, 5, 2], "float32")) * 2 / np.array([60.0, 70, 80], "float32"),
        lambda x: head(layers.BatchNormalization()(x), 3, "softmax"),
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
        lambda x: layers.GaussianNoise(0.5)(layers.RandomFlip()(x)) / 127.5 - 1,
        lambda x: head(x, 3, "softmax"),
    ),
    "two layers with a ReLU": (
        lambda x: x,
        lambda x: layers.Dense(4, activation="softmax")(
            layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(9, activation="relu")(pool(x))))
        ),
    ),
    "a pool as large as the map": (
        layers.Rescaling(1 / 99, offset=-1),
        lambda x: layers.Dense(4)(layers.Flatten()(layers.AveragePooling2D(SIZE)(x))),
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_others_put_around_a_network_is_read(name, tmp_path):
    front, end = AROUND[name]
    model = functional(lambda x: end(base()(front(x), training=False)))
    path = tmp_path / f"net.{('h5', 'keras')[list(AROUND).index(name) % 2]}"
    model.save(path)
    opened = opening.open_network(path, "none")
    wanted, found = (np.asarray(net(RGB, training=False)) for net in (model, opened.model))
    if np.allclose(wanted.sum(1), 1, atol=1e-4):
        found = np.asarray(ops.softmax(found))
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5 * max(1, np.abs(wanted).max()))
    assert opened.outputs == "logits"


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_the_calls_of_a_nested_model_keep_their_order(kind, old, tmp_path):
    """Called twice, in a row: a number too many or too few would swap the calls, or close a circle."""

    def build(x):
        inside = keras.Input((SIZE, SIZE, 3))
        turn = layers.Rescaling(-3.0, 1.0)
        twice = keras.Model(inside, turn(inside), name="twice")
        if kind == "Sequential":
            twice = keras.Sequential([inside, turn], name="twice")
        x = twice(layers.ReLU(name="a")(layers.Rescaling(0.01, -1.0)(x)))
        return head(twice(layers.ReLU(name="b")(x)))

    model = functional(build)
    model.save(tmp_path / "net.h5")
    if old:
        rewrite_config(tmp_path / "net.h5", lambda config: as_of_old(config, "twice"))
    opened = opening.open_network(tmp_path / "net.h5", "none")
    np.testing.assert_allclose(opened.model(RGB), model(RGB), rtol=1e-5, atol=1e-5)


def test_idle_layers_do_nothing_once_training_is_over():
    values = {"rate": 0.5, "stddev": 1.0, "factor": 0.5, "height_factor": 0.5, "width_factor": 0.5, "x_factor": 0.5}
    for name in vocabulary.IDLE:
        kind = getattr(layers, name)
        wanted = inspect.signature(kind.__init__).parameters
        given = {key for key in values if key in wanted and wanted[key].default is inspect.Parameter.empty}
        layer = kind(**{key: values[key] for key in given})
        np.testing.assert_array_equal(layer(RGB, training=False), RGB, err_msg=name)


def test_a_sequential_stays_one_and_regularisers_stay(tmp_path):
    transferred().save(tmp_path / "net.keras")
    assert isinstance(opening.open_network(tmp_path / "net.keras").model, keras.Sequential)
    functional(many_kinds).save(tmp_path / "net.h5")
    assert len(opening.open_network(tmp_path / "net.h5").model.losses) == 1


@pytest.mark.parametrize(
    ("first", "mode"),
    [
        *(("conv", mode) for mode in ("caffe", "tf", "torch", "unit", "none")),
        ("depthwise", "caffe"),
        ("padded and nested", "caffe"),
        ("padded and nested", "torch"),
    ],
)
def test_missing_preprocessing_is_put_in_front(first, mode, tmp_path):
    def build(x):
        if first == "depthwise":
            return head(layers.DepthwiseConv2D(3, padding="same")(x))
        if first == "conv":  # two kernels read the pixels
            return head(layers.Concatenate()([layers.Conv2D(2, 3)(x), layers.Conv2D(2, 3, activation="relu")(x)]))
        return head(base(size=SIZE + 2)(layers.ZeroPadding2D(1)(x)))

    model = functional(build)
    model.save(tmp_path / "net.keras")
    seen = (
        RGB
        if mode == "none"
        else RGB / 255
        if mode == "unit"
        else keras.applications.imagenet_utils.preprocess_input(RGB.copy(), mode=mode)
    )
    opened = opening.open_network(tmp_path / "net.keras", mode)
    wanted = np.asarray(model(seen, training=False))
    np.testing.assert_allclose(
        opened.model(RGB, training=False), wanted, rtol=1e-4, atol=1e-5 * max(1, abs(wanted).max())
    )
    added = [layer.name for layer in opened.model.layers if layer.name.startswith("pixels_")]
    turned = ["pixels_caffe_bgr"] * (first == "depthwise")  # a first convolution takes the colours in another order
    assert added == {"none": [], "caffe": [*turned, "pixels_caffe"]}.get(mode, [f"pixels_{mode}"])


def test_a_known_family_is_given_its_pixels_and_says_so(tmp_path, capsys):
    def build(x):
        for name in VGG:
            x = layers.MaxPooling2D(name=name)(x) if "pool" in name else layers.Conv2D(3, 3, name=name)(x)
        return head(x, activation="softmax")

    model = functional(build)
    model.save(tmp_path / "net.h5")
    opened = opening.open_network(tmp_path / "net.h5", verbose=1)
    wanted = model(keras.applications.vgg16.preprocess_input(RGB.copy()))
    np.testing.assert_allclose(ops.softmax(opened.model(RGB)), wanted, rtol=1e-4, atol=1e-5)
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "--preprocessing caffe" in told and "VGG" in told and "softmax left out" in told


def test_what_is_assumed_is_a_warning_and_the_files_own_layers_are_no_assumption(tmp_path, capsys):
    functional(lambda x: head(layers.Conv2D(2, 3)(x))).save(tmp_path / "net.keras")
    opening.open_network(tmp_path / "net.keras")
    assert "assumed" in capsys.readouterr().err
    transferred().save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras", "tf")
    assert opened.pixels.mode == "none" and "without" in opened.summary and not capsys.readouterr().err


def mixture(x):
    return layers.Average()([ops.softmax(x), ops.softmax(2 * x)])


def inside(x):
    image = keras.Input((3,))
    return layers.Dropout(0.5)(keras.Model(image, layers.Softmax()(layers.Dense(3)(image)), name="inside")(x))


def as_layer(x):
    return layers.Softmax()(x)


def in_sequence(x):
    return keras.Sequential([layers.Dense(3), layers.Dense(3, activation="softmax")])(x)


def in_dense(x):
    return layers.Dense(3, activation="softmax")(x)


def in_both_uses(x):
    dense = layers.Dense(3, activation="softmax")
    return dense(dense(x))


ENDS = {
    "none": (lambda x: x, "logits"),
    "dense": (in_dense, "logits"),
    "layer": (as_layer, "logits"),
    "activation": (lambda x: layers.Reshape((3,))(layers.Activation("softmax")(x)), "logits"),
    "operation": (lambda x: layers.Dropout(0.1)(ops.softmax(x)), "logits"),
    "inside": (inside, "logits"),
    "sequential": (in_sequence, "logits"),
    "log": (ops.log_softmax, "logits"),
    "mixture": (mixture, "probabilities"),
    "used twice": (in_both_uses, "probabilities"),
    "two of one": (
        lambda x: layers.Concatenate()([1 - (p := layers.Dense(1, activation="sigmoid")(x)), p]),
        "probabilities",
    ),
    "sigmoid": (layers.Activation("sigmoid"), "labels"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_softmax_is_left_out_where_that_is_exact(name, tmp_path):
    end, outputs = ENDS[name]
    model = functional(lambda x: end(head(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(x)))))
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras")
    assert opened.outputs == outputs
    wanted, found = np.asarray(model(RGB)), np.asarray(opened.model(RGB))
    is_shares = name not in ("none", "log", "sigmoid")
    shares = np.asarray(ops.softmax(found)) if outputs == "logits" and is_shares else found
    np.testing.assert_allclose(shares, wanted, rtol=1e-4, atol=1e-6)
    scores = np.asarray(opened.scores()(RGB))
    np.testing.assert_allclose(scores, found if outputs == "logits" else np.log(wanted), rtol=1e-4, atol=1e-5)
    assert name in ("log", "none") or outputs != "logits" or abs(found.sum(1) - 1).max() > 1e-3


def test_an_end_of_unknown_meaning_is_refused(tmp_path):
    functional(lambda x: layers.ReLU()(head(layers.Rescaling(1 / 255)(x)))).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match=r"ends in .*\(ReLU\).* not known; expected logits"):
        opening.open_network(tmp_path / "net.keras")


# ---- files of other times ----


def as_of_old(config, nested=None):
    """A config as tf.keras 2.15 writes it: lists for calls, functions of TensorFlow, short settings.

    `nested` is the name of a model inside, whose calls are counted from 1 there.
    """
    functions = {"TrueDivide": "math.truediv", "Subtract": "math.subtract", "Add": "__operators__.add"}
    for layer in config["config"]["layers"]:
        layer.pop("module", None), layer.pop("registered_name", None), layer.pop("build_config", None)
        settings = layer["config"]
        is_operation = "trainable" not in settings and layer["class_name"] in functions
        if isinstance(settings.get("dtype"), dict):
            settings["dtype"] = "float32"
        if "batch_shape" in settings:
            settings["batch_input_shape"] = settings.pop("batch_shape")
        if layer["class_name"] == "BatchNormalization":
            settings["axis"] = [3]
        if layer["class_name"] == "DepthwiseConv2D":
            settings |= {"groups": 1}
        calls = []
        for node in layer["inbound_nodes"]:
            args = node["args"][0] if isinstance(node["args"][0], list) else node["args"]
            histories = [item["config"]["keras_history"] for item in args if isinstance(item, dict)]
            histories = [[name, number + (name == nested), place] for name, number, place in histories]
            given = {"y": next(item for item in args if not isinstance(item, dict))} if is_operation else {}
            call = [[*history, given] for history in histories]
            calls += call if is_operation else [call]
        if is_operation:
            layer |= {
                "class_name": "TFOpLambda",
                "config": {"name": layer["name"], "function": functions[layer["class_name"]]},
            }
        layer["inbound_nodes"] = calls
    for key in ("input_layers", "output_layers"):
        config["config"][key] = [config["config"][key]]
    return config


def rewrite_config(path, change):
    """Changes the config in an .h5 file."""
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(change(json.loads(file.attrs["model_config"])))


def test_a_file_of_tf_keras_2_opens(tmp_path):
    def build(x):
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="a_b")(x / 127.5 - 1.0))
        return head(layers.DepthwiseConv2D(3)(layers.Add()([x, layers.Conv2D(4, 1)(x) + 3.0])), activation="softmax")

    model = functional(build)
    model.save(tmp_path / "net.h5")

    def change(config):
        text = json.dumps(as_of_old(config)).replace('"a_b"', '"a/b"')  # as its DenseNets are named
        return json.loads(text)

    rewrite_config(tmp_path / "net.h5", change)
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["keras_version"] = "2.15.0"
        file["model_weights"].move("a_b", "a/b")
    opened = opening.open_network(tmp_path / "net.h5")
    np.testing.assert_allclose(ops.softmax(opened.model(RGB)), model(RGB), rtol=1e-4, atol=1e-6)
    assert "a_b" in [layer.name for layer in opened.model.layers]


@pytest.mark.parametrize("name", ["nested", "sequential", "operations"])
def test_files_that_tf_keras_wrote_answer_as_they_did_there(name, tmp_path):
    """The archive holds models that tf_keras 2.21 wrote in both formats, images, and what the models answered."""
    with zipfile.ZipFile(Path(__file__).with_name("tf_keras_2.zip")) as archive:
        archive.extractall(tmp_path)
    answers = np.load(tmp_path / "answers.npz")
    for suffix in ("h5", "keras"):
        opened = opening.open_network(tmp_path / f"{name}.{suffix}", "none")
        found = opened.model(answers["images"].astype("float32"), training=False)
        found = ops.softmax(found) if name == "sequential" else found
        np.testing.assert_allclose(found, answers[name], rtol=1e-4, atol=1e-5)
        assert opened.outputs == "logits"


@pytest.mark.parametrize("change", [{"module": "mine"}, {"registered_name": "mine>CustomScaleLayer"}])
def test_a_layer_called_as_one_of_keras_is_taken_for_it_from_no_other_module(change, tmp_path):
    with zipfile.ZipFile(Path(__file__).with_name("tf_keras_2.zip")) as archive:
        archive.extract("nested.h5", tmp_path)

    def changed(config):
        inner = layer_of(config, "base")["config"]
        next(layer for layer in inner["layers"] if "CustomScale" in layer["class_name"]).update(change)
        return config

    rewrite_config(tmp_path / "nested.h5", changed)
    with pytest.raises(InputError, match="a class of its author's own"):
        opening.open_network(tmp_path / "nested.h5")


def test_half_precision_is_computed_in_float32_and_told(tmp_path):
    with_halves = keras.DTypePolicy("mixed_float16")
    model = functional(lambda x: head(layers.Conv2D(3, 3, dtype=with_halves)(layers.Rescaling(1 / 255)(x))))
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras")
    assert "float32, where the file says mixed_float16" in opened.summary
    np.testing.assert_allclose(opened.model(RGB), model(RGB), rtol=0.02, atol=0.01)
    assert all(layer.compute_dtype == "float32" for layer in opened.model.layers)


@pytest.mark.parametrize(
    "name",
    [
        "pruned_model/iter2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("base_model", "pruned_model/iter1", "kd_model")),
    ],
)
def test_files_of_the_first_version_open_as_plain_keras_has_them(name, tmp_path, pictures, capsys):
    with zipfile.ZipFile(Path(__file__).with_name("first_version.zip")) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / name / "model.h5"
    opened = opening.open_network(path)
    wanted = np.asarray(keras.models.load_model(path, compile=False)(pictures[0][:4], training=False))
    np.testing.assert_allclose(opened.model(pictures[0][:4], training=False), wanted, rtol=1e-5, atol=1e-5)
    assert opened.pixels.mode == "none" and opened.summary == ""
    assert not capsys.readouterr().err


def test_weights_alone_open_where_their_shapes_tell(narrow_model, tmp_path, pictures):
    narrow_model.save_weights(tmp_path / "net.weights.h5")
    opened = opening.open_network(tmp_path / "net.weights.h5", "none", (32, 32, 3))
    bare = keras.Model(narrow_model.get_layer("conv1_pad").input, narrow_model.output)  # without what pixels go through
    wanted = bare(pictures[0].astype("float32"), training=False)
    np.testing.assert_allclose(opened.model(pictures[0], training=False), wanted, rtol=1e-4, atol=1e-4)
    functional(adapted).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(InputError, match=r"other.weights.h5.*the whole model"):
        opening.open_network(tmp_path / "other.weights.h5")


def test_images_of_open_size_are_given_one(tmp_path):
    image = keras.Input((None, None, 3))
    keras.Model(image, head(layers.Conv2D(2, 3)(layers.Rescaling(0.1)(image)))).save(tmp_path / "net.keras")
    assert opening.open_network(tmp_path / "net.keras").model.input_shape == (None, None, None, 3)
    opened = opening.open_network(tmp_path / "net.keras", input_shape=(SIZE, SIZE, 3))
    assert opened.model.input_shape == (None, SIZE, SIZE, 3)
    opened.model.save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="for images of 16x16, expected 24x24"):
        opening.open_network(tmp_path / "net.keras", input_shape=(24, 24, 3))


def test_random_numbers_of_a_run_don_t_depend_on_a_file(tmp_path):
    import random

    transferred().save(tmp_path / "net.keras")
    before = random.getstate()
    opening.open_network(tmp_path / "net.keras")
    assert random.getstate() == before


# ---- what can't be opened ----


@keras.saving.register_keras_serializable("mine")
class Doubled(layers.Layer):
    """A layer of its author's own."""

    def call(self, x):
        return 2 * x


def test_a_layer_that_the_user_registered_opens(tmp_path, monkeypatch):
    model = functional(lambda x: head(Doubled(name="twice")(layers.Rescaling(0.01)(x))))
    monkeypatch.setattr(registered, "RULES", {})
    for suffix in ("h5", "keras"):
        model.save(tmp_path / f"net.{suffix}")
        with pytest.raises(InputError, match="class of its author's own"):
            opening.open_network(tmp_path / f"net.{suffix}")
    rules.register(Doubled, lambda call: None)
    for suffix in ("h5", "keras"):
        opened = opening.open_network(tmp_path / f"net.{suffix}")
        np.testing.assert_allclose(opened.model(RGB), model(RGB), rtol=1e-5)


class Subclassed(keras.Model):
    """A model that is code."""

    def __init__(self, **given):
        super().__init__(**given)
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(ops.mean(x, (1, 2)))

    def get_config(self):
        return {}


def write_subclassed(path):
    model = Subclassed()
    model(RGB)
    model.save(path)


def write_quantised(path):
    model = functional(lambda x: head(layers.Conv2D(2, 3)(x)))
    model.quantize("int8")
    model.save(path)


REFUSED = {
    "lambda": (
        lambda p: functional(lambda x: head(layers.Lambda(lambda y: y * 2)(x))).save(p),
        r"Lambda\), a layer of",
    ),
    "custom": (
        lambda p: functional(lambda x: head(Doubled(name="twice")(x))).save(p),
        r"twice \(Doubled\), a class of",
    ),
    "subclassed": (write_subclassed, "Subclassed, a model that is defined by code"),
    "quantised": (write_quantised, "quantised network can't be pruned"),
    "grey": (lambda p: keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2)]).save(p), "grey"),
    "one class": (lambda p: functional(lambda x: head(x, 1, "sigmoid")).save(p), "one output for two classes"),
    "unbuilt": (lambda p: keras.Sequential([layers.Flatten(), layers.Dense(2)]).save(p), "without the shape of its im"),
    "two outputs": (
        lambda p: keras.Model(i := keras.Input((8, 8, 3)), [head(i), head(i)]).save(p),
        "1 input and 2 outputs; expected one each",
    ),
    "text": (lambda p: p.write_text("nothing"), "no HDF5 and no zip file"),
    "hash": (
        lambda p: keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Hashing(4), layers.Dense(2)]).save(
            p
        ),
        r"Hashing\), a kind of layer that is not read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras', as it writes them
def test_what_cannot_be_opened_is_named_in_a_line(name, tmp_path):
    write, words = REFUSED[name]
    path = tmp_path / "net.keras"
    write(path)
    with pytest.raises(InputError, match=rf"received .*{words}") as caught:
        opening.open_network(path)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_on_the_pixels_gives_way_to_the_users_word(tmp_path):
    model = functional(lambda x: head(layers.Conv2D(2, 3)(layers.Lambda(lambda y: y / 127.5 - 1, name="code")(x))))
    model.save(tmp_path / "net.keras")
    opened = opening.open_network(tmp_path / "net.keras", "tf")
    np.testing.assert_allclose(opened.model(RGB), model(RGB), rtol=1e-4, atol=1e-5)
    functional(lambda x: head(layers.Lambda(lambda y: y, name="code")(layers.Conv2D(2, 3)(x)))).save(
        tmp_path / "net.keras"
    )
    with pytest.raises(InputError, match=r"code \(Lambda\)"):
        opening.open_network(tmp_path / "net.keras", "tf")


# ---- hostile files ----


def good_file(path):
    """A small .h5 of two convolutions, a nested model and raw operations."""

    def build(x):
        return head(base()(layers.Conv2D(3, 3, padding="same", name="first")(x / 255.0)))

    functional(build).save(path)
    return path


def layer_of(config, name):
    (layer,) = [layer for layer in config["config"]["layers"] if layer["name"] == name]
    return layer


def changed_layer(**changes):
    """A change of the settings of the layer 'first'."""

    def change(config):
        layer_of(config, "first")["config"] |= changes
        return config

    return change


def replaced_layer(**changes):
    """A change of the entry of the layer 'first'."""

    def change(config):
        layer_of(config, "first").update(changes)
        return config

    return change


def nested(depth):
    def change(config):
        inner = layer_of(config, "base")
        for _ in range(depth):
            inside = json.loads(json.dumps(inner))
            inside["inbound_nodes"] = []
            inner["class_name"] = "Sequential"
            inner["config"] = {"name": "base", "layers": [inside]}
        return config

    return change


def doubled(config):
    """A model that calls a model twice, which calls another twice, and so on."""
    inner = layer_of(config, "base")
    for level in range(40):
        outer = {"name": f"m{level}", "trainable": True, "layers": []}
        start = {"class_name": "InputLayer", "name": "in", "config": {"name": "in", "batch_shape": [None, 4]}}
        call = json.loads(json.dumps(inner)) | {"name": "inner"}
        call["inbound_nodes"] = [[["in", 0, 0, {}]], [["inner", 0, 0, {}]]]
        if level == 0:
            call |= {"class_name": "ReLU", "config": {"name": "inner", "trainable": True}}
        outer |= {"layers": [start | {"inbound_nodes": []}, call], "input_layers": [["in", 0, 0]]}
        outer |= {"output_layers": [["inner", 1, 0]]}
        inner = {"class_name": "Functional", "config": outer, "name": outer["name"]}
    return {"class_name": "Functional", "config": inner["config"]}


def circle(config):
    layer_of(config, "first")["inbound_nodes"] = [[["first", 0, 0, {}]]]
    return config


def code(config):
    mark = {"name": "first", "function": "__import__('os').system('touch was_here')", "trainable": True}
    layer_of(config, "first").update(class_name="Lambda", config=mark)
    return config


FUNCTION = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
HOSTILE = {
    "module of os": replaced_layer(class_name="system", module="os", registered_name="system"),
    "module of keras": replaced_layer(class_name="get_file", module="keras.utils", registered_name="get_file"),
    "class of keras": replaced_layer(class_name="TFSMLayer", config={"name": "first", "filepath": "/etc"}),
    "lambda": code,
    "function as activation": changed_layer(activation=FUNCTION),
    "text as activation": changed_layer(activation="os.system"),
    "object as initialiser": changed_layer(kernel_initializer={"class_name": "system", "module": "os", "config": {}}),
    "object as regulariser": changed_layer(kernel_regularizer={"class_name": "L2", "module": "os", "config": {}}),
    "object as precision": changed_layer(dtype={"class_name": "system", "module": "os", "config": {"name": "a"}}),
    "object as number": changed_layer(strides={"class_name": "__lambda__", "config": {"value": ["4wA=", None, None]}}),
    "huge": changed_layer(filters=10**9),
    "huger": changed_layer(filters=10**30),
    "negative": changed_layer(filters=-1),
    "huge kernel": changed_layer(kernel_size=[10**6, 10**6]),
    "huge image": lambda config: json.loads(json.dumps(config).replace("16, 16, 3", "1000000, 1000000, 3")),
    "huge map": replaced_layer(class_name="UpSampling2D", config={"name": "first", "size": [10**5, 10**5]}),
    "huge padding": replaced_layer(class_name="ZeroPadding2D", config={"name": "first", "padding": 10**7}),
    "huge statistics": replaced_layer(
        class_name="Sequential",
        config={
            "name": "first",
            "layers": [
                {"class_name": "UpSampling2D", "config": {"name": "u", "size": [256, 256], "trainable": True}},
                {"class_name": "Normalization", "config": {"name": "n", "axis": [1, 2, 3], "trainable": True}},
            ],
        },
    ),
    "text": changed_layer(filters="many"),
    "none": replaced_layer(config=None),
    "lists": replaced_layer(config=[[[]]]),
    "circle": circle,
    "deep": nested(40),
    "doubled": doubled,
    "no layers": lambda config: {"class_name": "Functional", "config": {}},
    "number": lambda config: 7,
    "another model": changed_layer(filters=2),
    "a path": replaced_layer(class_name="StringLookup", config={"name": "first", "vocabulary": "/etc/passwd"}),
    "long name": replaced_layer(name="first\n" * 10_000, class_name="x\x1b[31m" * 1000),
}


SAID = {  # settings that aren't taken over, with what is said of them
    "adapter": (changed_layer(lora_rank=4, lora_alpha=4), "lora_rank=4, a LoRA adapter; expected it merged"),
    "surplus": (changed_layer(use_bias=False), "first with 2 weights, expected 1"),
    "surplus layer": (
        replaced_layer(class_name="ReLU", config={"name": "first"}),
        "the weights .*first.*, which no layer of the file's own config has",
    ),
    "not stripped": (replaced_layer(class_name="PruneLowMagnitude"), "strip_pruning"),
    "activation": (
        changed_layer(activation={"class_name": "ReLU", "config": {}, "registered_name": "mine>ReLU"}),
        "author's own",
    ),
    "circle": (circle, "reads what no layer writes"),
    "namesakes": (replaced_layer(name="base"), "two layers of one name"),
    "escapes": (replaced_layer(name="\x1b[31m", class_name="Evil"), r"Evil"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_config_asks_for_in_vain_is_said(name, good, tmp_path):
    change, words = SAID[name]
    path = tmp_path / "net.h5"
    path.write_bytes(good)
    rewrite_config(path, change)
    with pytest.raises(InputError, match=words) as caught:
        opening.open_network(path, "unit")
    assert "\x1b" not in str(caught.value)


def test_more_calls_than_any_network_has_are_refused():
    names = [f"l{k}" for k in range(20_001)]
    calls = [
        {"class_name": "Dropout", "name": name, "config": {}, "inbound_nodes": [[["i", 0, 0, {}]]]} for name in names
    ]
    image = {"class_name": "InputLayer", "name": "i", "config": {"batch_shape": [None, 8, 8, 3]}, "inbound_nodes": []}
    config = {"layers": [image, *calls], "input_layers": [["i", 0, 0]], "output_layers": [["l0", 0, 0]]}
    with pytest.raises(entries.Unread, match="more than 20,000 calls"):
        rebuilding.rebuild({"class_name": "Functional", "config": config}, rebuilding.Wanted(0))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = good_file(tmp_path_factory.mktemp("good") / "net.h5")
    opening.open_network(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_gets_one_line_soon(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.h5"
    path.write_bytes(good)
    rewrite_config(path, HOSTILE[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(InputError) as caught:
        opening.open_network(path, "unit")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: 1 GiB
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.h5"]


def test_weights_behind_links_and_bombs_are_not_read(good, tmp_path):
    place = "model_weights/first/first/kernel"
    for kind in ("soft", "external", "swollen", "absolute", "nan"):
        path = tmp_path / f"{kind}.h5"
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            shape = file[place].shape
            if kind == "absolute":
                file.create_dataset("optimizer_weights/x", (2**14, 2**14), "f4", chunks=(64, 64), compression="gzip")
                file["model_weights/first"].attrs["weight_names"] = ["/optimizer_weights/x", "first/bias"]
            elif kind == "nan":
                file[place][0, 0, 0, 0] = np.nan
            else:
                del file[place]
                if kind == "swollen":
                    file.create_dataset(place, (2**14, 2**14), "f4", chunks=(64, 64), compression="gzip")
                else:
                    file[place] = h5py.SoftLink("/x") if kind == "soft" else h5py.ExternalLink("/etc/passwd", "/")
        with pytest.raises(InputError) as caught:
            opening.open_network(path, "unit")
        assert "\n" not in str(caught.value), shape


def test_an_archive_with_links_is_refused(tmp_path):
    functional(adapted).save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "inner.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "inner.h5", "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")
    members["model.weights.h5"] = (tmp_path / "inner.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"vars/0 is a link to another place"):
        opening.open_network(tmp_path / "net.keras")


def test_a_damaged_weight_of_the_suites_own_file_is_found(narrow_model, tmp_path):
    checkpoints.save_model(narrow_model, tmp_path / "model.h5")
    opened = opening.open_network(tmp_path / "model.h5", "caffe")
    np.testing.assert_array_equal(opened.model(RGB_32), narrow_model(RGB_32))
    assert "without" in opened.summary and opened.model.count_params() == narrow_model.count_params()
    assert resnets.widths_of(opened.model) == resnets.widths_of(narrow_model)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file["model_weights/predictions/predictions/bias"][0] += 1
    with pytest.raises(InputError, match="weights are damaged"):
        opening.open_network(tmp_path / "model.h5")


RGB_32 = np.random.default_rng(6).integers(0, 256, (2, 32, 32, 3)).astype("float32")
