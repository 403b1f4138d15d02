"""Numbers for the channels of a network: which belong together, and where each one stands.

Every channel of every tensor has a number. A layer that makes channels hands out new numbers, one that mixes channels
reads them, one that moves data moves the numbers along, and one that pairs tensors element by element ties the numbers
of both. What is tied can only go together. What a layer can't do without is pinned: it has to stay.

`read_channels` walks over a model and asks a rule of `rules` at each operation. A rule is a function of a `Call`.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import tree

from compress.graph.nodes import graph_of, is_model, nodes_of


@dataclasses.dataclass(frozen=True)
class Span:
    """The channels of a tensor.

    Attributes:
        axis: of the whole shape, the batch included, that the channels stand on.
        ids: int (channels,), their numbers.
    """

    axis: int
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pin:
    """Channels that have to stay.

    Attributes:
        ids: int (channels,), their numbers.
        layer: path of the layer that holds them.
        why: the reason, a few words.
    """

    ids: np.ndarray
    layer: str
    why: str


class Numbers:
    """Hands out numbers and keeps what is tied and what is pinned."""

    def __init__(self):
        self.count, self.pins, self._ties = 0, [], []

    def new(self, count):
        """`count` numbers that no channel has yet, int (count,)."""
        self.count += int(count)
        return np.arange(self.count - int(count), self.count)

    def tie(self, one, other):
        """From now on the channels `one` and `other`, arrays of numbers that broadcast, go or stay together."""
        one, other = np.broadcast_arrays(one, other)
        if one is not other and not np.array_equal(one, other):
            self._ties.append((one.ravel(), other.ravel()))

    def pin(self, ids, layer, why):
        """The channels of these numbers have to stay; see `Pin`."""
        self.pins.append(Pin(np.ravel(ids), layer, why))

    def classes(self):
        """For each number the smallest one that it is tied to, directly or through others; int (count,)."""
        label = np.arange(self.count)
        if not self._ties:
            return label
        one, other = (np.concatenate(side) for side in zip(*self._ties, strict=True))
        while True:
            low, joined = np.minimum(label[one], label[other]), label.copy()
            np.minimum.at(joined, label[one], low)
            np.minimum.at(joined, label[other], low)
            while (joined[joined] != joined).any():  # follow each chain to its end
                joined = joined[joined]
            if (joined == label).all():
                return label
            label = joined


@dataclasses.dataclass
class Axes:
    """What the axes of one variable stand for.

    Attributes:
        ids: for each axis the numbers of its channels, int (length,); None for an axis that keeps its length.
        divides: whether the layer divides by it, as by a variance: a masked model leaves it alone.
        positions: how often its kernel is applied to an image, the MACs per weight; NaN where the size is open.
    """

    ids: tuple
    divides: bool = False
    positions: float = 0.0


@dataclasses.dataclass
class Setting:
    """A number of a layer's config that follows its channels: `new = function(kept, old)`, kept bool (channels,)."""

    ids: np.ndarray
    function: Callable


@dataclasses.dataclass
class Wiring:
    """What one layer reads and makes, and what of it follows its channels.

    Attributes:
        layer: the keras.Layer or raw operation.
        path: such as 'encoder/conv1'.
        slots: {name: int (channels,)}, the numbers that it reads, makes or follows; later calls are tied to the first.
        reads: names of slots whose channels the layer mixes.
        makes: the numbers of its outputs, where it makes channels; otherwise None.
        sources: whether those were handed out by it; a depthwise convolution passes on what it reads.
        stem: whether it makes channels straight from an input of the model.
        variables: {position in layer.weights: Axes}.
        settings: {key of its config: Setting}.
        work: [(MACs each, ids)], work that is no product with a variable; MACs at all where ids is None.
    """

    layer: object
    path: str
    slots: dict = dataclasses.field(default_factory=dict)
    reads: list = dataclasses.field(default_factory=list)
    makes: np.ndarray | None = None
    sources: bool = False
    stem: bool = False
    variables: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    work: list = dataclasses.field(default_factory=list)

    def role(self, ids):
        """What the layer does with the channels on an axis of its variables: 'makes', 'reads' or 'follows'."""
        if self.makes is None:
            return "reads" if self.reads else "follows"
        passes = not self.sources  # a depthwise convolution: one kernel for each channel
        return "makes" if passes or ids is self.makes or ids is self.slots.get("heads") else "reads"


class Reading:
    """What the walk over a model found.

    Attributes:
        numbers: Numbers.
        wirings: {id(layer): Wiring}, in the order in which Keras runs the layers first.
        spans: {id(KerasTensor): Span}; a tensor that isn't there has no channels that could go.
        arguments: {id(node): Setting}, whose function is (kept, arguments) -> arguments of the call.
        mixed: [ids] of channels whose statistics are taken together, as in a LayerNormalization.
        added: [ids] of channels that are sums over several layers, as in a residual stream.
    """

    def __init__(self):
        self.numbers, self.wirings, self.spans, self.arguments = Numbers(), {}, {}, {}
        self.mixed, self.added = [], []
        self.image = set()  # ids of tensors in front of the first layer that makes channels
        self.entered = {}  # {id(inner model): Spans of its inputs at the first call}


def counted(kept, old):
    """The new value of a setting that is a number of channels."""
    return int(kept.sum())


class Call:
    """One call of a layer or raw operation, as its rule sees it.

    Attributes:
        layer: the keras.Layer or raw operation.
        path: such as 'encoder/conv1'.
        node: the node of the graph.
        inputs: for each tensor that it reads the Span, or None where all channels have to stay.
        spans: those of them that aren't None.
        shapes: of the tensors that it reads, the batch included; None for what is open.
        made: shapes of its outputs.
        sizes: {id(KerasTensor): shape}, of those that have another shape at this call, see `_sizes_at`.
    """

    def __init__(self, node, path, inputs, reading, sizes):
        self.layer, self.path, self.node, self.inputs, self.reading = node.operation, path, node, inputs, reading
        self.numbers, self.spans, self.sizes = reading.numbers, [span for span in inputs if span is not None], sizes
        self.shapes = [self.shape_of(tensor) for tensor in node.input_tensors]
        self.made = [self.shape_of(tensor) for tensor in node.outputs]

    def shape_of(self, tensor):
        """The shape of a tensor or array; of one inside a model of open sizes that of this call of the model."""
        shape = tensor.shape if hasattr(tensor, "shape") else np.shape(tensor)
        return self.sizes.get(id(tensor), tuple(shape))

    @property
    def wiring(self):
        """The layer's Wiring, the same one at each of its calls."""
        return self.reading.wirings.setdefault(id(self.layer), Wiring(self.layer, self.path))

    # ---- numbers

    def pin(self, spans, why):
        """The channels of some Spans (or None) have to stay: this layer holds them.

        Args:
            spans: a list, or one Span.
            why: a few words that end the sentence 'they stay because ...'.
        """
        for span in spans if isinstance(spans, (list, tuple)) else [spans]:
            if span is not None:
                self.numbers.pin(span.ids, self.path, why)

    def refuse(self, why):
        """Pins all inputs; returns what a rule returns then: no output has channels that could go."""
        self.pin(self.inputs, why)
        return [None] * len(self.made)

    def on_axis(self, axis=-1, number=0):
        """The numbers on an axis of an input, int (length,). Channels on another axis have to stay."""
        span, shape = self.inputs[number], self.shapes[number]
        axis %= len(shape)
        if span is not None and span.axis == axis:
            return span.ids
        self.pin(span, "another axis than the channels' is read")
        ids = self.numbers.new(shape[axis])
        self.numbers.pin(ids, self.path, "they aren't made by a layer")
        return ids

    def slot(self, name, ids):
        """The numbers of a slot: `ids` at the layer's first call; at a later one those are tied to the first."""
        first = self.wiring.slots.setdefault(name, ids)
        if len(first) == len(ids):
            self.numbers.tie(first, ids)
        else:
            for found in (first, ids):
                self.numbers.pin(found, self.path, "it is called with different numbers of channels")
        return first

    def read(self, axis=-1, number=0, slot="in"):
        """The numbers on an axis whose channels the layer mixes, as a Dense layer does with its last one.

        Args:
            axis: of the whole shape.
            number: of the input.
            slot: a name for each of several axes that a layer reads.

        Returns:
            int (length,); the same numbers at each call of a shared layer.
        """
        if slot not in self.wiring.reads:
            self.wiring.reads.append(slot)
        return self.slot(slot, self.on_axis(axis, number))

    def follow(self, axis=-1, number=0):
        """Like `read`, of a layer that treats every channel alone, such as a batch-normalisation."""
        return self.slot("along", self.on_axis(axis, number))

    def make(self, count):
        """`count` new channels, int (count,); a layer that is called again makes the same ones."""
        if self.wiring.makes is None:
            self.wiring.makes, self.wiring.sources = self.numbers.new(count), True
            self.wiring.stem = all(id(tensor) in self.reading.image for tensor in self.node.input_tensors)
        return self.wiring.makes

    def pass_on(self, ids):
        """The layer makes its outputs of one channel each, as a depthwise convolution does: they have its number."""
        if self.wiring.makes is None:
            self.wiring.makes = ids
        return self.wiring.makes

    # ---- what follows them

    def variable(self, variable, *ids, positions=0.0, divides=False):
        """Says what the axes of a variable stand for; see `Axes`. A variable that is None is skipped."""
        if variable is None:
            return
        at = next(i for i, other in enumerate(self.layer.weights) if other is variable)
        axes = self.wiring.variables.setdefault(at, Axes(ids, divides))
        axes.positions += positions

    def setting(self, key, ids, function=counted):
        """Says that a number of the layer's config follows some channels; see `Setting`."""
        self.wiring.settings[key] = Setting(self.slot(f"setting {key}", ids), function)

    def argument(self, ids, function):
        """Says that the arguments of this call follow some channels; see `Reading.arguments`."""
        self.reading.arguments[id(self.node)] = Setting(ids, function)

    def work(self, macs, ids=None):
        """Says that this call has MACs beside those of its variables, each channel of `ids` so many; see `Wiring`."""
        self.wiring.work.append((macs, ids))

    def positions(self, axis, shape=None):
        """Number of positions of the output (or of a shape) apart from batch and channels; NaN where one is open."""
        shape = self.made[0] if shape is None else shape
        sizes = [size for at, size in enumerate(shape) if at not in (0, axis % len(shape))]
        return float("nan") if None in sizes else float(np.prod(sizes, dtype=float))


def read_channels(model, rule_of):
    """Walks over a model and numbers its channels.

    Args:
        model: a keras.Model that `nodes.check` lets pass.
        rule_of: function(operation) -> rule; a rule is function(Call) -> Span, None, or a list of those, one an output.

    Returns:
        Reading.
    """
    reading, graph = Reading(), graph_of(model)
    reading.image |= {id(tensor) for tensor in graph.inputs}
    outputs = _run(graph, [None] * len(graph.inputs), "", reading, rule_of, {})
    makers = {id(tensor): path for path, tensor in _named(graph)}
    for tensor, span in zip(graph.outputs, outputs, strict=True):
        if span is not None:
            reading.numbers.pin(span.ids, makers[id(tensor)], "they are an output of the model")
    return reading


def _named(graph):
    """(path, tensor) of all outputs of a graph's own operations."""
    for node in nodes_of(graph):
        yield from ((node.operation.name, tensor) for tensor in node.outputs)


def _run(graph, inputs, path, reading, rule_of, sizes):
    """Spans of a graph's outputs from those of its inputs; sizes: see `_sizes_at`."""
    known = {id(tensor): span for tensor, span in zip(graph.inputs, inputs, strict=True)}
    for key, span in known.items():
        if span is not None:
            reading.spans.setdefault(key, span)
    for node in nodes_of(graph):
        here = f"{path}{node.operation.name}"
        call = Call(node, here, [known[id(tensor)] for tensor in node.input_tensors], reading, sizes)
        if is_model(node.operation):
            spans = _entered(call, rule_of)
        else:
            rule = rule_of(node.operation)
            found = rule(call)
            spans = list(found) if isinstance(found, (list, tuple)) else [found] * len(node.outputs)
        spans = [_fitting(call, span, shape) for span, shape in zip(spans, call.made, strict=True)]
        if all(span is None for span in spans) and all(id(t) in reading.image for t in node.input_tensors):
            reading.image |= {id(tensor) for tensor in node.outputs}
        for tensor, span in zip(node.outputs, spans, strict=True):
            known[id(tensor)] = span
            if span is not None:
                reading.spans.setdefault(id(tensor), span)
    return [known[id(tensor)] for tensor in graph.outputs]


def _fitting(call, span, shape):
    """A Span as it is; None, with its channels pinned, where the output has another number of channels."""
    if span is None or (span.axis < len(shape) and shape[span.axis] == len(span.ids)):
        return span
    call.pin(span, "its outputs have another number of channels")
    return None


def _entered(call, rule_of):
    """Spans of an inner model's outputs. The model is rebuilt once, so all its calls get the same channels."""
    reading, inner = call.reading, graph_of(call.layer)
    first = reading.entered.setdefault(id(call.layer), call.inputs)
    for one, other in zip(first, call.inputs, strict=True):
        if one is None or other is None or one.axis != other.axis:
            call.pin([one, other], "it is called with channels of different kinds")
        else:
            call.numbers.tie(one.ids, other.ids)
    for outer, tensor in zip(call.node.input_tensors, inner.inputs, strict=True):
        if id(outer) in reading.image:
            reading.image.add(id(tensor))
    return _run(inner, first, f"{call.path}/", reading, rule_of, _sizes_at(inner, call.shapes))


def _sizes_at(graph, shapes):
    """Shapes of a graph's tensors at one call: a model inside may leave sizes open, which each of its calls gives it.

    Args:
        graph: of the model inside.
        shapes: of the tensors that it is called with.

    Returns:
        {id(KerasTensor): shape}, empty where the graph's own shapes say as much.
    """
    own = [tensor.shape for tensor in graph.inputs]
    if own == shapes or not any(None in shape[1:] for shape in own):
        return {}
    specs = {
        id(tensor): keras.KerasTensor(shape, tensor.dtype) for tensor, shape in zip(graph.inputs, shapes, strict=True)
    }
    for node in nodes_of(graph):
        args, kwargs = node.arguments.fill_in(specs)
        try:
            outputs = tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        except Exception:  # whatever a layer raises that can't tell
            outputs = node.outputs
        specs |= {id(tensor): spec for tensor, spec in zip(node.outputs, outputs, strict=True)}
    return {key: tuple(spec.shape) for key, spec in specs.items()}


def is_keras_tensor(value):
    """Whether an argument of a call is a tensor of the graph, rather than a constant."""
    return isinstance(value, keras.KerasTensor)
