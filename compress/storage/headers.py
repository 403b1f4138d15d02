"""A quick look into a model file, before Keras starts: a slip is reported at once, and not after ten seconds.

No kind of network is refused here; what no network can be rebuilt from is, in the words of `opening`.
"""

import dataclasses
import functools

from compress.cli import display
from compress.errors import InputError, one_line
from compress.storage import archives, bare, checkpoints, classes, entries, functions, records, vocabulary
from compress.storage.entries import Unread

EXPECTED = "a classifier of Keras' own layers with a graph (functional or Sequential), one input and one output"
BEHIND = (*vocabulary.IDLE, "Softmax", "LogSoftmax", "Sigmoid", "Cast")  # an output behind these has as many numbers
POOLING = ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "GlobalAvgPool2D", "GlobalMaxPool2D")
OF_NUMBERS = ("linear", "softmax", "log_softmax", "sigmoid")  # activations that a classifier ends in


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says of itself, without its weights.

    Attributes:
        path: the file.
        classes: number of outputs; 0 for weights without a classifier; None where only the network itself tells.
        input_shape: (height, width, 3), or None where it takes images of any size or the file doesn't say.
    """

    path: str
    classes: int | None
    input_shape: tuple | None

    @functools.cached_property
    def names(self):
        """Tuple of the names of its classes, or None; see `classes.of_model`."""
        return classes.of_model(self.path)


@functools.cache  # a report looks at a file several times
def _warn_of_records(path):
    """Warns of a record beside a run's model that can't be read: checksum and share for validation aren't compared."""
    for record in [path.with_name(name) for name in ("history.json", "result.json") if path.name == "model.h5"]:
        try:
            if record.is_file():
                records.read_json(record)
        except InputError as error:
            display.warn(f"{error}; what it said of {path} is not known")


def read_header(path, preprocessing="auto"):
    """The Header of a model file, .h5 or .keras, of any network; warns of a record beside it that can't be read.

    Args:
        path: the file.
        preprocessing: as `opening.open_network` takes it: with another one than 'auto' a file may have a Lambda.

    Raises:
        InputError: missing, damaged, without RGB images, or with what no network is rebuilt from: code, classes of its
            author's own, quantised layers.
    """
    path = checkpoints.existing(path)
    _warn_of_records(path)
    with checkpoints.errors_in_a_line(path, EXPECTED), archives.opened(path) as (file, config, _):
        found = archives.arrays(file, path)
        if config is not None:
            return of_model(path, config, preprocessing != "auto")
        with checkpoints.errors_in_a_line(path, bare.EXPECTED):
            return of_weights(bare.read(path, found, archives.groups(file), arrays=False))


def of_weights(weights):
    """The Header of a bare.Weights."""
    return Header(weights.path, weights.classes or 0, None)


def of_model(path, config, without_code):
    """The Header of a model's config. Raises Unread where no network is rebuilt from it."""
    config, _ = one_copy(config, without_code)
    for layer in _layers(config):
        vocabulary.check_known(layer, without_code)
    shape = _shape(config)
    if shape is not None and (len(shape) != 4 or shape[-1] != 3):
        what, way = _other_images(shape)
        raise InputError(
            f"received {path}, whose input is {tuple(shape)}{what}; expected a classifier of one input of RGB "
            f"images{way}",
            path,
        )
    return Header(str(path), _classes(config), archives.input_shape(shape))


def _other_images(shape):
    """What a shape that isn't that of RGB images is of, and what can be done, as the ends of two clauses."""
    if len(shape) == 4 and shape[1] in (1, 3) and shape[-1] not in (1, 3):
        return f", channels_first{', of grey images' * (shape[1] == 1)}", (
            f" as channels_last, (None, {shape[2]}, {shape[3]}, 3): build the same network with "
            "data_format='channels_last' (axis=-1 where a layer had axis=1), give it these weights by set_weights, and "
            "save it; kernels have one layout in both, only a Dense behind a Flatten has its rows in another order"
        )
    return ", of grey images" if len(shape) == 4 and shape[-1] == 1 else "", ""


def one_copy(model, without_code):
    """The config of the network that keras.utils.multi_gpu_model of Keras 2 made copies of; any other as it is.

    Each copy gets a part of the batch, which a Lambda cuts for it, and the parts are joined: what it answers is what
    the network alone does, where the Lambdas do no more than that.

    Args:
        model: the config of a model.
        without_code: whether a Lambda may be left out.

    Returns:
        (config, '' or what was left out, for the user).

    Raises:
        Unread: Lambdas may not be left out.
    """
    if model["class_name"] not in ("Functional", "Model"):
        return model, ""
    named, read = {layer.name: layer for layer in _inside(model)}, []
    end = named.get(entries.ends(model["config"]["output_layers"])[0][0])
    if end is None or end.kind != "Concatenate" or end.config.get("axis") != 0:  # axis 0 counts the images of a batch
        return model, ""
    for node in end.nodes:
        entries.arguments(node, lambda name, *_: read.append(name))
    network = named.get(read[0]) if len({*read}) == 1 else None
    others = [layer for layer in named.values() if layer not in (end, network)]
    images = [layer for layer in others if layer.kind == "InputLayer"]
    if (
        network is None
        or network.kind not in entries.MODELS
        or len(images) != 1
        or any(layer.kind not in ("InputLayer", "Lambda") for layer in others)
    ):
        return model, ""
    what = f"a multi-GPU save (keras.utils.multi_gpu_model) of {len(read)} copies of {one_line(network.name)[:200]}"
    if not without_code:
        raise Unread(
            f"{what}, each behind a Lambda, code that isn't run; expected `preprocessing`, what that network takes: "
            "it is then read alone"
        )
    layers = [images[0].data, network.data | {"inbound_nodes": [[[images[0].name, 0, 0, {}]]]}]
    config = model["config"] | {"layers": layers, "output_layers": [[network.name, 1, 0]]}
    return model | {"config": config}, f"{what}: read as that network alone, the Lambdas taken to cut the batch"


def _layers(model):
    """Yields the entries.Layers of a model's config, those of models inside it too; not what a wrapper holds."""
    pending = [model]
    while pending:
        entry = pending.pop()
        if entry["class_name"] not in entries.MODELS:
            raise entries.unknown_model(entry["class_name"])
        entries.check_own(entry)
        for layer in _inside(entry):
            yield layer
            if layer.kind in entries.MODELS:
                pending.append(layer.data)


def _inside(entry):
    """The entries.Layers of a model."""
    config = entry["config"]
    layers = config if isinstance(config, list) else config["layers"]  # a list: Sequential of Keras 1 and 2.0
    if not layers:
        raise Unread("a model without layers")
    return [entries.Layer(vocabulary.as_own(layer)) for layer in layers]


def _shape(model):
    """The batch shape of a model's images as its config has it, a list, or None."""
    layers = _inside(model)
    if model["class_name"] == "Sequential":
        image = layers[0] if layers[0].kind == "InputLayer" else entries.first_input(model)
    else:
        inputs, outputs = (entries.ends(model["config"][key]) for key in ("input_layers", "output_layers"))
        entries.check_one_each(inputs, outputs)
        image = next((layer for layer in layers if layer.name == inputs[0][0]), None)
        if image is None:
            raise Unread(f"no layer {inputs[0][0]}, its input")
    shape = image.config.get("batch_shape") or image.config.get("batch_input_shape")
    return shape if isinstance(shape, list) else None


def _classes(model):
    """Number of a model's outputs, where its last layers say it; else None."""
    layers = _inside(model)
    if model["class_name"] == "Sequential":
        order = iter(reversed(layers))
        behind = lambda layer: next(order, None)  # noqa: E731
        layer = next(order)
    else:
        named = {layer.name: layer for layer in layers}
        behind = lambda layer: named.get(_read_by(layer))  # noqa: E731
        layer = named.get(entries.ends(model["config"]["output_layers"])[0][0])
    pooled = False
    for _ in range(len(layers)):  # a hostile file may have a circle
        if layer is None:
            return None
        if layer.kind in entries.MODELS and not pooled:
            return _classes(layer.data)
        count = _count(layer, pooled)
        if count is not None:
            return count
        if not _keeps_count(layer):
            return None
        pooled = pooled or layer.kind in POOLING
        layer = behind(layer)
    return None


def _count(layer, pooled):
    """Number of outputs that a layer makes, None where it doesn't say; `pooled`: they are averages over positions."""
    count = None
    if layer.kind == "Dense":
        count = layer.config.get("units")
    elif layer.kind in ("Conv2D", "Convolution2D", "SeparableConv2D") and pooled:
        count = layer.config.get("filters")
    elif layer.kind == "Reshape" and isinstance(target := layer.config.get("target_shape"), list) and len(target) == 1:
        count = target[0]
    return count if type(count) is int and count > 0 else None


def _keeps_count(layer):
    if layer.kind == "Activation":
        return vocabulary.activation_name(layer.config.get("activation")) in OF_NUMBERS
    return layer.kind in BEHIND or layer.kind in POOLING


def _read_by(layer):
    """The name of the only layer that a layer reads; None for several, or where it is called more than once."""
    names = []
    if len(layer.nodes) == 1 and layer.kind not in functions.TENSORFLOW:
        entries.arguments(layer.nodes[0], lambda name, *_: names.append(name))
    return names[0] if len(names) == 1 else None
