"""The training twin: the same network on the same variables, computed by faster operations.

Training runs the twin, and the plain Keras model with its trained variables is what is saved. The twin walks the
model's own nodes. It calls every layer as Keras does, but for two kinds, which `operations.py` computes faster:

- Batch-normalisation in training mode is one fused operation.
- A convolution, also a depthwise one, is computed in the way that fits its kernel and the size of its map. Its bias is
  not added where a batch-normalisation in training mode follows, which would subtract it again. So no gradient of it is
  summed either.
"""

import functools

import keras
from keras import layers, ops

from compress.engine import folding, operations, running
from compress.graph import folds, nodes


class Substitutes:
    """What is called in place of a model's layers in training.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Attributes:
        without_bias: {batch-normalisation: convolution in front of it whose bias is not added in training}.
    """

    def __init__(self, model):
        called = list(dict.fromkeys(node.operation for _, node in nodes.walk(model)))
        self.norms = [op for op in called if type(op) is layers.BatchNormalization and _is_fusible(op)]
        self.convolutions = [
            op
            for op in called
            if (folding.is_plain_convolution(op) or folding.is_plain_depthwise(op)) and op.activity_regularizer is None
        ]
        fixed = set(running.in_inference(nodes.graph_of(model)))
        self.without_bias = {
            norm: layer
            for norm, layer in folds.pairs(model).items()
            if norm in self.norms and norm.trainable and norm not in fixed
            # a bias with a regulariser is trained by that one, in Keras as here
            if layer in self.convolutions and layer.use_bias and layer.bias.regularizer is None
        }

    def table(self):
        """{layer: function} for one run, see `running.run`."""
        picked, followed = {}, {layer: norm for norm, layer in self.without_bias.items()}
        convolutions = {
            layer: functools.partial(_convolved, layer, followed.get(layer), picked) for layer in self.convolutions
        }
        return convolutions | {
            norm: functools.partial(_normalised, norm, self.without_bias.get(norm)) for norm in self.norms
        }


def _is_fusible(norm):
    """Whether `operations.normalise_batch` computes what this batch-normalisation does in training."""
    rank = norm.input_spec.ndim
    return norm.axis % rank == rank - 1 and not (norm.renorm or norm.synchronized or norm.activity_regularizer)


def scale_of(norm):
    """gamma and beta of a batch-normalisation, (channels,) float32, also of one that has none."""
    channels = norm.moving_mean.shape
    gamma = ops.ones(channels) if norm.gamma is None else ops.cast(norm.gamma, "float32")
    return gamma, ops.zeros(channels) if norm.beta is None else ops.cast(norm.beta, "float32")


def _normalised(norm, convolution, x, training=None, mask=None):
    """A batch-normalisation; convolution: the one in front of it whose bias is not added, or None."""
    if not training or not norm.trainable or mask is not None or keras.src.backend.get_keras_mask(x) is not None:
        return norm(x, training=training, mask=mask)
    y, mean, variance = operations.normalise_batch(ops.cast(x, norm.compute_dtype), *scale_of(norm), norm.epsilon)
    # The bias isn't added to x, but the saved Keras model adds it. So the moving mean, which that model subtracts, must
    # contain it.
    mean = mean if convolution is None else mean + ops.cast(convolution.bias, mean.dtype)
    momentum = norm.momentum
    norm.moving_mean.assign(momentum * norm.moving_mean + (1 - momentum) * mean)
    norm.moving_variance.assign(momentum * norm.moving_variance + (1 - momentum) * variance)
    return y


def _convolved(layer, norm, picked, x, training=None):
    """A convolution; norm: the batch-normalisation behind it that makes its bias needless, or None."""
    x = ops.cast(x, layer.compute_dtype)
    kernel = ops.cast(layer.kernel, x.dtype)
    if folding.is_plain_depthwise(layer):
        y = operations.depthwise(x, kernel, layer.strides, layer.padding)
    else:
        y = operations.convolve(x, kernel, layer.strides, layer.padding, picked)
    if layer.use_bias and not (training and norm is not None and norm.trainable):
        y = ops.add(y, ops.cast(layer.bias, y.dtype))
    return layer.activation(y)


class _Plan:
    """What a twin knows of its model; an object of its own, since Keras would take lists of layers for new parts."""

    def __init__(self, model, precision, features):
        self.precision, self.lowered = precision, running.lowered(model, precision)
        self.substitutes, self.features = Substitutes(model), running.nodes_at(model, features)


class Twin(keras.Model):
    """A model for training, on the variables of the given model.

    Training it trains the given model: there is nothing to copy back. The biases of convolutions in front of a
    batch-normalisation in training mode have a gradient of 0 and become not trainable. Layers are frozen before, as
    before Keras' `compile`: a twin is for the `trainable` that its model had when it was made.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        precision: dtype policy of the arithmetic of a model whose layers are float32; variables, statistics and logits
            are float32 in any. A model with a policy of its own keeps it. See `running.lowered`.
        features: paths of operations whose outputs are returned as well, see `nodes.walk`.
    """

    def __init__(self, model, precision="float32", features=()):
        # The twin's own policy is float32. Under a mixed policy Keras would read the variables of the substitutes, such
        # as gamma and beta, in half precision.
        super().__init__(name=f"fast_{model.name}", dtype="float32")
        self.net, self.plan = model, _Plan(model, precision, features)
        for convolution in self.plan.substitutes.without_bias.values():
            convolution.bias.trainable = False
        self.built = True  # there are no variables of its own for Keras to create

    @property
    def network(self):
        """What it trains, for `training.fit`."""
        return self.net

    def call(self, inputs, training=None):
        """The outputs of the model; with `features` [outputs, *the outputs of those operations]."""
        plan, found = self.plan, {}
        watched = {node: functools.partial(found.__setitem__, node) for node in plan.features}
        with running.arithmetic(plan.lowered, plan.precision):
            outputs = running.run(self.net, inputs, plan.substitutes.table(), watched, bool(training))
        return [outputs, *(found[node] for node in plan.features)] if plan.features else outputs
