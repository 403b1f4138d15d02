"""The student that comes with the suite makes room for the user's own. Imports no Keras."""

import os
import shutil
import tempfile
from pathlib import Path

from compress.cli import display
from compress.errors import OutputError
from compress.storage import files, records


def set_aside(folder, verbose=1):
    """Moves a shipped student out of the folder that a run is about to write to, into shipped_student beside that.

    The copy is whole before anything is removed, and its record goes last: a run that is killed in between finds both
    and goes on. What lies in shipped_student already is not written over.

    Args:
        folder: where a run writes; one without a record that says 'shipped', or with the state of a run, stays.
        verbose: 0 keeps quiet.
    """
    folder = Path(folder)
    record = folder / "result.json"
    if (folder / records.STATE).exists() or not record.is_file():
        return
    if records.read_json(record).get("shipped") is not True:
        return
    # Copied into a hidden folder, which is renamed when it is whole; only then the originals go, the record last, since
    # it is what says that they are the shipped student's.
    mine = sorted(
        (path for path in folder.iterdir() if path.is_file() and path.name[0] != "."), key=lambda path: path == record
    )
    target, number = folder.parent / "shipped_student", 1
    while target.exists() and not _holds(target, record):
        number += 1
        target = folder.parent / f"shipped_student{number}"
    try:
        if not target.exists():
            copy = Path(tempfile.mkdtemp(prefix=files.PARTIAL, dir=folder.parent))
            for path in mine:
                shutil.copy2(path, copy)
                with open(copy / path.name, "rb") as done:
                    os.fsync(done.fileno())
            copy.chmod(folder.stat().st_mode)
            files.move(copy, target)
        for path in mine:
            path.unlink()
    except OSError as error:
        raise OutputError(
            f"received {folder}, which holds the student that came with the suite, and that can't be "
            f"moved to {target} ({error.strerror or error}); expected room and permission, or another "
            "folder",
            folder,
        ) from None
    display.say(f"the student that came with the suite was moved from {folder} to {target}", verbose)


def _holds(target, record):
    """Whether a folder has the student of this record already, whole."""
    there = target / "result.json"
    return there.is_file() and there.read_bytes() == record.read_bytes() and (target / "model.h5").is_file()
