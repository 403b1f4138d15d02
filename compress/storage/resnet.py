"""ResNet50, 101 and 152 with any widths, and without the last blocks of a stage: what pruning and distillation make.

Layers are named as in keras.applications. Every model is plain Keras: `keras.models.load_model` opens its .h5 with no
custom objects. It takes RGB from 0 to 255, since the normalisation is a layer inside, and outputs logits.

He et al. 2016, arXiv 1512.03385 (version 1 as in keras.applications: the stride sits in the first 1x1 convolution).

Widths are a dict {group: channels}. A group is a set of channels that are kept or removed together:

- 'conv1_conv': the output of the stem;
- 'conv{s}_block{b}_1_conv' and 'conv{s}_block{b}_2_conv': the inner channels of a block, which only the block itself
  uses;
- 'conv{s}_stream': the channels of a stage between its blocks. Every block of the stage adds its output to them, so all
  its third convolutions and its shortcut have the same channels.
"""

import re

from compress.cli import keras_config
from compress.cli.architectures import STEMS
from compress.storage.preprocess import MEAN

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Epsilon as in keras.applications. With Keras' default momentum of 0.99 the moving statistics lag behind by some
# hundred steps, and a short training would be evaluated with statistics of its beginning.
BN = {"epsilon": 1.001e-5, "momentum": 0.9}
# ImageNet's standard deviations. The means are those of "caffe" mode: zeros in the padding of the first convolution are
# then the same colour in keras.applications' networks and here, so its weights can be used.
STD = (58.393, 57.12, 57.375)


def stage_of(name):
    """The stage, 1 (the stem) to 5, of the name of a layer or group such as 'conv3_block2_1_conv'."""
    return int(name[4])


def stem_of(kernel):
    """The stem whose convolution has a kernel of this height and width, or None."""
    return {side: stem for stem, (side, _) in STEMS.items()}.get(kernel)


def inner_names(blocks):
    """Names of the inner convolutions (the first 1x1 and the 3x3 of each block), in network order.

    Args:
        blocks: number of blocks in the four stages, such as (3, 4, 6, 3).
    """
    return [
        f"conv{s}_block{b}_{i}_conv"
        for s, n in zip((2, 3, 4, 5), blocks, strict=True)
        for b in range(1, n + 1)
        for i in (1, 2)
    ]


def full_widths(depth=50, blocks=None):
    """The widths of the unpruned network.

    Args:
        depth: 50, 101 or 152.
        blocks: number of blocks in the four stages, where some were left out; None for all that the depth has.

    Returns:
        {group: channels}, see the module.

    Raises:
        ValueError: depth is none of 50, 101, 152.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {sorted(BLOCKS)}. Received: depth={depth}")
    widths = {"conv1_conv": 64} | {f"conv{s}_stream": 64 * 2**s for s in (2, 3, 4, 5)}
    return widths | {name: 16 * 2 ** stage_of(name) for name in inner_names(blocks or BLOCKS[depth])}


def hidden_names(widths):
    """Names of the hidden Dense layers, 'hidden1' first: those with a ReLU between pooling and classifier.

    Networks of this suite have none; models from elsewhere may.

    Args:
        widths: dict, or another iterable of names.
    """
    return [f"hidden{i}" for i in range(1, sum(name.startswith("hidden") for name in widths) + 1)]


def blocks_of(widths):
    """Number of blocks in the four stages, such as (3, 4, 6, 3), from widths or other names of layers."""
    found = [re.fullmatch(r"conv([2-5])_block(\d+)_1_conv", name) for name in widths]
    return tuple(max((int(m[2]) for m in found if m and int(m[1]) == s), default=0) for s in (2, 3, 4, 5))


def depth_of(blocks):
    """Depth of the smallest network with at least these blocks.

    Args:
        blocks: number of blocks in the four stages, at least 1 each.

    Raises:
        ValueError: a stage has no blocks, or more than in ResNet152.
    """
    for depth, whole in sorted(BLOCKS.items()):
        if all(1 <= count <= most for count, most in zip(blocks, whole, strict=True)):
            return depth
    raise ValueError(f"not a ResNet50, 101 or 152 of this suite, nor a part of one: {blocks} blocks")


def _conv_bn(x, filters, kernel, name, gamma="ones", relu=True, **conv):
    """A convolution, its batch-normalisation and a ReLU: (N, h, w, C) -> (N, h / strides, w / strides, filters).

    `conv`: strides and padding, as keras.layers.Conv2D has them.
    """
    from keras import layers

    x = layers.Conv2D(filters, kernel, kernel_initializer="he_normal", name=f"{name}_conv", **conv)(x)
    x = layers.BatchNormalization(**BN, gamma_initializer=gamma, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _block(x, name, widths, stride, shortcut):
    """A bottleneck block: (N, h, w, C) -> (N, h / stride, w / stride, stream); see `model.bottleneck`."""
    from keras import layers

    stream = widths[f"{name[:5]}_stream"]
    skip = _conv_bn(x, stream, 1, f"{name}_0", strides=stride, relu=False) if shortcut else x
    x = _conv_bn(x, widths[f"{name}_1_conv"], 1, f"{name}_1", strides=stride)  # (N, h, w, inner 1)
    x = _conv_bn(x, widths[f"{name}_2_conv"], 3, f"{name}_2", padding="same")  # (N, h, w, inner 2)
    # a zero gamma makes each block start as the identity (Goyal et al. 2017, arXiv 1706.02677, section 5.1)
    x = _conv_bn(x, stream, 1, f"{name}_3", gamma="zeros", relu=False)  # (N, h, w, stream)
    x = layers.Add(name=f"{name}_add")([skip, x])
    return layers.ReLU(name=f"{name}_out")(x)


def _checked_blocks(depth, widths):
    """Number of blocks in the four stages of some widths; ValueError if a group is missing, unknown or empty."""
    full_widths(depth)  # refuses an unknown depth
    blocks = blocks_of(widths)
    full = full_widths(depth, [min(max(n, 1), most) for n, most in zip(blocks, BLOCKS[depth], strict=True)])
    full |= dict.fromkeys(hidden_names(widths))
    if set(widths) != set(full) or min(widths.values()) < 1:
        wrong = sorted(set(widths) ^ set(full)) or {k: v for k, v in widths.items() if v < 1}
        raise ValueError(
            f"widths must give a positive number for each name of full_widths({depth}), but for the last "
            f"blocks of a stage. Wrong: {wrong}"
        )
    return blocks


def build_resnet(
    depth=50, classes=10, input_shape=(32, 32, 3), stem="imagenet", widths=None, normalization=(MEAN, STD)
):
    """A ResNet with random weights.

    Args:
        depth: 50, 101 or 152. With widths: the depth of a network that has at least their blocks.
        classes: number of logits.
        input_shape: (height, width, 3) of RGB images from 0 to 255, uint8 or float.
        stem: 'imagenet' (7x7 stride 2, max-pool), 'half' (5x5 stride 2) or 'cifar' (3x3 stride 1).
        widths: {group: channels} as of `full_widths`, with any positive numbers. The last blocks of a stage may be
            missing, hidden Dense layers may be added (`hidden_names`). None for the unpruned network.
        normalization: (mean, standard deviation), each three numbers for R, G and B, on the scale 0 to 255.

    Returns:
        An uncompiled keras.Model, (N, height, width, 3) -> logits (N, classes).

    Raises:
        ValueError: an argument is out of range, widths lack a group, or Keras is set to channels_first.
    """
    import keras  # not at the top: names and costs are needed by --help and by checks before Keras is started
    from keras import layers

    keras_config.check()
    widths = full_widths(depth) if widths is None else widths
    blocks = _checked_blocks(depth, widths)
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {sorted(STEMS)}. Received: stem={stem!r}")
    if len(input_shape) != 3 or input_shape[2] != 3 or classes < 1:
        raise ValueError(
            "input_shape must be (height, width, 3) and classes at least 1. Received: "
            f"input_shape={input_shape}, classes={classes}"
        )
    kernel, stride = STEMS[stem]
    inputs = keras.Input(input_shape, name="image")
    # (x - mean) / std, as Rescaling's x * scale + offset
    x = layers.Rescaling(
        [1 / s for s in normalization[1]], [-m / s for m, s in zip(*normalization, strict=True)], name="normalization"
    )(inputs)
    # padding as a layer of its own: with a stride of 2, Keras' "same" would pad one side more than the other
    x = layers.ZeroPadding2D(kernel // 2, name="conv1_pad")(x)
    x = _conv_bn(x, widths["conv1_conv"], kernel, "conv1", strides=stride)
    if stem == "imagenet":
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(1, count + 1):
            first = block == 1
            x = _block(x, f"conv{stage}_block{block}", widths, 2 if first and stage > 2 else 1, first)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    for name in hidden_names(widths):  # none in networks of this suite
        x = layers.Dense(widths[name], activation="relu", dtype="float32", name=name)(x)
    logits = layers.Dense(classes, dtype="float32", name="predictions")(x)  # float32 also under mixed precision
    return keras.Model(inputs, logits, name=f"resnet{3 * sum(blocks) + 2}")


def wiring(blocks, stem="imagenet"):
    """The convolutions of a network, with the groups of channels that each reads and writes.

    Files of weights alone go by it; a network's graph does not.

    Args:
        blocks: number of blocks in the four stages, such as (3, 4, 6, 3).
        stem: one of STEMS.

    Yields:
        (name, height and width of the kernel, group read, group written), in network order. The layers are called
        name + '_conv' and name + '_bn'. The image's three channels are the group 'rgb'.
    """
    yield "conv1", STEMS[stem][0], "rgb", "conv1_conv"
    before = "conv1_conv"
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        stream = f"conv{stage}_stream"
        yield f"conv{stage}_block1_0", 1, before, stream
        for block in range(1, count + 1):
            name = f"conv{stage}_block{block}"
            yield f"{name}_1", 1, before, f"{name}_1_conv"
            yield f"{name}_2", 3, f"{name}_1_conv", f"{name}_2_conv"
            yield f"{name}_3", 1, f"{name}_2_conv", stream
            before = stream  # the Add keeps the channels of the stream
