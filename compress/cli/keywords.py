"""The scripts' `run` called from Python, with typed keywords in place of a command line. Imports no Keras."""

import argparse
import contextlib
import difflib
import functools
import inspect
import textwrap

from compress.cli import messages
from compress.cli.flags import named
from compress.errors import InputError, of_the_system, shown


def _actions(parser):
    """{name: its action} of every flag that says something of a run: not of --help."""
    return {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}


def several(parser):
    """Names of the flags that take several values."""
    return {name for name, action in _actions(parser).items() if action.nargs not in (None, 0, "?")}


def switches(parser):
    """Names of the flags that are on or off."""
    return {name for name, action in _actions(parser).items() if action.nargs == 0}


def _one(action, value):
    """One value as a flag's type makes it; text is read as on a command line, a number is taken as it is."""
    try:
        value = action.type(value) if action.type else value
    except argparse.ArgumentTypeError as error:
        raise InputError(f"`{action.dest}`: {error}") from None
    except (ValueError, TypeError, OverflowError, AttributeError):  # what only Python or YAML gives to a type of texts
        raise InputError(f"`{action.dest}`: received {shown(value)}, expected a text") from None
    if action.choices is not None and value not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"`{action.dest}`: received {shown(value)}, expected one of {choices}")
    return value


def _value(action, value):
    """What a flag's action would store for a value."""
    several = isinstance(value, (list, tuple))
    if action.nargs == 0:
        if (text := shown(value, str)) not in ("True", "False"):  # numpy's too
            raise InputError(f"`{action.dest}`: received {shown(value)}, expected True or False")
        return text == "True"
    if action.nargs is None or action.nargs == "?":
        if several and not (len(value) == 2 and isinstance(value[1], bool)):  # MACs as a record holds them
            raise InputError(f"`{action.dest}`: received {shown(value)}, expected one value")
        return _one(action, value)
    values = list(value) if several else [value]
    if not values or (isinstance(action.nargs, int) and len(values) != action.nargs):
        wanted = "at least one value" if action.nargs == "+" else f"{action.nargs} values"
        raise InputError(f"`{action.dest}`: received {shown(value)}, expected {wanted}")
    values = [_one(action, one) for one in values]
    for one in values:
        if isinstance(one, str) and one[:1] == "-":  # on a command line it would be another flag
            raise InputError(f"`{action.dest}`: received {one}, which is a flag; expected ./{one} of a file")
    return values


def arguments(parser, given):
    """The namespace of a script, from keywords.

    Args:
        parser: a script's flags.Parser.
        given: {name of a flag, without dashes: its value}: numbers, text, paths, True or False for a switch, a list
            for a flag that takes several values; None stands for the flag's default. The flags of a record do.

    Returns:
        The namespace, as of a command line with these flags; its argv is that command line.

    Raises:
        InputError: an unknown name, a value that the flag can't take, or a flag missing that has to be there.
    """
    # Each keyword passes the flag's own type and choices, so that Python and command line refuse the same values.
    known, found = _actions(parser), argparse.Namespace()
    given = {name: value for name, value in given.items() if value is not None or name not in known}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                f"`{name}`: no such keyword; "
                + (f"did you mean `{near[0]}`?" if near else f"expected one of {', '.join(sorted(known))}")
            )
    for name, action in known.items():
        value = given.get(name, parser.get_default(name))
        if value is None and action.required:
            raise InputError(f"`{name}`: not given; expected {action.help.split('; ')[0]}")
        setattr(found, name, None if value is None else _value(action, value))
    for group in parser._mutually_exclusive_groups:
        if len(both := [action.dest for action in group._group_actions if action.dest in given]) > 1:
            raise InputError(f"`{both[1]}`: received it beside `{both[0]}`, expected one of them")
    parser.complete(found, given)
    found.argv = [parser.prog, *(word for name in given for word in _words(known[name], getattr(found, name)))]
    return found


def _words(action, value):
    """A flag and its value as words of a command line, for the record."""
    if not action.option_strings:  # what stands without a flag
        return [str(value)]
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag] if value else action.option_strings[1:2]
    if action.nargs is None and isinstance(value, (list, tuple)):  # MACs
        return [f"{flag}={value[0]:.15g}{'x' * value[1]}"]
    return [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]


def _signature(parser):
    """What a notebook completes: the parser's flags as keywords, with their defaults."""
    empty, kinds = inspect.Parameter.empty, inspect.Parameter
    flags = [
        kinds(action.dest, kinds.KEYWORD_ONLY, default=empty if action.required else action.default)
        for action in parser._actions
        if action.default is not argparse.SUPPRESS
    ]
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
            yield (
                textwrap.fill(
                    f"{action.dest}: {choices}{formatter._expand_help(action)}",
                    100,
                    initial_indent="    ",
                    subsequent_indent="        ",
                )
                + "\n"
            )


def callable_with(build_parser):
    """A decorator of run(args), which may then be called as run(flag=value, ...) too; see `arguments`.

    help(run) lists the flags with their defaults. In a notebook, what isn't a defect of the suite ends in one line.
    """

    def decorate(run):
        @functools.wraps(run)
        def either(args=None, /, **given):
            messages.open_streams()
            if from_python := args is None:
                args = arguments(build_parser(), given)
            elif given:
                raise TypeError(f"{run.__module__}.run takes a namespace or keywords, not both")
            if not isinstance(args, argparse.Namespace):
                raise InputError(f"run: received {args!r:.60}, expected flags as keywords, such as run(epoch_num=2)")
            try:
                with messages.in_python() if from_python else contextlib.nullcontext():
                    return run(args)
            except InputError as error:
                error.args, error.path = (named(error, args),), None
                raise
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
