"""model.py and metrics.py: keras.applications' layers, costs without building, shapes read back, hand-worked values."""

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised, stage_outputs
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from compress import metrics
from compress.data import dataset

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CONSTRUCTORS = {50: "ResNet50", 101: "ResNet101", 152: "ResNet152"}
MEAN, STD = np.array([123.68, 116.779, 103.939]), np.array([58.393, 57.12, 57.375])


def weighted(model):
    """Layers with weights, in the model's order."""
    return [layer for layer in model.layers if layer.weights]


def geometry(layer):
    """What must agree with keras.applications whatever the widths are."""
    config = layer.get_config()
    return {
        key: config.get(key)
        for key in ("name", "kernel_size", "strides", "padding", "use_bias", "epsilon", "dilation_rate", "groups")
    }


def shapes(model):
    return [(layer.name, [tuple(weight.shape) for weight in layer.weights]) for layer in weighted(model)]


@pytest.fixture(scope="module")
def application():
    """keras.applications' ResNet50 for ImageNet."""
    return keras.applications.ResNet50(weights=None)


@pytest.fixture(scope="module")
def small():
    """A narrow ResNet50 with random weights and logits of order 1; no test changes it."""
    model = randomised(resnets.build_resnet(widths=narrow_widths()))
    kernel = model.get_layer("predictions").kernel
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    kernel.assign(np.asarray(kernel) / np.std(np.asarray(model(noise))))
    return model


def random_widths(depth, seed, most=9, blocks=None):
    rng = np.random.default_rng(seed)
    return {name: int(rng.integers(1, most + 1)) for name in resnets.full_widths(depth, blocks)}


# ---- keras.applications ----


def test_weights_of_50_layers_are_those_of_keras_applications(application):
    ours = resnets.build_resnet(50, 1000, (224, 224, 3))
    assert shapes(ours) == shapes(application)
    assert [geometry(layer) for layer in weighted(ours)] == [geometry(layer) for layer in weighted(application)]
    theirs = {layer.name: layer.output.shape for layer in application.layers}
    assert {
        layer.name: layer.output.shape for layer in ours.layers if layer.name not in ("image", "normalization")
    } == {name: shape for name, shape in theirs.items() if not name.startswith("input_layer")}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [101, 152])
def test_names_and_geometry_of_deep_networks_are_those_of_keras_applications(depth):
    theirs = getattr(keras.applications, CONSTRUCTORS[depth])(weights=None, input_shape=(32, 32, 3), include_top=False)
    ours = resnets.build_resnet(depth, widths=narrow_widths(depth=depth, blocks=None))
    assert [geometry(layer) for layer in weighted(ours)][:-1] == [geometry(layer) for layer in weighted(theirs)]
    full = resnets.full_widths(depth)
    for name, _, read, written in resnets.convolutions(BLOCKS[depth]):
        assert theirs.get_layer(f"{name}_conv").kernel.shape[2:] == (3 if read == "rgb" else full[read], full[written])


def test_cost_of_the_full_network_is_that_of_keras_applications(application):
    assert resnets.cost_of(resnets.full_widths(50), 1000, (224, 224, 3)) == (
        application.count_params(),
        metrics.count_macs(application),
    )
    assert application.count_params() == 25_636_712  # Keras' own table


# ---- costs ----


@pytest.mark.parametrize(
    ("stem", "shape", "depth", "blocks", "seed"),
    [
        ("imagenet", (33, 47, 3), 50, None, 1),
        pytest.param("cifar", (9, 14, 3), 50, None, 2, marks=pytest.mark.slow),
        pytest.param("cifar", (7, 5, 3), 101, None, 4, marks=pytest.mark.slow),
        ("half", (17, 10, 3), 50, (2, 1, 5, 3), 3),
    ],
)
def test_cost_of_equals_the_built_model(stem, shape, depth, blocks, seed):
    widths = random_widths(depth, seed, blocks=blocks)
    model = resnets.build_resnet(depth, 7, shape, stem, widths)
    assert resnets.cost_of(widths, 7, shape, stem) == (model.count_params(), metrics.count_macs(model))
    assert metrics.size_of(model) == {"parameters": model.count_params(), "macs": metrics.count_macs(model)}


def test_count_macs_of_two_layers_by_hand():
    inputs = keras.Input((5, 7, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)  # (N, 2, 3, 4)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    assert metrics.count_macs(keras.Model(inputs, keras.layers.Dense(6)(x))) == 2 * 3 * (3 * 3 * 3 * 4) + 4 * 6


def test_full_widths_are_those_of_the_paper():
    widths = resnets.full_widths(50)
    assert len(widths) == 1 + 4 + 2 * 16
    assert [widths[f"conv{s}_stream"] for s in (2, 3, 4, 5)] == [256, 512, 1024, 2048]
    assert [widths[f"conv{s}_block1_{i}_conv"] for s in (2, 3, 4, 5) for i in (1, 2)] == [
        64,
        64,
        128,
        128,
        256,
        256,
        512,
        512,
    ]
    for depth, blocks in BLOCKS.items():
        assert resnets.blocks_of(resnets.full_widths(depth)) == blocks


# ---- shapes read back ----


@pytest.mark.parametrize(
    ("depth", "blocks", "stem", "shape", "classes"),
    [
        (50, None, "cifar", (17, 8, 3), 3),
        (101, None, "imagenet", (40, 32, 3), 1),
        (50, (1, 4, 2, 3), "half", (33, 20, 3), 2),
        (101, (1, 1, 7, 1), "imagenet", (20, 20, 3), 2),
    ],
)
def test_widths_and_architecture_are_read_back(depth, blocks, stem, shape, classes):
    widths = random_widths(depth, depth, blocks=blocks)
    wanted = {
        "depth": depth,
        "classes": classes,
        "input_shape": shape,
        "stem": stem,
        "widths": widths,
        "normalization": ((1.5, 0.0, -3.25), (255.0, 1.0, 58.395)),
    }
    model = resnets.build_resnet(**wanted)
    assert resnets.widths_of(model) == widths
    assert resnets.architecture_of(model) == wanted
    # the layers that count in the name of a ResNet: convolutions outside of the shortcuts, and the classifier
    counted = [layer for layer in model.layers if layer.name.endswith("_conv") and not layer.name.endswith("_0_conv")]
    assert model.name == f"resnet{len(counted) + 1}"


def test_stage_outputs_are_the_last_of_each_stage(small):
    assert stage_outputs(small) == [
        "conv2_block2_out",
        "conv3_block1_out",
        "conv4_block1_out",
        "conv5_block1_out",
    ]
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="not a ResNet"):
        resnets.widths_of(keras.Model(inputs, keras.layers.Dense(2)(inputs)))


def test_a_file_opens_in_bare_keras_with_equal_logits(small, pictures, tmp_path):
    path = tmp_path / "model.h5"
    small.save(path)
    loaded = keras.models.load_model(path)  # no custom objects
    np.testing.assert_array_equal(loaded(pictures[0]), small(pictures[0]))
    assert resnets.architecture_of(loaded) == resnets.architecture_of(small)
    assert metrics.size_of(loaded, path)["bytes"] == path.stat().st_size


# ---- input and output ----


def test_uint8_and_float_images_give_the_same_logits(small, pictures):
    images = pictures[0]
    logits = np.asarray(small(images))
    np.testing.assert_array_equal(small(images.astype("float32")), logits)
    np.testing.assert_allclose(metrics.predict_logits(small, images, batch_size=7), logits, atol=1e-4)  # 7 + 7 + 7 + 3


def test_normalisation_is_numpys(small):
    ramp = np.arange(256, dtype="float32")[None, :, None, None] * np.ones(3, "float32")  # (1, 256, 1, 3)
    ours = np.asarray(small.get_layer("normalization")(ramp))
    np.testing.assert_allclose(ours, (ramp - MEAN) / STD, atol=1e-5)


def test_output_is_logits(small, pictures):
    logits = np.asarray(small(pictures[0]))
    assert logits.shape == (24, 10) and logits.dtype == np.float32
    assert logits.min() < 0 and np.abs(logits.sum(1) - 1).min() > 1e-3
    dense = small.get_layer("predictions")
    pooled = np.asarray(keras.Model(small.input, small.get_layer("avg_pool").output)(pictures[0]))
    np.testing.assert_allclose(logits, pooled @ np.asarray(dense.kernel) + np.asarray(dense.bias), atol=1e-4)


def test_every_block_starts_as_the_identity(pictures):
    model = resnets.build_resnet(widths=narrow_widths(blocks=(1, 4, 1, 1)))
    ends = keras.Model(model.input, [model.get_layer(f"conv3_block{b}_out").output for b in (1, 2, 3, 4)])
    first, *later = ends(pictures[0][:2])
    assert np.ptp(first) > 0
    for end in later:
        np.testing.assert_array_equal(end, first)


@pytest.mark.parametrize(
    ("depth", "stem", "shape"),
    [
        (50, "imagenet", (32, 32, 3)),
        pytest.param(101, "half", (40, 24, 3), marks=pytest.mark.slow),
        pytest.param(50, "cifar", (32, 32, 3), marks=pytest.mark.slow),
    ],
)
def test_the_readable_network_is_the_one_that_is_pruned(depth, stem, shape):
    """model.py and storage/resnet.py build the same layers, and draw the same weights."""
    keras.utils.set_random_seed(3)
    ours = model.resnet(depth, 7, shape, stem)
    keras.utils.set_random_seed(3)
    theirs = resnets.build_resnet(depth, 7, shape, stem)
    assert ours.get_config() == theirs.get_config()
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True))


# ---- errors ----


@pytest.mark.parametrize(
    ("blocks", "depth"),
    [
        ((3, 4, 6, 3), 50),
        ((1, 1, 1, 1), 50),
        ((3, 4, 7, 3), 101),
        ((1, 1, 23, 1), 101),
        ((1, 5, 1, 1), 152),
        ((3, 8, 36, 3), 152),
        ((3, 8, 37, 3), None),
        ((0, 1, 1, 1), None),
        ((4, 1, 1, 1), None),
    ],
)
def test_depth_of_blocks_is_that_of_the_smallest_network_that_holds_them(blocks, depth):
    if depth is None:
        with pytest.raises(ValueError, match="blocks"):
            resnets.depth_of(blocks)
    else:
        assert resnets.depth_of(blocks) == depth


# ---- metrics ----


def test_classification_metrics_by_hand():
    logits = np.array(
        [[2.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 3.0], [6.0, 5, 4, 3, 2, 1, 0], [6.0, 5, 4, 3, 2, 1, 0]], "float32"
    )
    labels = np.array([0, 0, 4, 5])  # right; wrong (a tie for the second place: class 0 is among the five); 5th; 6th
    ladder = np.log(sum(np.exp(k) for k in range(7)))
    losses = [np.log(np.exp(2) + 6) - 2, np.log(np.exp(3) + 6), ladder - 2, ladder - 1]
    found = metrics.classification_metrics(logits, labels)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert (found["acc"], found["top5_acc"]) == (0.25, 0.75)
    assert found["class_acc"] == [0.5, None, None, None, 0.0, 0.0, None]
    assert all(type(found[key]) is float for key in ("loss", "acc", "top5_acc", "calibration_error"))


def test_calibration_error_by_hand():
    """Confidences 0.9 (right, wrong), 0.6 (right) and 0.5 (right): nine bins hold 2, 1 and 1 images."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    labels = np.array([0, 1, 0, 0])
    expected = (2 * abs(1 / 2 - 0.9) + abs(1 - 0.6) + abs(1 - 0.5)) / 4
    assert metrics.calibration_error(logits + 7, labels, bins=9) == pytest.approx(expected)
    assert metrics.calibration_error(np.float32([[1000, 0], [0, 1000]]), np.array([0, 1])) == 0
    assert metrics.calibration_error(np.float32([[1000, 0], [0, 1000]]), np.array([1, 0])) == 1


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_calibration_error_is_a_loop_over_bins(classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 3, (200, classes)), rng.integers(0, classes, 200)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = share.max(1), share.argmax(1) == labels
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.calibration_error(logits, labels) == pytest.approx(wanted, abs=1e-9)


def test_fewer_than_five_classes_are_all_in_the_top_five():
    found = metrics.classification_metrics(np.array([[0.0, 1], [1, 0]], "float32"), np.array([0, 1]))
    assert (found["acc"], found["top5_acc"]) == (0.0, 1.0)


def test_evaluate_names_split_and_count(small, pictures):
    images, labels = pictures
    found = metrics.evaluate(small, dataset.Split(images, labels, "validation"), batch_size=24)
    logits = np.asarray(small(images), np.float64)
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(24), labels]
    assert (found["split"], found["images"]) == ("validation", 24)
    assert found["loss"] == pytest.approx(wanted.mean(), rel=1e-4)
    assert found["acc"] == pytest.approx(np.mean(logits.argmax(1) == labels))


def test_latency_is_positive():
    median, low, high = metrics.latency_ms(lambda images: images.mean((1, 2)), (4, 4, 3), batch_size=2, runs=5)
    assert 0 < low <= median <= high


def test_latency_leaves_out_the_warm_up(monkeypatch):
    now, passes = [0.0], iter((99, 99, *range(1, 12)))  # two slow passes, then 1 to 11 seconds

    def function(images):
        assert images.shape == (3, 2, 2, 3) and images.dtype == np.uint8
        now[0] += next(passes)

    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    found = metrics.latency_ms(function, (2, 2, 3), batch_size=3, runs=11, warmup=2)
    assert found == pytest.approx((6000, 2000, 10000))
    assert next(passes, None) is None
