"""A way through the parts of what is to be a ResNet of this suite: its stem and its blocks, by their wiring."""

import dataclasses

from compress.graph import resnet
from compress.graph.reader import Unread

OLD_V2 = "; a ResNet of version 2, whose batch-norms stand in front of the convolutions, is another network"
NAMES = {"conv": "a convolution", "norm": "a batch-normalisation", "relu": "a ReLU", "add": "an addition",
         "max pool": "a max-pooling"}


@dataclasses.dataclass
class Node:
    """A part, and the numbers of the nodes that it reads."""

    part: object
    inputs: list

    @property
    def what(self):
        return self.part.what

    def __str__(self):
        return str(self.part)


@dataclasses.dataclass
class Found:
    """A ResNet that was found in a model.

    Attributes:
        stem: of model.STEMS.
        layers: {name of `resnet.wiring`: (convolution, batch-normalisation)}, each a rules.Part.
        image: the Part of the input.
        pixels: ends.Pixels in front of the first convolution.
        touched: Parts that act on the pixels, in order.
        unread: the Lambda among them, or None.
        head: list of lists of Parts, one a Dense layer of the network; a ReLU lies between them.
        pool: the Part that leaves the positions behind, None in a network that ends in a map.
        widths: as `resnet.build_resnet` takes them.
        classes: number of logits, or None.
    """

    stem: str
    layers: dict
    image: object
    pixels: object
    touched: list
    unread: object = None
    head: list = dataclasses.field(default_factory=list)
    pool: object = None
    widths: dict = dataclasses.field(default_factory=dict)
    classes: int | None = None

    @property
    def dense_names(self):
        """What `resnet.build_resnet` calls the Dense layers of the head."""
        return [name for name, _ in resnet.head_of(self.widths)] if self.head else []


class Walk:
    """A way through the nodes, from the image to the output."""

    def __init__(self, nodes, shape_of):
        self.nodes, self.at, self.width, self.shape_of = nodes, 0, 3, shape_of
        self.readers = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            for place in node.inputs:
                self.readers[place].append(number)

    def ahead(self, at=None):
        """The nodes that read the output of the one where the walk is."""
        return [self.nodes[n] for n in self.readers[self.at if at is None else at]]

    def take(self, what, where):
        """Goes on to the one node that reads the output of this one, which has to be such a one; its Part."""
        self.at, part = self.follow(self.at, what, where)
        return part

    def follow(self, at, what, where):
        """(number, Part) of the one node that reads the output of node `at`."""
        ahead = self.readers[at]
        if not ahead:
            raise Unread(f"{self.nodes[at]}, the last layer {where}, where {what} is expected")
        node = self.nodes[ahead[0]]
        if len(ahead) > 1 or node.what != what:
            of = f", read by {len(ahead)} layers at once" if len(ahead) > 1 else ""
            early = (self.nodes[at].what, node.what) in (("conv", "pad"), ("conv", "max pool"), ("relu", "norm"))
            old = OLD_V2 if early else ""
            raise Unread(f"{node}{of} {where}, where {NAMES.get(what, what)} is expected{old}")
        return ahead[0], node.part

    def kernel(self, part, width):
        """(side, channels) of a square kernel that reads so many channels."""
        shape = self.shape_of(part, "kernel")
        if len(shape) != 4 or shape[0] != shape[1] or shape[2] != width or min(shape) < 1:
            raise Unread(f"{part}, whose kernel is {shape}, expected (side, side, {width}, channels)")
        told = [part.step.config.get(name) for name in ("kernel_size", "filters")]
        if told != [list(shape[:2]), shape[3]]:
            raise Unread(f"{part}, whose kernel is {shape} and whose config says {told[1]!s:.20} of {told[0]!s:.40}")
        return shape[0], shape[3]


def _conv_norm(walk, at, where, side, stride, width, relu=True):
    """(number of the last node, (convolution, norm), channels) of a convolution with its batch-normalisation."""
    pad = 0
    if side > 1 and walk.ahead(at) and walk.ahead(at)[0].what == "pad":
        at, part = walk.follow(at, "pad", where)
        pad = _border(part)
    at, conv = walk.follow(at, "conv", where)
    found, channels = walk.kernel(conv, width)
    _check_conv(conv, where, found, side, stride, pad)
    at, norm = walk.follow(at, "norm", where)
    check_axis(norm)
    if relu:
        at, _ = walk.follow(at, "relu", where)
    return at, (conv, norm), channels


def _border(part):
    rows, columns = part.values["padding"]
    if len({*rows, *columns}) != 1:
        raise Unread(f"{part}, which pads {(rows, columns)}; expected each side alike")
    return rows[0]


def check_axis(part):
    """Raises Unread for a batch-normalisation on a map that takes its rows for channels."""
    if part.what == "norm" and part.values["axis"] in (1, [1]):
        raise Unread(f"{part}, which has its channels on axis 1; expected the last (channels_last)")


def _check_conv(conv, where, found, side, stride, pad):
    values = conv.values
    wanted = [f"a kernel of {side}x{side}, not {found}x{found}"] if found != side else []
    wanted += [f"strides {(stride, stride)}, not {values['strides']}"] if values["strides"] != (stride, stride) else []
    same = values["padding"] == "same" and stride == 1 and pad == 0
    if not same and not (side == 1 and pad == 0) and not (values["padding"] == "valid" and pad == side // 2):
        wanted.append(f"zeros of {side // 2} on each side around it, as ZeroPadding2D gives them")
    if wanted:
        raise Unread(f"{conv} {where}, expected {' and '.join(wanted)}")


def walk_stem(walk, found):
    """Notes the first convolution; the walk stands behind it, or its pooling, then. Raises Unread."""
    where = "at the beginning of the network"
    ahead = walk.ahead()
    first = ahead[0] if len(ahead) == 1 else None
    if first is None or first.what not in ("pad", "conv"):
        raise Unread(f"{first or walk.nodes[walk.at]} {where}, where a convolution is expected")
    at = walk.readers[walk.at][0]
    at = walk.follow(at, "conv", where)[0] if first.what == "pad" else at
    conv = walk.nodes[at].part
    side, _ = walk.kernel(conv, 3)
    found.stem = resnet.stem_of(side)
    if found.stem is None:
        raise Unread(f"{conv}, a first kernel of {side}x{side}; expected one of "
                     f"{', '.join(f'{k}x{k}' for k, _ in resnet.STEMS.values())}")
    kernel, stride = resnet.STEMS[found.stem]
    if conv.values["strides"] != (stride, stride):
        raise Unread(f"{conv}, a first kernel as of the stem {found.stem} with another stride or pool")
    walk.at, found.layers["conv1"], walk.width = _conv_norm(walk, walk.at, where, kernel, stride, 3)
    found.widths["conv1_conv"] = walk.width
    pooled = len(walk.ahead()) == 1 and walk.ahead()[0].what in ("pad", "max pool")
    if pooled != (found.stem == "imagenet"):
        raise Unread(f"{conv}, a first kernel as of the stem {found.stem} with another stride or pool")
    if pooled:
        pad = _border(walk.take("pad", where)) if walk.ahead()[0].what == "pad" else 0
        pool = walk.take("max pool", where)
        if pool.values != {"size": (3, 3), "strides": (2, 2), "padding": "valid"} or pad != 1:
            raise Unread(f"{pool} {where}, expected 3x3 windows of strides 2 behind a ZeroPadding2D of 1")


def walk_blocks(walk, found):
    """Notes the convolutions of all blocks; the walk stands behind them then. Raises Unread."""
    stage = block = 1
    while (ahead := walk.ahead()) and any(node.what in ("conv", "pad", "add") for node in ahead):
        where = f"in block {block + 1} of stage {stage}"
        if len(ahead) != 2:
            raise Unread(f"{ahead[0]} {where}, where the two ways of a block are expected")
        numbers = walk.readers[walk.at]
        shortcut = _shortcut(walk, numbers)
        stage, block = (stage + 1, 1) if shortcut is not None else (stage, block + 1)
        where = f"in block {block} of stage {stage}"
        if stage > 5 or stage == 1:
            raise Unread(f"{ahead[0]} {where}; expected four stages, 2 to 5, each begun by a block with a convolution "
                         "as its shortcut")
        _walk_block(walk, found, f"conv{stage}_block{block}", shortcut, where)
    if stage != 5:
        raise Unread(f"{ahead[0] if ahead else walk.nodes[walk.at]} behind {stage - 1} stages of blocks, expected four")


def _shortcut(walk, numbers):
    """The convolution on a block's shorter way, or None where its input is added as it is."""
    for number in numbers:
        if walk.nodes[number].what == "conv":
            norm = walk.ahead(number)
            after = walk.ahead(walk.readers[number][0]) if len(norm) == 1 and norm[0].what == "norm" else []
            if len(after) == 1 and after[0].what == "add":
                return number
    return None


def _walk_block(walk, found, name, shortcut, where):
    stage, first = int(name[4]), shortcut is not None
    stride, width, start = 2 if first and stage > 2 else 1, walk.width, walk.at
    main = [n for n in walk.readers[start] if n != shortcut and walk.nodes[n].what != "add"]
    if len(main) != 1:
        raise Unread(f"{walk.nodes[walk.readers[start][0]]} {where}, where the two ways of a block are expected")
    skip, stream = start, width
    if first:
        skip, found.layers[f"{name}_0"], stream = _conv_norm(
            _Branch(walk, start, shortcut), start, where, 1, stride, width, relu=False)
    at, found.layers[f"{name}_1"], first_inner = _conv_norm(_Branch(walk, start, main[0]), start, where, 1, stride,
                                                            width)
    at, found.layers[f"{name}_2"], inner = _conv_norm(walk, at, where, 3, 1, first_inner)
    last, found.layers[f"{name}_3"], outer = _conv_norm(walk, at, where, 1, 1, inner, relu=False)
    at, add = walk.follow(last, "add", where)
    if sorted(walk.nodes[at].inputs) != sorted([skip, last]) or outer != stream:
        raise Unread(f"{add} {where}, which adds something else than the two ways of the block")
    walk.at, walk.width = walk.follow(at, "relu", where)[0], stream
    found.widths |= {f"conv{stage}_stream": stream, f"{name}_1_conv": first_inner, f"{name}_2_conv": inner}


class _Branch:
    """A walk that sees only one of the nodes that read a block's input."""

    def __init__(self, walk, start, only):
        self.walk, self.nodes, self.kernel = walk, walk.nodes, walk.kernel
        self.readers = list(walk.readers)
        self.readers[start] = [only]

    def ahead(self, at):
        return [self.nodes[n] for n in self.readers[at]]

    def follow(self, at, what, where):
        return Walk.follow(self, at, what, where)


