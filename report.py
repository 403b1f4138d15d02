#!/usr/bin/env python3
"""Report on all runs below a folder in one HTML page: fronts, pruning, distillation, classes, flags and origins."""

import argparse
import datetime
import sys
from pathlib import Path

from compress.cli import app, display, flags, keywords, tables
from compress.storage import files

EXAMPLE = """example:
  python report.py
  python report.py --root_folder ./model/demo --no-models --output ./model/demo.html
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("report")
    group.add_argument("--root_folder", type=flags.path, default="./model",
                       help="folder below which the records of all runs are shown (default: %(default)s)")
    group.add_argument("--output", type=flags.path, metavar="FILE.html",
                       help="the page; its figures go as PNG into a folder beside it, named as it is without .html "
                            "(default: report.html in --root_folder)")
    group.add_argument("--models", action=argparse.BooleanOptionalAction, default=True,
                       help="also measure APoZ and confusion matrices on the models themselves; needs them and "
                            "their images (default: on)")
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", type=flags.path, metavar="FOLDER",
                       help="folder of images of runs whose --dataset was a folder; stock sets need no flag")
    flags.add_data_dir_flag(group)
    flags.add_batch_size_flag(group)
    flags.add_machine_flags(parser, "float32")
    return parser


def build(args, tree):
    """The sections of the page. Call it under `report_svg.STYLE`.

    Args:
        args: the flags.
        tree: a report_tree.Tree.

    Returns:
        List of report_page.Section.
    """
    from compress.report import sections as made

    measured = dict.fromkeys(("apoz", "classes"))
    if args.models and tree.of_kind("pruned", "student"):
        app.start_keras(args)
        from compress.report import measure

        images = measure.Images(args)
        measured = {"apoz": made.apoz_section(args, tree, images), "classes": made.classes_section(args, tree, images)}
    sections = [made.models_section(tree), made.training_section(tree), made.pruning_section(tree), measured["apoz"],
                made.sensitivity_section(tree), made.distillation_section(tree), measured["classes"],
                made.exports_section(tree), made.runs_section(tree), made.skipped_section(tree)]
    return [section for section in sections if section]


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

    output = Path(args.output or Path(args.root_folder) / "report.html")
    tree = records.read_tree(args.root_folder, display.track("reading records", args.verbose))
    files.check_file(output, ".html")
    folder = output.with_suffix("")
    import matplotlib

    from compress.report import page as report_page
    from compress.report import sections as report_sections
    from compress.report import svg

    with matplotlib.rc_context(svg.STYLE):
        sections = build(args, tree)
        folder.mkdir(parents=True, exist_ok=True)  # nothing is made before all is measured
        drawn = report_page.save_figures(sections, folder, display.track("drawing", args.verbose))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    page = report_page.render(sections, drawn, root=report_sections.text(str(args.root_folder)), made=now,
                              cards=report_sections.cards(tree), folder=folder.name)
    before = report_page.linked_figures(output)
    report_page.write(output, page)
    for slug in before - set(drawn):  # of runs that are gone
        (folder / f"{slug}.png").unlink(missing_ok=True)
    display.say(f"{tables.counted(len(tree.runs), 'record')}, "
                f"{tables.counted(len(tree.points), 'accuracy', 'accuracies')}, "
                f"{tables.counted(len(drawn), 'figure')}", args.verbose)
    for file, why in tree.skipped:
        display.say(f"not shown: {file}, {why}", args.verbose)
    display.written([output, *([folder] if drawn else [])], args.verbose)
    return {"output": output, "figures": [folder / f"{slug}.png" for slug in drawn],
            "models": [{"name": p.name, "kind": p.kind, "acc": p.acc, "dataset": p.dataset, "split": p.split,
                        "images": p.images, "sha256": p.sha256, **p.sizes} for p in tree.points],
            "runs": len(tree.runs), "skipped": tree.skipped}


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
