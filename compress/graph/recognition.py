"""Recognises a ResNet of this suite in the steps of a model by its operations and connections, whatever the names.

A network is accepted only if every operation of it has its place in such a ResNet. The error names the first that
hasn't.
"""

import numpy as np

from compress.graph import ends as folding
from compress.graph import resnet
from compress.graph.reader import Unread
from compress.graph.rules import parts_of
from compress.graph.walking import Found, Node, Walk, check_axis, walk_blocks, walk_stem


def find_resnet(steps, read, shape_of):
    """Recognises a ResNet.

    Args:
        steps: list of Steps from `reader.unfold`.
        read: function(part, name of a weight, shape) -> array, which checks the shape; None in it is any length.
        shape_of: function(part, name of a weight) -> shape of its array.

    Returns:
        walking.Found.

    Raises:
        Unread: it is no ResNet of this suite; the text names the first layer that doesn't belong.
    """
    nodes = _one_branch(_nodes(steps))
    walk = Walk(nodes, shape_of)
    found = _from_pixels(walk, read)
    walk_stem(walk, found)
    walk_blocks(walk, found)
    _walk_head(walk, found)
    return found


def _nodes(steps):
    """The elementary operations of the steps as Nodes, without identities such as Dropout."""
    # made: for each step the number of the node with its output; an identity's is that of its input.
    nodes, made = [], []
    convolutions = [number for number, step in enumerate(steps) if step.kind == "Conv2D"] or [0]  # for messages
    for number, step in enumerate(steps):
        inputs = [made[place] for place in step.inputs]
        where = (
            "in front of the network"
            if number < convolutions[0]
            else "behind the blocks"
            if number > convolutions[-1]
            else "within the network"
        )
        for part in parts_of(step, where):
            if part.what == "same":
                if len(inputs) != 1:
                    raise Unread(f"{step} of {len(inputs)} tensors")
                continue
            nodes.append(Node(part, inputs))
            inputs = [len(nodes) - 1]
        made.append(inputs[0])
    if made[-1] != len(nodes) - 1:  # can't happen, as `unfold` puts the output last; but a guess would be wrong
        raise Unread(f"{steps[-1]}, which isn't the end")
    return nodes


def _one_branch(nodes):
    """The nodes of one GPU in a model of keras.utils.multi_gpu_model; all nodes of any other model.

    That function of Keras 2 gave each GPU a slice of the batch, the same network, and concatenated the outputs.
    """
    last = nodes[-1]
    if last.what != "batches":
        return nodes
    branches = []
    for end in last.inputs:  # a branch is everything that its end depends on
        kept, pending = set(), [end]
        while pending:
            number = pending.pop()
            kept |= {number}
            pending += [n for n in nodes[number].inputs if n not in kept]
        branches.append(sorted(kept))
    names = [[nodes[n].part.step.layers for n in branch if nodes[n].what != "lambda"] for branch in branches]
    if any(name != names[0] for name in names):
        raise Unread(f"{last}, which joins different networks")
    numbers = {old: new for new, old in enumerate(branches[0])}
    return [Node(nodes[n].part, [numbers[i] for i in nodes[n].inputs]) for n in branches[0]]


def _from_pixels(walk, read):
    """Walks from the image to the last operation in front of the first convolution; the Found with its Pixels."""
    image = walk.nodes[0].part
    shape = image.step.config.get("batch_shape") or image.step.config.get("batch_input_shape")
    if shape and isinstance(shape, list) and (len(shape) != 4 or shape[-1] not in (3, None)):
        kind = (
            "one-channel images (grey)"
            if shape[-1] == 1
            else "images with their channels first (channels_first)"
            if shape[1:2] == [3]
            else f"inputs of {shape[1:]}"
        )
        raise Unread(f"{image}: {kind}; expected RGB images, (height, width, 3)")
    whole = "float" not in str(image.step.config.get("dtype") or "float32")
    # Channel-wise operations on the image are followed until the first node that is something else. `caffe`
    # preprocessing written by hand picks the channels one by one and stacks them again, so there may be branches.
    made = {0: folding.Pixels(np.arange(3), np.ones(3), np.zeros(3), whole)}
    touched, unread = [], None
    for number, node in enumerate(walk.nodes[1:], 1):
        if not node.inputs or any(n not in made for n in node.inputs):
            continue
        # A Lambda is code, which isn't run. It is usually a preprocess_input, which the user names by a flag. Beside
        # other operations its place among them would matter, so it is then refused, below.
        if node.what == "lambda" and not touched:
            made[number], unread = made[node.inputs[0]], node.part
        elif node.what in ("affine", "norm", "normalization", "cast", "pick", "flip", "stack"):
            check_axis(node.part)
            made[number] = folding.pixels_behind(node.part, [made[n] for n in node.inputs], read)
            if made[number] is None:
                raise Unread(f"{node} in front of the network")
            touched.append(node.part)
    # The network must read a single tensor of these, the last one.
    ends = [number for number in made if any(n not in made for n in walk.readers[number])]
    if len(ends) != 1 or any(n in made for n in walk.readers[ends[0]]):
        raise Unread(f"{walk.nodes[max(made)]} in front of the network, which reads the pixels in more than one way")
    walk.at = ends[0]
    pixels = made[walk.at]
    if pixels.flat or len(pixels.sources) != 3 or (touched and unread):
        raise Unread(
            f"{(touched or [image])[-1]}, behind which there are {len(pixels.sources)} channels; expected 3"
            if not unread
            else f"{unread} beside {touched[0]} in front of the network"
        )
    folding.normalization_of(pixels)  # raises Unread for a channel that is missing
    return Found("", {}, image, pixels, touched, unread)


def _walk_head(walk, found):
    """Walks behind the blocks: pooling, Dense layers with affine parts and ReLUs between them, a softmax at the end."""
    # segment: parts since the last ReLU, which together are one Dense layer. Affine parts in front of the pooling
    # belong to it too: the mean over positions of scale x + offset is scale times the mean + offset.
    segment, sizes = [], _positions(found)
    while walk.ahead():
        node = walk.ahead()[0]
        part = walk.take(node.what, "behind the blocks")
        if node.what in folding.AFFINE:
            if found.pool is None:
                check_axis(part)
            segment.append(part)
        elif found.pool is None:
            found.pool = _pooled(walk, part, sizes)
        elif node.what == "dense":
            segment.append(part)
            walk.width = walk.shape_of(part, "kernel")[-1]
            if (units := part.step.config.get("units")) != walk.width:
                raise Unread(f"{part}, whose kernel has {walk.width} units and whose config says {units!s:.20}")
        elif node.what == "relu" and any(item.what == "dense" for item in segment):
            found.head.append(segment)
            found.widths[f"hidden{len(found.head)}"] = walk.width
            segment = []
        elif node.what == "softmax" and not walk.ahead() and any(item.what == "dense" for item in segment):
            break  # the network here ends in logits
        elif node.what != "flat" and not (node.what == "mean" and found.pool.what == "average pool"):
            softmax = ", whose softmax isn't the end" if node.what == "softmax" else ""
            raise Unread(f"{part}{softmax} behind the blocks, where a Dense layer or the end is expected")
    if any(item.what == "dense" for item in segment):
        found.head.append(segment)
        found.classes = walk.width
    elif segment or found.head:
        raise Unread(
            f"{(segment or found.head[-1])[-1]} at the end, where the logits or the probabilities of a "
            "Dense layer are expected"
        )


def _positions(found):
    """(height, width) of the last feature map, or None where the model takes images of any size."""
    shape = found.image.step.config.get("batch_shape") or found.image.step.config.get("batch_input_shape")
    if not isinstance(shape, list) or not all(type(n) is int for n in shape[1:3]):
        return None
    return resnet.map_sizes(shape[1:], found.stem)[5]


def _pooled(walk, part, sizes):
    """The Part of the pooling: a mean over all positions, or an operation that equals it on a map of this size.

    Raises:
        Unread: it is another operation.
    """
    if part.what == "mean" or (part.what in ("max", "flat") and sizes == (1, 1)):  # of one position all are equal
        return part
    if part.what == "average pool" and part.values["size"] == sizes and part.values["padding"] == "valid":
        if walk.ahead() and walk.ahead()[0].what not in ("flat", "mean"):
            raise Unread(f"{walk.ahead()[0]} behind {part}, where a Flatten is expected")
        return part
    size = "of images of any size" if sizes is None else f"of {sizes[0]}x{sizes[1]} positions"
    raise Unread(f"{part} on a map {size}, where the mean over all positions (GlobalAveragePooling2D) is expected")
