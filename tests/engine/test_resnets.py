"""The engine and the optimiser on ResNets, against plain Keras: the same numbers by other operations."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import resnets
import shapes
from conftest import narrow_widths, randomised, stage_outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from compress.cli import flags
from compress.engine import folding, operations, twin
from compress.training import optimizers

BUILDS = {
    "imagenet stem": {},
    "cifar stem": {"stem": "cifar"},
    "half stem": {"stem": "half"},
    "odd sides": {"input_shape": (45, 27, 3)},
    "101 layers": {"depth": 101, "widths": narrow_widths(depth=101)},
    "20 layers": {"widths": narrow_widths(blocks=(1, 2, 2, 1))},
}


def build(seed=0, **more):
    """A narrow network with lively weights."""
    keras.utils.set_random_seed(seed)
    return randomised(resnets.build_resnet(**({"widths": narrow_widths()} | more)), seed)


def twins(**more):
    """Two networks of the same weights."""
    first, second = build(**more), build(**more)
    second.set_weights(first.get_weights())
    return first, second


def pixels(n, net, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (n, *net.input_shape[1:])).astype("uint8")


def close(ours, theirs, limit):
    """Whether two arrays differ by less than `limit` of the larger one's norm."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) <= limit * np.linalg.norm(theirs)


# ---- operations ----


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    side=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_a_convolution_is_a_convolution_whatever_computes_it(height, width, side, stride, seed):
    rng = np.random.default_rng(seed)
    same = side == 3 and stride == 1
    height, width = (height, width) if same else (max(height, side), max(width, side))
    x = rng.normal(size=(2, height, width, 3)).astype("float32")
    kernel = rng.normal(size=(side, side, 3, 4)).astype("float32")
    edge = side // 2 if same else 0
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_allclose(
        np.asarray(
            operations.convolve(ops.convert_to_tensor(x), kernel, (stride, stride), "same" if same else "valid")
        ),
        np.einsum("nhwcij,ijcd->nhwd", windows, kernel),
        rtol=1e-4,
        atol=1e-4,
    )


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    sides=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_depthwise_convolution_is_one_whatever_computes_it(size, sides, stride, seed):
    """Also with kernels larger than the map, and rows that need another way than columns."""
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*sides, 3, 1))
    # TensorFlow's 'same': as many positions as strides leave, the odd one of the padding behind
    out = [-(-n // stride) for n in size]
    total = [max((m - 1) * stride + k - n, 0) for m, n, k in zip(out, size, sides, strict=True)]
    padded = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, sides, (1, 2))[:, ::stride, ::stride]
    found = operations.depthwise(
        ops.convert_to_tensor(x.astype("float32")), kernel.astype("float32"), (stride, stride), "same"
    )
    expected = np.einsum("nhwcij,ijc->nhwc", windows, kernel[..., 0])
    np.testing.assert_allclose(np.asarray(found), expected[:, : out[0], : out[1]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_batch_normalisation_is_numpys(dtype, limit):
    rng = np.random.default_rng(1)
    x = np.asarray(ops.cast(ops.cast(rng.normal(2, 3, (5, 4, 3, 6)), dtype), "float32"))
    gamma, beta = rng.uniform(0.5, 2, 6).astype("float32"), rng.normal(size=6).astype("float32")
    y, mean, variance = operations.normalise_batch(ops.cast(x, dtype), gamma, beta, 1e-3)
    np.testing.assert_allclose(np.asarray(mean), x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(variance), x.var((0, 1, 2)), rtol=1e-4)
    expected = gamma * (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3) + beta
    assert close(ops.cast(y, "float32"), expected, limit)


def batch_norm_gradients(gradient, dtype):
    """Gradients of x, gamma and beta in a lower precision, and in float32 of the same numbers.

    Args:
        gradient: function(function of (x, gamma, beta) -> scalar, x, gamma, beta) -> three gradients.
        dtype: the lower one.
    """
    rng = np.random.default_rng(2)
    x = ops.cast(rng.normal(1.5, 3, (32, 8, 8, 6)), dtype)
    gamma, beta = rng.uniform(0.5, 1.5, 6).astype("float32"), rng.normal(size=6).astype("float32")
    weights = ops.cast(rng.normal(size=(32, 8, 8, 6)), dtype)

    def loss(x, gamma, beta):
        y = operations.normalise_batch(x, gamma, beta, 1e-3)[0]
        return ops.sum(ops.cast(y, "float32") * ops.cast(weights, "float32"))

    found = [gradient(loss, value, gamma, beta) for value in (x, ops.cast(x, "float32"))]
    return [[np.asarray(ops.cast(g, "float32")) for g in gradients] for gradients in found]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_a_half_precision_batch_norm_are_those_of_float32(dtype):
    import tensorflow as tf

    def gradient(function, *values):
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = function(*values)
        return tape.gradient(loss, values)

    for low, full in zip(*batch_norm_gradients(gradient, dtype), strict=True):
        assert close(low, full, 0.01)


# ---- the training twin ----


@pytest.mark.parametrize("kind", shapes.quick("imagenet stem", "odd sides", "20 layers", of=BUILDS))
def test_inference_gives_keras_logits_and_features(kind):
    net = build(**BUILDS[kind])
    images = pixels(3, net).astype("float32")
    features = keras.Model(net.input, [net.get_layer(name).output for name in stage_outputs(net)])(images)
    expected = [net(images, training=False), *features]
    paths = stage_outputs(net)
    for fast in (twin.Twin(net, features=paths), folding.FoldedModel(net, features=paths)):
        for ours, theirs in zip(fast(images, training=False), expected, strict=True):
            assert close(ours, theirs, 1e-5)


@pytest.mark.parametrize("kind", shapes.quick("imagenet stem", "odd sides", "20 layers", of=BUILDS))
def test_a_training_pass_gives_keras_logits_and_statistics(kind):
    ours, theirs = twins(**BUILDS[kind])
    before, images = ours.get_weights(), pixels(16, ours).astype("float32")
    limit = 1e-2 if "101" in kind else 1e-3  # rounding grows with depth
    assert close(twin.Twin(ours)(images, training=True), theirs(images, training=True), limit)
    for mine, other, old in zip(ours.variables, theirs.variables, before, strict=True):
        assert close(mine, other, limit), mine.path
        assert mine.name.startswith("moving") != np.array_equal(mine, old)


def test_gradients_are_keras_and_biases_before_batch_norm_have_none():
    import tensorflow as tf

    ours, theirs = twins()
    images, labels = pixels(64, ours).astype("float32"), np.arange(64) % 10
    fast, found = twin.Twin(ours), []
    variables = [
        {v.path.split("/", 1)[-1] if "resnet" in v.path else v.path: v for v in net.trainable_variables}
        for net in (ours, theirs)
    ]
    for model, chosen in zip((fast, theirs), variables, strict=True):
        with tf.GradientTape() as tape:
            loss = ops.mean(
                keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True), from_logits=True)
            )
        found.append(dict(zip(chosen, tape.gradient(loss, [v.value for v in chosen.values()]), strict=True)))
    resting = set(found[1]) - set(found[0])
    assert len(resting) == 20 and all(path.endswith("_conv/bias") for path in resting)
    largest = max(np.linalg.norm(g) for g in found[1].values())
    assert all(np.linalg.norm(found[1][path]) < 1e-4 * largest for path in resting)  # Keras' own are rounding
    # a ReLU whose input is 0 but for rounding passes the gradient in one network and stops it in the other
    errors = {
        path: np.linalg.norm(found[0][path] - found[1][path]) / np.linalg.norm(found[1][path]) for path in found[0]
    }
    assert max(errors.values()) < 0.02 and np.median(list(errors.values())) < 1e-3, errors


@pytest.mark.slow
def test_what_trains_is_the_model_that_is_saved(tmp_path, pictures):
    images, labels = pictures
    net = build()
    fast = twin.Twin(net)
    fast.compile(optimizers.FusedSGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = net.get_weights()
    fast.fit(images, labels, batch_size=12, epochs=1, verbose=0)
    assert sum(not np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)) == 20 * 5 + 2
    net.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert close(fast.predict(images, verbose=0), loaded.predict(images, verbose=0), 1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("mixed_bfloat16", "bfloat16"), pytest.param("mixed_float16", "float16", marks=pytest.mark.slow)],
)
def test_low_precision_leaves_variables_and_logits_in_float32(precision, dtype, pictures, monkeypatch):
    net = build()
    expected = net.predict(pictures[0], verbose=0)
    paths = stage_outputs(net)
    for fast in (twin.Twin(net, precision, paths), folding.FoldedModel(net, precision, paths)):
        logits, *features = fast(pictures[0], training=False)
        assert logits.dtype == "float32" and {keras.backend.standardize_dtype(f.dtype) for f in features} == {dtype}
        assert close(logits, expected, 0.1) and not close(logits, expected, 1e-6)
    assert {v.dtype for v in net.variables} == {"float32"}
    seen, normalise_batch = [], operations.normalise_batch

    def watched(x, gamma, beta, epsilon):
        y, mean, variance = normalise_batch(x, gamma, beta, epsilon)
        seen.append(tuple(keras.backend.standardize_dtype(part.dtype) for part in (x, y, gamma, beta, mean, variance)))
        return y, mean, variance

    monkeypatch.setattr(operations, "normalise_batch", watched)
    twin.Twin(net, precision)(pictures[0], training=True)
    assert set(seen) == {(dtype,) * 2 + ("float32",) * 4}


# ---- the folded copy ----


def test_a_folded_copy_keeps_its_weights_until_it_is_refolded(tmp_path, pictures):
    net, other = build(0), build(1)
    copy = folding.FoldedModel(net)
    before = copy.predict_on_batch(pictures[0])
    net.set_weights(other.get_weights())
    np.testing.assert_array_equal(copy.predict_on_batch(pictures[0]), before)
    copy.refold(net)
    assert close(copy.predict_on_batch(pictures[0]), other.predict_on_batch(pictures[0]), 1e-5)
    assert copy.trainable_variables == []


@pytest.mark.parametrize(
    "kind", [name if name == "20 layers" else pytest.param(name, marks=pytest.mark.slow) for name in BUILDS]
)
def test_a_frozen_function_gives_keras_logits_at_any_batch_size(kind):
    net = build(**BUILDS[kind])
    images, function = pixels(5, net), folding.freeze(net)
    for batch in (images, images[:1], images[:3]):
        assert close(function(batch), net.predict_on_batch(batch), 1e-5)


# ---- the optimiser ----


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fused_sgd_is_keras_nesterov_with_decoupled_decay(decay):
    rng = np.random.default_rng(4)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 2, 0.5)
    theirs = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=decay or None)
    theirs.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    start = {name: rng.normal(size=(3, 2)).astype("float32") for name in ("kernel", "bias", "gamma", "beta")}
    ours = optimizers.FusedSGD(schedule, decay=decay)
    networks = [[keras.Variable(value, name=name) for name, value in start.items()] for _ in range(2)]
    for _ in range(5):
        gradients = [rng.normal(size=(3, 2)).astype("float32") for _ in start]
        for optimizer, variables in zip((ours, theirs), networks, strict=True):
            optimizer.apply([ops.convert_to_tensor(g) for g in gradients], variables)
    for mine, other in zip(*networks, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=1e-5, atol=1e-6)
        assert not np.allclose(mine, start[mine.name])
    for mine, other in zip(ours.variables, theirs.variables, strict=True):  # step count, rate, momenta: one state file
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=1e-5, atol=1e-6)


# ---- the precision ----


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", "mixed_bfloat16"),
        ("flags\t\t: fpu amx_bf16", "mixed_bfloat16"),
        ("flags\t\t: fpu avx2 avx512f", "float32"),
        ("model name\t: avx512_bf16 9000", "float32"),
        (None, "float32"),
    ],
)
def test_auto_precision_is_what_the_processor_multiplies(line, expected, tmp_path, monkeypatch):
    if line:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: x\n{line}\n")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert flags.precision("auto", tmp_path / "cpuinfo") == expected
    assert flags.precision("mixed_float16", tmp_path / "cpuinfo") == "mixed_float16"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert flags.precision("auto", tmp_path / "cpuinfo") == "float32"


def test_an_unknown_precision_is_refused_in_one_line(capsys):
    parser = flags.Parser("x.py")
    flags.add_machine_flags(parser)
    assert parser.parse_args([]).precision == flags.precision("auto")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--precision", "float8"])
    assert capsys.readouterr().err == (
        "x.py: --precision: received 'float8', expected one of auto, float32, mixed_bfloat16, mixed_float16\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is asked for on x86 alone")
@pytest.mark.parametrize("told", [None, pytest.param("0", marks=pytest.mark.slow)])
def test_onednn_computes_unless_the_user_says_otherwise(told):
    """TensorFlow itself turns it on only where the processor has AVX-512 VNNI or better; it is asked what it does."""
    code = """
from compress.cli import app, configs
app.start_keras(configs.MachineConfig(gpu=False, seed=1, verbose=0))
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        text=True,
        check=True,
        env=environment | ({"TF_ENABLE_ONEDNN_OPTS": told} if told else {}),
        capture_output=True,
    )
    assert answer.stdout.split() == [str(told is None)]
