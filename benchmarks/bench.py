#!/usr/bin/env python3
"""Measures the speed of the suite against other libraries, on the same machine in the same run, as ratios.

Contestants are processes that take turns (benchmarks/contest.py), so drifts in the machine's speed affect all alike.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import contest  # noqa: E402
import loading  # noqa: E402

from compress.cli import display, flags, tables  # noqa: E402
from compress.errors import InputError  # noqa: E402
from compress.storage import files, records  # noqa: E402

EXAMPLE = """example:
  python benchmarks/bench.py                       everything, about 25 minutes on 2 cores
  python benchmarks/bench.py step distil           two parts
  python benchmarks/bench.py --output bench.json   also write what each turn took
"""
SCRIPTS = ("train_base_model", "prune_model", "knowledge_distillation", "evaluate_model", "plot_train_history")


class Results:
    """The rows of the table, and the measurements behind them.

    Attributes:
        rows: list of dicts, see `add`.
        turns: {command: dict of what its process measured: 'seconds', one number a turn, 'times', 'peak_bytes' or
            others}.
    """

    def __init__(self):
        self.rows, self.turns = [], {}

    def add(self, part, what, figure, reach, holds, note=""):
        """Adds a row.

        Args:
            part: of the benchmark, a key of PARTS.
            what: was measured.
            figure: the measured value as text.
            reach: the value to reach, as text; '' for none.
            holds: whether it is reached.
            note: absolute numbers behind a ratio.
        """
        self.rows.append(
            {"part": part, "what": what, "figure": figure, "reach": reach, "holds": bool(holds), "note": note}
        )

    def race(self, entries, repeats, turns):
        """Runs `contest.contest`, and keeps the seconds of every turn under the command that makes them."""
        found = contest.contest(entries, repeats, turns)
        for name, words in entries.items():
            self.turns[" ".join(["python benchmarks/worker.py", *words])] = {
                "seconds": found[name].seconds,
                "peak_bytes": found[name].peak_bytes,
            } | found[name].facts
        return found


def spread(values):
    """'median (lowest to highest)' of a list of numbers."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratios(first, second):
    """The first contestant's seconds / the second's, a list with one ratio for each turn."""
    # Turns of the same round were measured within seconds of each other; a ratio of means would mix rounds.
    return [a / b for a, b in zip(first.seconds, second.seconds, strict=True)]


def step(results, args):
    """Training steps, compared with PyTorch and plain Keras."""
    entries = {
        f"{library} {precision}": ["step", "--library", library, "--precision", precision]
        for precision in ("float32", "mixed_bfloat16")
        for library in ("suite", "keras", "torch")
    }
    found = results.race(entries, 4, args.turns)
    for precision, reach in (("float32", 1.4), ("mixed_bfloat16", 1.0)):
        ours = found[f"suite {precision}"]
        for library in ("torch", "keras"):
            other = found[f"{library} {precision}"]
            times = ratios(other, ours)
            results.add(
                "step",
                f"training step, {precision}: images/s against {library}'s",
                spread(times),
                f"{reach} or more" if library == "torch" else "",
                library != "torch" or median(times) >= reach,
                f"{128 / ours.median:.0f} against {128 / other.median:.0f} images/s; peak memory "
                f"{ours.peak_bytes / 2**30:.2f} against {other.peak_bytes / 2**30:.2f} GiB",
            )


def families(results, args):
    """Training steps of networks of other families, compared with plain Keras and PyTorch."""
    for net in ("MobileNetV2", "EfficientNetB0", "resnet56"):
        entries = {library: ["step", "--library", library, "--net", net] for library in ("suite", "keras", "torch")}
        found = results.race(entries, 4, args.turns)
        for library, reach in (("keras", 1.5), ("torch", 1.0)):
            times = ratios(found[library], found["suite"])
            results.add(
                "families",
                f"training step of {net}, float32: images/s against {library}'s",
                spread(times),
                f"{reach} or more",
                median(times) >= reach,
                f"{128 / found['suite'].median:.0f} against {128 / found[library].median:.0f} images/s",
            )


def graph(results, args):
    """The seconds that reading and trimming a ResNet50 take."""
    found = results.race({work: [work] for work in ("reading", "trimming")}, 1, args.turns)
    for work, what, limit in (("reading", "reading the graph of", 0.5), ("trimming", "trimming", 5)):
        seconds = found[work].median
        results.add("graph", f"{what} a ResNet50", f"{seconds:.2f} s", f"under {limit} s", seconds < limit)


def deterministic(results, args):
    """Training steps with --deterministic, compared with steps without."""
    for precision in ("float32", "mixed_bfloat16"):
        found = results.race(
            {name: [name, "--precision", precision] for name in ("deterministic", "step")}, 4, args.turns
        )
        results.add(
            "deterministic",
            f"training step under --deterministic, {precision}, against one without",
            spread(ratios(found["deterministic"], found["step"])),
            "",
            True,
        )


def epoch(results, args):
    """A whole epoch, compared with the training steps in it alone: what data, validation and checkpoints cost."""
    # one process, as `between`: it takes steps alone between those of the epoch
    precision = flags.precision("auto")
    words = ["epoch", "--precision", precision, "--data_dir", args.data_dir, "--steps", "39"]
    entrant = contest.Contestant(words)
    entrant.stop()
    whole, bare = zip(*entrant.facts["times"], strict=True)
    results.turns[" ".join(["python benchmarks/worker.py", *words])] = entrant.facts
    times = [a / b for a, b in zip(whole, bare, strict=True)]
    results.add(
        "epoch",
        f"train_base_model.py's whole epoch, {precision}, against its 351 steps",
        spread(times),
        "1.05 or less",
        median(times) <= 1.05,
        f"{median(whole):.1f} s an epoch, {entrant.facts['steps']} steps in turn",
    )
    peak = entrant.facts["peak_bytes"] / 2**30
    results.add("epoch", "peak memory of training on CIFAR-10", f"{peak:.2f} GiB", "under 3 GiB", peak < 3)


def data(results, args):
    """Reading photographs, compared with Keras and PyTorch, and what a training waits for them."""
    if not Path(args.photos).is_dir():
        print(f"data: no {args.photos}; make it: python benchmarks/photographs.py {args.photos}", file=sys.stderr)
        return
    common = ["--photos", args.photos, "--data_dir", args.data_dir, "--images", str(args.images)]
    for side in loading.SIDES:
        entries = {
            name: ["load", *words, "--side", str(side), *common]
            for name, words in {
                "cache": ["--kept", "cache"],
                "files": ["--kept", "files"],
                "keras": ["--library", "keras"],
                "torch": ["--library", "torch"],
            }.items()
        }
        found = results.race(entries, 64, args.turns)
        for kept, other in (("files", "keras"), ("files", "torch"), ("cache", "files")):
            times = ratios(found[other], found[kept])
            results.add(
                "data",
                f"images/s of one core at {side} pixels, {kept}: against {other}'s",
                spread(times),
                "",
                True,
                f"{loading.BATCH / found[kept].median:,.0f} against {loading.BATCH / found[other].median:,.0f}; peak "
                f"memory {found[kept].peak_bytes / 2**30:.2f} against {found[other].peak_bytes / 2**30:.2f} GiB",
            )
    precision = flags.precision("auto")
    words = ["fed", "--side", "224", "--precision", precision, "--turns", str(args.turns), *common]
    entrant = contest.Contestant(words)
    entrant.stop()
    results.turns[" ".join(["python benchmarks/worker.py", *words])] = entrant.facts
    turns = dict(zip(loading.KEPT, zip(*entrant.facts["fed"], strict=True), strict=True))
    for kept in ("cache", "files"):
        shares = [100 * waited / seconds for seconds, waited in turns[kept]]
        times = [one / other for (one, _), (other, _) in zip(turns[kept], turns["memory"], strict=True)]
        results.add(
            "data",
            f"ResNet50's training at 224 pixels, {precision}, from {kept}: % of it spent waiting for batches",
            spread(shares),
            "5 or less",
            median(shares) <= 5,
            f"{loading.TURN * loading.FED / median([seconds for seconds, _ in turns[kept]]):.1f} images/s; "
            f"{spread(times)} of the time on one batch in memory",
        )


def apoz(results, args):
    """The APoZ pass, compared with a plain `predict` on the same images, and its memory."""
    found = results.race(
        {
            "apoz": ["apoz", "--images", "2560"],
            "predict": ["predict", "--images", "2560"],
            "more": ["apoz", "--images", "20480"],
        },
        1,
        args.turns,
    )
    times = ratios(found["apoz"], found["predict"])
    results.add(
        "apoz",
        "APoZ pass over 2,560 images against a plain Keras predict",
        spread(times),
        "1.10 or less",
        median(times) <= 1.1,
    )
    # The pass counts zeros batch by batch. If it kept activations, eight times the images would take far more memory.
    grown = (found["more"].peak_bytes - found["apoz"].peak_bytes - (20480 - 2560) * 32 * 32 * 3) / 2**20
    results.add(
        "apoz",
        "its peak memory with 20,480 images, beyond the images' own",
        f"{grown:+.0f} MiB",
        "no growth",
        grown < 100,
    )


def distil(results, args):
    """A distillation step, compared with the sum of the teacher's inference and the student's training step."""
    for precision in ("float32", "mixed_bfloat16"):
        mode = ["--precision", precision]
        found = results.race(
            {
                "conv1x1": ["distil", *mode],
                "constant": ["distil", *mode, "--regressor_name", "constant"],
                "teacher": ["inference", "--net", "teacher", *mode],
                "student": ["step", "--net", "student", *mode],
            },
            8,
            args.turns,
        )
        for name in ("conv1x1", "constant"):
            # A distillation step has to compute at least these two; the rest is losses, regressors and discriminator.
            alone = [a + b for a, b in zip(found["teacher"].seconds, found["student"].seconds, strict=True)]
            times = [whole / part for whole, part in zip(found[name].seconds, alone, strict=True)]
            results.add(
                "distil",
                f"distillation step, {name} regressors, {precision}, against teacher's inference + student's step",
                spread(times),
                "1.10 or less",
                median(times) <= 1.1,
                f"{1e3 * found[name].median:.0f} ms against {1e3 * found['teacher'].median:.0f} + "
                f"{1e3 * found['student'].median:.0f}",
            )


def between(results, args):
    """The seconds between the fine-tuning of one pruning iteration and that of the next."""
    precision = flags.precision("auto")
    words = ["between", "--precision", precision, "--data_dir", args.data_dir]
    entrant = contest.Contestant(words)
    entrant.stop()
    seconds = entrant.facts["between"]
    results.turns[" ".join(["python benchmarks/worker.py", *words])] = {"seconds": [seconds]}
    results.add(
        "between",
        "between two pruning iterations: APoZ over 5,000 images, masks, trim, two validations, "
        f"batch-norm over 2,048 images, compilation; {precision}",
        f"{seconds:.1f} s",
        "under 20 s",
        seconds < 20,
    )


def latency(results, args):
    """The speed-up of pruned networks as a share of their reduction of MACs, and other runtimes on the base.

    A share of 1 means that removing half of the MACs halves the latency.
    """
    for batch in (1, 64):
        common = ["latency", "--images", str(batch)]
        entries = {"base": common} | {
            f"{trims} x {rounded}": [*common, "--trims", str(trims), "--round_to", str(rounded)]
            for trims in (3, 6)
            for rounded in (1, 8, 16)
        }
        others = {
            name: [*words, "--images", str(batch)]
            for name, words in {
                "plain Keras' predict_on_batch, float32": ["latency", "--library", "keras"],
                "onnxruntime, float32": ["latency", "--library", "onnxruntime"],
                "LiteRT, float32": ["latency", "--library", "litert"],
                "itself in bfloat16": ["latency", "--precision", "mixed_bfloat16"],
            }.items()
        }
        found = results.race(entries | others, 200 if batch == 1 else 20, args.turns)
        base = found.pop("base")
        for name in others:
            other = found.pop(name)
            results.add(
                "latency",
                f"batch {batch}, base network, float32: times as fast as {name}",
                spread(ratios(other, base)),
                "",
                True,
                f"{1e3 * base.median:.2f} against {1e3 * other.median:.2f} ms",
            )
        for name, trimmed in found.items():
            # The networks differ in their MACs, so the speed-up is divided by the reduction that each has.
            faster, work = ratios(base, trimmed), base.facts["macs"] / trimmed.facts["macs"]
            trims, rounded = name.split(" x ")
            share = [value / work for value in faster]
            default = rounded == "1"  # only the default --round_to has a value to reach
            results.add(
                "latency",
                f"batch {batch}, {trims} iterations of the default rule, round_to {rounded}: "
                f"speed-up as a share of {work:.2f}x fewer MACs",
                spread(share),
                "0.7 or more" if default else "",
                not default or median(share) >= 0.7,
                f"{1e3 * trimmed.median:.2f} against {1e3 * base.median:.2f} ms, float32",
            )


def help_pages(results, args):
    """The time of every script's --help."""
    slowest = {}
    for script in SCRIPTS:
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, HERE.parent / f"{script}.py", "--help"], check=True, capture_output=True)
            slowest.setdefault(script, []).append(time.perf_counter() - start)
    worst = max(slowest, key=lambda script: median(slowest[script]))
    results.turns |= {f"python {script}.py --help": {"seconds": times} for script, times in slowest.items()}
    results.add(
        "help",
        f"--help of every script; the slowest, {worst}.py",
        f"{median(slowest[worst]):.2f} s",
        "under 0.3 s",
        median(slowest[worst]) < 0.3,
    )


PARTS = {
    "step": step,
    "families": families,
    "graph": graph,
    "deterministic": deterministic,
    "epoch": epoch,
    "apoz": apoz,
    "distil": distil,
    "between": between,
    "latency": latency,
    "help": help_pages,
    "data": data,
}


def run(args):
    """Measures the parts and prints a table of each; returns whether all values to reach are reached.

    Args:
        args: the parsed command line.
    """
    if args.output:
        files.check_file(args.output, ".json")
    results = Results()
    for part in args.parts:
        before = set(results.turns)
        PARTS[part](results, args)
        shown = [row for row in results.rows if row["part"] == part]
        display.print_table(
            f"{part}: median of the turns (lowest to highest)",
            [(heading, tables.text) for heading in ("", "figure", "reach", "", "details")],
            [[row["what"], row["figure"], row["reach"], "yes" if row["holds"] else "NO", row["note"]] for row in shown],
            1,
        )
        print("\n".join(f"  {command}" for command in results.turns if command not in before), "\n")
    if args.output:
        run = records.run_record(vars(args))
        records.write_json(args.output, {"rows": results.rows, "turns": results.turns, "run": run})
    return all(row["holds"] for row in results.rows)


def main(argv=None):
    """Command line; returns 0 if all values to reach are reached, else 1. Exits with 2 if a part can't be measured."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    parser.add_argument(
        "parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--turns",
        type=flags.whole(1, 1000),
        default=5,
        help="of each contestant; whole epochs have 2 (default: %(default)s)",
    )
    parser.add_argument("--data_dir", default="./data", help="where CIFAR-10 lies (default: %(default)s)")
    parser.add_argument(
        "--photos",
        default="./data/photographs",
        help="folder that benchmarks/photographs.py made (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=flags.whole(1), default=20_000, help="photographs that the suite reads (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE.json", help="also write the rows and every turn's seconds")
    args = parser.parse_args(argv)
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"PART: received {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    try:
        return 0 if run(args) else 1
    except (InputError, RuntimeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
