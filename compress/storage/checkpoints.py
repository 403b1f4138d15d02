"""Reading and writing of model files: .h5, and .keras as plain Keras writes it.

Writing is atomic. Reading takes shapes, settings and numbers from a file and nothing else: the network is built by
`resnet.build_resnet`, so no layer, class or function that a file names is ever looked up or run.

A file is read in three steps: `read_checkpoint` gives what it holds, `build` a keras.Model with these weights, and
`compare_with_keras` shows that both read the file alike. `load_model` does all of them.
"""

import contextlib
import hashlib
import math
import os
import random
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from compress.cli import display
from compress.errors import InputError, command, one_line
from compress.graph import reader, resnet
from compress.storage import archives, bare, classes, preprocess, readers
from compress.storage.files import replacing, reserve, suggestion
from compress.storage.records import check_record

NOT_COMPARED = "not compared with plain Keras"
DIGEST = "weights_sha256"  # attribute of the suite's files


def save_model(model, path, class_names=None):
    """Writes a model as .h5 that plain Keras opens, atomically, without slots, with a checksum of its weights.

    Args:
        model: a keras.Model.
        path: of the file.
        class_names: list of the classes' names, which then lie in the file too, see `classes`.

    Raises:
        InputError: the file can't be written.
    """
    with replacing(path) as temporary:
        reserve(temporary, 4 * model.count_params() + 2**21)  # HDF5 crashes where the disk fills up under it
        try:
            with in_the_order_of_files(model):
                model.save(temporary, include_optimizer=False)  # a run resumes from its state.npz, not from this file
            # Checksum and class names lie inside: the records beside a file may not travel with it.
            with h5py.File(temporary, "r+") as file:
                file.attrs[DIGEST] = digest_of(archives.arrays(file, temporary))
                if class_names := classes.checked(class_names):
                    classes.write(file, class_names)
        except RuntimeError as error:  # h5py, where the disk is full as it closes a file
            raise OSError(one_line(error)) from None


def load_weights(model, path):
    """Gives a model the weights of its own .h5 file, from `save_model`, also while it is trained."""
    with in_the_order_of_files(model):
        model.load_weights(path)


@contextlib.contextmanager
def in_the_order_of_files(model):
    """Has a model's weights meanwhile in the order in which plain Keras reads them from an .h5 file.

    An .h5 lists those of a model inside, trainable ones first. A training twin leaves some biases out of training, and
    no config says so: whoever builds the model anew has them in another place.
    """
    changed = []
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.trainable != layer.trainable:
                changed.append((variable, variable.trainable))
                variable.trainable = layer.trainable
    try:
        yield
    finally:
        for variable, before in changed:
            variable.trainable = before


def digest_of(arrays):
    """SHA-256 over names, types, shapes and numbers of what `archives.arrays` gives."""
    # A layer and a weight name an array, as in every file of one flat network; where two models inside a model have
    # layers of one name, the whole path does.
    named = archives.by_layer(arrays)
    named = named if len(named) == len(arrays) else arrays
    digest = hashlib.sha256()
    for key in sorted(named):
        array = np.ascontiguousarray(np.asarray(named[key]))
        digest.update(f"{'/'.join(key)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def check_digest(file, arrays, path):
    """Raises InputError where a file of the suite has other weights than those that it was written with.

    Args:
        file: from `archives.opened`.
        arrays: from `archives.arrays`.
        path: the file, for the message.
    """
    if DIGEST in file.attrs and file.attrs[DIGEST] != digest_of(arrays):
        raise InputError(
            f"received {path}, whose weights are damaged: they don't have the checksum that the "
            "file names; expected the file as it was written",
            path,
        )


def existing(path):
    """The Path of a file that may be a model; InputError for none, a folder, another kind or a broken record."""
    path = Path(path)
    if not path.exists():
        in_a_folder = path.name == "model.h5" and path.parent.is_dir()  # which was given in the model's place
        raise InputError(
            f"received {path}, which is not a file; expected an .h5 or .keras file"
            f"{(in_a_folder and archives.models_below(path.parent)) or suggestion(path)}",
            path,
        )
    if other := archives.other_kind(path):
        below = archives.models_below(path) if other == "a folder" else ""
        raise InputError(f"received {path}, which is {other}; expected an .h5 or .keras file of Keras{below}", path)
    check_record(path)
    return path


@contextlib.contextmanager
def errors_in_a_line(path, expected):
    """Turns whatever h5py, zipfile and the walk through a config raise for a damaged or hostile file into one line.

    Args:
        path: the file.
        expected: what it was to hold, for the message.

    Raises:
        InputError: what the file is and what was expected.
    """
    try:
        yield
    except InputError:
        raise
    except reader.Unread as error:
        raise InputError(f"received {path}, expected {expected}; found {error}", path) from None
    except OSError as error:
        what = f"a truncated or damaged HDF5 file of {os.path.getsize(path):,} bytes ({error})"
        raise InputError(
            f"received {path}, which is {what if archives.is_hdf5(path) else 'no HDF5 and no zip file'}; "
            "expected an .h5 or .keras model",
            path,
        ) from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:  # another zip, or a damaged one
        raise InputError(
            f"received {path}, a zip file that can't be read ({error}); expected an .h5 or .keras model", path
        ) from None
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        # a KeyError's text is a name of Python's, which says nothing to a user
        why = "" if isinstance(error, LookupError | TypeError | AttributeError) else f" ({error})"
        raise InputError(
            f"received {path}, expected {expected}; found what no file of Keras holds, or a damaged one{why}", path
        ) from None


def read_checkpoint(path, weights=True):
    """What a file holds: a whole model, .h5 or .keras, or bare weights in Keras' HDF5 layout; ResNet50, 101 or 152.

    Args:
        path: the file.
        weights: False leaves the arrays in the file, for a quick look before anything heavy is imported.

    Returns:
        A readers.Checkpoint.

    Raises:
        InputError: missing, empty, truncated, damaged, or no ResNet50, 101 or 152.
    """
    path = existing(path)
    expected = "a ResNet50, 101 or 152 as keras.applications builds them"
    with errors_in_a_line(path, expected), archives.opened(path) as (file, config, is_archive):
        arrays = archives.arrays(file, path)
        checkpoint = (
            readers.read_bare(path, arrays, archives.groups(file), weights)
            if config is None
            else readers.read_whole(path, config, archives.Weights(arrays, is_archive), weights)
        )
        if weights:
            check_digest(file, arrays, path)
    return checkpoint


def build(checkpoint, classes=None, input_shape=None, preprocessing="auto"):
    """The network of a checkpoint, with its weights; softmax heads give the logits before the softmax.

    A network of keras.applications expects BGR minus the mean ('caffe'); the swap of the colours and the scale of the
    suite's normalisation go into the first convolution, so the features on RGB input are the same.

    Args:
        checkpoint: from `read_checkpoint`.
        classes: number of logits; where it differs from the file's, the classifier starts from random weights.
        input_shape: (height, width, 3); None takes the file's, or (32, 32, 3) where it doesn't say.
        preprocessing: what a network of keras.applications was trained with, one of flags.PREPROCESSING; 'auto' is
            'caffe'. A file that holds its normalisation keeps it; see `preprocess.decide`.

    Returns:
        An uncompiled keras.Model.
    """
    classes = classes or checkpoint.classes
    if classes is None:
        raise InputError(f"{checkpoint.path} has no classifier; expected a number of classes (`class_num`)")
    mode, weights = pixels_of(checkpoint, preprocessing).mode, dict(checkpoint.weights)
    # Every model of this suite takes RGB from 0 to 255. What the file's network is to be given instead goes into the
    # normalisation in front of it, and into the order of the first kernel's input channels.
    normalization, kernel = checkpoint.normalization, weights["conv1_conv", "kernel"]
    if normalization is None and mode == "caffe":  # the kernel is scaled, so that it reads numbers of about 1
        normalization = resnet.MEAN, resnet.STD
        kernel = kernel[:, :, ::-1] * np.reshape(resnet.STD, (1, 1, 3, 1)).astype(kernel.dtype)  # BGR -> RGB
    elif mode != "none" or normalization is None:
        normalization, is_bgr = preprocess.folded_in(mode, normalization)
        kernel = kernel[:, :, ::-1] if is_bgr else kernel
    weights["conv1_conv", "kernel"] = kernel
    model = resnet.build_resnet(
        checkpoint.depth,
        classes,
        input_shape or checkpoint.input_shape or (32, 32, 3),
        checkpoint.stem,
        checkpoint.widths,
        normalization,
    )
    # A network with NaN would train, prune and evaluate without an error, and every number would be wrong.
    for layer in model.layers:
        if layer.name == "predictions" and classes != checkpoint.classes:
            continue
        for variable in layer.variables:
            value = weights[layer.name, variable.name]
            if not math.isfinite(float(np.sum(value, dtype=np.float64))):
                raise InputError(
                    f"{checkpoint.path}: {layer.name}/{variable.name} holds NaN or infinity, expected finite weights"
                )
            if variable.name == "moving_variance" and np.min(value) < 0:
                raise InputError(f"{checkpoint.path}: {layer.name}/{variable.name} is negative, expected variances")
            variable.assign(value)
    return model


def pixels_of(checkpoint, preprocessing="auto"):
    """The preprocess.Pixels of a Checkpoint. Raises InputError where only the user can know."""
    return preprocess.decide(checkpoint.path, checkpoint.touched, checkpoint.pixels, preprocessing)


def compare_with_keras(checkpoint, model, preprocessing="auto"):
    """Compares a network that was built with the same file in plain Keras.

    Args:
        checkpoint: with its config.
        model: from `build`, with the file's own classifier.
        preprocessing: as it was built.

    Returns:
        A line for the user on what was compared and how far both agree; '' for a file whose config is that of the
        network, as in every file of this suite; one that begins with NOT_COMPARED where Keras can't read the file,
        or where there is nothing but weights.

    Raises:
        InputError: they answer differently.
    """
    from compress.storage import plain_keras

    if checkpoint.config is None:
        return _assumed(checkpoint)
    if checkpoint.input_shape not in (None, tuple(model.input_shape[1:])):  # plain Keras' takes no other size
        model = build(checkpoint, model.output_shape[-1], checkpoint.input_shape, preprocessing)
    if plain_keras.same_config(checkpoint.config, model):
        return ""
    mode = pixels_of(checkpoint, preprocessing).mode
    try:
        theirs = plain_keras.in_keras(checkpoint.config, checkpoint.path)
        found, allowed = plain_keras.difference(
            model, theirs, model.input_shape[1:], lambda rgb: preprocess.apply(rgb, mode)
        )
    except reader.Unread as error:
        return f"{NOT_COMPARED}: {error}"
    if not found <= allowed:
        raise InputError(
            f"{checkpoint.path}: the network read from it differs from plain Keras' by {found:.3g} in a "
            f"probability or logit, expected at most {allowed:.3g}; please report it, or try: "
            + command("evaluate_model.py", model_path=checkpoint.path)
        )
    return (
        f"equal to plain Keras on {plain_keras.IMAGES} images (largest difference {found:.1g})"
        f"{plain_keras.conditions_of(checkpoint.config)}"
    )


def _assumed(checkpoint):
    """What to say of bare weights: networks of the same shapes may have other strides, activations or epsilons."""
    epsilon = bare.OLD_NORM if checkpoint.old else resnet.BN["epsilon"]
    return (
        f"{NOT_COMPARED}: weights alone don't say strides (assumed: as in version 1, in the first 1x1 convolution "
        f"of a stage), activation (ReLU), epsilon ({epsilon:g}) and pooling (average); expected the whole model, "
        "as model.save('model.keras') writes it"
    )


def open_checkpoint(checkpoint, classes=None, input_shape=None, preprocessing="auto", verify=True, verbose=0):
    """`build`, compared with plain Keras; says in a line how a file that the suite didn't write is read.

    Args:
        checkpoint: from `read_checkpoint`.
        classes: as `build` takes them, like the next two.
        input_shape: of the images.
        preprocessing: one of flags.PREPROCESSING.
        verify: compare the network with plain Keras' own reading of the file.
        verbose: 0 says nothing.
    """
    # Keras draws the seeds of initial weights from Python's random state. It is put back, so that a run has the same
    # weights and batches whether or not its model was compared.
    start = random.getstate()
    model = build(checkpoint, checkpoint.classes or classes, input_shape, preprocessing)
    built = random.getstate()
    comparison = f"{NOT_COMPARED} (`verify_model=False`)"
    if verify or checkpoint.config is None:
        comparison = compare_with_keras(checkpoint, model, preprocessing)
    if comparison:
        line = f"{checkpoint.path}: {pixels_of(checkpoint, preprocessing).summary}; {comparison}"
        # A wrong reading wouldn't be noticed. Of a whole model, `verify_model=False` says that this is known.
        if (verify or checkpoint.config is None) and comparison.startswith(NOT_COMPARED):
            display.warn(line)
        else:
            display.say(line, verbose)
    # The comparison needs the file's own classifier; for other classes the network is built once more.
    same = classes in (None, checkpoint.classes) or checkpoint.classes is None
    random.setstate(built if same else start)
    return model if same else build(checkpoint, classes, input_shape, preprocessing)


def load_model(path, class_num=None, input_shape=None, preprocessing="auto", verify=True, verbose=0):
    """The model of a file that the suite or plain Keras wrote, or keras.applications' ImageNet weights.

    Args:
        path: an .h5 or .keras file.
        class_num: number of classes that the model must have; None takes any.
        input_shape: (height, width, 3) that the model must take; None takes the file's.
        preprocessing: see `build`.
        verify: see `open_checkpoint`, also for verbose.
        verbose: 0 says nothing.

    Returns:
        An uncompiled keras.Model, RGB images (N, h, w, 3) of 0 to 255 -> logits (N, classes).

    Raises:
        InputError: as `read_checkpoint`; the class count or the image size is another; or plain Keras answers
            differently.
    """
    checkpoint = read_checkpoint(path)
    check_fits(checkpoint, class_num, input_shape)
    return open_checkpoint(checkpoint, class_num, input_shape, preprocessing, verify, verbose)


def check_fits(header, class_num=None, input_shape=None, dataset=None):
    """Raises InputError where a file has another class count or another image size than the data.

    Args:
        header: a headers.Header, whose classes are None where only the network itself tells them, or a Checkpoint.
        class_num: classes of the data, or None.
        input_shape: (height, width, 3) of their images, or None.
        dataset: where the data lie, for the message.
    """
    classes = (header.classes or 0) if isinstance(header, readers.Checkpoint) else header.classes
    if class_num is not None and classes not in (None, class_num):
        head = command(
            "train_base_model.py",
            model_path=header.path,
            dataset=dataset or "IMAGES",
            save_folder=f"./model/of_{class_num}_classes",
        )
        raise InputError(
            f"received {header.path} with {classes or 'no'} classes, expected {class_num}, "
            f"as {dataset or 'the data'} has them; a model with a new head of {class_num} classes is "
            f"trained by: {head}",
            header.path,
        )
    have = header.input_shape
    if input_shape is not None and have is not None and tuple(have) != tuple(input_shape):
        raise InputError(
            f"received {header.path} for images of {have[0]}x{have[1]}, expected {input_shape[0]}x"
            f"{input_shape[1]}, as the data set has them",
            header.path,
        )
