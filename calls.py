"""The scripts' `run` called from Python, with keywords in place of a command line. Imports no Keras."""

import argparse
import difflib
import functools
import inspect
import textwrap

from errors import InputError, of_the_system


def _words(action, name, value):
    """A flag and its value as words of a command line; none where the value is the flag's absence."""
    if value is None:
        return []
    flag = action.option_strings[0]
    if action.nargs == 0:
        if str(value) not in ("True", "False"):  # numpy's too
            raise InputError(f"{name}: received {value!r}, expected True or False")
        if str(value) == "True":
            return [flag]
        return action.option_strings[1:2] if isinstance(action, argparse.BooleanOptionalAction) else []
    several = isinstance(value, (list, tuple))
    if several and len(value) == 2 and isinstance(value[1], bool):  # MACs as a record holds them
        return [f"{flag}={value[0]}{'x' * value[1]}"]
    if action.nargs is not None and action.nargs != "?":  # "+", or a number of values
        return [flag, *map(str, value if several else [value])]
    if several:
        raise InputError(f"{name}: received {value!r}, expected one value")
    return [f"{flag}={value}"]


def arguments(parser, given):
    """What a parser makes of keywords.

    Args:
        parser: a script's flags.Parser, which isn't used after this.
        given: {name of a flag, without dashes: its value}: numbers, text, paths, True or False for a switch, a list
            for a flag that takes several values; None stands for the flag's default. The flags of a record do.

    Returns:
        The namespace, as of a command line with these flags; its argv is that command line.

    Raises:
        InputError: an unknown name, a value that the flag can't take, or a flag missing that has to be there.
    """
    known = {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(f"{name}: no such flag" + (f"; did you mean {near[0]}?" if near else
                                                        f"; expected one of {', '.join(sorted(known))}"))
    def refuse(message):
        raise InputError(parser.told(message))

    parser.error = refuse  # a command line ends with a status, a call with an exception
    return parser.parse_args([word for name, value in given.items() for word in _words(known[name], name, value)])


def _signature(parser):
    """What a notebook completes: the parser's flags as keywords, with their defaults."""
    empty, kinds = inspect.Parameter.empty, inspect.Parameter
    flags = [kinds(action.dest, kinds.KEYWORD_ONLY, default=empty if action.required else action.default)
             for action in parser._actions if action.default is not argparse.SUPPRESS]
    return inspect.Signature([kinds("args", kinds.POSITIONAL_ONLY, default=None), *flags])


def _described(parser):
    """The parser's flags with their help, a paragraph a group."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.default is not argparse.SUPPRESS]
        if actions:
            yield f"\nKeywords, {group.title}:\n"
        for action in actions:
            choices = f"one of {', '.join(map(str, action.choices))}; " if action.choices else ""
            yield textwrap.fill(f"{action.dest}: {choices}{formatter._expand_help(action)}", 100,
                                initial_indent="    ", subsequent_indent="        ") + "\n"


def keywords(build_parser):
    """A decorator of run(args), which may then be called as run(flag=value, ...) too; see `arguments`.

    help(run) lists the flags with their defaults. In a notebook, what isn't a defect of the suite ends in one line.
    """
    def decorate(run):
        @functools.wraps(run)
        def either(args=None, /, **given):
            if args is None:
                args = arguments(build_parser(), given)
            elif given:
                raise TypeError(f"{run.__module__}.run takes a namespace or keywords, not both")
            if not isinstance(args, argparse.Namespace):
                raise InputError(f"run: received {args!r:.60}, expected flags as keywords, such as run(epoch_num=2)")
            try:
                return run(args)
            except (Exception, KeyboardInterrupt) as error:
                line = "stopped" if type(error) is KeyboardInterrupt else of_the_system(error)
                if line:
                    shown = [f"{type(error).__name__}: {line}"]
                    error._render_traceback_ = lambda: shown
                raise
        parser = build_parser()
        either.__signature__ = _signature(parser)
        either.__doc__ = f"{inspect.getdoc(run)}\n{''.join(_described(parser))}"
        return either
    return decorate
