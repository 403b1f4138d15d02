"""The training twin of any graph against plain Keras: outputs, losses, every gradient, moving statistics."""

import keras
import numpy as np
import pytest
import shapes
from keras import layers, ops, tree

from compress.engine import twin
from compress.graph import nodes


def two(make, **more):
    """The same network twice, with the same weights and seeds."""
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(4)
        found.append(shapes.lively(make(**more)))
    return found


def step(model, images, labels, net):
    """Loss with the regularisers' parts, gradients {index: array} of the trainable variables of `net`, outputs."""
    places = [i for i, variable in enumerate(net.weights) if variable.trainable]
    variables = [net.weights[i] for i in places]

    def forward():
        outputs = model(images, training=True)
        errors = [
            ops.mean(ops.square(ops.cast(y, "float32") - t)) for y, t in zip(tree.flatten(outputs), labels, strict=True)
        ]
        return sum(errors) + sum(model.losses), outputs

    find = gradients_of_tensorflow if keras.backend.backend() == "tensorflow" else gradients_of_jax
    loss, outputs, gradients = find(forward, variables, model.variables)
    return float(loss), dict(zip(places, map(np.asarray, gradients), strict=True)), outputs


def gradients_of_tensorflow(forward, variables, _):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, outputs = forward()
    return loss, outputs, tape.gradient(loss, [variable.value for variable in variables])


def gradients_of_jax(forward, variables, everything):
    import jax

    def stateless(values):
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            loss, outputs = forward()
        return loss, (outputs, [scope.get_current_value(variable) for variable in everything])

    values = [variable.value for variable in variables]
    (loss, (outputs, after)), gradients = jax.jit(jax.value_and_grad(stateless, has_aux=True))(values)
    for variable, value in zip(everything, after, strict=True):
        if value is not None:  # such as moving statistics
            variable.assign(value)
    return loss, outputs, gradients


def compare(make, limit=1e-3, **more):
    """Compares a step of the twin with one of plain Keras; returns both networks."""
    ours, theirs = two(make, **more)
    images = shapes.pixels(ours, 16)
    labels = [np.random.default_rng(1).normal(size=(16, y.shape[-1])).astype("float32") for y in ours.outputs]
    trainer = twin.Twin(ours)
    loss, gradients, outputs = step(trainer, images, labels, ours)
    expected_loss, expected, expected_outputs = step(theirs, images, labels, theirs)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for mine, other in zip(tree.flatten(outputs), tree.flatten(expected_outputs), strict=True):
        assert shapes.close(mine, other, limit)
    largest = max(np.linalg.norm(g) for g in expected.values())
    for place, other in expected.items():
        name = theirs.weights[place].path
        if place not in gradients:  # a bias in front of a batch-norm, whose gradient in Keras is rounding
            assert name.endswith("bias") and np.linalg.norm(other) < 1e-4 * largest
        else:
            assert np.linalg.norm(gradients[place] - other) <= limit * (np.linalg.norm(other) + 1e-3 * largest), name
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        if mine.name.startswith("moving"):
            assert shapes.close(mine, other, 1e-4), mine.path
    return ours, theirs


@pytest.mark.parametrize("name", shapes.quick("sequential", "residual", "mobile", "narrowing", "shared"))
def test_a_step_is_keras(name):
    ours = compare(shapes.SHAPES[name])[0]
    moved = [
        v
        for v, w in zip(ours.variables, shapes.lively(shapes.SHAPES[name]()).variables, strict=True)
        if v.name.startswith("moving") and not np.array_equal(v, w)
    ]
    assert moved


@pytest.mark.parametrize("channels", [3, 5, 6, 8])
def test_the_gradient_of_a_strided_kernel_is_numpys(channels):
    """oneDNN's own is wrong where there is no AVX-512, for kernels of 1x1 that read fewer than eight channels."""
    inputs = keras.Input((12, 12, channels))
    model = shapes.lively(keras.Model(inputs, layers.Conv2D(8, 1, strides=2, use_bias=False)(inputs)))
    rng = np.random.default_rng(1)
    x, wanted = (rng.normal(size=(16, side, side, n)).astype("float32") for side, n in ((12, channels), (6, 8)))
    _, gradients, _ = step(twin.Twin(model), x, [wanted], model)
    read, kernel = x[:, ::2, ::2].astype("float64"), model.get_weights()[0][0, 0]
    expected = np.einsum("nhwc,nhwd->cd", read, 2 * (read @ kernel - wanted) / wanted.size)
    np.testing.assert_allclose(gradients[0][0, 0], expected, rtol=1e-3, atol=1e-5)


def test_an_inner_model_called_in_inference_mode_stays_so():
    ours = shapes.lively(shapes.transfer(training=False))
    images, before = shapes.pixels(ours), ours.get_weights()
    base = ours.get_layer("base")
    trainer = twin.Twin(ours, features=["base"])
    maps = trainer(images, training=True)[1]
    assert all(np.array_equal(a, b) for a, b in zip(before, ours.get_weights(), strict=True))
    assert all(v.trainable for v in base.weights if v.name == "bias")
    flipped = [base(x, training=False) for x in (images, images[:, :, ::-1])]
    for i, found in enumerate(maps):  # each image was flipped or not
        assert min(np.abs(found - y[i]).max() for y in flipped) < 1e-4


def frozen():
    """A base in inference mode because it isn't trainable, under a head with a batch-norm of its own."""
    base = shapes.mobile()
    base.trainable = False
    x = base.layers[-3].output
    x = layers.BatchNormalization()(layers.Conv2D(5, 1)(x))
    return keras.Model(base.input, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def test_frozen_layers_are_in_inference_mode_and_have_no_gradients():
    ours = compare(frozen)[0]
    assert sum(v.trainable for v in ours.weights) == 5  # kernel; gamma and beta; kernel and bias
    still = shapes.lively(frozen())
    moved = {v.path for v, w in zip(ours.variables, still.variables, strict=True) if not np.array_equal(v, w)}
    assert len(moved) == 2


def regularised():
    """Weight decay by regularisers, on a bias in front of a batch-norm too, and a loss on activations."""
    x = inputs = keras.Input((shapes.SIDE, shapes.SIDE, 3))
    l2 = keras.regularizers.L2(0.1)
    x = layers.Conv2D(4, 3, kernel_regularizer=l2, bias_regularizer=l2)(x / 255.0)
    x = layers.BatchNormalization(gamma_regularizer=l2)(x)
    x = layers.Conv2D(4, 3, activity_regularizer=l2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(4, kernel_regularizer=l2)(layers.GlobalAveragePooling2D()(x)))


def test_the_losses_of_regularisers_are_kept():
    ours, _ = compare(regularised)
    assert ours.layers[1].bias.trainable


def others():
    """Batch-norms that the fused operation can't replace."""
    x = inputs = keras.Input((shapes.SIDE, shapes.SIDE, 3))
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x / 255.0))
    x = layers.BatchNormalization(renorm=True)(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def test_batch_norms_of_another_kind_are_keras_own():
    compare(others)


def masked():
    """A batch-norm over steps of which a mask hides some."""
    x = inputs = keras.Input((7, 3))
    x = layers.BatchNormalization()(layers.Masking(0.0)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def test_a_mask_reaches_the_batch_norm():
    ours, theirs = two(masked)
    steps = np.random.default_rng(0).normal(size=(5, 7, 3)).astype("float32")
    steps[:, 4:] = 0
    np.testing.assert_array_equal(twin.Twin(ours)(steps, training=True), theirs(steps, training=True))
    np.testing.assert_array_equal(ours.get_weights()[2], theirs.get_weights()[2])


def test_a_policy_of_the_model_is_kept():
    def make():
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            return shapes.residual()
        finally:
            keras.config.set_dtype_policy("float32")

    ours, theirs = two(make)
    images = shapes.pixels(ours, 32)
    found, expected = (model(images, training=True) for model in (twin.Twin(ours, "float32"), theirs))
    assert found.dtype == expected.dtype and shapes.close(
        ops.cast(found, "float32"), ops.cast(expected, "float32"), 0.1
    )
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        assert mine.dtype == other.dtype and shapes.close(mine, other, 0.02), mine.path


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_low_precision_leaves_variables_statistics_and_outputs_in_float32(precision):
    ours, theirs = two(shapes.sequential)
    images = shapes.pixels(ours, 32)
    names = [layer.name for layer in ours.layers if isinstance(layer, layers.ReLU)]
    found, *maps = twin.Twin(ours, precision, names)(images, training=True)
    assert {keras.backend.standardize_dtype(x.dtype) for x in maps} == {precision.removeprefix("mixed_")}
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert shapes.close(found, theirs(images, training=True), 0.1)
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        assert mine.dtype == "float32" and shapes.close(mine, other, 0.02), mine.path


def test_what_trains_is_the_model_that_is_saved(tmp_path):
    model = shapes.lively(shapes.residual())
    images, before = shapes.pixels(model), model.get_weights()
    trainer = twin.Twin(model)
    assert trainer.network is model
    trainer.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(images, np.arange(6) % 4, batch_size=3, epochs=1, verbose=0)
    same = [v.path for v, w in zip(model.weights, before, strict=True) if np.array_equal(v, w)]
    resting = {layer.bias.path for layer in trainer.plan.substitutes.without_bias.values()}
    # The bias of a Dense in front of a batch-norm has a gradient of 0 as well, but for TensorFlow's rounding.
    assert len(resting) == 4 and set(same) - {model.layers[-4].bias.path} == resting
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert shapes.close(trainer(images), loaded(images), 1e-5)


def test_an_unknown_feature_is_an_error():
    with pytest.raises(KeyError):
        twin.Twin(shapes.dense(), features=["nowhere"])


def test_paths_reach_into_models():
    model = shapes.transfer()
    paths = [path for path, _ in nodes.walk(model) if path.startswith("base/")][-1:]
    assert (
        twin.Twin(model, features=paths)(shapes.pixels(model))[1].shape[1:] == model.get_layer("base").output.shape[1:]
    )
