"""The networks that `train_base_model.py --architecture` trains: ResNets, and every constructor of keras.applications.

`resnet` has ResNet50, 101 and 152 for images of any size. He et al. 2016, Deep Residual Learning, arXiv 1512.03385;
version 1 as in keras.applications, with its layer names. Three things differ from there:

- The normalisation of pixels is a layer. A saved model takes RGB from 0 to 255 and needs no preprocessing beside it.
- The output is logits, without a softmax.
- The stem can be one for small images: on 32x32, ImageNet's would leave 8x8 positions for the first block.

`cifar_resnet` has the small ones for 32x32 images that papers on pruning compare on. `build_model` takes any name.
"""

import re

import keras
from keras import layers

from compress.cli import keras_config
from compress.cli.architectures import BASIC, BOTTLENECKS, KERAS, STEMS
from compress.errors import InputError

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # depth: blocks of the four stages
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
    # padding as a layer of its own: with a stride of 2, Keras' "same" would pad one side more than the other
    x = layers.ZeroPadding2D(kernel // 2, name="conv1_pad")(normalised(image, MEAN, STD))
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


def basic(x, filters, name, stride=1):
    """A basic block: two convolutions of 3x3 whose output is added to the block's input (He et al., figure 5, left).

    (N, h, w, C) -> (N, h / stride, w / stride, filters). Where the shape changes, a 1x1 convolution brings the input to
    it (option B of section 3.3). The paper's networks for CIFAR pad with zeros there (option A), which no plain layer
    does and no channel of which could be pruned.
    """
    changes = stride > 1 or x.shape[-1] != filters
    skip = conv_bn(x, filters, 1, f"{name}_0", strides=stride, relu=False) if changes else x
    x = conv_bn(x, filters, 3, f"{name}_1", strides=stride, padding="same")
    x = conv_bn(x, filters, 3, f"{name}_2", gamma="zeros", padding="same", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([skip, x]))


def cifar_resnet(depth=56, classes=10, input_shape=(32, 32, 3)):
    """A ResNet for small images, with random weights: three stages of 16, 32 and 64 channels; He et al., section 4.2.

    Args:
        depth: 6 n + 2 for n blocks a stage: 20, 32, 44, 56, 110, ...
        classes: number of logits.
        input_shape: (height, width, 3) of RGB images, 0 to 255.

    Returns:
        An uncompiled keras.Model, (N, height, width, 3) -> logits (N, classes).
    """
    keras_config.check()
    image = keras.Input(input_shape, name="image")
    x = conv_bn(normalised(image, MEAN, STD), 16, 3, "stem", padding="same")
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            x = basic(x, filters, f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)  # (N, 64)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="predictions")(x), name=f"resnet{depth}")


def normalised(image, mean, std):
    """Pixels from 0 to 255 as (x - mean) / std, by a Rescaling's x * scale + offset."""
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    return layers.Rescaling(scale, offset, name="normalization")(image)


def keras_model(name, classes=10, input_shape=(32, 32, 3)):
    """A network of keras.applications that takes RGB from 0 to 255 and answers logits.

    Args:
        name: of its constructor, such as 'MobileNetV2'.
        classes: number of logits.
        input_shape: (height, width, 3).

    Raises:
        InputError: the constructor takes no images of this size.
    """
    keras_config.check()
    constructor = getattr(keras.applications, name)
    image = keras.Input(input_shape, name="image")
    # Some families have their normalisation inside. The others expect what their preprocess_input makes of pixels:
    # -1 to 1, or ImageNet's mean and deviation.
    if KERAS[name] == "tf":
        x = layers.Rescaling(1 / 127.5, -1.0, name="normalization")(image)
    else:
        x = image if KERAS[name] == "inside" else normalised(image, MEAN, STD)
    try:
        net = constructor(input_tensor=x, weights=None, classes=classes, classifier_activation=None)
    except ValueError as error:
        raise InputError(
            f"`architecture`: received {name} for images of {input_shape[0]}x{input_shape[1]}, which it doesn't take: "
            f"{str(error).split('. Received')[0]}; expected larger ones (`image_size`), or another architecture"
        ) from None
    net = keras.Model(image, net.outputs[0], name=net.name)  # with one input, where theirs has a list
    # Keras' momenta of 0.99 and 0.999 would evaluate a training of some hundred steps on statistics of its beginning.
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    # Glorot's weights, which Keras gives, halve the variance behind every ReLU. Without a normalisation the logits of a
    # VGG16 are then all alike, and it doesn't learn: He et al. 2015, arXiv 1502.01852, section 2.2.
    if not any("Normalization" in type(layer).__name__ for layer in net.layers[2:]):
        for layer in net.layers:
            if getattr(layer, "activation", None) is keras.activations.relu and hasattr(layer, "kernel"):
                layer.kernel.assign(keras.initializers.HeNormal()(layer.kernel.shape))
    return net


def build_model(name, classes=10, input_shape=(32, 32, 3)):
    """A new network by its name.

    Args:
        name: of `compress.cli.architectures`: 'ResNet50', 'resnet56', 'MobileNetV2', ...
        classes: number of logits.
        input_shape: (height, width, 3) of RGB images, 0 to 255.

    Returns:
        An uncompiled keras.Model, (N, height, width, 3) -> logits (N, classes), with random weights.

    Raises:
        InputError: the network takes no images of this size.
    """
    if name in BOTTLENECKS:
        return resnet(BOTTLENECKS[name], classes, input_shape)
    if name in BASIC:
        return cifar_resnet(BASIC[name], classes, input_shape)
    return keras_model(name, classes, input_shape)


def unpruned(net):
    """The whole network that a pruned or shortened ResNet is a part of, as its layers' names tell.

    Args:
        net: a keras.Model.

    Returns:
        The smallest of ResNet50, 101 and 152 that has all its blocks, with random weights, for its images and classes;
        None for a network that is no part of one.
    """
    blocks, names = {}, {layer.name for layer in net.layers if layer.weights}
    for name in names:
        if found := re.fullmatch(r"conv([2-5])_block(\d{1,2})_[0-3]_conv", name):
            blocks[int(found[1])] = max(blocks.get(int(found[1]), 0), int(found[2]))
    depth = next((d for d, counts in BLOCKS.items() if all(blocks.get(s, 99) <= counts[s - 2] for s in range(2, 6))), 0)
    sides = {kernel: stem for stem, (kernel, _) in STEMS.items()}
    stem = sides.get(net.get_layer("conv1_conv").kernel_size[0]) if "conv1_conv" in names else None
    if not depth or stem is None or None in net.input_shape[1:]:
        return None
    whole = resnet(depth, net.output_shape[-1], net.input_shape[1:], stem)
    return whole if names - {net.layers[-1].name} <= {layer.name for layer in whole.layers} else None
