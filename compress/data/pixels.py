"""How the training images of a model were converted to 8 bits, from its record; new images are converted alike."""

import contextlib
from pathlib import Path

from compress.data import decoding
from compress.errors import InputError
from compress.storage import records

EXPORTED = (".onnx", ".tflite")
ALLOWED = {
    "whole": decoding.DEPTHS,
    "floating": (1.0, 255.0),
    "colour": decoding.DEPTHS,
    "ground": tuple(decoding.GROUNDS),
    "jpeg": ("scaled",),
    "fit": ("crop",),
}


def of_models(*paths):
    """The `pixels` argument of `dataset.load_data` for images that these models are given.

    A network trained on 12-bit images, where 4,095 is white, would see other 12-bit images nearly black if their scale
    were 65,535.

    Args:
        paths: of model files; a model without a history.json beside it is ignored.

    Returns:
        dict with some of the keys of ALLOWED, see decoding.Look; None where no model has a record.

    Raises:
        InputError: the models were trained on images that were converted in different ways.
    """
    found, sources, known = {}, {}, False
    for path in paths:
        recorded = _recorded(path)
        if recorded is None:
            continue
        known = True
        # A scale that a record doesn't name was needed by no image. How JPEGs were decoded and images fitted is known
        # of every model: a record without it is of one whose images were decoded whole, or squeezed into their size.
        for name, value in (dict.fromkeys(("jpeg", "fit")) | recorded).items():
            if found.setdefault(name, value) != value:
                one, other = (_told(name, other) for other in (found[name], value))
                raise InputError(
                    f"{sources[name]} was trained on images {one}, {path} on images {other}; expected models of images "
                    "that were shown alike, or one at a time",
                    path=path,
                )
            sources.setdefault(name, path)
    return {name: value for name, value in found.items() if value is not None} if known else None


def _told(name, value):
    """What a value of the record says of the images, such as 'squeezed into their size'."""
    if name == "fit":
        return "cropped to their middle (`augment` crop or randaugment)" if value else "squeezed into their size"
    if name == "jpeg":
        return "of JPEGs decoded at a smaller scale" if value else "of JPEGs decoded whole"
    return f"converted with {name} {value or 'none'}"


def _recorded(path):
    """The valid values of 'pixels' in the record beside a model; the file may be a stranger's. None without one."""
    run, place = None, Path(path)
    if place.suffix.lower() in EXPORTED:  # export_model.py puts them into a folder beside the model
        place = place.parent
    with contextlib.suppress(InputError):
        run = records.read_json(place.with_name("history.json")).get("run")
    if not isinstance(run, dict):
        return None
    found = run.get("pixels")
    return {name: it for name, it in found.items() if is_allowed(name, it)} if isinstance(found, dict) else {}


def is_allowed(name, value):
    """Whether a decoding.Look may have a value, other than None, under a name."""
    # The type counts too: in Python True == 1 and 255 == 255.0, so `in` alone would let booleans through.
    return value in ALLOWED.get(name, ()) and type(value) in map(type, ALLOWED[name])
