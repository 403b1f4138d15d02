#!/usr/bin/env python3
"""Writes docs/reference/commands.md from the parsers of the scripts; `make docs` runs it.

A flag that several scripts declare alike, in its default too, stands once, among the shared ones.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
SCRIPTS = ("train_base_model", "prune_model", "knowledge_distillation", "evaluate_model", "export_model", "report",
           "sensitivity", "plot_train_history")  # in the order of a pipeline
HEAD = """# Commands

A script takes the flags of its own section and the [shared flags](#shared-flags) that are named there. Each script also
answers `--help`. `python docs/commands.py` writes this page from the parsers of the scripts.
"""


def _escaped(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _values(action):
    """What may follow a flag, in words: its choices, what its type says that it expects, or its name for the value."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices is not None:
        values = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.metavar and action.metavar.startswith("{"):
        values = ", ".join(f"`{word}`" for word in action.metavar.strip("{}").split(","))
    else:
        try:
            action.type("?")
            values = "a path" if action.metavar is None else f"`{action.metavar}`"
        except argparse.ArgumentTypeError as error:
            values = str(error).rpartition("expected ")[2].replace(" and at most 1e+09", "")
    return {"+": "one or more: ", 4: "four, each "}.get(action.nargs, "") + values


def row_of(parser, action):
    """A flag as cells of a table: (flag, values, default, what it does)."""
    text = parser._get_formatter()._expand_help(action)
    told = re.search(r"\s*\(default: ([^()]*(?:\([^()]*\)[^()]*)*)\)$", text)
    words = " ".join((text[:told.start()] if told else text).split())
    default = " ".join(told[1].split()) if told else "off" if action.nargs == 0 else ""
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
    return flags, _values(action), _escaped("required" if action.required else default), _escaped(words)


def flags_of(parser):
    """{cells of `row_of`: title of the flag's group}, without --help and --print_completion."""
    found = {}
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help != argparse.SUPPRESS and action.dest not in ("help", "print_completion"):
                found[row_of(parser, action)] = group.title
    return found


def _table(rows):
    cells = ("| flag | values | default | what it does |", "| --- | --- | --- | --- |")
    return "\n".join([*cells, *("| " + " | ".join(row) + " |" for row in rows)])


def _script(parser, flags, takers):
    """The section of one script: what it does, examples, its own flags, names of the shared ones by group."""
    own = [row for row in flags if len(takers[row]) == 1]
    others = {}
    for row in flags:
        if len(takers[row]) > 1:
            others.setdefault(_group(row, flags), []).append(row[0])
    examples = parser.epilog.partition(":")[2].strip().replace("\n  ", "\n")
    parts = [f"## {parser.prog}\n\n{parser.description}\n\n```\n{examples}\n```\n"]
    parts += [_table(own) + "\n"] if own else []
    parts += ["\n".join(f"- [{title}](#{title}): {', '.join(names)}" for title, names in others.items()) + "\n"]
    return parts


def _group(row, flags):
    """The shared group of a flag: the title that its script gives it, one for all that choose channels."""
    return flags[row] if flags[row] in ("training", "data", "machine", "output") else "pruning"


def page(parsers):
    """The page's text, from {script: parser}."""
    flags = {script: flags_of(parser) for script, parser in parsers.items()}
    takers = {}  # flag: scripts that take it
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
    for title in sorted(shared, key=["pruning", "training", "data", "machine", "output"].index):
        parts.append(f"### {title}\n")
        for scripts, rows in shared[title].items():
            names = "All scripts" if len(scripts) == len(parsers) else ", ".join(f"`{name}.py`" for name in scripts)
            parts.append(f"{names}:\n\n{_table(rows)}\n")
    return "\n".join(parts)


def current():
    """What the page should hold now."""
    return page({script: importlib.import_module(script).build_parser() for script in SCRIPTS})


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(current(), encoding="utf-8")
