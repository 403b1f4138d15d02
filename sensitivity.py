#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Measure what each layer's channels are worth: accuracy against the removed share, one layer at a time."""

import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables, values
from compress.engine import processes
from compress.storage import files, records

EXAMPLE = """example:
  python sensitivity.py --model_path=./model/base_model/model.h5
  python sensitivity.py --criterion l1 --shares 0.25 0.5 0.75 --images 2000 --output model/sensitivity.json
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(
        Path(__file__).name,
        epilog=EXAMPLE,
        description=f"{__doc__} Nothing is fine-tuned, and "
        "batch-norm is not recalibrated: what a layer loses here, a fine-tune may give back.",
    )
    group = parser.add_argument_group("sensitivity")
    group.add_argument(
        "--model_path",
        type=values.model,
        default="./model/base_model/model.h5",
        help="an .h5 or .keras file of any Keras classifier, or a folder with model.h5 (default: %(default)s)",
    )
    group.add_argument(
        "--output",
        type=flags.path,
        metavar="FILE.json",
        help="also write the table as JSON, and a figure of it beside that",
    )
    flags.add_criterion_flags(group)
    group.add_argument(
        "--shares",
        type=flags.real(0, 0.99, strict=True),
        nargs="+",
        metavar="SHARE",
        default=[0.1, 0.25, 0.5, 0.75, 0.9],
        help="of a layer's channels, removed, the most idle first (default: 0.1 0.25 0.5 0.75 0.9)",
    )
    group.add_argument(
        "--images",
        type=flags.whole(1),
        default=1000,
        metavar="N",
        help="validation images on which accuracy is measured (default: %(default)s)",
    )
    group.add_argument(
        "--round_to",
        type=flags.whole(1, 1024),
        default=1,
        help="round the channels left up to a multiple of this (default: %(default)s)",
    )
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser, "float32")  # as evaluate_model.py
    flags.add_device_flags(parser)
    return parser


def check_flags(args):
    """Finds what can't work before Keras is imported.

    Returns:
        (what the model file holds, without its weights; what `run` returns of the file and the run).
    """
    from compress.storage import checkpoints, headers

    if args.output:
        files.check_file(args.output, ".json")
    header = headers.read_header(args.model_path, args.preprocessing)
    checkpoints.check_fits(header, args.class_num, dataset=args.dataset, also=flags.of_reading(args))
    records.check_split(args.model_path, args.dataset, args.val_split)
    digest = files.sha256(args.model_path)  # of what is measured: a run may write the file meanwhile
    return header, {"criterion": args.criterion, "sha256": digest, "run": records.run_record(vars(args))}


def load_images(args, header):
    """Opens the model, and reads the validation images, which choose channels and measure accuracy, in its size.

    Returns:
        (a dataset.Data, the scope.Scope of the groups of the model that are measured).
    """

    def open_scope(class_num, size):
        from compress.pruning import cut
        from compress.storage import opening

        model = opening.load_network(args.model_path, class_num, size, args.preprocessing, args.verbose)
        return cut.scope_of(configs.CriterionConfig.of(args), model)

    app.agree(args)
    return app.read_images(args, args.model_path, header, open_scope, ("validation",))  # none of these was trained on


def measure(args, images, scope):
    """Accuracy and loss of the whole network, and of each layer with a share of its channels removed.

    Args:
        args: the flags.
        images: a dataset.Data.
        scope: a scope.Scope of the network.

    Returns:
        What `run` returns of the images and what was measured on them.
    """
    from compress.data import dataset
    from compress.pruning import cut
    from compress.storage import classes

    known = classes.compare(args.model_path, images)
    config, shares = configs.CriterionConfig.of(args), sorted(set(args.shares))
    part = dataset.sample(images.val, args.images)
    scores = cut.criterion_scores(config, scope, images, args.seed, "`model_path`")  # high: idle, the first to go
    whole, curves = cut.sensitivity_curves(config, scope, scores, part, shares, "sensitivity", "`model_path`")
    layers = [{"layer": name, "channels": len(scores[name])} | curve for name, curve in curves.items()]
    return whole | {
        "shares": shares,
        "layers": layers,
        "dataset": images.name,
        "split": "validation",
        "images": len(part[1]),
        "class_names": classes.of_data(images),
        "model_class_names": known,
    }


def report(args, result):
    """Prints the table, writes it to --output with the figure beside it, and returns the result."""
    show(args, result)
    if args.output and processes.is_main():
        display.written(write(args, result), args.verbose)
    else:
        display.say("nothing is written; `output=FILE.json` keeps the table, with a figure beside it", args.verbose)
    return result


def show(args, result):
    """Prints the table: accuracies, a row a layer."""
    columns = [
        ("layer", tables.text),
        ("channels", tables.text),
        *((f"{100 * share:g}%", tables.plain_percent) for share in result["shares"]),
    ]
    display.print_table(
        f"Validation accuracy (%) with a share of one layer's channels removed, by {args.criterion}; whole network "
        f"{display.percent(result['acc'])}; {result['images']:,} images",
        columns,
        [[row["layer"].removesuffix("_conv"), row["channels"], *row["acc"]] for row in result["layers"]],
        args.verbose,
    )


def write(args, result):
    """Writes the result to --output, and the figure beside it; returns their paths."""
    from compress.plots import comparison, style

    figure = Path(args.output).with_suffix(".png")
    figure.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(args.output, result)
    style.save_figure(comparison.plot_sensitivity(result), figure)
    return [args.output, figure]


@keywords.callable_with(build_parser)
def run(args):
    """Measures.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        {"acc", "loss" of the whole network, "shares", "layers": list of rows with 'layer', 'channels' and the lists
        'kept', 'acc', 'loss' over the shares, "criterion", "split", "images", "sha256", "run"}.
    """
    header, origin = check_flags(args)
    app.start_keras(configs.MachineConfig.of(args))
    images, scope = load_images(args, header)
    app.agree(args, images)
    return report(args, measure(args, images, scope) | origin)


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
