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


def torch_families():
    """{name: function() -> torch.nn.Module} of the networks in worker.FAMILIES, layer by layer as Keras has them."""
    import torch
    from torch import nn

    def unit(read, made, kernel=3, stride=1, groups=1, activation=nn.ReLU6):
        """Convolution, batch-norm, activation."""
        convolution = nn.Conv2d(read, made, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(made), *([activation(inplace=True)] if activation else []))

    class InvertedResidual(nn.Module):
        """Sandler et al. 2018, MobileNetV2, arXiv 1801.04381; squeeze: channels of the squeeze-and-excitation."""

        def __init__(self, read, made, stride, expansion, kernel=3, activation=nn.ReLU6, squeeze=0):
            super().__init__()
            inner, self.is_added = read * expansion, stride == 1 and read == made
            self.expand = unit(read, inner, 1, activation=activation) if expansion > 1 else nn.Identity()
            self.depthwise = unit(inner, inner, kernel, stride, inner, activation)
            self.excite = squeeze and nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(inner, squeeze, 1),
                activation(inplace=True),
                nn.Conv2d(squeeze, inner, 1),
                nn.Sigmoid(),
            )
            self.project = unit(inner, made, 1, activation=None)

        def forward(self, x):
            y = self.depthwise(self.expand(x))
            y = self.project(y * self.excite(y) if self.excite else y)
            return x + y if self.is_added else y

    class Basic(nn.Module):
        """He et al. 2016, arXiv 1512.03385, section 4.2, with projections."""

        def __init__(self, read, made, stride):
            super().__init__()
            self.first, self.second = unit(read, made, 3, stride, activation=nn.ReLU), unit(made, made, activation=None)
            self.shortcut = unit(read, made, 1, stride, activation=None) if stride > 1 else nn.Identity()

        def forward(self, x):
            return torch.relu(self.shortcut(x) + self.second(self.first(x)))

    def inverted(stages, activation, squeezed):
        """Stages of (expansion, channels, blocks, stride, kernel) between a stem of 32 channels and a head of 1280."""
        parts, read = [unit(3, 32, 3, 2, activation=activation)], 32
        for expansion, made, blocks, stride, kernel in stages:
            for block in range(blocks):
                squeeze = max(1, read // 4) if squeezed else 0
                step = stride if block == 0 else 1
                parts.append(InvertedResidual(read, made, step, expansion, kernel, activation, squeeze))
                read = made
        head = unit(read, 1280, 1, activation=activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*parts, *head, nn.Linear(1280, CLASSES))

    def mobilenet():
        stages = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        return inverted([(*stage, 3) for stage in stages], nn.ReLU6, False)

    def efficientnet():
        stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5)]
        return inverted([*stages, (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)], nn.SiLU, True)

    def resnet56():
        parts, read = [unit(3, 16, activation=nn.ReLU)], 16
        for made in (16, 32, 64):
            for block in range(9):
                parts.append(Basic(read, made, 2 if made > 16 and block == 0 else 1))
                read = made
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))

    return {"MobileNetV2": mobilenet, "EfficientNetB0": efficientnet, "resnet56": resnet56}


def torch_step(args):
    """A training step in PyTorch, in its faster memory layout, channels last."""
    import torch

    torch.set_num_threads(os.cpu_count())
    family = torch_families().get(args.net, torch_network)
    model = family().to(memory_format=torch.channels_last).train()
    images, labels = pixels()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(128).sub(1)  # PyTorch's order: (N, 3, h, w)
    x, y = x.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision != "float32"):
            answer = model(x)
            loss = torch.nn.functional.cross_entropy(getattr(answer, "logits", answer).float(), y)
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

    import model

    net, images = model.build_model("ResNet50", CLASSES, SHAPE), pixels(args.images)[0].astype("float32")
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
