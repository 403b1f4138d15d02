"""The config of a Keras model, of any version and nested at will, as one list of steps in the order of the data.

Nothing of Keras is imported, and nothing that a config names is looked up: it is read as JSON. What the steps do is
`rules.py`'s business.
"""

import dataclasses
import re

from compress.errors import one_line

MOST_STEPS = 20_000  # nested models that are called many times would unfold without end
MODELS = ("Functional", "Model", "Sequential")


class Unread(ValueError):
    """A model is not one that the suite can carry over exactly; the text says what of it and how else to go on."""


@dataclasses.dataclass(frozen=True)
class Ref:
    """Stands for a tensor among a step's arguments: the output of the step of this number."""

    step: int


@dataclasses.dataclass
class Step:
    """One call of a layer or of an operation.

    Attributes:
        kind: its class, such as 'Conv2D' or 'TrueDivide'.
        name: of the layer.
        config: its own.
        args, kwargs: what it is called with; a Ref for every tensor.
        layers: names from the outermost model's layer down to this one, ('resnet50', 'conv1_conv').
        group: where a .keras file keeps its weights, ('functional', 'conv2d_1').
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
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _refs(item)


def snake_case(kind):
    """A class name as keras.saving spells it: 'GlobalAveragePooling2D' is 'global_average_pooling2d'."""
    text = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", text).lower()


def unfold(model):
    """The steps of a model config.

    Args:
        model: {'class_name', 'config'}, as model_config of an .h5 file and config.json of a .keras file have it.

    Returns:
        List of Steps, each behind those that it reads, the last one the output; the first is the image's InputLayer
        (a Sequential of old may lack one: then a Step of that kind without a shape).

    Raises:
        Unread: several inputs or outputs, a class that isn't Keras' own, a model that is defined by code, a layer
            that the output doesn't depend on.
        LookupError, TypeError, ValueError, AttributeError: no config of a model.
    """
    steps = []
    end = _Unfolding(steps).model(model, None, (), ())
    kept, pending = set(), [end]
    while pending:
        step = pending.pop()
        if step not in kept:
            kept.add(step)
            pending += steps[step].inputs
    for number, step in enumerate(steps):
        if number not in kept:  # Keras writes none; nobody would check what it is
            raise Unread(f"{step}, which the output doesn't depend on")
    return steps


def check_own(layer):
    """Raises Unread where a layer's class is not one of Keras itself."""
    kind, module, registered = layer["class_name"], layer.get("module"), layer.get("registered_name")
    own = module is None or str(module).split(".")[0] in ("keras", "tf_keras", "builtins")
    if not own or ">" in str(kind) or ">" in str(registered):
        name = layer["config"].get("name", kind) if isinstance(layer.get("config"), dict) else kind
        raise Unread(f"{name} ({kind}), a class of its author's own (registered as {registered or kind}), which is "
                     "code that isn't in the file")


class _Unfolding:
    """What is needed while models inside models are unfolded into one list of steps."""

    def __init__(self, steps):
        self.steps, self.calls = steps, 0

    def count(self, more):
        """Counts calls of layers and of models, which may be nested without end."""
        self.calls += more
        if self.calls > MOST_STEPS:
            raise Unread(f"more than {MOST_STEPS:,} calls of layers")

    def add(self, step):
        self.steps.append(step)
        return len(self.steps) - 1

    def model(self, model, image, layers, group):
        """Adds a model's steps; `image` is the number of the step that it reads, None for the outermost. The output."""
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
        inputs, outputs = ends(config["input_layers"]), ends(config["output_layers"])
        if len(inputs) != 1 or len(outputs) != 1:
            raise Unread(f"{len(inputs)} inputs and {len(outputs)} outputs; expected one each")
        made = {} if image is None else {(inputs[0][0], 0): image}
        again = sum(len(layer.nodes) for layer in named) - len(named)
        self.count(again)
        calls = {(layer.name, number): (layer, node) for layer in named for number, node in enumerate(layer.nodes)}
        if len(calls) != len(named) + again:
            raise Unread("two layers of one name in one model")
        first = first_numbers(named)
        pending, waiting = [call for call in reversed(calls) if call not in made], {}
        while pending:  # configs are mostly in the order of the data, but for layers that are called several times
            layer, node = calls[call := pending.pop()]
            missing = None

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
        kwargs = {key: value for key, value in kwargs.items() if value not in (None, False)}
        if kwargs:
            raise Unread(f"{layer.name} ({layer.kind}), which is called with {', '.join(map(str, kwargs))}")
        refs = list(_refs(inputs))
        if len(refs) != 1:
            raise Unread(f"{layer.name} ({layer.kind}), a model that reads {len(refs)} tensors; expected one")
        return self.model(layer.data, refs[0].step, layer.layers, layer.group)


class Layer:
    """A layer's entry in a config."""

    def __init__(self, data, layers=(), group=(), place=""):
        check_own(data)
        self.data, self.kind = data, str(data["class_name"])
        self.config = data["config"] if isinstance(data["config"], dict) else {}
        self.name = str(data.get("name") or self.config.get("name") or self.kind)
        self.layers, self.group = (*layers, self.name), (*group, place)
        nodes = data.get("inbound_nodes") or []
        if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
            nodes = [nodes]  # tf.keras leaves the inner brackets of operations away
        self.nodes = nodes or [[]]


def _places(layers):
    """The name under which a .keras file keeps each layer's weights: its class, counted, as keras.saving does."""
    counts = {}
    for layer in layers:
        snake = snake_case(str(layer["class_name"]))
        count = counts[snake] = counts.get(snake, -1) + 1
        yield f"{snake}_{count}" if count else snake


def first_shape(layer):
    """What the first layer of an old Sequential tells of its images: batch_input_shape, dtype."""
    while layer["class_name"] in MODELS:
        config = layer["config"]
        layer = (config if isinstance(config, list) else config["layers"])[0]
    return {key: layer["config"][key] for key in ("batch_shape", "batch_input_shape", "dtype")
            if key in layer["config"]}


def ends(spec):
    """Input or output layers, as [[name, node, tensor], ...], from each way in which they are written."""
    if isinstance(spec, dict):
        spec = list(spec.values())
    if spec and isinstance(spec[0], str):
        spec = [spec]
    return [item if isinstance(item[0], str) else item[0] for item in spec]


def first_numbers(named):
    """{nested model: the number by which layers name its first call}: tf.keras counts from 1, Keras 3 from 0.

    A model has no call that nothing reads, so the numbers tell which.
    """
    read = {layer.name: set() for layer in named}
    for layer in named:
        for node in layer.nodes:
            arguments(node, lambda name, number, place=0: read.get(name, set()).add(number))
    return {layer.name: 1 for layer in named if layer.kind in MODELS and read[layer.name] and 0 not in read[layer.name]}


def end_call(end, named, first):
    """(layer, number of its call from 0) of a model's output: both count a nested model's calls from 1 there.

    But for a Sequential, which Keras 3 counts from 0.
    """
    name, number = end[:2]
    for layer in named:
        if layer.name == name and layer.kind in MODELS and number:
            from_one = layer.kind != "Sequential" or number == len(layer.nodes)
            return name, number - (1 if from_one else first.get(name, 0))
    return name, number


def arguments(node, tensor):
    """(args, kwargs) of a node; `tensor`, a function of (layer, number of its call, output), stands for each tensor."""
    def walk(value):
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                return tensor(*value["config"]["keras_history"])
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            if len(value) == 3 and isinstance(value[0], str) and all(type(n) is int for n in value[1:]):
                return tensor(*value)  # tf.keras, among the keywords
            return [walk(item) for item in value]
        return value

    if isinstance(node, dict):
        return walk(node.get("args", [])), walk(node.get("kwargs", {}))
    args, kwargs = [], {}
    for item in node:
        constant = item[0] == "_CONSTANT_VALUE"
        args.append(item[2] if constant else tensor(*item[:3]))
        kwargs |= walk(item[3]) if len(item) > 3 and item[3] else {}
    return args, kwargs
