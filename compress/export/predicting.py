"""What a model takes single photographs for: .h5 and .keras by Keras, .onnx and .tflite by their own runtimes."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress.cli import app, display, flags, tables
from compress.data import decoding, pixels, reading, scanning
from compress.errors import InputError, one_line
from compress.export import formats, metadata, writers
from compress.storage import archives, classes, files, records

TOP = 5  # classes told of each photograph
BATCH = 1024  # images that a file may want at a time
RUNTIMES = {".onnx": "onnx", ".tflite": "litert"}
OTHER_FLAGS = ("split", "images", "per_class", "latency_runs", "dataset", "data_dir", "val_split", "subset",
               "class_num")  # of an evaluation alone


@dataclasses.dataclass
class Classifier:
    """What answers to photographs.

    Attributes:
        probabilities: function(images uint8 (N, h, w, 3)) -> (N, classes).
        size: (h, w) of its images, or None where they may have any.
        names: of its classes, as its file or its record tells them, or None.
        largest_batch: images at a time, or None.
    """

    probabilities: Callable
    size: tuple | None
    names: tuple | None
    largest_batch: int | None = None


def photographs(places):
    """Paths of image files: those named, and those in and below the folders named, without hidden ones and links.

    Raises:
        InputError: some aren't there, or a folder has none.
    """
    found, missing = [], []
    for place in map(Path, places):
        inside = []
        for folder, below, names in os.walk(place):
            below[:] = sorted(name for name in below if name[0] != "." and name.lower() not in scanning.SYSTEM)
            inside += [Path(folder, name) for name in sorted(names)
                       if name[0] != "." and name.lower().endswith(decoding.SUFFIXES)
                       and not os.path.islink(os.path.join(folder, name))]
        if place.is_dir() and not inside:
            missing.append(f"{place} holds no images ({' '.join(decoding.SUFFIXES)}; links are not followed)")
        elif not place.exists():
            missing.append(f"{place} is not there")
        found += inside if place.is_dir() else [place]
    if missing:
        raise InputError(f"--predict: {'; '.join(missing[:10])}"
                         + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
                         + "; expected photographs, or folders of them")
    return list(map(str, found))


def open_keras(args, checkpoint, paths, reader):
    """The Classifier of an .h5 or .keras file; `checkpoint` is None where Keras itself has to open it."""
    from compress.engine import folded

    path = args.model_path[0]
    if checkpoint is None:
        from compress.storage import foreign

        model = foreign.load_classifier(path, args.preprocessing, args.verbose)
        size = _size(args, model.input_shape[1:3], paths, reader)
        answer = lambda images: model(images.astype("float32"), training=False)  # noqa: E731
    else:
        from compress.storage import checkpoints

        size = _size(args, checkpoint.input_shape and checkpoint.input_shape[:2], paths, reader)
        model = checkpoints.load_model(path, None, (*size, 3), *flags.opening(args))
        answer = folded.FoldedResNet(model, args.precision)
    return Classifier(lambda images: writers.probabilities(np.asarray(answer(images))), size, classes.of_model(path))


def _size(args, size, paths, reader):
    """(h, w): the model's, else --image_size, else that of the photographs if they share one, else 224x224."""
    asked = args.image_size and (args.image_size,) * 2
    if size and None not in size:
        if asked not in (None, tuple(size)):
            raise InputError(f"--image_size: received {args.image_size}, expected none: {args.model_path[0]} takes "
                             f"images of {size[0]}x{size[1]}")
        return tuple(size)
    return asked or reader.common_size(paths)


def open_exported(args, paths, reader):
    """The Classifier of an .onnx or .tflite file, which is hostile: its runtime alone opens it.

    Raises:
        InputError: it can't be opened, or is no classifier of images (N, height, width, 3).
    """
    path = Path(args.model_path[0])
    name = RUNTIMES[path.suffix.lower()]
    package = formats.FORMATS[name][2][-1]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"--model_path: received {path}, which needs the package {package.replace('_', '-')}; "
                         "expected it installed: pip install -r requirements-export.txt")
    if not path.is_file() or path.stat().st_size > archives.BYTES:
        raise InputError(f"--model_path: received {path}, expected a file of at most {archives.BYTES} bytes"
                         f"{files.suggestion(path)}")
    threads = writers.thread_counts(name)[-1]
    try:
        source, targets, answer, (names, is_ours) = (_onnx if name == "onnx" else _litert)(path, threads)
    except InputError:
        raise
    except Exception as error:  # whatever runtimes raise
        raise InputError(f"--model_path: received {path}, which {formats.FORMATS[name][1]} can't open "
                         f"({one_line(error):.200})") from None
    if list(map(len, [source, *targets])) != [4, 2] or source[3] != 3 or any(
            type(side) is int and side > most
            for side, most in ((source[0], BATCH), (source[1], archives.SIDE), (source[2], archives.SIDE),
                               (targets[0][1], classes.MOST))):
        raise InputError(f"--model_path: received {path}, {source} -> {targets}; expected a classifier of images "
                         "(N, height, width, 3), as export_model.py writes them, with one answer a class")
    if args.preprocessing not in ("auto", "none"):
        raise InputError(f"--preprocessing: received {args.preprocessing}, expected none beside {path}, which is given "
                         "its pixels as they are, RGB of 0 to 255")
    if not is_ours and args.preprocessing == "auto":
        display.warn(f"{path} doesn't say what pixels it takes: it is given RGB of 0 to 255, right for files of "
                     "export_model.py; --preprocessing none says that it is so")
    size = _size(args, tuple(side if type(side) is int and side > 0 else None for side in source[1:3]), paths, reader)
    batch = source[0] if type(source[0]) is int and source[0] > 0 else None
    return Classifier(lambda images: _softmax(_answers(path, answer, images, batch), is_ours), size,
                      names or classes.of_model(path), batch)


def _answers(path, answer, images, batch):
    """What an exported file answers to images; to fewer than the `batch` that it wants, with the last one repeated.

    Raises:
        InputError: it fails.
    """
    missing = batch - len(images) if batch else 0
    try:
        return answer(np.concatenate([images, images[-1:].repeat(missing, 0)]) if missing else images)[:len(images)]
    except Exception as error:  # whatever runtimes raise
        raise InputError(f"--model_path: received {path}, which fails on images of "
                         f"{images.shape[1]}x{images.shape[2]} ({one_line(error):.200})") from None


def _onnx(path, threads):
    """(shape of the input, shapes of the outputs, function of images, (names, whether metadata tells the pixels))."""
    import onnx

    proto = onnx.load_model(path, load_external_data=False)
    if any(map(onnx.external_data_helper.uses_external_data,
               onnx.external_data_helper._get_all_tensors(proto))):  # another file of this machine
        raise InputError(f"--model_path: received {path}, whose weights lie in other files; expected one file")
    session = writers.onnx_session(path, threads)
    kinds = {given.type for given in session.get_inputs()}
    if len(session.get_inputs()) != 1 or kinds - {"tensor(float)", "tensor(uint8)"}:
        raise InputError(f"--model_path: received {path}, which takes {len(session.get_inputs())} arrays of "
                         f"{', '.join(sorted(kinds))}; expected one of float32 or uint8 images")
    return (session.get_inputs()[0].shape, [given.shape for given in session.get_outputs()],
            writers.run_onnx(session), metadata.of_onnx(session))


def _litert(path, threads):
    interpreter = writers.litert_interpreter(path, threads)
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    if len(sources) != 1:
        raise InputError(f"--model_path: received {path}, which takes {len(sources)} arrays, expected one of images")

    def shape(detail):
        return [int(side) for side in (detail["shape_signature"] if len(detail["shape_signature"]) else
                                       detail["shape"])]

    return shape(sources[0]), list(map(shape, targets)), writers.run_litert(interpreter), metadata.of_litert(path)


def _softmax(answers, are_logits):
    """Probabilities of logits, or of what a file without metadata answers: these may be probabilities already."""
    answers = np.asarray(answers, np.float64)
    if not are_logits and answers.min() >= 0 and answers.max() <= 1.001 and np.abs(answers.sum(1) - 1).max() < 0.1:
        return answers
    return writers.probabilities(answers)


def classify(args, classifier, paths, reader):
    """(N, classes) probabilities of all photographs. Raises InputError where some can't be read, all in one line."""
    reader.size, answers = classifier.size, []
    step = classifier.largest_batch or args.batch_size
    for start in display.track("photographs", args.verbose)(range(0, len(paths), step)):
        try:
            images = reader.read(paths[start:start + step])[0]
        except InputError as error:  # names the broken ones among all photographs
            raise InputError(one_line(error)) from None
        answers.append(classifier.probabilities(images))
    found = np.concatenate(answers)
    if not np.isfinite(found).all():
        raise InputError(f"--model_path: {args.model_path[0]} answers NaN or infinity, expected a network with finite "
                         "logits")
    return found


def named(args, classifier, count):
    """The names of `count` classes, or None, told, where nothing tells them."""
    if classifier.names and len(classifier.names) == count:
        return classifier.names
    display.warn(f"{args.model_path[0]} tells apart {count} classes and " + (
        f"{len(classifier.names)} names are told" if classifier.names else "their names are told nowhere")
        + f": they are numbered, from 0 (a {classes.LABELS} beside the model, a name a line, would name them)")
    return None


def check_flags(args, parser):
    """Raises InputError for flags that say nothing about photographs, and for several models."""
    if odd := [flag for flag in OTHER_FLAGS if getattr(args, flag) != parser.get_default(flag)]:
        raise InputError(f"--{odd[0]}: received it beside --predict, which reads photographs and no data set; expected "
                         "it left out")
    if len(args.model_path) != 1:
        raise InputError(f"--model_path: received {len(args.model_path)} models beside --predict, expected one")


def run(args, peek_at):
    """Classifies the photographs of --predict.

    Args:
        args: the flags of evaluate_model.py.
        peek_at: its function of (args, path) -> Checkpoint or None.

    Returns:
        {"photographs": list of {"path", "classes": list of {"class", "index", "probability"}, most probable first},
        "class_names": list or None, "sha256" of the model, "run"}.
    """
    path, paths = args.model_path[0], photographs(args.predict)
    run_record, is_exported = records.run_record(args), Path(path).suffix.lower() in RUNTIMES
    reader = reading.Reader(paths, args.num_worker, look=decoding.Look(**pixels.of_models(path)), tell=display.warn,
                            named_by="predict")
    if is_exported:
        classifier = open_exported(args, paths, reader)
    else:
        checkpoint = peek_at(args, path)
        app.start_keras(args)
        classifier = open_keras(args, checkpoint, paths, reader)
    digest = files.sha256(path)
    found = classify(args, classifier, paths, reader)
    names = named(args, classifier, found.shape[1])
    result = {"photographs": [], "class_names": names and list(names), "sha256": digest, "run": run_record}
    for photo, row in zip(paths, found, strict=True):
        order = np.argsort(-row, kind="stable")[:TOP]
        result["photographs"].append({"path": photo, "classes": [
            {"class": names[i] if names else f"class {i}", "index": int(i), "probability": float(row[i])}
            for i in order]})
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        records.write_json(args.output, result)
    show(args, result)
    display.written([args.output] if args.output else [], args.verbose)
    return result


def _short(text, most):
    """Text of at most so many characters, shortened in the middle."""
    return text if len(text) <= most else f"{text[:most // 3]}...{text[-(most - most // 3 - 3):]}"


def show(args, result):
    """Prints the table: for each photograph its most probable classes, each on a line."""
    room = max(display.width() - 19, 20)  # beside the probabilities
    longest = max(len(best["class"]) for photo in result["photographs"] for best in photo["classes"])
    names = max(min(longest, room // 2), len("class"))
    rows = [["" if i else _short(photo["path"], room - names), _short(best["class"], names), best["probability"]]
            for photo in result["photographs"] for i, best in enumerate(photo["classes"])]
    count = len(result["photographs"])
    display.print_table(f"{args.model_path[0]}: most probable classes of {count:,} photograph{'s'[:count > 1]}",
                        [("photograph", tables.text), ("class", tables.text), ("probability", tables.percent)], rows,
                        args.verbose)
