#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Make many runs from one file of scripts, flags and values: here, or as printed commands."""

import importlib
import sys
from pathlib import Path

from compress.cli import app, display, flags, keywords, tables, values
from compress.errors import InputError, command

EXAMPLE = """example:
  python sweep.py sweep.yaml -j 2
  python sweep.py sweep.yaml --print --step base | xargs -d '\\n' -n 1 -P 2 sh -c
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("sweep")
    group.add_argument("file", metavar="FILE.yaml", type=flags.path, help="what to run, see docs/how-to/sweeps.md")
    group.add_argument(
        "--jobs",
        "-j",
        type=flags.whole(1, 1024),
        default=1,
        metavar="N",
        help="runs at a time; several print to logs in the sweep's folder (default: %(default)s)",
    )
    group.add_argument("--step", type=values.name, metavar="NAME", help="the runs of this step alone (default: all)")
    group.add_argument("--print", action="store_true", help="print the commands, one a line, and run nothing")
    group.add_argument(
        "--seeds",
        type=flags.whole(0, 2**32 - 1),
        nargs="+",
        metavar="SEED",
        help="make each run with each of these seeds (default: the file's)",
    )
    flags.add_output_flags(parser)
    return parser


def parser_of(script):
    """The parser of another script, which knows its flags; the script itself runs as a process of its own."""
    return importlib.import_module(Path(script).stem).build_parser()


def show_commands(args, runs):
    """Prints a command a line, each behind those that it needs."""
    lines = [command(run.script, *run.words) for run in runs]
    for line in [] if args.json else lines:
        print(line)
    return {"commands": lines}


def tell(args, count):
    """A function that says how far the runs are, as `running.make` calls it; `count` is their number."""
    ended = []

    def say(run, state, seconds, line):
        if state == "started":
            display.say(f"{run.folder}: started", args.verbose)
            return
        ended.append(run)
        words = {"there": "finished before", "left out": "left out, as what it starts from failed"}.get(state, state)
        took = f" after {seconds:.1f} s" if seconds else ""
        text = f"[{len(ended)}/{count}] {run.folder}: {words}{took}{f': {line}' if line and state == 'failed' else ''}"
        display.warn(text) if state == "failed" else display.say(text, args.verbose)

    return say


def make(args, spec, runs):
    """Makes the runs, and says which failed.

    Returns:
        {"runs": list of dicts of folder, step, values, command and state}.

    Raises:
        InputError: a run failed; the others were made all the same.
    """
    from compress.sweeps import notes, running

    logs = spec.folder if args.jobs > 1 or not args.verbose else None
    states = running.make(runs, args.jobs, logs, tell(args, len(runs)))
    bad = [run.folder for run in runs if states[run.folder] == "failed"]
    if bad:
        others = tables.counted(sum(state == "left out" for state in states.values()), "other")
        raise InputError(
            f"{len(bad)} of {tables.counted(len(runs), 'run')} failed and {others} start from them: "
            f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}; expected 0; the same command makes what is missing"
        )
    display.written([Path(spec.folder) / notes.NAME], args.verbose)
    return {
        "runs": [
            {"folder": run.folder, "step": run.step, "values": run.values, "state": states[run.folder]} for run in runs
        ]
    }


@keywords.callable_with(build_parser)
def run(args):
    """Checks the whole file, then prints its commands or makes its runs.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        {"runs": list of dicts}, or {"commands": list of texts} with `print`.

    Raises:
        InputError: something in the file can't be used; or a run failed.
    """
    from compress.sweeps import notes, plans, specs

    spec = specs.read(args.file, args.seeds)
    runs = plans.expand(spec, parser_of)
    chosen = plans.selected(runs, args.step, args.file)
    if args.print:
        return show_commands(args, chosen)
    notes.write(spec, [notes.entry(one, spec.folder) for one in runs])
    return make(args, spec, chosen)


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
