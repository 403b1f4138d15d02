"""The losses of knowledge_distillation.py and what trains by them, against numbers worked by hand, numpy and Keras."""

import math

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised, small_net
from hypothesis import given
from hypothesis import strategies as st

import knowledge_distillation as script
from compress.cli import configs
from compress.distillation import discriminator as discriminators
from compress.distillation import regressors as regressing
from compress.distillation.distiller import Distiller, Loss, Outputs, optimizer_for
from compress.storage import states
from compress.training import fit
from compress.training.recipe import Recipe, compile_trainer, optimizer_of

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (6, 32, 32, 3)).astype("uint8")
LABELS = RNG.integers(0, 10, 6)
TEACHER_LOGITS, STUDENT_LOGITS = RNG.normal(0, 3, (2, 9, 10)).astype("float32")
LAMBDAS, HARD = (0.7, 0.3, 0.2), 0.45
NAMES = ("backbone", "intermediate", "adversarial")  # of the losses that the lambdas weigh


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def pixels(count=6):
    """The images as `fit` hands them on, as a tensor."""
    return keras.ops.convert_to_tensor(IMAGES[:count])


def arrays(variables):
    return [np.array(v) for v in variables]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


# ---- losses ----


def backbone(teacher, student, temperature):
    """The loss of two arrays of logits."""
    return float(script.backbone_loss(Outputs(teacher, []), Outputs(student, []), None, temperature))


def intermediate(teacher, student):
    """The loss of two lists of feature maps, with regressors that change nothing."""
    return float(script.intermediate_loss(Outputs(None, teacher), Outputs(None, student), None, [lambda x: x] * 2))


def adversaries(scores):
    """(adversarial loss, discriminator's of a teacher, of a student) with these scores; the other has +-1000."""

    class Scores:
        trainable_variables = non_trainable_variables = ()

        def __call__(self, logits, training):
            return logits

        def stateless_call(self, weights, statistics, logits, training):
            return logits, ()

    sure = np.full_like(scores, 1000)
    found = [script.adversarial_loss(None, Outputs(scores, []), None, Scores())]
    for teacher, student in ((scores, -sure), (sure, scores)):
        found.append(script.discriminator_loss(Outputs(teacher, []), Outputs(student, []), None, Scores()))
    return [float(loss) for loss in found]


@pytest.mark.parametrize(
    ("temperature", "teacher", "student", "expected"),
    [
        # p_t = (3/4, 1/4), p_s = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
        (1, [np.log(3.0), 0.0], [0.0, 0.0], 0.75 * np.log(1.5) + 0.25 * np.log(0.5)),
        # the same halves and quarters at T = 4, times 16
        (4, [4 * np.log(3.0), 0.0], [0.0, 0.0], 16 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))),
        # p_t = (1/2, 1/2), p_s = (1/10, 9/10): 1/2 ln(5) + 1/2 ln(5/9)
        (1, [2.0, 2.0], [0.0, np.log(9.0)], 0.5 * np.log(5) + 0.5 * np.log(5 / 9)),
        (4, [2.0, 2.0], [0.0, 4 * np.log(9.0)], 16 * (0.5 * np.log(5) + 0.5 * np.log(5 / 9))),
    ],
)
def test_backbone_loss_by_hand(temperature, teacher, student, expected):
    loss = backbone(np.float32([teacher]), np.float32([student]), temperature)
    assert loss == pytest.approx(expected, rel=1e-5)
    # two equal rows have the loss of one: the batch is averaged
    twice = backbone(np.float32([teacher] * 2), np.float32([student] * 2), temperature)
    assert twice == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0, 20.0])
def test_backbone_loss_is_numpys_class_sum_and_keras_own(temperature):
    p, q = (softmax(z.astype("float64") / temperature) for z in (TEACHER_LOGITS, STUDENT_LOGITS))
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    loss = backbone(TEACHER_LOGITS, STUDENT_LOGITS, temperature)
    assert loss == pytest.approx(expected, rel=1e-5)
    theirs = keras.distillation.LogitsDistillation(temperature=temperature, loss=keras.losses.KLDivergence())
    assert loss == pytest.approx(float(theirs.compute_loss(TEACHER_LOGITS, STUDENT_LOGITS)), rel=1e-4)


@given(st.floats(0.5, 50), st.floats(-1000, 1000), st.integers(2, 20))
def test_backbone_loss_is_zero_for_equal_outputs_whatever_their_offset(temperature, offset, classes):
    logits = np.random.default_rng(classes).normal(0, 5, (4, classes)).astype("float32")
    assert backbone(logits, logits, temperature) == 0
    # float32 resolves 1000 to 6e-5: moved logits aren't quite the same logits
    assert backbone(logits + np.float32(offset), logits, temperature) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("sign", [1, -1])
def test_losses_are_stable_at_scores_of_a_thousand(sign):
    z = np.float32([[1000 * sign, -1000 * sign]])
    # p_t = (1, 0) against p_s = (0, 1): log p_s = -2000 / T
    assert backbone(z, -z, 4.0) == pytest.approx(16 * 2000 / 4)
    wanted = [0, 0, 1000] if sign > 0 else [1000, 1000, 0]
    assert adversaries(np.float32([[1000 * sign]])) == pytest.approx(wanted)


def test_intermediate_loss_by_hand():
    teacher = [np.float32([[[[1, 2]]]]), np.zeros((2, 2, 1, 1), "float32")]
    student = [np.float32([[[[0, 4]]]]), np.float32([1, 2, 3, 4]).reshape(2, 2, 1, 1)]
    # (1 + 4) / 2 + (1 + 4 + 9 + 16) / 4
    assert intermediate(teacher, student) == pytest.approx(2.5 + 7.5)
    assert intermediate(teacher, teacher) == 0
    with pytest.raises(ValueError, match="zip"):
        intermediate(teacher, student[:1])


def test_adversaries_losses_by_hand_and_as_keras():
    of_teacher, of_student = (-np.log(0.5) - np.log(0.8)) / 2, (-np.log(0.5) - np.log(0.2)) / 2
    found = adversaries(np.float32([[0.0], [np.log(4.0)]]))  # probabilities 1/2 and 4/5 that these are the teacher's
    assert found == pytest.approx([of_teacher, of_teacher, of_student], rel=1e-5)
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True)
    many = RNG.normal(0, 4, (50, 1)).astype("float32")
    theirs = [float(keras_loss(np.full_like(many, target), many)) for target in (1, 1, 0)]
    assert adversaries(many) == pytest.approx(theirs, rel=1e-5)


# ---- regressors and discriminator ----


@pytest.mark.parametrize("k", [1, 2, 3])
def test_constant_regressor_is_numpys_convolution(k):
    x = RNG.normal(0, 1, (2, 5, 4, 3)).astype("float32")
    got = np.asarray(regressing.ConstantRegressor(7, (k, k))(x))
    expected = np.zeros((2, 6 - k, 5 - k, 7))
    for i in range(6 - k):
        for j in range(5 - k):
            window = x[:, i : i + k, j : j + k, :].sum((1, 2, 3)) / k**2  # every output channel sees the same kernel
            expected[:, i, j, :] = window[:, None]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


STUDENT_SHAPES = [(None, 8, 8, 4), (None, 4, 4, 5), (None, 3, 3, 6), (None, 2, 2, 9)]
TEACHER_SHAPES = [(None, 8, 8, 8), (None, 4, 4, 9), (None, 2, 2, 10), (None, 1, 1, 12)]


def test_conv1x1_regressors_are_three_convolutions_of_the_mean_width():
    shapes = [(*s[:3], t[-1]) for s, t in zip(STUDENT_SHAPES, TEACHER_SHAPES, strict=True)]
    regressors = regressing.build_regressors("conv1x1", STUDENT_SHAPES, shapes)
    assert len(regressors) == 4
    for regressor, student, teacher in zip(regressors, STUDENT_SHAPES, shapes, strict=True):
        kernels = [v.shape for v in regressor.trainable_variables if v.name == "kernel"]
        width = (student[-1] + teacher[-1]) // 2
        assert kernels == [(1, 1, student[-1], width), (1, 1, width, width), (1, 1, width, teacher[-1])]
        assert [layer.activation.__name__ for layer in regressor.layers] == ["relu", "relu", "linear"]
        x = RNG.normal(0, 1, (2, *student[1:])).astype("float32")
        y = np.asarray(regressor(x))
        assert y.shape == (2, *teacher[1:])
        hidden = x.astype("float64")
        for i, layer in enumerate(regressor.layers):
            kernel, bias = arrays(layer.weights)
            hidden = hidden @ kernel[0, 0] + bias
            hidden = np.maximum(hidden, 0) if i < 2 else hidden
        np.testing.assert_allclose(y, hidden, rtol=1e-3, atol=1e-4)


def test_constant_regressors_have_the_teachers_shapes_and_nothing_to_train():
    regressors = regressing.build_regressors("constant", STUDENT_SHAPES, TEACHER_SHAPES)
    for regressor, student, teacher in zip(regressors, STUDENT_SHAPES, TEACHER_SHAPES, strict=True):
        assert regressor(np.ones((2, *student[1:]), "float32")).shape == (2, *teacher[1:])
        assert regressor.variables == []


def test_discriminator_is_512_256_1_before_the_sigmoid():
    model = discriminators.build_discriminator(10)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [tuple(v.shape) for layer in dense for v in layer.weights] == [
        (10, 512),
        (512,),
        (512, 256),
        (256,),
        (256, 1),
        (1,),
    ]
    assert [type(layer).__name__ for layer in model.layers] == ["Dense", "BatchNormalization", "LeakyReLU"] * 2 + [
        "Dense"
    ]
    x = TEACHER_LOGITS.astype("float64")
    for i in range(2):  # batch statistics, since it is only ever used in training
        kernel, bias = arrays(dense[i].weights)
        x = x @ kernel + bias
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
        x = np.where(x > 0, x, 0.25 * x)
    kernel, bias = arrays(dense[2].weights)
    np.testing.assert_allclose(
        np.asarray(model(TEACHER_LOGITS, training=True)), x @ kernel + bias, rtol=1e-2, atol=1e-3
    )


# ---- the distiller ----


def calm(model):
    """The model with quiet residual branches: features and logits of order 1, so that no loss drowns the others."""
    for layer in model.layers:
        if layer.name.endswith(("_0_bn", "_3_bn")):
            layer.gamma.assign(0.2 * np.array(layer.gamma))
            layer.beta.assign(0.2 * np.array(layer.beta))
    head = model.get_layer("predictions").kernel  # Keras' own weights would make logits of order 0.1
    head.assign(np.random.default_rng(3).normal(0, 1, head.shape))
    return model


def build_distiller(lambdas=LAMBDAS, hard=HARD, steps=1, **more):
    """A distiller between narrow networks whose streams differ, with lively weights."""
    teacher = calm(randomised(resnets.build_resnet(widths=narrow_widths()), 1))
    student = calm(randomised(resnets.build_resnet(widths=narrow_widths(inner=5, stream=4)), 2))
    weights = {f"lambda{i}": weight for i, weight in enumerate(lambdas, 1)}
    config = configs.DistilConfig(**weights, hard_label_weight=hard, **more)
    losses = script.losses_of(config, teacher, student, steps)
    return Distiller(teacher if config.taught else None, student, losses, config.precision, config.mirror_teacher)


def discriminator_of(distiller):
    (found,) = {
        id(layer): layer for loss in distiller.terms if loss.name == "discriminator" for layer in loss.layers
    }.values()
    return found


def regressors_of(distiller):
    return next(loss.layers for loss in distiller.terms if loss.name == "intermediate")


def optimised(distiller, optimizer):
    return optimizer_for(distiller.terms, optimizer)


def test_a_mirrored_teacher_answers_the_mean_of_both_images():
    distiller = build_distiller((1.0, 0.5, 0.0), mirror_teacher=True)
    plain = build_distiller((1.0, 0.5, 0.0))
    x = pixels()
    outputs = distiller(x, training=False)
    parts, others = (d.compute_parts(x, LABELS, outputs) for d in (distiller, plain))
    one, other = (np.asarray(distiller.teacher(images)[0]) for images in (x, np.asarray(x)[:, :, ::-1]))
    assert np.abs(one - other).max() > 0.01
    wanted = backbone((one + other) / 2, outputs[0], 4.0)
    np.testing.assert_allclose(parts["backbone"], wanted, rtol=1e-5)
    assert abs(float(parts["backbone"]) / float(others["backbone"]) - 1) > 1e-3
    np.testing.assert_allclose(parts["hard_label"], others["hard_label"], rtol=1e-6)
    features = distiller.teacher(x)[1:]  # they have places, which a mirror moves
    wanted = script.intermediate_loss(
        Outputs(None, features), Outputs(None, outputs[1:]), None, regressors_of(distiller)
    )
    np.testing.assert_allclose(parts["intermediate"], wanted, rtol=1e-5)


def test_regularisers_of_the_students_layers_are_part_of_the_loss_and_the_teachers_are_not():
    teacher, student = small_net(None), small_net(None)
    for model, strength in ((teacher, 1.0), (student, 0.25)):
        model.layers[1].kernel.regularizer = keras.regularizers.L2(strength)
    config = configs.DistilConfig(lambda1=0.5, hard_label_weight=HARD)
    distiller = Distiller(teacher, student, script.losses_of(config, teacher, student, 1), "float32")
    x = pixels()
    outputs = distiller(x, training=False)
    parts = {name: float(part) for name, part in distiller.compute_parts(x, LABELS, outputs).items()}
    wanted = 0.5 * parts["backbone"] + HARD * parts["hard_label"] + 0.25 * np.square(student.layers[1].kernel).sum()
    assert float(distiller.compute_loss(x, LABELS, outputs)) == pytest.approx(wanted, rel=1e-5)


def test_an_annealed_teacher_falls_silent_step_by_step():
    distiller = build_distiller((1.0, 0.5, 0.0), teacher_annealing=True, steps=4)
    x = pixels()
    outputs = distiller(x, training=False)
    parts = {name: float(part) for name, part in distiller.compute_parts(x, LABELS, outputs).items()}
    for share in (1, 0.75, 0.5, 0.25, 0, 0):
        total = distiller.compute_loss(x, LABELS, outputs)
        assert float(total) == pytest.approx(
            share * (parts["backbone"] + 0.5 * parts["intermediate"]) + HARD * parts["hard_label"], rel=1e-5
        )
        distiller.compute_loss(x, LABELS, outputs, training=False)  # a validation counts nothing


@pytest.mark.slow
def test_a_state_holds_how_far_a_teacher_has_fallen_silent(tmp_path):
    from compress.storage import states

    images, labels = np.asarray(pixels()), np.asarray(LABELS)
    steps = []
    for _ in range(2):
        distiller = build_distiller((1.0, 0.0, 0.0), teacher_annealing=True, steps=9)
        distiller.compile("sgd")
        distiller.optimizer.build(distiller.trainable_variables)
        if (tmp_path / "state.npz").exists():
            states.load_state(distiller, tmp_path / "state.npz")
        distiller.fit(images, labels, batch_size=len(images) // 2, epochs=1, verbose=0)
        states.save_state(distiller, tmp_path / "state.npz", {})
        steps.append(float(distiller.steps_done))
    assert steps == [2, 4]


@pytest.fixture(scope="module")
def distiller():
    """One whose trainable weights no test changes."""
    return build_distiller(label_smoothing=0.1)


@pytest.fixture(scope="module")
def gradients(distiller):
    """(parts, total, {(loss, group): gradients}) of one forward and as many backward passes."""
    import tensorflow as tf

    groups = {
        "student": distiller.student.trainable_variables,
        "teacher": distiller.teacher.weights,
        "discriminator": discriminator_of(distiller).trainable_variables,
        "regressors": [v for regressor in regressors_of(distiller) for v in regressor.trainable_variables],
    }
    with tf.GradientTape(persistent=True) as tape:
        for v in distiller.teacher.weights:
            tape.watch(v.value)
        outputs = distiller(pixels(), training=True)
        parts = distiller.compute_parts(pixels(), LABELS, outputs)
        total = distiller.compute_loss(pixels(), LABELS, outputs)
    losses = parts | {"total": total}
    flat = [v for variables in groups.values() for v in variables]
    found = {}
    for name, loss in losses.items():
        values = iter(tape.gradient(loss, [v.value for v in flat]))
        for group, variables in groups.items():
            found[name, group] = [None if g is None else np.array(g) for g in (next(values) for _ in variables)]
    return {name: float(part) for name, part in parts.items()}, float(total), found


def size(grads):
    return sum(float(np.abs(g).sum()) for g in grads if g is not None)


@pytest.mark.parametrize(
    ("loss", "moved"),
    [
        ("backbone", {"student"}),
        ("intermediate", {"student", "regressors"}),
        ("adversarial", {"student"}),
        ("hard_label", {"student"}),
        ("discriminator", {"discriminator"}),
        ("total", {"student", "regressors", "discriminator"}),
    ],
)
def test_each_loss_moves_what_it_should_and_nothing_else(gradients, loss, moved):
    found = gradients[2]
    for group in ("student", "teacher", "discriminator", "regressors"):
        assert (size(found[loss, group]) > 0) == (group in moved), group


def test_every_regressor_variable_learns_and_every_stage_of_the_student_too(distiller, gradients):
    found = gradients[2]
    assert len(found["intermediate", "regressors"]) == 4 * 6
    assert all(np.abs(g).max() > 0 for g in found["intermediate", "regressors"])
    names = [v.path for v in distiller.student.trainable_variables]
    for stage in "2345":
        kernels = [
            g
            for name, g in zip(names, found["adversarial", "student"], strict=True)
            if name.startswith(f"conv{stage}_block1_1_conv/kernel")
        ]
        assert len(kernels) == 1 and np.abs(kernels[0]).max() > 0


def test_one_backward_pass_gives_each_its_own_gradient(gradients):
    _, _, found = gradients
    # student: the weighted sum, without the discriminator's loss; discriminator: its own loss alone, lambda3 or not
    weights = dict(zip(NAMES, LAMBDAS, strict=True)) | {"hard_label": HARD}

    def flat(name):
        return np.concatenate(
            [
                np.zeros(v.size) if g is None else g.ravel()
                for g, v in zip(found[name, "student"], found["total", "student"], strict=True)
            ]
        )

    mine = {name: weight * flat(name) for name, weight in weights.items()}
    total = flat("total")
    for name, part in mine.items():
        assert np.linalg.norm(part) > 3e-3 * np.linalg.norm(total), name  # none is too small to be missed
    assert np.linalg.norm(total - sum(mine.values())) < 1e-4 * np.linalg.norm(total)
    for total, own in zip(found["total", "discriminator"], found["discriminator", "discriminator"], strict=True):
        np.testing.assert_allclose(total, own, rtol=1e-4, atol=1e-7)


def test_total_loss_is_the_weighted_sum(gradients):
    parts, total, _ = gradients
    assert set(parts) == {"backbone", "intermediate", "adversarial", "hard_label", "discriminator"}
    expected = sum(weight * parts[name] for name, weight in zip(NAMES, LAMBDAS, strict=True))
    assert total == pytest.approx(expected + HARD * parts["hard_label"] + parts["discriminator"], rel=1e-5)


def test_the_parts_are_the_losses_of_both_networks(distiller, gradients):
    parts = gradients[0]
    teacher, *teacher_features = arrays(distiller.teacher(pixels(), training=False))
    student, *features = arrays(distiller.student(pixels(), training=True))
    p, q = softmax(teacher / 4), softmax(student / 4)
    assert parts["backbone"] == pytest.approx(16 * (p * np.log(p / q)).sum(1).mean(), rel=1e-3)
    regressed = [np.asarray(r(f)) for r, f in zip(regressors_of(distiller), features, strict=True)]
    assert parts["intermediate"] == pytest.approx(
        sum(((t - r) ** 2).mean() for t, r in zip(teacher_features, regressed, strict=True)), rel=1e-4
    )
    of_teacher, of_student = (sigmoid(discriminator_of(distiller)(z, training=True)) for z in (teacher, student))
    assert parts["adversarial"] == pytest.approx(-np.log(of_student).mean(), rel=1e-3)
    assert parts["discriminator"] == pytest.approx(-np.log(of_teacher).mean() - np.log(1 - of_student).mean(), rel=1e-3)
    targets = 0.9 * np.eye(10)[LABELS] + 0.1 / 10
    assert parts["hard_label"] == pytest.approx(-(targets * np.log(softmax(student))).sum(1).mean(), rel=1e-3)


def test_holding_the_discriminator_fixed_leaves_its_statistics_alone(distiller):
    before = arrays(discriminator_of(distiller).variables)
    discriminators.held_fixed(discriminator_of(distiller), TEACHER_LOGITS)
    assert same(before, arrays(discriminator_of(distiller).variables))


def test_validation_loss_is_the_students_plain_cross_entropy(distiller):
    distiller.compile(
        keras.optimizers.SGD(), run_eagerly=True, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    )
    logs = distiller.evaluate(IMAGES, LABELS, batch_size=4, verbose=0, return_dict=True)  # 4 and 2 images
    logits = np.asarray(distiller.student(pixels(), training=False)[0])
    assert logs["loss"] == pytest.approx(-np.log(softmax(logits)[np.arange(6), LABELS]).mean(), rel=1e-4)
    assert logs["accuracy"] == pytest.approx((logits.argmax(1) == LABELS).mean())


def test_a_step_moves_student_and_regressors_but_not_teacher_nor_a_resting_discriminator():
    distiller = build_distiller()
    distiller.compile(optimised(distiller, keras.optimizers.SGD(1e-3)), run_eagerly=True)
    adam = next(loss.optimizer for loss in distiller.terms if loss.optimizer)
    adam.learning_rate.assign(0.0)

    def state():
        return {
            "teacher": arrays(distiller.teacher.variables),
            "student": arrays(distiller.student.variables),
            "discriminator": arrays(discriminator_of(distiller).trainable_variables),
            "regressors": arrays(v for r in regressors_of(distiller) for v in r.trainable_variables),
        }

    before = state()
    distiller.train_on_batch(pixels(), LABELS)
    after = state()
    assert same(before["teacher"], after["teacher"])  # batch-norm statistics among them
    assert same(before["discriminator"], after["discriminator"])
    unmoved = [
        v.path
        for v, a, b in zip(distiller.student.variables, before["student"], after["student"], strict=True)
        if np.array_equal(a, b)
    ]
    assert all(path.endswith("_conv/bias") for path in unmoved)  # batch-norm takes a bias away, and its gradient
    assert not any(np.array_equal(a, b) for a, b in zip(before["regressors"], after["regressors"], strict=True))
    adam.learning_rate.assign(1e-3)
    distiller.train_on_batch(pixels(), LABELS)
    kernel = 0  # Adam's bias-corrected steps are about as long as its rate, whatever lambda3 is
    step = np.abs(state()["discriminator"][kernel] - before["discriminator"][kernel])
    assert 1e-4 < step.mean() < 1.5e-3
    assert same(before["teacher"], state()["teacher"])


@pytest.mark.parametrize(
    ("lambdas", "hard", "names"),
    [
        ((1, 0, 0), 0, ["backbone"]),
        ((0, 1, 0), 0, ["intermediate"]),
        ((0, 0, 1), 0, ["adversarial", "discriminator"]),
        ((0, 0, 0), 1, ["hard_label"]),
    ],
)
def test_a_weight_of_zero_leaves_its_part_out(lambdas, hard, names):
    distiller = build_distiller(lambdas, hard)
    assert names == [tracker.name for tracker in distiller.trackers]
    assert (distiller.teacher is not None) == any(lambdas)
    outputs = distiller.student(pixels(2), training=False)
    assert set(distiller.compute_parts(pixels(2), LABELS[:2], outputs)) == set(names)
    others = len(distiller.trainable_variables) - len(distiller.student.trainable_variables)
    assert others == (4 * 6 if lambdas[1] else 10 if lambdas[2] else 0)  # four regressors, or a discriminator


def test_losses_without_a_name_of_their_own_are_refused():
    net = resnets.build_resnet(widths=narrow_widths())
    for losses in ([], [Loss("mine", None), Loss("mine", None)]):
        with pytest.raises(ValueError, match="losses must be at least one, each of a name of its own"):
            Distiller(None, net, losses)


# ---- two optimisers ----


def toy():
    """A model of two halves, 'left' for one optimiser and 'right' for the other."""
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation="tanh", name="left"), keras.layers.Dense(2, name="right")]
    )


def parts_of_toy():
    sgd = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 10), momentum=0.9, nesterov=True, weight_decay=0.01
    )
    sgd.exclude_from_weight_decay(var_names=["bias"])
    return sgd, keras.optimizers.Adam(0.02)


def two(model):
    sgd, adam = parts_of_toy()
    optimizer = optimizer_for([Loss("left", None), Loss("right", None, 1.0, [model.get_layer("right")], adam)], sgd)
    model.compile(optimizer, loss="mse")
    return optimizer


TOY_X, TOY_Y = RNG.normal(0, 1, (12, 3)).astype("float32"), RNG.normal(0, 1, (12, 2)).astype("float32")


def toy_gradients(model):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = keras.ops.mean((model(TOY_X) - TOY_Y) ** 2)
    return tape.gradient(loss, [v.value for v in model.trainable_variables])


def test_two_optimizers_are_two_optimisers_by_hand():
    model, twin = toy(), toy()
    twin.set_weights(model.get_weights())
    optimizer = two(model)
    left, right = parts_of_toy()
    for step in range(1, 6):
        model.train_on_batch(TOY_X, TOY_Y)
        grads = toy_gradients(twin)
        left.apply(grads[:2], twin.get_layer("left").trainable_variables)
        right.apply(grads[2:], twin.get_layer("right").trainable_variables)
        for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert int(optimizer.iterations) == step
    assert [int(part.iterations) for part in optimizer.optimizers] == [5, 5]


def test_two_optimizers_variables_are_each_part_s_once():
    model = toy()
    optimizer = two(model)
    optimizer.build(model.trainable_variables)
    optimizer.build(model.trainable_variables)  # a second call makes no second set of slots
    assert len({id(v) for v in optimizer.variables}) == len(optimizer.variables)
    # step and rate of the whole; step and two momenta of SGD on a schedule; step, rate and two times two of Adam
    assert len(optimizer.variables) == 2 + 3 + 6


def test_a_state_holds_all_of_a_distiller_but_its_teacher(tmp_path):
    teacher = resnets.build_resnet(widths=narrow_widths())
    student = resnets.build_resnet(widths=narrow_widths(5, 4))
    losses = script.losses_of(configs.DistilConfig(lambda2=0.3, lambda3=0.2), teacher, student, 1)
    distiller = Distiller(teacher, student, losses)
    compile_trainer(distiller, keras.optimizers.SGD(), Recipe(1, 2, 0.1))
    fit.build(distiller, 10)
    states.save_state(distiller, tmp_path / "state.npz", {})
    with np.load(tmp_path / "state.npz") as file:
        held = sum(file[name].size for name in file.files if name != "meta")
    trained = [student, discriminator_of(distiller), *regressors_of(distiller)]
    assert 0 < held - sum(model.count_params() for model in trained) < 100  # steps, rates and metrics


def test_two_optimizers_go_on_from_a_file(tmp_path):
    model = toy()
    two(model)
    for _ in range(3):
        model.train_on_batch(TOY_X, TOY_Y)
    states.save_state(model, tmp_path / "state.npz", {})
    other = toy()
    optimizer = two(other)
    optimizer.build(other.trainable_variables)
    states.load_state(other, tmp_path / "state.npz")
    assert int(optimizer.iterations) == 3
    assert same(arrays(model.optimizer.variables), arrays(optimizer.variables))
    fresh = toy()
    two(fresh)
    fresh.set_weights(model.get_weights())  # weights without slots: the counter-example
    for network in (model, other, fresh):
        network.train_on_batch(TOY_X, TOY_Y)
    assert same(model.get_weights(), other.get_weights())
    assert not same(model.get_weights(), fresh.get_weights())


# ---- other arithmetic, other sizes ----


@pytest.mark.parametrize(
    ("size", "strides"), [((32, 32), (4, 2)), ((45, 27), (4, 1)), ((9, 5), (2, 1)), ((3, 3), (4, 1))]
)
def test_regressors_average_larger_maps_down_to_the_teachers(size, strides):
    shapes = [
        [(None, *(math.ceil(n / (stride * 2**stage)) for n in size), channels) for stage in range(4)]
        for stride, channels in zip(strides, (6, 4), strict=True)
    ]  # behind the stems of teacher and student
    for name in ("conv1x1", "constant"):
        for regress, ours, theirs in zip(
            regressing.build_regressors(name, *reversed(shapes)), *reversed(shapes), strict=True
        ):
            assert regress(np.zeros((2, *ours[1:]), "float32")).shape == (2, *theirs[1:])
    # the average itself: a map of 2x2 onto one of 1x1
    (regress,) = regressing.build_regressors("conv1x1", [(None, 2, 2, 3)], [(None, 1, 1, 5)])
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype("float32")
    (flat,) = regressing.build_regressors("conv1x1", [(None, 1, 1, 3)], [(None, 1, 1, 5)])
    flat.set_weights(regress.get_weights())
    np.testing.assert_allclose(
        np.asarray(regress(x)), np.asarray(flat(x.mean((1, 2), keepdims=True))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_distiller_learns_in_half_precision(precision):
    distiller = build_distiller(precision=precision)
    recipe = Recipe(1, 6, 1e-3, precision=precision)
    compile_trainer(distiller, optimised(distiller, optimizer_of(recipe, 1, distiller.network)), recipe)
    if precision == "mixed_float16":
        distiller.optimizer.initial_scale = 64.0  # none of the first steps is skipped
    before = arrays(distiller.trainable_variables)
    losses = [distiller.train_on_batch(IMAGES, LABELS)[0] for _ in range(3)]
    assert np.isfinite(losses).all()
    assert not any(np.array_equal(a, b) for a, b in zip(before, arrays(distiller.trainable_variables), strict=True))
    assert {v.dtype for v in distiller.trainable_variables} == {"float32"}
