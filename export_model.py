#!/usr/bin/env python3
"""Export a model for another runtime, and run each file there: accuracy, agreement with the .h5, size, latency."""

import functools
import sys
from pathlib import Path

import app
import calls
import display
import exporting
import files
import flags
import records
import tables
from errors import InputError

EXAMPLE = """example:
  python export_model.py --model_path=./model/kd_model/model.h5 --format litert litert-int8
  python export_model.py --model_path=./model/kd_model/model.h5 --format onnx --output ./model/kd_model/exported
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("export")
    group.add_argument("--model_path", default="./model/kd_model/model.h5",
                       help="an .h5 or .keras file of this suite or of keras.applications (default: %(default)s)")
    group.add_argument("--format", nargs="+", choices=exporting.FORMATS, default=list(exporting.FORMATS),
                       help="one or several; litert-int8 is quantised to whole numbers (default: all)")
    group.add_argument("--output", metavar="FOLDER",
                       help="where the files and export.json go (default: exported/, beside the model)")
    group.add_argument("--calibration_images", type=flags.whole(1), default=512, metavar="N",
                       help="training images on which the ranges of litert-int8 are measured (default: %(default)s)")
    group.add_argument("--latency_runs", type=flags.whole(0, 100_000), default=100, metavar="N",
                       help="timed passes of one image with each number of threads, 0 for none (default: %(default)s)")
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser, "float32")  # what the file gives in plain Keras
    return parser


def fastest(functions, image_shape, runs):
    """Latency of one image by that of {threads: function} that is fastest: part of a row."""
    import metrics

    found = {threads: metrics.latency_ms(function, image_shape, 1, runs, warmup=10)
             for threads, function in functions.items()}
    best = min(found, key=found.get)
    keys = ("latency_ms_median", "latency_ms_p10", "latency_ms_p90")
    return dict(zip(keys, found[best], strict=True)) | {
        "threads": best, "latency_ms_by_threads": {str(threads): times[0] for threads, times in found.items()}}


def judge(args, name, runtime, start, path, images, reference):
    """One row: what a file does in its runtime on the validation images.

    Args:
        args: the flags.
        name: of the format, or h5.
        runtime: what runs it.
        start: function(threads) -> function(images uint8) -> logits, such as `exporting.runner`.
        path: the file or folder.
        images: a data.Data.
        reference: logits of the .h5 on the same images, or None where this is the .h5.

    Returns:
        (dict of the row, the logits).
    """
    import numpy as np

    import metrics

    pixels, labels = images.val.images, images.val.labels
    functions = {threads: start(threads) for threads in exporting.thread_counts(name)}
    starts = range(0, len(pixels), args.batch_size)
    answer = functions[max(functions)]
    logits = np.concatenate([answer(pixels[start:start + args.batch_size])
                             for start in display.track(f"{name}: validation", args.verbose)(starts)])
    if not np.isfinite(logits).all():
        raise InputError(f"--model_path: {args.model_path} answers NaN or infinity as {name}, expected a network with "
                         "finite logits")
    row = {"format": name, "runtime": runtime, "path": str(path)} | metrics.classification_metrics(logits, labels)
    row["bytes"] = exporting.size(path)
    if reference is not None:
        row["agreement"] = float(np.mean(logits.argmax(1) == reference.argmax(1)))
    if args.latency_runs:
        row |= fastest(functions, images.image_shape, args.latency_runs)
    return row, logits


def show(args, rows, count):
    """Prints the table."""
    full = rows[0]["bytes"]
    columns = [("format", tables.text), ("runtime", tables.text), ("validation accuracy", tables.percent),
               ("agreement", tables.percent), ("file", tables.size), ("smaller by", tables.ratio),
               ("latency", tables.milliseconds), ("threads", tables.text)]
    table = [[row["format"], row["runtime"], row["acc"], row.get("agreement"), row["bytes"], full / row["bytes"],
              row.get("latency_ms_median"), row.get("threads")] for row in rows]
    display.print_table(f"Exports; {count:,} validation images; latency: median of one image at a time, by one thread "
                        "or all cores, whichever is faster", columns, table, args.verbose)


@calls.keywords(build_parser)
def run(args):
    """Exports.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What export.json holds: {"files": list of rows, the .h5 first, "split", "images", "sha256", "run"}.
    """
    import checkpoints

    folder = Path(args.output) if args.output else Path(args.model_path).parent / "exported"
    files.check_writable(folder, "--output")
    peek = checkpoints.read_checkpoint(args.model_path, "--model_path", weights=False)
    checkpoints.check_fits(peek, "--model_path", args.class_num)
    records.check_split(args.model_path, args)
    with files.exclusive(folder, "--output"):
        return export(args, peek, folder)


def export(args, peek, folder):
    """`run`, in a folder that is this process' alone, for a model of which `peek` tells."""
    run_record = records.run_record(args)
    app.start_keras(args)
    import checkpoints
    import classes
    import data
    import folded

    formats = list(dict.fromkeys(args.format))
    exporting.check_packages(formats, "--format")
    run_record["versions"] |= exporting.versions(formats)
    images = data.load_data(args, peek.input_shape and peek.input_shape[:2],
                            display.track("reading images", args.verbose))
    display.say(images.description, args.verbose)
    records.check_source(args.model_path, images.val)
    known = classes.meet(args.model_path, images)
    digest = files.sha256(args.model_path)  # of what is opened: a run may write the file while it is measured
    model = checkpoints.load_model(args.model_path, "--model_path", images.class_num, images.image_shape,
                                   args.preprocessing)
    function = folded.freeze(model, args.precision)
    row, reference = judge(args, "h5", "Keras", lambda threads: function, args.model_path, images, None)
    rows, calibration = [row], data.sample(images.train, args.calibration_images)[0]
    for name in formats:
        with display.waiting(f"writing {name}", args.verbose):
            path = exporting.write(model, name, folder, calibration)
        rows.append(judge(args, name, exporting.FORMATS[name][1], functools.partial(exporting.runner, path, name),
                          path, images, reference)[0])
    result = {"files": rows, "dataset": images.name, "split": "validation", "images": len(images.val),
              "calibration_images": len(calibration), "class_names": classes.of_data(images),
              "model_class_names": known, "sha256": digest,
              "run": run_record}
    records.write_json(folder / "export.json", result)
    show(args, rows, len(images.val))
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
