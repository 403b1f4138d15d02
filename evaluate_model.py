#!/usr/bin/env python3
"""Evaluate models: accuracy, size, work and speed, side by side; the first is what the others are compared with."""

import sys
from pathlib import Path

import display
import files
import flags
import records
from errors import InputError

EXAMPLE = """example:
  python evaluate_model.py --model_path=./model/base_model/model.h5
  python evaluate_model.py --model_path model/base_model/model.h5 model/kd_model/model.h5 --output model/results.json
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--model_path", required=True, nargs="+",
                        help="one or more .h5 files of this suite or of keras.applications; sparsity and compression "
                             "rate are told against the first")
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test",
                        help="images to evaluate on (default: %(default)s)")
    parser.add_argument("--latency_runs", type=flags.whole(0, 100_000), default=30, metavar="N",
                        help="timed passes of one image, 0 for none (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE.json",
                        help="also write the table as JSON, and a figure of accuracy against size beside it")
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser, "float32")  # what the file gives in plain Keras
    return parser


def short_names(paths):
    """Names that tell the paths apart: what is left of each without the common beginning and a last model.h5."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    parts = [part[:-1] if len(part) > 1 and part[-1] == "model" else part for part in parts]
    common = 0
    while len(parts) > 1 and all(len(part) > common + 1 for part in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    return ["/".join(part[common:]) if len(parts) > 1 else part[-1] for part in parts]


def evaluate_one(args, name, path, peek, images, base):
    """One row of the table.

    Args:
        args: the flags.
        name: of the row.
        path: of the model.
        peek: its Checkpoint, without weights.
        images: a data.Data.
        base: the first model, or None if this is it.

    Returns:
        (dict of the row, the model).
    """
    import numpy as np

    import checkpoints
    import folded
    import metrics
    import prune

    model = checkpoints.load_model(path, "--model_path", images.class_num, images.image_shape)
    split = {"test": images.test, "validation": images.val, "train": images.train}[args.split]
    row = {"name": name, "path": str(path), "depth": peek.depth, "stem": peek.stem}
    row |= metrics.evaluate(folded.FoldedResNet(model, args.precision), split, args.batch_size,
                            display.track(name, args.verbose))
    if not np.isfinite(row["loss"]):
        raise InputError(f"--model_path: {path} answers NaN or infinity, expected a network with finite logits")
    row |= metrics.size_of(model, path)
    base = base or model
    row["compression_rate"] = base.count_params() / row["parameters"]
    row["sparsity"] = prune.compute_sparsity(model, base)
    if args.latency_runs:
        row["latency_ms_median"], row["latency_ms_p10"], row["latency_ms_p90"] = metrics.latency_ms(
            folded.freeze(model, args.precision), images.image_shape, 1, args.latency_runs)
    return row | {"sha256": files.sha256(path)}, model


def show(args, rows):
    """Prints the table."""
    table = [[row["name"], display.percent(row["acc"]), display.percent(row["top5_acc"]), f"{row['loss']:.4f}",
              display.millions(row["parameters"]), display.millions(row["macs"]), f"{row['bytes'] / 1e6:.2f} MB",
              display.percent(row["sparsity"]), f"{row['compression_rate']:.2f}x",
              f"{row['latency_ms_median']:.1f} ms" if args.latency_runs else "-"] for row in rows]
    display.print_table(f"{args.dataset}: {rows[0]['images']:,} {args.split} images; latency: median of one image at "
                        "a time", ["model", f"{args.split} accuracy", "top 5", "loss", "parameters", "MACs", "file",
                                   "sparsity", "compression rate", "latency"], table, args.verbose)


def run(args):
    """Evaluates.

    Args:
        args: the namespace of `build_parser`.

    Returns:
        {"models": list of rows, "split", "images", "run"}.
    """
    import checkpoints

    if args.output:
        files.check_file(args.output, "--output", ".json")
    peeks = [checkpoints.read_checkpoint(path, "--model_path", weights=False) for path in args.model_path]
    for peek in peeks:
        checkpoints.check_fits(peek, "--model_path", args.class_num)
    flags.start_keras(args)
    import data

    shape = peeks[0].input_shape
    images = data.load_data(args, shape and shape[:2], display.track("reading images", args.verbose))
    rows, base = [], None
    for name, path, peek in zip(short_names(args.model_path), args.model_path, peeks, strict=True):
        row, model = evaluate_one(args, name, path, peek, images, base)
        rows, base = [*rows, row], base or model
    result = {"models": rows, "dataset": images.name, "split": args.split, "images": rows[0]["images"],
              "run": records.run_record(args)}
    if args.output:
        import comparison_plots
        import plots

        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        records.write_json(args.output, result)
        figure = comparison_plots.plot_models([row | {"test_acc": row["acc"]} for row in rows], args.split)
        plots.save_figure(figure, Path(args.output).with_suffix(".png"))
    show(args, rows)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return flags.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
