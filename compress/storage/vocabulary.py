"""Names of layers and operations that a model file may have, and of what they are called elsewhere. Imports no Keras.

`rebuilding` has the classes to these names; `headers` looks at the names alone, before Keras starts.
"""

from compress.errors import one_line
from compress.graph import registered
from compress.storage import entries, functions
from compress.storage.entries import Unread

# layers that are the identity in inference
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
LAYERS = (  # of keras.layers
    # with weights
    *("Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "DepthwiseConv1D"),
    *("DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense", "EinsumDense", "PReLU", "Embedding"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization"),
    *("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention", "LSTM", "GRU", "SimpleRNN"),
    *("RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "ReversibleEmbedding"),
    # that treat every number alone
    *("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Identity", "Rescaling", "Normalization"),
    # of several tensors
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"),
    # that pool or move numbers
    *(f"{kind}Pooling{rank}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for rank in (1, 2, 3)),
    *(f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (1, 2, 3)),
    # without AdaptiveMaxPooling3D, which ends Python itself on some sizes (Keras 3.15), and without
    # ContrastLimitedAdaptiveHistogramEqualization, which takes 1 kB for each number of its images
    *(f"AdaptiveAveragePooling{rank}D" for rank in (1, 2, 3)),
    *("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Resizing", "CenterCrop"),
    # idle outside training
    *IDLE,
    *("SpatialDropout1D", "SpatialDropout3D", "RandomInvert", "RandomGrayscale", "RandomPosterization"),
    *("AutoContrast", "Equalization", "Solarization", "RandomElasticTransform", "Masking"),
)
PRECISIONS = ("float32", "float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")
PRIVATE = ("LayerScale", "StochasticDepth", "CustomScaleLayer")  # of keras.applications
WRAPPERS = ("TimeDistributed", "Bidirectional", "SpectralNormalization")
CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells")  # of an RNN
OTHER_NAMES = {  # of Keras, old and new, and of others for what is exactly a layer of Keras
    **{f"MaxPool{rank}D": f"MaxPooling{rank}D" for rank in (1, 2, 3)},
    **{f"AvgPool{rank}D": f"AveragePooling{rank}D" for rank in (1, 2, 3)},
    **{f"GlobalMaxPool{rank}D": f"GlobalMaxPooling{rank}D" for rank in (1, 2, 3)},
    **{f"GlobalAvgPool{rank}D": f"GlobalAveragePooling{rank}D" for rank in (1, 2, 3)},
    **{f"Convolution{rank}D": f"Conv{rank}D" for rank in (1, 2, 3)},
    **{f"SeparableConvolution{rank}D": f"SeparableConv{rank}D" for rank in (1, 2)},
    **{f"Convolution{rank}DTranspose": f"Conv{rank}DTranspose" for rank in (1, 2, 3)},
    "SyncBatchNormalization": "BatchNormalization",  # of several devices in TensorFlow; the same on one
    "BatchNormalizationV1": "BatchNormalization",  # so TensorFlow 1 calls it
    "BatchNormalizationV2": "BatchNormalization",
    "ThresholdedReLU": "ReLU",  # of Keras 2, whose theta is the threshold
    "FixedDropout": "Dropout",  # of the packages efficientnet and segmentation_models
}
# raw operations, which a graph has where its author wrote x + y, by the module of keras.ops
OPERATIONS = {
    "numpy": (
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Power", "Maximum", "Minimum"),
        *("Absolute", "Abs", "Square", "Sqrt", "Exp", "Log", "Log1p", "Sign", "Reciprocal", "Tanh", "Clip"),
        *("Floor", "Ceil", "Round", "Mod", "FloorDivide", "Average", "Copy", "Sin", "Cos"),
        *("GetItem", "Split", "Stack", "Concatenate", "Flip", "Pad", "Roll", "Repeat", "Tile"),
        *("Reshape", "Ravel", "Transpose", "Swapaxes", "Moveaxis", "Squeeze", "ExpandDims", "BroadcastTo"),
        *("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var"),
        *("Matmul", "Dot", "Einsum", "Tensordot"),
    ),
    "nn": (
        *("Relu", "Relu6", "Sigmoid", "Softplus", "Softsign", "Silu", "LogSigmoid", "LeakyRelu", "HardSigmoid"),
        *("HardSilu", "Elu", "Selu", "Celu", "Gelu", "HardTanh", "Softmax", "LogSoftmax", "Normalize"),
        *("AveragePool", "MaxPool", "DepthToSpace", "SpaceToDepth"),
    ),
    "core": ("Cast", "StopGradient"),
    "image": ("Resize", "RGBToGrayscale", "CropImages", "PadImages"),
    "math": ("Rsqrt", "Erf", "Logsumexp"),
}
# modules of a class that tf.keras 2 registers as if it were its user's; an .h5 names none
SCALE_OF_OLD = (None, "tf_keras.src.applications.inception_resnet_v2", "keras.src.applications.inception_resnet_v2")
# packages whose class of a name of OTHER_NAMES is meant; an .h5 names none
AUTHORS = {"FixedDropout": ("efficientnet", "segmentation_models", "classification_models")}
IN_ITS_PLACE = "in its place, these weights given to it by set_weights, and the network saved"
WAY_OF_A_REMOVED = (
    "which Keras 3 hasn't; expected a class of your own of this name that computes it, and the script's run() called "
    "from Python, behind compress.graph.rules.register(the class, a rule): docs/how-to/own-layer.md"
)
WAY_OF_A_KIND = (
    "expected layers of Keras that docs/how-to/own-model.md doesn't exclude; or, of a class of your own, the script's "
    "run() called from Python behind compress.graph.rules.register(the class, a rule), where a class of Keras first "
    "needs one of yours derived from it, of another name: docs/how-to/own-layer.md"
)
HINTS = {
    "Lambda": "a layer of code, which this suite runs from no file; expected Keras' own layers in its place, such as "
    "Rescaling, Resizing or Permute, and the model saved again; of a layer that prepares pixels `preprocessing` says "
    "what it does",
    "TFSMLayer": "a model that lies in another place; expected its layers themselves",
    "PruneLowMagnitude": "expected the model behind tfmot.sparsity.keras.strip_pruning",
    "QuantizeWrapperV2": "expected the network before quantize_model",
    "ExtractPatches": "expected a Conv2D without bias of the patches' size and strides in its place, its kernel "
    "numpy.eye(size * size * 3).reshape(size, size, 3, -1)",
    "QuantizeLayer": "expected the network before quantize_model",
    "RandomCrop": "which versions of Keras compute differently outside training; expected Resizing(height, width, "
    "crop_to_aspect_ratio=True) in its place, which is what Keras 2 computes there",
    "CuDNNLSTM": "which runs on GPUs alone; expected the same network with LSTM(units) in its place, saved by tf.keras "
    "2, whose load_weights gives it those of this file",
    "CuDNNGRU": "which runs on GPUs alone; expected the same network with GRU(units) in its place, saved by tf.keras "
    "2, whose load_weights gives it those of this file",
    "LocallyConnected1D": WAY_OF_A_REMOVED,
    "LocallyConnected2D": WAY_OF_A_REMOVED,
    **dict.fromkeys(
        ("RandomHeight", "RandomWidth"),
        "which Keras 3 hasn't, and which does nothing outside training; expected the network without it, these "
        "weights given to it by set_weights, and saved",
    ),
    "TensorFlowOpLayer": "an operation as TensorFlow 2.0 to 2.3 wrote it; expected Keras' own layers, such as "
    f"Rescaling, Activation, Add or Multiply, {IN_ITS_PLACE}",
    "Swish": f"a class of its author's; expected Activation('silu'), if it is x * sigmoid(x), {IN_ITS_PLACE}",
    **dict.fromkeys(
        ("HSwish", "Hswish", "HardSwish"),
        f"a class of its author's; expected Activation('hard_silu'), if it is x * relu6(x + 3) / 6, {IN_ITS_PLACE}",
    ),
    "DropConnect": "a class of its author's; expected Dropout(rate, noise_shape=(None, 1, 1, 1)), if it drops whole "
    f"images of a batch in training, {IN_ITS_PLACE}",
    "ModuleWrapper": "expected Keras' own layers in its place",
}


def as_own(entry):
    """The entry of a layer, as if it were Keras' own where it is exactly one of Keras.

    These are the classes of AUTHORS, InceptionResNetV2's scaled sum in a file of tf.keras 2, and a Pipeline, which is
    its layers one behind the other.
    """
    own = str(entry["class_name"])
    if own == "Pipeline" and _is_pipeline(entry):
        entries.check_own(entry)
        nodes = [_without_default(node) for node in entry.get("inbound_nodes") or ()]
        return entry | {"class_name": "Sequential", "inbound_nodes": nodes, "was": own}
    if own in AUTHORS and str(entry.get("module")).split(".")[0] in AUTHORS[own]:
        return entry | {"module": None, "registered_name": None}
    kind, package = "CustomScaleLayer", "Custom>CustomScaleLayer"
    is_ours = entry["class_name"] in (kind, package) and entry.get("registered_name", package) == package
    if is_ours and entry.get("module") in SCALE_OF_OLD:
        return entry | {"class_name": kind, "registered_name": None}
    return entry


def _is_pipeline(entry):
    """Whether an entry of that name is Keras 3's: Keras 2 has none, and an author's may be anything.

    An .h5 doesn't always name its module, but those of the layers in it.
    """
    config = entry.get("config")
    parts = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(parts, list):
        return False
    whole = [entry] if entry.get("module") is not None else parts
    return bool(whole) and all(
        isinstance(one, dict) and str(one.get("module")).split(".")[0] == "keras" for one in whole
    )


def _without_default(node):
    """A call of a Pipeline without its default of `training`, True, which Keras writes down and a Sequential hasn't."""
    given = node.get("kwargs") if isinstance(node, dict) else None
    if not isinstance(given, dict) or given.get("training") is not True:
        return node
    return node | {"kwargs": {key: value for key, value in given.items() if key != "training"}}


def is_operation(layer):
    """Whether a entries.Layer is a raw operation; layers and operations share names, such as Add."""
    module = str(layer.data.get("module") or "")
    if layer.kind in functions.TENSORFLOW:
        return True
    if module:
        return module.startswith(("keras.src.ops", "keras.ops", "keras.operations"))
    return "trainable" not in layer.config and any(layer.kind in names for names in OPERATIONS.values())


def unknown_layer(name, kind):
    """The Unread of a layer of a kind that isn't read."""
    # what is of no module of its author's is Keras' own, whose class itself has to keep its meaning in files
    hint = HINTS.get(kind, "a kind of layer that is not read here; " + WAY_OF_A_KIND)
    return Unread(f"{one_line(name)[:200]} ({one_line(kind)[:80]}), {hint}")


def unknown_operation(layer):
    """The Unread of a raw operation, a entries.Layer, that isn't read."""
    hint = HINTS.get(
        layer.kind, "an operation that is not read here; expected operations of compress/storage/vocabulary.py instead"
    )
    return Unread(f"{layer}, {hint}")


def check_known(layer, without_code=False):
    """Raises Unread for a entries.Layer of a kind that isn't read, or for a quantised one; models are passed over.

    Args:
        layer: the entries.Layer.
        without_code: whether a Lambda may be left out.
    """
    if layer.kind in entries.MODELS or (layer.kind == "Lambda" and without_code):
        return
    if is_operation(layer):
        if layer.kind not in functions.TENSORFLOW and not any(layer.kind in names for names in OPERATIONS.values()):
            raise unknown_operation(layer)
        return
    known = layer.kind == "InputLayer" or entries.class_name(layer.kind) in registered.names()
    if not known and OTHER_NAMES.get(layer.kind, layer.kind) not in (*LAYERS, *PRIVATE, *WRAPPERS):
        raise unknown_layer(layer.name, layer.kind)
    check_precision(layer.name, layer.kind, layer.config)


def check_precision(name, kind, config):
    """Raises Unread for a quantised layer, by the precision in its config."""
    spec = config.get("dtype")  # a name, or a dtype policy as a dict
    found = spec if isinstance(spec, str) or spec is None else spec.get("config", {}).get("name")
    quantised = isinstance(spec, dict) and spec.get("class_name") not in ("DTypePolicy", "Policy", None)
    if quantised or (kind != "InputLayer" and found not in (None, *PRECISIONS)):
        raise Unread(
            one_line(f"{name} ({kind})")
            + f" of precision {found or spec.get('class_name')}; a quantised network can't "
            "be pruned, expected the one of floats that it was made from"
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
        entries.check_own({"class_name": None} | spec)
        spec = {"ReLU": "relu", "Softmax": "softmax"}.get(spec.get("class_name"))
    return "linear" if spec is None else spec if isinstance(spec, str) else None
