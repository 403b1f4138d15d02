"""Inference of any graph, with each batch-normalisation folded into the convolution or Dense layer in front of it.

Saved models are not folded. The suite folds a copy to evaluate a model, as one does to deploy it.
"""

import functools

import keras
import numpy as np
from keras import ops
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv

from compress.engine import devices, operations, running
from compress.errors import InputError
from compress.graph import folds, nodes


def is_plain_convolution(layer):
    """Whether `operations.convolve` computes what this layer does before bias and activation."""
    return (
        getattr(type(layer), "call", None) is BaseConv.call
        and type(layer).convolution_op is BaseConv.convolution_op
        and (layer.rank, layer.groups, layer.data_format) == (2, 1, "channels_last")
        and set(layer.dilation_rate) == {1}
    )


def is_plain_depthwise(layer):
    """Whether `operations.depthwise` computes what this layer does before bias and activation.

    A convolution of as many groups as channels is one too, as in ConvNeXt.
    """
    kind = getattr(type(layer), "call", None)
    if kind is BaseConv.call:
        alone = type(layer).convolution_op is BaseConv.convolution_op and layer.kernel.shape[-2:] == (1, layer.groups)
    else:
        alone = kind is BaseDepthwiseConv.call and layer.depth_multiplier == 1
    return alone and (layer.rank, layer.data_format) == (2, "channels_last") and set(layer.dilation_rate) == {1}


class Folding:
    """How a model is computed with folded batch-normalisations: read once, run with any weights.

    The weights are an argument of the computation. So a function that is compiled once runs the network as it is, with
    channels removed (zeros among its weights), and as it is after more training.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        precision: dtype policy of the arithmetic of a model whose layers are float32; a model with a policy of its own
            keeps it. See `running.lowered`.

    Attributes:
        model: as given.
        norms: {layer: batch-normalisation that is folded into it}.
    """

    def __init__(self, model, precision="float32"):
        self.model, self.precision = model, precision
        self.lowered = running.lowered(model, precision)
        self.norms = {layer: norm for norm, layer in folds.pairs(model).items()}
        self.layers, self.sizes = {}, {}  # {path: layer}; {convolution: height and width of the map that it reads}
        folded = set(self.norms.values())
        for path, node in nodes.walk(model):
            layer = node.operation
            if not isinstance(layer, keras.Layer) or nodes.is_model(layer) or layer in folded:
                continue
            self.layers.setdefault(path, layer)
            if is_plain_convolution(layer):
                size = tuple(node.input_tensors[0].shape[1:3])
                self.sizes[layer] = size if self.sizes.get(layer, size) == size else (None, None)

    def weights(self, values=None, only=None):
        """The weights of all layers as they are now, folded.

        kernel' = kernel s and bias' = beta + (bias - mean) s with s = gamma / sqrt(variance + epsilon) for each output
        channel; computed in float64. Jacob et al. 2018, arXiv 1712.05877, section 3.2.

        Args:
            values: {id of a variable of the model: array to use in its place}; None for the variables alone.
            only: the layers whose weights are returned; None for all.

        Returns:
            {path of a layer: tuple of numpy arrays}: kernel and bias of a plain convolution, the kernel in the form
            that `operations.arranged` gives it; of any other layer its weights, and behind them a bias where folding
            gave it one that it hadn't.
        """

        def value(variable):
            array = values.get(id(variable)) if values else None
            return variable.numpy() if array is None else array

        return {
            path: self._arrays(layer, value) for path, layer in self.layers.items() if only is None or layer in only
        }

    def changed(self, weights, values):
        """Weights with some variables of the model replaced; only the layers that have them are folded again.

        Args:
            weights: from `weights`, or tensors of the same values.
            values: list of (variable of the model, array), such as `masked_values` gives.

        Returns:
            As `weights`; what has none of the variables is shared, not copied.
        """
        values = {id(variable): np.asarray(value) for variable, value in values}
        only = {
            layer
            for layer in self.layers.values()
            for part in (layer, self.norms.get(layer))
            if part is not None and any(id(variable) in values for variable in part.weights)
        }
        return weights | self.weights(values, only)

    def _arrays(self, layer, value):
        """The arrays of one layer, see `weights`; value: function(variable) -> array."""
        norm = self.norms.get(layer)
        if norm is None and layer not in self.sizes:
            return tuple(value(variable) for variable in layer.weights)
        kernel, bias = folds.kernel_of(layer), value(layer.bias) if layer.use_bias else np.zeros(1, "float32")
        folded = value(kernel)
        if norm is not None:
            scale, shift = _scale_and_shift(norm, value)
            axes = [axis % len(kernel.shape) for axis in folds.PRODUCERS[type(layer).call][1]]
            shape = [n if axis in axes else 1 for axis, n in enumerate(kernel.shape)]
            folded, bias = folded * scale.reshape(shape), bias * scale + shift
        if layer in self.sizes:
            low = layer in self.lowered
            dtype = keras.DTypePolicy(self.precision).compute_dtype if low else layer.compute_dtype
            matrix = operations.arranged(folded.astype(dtype), self.sizes[layer], layer.strides, layer.padding)
            return matrix, bias.astype(dtype)
        # Any other layer is called as it is, on these in place of its variables.
        own = {id(kernel): folded.astype("float32")} | (
            {id(layer.bias): bias.astype("float32")} if layer.use_bias else {}
        )
        arrays = tuple(own[id(variable)] if id(variable) in own else value(variable) for variable in layer.weights)
        return arrays if layer.use_bias else (*arrays, bias.astype("float32"))

    def run(self, weights, inputs, watched=None):
        """The forward pass in inference mode.

        Args:
            weights: from `weights` or `changed`, as arrays, tensors or variables.
            inputs: what the model is called with.
            watched: {node: function}, see `running.run`.

        Returns:
            The outputs of the model, in their structure.
        """
        replaced, state, picked = dict.fromkeys(self.norms.values(), _unchanged), [], {}
        for path, layer in self.layers.items():
            # Read here: inside the scope below a variable would have its own value, not that of a scope around this.
            arrays = [x.value if isinstance(x, keras.Variable) else ops.convert_to_tensor(x) for x in weights[path]]
            if layer in self.sizes:
                replaced[layer] = functools.partial(_convolved, layer, *arrays, picked)
                continue
            state += zip(layer.weights, arrays, strict=False)
            if is_plain_depthwise(layer):
                bias = arrays[-1] if layer.use_bias or len(arrays) > len(layer.weights) else None
                replaced[layer] = functools.partial(_depthwise, layer, bias)
            elif len(arrays) > len(layer.weights):
                replaced[layer] = functools.partial(_with_bias, layer, arrays[-1])
        with keras.StatelessScope(state), running.arithmetic(self.lowered, self.precision):
            return running.run(self.model, inputs, replaced, watched, training=False)


def masked_values(graph, masks):
    """The variables of a model with zeros where channels are removed, for `Folding.changed`.

    As in `Graph.masked`: removed channels stay in their place, and are 0 wherever they are read.

    Args:
        graph: the network.Graph of the model.
        masks: {group: bool (width,)}, True for what stays; groups without a mask stay whole.

    Returns:
        List of (variable, array), of the variables with removed channels alone.

    Raises:
        InputError: see `Graph.trimmed`.
    """
    alive, found = graph.alive(masks), []
    for wiring in graph.reading.wirings.values():
        for place, axes in wiring.variables.items():
            gone = [None if ids is None else ~alive[ids] for ids in axes.ids]
            if axes.divides or not any(ids is not None and ids.any() for ids in gone):
                continue
            variable = wiring.layer.weights[place]
            value = variable.numpy().copy()
            for axis, ids in enumerate(gone):
                if ids is not None:
                    np.moveaxis(value, axis, 0)[ids] = 0
            found.append((variable, value))
    return found


def _scale_and_shift(norm, value):
    """What a batch-normalisation multiplies by and adds in inference, two (channels,) float64."""
    scale = 1 / np.sqrt(value(norm.moving_variance).astype("float64") + norm.epsilon)
    scale = scale if norm.gamma is None else scale * value(norm.gamma)
    shift = -value(norm.moving_mean) * scale
    return scale, shift if norm.beta is None else shift + value(norm.beta)


def _unchanged(x, **_):
    return x


def _convolved(layer, kernel, bias, picked, x, **_):
    """A plain convolution with other weights than its own."""
    x = operations.convolve(ops.cast(x, kernel.dtype), kernel, layer.strides, layer.padding, picked)
    return layer.activation(x + bias)


def _depthwise(layer, bias, x, **_):
    """A plain depthwise convolution with another bias than its own, or none."""
    x = ops.cast(x, layer.compute_dtype)
    y = operations.depthwise(x, ops.cast(layer.kernel, x.dtype), layer.strides, layer.padding)
    return layer.activation(y if bias is None else y + ops.cast(bias, y.dtype))


def _with_bias(layer, bias, x, **mode):
    """A layer with a bias that it hadn't, before it was folded."""
    y = layer(x, **mode)
    shape = [1] * len(y.shape)
    shape[folds.channels_axis(layer)] = -1
    return y + ops.reshape(ops.cast(bias, y.dtype), shape)


class FoldedModel(keras.Model):
    """A folded copy of a model, for inference only.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        precision: dtype policy of the arithmetic, see `Folding`.
        features: paths of operations whose outputs are returned as well, see `nodes.walk`.
    """

    def __init__(self, model, precision="float32", features=()):
        super().__init__(name=f"folded_{model.name}", dtype="float32", trainable=False)
        self.folding, self.features = Folding(model, precision), running.nodes_at(model, features)
        # Variables rather than constants, so that `refold` can replace them without compiling once more. `constant`
        # below is the other way round.
        self.folded = {
            path: tuple(
                keras.Variable(array, dtype=array.dtype.name, trainable=False, autocast=False, name=f"array{place}")
                for place, array in enumerate(arrays)
            )
            for path, arrays in self.folding.weights().items()
        }
        self.built = True

    def refold(self, model=None):
        """Folds the model again, or another one of the same layers and shapes; a compiled function stays valid."""
        plan = self.folding if model is None else Folding(model, self.folding.precision)
        for variables, arrays in zip(self.folded.values(), plan.weights().values(), strict=True):
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)

    def call(self, inputs, training=None):
        """The outputs of the model; with `features` [outputs, *the outputs of those operations]."""
        found = {}
        watched = {node: functools.partial(found.__setitem__, node) for node in self.features}
        outputs = self.folding.run(self.folded, inputs, watched)
        return [outputs, *(found[node] for node in self.features)] if self.features else outputs


def evaluator_of(model, precision="float32"):
    """What validates a network while it trains: a function() -> a model of the outputs that the network has now.

    Args:
        model: a keras.Model. One without a graph evaluates itself, any other is folded, which is faster.
        precision: dtype policy of the arithmetic of a folded one.
    """
    try:
        nodes.graph_of(model)
    except InputError:
        return lambda: model
    twins = []

    def fresh():
        if twins:
            twins[0].refold()
        else:
            twins.append(FoldedModel(model, precision))
        return twins[0]

    return fresh


def constant(model, precision="float32"):
    """A function for inference with the folded weights as constants, as in a deployed model.

    The runtime may then reorder them for the processor once. Variables can change, so it would reorder them in every
    call, which takes as long as the arithmetic itself for a batch of one image.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.
        precision: dtype policy of the arithmetic, see `Folding`.

    Returns:
        function(what the model is called with, as tensors) -> its outputs; not compiled yet.
    """
    folding = Folding(model, precision)
    weights = folding.weights()
    return lambda inputs: folding.run(weights, inputs)


def freeze(model, precision="float32"):
    """Compiles `constant`, with the same arguments.

    Returns:
        function(numpy images) -> numpy outputs, of a model with one input and one output.
    """
    compiled = compiled_by_backend(constant(model, precision), alone=True)
    return lambda images: ops.convert_to_numpy(compiled(ops.convert_to_tensor(images)))


def compiled_by_backend(function, alone=False):
    """Compiles a function of tensors, or dicts of tensors, by the backend: `tf.function` or `jax.jit`.

    Args:
        function: of tensors from `devices.rows` and `devices.everywhere`.
        alone: of tensors on one device, whatever the others hold.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # One trace for all batch sizes but the first. The walk over the nodes is no graph code: autograph stays out.
        return tf.function(function, reduce_retracing=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function) if alone else devices.compiled(function)
    return function
