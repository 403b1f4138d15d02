"""One image file as RGB of 8 bits, as a viewer shows it: any depth, transparency, the way the camera was held."""

import contextlib
from dataclasses import dataclass

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# the decoders of these alone: Pillow looks at the content, and has one that starts Ghostscript
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
DEPTHS = (1, 15, 255, 1023, 4095, 16383, 65535)  # the largest numbers of 1, 4, 8, 10, 12, 14 and 16 bits
GROUNDS = {"white": 255, "black": 0}
WHITE_INK = 230  # mean lightness of what a transparent image draws, from which on white ground leaves it blank
_LIMITS = ("at most 89 are read, of JPEGs 178, as a small file could fill the memory: make it smaller, such as by "
           "mogrify -resize 4000x4000")


class TooLarge(ValueError):
    """An image of more pixels than are decoded; its text says how many are."""


@dataclass(frozen=True)
class Look:
    """How the pixels of a data set are shown that aren't plain 8-bit RGB; None where no image needed it.

    whole: the number that becomes 255 in images of whole numbers of more than 8 bits, one of DEPTHS. floating: the
    same in images of floating point, 1.0 or 255.0. ground: 'white' or 'black', what shows through transparent pixels.
    """

    whole: int | None = None
    floating: float | None = None
    ground: str | None = None


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are read.

    size: (h, w) as shown. depth: '' for 8 bits a channel, 'whole' or 'floating' for one channel of more, 'colour' for
    several of 16 bits. transparent: it has an alpha channel or a transparent colour. animated: it has further frames.
    """

    size: tuple
    depth: str
    transparent: bool
    animated: bool


@dataclass(frozen=True)
class Extremes:
    """What the pixels of an image say of how to show them.

    low, high: of its numbers (NaN where one is no number); of 16-bit colour the upper 8 bits. ink: mean lightness, 0
    to 255, of what an image with transparent pixels draws; None for opaque ones.
    """

    path: str
    depth: str
    low: float = 0
    high: float = 0
    ink: float | None = None


def natural_scale(depth, low, high):
    """The full scale of numbers that reach from `low` to `high` over a whole data set.

    Returns:
        Of whole numbers the smallest of DEPTHS that holds them, of floating point 1.0 or 255.0; None where there is no
        natural one: numbers below 0, above 16 bits, or a range that would leave less than a sixteenth of the light.
    """
    if not low >= 0:  # NaN too
        return None
    if depth == "whole":
        return next((scale for scale in DEPTHS if high <= scale), None) if high else 255
    return next((scale for scale in (1.0, 255.0) if scale / 16 <= high <= 1.001 * scale), None) if high else 1.0


def read_header(path):
    """The Header of a file. Raises whatever Pillow raises for a damaged one."""
    with _opened(path) as file:
        size = file.size if _orientation(file) >= 5 else file.size[::-1]  # lying on its side
        animated = file.format != "MPO" and getattr(file, "is_animated", False)  # MPO: a JPEG with a preview behind it
        depth = _depth(file)
        return Header(size, depth, depth in ("", "colour") and _is_transparent(file), animated)


def examine(path):
    """The Extremes of a file. Raises whatever Pillow raises for a damaged one."""
    with _opened(path) as file:
        depth = _depth(file)
        if depth in ("whole", "floating"):
            numbers = np.asarray(file)
            return Extremes(path, depth, numbers.min().item(), numbers.max().item())
        high = max(high for _, high in file.convert("RGB").getextrema()) if depth else 0
        pixels, ink = file.convert("RGBA") if _is_transparent(file) else None, None
        if pixels and pixels.getextrema()[3][0] < 255 and pixels.getextrema()[3][1]:
            ink = float(np.average(np.asarray(pixels.convert("L")), weights=np.asarray(pixels.getchannel("A"))))
        return Extremes(path, depth, 0, high, ink)


def decode(path, size, look=None):
    """One image as RGB.

    Args:
        path: of a file in one of FORMATS.
        size: (h, w).
        look: a Look that has what this image needs.

    Returns:
        uint8 (h, w, 3).

    Raises:
        OverflowError: numbers outside the look's full scale.
        Exception: for a damaged file whatever Pillow raises; ValueError for one that shows nothing.
    """
    from PIL import Image

    look = look or Look()
    with _opened(path) as file:
        if _is_signed(file):
            raise ValueError("signed pixels of 8 bits, expected unsigned ones")
        _within_memory(file)
        depth = _depth(file)
        if depth in ("whole", "floating"):
            scale = look.whole if depth == "whole" else look.floating
            inverse = file.format == "TIFF" and file.tag_v2.get(262) == 0  # Pillow inverts those of 8 bits alone
            image = Image.fromarray(_eight_bits(np.asarray(_turned(file)), scale, inverse))
        else:
            image = _turned(file)
            if _is_transparent(image):
                image = _on_ground(image.convert("RGBA"), look.ground or "white")
        return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))


@contextlib.contextmanager
def _opened(path):
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS  # a quarter of a GiB of RGB; Pillow itself opens nothing of twice as many
    try:
        file = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"of more than {2 * limit / 1e6:,.0f} megapixels, {_LIMITS}") from None
    with file:
        if file.width * file.height > limit and not _drafts(file):
            raise TooLarge(f"of {file.width * file.height / 1e6:,.0f} megapixels, {_LIMITS}")
        yield file


def _drafts(file):
    return file.format in ("JPEG", "MPO")  # whose decoder can give half of each side, a quarter of the memory


def _within_memory(file):
    """Has a JPEG of too many pixels decoded at half its sides, before it is loaded."""
    from PIL import Image

    if file.width * file.height > Image.MAX_IMAGE_PIXELS:
        file.draft(None, (file.width // 2, file.height // 2))


def _depth(file):
    """`Header.depth` of an open file."""
    if file.mode == "F":
        return "floating"
    if file.mode.startswith("I"):
        return "whole"
    words = file.tile[0].args if file.tile else ()  # Pillow keeps the upper 8 of 16 bits and tells so nowhere else
    words = words if isinstance(words, tuple) else (words,)
    if file.format == "PPM":
        return "colour" if any(type(word) is int and word > 255 for word in words) else ""
    return "colour" if any(isinstance(word, str) and ";16" in word for word in words) else ""


def _is_signed(file):
    return file.format == "TIFF" and file.mode == "L" and 2 in file.tag_v2.get(339, ())  # Pillow takes them as unsigned


def _is_transparent(image):
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _orientation(file):
    """The EXIF number of how an image is turned, 1 to 8; 1 for TIFFs, which Pillow turns itself."""
    if file.format == "TIFF" or (file.format == "PNG" and not {"exif", "Raw profile type exif"} & file.info.keys()):
        return 1  # of a PNG without it, Pillow would read all pixels
    with contextlib.suppress(Exception):  # a damaged tag is no reason to lose the picture
        number = file.getexif().get(0x0112)
        return number if number in range(1, 9) else 1
    return 1


def _turned(file):
    """The image as it is to be held, its pixels read."""
    from PIL import Image

    turns = Image.Transpose
    file.load()
    number = _orientation(file)  # a PNG's may stand behind its pixels
    if number == 1:
        return file
    return file.transpose((turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE,
                           turns.ROTATE_270, turns.TRANSVERSE, turns.ROTATE_90)[number - 2])


def _on_ground(image, ground):
    """An RGBA image with a ground behind it; opaque pixels stay as they are.

    Raises:
        ValueError: it draws in the ground's colour, so that nothing is to be seen.
    """
    from PIL import Image

    shown = Image.alpha_composite(Image.new("RGBA", image.size, (GROUNDS[ground],) * 3 + (255,)), image)
    thinnest, thickest = image.getextrema()[3]
    if thickest - thinnest > 32 and all(high - low <= 2 for low, high in shown.getextrema()):
        raise ValueError(f"it draws in {ground} on transparent ground, which is shown as {ground}")
    return shown


def _eight_bits(numbers, scale, inverse):
    """uint8 of numbers from 0 to `scale`; inverse: 0 is white.

    Raises:
        OverflowError: a number outside of it.
    """
    low, high = numbers.min().item(), numbers.max().item()
    if not 0 <= low <= high <= scale * (1.001 if isinstance(scale, float) else 1):
        raise OverflowError(f"values from {low:,} to {high:,}, expected 0 to {scale:,}")
    if isinstance(scale, float):
        shown = np.rint(numbers * (255 / scale)).clip(0, 255)
    else:
        shown = numbers >> (scale.bit_length() - 8) if scale > 255 else numbers * (255 // scale)
    return (255 - shown if inverse else shown).astype(np.uint8)
