"""Writes a folder of as many JPEGs as wanted, of the size that photographs of ImageNet have, to measure reading with.

    python benchmarks/photographs.py FOLDER --images 200000

2,000 pictures are drawn and encoded; every file is one of them with its own number in a JPEG comment, so that all files
differ and decoding any of them takes as long as decoding a picture of its own. Started again, it goes on.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 2000
CLASSES = 100
HEIGHT, WIDTH, QUALITY = 350, 400, 87  # about 47 KB a file


def picture(number):
    """The bytes of a JPEG: coloured clouds of several sizes and the noise of a sensor."""
    rng = np.random.default_rng((826, number))
    total = np.zeros((HEIGHT, WIDTH, 3))
    for cell, strength in ((90, 70), (30, 35), (8, 15)):
        small = rng.normal(0, strength, (HEIGHT // cell + 2, WIDTH // cell + 2, 3)).astype(np.float32)
        channels = [Image.fromarray(small[..., c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for c in range(3)]
        total += np.dstack([np.asarray(channel) for channel in channels])
    noise = rng.normal(0, 9, (HEIGHT, WIDTH, 1))
    pixels = np.clip(total + noise + rng.integers(70, 190), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def numbered(jpeg, number):
    """The same JPEG with a comment (marker FFFE) behind its first marker."""
    text = b"%09d" % number
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def write(folder, images, pictures=PICTURES, classes=CLASSES):
    """Writes the files that aren't there yet, FOLDER/train/CLASS/NUMBER.jpg."""
    for name in range(classes):
        (folder / "train" / f"class{name:03d}").mkdir(parents=True, exist_ok=True)
    for first in range(pictures):
        jpeg = None
        for number in range(first, images, pictures):
            path = folder / "train" / f"class{number % classes:03d}" / f"{number:09d}.jpg"
            if not path.exists():
                jpeg = jpeg or picture(first)
                path.write_bytes(numbered(jpeg, number))


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    args = parser.parse_args()
    write(args.folder, args.images)
    print(f"{args.images:,} JPEGs in {args.folder}")


if __name__ == "__main__":
    sys.exit(main())
