"""From a sweep's file to its runs: every combination of values, a command and a folder each. Imports no Keras."""

import dataclasses
import hashlib
import itertools
import math
import os
import re
from pathlib import Path

from compress.cli import keywords
from compress.cli.values import nearest
from compress.errors import InputError
from compress.sweeps.specs import OUTPUTS, RESERVED, TRAINS, wrong

MOST_RUNS = 5000  # of a sweep; a report reads no more files
MOST_BYTES = 100  # of the name that a folder is given
MOST_OF_OWN = 130  # of one that a template makes: some file systems have 143, with what a lock's name has besides
TAKEN = (*RESERVED, "sweep.json", "study.db")  # what a sweep's folder, or that of its logs, has beside the runs
PLACE = re.compile(r"\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One command of a sweep.

    Attributes:
        step: name of its step.
        script: its file name.
        folder: where it writes, of this run alone.
        values: {name: value} of all that varies, of earlier steps as 'step.name'; 'row' and 'seed' among them, those of
            the whole sweep once.
        words: of the command line, behind the script.
        before: {name of a step: its Run} of those that this one starts from, directly or not.
        epochs: how many its history may come to; 0 of a script that trains nothing.
    """

    step: str
    script: str
    folder: str
    values: dict
    words: tuple
    before: dict
    epochs: int

    @property
    def record(self):
        """Path of the JSON file that is there when the run is finished."""
        if self.script in TRAINS:
            return Path(self.folder) / "result.json"
        return Path(self.folder) / (OUTPUTS[self.script][1] or "export.json")


def choices(value, several):
    """The values that a flag takes one after the other, or None where it has one value.

    Args:
        value: of a sweep's file.
        several: whether one value of the flag is a list; those to try are then a list of lists.
    """
    varies = isinstance(value, list) and (not several or any(isinstance(one, list) for one in value))
    return value if varies else None


def expand(spec, parser_of):
    """All runs of a sweep, each behind those that it starts from.

    Args:
        spec: a specs.Spec without ranges.
        parser_of: function(script) -> its flags.Parser.

    Returns:
        List of Run.

    Raises:
        InputError: a flag that the script's own parser refuses, two runs in one folder or one in the other's, a step
            that isn't there.
    """
    made, parsers = {}, {}
    for step in spec.steps:
        parsers[step.script] = parsers.get(step.script) or parser_of(step.script)
        made[step.name] = _runs(spec, step, parsers[step.script], made)
    runs, owners = [run for several in made.values() for run in several], {}
    for run in runs:
        other = owners.setdefault(run.folder, run)
        if other is not run:
            _refuse(spec, run, other)
    for run in runs:
        for parent in map(str, Path(run.folder).parents):
            if parent in owners and OUTPUTS[owners[parent].script][1] is None and not _is_exported(run):
                _refuse(spec, run, owners[parent])  # that one's script writes a whole folder
    return runs


def _is_exported(run):
    """Whether a run writes where export_model.py does of itself: a folder beside a model, of no other script."""
    return run.script == "export_model.py" and os.path.basename(run.folder) == "exported"


def _refuse(spec, run, other):
    """Raises InputError for a run in the folder of another."""
    raise wrong(
        spec.file,
        f"steps.{run.step}",
        f"two runs in {other.folder}, {_told(other)} and {_told(run)}; expected a folder of its own for each",
    )


def _told(run):
    values = ", ".join(f"{name}={_spelt(value)}" for name, value in run.values.items())
    return f"{run.step} ({values})" if values else run.step


def _runs(spec, step, parser, made):
    """The runs of a step; `made`: {name: list of Run} of the steps before it."""
    found, several, there = [], keywords.several(parser), sum(map(len, made.values()))
    for row, more in (step.rows or {None: {}}).items():
        given = step.flags | more
        where = {name: _where(spec, step, row, name) for name in [None, *given]}
        _check(spec, step, parser, where, given)
        axes = {name: values for name, value in given.items() if (values := choices(value, name in several))}
        for name, values in axes.items():
            if len({_spelt(value) for value in values}) < len(values):
                raise wrong(spec.file, f"{where[name]}.{name}", f"received {values!r:.60}, expected each value once")
        # of millions no list is made
        starts = list(itertools.islice(_starts(spec, row, (where, given), made), MOST_RUNS + 1))
        if there + len(found) + len(starts) * math.prod(map(len, axes.values())) > MOST_RUNS:
            raise wrong(spec.file, where[None], f"more than {MOST_RUNS} runs; expected fewer values")
        for before, seed in starts:
            for chosen in itertools.product(*axes.values()):
                own = dict(zip(axes, chosen, strict=True))
                varies = ({} if row is None else {"row": row}) | own
                found.append(_run(spec, step, parser, (where, given | own, varies, before, seed)))
    return found


def _where(spec, step, row, name):
    """Where a sweep's file gives the flag `name` of a step in a row; of one that it doesn't give, the step's flags."""
    if name not in step.rows.get(row, {}):
        return f"steps.{step.name}.flags"
    if not spec.rows:
        return f"steps.{step.name}.rows.{row}"
    return f"rows.{row}.{step.name if name in spec.rows[row].get(step.name, {}) else 'flags'}"


def _check(spec, step, parser, where, given):
    """Raises InputError for flags that are the sweep's own, and for switches that are spelt as on a command line."""
    parameter, switches = OUTPUTS[step.script][0], keywords.switches(parser)
    for name, value in given.items():
        negated = re.fullmatch(r"no[-_](.+)", name)
        why = None
        if negated and (switch := negated[1].replace("-", "_")) in switches:
            why = f"no such flag; write `{switch}: {'true' if value is False else 'false'}`"
        elif name == parameter:
            why = "expected it left out: a sweep gives each run a folder of its own"
        elif name == "resume":
            why = "expected it left out: a sweep goes on where it stopped"
        elif name == "seed" and spec.seeds:
            why = "received it beside seeds, expected one of them"
        elif isinstance(value, dict):
            why = "received a range, expected values; `study` searches in ranges"
        if why:
            raise wrong(spec.file, f"{where[name]}.{name}", why)


def _texts(value):
    """All texts of a value."""
    if isinstance(value, str):
        yield value
    for one in value if isinstance(value, list) else ():
        yield from _texts(one)


def _starts(spec, row, flags, made):
    """({step: Run} of the runs to start from, seed) for each combination that fits together.

    Runs fit where they were made from the same ones, with the same seed and in the same row of the sweep.
    """
    (where, given), named = flags, {}  # step: the flag that names it
    for name, value in given.items():
        for place in (place for text in _texts(value) for place in PLACE.findall(text)):
            if place not in made:
                near = nearest(place, [*made]) if made else None
                hint = f"did you mean {near}?" if near else f"expected one of {', '.join(made) or 'no step'}"
                raise wrong(
                    spec.file, f"{where[name]}.{name}", f"received {{{place}}}, which is no earlier step; {hint}"
                )
            named[place] = name
    for seed in spec.seeds or [None]:
        wanted = ({} if seed is None else {"seed": seed}) | ({"row": row} if spec.rows else {})
        fit = [[run for run in made[name] if run.values.items() >= wanted.items()] for name in named]
        for before in _together(fit, {}):
            yield before, seed


def _together(lists, before):
    """{step: Run} for each way to take a run of each list, with all those before it and those of `before`; no two of
    them come from different runs of a step."""
    if not lists:
        yield before
    for run in lists[0] if lists else ():
        own = run.before | {run.step: run}
        if all(before.get(name, other) is other for name, other in own.items()):
            yield from _together(lists[1:], before | own)


def _run(spec, step, parser, combination):
    """The Run of one combination: (where each flag is given, flags, those that vary, runs before it, seed)."""
    where, given, own, before, seed = combination
    of_all = [*(["row"] if spec.rows else []), *(["seed"] if spec.seeds else [])]  # named once, not for each step
    values = {name: own[name] for name in of_all[:1] if name in own} | {
        f"{run.step}.{name}": value
        for run in before.values()
        for name, value in run.values.items()
        if "." not in name and name not in of_all
    }
    values |= own | ({} if seed is None else {"seed": seed})
    flags = {name: _filled(value, before) for name, value in given.items()}
    if seed is not None:
        flags["seed"] = seed
    folder = _folder(spec, step, values, given | values)
    parameter, file = OUTPUTS[step.script]
    flags[parameter] = os.path.join(folder, file) if file else folder
    try:
        parsed = keywords.arguments(parser, flags)
    except InputError as error:
        name, why = re.match(r"(?:`([^`]+)`: )?(.*)", str(error)).groups()
        place = where.get(name, where[None])
        if "no such keyword" in why and place.startswith("rows.") and place.endswith(".flags"):  # those of all steps
            near = why.partition("; ")[2] if "did you mean" in why else "expected it under the steps that have it"
            why = f"{step.script}, of the step {step.name}, has no such flag; {near}"
        raise wrong(spec.file, f"{place}.{name}" if name else place, why.replace("keyword", "flag")) from None
    epochs = parsed.epoch_num * getattr(parsed, "prune_iter", 1) if step.script in TRAINS else 0
    return Run(step.name, step.script, folder, values, tuple(parsed.argv[1:]), before, epochs)


def _filled(value, before):
    """A value with the folders of the runs that it names in braces."""
    if isinstance(value, list):
        return [_filled(one, before) for one in value]
    return PLACE.sub(lambda found: before[found[1]].folder, value) if isinstance(value, str) else value


def _spelt(value):
    """A value as a part of a folder's name: of a path its last part, and nothing that a shell or a path minds."""
    if isinstance(value, list):
        return "-".join(map(_spelt, value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = os.path.basename(os.path.normpath(text)) if "/" in text else text
    return "_" if text in ("", ".", "..") else re.sub(r"[^\w.+-]", "_", text)


def _folder(spec, step, values, known):
    """The folder of a run: by the step's own template, else below the sweep's by its name and the values that vary.

    A template may leave the sweep's folder for one beside it, so that sweeps share a step's runs, and no further.
    """
    if step.folder:
        where = f"steps.{step.name}.folder"
        for name in PLACE.findall(step.folder):
            if name not in known:
                wanted = ", ".join(known) or "no name: nothing varies"
                raise wrong(spec.file, where, f"received {{{name}}}, expected one of {wanted}")
        own = PLACE.sub(lambda found: _spelt(known[found[1]]), step.folder)
        folder = os.path.normpath(os.path.join(spec.folder, own))
        first, *rest = os.path.relpath(folder, spec.folder).split(os.sep)
        if first in TAKEN or any(
            len(os.fsencode(part)) > MOST_OF_OWN or part.endswith(".lock") for part in (first, *rest)
        ):
            wanted = f"another name than {', '.join(TAKEN)}, and parts of at most {MOST_OF_OWN} bytes, not .lock"
            raise wrong(spec.file, where, f"received {step.folder:.60}, which is {folder:.300}; expected {wanted}")
        if first == "." or (first == ".." and rest[:1] in ([], [".."])):
            wanted = f"a folder below {spec.folder}, or beside it: ../NAME"
            raise wrong(spec.file, where, f"received {step.folder}, which is {folder}; expected {wanted}")
        return folder
    parts = [_spelt(value) if name == "row" else f"{name}={_spelt(value)}" for name, value in values.items()]
    name = ",".join(parts)
    if len(os.fsencode(name)) > MOST_BYTES:
        begin = os.fsencode(name)[: MOST_BYTES - 9].decode(errors="ignore")
        name = f"{begin}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return os.path.normpath(os.path.join(spec.folder, step.name, name))


def selected(runs, steps, file):
    """The runs of some steps, or all where `steps` is None. Raises InputError where there is no such step."""
    names = list(dict.fromkeys(run.step for run in runs))
    for step in steps or ():
        if step not in names:
            raise InputError(f"`step`: received {step}, expected one of {', '.join(names)}, the steps of {file}")
    return [run for run in runs if steps is None or run.step in steps]
