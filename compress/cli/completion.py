"""Completion of a script's flags and their choices in a shell, by shtab. Imports no Keras."""

import argparse
import re

from compress.cli import values
from compress.errors import InputError

SHELLS = ("bash", "zsh")
# shtab's function completes `./prune_model.py --criterion l`. This one makes it do so behind `python` too, which zsh
# does of itself, and behind '=', which bash takes for a word.
BASH = """
_complete_a_script() {{
  local i=0 at=0 function script words=()
  [[ ${{COMP_WORDS[0]##*/}} == python* ]] && i=1
  while [[ $i -lt $COMP_CWORD && ${{COMP_WORDS[i]}} == -* ]]; do i=$((i + 1)); done  # python -u
  script=${{COMP_WORDS[i]##*/}}
  function=_shtab_${{script//[^[:alnum:]]/_}}
  COMPREPLY=()
  if [[ $i -ge $COMP_CWORD ]] || ! declare -F "$function" > /dev/null; then return; fi  # files, as without this
  for (( ; i < ${{#COMP_WORDS[@]}}; i++)); do
    [[ $i -eq $COMP_CWORD ]] && at=${{#words[@]}}
    if [[ ${{COMP_WORDS[i]}} != = ]]; then words+=("${{COMP_WORDS[i]}}")
    elif [[ $i -eq $COMP_CWORD ]]; then words+=(""); fi
  done
  COMP_WORDS=("${{words[@]}}") COMP_CWORD=$at
  "$function"
}}
complete -o bashdefault -o default -F _complete_a_script python python3 {script}
"""


def code(parser, shell):
    """What a shell has to read to complete a script's flags.

    Args:
        parser: the script's Parser, which isn't used after this: its metavars become choices.
        shell: one of SHELLS.

    Returns:
        The text.

    Raises:
        InputError: shtab isn't installed.
    """
    try:
        import shtab
    except ImportError:
        raise InputError(f"--print_completion: received {shell}, expected shtab to be installed: pip install -r "
                         "requirements-completion.txt") from None
    for action in parser._actions:
        words = re.fullmatch(r"\{(.*)\}", str(action.metavar))
        if action.choices is None and words:  # a metavar tells them, where a type of its own checks them
            action.choices = [word for word in words[1].split(",") if not word.isupper()]
        elif action.choices is None and action.type in (values.path, values.model) and action.nargs != 0:
            action.complete = shtab.FILE  # what is no number here is a path
    text = shtab.complete(parser, shell=shell)
    return text + BASH.format(script=parser.prog) if shell == "bash" else text


class Print(argparse.Action):
    """An action that prints what `code` gives and ends the process, as --help does."""

    def __call__(self, parser, namespace, shell, option_string=None):
        try:
            print(code(parser, shell))
        except InputError as error:
            parser.error(str(error))
        parser.exit()
