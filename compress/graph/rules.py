"""The table of layers and operations that can be converted exactly; all others are refused.

It maps a step of `reader.unfold` to the elementary operations that it consists of. Every setting of a layer is either
checked here, or known to have no effect in inference, or refused. So a setting of a later Keras version can't be
overlooked.
"""

import math
import re

import numpy as np

from compress.graph import operations
from compress.graph.operations import Part, constant
from compress.graph.reader import Unread, check_own

# layers that are the identity in inference; tests/graph/test_kinds.py runs each
IDLE = (
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
    "RandomFlip",
    "RandomRotation",
    "RandomZoom",
    "RandomTranslation",
    "RandomContrast",
    "RandomBrightness",
    "RandomHue",
    "RandomSaturation",
    "RandomShear",
    "RandomErasing",
    "RandomGaussianBlur",
    "RandomColorJitter",
    "RandomColorDegeneration",
    "RandomPerspective",
    "RandomSharpness",
    "RandAugment",
    "MixUp",
    "CutMix",
    "AugMix",
)
PRECISIONS = ("float32", "float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")
# settings without effect on the outputs in inference, and those that are checked against the shapes of the weights
UNUSED = (
    "name",
    "trainable",
    "dtype",
    "momentum",
    "synchronized",
    "fused",
    "batch_input_shape",
    "batch_shape",
    "input_shape",
    "input_dtype",
    "sparse",
    "ragged",
    "optional",
    "seed",
    "rate",
    "noise_shape",
    "stddev",
    "l1",
    "l2",
    "autocast",
    "filters",
    "units",
    "target_shape",
    "renorm_momentum",
    "build_input_shape",
    "function",
)
SIZES = "give the images their size by `image_size`, and the network without this layer"
LORA = (
    "a LoRA adapter; expected it merged: the same model built without enable_lora, its kernel set to this layer's "
    "layer.kernel in Keras, which has the adapter in it"
)
WORDS = {
    **dict.fromkeys(("Resizing", "CenterCrop", "RandomCrop", "Cropping2D"), SIZES),
    "PruneLowMagnitude": "save the model behind tfmot.sparsity.keras.strip_pruning",
    "QuantizeWrapperV2": "expected the network before quantize_model",
    "GlobalMaxPooling2D": "a ResNet of this suite averages over positions",
    "sigmoid": "expected a softmax over the classes; of two classes Dense(2, activation='softmax') in place of "
    "Dense(1, activation='sigmoid')",
}


def parts_of(step, where=""):
    """The elementary operations of a step.

    Args:
        step: from `reader.unfold`.
        where: it lies in the network, for the message.

    Returns:
        List of operations.Part; applied one after the other they are the step.

    Raises:
        Unread: its kind or a setting of it can't be converted exactly.
    """
    kind, step = step.kind, operations.plain(step)
    check_precision(step)
    # Before the check of the call: configs have training=True for every Random* layer, which `predict` overrides.
    if step.kind in IDLE:
        return [Part("same", step)]
    reader = TABLE.get(step.kind)
    if reader is None:
        raise Unread(
            f"{step.name} ({kind}) {where}".rstrip() + f", which can't be carried over exactly"
            f"{f'; {WORDS[kind]}' if kind in WORDS else ''}"
        )
    _check_call(step)
    return reader(step)


def _check_call(step):
    """Raises Unread for a layer that is always called in training mode, such as dropout for uncertainty, or masked."""
    training = step.kwargs.get("training")
    if training not in (None, False) or step.kwargs.get("mask") is not None:
        raise Unread(f"{step}, which is called with {'training on' if training else 'a mask'}")


def check_precision(step):
    """Raises Unread for a quantised layer."""
    spec = step.config.get("dtype")  # a name, or a dtype policy as a dict
    name = spec if isinstance(spec, str) or spec is None else spec.get("config", {}).get("name")
    quantised = isinstance(spec, dict) and spec.get("class_name") not in ("DTypePolicy", "Policy", None)
    if quantised or (step.kind != "InputLayer" and name not in (None, *PRECISIONS)):
        raise Unread(
            f"{step} of precision {name or spec.get('class_name')}; a quantised network can't be pruned, "
            "expected the one of floats that it was made from"
        )


def _settings(step, **wanted):
    """Checks every setting of a layer.

    Args:
        step: the step.
        wanted: {setting: its allowed value, a tuple of allowed values, or None for any}.

    Raises:
        Unread: a setting has another value, or is neither in `wanted` nor in UNUSED.
    """
    for key, value in step.config.items():
        if key in wanted:
            allowed = wanted[key]
            allowed = allowed if isinstance(allowed, tuple) or allowed is None else (allowed,)
            if allowed is not None and value not in allowed:
                words = {"data_format": "is channels_first", "axis": f"has its channels on axis {value}"}
                raise Unread(
                    f"{step}, which {words.get(key, f'has {key}={value}')}; expected "
                    f"{' or '.join(str(item) for item in allowed if item is not None)}"
                )
        elif not (
            key in UNUSED
            or key.endswith(("_initializer", "_regularizer", "_constraint"))
            or value is None
            or value is False
        ):
            raise Unread(
                f"{step} with {key}={value!s:.60}, "
                + (LORA if key in ("lora_rank", "lora_alpha") else "a setting that is not known here")
            )


def activation_name(spec):
    """The name of an activation, such as 'relu'; None for one with settings.

    Args:
        spec: None (linear), a name, or a function or layer as a dict, as versions of Keras differ.

    Raises:
        Unread: a class that isn't Keras' own.
    """
    if isinstance(spec, dict) and spec.get("class_name") == "function":
        spec = spec.get("config")
    # A layer as an activation, such as ReLU(max_value=6), is more than its name where it has settings.
    if isinstance(spec, dict) and not set(spec.get("config") or ()) - {"name", "dtype", "trainable"}:
        check_own({"class_name": None} | spec)
        spec = {"ReLU": "relu", "Softmax": "softmax"}.get(spec.get("class_name"))
    return "linear" if spec is None else spec if isinstance(spec, str) else None


def _activation(step, spec):
    """[Part] of the activation in a layer's config, [] for a linear one."""
    name = activation_name(spec)
    if name not in ("linear", "relu", "softmax"):
        raise Unread(f"{step} with the activation {name or spec!s:.60}" + (f"; {WORDS[name]}" if name in WORDS else ""))
    return [Part(name, step)] if name != "linear" else []


def _pair(value, step):
    """A tuple of two whole numbers, for height and width, from one number for both or a list of two."""
    value = [value, value] if isinstance(value, int) else value
    if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int for n in value)):
        raise Unread(f"{step} with {value!s:.60} where two numbers are expected")
    return tuple(value)


LAST = (-1, 3, [3], [-1])  # spellings of the last axis of (N, h, w, channels)
FORMAT = ("channels_last", None)  # None: Keras 1 and 2 wrote it only where it was set


# ---- one function for each kind: the step in, its Parts out ----


def _conv(step):
    _settings(
        step,
        kernel_size=None,
        strides=None,
        padding=("valid", "same"),
        data_format=FORMAT,
        dilation_rate=([1, 1], 1),
        groups=1,
        activation=None,
        use_bias=None,
    )
    strides, config = _pair(step.config.get("strides", 1), step), step.config
    return [
        Part(
            "conv",
            step,
            {"strides": strides, "padding": config.get("padding", "valid"), "bias": config.get("use_bias", True)},
        ),
        *_activation(step, config.get("activation")),
    ]


def _norm(step):
    # Axis 1 is the last of (N, channels); `walking.check_axis` refuses it on feature maps.
    _settings(step, axis=(*LAST, 1, [1]), epsilon=None, center=None, scale=None, renorm=False)
    epsilon = float(step.config.get("epsilon", 1e-3))
    if not 0 <= epsilon < math.inf:
        raise Unread(f"{step}, which has epsilon={epsilon}; expected a finite number of at least 0")
    return [
        Part(
            "norm",
            step,
            {
                "epsilon": epsilon,
                "axis": step.config.get("axis", -1),
                "beta": step.config.get("center", True),
                "gamma": step.config.get("scale", True),
            },
        )
    ]


def _dense(step):
    _settings(step, activation=None, use_bias=None)
    return [
        Part("dense", step, {"bias": step.config.get("use_bias", True)}),
        *_activation(step, step.config.get("activation")),
    ]


def _relu(step):
    _settings(step, max_value=None, negative_slope=(0,), threshold=(0,), alpha=(0,))
    if step.config.get("max_value") is not None:
        raise Unread(f"{step}, which is cut off at {step.config['max_value']}")
    return [Part("relu", step)]


def _pad(step):
    _settings(step, padding=None, data_format=FORMAT)
    padding = step.config.get("padding", 1)
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    return [Part("pad", step, {"padding": (_pair(rows, step), _pair(columns, step))})]


def _pool(what):
    def read(step):
        _settings(step, pool_size=None, strides=None, padding=("valid", "same"), data_format=FORMAT)
        size = _pair(step.config.get("pool_size", 2), step)  # strides=None means windows side by side
        return [
            Part(
                what,
                step,
                {
                    "size": size,
                    "strides": _pair(step.config.get("strides") or size, step),
                    "padding": step.config.get("padding", "valid"),
                },
            )
        ]

    return read


def _over_positions(what):
    def read(step):
        _settings(step, data_format=FORMAT, keepdims=None)
        return [Part(what, step)]

    return read


def _flat(step):
    _settings(step, data_format=FORMAT)
    target = step.config.get("target_shape")  # such as [2048] or [1, 1, 2048]
    if step.kind == "Reshape" and not (
        isinstance(target, list) and sum(n != 1 for n in target) == 1 and target[-1] != 1
    ):
        raise Unread(f"{step} into {target}; expected one vector")
    return [Part("flat", step)]


def _rescaling(step):
    _settings(step, scale=None, offset=None)
    return [
        Part(
            "affine",
            step,
            {"scale": constant(step.config["scale"], step), "offset": constant(step.config.get("offset", 0), step)},
        )
    ]


def _normalization(step):
    # Mean and variance are in the config where the user gave them, and among the weights where `adapt` measured them.
    _settings(step, axis=(*LAST, []), mean=None, variance=None, invert=None)
    given = step.config.get("mean") is not None
    return [
        Part(
            "normalization",
            step,
            {
                "invert": bool(step.config.get("invert")),
                "shape": (0,) if step.config.get("axis", -1) != [] else (),
                "mean": constant(step.config["mean"], step) if given else None,
                "variance": constant(step.config["variance"], step) if given else None,
            },
        )
    ]


def _just(what):
    def read(step):
        _settings(step, axis=(-1, [-1], 1), activation=None, shape=None)
        return [Part(what, step)]

    return read


def _image(step):
    dtype = str(step.config.get("dtype") or "float32")
    if not re.search(r"float(16|32|64)|\bu?int(16|32|64)\b|\buint8\b", dtype):  # int8 ends at 127
        raise Unread(f"{step} of {dtype:.60}, which pixels of 0 to 255 don't fit into")
    return [Part("image", step)]


def _affine(scale, offset):
    return lambda step: [Part("affine", step, {"scale": np.asarray(scale), "offset": np.asarray(offset)})]


TABLE = {
    "InputLayer": _image,
    "Lambda": lambda step: [Part("lambda", step)],
    "Conv2D": _conv,
    "BatchNormalization": _norm,
    "SyncBatchNormalization": _norm,
    "Dense": _dense,
    "ReLU": _relu,
    "Relu": _relu,
    "Softmax": _just("softmax"),
    "Activation": lambda step: _activation(step, step.config.get("activation")) or [Part("same", step)],
    "ZeroPadding2D": _pad,
    "MaxPooling2D": _pool("max pool"),
    "AveragePooling2D": _pool("average pool"),
    "GlobalAveragePooling2D": _over_positions("mean"),
    "GlobalMaxPooling2D": _over_positions("max"),
    "Mean": operations.mean,
    "Flatten": _flat,
    "Reshape": _flat,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Negative": _affine(-1.0, 0.0),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "TrueDivide", "Divide"), operations.binary),
    "Cast": lambda step: [Part("cast", step)],
    "GetItem": operations.pick,
    "Flip": operations.channels_last("flip"),
    **dict.fromkeys(("Stack", "Concatenate"), operations.channels_last("stack")),
}
