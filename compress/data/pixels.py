"""How the images were shown that a model was trained on, from the record beside it: others are shown alike."""

import contextlib
from pathlib import Path

from compress.data import decoding
from compress.errors import InputError
from compress.storage import records

ALLOWED = {"whole": decoding.DEPTHS, "floating": (1.0, 255.0), "ground": tuple(decoding.GROUNDS)}


def of_models(*paths):
    """What `data.load_data` takes as `pixels`.

    Args:
        paths: of model files; one without a history beside it says nothing.

    Returns:
        dict with some of 'whole', 'floating' and 'ground', see decoding.Look; empty where nothing is told.

    Raises:
        InputError: models that were trained on images shown in different ways.
    """
    found, sources = {}, {}
    for path in paths:
        for name, value in _recorded(path).items():
            if found.setdefault(name, value) != value:
                raise InputError(f"{sources[name]} was trained on images shown with {name} "
                                 f"{found[name]}, {path} with {value}; expected models of the same images", path=path)
            sources.setdefault(name, path)
    return found


def _recorded(path):
    run = {}
    with contextlib.suppress(InputError):
        run = records.read_json(Path(path).with_name("history.json"), "").get("run")
    told = run.get("pixels") if isinstance(run, dict) else None
    return {name: value for name, value in told.items() if value in ALLOWED.get(name, ()) and (
        type(value) in map(type, ALLOWED[name]))} if isinstance(told, dict) else {}
