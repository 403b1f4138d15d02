"""Reads the config of a Keras model, of any version and with any nesting, as one flat list of steps in data order.

The config is JSON, and stays that: nothing of Keras is imported, and no class or function that it names is looked up.
A stranger's file could otherwise run code. `rules.py` says what each kind of step computes.
"""

import dataclasses
import re

from compress.errors import one_line

MOST_STEPS = 20_000  # a model that calls a model twice, which calls another twice, ... doubles the steps each time
MODELS = ("Functional", "Model", "Sequential")


REGISTERED = set()  # names of classes that a user gave by `kinds.register`, and that a file may have therefore


class Unread(ValueError):
    """A model can't be converted exactly; the text names the layer and says what to do."""


@dataclasses.dataclass(frozen=True)
class Ref:
    """A tensor among the arguments of a step: the output of the step with this number."""

    step: int


@dataclasses.dataclass
class Step:
    """One call of a layer or of an operation.

    Attributes:
        kind: its class, such as 'Conv2D' or 'TrueDivide'.
        name: of the layer.
        config: of the layer, a dict.
        args, kwargs: arguments of the call, with a Ref for every tensor.
        layers: names of the nested models around it and its own, ('resnet50', 'conv1_conv').
        group: path of its weights in a .keras file, ('functional', 'conv2d_1').
    """

    kind: str
    name: str
    config: dict
    args: list
    kwargs: dict
    layers: tuple = ()
    group: tuple = ()

    @property
    def inputs(self):
        """Numbers of the steps whose outputs it reads, in order."""
        return [ref.step for ref in _refs([self.args, self.kwargs])]

    def __str__(self):
        return one_line(f"{self.name} ({self.kind})")


def _refs(value):
    """Yields the Refs in nested lists and dicts."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _refs(item)


def snake_case(kind):
    """A class name in Keras' snake case: 'GlobalAveragePooling2D' gives 'global_average_pooling2d'."""
    text = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", text).lower()


def unfold(model):
    """Unfolds the config of a model, with all models nested in it, into one list of steps.

    Args:
        model: dict with 'class_name' and 'config', from the attribute model_config of an .h5 file or from config.json
            in a .keras file.

    Returns:
        List of Steps, each behind those that it reads, the last one the output. The first is the InputLayer of the
        images. A Sequential of Keras 1 or 2 may lack one; the first Step then has that kind, without a shape.

    Raises:
        Unread: several inputs or outputs, a class that isn't Keras' own, a subclassed model, or a layer that the output
            doesn't depend on.
        LookupError, TypeError, ValueError, AttributeError: it is no config of a model.
    """
    steps = []
    end = _Unfolding(steps).model(model, None, (), ())
    # The output has to depend on every step. Keras writes no others, and nothing would check what they are.
    kept, pending = set(), [end]
    while pending:
        step = pending.pop()
        if step not in kept:
            kept.add(step)
            pending += steps[step].inputs
    for number, step in enumerate(steps):
        if number not in kept:
            raise Unread(f"{step}, which the output doesn't depend on")
    return steps


def class_name(kind):
    """The name of a class without the package that it is registered in: 'Scale' of 'mine>Scale'."""
    return str(kind).split(">")[-1]


def check_own(layer):
    """Raises Unread where the class of a layer is neither Keras' own nor registered.

    Args:
        layer: its entry in a config, with 'class_name' and perhaps 'module' and 'registered_name'.
    """
    # Keras 3 writes the module of a class, and registers a custom class as 'package>Name'.
    kind, module, registered = layer["class_name"], layer.get("module"), layer.get("registered_name")
    if class_name(kind) in REGISTERED:
        return
    own = module is None or str(module).split(".")[0] in ("keras", "tf_keras", "builtins")
    if not own or ">" in str(kind) or ">" in str(registered):
        name = layer["config"].get("name", kind) if isinstance(layer.get("config"), dict) else kind
        raise Unread(
            f"{name} ({kind}), a class of its author's own (registered as {registered or kind}), which is "
            "code that isn't in the file"
        )


class _Unfolding:
    """The state while nested models are unfolded: the steps so far, and the number of calls.

    Args:
        steps: list that gets the steps.
    """

    def __init__(self, steps):
        self.steps, self.calls = steps, 0

    def count(self, more):
        """Counts calls of layers and models; raises Unread beyond MOST_STEPS."""
        self.calls += more
        if self.calls > MOST_STEPS:
            raise Unread(f"more than {MOST_STEPS:,} calls of layers")

    def add(self, step):
        self.steps.append(step)
        return len(self.steps) - 1

    def model(self, model, image, layers, group):
        """Adds the steps of a model.

        Args:
            model: its config, as of `unfold`.
            image: number of the step that it reads; None for the outermost model.
            layers: names of the models around it, as `Step.layers`.
            group: path of its weights, as `Step.group`.

        Returns:
            Number of the step with its output.
        """
        check_own(model)
        kind, config = model["class_name"], model["config"]
        if kind not in MODELS:
            raise Unread(f"{kind}, a model that is defined by code, which no file holds")
        inside = config if isinstance(config, list) else config["layers"]  # a list: Sequential of Keras 1 and 2.0
        self.count(len(inside))
        named = [Layer(layer, layers, group, place) for layer, place in zip(inside, _places(inside), strict=True)]
        if kind == "Sequential":
            return self._chain(named, image)
        return self._graph(config, named, image)

    def _chain(self, named, image):
        """Adds the layers of a Sequential; returns the number of its output."""
        for layer in named:
            if layer.kind == "InputLayer" and image is not None:
                continue
            if image is None and layer.kind != "InputLayer":
                image = self.add(Step("InputLayer", "input", first_shape(layer.data), [], {}))
            image = self._call(layer, [Ref(image)] if image is not None else [], {})
        if image is None:
            raise Unread("a Sequential without layers")
        return image

    def _graph(self, config, named, image):
        """Adds the layers of a functional model; returns the number of its output."""
        inputs, outputs = ends(config["input_layers"]), ends(config["output_layers"])
        check_one_each(inputs, outputs)
        # made: {(layer, number of its call): step}. A layer that is called several times has a node for each call.
        made = {} if image is None else {(inputs[0][0], 0): image}
        again = sum(len(layer.nodes) for layer in named) - len(named)
        self.count(again)
        calls = {(layer.name, number): (layer, node) for layer in named for number, node in enumerate(layer.nodes)}
        if len(calls) != len(named) + again:
            raise Unread("two layers of one name in one model")
        first = first_numbers(named)
        # Configs are in data order but for layers that are called several times. A call whose input isn't there yet
        # waits for it; sorting all calls first would need the same arguments read twice.
        pending, waiting = [call for call in reversed(calls) if call not in made], {}
        while pending:
            layer, node = calls[call := pending.pop()]
            missing = None

            # `arguments` calls this for every tensor that the call reads. -1 stands for one that isn't there yet.
            def tensor(name, number, place=0):
                nonlocal missing
                if place:
                    raise Unread(f"output {place} of {name}; expected layers of one output")
                found = made.get(call := (name, number - first.get(name, 0)))
                missing = call if found is None else missing
                return Ref(-1 if found is None else found)

            args, kwargs = arguments(node, tensor)
            if missing:
                waiting.setdefault(missing, []).append(call)
            else:
                made[call] = self._call(layer, args, kwargs)
                pending += waiting.pop(call, [])
        if waiting:
            layer, _ = calls[next(iter(waiting.values()))[0]]
            raise Unread(f"{layer.name} ({layer.kind}), which reads what no layer writes")
        return made[end_call(outputs[0], named, first)]

    def _call(self, layer, inputs, kwargs):
        if layer.kind not in MODELS:
            return self.add(Step(layer.kind, layer.name, layer.config, inputs, kwargs, layer.layers, layer.group))
        # A nested model is unfolded in place. Keras writes training=None or False and mask=None into its call.
        kwargs = {key: value for key, value in kwargs.items() if value not in (None, False)}
        if kwargs:
            raise Unread(f"{layer.name} ({layer.kind}), which is called with {', '.join(map(str, kwargs))}")
        refs = list(_refs(inputs))
        if len(refs) != 1:
            raise Unread(f"{layer.name} ({layer.kind}), a model that reads {len(refs)} tensors; expected one")
        return self.model(layer.data, refs[0].step, layer.layers, layer.group)


class Layer:
    """A layer's entry in a config.

    Args:
        data: the entry, a dict.
        layers: names of the models around it.
        group: path of their weights.
        place: name of its own weights in that path.

    Attributes:
        nodes: its calls, in one of the forms that `arguments` reads.
    """

    def __init__(self, data, layers=(), group=(), place=""):
        check_own(data)
        self.data, self.kind = data, str(data["class_name"])
        self.config = data["config"] if isinstance(data["config"], dict) else {}
        self.name = str(data.get("name") or self.config.get("name") or self.kind)
        self.layers, self.group = (*layers, self.name), (*group, place)
        # "inbound_nodes" is a list with an item for each call, empty for layers of a Sequential.
        nodes = data.get("inbound_nodes") or []
        if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
            nodes = [nodes]  # tf.keras omits the inner brackets of operations
        self.nodes = nodes or [[]]


def _places(layers):
    """Yields the name of each layer's weights in a .keras file, its class and a count: 'conv2d', 'conv2d_1', ..."""
    counts = {}
    for layer in layers:
        snake = snake_case(str(layer["class_name"]))
        count = counts[snake] = counts.get(snake, -1) + 1
        yield f"{snake}_{count}" if count else snake


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
    if len(inputs) != 1 or len(outputs) != 1:
        raise Unread(
            f"{len(inputs)} input{'s' * (len(inputs) != 1)} and {len(outputs)} output{'s' * (len(outputs) != 1)}; "
            "expected one each, as keras.Model(model.inputs[0], model.outputs[0]) has them"
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
