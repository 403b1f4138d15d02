"""Models without some channels, or without some layers: smaller ones, and ones of the same size that don't read them.

All are built layer by layer from the layers' own configs: a copy of a whole model's config holds shapes that no longer
fit.
"""

import contextlib

import keras
import numpy as np
from keras import tree

from compress.graph.nodes import graph_of, is_model, nodes_of


def trimmed(model, reading, alive):
    """The model without channels.

    Args:
        model: a keras.Model.
        reading: its channels.Reading.
        alive: bool (numbers,), which channels stay.

    Returns:
        A new keras.Model.
    """
    copies = _Copies(reading, alive)

    # A kernel loses slices along the axis that it reads channels on and along the one that it makes them on.
    def left(value, axes):
        for axis, ids in enumerate(axes.ids if axes else ()):
            value = value if ids is None else value.compress(alive[ids], axis)
        return value

    return _filled(copies, model, left)


def masked(model, reading, alive):
    """The model with removed channels in their place, and zeros wherever they are read.

    A layer that mixes channels gets zeros in the slices of its kernel that a removed one is multiplied by. Zeros in the
    layer that makes the channel are not enough: behind a sigmoid, or the beta of a batch-normalisation, it would be
    another number again. They are put there too, so that what is removed is 0 in every kernel.

    Args:
        model: a keras.Model.
        reading: its channels.Reading.
        alive: bool (numbers,), which channels stay.

    Returns:
        A new keras.Model.
    """
    # the layers keep their widths: for the copies no channel is gone
    copies = _Copies(reading, np.ones(len(alive), bool))

    # What a layer divides by, as a moving variance, stays as it is.
    def zeroed(value, axes):
        value = value.copy()
        for axis, ids in enumerate(axes.ids if axes and not axes.divides else ()):
            if ids is not None:
                np.moveaxis(value, axis, 0)[~alive[ids]] = 0
        return value

    return _filled(copies, model, zeroed)


def altered(model, reading, instead, settings):
    """The model without some of its layers, and with other settings of others.

    Args:
        model: a keras.Model.
        reading: its channels.Reading.
        instead: {id(tensor): the tensor that is read in its place}, which comes before it in the same graph and has its
            channels. What is computed for the first alone is left out.
        settings: {id(layer): {key of its config: value}}. Of a kernel that becomes smaller by it the middle is left.

    Returns:
        A new keras.Model; one that was a Sequential is functional.
    """
    copies = _Copies(reading, np.ones(reading.numbers.count, bool), instead, settings)
    return _filled(copies, model, lambda value, _: value)


def _middle(value, shape):
    """The middle of an array as far as another shape reaches."""
    cuts = [(old - new) // 2 for old, new in zip(value.shape, shape, strict=True)]
    return value[tuple(slice(cut, cut + size) for cut, size in zip(cuts, shape, strict=True))]


def _filled(copies, model, changed):
    """The copy of a model, each variable with function(old values, its Axes or None) -> new values."""
    copy_of_model = copies.model(model, [tensor.shape for tensor in graph_of(model).inputs])
    # Keras makes a layer's variables at its first call: they exist by now.
    for layer, copy in copies.layers.values():
        wiring = copies.reading.wirings.get(id(layer))
        variables = wiring.variables if wiring else {}
        for at, (old, new) in enumerate(zip(_weights(layer), _weights(copy), strict=True)):
            values = changed(np.asarray(old), variables.get(at))
            new.assign(_middle(values, new.shape) if id(layer) in copies.settings else values)
        if isinstance(copy, keras.layers.Normalization):
            copy.finalize_state()  # it computes with what this derives from its variables
    return copy_of_model


def _weights(layer):
    """A layer's variables in Keras' order; a raw operation has none."""
    return getattr(layer, "weights", ())


class _Copies:
    """Copies of a model's layers, each made once however often it is called.

    Args:
        reading: a channels.Reading.
        alive: bool (numbers,), which channels stay.
        instead: as of `altered`.
        settings: as of `altered`.
    """

    def __init__(self, reading, alive, instead=None, settings=None):
        self.reading, self.alive, self.layers, self._models = reading, alive, {}, {}
        self._instead, self.settings = instead or {}, settings or {}

    def layer(self, operation):
        """The copy of a layer or raw operation, not yet built."""
        if id(operation) not in self.layers:
            config, wiring = operation.get_config(), self.reading.wirings.get(id(operation))
            # Some settings count channels, as `filters`, `units` or `groups`, and shrink with them.
            for key, setting in (wiring.settings if wiring else {}).items():
                config[key] = setting.function(self.alive[setting.ids], config[key])
            config |= self.settings.get(id(operation), {})
            self.layers[id(operation)] = operation, type(operation).from_config(config)
        return self.layers[id(operation)][1]

    def model(self, model, shapes):
        """The copy of a model whose inputs have the given shapes."""
        if id(model) not in self._models:
            stacked = isinstance(model, keras.Sequential) and not (self._instead or self.settings)
            build = self._sequential if stacked else self._functional
            self._models[id(model)] = build(model, graph_of(model), shapes)
        return self._models[id(model)]

    def _inputs(self, graph, shapes):
        """{id(input of a graph): input of its copy}; what is open stays so, since calls may differ in it."""
        # A model inside the network is entered by channels too, fewer than its own input says.
        fresh = {}
        for tensor, given in zip(graph.inputs, shapes, strict=True):
            shape = tuple(None if size is None else new for size, new in zip(tensor.shape, given, strict=True))
            layer = tensor._keras_history.operation
            fresh[id(tensor)] = type(layer).from_config(layer.get_config() | {"batch_shape": shape}).output
        return fresh

    def _functional(self, model, graph, shapes):
        # Every call is made once more on the copies, in the order of the first time: Keras then infers all shapes.
        tensors, read = self._inputs(graph, shapes), self._read(graph)
        for node in nodes_of(graph):
            if read.isdisjoint(map(id, node.outputs)):
                outputs = [None] * len(node.outputs)
            else:
                outputs = tree.flatten(self._called(node, tensors))
            for old, new in zip(node.outputs, outputs, strict=True):
                other = self._instead.get(id(old))
                tensors[id(old)] = new if other is None else tensors[id(other)]
        inputs, outputs = (
            tree.map_structure(lambda tensor: tensors[id(tensor)], struct)
            for struct in (graph._inputs_struct, graph._outputs_struct)
        )
        return keras.Model(inputs, outputs, name=model.name, trainable=model.trainable)

    def _read(self, graph):
        """Ids of the tensors that have to be computed for the outputs of a graph."""
        read = set()
        wanted = list(graph.outputs)
        maker = {id(tensor): node for node in nodes_of(graph) for tensor in node.outputs}
        while wanted:
            tensor = wanted.pop()
            while id(tensor) in self._instead:
                tensor = self._instead[id(tensor)]
            if id(tensor) not in read:
                read.add(id(tensor))
                wanted += maker[id(tensor)].input_tensors if id(tensor) in maker else []
        return read

    def _sequential(self, model, graph, shapes):
        # Sequential calls its layers itself, so they are stacked uncalled. A model inside it has no tensor to read its
        # input's shape from: it is the recorded shape less the channels that go.
        first, *_ = self._inputs(graph, shapes).values()
        stack = []
        for node in nodes_of(graph):
            shapes = [self._shape(tensor) for tensor in node.input_tensors]
            inner = is_model(node.operation)
            stack.append(self.model(node.operation, shapes) if inner else self.layer(node.operation))
        with contextlib.ExitStack() as zeros:
            for layer in stack:
                zeros.enter_context(_from_zeros(layer))
            return keras.Sequential([first, *stack], trainable=model.trainable, name=model.name)

    def _called(self, node, tensors):
        args, kwargs = self._arguments(node, tensors)
        if is_model(node.operation):
            inner = self.model(node.operation, [tensors[id(tensor)].shape for tensor in node.input_tensors])
            return inner(*args, **kwargs)
        layer = self.layer(node.operation)
        with _from_zeros(layer):
            return layer(*args, **kwargs)

    def _arguments(self, node, tensors):
        args, kwargs = node.arguments.fill_in(tensors)
        # The arguments of some operations count channels, as the shape of a reshape.
        setting = self.reading.arguments.get(id(node))
        return (setting.function(self.alive[setting.ids], args), {}) if setting else (args, kwargs)

    def _shape(self, tensor):
        """The shape of a tensor without the channels that go."""
        span = self.reading.spans.get(id(tensor))
        return tuple(
            int(self.alive[span.ids].sum()) if span is not None and axis == span.axis else size
            for axis, size in enumerate(tensor.shape)
        )


@contextlib.contextmanager
def _from_zeros(layer):
    """A layer built in here starts from zeros, which is quicker than drawing weights that are overwritten."""
    initialisers = {}
    if isinstance(layer, keras.Layer) and not layer.built:
        initialisers = {
            name: value for name, value in vars(layer).items() if isinstance(value, keras.initializers.Initializer)
        }
    for name in initialisers:
        setattr(layer, name, keras.initializers.Zeros())
    try:
        yield
    finally:
        for name, value in initialisers.items():
            setattr(layer, name, value)
