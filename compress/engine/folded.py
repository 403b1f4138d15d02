"""A ResNet for inference: every batch-normalisation folded into the convolution before it.

What stands in a file stays as it is; this is how the suite computes its logits, and how a user who deploys a model
would.
"""

import keras
from keras import ops

from compress.engine import fast
from compress.graph import resnet


def fold(net):
    """Kernels and biases of the convolutions, with the batch-normalisation behind each in them.

    kernel' = kernel s, bias' = beta + (bias - mean) s with s = gamma / sqrt(variance + epsilon), a channel; Jacob et
    al. 2018, arXiv 1712.05877, section 3.2.

    Args:
        net: a model of `resnet.build_resnet`.

    Returns:
        {name: (kernel, bias)} float32 tensors, with the names of `resnet.wiring` and of `resnet.head_of`; kernels of
        convolutions as `fast.arranged` has them.
    """
    weights = {}
    for name, *_ in resnet.wiring_of(net):
        conv, norm = net.get_layer(f"{name}_conv"), net.get_layer(f"{name}_bn")
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        kernel = fast.arranged(conv.kernel * scale, *conv.output.shape[1:3])
        weights[name] = kernel, norm.beta + (conv.bias - norm.moving_mean) * scale
    head = {name: net.get_layer(name) for name, _ in resnet.head_of(resnet.widths_of(net))}
    return weights | {name: (ops.copy(dense.kernel), ops.copy(dense.bias)) for name, dense in head.items()}


def run_folded(weights, images, architecture, dtype="float32", watch=None):
    """Logits (N, classes) float32 and the four stages' feature maps from folded weights.

    Args:
        weights: from `fold`, or the same cast to `dtype`.
        images: (N, h, w, 3), RGB 0 to 255.
        architecture: from `resnet.architecture_of`.
        dtype: of the arithmetic.
        watch: None, or function(name, activation) that is called behind every ReLU of a convolution.
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
    """A copy of a ResNet in inference mode, with nothing to train and nothing to save.

    Args:
        net: a model of `resnet.build_resnet`.
        precision: dtype policy of arithmetic and weights; the classifier and its logits are float32 in any.
        features: answer [logits, the four stages' feature maps] instead of the logits.
    """

    def __init__(self, net, precision="float32", features=False):
        super().__init__(name=f"folded_{net.name}", dtype="float32", trainable=False)
        self.features, self.architecture = features, resnet.architecture_of(net)
        self.arithmetic = keras.DTypePolicy(precision).compute_dtype
        self.folded = {name: tuple(keras.Variable(part, dtype=self._dtype_of(name), trainable=False,
                                                  autocast=False, name=f"{name}_{kind}")
                                   for part, kind in zip(parts, ("kernel", "bias"), strict=True))
                       for name, parts in fold(net).items()}
        self.built = True

    def _dtype_of(self, name):
        return self.arithmetic if name.startswith("conv") else "float32"

    def refold(self, net):
        """Takes the weights that a network of the same shapes has now."""
        for name, parts in fold(net).items():
            for variable, part in zip(self.folded[name], parts, strict=True):
                variable.assign(part)

    def call(self, images, training=None):
        """(N, h, w, 3), RGB 0 to 255 -> logits (N, classes) float32, with `features` a list."""
        logits, stages = run_folded(self.folded, images, self.architecture, self.arithmetic)
        return [logits, *stages] if self.features else logits


def constant(net, precision="float32"):
    """The fastest inference: the folded weights are constants of a function, as in a deployed model.

    That spares bringing them into the processor's order in every call, which counts for small batches.

    Args:
        net: a model of `resnet.build_resnet`.
        precision: dtype policy of the arithmetic.

    Returns:
        function(tensor (N, h, w, 3), RGB 0 to 255) -> logits, tensor (N, classes) float32; it is not compiled.
    """
    dtype, architecture = keras.DTypePolicy(precision).compute_dtype, resnet.architecture_of(net)
    weights = {name: tuple(ops.convert_to_numpy(ops.cast(part, dtype if name.startswith("conv") else "float32"))
                           for part in parts) for name, parts in fold(net).items()}
    return lambda images: run_folded(weights, images, architecture, dtype)[0]


def freeze(net, precision="float32"):
    """`constant`, compiled, from numpy to numpy: function(images (N, h, w, 3)) -> logits (N, classes) float32."""
    compiled = compiled_by_backend(constant(net, precision))
    return lambda images: ops.convert_to_numpy(compiled(ops.convert_to_tensor(images)))


def compiled_by_backend(function):
    """A function of tensors and dicts of tensors, as TensorFlow's or JAX's compiler makes it faster."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
