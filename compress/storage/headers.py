"""A quick look at a model file before Keras is started: for which images and classes it is. Imports no Keras."""

import dataclasses
from pathlib import Path

from compress.graph import reader
from compress.storage import archives, checkpoints

# kinds of layers behind a classifier's last layer with weights, whose last axis is that of what they read
KEEP_CLASSES = (
    *("Activation", "Softmax", "ReLU", "Dropout", "Identity", "Cast", "BatchNormalization", "Rescaling"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D"),
)
MAKE_CLASSES = {"Dense": "units", "Conv2D": "filters", "Convolution2D": "filters"}


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says of its images and classes.

    Attributes:
        path: the file.
        classes: number of outputs; None where only opening the network would tell.
        input_shape: (height, width, 3); None where it is open, or only opening the network would tell.
    """

    path: str
    classes: int | None
    input_shape: tuple | None


def read_header(path):
    """The Header of a model file.

    Args:
        path: an .h5 or .keras file.

    Returns:
        A Header. An architecture that can't be read here is no error: `opening.open_network` says what it is.

    Raises:
        InputError: missing, damaged, no model of Keras, or one that holds code.
    """
    path = checkpoints.existing(Path(path))
    expected = "a classifier of Keras' own layers with a graph (functional or Sequential), one input and one output"
    with checkpoints.errors_in_a_line(path, expected), archives.opened(path) as (file, config, _):
        archives.arrays(file, path)  # what is damaged or hostile is found here
        if config is not None:
            return Header(str(path), *_ends(config))
    bare = checkpoints.read_checkpoint(path, weights=False)
    return Header(str(path), bare.classes, bare.input_shape)


def _ends(config):
    """(classes, input shape) of a model's config, each None where it isn't known."""
    try:
        steps = reader.unfold(config)
    except reader.Code:
        raise
    except reader.Unread:  # such as a layer of two outputs, which `rebuilding` may know all the same
        return None, None
    shape = steps[0].config.get("batch_shape") or steps[0].config.get("batch_input_shape")
    step = steps[-1]
    while step.kind in KEEP_CLASSES and len(step.inputs) == 1:
        step = steps[step.inputs[0]]
    found = step.config.get(MAKE_CLASSES.get(step.kind))
    return found if type(found) is int else None, archives.input_shape(shape)
