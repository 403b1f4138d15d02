"""model.py's builders and their names: against keras.applications, the paper's counts, and a walk over the names."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import model
import train_base_model
from compress.cli.architectures import BOTTLENECKS, KERAS, LEAST, NAMES, PRETRAINED_LEAST
from compress.errors import InputError
from compress.graph.network import Graph


def test_the_names_are_those_of_keras_applications():
    constructors = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(KERAS) | set(BOTTLENECKS) == constructors
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85)])
def test_resnets_for_cifar_have_the_papers_parameters(depth, millions):
    # He et al. 2016, table 6; their shortcuts have none, here two projections have 16 x 32 + 32 x 64
    net = model.build_model(f"resnet{depth}", 10, (32, 32, 3))
    trained = sum(int(np.prod(v.shape)) for v in net.trainable_variables)
    assert trained == pytest.approx(1e6 * millions, rel=0.03)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in net.layers) == depth - 1 + 2  # and one Dense layer


@pytest.mark.parametrize("name", ["MobileNetV2", pytest.param("EfficientNetB0", marks=pytest.mark.slow), "VGG16"])
def test_a_network_of_keras_has_its_parameters_logits_and_pixels_inside(name):
    net = model.build_model(name, 7, (32, 32, 3))
    own = getattr(keras.applications, name)(weights=None, classes=7, input_shape=(32, 32, 3))
    assert net.count_params() == own.count_params() and Graph(net).groups
    assert net.input_shape == (None, 32, 32, 3) and net.output_shape == (None, 7)
    assert net.layers[-1].activation is keras.activations.linear
    white = net(np.full((1, 32, 32, 3), 255, "float32"), training=False)
    assert np.isfinite(np.asarray(white)).all()
    norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} <= {0.9}


def test_the_logits_of_a_network_without_normalisation_are_not_all_alike():
    """As large as those that He et al. 2015 want: the variance of what enters is kept."""
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype("uint8")
    logits = model.build_model("VGG16", 10, (32, 32, 3)).predict_on_batch(images)
    assert logits.std() > 0.1  # 0.0003 with Glorot's


def test_images_that_are_too_small_are_refused_in_a_line():
    with pytest.raises(InputError, match="received InceptionV3 for images of 32x32, which it doesn't take"):
        model.build_model("InceptionV3", 10, (32, 32, 3))


@pytest.mark.parametrize("name", [*LEAST, "Xception", "MobileNetV3Small"])
def test_what_is_known_of_the_smallest_images_is_what_keras_takes(name):
    if least := LEAST.get(name):
        with pytest.raises(InputError, match=f"{least - 1}x{least - 1}, which it doesn't take"):
            model.build_model(name, 2, (least - 1, least - 1, 3))
    side = least or 32
    assert model.build_model(name, 2, (side, side, 3)).output_shape == (None, 2)


@pytest.mark.parametrize("name", [name for name in KERAS if "NetV3" not in name])  # theirs asks otherwise
def test_imagenet_weights_are_for_no_smaller_images_than_keras_says(name, monkeypatch):
    class Asked(Exception):
        """What a constructor asks Keras' own check for."""

    def least(*_, min_size, **more):
        raise Asked(min_size)

    monkeypatch.setattr(importlib.import_module("keras.src.applications.imagenet_utils"), "obtain_input_shape", least)
    with pytest.raises(Asked) as asked:
        getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(32, 32, 3))
    assert asked.value.args[0] == PRETRAINED_LEAST.get(name, 32)


@pytest.mark.parametrize("dataset", ["cifar10", "digits", "photographs"])
@pytest.mark.parametrize(
    "more", [{"architecture": "InceptionV3"}, {"architecture": "Xception", "model_path": "imagenet"}]
)
def test_images_of_a_known_size_are_refused_before_they_are_read(dataset, more, tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("images are read")

    monkeypatch.setattr(train_base_model.app, "images_of_run", read)
    least = 75 if more["architecture"] == "InceptionV3" else 71
    flags = {"dataset": dataset, "save_folder": str(tmp_path / "run"), **more}
    if dataset == "photographs":
        (tmp_path / dataset).mkdir()
        flags |= {"dataset": str(tmp_path / dataset), "image_size": least - 1}
        with pytest.raises(AssertionError, match="images are read"):
            train_base_model.run(**flags | {"image_size": least})
        given = f"become {least - 1}x{least - 1} by `image_size`; expected `image_size={least}` or more, or another"
    else:
        given = f"{dataset} are 32x32, and stay so; expected a folder of images with `image_size={least}` or more, or "
    with pytest.raises(InputError, match=f"`architecture`: received {more['architecture']}, .*{given}"):
        train_base_model.run(**flags)


@pytest.mark.parametrize("name", ["ResNet50V2", "resnet20", "VGG16"])
def test_a_stem_is_for_the_resnets_that_have_one(name, tmp_path):
    with pytest.raises(InputError, match=f"stem.*received half for {name}; expected it for ResNet50, 101 or 152"):
        train_base_model.run(architecture=name, stem="half", dataset="digits", save_folder=str(tmp_path / "run"))


def test_imagenet_without_a_network_says_what_to_give(monkeypatch):
    def no_network(**_):
        raise Exception("URL fetch failure")  # as keras.utils.get_file does

    monkeypatch.setattr(keras.applications, "MobileNetV2", no_network)
    with pytest.raises(InputError, match=r"received imagenet.*URL fetch failure.*MobileNetV2\(weights='imagenet'\)"):
        train_base_model.pretrained("MobileNetV2")


def test_imagenet_weights_for_images_of_another_size_keep_all_but_the_classifier(monkeypatch):
    def downloaded(weights=None, include_top=True, input_shape=None, pooling=None):  # as those of keras.applications
        shape = input_shape or (224, 224, 3)
        if shape[0] < 32 or (weights and include_top and shape[0] != 224):
            raise ValueError("Input size must be at least 32x32")
        image = keras.Input(shape)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="Conv1")(image))
        made = keras.Model(image, keras.layers.Dense(1000, name="predictions")(x) if include_top else x)
        made.get_layer("Conv1").kernel.assign(keras.ops.full((3, 3, 3, 4), 1.0 if weights else 0.0))
        return made

    monkeypatch.setattr(keras.applications, "MobileNetV2", downloaded)
    network = train_base_model.pretrained("MobileNetV2", (32, 32, 3))
    assert (network.input_shape, network.output_shape) == ((None, 32, 32, 3), (None, 1000))
    assert np.asarray(network.get_layer("Conv1").kernel).min() == 1
    assert train_base_model.pretrained("MobileNetV2").input_shape == (None, 224, 224, 3)
    with pytest.raises(InputError, match="`architecture`: received MobileNetV2 for images of 8x8, .*at least 32x32"):
        train_base_model.pretrained("MobileNetV2", (8, 8, 3))


def test_the_drawing_of_groups_says_what_the_graph_says():
    groups = Graph(model.build_model("MobileNetV2")).groups
    inner, stream = groups["block_2_expand"], groups["block_1_project"]
    assert (inner.width, inner.makers, inner.readers, inner.inner) == (
        144,
        ("block_2_expand", "block_2_depthwise"),
        ("block_2_project",),
        True,
    )
    assert (stream.width, stream.makers, stream.readers, stream.inner) == (
        24,
        ("block_1_project", "block_2_project"),
        ("block_2_expand", "block_3_expand"),
        False,
    )
    drawn = (Path(__file__).parents[2] / "docs/img/group.svg").read_text(encoding="utf-8")
    for text in (*inner.makers, *inner.readers, *stream.makers, *stream.readers, "24 to 144", "144 to 24"):
        assert text in drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_built_and_read(name):
    graph = Graph(model.build_model(name, 5, (96, 96, 3)))
    assert graph.model.output_shape == (None, 5) and graph.groups
