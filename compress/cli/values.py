"""What a flag's value may be: types for argparse's add_argument. Imports no Keras."""

import argparse
import contextlib
import difflib
import math
import os
import re

from compress.cli import architectures, formats
from compress.errors import InputError, shown

STOCK = ("cifar10", "cifar100", "digits")  # data sets that have a name
MOST = 10**9  # the highest number where a flag has no limit of its own
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
# what else people call formats.FORMATS
OTHER_FORMATS = {
    "tflite": "litert",
    "lite": "litert",
    "tensorflowlite": "litert",
    "int8": "litert-int8",
    "tfliteint8": "litert-int8",
    "onnxruntime": "onnx",
    "ort": "onnx",
    "tensorrt": "onnx",
    "trt": "onnx",
    "openvino": "onnx",
    "tf": "savedmodel",
    "tensorflow": "savedmodel",
    "pb": "savedmodel",
}


def plain(text):
    """Text that may be a number. Raises ValueError for an underscore, which Python passes over: 1_0 isn't 10."""
    if "_" in text:
        raise ValueError(text)
    return text


def _number(given, convert, wanted, low, high, strict):
    """A number in its bounds, from text or from a number."""
    try:
        if isinstance(given, str):
            value = convert(plain(given.strip().removesuffix(",")))  # the original's README separates flags by commas
        else:
            value = convert(given)
            if value != given or str(given) in ("True", "False"):  # 2.5 is no whole number, True is no number
                value = math.nan
    except (ValueError, TypeError, OverflowError):  # int(inf), float of 400 digits
        value = math.nan
    inside = (low < value if strict else low <= value) and value <= high
    if not inside or not math.isfinite(value):  # nan compares false, so it ends here too
        raise argparse.ArgumentTypeError(f"received {shown(given)}, expected {wanted}")
    return value


def whole(low=0, high=MOST):
    """A type for add_argument: a whole number from low to high; one trailing comma is forgiven."""
    wanted = f"from {low} to {high}" if high != MOST else f"of at least {low} and at most {MOST:g}"
    return lambda text: _number(text, int, f"a whole number {wanted}", low, high, strict=False)


def real(low=0.0, high=MOST, strict=False):
    """A type for add_argument: a number from low (above low, if strict) to high; a trailing comma is forgiven."""
    start = f"above {low:g}" if strict else f"of at least {low:g}"
    wanted = f"a number {start} and at most {high:g}"
    return lambda text: _number(text, float, wanted, low, high, strict)


def checked(value, check, where):
    """A value that comes from a file and not from the command line, as one of these types takes it.

    Args:
        value: a number or a text.
        check: the type, such as `real(0, 1)`.
        where: it comes from, for the message.

    Raises:
        InputError: it is another.
    """
    try:
        return check(str(value))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{where}: {error}") from None


def precision(text, cpuinfo="/proc/cpuinfo"):
    """A type for add_argument: a dtype policy; 'auto' is the faster one on this processor.

    bfloat16 under TensorFlow where the processor multiplies it (AVX-512 BF16, AMX), else float32: emulated it is slow,
    and no other backend was measured.
    """
    if text not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected one of {', '.join(PRECISIONS)}")
    if text != "auto":
        return text
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return "float32"
    with contextlib.suppress(OSError), open(cpuinfo, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & set(line.split()) else "float32"
    return "float32"


def path(text):
    """A type for add_argument: a path on this machine. A ~ that the shell left in place, as bash does behind =, is the
    user's home; what can only be a slip is refused with what was meant. Python's paths are taken too."""
    if not isinstance(text, (str, os.PathLike)):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a path")
    text = os.fsdecode(text)
    if "\0" in text or (not text.strip("'\" \t\n") and not os.path.lexists(text)):
        # an empty one, as of a variable that isn't set, would be the current folder
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a path")
    if local := re.match(r"file://(localhost)?(?=/)", text):
        raise argparse.ArgumentTypeError(f"received {text}, expected a path: {text[local.end() :]}")
    if re.match(r"[a-zA-Z][\w+.-]+://", text):
        raise argparse.ArgumentTypeError(
            f"received {text}, expected a path on this machine: nothing is downloaded; "
            "fetch it first, and unpack it where it is an archive"
        )
    meant = os.path.expandvars(re.fullmatch(r"""\s*(['"]?)(.*?)\1\s*""", text, re.DOTALL)[2])
    if meant != text and not os.path.lexists(text):
        raise argparse.ArgumentTypeError(
            f"received {text!r}, which isn't there; expected it without quotes, blanks or "
            f"variables that the shell left in place: {meant}"
        )
    expanded = os.path.expanduser(text)
    if text[:1] == "~" and expanded == text and not os.path.lexists(text.split("/")[0]):
        raise argparse.ArgumentTypeError(f"received {text}, expected a user of this machine behind ~")
    return expanded


def address(text):
    """A type for add_argument: where a process listens, as HOST:PORT; an IPv6 host stands in [brackets]."""
    host, _, port = str(text).strip().rpartition(":")
    bare = host[1:-1] if host[:1] + host[-1:] == "[]" else host
    inside = port.isdecimal() and port.isascii() and 0 < int(port) < 65536
    if not bare or not inside or re.search(r"[\s/\[\]]", bare) or (":" in bare and bare == host):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected HOST:PORT, such as 10.0.0.1:8476")
    return f"{host}:{int(port)}"


def nearest(name, others):
    """The path, of several, that a misspelt one may stand for; None where all are others.

    Folders that two paths share, in front or behind, don't make them alike: /tmp/nope is not /tmp/nohome.

    Args:
        name: a path.
        others: paths that exist.
    """

    def likeness(other):
        parts = [os.path.normpath(path).split(os.sep) for path in (name, other)]
        for end in (0, -1):
            while min(map(len, parts)) > 1 and parts[0][end] == parts[1][end]:
                parts = [part[1:] if end == 0 else part[:-1] for part in parts]
        one, two = map("/".join, parts)
        (stem, ending), (other_stem, other_ending) = map(os.path.splitext, (one, two))
        if ending == other_ending:  # an ending that all models share makes no two of them alike
            one, two = stem, other_stem
        # kd stands for kd_model, whose rest is a word of its own
        return 1.0 if re.match(rf"{re.escape(one)}[\W_]", two) else difflib.SequenceMatcher(None, one, two).ratio()

    found = [(likeness(other), os.path.normpath(other)) for other in others]
    best = max(found, key=lambda pair: pair[0], default=(0.0, None))
    return best[1] if best[0] >= 0.7 else None


def no_data_set(name):
    """What to say behind the name of a data set that is neither one of STOCK nor a folder or file."""
    stock, parent = re.sub(r"[\W_]", "", name).lower(), os.path.dirname(os.path.normpath(name)) or "."
    with contextlib.suppress(OSError):
        there = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
        near = stock if stock in STOCK else nearest(os.path.basename(os.path.normpath(name)), there)
        if near:
            near = near if near == stock else os.path.join(os.path.dirname(name.rstrip("/")), near)
            return f", expected {', '.join(STOCK)} or a folder that exists; did you mean {near}?"
    return (
        f", which is no data set and no folder; expected {', '.join(STOCK)}, or the path of a folder with a "
        "subfolder of images for each class"
    )


AUGMENTATIONS = ("shift", "crop", "randaugment", "none")


def usual_hflip(dataset, augment="shift"):
    """The probability with which a data set's training images are mirrored where nobody says it: that of He et al.
    2016, arXiv 1512.03385, section 4.2, for CIFAR, and usual for photographs; a mirrored digit is no digit."""
    return 0.0 if dataset == "digits" or augment == "none" else 0.5


def data_set(text):
    """A type for add_argument: one of STOCK, or a path; a mere name has to be there, as it is none of a data set."""
    name = path(text) if text != "" else text
    if name in STOCK or {"/", os.sep} & {*name} or os.path.lexists(name):
        return name
    raise argparse.ArgumentTypeError(f"received {name!r}{no_data_set(name)}")


def model(text):
    """A type for add_argument: a path of a model file; a folder with model.h5, as the scripts write it, names that.
    The word imagenet stays a word, whatever folder has that name."""
    found = path(text)
    inside = os.path.join(found, "model.h5")
    return inside if text != "imagenet" and os.path.isfile(inside) else found


def name(text):
    """A type for add_argument: a name of letters, digits, dots, dashes and underscores."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a name of letters, digits, dots and dashes")
    return text


def url(text):
    """A type for add_argument: the address of a database, KIND://..."""
    if not re.match(r"[a-z0-9+]+://\S+$", text):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a URL, such as sqlite:///study.db")
    return text


def architecture(text):
    """A type for add_argument: a name of architectures.NAMES; for another spelling the message says which is meant."""
    if text in architectures.NAMES:
        return text
    known = {name.lower(): name for name in reversed(architectures.NAMES)}  # of two ResNet50, the suite's own
    near = difflib.get_close_matches(re.sub(r"[\W_]", "", text).lower(), known, 1)
    raise argparse.ArgumentTypeError(
        f"received {text!r}, expected ResNet50, resnet56 or another network of model.py, or a constructor of "
        "keras.applications, such as MobileNetV2" + (f"; did you mean {known[near[0]]}?" if near else "")
    )


def export_format(text):
    """A type for add_argument: a key of formats.FORMATS; for another name of one the message says which is meant."""
    if text in formats.FORMATS:
        return text
    meant = OTHER_FORMATS.get(re.sub(r"[\W_]", "", text).lower())
    near = [meant] if meant else difflib.get_close_matches(text.lower(), formats.FORMATS, 1)
    raise argparse.ArgumentTypeError(
        f"received {text!r}, expected one or several of {', '.join(formats.FORMATS)}"
        + (f"; did you mean {near[0]}?" if near else "")
    )
