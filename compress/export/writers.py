"""Other files of a trained model: who writes them, and who runs them. Imports Keras when it is called."""

import contextlib
import importlib.util
import logging
import math
import os
import re
import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np

from compress.cli import app
from compress.cli.formats import FORMATS
from compress.errors import InputError, one_line
from compress.export import metadata
from compress.storage import classes, files, records, vocabulary


def check_packages(formats, parameter="format"):
    """Makes sure, before any work, that what the formats need is installed; parameter: that names them, for messages.

    Raises:
        InputError: a package is missing, or Keras runs on something else than TensorFlow, whose exporters these are.
    """
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(f"KERAS_BACKEND: received {backend}, expected tensorflow, whose exporters write these files")
    for name in formats:
        for package in FORMATS[name][2]:
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"`{parameter}`: received {name}, which needs the package {package.replace('_', '-')}; "
                    "expected it installed: pip install -r requirements-export.txt"
                )


def versions(formats):
    """Versions of what writes and runs the formats: {package: version}."""
    return records.versions(sorted({package.replace("_", "-") for name in formats for package in FORMATS[name][2]}))


@contextlib.contextmanager
def _no_chatter():
    """Holds back what converters warn of and print: none of it is about the model."""
    loggers = [logging.getLogger(name) for name in (None, "absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), app.quiet_stderr():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):  # converters set them
                logger.setLevel(level)


@contextlib.contextmanager
def _errors_in_a_line(name):
    """Turns whatever a converter raises for a network, hundreds of lines sometimes, into an InputError."""
    try:
        yield
    except (OSError, MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(
            f"`format`: received {name}, which this network can't be written in: {_why(error)}; "
            "expected another format, or a network without that layer"
        ) from None


def _why(error):
    """The operation that a converter or a runtime has none for, by its error; else the start of what it says."""
    text = str(error)
    # 'tf.TensorListReserve' op requires ... ; In Node, ("block/Gelu/Erfc", Erfc, "", -1)
    if found := re.search(r"'(?:tf|tfl)\.(\w+)' op|In Node, \(\"[^\"]*?\", *(\w+)", text):
        return f"it has no operation like TensorFlow's {found[1] or found[2]}"
    said = [line.strip() for line in text.splitlines() if re.search("error:|not supported", line)]
    return f"{type(error).__name__}: {textwrap.shorten(one_line((said or [text])[0]), 160, placeholder=' ...')}"


@contextlib.contextmanager
def _statistics_as_arrays(model):
    """Has the mean and the variance of Normalizations as arrays meanwhile: of tensors tf2onnx would make inputs."""
    import keras

    parts = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Normalization)]
    before = [(layer.mean, layer.variance) for layer in parts]
    try:
        for layer in parts:
            layer.mean, layer.variance = (np.asarray(value) for value in (layer.mean, layer.variance))
        yield
    finally:
        for layer, (mean, variance) in zip(parts, before, strict=True):
            layer.mean, layer.variance = mean, variance


@contextlib.contextmanager
def _without_idle_layers(model):
    """Has layers that do nothing outside training, such as RandomContrast, make no operations meanwhile."""
    parts = [layer for layer in model._flatten_layers() if type(layer).__name__ in vocabulary.IDLE]
    for layer in parts:
        layer.call = lambda inputs, **_: inputs
    try:
        yield
    finally:
        for layer in parts:
            del layer.call


def _outside_training(model):
    """A model that calls another as outside training, whoever calls it.

    Where nobody says which, Keras' augmentation layers take it for training, and with them all layers behind: a
    batch-normalisation would normalise by the batch, and its moving statistics would follow.
    """
    import keras

    image = keras.Input(model.input_shape[1:], name=model.inputs[0].name)
    return keras.Model(image, model(image, training=False), name=model.name)


@contextlib.contextmanager
def _operations_of_onnx():
    """Has Keras build networks meanwhile from the operations that tf2onnx knows.

    It doesn't know Erfc, which TensorFlow computes GELU with, nor functions that are compiled by themselves, in which
    Keras wraps a grouped convolution, since only compiled ones run on a processor. ONNX Runtime has both.
    """
    import tensorflow as tf

    def gelu(x, approximate=False, name=None):
        return before[0](x, True, name) if approximate else 0.5 * x * (1 + tf.math.erf(x / math.sqrt(2)))

    def function(*inner, jit_compile=None, **kwargs):
        return (lambda inside: inside) if jit_compile else before[1](*inner, **kwargs)

    before = tf.nn.gelu, tf.function
    tf.nn.gelu, tf.function = gelu, function
    try:
        yield
    finally:
        tf.nn.gelu, tf.function = before


def write(model, name, folder, calibration=None, names=None):
    """Writes a model in another format, whole or not at all, with what `metadata` has it say of itself.

    The weights are float32, but for 'litert-int8': full-integer post-training quantisation, int8 weights with a scale a
    channel and int8 activations; Jacob et al. 2018, arXiv 1712.05877, section 2. It takes pixels as they are, uint8,
    and answers int8 logits with a scale; the others take float32 from 0 to 255 and answer float32 logits.

    Args:
        model: a keras.Model, (N, h, w, 3) -> logits (N, classes).
        name: of FORMATS.
        folder: where the file goes, under its name in FORMATS; it exists.
        calibration: (N, h, w, 3) uint8 images whose activations fix the scales of 'litert-int8', which alone needs
            them.
        names: list of the classes' names, or None.

    Returns:
        The path.

    Raises:
        InputError: the format's converter can't take the network.
    """
    # Written beside its place and moved there when it is whole: a killed export leaves the file of before.
    path = Path(folder) / FORMATS[name][0]
    with tempfile.TemporaryDirectory(dir=folder, prefix=files.PARTIAL) as temporary, _no_chatter():
        saved, made = Path(temporary) / "savedmodel", Path(temporary) / path.name
        with _errors_in_a_line(name):
            if name == "savedmodel":
                _save_constant(model, made)
            elif name == "onnx":
                with _statistics_as_arrays(model), _without_idle_layers(model), _operations_of_onnx():
                    asked = _outside_training(model)
                    asked(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras exports no model that never ran
                    asked.export(made, format="onnx", verbose=False)
            else:
                _save_constant(model, saved)
                made.write_bytes(_flat_buffer(saved, calibration if name == "litert-int8" else None))
            if name != "savedmodel":  # some files that converters write no runtime opens
                runner(made, name, 1)(np.zeros((1, *model.input_shape[1:]), "uint8"))
        metadata.describe(made, name, model.input_shape[1:3], names)
        before = Path(temporary) / "before"
        if path.is_dir():  # no folder can take another's place at once
            os.replace(path, before)
        try:
            files.move(made, path)
        except BaseException:
            if before.exists() and not path.exists():
                os.replace(before, path)
            raise
    return path


def write_labels(folder, names):
    """Writes labels.txt, a class a line; without names removes that of an earlier export."""
    path = Path(folder) / classes.LABELS
    if not names:
        if (Path(folder) / "export.json").is_file():
            path.unlink(missing_ok=True)
        return
    with files.replacing(path) as temporary:
        temporary.write_text(metadata.labels(names), encoding="utf-8")


def _save_constant(model, path):
    """A SavedModel of one signature, its weights constants of the graph, with batch-norm folded in.

    Keras' own export keeps every variable twice, which makes a file larger than the .h5, and a slower one.
    """
    import tensorflow as tf

    from compress.engine import folding

    image, logits = tf.TensorSpec(model.input_shape, tf.float32, name="image"), folding.constant(model)
    serve = tf.function(lambda image: {"logits": logits(image)}, input_signature=[image], autograph=False)
    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": serve.get_concrete_function()})


def _flat_buffer(saved, calibration):
    """The LiteRT file of a SavedModel, as bytes; quantised where there are images for it."""
    import tensorflow as tf

    # Quantised, each tensor is whole numbers times a scale; the converter takes the scales of activations from the
    # ranges that it sees on the calibration images.
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if calibration is not None:
        if calibration.min() or calibration.max() < 255:  # any byte is a pixel: a scale of 1 for the input
            calibration = calibration.copy()
            calibration[0].flat[:2] = 0, 255
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    return converter.convert()


def size(path):
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    return (
        sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
        if path.is_dir()
        else (path.stat().st_size)
    )


def thread_counts(name):
    """The numbers of threads that a format's file is timed with, all cores that this process may use last.

    One thread comes before that, as those of a small network mostly wait for each other; not under TensorFlow, which
    fixes its threads when a process first computes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return sorted({1, cores}) if name in ("onnx", "litert", "litert-int8") else [cores]


def probabilities(logits):
    """Softmax of logits (N, classes), float64."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, 1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def runner(path, name, threads):
    """A written file in its own runtime.

    Args:
        path: what `write` returned.
        name: of FORMATS.
        threads: one of `thread_counts(name)`.

    Returns:
        function(images (N, h, w, 3) uint8) -> logits, numpy (N, classes) float32.
    """
    with _no_chatter():
        if name == "savedmodel":
            return _run_savedmodel(path)
        if name == "onnx":
            return run_onnx(onnx_session(path, threads))
        return run_litert(litert_interpreter(path, threads))


def _run_savedmodel(path):
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda images: serve(image=tf.constant(images, tf.float32))["logits"].numpy()


def onnx_session(path, threads):
    """An onnxruntime.InferenceSession on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )  # which prints, and tries the same again


def run_onnx(session):
    """`runner` of a session of one input."""
    source = session.get_inputs()[0]
    dtype = "uint8" if source.type == "tensor(uint8)" else "float32"
    return lambda images: session.run(None, {source.name: images.astype(dtype)})[0]


def litert_interpreter(path, threads):
    """A LiteRT interpreter, whose tensors are not allocated yet."""
    from ai_edge_litert.interpreter import Interpreter

    with _no_chatter():
        return Interpreter(str(path), num_threads=threads)


def run_litert(interpreter):
    """`runner` of an interpreter of one input."""
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = None

    def run(images):
        nonlocal shape
        if images.shape != shape:
            shape = images.shape
            interpreter.resize_tensor_input(source["index"], shape)
            with _no_chatter():
                interpreter.allocate_tensors()
        # a quantised tensor holds round(number / scale) + zero
        scale, zero = source["quantization"]
        if scale and (scale, zero, images.dtype) != (1, 0, source["dtype"]):  # pixels may be no whole number of steps
            limits = np.iinfo(source["dtype"])
            images = np.clip(np.round(images / np.float32(scale)) + zero, limits.min, limits.max)
        interpreter.set_tensor(source["index"], images.astype(source["dtype"], copy=False))
        interpreter.invoke()
        logits, (scale, zero) = interpreter.get_tensor(target["index"]), target["quantization"]
        return (logits.astype("float32") - zero) * np.float32(scale) if scale else logits

    return run
