"""What a model takes single photographs for: .h5 and .keras by Keras, .onnx and .tflite by their own runtimes."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress.cli import display, formats
from compress.data import decoding, scanning
from compress.data.augmentation import middle
from compress.errors import InputError, one_line
from compress.export import metadata, writers
from compress.storage import archives, classes, files

TOP = 5  # classes shown of each photograph
BATCH = 1024  # images that a file may want at a time
RUNTIMES = {".onnx": "onnx", ".tflite": "litert"}


@dataclasses.dataclass
class Classifier:
    """What answers to photographs.

    Attributes:
        probabilities: function(images uint8 (N, h, w, 3)) -> (N, classes).
        size: (h, w) of its images, or None where they may have any.
        names: of its classes, from its file or its record, or None.
        largest_batch: images at a time, or None.
    """

    probabilities: Callable
    size: tuple | None
    names: tuple | None
    largest_batch: int | None = None


def photographs(places, note=print):
    """Paths of image files: those named, and those in and below the folders named, without hidden ones and links.

    Args:
        places: paths.
        note: function of a line of text, called once where files of the folders are left out.

    Raises:
        InputError: some aren't there, or a folder has none.
    """
    found, missing, all_skipped = [], [], None
    if folders := [os.path.abspath(place) for place in places if os.path.isdir(place)]:
        all_skipped = scanning.Skipped(os.path.commonpath(folders))
    for place in map(Path, places):
        skipped = scanning.Skipped(place)
        inside = list(_inside(place, skipped, all_skipped)) if place.is_dir() else []
        if place.is_dir() and not inside:
            line = f"; {skipped.line()}" if skipped.counts else ""
            missing.append(f"{place} holds no images ({' '.join(decoding.SUFFIXES)}; links are not followed{line})")
        elif not place.exists():
            missing.append(f"{place} is not there")
        found += inside if place.is_dir() else [place]
    if missing:
        raise InputError(
            f"`predict`: {'; '.join(missing[:10])}"
            + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
            + "; expected photographs, or folders of them"
        )
    if all_skipped and (line := all_skipped.line()):
        note(line)
    return list(map(str, found))


def _inside(folder, *skipped):
    """Yields the image files in and below a folder; what is left out is counted in each of `skipped`."""
    for counts in skipped:
        folders, images = scanning.entries(folder, counts, "predict")
    for path in images:
        if not path.is_symlink():
            yield path
            continue
        for counts in skipped:
            counts.add("linked file", path)
    for below in folders:
        yield from _inside(below, *skipped)


def open_keras(header, config, paths, reader):
    """The Classifier of an .h5 or .keras file.

    Args:
        header: its headers.Header.
        config: a configs.PredictConfig.
        paths: of the photographs.
        reader: a reading.Reader of them.
    """
    from compress.engine import folding
    from compress.storage import opening

    size = _size(header.path, config, header.input_shape and header.input_shape[:2], paths, reader)
    opened = opening.open_network(header.path, config.preprocessing, (*size, 3), config.verbose)
    answer = folding.FoldedModel(opened.model, config.precision)
    turned = writers.probabilities if opened.outputs == "logits" else lambda answers: answers.astype(np.float64)
    return Classifier(lambda images: turned(np.asarray(answer(images))), size, opened.names)


def _size(path, config, size, paths, reader):
    """(h, w): the model's, else the one asked for, else that of the photographs if they share one, else 224x224."""
    asked = config.image_size and (config.image_size,) * 2
    if size and None not in size:
        if asked not in (None, tuple(size)):
            raise InputError(
                f"`image_size`: received {config.image_size}, expected none: {path} takes images of {size[0]}x{size[1]}"
            )
        return tuple(size)
    return asked or reader.common_size(paths)


def open_exported(path, config, paths, reader):
    """The Classifier of an .onnx or .tflite file, which is hostile: its runtime alone opens it.

    Args:
        path: the file.
        config: a configs.PredictConfig.
        paths: of the photographs.
        reader: a reading.Reader of them.

    Raises:
        InputError: it can't be opened, or is no classifier of images (N, height, width, 3).
    """
    path = Path(path)
    name = RUNTIMES[path.suffix.lower()]
    package = formats.FORMATS[name][2][-1]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"received {path}, which needs the package {package.replace('_', '-')}; expected it "
            "installed: pip install -r requirements-export.txt",
            path,
        )
    if not path.is_file():
        raise InputError(
            f"received {path}, which is not a file; expected a file of export_model.py{files.suggestion(path)}", path
        )
    if path.stat().st_size > archives.BYTES:
        raise InputError(f"received {path}, expected a file of at most {archives.BYTES / 2**30:g} GiB", path)
    try:
        source, targets, answer, (names, is_ours) = (_onnx if name == "onnx" else _litert)(
            path, writers.thread_counts(name)[-1]
        )
    except InputError:
        raise
    except Exception as error:  # whatever runtimes raise
        raise InputError(
            f"received {path}, which {formats.FORMATS[name][1]} can't open ({one_line(error):.200})", path
        ) from None
    _check_classifier(path, source, targets)
    _check_pixels(path, config, is_ours)
    size = tuple(side if type(side) is int and side > 0 else None for side in source[1:3])
    batch = source[0] if type(source[0]) is int and source[0] > 0 else None
    return Classifier(
        lambda images: _softmax(_answers(path, answer, images, batch), is_ours),
        _size(path, config, size, paths, reader),
        names or classes.of_model(path),
        batch,
    )


def _check_classifier(path, source, targets):
    """Raises InputError where the shapes of a file's input and outputs are not those of a classifier of images."""
    if (
        list(map(len, [source, *targets])) != [4, 2]
        or source[3] != 3
        or any(
            type(side) is int and side > most
            for side, most in (
                (source[0], BATCH),
                (source[1], archives.SIDE),
                (source[2], archives.SIDE),
                (targets[0][1], classes.MOST),
            )
        )
    ):
        raise InputError(
            f"received {path}, {source} -> {targets}; expected a classifier of images (N, height, width, "
            "3), as export_model.py writes them, with one output a class",
            path,
        )


def _check_pixels(path, config, is_ours):
    """Warns where a file doesn't say what pixels it takes; raises InputError where it is to be given others."""
    if config.preprocessing not in ("auto", "none"):
        raise InputError(
            f"`preprocessing`: received {config.preprocessing}, expected none beside {path}, which is "
            "given its pixels as they are, RGB of 0 to 255"
        )
    if not is_ours and config.preprocessing == "auto":
        display.warn(
            f"{path} doesn't say what pixels it takes: it is given RGB of 0 to 255, right for files of "
            "export_model.py; `preprocessing=none` says that it is so"
        )


def _answers(path, answer, images, batch):
    """What an exported file answers to images; to fewer than the `batch` that it wants, with the last one repeated.

    Raises:
        InputError: it fails.
    """
    missing = batch - len(images) if batch else 0
    try:
        return answer(np.concatenate([images, images[-1:].repeat(missing, 0)]) if missing else images)[: len(images)]
    except Exception as error:  # whatever runtimes raise
        raise InputError(
            f"received {path}, which fails on images of {images.shape[1]}x{images.shape[2]} ({one_line(error):.200})",
            path,
        ) from None


def _onnx(path, threads):
    """(shape of the input, shapes of the outputs, function of images, (names, whether metadata says which pixels))."""
    import onnx

    proto = onnx.load_model(path, load_external_data=False)
    if any(
        map(onnx.external_data_helper.uses_external_data, onnx.external_data_helper._get_all_tensors(proto))
    ):  # another file of this machine
        raise InputError(f"received {path}, whose weights lie in other files; expected one file", path)
    session = writers.onnx_session(path, threads)
    kinds = {given.type for given in session.get_inputs()}
    if len(session.get_inputs()) != 1 or kinds - {"tensor(float)", "tensor(uint8)"}:
        raise InputError(
            f"received {path}, which takes {len(session.get_inputs())} arrays of "
            f"{', '.join(sorted(kinds))}; expected one of float32 or uint8 images",
            path,
        )
    return (
        session.get_inputs()[0].shape,
        [given.shape for given in session.get_outputs()],
        writers.run_onnx(session),
        metadata.of_onnx(session),
    )


def _litert(path, threads):
    interpreter = writers.litert_interpreter(path, threads)
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    if len(sources) != 1:
        raise InputError(f"received {path}, which takes {len(sources)} arrays, expected one of images", path)

    def shape(detail):
        return [
            int(side) for side in (detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"])
        ]

    return shape(sources[0]), list(map(shape, targets)), writers.run_litert(interpreter), metadata.of_litert(path)


def _softmax(answers, are_logits):
    """Probabilities of logits, or of what a file without metadata answers: these may be probabilities already."""
    answers = np.asarray(answers, np.float64)
    if not are_logits and answers.min() >= 0 and answers.max() <= 1.001 and np.abs(answers.sum(1) - 1).max() < 0.1:
        return answers
    return writers.probabilities(answers)


def classify(path, classifier, paths, reader, config):
    """(N, classes) probabilities of all photographs, in batches.

    Args:
        path: of the model, for the message.
        classifier: a Classifier.
        paths: of the photographs.
        reader: a reading.Reader of them.
        config: a configs.PredictConfig.

    Raises:
        InputError: photographs that can't be read, all in one line; or an answer that is no finite number.
    """
    reader.size, answers = classifier.size, []
    step = classifier.largest_batch or config.batch_size
    for start in display.track("photographs", config.verbose)(range(0, len(paths), step)):
        answers.append(classifier.probabilities(middle(reader.read(paths[start : start + step])[0], reader.size)))
    found = np.concatenate(answers)
    if not np.isfinite(found).all():
        raise InputError(f"{path} outputs NaN or infinity, expected a network with finite logits", path)
    return found


def named(path, classifier, count):
    """The names of `count` classes; None, with a warning, where the model at `path` doesn't have them."""
    if classifier.names and len(classifier.names) == count:
        return classifier.names
    display.warn(
        f"{path} has {count} classes and "
        + (f"{len(classifier.names)} class names" if classifier.names else "no class names")
        + f": they are numbered, from 0 (a {classes.LABELS} beside the model, a name a line, would name them)"
    )
    return None


def most_probable(paths, probabilities, names):
    """For each photograph its TOP most probable classes, as JSON holds them.

    Args:
        paths: of the photographs.
        probabilities: (N, classes).
        names: of the classes, or None.

    Returns:
        List of {"path", "classes": list of {"class", "index", "probability"}, most probable first}.
    """
    found = []
    for photo, row in zip(paths, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[:TOP]
        found.append(
            {
                "path": photo,
                "classes": [
                    {"class": names[i] if names else f"class {i}", "index": int(i), "probability": float(row[i])}
                    for i in order
                ],
            }
        )
    return found
