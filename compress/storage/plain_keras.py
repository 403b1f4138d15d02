"""A model file as plain Keras reads it, to compare with the network that the suite built from it.

Both readings answer to the same images; a difference of their probabilities means that one of them is wrong. Keras is
given no file's own config, which could name any class: it is written again from what `rules.py` knows, so that only
those classes are looked up, in float32 and without initialisers and regularisers. Keras reads the weights by itself,
by its own rules, which makes the comparison independent of the suite's reading.
"""

import json
import re

import keras
import numpy as np

from compress.errors import one_line
from compress.graph import reader, rules
from compress.graph.operations import OPERATIONS, TENSORFLOW, as_of_keras, plain
from compress.graph.reader import Step, Unread

IMAGES = 4
LARGE = 512 * 512  # pixels of an image
WITHIN = 1e-3  # of probabilities
ROUNDING = 1e-5  # of the largest logit: what float32 leaves open
VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__")


def rewritten(model):
    """A model's config with nothing in it but what decides its answers, in the spelling of Keras 3.

    Args:
        model: {'class_name', 'config'}, whose steps have passed `rules.parts_of`.

    Raises:
        Unread: Keras 3 has no spelling for it, or it would look something up.
    """
    config = model["config"]
    inside = config if isinstance(config, list) else config["layers"]
    name = {} if isinstance(config, list) or "name" not in config else {"name": str(config["name"])}
    named = [reader.Layer(layer) for layer in inside]
    first = reader.first_numbers(named)
    layers = [_layer(layer, first) for layer in inside]
    if model["class_name"] == "Sequential":
        shape = reader.first_shape(inside[0]).get("batch_input_shape") if inside else None
        if shape and layers[0]["class_name"] != "InputLayer":
            layers.insert(0, _named("InputLayer", "keras.layers", {"batch_shape": shape, "name": "first_input"}))
        return _named("Sequential", "keras", {"layers": layers} | name)
    ((begin, *_),) = reader.ends(config["input_layers"])
    ((end, number),) = [reader.end_call(end, named, first) for end in reader.ends(config["output_layers"])]
    number += any(layer.name == end and layer.kind in reader.MODELS[:2] for layer in named)  # as Keras 3 counts
    return _named(
        "Model", "keras", {"layers": layers, "input_layers": [begin, 0, 0], "output_layers": [end, number, 0]} | name
    )


def _named(kind, module, config):
    return {"class_name": kind, "module": module, "registered_name": None, "config": config}


def _layer(layer, first):
    kind, config = str(layer["class_name"]), layer["config"]
    nodes = {"inbound_nodes": _renumbered(layer["inbound_nodes"], first)} if "inbound_nodes" in layer else {}
    if kind in TENSORFLOW:
        return _operation(layer | nodes)
    _checked(nodes)
    if kind in reader.MODELS:
        made = rewritten(layer)
    elif kind in rules.IDLE or kind == "Lambda":  # whose code isn't run: --preprocessing stands for it on both sides
        made, nodes = _named("Identity", "keras.layers", {"name": config.get("name")}), _bare(nodes)
    elif kind in OPERATIONS and "trainable" not in config:
        made = _named(
            kind, OPERATIONS[kind], {key: value for key, value in config.items() if key != "dtype" or kind == "Cast"}
        )
        made["registered_name"] = kind
    elif kind in rules.TABLE:
        made = _named(kind, "keras.layers", _settings(kind, config))
    else:
        raise Unread(f"{layer.get('name', kind)} ({kind}), which Keras 3 can't open")
    return made | nodes | {"name": layer.get("name", made["config"].get("name"))}


def _bare(layer):
    """Of a layer's entry its calls, without what they have beside their tensors, such as training=True or a mask."""
    if "inbound_nodes" not in layer:
        return {}
    nodes = reader.Layer({"class_name": "", "config": {}} | layer).nodes
    return {
        "inbound_nodes": [
            node | {"kwargs": {}} if isinstance(node, dict) else [tensor[:3] for tensor in node]
            for node in nodes
            if node
        ]
    }


def _operation(layer):
    """A function of TensorFlow, which tf.keras wrote, as the operation of Keras 3 that does the same."""
    calls, name = [], str(layer["name"])
    for node in reader.Layer(layer).nodes:
        args, kwargs = reader.arguments(
            node,
            lambda *history: {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": list(history)},
            },
        )
        step = plain(Step(layer["class_name"], name, layer["config"], args, kwargs))
        kind, settings, args = as_of_keras(step)
        calls.append({"args": _checked(args), "kwargs": {}})
    made = _named(kind, OPERATIONS[kind], _checked(settings) | {"name": name})
    return made | {"registered_name": kind, "inbound_nodes": calls, "name": name}


def _settings(kind, config):
    kept = {
        "batch_shape" if key == "batch_input_shape" else key: value
        for key, value in config.items()
        if key != "dtype"
        and not key.endswith(("_initializer", "_regularizer", "_constraint"))
        and value is not None
        and (kind == "InputLayer" or not key.startswith("batch_"))
        and key
        not in (
            "sparse",
            "ragged",
            "optional",
            "fused",
            "renorm",
            "groups" * (kind != "Conv2D"),
            "seed",
            "build_input_shape",
            "virtual_batch_size",
            "quantization_config",
            "autocast",
            "input_dtype",
            "input_shape",
        )
    }
    if "activation" in kept:
        kept["activation"] = rules.activation_name(kept["activation"])
    if isinstance(kept.get("axis"), list) and kind == "BatchNormalization":
        kept["axis"] = kept["axis"][0]
    for key in ("scale", "offset", "mean", "variance"):
        if isinstance(kept.get(key), dict):
            kept[key] = kept[key]["config"]["value"]
    return json.loads(json.dumps(kept)) | {"dtype": "float32"}


def _checked(value):
    """What layers are called with, if it holds nothing but tensors, numbers and cuts."""
    if isinstance(value, dict):
        if value.get("class_name", "__tensor__") not in VALUES:
            raise Unread(f"a call with a {value['class_name']!s:.60}")
        return {key: _checked(item) for key, item in value.items()}
    return [_checked(item) for item in value] if isinstance(value, list) else value


def _renumbered(value, first):
    """A layer's inbound_nodes as lists, with the calls of nested models counted from 0, as Keras 3 reads them.

    Args:
        value: of a config.
        first: from `reader.first_numbers`.
    """
    if isinstance(value, dict):
        return {key: _renumbered(item, first) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) in (3, 4) and isinstance(value[0], str) and type(value[1]) is int:
        return [value[0], value[1] - first.get(value[0], 0), *(_renumbered(item, first) for item in value[2:])]
    return [_renumbered(item, first) for item in value]


def same_config(config, model):
    """Whether a file's config is that of a network which was built, but for what plays no part in its answers."""
    try:
        ours, theirs = rewritten(json.loads(model.to_json())), rewritten(config)
    except (Unread, LookupError, TypeError, AttributeError):
        return False
    return _nameless(ours) == _nameless(theirs)


def _nameless(model):
    """A rewritten config without the model's own name and the shapes that its tensors had."""

    def walk(value):
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return value["config"]["keras_history"]
            return {key: walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, list) else value

    config = model["config"]
    return walk({key: item for key, item in config.items() if key != "name"})


def in_keras(config, path):
    """The model of a file as Keras itself reads it, in float32, without its softmax.

    Raises:
        Unread: Keras can't open it; the text says why.
    """
    written = _until_softmax(rewritten(config))
    try:
        kind = keras.Sequential if written["class_name"] == "Sequential" else keras.Model
        model = kind.from_config(written["config"])
        model.load_weights(path)
    except Exception as error:  # whatever layers and files raise
        raise Unread(f"what Keras {keras.__version__} can't open ({_words(error)})") from None
    return model


def _until_softmax(written):
    """A rewritten config without its softmax: logits still differ where probabilities are all 0 or 1."""
    if isinstance(written, list):
        return [_until_softmax(item) for item in written]
    if not isinstance(written, dict):
        return written
    if written.get("class_name") == "Softmax":
        return written | _named("Identity", "keras.layers", {"name": written["config"].get("name")}) | _bare(written)
    return {
        key: "linear" if (key, item) == ("activation", "softmax") else _until_softmax(item)
        for key, item in written.items()
    }


def _words(error):
    """What Keras says of an error, in a line, without the colours that it writes for terminals."""
    return one_line(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))[:200]


def conditions_of(config):
    """What to say of a comparison in which plain Keras' model isn't wholly the file's own.

    Layers that compute in half precision, whose answers are coarser, a Lambda, and functions of TensorFlow.
    """
    text = json.dumps(config)
    halves = set(re.findall(r'"((?:mixed_)?b?float16)"', text))
    halves = sorted(halves - {name.removeprefix("mixed_") for name in halves if name.startswith("mixed_")})
    without = ", without its Lambda" if '"Lambda"' in text else ""
    return (
        (f", both in float32, where the file says {' and '.join(halves)}" if halves else "")
        + without
        + (
            ", functions of TensorFlow as operations of Keras 3"
            if any(f'"{kind}"' in text for kind in TENSORFLOW)
            else ""
        )
    )


def pictures(shape):
    """(IMAGES, h, w, 3) float32, 0 to 255: noise, a ramp, patches of colour, faint noise."""
    rng = np.random.default_rng(826)
    height, width = shape[:2]
    ramp = np.linspace(0, 255, height)[:, None, None] * np.linspace(0.2, 1, width)[:, None] * [1, 0.7, 0.4]
    patches = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((-(-height // 4), -(-width // 4), 1)))
    return np.rint(
        np.stack(
            [
                rng.uniform(0, 255, (height, width, 3)),
                ramp,
                patches[:height, :width],
                128 + rng.normal(0, 12, (height, width, 3)),
            ]
        )
    ).astype("float32")


def difference(ours, theirs, shape, seen):
    """By how much two networks differ, and how much is theirs to differ.

    Args:
        ours: the network that was built, RGB 0 to 255 -> logits.
        theirs: from `in_keras`, which answers logits or, without a classifier, a map or its mean.
        shape: (height, width, 3) of the images.
        seen: function(images) -> what `theirs` is to be given.

    Returns:
        (largest difference of a probability, or of a logit or feature relative to the largest one; what rounding may
        leave).

    Raises:
        Unread: `theirs` can't answer, or answers NaN or infinity.
    """
    images = pictures(shape)
    parts = np.array_split(images, 1 if shape[0] * shape[1] <= LARGE else IMAGES)  # the memory of one large image
    try:
        # multi_gpu_model puts the answers to each GPU's images, here the same, behind each other
        answers = [
            np.asarray(keras.ops.cast(theirs(seen(part), training=False), "float32"), np.float64)[: len(part)]
            for part in parts
        ]
    except Exception as error:  # whatever layers raise
        raise Unread(f"it can't take images of {shape[0]}x{shape[1]} there ({_words(error)})") from None
    answers = np.concatenate(answers)
    logits = np.concatenate([np.asarray(ours(part, training=False), np.float64) for part in parts])
    if not np.isfinite(answers).all():
        if np.isfinite(logits).all():
            return np.inf, WITHIN
        raise Unread("NaN or infinity as its answer, on images of noise")
    if answers.ndim == 4:
        answers = answers.mean((1, 2))
    if answers.shape != logits.shape:  # no classifier
        features = keras.Model(ours.inputs[0], ours.get_layer("avg_pool").output)
        logits = np.concatenate([np.asarray(features(part, training=False), np.float64) for part in parts])
        return np.abs(answers - logits).max() / (np.abs(logits).max() or 1.0), WITHIN
    # Logits are compared relative to the largest one, and where they agree so far, probabilities absolutely.
    largest = np.abs(logits).max()
    apart = np.abs(answers - logits).max() / (largest or 1.0)
    if not apart <= WITHIN:  # of logits in the thousands, whose rounding alone turns probabilities over
        return apart, WITHIN
    return max(apart, np.abs(_softmax(answers) - _softmax(logits)).max()), max(WITHIN, ROUNDING * largest)


def _softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
