"""sweep.json in a sweep's folder: which runs belong together and what varies between them. Imports no Keras."""

import os
from pathlib import Path

from compress.storage import records
from compress.storage.files import check_writable

NAME, FORMAT = "sweep.json", 1


def entry(run, folder):
    """What sweep.json says of a plans.Run: its folder and its record below the sweep's, its step and what varies."""
    return {
        "folder": os.path.relpath(run.folder, folder),
        "step": run.step,
        "values": run.values,
        "record": os.path.relpath(run.record, folder),
    }


def write(spec, entries, **more):
    """Writes sweep.json into the sweep's folder, which is made.

    Args:
        spec: a specs.Spec.
        entries: list of dicts, of `entry`.
        more: what else it says.
    """
    check_writable(spec.folder)
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    key, direction = spec.objective
    content = {"sweep": FORMAT, "file": spec.file, "objective": {"key": key, "direction": direction}}
    records.write_json(folder / NAME, content | {"seeds": spec.seeds, "runs": entries} | more)
