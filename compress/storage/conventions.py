"""What a classifier of others expects of its pixels and means by its outputs, as far as its own layers say.

Read from the graph of the opened network. What isn't known here is refused by name, or a warning says what is
assumed: a wrong guess would run without an error and give wrong numbers.
"""

import contextlib
import dataclasses
import re

import keras
import numpy as np

from compress.errors import InputError, one_line
from compress.storage import preprocess, vocabulary

# (keras.applications' name of a kind of network, mode of its preprocess_input, patterns of which each has to be the
# name of one of its layers). None: these have their preprocessing inside, unless include_preprocessing=False.
FAMILIES = (
    ("ResNet", "caffe", ("conv1_conv", "conv2_block1_1_conv", "conv2_block1_add")),
    ("ResNet50", "caffe", ("conv1", "bn_conv1", "res2a_branch2a")),  # its names before Keras 2.2.5
    ("ResNetV2", "tf", ("conv1_conv", "conv2_block1_preact_bn")),
    ("VGG", "caffe", ("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1")),
    ("Xception", "tf", ("block1_conv1", "block2_sepconv1")),
    ("InceptionV3", "tf", ("mixed0", "mixed1")),
    ("InceptionResNetV2", "tf", ("mixed_5b", "block35_1_mixed")),
    ("MobileNet", "tf", ("conv1", "conv_dw_1", "conv_pw_1")),
    ("MobileNetV2", "tf", ("Conv1", "bn_Conv1", "expanded_conv_project")),
    ("NASNet", "tf", ("stem_conv1", "stem_bn1", "reduction_conv_1_stem_1")),
    ("DenseNet", "torch", ("conv1[_/]conv", "conv2_block1_0_bn", "conv2_block1_concat")),
    ("MobileNetV3", None, ("[Cc]onv", "expanded_conv[_/]depthwise", "expanded_conv[_/]project")),
    ("EfficientNet", None, ("stem_conv", "block1a_dwconv")),
    ("EfficientNetV2", None, ("stem_conv", "block1a_project_conv", "block2a_expand_conv")),
    ("ConvNeXt", None, (r"convnext_\w+_stem",)),
)
# names of models that keras.applications alone gives, but for the number that Keras puts behind a second one
NAMES = (
    r"(vgg1[69]|resnet(50|101|152)(v2)?|xception|inception_v3|inception_resnet_v2|nasnet_(mobile|large)|"
    r"densenet(121|169|201)|mobilenet(v2)?_\d\.\d\d_\w+)(_\d+)?"
)

# These move pixels, choose some or average them: numbers from 0 to 255 stay such numbers. So do all Random* layers.
MOVING = (
    *vocabulary.IDLE,
    "Resizing",
    "CenterCrop",
    "Cropping2D",
    "ZeroPadding2D",
    "UpSampling2D",
    "Flatten",
    "Reshape",
    "Permute",
    "AveragePooling2D",
    "MaxPooling2D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "Cast",
    "Mean",
    "Resize",
    "Pad",
    "Transpose",
    "Swapaxes",
    "Moveaxis",
    "Squeeze",
    "ExpandDims",
)
CHANNELS = ("GetItem", "Flip", "Stack", "Concatenate")  # which may do so to the colours, too
SCALING = (
    "Rescaling",
    "Normalization",
    "BatchNormalization",
    "Add",
    "Subtract",
    "Multiply",
    "TrueDivide",
    "Divide",
    "Negative",
)
STARTS = r"\w*Conv\w*|\w*Dense|Embedding|LSTM|GRU"  # kinds with a kernel, at which the network begins
PRODUCTS = ("Matmul", "Dot", "Einsum", "Tensordot")
ENDS = ("softmax", "log_softmax", "sigmoid", "linear")  # activations whose outputs' meaning is known
LARGEST = 256  # no network is made for larger numbers


@dataclasses.dataclass
class Front:
    """What the layers of a network do to pixels in front of its first kernel.

    Attributes:
        own: those that scale or shift them, 'rescaling (Rescaling)', in their order.
        reordered: those that may exchange the colours, in front of the first of `own`.
        unread: one that isn't known, or doesn't take pixels of 0 to 255, and why; None where there is none.
        ends: {whether what a kernel reads went through one of `own`}; of both, `unread` says so.
        passed: the operations that leave pixels pixels.
        readers: the operations that read what came of the pixels, such as the first convolution.
    """

    own: list = dataclasses.field(default_factory=list)
    reordered: list = dataclasses.field(default_factory=list)
    unread: str | None = None
    ends: set = dataclasses.field(default_factory=set)
    passed: list = dataclasses.field(default_factory=list)
    readers: list = dataclasses.field(default_factory=list)


def graph_of(net):
    """The functional model of a network, or None of one that is defined by code."""
    graph = net._functional if isinstance(net, keras.Sequential) else net
    return graph if hasattr(graph, "_nodes_by_depth") else None


def front_of(net):
    """The Front of an opened network of one input."""
    front = Front()
    _walk(net, [False], front)
    if front.ends == {True, False}:
        front.unread = front.unread or f"{front.own[0]} on a part of what the network reads of its pixels"
    return front


def pixels_of(path, net, asked):
    """What pixels go through in front of an opened network: as its layers say, a known family expects, or it is asked.

    Args:
        path: its file, for messages.
        net: the network, of one input.
        asked: one of flags.PREPROCESSING.

    Returns:
        (preprocess.Pixels, the network's Front, whether nothing in the file says so and it is assumed).

    Raises:
        InputError: only the user can know.
    """
    front, family = front_of(net), None
    reason, whole = front.unread if asked == "auto" else None, "int" in net.inputs[0].dtype
    if asked == "auto" and not reason and not front.own and not whole:
        try:
            family = family_of(net)
        except LookupError as error:
            reason = str(error.args[0])
        if family and family[1] is None:
            reason = f"the layers of keras.applications' {family[0]} without its own preprocessing"
        elif family and front.reordered:
            reason = (
                f"{front.reordered[0]} in front of the layers of keras.applications' {family[0]}, without the "
                "rest of its preprocessing"
            )
    if reason:
        raise InputError(
            f"{path} has {reason}; expected `preprocessing` with what it was trained with (none: RGB of "
            "0 to 255 as they are)",
            path,
        )
    mode, why = (
        (family[1], f"as keras.applications' {family[0]}, whose layers it has, expects them")
        if family
        else (
            "none",
            "since it takes whole numbers"
            if whole
            else "RGB of 0 to 255 as they are, which is assumed: nothing in the file says what it was trained with; "
            "`preprocessing` says it",
        )
    )
    if front.unread:
        pixels = preprocess.Pixels(asked, f"pixels by `preprocessing={asked}`, then through the file's own layers")
    else:
        pixels = preprocess.decide(path, tuple(front.own), None, asked, mode, why)
    if whole and pixels.mode != "none":
        raise InputError(f"`preprocessing`: received {asked}, expected none: {path} takes whole numbers", path)
    return pixels, front, (asked, family, whole, front.own) == ("auto", None, False, [])


def _walk(net, states, front):
    """Follows the pixels through a model.

    Args:
        net: the model.
        states: of each of its inputs: None where it is no pixels, else whether they went through a layer of `own`.
        front: the Front that grows.

    Returns:
        The states of its outputs.
    """
    graph = graph_of(net)
    if graph is None:
        front.unread = front.unread or f"{one_line(net.name)}, a model that is defined by code"
        return [None]
    found = {id(tensor): state for tensor, state in zip(graph.inputs, states, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            read = [found.get(id(tensor)) for tensor in node.input_tensors]
            if not read or all(state is None for state in read):  # an InputLayer, or within the network
                continue
            if isinstance(node.operation, keras.Model):
                written = _walk(node.operation, read, front)
            else:
                written = [_step(node, read, front)] * len(node.outputs)
            found |= {id(tensor): state for tensor, state in zip(node.outputs, written, strict=True)}
    return [found.get(id(tensor)) for tensor in graph.outputs]


def _step(node, read, front):
    """The state of what a layer or operation writes, of the states that it reads."""
    kind = type(node.operation).__name__
    layer = one_line(f"{node.operation.name} ({kind})")
    states = {state for state in read if state is not None}
    if None in read or len(states) > 1 or re.fullmatch(STARTS, kind):
        front.ends |= states
        front.readers.append(node.operation)
        return None
    if states == {True}:  # what comes behind the file's own scaling is the file's own, too
        if kind in (*SCALING, *CHANNELS, *MOVING) or kind.startswith("Random"):
            front.own += [layer] if kind in SCALING else []
            front.passed.append(node.operation)
            return True
        front.ends |= states
        front.readers.append(node.operation)
        return None
    why = _misfit(node, kind)
    if why:
        front.unread = front.unread or layer + why
        front.ends |= states
        front.readers.append(node.operation)
        return None
    front.passed.append(node.operation)
    front.own += [layer] if kind in SCALING else []
    front.reordered += [layer] if kind in CHANNELS else []
    return kind in SCALING


def _misfit(node, kind):
    """Why a layer isn't known to take pixels of 0 to 255 and to leave or scale them; an empty string where it is."""
    bounds = np.ravel(getattr(node.operation, "value_range", (0, 255)))  # augmentation is idle, but says what it takes
    if bounds.tolist() != [0, 255]:
        return f" of value_range {tuple(bounds.tolist())}, which pixels of 0 to 255 don't fit"
    if kind == "Clip":
        limits = getattr(node.operation, "x_min", None), getattr(node.operation, "x_max", None)
        return "" if limits == (0, 255) else " to other numbers than 0 to 255"
    if kind in (*MOVING, *CHANNELS) or kind.startswith("Random"):
        return ""
    if kind not in SCALING or len(node.input_tensors) > 1:
        return " in front of the network, which is not read"
    # It may scale, but numbers of another range: a Normalization that was measured on pixels / 255.
    probe, largest = np.stack([np.zeros((1, 1, 3)), np.full((1, 1, 3), 255)], 1).astype("float32"), 0.0
    with contextlib.suppress(Exception):  # of an axis or a shape that isn't that of images
        args, kwargs = keras.tree.map_structure(
            lambda item: probe if isinstance(item, keras.KerasTensor) else item,
            (node.arguments.args, node.arguments.kwargs),
        )
        largest = float(np.abs(keras.ops.cast(node.operation(*args, **kwargs), "float32")).max())
    return f", which makes {largest:.0f} of pixels of 0 to 255" if not largest <= LARGEST else ""


def family_of(net):
    """(kind of network, mode of --preprocessing or None) of keras.applications that a network is one of, or None.

    Raises:
        LookupError: only its name is that of one, or it is two that expect different pixels.
    """
    models = list(_models(net))
    names = [str(layer.name) for model in models for layer in model.layers]
    found = [
        (family, mode)
        for family, mode, patterns in FAMILIES
        if all(any(re.fullmatch(pattern, name) for name in names) for pattern in patterns)
    ]
    if len({mode for _, mode in found}) > 1:
        raise LookupError(f"the layers of {' and '.join(family for family, _ in found)}, which expect different pixels")
    alike = [model.name for model in models if re.fullmatch(NAMES, str(model.name))]
    if alike and not found:
        raise LookupError(f"the name {one_line(alike[0])} of keras.applications, but not its layers")
    return found[0] if found else None


def _models(net):
    yield net
    for layer in net.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def activation_of(net):
    """What a network's outputs went through last.

    Returns:
        (one of ENDS, or None where they went through something else or it isn't known; the last layer, for messages).
    """
    graph = graph_of(net)
    if graph is None:
        return None, one_line(net.name)
    # From the output back through layers that move numbers or, of several branches, average them.
    pending, seen, passed, words, last = [graph.outputs[0]], set(), set(), set(), None
    while pending:
        tensor = pending.pop()
        operation, index, place = tensor._keras_history
        kind = type(operation).__name__
        if isinstance(operation, keras.Model):
            pending += [graph_of(operation).outputs[place]] if graph_of(operation) is not None else []
            words |= {None} if graph_of(operation) is None else set()
            continue
        word = _word(operation, kind, len(tensor.shape) - 1)
        last = last or one_line(f"{operation.name} ({kind})") + (
            f" with the activation {word}" if word and word not in ENDS else ""
        )
        if word == "" and tensor not in seen:
            passed.add(kind)
            pending += operation._inbound_nodes[index].input_tensors
        words |= {word} - {""}
        seen.add(tensor)
    word = next(iter(words)) if len(words) == 1 else None
    if (
        word not in ENDS
        or (passed & {*SCALING} and word != "linear")
        or (passed & {*CHANNELS} and word not in ("linear", "sigmoid"))
    ):
        return None, last or one_line(net.name)
    return word, last


def _word(operation, kind, axis):
    """What a layer's numbers are: the name of its activation; '' where they are what it reads; None for unknown."""
    if kind in ("Softmax", "LogSoftmax"):
        along_classes = getattr(operation, "axis", -1) in (-1, axis)
        return {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[kind] if along_classes else None
    if kind == "Sigmoid":
        return "sigmoid"
    word = getattr(operation, "activation", None)
    if word is not None:
        word = one_line(getattr(word, "__name__", type(word).__name__))
        return "" if (kind, word) == ("Activation", "linear") else word
    if re.fullmatch(STARTS, kind) or kind in PRODUCTS:
        return "linear"
    return "" if kind in (*MOVING, *SCALING, *CHANNELS, "Average") else None
