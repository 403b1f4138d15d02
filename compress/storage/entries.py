"""The entries of layers in the config of a Keras model of any version: names, calls and their arguments.

The config is JSON, and stays that: nothing of Keras is imported, and no class or function that it names is looked up.
A stranger's file could otherwise run code. `rebuilding` makes a model of it.
"""

import re

from compress.errors import one_line
from compress.graph import registered

MOST_CALLS = 20_000  # a model that calls a model twice, which calls another twice, ... doubles the calls each time
MODELS = ("Functional", "Model", "Sequential")
WAY_OF_A_CLASS = (  # what can be done with a layer that is code of its author's
    "expected Keras' own layers in its place, given its weights by set_weights; or call the script's run() from "
    "Python, behind compress.graph.rules.register(the class, a rule): docs/how-to/own-layer.md"
)
WAY_OF_CODE = (
    "expected its layers as a graph: with its class at hand, image = keras.Input((height, width, 3)), then "
    "keras.Model(image, model.call(image)).save('functional.keras'), which has the same layers and weights"
)


class Unread(ValueError):
    """A model can't be read exactly; the text names the layer and says what to do."""


def snake_case(kind):
    """A class name in Keras' snake case: 'GlobalAveragePooling2D' gives 'global_average_pooling2d'."""
    text = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", text).lower()


def class_name(kind):
    """The name of a class without the package that it is registered in: 'Scale' of 'mine>Scale'."""
    return str(kind).split(">")[-1]


def check_own(layer):
    """Raises Unread where the class of a layer is neither Keras' own nor registered.

    Args:
        layer: its entry in a config, with 'class_name' and perhaps 'module' and 'registered_name'.
    """
    # Keras 3 writes the module of a class, and registers a custom class as 'package>Name'.
    kind, module, package = layer["class_name"], layer.get("module"), layer.get("registered_name")
    if class_name(kind) in registered.names():
        return
    own = module is None or str(module).split(".")[0] in ("keras", "tf_keras", "builtins")
    if not own or ">" in str(kind) or ">" in str(package):
        name = layer["config"].get("name", kind) if isinstance(layer.get("config"), dict) else kind
        raise Unread(
            f"{name} ({kind}), a class of its author's own (registered as {package or kind}), which is "
            f"code that isn't in the file; {WAY_OF_A_CLASS}"
        )


def unknown_model(kind):
    """The Unread of a model that is defined by code."""
    return Unread(f"{one_line(kind)[:80]}, a model that is defined by code, which no file holds; {WAY_OF_CODE}")


class Layer:
    """A layer's entry in a config.

    Args:
        data: the entry, a dict.

    Attributes:
        nodes: its calls, in one of the forms that `arguments` reads.
    """

    def __init__(self, data):
        check_own(data)
        self.data, self.kind = data, str(data["class_name"])
        self.config = data["config"] if isinstance(data["config"], dict) else {}
        self.name = str(data.get("name") or self.config.get("name") or self.kind)
        # "inbound_nodes" is a list with an item for each call, empty for layers of a Sequential.
        nodes = data.get("inbound_nodes") or []
        if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
            nodes = [nodes]  # tf.keras omits the inner brackets of operations
        self.nodes = nodes or [[]]

    def __str__(self):
        return one_line(f"{self.name} ({self.kind})")


def first_shape(layer):
    """The settings of the first layer of a Sequential without InputLayer that describe its images, a dict."""
    while layer["class_name"] in MODELS:
        config = layer["config"]
        layer = (config if isinstance(config, list) else config["layers"])[0]
    return {
        key: layer["config"][key] for key in ("batch_shape", "batch_input_shape", "dtype") if key in layer["config"]
    }


def first_input(entry):
    """The Layer for the input of a Sequential that has none of its own: its images as its first layer has them."""
    config = entry["config"]
    shape = first_shape((config if isinstance(config, list) else config["layers"])[0])
    if not shape and isinstance(config, dict):
        build = entry.get("build_config") if isinstance(entry.get("build_config"), dict) else {}
        shape = {"batch_shape": config.get("build_input_shape") or build.get("input_shape")}
    if not any(shape.get(key) for key in ("batch_shape", "batch_input_shape")):
        raise Unread(
            "a Sequential without the shape of its images; expected keras.Input as its first layer, or the model "
            "called once before it is saved"
        )
    return Layer({"class_name": "InputLayer", "config": shape | {"name": "image"}})


def ends(spec):
    """Input or output layers as [[name, number of the call, number of the output], ...].

    Args:
        spec: the same, or a single one of them, or a dict of them, as versions of Keras differ.
    """
    if isinstance(spec, dict):
        spec = list(spec.values())
    if spec and isinstance(spec[0], str):
        spec = [spec]
    return [item if isinstance(item[0], str) else item[0] for item in spec]


def first_numbers(named):
    """{nested model: 1} for those whose calls are counted from 1, as tf.keras does; Keras 3 counts from 0.

    tf.keras counts the call that defines a model as number 0. Nothing outside reads it, so a model whose call 0 isn't
    read anywhere was counted from 1.

    Args:
        named: list of the Layers of a model.
    """
    read = {layer.name: set() for layer in named}
    for layer in named:
        for node in layer.nodes:
            arguments(node, lambda name, number, place=0: read.get(name, set()).add(number))
    return {layer.name: 1 for layer in named if layer.kind in MODELS and read[layer.name] and 0 not in read[layer.name]}


def check_one_each(inputs, outputs):
    """Raises Unread for a model of several inputs or outputs, of which lists from `ends` are given."""
    if len(inputs) == len(outputs) == 1:
        return
    ways = []
    if len(outputs) != 1:
        inside = "model.inputs" if len(inputs) != 1 else "model.inputs[0]"
        ways.append(f"as model = keras.Model({inside}, model.outputs[0]) has it")
    if len(inputs) != 1:  # arrays of one row follow the number of images by a sum with a zero of each
        others = "".join(f", zero + v{number}" for number in range(1, len(inputs)))
        ways.append(
            "with the other inputs held at arrays v1, ... of shape (1, n) that is: image = "
            "keras.Input(model.inputs[0].shape[1:]); zero = image[:, 0, 0, :1] * 0; "
            f"model = keras.Model(image, model([image{others}]))"
        )
    raise Unread(
        f"{len(inputs)} input{'s' * (len(inputs) != 1)} and {len(outputs)} output{'s' * (len(outputs) != 1)}; "
        f"expected one each, {'; '.join(ways)}"
    )


def end_call(end, named, first):
    """(layer, number of its call, from 0) of a model's output.

    In the list of outputs both tf.keras and Keras 3 count the calls of a nested model from 1. For a nested Sequential
    Keras 3 counts from 0.

    Args:
        end: of `ends`.
        named: list of the Layers of the model.
        first: of `first_numbers`.
    """
    name, number = end[:2]
    for layer in named:
        if layer.name == name and layer.kind in MODELS and number:
            from_one = layer.kind != "Sequential" or number == len(layer.nodes)
            return name, number - (1 if from_one else first.get(name, 0))
    return name, number


def arguments(node, tensor):
    """The arguments of a call, from the forms that Keras 2 and 3 write.

    Args:
        node: of `Layer.nodes`. Keras 3: {'args': ..., 'kwargs': ...}; Keras 2: [[name, call, output, kwargs], ...].
        tensor: function(name of a layer, number of its call, number of its output) that replaces each tensor.

    Returns:
        (list of arguments, dict of keyword arguments).
    """

    def walk(value):
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return tensor(*value["config"]["keras_history"])
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            if len(value) == 3 and isinstance(value[0], str) and all(type(n) is int for n in value[1:]):
                return tensor(*value)  # how tf.keras writes a tensor among keyword arguments
            return [walk(item) for item in value]
        return value

    if isinstance(node, dict):
        return walk(node.get("args", [])), walk(node.get("kwargs", {}))
    # Keras 2: each tensor is an item [layer, call, output, keyword arguments]; an operation's constant has the word
    # _CONSTANT_VALUE in place of the layer.
    args, kwargs = [], {}
    for item in node:
        constant = item[0] == "_CONSTANT_VALUE"
        args.append(item[2] if constant else tensor(*item[:3]))
        kwargs |= walk(item[3]) if len(item) > 3 and item[3] else {}
    return args, kwargs
