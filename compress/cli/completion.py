"""Flags and their choices at the TAB key, by argcomplete, which a shell asks through the script itself. Imports no
Keras."""

import os
import re
import sys


def answer(parser):
    """Where a shell asks what may follow, answers and ends the process; does nothing in an ordinary run.

    Args:
        parser: the script's Parser.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:  # a shell that asks wants no run of the script
        sys.exit(1)
    for action in parser._actions:
        words = re.fullmatch(r"\{(.*)\}", str(action.metavar))
        if action.choices is None and words:  # the metavar says what a type of its own checks, such as {cifar10,FOLDER}
            action.completer = _of_words(words[1].split(","), argcomplete.FilesCompleter())
    argcomplete.autocomplete(parser)


def _of_words(words, files):
    """A completer of words; one in capitals stands for any file or folder."""
    known = [word for word in words if not word.isupper()]
    return lambda prefix, **_: [*known, *(files(prefix) if len(known) < len(words) else [])]
