#!/usr/bin/env python3
"""Writes docs/reference/commands.md from the parsers of the scripts; `make docs` runs it.

A flag that several scripts declare in the same way, with the same default, stands once, under "Shared flags".
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
SCRIPTS = (
    "train_base_model",
    "prune_model",
    "knowledge_distillation",
    "evaluate_model",
    "export_model",
    "sweep",
    "report",
    "sensitivity",
    "plot_train_history",
)  # in the order of a pipeline
GROUPS = ("training", "data", "machine", "several devices", "output")
HEAD = """# Commands

A script takes the flags of its own section and the [shared flags](#shared-flags) that are named there. Each script also
has `--help`. `python docs/commands.py` writes this page from the parsers of the scripts.
"""


def _escaped(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _values(action):
    """The values of a flag in words: its choices, the "expected ..." of its type's error, or its metavar."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices is not None:
        values = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.metavar and action.metavar.startswith("{"):
        values = ", ".join(f"`{word}`" for word in action.metavar.strip("{}").split(","))
    else:
        # Types such as `flags.whole(1, 1000)` know their range, and say it when they refuse a value. A type that
        # accepts "?" takes any text.
        try:
            action.type("?")
            values = "a path" if action.metavar is None else f"`{action.metavar}`"
        except argparse.ArgumentTypeError as error:
            values = str(error).rpartition("expected ")[2].replace(" and at most 1e+09", "")
    return {"+": "one or more: ", 4: "four, each "}.get(action.nargs, "") + values


def row_of(parser, action):
    """The cells of a flag's row: (flag, values, default, what it does), each a text in Markdown.

    Args:
        parser: of a script.
        action: of the parser, one flag.
    """
    text = parser._get_formatter()._expand_help(action)
    # The default is read from the help, which says it in words ("the file's, else 50") where the parser has None.
    found = re.search(r"\s*\(default: ([^()]*(?:\([^()]*\)[^()]*)*)\)$", text)
    words = " ".join((text[: found.start()] if found else text).split())
    default = " ".join(found[1].split()) if found else ("on" if action.default else "off") if action.nargs == 0 else ""
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings or [action.metavar])
    return flags, _values(action), _escaped("required" if action.required else default), _escaped(words)


def flags_of(parser):
    """All flags of a parser but --help: {cells of `row_of`: title of the flag's group}."""
    found = {}
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                found[row_of(parser, action)] = group.title
    return found


def _table(rows):
    cells = ("| flag | values | default | what it does |", "| --- | --- | --- | --- |")
    return "\n".join([*cells, *("| " + " | ".join(row) + " |" for row in rows)])


def _script(parser, flags, takers):
    """The section of one script: what it does, examples, its own flags, and the names of its shared flags by group.

    Args:
        parser: of the script.
        flags: of `flags_of`.
        takers: {row: names of the scripts that have it}; equal rows are one shared flag.
    """
    own = [row for row in flags if len(takers[row]) == 1]
    others = {}
    for row in flags:
        if len(takers[row]) > 1:
            others.setdefault(_group(row, flags), []).append(row[0])
    examples = parser.epilog.partition(":")[2].strip().replace("\n  ", "\n")
    parts = [f"## {parser.prog}\n\n{parser.description}\n\n```\n{examples}\n```\n"]
    parts += [_table(own) + "\n"] if own else []
    parts += [
        "\n".join(f"- [{title}](#{title.replace(' ', '-')}): {', '.join(names)}" for title, names in others.items())
        + "\n"
    ]
    return parts


def _group(row, flags):
    """The shared group of a flag: the title of its group in the script; 'pruning' for all groups of single scripts."""
    title = flags[row].partition(" (")[0]  # without what it needs
    return title if title in GROUPS else "pruning"


def page(parsers):
    """The text of the page.

    Args:
        parsers: {name of a script: its parser}, in the order of the sections.
    """
    flags = {script: flags_of(parser) for script, parser in parsers.items()}
    takers = {}  # row of a flag: scripts that have it
    for script, rows in flags.items():
        for row in rows:
            takers.setdefault(row, []).append(script)
    shared = {}  # title: {scripts: rows}
    for row, scripts in takers.items():
        if len(scripts) > 1:
            shared.setdefault(_group(row, flags[scripts[0]]), {}).setdefault(tuple(scripts), []).append(row)
    parts = [HEAD]
    for script, parser in parsers.items():
        parts += _script(parser, flags[script], takers)
    parts.append("## Shared flags\n")
    for title in sorted(shared, key=["pruning", *GROUPS].index):
        parts.append(f"### {title}\n")
        for scripts, rows in shared[title].items():
            names = "All scripts" if len(scripts) == len(parsers) else ", ".join(f"`{name}.py`" for name in scripts)
            parts.append(f"{names}:\n\n{_table(rows)}\n")
    return "\n".join(parts)


def current():
    """The text that the page has to have now."""
    return page({script: importlib.import_module(script).build_parser() for script in SCRIPTS})


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(current(), encoding="utf-8")
