"""Decodes one image file to 8-bit RGB as a viewer shows it: any bit depth, transparency, EXIF orientation."""

import contextlib
import sys
from dataclasses import dataclass

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Pillow chooses its decoder by the content of a file, not by its suffix, and its decoder of PostScript starts
# Ghostscript, which runs the program that a PostScript file is. So only these decoders are allowed.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
DEPTHS = (1, 15, 255, 1023, 4095, 16383, 65535)  # the largest numbers of 1, 4, 8, 10, 12, 14 and 16 bits
GROUNDS = {"white": 255, "black": 0}
WHITE_INK = 230  # mean lightness, 0 to 255, from which a drawing can't be seen on a white background
# Pillow's raw modes of 16 bits a channel end in the order of a value's two bytes: big-endian, little-endian, native.
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
FAINT = 16  # alpha, 0 to 255, below which everywhere a picture would be blank: such an alpha says nothing
_LIMITS = (
    "at most 89 are read, of JPEGs 178, as a small file could fill the memory: make it smaller, such as by "
    "mogrify -resize 4000x4000"
)


class TooLarge(ValueError):
    """An image has more pixels than are decoded; the text says how many may be."""


class NoScale(ValueError):
    """An image has more than 8 bits, which none had when the scale of the others was looked for."""


@dataclass(frozen=True)
class Look:
    """How the images of a data set are converted to 8-bit RGB. A value is None where no image needed it.

    Attributes:
        whole: the integer that becomes 255 in images of more than 8 bits, one of DEPTHS.
        floating: the number that becomes 255 in images of floating point, 1.0 or 255.0.
        colour: the integer that becomes 255 in several channels of 16 bits, one of DEPTHS.
        ground: background of transparent pixels, 'white' or 'black'.
        jpeg: 'scaled' where JPEGs are decoded at the smallest scale that is no smaller than what is asked for, which is
            quicker and gives slightly other pixels.
        fit: 'crop' where images keep their proportions, and the middle of each is taken; see `kept`.
    """

    whole: int | None = None
    floating: float | None = None
    colour: int | None = None
    ground: str | None = None
    jpeg: str | None = None
    fit: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says, without its pixels.

    Attributes:
        size: (h, w), after the EXIF orientation is applied.
        depth: '' for 8 bits a channel, 'whole' for one channel of integers of more bits, 'floating' for one channel of
            floating point, 'colour' for several channels of 16 bits.
        transparent: whether there is an alpha channel or a transparent colour.
        animated: whether there are further frames.
    """

    size: tuple
    depth: str
    transparent: bool
    animated: bool


@dataclass(frozen=True)
class Extremes:
    """What has to be known of an image's pixels before a data set can be converted to 8 bits.

    Attributes:
        path: of the file.
        depth: as in Header.
        low, high: the smallest and the largest value, NaN where a value is NaN; alpha is none.
        ink: mean lightness, 0 to 255, weighted by alpha; None for an image without transparent pixels.
        faint: whether alpha hides the whole picture, so that its colours are shown without it.
        is_exact: whether all bits are read; of some files of 16 bits a channel only the upper 8 are.
    """

    path: str
    depth: str
    low: float = 0
    high: float = 0
    ink: float | None = None
    faint: bool = False
    is_exact: bool = True


def kept(size, look):
    """(h, w) of what is kept of an image that is shown as `size` (h, w).

    Where proportions are kept, it is larger than what is shown, and what is shown is its middle: 224 of 256 pixels, as
    networks for ImageNet are evaluated since Krizhevsky et al. 2012, section 4.1, there with crops of 224.
    """
    return tuple(round(side * 256 / 224) for side in size) if look.fit == "crop" else tuple(size)


def natural_scale(depth, low, high):
    """The value that stands for white, found from the range of values of a whole data set.

    A file doesn't say it: a 12-bit sensor stores 0 to 4,095 in 16 bits. A scale for each image would remove differences
    in brightness between images, so all images of a data set share one.

    Args:
        depth: 'whole', 'floating' or 'colour'.
        low: smallest value of the data set.
        high: largest value.

    Returns:
        For integers the smallest of DEPTHS that is at least `high`; for floating point 1.0 or 255.0. None for values
        that fit neither: below 0, above 16 bits, or floating point below a sixteenth of the scale.
    """
    if not low >= 0:  # so that NaN is refused too
        return None
    if depth != "floating":
        return next((scale for scale in DEPTHS if high <= scale), None) if high else 255
    return next((scale for scale in (1.0, 255.0) if scale / 16 <= high <= 1.001 * scale), None) if high else 1.0


def read_header(path):
    """The Header of a file. For a damaged file it raises whatever Pillow raises."""
    with _opened(path) as file:
        # Pillow's size is (w, h). EXIF orientations 5 to 8 turn by 90 degrees, which exchanges the sides once more.
        size = file.size if _orientation(file) >= 5 else file.size[::-1]
        animated = file.format != "MPO" and getattr(file, "is_animated", False)  # MPO: a JPEG followed by its preview
        depth = _depth(file)
        return Header(size, depth, depth in ("", "colour") and _is_transparent(file), animated)


def examine(path):
    """The Extremes of a file. For a damaged file it raises whatever Pillow raises."""
    with _opened(path) as file:
        depth = _depth(file)
        if depth in ("whole", "floating"):
            numbers = np.asarray(file)
            return Extremes(path, depth, numbers.min().item(), numbers.max().item())
        low, high, is_exact, image = 0, 0, True, file
        if depth:
            numbers, is_exact = _channels(file)
            colours = numbers[..., : 3 if numbers.shape[-1] > 2 else 1]
            low, high = colours.min().item(), colours.max().item()
            image = _of_channels(file, numbers, natural_scale(depth, low, high), is_exact)
        # An alpha channel that is 255 everywhere hides nothing.
        pixels, ink, faint = image.convert("RGBA") if _is_transparent(image) else None, None, False
        if pixels and pixels.getextrema()[3][0] < 255:
            faint = _is_faint(pixels)
            if not faint and pixels.getextrema()[3][1]:
                ink = float(np.average(np.asarray(pixels.convert("L")), weights=np.asarray(pixels.getchannel("A"))))
        return Extremes(path, depth, low, high, ink, faint, is_exact)


def decode(path, size, look=None):
    """Decodes one image and resizes it.

    Args:
        path: of a file in one of FORMATS.
        size: (h, w) that is shown of it; bilinear, antialiased.
        look: a Look whose values that this image needs are set.

    Returns:
        uint8 (h, w, 3), of `kept(size, look)`.

    Raises:
        OverflowError: values outside the look's scale.
        ValueError: signed pixels, or a drawing in the colour of the background.
        NoScale: the look has no value for the image's depth.
        Exception: for a damaged file whatever Pillow raises.
    """
    from PIL import Image, ImageOps

    look = look or Look()
    size = kept(size, look)
    with _opened(path) as file:
        if _is_signed(file):
            raise ValueError("signed pixels of 8 bits, expected unsigned ones")
        if look.jpeg == "scaled" and _drafts(file) and min(file.size) >= 2 * max(size):
            # A JPEG holds blocks of 8x8 pixels as frequencies. Its decoder can leave out the high ones, which gives an
            # image of a half, a quarter or an eighth of the size, rather than compute pixels that resizing averages.
            file.draft(None, (max(size),) * 2)  # of no side, which the orientation may exchange, less than is asked for
        else:
            _within_memory(file)
        depth = _depth(file)
        # Pillow's own conversion of more than 8 bits to RGB clips at 255: a 16-bit image would become white.
        if depth in ("whole", "floating"):
            scale = look.whole if depth == "whole" else look.floating
            if scale is None:
                raise NoScale("it has more than 8 bits, and had none of them when this run began")
            # TIFF tag 262, PhotometricInterpretation: 0 is "white is zero". Pillow inverts only 8-bit images.
            inverse = file.format == "TIFF" and file.tag_v2.get(262) == 0
            image = Image.fromarray(_eight_bits(np.asarray(_turned(file)), scale, inverse))
        else:
            image = _turned(file, _shown(file, look.colour) if depth else None)
            if _is_transparent(image):
                pixels = image.convert("RGBA")
                # The conversion divides premultiplied colours by alpha. If that says nothing, they are as they stand.
                raw = Image.merge("RGB", image.split()[:3]) if image.mode == "RGBa" else pixels
                image = raw if _is_faint(pixels) else _on_ground(pixels, look.ground or "white")
        # Pillow widens the bilinear filter when it makes an image smaller, which averages pixels rather than skip them.
        image = image if image.mode == "RGB" else image.convert("RGB")
        if look.fit == "crop":
            return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR))
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


@contextlib.contextmanager
def _opened(path):
    """Opens a file with Pillow, unless its header promises more pixels than fit into memory (a decompression bomb)."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS  # a quarter of a GiB of RGB; Pillow itself refuses twice as many
    try:
        file = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooLarge(f"of more than {2 * limit / 1e6:,.0f} megapixels, {_LIMITS}") from None
    with file:
        if file.width * file.height > limit and not _drafts(file):
            raise TooLarge(f"of {file.width * file.height / 1e6:,.0f} megapixels, {_LIMITS}")
        yield file


def _drafts(file):
    return file.format in ("JPEG", "MPO")  # its decoder can halve both sides, which takes a quarter of the memory


def _within_memory(file):
    """Sets a JPEG of too many pixels to be decoded at half its width and height; to be called before it is loaded."""
    from PIL import Image

    if file.width * file.height > Image.MAX_IMAGE_PIXELS:
        file.draft(None, (file.width // 2, file.height // 2))


def _depth(file):
    """`Header.depth` of an open file."""
    if file.mode == "F":
        return "floating"
    if file.mode.startswith("I"):
        return "whole"
    # Pillow opens 16-bit colour in 8-bit modes and drops the lower 8 bits. The arguments of its decoder, such as
    # 'RGB;16B' for a TIFF or the largest value for a PPM, are the only place that shows it.
    words = file.tile[0].args if file.tile else ()
    words = words if isinstance(words, tuple) else (words,)
    if file.format == "PPM":
        return "colour" if any(type(word) is int and word > 255 for word in words) else ""
    return "colour" if any(isinstance(word, str) and ";16" in word for word in words) else ""


def _is_signed(file):
    # TIFF tag 339, SampleFormat: 2 is signed integers, which Pillow reads as unsigned ones without a word.
    return file.format == "TIFF" and file.mode == "L" and 2 in file.tag_v2.get(339, ())


def _is_transparent(image):
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _is_faint(image):
    """Whether the alpha of an RGBA image would hide a picture entirely.

    Screenshots and 32-bit bitmaps often have 0 in their fourth byte, which was never meant as alpha.
    """
    *colours, alpha = image.getextrema()
    return alpha[1] < FAINT and any(high - low > 2 for low, high in colours)


def _orientation(file):
    """The EXIF orientation of an image, 1 (upright) to 8; 1 for TIFF files, which Pillow turns itself."""
    # `getexif` of a PNG without EXIF data would decode all pixels, to search behind them.
    if file.format == "TIFF" or (file.format == "PNG" and not {"exif", "Raw profile type exif"} & file.info.keys()):
        return 1
    with contextlib.suppress(Exception):  # the pixels are sound where only this tag is damaged
        number = file.getexif().get(0x0112)  # EXIF tag Orientation
        return number if number in range(1, 9) else 1
    return 1


def _channels(file):
    """The values of an open file of several channels of 16 bits.

    Returns:
        (uint16 (h, w, channels): grey or RGB, then alpha where there is one; whether all their bits are the file's).
    """
    from PIL import Image

    file.load()
    upper = np.asarray(file if file.mode in ("RGB", "RGBA") else file.convert("RGB"), np.uint16)
    with Image.open(file.filename, formats=FORMATS) as again:
        words = again.tile[0].args if again.tile else ""
        mode = words if isinstance(words, str) else words[0]
        if mode == "LA;16B":  # four bytes a pixel, which are read as if they were four channels
            again.tile = [tile._replace(args="RGBA") for tile in again.tile]
            pairs = np.asarray(again, np.uint16)
            return pairs[..., ::2] << 8 | pairs[..., 1::2], True
        if mode in {f"{kind};16{order}" for kind in ("RGB", "RGBA", "RGBX") for order in OTHER_ORDER}:
            # Pillow keeps the upper byte of each value; with the other byte order, the lower one.
            other = mode[:-1] + OTHER_ORDER[mode[-1]]
            again.tile = [
                tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
                for tile in again.tile
            ]
            return upper << 8 | np.asarray(again, np.uint16), True
    return upper * np.uint16(257), False


def _shown(file, scale):
    """The 8-bit image of an open file of several channels of 16 bits, of which `scale` becomes 255; None for 65535."""
    numbers, is_exact = _channels(file)
    return _of_channels(file, numbers, scale or DEPTHS[-1], is_exact)


def _of_channels(file, numbers, scale, is_exact):
    """`_shown` of what `_channels` gave."""
    from PIL import Image

    if not is_exact and scale == DEPTHS[-1]:
        return file  # as Pillow reads it
    count = 3 if numbers.shape[-1] > 2 else 1
    colours, alpha = _eight_bits(numbers[..., :count], scale, False), numbers[..., count:]
    clear = file.info.get("transparency")  # the colour that stands for transparent pixels
    if isinstance(clear, tuple) and len(clear) == count and not alpha.size:
        alpha = np.where((numbers == clear).all(-1, keepdims=True), 0, DEPTHS[-1]).astype(np.uint16)
    if alpha.size:  # whose full value is that of the colours, or that of its 16 bits
        colours = np.dstack([colours, _eight_bits(alpha, scale if alpha.max() <= scale else DEPTHS[-1], False)])
    return Image.fromarray(colours[..., 0] if colours.shape[-1] == 1 else colours)


def _turned(file, shown=None):
    """The image with its pixels loaded, or `shown` that was made of them, with its EXIF orientation applied."""
    from PIL import Image

    # Cameras store the sensor's rows as they are, and the way they were held in the orientation tag. Viewers apply
    # it; without it, portraits would be lying on their side.
    turns = Image.Transpose
    file.load()
    number = _orientation(file)  # after loading, since a PNG may have its EXIF data behind its pixels
    shown = shown or file
    if number == 1:
        return shown
    return shown.transpose(
        (
            turns.FLIP_LEFT_RIGHT,
            turns.ROTATE_180,
            turns.FLIP_TOP_BOTTOM,
            turns.TRANSPOSE,
            turns.ROTATE_270,
            turns.TRANSVERSE,
            turns.ROTATE_90,
        )[number - 2]
    )  # orientations 2 to 8


def _on_ground(image, ground):
    """An RGBA image on a background of one colour; opaque pixels don't change.

    Raises:
        ValueError: the drawing has the colour of the background, so that nothing could be seen.
    """
    from PIL import Image

    shown = Image.alpha_composite(Image.new("RGBA", image.size, (GROUNDS[ground],) * 3 + (255,)), image)
    # Alpha varies, so there is a drawing, and yet the result is one colour: the network would see an empty image.
    thinnest, thickest = image.getextrema()[3]
    if thickest - thinnest > 32 and all(high - low <= 2 for low, high in shown.getextrema()):
        raise ValueError(f"it draws in {ground} on transparent ground, which is shown as {ground}")
    return shown


def _eight_bits(numbers, scale, inverse):
    """Converts values to uint8.

    Args:
        numbers: (h, w) integers or floating point.
        scale: the value that becomes 255.
        inverse: whether 0 is white.

    Raises:
        OverflowError: a value below 0 or above the scale.
    """
    low, high = numbers.min().item(), numbers.max().item()
    # A thousandth above the scale is allowed for floating point: resizing and rounding overshoot a little.
    if not 0 <= low <= high <= scale * (1.001 if isinstance(scale, float) else 1):
        raise OverflowError(f"values from {low:,} to {high:,}, expected 0 to {scale:,}")
    if isinstance(scale, float):
        shown = np.rint(numbers * (255 / scale)).clip(0, 255)
    else:  # the upper 8 bits, as Pillow takes them of 16-bit colour; 1 and 4 bits divide 255 exactly
        shown = numbers >> (scale.bit_length() - 8) if scale > 255 else numbers * (255 // scale)
    return (255 - shown if inverse else shown).astype(np.uint8)
