"""Walks through the operations of a model from image to output, and compares stem and blocks with a ResNet's."""

import dataclasses

from compress.graph import resnet
from compress.graph.reader import Unread

OLD_V2 = "; a ResNet of version 2, whose batch-norms stand in front of the convolutions, is another network"
NAMES = {
    "conv": "a convolution",
    "norm": "a batch-normalisation",
    "relu": "a ReLU",
    "add": "an addition",
    "max pool": "a max-pooling",
}


@dataclasses.dataclass
class Node:
    """An operation of the model.

    Attributes:
        part: an operations.Part.
        inputs: numbers of the nodes whose outputs it reads.
    """

    part: object
    inputs: list

    @property
    def what(self):
        return self.part.what

    def __str__(self):
        return str(self.part)


@dataclasses.dataclass
class Found:
    """A ResNet that was recognised in a model.

    Attributes:
        stem: one of resnet.STEMS.
        layers: {name of `resnet.wiring`: (convolution, batch-normalisation)}, each an operations.Part.
        image: the Part of the input.
        pixels: the ends.Pixels that the first convolution reads.
        touched: Parts between image and first convolution, in order.
        unread: the Lambda among them, or None.
        head: list of lists of Parts; each list is one Dense layer of the suite's network, with a ReLU between two.
        pool: the Part of the global pooling; None in a model that ends in a feature map.
        widths: {group: channels}, as `resnet.build_resnet` takes them.
        classes: number of logits, or None without a head.
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
        """Names of the head's Dense layers in a network of `resnet.build_resnet`."""
        return [name for name, _ in resnet.head_of(self.widths)] if self.head else []


class Walk:
    """A position in the nodes, which moves from the image to the output.

    Args:
        nodes: list of Nodes, each behind those that it reads.
        shape_of: function(part, name of a weight) -> shape.

    Attributes:
        at: number of the present node.
        width: number of channels of its output.
        readers: for each node the numbers of the nodes that read its output.
    """

    def __init__(self, nodes, shape_of):
        self.nodes, self.at, self.width, self.shape_of = nodes, 0, 3, shape_of
        self.readers = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            for place in node.inputs:
                self.readers[place].append(number)

    def ahead(self, at=None):
        """The nodes that read the output of the present node, or of node `at`."""
        return [self.nodes[n] for n in self.readers[self.at if at is None else at]]

    def take(self, what, where):
        """Moves to the only node that reads the present output, and returns its Part.

        Args:
            what: the node has to be, a value of `Part.what`.
            where: the walk is, for the message.

        Raises:
            Unread: several nodes read it, none does, or it is another operation.
        """
        self.at, part = self.follow(self.at, what, where)
        return part

    def follow(self, at, what, where):
        """(number, Part) of the only node that reads the output of node `at`; see `take`."""
        ahead = self.readers[at]
        if not ahead:
            raise Unread(f"{self.nodes[at]}, the last layer {where}, where {what} is expected")
        node = self.nodes[ahead[0]]
        if len(ahead) > 1 or node.what != what:
            of = f", read by {len(ahead)} layers at once" if len(ahead) > 1 else ""
            # pairs that occur in ResNet V2, where batch-normalisation and ReLU stand before a convolution
            early = (self.nodes[at].what, node.what) in (("conv", "pad"), ("conv", "max pool"), ("relu", "norm"))
            old = OLD_V2 if early else ""
            raise Unread(f"{node}{of} {where}, where {NAMES.get(what, what)} is expected{old}")
        return ahead[0], node.part

    def kernel(self, part, width):
        """(height and width, filters) of a square kernel that reads `width` channels.

        Raises:
            Unread: the kernel has another shape, or another than its layer's config says.
        """
        shape = self.shape_of(part, "kernel")
        if len(shape) != 4 or shape[0] != shape[1] or shape[2] != width or min(shape) < 1:
            raise Unread(f"{part}, whose kernel is {shape}, expected (side, side, {width}, channels)")
        size, filters = (part.step.config.get(name) for name in ("kernel_size", "filters"))
        if [size, filters] != [list(shape[:2]), shape[3]]:
            raise Unread(f"{part}, whose kernel is {shape} and whose config says {filters!s:.20} of {size!s:.40}")
        return shape[0], shape[3]


def _conv_norm(walk, at, where, side, stride, width, relu=True):
    """Follows a convolution, its padding, its batch-normalisation and its ReLU from node `at`.

    Args:
        walk: a Walk.
        at: number of the node that the convolution or its padding reads.
        where: it is, for the message.
        side: height and width of the kernel.
        stride: likewise.
        width: number of channels that it reads.
        relu: whether a ReLU has to follow.

    Returns:
        (number of the last node, (Part of the convolution, Part of the batch-normalisation), filters).

    Raises:
        Unread: there is something else.
    """
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
    """Width of a padding, which has to be the same on all four sides."""
    rows, columns = part.values["padding"]
    if len({*rows, *columns}) != 1:
        raise Unread(f"{part}, which pads {(rows, columns)}; expected each side alike")
    return rows[0]


def check_axis(part):
    """Raises Unread for a batch-normalisation that normalises each row of a feature map in place of each channel."""
    # Of vectors (N, channels) axis 1 is the channels, of maps (N, h, w, channels) it is the rows.
    if part.what == "norm" and part.values["axis"] in (1, [1]):
        raise Unread(f"{part}, which has its channels on axis 1; expected the last (channels_last)")


def _check_conv(conv, where, found, side, stride, pad):
    """Raises Unread where a convolution has another kernel, stride or padding than the ResNet's."""
    values = conv.values
    wanted = [f"a kernel of {side}x{side}, not {found}x{found}"] if found != side else []
    wanted += [f"strides {(stride, stride)}, not {values['strides']}"] if values["strides"] != (stride, stride) else []
    # With stride 1 "same" equals a ZeroPadding2D in front. With stride 2 it pads one side more than the other, which
    # shifts the map by a pixel.
    same = values["padding"] == "same" and stride == 1 and pad == 0
    if not same and not (side == 1 and pad == 0) and not (values["padding"] == "valid" and pad == side // 2):
        wanted.append(f"zeros of {side // 2} on each side around it, as ZeroPadding2D gives them")
    if wanted:
        raise Unread(f"{conv} {where}, expected {' and '.join(wanted)}")


def walk_stem(walk, found):
    """Walks through the stem, a first convolution and perhaps a max-pooling, and enters it in a Found.

    Args:
        walk: a Walk, at the pixels.
        found: the Found; gets stem, layers and widths.

    Raises:
        Unread: it is no stem of resnet.STEMS.
    """
    where = "at the beginning of the network"
    ahead = walk.ahead()
    first = ahead[0] if len(ahead) == 1 else None
    if first is None or first.what not in ("pad", "conv"):
        raise Unread(f"{first or walk.nodes[walk.at]} {where}, where a convolution is expected")
    at = walk.readers[walk.at][0]
    at = walk.follow(at, "conv", where)[0] if first.what == "pad" else at
    conv = walk.nodes[at].part
    side, _ = walk.kernel(conv, 3)
    # The three stems differ in the size of their kernel, so that it decides which one this has to be.
    found.stem = resnet.stem_of(side)
    if found.stem is None:
        raise Unread(
            f"{conv}, a first kernel of {side}x{side}; expected one of "
            f"{', '.join(f'{k}x{k}' for k, _ in resnet.STEMS.values())}"
        )
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
    """Walks through the blocks of all four stages and enters their layers in a Found.

    Args:
        walk: a Walk, behind the stem.
        found: the Found; gets layers and widths.

    Raises:
        Unread: there is something else than four stages of bottleneck blocks.
    """
    # A convolution in the shortcut marks the first block of a stage.
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
            raise Unread(
                f"{ahead[0]} {where}; expected four stages, 2 to 5, each begun by a block with a convolution "
                "as its shortcut"
            )
        _walk_block(walk, found, f"conv{stage}_block{block}", shortcut, where)
    if stage != 5:
        raise Unread(f"{ahead[0] if ahead else walk.nodes[walk.at]} behind {stage - 1} stages of blocks, expected four")


def _shortcut(walk, numbers):
    """Number of the convolution in a block's shortcut, or None where the block adds its input itself.

    Args:
        walk: a Walk, at the block's input.
        numbers: of the nodes that read it.
    """
    for number in numbers:  # the shortcut is convolution, batch-normalisation, Add; the other way is longer
        if walk.nodes[number].what == "conv":
            norm = walk.ahead(number)
            after = walk.ahead(walk.readers[number][0]) if len(norm) == 1 and norm[0].what == "norm" else []
            if len(after) == 1 and after[0].what == "add":
                return number
    return None


def _walk_block(walk, found, name, shortcut, where):
    """Walks through one block; `shortcut` is the number of its shortcut's convolution, or None."""
    stage, first = int(name[4]), shortcut is not None
    stride, width, start = 2 if first and stage > 2 else 1, walk.width, walk.at
    # Two nodes read the block's input: the first convolution of the block, and its shortcut's convolution or the Add.
    main = [n for n in walk.readers[start] if n != shortcut and walk.nodes[n].what != "add"]
    if len(main) != 1:
        raise Unread(f"{walk.nodes[walk.readers[start][0]]} {where}, where the two ways of a block are expected")
    skip, stream = start, width
    if first:
        skip, found.layers[f"{name}_0"], stream = _conv_norm(
            _Branch(walk, start, shortcut), start, where, 1, stride, width, relu=False
        )
    at, found.layers[f"{name}_1"], first_inner = _conv_norm(
        _Branch(walk, start, main[0]), start, where, 1, stride, width
    )
    at, found.layers[f"{name}_2"], inner = _conv_norm(walk, at, where, 3, 1, first_inner)
    last, found.layers[f"{name}_3"], outer = _conv_norm(walk, at, where, 1, 1, inner, relu=False)
    # The Add must join exactly the ends of the two ways, on equal channels (Add would also broadcast one channel).
    at, add = walk.follow(last, "add", where)
    if sorted(walk.nodes[at].inputs) != sorted([skip, last]) or outer != stream:
        raise Unread(f"{add} {where}, which adds something else than the two ways of the block")
    walk.at, walk.width = walk.follow(at, "relu", where)[0], stream
    found.widths |= {f"conv{stage}_stream": stream, f"{name}_1_conv": first_inner, f"{name}_2_conv": inner}


class _Branch:
    """A Walk in which only one node reads the block's input, for one of the two ways of a block."""

    def __init__(self, walk, start, only):
        self.walk, self.nodes, self.kernel = walk, walk.nodes, walk.kernel
        self.readers = list(walk.readers)
        self.readers[start] = [only]

    def ahead(self, at):
        return [self.nodes[n] for n in self.readers[at]]

    def follow(self, at, what, where):
        return Walk.follow(self, at, what, where)
