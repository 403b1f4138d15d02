"""What an exported file says of itself: its classes, and the pixels that it expects. Imports no Keras.

ONNX: metadata_props, with `names` as Ultralytics writes them and the Image.* keys of ONNX's own MetadataProps. LiteRT:
a zip behind the model with labels.txt and metadata.json, which its runtimes pass over; no TFLITE_METADATA in the model
itself, which MediaPipe asks for and no package of requirements-export.txt writes. SavedModel: the same two files in
assets.extra, the folder for what isn't part of the graph.
"""

import contextlib
import json
import zipfile
from pathlib import Path

from compress.storage import classes

PIXELS = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}
ABOUT = "metadata.json"
MOST_BYTES = 64 * 2**20  # of names in a file of someone else's


def describe(path, name, size, names=None):
    """Writes into an exported file what it expects and what its classes are called.

    Args:
        path: of a file or folder that `writers.write` makes.
        name: of formats.FORMATS.
        size: (h, w) of its images.
        names: list of its classes' names, or None.
    """
    # as text: ONNX's metadata_props hold nothing else
    about = {"task": "classify", "imgsz": json.dumps(list(size)), "channels": "3", "output": "logits"} | PIXELS
    if names:
        about |= {"class_names": json.dumps(names), "names": str(dict(enumerate(names)))}
    if name == "onnx":
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, about)
        onnx.save(model, path)
        return
    parts = {ABOUT: json.dumps(about, indent=1)} | ({classes.LABELS: labels(names)} if names else {})
    if name == "savedmodel":
        folder = Path(path) / "assets.extra"
        folder.mkdir()
        for part, text in parts.items():
            (folder / part).write_text(text, encoding="utf-8")
        return
    with zipfile.ZipFile(path, "a") as archive:
        for part, text in parts.items():
            archive.writestr(zipfile.ZipInfo(part), text)  # no date: the same file again


def labels(names):
    """The text of a labels.txt."""
    return "".join(f"{name}\n" for name in names)


def of_onnx(session):
    """(names or None, whether it takes RGB pixels of 0 to 255 and answers logits, as the suite's exports do).

    Args:
        session: an onnxruntime.InferenceSession.
    """
    about = session.get_modelmeta().custom_metadata_map
    return _named(about), _is_ours(about)


def of_litert(path):
    """The same of a .tflite file, whose labels may also be those that tflite-support packs."""
    texts = {}
    with (
        contextlib.suppress(OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError),
        zipfile.ZipFile(path) as archive,
    ):
        for info in archive.infolist()[:100]:
            if info.filename == ABOUT or info.filename.endswith(".txt"):
                with archive.open(info) as file:
                    text = file.read(MOST_BYTES + 1)
                texts[info.filename] = text.decode("utf-8-sig") if len(text) <= MOST_BYTES else ""
    about = _json(texts.pop(ABOUT, "{}"), dict) or {}
    listed = classes.of_labels(texts.get(classes.LABELS) or next(iter(texts.values()), ""))
    return _named(about) or listed, _is_ours(about)


def _json(text, kind):
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        found = json.loads(text)
        return found if isinstance(found, kind) else None
    return None


def _named(about):
    return classes.checked(_json(about.get("class_names"), list))


def _is_ours(about):
    return about.get("output") == "logits" and all(about.get(key) == value for key, value in PIXELS.items())
