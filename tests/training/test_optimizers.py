"""optimizers.py: Muon against singular values, numpy and FusedSGD."""

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.training import optimizers

RNG = np.random.default_rng(11)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_singular_vectors_stay_and_singular_values_come_together(rows, columns, seed):
    rng = np.random.default_rng(seed)
    left, _, right = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    values = rng.uniform(0.05, 1, min(rows, columns))
    matrix = (left * values) @ right
    found = np.asarray(optimizers.orthogonal(matrix.astype("float32"), iterations=7), np.float64)
    diagonal = left.T @ found @ right.T  # in the bases of the matrix
    assert np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 1e-3
    assert np.diag(diagonal).min() > 0.6 and np.diag(diagonal).max() < 1.3


def three_iterations(x):
    """By numpy, on singular values."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(12, 7), (5, 30), (4, 4)])
def test_three_iterations_by_numpy(shape):
    x = RNG.normal(size=shape)
    np.testing.assert_allclose(optimizers.orthogonal(x.astype("float32")), three_iterations(x), atol=1e-4)


def test_a_step_turns_kernels_by_a_share_of_their_length_and_moves_the_rest_as_sgd():
    net = randomised(resnets.build_resnet(widths=narrow_widths()))
    twin = keras.models.clone_model(net)
    twin.set_weights(net.get_weights())
    before = {v.path: np.array(v) for v in net.trainable_variables}
    gradients = [RNG.normal(size=v.shape).astype("float32") for v in net.trainable_variables]
    muon = optimizers.Muon(0.05, decay=0.1, kernels=optimizers.normalised_kernels(net))
    for model, optimizer in ((net, muon), (twin, optimizers.FusedSGD(0.05, decay=0.1))):
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], model.trainable_variables)
    kernels = 0
    for v, other, gradient in zip(net.trainable_variables, twin.trainable_variables, gradients, strict=True):
        now, old = np.array(v, np.float64), before[v.path]
        if v.path.endswith("_conv/kernel"):
            kernels += 1
            assert np.linalg.norm(now) == pytest.approx(np.linalg.norm(old), rel=1e-5)
            way = three_iterations(1.9 * gradient.reshape(-1, v.shape[-1])).reshape(v.shape)
            wanted = old - 0.2 * 0.05 * np.linalg.norm(old) * way / np.linalg.norm(way)
            wanted *= np.linalg.norm(old) / np.linalg.norm(wanted)
            np.testing.assert_allclose(now, wanted, atol=1e-4 * np.abs(old).max())
        else:
            np.testing.assert_allclose(now, np.array(other), rtol=1e-6)
    assert kernels == len(list(resnets.convolutions((2, 1, 1, 1))))


@pytest.mark.parametrize("depth", [50, 101])
def test_muon_takes_the_convolutions_of_a_resnet_and_no_classifier(depth):
    net = resnets.build_resnet(depth, widths=dict.fromkeys(resnets.full_widths(depth), 4))
    wanted = {v.path for v in net.trainable_variables if v.path.endswith("_conv/kernel")}
    assert {v.path for v in optimizers.normalised_kernels(net)} == wanted


def test_muon_takes_what_a_batch_norm_normalises_of_any_network():
    image = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    x = keras.layers.DepthwiseConv2D(3)(keras.layers.ReLU()(inner(image)))
    x = keras.layers.Conv2D(5, 1, name="bare")(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(6, use_bias=False, name="hidden")(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    net = keras.Model(image, keras.layers.Dense(3, name="classifier")(x))
    found = optimizers.normalised_kernels(net)
    assert [v.shape for v in found] == [(3, 3, 3, 4), (5, 6)]


def test_muon_leaves_grouped_kernels_and_those_whose_batch_norm_rests():
    image = keras.Input((8, 8, 4))
    inner = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(6, 3), keras.layers.BatchNormalization()])
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, groups=2)(inner(image, training=False)))
    x = keras.layers.BatchNormalization(name="frozen", trainable=False)(keras.layers.Conv2D(5, 1)(x))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(7, 1)(x))
    net = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    assert [v.shape for v in optimizers.normalised_kernels(net)] == [(1, 1, 5, 7)]


def test_a_kernel_without_gradient_stays():
    net = randomised(resnets.build_resnet(widths=narrow_widths()))
    before = net.get_weights()
    zeros = [np.zeros(v.shape, "float32") for v in net.trainable_variables]
    optimizers.Muon(0.05, kernels=optimizers.normalised_kernels(net)).apply(zeros, net.trainable_variables)
    for now, old in zip(net.get_weights(), before, strict=True):
        np.testing.assert_allclose(now, old, rtol=1e-5)
