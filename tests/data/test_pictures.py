"""decoding.py, reading.py, folders.py: what people's folders hold; nothing of it is read wrongly in silence."""

import itertools
import json
import os
import re
import struct
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.cli import messages
from compress.cli.configs import DataConfig
from compress.data import dataset as data
from compress.data import decoding, naming, pixels, reading, scanning
from compress.errors import InputError

GREY = np.random.default_rng(5).integers(0, 256, (8, 12), dtype=np.uint8)
GREY[0, :2] = 0, 255  # every image reaches both ends


def asked(dataset, **flags):
    return DataConfig(**{"dataset": str(dataset), "data_dir": "data", "val_split": 0.25, "num_worker": 2} | flags)


def put(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def read(root, **more):
    """The images of a folder in the order of their paths, and the lines that were told."""
    told, paths = [], sorted(str(path) for path in root.rglob("*.*"))
    reader = reading.Reader(paths, note=told.append, **more)
    reader.size = reader.common_size(paths)
    return reader.read(paths)[0], told


@pytest.mark.parametrize(
    ("kind", "suffix", "encode", "told"),
    [
        ("16 bits", ".png", lambda g: g.astype(np.uint16) * 257, "hold values up to 65,535: scaled by 65,535"),
        ("12 in 16", ".png", lambda g: g.astype(np.uint16) * 16, "hold values up to 4,080: scaled by 4,095"),
        ("10 in 16", ".tif", lambda g: g.astype(np.uint16) * 4, "hold values up to 1,020: scaled by 1,023"),
        ("8 in 32", ".tif", lambda g: g.astype(np.int32), "hold values up to 255: scaled by 255"),
        ("16 in 32", ".tif", lambda g: g.astype(np.int32) * 257, "scaled by 65,535"),
        ("big-endian", ".tif", lambda g: g.astype(">u2") * 16, "scaled by 4,095"),
        ("16-bit pgm", ".pgm", lambda g: g.astype(np.uint16) * 257, "scaled by 65,535"),
        ("float 0..1", ".tif", lambda g: g.astype(np.float32) / 255, "floating point hold values up to 1: scaled by 1"),
        ("float 0..255", ".tif", lambda g: g.astype(np.float32), "scaled by 255"),
    ],
)
def test_any_depth_gives_the_same_pixels(tmp_path, kind, suffix, encode, told):
    put(tmp_path / "a" / f"0{suffix}", encode(GREY))
    put(tmp_path / "a" / f"1{suffix}", encode(GREY // 3))  # of its own it would be scaled by another number
    images, lines = read(tmp_path)
    for image, grey in zip(images, (GREY, GREY // 3), strict=True):
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, -1))
    assert len(lines) == 1 and told in lines[0]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["whole", "floating"]), st.floats(0, 1e5), st.floats(-10, 0))
def test_a_scale_keeps_at_least_a_sixteenth_of_the_light_or_there_is_none(depth, high, low):
    high = float(int(high)) if depth == "whole" else high
    scale = decoding.natural_scale(depth, 0, high)
    if scale is not None and high:
        assert high <= 1.001 * scale and (depth == "whole" or 16 * high >= scale)
        assert depth != "whole" or scale == min(2**bits - 1 for bits in (1, 4, 8, 10, 12, 14, 16) if 2**bits > high)
    assert decoding.natural_scale(depth, low, high) == (scale if low == 0 else None)
    assert decoding.natural_scale("floating", float("nan"), float("nan")) is None


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (GREY.astype(np.float32) / 100, r"floating point hold values from 0 to 2\.55 .*expected 0 to 1 or 0 to 255"),
        (GREY.astype(np.float32) - 128, r"from -128 to 127"),
        (GREY.astype(np.float32) * np.nan, "hold what is no number .NaN, .*odd"),
        (GREY.astype(np.float32) / 1e5, r"from 0 to 0\.00255"),
        (GREY.astype(np.int32) - 1, "more than 8 bits .* from -1"),
        (GREY.astype(np.int32) * 1000, "from 0 to 255,000 .*expected 0 to 65,535"),
    ],
)
def test_numbers_without_a_natural_scale_are_refused_with_their_range(tmp_path, numbers, words):
    put(tmp_path / "a" / "fine.tif", np.zeros_like(numbers))
    put(tmp_path / "a" / "odd.tif", numbers)
    with pytest.raises(InputError, match=f"^`dataset`: images of .*{words}"):
        read(tmp_path)


def test_the_scale_that_a_model_was_trained_with_is_kept_and_a_brighter_image_refused(tmp_path):
    put(tmp_path / "a" / "0.png", GREY.astype(np.uint16) // 2)
    images, lines = read(tmp_path, look=decoding.Look(whole=4095))
    np.testing.assert_array_equal(images[0, ..., 0], GREY // 2 >> 4)
    assert lines == [
        "images of more than 8 bits are scaled by 4,095",
        "1 of 1 images of more than 8 bits hold at most "
        f"127 (such as {tmp_path}/a/0.png): scaled by 4,095 they are nearly black",
    ]
    put(tmp_path / "a" / "1.png", GREY.astype(np.uint16) * 257)
    with pytest.raises(InputError, match=r"1\.png, with values from 0 to 65,535, expected 0 to 4,095, by which"):
        read(tmp_path, look=decoding.Look(whole=4095))


@pytest.mark.parametrize(
    ("dark", "bright", "words"),
    [
        (GREY.astype(np.uint16), GREY.astype(np.uint16) * 257, "at most 255, .*b.1.*, at least 65,535"),
        (GREY.astype(np.uint16) * 16, GREY.astype(np.uint16) * 257, "at most 4,080, .*b.1.*, at least 65,535"),
        (GREY.astype(np.uint16), GREY.astype(np.uint16) * 16, "at most 255, .*, at least 4,080"),
        (np.float32(GREY) / 255, np.float32(GREY), "at most 1, .*, at least 255"),
        (1, 257, "at most 255, .*, at least 65,535"),
        (16, 257, "at most 4,080, .*, at least 65,535"),
    ],
)  # colour
def test_images_of_two_scales_are_refused_with_one_of_each(tmp_path, dark, bright, words):
    for i, (label, values) in enumerate((("a", dark), ("b", bright)) * 3):
        if isinstance(values, int):
            colour_of_16_bits(tmp_path / label / f"{i}.png", values)
        else:
            put(tmp_path / label / f"{i}.{'png' if values.dtype == np.uint16 else 'tif'}", values)
    with pytest.raises(InputError, match=rf"^`dataset`: images .* scales: 3, such as .*a.0\.\w+, hold {words}"):
        read(tmp_path)


@pytest.mark.parametrize("dark", [1, 4])
def test_some_dark_images_and_dark_ones_of_every_degree_are_told(tmp_path, dark):
    for i in range(30 if dark == 1 else 8):  # one in 30, and a continuous range of exposures
        factor = (257 if i else 8) if dark == 1 else 257 >> i
        put(tmp_path / "a" / f"{i:02d}.png", GREY.astype(np.uint16) * factor)
    _, lines = read(tmp_path)
    assert lines[1].startswith(
        f"{dark} of {30 if dark == 1 else 8} images of more than 8 bits hold at most {2040 if dark == 1 else 4080:,}"
    ) and lines[1].endswith("they are nearly black")


def test_an_inverted_scale_of_grey_is_shown_as_a_viewer_does(tmp_path):
    put(tmp_path / "a" / "0.tif", GREY.astype(np.uint16) * 257, tiffinfo={262: 0})
    np.testing.assert_array_equal(read(tmp_path)[0][0, ..., 1], 255 - GREY)


def png_of_16_bits(path, values):
    """A PNG of 16 bits a channel, which Pillow writes none of: row by row, without filters.

    Args:
        path: of the file.
        values: (h, w, channels): 2 for grey and alpha, 3 for RGB, 4 for RGBA.
    """
    h, w, kind = *values.shape[:2], {2: 4, 3: 2, 4: 6}[values.shape[-1]]
    rows = values.astype(">u2").reshape(h, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def tiff_of_16_bits(path, values, order):
    """An uncompressed TIFF of 16-bit RGB (h, w, 3) in a byte order, '<' or '>'."""
    (h, w, _), pixels = values.shape, values.astype(f"{order}u2").tobytes()
    # tag, value: width, height, bits of each channel (at 8), no compression, RGB, place, channels, rows, bytes
    tags = {256: w, 257: h, 258: 8, 259: 1, 262: 2, 273: 14, 277: 3, 278: h, 279: len(pixels)}
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags.items():
        directory += struct.pack(f"{order}HHII", tag, *((3, 3, 8) if tag == 258 else (4, 1, value)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 14 + len(pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + struct.pack(f"{order}3H", 16, 16, 16) + pixels + directory + b"\0" * 4)


def colour_of_16_bits(path, factor):
    png_of_16_bits(path, np.repeat(GREY[..., None], 3, -1).astype(int) * factor)


KINDS = {  # of files of 16 bits a channel
    "rgb.png": lambda path, grey: png_of_16_bits(path, np.dstack([grey, grey // 2, grey])),
    "rgba.png": lambda path, grey: png_of_16_bits(path, np.dstack([grey, grey // 2, grey, 0 * grey + 65535])),
    "rgba_too.png": lambda path, grey: png_of_16_bits(path, np.dstack([grey, grey // 2, grey, 0 * grey + grey.max()])),
    "grey_alpha.png": lambda path, grey: png_of_16_bits(path, np.dstack([grey, 0 * grey + 65535])),
    "little.tif": lambda path, grey: tiff_of_16_bits(path, np.dstack([grey, grey // 2, grey]), "<"),
    "big.tif": lambda path, grey: tiff_of_16_bits(path, np.dstack([grey, grey // 2, grey]), ">"),
}


@pytest.mark.parametrize(
    ("kind", "bits", "scale"),
    [
        (kind, bits, scale)
        for kind in KINDS
        for bits, scale in ((8, 8), (10, 10), (12, 12), (13, 14), (14, 14), (15, 16), (16, 16))
        if bits == scale or kind != "rgba_too.png"  # an opaque alpha is that of the scale
    ],
)
def test_colour_of_16_bits_is_scaled_as_grey_is(tmp_path, kind, bits, scale):
    values = np.random.default_rng(bits).integers(0, 2**bits, (8, 12))
    values[0, 0] = 2**bits - 1
    KINDS[kind](tmp_path / "colour" / f"0{kind}", values)
    put(tmp_path / "grey" / "0.png", values.astype(np.uint16))
    (colour, said), (grey, _) = read(tmp_path / "colour"), read(tmp_path / "grey")
    np.testing.assert_array_equal(colour[..., 0], values[None] >> scale - 8)
    np.testing.assert_array_equal(colour[..., 0], grey[..., 0])
    green = values if kind == "grey_alpha.png" else values // 2
    np.testing.assert_array_equal(colour[..., 1], green[None] >> scale - 8)
    assert said == [f"images of 16 bits a channel hold values up to {2**bits - 1:,}: scaled by {2**scale - 1:,}"]
    same_scale = decoding.Look(colour=2**scale - 1)  # as of a model that was trained on such images
    np.testing.assert_array_equal(read(tmp_path / "colour", look=same_scale)[0], colour)


def test_colour_is_scaled_as_the_training_images_of_a_model_were(tmp_path):
    colour_of_16_bits(tmp_path / "a" / "0.png", 16)
    images, lines = read(tmp_path, look=decoding.Look(colour=65535))
    assert int(images.max()) == 15 and lines[0] == "images of 16 bits a channel are scaled by 65,535"
    assert "nearly black" in lines[1]
    colour_of_16_bits(tmp_path / "a" / "1.png", 257)
    with pytest.raises(InputError, match=r"1\.png, with values from 0 to 65,535, expected 0 to 4,095, by which"):
        read(tmp_path, look=decoding.Look(colour=4095))


def test_colour_of_which_only_the_upper_bits_are_read_needs_a_large_scale(tmp_path):
    for name, factor in (("full", 257), ("half", 128), ("twelve", 16)):  # 16, 15 and 12 bits in a PPM of 16
        (tmp_path / name).mkdir()
        values = np.repeat(GREY[..., None], 3, -1).astype(int) * factor
        (tmp_path / name / "0.ppm").write_bytes(b"P6 12 8 65535 " + values.astype(">u2").tobytes())
    np.testing.assert_allclose(read(tmp_path / "full")[0][0, ..., 1], GREY, atol=1)
    images, lines = read(tmp_path / "half")
    np.testing.assert_allclose(images[0, ..., 1], GREY / 2, atol=1)
    assert lines[0].startswith("images of 16 bits a channel hold values up to") and "scaled by" in lines[0]
    with pytest.raises(InputError, match=r"0\.ppm only the upper 8 bits are read.*16-bit PNG.*multiplied by 15$"):
        read(tmp_path / "twelve")


@pytest.mark.parametrize("ink", [0, 120, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_shown_on_white_unless_it_draws_in_white(tmp_path, ink, mode):
    drawn = np.dstack([np.full((8, 12, 3 if mode == "RGBA" else 1), ink, np.uint8), GREY])
    put(tmp_path / "a" / "0.png", Image.fromarray(drawn, mode))
    images, lines = read(tmp_path)
    share, ground = GREY.astype(float) / 255, 0 if ink == 255 else 255
    np.testing.assert_allclose(images[0, ..., 0], share * ink + (1 - share) * ground, atol=1)
    assert lines == [
        "1 image with transparent pixels, shown on " + ("black; most of them draw in white" if ink == 255 else "white")
    ]
    with pytest.raises(InputError, match="it draws in white on transparent ground, which is shown as white"):
        put(tmp_path / "a" / "1.png", Image.fromarray(np.dstack([np.full((8, 12, 3), 255, np.uint8), GREY]), "RGBA"))
        read(tmp_path, look=decoding.Look(ground="white"))


def bitmap_of_32_bits(path, picture, alpha):
    """A BMP whose header declares the fourth byte to be alpha, as tools for screenshots write it."""
    (h, w, _), rows = picture.shape, np.dstack([picture[::-1, :, ::-1], np.full(picture.shape[:2], alpha, np.uint8)])
    info = struct.pack(
        "<IiiHHIIiiII4I4s64x",
        124,
        w,
        h,
        1,
        32,
        3,
        rows.nbytes,
        2835,
        2835,
        0,
        0,
        0xFF0000,
        0xFF00,
        0xFF,
        0xFF000000,
        b"BGRs",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 138 + rows.nbytes, 0, 0, 138) + info + rows.tobytes())


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("alpha", [0, 1, 15])
def test_an_alpha_that_hides_everything_is_left_out_and_told(tmp_path, suffix, alpha):
    picture = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    path = tmp_path / "a" / f"0.{suffix}"
    if suffix == "bmp":
        bitmap_of_32_bits(path, picture, alpha)
    else:
        put(
            path,
            np.dstack([picture, np.full((8, 12), alpha, np.uint8)]),
            **{"lossless": True, "exact": True} if suffix == "webp" else {},
        )
    put(tmp_path / "a" / "1.png", picture)
    images, lines = read(tmp_path)
    np.testing.assert_array_equal(images, [picture, picture])
    assert lines == [
        f"1 image with an alpha channel that hides everything (such as {path}): their colours are shown without it"
    ]


def test_an_empty_frame_is_ground_as_the_others_are(tmp_path):
    drawn = np.dstack([np.full((8, 12, 3), 90, np.uint8), GREY])
    put(tmp_path / "a" / "0.png", drawn)
    put(tmp_path / "a" / "1.png", drawn * np.uint8(0))
    images, lines = read(tmp_path)
    assert (images[1] == 255).all() and lines == ["1 image with transparent pixels, shown on white"]


def test_opaque_pixels_are_as_without_alpha_and_need_no_word(tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    put(tmp_path / "a" / "0.png", np.dstack([picture, np.full((8, 12), 255, np.uint8)]))
    images, lines = read(tmp_path)
    np.testing.assert_array_equal(images[0], picture)
    assert lines == []


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_picture_is_turned_as_its_tag_says_and_its_size_with_it(tmp_path, number, suffix):
    from PIL import ImageOps

    upright = np.repeat(np.repeat(np.arange(96, dtype=np.uint8).reshape(8, 12) * 2, 8, 0), 8, 1)
    exif = Image.Exif()
    exif[0x0112] = number
    options = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(suffix, {})
    put(tmp_path / "a" / f"0{suffix}", np.repeat(upright[..., None], 3, -1), exif=exif, **options)
    with Image.open(tmp_path / "a" / f"0{suffix}") as file:
        wanted = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    header = decoding.read_header(tmp_path / "a" / f"0{suffix}")
    assert header.size == wanted.shape[:2] == ((96, 64) if number >= 5 else (64, 96))
    np.testing.assert_array_equal(read(tmp_path)[0][0], wanted)


def test_only_the_first_frame_counts_and_that_is_told(tmp_path):
    frames = [Image.fromarray(np.full((8, 12), value, np.uint8)) for value in (10, 200)]
    for name in ("0.gif", "1.tif", "2.webp"):
        put(tmp_path / "a" / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
    images, lines = read(tmp_path)
    assert (images == 10).all() and "3 images with several frames or pages" in lines[0]


def test_all_broken_files_are_named_at_once_with_a_command_that_goes_on_without_them(tmp_path):
    for label, i in itertools.product(("cat's", "dog"), range(8)):
        put(tmp_path / "d" / label / f"{i}.jpg", np.repeat(GREY[..., None], 3, -1))
    for i in range(6):
        (tmp_path / "d" / "dog" / f"{i}.jpg").write_bytes(b"<html>404</html>" if i else b"")
        (tmp_path / "d" / "cat's" / f"{i}.jpg").write_bytes((tmp_path / "d" / "cat's" / "7.jpg").read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        data.load_data(asked(tmp_path / "d"), needs=("train", "validation"))
    first, second = str(caught.value).split("go on without them: ")
    assert messages.COMMAND.search(str(caught.value))[1] == second  # which has a line of its own
    assert first.startswith("`dataset`: 12 images: ") and first.count("cannot be read") == 10 and "and 2 more" in first
    assert "0.jpg cannot be read as an image (UnidentifiedImageError: it is empty)" in first
    assert "1.jpg cannot be read as an image (UnidentifiedImageError: a web page)" in first
    put(tmp_path / "d" / "dog" / "8.jpg", np.repeat(GREY[..., None], 3, -1))
    put(tmp_path / "d" / "cat's" / "8.jpg", np.repeat(GREY[..., None], 3, -1))
    subprocess.run(["bash", "-c", second], check=True)
    assert len(data.load_data(asked(tmp_path / "d")).train) + 2 + 2 == 6
    assert len(list((tmp_path / "d").rglob("*.broken"))) == 12


@pytest.mark.parametrize("count", [1, 2])
def test_broken_files_of_any_name_are_moved_by_the_command(count, tmp_path):
    fill(tmp_path / "d", "cat\ns", "dog", count=5)
    for name in ["\x1b[31mEVIL\n\x07'.jpg", "\udcff \\7\x9b.jpg"][:count]:
        (tmp_path / "d" / "cat\ns" / name).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        data.load_data(asked(tmp_path / "d"))
    command = str(caught.value).rpartition("go on without ")[2].partition(": ")[2]
    assert command.isascii() and messages.COMMAND.search(str(caught.value))[1] == command
    subprocess.run(["bash", "-c", command], check=True)
    assert data.load_data(asked(tmp_path / "d")).class_names == ("cat\ns", "dog")
    assert len(list((tmp_path / "d").rglob("*.broken"))) == count


def test_names_of_files_are_escaped_in_warnings(tmp_path, capsys):
    frames = [Image.fromarray(np.full((8, 12), value, np.uint8)) for value in (10, 200)]
    fill(tmp_path / "d", "cat", "dog", count=5)
    put(tmp_path / "d" / "cat" / "\x1b[31mEVIL\n\x07.gif", frames[0], save_all=True, append_images=frames[1:])
    data.load_data(asked(tmp_path / "d"))
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "\\x1b[31mEVIL \\x07.gif" in told and told[:-1].isprintable()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[
            (name, "train")
            for name in (
                "train",
                "Train",
                "TRAINING",
                "training_set",
                "train-set",
                "seg_train",
                "TrainSet",
                "Training Images",
                "train2017",
                "training data (1)",
                "Entrenamiento",
                "训练集",
            )
        ],
        *[
            (name, "validation")
            for name in (
                "val",
                "valid",
                "Validation",
                "dev",
                "eval",
                "validation_set",
                "seg_val",
                "Validierung",
                "validación",
                "validacio\u0301n",
                "验证集",
            )
        ],
        *[
            (name, "test")
            for name in ("test", "Testing", "test_set", "testset", "seg_test", "hold-out", "test1", "テストデータ")
        ],
        *[
            (name, None)
            for name in (
                "trains",
                "latest",
                "trainers",
                "devil",
                "valve",
                "set",
                "contest",
                "train_val",
                "images",
                "model train",
                "1",
                "",
            )
        ],
    ],
)
def test_names_that_say_split(name, split):
    assert naming.split_of(name) == split


def fill(root, *places, count=3):
    for place, i in itertools.product(places, range(count)):
        image = GREY.copy()
        image[1, :4] = list(zlib.crc32(f"{place}/{i}".encode()).to_bytes(4, "big"))  # no two alike
        put(root / place / f"{i}.png", image)


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "dev", "Testing"),
        ("train_set", "Valid", "test_set"),
        ("seg_train/seg_train", "val", "seg_test/seg_test"),
    ],
)
def test_splits_are_read_as_people_spell_them(tmp_path, names):
    for name, count in zip(names, (5, 3, 2), strict=True):
        fill(tmp_path, f"{name}/a", f"{name}/b", count=count)
    loaded = data.load_data(asked(tmp_path))
    assert loaded.class_names == ("a", "b") and [len(loaded.train), len(loaded.val), len(loaded.test)] == [10, 6, 4]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (("train/a", "train/b", "Training/a", "Training/b"), "has Training and train, which both say train"),
        (("train/a", "train/b", "val/a", "val/b", "valid/a", "valid/b"), "val and valid, which both say validation"),
        (("cat", "dog", "test"), "has test beside cat, dog, which leaves open what is a split and what a class"),
        (("cat", "dog", "test/cat", "test/dog"), "has test beside cat, dog, which leaves open"),
        (("train/a", "train/b", "PublicTest/a", "PublicTest/b"), "has train beside PublicTest, which leaves open"),
        (("train/a", "train/b", "test/a", "test/b", "a"), "has a both beside and below train"),
        (("train", "test"), r"whose test, train holds images itself, such as 0\.png, .*test/CLASS/"),
        (("train",), r"whose train holds images itself"),
        (
            ("a/train", "a/test", "b/train", "b/test"),
            "a was to be a class and holds test, train images .*expected train/a",
        ),
        (("pets/train/a", "pets/train/b"), "found 1 .*; did you mean .*pets[?]"),
        (("x/pets/a", "x/pets/b"), "found 1 .*; did you mean .*x.pets[?]"),
        ((".",), "found 0 .*holds 3 images itself"),
        (("test/a", "test/b"), "with test alone, expected a folder train beside it"),
    ],
)
def test_what_leaves_open_which_folders_are_classes_is_refused(tmp_path, places, words):
    fill(tmp_path, *places)
    with pytest.raises(InputError, match=f"^`dataset`: .*{words}") as caught:
        data.load_data(asked(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_classes_is_left_out_of_training_and_refused_in_evaluation(tmp_path, capsys):
    fill(tmp_path, "train/a", "train/b", "seg_pred", count=6)
    fill(tmp_path, "test")
    loaded = data.load_data(asked(tmp_path), needs=("train", "validation"))
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [8, 2, 2]
    err = capsys.readouterr().err
    assert "test has images but no class folders: it is left out, and test images are drawn" in err
    assert "1 folder beside the splits (seg_pred)" in err
    with pytest.raises(InputError, match="test has images but no class folders, so that no accuracy"):
        data.load_data(asked(tmp_path), needs=("test",))


def test_what_is_skipped_is_counted_and_named_in_one_line(tmp_path, capsys):
    fill(tmp_path / "d", "red", "green", count=4)
    for name in (
        "red/1.heic",
        "red/2.heic",
        "green/x.jpg_large",
        "green/README",
        "red/.hidden.png",
        ".hidden/a.png",
        "red/Thumbs.db",
        "red/._0.png",
        ".DS_Store",
        "__MACOSX/red/._0.png",
    ):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    fill(tmp_path / "d", "red/@eaDir/0.png", "green/.ipynb_checkpoints", "$RECYCLE.BIN", "lost+found")
    fill(tmp_path, "elsewhere")
    (tmp_path / "d" / "cats2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / "red" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "d" / "loose.png").write_bytes((tmp_path / "d" / "red" / "0.png").read_bytes())
    put(tmp_path / "d" / "red" / "photo.JFIF", np.repeat(GREY[..., None], 3, -1), format="JPEG")
    put(tmp_path / "d" / "red" / "wrong.png", np.repeat(GREY[..., None], 3, -1), format="JPEG")
    loaded = data.load_data(asked(tmp_path / "d"))
    assert loaded.class_names == ("green", "red")
    assert sum(map(len, (loaded.train, loaded.val, loaded.test))) == 4 + 4 + 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: skipped: 5 system folders (such as $RECYCLE.BIN), 2 .heic (such as red/1.heic), ")
    for part in ("1 linked folder (cats2)", "1 hidden folder (.hidden)", "1 file without suffix (green/README)"):
        assert part in line
    assert line.endswith("3 of 3 other kinds")


def test_a_class_may_be_called_like_a_folder_of_an_old_system(tmp_path):
    fill(tmp_path / "waste", "glass", "paper", "recycler", count=4)
    assert data.load_data(asked(tmp_path / "waste")).class_names == ("glass", "paper", "recycler")


def test_a_split_is_decoded_when_it_is_asked_for_and_no_other_file(tmp_path, monkeypatch):
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        fill(tmp_path, f"{split}/a", f"{split}/b", count=count)
    seen, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, *more: seen.append(path) or decode(path, *more))
    loaded = data.load_data(asked(tmp_path), needs=("train", "validation"))
    assert len(seen) == 18 and not any("/test/" in path for path in seen) and len(loaded.test) == 8
    assert loaded.test.images.shape == (8, 8, 12, 3) and len(seen) == 26 and loaded.test.images.all is not None
    seen.clear()
    loaded = data.load_data(asked(tmp_path), needs=("test",), most=3)
    assert len(seen) == 3 == len(loaded.test) and loaded.image_shape == (8, 12, 3)
    part, labels = data.sample(loaded.train, 5)
    assert len(seen) == 8 and part.shape == (5, 8, 12, 3) and len(labels) == 5
    np.testing.assert_array_equal(part, data.sample(data.load_data(asked(tmp_path)).train, 5)[0])


def test_an_evaluation_needs_no_training_images(tmp_path, capsys):
    fill(tmp_path / "alone", "test/a", "test/b")
    loaded = data.load_data(asked(tmp_path / "alone"), needs=("test",))
    assert loaded.description == "alone: 6 test images" and loaded.train is None and loaded.image_shape == (8, 12, 3)
    fill(tmp_path / "plain", "a", "b", count=10)
    resized = data.load_data(asked(tmp_path / "plain"), (16, 16), needs=("test",))
    assert resized.description.endswith("plain/train; resized to 16x16: bilinear, antialiased")
    loaded = data.load_data(asked(tmp_path / "plain"), needs=("test",))
    assert loaded.description.startswith("plain: 4 test images, of the fifth that training leaves out; ")
    whole = data.load_data(asked(tmp_path / "plain"))
    np.testing.assert_array_equal(loaded.test.labels, whole.test.labels)
    capsys.readouterr()
    fill(tmp_path / "few", "a", "b", count=1)
    assert len(data.load_data(asked(tmp_path / "few"), needs=("test",)).test) == 2
    assert "all 2 are test images" in capsys.readouterr().err


def test_many_small_classes_give_a_validation_image_each(tmp_path, capsys):
    fill(tmp_path, *"abcdefghij", count=4)
    loaded = data.load_data(asked(tmp_path, val_split=0.1))
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [20, 10, 10]
    assert capsys.readouterr().err == (
        "warning: 10 validation images, one for each class: --val_split 0.1 of 30 would be 3\n"
    )
    fill(tmp_path, "rare", count=1)
    with pytest.raises(
        InputError,
        match=r"at least 3 training images a class, found fewer for rare \(1\): one each to "
        "train on, to validate on, to test on",
    ) as caught:
        data.load_data(asked(tmp_path, val_split=0.1))
    assert "--val_split" not in str(caught.value)


def history(folder, told):
    folder.mkdir()
    (folder / "history.json").write_text(json.dumps({"run": {"pixels": told}}), encoding="utf-8")
    return folder / "model.h5"


def test_a_model_meets_images_shown_as_those_that_it_was_trained_on(tmp_path):
    for label, i in itertools.product("ab", range(4)):
        put(tmp_path / "d" / label / f"{i}.png", GREY.astype(np.uint16) * 16)
        put(tmp_path / "dim" / label / f"{i}.png", GREY.astype(np.uint16) * 2)
        put(tmp_path / "bright" / label / f"{i}.png", GREY.astype(np.uint16) * 257)
    trained = data.load_data(asked(tmp_path / "d"))
    model = history(tmp_path / "model", trained.pixels)
    assert trained.pixels == pixels.of_models(model) == {"whole": 4095}
    dim = data.load_data(asked(tmp_path / "dim"), pixels=pixels.of_models(model))
    np.testing.assert_array_equal(dim.test.images[0, ..., 0], GREY * np.uint16(2) >> 4)
    with pytest.raises(InputError, match="with values from 0 to 65,535, expected 0 to 4,095, by which the images were"):
        data.load_data(asked(tmp_path / "bright"), pixels=pixels.of_models(model))
    assert pixels.of_models(tmp_path / "elsewhere.h5") is None
    other = history(tmp_path / "other", {"whole": 65535})
    with pytest.raises(InputError, match=r"model\.h5 was trained on images converted with whole 4095, .*whole 65535"):
        pixels.of_models(model, other)


@pytest.mark.parametrize(
    "told",
    [
        None,
        3,
        [],
        {"whole": 4096},
        {"whole": [1]},
        {"whole": 4095.0},
        {"floating": 1},
        {"ground": "red"},
        {"ground": None},
        {"size": 3},
        {"whole": True},
    ],
)
def test_what_a_strangers_record_says_of_pixels_is_checked(tmp_path, told):
    assert pixels.of_models(history(tmp_path / "m", told)) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS.*: git lfs pull"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC or AVIF under another name: convert it"),
        (b"<!DOCTYPE html><p>404", "a web page"),
        (b"II*\0" + bytes(40), "a TIFF of a kind that isn't read"),
        (b"%!PS-Adobe", "UnidentifiedImageError: no image"),
    ],
)
def test_a_file_that_is_no_image_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"^`dataset`: .*0\.jpg cannot be read as an image \(.*{words}.*mv \S*0\.jpg"):
        read(tmp_path)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_bits_than_8_reach_from_black_to_white(tmp_path, bits):
    levels = 2**bits - 1
    image = Image.fromarray(GREY >> (8 - bits), "P")
    image.putpalette([round(level * 255 / levels) for level in range(levels + 1) for _ in range(3)])
    put(tmp_path / "palette.png", image, bits=bits)
    if bits == 1:
        put(tmp_path / "bilevel.tif", Image.fromarray(GREY > 127))
    for shown in read(tmp_path)[0]:
        np.testing.assert_allclose(shown[..., 0], (GREY >> (8 - bits)) * (255.0 / levels), atol=0.5)


def test_a_colour_that_stands_for_transparent_shows_the_ground(tmp_path):
    picture = np.dstack([GREY, GREY // 2, GREY // 3])
    put(tmp_path / "0.png", picture, transparency=(0, 0, 0))
    put(tmp_path / "1.png", GREY, transparency=0)
    colours, greys = read(tmp_path)[0]
    np.testing.assert_array_equal(colours, np.where((picture == 0).all(-1, keepdims=True), 255, picture))
    np.testing.assert_array_equal(greys[..., 1], np.where(GREY == 0, 255, GREY))


def test_a_pipe_is_no_image_and_keeps_nobody_waiting(tmp_path, capsys):
    fill(tmp_path, "a", "b", count=4)
    os.mkfifo(tmp_path / "a" / "9.png")
    assert len(data.load_data(asked(tmp_path)).train) == 4
    assert "1 special file (a/9.png)" in capsys.readouterr().err


def test_images_of_a_split_in_a_folder_that_is_no_class_are_without_classes(tmp_path, capsys):
    fill(tmp_path, "train/n01/images", "train/n02/images", "val/images", "test/test", count=6)
    loaded = data.load_data(asked(tmp_path))
    assert loaded.class_names == ("n01", "n02") and [len(loaded.val), len(loaded.test)] == [2, 2]
    err = capsys.readouterr().err
    assert "val has images but no class folders" in err and "test/test has images but no class folders" in err


def test_images_that_lie_in_two_splits_are_counted_with_an_example(tmp_path, capsys):
    noise = np.random.default_rng(3).integers(0, 256, (40, 8, 12), dtype=np.uint8)
    for label, i in itertools.product("ab", range(10)):
        put(tmp_path / "d" / "train" / label / f"{i}.bmp", noise[i + 20 * (label == "b")])  # all of one size
        put(tmp_path / "d" / "test" / label / f"t{i}.bmp", noise[i + 10 + 20 * (label == "b")])
    data.load_data(asked(tmp_path / "d"))
    assert capsys.readouterr().err == ""
    for i in range(3):
        put(tmp_path / "d" / "test" / "b" / f"t{i}.bmp", noise[20 + i])
    for needs in (("test",), data.NAMES):  # all in the training images, though some are validated on
        loaded = data.load_data(asked(tmp_path / "d", val_split=0.1), needs=needs)
        seen = {image.tobytes() for image in loaded.train.images}, {image.tobytes() for image in loaded.val.images}
        counts = [sum(image.tobytes() in known for image in loaded.test.images) for known in seen]
        assert sum(counts) == 3
        told = capsys.readouterr().err
        assert told.startswith("warning: ") and told.count("\n") == 1
        for count, name in zip(counts, ("training", "validation"), strict=True):
            assert (f"{count} of 20 test images are also {name} images (such as test/b/t" in told) == (count > 0)
        assert "which is train/b/" in told


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_images_under_two_classes_are_counted_with_an_example(split, tmp_path, capsys):
    rng = np.random.default_rng(5)
    for part, label, i in itertools.product(("train", "test") if split else ("",), "abc", range(12)):
        noise = rng.integers(0, 256, (8, 12), dtype=np.uint8)
        put(tmp_path / part / label / f"{i}.bmp", noise)  # all of one size
    place = tmp_path / split
    (place / "a" / "again.bmp").write_bytes((place / "a" / "3.bmp").read_bytes())  # twice in one class: no wrong label
    data.load_data(asked(tmp_path, val_split=0.5), needs=("test",) if split == "test" else data.NAMES)
    assert "under two classes" not in capsys.readouterr().err
    for source, target in (("a/1", "b/x"), ("a/2", "c/x"), ("a/2", "b/y"), ("b/7", "c/z")):
        (place / f"{target}.bmp").write_bytes((place / f"{source}.bmp").read_bytes())
    for needs in (("test",), ("train", "validation"), data.NAMES):
        loaded = data.load_data(asked(tmp_path, val_split=0.5), needs=needs)
        told = [line for line in capsys.readouterr().err.splitlines() if "two classes" in line]
        assert len(told) == 1 and told[0].startswith("warning: 3 images lie under two classes")  # 1, 2 and 7
        pair = re.search(r"such as (\S+), which is (\S+)\):", told[0]).groups()
        one, other = (tmp_path / path for path in pair)
        assert one.read_bytes() == other.read_bytes() and one.parent != other.parent
    labels = {}  # the same count from the decoded pixels of all splits
    for part in filter(None, (loaded.train, loaded.val, loaded.test)):
        for image, label in zip(part.images, part.labels, strict=True):
            labels.setdefault(image.tobytes(), set()).add(label)
    assert sum(len(those) > 1 for those in labels.values()) == 3


def test_twins_in_a_folder_without_splits_are_told_and_the_draw_stays(tmp_path, capsys):
    for label, i in itertools.product("ab", range(20)):
        image = np.random.default_rng((i, label == "a")).integers(0, 256, (8, 12), dtype=np.uint8)
        put(tmp_path / "d" / label / f"{i}.png", image)
        put(tmp_path / "d" / label / f"{i} (1).png", image)
    loaded = data.load_data(asked(tmp_path / "d"))
    pixels_of = [{image.tobytes() for image in split.images} for split in (loaded.train, loaded.val, loaded.test)]
    twins = [sum(image.tobytes() in pixels_of[0] for image in split.images) for split in (loaded.val, loaded.test)]
    err = capsys.readouterr().err
    assert f"{twins[0]} of {len(loaded.val)} validation images are also training images (such as " in err
    assert f"; {sum(image.tobytes() in pixels_of[0] for image in loaded.test.images)} of 16 test images are" in err


@pytest.mark.parametrize("empty", [False, True])
def test_test_images_may_lack_a_class_and_labels_go_by_name(tmp_path, capsys, empty):
    fill(tmp_path, "train/a", "train/b", "train/c", "test/a", "test/c", count=4)
    fill(tmp_path, *(["test/b"] if empty else []), count=0)
    if empty:
        (tmp_path / "test" / "b").mkdir()
    loaded = data.load_data(asked(tmp_path))
    assert loaded.class_names == ("a", "b", "c") and sorted(loaded.test.labels) == [0] * 4 + [2] * 4
    assert sorted(loaded.train.labels) == [0] * 3 + [1] * 3 + [2] * 3
    assert capsys.readouterr().err == (
        "warning: test has no images of 1 of 3 classes ('b'): test accuracy says nothing of these\n"
    )
    fill(tmp_path / "one", "train/a", "train/b", "train/c", "test/c", count=4)
    assert sorted(data.load_data(asked(tmp_path / "one")).test.labels) == [2] * 4


def test_names_are_compared_composed_and_shown_in_quotes(tmp_path):
    fill(tmp_path / "d", "train/K\u00e4tzchen", "train/dog", "test/Ka\u0308tzchen", "test/dog", count=4)
    loaded = data.load_data(asked(tmp_path / "d"))
    assert loaded.class_names == ("K\u00e4tzchen", "dog") and sorted(loaded.test.labels) == [0] * 4 + [1] * 4
    fill(tmp_path / "d", "test/dog ", "test/cow", count=1)
    with pytest.raises(InputError, match="it has 'cow', 'dog ' besides$"):
        data.load_data(asked(tmp_path / "d"))
    fill(tmp_path / "e", "train/dog", "train/cat", "test/Dog", "test/cat")
    with pytest.raises(InputError, match="it has 'Dog' besides: did you mean 'dog' for 'Dog'"):
        data.load_data(asked(tmp_path / "e"))
    fill(tmp_path / "d", "train/Ka\u0308tzchen", count=1)
    with pytest.raises(InputError, match="two folders 'Kätzchen'"):
        data.load_data(asked(tmp_path / "d"))


def test_the_order_of_composed_names_is_that_of_the_classes(tmp_path):
    for kind, name in (("composed", "\u00e4"), ("decomposed", "a\u0308")):
        fill(tmp_path / kind, name, "b", count=4)
        assert data.load_data(asked(tmp_path / kind)).class_names == ("b", "\u00e4")


def test_numbers_that_count_as_text_are_told(tmp_path, capsys):
    fill(tmp_path / "d", *map(str, range(12)))
    fill(tmp_path / "fine", *(f"{i:02d}" for i in range(12)))
    fill(tmp_path / "few", *map(str, range(10)))
    for name in ("d", "fine", "few"):
        data.load_data(asked(tmp_path / name))
        told = "count in the order of text: 0, 1, 10, 11, 2, ...; a model" in capsys.readouterr().err
        assert told == (name == "d")


def test_a_large_jpeg_is_read_in_part_and_other_large_images_are_refused_together_with_the_limit(tmp_path, monkeypatch):
    smooth = np.add.outer(np.arange(200), np.arange(300)).astype(float) / 2
    picture = np.dstack([smooth, 255 - smooth, smooth * 0 + 90]).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "jpeg" / "0.jpg", picture, quality=95)
    put(tmp_path / "jpeg" / "1.jpg", np.rot90(picture), quality=95, exif=exif)
    whole, drafted = (reading.Reader(sorted(map(str, (tmp_path / "jpeg").iterdir()))) for _ in range(2))
    whole.size = drafted.size = (40, 60)
    wanted = whole.read(whole.paths)[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    found, loaded = drafted.read(drafted.paths)[0], []
    np.testing.assert_allclose(found.astype(int), wanted, atol=3)
    monkeypatch.setattr(
        decoding, "_turned", lambda file, shown=None, turn=decoding._turned: loaded.append(file.size) or turn(file)
    )
    drafted.read(drafted.paths)
    assert sorted(loaded) == [(100, 150), (150, 100)]  # two threads
    put(tmp_path / "other" / "a.png", picture)
    put(tmp_path / "other" / "b.jpg", np.tile(picture, (2, 1, 1)))  # twice the limit: Pillow opens none
    put(tmp_path / "other" / "c.png", picture[:10])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "other")
    first = str(caught.value).split("\n")[0]
    assert "2 images" in first and "c.png" not in first
    assert first.count("at most 89 are read, of JPEGs 178") == 2 and first.count("mogrify -resize") == 2


def test_a_turn_that_stands_behind_the_pixels_of_a_png_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "0.png", GREY, exif=exif)
    raw = (tmp_path / "0.png").read_bytes()
    start = raw.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(raw[start : start + 4], "big")
    (tmp_path / "0.png").write_bytes(raw[:start] + raw[end:-12] + raw[start:end] + raw[-12:])
    np.testing.assert_array_equal(decoding.decode(str(tmp_path / "0.png"), (12, 8))[..., 0], np.rot90(GREY, -1))


def test_a_folder_too_deep_to_walk_is_refused():
    with pytest.raises(InputError, match="more than 150 folders deep"):
        scanning.entries("/".join(["d"] * 200))


@pytest.mark.parametrize(("largest", "said"), [(1, True), (15, True), (16, False), (0, False)])
def test_images_of_8_bits_that_are_all_nearly_black_are_told(largest, said, tmp_path):
    pixels = np.random.default_rng(0).integers(0, largest + 1, (6, 20, 20, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        put(tmp_path / f"{i}.png", image)
    found, told = read(tmp_path)
    np.testing.assert_array_equal(found, pixels)
    assert [line.startswith(f"no image holds a value above {largest}, of 255") for line in told] == [True] * said
