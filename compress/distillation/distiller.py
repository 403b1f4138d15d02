"""Knowledge distillation: the losses, the regressors, the discriminator and the model that trains a student by them."""

import keras
from keras import layers, ops

from compress.engine import fast, folded
from compress.graph import resnet

LOSSES = ("backbone", "intermediate", "adversarial")


def backbone_loss(teacher_logits, student_logits, temperature):
    """T^2 times the Kullback-Leibler divergence of the softened outputs, class sum, batch mean.

    T^2 mean_n sum_c p_t log(p_t / p_s) with p = softmax(z / T); Hinton et al. 2015, arXiv 1503.02531, section 2.

    Args:
        teacher_logits: (N, classes).
        student_logits: (N, classes).
        temperature: T, above 0.

    Returns:
        Scalar, at least 0, in nats times T^2.
    """
    teacher = ops.log_softmax(ops.cast(teacher_logits, "float32") / temperature)
    student = ops.log_softmax(ops.cast(student_logits, "float32") / temperature)
    divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * ops.mean(divergence)


def intermediate_loss(teacher_features, regressed_features):
    """Sum over the stages of the mean squared error between teacher and regressed student feature maps.

    Romero et al. 2015, FitNets, arXiv 1412.6550, equation 3, at four places.

    Args:
        teacher_features: list of (N, h, w, channels).
        regressed_features: list of the same shapes.

    Returns:
        Scalar.
    """
    errors = [ops.mean(ops.square(ops.cast(t, "float32") - ops.cast(s, "float32")))
              for t, s in zip(teacher_features, regressed_features, strict=True)]
    return sum(errors)


def binary_cross_entropy(scores, target):
    """Mean binary cross-entropy of scores before the sigmoid against one target for all, 0 or 1, in nats."""
    scores = ops.cast(scores, "float32")
    return ops.mean(ops.softplus(-scores) if target else ops.softplus(scores))


def build_discriminator(classes, precision="float32"):
    """Teacher or student? classes-512-256-1 on logits, batch-norm and LeakyReLU 0.25; the score before the sigmoid.

    Belagiannis et al. 2018, Adversarial Network Compression, arXiv 1803.10750, section 3.
    """
    model = keras.Sequential([keras.Input((classes,))], name="discriminator")
    for width in (512, 256):
        model.add(layers.Dense(width, dtype=precision))
        model.add(layers.BatchNormalization(dtype=precision))
        model.add(layers.LeakyReLU(negative_slope=0.25, dtype=precision))
    model.add(layers.Dense(1, dtype="float32"))
    return model


class PointwiseConv(layers.Conv2D):
    """A 1x1 convolution that is a matrix product where `fast.convolve` makes it one."""

    def call(self, x):
        """(N, h, w, channels in) -> (N, h, w, filters)."""
        y = fast.convolve(x, ops.cast(self.kernel, x.dtype))
        if keras.backend.backend() == "tensorflow":  # sums the gradient of a half-precision bias in float32 by itself
            return self.activation(y + ops.cast(self.bias, x.dtype))
        return self.activation(ops.cast(ops.cast(y, "float32") + ops.cast(self.bias, "float32"), x.dtype))


class ConstantRegressor(layers.Layer):
    """A fixed kernel, ones / k^2 of shape (k, k, student's, teacher's channels), valid padding.

    It averages over k x k positions and sums over the student's channels; between stages of one size k is 1.

    Args:
        channels: the teacher's.
        kernel: (k, k) = student's sides - teacher's sides + 1, at least 1.
    """

    def __init__(self, channels, kernel, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.kernel_size = channels, kernel

    def call(self, x):
        """(N, h, w, student's channels) -> (N, h - k + 1, w - k + 1, teacher's channels)."""
        x = ops.sum(x, axis=-1, keepdims=True)  # every channel of the answer is the same
        x = ops.average_pool(x, self.kernel_size, 1) if max(self.kernel_size) > 1 else x
        return ops.repeat(x, self.channels, axis=-1)


def build_regressors(name, student_shapes, teacher_shapes, precision="float32"):
    """One regressor a stage, from the student's feature map to the teacher's.

    Args:
        name: 'conv1x1' (three 1x1 convolutions with ReLU between, width (C_s + C_t) // 2, trained with the student,
            behind an average over positions where the student's map is the larger one) or 'constant'
            (`ConstantRegressor`, nothing to train).
        student_shapes: list of (None, h, w, channels).
        teacher_shapes: list of the same length.
        precision: dtype policy of the layers.

    Returns:
        List of layers.
    """
    regressors = []
    for i, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True)):
        if name == "constant":
            kernel = tuple(large - small + 1 for large, small in zip(student[1:3], teacher[1:3], strict=True))
            regressors.append(ConstantRegressor(teacher[-1], kernel, dtype=precision))
        else:
            width = (student[-1] + teacher[-1]) // 2
            pool = tuple(-(-large // small) for large, small in zip(student[1:3], teacher[1:3], strict=True))
            pools = [layers.AveragePooling2D(pool, padding="same", dtype=precision)] if max(pool) > 1 else []
            regressors.append(keras.Sequential([
                keras.Input(student[1:]), *pools, PointwiseConv(width, 1, activation="relu", dtype=precision),
                PointwiseConv(width, 1, activation="relu", dtype=precision),
                PointwiseConv(teacher[-1], 1, dtype=precision)], name=f"regressor{i + 1}"))
    return regressors


class Distiller(keras.Model):
    """Trains a student: L = lambda1 backbone + lambda2 intermediate + lambda3 adversarial + weight x cross-entropy.

    The teacher runs in inference mode, always. A loss whose weight is 0 isn't computed. The discriminator's own loss,
    BCE(D(teacher), 1) + BCE(D(student), 0), is added with the student's logits held fixed, and the student's
    adversarial loss BCE(D(student), 1) with the discriminator held fixed, so one backward pass gives each its own
    gradient. Validation loss is the student's plain cross-entropy.

    Args:
        teacher: a model of `resnet.build_resnet`; a folded copy of it teaches.
        student: one for the same images and classes; it is trained in place.
        lambdas: (lambda1, lambda2, lambda3).
        temperature: of the backbone loss.
        hard_label_weight: of the cross-entropy with the true labels.
        regressor_name: 'conv1x1' or 'constant'.
        label_smoothing: of the cross-entropy in training.
        precision: dtype policy of the arithmetic.
        mirror: the teacher's logits are the mean of those of an image and of its mirror image; its feature maps are
            those of the image alone.
        annealed_steps: training steps over which the three lambdas fall in a line to 0, after which the true labels
            teach alone: after the teacher annealing of Clark et al. 2019, BAM!, arXiv 1907.04829, section 3, where the
            weight of the true labels rises meanwhile and here it stays. None: never.

    Raises:
        ValueError: every weight is 0.
    """

    def __init__(self, teacher, student, lambdas, temperature=4.0, hard_label_weight=0.0, regressor_name="conv1x1",
                 label_smoothing=0.0, precision="float32", mirror=False, annealed_steps=None):
        super().__init__(name="distiller", dtype="float32")
        if not (any(lambdas) or hard_label_weight):
            raise ValueError(f"at least one loss must have a weight. Received: lambdas={lambdas}, hard_label_weight=0")
        self.lambdas, self.temperature, self.hard_label_weight = tuple(lambdas), temperature, hard_label_weight
        self.label_smoothing, self.mirror = label_smoothing, mirror
        self.student = fast.FastResNet(student, precision, features=True)
        self.teacher = folded.FoldedResNet(teacher, precision, features=True) if any(lambdas) else None
        shapes = [[net.get_layer(name).output.shape for name in resnet.stage_outputs(net)]
                  for net in (student, teacher)]
        self.regressors = build_regressors(regressor_name, *shapes, precision) if lambdas[1] else []
        self.discriminator = build_discriminator(student.output_shape[-1], precision) if lambdas[2] else None
        self.annealed_steps = annealed_steps if any(lambdas) else None
        if self.annealed_steps:  # a variable: a state holds it, and every backend's compiled step counts by it
            self.steps_done = self.add_weight((), "zeros", trainable=False, name="steps_done")
        self.trackers = [keras.metrics.Mean(name=name) for name in self.part_names()]
        self.built = True  # every part is

    @property
    def network(self):
        """The student, for `training.fit`."""
        return self.student.net

    @property
    def constants(self):
        """Variables that training leaves alone, which a state need not hold."""
        return self.teacher.variables if self.teacher else []

    def part_names(self):
        """Names of the losses that are computed."""
        names = [name for name, weight in zip(LOSSES, self.lambdas, strict=True) if weight]
        return names + (["hard_label"] if self.hard_label_weight else []) + (
            ["discriminator"] if self.discriminator else [])

    def call(self, images, training=None):
        """(N, h, w, 3) -> [student's logits (N, classes), its four stage outputs]."""
        return self.student(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Keras' hook: the weighted sum of the losses."""
        logits, features = y_pred[0], y_pred[1:]
        if not training:
            return self._hard_label_loss(y, logits, 0.0)
        parts = self.compute_parts(x, y, logits, features)
        for tracker in self.trackers:
            tracker.update_state(parts[tracker.name])
        share = 1.0
        if self.annealed_steps:
            share = ops.maximum(0.0, 1.0 - self.steps_done / self.annealed_steps)
            self.steps_done.assign_add(1.0)
        weights = dict(zip(LOSSES, [share * weight for weight in self.lambdas], strict=True)) | {
            "hard_label": self.hard_label_weight, "discriminator": 1.0}
        return sum(weights[name] * part for name, part in parts.items())

    def compute_parts(self, images, labels, logits, features):
        """Each loss that is computed, unweighted, as {name: scalar}."""
        parts = {}
        if any(self.lambdas):
            teacher_logits, *teacher_features = [ops.stop_gradient(o) for o in self.teacher(images, training=False)]
            if self.mirror:
                mirrored = self.teacher(ops.flip(images, axis=2), training=False)[0]
                teacher_logits = (teacher_logits + ops.stop_gradient(mirrored)) / 2
        if self.lambdas[0]:
            parts["backbone"] = backbone_loss(teacher_logits, logits, self.temperature)
        if self.lambdas[1]:
            regressed = [regress(f) for regress, f in zip(self.regressors, features, strict=True)]
            parts["intermediate"] = intermediate_loss(teacher_features, regressed)
        if self.discriminator:
            parts["adversarial"] = binary_cross_entropy(self._fixed_discriminator(logits), 1)
            scores = [self.discriminator(z, training=True) for z in (teacher_logits, ops.stop_gradient(logits))]
            parts["discriminator"] = binary_cross_entropy(scores[0], 1) + binary_cross_entropy(scores[1], 0)
        if self.hard_label_weight:
            parts["hard_label"] = self._hard_label_loss(labels, logits, self.label_smoothing)
        return parts

    def _hard_label_loss(self, labels, logits, smoothing):
        targets = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1])
        return ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True,
                                                              label_smoothing=smoothing))

    def _fixed_discriminator(self, logits):
        """The discriminator's scores with its weights and statistics as constants: the gradient goes to the logits."""
        weights = [ops.stop_gradient(v.value) for v in self.discriminator.trainable_variables]
        statistics = [v.value for v in self.discriminator.non_trainable_variables]
        return self.discriminator.stateless_call(weights, statistics, logits, training=True)[0]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Keras' hook: metrics look at the logits alone."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight=sample_weight)


def optimizer_pair(student, discriminator, variables):
    """One optimiser for the discriminator's variables, another for all others.

    Args:
        student: optimiser of student and regressors.
        discriminator: optimiser of the discriminator.
        variables: the discriminator's.

    Returns:
        A keras.optimizers.MultiOptimizer.
    """
    paths = {variable.path for variable in variables}
    return keras.optimizers.MultiOptimizer(
        lambda variable: discriminator if variable.path in paths else student, name="student_and_discriminator")
