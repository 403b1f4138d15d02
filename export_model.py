#!/usr/bin/env python3
"""Export a model for another runtime, and run each file there: accuracy, agreement with the .h5, size, latency."""

import argparse
import functools
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables, values
from compress.errors import InputError, one_line
from compress.export import formats
from compress.storage import files, records

SOUND = 0.01  # a difference of probabilities that rounding leaves, at most
MADE_UP = 64  # images

EXAMPLE = """example:
  python export_model.py --model_path=./model/kd_model/model.h5 --format litert litert-int8
  python export_model.py --model_path=./model/kd_model/model.h5 --format onnx --output ./model/kd_model/exported
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("export")
    group.add_argument("--model_path", type=values.model, default="./model/kd_model/model.h5",
                       help="an .h5 or .keras file of this suite or of keras.applications, or a folder with model.h5 "
                            "(default: %(default)s)")
    group.add_argument("--format", nargs="+", type=formats.name, choices=formats.FORMATS,
                       default=list(formats.FORMATS), metavar="FORMAT",
                       help="one or several of %(choices)s; litert-int8 is quantised to whole numbers (default: all)")
    group.add_argument("--output", type=flags.path, metavar="FOLDER",
                       help="where the files and export.json go (default: exported/, beside the model)")
    group.add_argument("--calibration_images", type=flags.whole(1), default=512, metavar="N",
                       help="training images on which the ranges of litert-int8 are measured (default: %(default)s)")
    group.add_argument("--latency_runs", type=flags.whole(0, 100_000), default=100, metavar="N",
                       help="timed passes of one image with each number of threads, 0 for none (default: %(default)s)")
    group.add_argument("--measure", action=argparse.BooleanOptionalAction, default=None,
                       help="measure accuracy on validation images; without, the files are still compared with the "
                            "model on made-up images, and litert-int8, which needs images, isn't written (default: on, "
                            "but off where no --dataset is given and cifar10 can't be had or isn't the model's)")
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser, "float32")  # what the file gives in plain Keras
    return parser


def fastest(functions, image_shape, runs):
    """Latency of one image by that of {threads: function} that is fastest: part of a row."""
    from compress import metrics

    found = {threads: metrics.latency_ms(function, image_shape, 1, runs, warmup=10)
             for threads, function in functions.items()}
    best = min(found, key=found.get)
    keys = ("latency_ms_median", "latency_ms_p10", "latency_ms_p90")
    return dict(zip(keys, found[best], strict=True)) | {
        "threads": best, "latency_ms_by_threads": {str(threads): times[0] for threads, times in found.items()}}


def judge(args, name, runtime, start, path, images, reference):
    """One row: what a file does in its runtime on the images.

    Args:
        args: the flags.
        name: of the format, or h5.
        runtime: what runs it.
        start: function(threads) -> function(images uint8) -> logits, such as `writers.runner`.
        path: the file or folder.
        images: a data.Split; without labels no accuracy is measured.
        reference: logits of the .h5 on the same images, or None where this is the .h5.

    Returns:
        (dict of the row, the logits).
    """
    import numpy as np

    from compress import metrics
    from compress.export import writers

    functions = {threads: start(threads) for threads in writers.thread_counts(name)}
    starts = range(0, len(images.images), args.batch_size)
    answer = functions[max(functions)]
    logits = np.concatenate([answer(images.images[start:start + args.batch_size])
                             for start in display.track(f"{name}: {images.name}", args.verbose, "compiling")(starts)])
    if not np.isfinite(logits).all():
        raise InputError(f"--model_path: {args.model_path} answers NaN or infinity as {name}, expected a network with "
                         "finite logits")
    row = {"format": name, "runtime": runtime, "path": str(path), "acc": None}
    if images.labels is not None:
        row |= metrics.classification_metrics(logits, images.labels)
    row["bytes"] = writers.size(path)
    if reference is not None:
        row["agreement"] = float(np.mean(logits.argmax(1) == reference.argmax(1)))
        difference = np.abs(writers.probabilities(logits) - writers.probabilities(reference)).max()
        row["largest_difference"] = float(difference)  # of a probability
        if difference > SOUND and name != "litert-int8" and args.precision == "float32":
            display.warn(f"{path} answers otherwise than {args.model_path}: probabilities differ by up to "
                         f"{difference:.3f}; expected at most {SOUND}: don't use it")
    if args.latency_runs:
        row |= fastest(functions, images.images.shape[1:], args.latency_runs)
    return row, logits


def made_up(shape):
    """Images of coarse patches and of noise, without labels, to compare files on where there are no others.

    Args:
        shape: (h, w, 3).
    """
    import numpy as np

    from compress.data import dataset

    rng, (height, width, _) = np.random.default_rng(0), shape
    patches = rng.integers(0, 256, (MADE_UP, 4, 4, 3)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    noise = rng.normal(0, 20, (MADE_UP, *shape))
    return dataset.Split((patches[:, :height, :width] + noise).clip(0, 255).astype("uint8"), None, "made-up")


def show(args, rows, told):
    """Prints the table; `told` says on which images."""
    full = rows[0]["bytes"]
    columns = [("format", tables.text), ("runtime", tables.text), ("validation accuracy", tables.percent),
               ("agreement", tables.percent), ("file", tables.size), ("than the .h5", tables.against),
               ("latency", tables.milliseconds), ("threads", tables.text)]
    table = [[row["format"], row["runtime"], row["acc"], row.get("agreement"), row["bytes"], full / row["bytes"],
              row.get("latency_ms_median"), row.get("threads")] for row in rows]
    display.print_table(f"Exports; {told}; latency: median of one image at a time, by one thread "
                        "or all cores, whichever is faster", columns, table, args.verbose)


@keywords.callable_with(build_parser)
def run(args):
    """Exports.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What export.json holds: {"files": list of rows, the .h5 first, "split", "images", "class_names", "sha256",
        "not_measured": why there are no accuracies, or None, "run"}.
    """
    from compress.storage import checkpoints

    run_record = records.run_record(args)  # of the flags as they were given
    args.output = folder = args.output or str(Path(args.model_path).parent / "exported")
    files.check_writable(folder)
    peek = checkpoints.read_checkpoint(args.model_path, weights=False)
    if args.measure or (args.measure is None and has_data_set(args)):
        checkpoints.check_fits(peek, args.class_num, dataset=args.dataset)
    with files.exclusive(folder):
        return export(args, peek, Path(folder), run_record)


def has_data_set(args):
    """Whether the command line names a data set."""
    return any(word.split("=")[0] == "--dataset" for word in args.argv)


def find_images(args, peek):
    """The dataset.Data to measure on; where there is none, the reason as text.

    Raises:
        InputError: a data set that the command line asks for can't be had.
    """
    from compress.data import dataset, pixels
    from compress.storage import classes

    asked = args.measure or has_data_set(args)
    if args.measure is False:
        return "--no-measure"
    names = classes.of_model(args.model_path)
    if not asked and (peek.classes != args.class_num or peek.input_shape not in (None, (32, 32, 3))
                      or (names and names != classes.of_stock(args.dataset))):
        return f"no --dataset, and {args.model_path} is no model of {args.dataset}"
    try:
        records.check_split(args.model_path, args)
        images = dataset.load_data(configs.DataConfig.of(args), peek.input_shape and peek.input_shape[:2],
                                display.track("reading images", args.verbose), needs=("validation",),
                                pixels=pixels.of_models(args.model_path))
    except InputError as error:
        if asked:
            raise
        return f"no --dataset, and no {args.dataset}: {one_line(error):.200}"
    display.say(images.description, args.verbose)
    records.check_source(args.model_path, images.val, args.val_split)
    return images


def chosen_formats(args, measured):
    """The formats to write: those asked for, without images not litert-int8."""
    wanted = list(dict.fromkeys(args.format))
    if not measured and "litert-int8" in wanted:
        wanted.remove("litert-int8")
        line = ("--format: litert-int8 needs images to measure its ranges on, expected --dataset and no --no-measure")
        if not wanted:
            raise InputError(line)
        display.warn(f"{line}; it is not written")
    return wanted


def export(args, peek, folder, run_record):
    """`run`, in a folder that is this process' alone, for a model of which `peek` tells."""
    app.start_keras(args)
    from compress.data import dataset
    from compress.engine import folded
    from compress.export import writers
    from compress.storage import checkpoints, classes

    writers.check_packages(args.format, "--format")
    images = find_images(args, peek)
    why = images if isinstance(images, str) else None
    wanted = chosen_formats(args, not why and images.train)
    run_record["versions"] |= writers.versions(wanted)
    known = classes.of_model(args.model_path) if why else classes.meet(args.model_path, images)
    run_record["flags"]["measure"] = not why  # so that the record's flags do the same again
    names = list(known or (() if why else classes.of_data(images)))
    shape = shape_asked(args, peek) if why else images.image_shape
    digest = files.sha256(args.model_path)  # of what is opened: a run may write the file while it is measured
    model = checkpoints.load_model(args.model_path, None if why else images.class_num, shape,
                                   *flags.opening(args))
    function, split = folded.freeze(model, args.precision), made_up(shape) if why else images.val
    row, reference = judge(args, "h5", "Keras", lambda threads: function, args.model_path, split, None)
    rows, calibration = [row], ()
    if not why and images.train:
        calibration = dataset.sample(images.train, args.calibration_images)[0]
    for name in wanted:
        with display.waiting(f"writing {name}", args.verbose):
            path = writers.write(model, name, folder, calibration, names)
        rows.append(judge(args, name, formats.FORMATS[name][1], functools.partial(writers.runner, path, name),
                          path, split, reference)[0])
    writers.write_labels(folder, names)
    result = {"files": rows, "dataset": None if why else images.name, "split": None if why else "validation",
              "images": len(split.images), "not_measured": why, "calibration_images": len(calibration),
              "class_names": names or None, "model_class_names": known and list(known), "sha256": digest,
              "run": run_record}
    records.write_json(folder / "export.json", result)
    if why:
        display.say(f"accuracy not measured: {why}", args.verbose)
    show(args, rows, f"accuracy not measured, agreement on {MADE_UP} made-up images" if why else
         f"{len(split):,} validation images")
    display.written([*(row["path"] for row in rows[1:]), folder / classes.LABELS, folder / "export.json"], args.verbose)
    return result


def shape_asked(args, peek):
    """(h, w, 3) of the images that the files shall take, where no data set tells it.

    Raises:
        InputError: neither the model nor --image_size does.
    """
    if peek.input_shape or args.image_size:
        return (args.image_size, args.image_size, 3) if args.image_size else peek.input_shape
    raise InputError(f"--image_size: {args.model_path} takes images of any size; expected the side in pixels of those "
                     "that the files shall take")


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
