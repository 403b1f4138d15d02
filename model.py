"""ResNet50, 101 and 152 for images of any size: the network that the suite trains, prunes and distils.

He et al. 2016, Deep Residual Learning, arXiv 1512.03385; version 1 as in keras.applications, with its layer names.
Three things differ from there:

- The normalisation of pixels is a layer. A saved model takes RGB from 0 to 255 and needs no preprocessing beside it.
- The output is logits, without a softmax.
- The stem can be one for small images: on 32x32, ImageNet's would leave 8x8 positions for the first block.

Pruning gives layers other numbers of channels; `compress.graph.resnet` builds those networks.
"""

import keras
from keras import layers

from compress.cli import keras_config

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # depth: blocks of the four stages
STEMS = {"imagenet": (7, 2), "half": (5, 2), "cifar": (3, 1)}  # kernel and stride of the first convolution
# mean and standard deviation of R, G and B over ImageNet, from 0 to 255; keras.applications' weights expect this mean
MEAN = (123.68, 116.779, 103.939)
STD = (58.393, 57.12, 57.375)


def conv_bn(x, filters, kernel, name, gamma="ones", relu=True, **conv):
    """A convolution, its batch-normalisation and, unless an Add comes next, a ReLU.

    (N, h, w, C) -> (N, h / strides, w / strides, filters); strides and padding are those of keras.layers.Conv2D.
    """
    # He et al. 2015, arXiv 1502.01852, section 2.2: this variance keeps activations of ReLU networks in scale
    x = layers.Conv2D(filters, kernel, kernel_initializer="he_normal", name=f"{name}_conv", **conv)(x)
    # Keras' default momentum of 0.99 would evaluate a short training on statistics that lag behind
    x = layers.BatchNormalization(epsilon=1.001e-5, momentum=0.9, gamma_initializer=gamma, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def bottleneck(x, inner, name, stride=1, project=False):
    """A bottleneck block: convolutions of 1x1, 3x3 and 1x1 whose output is added to the block's input.

    The first two have a quarter of the channels, so that the costly 3x3 convolution is cheap (He et al., section 4.1,
    figure 5).

    Args:
        x: (N, h, w, C).
        inner: channels of the first two convolutions.
        name: such as 'conv2_block1'.
        stride: of the first convolution; 2 halves height and width.
        project: whether a 1x1 convolution brings the input to the shape of the output, as in the first block of a
            stage; other blocks add the input itself.

    Returns:
        (N, h / stride, w / stride, 4 x inner).
    """
    skip = conv_bn(x, 4 * inner, 1, f"{name}_0", strides=stride, relu=False) if project else x
    x = conv_bn(x, inner, 1, f"{name}_1", strides=stride)
    x = conv_bn(x, inner, 3, f"{name}_2", padding="same")
    # a gamma of 0 makes each block start as the identity (Goyal et al. 2017, arXiv 1706.02677, section 5.1)
    x = conv_bn(x, 4 * inner, 1, f"{name}_3", gamma="zeros", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([skip, x]))


def resnet(depth=50, classes=10, input_shape=(32, 32, 3), stem="imagenet"):
    """A ResNet with random weights.

    Args:
        depth: 50, 101 or 152.
        classes: number of logits.
        input_shape: (height, width, 3) of RGB images, 0 to 255, uint8 or float.
        stem: 'imagenet' (7x7 stride 2, then a max-pool of stride 2), 'half' (5x5 stride 2) or 'cifar' (3x3 stride 1).

    Returns:
        An uncompiled keras.Model, (N, height, width, 3) -> logits (N, classes).

    Raises:
        ValueError: an argument is out of range.
    """
    if depth not in BLOCKS or stem not in STEMS or len(input_shape) != 3 or input_shape[2] != 3 or classes < 1:
        raise ValueError(
            f"expected a depth of {sorted(BLOCKS)}, a stem of {sorted(STEMS)}, an input_shape of (height, "
            f"width, 3) and at least one class. Received: depth={depth}, classes={classes}, "
            f"input_shape={input_shape}, stem={stem!r}"
        )
    keras_config.check()  # the layers below are channels_last, whatever a keras.json says
    kernel, stride = STEMS[stem]
    image = keras.Input(input_shape, name="image")
    # (x - mean) / std, as Rescaling's x * scale + offset
    x = layers.Rescaling([1 / s for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)], name="normalization")(
        image
    )
    # padding as a layer of its own: with a stride of 2, Keras' "same" would pad one side more than the other
    x = layers.ZeroPadding2D(kernel // 2, name="conv1_pad")(x)
    x = conv_bn(x, 64, kernel, "conv1", strides=stride)
    if stem == "imagenet":
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stage, count in enumerate(BLOCKS[depth], start=2):  # the stem is conv1, the stages are conv2 to conv5
        for block in range(1, count + 1):
            first = block == 1
            stride = 2 if first and stage > 2 else 1
            x = bottleneck(x, 16 * 2**stage, f"conv{stage}_block{block}", stride, project=first)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)  # (N, 2048)
    logits = layers.Dense(classes, dtype="float32", name="predictions")(x)  # float32 under mixed precision too
    return keras.Model(image, logits, name=f"resnet{depth}")
