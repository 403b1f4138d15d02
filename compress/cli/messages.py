"""Messages to a person on a terminal: broken at blanks to its width; in a pipe or a file each is one line."""

import contextlib
import os
import re
import sys

# what is to be copied: behind a colon, up to a semicolon outside quotes
COMMAND = re.compile(
    r"""(?<=: )(for .*; done|(?:\S*/)?(?:python[\d.]*|pip|make|unzip|mkdir|mv|rm|cd) """
    r"""(?:"[^"]*"|'[^']*'|(?!; |').)+)(; |$)"""
)


def open_streams():
    """Opens the null device in place of standard streams that are closed, as behind `1>&-` or in a service.

    A free number would go to the next file that is opened, and what native libraries print would end up in that.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False))


def columns(stream):
    """The width of the terminal that a stream is; None where it is none.

    Args:
        stream: a text stream, or a file's number.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's stream has no file
        number = stream if isinstance(stream, int) else stream.fileno()
        if os.isatty(number):
            return columns_given() or os.get_terminal_size(number).columns or None
    return None


def columns_given():
    """The width that the variable COLUMNS asks for; None where it is unset or no number."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) else None


def _length(text):
    try:
        from rich.cells import cell_len
    except ImportError:  # the message may be that rich is missing
        return len(text)
    return cell_len(text)


def wrapped(text, stream):
    """A message as it is to be printed on a stream, without the last line end.

    On a terminal it is broken at blanks alone, so that paths stay whole; a command that is to be copied begins a line,
    and the terminal breaks it where it has to: what is copied is one line all the same.

    Args:
        text: one line.
        stream: as of `columns`.
    """
    width, lines = columns(stream), []
    if width is None:
        return text
    for number, part in enumerate(COMMAND.split(text)):
        if number % 3 == 1:
            lines.append(part)
        elif number % 3 == 0 and part:  # number 2 is the semicolon
            lines.append("")
            for word in part.split(" "):
                if lines[-1] and _length(f"{lines[-1]} {word}") > width:
                    lines.append(word)
                else:
                    lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(line.rstrip(" ") for line in lines)


def print_error(text):
    """Prints a message on standard error."""
    print(wrapped(text, sys.stderr), file=sys.stderr, flush=True)


_callers = []  # of `in_python`


@contextlib.contextmanager
def in_python():
    """A context manager in which messages name parameters, as a caller from Python knows them, and no flags."""
    _callers.append(None)
    try:
        yield
    finally:
        _callers.pop()


QUOTES = "\"'"


def spelled(text, names=None):
    """A message of the library as a command line has it: `epoch_num` is --epoch_num, `resume="never"` --resume never,
    `verify_model=False` --no-verify_model. Within `in_python` it stays as it is.

    Args:
        text: with names of parameters between backticks.
        names: those of the script's flags; None for any.
    """

    if _callers:
        return text

    def flag(found):
        name, value = found[1], found[2]
        if names is not None and name not in names:
            return found[0]
        if value in ("True", "False"):  # of a switch
            return f"--{'no-' * (value == 'False')}{name}"
        return f"--{name}" if value is None else f"--{name} {value.strip(QUOTES)}"

    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", flag, text)
