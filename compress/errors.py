"""What ends a run early, each with the exit status of its own that a script gives: bad input, divergence, signals."""

import errno
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}  # that are imported by another name

# errors of writing that name no file: the suite's own files have names, so most are about standard output
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
CONTROLS = r"\x00-\x1f\x7f-\x9f"  # characters that a terminal may obey, as the range of a regular expression


class OneLine:
    """An exception whose text says all that there is to say: a notebook shows that line, and no traceback."""

    def _render_traceback_(self):  # what IPython asks an exception for
        return [f"{type(self).__name__}: {self}"]


class InputError(OneLine, ValueError):
    """Something the user gave cannot be used.

    Its text names the flag or the file, what was received and what was expected. A script prints it on
    standard error, without a traceback, and exits with status 2.

    Args:
        text: line ends in it, as messages of other libraries have them, are folded to blanks. Parameters stand between
            backticks, such as `epoch_num` or `resume="never"`: the command line makes flags of them.
        path: the file or folder that the text is about, whose flag a script then names in front.
    """

    def __init__(self, text, path=None):
        super().__init__(one_line(text))
        self.path = path


class OutputError(InputError):
    """A place that is to be written to cannot be used: of two flags that name it, the one that says where to write."""


class Diverged(OneLine, ArithmeticError):
    """The loss is no number any more. Its text is one line; a script prints it and exits with status 3."""


class Stopped(OneLine, KeyboardInterrupt):
    """A signal asked the run to end.

    Args:
        number: of the signal; a script exits with 128 + number.
        saved: what is known of the work that is saved, for the message; empty if nothing is.
    """

    def __init__(self, number, saved=""):
        super().__init__(number, saved)
        self.number, self.saved = number, saved

    def __str__(self):
        """For a call from Python; a script prints the command to go on with instead."""
        return f"by {signal.Signals(self.number).name}" + (
            f"; {self.saved}; the same call goes on from there" if self.saved else ""
        )


def of_the_system(error):
    """What to say, in one line, of an exception that is the machine's: files, memory that ran out, a missing package.

    Returns:
        The line; None for any other exception, which is a defect of the suite.
    """
    exhausted = type(error).__name__ == "ResourceExhaustedError"  # TensorFlow's, of memory and of disks; no OSError
    if exhausted and "No space left on device" in str(error):
        return f"the disk is full ({one_line(error):.200}); expected room for what is written"
    exhausted |= "RESOURCE_EXHAUSTED" in str(error)  # JAX's
    if isinstance(error, MemoryError) or exhausted:
        return (
            f"the memory is too small ({one_line(error):.200}); expected a smaller `batch_size`, or fewer or "
            "smaller images (`subset`, `image_size`)"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing(error.name.partition(".")[0])
    if isinstance(error, OSError) and error.filename is None and error.errno in FULL:
        return f"standard output, or a file, can't be written ({error.strerror}); expected room for it"
    return one_line(error) if isinstance(error, OSError) else None


def _missing(name):
    """What to say of a package that can't be imported; None for a module of the suite, which is a defect."""
    root = Path(__file__).resolve().parent.parent
    if name.partition(".")[0] == "compress" or (root / f"{name}.py").exists():
        return None
    near, script = os.path.relpath(root), os.path.basename(sys.argv[0])
    make, place = ("make", "") if near == "." else (f"make -C {quoted(near)}", f"{quoted(near)}/")
    script = f"{place}{script}" if (root / script).is_file() else f"{place}SCRIPT.py"
    return (
        f"the package {PACKAGES.get(name, name)} is not installed for {sys.executable}; expected those of "
        f"requirements.txt: {make} install; then: {place}.venv/bin/python {script}"
    )


def one_line(text):
    """The text with its line ends, and the blanks around them, folded to one blank; control characters are escaped.

    A terminal would obey those that a stranger's file has in its names.
    """
    folded = " ".join(line.strip() for line in str(text).strip().splitlines())
    return re.sub(f"[{CONTROLS}]", lambda found: ascii(found[0])[1:-1], folded)


def quoted(word):
    """A word, such as a path, as a shell takes it: quoted where it has to be.

    One with line ends, other control characters or bytes that are no text stands as $'...', with these in octal: a
    terminal would obey them as they are, and folded or escaped in another way they would name another file.
    """
    word = str(word)
    odd = rf"[{CONTROLS}\u2028\u2029\udc80-\udcff]"
    if not re.search(odd, word):
        return shlex.quote(word)
    octal = re.sub(rf"{odd}|['\\]", lambda found: "".join(f"\\{byte:03o}" for byte in os.fsencode(found[0])), word)
    return f"$'{octal}'"


def shown(value, convert=repr):
    """A value as a message shows it, or what it is where Python has no text for it, as of 5,000 digits."""
    try:
        return convert(value)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__} that can't be printed"


def command(script, *words, **flags):
    """A command line of one of the suite's scripts that runs from the working directory of now, quoted for a shell.

    Args:
        script: its file name.
        words: flags and values, as they are to be typed.
        flags: more of them, as `run` takes them; True for a switch.
    """
    words += tuple(
        word for name, value in flags.items() for word in (f"--{name}", *([] if value is True else [str(value)]))
    )
    place = str(Path(__file__).resolve().parent.parent / script)
    near, python = os.path.relpath(place), shutil.which("python")
    same = (
        python is not None
        and os.path.realpath(python) == os.path.realpath(sys.executable)
        and (os.path.dirname(python) == os.path.dirname(sys.executable))
    )  # a virtual environment is known by its folder
    words = ["python" if same else sys.executable or "python", min(near, place, key=len), *words]
    return " ".join(map(quoted, words))
