#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Draws training histories, or the result of pruning, from the files that the other scripts write."""

import argparse
import os
import sys
from pathlib import Path

from compress.cli import app, display, flags, keywords, messages, tables
from compress.errors import InputError
from compress.plots import curves, roles, style
from compress.plots.pruning import plot_pruning
from compress.storage import files, histories, records

EXAMPLE = """example:
  python plot_train_history.py --history_path model/base_model/history.json
  python plot_train_history.py --history_path model/pruned_model/iter1 model/pruned_model/iter2 --output iters.pdf
"""


def build_parser():
    """The script's flags."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("figure")
    group.add_argument(
        "--history_path",
        nargs="+",
        required=True,
        type=flags.path,
        metavar="PATH",
        help="one or more histories: .json or .csv files of this suite, of Keras (History.history, "
        "CSVLogger), pandas, Lightning, Hugging Face or Ultralytics, or folders with a "
        "history.json; or the result.json of one pruning",
    )
    group.add_argument(
        "--output",
        type=flags.path,
        metavar="FILE",
        help="figure to write, .png, .pdf or .svg (default: beside the first history: history.png, "
        "history_compare.png for several, pruning.png for a pruning result)",
    )
    group.add_argument(
        "--show",
        action=argparse.BooleanOptionalAction,
        help="open a window too (default: where there is a display and a terminal)",
    )
    flags.add_output_flags(parser)
    return parser


def find_history(path, verbose=1):
    """The file that a --history_path stands for.

    Args:
        path: a file, or a folder that holds history.json or else result.json.
        verbose: 0 keeps quiet about a corrected path.

    Returns:
        Path of an existing file.

    Raises:
        InputError: no such file.
    """
    # The original suite's README spells the folder "prued_model"; its scripts write "pruned_model".
    corrected = Path(*("pruned_model" if part == "prued_model" else part for part in path.parts))
    if not path.exists() and corrected.exists():
        if verbose:
            messages.print_error(messages.spelled(f"`history_path`: there is no {path}; reading {corrected}"))
        path = corrected
    if path.is_dir():
        inside = [path / "history.json", path / "result.json"]
        if not any(file.is_file() for file in inside):
            raise InputError(
                f"`history_path`: received {path}, a folder without history.json{files.suggestion(inside[0])}"
            )
        path = next(file for file in inside if file.is_file())
    return path


def is_pruning_result(content):
    """Whether a JSON object is the result.json of pruning."""
    return all(isinstance(content.get(key), list) for key in ("base_acc", "sparsity", "pruned_acc", "final_acc"))


def short_labels(paths):
    """The shortest distinguishing parts of paths; of a single path, its last two.

    Args:
        paths: distinct Paths of files.

    Returns:
        list of str, one a path, no two alike.
    """
    parts = [list(path.resolve().with_suffix("").parts) for path in paths]
    if len(parts) == 1:
        only = parts[0][1:-1] if parts[0][-1] in ("history", "result") else parts[0][1:]
        return ["/".join((only or parts[0])[-2:])]
    if len({tuple(p) for p in parts}) < len(parts):  # a.json and a.txt
        parts = [list(path.resolve().parts) for path in paths]
    bare = [p[:-1] if p[-1] in ("history", "result") and len(p) > 1 else p for p in parts]  # a run is its folder
    parts = bare if len(set(map(tuple, bare))) == len(bare) else parts
    for end in (-1, 0):
        while min(len(p) for p in parts) > 1 and len({p[end] for p in parts}) == 1:
            for p in parts:
                p.pop(end)
    return ["/".join(p) for p in parts]


def summarise(curves):
    """What the table says of a history: epochs, best validation accuracy (0 to 1), its epoch, the last losses."""
    best = records.best_epoch(curves)
    return {
        "epochs": len(next(iter(curves.values()))),
        "best_val_acc": None if best is None else curves["val_acc"][best],
        "best_epoch": None if best is None else best + 1,
        **{f"last_{key}": curves[key][-1] if key in curves else None for key in ("train_loss", "val_loss")},
    }


def can_show():
    """Whether a window could be opened: a display, and matplotlib with a toolkit to draw on it."""
    if not (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        from matplotlib import pyplot

        pyplot.switch_backend(pyplot.get_backend())  # loads the toolkit, which may be missing
        return pyplot.get_backend().lower() not in ("agg", "pdf", "svg", "ps", "pgf", "cairo", "template")
    except (ImportError, RuntimeError):
        return False


def show(figure):
    """Opens a window with the figure and waits until it is closed."""
    from matplotlib import pyplot

    window = pyplot.figure(figsize=figure.get_size_inches())  # only pyplot can open a window; ours takes its place
    figure.set_canvas(window.canvas)
    window.canvas.figure = figure
    pyplot.show()


def read_all(paths):
    """The pruning result, or the histories by label.

    Args:
        paths: Paths of existing files.

    Returns:
        (content of the pruning result or None, label -> curves, empty with a pruning result).

    Raises:
        InputError: a file is neither, or a pruning result is not alone.
    """
    found = []
    for path in paths:
        content = histories.load(path)
        if is_pruning_result(content) and len(paths) > 1:
            raise InputError(
                f"`history_path`: received {path}, a pruning result, among {len(paths)} files; "
                "expected it alone, or histories only"
            )
        if is_pruning_result(content):
            return content, {}
        curves, notes = histories.read(path)
        for note in notes:
            display.warn(f"{path}: {note}")
        found.append(curves)
    return None, dict(zip(short_labels(paths), found, strict=True))


def inputs(args):
    """What to draw; all flags are checked here, and --output is set where it wasn't given.

    Returns:
        (list of Paths, each once; content of a pruning result or None; label -> curves).

    Raises:
        InputError: a flag or a file can't be used.
    """
    if args.show and not can_show():
        raise InputError("`show`: received it where no window can be opened; expected a display, or `show=False`")
    try:
        paths = [find_history(Path(path), args.verbose) for path in args.history_path]
        paths = list({path.resolve(): path for path in paths}.values())  # the same file twice is one history
        pruning, curves_of = read_all(paths)
        default = "pruning.png" if pruning else "history.png" if len(paths) == 1 else "history_compare.png"
        args.output = args.output or str(paths[0].parent / default)
        files.check_file(args.output, *(f".{name}" for name in style.FORMATS))
    except OSError as error:  # a name too long, a folder that may not be entered
        raise InputError(f"`history_path`, `output`: received {error.filename}: {error.strerror}") from None
    return paths, pruning, curves_of


def draw(paths, pruning, curves_of):
    """The figure; histories of a base, a pruned network or a student get the colour and marker of that role."""
    try:
        if pruning:
            return plot_pruning(pruning)
        return curves.plot_history(curves_of, dict(zip(curves_of, roles.of_files(paths), strict=True)))
    except InputError as error:  # it knows the curve, not the file
        raise InputError(f"`history_path`: received {', '.join(map(str, paths))}: {error}") from None


def write(args, figure):
    """Writes the figure to --output."""
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    style.save_figure(figure, output)


def print_table(pruning, summary):
    """Prints the table of a pruning result, or of the histories' summaries."""
    if pruning:
        columns = {"sparsity": "sparsity", "pruned_acc": "after pruning", "final_acc": "after fine-tuning"}
        rows = zip(range(1, len(pruning["sparsity"]) + 1), *(pruning[key] for key in columns), strict=True)
        display.print_table(
            "Pruning; validation accuracy",
            [("iteration", tables.text), *((name, tables.percent) for name in columns.values())],
            list(rows),
        )
    else:
        columns = {
            "epochs": ("epochs", tables.text),
            "best_val_acc": ("best validation accuracy", tables.percent),
            "best_epoch": ("at epoch", tables.text),
            "last_train_loss": ("last train loss", tables.number),
            "last_val_loss": ("last validation loss", tables.number),
        }
        display.print_table(
            "Histories",
            [("history", tables.text), *columns.values()],
            [[label, *(found[key] for key in columns)] for label, found in summary.items()],
        )


def report(args, figure, pruning, summary):
    """Prints the table and where the figure lies, and opens a window where one is wanted."""
    if args.verbose:
        print_table(pruning, summary)
        display.written([args.output])
    if args.show or (args.show is None and sys.stdout.isatty() and can_show()):
        show(figure)


@keywords.callable_with(build_parser)
def run(args):
    """Reads, draws, writes and, where asked, shows.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        dict of output (Path of the figure) and histories (label -> summary, see `summarise`; empty for pruning).

    Raises:
        InputError: a flag or a file can't be used; nothing is written.
    """
    paths, pruning, curves_of = inputs(args)
    figure = draw(paths, pruning, curves_of)
    write(args, figure)
    summary = {label: summarise(found) for label, found in curves_of.items()}
    report(args, figure, pruning, summary)
    return {"output": Path(args.output), "histories": summary}


def main(argv=None):
    """Runs the script; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
