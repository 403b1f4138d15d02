#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Make many runs from one file of scripts, flags and values: here, as printed commands, or searched by Optuna."""

import importlib
import math
import signal
import sys
from pathlib import Path

from compress.cli import app, display, flags, keywords, tables, values
from compress.errors import InputError, Stopped, command

TRIALS = 20
MOST_SHOWN = 10  # trials in the table of a search
EXAMPLE = """example:
  python sweep.py sweep.yaml -j 2
  python sweep.py sweep.yaml --print --step base | xargs -d '\\n' -n 1 -P 2 sh -c
  python sweep.py sweep.yaml --study rates --trials 20
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("sweep")
    group.add_argument(
        "file",
        metavar="FILE.yaml",
        type=flags.path,
        help="what to run, in front of the flags; see docs/how-to/sweeps.md",
    )
    group.add_argument(
        "--jobs",
        "-j",
        type=flags.whole(1, 1024),
        default=1,
        metavar="N",
        help="runs at a time; several print to logs in the sweep's folder (default: %(default)s)",
    )
    group.add_argument(
        "--step",
        type=values.name,
        nargs="+",
        metavar="NAME",
        help="the runs of these steps alone (default: all)",
    )
    group.add_argument("--print", action="store_true", help="print the commands, one a line, and run nothing")
    group.add_argument(
        "--seeds",
        type=flags.whole(0, 2**32 - 1),
        nargs="+",
        metavar="SEED",
        help="make each run with each of these seeds (default: the file's)",
    )
    group = parser.add_argument_group("search")
    group.add_argument(
        "--study",
        type=values.name,
        metavar="NAME",
        help="search the values with Optuna, in a study of this name that several processes may share (default: none)",
    )
    group.add_argument(
        "--trials",
        type=flags.whole(1),
        metavar="N",
        help=f"trials of the study in all (default: {TRIALS})",
    )
    group.add_argument(
        "--storage",
        type=values.url,
        metavar="URL",
        help="database of the study, such as postgresql+psycopg://user@host/name for several machines (default: "
        "SQLite in the sweep's folder)",
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


def say_busy(args, run):
    """Says that a run, or the trial of a number, is waited for."""
    if isinstance(run, int):
        dead = "; if that one is dead, it is made here within 3 minutes"
        display.say(f"trial {run}: another process is at work on it, which is waited for{dead}", args.verbose)
        return
    display.say(f"{run.folder}: another process is at work on it, which is waited for", args.verbose)


def tell(args, count):
    """A function that says how far the runs are, as `running.make` calls it; `count` is their number."""
    ended = []

    def say(run, state, seconds, line):
        if state == "started":
            display.say(f"{run.folder}: started", args.verbose)
            return
        if state == "busy":
            say_busy(args, run)
            return
        ended.append(run)
        words = {"there": "finished before", "left out": "left out, as what it starts from failed", "refused": "failed"}
        took = f" after {seconds:.1f} s" if seconds else ""
        why = f": {line}" if line else ""
        text = f"[{len(ended)}/{count}] {run.folder}: {words.get(state, state)}{took}{why}"
        display.warn(text) if state in ("failed", "refused") else display.say(text, args.verbose)

    return say


def make(args, spec, runs):
    """Makes the runs, and says which failed.

    Returns:
        {"runs": list of dicts of folder, step, values, command and state}.

    Raises:
        InputError: a run failed; the others were made all the same.
    """
    from compress.sweeps import notes, running

    logged = args.jobs > 1 or not args.verbose
    states = running.make(runs, args.jobs, spec.folder, tell(args, len(runs)), logged)
    bad = [run.folder for run in runs if states[run.folder] in ("failed", "refused")]
    if bad:
        refused = sum(state == "refused" for state in states.values())
        way = f"expected another folder in {args.file}, the flags of then, or those runs removed"
        other = f"; of them {refused} hold what other flags, or another model, made: {way}" if refused else ""
        rest = "what else is missing" if refused else "what is missing"
        more = "" if refused == len(bad) else f"; with that set right, the same command makes {rest}"
        others = tables.counted(sum(state == "left out" for state in states.values()), "other")
        raise InputError(
            f"{len(bad)} of {tables.counted(len(runs), 'run')} failed and {others} start from them: "
            f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}; expected 0{other}{more}"
        )
    display.written([Path(spec.folder) / notes.NAME], args.verbose)
    return {
        "runs": [
            {"folder": run.folder, "step": run.step, "values": run.values, "state": states[run.folder]} for run in runs
        ]
    }


def grid(args, spec):
    """Prints the commands of all combinations of values, or makes their runs; see `show_commands` and `make`."""
    from compress.sweeps import notes, plans

    for name in ("trials", "storage"):
        if getattr(args, name) is not None:
            raise InputError(f"`{name}`: received it without `study`, expected both: a search has a name")
    runs = plans.expand(spec, parser_of)
    chosen = plans.selected(runs, args.step, args.file)
    if args.print:
        return show_commands(args, chosen)
    notes.write(spec, [notes.entry(one, spec.folder) for one in runs])
    return make(args, spec, chosen)


def search(args, spec):
    """Makes trials until the study has as many as asked for, and shows the best ones.

    Returns:
        {"trials": list of dicts of number, state, value, params, folder of the last run, and of a key that is followed
        the epochs and the value reached in them; best first}.

    Raises:
        InputError: a value can't be used; or no trial came to its end.
    """
    from compress.sweeps import notes, specs
    from compress.sweeps import search as searching

    for name, given in (("jobs", args.jobs > 1), ("step", args.step), ("print", args.print)):
        if given:
            more = "; the same command, started again beside this one, shares the study" if name == "jobs" else ""
            raise InputError(f"`{name}`: received it beside `study`, expected one of them{more}")
    args.trials = args.trials or TRIALS
    study = searching.open_study(spec, args.study, args.storage, searching.check(spec, parser_of))
    key = spec.objective[0]
    searching.search(
        spec, parser_of, study, args.trials, lambda one: show_trial(args, key, one), lambda run: say_busy(args, run)
    )
    with searching.database():
        found = [
            {
                "number": t.number,
                "state": t.state.name.lower(),
                "value": _finite(t.value),
                "params": t.params,
                "epochs": len(t.intermediate_values),
                "reached": _finite(t.intermediate_values.get(t.last_step)),
                "folder": searching.folder_of(spec, t),
            }
            for t in searching.counted(study)
        ]
    rank = {"complete": 0, "pruned": 1, "running": 2, "fail": 3}
    sign = -1 if spec.objective[1] == "maximize" else 1
    found.sort(key=lambda t: (rank[t["state"]], t["value"] is None, sign * (t["value"] or 0), t["number"]))
    if found[0]["state"] in ("pruned", "fail"):
        raise InputError(
            f"{spec.file}: no trial of {len(found)} came to its end, expected one; why a run failed, "
            f"{Path(spec.folder) / specs.LOGS} says; with that set right, `trials={len(found) + args.trials}` makes "
            f"{args.trials} more"
        )
    show_trials(args, spec, found)
    display.written([Path(spec.folder) / notes.NAME], args.verbose)
    return {"trials": found}


def show_trial(args, key, trial):
    """Says how a trial ended; `key`: what is searched for."""
    failed = trial.user_attrs.get("failed")
    if failed:
        display.warn(f"trial {trial.number} failed: {failed}")
        return
    chosen = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    epochs, reached = tables.counted(len(trial.intermediate_values), "epoch"), trial.intermediate_values
    stopped = f"stopped after {epochs} at {_shown(key, reached[trial.last_step])}" if reached else "stopped"
    how = stopped if trial.state.name == "PRUNED" else f"{key} {_shown(key, trial.value)}"
    display.say(f"trial {trial.number}: {how} ({chosen})", args.verbose)


def show_trials(args, spec, found):
    """Prints a table of the best trials, those that were stopped early behind those that came to their end."""
    (key, _), best = spec.objective, [trial for trial in found if trial["state"] in ("complete", "pruned")][:MOST_SHOWN]
    names = list(dict.fromkeys(name for trial in best for name in trial["params"]))
    stopped = sum(trial["state"] == "pruned" for trial in found)
    kind = tables.percent if key.endswith("_acc") else tables.number
    values = [trial["value"] if trial["state"] == "complete" else trial["reached"] for trial in best]
    states = ["" if t["state"] == "complete" else f"after {tables.counted(t['epochs'], 'epoch')}" for t in best]
    rows = zip(best, values, states, strict=True)
    display.print_table(
        f"{tables.counted(len(found), 'trial')}, {stopped} of them stopped early",
        [
            *[("trial", tables.text), (key, kind), ("stopped", tables.text)],
            *((name, tables.text) for name in names),
        ],
        [[str(t["number"]), value, state, *(_short(t["params"].get(n)) for n in names)] for t, value, state in rows],
        args.verbose,
    )
    if best and best[0]["state"] == "complete" and best[0]["folder"]:
        display.say(f"best: trial {best[0]['number']}, {best[0]['folder']}", args.verbose)


def _finite(value):
    """A trial's value; None of one that is infinite, as only another program gives it: JSON has none."""
    return value if value is not None and math.isfinite(value) else None


def _shown(key, value):
    """A number of what is searched for, an accuracy in per cent."""
    return display.percent(value) if key.endswith("_acc") else f"{value:.6g}"


def _short(value):
    """A trial's value as a table shows it; choices are JSON."""
    return None if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).strip('"')


@keywords.callable_with(build_parser)
def run(args):
    """Checks the whole file, then prints its commands, makes its runs or searches its values.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        {"runs": list of dicts}; {"commands": list of texts} with `print`; {"trials": list of dicts} with `study`.

    Raises:
        InputError: something in the file can't be used; or a run failed.
        Stopped: a signal asked it to end, and each run at work has ended.
    """
    from compress.sweeps import specs

    try:
        spec = specs.read(args.file, args.seeds)
        return search(args, spec) if args.study else grid(args, spec)
    except KeyboardInterrupt as error:
        raise Stopped(getattr(error, "number", signal.SIGINT), "what its runs have saved stays") from None


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
