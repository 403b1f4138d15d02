"""A ResNet for inference, with every batch-normalisation folded into the convolution before it.

Saved models are not folded. The suite folds a copy to evaluate a model, as one does to deploy it.
"""

import keras
from keras import ops

from compress.engine import fast
from compress.graph import resnet


def fold(net):
    """Folds every batch-normalisation into the kernel and bias of the convolution before it.

    kernel' = kernel s and bias' = beta + (bias - mean) s with s = gamma / sqrt(variance + epsilon) for each output
    channel. Jacob et al. 2018, arXiv 1712.05877, section 3.2.

    Args:
        net: a model of `resnet.build_resnet`.

    Returns:
        {name: (kernel, bias)} float32 tensors, with the names of `resnet.wiring` and `resnet.head_of`. Kernels of
        convolutions have the form that `fast.arranged` gives them, biases (channels out,).
    """
    weights = {}
    for name, *_ in resnet.wiring_of(net):
        conv, norm = net.get_layer(f"{name}_conv"), net.get_layer(f"{name}_bn")
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)  # (channels out,)
        kernel = fast.arranged(conv.kernel * scale, *conv.output.shape[1:3])  # the last axis is channels out
        weights[name] = kernel, norm.beta + (conv.bias - norm.moving_mean) * scale
    # Copies: tensors like the folded ones, not the variables of the layers, which may go on changing.
    head = {name: net.get_layer(name) for name, _ in resnet.head_of(resnet.widths_of(net))}
    return weights | {name: (ops.copy(dense.kernel), ops.copy(dense.bias)) for name, dense in head.items()}


def run_folded(weights, images, architecture, dtype="float32", watch=None):
    """The forward pass with folded weights.

    Args:
        weights: from `fold`, or the same cast to `dtype`.
        images: (N, h, w, 3), RGB 0 to 255.
        architecture: from `resnet.architecture_of`.
        dtype: of the arithmetic.
        watch: function(name, activation (N, h, w, channels)) that is called with the output of the ReLU of each
            convolution that has one, as APoZ counts its zeros; or None.

    Returns:
        (logits (N, classes) float32, list of the four stages' feature maps (N, h, w, channels) in `dtype`).
    """

    def conv_bn(x, name, stride=1, relu=True):
        kernel, bias = weights[name]
        x = fast.convolve(x, kernel, stride) + bias
        x = ops.relu(x) if relu else x
        if relu and watch:
            watch(name, x)
        return x

    pooled, stages = fast.forward(images, architecture, dtype, conv_bn)
    for name, _ in resnet.head_of(architecture["widths"]):
        kernel, bias = weights[name]
        pooled = ops.matmul(pooled, kernel) + bias
        pooled = pooled if name == "predictions" else ops.relu(pooled)
    return pooled, stages


class FoldedResNet(keras.Model):
    """A folded copy of a ResNet, for inference only.

    Args:
        net: a model of `resnet.build_resnet`.
        precision: dtype policy of arithmetic and weights; the classifier and its logits are float32 in any.
        features: whether to return [logits, the four stages' feature maps] instead of the logits.
    """

    def __init__(self, net, precision="float32", features=False):
        super().__init__(name=f"folded_{net.name}", dtype="float32", trainable=False)
        self.features, self.architecture = features, resnet.architecture_of(net)
        self.arithmetic = keras.DTypePolicy(precision).compute_dtype
        # Variables rather than constants, so that `refold` can replace them without compiling once more. `constant`
        # below is the other way round.
        self.folded = {
            name: tuple(
                keras.Variable(part, dtype=self._dtype_of(name), trainable=False, autocast=False, name=f"{name}_{kind}")
                for part, kind in zip(parts, ("kernel", "bias"), strict=True)
            )
            for name, parts in fold(net).items()
        }
        self.built = True

    def _dtype_of(self, name):
        return self.arithmetic if name.startswith("conv") else "float32"

    def refold(self, net):
        """Folds a network of the same shapes in place of the one before; a compiled function stays valid."""
        for name, parts in fold(net).items():
            for variable, part in zip(self.folded[name], parts, strict=True):
                variable.assign(part)

    def call(self, images, training=None):
        """(N, h, w, 3), RGB 0 to 255 -> logits (N, classes) float32; with `features` a list, see the class."""
        logits, stages = run_folded(self.folded, images, self.architecture, self.arithmetic)
        return [logits, *stages] if self.features else logits


def evaluator_of(net, precision="float32"):
    """What validates a network while it trains: a function() -> a model that computes the logits the network has now.

    Args:
        net: a keras.Model of logits. One of `resnet.build_resnet` is folded, which is faster; any other evaluates
            itself.
        precision: dtype policy of the arithmetic of a folded one.
    """
    try:
        resnet.architecture_of(net)
    except ValueError:
        return lambda: net
    twins = []

    def fresh():
        if twins:
            twins[0].refold(net)
        else:
            twins.append(FoldedResNet(net, precision))
        return twins[0]

    return fresh


def constant(net, precision="float32"):
    """A function for inference with the folded weights as constants, as in a deployed model.

    The runtime may then reorder them for the processor once. Variables can change, so it would reorder them in every
    call, which takes as long as the arithmetic itself for a batch of one image.

    Args:
        net: a model of `resnet.build_resnet`.
        precision: dtype policy of the arithmetic.

    Returns:
        function(tensor (N, h, w, 3), RGB 0 to 255) -> logits, a tensor (N, classes) float32; not compiled yet.
    """
    dtype, architecture = keras.DTypePolicy(precision).compute_dtype, resnet.architecture_of(net)
    weights = {
        name: tuple(
            ops.convert_to_numpy(ops.cast(part, dtype if name.startswith("conv") else "float32")) for part in parts
        )
        for name, parts in fold(net).items()
    }
    return lambda images: run_folded(weights, images, architecture, dtype)[0]


def freeze(net, precision="float32"):
    """Compiles `constant`, with the same arguments.

    Returns:
        function(numpy images (N, h, w, 3), RGB 0 to 255) -> numpy logits (N, classes) float32.
    """
    compiled = compiled_by_backend(constant(net, precision))
    return lambda images: ops.convert_to_numpy(compiled(ops.convert_to_tensor(images)))


def compiled_by_backend(function):
    """Compiles a function of tensors, or dicts of tensors, by the backend: `tf.function` or `jax.jit`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True)  # one trace for all batch sizes but the first
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
