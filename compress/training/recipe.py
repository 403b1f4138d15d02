"""How to train: the recipe, and what it makes of a model before its first step (schedule, optimiser, loss)."""

import dataclasses

import keras
from keras import ops

from compress.cli.configs import Config
from compress.training import optimizers


@dataclasses.dataclass(frozen=True)
class Recipe(Config):
    """How to train. What else belongs to a run (where it writes, what it shows) is a `cli.configs.RunConfig`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the highest of the schedule.
        weight_decay: share of every kernel that a step takes off, times the learning rate.
        label_smoothing: share of each label spread over all classes.
        warmup: share of all steps in which the learning rate rises.
        seed: of order and augmentation.
        precision: dtype policy of the arithmetic.
        optimizer: 'sgd' or 'muon'.
        begun: epochs that were done when this schedule began, see `runs.continued`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-3
    label_smoothing: float = 0.0
    warmup: float = 0.1
    seed: int = 826
    precision: str = "float32"
    optimizer: str = "sgd"
    begun: int = 0


def schedule(recipe, steps):
    """Learning rate over all steps of the epochs behind recipe.begun: linear to the highest, then a cosine to 0.

    Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983, equation 5, with warm-up (Goyal et al. 2017, 1706.02677, 2.2).

    Args:
        recipe: a Recipe.
        steps: steps an epoch.
    """
    total = (recipe.epochs - recipe.begun) * steps
    rise = min(round(recipe.warmup * total), total - 1)
    if rise == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)
    # the first step already takes a part of the rate: a step of rate 0 would train nothing
    return keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / rise, total - rise, warmup_steps=rise, warmup_target=recipe.learning_rate
    )


def optimizer_of(recipe, steps, network):
    """SGD with Nesterov momentum 0.9, or Muon, on the recipe's schedule; no decay on biases and batch-norm.

    Args:
        recipe: a Recipe.
        steps: steps an epoch.
        network: the keras.Model that is trained, whose convolutions Muon takes.
    """
    rate, decay = schedule(recipe, steps), recipe.weight_decay
    if recipe.optimizer == "muon":
        return optimizers.Muon(rate, decay=decay, kernels=optimizers.normalised_kernels(network))
    return optimizers.FusedSGD(rate, decay=decay)


def compile_classifier(model, recipe, steps):
    """Compiles a model of logits for cross-entropy on integer labels."""

    def cross_entropy(labels, logits):
        targets = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=recipe.label_smoothing
        )

    network = getattr(model, "network", model)
    compile_trainer(model, optimizer_of(recipe, steps, network), recipe, cross_entropy)


def compile_trainer(trainer, optimizer, recipe, loss=None):
    """Compiles what `fit` trains: with accuracy, and with a scaled loss where float16 would underflow.

    Micikevicius et al. 2018, Mixed Precision Training, arXiv 1710.03740, section 3.2.
    """
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    trainer.compile(optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
