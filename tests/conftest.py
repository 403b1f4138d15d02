"""What the tests share. Every check runs on small networks: 50 layers deep, a few channels wide."""

import gc
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest

from compress.cli import app, configs, native

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "def build_parser" in path.read_text(encoding="utf-8"))

# Under `nohup make test &` these signals are ignored, in every process that the tests start too: a run that they
# interrupt would then go on to its end.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Traces of networks are millions of objects that stay; looking through them for garbage again and again takes a
# twentieth of the tests' time.
gc.set_threshold(100_000, 50, 50)

native.prepare(gpu=False)  # before a test file imports Keras, as the scripts do; the tests are about the processor


@pytest.fixture(scope="session", autouse=True)
def keras_started():
    """Keras as the scripts start it, once."""
    app.start_keras(configs.MachineConfig(gpu=False, seed=1, verbose=0))


def _seed(name):
    import keras

    keras.utils.set_random_seed(zlib.crc32(name.encode()))


@pytest.fixture(scope="module", autouse=True)
def seeded_file(keras_started, request):
    """A file's fixtures draw the same random weights in whichever company it runs."""
    _seed(request.module.__name__)


@pytest.fixture(autouse=True)
def seeded(seeded_file, request):
    """A test draws the same random weights alone and behind any others."""
    _seed(request.node.name)
    yield
    if request.node.get_closest_marker("slow"):  # whose networks are large, and refer to themselves
        gc.collect()


@pytest.fixture
def without_figures(monkeypatch):
    """Files in place of figures, which take longer to draw than small trainings take to run."""
    from compress.plots import style
    from compress.storage import files

    def empty(figure, path):
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"a figure")

    monkeypatch.setattr(style, "save_figure", empty)


def luminance(colour):
    """WCAG 2's relative luminance of an opaque colour, 0 to 1, by its text."""
    from matplotlib.colors import to_rgb

    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, two):
    """WCAG 2's contrast of two opaque colours, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def narrow_widths(inner=6, stream=8, stem=5, depth=50, blocks=(2, 1, 1, 1)):
    """Widths of a narrow network, all groups of one kind alike.

    Few blocks, since tracing 50 layers is what a test would wait for; None for all blocks that the depth has.
    """
    import resnets

    return {
        name: stem if name == "conv1_conv" else stream if name.endswith("_stream") else inner
        for name in resnets.full_widths(depth, blocks)
    }


def stage_outputs(model):
    """Names of the last layers of a ResNet's four stages."""
    import resnets

    blocks = resnets.blocks_of([layer.name for layer in model.layers])
    return [f"conv{s}_block{n}_out" for s, n in zip((2, 3, 4, 5), blocks, strict=True)]


def randomised(model, seed=0):
    """The model with lively random weights: no batch-norm at its start values, so that nothing cancels by chance."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.name.endswith("_bn"):
            n = layer.gamma.shape[0]
            for variable, values in (
                (layer.gamma, rng.uniform(0.5, 1.5, n)),
                (layer.beta, rng.normal(0, 0.3, n)),
                (layer.moving_mean, rng.normal(0, 0.3, n)),
                (layer.moving_variance, rng.uniform(0.5, 1.5, n)),
            ):
                variable.assign(values)
        elif layer.name.endswith("_conv"):
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


@pytest.fixture
def narrow_model():
    """A narrow ResNet50 of 32x32 images and 10 classes with random weights."""
    import resnets

    return randomised(resnets.build_resnet(widths=narrow_widths()))


@pytest.fixture(scope="session")
def pictures():
    """(24, 32, 32, 3) uint8 noise and (24,) labels."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (24, 32, 32, 3)).astype("uint8"), rng.integers(0, 10, 24)


def small_net(activation, classes=10, size=32, scale=True):
    """A classifier with each kind of layer that can be counted; without `scale` its images are preprocessed outside."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            *[layers.Rescaling(1 / 255)] * scale,
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, use_bias=False),
            layers.SeparableConv2D(6, 3, padding="same"),
            layers.Conv2D(8, 1, groups=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation=activation),
        ]
    )
