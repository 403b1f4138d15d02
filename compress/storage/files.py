"""Files that outlive a run: written whole or not at all, by one run at a time. Imports no Keras."""

import contextlib
import glob
import hashlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path

from compress.cli.values import nearest
from compress.errors import InputError, OutputError

PARTIAL = ".partial-"  # begins the name of every file that is still being written
LOCK = ".lock"


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; when the body ends well, its file takes the place of `path`.

    A reader sees the complete old file or the complete new one, never half.

    Args:
        path: the file to write, in a folder that exists; the temporary one keeps its suffix (Keras and matplotlib
            look at it).

    Raises:
        InputError: it can't be written (a full disk, a folder that is gone); the old file is as it was.
    """
    path = Path(path)
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix=f"{PARTIAL}{path.stem}-", suffix="".join(path.suffixes), dir=path.parent)
        os.close(handle)
        yield Path(name)
        with open(name, "rb+") as done:
            os.fsync(done.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would shut out the user's colleagues
        move(name, path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror or error}); expected room and permission in a "
            "folder that stays; what was there before is as it was"
        ) from None
    finally:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)


def reserve(path, size):
    """Makes sure that a file of `size` bytes has room at `path`, for libraries that don't survive a full disk.

    Raises:
        OSError: it has not.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def move(source, target):
    """Puts a finished file in the place of another, so that it is there after a loss of power too."""
    os.replace(source, target)
    folder = os.open(Path(target).parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems can't; the file is in its place all the same
            os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def exclusive(folder):
    """Holds a folder for this process alone, and clears away what a killed run left half-written in it.

    Makes the folder if it is missing; where the body fails and has written nothing, it is gone again. The lock is the
    system's own, so that it ends with the process, however that ends.

    Args:
        folder: where a run writes.

    Raises:
        OutputError: another process holds it, or it takes no files.
    """
    import filelock

    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, blocking=False)
        lock.acquire()
    except filelock.Timeout:
        raise OutputError(
            f"received {folder}, where another run is writing at this moment; expected a folder of its "
            "own for each run",
            folder,
        ) from None
    except OSError as error:
        raise OutputError(
            f"received {folder}, expected a folder that can be written to ({error.strerror or error})", folder
        ) from None
    try:
        for place in ("", "iter*/", "ablation/*/"):  # no further down, where another run may be at work
            for left in folder.glob(f"{place}{PARTIAL}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            os.unlink(folder / LOCK)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def is_held(folder):
    """Whether another process holds a folder at this moment, see `exclusive`."""
    import filelock

    if not (Path(folder) / LOCK).exists():
        return False
    try:
        with filelock.FileLock(Path(folder) / LOCK, blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # none that can be asked: the run itself says so
        return False


def copy_run(folder, target):
    """Copies what lies in a run's folder and in those of its parts, and no deeper, for a process that reads it.

    What a finished iteration left is only linked to: no process changes it.
    """
    for place in ("", "iter*/", "ablation/*/", "best/"):
        for path in Path(folder).glob(f"{place}*"):
            if path.is_file() and path.name != LOCK and not path.name.startswith(PARTIAL):
                copy = Path(target) / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                finished = place == "iter*/" and path.suffix == ".h5" and not (path.parent / "state.npz").exists()
                (os.symlink if finished else shutil.copyfile)(path.resolve(), copy)


def sizes(folder):
    """[(path, bytes)] of the visible files of a run's folder and of its parts."""
    found = [path for place in ("", "iter*/", "ablation/*/") for path in Path(folder).glob(f"{place}[!.]*")]
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in found if path.is_file())


def versions(folder):
    """Set of (path, time of its last change) of the visible files of a run's folder and those of its parts."""
    found = set()
    for place in ("", "iter*/", "ablation/*/"):
        for path in Path(folder).glob(f"{place}[!.]*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                found |= {(str(path), path.stat().st_mtime_ns)} if path.is_file() else set()
    return found


def sha256(path):
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest(array):
    """The SHA-256 of a numpy array's values, as 64 hexadecimal digits."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def suggestion(path):
    """'; did you mean X?' for the existing file nearest in spelling to `path`, or an empty string.

    Where its folder is there, one of that folder; else a folder is misspelt, or one is left out.
    """
    path = Path(path)
    ancestor = next((p for p in path.parents if p.is_dir()), Path("."))
    found = []
    for depth in range(1 if ancestor == path.parent else 4):  # a bounded look: it may be the root of a large disk
        pattern = os.path.join(glob.escape(str(ancestor)), *["*"] * depth, f"*{glob.escape(path.suffix)}")
        found += itertools.islice(glob.iglob(pattern), 500)
    near = nearest(path, [one for one in found if Path(one) != path])  # itself, where it is of the wrong kind
    return f"; did you mean {near}?" if near else ""


def check_writable(folder):
    """Makes sure, before any work, that files can be written under `folder`; leaves nothing behind.

    Raises:
        OutputError: the folder, or the nearest one above it that exists, takes no files.
    """
    folder = Path(folder)
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".write-test-", dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"received {folder}, expected a folder that can be written to ({error.strerror or error}: {nearest})",
            folder,
        ) from None


def check_apart(path, folder):
    """Raises OutputError where a run in `folder` would overwrite the model that it starts from, at `path`."""
    if Path(path).is_file() and Path(path).resolve() == (Path(folder) / "model.h5").resolve():
        raise OutputError(
            f"received {folder}, where {path} lies, which the run starts from and would overwrite; "
            "expected another folder",
            folder,
        )


def check_file(path, *suffixes):
    """Makes sure, before any work, that a file can be written at `path`.

    Raises:
        OutputError: none of the suffixes, a folder, or a place that takes no files.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes or path.is_dir():
        raise OutputError(f"received {path}, expected a file that ends in {', '.join(suffixes)}", path)
    try:
        check_writable(path.parent)
    except OutputError as error:
        raise OutputError(str(error), path) from None  # about the file that was asked for
