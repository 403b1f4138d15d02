"""Tells a teacher's logits from a student's, which learns to mislead it."""

import keras
from keras import layers, ops


def build_discriminator(classes, precision="float32"):
    """A classifier of logits: the teacher's or the student's?

    classes-512-256-1 with batch-norm and LeakyReLU 0.25; its output is the score before the sigmoid. Belagiannis et al.
    2018, Adversarial Network Compression, arXiv 1803.10750, section 3.

    Args:
        classes: number of logits.
        precision: dtype policy of all layers but the last.

    Returns:
        keras.Sequential, (N, classes) -> (N, 1).
    """
    model = keras.Sequential([keras.Input((classes,))], name="discriminator")
    for width in (512, 256):
        model.add(layers.Dense(width, dtype=precision))
        model.add(layers.BatchNormalization(dtype=precision))
        model.add(layers.LeakyReLU(negative_slope=0.25, dtype=precision))
    model.add(layers.Dense(1, dtype="float32"))
    return model


def held_fixed(discriminator, logits):
    """The discriminator's scores as a function of the logits alone.

    Weights and batch-norm statistics are constants: the gradient goes through the discriminator to the logits, and
    moves nothing in between. Batch-norm takes the batch's own mean and variance, as it does where it learns.

    Args:
        discriminator: from `build_discriminator`.
        logits: (N, classes).

    Returns:
        (N, 1).
    """
    weights = [ops.stop_gradient(v.value) for v in discriminator.trainable_variables]
    statistics = [v.value for v in discriminator.non_trainable_variables]
    return discriminator.stateless_call(weights, statistics, logits, training=True)[0]
