"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Its text names the flag or the file, what was received and what was expected. A script prints it on
    standard error, without a traceback, and exits with status 2.
    """
