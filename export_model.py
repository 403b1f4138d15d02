#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Export a model for another runtime, and run each file there: accuracy, agreement with the model, size, latency."""

import argparse
import functools
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, formats, keywords, tables, values
from compress.errors import InputError, one_line
from compress.storage import files, records

EXAMPLE = """example:
  python export_model.py --model_path=./model/kd_model/model.h5 --format litert litert-int8
  python export_model.py --model_path=./model/kd_model/model.h5 --format onnx --output ./model/kd_model/exported
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("export")
    group.add_argument(
        "--model_path",
        type=values.model,
        default="./model/kd_model/model.h5",
        help="an .h5 or .keras file of any classifier of images, or a folder with model.h5 (default: %(default)s)",
    )
    group.add_argument(
        "--format",
        nargs="+",
        type=values.export_format,
        choices=formats.FORMATS,
        metavar="FORMAT",
        help="one or several of %(choices)s; litert-int8 is quantised to whole numbers (default: all)",
    )
    group.add_argument(
        "--output",
        type=flags.path,
        metavar="FOLDER",
        help="where the files and export.json go (default: exported/, beside the model)",
    )
    group.add_argument(
        "--calibration_images",
        type=flags.whole(1),
        default=512,
        metavar="N",
        help="training images on which the ranges of litert-int8 are measured (default: %(default)s)",
    )
    group.add_argument(
        "--latency_runs",
        type=flags.whole(0, 100_000),
        default=100,
        metavar="N",
        help="timed passes of one image with each number of threads, 0 for none (default: %(default)s)",
    )
    group.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure accuracy on validation images; without, the files are still compared with the "
        "model on made-up images, and litert-int8, which needs images, isn't written (default: on, "
        "but off where no --dataset is given and cifar10 can't be had or isn't the model's)",
    )
    flags.add_data_flags(parser, needed=False)
    flags.add_machine_flags(parser, "float32")  # what the file gives in plain Keras
    return parser


def read_header(args):
    """What the model file holds, without its weights, which are read once Keras is there."""
    from compress.storage import checkpoints, headers

    header = headers.read_header(args.model_path, args.preprocessing)
    if args.measure or (args.measure is None and args.dataset):
        checkpoints.check_fits(header, args.class_num, dataset=data_set(args), also=flags.of_reading(args))
    return header


def data_set(args):
    """The data set that is measured on: the one that was named, else the stock set that the scripts train on."""
    return args.dataset or flags.STOCK_SET


def find_images(args, header):
    """What to measure on.

    Returns:
        (a dataset.Data or None, why there is none).

    Raises:
        InputError: a data set that was asked for can't be had.
    """
    from compress.data import dataset, pixels
    from compress.storage import checkpoints, classes

    asked, dataset_name = args.measure or args.dataset, data_set(args)
    if args.measure is False:
        return None, "not asked for"
    names = classes.of_model(args.model_path)
    if dataset_name in values.STOCK and args.image_size not in (None, checkpoints.STOCK_SIZE[0]):
        if asked:
            raise InputError(
                f"`image_size`: received {args.image_size} beside {dataset_name}, whose images are "
                f"{'x'.join(map(str, checkpoints.STOCK_SIZE))}; expected none, or no `dataset` and `measure=False`"
            )
        return None, f"no data set was named, and the images of {dataset_name} aren't {args.image_size} pixels wide"
    if not asked and (
        header.classes != args.class_num
        or header.input_shape not in (None, (32, 32, 3))
        or (names and names != classes.of_stock(dataset_name))
    ):
        return None, f"no data set was named, and {args.model_path} is no model of {dataset_name}"
    try:
        records.check_split(args.model_path, dataset_name, args.val_split)
        images = dataset.load_data(
            configs.DataConfig.of(args, dataset=dataset_name),
            header.input_shape and header.input_shape[:2],
            display.track("reading images", args.verbose),
            needs=("validation",),
            pixels=pixels.of_models(args.model_path),
        )
    except InputError as error:
        if asked:
            raise
        return None, f"no data set was named, and there is no {dataset_name}: {one_line(error):.200}"
    display.say(images.description, args.verbose)
    records.check_source(args.model_path, images.val, args.val_split)
    return images, None


def chosen_formats(args, has_images):
    """The formats to write: those asked for, without images not litert-int8."""
    wanted = list(dict.fromkeys(args.format or formats.FORMATS))
    if not has_images and "litert-int8" in wanted:
        wanted.remove("litert-int8")
        line = "`format`: litert-int8 needs images to measure its ranges on, expected `dataset` and no `measure=False`"
        if not wanted:
            raise InputError(line)
        display.warn(f"{line}; it is not written")
    return wanted


def shape_asked(args, header):
    """(h, w, 3) of the images that the files shall take, where no data set says it.

    Raises:
        InputError: neither the model nor --image_size does.
    """
    if header.input_shape or args.image_size:
        return (args.image_size, args.image_size, 3) if args.image_size else header.input_shape
    raise InputError(
        f"`image_size`: {args.model_path} takes images of any size; expected the side in pixels of those "
        "that the files shall take"
    )


def export(args, header, run_record):
    """Everything once the flags are known to work, in a folder that is this process' alone.

    Args:
        args: the flags.
        header: from `read_header`.
        run_record: of the flags as they were given.

    Returns:
        As `run`.
    """
    app.start_keras(configs.MachineConfig.of(args))
    from compress.export import measuring, writers
    from compress.storage import checkpoints, classes, headers, opening

    writers.check_packages(args.format or formats.FORMATS)
    images, why_not = find_images(args, header)
    wanted = chosen_formats(args, images and images.train)
    known = classes.compare(args.model_path, images) if images else classes.of_model(args.model_path)
    names = list(known or (classes.of_data(images) if images else ()))
    shape = images.image_shape if images else shape_asked(args, header)
    split = images.val if images else measuring.made_up(shape)

    digest = files.sha256(args.model_path)  # of what is opened: a run may write the file while it is measured
    opened = opening.open_network(args.model_path, args.preprocessing, shape, args.verbose)
    found = headers.Header(str(args.model_path), opened.classes, None)
    checkpoints.check_fits(found, images and images.class_num, dataset=data_set(args), also=flags.of_reading(args))
    calibration = calibration_images(args, images)
    rows = write_and_measure(args, opened.scores(), wanted, split, calibration, names)
    writers.write_labels(args.output, names)

    run_record["versions"] |= writers.versions(wanted)
    run_record["flags"] |= {
        "measure": images is not None,
        "dataset": data_set(args),
    }  # so that the record's flags do the same again
    return report(
        args,
        {
            "files": rows,
            "dataset": images and images.name,
            "split": images and "validation",
            "images": len(split.images),
            "not_measured": why_not,
            "calibration_images": len(calibration),
            "class_names": names or None,
            "model_class_names": known and list(known),
            "sha256": digest,
            "run": run_record,
        },
    )


def calibration_images(args, images):
    """Training images, (N, h, w, 3) uint8, whose activations fix the scales of litert-int8; () where there are none."""
    from compress.data import dataset

    return dataset.sample(images.train, args.calibration_images)[0] if images and images.train else ()


def write_and_measure(args, model, wanted, split, calibration, names):
    """Writes the formats, and measures the model and each file on the same images.

    Args:
        args: the flags.
        model: a keras.Model.
        wanted: names of formats.
        split: a dataset.Split to measure on.
        calibration: from `calibration_images`.
        names: of the classes.

    Returns:
        List of rows, the model's own first.
    """
    from compress.engine import folding
    from compress.export import measuring, writers

    config = configs.ExportConfig.of(args)
    answer = folding.freeze(model, args.precision)
    kind = Path(args.model_path).suffix[1:]
    row, reference = measuring.measure(kind, args.model_path, lambda threads: answer, split, config)
    rows = [row]
    for name in wanted:
        try:
            with display.waiting(f"writing {name}", args.verbose):
                path = writers.write(model, name, args.output, calibration, names)
        except InputError as error:
            if args.format or (name == wanted[-1] and len(rows) == 1):
                raise
            display.warn(f"{error}; it is not written")
            continue
        row, logits = measuring.measure(name, path, functools.partial(writers.runner, path, name), split, config)
        rows.append(measuring.compare(row, logits, reference, config))
    return rows


def show(args, result):
    """Prints the table: a row a file, the model's own first."""
    rows, full = result["files"], result["files"][0]["bytes"]
    on = (
        f"accuracy not measured, agreement on {result['images']} made-up images"
        if result["not_measured"]
        else f"{result['images']:,} validation images"
    )
    columns = [
        ("format", tables.text),
        ("runtime", tables.text),
        ("validation accuracy", tables.percent),
        ("agreement", tables.percent),
        ("file", tables.size),
        ("than the model", tables.against),
        ("latency", tables.milliseconds),
        ("threads", tables.text),
    ]
    table = [
        [
            row["format"],
            row["runtime"],
            row["acc"],
            row.get("agreement"),
            row["bytes"],
            full / row["bytes"],
            row.get("latency_ms_median"),
            row.get("threads"),
        ]
        for row in rows
    ]
    display.print_table(
        f"Exports; {on}; latency: median of one image at a time, by one thread or all cores, whichever is faster",
        columns,
        table,
        args.verbose,
    )


def report(args, result):
    """Writes export.json, prints the table, and returns the result."""
    from compress.storage import classes

    record = Path(args.output) / "export.json"
    records.write_json(record, result)
    if result["not_measured"]:
        display.say(f"accuracy not measured: {result['not_measured']}", args.verbose)
    show(args, result)
    display.written(
        [*(row["path"] for row in result["files"][1:]), record.with_name(classes.LABELS), record], args.verbose
    )
    return result


@keywords.callable_with(build_parser)
def run(args):
    """Exports.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What export.json holds: {"files": list of rows, the model first, "split", "images", "class_names", "sha256",
        "not_measured": why there are no accuracies, or None, "run"}.
    """
    run_record = records.run_record(vars(args))
    args.output = args.output or str(Path(args.model_path).parent / "exported")
    files.check_writable(args.output)
    header = read_header(args)
    with files.exclusive(args.output):
        return export(args, header, run_record)


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
