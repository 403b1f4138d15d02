"""The graph of a Keras model: which channels go together, what they cost, and the model without some of them.

```python
graph = Graph(model)
masks = {name: np.arange(group.width) % 2 == 0 for name, group in graph.groups.items() if group.inner}
print(graph.cost({name: mask.sum() for name, mask in masks.items()}))  # of half the channels
small = graph.trimmed(masks)  # a plain keras.Model
```
"""

import dataclasses
import functools
import re

import numpy as np

from compress.errors import InputError
from compress.graph import folds, rules, trimming
from compress.graph.channels import read_channels
from compress.graph.convolutions import convolutions, dense
from compress.graph.cost import Cost, CostModel
from compress.graph.nodes import check, walk

STREAM = re.compile(r"(conv\d)_stream")  # of a ResNet's residual stream, in names of earlier versions


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that the same layers make and read. Each position of its mask goes or stays for itself.

    Attributes:
        name: path of the first layer that makes them, as 'conv1' or 'encoder/conv1'. Where a layer makes several
            groups, as of channels that are split later, the second is called 'conv1:1'. Of attention the group is the
            heads, under the layer's path. Names stay the same when channels go. Where masks and widths are given by
            names, 'conv3_stream' of earlier versions stands for that stage's residual stream of a ResNet.
        width: positions of the mask.
        makers: paths of all layers that make them, depthwise convolutions among them.
        readers: paths of the layers that mix them.
        exact: whether the trimmed model computes what the masked one does; it doesn't behind a LayerNormalization,
            whose statistics change when channels go.
        inner: whether no addition joins several layers' channels in it, and none is made straight from the input.
        step: channels of the first maker that a position stands for, as the channels of a group of a grouped
            convolution, which go together.
    """

    name: str
    width: int
    makers: tuple
    readers: tuple
    exact: bool
    inner: bool
    step: int = 1


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Channels that have to stay.

    Attributes:
        layer: path of the layer that holds them.
        width: their number.
        why: the reason, a few words.
        makers: paths of the layers that make them.
    """

    layer: str
    width: int
    why: str
    makers: tuple


@dataclasses.dataclass(frozen=True)
class Slice:
    """Where channels of a group stand along an axis of a variable.

    Attributes:
        path: of the layer.
        layer: the keras.Layer.
        variable: of layer.weights.
        axis: of the variable.
        role: 'makes' in the layer that makes the channels, 'reads' in one that mixes them, 'follows' in one that treats
            each alone, as a batch-normalisation.
        channels: int (n,), indices along the axis.
        positions: int (n,), the entries of the group's mask that they belong to.
    """

    path: str
    layer: object
    variable: object
    axis: int
    role: str
    channels: np.ndarray
    positions: np.ndarray


class Graph:
    """Reads a model.

    Args:
        model: a keras.Model, functional or Sequential, models inside it included. It isn't changed.

    Attributes:
        model: the model.
        groups: {name: Group}, in the order in which Keras runs their first makers.
        pinned: list of Pinned, each channel once, with the first layer that holds it.

    Raises:
        InputError: the model has no graph that can be read; see `nodes.check`.
    """

    def __init__(self, model):
        check(model)
        self.model, self.reading = model, read_channels(model, rules.rule_of)
        self._label = self.reading.numbers.classes()
        self._makers = [(w, ids) for w in self.reading.wirings.values() for ids in _made_by(w)]
        self._fixed = np.zeros(len(self._label), bool)
        for pin in self.reading.numbers.pins:
            self._fixed[self._label[pin.ids]] = True
        # by class of tied channels: index of its group (-1: it stays) and its place in the group's mask
        self._group, self._place, self._members = _grouped(self._free_axes(), self._label, self._made())
        self.groups = self._named()
        self.pinned = self._held()

    # ---- how the groups come about

    def _made(self):
        """All classes that some layer makes and none holds, sorted."""
        classes = [np.zeros(0, int), *(self._label[ids] for _, ids in self._makers)]
        classes = np.unique(np.concatenate(classes))
        return classes[~self._fixed[classes]]

    def _free_axes(self):
        """Numbers along every axis of a variable and every tensor, the outputs of makers first, in Keras' order."""
        seen = {id(ids): ids for _, ids in self._makers}
        for wiring in self.reading.wirings.values():
            for axes in wiring.variables.values():
                seen |= {id(ids): ids for ids in axes.ids if ids is not None}
            seen |= {id(ids): ids for ids in wiring.slots.values()}
        seen |= {id(span.ids): span.ids for span in self.reading.spans.values()}
        return list(seen.values())

    def _named(self):
        """{name: Group}."""
        # Layers are kept as keys of a dict, each once and in Keras' order: a group is named after its first maker.
        makers, readers, steps = ([{} for _ in self._members] for _ in range(3))
        stem = np.zeros(len(self._members), bool)
        # One layer may make channels of several groups, where its output is split later. Where it makes more channels
        # of a group than the mask has positions, whole runs of channels are tied, as those of a grouped convolution.
        for wiring, ids in self._makers:
            groups, counts = np.unique(self.group_at(ids), return_counts=True)
            for group, count in zip(groups, counts, strict=True):
                if group >= 0:
                    makers[group][wiring.path] = None
                    steps[group].setdefault("first", count // len(self._members[group]))
                    stem[group] |= wiring.stem
        # A layer may read several groups too, behind a concatenation.
        for wiring in self.reading.wirings.values():
            for slot in wiring.reads:
                for group in np.unique(self.group_at(wiring.slots[slot])):
                    if group >= 0:
                        readers[group][wiring.path] = None
        mixed, added = (self._touched(ids) for ids in (self.reading.mixed, self.reading.added))
        found = {}
        for group, members in enumerate(self._members):
            first = next(iter(makers[group]))
            # the second group of a layer gets a number behind its name
            taken = sum(name.rpartition(":")[0] == first or name == first for name in found)
            name = f"{first}:{taken}" if taken else first
            found[name] = Group(
                name,
                len(members),
                tuple(makers[group]),
                tuple(readers[group]),
                exact=not mixed[group],
                inner=not (added[group] or stem[group]),
                step=int(steps[group]["first"]),
            )
        return found

    def _touched(self, several):
        """Which groups have a channel among some arrays of numbers, bool (groups,)."""
        touched = np.zeros(len(self._members) + 1, bool)
        for ids in several:
            touched[self.group_at(ids)] = True  # -1, what stays, is the last
        return touched[:-1]

    def _held(self):
        """The list `pinned`."""
        # Several layers may hold the same channels, and a pin may name numbers that no layer makes, as the colours of
        # the input. So what is made is ticked off at its first pin, and no channel is reported twice.
        made, found = np.zeros(len(self._label), bool), []
        for _, ids in self._makers:
            made[self._label[ids]] = True  # and not counted yet
        for pin in self.reading.numbers.pins:
            here = self._label[pin.ids]
            here = np.unique(here[made[here]])
            made[here] = False
            # Tied channels, as of a stream that many layers add to, have many makers and count once.
            width, makers, counted = 0, [], []
            for wiring, ids in self._makers if len(here) else ():
                labels = self._label[ids]
                held = np.isin(labels, here)
                if held.any():
                    makers.append(wiring.path)
                    width += int((held & ~np.isin(labels, counted)).sum())
                    counted = np.union1d(counted, labels[held])
            if makers:
                found.append(Pinned(pin.layer, width, pin.why, tuple(dict.fromkeys(makers))))
        return found

    # ---- names of groups

    def named(self, name):
        """The name that a group has here, of one that may be an earlier version's; None where there is no such group.

        Earlier versions called the residual stream of a ResNet's stage 'conv3_stream'. It is the group that the last
        convolution of the stage's first block adds to, and called after the first layer that makes it.
        """
        if name in self.groups:
            return name
        if not (stream := STREAM.fullmatch(str(name))):
            return None
        layer = f"{stream[1]}_block1_3_conv"
        # what no addition joins is no stream, whatever its layers are called
        return next((own for own, group in self.groups.items() if layer in group.makers and not group.inner), None)

    def by_name(self, given, parameter):
        """What is given for some groups, under the names that they have here.

        Args:
            given: {group name, as of `named`: value}.
            parameter: what the caller calls it, for the message.

        Returns:
            {group name: value}.

        Raises:
            InputError: the model has no such group, or one is given twice, by both its names.
        """
        found = {}
        for name, value in given.items():
            own = self.named(name)
            if own is None:
                raise InputError(
                    f"`{parameter}`: received the group {str(name)!r:.100}, expected groups of this model: "
                    f"{', '.join(list(self.groups)[:5])}, ..."
                )
            if own in found:
                raise InputError(
                    f"`{parameter}`: received the group {own} twice, also under its earlier name; expected it once"
                )
            found[own] = value
        return found

    # ---- where channels stand

    def group_at(self, ids):
        """The index of the group of each channel, int (channels,), -1 for what stays; ids: numbers of the reading."""
        return self._group[self._label[ids]]

    def _span_of(self, source):
        """(axis, numbers) of a tensor's channels; (None, numbers) of those that the layer of a path makes."""
        if isinstance(source, str):
            found = [wiring.makes for wiring, _ in self._makers if wiring.path == source and wiring.makes is not None]
            return None, found[0] if found else np.zeros(0, int)
        span = self.reading.spans.get(id(source))
        return (None, np.zeros(0, int)) if span is None else (span.axis, span.ids)

    def places(self, source):
        """Where the channels of a tensor, or those that a layer makes, stand in the masks.

        Args:
            source: a KerasTensor of the model, or the path of a layer that makes channels.

        Returns:
            (axis, {group name: (channels, positions)}): the axis of the tensor (None for a path), and for each group
            the indices of its channels along that axis and the positions of the mask that they belong to, both int
            (n,). (None, {}) where all channels stay.
        """
        axis, ids = self._span_of(source)
        groups, names, here = self.group_at(ids), list(self.groups), {}
        for group in np.unique(groups[groups >= 0]):
            channels = np.flatnonzero(groups == group)
            here[names[group]] = channels, self._place[self._label[ids[channels]]]
        return (axis if here else None), here

    def slices(self, name):
        """Where the channels of a group stand in the network's variables; what scores of a group are added over.

        Args:
            name: of the group.

        Returns:
            list of Slice, in the order in which Keras runs the layers first.
        """
        number, found = list(self.groups).index(name), []
        for wiring in self.reading.wirings.values():
            weights = getattr(wiring.layer, "weights", ())
            for at, axes in sorted(wiring.variables.items()):
                for axis, ids in enumerate(axes.ids):
                    channels = np.flatnonzero(self.group_at(ids) == number) if ids is not None else ()
                    if len(channels):
                        positions = self._place[self._label[ids[channels]]]
                        role = wiring.role(ids)
                        found.append(Slice(wiring.path, wiring.layer, weights[at], axis, role, channels, positions))
        return found

    def kept(self, source, masks):
        """Which channels of a tensor, or of those that a layer makes, stay.

        Args:
            source: as of `places`.
            masks: as of `trimmed`.

        Returns:
            (axis, bool (channels,)); (None, None) where all stay.

        Raises:
            InputError: see `trimmed`.
        """
        alive, (axis, ids) = self.alive(masks), self._span_of(source)
        return (axis, alive[ids]) if len(ids) else (None, None)

    def alive(self, masks):
        """Which numbers of the reading stay, bool (numbers,); masks and errors as of `trimmed`."""
        # A position of a mask is a class of tied channels; each number of the reading goes or stays as its class does.
        keep, masks = np.ones(len(self._label), bool), self.by_name(masks, "masks")
        for members, (name, group) in zip(self._members, self.groups.items(), strict=True):
            if name in masks:
                mask = np.asarray(masks[name])
                if mask.shape != (group.width,) or mask.dtype != bool or not mask.any():
                    raise InputError(
                        f"`masks`: received for {name} shape {mask.shape} of {mask.dtype} with "
                        f"{np.count_nonzero(mask)} True; expected {group.width} booleans, at least one of them True"
                    )
                keep[members] = mask
        return keep[self._label]

    # ---- answers

    @functools.cached_property
    def _costs(self):
        widths = [group.width for group in self.groups.values()]
        counted = list((convolutions(self.model) or dense(self.model)).values())
        return CostModel(self.reading, self.group_at, np.array(widths, int), self.model.count_params(), counted)

    def cost(self, widths=None):
        """Parameters, MACs and sparsity; nothing is built.

        Args:
            widths: {group name: positions of the mask that stay}; groups that are missing keep all.

        Returns:
            Cost.

        Raises:
            InputError: the model has no such group, or a width is out of range.
        """
        row = {name: group.width for name, group in self.groups.items()}
        widths = self.by_name(widths or {}, "widths")
        for name, width in widths.items():
            if not row[name] >= width >= 1:
                raise InputError(f"`widths`: received {width} for {name}, expected 1 to {row[name]}")
        row |= widths
        table = np.array([[row[name] for name in self.groups]])
        return Cost(*self.costs(table)[0], self._costs.sparsity(table)[0])

    @property
    def uncounted(self):
        """Paths of the layers whose MACs aren't known, which makes those of the whole network NaN."""
        return [
            wiring.path
            for wiring in self.reading.wirings.values()
            if np.isnan([axes.positions for axes in wiring.variables.values()]).any()
            or np.isnan([macs for macs, _ in wiring.work]).any()
        ]

    def costs(self, table):
        """Costs of many networks at once.

        Args:
            table: int (n, groups), positions of each group's mask that stay, in the order of `groups`.

        Returns:
            (n, 2) float64, parameters and MACs.
        """
        return self._costs(table)

    def macs_by_term(self, table):
        """MACs of many networks, split by the groups of channels that layers lie between.

        Args:
            table: as of `costs`.

        Returns:
            (n, terms) float64; the sum over a row is the network's MACs.
        """
        return self._costs.macs_by_term(table)

    def masked(self, masks):
        """The model with some channels removed but in its place: the same shapes, and 0 wherever they are read.

        Args:
            masks: as of `trimmed`.

        Returns:
            A new uncompiled keras.Model. Where all groups are exact it computes what the trimmed model does.

        Raises:
            InputError: see `trimmed`.
        """
        return trimming.masked(self.model, self.reading, self.alive(masks))

    def trimmed(self, masks):
        """The model without some channels.

        Args:
            masks: {group name: bool (width,)}, True for what stays; groups without a mask stay whole.

        Returns:
            A new uncompiled keras.Model of the same layer names with the remaining weights.

        Raises:
            InputError: the model has no such group, a mask has another shape, or keeps nothing of its group.
        """
        return trimming.trimmed(self.model, self.reading, self.alive(masks))

    @functools.cached_property
    def activations(self):
        """{group name: [(node, operation)]}: where zeros of its channels can be counted, behind ReLU-like activations.

        The operation is the activation, or a layer with one of its own; `places(node.outputs[0])` says which channel
        of its output belongs to which position of the mask. A group without any has an empty list.
        """
        found = {name: [] for name in self.groups}
        for _, node in walk(self.model):
            if rules.makes_zeros(node.operation, node.arguments):
                for name in self.places(node.outputs[0])[1]:
                    found[name].append((node, node.operation))
        return found

    @functools.cached_property
    def folds(self):
        """[(layer, batch-norm)]: layers that a batch-normalisation can be folded into; see `folds.pairs`."""
        return [(layer, norm) for norm, layer in folds.pairs(self.model).items()]


def _made_by(wiring):
    """Arrays of numbers that a layer makes: its outputs, and the heads of attention."""
    return [ids for ids in (wiring.makes, wiring.slots.get("heads")) if ids is not None]


def _grouped(axes, label, made):
    """Sorts classes of tied channels into groups: those that stand on the same axes the same number of times.

    Args:
        axes: list of arrays of numbers.
        label: int (numbers,), the class of each.
        made: int (n,), the classes that can go, sorted.

    Returns:
        (group, place, members): by class the index of its group, -1 for others, and its place there; for each group
        its classes, sorted. Groups are in the order of the axes that they stand on, which no pruning changes.
    """
    # A random 64-bit number an axis: classes with the same sum are on the same axes, but for chance of 1 in 10^19.
    random, marks = np.random.default_rng(0), np.zeros(len(label), np.uint64)
    for ids in axes:
        np.add.at(marks, label[ids], random.integers(0, 2**64, dtype=np.uint64))
    group, place = np.full(len(label), -1), np.zeros(len(label), int)
    marks, group[made] = np.unique(marks[made], return_inverse=True)
    standing = [[] for _ in marks]
    for number, ids in enumerate(axes):
        for one in np.unique(group[label[ids]]):
            if one >= 0:
                standing[one].append(number)
    order = sorted(range(len(marks)), key=standing.__getitem__)
    group[made] = np.argsort(order)[group[made]] if len(made) else 0
    members = [made[group[made] == number] for number in range(len(marks))]
    for classes in members:
        place[classes] = np.arange(len(classes))
    return group, place, members
