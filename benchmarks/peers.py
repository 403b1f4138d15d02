"""The same network in PyTorch, onnxruntime and LiteRT, to compare with. The suite itself needs none of them."""

import os
import tempfile
import warnings

BATCH, CLASSES, SHAPE = 128, 10, (32, 32, 3)


def pixels(count=BATCH):
    """Random images uint8 (count, 32, 32, 3) and labels int64 (count,): the time doesn't depend on their values."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *SHAPE), dtype="uint8"), rng.integers(0, CLASSES, count)


def torch_network():
    """ResNet-50 of the transformers package."""
    from transformers import ResNetConfig, ResNetForImageClassification

    # The stride sits in the first convolution of a block, as in this suite. torchvision's sits in the second, and its
    # first convolution then has four times as many positions.
    return ResNetForImageClassification(ResNetConfig(num_labels=CLASSES, downsample_in_bottleneck=True))


def torch_step(args):
    """A training step in PyTorch, in its faster memory layout, channels last."""
    import torch

    torch.set_num_threads(os.cpu_count())
    model = torch_network().to(memory_format=torch.channels_last).train()
    images, labels = pixels()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(128).sub(1)  # PyTorch's order: (N, 3, h, w)
    x, y = x.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision != "float32"):
            loss = torch.nn.functional.cross_entropy(model(x).logits.float(), y)
        loss.backward()
        optimizer.step()

    return step


def onnxruntime_latency(args):
    """One call of the base network on `--images` images in onnxruntime, float32."""
    import onnxruntime
    import torch

    # transformers' model returns an object with the logits in it; ONNX wants tensors.
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = torch_network().eval()

        def forward(self, x):
            return self.network(x).logits

    x = torch.from_numpy(pixels(args.images)[0]).permute(0, 3, 1, 2).float().contiguous()
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Logits(), (x,), file.name, dynamo=False, input_names=["image"])
        session = onnxruntime.InferenceSession(file.name)
    return lambda: session.run(None, {"image": x.numpy()})


def litert_latency(args):
    """One call of the base network on `--images` images in LiteRT with XNNPACK, float32."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from compress.graph import resnet

    net, images = resnet.build_resnet(50, CLASSES, SHAPE), pixels(args.images)[0].astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        net.export(folder, format="tf_saved_model", verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, images.shape)
    interpreter.allocate_tensors()

    def call():
        interpreter.set_tensor(place, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return call


WORKS = {
    ("torch", "step"): torch_step,
    ("onnxruntime", "latency"): onnxruntime_latency,
    ("litert", "latency"): litert_latency,
}
