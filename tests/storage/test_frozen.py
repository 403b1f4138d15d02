"""Frozen layers of a file are trained, as Keras trains a network whose layers are set `trainable = True`."""

import keras
import numpy as np
import pytest
from keras import layers

from compress.engine.twin import Twin
from compress.graph.network import Graph
from compress.storage import checkpoints, opening

pytestmark = pytest.mark.usefixtures("without_figures")

SIZE = 8
RGB = np.random.default_rng(3).uniform(0, 255, (12, SIZE, SIZE, 3)).astype("float32")
LABELS = np.arange(12) % 3


def body(x, frozen=()):
    """Two convolutions with batch-normalisation; `frozen`: settings of each layer."""
    for _ in range(2):
        x = layers.BatchNormalization(**dict(frozen))(layers.Conv2D(6, 3, padding="same", **dict(frozen))(x))
        x = layers.ReLU()(x)
    return x


def base(*outer):
    """A frozen network without a head; outer: a name for each model around it."""
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, body(image), name="base")
    for name in outer:
        image = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(image, model(image), name=name)
    model.trainable = False
    return model


def wrapped(x):
    frozen = layers.TimeDistributed(layers.Dense(4, trainable=False))
    frozen.trainable = False
    return frozen(layers.Conv2D(5, 3)(x))


def normalised(x):
    """Of a Normalization nothing can be trained, of the convolution behind it all."""
    first = layers.Normalization(trainable=False)
    first.adapt(RGB)
    return layers.Conv2D(4, 3, trainable=False)(layers.Rescaling(0.5, trainable=False)(first(x)))


NETWORKS = {  # (what stands between image and head, layers of it that hold frozen weights)
    "flat": (lambda x: body(layers.Rescaling(1 / 255)(x), {"trainable": False}), 4),
    "nested": (lambda x: base()(layers.Rescaling(1 / 255)(x)), 4),
    "nested twice": (lambda x: base("middle", "outer")(layers.Rescaling(1 / 255)(x)), 4),
    "operation": (lambda x: base()(x / 255.0), 4),
    "wrapped": (lambda x: wrapped(layers.Rescaling(1 / 255)(x)), 1),
    "normalised": (normalised, 1),
}


def network(name):
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(5, 3, activation="relu")(NETWORKS[name][0](image))
    return keras.Model(image, layers.Dense(3, name="classes")(layers.GlobalAveragePooling2D()(x)))


def after_a_step(net, trainer=None):
    """The arrays of all weights after a step of gradient descent, without those of random layers."""
    trainer = trainer or net
    trainer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    trainer.train_on_batch(RGB, LABELS)
    return [np.array(weight) for weight in net.weights if "float" in weight.dtype]


FILES = [(name, suffix) for name in NETWORKS for suffix in ("keras", "h5") if (name, suffix) != ("operation", "h5")]


@pytest.mark.parametrize(("name", "suffix"), FILES)
def test_frozen_layers_train_as_those_that_keras_unfroze(name, suffix, tmp_path, capsys):
    path = tmp_path / f"frozen.{suffix}"
    network(name).save(path)
    theirs = keras.models.load_model(path, compile=False)
    for layer in theirs._flatten_layers():
        layer.trainable = True
    net = opening.load_network(path, verbose=1)
    assert f" has {NETWORKS[name][1]} frozen layer" in "".join(capsys.readouterr())
    assert len(net.trainable_weights) == len(theirs.trainable_weights)
    before = [np.array(weight) for weight in net.trainable_weights]
    for now, wanted in zip(after_a_step(net), after_a_step(theirs), strict=True):
        np.testing.assert_allclose(now, wanted, rtol=1e-4, atol=1e-6)
    kernels = [(w, old) for w, old in zip(net.trainable_weights, before, strict=True) if w.name != "bias"]
    assert all((np.asarray(weight) != old).any() for weight, old in kernels)


@pytest.mark.parametrize("name", ["flat", "nested", "operation"])
def test_what_is_pruned_of_a_frozen_base_is_trained_and_written_trainable(name, tmp_path):
    network(name).save(tmp_path / "frozen.keras")
    graph = Graph(opening.load_network(tmp_path / "frozen.keras"))
    small = graph.trimmed({name: np.arange(group.width) % 2 == 0 for name, group in graph.groups.items()})
    before = [np.array(weight) for weight in small.weights]
    after = after_a_step(small, Twin(small))  # as a fine-tuning and a student train
    # a bias in front of a batch-normalisation has a gradient of 0
    assert all((now != old).any() for now, old in zip(after, before, strict=True) if now.ndim == 4)
    checkpoints.save_model(small, tmp_path / "model.h5")
    written = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert all(layer.trainable for layer in written._flatten_layers())
    assert opening.open_network(tmp_path / "model.h5").frozen == 0


@pytest.mark.parametrize("preprocessing", ["auto", "caffe"])
def test_a_frozen_base_is_trained_where_its_file_is_rebuilt_for_other_pixels_and_classes(preprocessing, tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(base()(image))
    keras.Model(image, layers.Dense(5, activation="softmax")(x)).save(tmp_path / "frozen.keras")
    net = opening.load_network(tmp_path / "frozen.keras", 3, preprocessing=preprocessing, new_head="if needed")
    before = [np.array(weight) for weight in net.weights]
    after = after_a_step(net)
    assert all((now != old).any() for now, old in zip(after, before, strict=True) if now.ndim == 4)
