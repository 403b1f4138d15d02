"""Writes a network as .h5 so that plain Keras opens it, and proves before that Keras makes the same network of it.

An .h5 of Keras 3 may describe each layer in one of two forms, which its reader tells apart: that of Keras 2, which
`model.save` writes, or that of .keras files. The first one loses raw operations such as `x + y`, a normalisation over
several axes and the private layers of keras.applications, and takes the word 'dot' for a function. So this module
writes the second one: what .keras holds, .h5 then holds too.
"""

import json
import random

import h5py
import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.legacy.saving import json_utils, legacy_h5_format, saving_options, saving_utils

from compress.errors import InputError, one_line
from compress.graph import nodes, registered
from compress.storage import entries

ALL = {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}
NAMES = ("name", "keras_history", "input_layers", "output_layers")  # keys of a config that only say who is called what


def write(model, path):
    """Writes a model with its weights, but nothing that it was trained with.

    Args:
        model: a keras.Model.
        path: of the new file.
    """
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = keras.__version__, keras.backend.backend()
        file.attrs["model_config"] = json.dumps(_config(model)).encode()
        group = file.create_group("model_weights")
        group.attrs["keras_version"], group.attrs["backend"] = keras.__version__, keras.backend.backend()
        legacy_h5_format.save_attributes_to_hdf5_group(group, "layer_names", [x.name.encode() for x in model.layers])
        for layer in model.layers:
            _write_weights(group.create_group(layer.name), _in_order(layer))
        _write_weights(group.create_group("top_level_model_weights"), ())


def _in_order(layer):
    """The variables of a layer in the order in which Keras reads them."""
    return layer.trainable_weights + layer.non_trainable_weights


def _write_weights(group, variables):
    """Variables of one layer; two layers of one name, as in two models inside a model, get a number in front."""
    names = []
    for variable in variables:
        name = variable.path
        while name in names:
            name = f"{len(names)}/{name}"
        names.append(name)
        group.create_dataset(name, data=keras.ops.convert_to_numpy(variable))
    legacy_h5_format.save_attributes_to_hdf5_group(group, "weight_names", [name.encode() for name in names])


def check(model):
    """Refuses a model of which plain Keras can't make the same network again, before any work starts.

    Keras' own reader makes the network, without values, of the very text that `write` puts into a file.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Raises:
        InputError: Keras doesn't read a layer, or reads another one.
    """
    nodes.graph_of(model)
    start = random.getstate()  # of which Keras draws seeds as layers are made
    try:
        config = _config(model)
        again = _read(config)
    except Exception as error:  # whatever layers raise
        path, kind, why = _culprit(model) or (model.name, type(model).__name__, error)
        raise _refused(path, kind, f"can't open again from a file ({_words(why)})") from None
    finally:
        random.setstate(start)
        global_state.set_global_attribute("uninitialized_variables", [])  # whose values are never asked for
    if changed := _changed(config["config"], _config(again)["config"], ""):
        raise _refused(*changed, "opens as another one")
    for one, other in zip(model.layers, again.layers, strict=True):
        if [tuple(x.shape) for x in _in_order(one)] != [tuple(x.shape) for x in _in_order(other)]:
            raise _refused(one.name, type(one).__name__, "opens with weights of other shapes")


def _refused(path, kind, what):
    return InputError(
        f"{path}: received a layer {kind} that plain Keras {keras.__version__} {what}, so that no file of it could be "
        "used; expected the model saved again without it, or with layers that do the same"
    )


def _words(error):
    """What Keras says of an error, without the config that it repeats."""
    return one_line(str(error).rpartition("Exception encountered: ")[2].partition("config=")[0])[:200].strip()


def _read(config):
    """The model that Keras' reader of .h5 makes of a config; its variables have no values."""
    own = {kind.__name__: kind for kind in registered.RULES}
    text = json.dumps(config)
    with (
        keras.StatelessScope(initialize_variables=False),
        saving_options.keras_option_scope(use_legacy_config=True),
        keras.saving.custom_object_scope(own),
    ):
        return saving_utils.model_from_config(json_utils.decode(text))


def _culprit(model):
    """(path, kind, error) of the first layer that can't be made from its own entry in a file, or None."""
    for path, node in nodes.walk(model):
        if not nodes.is_model(node.operation):
            try:
                entry = json.loads(json.dumps(keras.saving.serialize_keras_object(node.operation)))
                with keras.saving.custom_object_scope({kind.__name__: kind for kind in registered.RULES}):
                    keras.saving.deserialize_keras_object(entry)
            except Exception as error:  # whatever layers raise
                return path, type(node.operation).__name__, error
    return None


def _changed(one, other, path):
    """(path, kind) of the first layer that differs in two configs of models; None where they say the same."""
    for old, new in zip(one["layers"], other["layers"], strict=True):
        here, kind = f"{path}{old.get('name') or old['config'].get('name')}", old["class_name"]
        is_model = kind == new["class_name"] and kind in entries.MODELS
        found = is_model and _changed(old["config"], new["config"], f"{here}/")
        if found or (not is_model and _nameless(old) != _nameless(new)):
            return found or (here, kind)
    return None


def _nameless(item):
    """A part of a config without names: Keras gives some operations new ones."""
    if isinstance(item, dict):
        return {key: _nameless(value) for key, value in item.items() if key not in NAMES}
    return [_nameless(value) for value in item] if isinstance(item, list) else item


# ---- the text ----


def _config(model):
    """The entry of a model as JSON has it."""
    own = {"class_name": type(model).__name__, "config": model.get_config()}
    return _without_ellipsis(json.loads(json.dumps(own, default=_number)))


def _number(value):
    """A number of NumPy, or an array of them, as JSON has it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no number, text or list")


def _without_ellipsis(item):
    """A part of a config in which x[..., 0] is x[:, :, 0]: Keras' reader of .h5 stumbles over an ellipsis."""
    if isinstance(item, list):
        return [_without_ellipsis(value) if isinstance(value, dict | list) else value for value in item]
    item = {key: _without_ellipsis(value) if isinstance(value, dict | list) else value for key, value in item.items()}
    if item.get("class_name") == "GetItem":
        for call in item.get("inbound_nodes", ()):
            place, at = (call["args"], 1) if len(call["args"]) > 1 else (call["kwargs"], "key")
            place[at] = _spelt_out(place[at], len(call["args"][0]["config"]["shape"]))
    return item


def _spelt_out(key, rank):
    """An index of a tensor of so many axes, without an ellipsis."""
    parts = key if isinstance(key, list) else [key]
    is_open = [isinstance(part, dict) and part["class_name"] == "__ellipsis__" for part in parts]
    if not any(is_open):
        return key
    at, named = is_open.index(True), sum(part is not None for part in parts) - 1
    return [*parts[:at], *[ALL] * (rank - named), *parts[at + 1 :]]
