#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Report on all runs below a folder in one HTML page: fronts, pruning, distillation, classes, flags and origins."""

import argparse
import datetime
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables
from compress.storage import files

EXAMPLE = """example:
  python report.py
  python report.py --root_folder ./model/demo --no-models --output ./model/demo.html
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("report")
    group.add_argument(
        "--root_folder",
        type=flags.path,
        default="./model",
        help="folder below which the records of all runs are shown (default: %(default)s)",
    )
    group.add_argument(
        "--output",
        type=flags.path,
        metavar="FILE.html",
        help="the page; its figures go as PNG into a folder beside it, named as it is without .html "
        "(default: report.html in --root_folder)",
    )
    group.add_argument(
        "--models",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure APoZ and confusion matrices on the models themselves; needs them and "
        "their images (default: on)",
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        type=flags.path,
        metavar="FOLDER",
        help="folder of images of runs whose --dataset was a folder; stock sets need no flag",
    )
    flags.add_data_dir_flag(group)
    flags.add_cache_flags(group)
    flags.add_batch_size_flag(group)
    flags.add_machine_flags(parser, "float32")
    return parser


def build(args, tree):
    """The sections of the page, a list of page.Section; what a section would have nothing to show of is left out.

    Args:
        args: the flags.
        tree: all records, a report.tree.Tree.
    """
    from compress.report import sections

    measured = {"apoz": None, "classes": None}
    if args.models and tree.of_kind("pruned", "student"):
        app.start_keras(configs.MachineConfig.of(args))
        from compress.report import measure

        images = measure.Images(configs.ReportConfig.of(args))
        measured = {"apoz": sections.apoz_section(tree, images), "classes": sections.classes_section(tree, images)}
    return list(
        filter(
            None,
            [
                sections.models_section(tree),
                sections.sweep_section(tree),
                sections.training_section(tree),
                sections.pruning_section(tree),
                measured["apoz"],
                sections.sensitivity_section(tree),
                sections.distillation_section(tree),
                measured["classes"],
                sections.exports_section(tree),
                sections.runs_section(tree),
                sections.skipped_section(tree),
            ],
        )
    )


def write(args, tree, sections):
    """Writes the figures as PNG, and the page, which holds them as SVG; figures of runs that are gone are removed.

    Returns:
        List of the figures' Paths.
    """
    from compress.report import page
    from compress.report.cards import cards
    from compress.report.sections import text

    output = Path(args.output)
    folder = output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = page.save_figures(sections, folder, display.track("drawing", args.verbose, of="figures"))
    before = page.linked_figures(output)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    shown, rule = cards(tree)
    words = {"root": text(str(args.root_folder)), "made": now, "cards": shown, "rule": rule, "folder": folder.name}
    page.write(output, page.render(sections, drawn, **words))
    for slug in before - set(drawn):
        (folder / f"{slug}.png").unlink(missing_ok=True)
    return [folder / f"{slug}.png" for slug in drawn]


def show(args, tree, figures):
    """Says what the page shows and what it doesn't, and where it lies."""
    from compress.report import comparing

    display.say(
        f"{tables.counted(len(tree.runs), 'record')}, "
        f"{tables.counted(len(tree.points), 'accuracy', 'accuracies')}, "
        f"{tables.counted(len(figures), 'figure')}",
        args.verbose,
    )
    for line in comparing.told(tree.sweep) if tree.sweep else ():
        display.say(line, args.verbose)
    for file, why in tree.skipped:
        display.say(f"not shown: {file}, {why}", args.verbose)
    display.written([args.output, *([Path(args.output).with_suffix("")] if figures else [])], args.verbose)


@keywords.callable_with(build_parser)
def run(args):
    """Reads all records, measures where it may, draws and writes.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        {"output": Path of the page, "figures": list of Paths, "models": list of dicts of every accuracy, "runs": number
        of records, "skipped": list of (file, why)}.

    Raises:
        InputError: no record below the folder, or a file can't be written.
    """
    from compress.report import records

    args.output = args.output or str(Path(args.root_folder) / "report.html")
    tree = records.read_tree(args.root_folder, display.track("reading records", args.verbose, of="files"))
    files.check_file(args.output, ".html")
    sections = build(args, tree)  # nothing is written before all is measured
    figures = write(args, tree, sections)
    show(args, tree, figures)
    return {
        "output": Path(args.output),
        "figures": figures,
        "models": [
            {
                "name": p.name,
                "kind": p.kind,
                "acc": p.acc,
                "dataset": p.dataset,
                "split": p.split,
                "images": p.images,
                "sha256": p.sha256,
                **p.sizes,
            }
            for p in tree.points
        ],
        "runs": len(tree.runs),
        "skipped": tree.skipped,
    }


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
