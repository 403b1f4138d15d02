"""A sweep's file: YAML of steps, each a script with its flags and values, checked before anything runs. No Keras."""

import dataclasses
import os
import re
from pathlib import Path

from compress.cli.values import nearest
from compress.errors import InputError, one_line
from compress.storage.files import suggestion
from compress.storage.records import is_number

MOST_BYTES = 2**20
MOST_TEXT = 4096  # letters of one text, as of a path
MOST_LEVELS = 10  # of lists and mappings in each other: the values of a row's flag stand in the eighth
TOO_DEEP = f"received lists or mappings in each other, more than {MOST_LEVELS} levels; expected fewer"
# a line end would make two commands of one where they are printed a line each; lone surrogates can't be printed
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
MOST_STEPS = 2**40  # of a range
TOP = ("folder", "seeds", "flags", "rows", "steps", "maximize", "minimize")
STEP = ("script", "flags", "rows", "folder")
LOGS, BESIDE = "logs", "beside"  # in a sweep's folder; in that one, of runs that lie beside the sweep's folder
RESERVED = (LOGS, BESIDE)
RANGE = ("low", "high", "log", "step")
# scripts that a step may name: the parameter that says where each writes, and the file there if it isn't a folder
OUTPUTS = {
    "train_base_model.py": ("save_folder", None),
    "prune_model.py": ("root_folder", None),
    "knowledge_distillation.py": ("save_folder", None),
    "evaluate_model.py": ("output", "evaluation.json"),
    "sensitivity.py": ("output", "sensitivity.json"),
    "export_model.py": ("output", None),
}
TRAINS = ("train_base_model.py", "prune_model.py", "knowledge_distillation.py")
SIZES = ("parameters", "macs", "bytes", "seconds", "images", "train_images")
TRAINED = ("val_acc", "val_loss", *SIZES, "best_epoch", "epochs")
# what of a result.json may be searched for; of a list, as of a pruning's iterations, the last number counts
NUMBERS = {
    "train_base_model.py": TRAINED,
    "prune_model.py": (
        *("final_acc", "base_acc", "pruned_acc", "recalibrated_acc", "sparsity", "compression_rate"),
        *("latency_ms", *SIZES),
    ),
    "knowledge_distillation.py": (*TRAINED, "teacher_acc", "compression_rate"),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One script of a sweep.

    Attributes:
        name: a word; `{name}` in a later step's flags is the folder of this one's run.
        script: of OUTPUTS.
        flags: those of all steps and its own, {name without dashes: a value, a list of values to try, or a mapping of
            RANGE to search in}.
        rows: {name: flags that this variant has besides}, its own or those of the sweep; empty for none.
        folder: of its runs below the sweep's, with `{flag}`, `{row}` and `{seed}` in it; None for the usual name.
    """

    name: str
    script: str
    flags: dict
    rows: dict
    folder: str | None


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a sweep's file says.

    Attributes:
        file: its path.
        folder: of all runs.
        seeds: list of seeds that each run is made with, or None.
        steps: list of Step, each before those that refer to it.
        objective: (key of the last step's result.json, 'maximize' or 'minimize').
        rows: {name: {'flags' or a step: flags}} of variants that go through all steps; empty for none.
    """

    file: str
    folder: str
    seeds: list | None
    steps: list
    objective: tuple
    rows: dict


def wrong(file, where, why):
    """The InputError about a key of a sweep's file, such as 'steps.base.flags'."""
    return InputError(f"{file}: {where}: {why}" if where else f"{file}: {why}")


def _shown(value):
    return f"{one_line(value):.60}" if isinstance(value, str) else f"{value!r:.60}"


def _loader():
    """A yaml.SafeLoader that reads no alias and no key twice, and names the line of a value that its tag can't have."""
    import yaml

    def refused(at, problem, note=None):
        return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark, note=note)

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):  # a few of them in each other are a list without end
                name = self.peek_event().anchor
                raise refused(self.peek_event(), f"received the alias *{name:.60}", "expected its values written out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key in [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else ():
                if key in seen:  # YAML itself would take the last one
                    raise refused(node, f"the key {key:.60} twice")
                seen.add(key)
            return super().construct_mapping(node, deep)

        def construct_object(self, node, deep=False):
            if not isinstance(node, yaml.ScalarNode):
                return super().construct_object(node, deep)
            if len(node.value) > MOST_TEXT:
                problem = f"received a value of {len(node.value)} letters"
                raise refused(node, problem, f"expected at most {MOST_TEXT}")
            try:
                return super().construct_object(node, deep)
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
                problem = f"received {node.value!r:.60}, which is no {node.tag.rpartition(':')[2]}"
                raise refused(node, problem, "expected a text in quotes, or another value") from None

    return Loader


def _loaded(path):
    """What a YAML file holds. Raises InputError for a file that is none, or holds what no command line can."""
    import yaml

    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"received {path}, which is a folder; expected a sweep's .yaml file")
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise InputError(f"received {path}, which is not a file; expected a sweep's .yaml file{suggestion(path)}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"received {path} of {path.stat().st_size} bytes, expected at most {MOST_BYTES}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        wanted = error.note or "expected YAML, each key once"
        raise wrong(path, "", f"{line}{error.problem!s:.200}; {wanted}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise wrong(path, "", f"received {error!s:.200}, expected YAML") from None
    except RecursionError:
        raise wrong(path, "", TOO_DEEP) from None
    _check(path, "", content)
    return content


def _check(file, where, value, level=0):
    """Raises InputError for what a message or a command line can't hold: other things than YAML's own, control
    characters, numbers without end, levels without end."""
    if level > MOST_LEVELS:
        raise wrong(file, where, TOO_DEEP)
    if isinstance(value, str) and CONTROL.search(value):
        raise wrong(file, where, f"received {value!r:.60}, expected no line end and no other control character")
    if type(value) is int and not is_number(value):
        raise wrong(file, where, "received a whole number of more than 308 digits, expected a smaller one")
    if isinstance(value, dict):
        for key, one in value.items():
            _check(file, where, key, level + 1)
            _check(file, f"{where}.{key}".lstrip("."), one, level + 1)
    elif isinstance(value, list):
        for one in value:
            _check(file, where, one, level + 1)
    elif not isinstance(value, (str, int, float, type(None))):
        kinds = "a text, in quotes where it looks like something else, a number, true, false, a list or a mapping"
        raise wrong(file, where, f"received {one_line(value):.60}, expected {kinds}")


def _mapping(file, where, value, allowed=None):
    """The value, a mapping from texts; its keys of those allowed. Raises InputError for anything else."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise wrong(file, where, f"received {_shown(value)}, expected a mapping, such as `name: value`")
    for key in value if allowed else ():
        if key not in allowed:
            near = nearest(key, allowed)
            hint = f"did you mean {near}?" if near else f"expected one of {', '.join(allowed)}"
            raise wrong(file, f"{where}.{key}".lstrip("."), f"no such key; {hint}")
    return value


def _text(file, where, value):
    if not isinstance(value, str) or not value.strip():
        raise wrong(file, where, f"received {_shown(value)}, expected a text")
    return value


def _flags(file, where, value):
    """The flags of a step or a row: no empty list, and ranges that are some."""
    for name, given in _mapping(file, where, {} if value is None else value).items():
        here = f"{where}.{name}"
        if given == []:
            raise wrong(file, here, "received an empty list, expected a value, or values to try")
        if isinstance(given, dict):
            low, high = (_mapping(file, here, given, RANGE).get(key) for key in ("low", "high"))
            log, step = given.get("log", False), given.get("step")
            if not (is_number(low) and is_number(high) and low < high and type(log) is bool):
                raise wrong(file, here, f"received {_shown(given)}, expected low and high, numbers, low the smaller")
            if (log and low <= 0) or (step is not None and (log or not is_number(step) or step <= 0)):
                raise wrong(
                    file, here, f"received {_shown(given)}, expected low above 0 for log, or a step above 0 without it"
                )
            parts = min((high - low) / step, MOST_STEPS + 0.5) if step else 1
            if abs(parts - max(1, round(parts))) > 1e-6:
                last = low + step * max(1, int(parts))
                raise wrong(
                    file,
                    here,
                    f"received {_shown(given)}, expected a step that leads to high, such as high: {last:.6g}",
                )
    return value or {}


def _rows(file, value, steps):
    """The rows of a sweep, each with flags of every step under 'flags' and of single ones under their names."""
    if value is not None and "flags" in steps:
        raise wrong(file, "steps.flags", "expected another name: in rows, `flags` are those of every step")
    found = {}
    for row, given in _mapping(file, "rows", {} if value is None else value).items():
        where = f"rows.{row}"
        own = _mapping(file, where, {} if given is None else given, ("flags", *steps))
        found[row] = {key: _flags(file, f"{where}.{key}", flags) for key, flags in own.items()}
    return found


def _step(file, name, value, common, shared):
    """A Step; `common`: flags of all steps, `shared`: rows of the sweep, see `_rows`."""
    where = f"steps.{name}"
    if not name.isidentifier() or not name.isascii():
        raise wrong(file, where, "expected a name of letters, digits and _")
    if name in RESERVED:
        raise wrong(file, where, f"expected another name: {' and '.join(RESERVED)} are folders of a sweep")
    _mapping(file, where, value, STEP)
    script = value.get("script")
    if not isinstance(script, str) or script not in OUTPUTS:
        raise wrong(file, f"{where}.script", f"received {_shown(script)}, expected one of {', '.join(OUTPUTS)}")
    rows = value.get("rows")
    rows = _mapping(file, f"{where}.rows", {} if rows is None else rows)
    if rows and shared:
        raise wrong(file, f"{where}.rows", "received them beside the rows of the sweep, expected one of them")
    rows = {row: _flags(file, f"{where}.rows.{row}", given) for row, given in rows.items()}
    rows |= {row: given.get("flags", {}) | given.get(name, {}) for row, given in shared.items()}
    folder = value.get("folder")
    return Step(
        name,
        script,
        common | _flags(file, f"{where}.flags", value.get("flags")),
        rows,
        None if folder is None else _text(file, f"{where}.folder", folder),
    )


def read(path, seeds=None):
    """The Spec of a sweep's file.

    Args:
        path: the file.
        seeds: list of whole numbers in place of the file's, or None.

    Raises:
        InputError: one line with the file and the key: what was received, what was expected.
    """
    file, content = str(path), _loaded(path)
    if content is None:
        raise wrong(file, "", "it is empty; expected `folder` and `steps`, as docs/how-to/sweeps.md shows")
    _mapping(file, "", content, TOP)
    folder = _text(file, "folder", content.get("folder"))
    seeds = seeds or content.get("seeds")
    if seeds is not None and not (
        isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    ):
        raise wrong(file, "seeds", f"received {_shown(seeds)}, expected a list of whole numbers")
    found = _mapping(file, "steps", content.get("steps"))
    if not found:
        raise wrong(file, "steps", "received none, expected one or more")
    common = _flags(file, "flags", content.get("flags"))
    shared = _rows(file, content.get("rows"), found)
    steps = [_step(file, name, value, common, shared) for name, value in found.items()]
    goals = [(content[key], key) for key in ("maximize", "minimize") if key in content]
    if len(goals) > 1:
        raise wrong(file, "minimize", "received it beside maximize, expected one of them")
    usual = "final_acc" if steps[-1].script == "prune_model.py" else "val_acc"
    key, direction = goals[0] if goals else (usual, "maximize")
    return Spec(file, folder, seeds, steps, (_text(file, direction, key), direction), shared)
