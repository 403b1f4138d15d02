"""What a file of weights alone is built into: ResNet50, 101 and 152 of any widths, with or without their last blocks.

Every other network is built by its own file, or by `model.py`.

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

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # depth: blocks of the four stages
# Epsilon as in keras.applications. With Keras' default momentum of 0.99 the moving statistics lag behind by some
# hundred steps, and a short training would be evaluated with statistics of its beginning.
BN = {"epsilon": 1.001e-5, "momentum": 0.9}
# ImageNet's standard deviations. The means are those of "caffe" mode: zeros in the padding of the first convolution are
# then the same colour in keras.applications' networks and here, so its weights can be used.
STD = (58.393, 57.12, 57.375)


def stem_of(kernel):
    """The stem whose convolution has a kernel of this height and width, or None."""
    return {side: stem for stem, (side, _) in STEMS.items()}.get(kernel)


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


def build(widths, classes, input_shape=(32, 32, 3), stem="imagenet", normalization=(MEAN, STD)):
    """A ResNet of these widths with random weights; of those of a whole one the same as `model.resnet`.

    Args:
        widths: {group: channels}, see the module, of blocks as `depth_of` takes them.
        classes: number of logits.
        input_shape: (height, width, 3) of RGB images from 0 to 255, uint8 or float.
        stem: 'imagenet' (7x7 stride 2, max-pool), 'half' (5x5 stride 2) or 'cifar' (3x3 stride 1).
        normalization: (mean, standard deviation), each three numbers for R, G and B, on the scale 0 to 255.

    Returns:
        An uncompiled keras.Model, (N, height, width, 3) -> logits (N, classes).

    Raises:
        InputError: Keras is set to channels_first.
    """
    import keras  # not at the top: shapes are compared before Keras is started
    from keras import layers

    keras_config.check()
    blocks, (kernel, stride) = blocks_of(widths), STEMS[stem]
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
    logits = layers.Dense(classes, dtype="float32", name="predictions")(x)  # float32 also under mixed precision
    return keras.Model(inputs, logits, name=f"resnet{3 * sum(blocks) + 2}")
