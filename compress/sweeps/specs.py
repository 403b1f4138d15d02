"""A sweep's file: YAML of steps, each a script with its flags and values, checked before anything runs. No Keras."""

import dataclasses
from pathlib import Path

from compress.cli.values import nearest
from compress.errors import InputError, one_line
from compress.storage.files import suggestion
from compress.storage.records import is_number

MOST_BYTES = 2**20
TOP = ("folder", "seeds", "flags", "steps", "maximize", "minimize")
STEP = ("script", "flags", "rows", "folder")
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
        rows: {name: flags that this variant has besides}; empty for none.
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
    """

    file: str
    folder: str
    seeds: list | None
    steps: list
    objective: tuple


def wrong(file, where, why):
    """The InputError about a key of a sweep's file, such as 'steps.base.flags'."""
    return InputError(f"{file}: {where}: {why}" if where else f"{file}: {why}")


def _shown(value):
    return f"{one_line(value):.60}" if isinstance(value, str) else f"{value!r:.60}"


def _loaded(path):
    """What a YAML file holds. Raises InputError for a file that is none, or names a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [str(key.value) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:  # YAML itself would take the last one
                raise yaml.MarkedYAMLError(problem=f"the key {twice[0]} twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    path = Path(path)
    if not path.is_file():
        raise InputError(f"received {path}, which is not a file; expected a sweep's .yaml file{suggestion(path)}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"received {path} of {path.stat().st_size} bytes, expected at most {MOST_BYTES}")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise wrong(path, "", f"{line}{error.problem}; expected YAML, each key once") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError) as error:
        raise wrong(path, "", f"received {error!s:.200}, expected YAML") from None


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
    return value or {}


def _step(file, name, value, common):
    where = f"steps.{name}"
    if not name.isidentifier() or not name.isascii():
        raise wrong(file, where, "expected a name of letters, digits and _")
    _mapping(file, where, value, STEP)
    script = value.get("script")
    if script not in OUTPUTS:
        raise wrong(file, f"{where}.script", f"received {_shown(script)}, expected one of {', '.join(OUTPUTS)}")
    rows = value.get("rows")
    rows = _mapping(file, f"{where}.rows", {} if rows is None else rows)
    folder = value.get("folder")
    return Step(
        name,
        script,
        common | _flags(file, f"{where}.flags", value.get("flags")),
        {row: _flags(file, f"{where}.rows.{row}", given) for row, given in rows.items()},
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
    steps = [_step(file, name, value, common) for name, value in found.items()]
    goals = [(content[key], key) for key in ("maximize", "minimize") if key in content]
    if len(goals) > 1:
        raise wrong(file, "minimize", "received it beside maximize, expected one of them")
    usual = "final_acc" if steps[-1].script == "prune_model.py" else "val_acc"
    key, direction = goals[0] if goals else (usual, "maximize")
    return Spec(file, folder, seeds, steps, (_text(file, direction, key), direction))
