"""Keras' own settings, as keras.json and the environment give them: what the suite needs of them. Imports no Keras."""

import importlib.util
import json
import os
import sys
from pathlib import Path

from compress.errors import InputError

BACKENDS = ("tensorflow", "jax")
INSTALL = {"tensorflow": "make install", "jax": "pip install 'jax>=0.9,<0.11'"}
# what keras.json may say, as Keras checks it with a traceback, and what the suite's numbers are computed with
ALLOWED = {"floatx": ("float16", "float32", "float64"), "image_data_format": ("channels_last", "channels_first")}
OURS = {"floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}


def config_path():
    """Where Keras looks for keras.json."""
    home = os.path.expanduser("~")
    base = os.environ.get("KERAS_HOME") or os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(os.path.join(base, "keras.json")))


def _read(path):
    """What keras.json says; an empty dict where there is none, or none that Keras would read.

    Raises:
        InputError: Keras couldn't be imported under it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:  # Keras passes over such a file
        return {}
    except OSError as error:
        raise InputError(
            f"keras.json: {path} can't be read ({error.strerror}); expected a file that can, or none"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"keras.json: {path} holds a {type(content).__name__}, expected a JSON object, or no file")
    for key, allowed in ALLOWED.items():
        if content.get(key, allowed[0]) not in allowed:
            raise InputError(f"keras.json: received {key} {content[key]!r} in {path}, expected {' or '.join(allowed)}")
    if type(content.get("epsilon", 0.5)) is not float:
        raise InputError(
            f"keras.json: received epsilon {content['epsilon']!r} in {path}, expected a number such as 1e-7"
        )
    return content


def choose_backend():
    """Sees to it, before Keras is imported, that it will be imported with a backend that the suite runs on.

    Returns:
        What of keras.json is passed over for it, as text, or None.

    Raises:
        InputError: KERAS_BACKEND names another, or one that isn't installed; or Keras couldn't be imported.
    """
    if "keras" in sys.modules:
        return None
    asked, flag = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    configured = _read(config_path()).get("backend", BACKENDS[0])
    backend = asked or configured
    if asked and asked not in BACKENDS:
        raise InputError(f"{flag}: received {asked}, expected {' or '.join(BACKENDS)}, or none in the environment")
    if backend not in BACKENDS:
        backend = next(filter(importlib.util.find_spec, BACKENDS), BACKENDS[0])
    if importlib.util.find_spec(backend) is None:
        there = [name for name in BACKENDS if importlib.util.find_spec(name)]
        raise InputError(
            f"{flag if asked else 'keras.json'}: received {backend}, which isn't installed; expected it installed "
            f"({INSTALL[backend]})" + "".join(f", or {flag}={name}, which is" for name in there)
        )
    os.environ["KERAS_BACKEND"] = backend
    return f"backend {configured!s:.50}, where {backend} computes" if not asked and configured != backend else None


def settle():
    """Sets what the suite needs in an imported Keras, before any layer is made.

    Returns:
        List of what was otherwise, as text.

    Raises:
        InputError: Keras was imported before, with another backend.
    """
    from keras import config

    if config.backend() not in BACKENDS:
        raise InputError(
            f"KERAS_BACKEND: Keras was imported with {config.backend()}, expected "
            f"{' or '.join(BACKENDS)}; set it before the first import of Keras"
        )
    changed = []
    for key, wanted in OURS.items():
        if (found := getattr(config, key)()) != wanted:
            changed.append(f"{key} {found}, where {wanted} is computed with")
            getattr(config, f"set_{key}")(wanted)
    return changed


def check():
    """Raises InputError where a network would be built in another form than the suite's, which `settle` sees to."""
    from keras import config

    for key in ALLOWED:
        if (found := getattr(config, key)()) != OURS[key]:
            raise InputError(
                f"keras.json: Keras is set to {key} {found}, expected {OURS[key]}; call "
                f"keras.config.set_{key}({OURS[key]!r}) first"
            )
