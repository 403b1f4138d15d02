#!/usr/bin/env python3
"""Draws a folder of pictures and trains a classifier of them in plain Keras, as transfer learning is mostly written.

`./experiments/reproduce.sh transfer` runs it, and the suite's scripts behind it; docs/how-to/transfer-learning.md tells
the story. The pictures stand in for photographs: balls, boxes, rings and tents in front of coloured clouds, as JPEGs of
many sizes. They are drawn, so that nothing has to be downloaded, and always the same.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("ball", "box", "ring", "tent")
SPLITS = {"train": 250, "val": 50, "test": 100}  # pictures of each kind
SIZE = 96  # pixels of a side, as the network sees them


# ---- the pictures --------------------------------------------------------------------------------------------------


def draw_thing(draw, kind, place, radius, colour):
    """Draws one thing; draw: a PIL.ImageDraw.Draw, place: (x, y) of its middle, radius: in pixels."""
    (x, y), r = place, radius
    if kind == "ball":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif kind == "box":
        draw.rectangle([x - r, y - 0.8 * r, x + r, y + 0.8 * r], fill=colour)
    elif kind == "ring":
        draw.ellipse([x - r, y - r, x + r, y + r], outline=colour, width=round(r / 3))
    else:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)


def picture(kind, rng):
    """A PIL.Image of 120 to 300 pixels a side: a thing in front of clouds, tilted a little, blurred, with noise."""
    from PIL import Image, ImageDraw, ImageFilter

    width, height = (int(side) for side in rng.integers(120, 301, 2))
    behind = rng.integers(40, 216, 3)
    clouds = np.clip(behind + rng.normal(0, 25, (5, 6, 3)), 0, 255).astype("uint8")
    image = Image.fromarray(clouds).resize((width, height), Image.Resampling.BICUBIC)
    radius = rng.uniform(0.22, 0.4) * min(width, height)
    place = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    colour = (behind + 128 + rng.integers(-48, 49, 3)) % 256  # never close to what is behind
    draw_thing(ImageDraw.Draw(image), kind, place, radius, tuple(map(int, colour)))
    image = image.rotate(rng.normal(0, 10), Image.Resampling.BILINEAR, fillcolor=tuple(map(int, behind)))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8))) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def draw(folder):
    """Writes folder/SPLIT/KIND/NNN.jpg, as often as it is called the same files; one that is complete stays."""
    rng, done = np.random.default_rng(1), folder / "drawn"
    if done.exists():
        return
    for split, number in SPLITS.items():
        for kind in KINDS:
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                quality = int(rng.integers(70, 96))
                picture(kind, rng).save(folder / split / kind / f"{i:03d}.jpg", quality=quality)
    done.touch()


# ---- plain Keras ---------------------------------------------------------------------------------------------------


def build():
    """The commonest shape of transfer learning; `weights="imagenet"` downloads what such a network starts from."""
    import keras

    inside = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=None)
    for layer in inside.layers:  # of so few steps; the 0.999 of MobileNetV2 is for weights that are there already
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(0.05),
            keras.layers.Rescaling(1 / 127.5, -1),
            inside,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(len(KINDS), activation="softmax"),
        ]
    )


def train(dataset, path, seed, epochs):
    """Trains as Keras' guides do, and saves the model; returns it and its last validation accuracy."""
    import keras

    keras.utils.set_random_seed(seed)
    settings = {"image_size": (SIZE, SIZE), "batch_size": 32}
    images = keras.utils.image_dataset_from_directory(dataset / "train", seed=seed, **settings)
    validation = keras.utils.image_dataset_from_directory(dataset / "val", shuffle=False, **settings)
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * len(images))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(images.cache(), validation_data=validation.cache(), epochs=epochs, verbose=2)
    model.save(path)
    return model, history.history["val_accuracy"][-1]


def record(args, model, path, accuracy, seconds):
    """What experiments/build.py reads of a base, in the words of the suite's own result.json."""
    from compress import metrics
    from compress.storage import files, records

    flags = {"seed": args.seed, "epoch_num": args.epoch_num, "precision": "float32", "argv": sys.argv}
    return {
        "val_acc": accuracy,
        "split": "validation",
        "images": SPLITS["val"] * len(KINDS),
        "train_images": SPLITS["train"] * len(KINDS),
        "epochs": args.epoch_num,
        "seconds": seconds,
        "sha256": files.sha256(path),
        "run": records.run_record(flags),
    } | metrics.size_of(model, path)


def build_parser():
    """The flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dataset", type=Path, required=True, help="where the pictures are drawn")
    parser.add_argument("--save_folder", type=Path, required=True, help="where model.keras and result.json go")
    parser.add_argument("--epoch_num", type=int, default=25)
    parser.add_argument("--seed", type=int, default=826)
    return parser


def main(argv=None):
    """Command line; a run that is finished does nothing."""
    args = build_parser().parse_args(argv)
    draw(args.dataset)
    if (args.save_folder / "result.json").exists():
        return
    args.save_folder.mkdir(parents=True, exist_ok=True)
    path, start = args.save_folder / "model.keras", time.perf_counter()
    model, accuracy = train(args.dataset, path, args.seed, args.epoch_num)
    content = record(args, model, path, accuracy, time.perf_counter() - start)
    (args.save_folder / "result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # for compress
    main()
