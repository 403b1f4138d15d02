"""Opens the file of any classifier that has a graph, .keras or .h5, as a network of RGB pixels and logits.

The network is rebuilt by the suite's own tables (`rebuilding`); its weights are read as numbers. What its pixels and
outputs are is read from its layers (`conventions`). What the suite's own networks have and this one lacks is added as
plain layers of Keras: the preprocessing goes in front, a softmax at the end is left out.
"""

import collections
import dataclasses
import math
import random
import re
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from compress.cli import display, tables
from compress.errors import InputError, command, one_line
from compress.graph import nodes
from compress.storage import (
    archives,
    bare,
    checkpoints,
    classes,
    conventions,
    hdf5,
    headers,
    preprocess,
    rebuilding,
    vocabulary,
)
from compress.storage.entries import Unread
from compress.storage.headers import EXPECTED

WEIGHTS = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")  # that are called so in every version
# These leave every channel where it is, so that the order of the colours can change behind them as well as in front.
IN_PLACE = (*vocabulary.IDLE, "Resizing", "CenterCrop", "Cropping2D", "ZeroPadding2D", "UpSampling2D", "Cast")
# Of a classifier's end: kinds whose outputs may be the classes, with the setting that says how many, and kinds behind.
MAKE_CLASSES = {"Dense": "units", "Conv2D": "filters"}
KEEP_CLASSES = (*vocabulary.IDLE, "Activation", "Softmax", "Cast", "BatchNormalization", "Flatten", *headers.POOLING)
BEHIND_SOFTMAX = (*vocabulary.IDLE, "Reshape", "Flatten", "Squeeze", "Cast")  # which move probabilities, or nothing
RUNNABLE = 2**26  # numbers of all maps of an image, up to which a network is run to see what it answers


@dataclasses.dataclass(frozen=True)
class NewHead:
    """A classifier of random weights in the place of a file's.

    Attributes:
        classes: their number.
        always: also where the file has as many classes.
    """

    classes: int
    always: bool = False


@dataclasses.dataclass
class Opened:
    """A classifier that was opened.

    Attributes:
        path: its file.
        model: an uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes). Its layers have
            the names that they have in the file, and are all trainable. Where `outputs` says so it answers
            probabilities, see `scores`.
        pixels: the preprocess.Pixels: what was put in front of the file's own layers, and why.
        outputs: 'logits'; 'probabilities', which add up to 1 and of which no logits can be had; or 'labels', the
            outputs of a sigmoid, each with a probability of its own.
        classes: number of classes.
        names: tuple of their names, or None.
        summary: a line on how the file was read; empty for a file that the suite wrote.
        assumed: whether nothing in the file says what its pixels are.
        replaced: number of classes of the file's classifier where a new one took its place, else None.
        frozen: number of layers with weights that the file has frozen.
    """

    path: Path
    model: keras.Model
    pixels: preprocess.Pixels
    outputs: str
    classes: int
    names: tuple | None
    summary: str
    assumed: bool = False
    replaced: int | None = None
    frozen: int = 0

    def scores(self):
        """A keras.Model of RGB images -> what classifiers are compared by: logits, or logarithms of probabilities."""
        if self.outputs == "logits":
            return self.model
        least = float(np.finfo("float32").tiny)
        answers = keras.ops.log(keras.ops.maximum(self.model.outputs[0], least))
        return keras.Model(self.model.inputs[0], answers, name=self.model.name)


def open_network(path, preprocessing="auto", input_shape=None, verbose=0, new_head=None):
    """The classifier in a file, whatever its architecture.

    A file of weights alone is opened if they are those of a ResNet50, 101 or 152, whose shapes tell.

    Args:
        path: an .h5 or .keras file of Keras 3 or tf.keras 2, or of this suite.
        preprocessing: what the model was trained with, one of flags.PREPROCESSING; 'auto' reads it from the file's
            layers, see `conventions.pixels_of`. With another one a Lambda in front of the network is left out.
        input_shape: (height, width, 3) for a model that takes images of any size; None leaves that open.
        verbose: 0 doesn't say how the file was read; what is assumed is always printed.
        new_head: a NewHead in the place of the file's classifier; None keeps that.

    Returns:
        An Opened.

    Raises:
        InputError: missing, damaged, no classifier of RGB images, or something in it that isn't Keras' own: the line
            names the layer and the way out.
    """
    start = random.getstate()  # of which Keras draws seeds for the weights that are then replaced
    try:
        return _open(path, preprocessing, input_shape, verbose, new_head)
    finally:
        random.setstate(start)


def _open(path, preprocessing, input_shape, verbose, new_head=None, check=lambda header: None):
    """`open_network`, which draws as many random seeds as building the network once takes.

    `check`: function(headers.Header) that raises InputError for a file that doesn't fit, before anything is built.
    """
    path = checkpoints.existing(path)
    with checkpoints.errors_in_a_line(path, EXPECTED), archives.opened(path) as (file, config, is_archive):
        found = archives.arrays(file, path)
        if config is None:
            with checkpoints.errors_in_a_line(path, bare.EXPECTED):
                weights = bare.read(path, found, archives.groups(file))
            check(headers.of_weights(weights))
        else:
            check(headers.of_model(path, config, preprocessing != "auto"))
        checkpoints.check_digest(file, found, path)
        if config is not None:
            network, left_out = headers.one_copy(config, preprocessing != "auto")
            source = _Source(path, file, network, found, is_archive, _halves(config))
            opened = _opened(source, preprocessing, input_shape, new_head)
    if config is None:
        return _of_weights(weights, preprocessing, input_shape, new_head)
    if left_out:
        display.warn(f"{path} is {left_out}")
    if opened.assumed or opened.outputs == "labels":
        display.warn(opened.summary)
    elif opened.summary:
        display.say(opened.summary, verbose)
    return opened


def load_network(path, class_num=None, input_shape=None, preprocessing="auto", verbose=0, new_head="never"):
    """The network of a classifier's file, to be trained, pruned or measured by its logits.

    Args:
        path: as `open_network` takes it, like the last three.
        class_num: number of classes that it must have; None takes any.
        input_shape: (height, width, 3) that it must take; None takes any, and leaves open what the file leaves open.
        preprocessing: what it was trained with.
        verbose: 0 doesn't say how the file was read.
        new_head: whether the classifier starts from random weights, for class_num classes: 'never'; 'if needed', where
            the file has another number; or 'always'.

    Returns:
        An uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes), all layers trainable,
        which plain Keras opens from what is written of it.

    Raises:
        InputError: as `open_network`; the class count or the image size is another; of its outputs no logits can be
            had; or plain Keras couldn't open it from a file, see `hdf5.check`.
    """

    def check(header):
        checkpoints.check_fits(header, class_num if new_head == "never" else None, input_shape)

    head = None if new_head == "never" else NewHead(class_num, new_head == "always")
    opened = _open(path, preprocessing, input_shape, verbose, head, check)  # later draws are those of earlier versions
    if opened.replaced not in (None, class_num):
        had = tables.counted(opened.replaced, "class", "classes")
        line = f"{path} has {had}, the data {class_num}: the classifier starts from random weights"
        display.say(line, verbose)
    if opened.frozen:
        line = f"{path} has {tables.counted(opened.frozen, 'frozen layer')}; training here trains all layers"
        display.say(line, verbose)
    checkpoints.check_fits(headers.Header(str(path), opened.classes, None), class_num)
    if opened.outputs != "logits":
        what = {
            "probabilities": "probabilities that are more than the softmax of its last layer",
            "labels": "the outputs of a sigmoid, a label of its own for each class",
        }[opened.outputs]
        raise InputError(
            f"received {path}, which answers {what}; expected logits or a softmax of them, as of a last "
            "layer Dense(classes) or Dense(classes, activation='softmax'); evaluate_model.py and export_model.py take "
            "this one as well, training and pruning don't",
            path,
        )
    hdf5.check(opened.model)  # before a run begins: each of them writes the network
    return opened.model


@dataclasses.dataclass
class _Source:
    """An open model file: the arguments of `_opened` that come from it, and the precisions that its config names."""

    path: Path
    file: h5py.File
    config: dict
    found: dict
    is_archive: bool
    halves: tuple
    start: tuple = dataclasses.field(default_factory=random.getstate)

    def rebuilt(self, spare=0, **wanted):
        """A rebuilding.Rebuilt of its config; spare: numbers that its weights may have beside the file's."""
        # Keras draws the seeds of initial weights from Python's random state. What a run draws behind this doesn't
        # depend on how often the network was rebuilt.
        random.setstate(self.start)
        elements = sum(math.prod(item.shape) for item in self.found.values()) + spare
        wanted = rebuilding.Wanted(elements, version=archives.version(self.file, self.path), **wanted)
        return rebuilding.rebuild(self.config, wanted)


def _opened(source, asked, input_shape, new_head):
    """The Opened of a file with a config; arguments as of `open_network`."""
    size = None if input_shape is None else tuple(input_shape[:2])
    first = source.rebuilt(size=size, without_code=asked != "auto")
    _check_classifier(source.path, first.model, input_shape, new_head)
    _read_weights(source, first)
    pixels, front, assumed = _pixels(source, first.model, asked)
    for layer in first.code:
        if layer not in front.passed:
            raise vocabulary.unknown_layer(layer.name, "Lambda")
    outputs, changes = _outputs(source.path, first.model)
    replaced = first.model.output_shape[-1] if _is_due(new_head, first.model.output_shape[-1]) else None
    if replaced and outputs == "labels":
        outputs = "logits"  # the sigmoid goes with the old head
    model, new, line = first.model, (), _line(source, pixels, outputs, bool(changes))
    if replaced:
        head, new = _head_of(source.path, model, new_head.classes)
        changes |= head
    if changes or pixels.mode != "none":
        turned = pixels.mode == "caffe" and _takes_other_colours(front, model)
        added = _in_front(pixels.mode, turned, {layer.name for layer in model.layers})
        spare = (new_head.classes if replaced else 0) * sum(
            variable.shape[-2] + 4 for variable in _arrays(model, new) if len(variable.shape) > 1
        )
        again = source.rebuilt(spare, size=size, without_code=asked != "auto", changes=changes, front=tuple(added))
        model = again.model
        _copy_weights(first.model, model, new)
        for kernel in [layer.kernel for layer in conventions.front_of(model).readers if turned]:
            kernel.assign(kernel[:, :, ::-1])
    frozen = _count_frozen(model)
    for layer in model._flatten_layers():  # what the file froze would stay as pruning leaves it
        layer.trainable = True
        if type(layer) is rebuilding.Pipeline:
            layer.__class__ = keras.Sequential  # which plain Keras knows
    return Opened(
        source.path,
        model,
        pixels,
        outputs,
        int(model.output_shape[-1]),
        classes.of_model(source.path),
        line,
        assumed,
        replaced,
        frozen,
    )


def _count_frozen(model):
    """Number of layers with weights that training would change if they weren't frozen."""
    layers = {id(node.operation): node.operation for _, node in nodes.walk(model) if not nodes.is_model(node.operation)}
    parts = (layer._flatten_layers() if isinstance(layer, keras.Layer) else () for layer in layers.values())
    return sum(any(part._trainable_variables and not part.trainable for part in own) for own in parts)


def _is_due(new_head, classes):
    """Whether a NewHead, or None, takes the place of a classifier of so many classes."""
    return new_head is not None and (new_head.always or new_head.classes != classes)


def _of_weights(weights, asked, input_shape, new_head):
    """The Opened of a bare.Weights, a ResNet's; says what had to be assumed."""
    has_new = weights.classes is None or _is_due(new_head, weights.classes)
    pixels = weights.pixels(asked)
    model = bare.build(weights, pixels.mode, input_shape, new_head.classes if has_new and new_head else None)
    display.warn(f"{weights.path}: {pixels.summary}; {weights.assumed}")
    replaced = weights.classes if has_new else None
    names = classes.of_model(weights.path)
    return Opened(Path(weights.path), model, pixels, "logits", model.output_shape[-1], names, "", replaced=replaced)


def _check_classifier(path, model, input_shape, new_head):
    """Raises InputError for what is no classifier of RGB images, or of another size than is asked for."""
    shape, out = model.input_shape, model.output_shape
    if out == (None, 1) and new_head is None:
        head = command("train_base_model.py", model_path=path, dataset="...")
        raise InputError(
            f"received {path}, which has one output for two classes; expected an output for each class: a new head is "
            f"trained by: {head}",
            path,
        )
    if len(shape) != 4 or shape[-1] != 3 or len(out) != 2 or (out[-1] or 0) < (2 if new_head is None else 1):
        grey = len(shape) == 4 and shape[-1] == 1
        raise InputError(
            f"received {path}, {shape} -> {out}{', of grey images' * grey}; expected a classifier of one "
            "input of RGB images and one output of two classes or more",
            path,
        )
    checkpoints.check_fits(headers.Header(str(path), None, shape[1:]), None, input_shape)


def _halves(config):
    """Names of half precisions in a config, sorted."""
    names = set()
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and re.fullmatch("(mixed_)?b?float16", item):
            names.add(item)
        pending += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return tuple(sorted(names - {name.removeprefix("mixed_") for name in names if name.startswith("mixed_")}))


def _line(source, pixels, outputs, is_changed):
    """What to say of how a file was read; empty for one of the suite that is read as it is."""
    if checkpoints.DIGEST in source.file.attrs and pixels.mode == "none" and outputs == "logits":
        return "" if "without" not in pixels.summary else f"{source.path}: {pixels.summary}"
    ends = {
        "logits": "logits, its softmax left out" if is_changed else "logits",
        "probabilities": "probabilities, compared by their logarithm",
        "labels": "the outputs of a sigmoid, a label of its own for each class: the largest is the predicted class, "
        "and loss and calibration are those of each one's share of their sum",
    }
    halves = f"; computed in float32, where the file says {' and '.join(source.halves)}" if source.halves else ""
    return f"{source.path}: {pixels.summary}; {ends[outputs]}{halves}"


# ---- weights ----


def _read_weights(source, rebuilt):
    """Gives a rebuilt model the weights of its file.

    Raises:
        Unread: they are those of another model.
        InputError: they are no finite numbers.
    """
    if source.is_archive:
        archives.check_no_links(source.file, source.path)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source.path) as archive:
            try:  # from a file of its own: within the archive every array would be sought from the beginning
                rebuilt.model.load_weights(archive.extract(archives.WEIGHTS, folder))
            except Exception as error:  # whatever the layers of a hostile file raise
                raise Unread(f"weights that its layers don't have ({one_line(error)[:200]})") from None
    else:
        _read_h5(source, rebuilt)
    _check_finite(source.path, rebuilt.model)


def _read_h5(source, rebuilt):
    """The weights of an .h5 file, which lists those of every top-level layer in their order."""
    members = {}
    source.file.visititems(lambda name, item: members.__setitem__(f"/{name}", item))
    arrays = {item.name: item for item in source.found.values()}
    root = "/model_weights" if "/model_weights" in members else ""
    left = set(arrays)
    for layer in rebuilt.model.layers:
        variables = layer.trainable_weights + layer.non_trainable_weights  # as Keras writes them
        if not variables:
            continue
        name = rebuilt.names.get(layer.name, layer.name)
        group = members.get(f"{root}/{name}")
        listed = _listed(group) if isinstance(group, h5py.Group) else []
        if len(listed) != len(variables):
            raise Unread(f"{one_line(name)} with {len(listed)} weights, expected {len(variables)}")
        for variable, text in zip(variables, listed, strict=True):
            last = text.split("/")[-1].split(":")[0]
            if "int" in variable.dtype:  # a counter
                continue
            item = arrays.get(f"{group.name}/{text}")
            if item is None or item.shape != tuple(variable.shape):
                raise Unread(
                    f"{one_line(text)} that is {'missing' if item is None else item.shape}, expected "
                    f"{tuple(variable.shape)}"
                )
            if {last, variable.name} <= set(WEIGHTS) and last != variable.name:
                raise Unread(f"{one_line(text)} in the place of {variable.path}")
            variable.assign(np.asarray(item))
            left.discard(item.name)
    if left:
        raise Unread(f"the weights {one_line(min(left)).strip('/')}, which no layer of the file's own config has")
    _finalize(rebuilt.model)


def _listed(group):
    """Names of the weights of a layer's group in an .h5 file, in their order."""
    names, number = list(group.attrs.get("weight_names", ())), 0
    while (part := f"weight_names{number}") in group.attrs:  # more than 64 KiB of names stand in parts
        names += list(group.attrs[part])
        number += 1
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names]


def _finalize(model):
    """Lets every Normalization compute with the statistics that it was given."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _check_finite(path, model):
    """Raises InputError where a weight is NaN or infinite: it would train and evaluate, and every number be wrong."""
    for variable in model.weights:
        value = np.asarray(variable)
        if value.dtype.kind == "f" and not math.isfinite(float(np.sum(value, dtype=np.float64))):
            raise InputError(f"{path}: {variable.path} holds NaN or infinity, expected finite weights", path)
        if variable.name in ("moving_variance", "variance") and value.size and np.min(value) < 0:
            raise InputError(f"{path}: {variable.path} is negative, expected variances", path)


def _arrays(model, ids):
    """The variables of some ids."""
    return [variable for variable in model.weights if id(variable) in ids]


def _copy_weights(source, target, left_out=()):
    """Copies all weights but those of some ids."""
    for old, new in zip(source.weights, target.weights, strict=True):
        if id(old) in left_out:
            continue
        if old.shape != new.shape:  # can't happen: both were made from one config
            raise Unread(f"{new.path}, which is not {old.path}")
        new.assign(old)
    _finalize(target)


# ---- pixels ----


def _pixels(source, model, asked):
    """As `conventions.pixels_of`; a file of the suite takes RGB of 0 to 255, whatever its layers look like."""
    if checkpoints.DIGEST not in source.file.attrs:
        return conventions.pixels_of(source.path, model, asked)
    without = "" if asked in ("auto", "none") else f", without `preprocessing={asked}` on top"
    summary = f"pixels 0 to 255, as every model of this suite takes them{without}"
    return preprocess.Pixels("none", summary), conventions.front_of(model), False


def _takes_other_colours(front, model):
    """Whether all that read a network's pixels are convolutions whose kernels can take the colours in another order."""
    times = _times_called(model)
    return (
        not (front.own or front.reordered or front.unread)
        and all(type(operation).__name__ in IN_PLACE for operation in front.passed)
        and all(
            type(operation) is keras.layers.Conv2D
            and operation.groups == 1
            and operation.kernel.shape[2] == 3
            and times[id(operation)] == 1
            for operation in front.readers
        )
    )


def _in_front(mode, turned, taken):
    """Layers that do to RGB pixels of 0 to 255 what a mode of flags.PREPROCESSING does.

    Args:
        mode: 'none', 'caffe', 'torch', 'tf' or 'unit'.
        turned: of 'caffe', whether the first kernels are turned to RGB instead of the pixels to BGR.
        taken: names of layers that exist.
    """
    if mode == "none":
        return []
    name = f"pixels_{mode}"
    while {name, f"{name}_bgr"} & taken:
        name += "_"
    if mode == "caffe":
        mean = [-float(value) for value in preprocess.MEAN]
        if turned:
            return [keras.layers.Rescaling(1.0, mean, name=name)]
        return [colours_turned(f"{name}_bgr"), keras.layers.Rescaling(1.0, mean[::-1], name=name)]
    mean, deviation = (np.asarray(numbers, np.float64) for numbers in preprocess.PREPROCESSING[mode])
    scale, offset = (1 / deviation).tolist(), (-mean / deviation).tolist()
    if len({*zip(scale, offset, strict=True)}) == 1:
        scale, offset = scale[0], offset[0]
    return [keras.layers.Rescaling(scale, offset, name=name)]


def colours_turned(name):
    """A model of public layers that turns RGB images of any size into BGR, to the bit."""
    image = keras.Input((None, None, 3), name=f"{name}_image")
    columns = keras.layers.Permute((1, 3, 2), name=f"{name}_columns")(image)  # (height, 3, width), to cut colours
    colours = [
        keras.layers.Cropping2D(((0, 0), (place, 2 - place)), name=f"{name}_{colour}")(columns)
        for place, colour in ((2, "blue"), (1, "green"), (0, "red"))
    ]
    joined = keras.layers.Concatenate(axis=2, name=f"{name}_joined")(colours)
    return keras.Model(image, keras.layers.Permute((1, 3, 2), name=f"{name}_rows")(joined), name=name)


# ---- outputs ----


def _outputs(path, model):
    """What a network answers, and what to change so that it answers logits.

    Returns:
        ('logits', 'probabilities' or 'labels', changes as `rebuilding.Wanted` has them).

    Raises:
        InputError: nobody can tell.
    """
    word, layer = conventions.activation_of(model)
    if word == "softmax":
        changes = _softmax_of(model)
        return ("logits" if changes else "probabilities"), changes
    if word in ("log_softmax", "linear"):
        return "logits", {}
    if word == "sigmoid":
        return "labels", {}
    if _adds_up(model):
        return "probabilities", {}
    raise InputError(
        f"received {path}, which ends in {layer}: what its outputs mean is not known; expected logits or "
        "the outputs of a softmax or sigmoid",
        path,
    )


def _times_called(model):
    """{id of an operation: how often an image passes it}, in models inside the model too."""
    times, pending = collections.Counter(), [model]
    while pending:
        for node in nodes.nodes_of(nodes.graph_of(pending.pop())):
            times[id(node.operation)] += 1
            if nodes.is_model(node.operation):
                pending.append(node.operation)
    return times


def _back(model):
    """Yields (path, operation, its output) from a model's output back, into models inside, while one tensor is read."""
    path, tensor, outside = (), nodes.graph_of(model).outputs[0], []
    while True:
        operation, index, place = tensor._keras_history
        if nodes.is_model(operation):
            outside.append((operation._inbound_nodes[index], path))
            path = (*path, operation.name)
            tensor = nodes.graph_of(operation).outputs[place]
            continue
        if isinstance(operation, keras.layers.InputLayer):
            if not outside:
                return
            node, path = outside.pop()  # through a model that has nothing but layers that move numbers
        else:
            yield (*path, operation.name), operation, tensor
            node = operation._inbound_nodes[index]
        if len(node.input_tensors) != 1:
            return
        tensor = node.input_tensors[0]


def _softmax_of(model):
    """{path of the softmax at the end: how it is left out}, empty where logits can't be had by leaving it out."""
    times, count = _times_called(model), math.prod(side or 0 for side in model.output_shape[1:])
    for path, operation, tensor in _back(model):
        if times[id(operation)] > 1 or _is_masked(tensor):  # of a shared one the softmax counts elsewhere, too
            return {}
        kind = type(operation).__name__
        activation = getattr(getattr(operation, "activation", None), "__name__", None)
        if math.prod(side or 0 for side in tensor.shape[1:]) == count:
            if kind == "Softmax" or (kind, activation) == ("Activation", "softmax"):
                return {path: "without"}
            if re.fullmatch(r"\w*Dense|\w*Conv\w*", kind) and activation == "softmax":
                return {path: "linear"}
        if kind not in BEHIND_SOFTMAX and (kind, activation) != ("Activation", "linear"):
            return {}
    return {}


def _head_of(path, model, class_num):
    """What to change so that a network has another number of classes.

    Args:
        path: its file.
        model: the network.
        class_num: the number of classes.

    Returns:
        (changes as `rebuilding.Wanted` has them, ids of the variables that get new values).

    Raises:
        InputError: its classes are not the outputs of a Dense layer or a convolution.
    """
    changes, new, have = {}, [], model.output_shape[-1]
    for place, operation, tensor in _back(model):
        if _is_masked(tensor):  # by one number a class
            break
        new += [id(variable) for variable in getattr(operation, "weights", ())]
        if _is_sigmoid(operation):
            changes[place] = "without"
            continue
        for kind, setting in MAKE_CLASSES.items():
            if type(operation).__name__ == kind and getattr(operation, setting) == have:
                return changes | {place: {setting: class_num, "activation": "linear"}}, new
        if isinstance(operation, keras.layers.Reshape):
            shape = [class_num if side == have else side for side in operation.target_shape]
            changes[place] = {"target_shape": shape}
        elif type(operation).__name__ not in KEEP_CLASSES:
            break
    raise InputError(
        f"received {path}, whose {have} classes are not the outputs of a Dense layer or a convolution at its end; "
        f"expected a network with one, so that it can be replaced by one of {class_num}",
        path,
    )


def _is_masked(tensor):
    """Whether the call that made a tensor has a mask, which says what counts."""
    operation, index, _ = tensor._keras_history
    arguments = operation._inbound_nodes[index].arguments
    return isinstance(operation, keras.Layer) and (len(arguments.args) > 1 or arguments.kwargs.get("mask") is not None)


def _is_sigmoid(operation):
    """Whether an operation is nothing but a sigmoid."""
    activation = getattr(getattr(operation, "activation", None), "__name__", None)
    return type(operation).__name__ == "Sigmoid" or (type(operation).__name__, activation) == ("Activation", "sigmoid")


def _adds_up(model):
    """Whether the answers to noise are positive and add up to 1; False for a network too large to be asked."""
    sizes = [
        math.prod(side or 224 for side in tensor.shape) for _, node in nodes.walk(model) for tensor in node.outputs
    ]
    shape = [side or 224 for side in model.input_shape[1:]]
    if sum(sizes) > RUNNABLE:
        return False
    noise = np.random.default_rng(0).uniform(0, 255, (5, *shape)).astype("float32")
    try:
        answers = np.asarray(model(noise, training=False), np.float64)
    except Exception as error:  # whatever layers raise
        raise Unread(f"layers that can't take images of {shape[0]}x{shape[1]} ({one_line(error)[:200]})") from None
    return bool((answers >= 0).all() and np.abs(answers.sum(1) - 1).max() < 0.02)
