"""How training images are varied at random: shifts and mirror images, random crops, RandAugment."""

from dataclasses import dataclass

import numpy as np

LEAST_AREA = 0.08  # of an image, which a random crop shows at least
RATIOS = (3 / 4, 4 / 3)  # width / height of a random crop
TRIES = 10
OPERATIONS = 2  # of RandAugment, one behind the other
STRENGTH = 9 / 30  # the magnitude of each, as a share of its range; 9 of 30 is the paper's for ResNet50 (section 4.2)
LARGE = 64 * 64  # pixels of an image from which on it is moved by itself
GREY = (128, 128, 128)  # what comes into an image from outside


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image.

    Attributes:
        pad: largest random shift in pixels; 0 for none.
        hflip: probability with which it is mirrored left to right; 0 for never.
        crop: whether a random part of it is enlarged to the whole, rather than shifting it.
        operations: how many operations of RandAugment follow.
    """

    pad: int = 0
    hflip: float = 0.0
    crop: bool = False
    operations: int = 0

    def __bool__(self):
        return bool(self.pad or self.hflip or self.crop or self.operations)


def draw(augmentation, count, sides, rng):
    """The random numbers of a batch.

    They are drawn for the whole batch, in an order that never changes: a run that goes on later, or on several
    devices, sees the images that it would have seen.

    Args:
        augmentation: an Augmentation.
        count: n, images of the batch.
        sides: (h, w) of the stored images.
        rng: a numpy Generator.

    Returns:
        List of arrays of n rows each, to be given to `apply`: shifts down and right (n, 1), mirrored or not (n, 1), box
        of the crop (n, 4) as left, top, right, bottom in pixels, and numbers of RandAugment (n, operations, 2).
    """
    pad = 0 if augmentation.crop else augmentation.pad
    down, right = rng.integers(-pad, pad + 1, (count, 1)), rng.integers(-pad, pad + 1, (count, 1))
    # Behind the shifts: with another probability a run draws the same shifts, so that nothing else of it changes.
    mirrored = rng.random((count, 1)) < augmentation.hflip if augmentation.hflip else np.zeros((count, 1), bool)
    boxes = _boxes(count, sides, rng) if augmentation.crop else np.zeros((count, 4))
    return [down, right, mirrored, boxes, rng.random((count, augmentation.operations, 2))]


def _boxes(count, sides, rng):
    """Random crops: area uniform between LEAST_AREA and all, ratio log-uniform in RATIOS; Szegedy et al. 2015, Going
    Deeper with Convolutions, arXiv 1409.4842, section 6. What doesn't fit is drawn anew; of TRIES in vain, the middle.

    Returns:
        (count, 4), left, top, right, bottom.
    """
    height, width = sides
    area = height * width * rng.uniform(LEAST_AREA, 1, (count, TRIES))
    ratio = np.exp(rng.uniform(*np.log(RATIOS), (count, TRIES)))
    w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (w <= width) & (h <= height)
    first = fits.argmax(1)
    w, h = (np.take_along_axis(side, first[:, None], 1)[:, 0] for side in (w, h))
    least = min(sides)
    w, h = np.where(fits.any(1), w, least), np.where(fits.any(1), h, least)
    left, top = rng.random(count) * (width - w), rng.random(count) * (height - h)
    middle = ~fits.any(1)
    left, top = np.where(middle, (width - w) / 2, left), np.where(middle, (height - h) / 2, top)
    return np.stack([left, top, left + w, top + h], 1)


def apply(augmentation, images, numbers, size, each=map):
    """Varies a batch of images.

    Args:
        augmentation: an Augmentation.
        images: uint8 (n, h, w, 3), as they are stored.
        numbers: of `draw`.
        size: (h, w) of the result.
        each: as `map`; that of a pool of threads varies several images at once.

    Returns:
        uint8 (n, *size, 3).
    """
    down, right, mirrored, boxes, policy = numbers
    if augmentation.crop:
        images = np.stack([*each(_cropped, images, boxes, [size] * len(images))])
    else:
        images = middle(images, size)
    if augmentation.pad or augmentation.hflip:
        images = moved(images, np.arange(len(images)), down, right, mirrored)
    if augmentation.operations:
        images = np.stack([*each(_randomly_changed, images, policy)])
    return images


def middle(images, size):
    """The middle of images (..., h, w, 3) in `size` (h, w); a view, the images themselves where they have that size."""
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[-3:-1], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1], :]


def _cropped(image, box, size):
    """A part of one image (h, w, 3), enlarged or reduced to `size`."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box=tuple(box)))


def moved(images, chosen, down, right, mirrored):
    """Some images, shifted and mirrored; reflected pixels fill the border.

    The augmentation of He et al. 2016, arXiv 1512.03385, section 4.2, for CIFAR: a random crop from the padded image.

    Args:
        images: uint8 (N, h, w, 3).
        chosen: (n,) indices of the images.
        down: (n, 1) pixels, smaller than h.
        right: (n, 1) pixels, smaller than w.
        mirrored: (n, 1) bool.

    Returns:
        uint8 (n, h, w, 3).
    """
    (h, w), n = images.shape[1:3], len(chosen)
    # Shift and mirror only choose which pixel is copied where.
    # rows (n, h): the source row of each output row; index -1 reflects to 1, index h to h - 2. cols (n, w): likewise.
    rows, cols = np.abs(down + np.arange(h)), np.abs(right + np.arange(w))
    rows, cols = np.minimum(rows, 2 * (h - 1) - rows), np.minimum(cols, 2 * (w - 1) - cols)
    cols = np.where(mirrored, cols[:, ::-1], cols)
    pixels = np.ascontiguousarray(images).view("V3").reshape(-1, h, w)  # RGB as one item of three bytes
    if h * w > LARGE:  # rows first, then columns: half the time of an index for each pixel
        varied = np.empty((n, h, w), "V3")
        for i, image in enumerate(chosen):
            pixels[image].take(rows[i], 0).take(cols[i], 1, out=varied[i])
        return varied.view(np.uint8).reshape(n, h, w, 3)
    where = (chosen[:, None, None] * h + rows[:, :, None]) * w + cols[:, None, :]  # (n, h, w)
    return pixels.reshape(-1).take(where.reshape(-1)).view(np.uint8).reshape(n, h, w, 3)  # 0.5 ms for 128 of 32x32


# ---- RandAugment ------------------------------------------------------------------------------------------------

# Cubuk et al. 2020, RandAugment, arXiv 1909.13719, section 3: operations drawn from this list with one strength, whose
# ranges are those of AutoAugment (arXiv 1805.09501, table 6). Each is function(image, strength, sign), an image of
# Pillow, strength from 0 to 1 and sign -1 or 1, and made of Pillow's own.


def _affine(terms):
    """An operation that moves pixels: terms(value, width, height) -> the six numbers of Pillow's affine transform."""

    def change(image, value):
        from PIL import Image

        numbers = terms(value, *image.size)
        return image.transform(image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR, fillcolor=GREY)

    return change


def _enhanced(name):
    """An operation of PIL.ImageEnhance whose factor is 1 plus the value."""

    def change(image, value):
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + value)

    return change


def _of_colours(name):
    """An operation of PIL.ImageOps on colours."""

    def change(image, *value):
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *value)

    return change


def _rotated(image, value):
    from PIL import Image

    return image.rotate(value, Image.Resampling.BILINEAR, fillcolor=GREY)


POLICY = (  # (operation, function of strength and sign that gives its value; None for one without)
    (lambda image: image, None),
    (_of_colours("autocontrast"), None),
    (_of_colours("equalize"), None),
    (_rotated, lambda strength, sign: sign * 30 * strength),  # degrees
    (_of_colours("solarize"), lambda strength, sign: 256 - round(256 * strength)),  # inverts what is brighter
    (_of_colours("posterize"), lambda strength, sign: 8 - round(4 * strength)),  # bits that are kept
    (_enhanced("Color"), lambda strength, sign: sign * 0.9 * strength),
    (_enhanced("Contrast"), lambda strength, sign: sign * 0.9 * strength),
    (_enhanced("Brightness"), lambda strength, sign: sign * 0.9 * strength),
    (_enhanced("Sharpness"), lambda strength, sign: sign * 0.9 * strength),
    (_affine(lambda v, w, h: (1, v, -v * h / 2, 0, 1, 0)), lambda strength, sign: sign * 0.3 * strength),  # shear
    (_affine(lambda v, w, h: (1, 0, 0, v, 1, -v * w / 2)), lambda strength, sign: sign * 0.3 * strength),
    (_affine(lambda v, w, h: (1, 0, v * w, 0, 1, 0)), lambda strength, sign: sign * 0.45 * strength),  # shift
    (_affine(lambda v, w, h: (1, 0, 0, 0, 1, v * h)), lambda strength, sign: sign * 0.45 * strength),
)


def _randomly_changed(image, numbers):
    """One image (h, w, 3) behind the operations that numbers (operations, 2), 0 to below 1, choose."""
    from PIL import Image

    picture = Image.fromarray(image)
    for which, side in numbers:
        change, value = POLICY[int(which * len(POLICY))]
        picture = change(picture, *([value(STRENGTH, 1 if side < 0.5 else -1)] if value else []))
    return np.asarray(picture)
