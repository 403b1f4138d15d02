"""The model that trains a student, by whatever losses it is given.

Keras has a Distiller of its own (keras.distillation). This one is here because that one has no regressors between
feature maps, one optimiser for all (a discriminator needs its own), and runs the student twice a step to get at its
feature maps, which moves its batch-norm statistics twice, in `evaluate` too.
"""

import dataclasses
import typing

import keras
from keras import ops

from compress.distillation import features
from compress.engine import folding, twin


class Outputs(typing.NamedTuple):
    """What a network makes of a batch of N images.

    Attributes:
        logits: (N, classes) float32.
        features: list of feature maps (N, h, w, channels), in the dtype of the arithmetic: those that
            `features.matched` pairs, of a ResNet50, 101 or 152 the ends of its four stages.
    """

    logits: typing.Any
    features: list


@dataclasses.dataclass(frozen=True)
class Loss:
    """One term of the sum that a student is trained by.

    Attributes:
        name: of its part of the sum, such as "backbone", whose curve in history.json is train_backbone.
        function: function(teacher, student, labels) -> scalar tensor, the mean over the batch. teacher and student are
            `Outputs`, labels (N,) int32. Where the Distiller has no teacher, teacher is None.
        weight: its factor: a number, or function(step) -> scalar of the training steps done, a float32 tensor.
        layers: Keras layers inside the function that are trained with the student.
        optimizer: what trains these layers; None for the student's optimiser.
    """

    name: str
    function: typing.Callable
    weight: float | typing.Callable = 1.0
    layers: typing.Sequence = ()
    optimizer: typing.Any = None


def optimizer_for(losses, optimizer):
    """The optimiser of a Distiller: the student's, and for the layers of a loss that brings its own that one.

    Args:
        losses: list of `Loss`.
        optimizer: of the student and of all other layers.

    Returns:
        A Keras optimiser.
    """
    own = {
        variable.path: loss.optimizer
        for loss in losses
        if loss.optimizer
        for layer in loss.layers
        for variable in layer.trainable_variables
    }
    return keras.optimizers.MultiOptimizer(lambda variable: own.get(variable.path, optimizer)) if own else optimizer


class Distiller(keras.Model):
    """Trains a student by the weighted sum of losses.

    The teacher runs in inference mode, always, and no gradient reaches it. Validation loss is the student's plain
    cross-entropy with the true labels.

    Args:
        teacher: a keras.Model of logits that `nodes.graph_of` takes, of which a folded copy teaches; None where no loss
            asks for one.
        student: one for the same images and classes, of whatever architecture; it is trained in place.
        losses: list of `Loss`.
        precision: dtype policy of the arithmetic.
        mirror: the teacher's logits are the mean of those of an image and of its mirror image; its feature maps are
            those of the image alone.

    Raises:
        ValueError: there is no loss, or two have one name.
    """

    def __init__(self, teacher, student, losses, precision="float32", mirror=False):
        super().__init__(name="distiller", dtype="float32")
        names = [loss.name for loss in losses]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"losses must be at least one, each of a name of its own. Received: {names}")
        self.terms, self.mirror = tuple(losses), mirror  # a Keras model has another `losses`
        points = features.matched(teacher, student) if teacher is not None else ((), features.feature_points(student))
        of_teacher, of_student = ([point.path for point in found] for found in points)
        self.student = twin.Twin(student, precision, of_student)
        self.teacher = None if teacher is None else folding.FoldedModel(teacher, precision, of_teacher)
        # an attribute, so that Keras finds their variables; a layer that two losses share counts once
        self.learners = list({id(layer): layer for loss in losses for layer in loss.layers}.values())
        self.counts_steps = any(callable(loss.weight) for loss in losses)
        if self.counts_steps:  # a variable: a state holds it, and every backend's compiled step counts by it
            self.steps_done = self.add_weight((), "zeros", trainable=False, name="steps_done")
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        self.built = True  # every part is

    @property
    def network(self):
        """The student, for `training.fit`."""
        return self.student.net

    @property
    def constants(self):
        """Variables that training leaves alone, which a state need not hold."""
        return self.teacher.variables if self.teacher else []

    def call(self, images, training=None):
        """(N, h, w, 3) -> [student's logits (N, classes), *its feature maps]."""
        return _as_list(self.student(images, training=training))

    def teach(self, images):
        """The teacher's `Outputs` for (N, h, w, 3), or None without a teacher."""
        if self.teacher is None:
            return None
        logits, *maps = map(ops.stop_gradient, _as_list(self.teacher(images, training=False)))
        if self.mirror:
            mirrored = _as_list(self.teacher(ops.flip(images, axis=2), training=False))[0]
            logits = (logits + ops.stop_gradient(mirrored)) / 2
        return Outputs(logits, maps)

    def compute_parts(self, images, labels, outputs):
        """Each loss, unweighted, as {name: scalar}; outputs are those of `call`."""
        teacher, student = self.teach(images), Outputs(outputs[0], outputs[1:])
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        return {loss.name: loss.function(teacher, student, labels) for loss in self.terms}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Keras' hook: the weighted sum of the losses."""
        if not training:
            return ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred[0], from_logits=True))
        parts = self.compute_parts(x, y, y_pred)
        for tracker in self.trackers:
            tracker.update_state(parts[tracker.name])
        weights = {loss.name: loss.weight for loss in self.terms}
        if self.counts_steps:
            step = ops.convert_to_tensor(self.steps_done)
            weights = {name: weight(step) if callable(weight) else weight for name, weight in weights.items()}
            self.steps_done.assign_add(1.0)
        # regularisers of the student's own layers, which Keras would add
        return sum(weights[name] * part for name, part in parts.items()) + sum(map(ops.sum, self.losses))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Keras' hook: metrics look at the logits alone."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight=sample_weight)


def _as_list(outputs):
    """[logits float32, *feature maps] of a network's outputs, which are the logits alone where it has no such maps."""
    logits, *maps = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [ops.cast(logits, "float32"), *maps]
