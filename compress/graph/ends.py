"""Folds the two ends of a model from elsewhere: layers on pixels into one normalisation, heads into Dense layers.

All arithmetic is in float64. A single layer, which needs no folding, keeps its numbers to the last bit.
"""

import dataclasses

import numpy as np

from compress.graph import resnet
from compress.graph.reader import Unread

AFFINE = ("affine", "norm", "normalization")  # parts that compute scale x + offset for each channel
MOST_CHANNELS = 1000  # of pixels: a hostile file could double the channels again and again until the memory is full
SMALLEST = 1e-7  # keras.layers.Normalization divides by this where the deviation is smaller


@dataclasses.dataclass
class Pixels:
    """The tensor between image and first convolution: each channel is scale x one channel of the image + offset.

    Attributes:
        sources: int (channels,), 0 to 2, which of R, G and B a channel comes from.
        scale, offset: float64 (channels,).
        whole: whether the tensor is of integers; a division, a Rescaling and a cast make it floating point.
        flat: whether it is a single channel (N, h, w), without the axis of channels.
    """

    sources: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    whole: bool = False
    flat: bool = False


def affine_of(part, width, read):
    """Scale and offset of a part.

    Args:
        part: an operations.Part whose `what` is one of AFFINE.
        width: number of channels.
        read: function(part, name of a weight, shape) -> array from the file.

    Returns:
        (scale, offset), each float64 (width,).

    Raises:
        Unread: the part has another number of channels.
    """
    values, ones = part.values, np.ones(width)
    if part.what == "affine":
        scale, offset = values["scale"], values["offset"]
    elif part.what == "normalization":
        shape = (width,) * len(values["shape"])  # one number a channel, or one for all
        mean, variance = (
            np.asarray(read(part, name, shape) if values[name] is None else values[name], np.float64)
            for name in ("mean", "variance")
        )
        deviation = np.maximum(np.sqrt(variance), SMALLEST)
        scale, offset = (deviation, mean) if values["invert"] else (1 / deviation, -mean / deviation)
    else:
        gamma, beta, mean, variance = norm_of(part, width, read)
        scale = gamma / np.sqrt(variance + values["epsilon"])
        offset = beta - mean * scale
    if any(np.size(value) not in (1, width) for value in (scale, offset)):
        raise Unread(f"{part} with {max(np.size(scale), np.size(offset))} numbers for {width} channels")
    return scale * ones, offset * ones


def norm_of(part, width, read):
    """(gamma, beta, mean, variance), each float64 (width,), of a batch-normalisation; a missing gamma is 1, beta 0."""

    def found(weight, there, other):
        return np.asarray(read(part, weight, (width,)), np.float64) if there else np.full(width, other)

    return (
        found("gamma", part.values["gamma"], 1.0),
        found("beta", part.values["beta"], 0.0),
        found("moving_mean", True, 0.0),
        found("moving_variance", True, 0.0),
    )


def pixels_behind(part, before, read):
    """The output of a part that acts on each channel of the pixels separately; None for any other part.

    Args:
        part: an operations.Part.
        before: list of the Pixels that it reads.
        read: as in `affine_of`.

    Returns:
        Pixels or None.

    Raises:
        Unread: the part computes with integers, or its channels don't fit.
    """
    one = before[0]
    if part.what == "cast":
        dtype = part.step.config.get("dtype", part.step.kwargs.get("dtype", "?"))
        if "float" not in str(dtype):
            raise Unread(f"{part} to {dtype!s:.20}; expected a float")
        return dataclasses.replace(one, whole=False)
    # s2 (s1 x + o1) + o2 = s1 s2 x + (o1 s2 + o2): affine parts one after the other are one.
    if part.what in AFFINE:
        # Integers may overflow: 250 + 10 is 4 in uint8. Layers that convert to floating point first are exact.
        if one.whole and part.step.kind not in ("Rescaling", "Normalization", "TrueDivide", "Divide"):
            raise Unread(f"{part}, which reckons in whole numbers, as the images' dtype is; expected a Rescaling first")
        scale, offset = affine_of(part, len(one.sources), read)
        return dataclasses.replace(one, scale=one.scale * scale, offset=one.offset * scale + offset, whole=False)
    if part.what in ("pick", "flip"):
        return _picked(part, one, part.values.get("channels", slice(None, None, -1)))
    # Concatenate joins channels (N, h, w, 1), Stack joins maps without that axis (N, h, w).
    if part.what == "stack" and all(pixels.flat == (part.step.kind == "Stack") for pixels in before):
        if sum(len(pixels.sources) for pixels in before) > MOST_CHANNELS:
            raise Unread(f"{part}, which makes pixels of more than {MOST_CHANNELS} channels; expected 3")
        return Pixels(
            *(np.concatenate([getattr(pixels, name) for pixels in before]) for name in ("sources", "scale", "offset")),
            whole=any(pixels.whole for pixels in before),
        )
    return None


def _picked(part, pixels, channels):
    """The Pixels of some channels; `channels` is an index or a slice."""
    try:
        kept = np.arange(len(pixels.sources))[channels]
    except IndexError:
        raise Unread(f"{part}, which picks channel {channels} of {len(pixels.sources)}") from None
    kept = np.atleast_1d(kept)
    return dataclasses.replace(
        pixels,
        sources=pixels.sources[kept],
        scale=pixels.scale[kept],
        offset=pixels.offset[kept],
        flat=isinstance(channels, int),
    )


def normalization_of(pixels):
    """The normalisation that pixels amount to, with their channels put into the order R, G, B.

    Args:
        pixels: the Pixels that the first convolution reads.

    Returns:
        ((mean, standard deviation) of R, G and B, order), where kernel[:, :, order] of the first convolution reads the
        channels in the order R, G, B.

    Raises:
        Unread: a channel is missing, occurs twice, or is constant.
    """
    # Models trained by "caffe" preprocessing read B, G, R. Reordering the kernel saves a layer that flips the image.
    if sorted(pixels.sources) != [0, 1, 2] or not pixels.scale.all():
        raise Unread(
            f"pixels whose channels come from R, G and B as {pixels.sources.tolist()}, scaled by "
            f"{pixels.scale.tolist()}; expected each once, and none by 0"
        )
    order = np.argsort(pixels.sources)
    scale, offset = pixels.scale[order], pixels.offset[order]
    return resnet.normalization_of(scale.tolist(), offset.tolist()), order


def dense_of(parts, width, read):
    """Folds Dense layers without an activation between them, and the affine parts around them, into one Dense layer.

    Args:
        parts: list of operations.Part, each 'dense' or one of AFFINE, at least one 'dense'.
        width: number of inputs of the first.
        read: as in `affine_of`.

    Returns:
        (kernel float32 (width, units), bias float32 (units,)).
    """
    if len(parts) == 1:
        kernel = read(parts[0], "kernel", (width, None))
        bias = read(parts[0], "bias", kernel.shape[1:]) if parts[0].values["bias"] else None
        return np.asarray(kernel, "float32"), np.zeros(kernel.shape[1], "float32") if bias is None else np.asarray(
            bias, "float32"
        )
    # Everything so far is x -> (x * scale) before the first Dense layer, x @ kernel from it on, and + offset in both
    # cases. `kernel` is None before the first Dense layer.
    kernel, scale, offset = None, np.ones(width), np.zeros(width)
    for part in parts:
        if part.what == "dense":  # (x K + o) M + b = x (K M) + (o M + b)
            matrix = np.asarray(read(part, "kernel", (width, None)), np.float64)
            added = np.asarray(read(part, "bias", matrix.shape[1:]), np.float64) if part.values["bias"] else 0.0
            kernel = scale[:, None] * matrix if kernel is None else kernel @ matrix
            offset, width = offset @ matrix + added, matrix.shape[1]
        else:  # (x K + o) f + s = x (K f) + (o f + s), with f for each column of K
            factor, shift = affine_of(part, width, read)
            offset = offset * factor + shift
            scale, kernel = (scale * factor, None) if kernel is None else (scale, kernel * factor)
    return kernel.astype("float32"), (offset * np.ones(width)).astype("float32")
