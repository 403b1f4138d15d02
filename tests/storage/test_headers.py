"""headers.py and opening.load_network: what a file says before Keras starts, and the network that scripts then get."""

import random
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import resnets
from keras import layers, ops

from compress.engine import twin
from compress.errors import InputError
from compress.storage import checkpoints, headers, opening, saving
from tests import zoo


def in_sequence(x):
    return keras.Sequential([layers.GlobalMaxPooling2D(), layers.Dense(5)])(x)


ENDS = {  # of a map of features: (the network's last layers, whether they say how many classes)
    "dense": (lambda x: layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x)), True),
    "behind others": (
        lambda x: ops.softmax(layers.Dropout(0.1)(layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))),
        True,
    ),
    "convolution": (lambda x: layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1)(x))), True),
    "reshaped": (
        lambda x: layers.Reshape((5,))(layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))),
        True,
    ),
    "flattened": (
        lambda x: layers.Flatten()(layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))),
        False,
    ),
    "nested": (in_sequence, True),
    "without a head": (lambda x: layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(7, 1)(x))), False),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_header_has_the_classes_that_the_last_layers_say(name, suffix, tmp_path):
    end, is_said = ENDS[name]
    image = keras.Input((20, 24, 3))
    keras.Model(image, end(layers.Conv2D(3, 3, strides=4)(image))).save(tmp_path / f"net.{suffix}")
    header = headers.read_header(tmp_path / f"net.{suffix}")
    assert (header.classes, header.input_shape) == (5 if is_said else None, (20, 24, 3))
    assert header.names is None
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    assert headers.read_header(tmp_path / f"net.{suffix}").names == ("a", "b", "c", "d", "e")


def test_header_of_any_size_and_of_weights_alone(narrow_model, tmp_path):
    keras.Sequential([keras.Input((None, None, 3)), layers.GlobalMaxPooling2D(), layers.Dense(4)]).save(
        tmp_path / "net.keras"
    )
    header = headers.read_header(tmp_path / "net.keras")
    assert (header.classes, header.input_shape) == (4, None)
    narrow_model.save_weights(tmp_path / "net.weights.h5")
    assert vars(headers.read_header(tmp_path / "net.weights.h5")) == {
        "path": str(tmp_path / "net.weights.h5"),
        "classes": 10,
        "input_shape": None,
    }
    keras.Model(narrow_model.input, narrow_model.get_layer("avg_pool").output).save_weights(tmp_path / "a.weights.h5")
    header = headers.read_header(tmp_path / "a.weights.h5")
    assert header.classes == 0
    with pytest.raises(InputError, match="with no classes, expected 10"):
        checkpoints.check_fits(header, 10)


class Unknown(layers.Layer):
    """A layer of a user that nobody registered."""

    def call(self, inputs):
        return inputs


class ByCode(keras.Model):
    def call(self, inputs):
        return inputs


REFUSED = {
    "code": (lambda: layers.Lambda(lambda x: x / 255), r"\(Lambda\), a layer of code.*`preprocessing`"),
    "own class": (Unknown, "a class of its author's own"),
    "other kind": (lambda: layers.CategoryEncoding(4), "a kind of layer that is not read here"),
    "code inside": (lambda: keras.Sequential([layers.Lambda(lambda x: x)]), r"\(Lambda\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_rebuilt_is_refused_alike_before_and_after_keras_starts(name, tmp_path):
    build, words = REFUSED[name]
    keras.Sequential([keras.Input((8, 8, 3)), build(), layers.Flatten(), layers.Dense(2)]).save(tmp_path / "net.keras")
    errors = []
    for reading in (headers.read_header, opening.open_network):
        with pytest.raises(InputError, match=words) as error:
            reading(tmp_path / "net.keras")
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    if name == "code":  # in front of the network it can be told
        assert headers.read_header(tmp_path / "net.keras", "unit").classes == 2


def test_models_of_code_of_grey_images_and_of_two_inputs_are_refused(tmp_path):
    path = tmp_path / "net.keras"
    model = ByCode()
    model(np.zeros((1, 4, 4, 3)))
    one, other = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    for saved, words in (
        (model, "ByCode"),
        (keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(2)]), "of grey images"),
        (keras.Sequential([keras.Input((9,)), layers.Dense(2)]), r"input is \(None, 9\)"),
        (keras.Model([one, other], layers.Dense(2)(layers.Flatten()(layers.Add()([one, other])))), "2 inputs"),
    ):
        saved.save(path)
        with pytest.raises(InputError, match=words):
            headers.read_header(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="expected an .h5 or .keras"):
        headers.read_header(path)
    saved.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(InputError, match="a whole model.*or the weights of a ResNet50"):
        headers.read_header(tmp_path / "net.weights.h5")


def test_a_model_of_code_becomes_a_graph_as_its_message_says(tmp_path):
    class Code(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = layers.Conv2D(4, 3, activation="relu"), layers.Dense(3)

        def call(self, inputs):
            return self.last(layers.GlobalAveragePooling2D()(self.first(layers.Rescaling(1 / 255)(inputs))))

    model, pixels = Code(), np.random.default_rng(0).uniform(0, 255, (2, 9, 9, 3)).astype("float32")
    wanted = np.asarray(model(pixels))
    model.save(tmp_path / "code.keras")
    with pytest.raises(InputError, match=r"Code, a model that is defined by code.*keras.Model\(image, model.call"):
        headers.read_header(tmp_path / "code.keras")
    image = keras.Input((9, 9, 3))
    keras.Model(image, model.call(image)).save(tmp_path / "functional.keras")
    np.testing.assert_allclose(opening.load_network(tmp_path / "functional.keras")(pixels), wanted, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("inner", ["functional", "sequential"])
def test_copies_on_several_gpus_are_the_network_inside_where_its_pixels_are_told(inner, suffix, tmp_path, capsys):
    """As keras.utils.multi_gpu_model made them: each copy gets a part of the batch, and the parts are joined."""
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    if inner == "functional":
        network = keras.Model(network.inputs[0], network.outputs[0], name="inside")
    image, path = keras.Input((8, 8, 3)), tmp_path / f"net.{suffix}"
    halves = [network(layers.Lambda(lambda x, i=i: x[i::2])(image)) for i in range(2)]
    zoo.lively(network)
    keras.Model(image, layers.Concatenate(axis=0)(halves)).save(path)
    with pytest.raises(InputError, match=f"a multi-GPU save .* of 2 copies of {network.name}, .*`preprocessing`"):
        headers.read_header(path)
    assert headers.read_header(path, "unit").classes == 2
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype("float32")
    found = opening.load_network(path, preprocessing="unit")
    np.testing.assert_allclose(found(pixels), network(pixels / 255), rtol=1e-4, atol=1e-4)
    assert "read as that network alone, the Lambdas taken to cut the batch" in capsys.readouterr().err


def test_channels_first_is_said_and_its_weights_fit_the_network_as_channels_last(tmp_path):
    def network(form, shape, axis):
        image = keras.Input(shape)
        x = layers.BatchNormalization(axis)(layers.Conv2D(4, 3, data_format=form)(image))
        return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D(data_format=form)(x)))

    first = network("channels_first", (3, 9, 8), 1)
    for suffix in ("h5", "keras"):
        first.save(tmp_path / f"net.{suffix}")
        with pytest.raises(InputError, match=r"channels_first; .*as channels_last, \(None, 9, 8, 3\): .*set_weights"):
            headers.read_header(tmp_path / f"net.{suffix}")
    zoo.lively(first)
    last = network("channels_last", (9, 8, 3), -1)
    last.set_weights(first.get_weights())
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 9, 8, 3)).astype("float32")
    np.testing.assert_allclose(last(pixels), first(pixels.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)


def test_headers_import_no_keras():
    code = "import sys; from compress.storage import headers; print({'keras', 'tensorflow'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


@pytest.mark.parametrize("name", ["base_model", "kd_model"])
def test_files_of_the_suite_are_loaded_as_before_to_the_bit(name, tmp_path, pictures):
    with zipfile.ZipFile(Path(__file__).with_name("first_version.zip")) as archive:
        archive.extractall(tmp_path)
    path, models, states = tmp_path / name / "model.h5", [], []
    written = keras.models.load_model(path, compile=False)

    def built():
        model = resnets.build_resnet(**resnets.architecture_of(written))
        model.set_weights(written.get_weights())
        return model

    for load in (built, lambda: opening.load_network(path, 10)):
        random.seed(3)
        models.append(load())
        states.append(random.getstate())  # what is drawn later, as weights of regressors, is the same too
    old, new = models
    assert old.get_config() == new.get_config() and states[0] == states[1]
    for before, after in zip(old.weights, new.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_network_for_other_data_is_not_loaded(tmp_path):
    model = zoo.plain_cnn()
    model.save(tmp_path / "net.keras")
    path, shape, count = tmp_path / "net.keras", model.input_shape[1:], model.output_shape[-1]
    loaded = opening.load_network(path, count, shape, "none")
    assert all(layer.trainable for layer in loaded.layers)
    with pytest.raises(InputError, match=f"with {count} classes, expected {count + 1}.*train_base_model.py"):
        opening.load_network(path, count + 1, shape, "none")
    with pytest.raises(InputError, match=f"for images of {shape[0]}x{shape[1]}, expected 99x99"):
        opening.load_network(path, count, (99, 99, 3), "none")


def test_classes_that_only_the_network_tells_are_compared_too(tmp_path):
    image = keras.Input((20, 24, 3))
    keras.Model(image, ENDS["flattened"][0](layers.Conv2D(3, 3)(image))).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="with 5 classes, expected 3"):
        opening.load_network(tmp_path / "net.keras", 3, None, "none")


@pytest.mark.parametrize(("end", "words"), [("sigmoid", "of a sigmoid"), ("mixture", "more than the softmax")])
def test_outputs_without_logits_are_not_loaded(end, words, tmp_path, capsys):
    image = keras.Input((8, 8, 3))
    x = layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    x = ops.sigmoid(x) if end == "sigmoid" else layers.Average()([ops.softmax(x), ops.softmax(2 * x)])
    keras.Model(image, x).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match=f"{words}.*expected logits"):
        opening.load_network(tmp_path / "net.keras")


def nested():
    """A model inside with biases in front of batch-norms, which a training twin leaves out of training."""
    image = keras.Input((16, 16, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    inside = keras.Model(image, layers.BatchNormalization()(layers.Conv2D(4, 3)(x)), name="inside")
    return keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Rescaling(0.01), inside, layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )


def test_a_nested_network_is_saved_while_it_is_trained_as_others_read_it(tmp_path):
    model, path = zoo.lively(nested()), tmp_path / "net.h5"
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    wanted = np.asarray(model(pixels))
    twin.Twin(model)
    resting = [variable.path for variable in model.variables if not variable.trainable]
    saving.save_network(model, path)
    assert [variable.path for variable in model.variables if not variable.trainable] == resting
    np.testing.assert_array_equal(keras.models.load_model(path, compile=False)(pixels), wanted)
    np.testing.assert_allclose(opening.load_network(path)(pixels), wanted, rtol=1e-6)
    before = [np.asarray(weight) for weight in model.weights]
    zoo.lively(model, seed=1)
    checkpoints.load_weights(model, path)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_network_of_operations_goes_on_from_its_h5(tmp_path):
    image = keras.Input((16, 16, 3))
    x = ops.relu(layers.Conv2D(4, 3, padding="same")(image / 255.0))
    x = layers.GlobalAveragePooling2D()(x * x + 1.0)
    model = zoo.lively(keras.Model(image, layers.Dense(3)(x)))
    model.save(tmp_path / "net.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    loaded = opening.load_network(tmp_path / "net.keras")
    saving.save_network(loaded, tmp_path / "net.h5")
    checkpoints.load_weights(loaded, tmp_path / "net.h5")
    np.testing.assert_allclose(loaded(pixels), model(pixels), rtol=1e-4, atol=1e-5)
    plain = keras.models.load_model(tmp_path / "net.h5", compile=False)
    np.testing.assert_array_equal(plain(pixels), loaded(pixels))
