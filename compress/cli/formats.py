"""Names of the formats that a model is exported to, what runs each and what it needs. Imports no Keras."""

FORMATS = {  # name: (file or folder, what runs it, packages that both need besides the suite's own)
    "savedmodel": ("savedmodel", "TensorFlow", ()),
    "onnx": ("model.onnx", "ONNX Runtime", ("onnx", "tf2onnx", "onnxruntime")),
    "litert": ("model.tflite", "LiteRT", ("ai_edge_litert",)),
    "litert-int8": ("model-int8.tflite", "LiteRT", ("ai_edge_litert",)),
}
