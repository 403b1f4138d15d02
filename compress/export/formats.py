"""Names of the formats that a model is exported to, what runs each and what it needs. Imports no Keras."""

import argparse
import difflib
import re

FORMATS = {  # name: (file or folder, what runs it, packages that both need besides the suite's own)
    "savedmodel": ("savedmodel", "TensorFlow", ()),
    "onnx": ("model.onnx", "ONNX Runtime", ("onnx", "tf2onnx", "onnxruntime")),
    "litert": ("model.tflite", "LiteRT", ("ai_edge_litert",)),
    "litert-int8": ("model-int8.tflite", "LiteRT", ("ai_edge_litert",)),
}
OTHERS = {"tflite": "litert", "lite": "litert", "tensorflowlite": "litert", "int8": "litert-int8",
          "tfliteint8": "litert-int8", "onnxruntime": "onnx", "ort": "onnx", "tensorrt": "onnx", "trt": "onnx",
          "openvino": "onnx", "tf": "savedmodel", "tensorflow": "savedmodel", "pb": "savedmodel"}


def name(text):
    """A type for add_argument: a key of FORMATS; for another name of one the message says which is meant."""
    if text in FORMATS:
        return text
    meant = OTHERS.get(re.sub(r"[\W_]", "", text).lower())
    near = [meant] if meant else difflib.get_close_matches(text.lower(), FORMATS, 1)
    raise argparse.ArgumentTypeError(f"received {text!r}, expected one or several of {', '.join(FORMATS)}"
                                     + (f"; did you mean {near[0]}?" if near else ""))
