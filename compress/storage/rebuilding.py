"""Rebuilds a Keras model from the config in its file by a table of kinds.

Keras' own `from_config` imports the modules that a config names and looks up its classes, functions and policies. Here
a name of a config is a key of the tables below or an error: no module, class or function that a file names is looked up
anywhere else, and nothing of a config reaches Keras but numbers, text, lists of them and objects made here.

No memory is taken before the sizes are known to be those of the file: variables are built without values, and counted.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import re
import warnings

import keras
import numpy as np
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.backend.common import global_state
from keras.src.ops import core, image, nn
from keras.src.ops import math as of_math
from keras.src.ops import numpy as of_numpy

from compress.errors import one_line
from compress.graph import registered
from compress.storage import entries, functions, vocabulary
from compress.storage.entries import Unread

MOST_NESTED = 16  # models inside models
LARGEST = 2**27  # elements of one image's tensor: a map of 1024x1024 with 128 channels
LARGEST_STATISTICS = 2**20  # numbers of a Normalization, which Keras makes as soon as it is built
SPARE = 2**16  # variables that files have no array of: seeds of random layers, counters
MOST_ITERATIONS = 100  # of a SpectralNormalization
MOST_PARTS = 4096  # of a tensor that is split

# the classes to the names of `vocabulary`, as far as this version of Keras has them
LAYERS = {name: getattr(keras.layers, name) for name in vocabulary.LAYERS if hasattr(keras.layers, name)} | {
    "LayerScale": convnext.LayerScale,
    "StochasticDepth": convnext.StochasticDepth,
    "CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
}
WRAPPERS = {name: getattr(keras.layers, name) for name in (*vocabulary.WRAPPERS, *vocabulary.CELLS)}
OPERATIONS = {
    name: getattr(module, name)
    for key, module in {"numpy": of_numpy, "nn": nn, "core": core, "image": image, "math": of_math}.items()
    for name in vocabulary.OPERATIONS[key]
    if hasattr(module, name)
}

LORA = (
    "a LoRA adapter; expected it merged: the same model built without enable_lora, its kernel set to this layer's "
    "layer.kernel in Keras, which has the adapter in it"
)
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum")

ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish", "glu", "tanh"),
    *("sigmoid", "softmax", "log_softmax", "softplus", "softsign", "exponential", "hard_sigmoid", "hard_silu"),
    *("hard_swish", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink", "log_sigmoid", "squareplus"),
    *("sparse_plus", "sparse_sigmoid", "sparsemax", "threshold"),
)
NEW_ACTIVATIONS = (  # which Keras 2 hasn't: in its files they are functions of an author's, who may mean another one
    *("celu", "glu", "hard_silu", "hard_swish", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink"),
    *("log_sigmoid", "squareplus", "sparse_plus", "sparse_sigmoid", "sparsemax", "threshold"),
)
OTHER_ACTIVATIONS = {"Addons>mish": "mish"}  # of TensorFlow Addons: x tanh(softplus(x)), as in Keras
# kinds whose activation is the last thing that they compute
ENDS_IN_ACTIVATION = r"Activation|Dense|EinsumDense|(Depthwise|Separable)?Conv(olution)?\dD(Transpose)?"
PARTS = {  # settings that are objects, by the ending of their names
    "_initializer": (
        *("Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"),
        *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal"),
        *("Identity", "IdentityInitializer", "OrthogonalInitializer"),
    ),
    "_regularizer": ("L1", "L2", "L1L2", "OrthogonalRegularizer"),
    "_constraint": ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
}
MODULES = {
    "_initializer": keras.initializers,
    "_regularizer": keras.regularizers,
    "_constraint": keras.constraints,
}
OLD_SETTINGS = {("LeakyReLU", "alpha"): "negative_slope", ("ReLU", "theta"): "threshold"}  # as Keras 2 calls them
INNER = ("layer", "backward_layer", "layers", "cell", "cells")  # settings that are layers
# settings of other versions of Keras, without effect on what a layer answers
IGNORED = {
    *("batch_input_shape", "batch_shape", "input_shape", "input_dtype", "input_length", "autocast", "sparse", "ragged"),
    *("optional", "fused", "renorm_momentum", "implementation", "unroll", "time_major", "build_input_shape"),
    *("query_shape", "key_shape", "value_shape", "zero_output_for_mask", "seed_generator", "rng_type"),
}


@dataclasses.dataclass
class Wanted:
    """How a model is rebuilt.

    Attributes:
        elements: numbers that all weights may have together, those of the file.
        size: (height, width) of the images, where the config leaves it open.
        version: 1, 2 or 3, of the Keras that wrote the file; None for one that doesn't say it.
        without_code: a Lambda becomes an Identity; `Rebuilt.code` says which did.
        changes: {path of a layer, as a tuple of names: 'linear' for one whose activation is left out, 'without' for
            one that is left out, or a dict of settings that take the place of its own}.
        front: layers that come first, between the input and what reads it.
    """

    elements: int
    size: tuple | None = None
    version: int | None = 3
    without_code: bool = False
    changes: dict = dataclasses.field(default_factory=dict)
    front: tuple = ()

    @property
    def sides(self):
        """Sides of the images, None for what the config says itself; None where it says all."""
        return self.size and (*self.size, None)


@dataclasses.dataclass
class Rebuilt:
    """A model that was rebuilt.

    Attributes:
        model: a keras.Model with fresh weights.
        names: {name of a top-level layer: its name in the file}.
        code: layers that stand in the place of a Lambda.
    """

    model: keras.Model
    names: dict
    code: list


class Pipeline(keras.Sequential):
    """A Sequential in the place of a Pipeline, by whose class a .keras file calls its weights."""


def rebuild(config, wanted):
    """The model of a config, with fresh weights.

    Args:
        config: {'class_name', 'config'}, as a model file has it.
        wanted: a Wanted.

    Returns:
        A Rebuilt.

    Raises:
        Unread: a kind, a setting or a call that isn't in the tables; the text names the layer.
        LookupError, TypeError, ValueError, AttributeError: it is no config of a model.
    """
    building = _Rebuilding(wanted)
    # Keras builds a layer's variables with their values. In this scope it notes them, and makes the values at its end.
    scope = keras.StatelessScope(initialize_variables=False)
    try:
        with scope, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = building.model(config, ())
    except BaseException:
        global_state.set_global_attribute("uninitialized_variables", [])  # or the next scope would make them after all
        raise
    with keras.StatelessScope():
        pass
    # TensorFlow has no gradients of a variable that was frozen when its value was made, whatever `trainable` says later
    for frozen, trainable in building.trainable:
        frozen.trainable = trainable
    return Rebuilt(model, building.names, building.code)


class _Rebuilding:
    """The state while a model is rebuilt.

    Args:
        wanted: a Wanted.
    """

    def __init__(self, wanted):
        self.wanted, self.left = wanted, wanted.elements + SPARE  # numbers that weights may still have
        self.calls, self.counted, self.names, self.code = 0, set(), {}, []
        self.inside = {}  # {id(model): calls of layers in it}
        self.behind = {}  # {id(layer): layers that do the rest of what the file's layer does}
        self.trainable = []  # (layer or model, whether the file has it trainable), those inside before those around

    # ---- models

    def model(self, entry, path, shape=None):
        """The keras.Model of a config's entry.

        Args:
            entry: {'class_name', 'config'}.
            path: the names of the models around it and its own; empty for the outermost.
            shape: of what it is called on, where that is one tensor and one call. Its own input may have open sizes,
                which then are these: features and costs of its layers are known by them.
        """
        entries.check_own(entry)
        kind, config = str(entry["class_name"]), entry["config"]
        if kind not in entries.MODELS:
            raise entries.unknown_model(kind)
        if len(path) > MOST_NESTED:
            raise Unread(f"more than {MOST_NESTED} models inside each other")
        before = self.calls
        layers = config if isinstance(config, list) else config["layers"]  # a list: Sequential of Keras 1 and 2.0
        if not layers:
            raise Unread("a model without layers")
        named = [entries.Layer(vocabulary.as_own(layer)) for layer in layers]
        self._count(sum(len(layer.nodes) for layer in named))
        settings = {} if isinstance(config, list) else config
        name = path[-1] if path else self._name(settings.get("name") or kind.lower())
        if kind == "Sequential":
            model = self._sequential(entry, named, name, path, shape)
        else:
            model = self._functional(config, named, name, path, shape)
        if type(settings.get("trainable")) is bool and not settings["trainable"]:
            self.trainable.append((model, False))
        self.inside[id(model)] = self.calls - before
        return model

    def _count(self, more):
        self.calls += more
        if self.calls > entries.MOST_CALLS:
            raise Unread(f"more than {entries.MOST_CALLS:,} calls of layers")

    def _sequential(self, entry, named, name, path, shape):
        """A Sequential; outside, it needs the shape of its images."""
        first = named[0] if named[0].kind == "InputLayer" else None
        if path:  # a nested one is given its shape by its only call; for several its own may have open sizes
            made = [] if shape or first is None else [self._input(first)]
            named = [layer for layer in named if layer.kind != "InputLayer"]
        else:
            made = [self._input(first or entries.first_input(entry), self.wanted.sides), *self.wanted.front]
            named = named[first is not None :]
            shape = made[0].output.shape
        behind = made[1:]  # whose shapes are needed where a model follows
        for layer in named:
            if self.wanted.changes.get(self._inner(path, layer)) != "without":
                if layer.kind in entries.MODELS:
                    shape, behind = functools.reduce(_shape_behind, behind, shape), []
                operation = self.operation(layer, path, shape)
                both = [operation, *self.behind.get(id(operation), ())]
                made += both
                behind += both
        if not made or (len(made) == 1 and not path):
            made.append(keras.layers.Identity())
        with self._errors_of(name, "Sequential"):
            model = (Pipeline if entry.get("was") == "Pipeline" else keras.Sequential)(made, name=name)
            self._check(model, model._functional.outputs if model._functional else ())
        return model

    def _functional(self, config, named, name, path, shape):
        """A functional model, its calls made in the order of their data."""
        inputs, outputs = (_flat(config[key]) for key in ("input_layers", "output_layers"))
        if not path:
            entries.check_one_each(inputs, outputs)
        sizes = (shape[1:] if len(inputs) == 1 and shape else None) if path else self.wanted.sides
        first = entries.first_numbers(named)
        calls = {(layer.name, number): (layer, node) for layer in named for number, node in enumerate(layer.nodes)}
        if len({layer.name for layer in named}) != len(named):
            raise Unread("two layers of one name in one model")
        # Layers are in data order in a config, but for those that are called several times: a call whose input isn't
        # there yet waits for it.
        made, whole, waiting, built = {}, {}, {}, {}
        pending = list(reversed(calls))
        while pending:
            call = pending.pop()
            layer, node = calls[call]
            if layer.kind == "InputLayer":
                whole[call] = self._input(layer, sizes).output
                made[call] = [self._fronted(whole[call]) if not path else whole[call]]
            elif missing := self._call(layer, node, (made, first, built), path, call):
                waiting.setdefault(missing, []).append(call)
                continue
            pending += waiting.pop(call, [])
        if waiting:
            layer, _ = calls[next(iter(waiting.values()))[0]]
            raise Unread(f"{layer.name} ({layer.kind}), which reads what no layer writes")
        begin = [whole[item[0], 0] for item in inputs]
        end = [made[entries.end_call(item, named, first)][item[2]] for item in outputs]
        return keras.Model(begin[0] if len(begin) == 1 else begin, end[0] if len(end) == 1 else end, name=name)

    def _fronted(self, tensor):
        for layer in self.wanted.front:
            tensor = layer(tensor)
        return tensor

    def _call(self, layer, node, state, path, call):
        """Makes one call of a layer; the call that has to come first where its input isn't there yet, else None.

        Args:
            layer: a entries.Layer.
            node: one of its nodes.
            state: ({call: [tensors]} made so far, first numbers of nested models, {name: operation}).
            path: of the model around it.
            call: (name of the layer, number of the call).
        """
        made, first, built = state
        missing = None

        def tensor(name, number, place=0):
            nonlocal missing
            found = made.get(key := (name, number - first.get(name, 0)))
            if found is None:
                missing = key
                return None
            return found[place]

        node = _as_of_keras(layer, node)
        args, kwargs = entries.arguments(node, tensor)
        if missing:
            return missing
        where = str(layer)
        args = _value(args, where)
        kwargs = {str(key): _value(item, where) for key, item in kwargs.items() if item is not None}
        if isinstance(kwargs.get("mask"), list):  # an array of constants, as Keras 2 writes it
            kwargs["mask"] = _mask(kwargs["mask"], where)
        if isinstance(node, list):  # Keras 2: the tensors of a call are one argument
            args = [args] if len(args) > 1 else args
        if layer.name not in built:
            only = keras.tree.flatten(args) if len(layer.nodes) == 1 else ()
            shape = only[0].shape if len(only) == 1 and isinstance(only[0], keras.KerasTensor) else None
            built[layer.name] = self.operation(layer, path, shape)
        operation = built[layer.name]
        _check_training(operation, layer, kwargs.get("training", False), isinstance(node, list))
        if self.wanted.changes.get(self._inner(path, layer)) == "without":
            made[call] = keras.tree.flatten(args)
            return None
        if isinstance(operation, keras.Model):
            self._count(self.inside[id(operation)])
            flat = keras.tree.flatten(args)
            args = [flat[0] if len(flat) == 1 else flat]
        with self._errors_of(layer.name, layer.kind):
            self._check_statistics(operation, args)
            made[call] = keras.tree.flatten(operation(*args, **kwargs))
            self._check(operation, made[call])
            for rest in self.behind.get(id(operation), ()):
                made[call] = [rest(tensor) for tensor in made[call]]
        return None

    # ---- layers

    def operation(self, layer, path, shape=None):
        """The Keras layer or operation of a entries.Layer; shape: as of `model`."""
        if layer.kind in entries.MODELS:
            model = self.model(layer.data, self._inner(path, layer), shape)
        elif vocabulary.is_operation(layer):
            model = self._raw(layer)
        else:
            entry, behind = self._as_of_3(layer, self._inner(path, layer))
            if vocabulary.OTHER_NAMES.get(layer.kind, layer.kind) in vocabulary.IDLE and all(
                map(_is_never_in_training, layer.nodes)
            ):
                entry = {"class_name": "Identity", "config": {}}
            model = self.layer(entry, self._inner(path, layer), layer.name)
            self.behind[id(model)] = behind
        if not path:
            self.names[model.name] = layer.name
        return model

    def _as_of_3(self, layer, path):
        """(entry, layers behind it) that are in Keras 3 what a entries.Layer was in the Keras that wrote it."""
        change = self.wanted.changes.get(path, ())
        if (
            vocabulary.activation_name(layer.config.get("activation")) != "hard_sigmoid"
            or self.wanted.version not in (1, 2)
            or not re.fullmatch(ENDS_IN_ACTIVATION, layer.kind)
            or change == "linear"
            or "activation" in change
        ):
            return layer.data, ()
        # Keras 2: clip(0.2 x + 0.5, 0, 1). Keras 3: clip(x / 6 + 0.5, 0, 1), so that of 1.2 x it is the same.
        name, scaled = self._name(layer.name), {"scale": 1.2}
        behind = [keras.layers.Activation("hard_sigmoid", name=f"{name}_hard_sigmoid", dtype="float32")]
        if layer.kind == "Activation":
            return {"class_name": "Rescaling", "config": scaled | {"name": layer.name}}, behind
        behind.insert(0, keras.layers.Rescaling(**scaled, name=f"{name}_scaled", dtype="float32"))
        return layer.data | {"config": layer.config | {"activation": "linear"}}, behind

    def layer(self, entry, path=(), name=None):
        """A keras.layers.Layer of an entry: of a model, or inside another layer as what it wraps or its activation."""
        entries.check_own(entry)
        kind, config = str(entry["class_name"]), entry["config"]
        kind = vocabulary.OTHER_NAMES.get(kind, kind)
        own = {cls.__name__: cls for cls in registered.RULES}
        kind = entries.class_name(kind) if entries.class_name(kind) in own else kind
        name = one_line(name or config.get("name") or kind)[:200]
        known = LAYERS | WRAPPERS | own
        if kind == "Lambda" and self.wanted.without_code:
            self.code.append(keras.layers.Identity(name=self._name(name), dtype="float32"))
            return self.code[-1]
        if kind not in known:
            raise vocabulary.unknown_layer(name, kind)
        vocabulary.check_precision(name, kind, config)
        change = self.wanted.changes.get(path)
        settings = self._settings(known[kind], kind, config | (change if isinstance(change, dict) else {}), name)
        if change == "linear":
            settings["activation"] = "linear"
        if (times := settings.get("power_iterations", 1)) not in range(MOST_ITERATIONS + 1):  # a loop in each step
            raise Unread(
                f"{name} ({kind}) with power_iterations={one_line(times)[:60]}; expected at most {MOST_ITERATIONS}"
            )
        with self._errors_of(name, kind):
            trainable = settings.pop("trainable", True)  # which some classes don't take
            made = known[kind](**settings)
            self.trainable.append((made, trainable))
            return made

    def _settings(self, cls, kind, config, name):
        """The arguments of a layer's class, each checked or left out."""
        accepted, made = _parameters(cls), {"name": self._name(name), "dtype": "float32"}
        where = f"{name} ({kind})"
        for key, value in config.items():
            ending = next((ending for ending in PARTS if key.endswith(ending)), None)
            if key in ("name", "dtype") or key in IGNORED or (key == "seed" and type(value) is not int):
                continue
            if key == "trainable":
                made[key] = bool(value)
            elif (kind, key) in OLD_SETTINGS:
                made[OLD_SETTINGS[kind, key]] = _value(value, where)
            elif ending and key not in accepted:  # of a weight that it hasn't: tf.keras' SeparableConv2D has no kernel
                continue
            elif ending:
                made[key] = _part(ending, value, where)
            elif key not in accepted:
                self._unknown(key, value, where)
            elif key.endswith("activation"):
                made[key] = self._activation(value, where)
            elif key in INNER and kind in (*WRAPPERS, "RNN"):
                made[key] = (
                    [self.layer(item) for item in value] if isinstance(value, list) else value and self.layer(value)
                )
            elif key == "axis" and isinstance(value, list) and kind == "BatchNormalization":
                made[key] = _value(value[0], where)
            elif key in ("quantization_config", "lora_rank", "lora_alpha") and value is not None:
                self._unknown(key, value, where)
            else:
                made[key] = _listed(_value(value, where))
        return {key: value for key, value in made.items() if value is not None or key in ("name", "axis")}

    def _unknown(self, key, value, where):
        if value is None or value is False or (key == "groups" and value == 1):
            return
        what = LORA if key in ("lora_rank", "lora_alpha") else "a setting that is not known here"
        raise Unread(f"{where} with {one_line(key)[:60]}={one_line(value)[:60]}, {what}")

    def _activation(self, spec, where):
        """An activation's name, or a layer that is one."""
        if isinstance(spec, dict) and spec.get("class_name") == "function":
            entries.check_own(spec)
            spec = spec.get("config")
        if isinstance(spec, dict):
            return self.layer(spec)
        if spec is None:
            return None
        spec = OTHER_ACTIVATIONS.get(str(spec), spec)
        found, version = f"{where} with the activation {one_line(spec)[:60]}", self.wanted.version
        if spec not in ACTIVATIONS:
            raise Unread(f"{found}, which is none of Keras' own; {_way_of_a_function(spec)}")
        if spec in NEW_ACTIVATIONS and version != 3:
            raise Unread(f"{found}, which Keras 2 hasn't: a function of its author's; {_way_of_a_function(spec)}")
        if spec == "hard_sigmoid" and version in (1, 2):
            raise Unread(
                f"{found} of Keras 2, clip(0.2 x + 0.5, 0, 1), where that of Keras 3 is clip(x / 6 + 0.5, 0, 1); "
                "expected the same network built in Keras 3, given these weights by set_weights, those in front of "
                "this activation (in an LSTM or GRU those of the gates) times 1.2, and saved"
            )
        if spec == "hard_sigmoid" and version is None:
            raise Unread(
                f"{found}, which Keras 2 and 3 compute differently, in a file that doesn't say which one wrote it; "
                "expected the model saved again by model.save in the Keras that made it"
            )
        return spec

    def _raw(self, layer):
        """A raw operation, of Keras 3 or a function of TensorFlow."""
        kind, settings = layer.kind, {key: item for key, item in layer.config.items() if key != "name"}
        if kind in functions.TENSORFLOW:
            kind, settings = _of_tensorflow(layer)
        cls = OPERATIONS.get(kind)
        where = one_line(f"{layer.name} ({kind})")
        if cls is None:
            raise vocabulary.unknown_operation(layer)
        accepted = _parameters(cls)
        for key, value in settings.items():
            if key not in (*accepted, "dtype", "trainable"):
                self._unknown(key, value, where)
        settings = {key: _value(item, where) for key, item in settings.items() if key in accepted}
        parts = settings.get("indices_or_sections", 1)
        if (parts if isinstance(parts, int) else len(parts)) > MOST_PARTS:
            raise Unread(f"{where} into more than {MOST_PARTS} parts")
        with self._errors_of(layer.name, kind):
            return cls(**settings, name=self._name(layer.name))

    def _input(self, layer, sizes=None):
        """The InputLayer of a entries.Layer, for batches of any size; sizes: for those that it leaves open, or None."""
        config = layer.config
        shape = config.get("batch_shape") or config.get("batch_input_shape") or [None, *(config.get("shape") or ())]
        shape = _value(shape, layer.name)
        if not isinstance(shape, list) or not 1 < len(shape) <= 6:
            raise Unread(f"{layer} of {one_line(shape)[:60]}, which is no shape")
        sides = list(shape[1:])
        if sizes and len(sides) == len(sizes):
            sides = [side or given for side, given in zip(sides, sizes, strict=True)]
        if not all(side is None or (type(side) is int and 0 < side <= LARGEST) for side in sides):
            raise Unread(f"{layer} of {one_line(sides)[:60]}, which is no shape")
        dtype = config.get("dtype")
        dtype = dtype if isinstance(dtype, str) else "float32"
        if dtype not in ("uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"):
            dtype = "float32"
        with self._errors_of(layer.name, "InputLayer"):
            made = keras.layers.InputLayer(batch_shape=(None, *sides), dtype=dtype, name=self._name(layer.name))
            self._check(made, [made.output])
        return made

    # ---- checks

    def _inner(self, path, layer):
        return *path, self._name(layer.name) or layer.kind

    def _name(self, name):
        """A name that Keras takes: no slash, which tf.keras had in its DenseNets."""
        return one_line(name)[:200].replace("/", "_") or None

    def _check(self, operation, tensors):
        """Counts the variables of a layer and looks at the sizes of its outputs.

        Raises:
            Unread: more than the file has weights for, or a tensor that no memory holds.
        """
        for tensor in tensors:
            if math.prod(side or 1 for side in tensor.shape) > LARGEST:
                raise Unread(f"a tensor of {tuple(tensor.shape)}; expected at most {LARGEST:,} numbers for an image")
        for variable in getattr(operation, "variables", ()):
            if id(variable) not in self.counted:
                self.counted.add(id(variable))
                self.left -= math.prod(variable.shape)
        if self.left < 0:
            raise Unread("larger weights than the file has")

    def _check_statistics(self, operation, tensors):
        """Raises Unread for a Normalization of so many numbers that making them would take the memory."""
        if isinstance(operation, keras.layers.Normalization) and tensors and hasattr(tensors[0], "shape"):
            shape = tensors[0].shape
            size = math.prod(shape[axis] or 1 for axis in operation.axis if -len(shape) <= axis < len(shape))
            if size > LARGEST_STATISTICS:
                raise Unread(f"statistics of {size:,} numbers; expected at most {LARGEST_STATISTICS:,}")

    @contextlib.contextmanager
    def _errors_of(self, name, kind):
        """Turns whatever Keras raises for the settings of a file into Unread."""
        where = f"{one_line(name)[:200]} ({one_line(kind)[:80]})"
        try:
            yield
        except Unread as error:  # of `_check`
            raise Unread(f"{where}, which needs {error}") from None
        except Exception as error:  # whatever layers raise
            raise Unread(f"{where}, which Keras {keras.__version__} doesn't take: {_words(error)}") from None


def _check_training(operation, layer, training, is_old):
    """Refuses a call that acts as in training at all times, which no number measured here is true for.

    Args:
        operation: what is called.
        layer: its entries.Layer.
        training: what the call says.
        is_old: whether it is in Keras 2's form, which has what its author said. Keras 3 also writes down the default,
            which is True for augmentation, and means nothing.
    """
    if training is False or (type(training) is int and not training):
        return
    parts = operation._flatten_layers() if isinstance(operation, keras.Layer) else ()
    for part in parts:
        said = inspect.signature(type(part).call).parameters.get("training")
        by_default = not is_old and part is operation and said is not None and said.default is training
        if said is not None and not by_default and not isinstance(part, keras.Model):
            who = "it" if part is operation else f"{one_line(part.name)} ({type(part).__name__}) in it"
            raise Unread(
                f"{layer}, called with training={one_line(training)[:20]}: {who} acts as in training at all times, so "
                "that answers depend on the batch or on chance; expected the same network built with this call "
                "without training=..., given these weights by set_weights, and saved"
            )


def _mask(value, where):
    """The array of a mask that is written as a list; tf.keras writes its entries as words. One of several tensors, each
    with a mask or None, stays a list."""
    if any(item is None or isinstance(item, keras.KerasTensor) for item in value):
        return value
    found = np.array(value)
    if found.dtype.kind == "b":
        return found
    if not np.isin(found, ["True", "False"]).all():
        raise Unread(f"{where} with mask={one_line(value)[:60]}, which is no array of True and False")
    return found == "True"


def _is_never_in_training(node):
    """Whether a call in Keras 2's form says training=False: such a Dropout is idle in training, too."""
    said = [item[3] for item in node if isinstance(node, list) and len(item) > 3]
    return bool(said) and all(isinstance(given, dict) and given.get("training") in (False, 0) for given in said)


def _way_of_a_function(name):
    """What can be done where a file has a function by its author's name for it."""
    known = {"hswish": "hard_silu", "hardswish": "hard_silu", "hsigmoid": "hard_sigmoid"}
    plain = re.sub(r"\W|_", "", str(name)).lower()
    own = next((own for own in ACTIVATIONS if own.replace("_", "") == plain), "NAME")
    name = one_line(name)[:60].replace("'", "")
    return (
        f"expected Keras' own: where keras.activations.{known.get(plain, own)} computes the same, "
        f"keras.models.load_model('old.h5', custom_objects={{'{name}': keras.activations.{known.get(plain, own)}}})"
        ".save('new.keras') writes the file with it"
    )


def _shape_behind(shape, layer):
    """The shape of what a layer, perhaps not built yet, makes of a tensor of a shape; None where it can't tell."""
    try:
        return layer.compute_output_spec(keras.KerasTensor(shape)).shape
    except Exception:  # whatever layers raise: Keras says it where the layer is called
        return None


def _words(error):
    """What Keras says of an error, without the repetition of its arguments."""
    text = one_line(error)
    for end in ("Full config", "config={", "Arguments received", "Exception encountered"):
        text = text.split(end)[0] if text.split(end)[0].strip() else text
    return text.strip()[:200]


def _parameters(cls):
    """Names that the constructor of a layer or operation takes, those of the classes above it too."""
    found = set()
    for kind in cls.__mro__[:-1]:
        if "__init__" in vars(kind):
            found |= set(inspect.signature(vars(kind)["__init__"]).parameters)
    return found - {"self", "args", "kwargs", "name"}


def _as_of_keras(layer, node):
    """A call of a function of TensorFlow in the arguments that Keras 3's operation takes; any other call as it is."""
    if layer.kind not in functions.TENSORFLOW:
        return node
    kind, _, arguments = functions.as_of_keras(layer, node)
    if kind in ARITHMETIC:  # a tensor of constants is a list of numbers there
        arguments = [
            {"class_name": "__numpy__", "config": {"value": item}} if isinstance(item, list) else item
            for item in arguments
        ]
    return {"args": arguments, "kwargs": {}}


def _of_tensorflow(layer):
    """(class, settings) of the operation of Keras 3 that does what a function of TensorFlow does."""
    kind, settings, _ = functions.as_of_keras(layer, layer.nodes[0])
    for node in layer.nodes[1:]:  # Keras 3 has these with the operation, TensorFlow with its call
        if functions.as_of_keras(layer, node)[1] != settings:
            raise Unread(f"{layer.name} ({layer.kind}), which is called in two ways")
    return kind, settings


def _flat(spec):
    """Input or output layers of a config as [[name, number of the call, number of the output], ...]."""
    ends = entries.ends(spec)
    if not all(len(end) == 3 and isinstance(end[0], str) for end in ends):
        raise Unread("inputs or outputs in another form than a list")
    return ends


def _part(ending, spec, where):
    """An initialiser, regulariser or constraint of the table; None for none."""
    if spec is None:
        return None
    if isinstance(spec, str):
        spec = {"class_name": spec, "config": {}}
    if spec.get("module") == "tensorflow.python.ops.init_ops_v2":  # as tf.keras has those that it takes from TensorFlow
        spec = spec | {"module": None}
    entries.check_own(spec)
    kind = str(spec["class_name"])
    known = {name.lower().replace("_", ""): name for name in PARTS[ending]}
    name = known.get(kind.lower().replace("_", ""))
    cls = getattr(MODULES[ending], name, None) if name else None
    if cls is None:
        raise Unread(f"{where} with the {ending[1:]} {one_line(kind)[:60]}, which is none of Keras' own")
    accepted = _parameters(cls)
    settings = {key: _value(item, where) for key, item in (spec.get("config") or {}).items() if key in accepted}
    if not isinstance(settings.get("seed"), int):
        settings.pop("seed", None)
    return cls(**settings)


def _value(value, where):
    """A setting or an argument: numbers, text, tensors of the graph, lists of them; arrays and cuts from their entries.

    Raises:
        Unread: it names anything else.
    """
    if value is None or isinstance(value, bool | int | float | str | keras.KerasTensor):
        return value
    if isinstance(value, list):
        return [_value(item, where) for item in value]
    if isinstance(value, dict):
        kind = value.get("class_name")
        inner = value.get("config") if isinstance(value.get("config"), dict) else {}
        if kind in ("__numpy__", "__tensor__"):
            dtype = str(inner.get("dtype", "float32"))
            return np.array(inner["value"], dtype if dtype in ("int32", "int64", "bool", "float64") else "float32")
        if kind == "__slice__":
            return slice(*(_value(inner.get(key), where) for key in ("start", "stop", "step")))
        if kind == "__ellipsis__":
            return ...
        if kind == "__tuple__":
            return tuple(_value(item, where) for item in value.get("items", ()))
    raise Unread(f"{where} with {one_line(value)[:80]}, which is no number, text or list")


def _listed(value):
    """Arrays as lists, which a config of Keras holds in every format."""
    return value.tolist() if isinstance(value, np.ndarray) else value
