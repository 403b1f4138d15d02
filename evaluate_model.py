#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Evaluate models: accuracy, size, work and speed, side by side; the first is what the others are compared with."""

import argparse
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables, values
from compress.engine import processes
from compress.errors import InputError
from compress.plots import roles
from compress.storage import files, records

EXPORTED = (".onnx", ".tflite")
# flags that say which images of a data set are evaluated on, and how; nothing of photographs
OF_DATA_SETS = (
    "split",
    "images",
    "per_class",
    "latency_runs",
    "dataset",
    "data_dir",
    "val_split",
    "subset",
    "class_num",
)

EXAMPLE = """example:
  python evaluate_model.py --model_path=./model/base_model/model.h5
  python evaluate_model.py --model_path model/base_model/model.h5 model/kd_model/model.h5 --output model/results.json
  python evaluate_model.py --model_path model/kd_model/model.h5 --json | python -m json.tool
  python evaluate_model.py --model_path model/kd_model/model.h5 --predict my_photo.jpg my_photos/
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--model_path",
        type=values.model,
        required=True,
        nargs="+",
        metavar="MODEL",
        help="one or more .h5 or .keras files of any classifier of images, or folders with model.h5; sparsity and "
        "compression rate are relative to the first; of one alone, to the base that its record names, of a ResNet to "
        "its network unpruned: the smallest of ResNet50, 101 and 152 that has its blocks, with its stem",
    )
    group.add_argument(
        "--any_model",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="deprecated, does nothing: every classifier is taken",
    )
    group.add_argument(
        "--predict",
        type=flags.path,
        nargs="+",
        metavar="PHOTO",
        help="classify these photographs, or those in these folders; no data set is read, and the "
        "model may also be an .onnx or .tflite file",
    )
    add_measuring_flags(group)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser, "float32")  # what the file gives in plain Keras
    flags.add_device_flags(parser)
    return parser


def add_measuring_flags(group):
    """Those that say what is measured, on which images."""
    group.add_argument(
        "--per_class",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also print the accuracy of every class (default: on up to 20 classes)",
    )
    group.add_argument(
        "--split",
        choices=["test", "validation", "train"],
        default="test",
        help="images to evaluate on (default: %(default)s)",
    )
    group.add_argument(
        "--images",
        type=flags.whole(1),
        metavar="N",
        help="evaluate on the first N images of the split only (default: all of them)",
    )
    group.add_argument(
        "--latency_runs",
        type=flags.whole(0, 100_000),
        default=30,
        metavar="N",
        help="timed passes of one image, 0 for none (default: %(default)s)",
    )
    group.add_argument(
        "--output",
        type=flags.path,
        metavar="FILE.json",
        help="also write the table as JSON, and a figure of accuracy against size beside it",
    )


def short_names(paths):
    """Short names of paths that are still different: without the common beginning and a last model.h5."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    parts = [part[:-1] if len(part) > 1 and part[-1] == "model" else part for part in parts]
    if len(set(parts)) < len(set(paths)):  # net.h5 and net.keras
        parts = [Path(path).parts for path in paths]
    common = 0
    while len(parts) > 1 and all(len(part) > common + 1 for part in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    return [str(Path(*part[common:])) if len(parts) > 1 else part[-1] for part in parts]


def check_flags(args):
    """Raises InputError for flags that don't go together, and where the output can't be written."""
    if args.any_model:
        display.warn("`any_model`: deprecated, does nothing: every classifier is taken")
    if args.output:
        files.check_file(args.output, ".json")
    if args.predict:
        default = build_parser().get_default
        if odd := [name for name in OF_DATA_SETS if getattr(args, name) != default(name)]:
            raise InputError(
                f"`{odd[0]}`: received it beside `predict`, which reads photographs and no data set; "
                "expected it left out"
            )
        if len(args.model_path) != 1:
            raise InputError(f"`model_path`: received {len(args.model_path)} models beside `predict`, expected one")


def read_header(args, path):
    """The headers.Header of a model file: a slip is found before Keras is imported."""
    from compress.storage import checkpoints, headers

    if Path(path).suffix.lower() in EXPORTED:
        raise InputError(
            f"`model_path`: received {path}, an exported file, which is not evaluated here: "
            "export_model.py measured it when it wrote it; expected an .h5 or .keras file, or `predict=PHOTO ...` "
            "to try it on photographs"
        )
    header = headers.read_header(path, args.preprocessing)
    if not args.predict:
        checkpoints.check_fits(header, args.class_num, dataset=args.dataset, also=flags.of_reading(args))
        if args.split == "validation":
            records.check_split(path, args.dataset, args.val_split)
    return header


def load_images(args, header):
    """The split that is evaluated on, in the size that the first model wants.

    Args:
        args: the flags.
        header: the headers.Header of the first model.

    Returns:
        (a dataset.Data, its split).
    """
    from compress.data import dataset, pixels

    app.agree(args)
    config = configs.DataConfig.of(args, instead=f"{configs.INSTEAD}; photographs need no data set: `predict=PHOTO`")
    images = dataset.load_data(
        config,
        header.input_shape and header.input_shape[:2],
        display.track("reading images", args.verbose),
        needs=(args.split,),
        most=args.images,
        pixels=pixels.of_models(*args.model_path),
    )
    display.say(images.description, args.verbose)
    split = {"test": images.test, "validation": images.val, "train": images.train}[args.split]
    if args.split != "train":  # a model must not have trained on any of these
        for path in args.model_path:
            records.check_source(path, split, args.val_split if args.split == "validation" else None)
    return images, split


def open_model(args, path, images):
    """A classifier that answers to a data set's images with what its loss is computed of.

    Returns:
        (keras.Model of the file, keras.Model of its logits, or of the logarithms of its probabilities).
    """
    from compress.storage import checkpoints, headers, opening

    opened = opening.open_network(path, args.preprocessing, images.image_shape, args.verbose)
    header = headers.Header(str(path), opened.classes, opened.model.input_shape[1:])
    checkpoints.check_fits(header, images.class_num, images.image_shape, args.dataset, flags.of_reading(args))
    return opened.model, opened.scores()


def base_of(path, model, digest):
    """What a model alone is compared with.

    Returns:
        (what it is, for the title of the table; {"sparsity", "compression_rate"} as recorded, or {}; the network to
        compare with).
    """
    from model import unpruned

    if whole := unpruned(model):
        return "its network unpruned", {}, whole
    if recorded := records.reduction(path, digest):
        return "the base that its record names", recorded, model
    return "itself", {}, model


def sparsity_of(model, base):
    """The share of a base's convolution parameters that are gone; None where the two are no forms of one network."""
    from compress.graph.convolutions import convolutions
    from compress.pruning import removal

    ours, theirs = ({path: type(layer) for path, layer in convolutions(net).items()} for net in (model, base))
    return removal.compute_sparsity(model, base) if ours and ours.items() <= theirs.items() else None


def evaluate(args, images, split):
    """The rows of the table, one a model.

    Args:
        args: the flags.
        images: a dataset.Data.
        split: the dataset.Split of it that is evaluated on.
    """
    import numpy as np

    from compress import metrics
    from compress.engine import folding
    from compress.storage import archives, classes

    rows, base = [], None
    known_names = classes.compare_all(args.model_path, images)
    for name, path, trained in zip(short_names(args.model_path), args.model_path, known_names, strict=True):
        row = {"name": name, "path": str(path), "model_class_names": trained}
        row["sha256"] = files.sha256(path)  # of what is opened: a run may write the file while it is measured
        model, scores = open_model(args, path, images)
        bar = display.track(name, args.verbose, "compiling")
        # batch-norm folded into the convolutions: the same logits, sooner
        evaluator = folding.FoldedModel(scores, args.precision)
        row |= metrics.evaluate(evaluator, split, args.batch_size, bar) | metrics.size_of(model, path)
        row["optimizer_bytes"] = archives.optimizer_bytes(path)  # what a file is larger by than its network
        if not np.isfinite(row["loss"]):
            raise InputError(f"`model_path`: {path} outputs NaN or infinity, expected a network with finite logits")
        if base is None:  # the first model is what the others are compared with
            alone = len(args.model_path) == 1
            against, known, base = base_of(path, model, row["sha256"]) if alone else (name, {}, model)
        row |= {
            "compared_with": against,
            "compression_rate": base.count_params() / row["parameters"],
            "sparsity": sparsity_of(model, base),
        } | known
        if args.latency_runs:
            row["latency_ms_median"], row["latency_ms_p10"], row["latency_ms_p90"] = metrics.latency_ms(
                folding.freeze(scores, args.precision), images.image_shape, 1, args.latency_runs
            )
        rows.append(row)
    return rows


def predict(args):
    """What `run` returns with --predict: the classes of single photographs."""
    from compress.cli import photographs
    from compress.data import decoding, pixels, reading
    from compress.export import predicting

    path, run_record = args.model_path[0], records.run_record(vars(args))
    paths = predicting.photographs(args.predict, display.warn)
    config = configs.PredictConfig.of(args)
    look = decoding.Look(**pixels.of_models(path) or {})
    reader = reading.Reader(paths, args.num_worker, look=look, note=display.warn, named_by="predict")
    if Path(path).suffix.lower() in EXPORTED:  # its own runtime opens it, without Keras
        classifier = predicting.open_exported(path, config, paths, reader)
    else:
        header = read_header(args, path)
        app.start_keras(configs.MachineConfig.of(args).alone)
        classifier = predicting.open_keras(header, config, paths, reader)
    digest = files.sha256(path)
    probabilities = predicting.classify(path, classifier, paths, reader, config)
    names = predicting.named(path, classifier, probabilities.shape[1])
    result = {
        "photographs": predicting.most_probable(paths, probabilities, names),
        "class_names": names and list(names),
        "sha256": digest,
        "run": run_record,
    }
    write(args, result)
    if reader.resized:
        display.say(f"photographs of other sizes resized to {reader.how}", args.verbose)
    photographs.show(path, result["photographs"], args.verbose)
    display.written([args.output] if args.output else [], args.verbose)
    return result


def write(args, result):
    """Writes the result to --output as JSON, and beside it a figure of the models whose MACs are known.

    Returns:
        The paths of what was written.
    """
    if not args.output or not processes.is_main():
        return []
    from compress.plots import comparison, style

    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    records.write_json(args.output, result)
    looks = roles.of_files(args.model_path)
    if len(looks) > 1:  # the table compares the others with it, wherever it comes from
        looks[0] = looks[0] or "base"
    known = zip(result.get("models", []), looks, strict=False)
    rows = [row | {"test_acc": row["acc"], "role": role} for row, role in known if row["macs"]]
    figure = Path(args.output).with_suffix(".png")
    if rows:
        style.save_figure(comparison.plot_models(rows, args.split), figure)
    return [args.output, *([figure] if rows else [])]


def show(args, rows):
    """Prints the table: a row a model."""
    columns = {
        "name": ("model", tables.text),
        "acc": (f"{args.split} accuracy", tables.percent),
        "top5_acc": ("top-5 accuracy", tables.percent),
        "loss": ("loss", tables.number),
        "calibration_error": ("ECE", tables.number),
        "parameters": ("parameters", tables.count),
        "macs": ("MACs", tables.count),
        "bytes": ("file", tables.size),
        "sparsity": ("sparsity", tables.percent),
        "compression_rate": ("compression rate", tables.ratio),
    }
    if len(rows[0]["class_acc"]) <= 5:
        del columns["top5_acc"]  # every label is among the five highest logits
    base = rows[0]["name"] if len(rows) > 1 else rows[0]["compared_with"]
    title = f"sparsity and compression rate: against {base}; ECE: expected calibration error"
    if args.latency_runs:
        columns["latency_ms_median"] = ("latency", tables.milliseconds)
        title += "; latency: median of one image at a time"
    display.print_table(title, list(columns.values()), [[row[key] for key in columns] for row in rows], args.verbose)
    for row in rows:
        if row.get("optimizer_bytes"):
            unit, (whole, part) = tables.size([row["bytes"], row["optimizer_bytes"]])
            display.say(
                f"{row['name']}: its file has {whole} {unit}, of which {part} {unit} are the optimizer's "
                "state and no part of the network",
                args.verbose,
            )


def show_classes(args, rows, class_names):
    """Prints the accuracy of every class: a row a class, a column a model."""
    table = [[name, *[row["class_acc"][i] for row in rows]] for i, name in enumerate(class_names)]
    columns = [("class", tables.text), *((row["name"], tables.plain_percent) for row in rows)]
    display.print_table(f"{args.split} accuracy of every class (%)", columns, table, args.verbose)


def report(args, rows, images, run_record):
    """Writes and prints what was measured, and returns it as `run` does."""
    from compress.storage import classes

    result = {
        "models": rows,
        "dataset": images.name,
        "split": args.split,
        "images": rows[0]["images"],
        "class_names": classes.of_data(images),
        "run": run_record,
    }
    paths = write(args, result)
    show(args, rows)
    if args.per_class or (args.per_class is None and images.class_num <= 20):
        show_classes(args, rows, images.class_names)
    display.written(paths, args.verbose)
    return result


@keywords.callable_with(build_parser)
def run(args):
    """Evaluates.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        {"models": list of rows, each with the "model_class_names" that its model was trained on where they are known,
        "split", "images", "class_names" of the data, "run"}; with --predict {"photographs": list of {"path",
        "classes"}, see `predicting.most_probable`, "class_names" or None, "sha256" of the model, "run"}.
    """
    check_flags(args)
    if args.predict:
        return predict(args)
    headers, run_record = [read_header(args, path) for path in args.model_path], records.run_record(vars(args))
    app.start_keras(configs.MachineConfig.of(args))
    images, split = load_images(args, headers[0])
    app.agree(args, images)
    return report(args, evaluate(args, images, split), images, run_record)


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
