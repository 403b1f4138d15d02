"""The one exception that a user is meant to read, and its form."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Its text names the flag or the file, what was received and what was expected. A script prints it on
    standard error, without a traceback, and exits with status 2.

    Args:
        lines: the text; more than one only where a line wouldn't hold it. Line ends inside a line, as messages of
            other libraries have them, are folded to blanks.
    """

    def __init__(self, *lines):
        super().__init__("\n".join(one_line(line) for line in lines))


def one_line(text):
    """The text with its line ends, and the blanks around them, folded to one blank."""
    return " ".join(line.strip() for line in str(text).strip().splitlines())
