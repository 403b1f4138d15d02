"""Recognises a table of labels beside a folder of images, and shows the command that sorts the images by it.

The table itself is not used as a data set: classes are always folders.
"""

import csv
import itertools
import re
from pathlib import Path

from compress.data.decoding import SUFFIXES
from compress.data.scanning import entries
from compress.errors import quoted

MOST_BYTES, MOST_TABLES, MOST_CLASSES = 2**26, 10, 1000
HEADS = {"label", "labels", "class", "category", "target", "breed", "species", "diagnosis", "dx", "y"}
# in Python, since no ordinary shell command reads CSV with quotes, and copying leaves the original untouched
SORT = (
    "import csv, os, shutil; [(os.makedirs(d := os.path.join({to!r}, r[{label}]), exist_ok=True), "
    "shutil.copy(next(p for f in {folders!r} if os.path.isfile(p := os.path.join(f, r[{file}] + {suffix!r}))), d)) "
    "for r in list(csv.reader(open({table!r}, encoding='utf-8-sig')))[1:]]"
)


def hint(root):
    """What to add to the error about a folder without class folders, if a table in it has the labels of its images.

    Args:
        root: the folder.

    Returns:
        A line that names the table, with a command that copies the images into a folder for each class where the table
        is simple enough. None where there is no such table.
    """
    folders = [Path(root), *entries(root)[0]]
    tables = [path for folder in folders for path in sorted(folder.glob("*.csv")) if path.is_file()]
    for table, folder in itertools.product(tables[:MOST_TABLES], folders):
        rows = _rows(table)
        # The first row below the headings decides: the column of file names is one whose value, with a suffix or
        # without, is a file in the folder.
        found = [
            (number, suffix)
            for number, name in enumerate(rows[1] if len(rows) > 2 else ())
            for suffix in ("", *SUFFIXES)
            if _is_plain(name) and (folder / (name + suffix)).is_file()
        ]
        if found:
            said = f"the labels in {table} are not read: expected a folder for each class"
            command = _command(rows, table, folders, f"{Path(root).resolve()}_by_class", *found[0])
            return f"{said}, into which this copies the images: {command}" if command else said
    return None


def across(root, folders):
    """The table in a data set's folder by whose labels its subfolders aren't the classes; None without one.

    Args:
        root: the folder.
        folders: its subfolders, as Path, with images of their own.

    Returns:
        Path of a CSV file with a column of labels, most of which occur in two folders or more: these hold pieces of the
        data set. A finer label than the folders, as of breeds of cats and dogs, occurs in one only.
    """
    for table in sorted(Path(root).glob("*.csv"))[:MOST_TABLES]:
        rows = _rows(table) if table.is_file() else []
        columns = [number for number, name in enumerate(rows[0]) if name.strip().lower() in HEADS] if rows else []
        if not columns:
            continue
        places = {}  # name of a file, with its suffix and without: the folders that hold it
        for number, folder in enumerate(folders):
            for image in entries(folder)[1]:
                for name in {image.name, image.stem}:
                    places.setdefault(name, set()).add(number)
        found = {}  # label: the folders of its images
        for row in rows[1:]:
            place = next((places[name] for name in row if len(places.get(name, ())) == 1), None)
            if place and len(row) > columns[0]:
                found.setdefault(row[columns[0]], []).extend(place)
        several = [places for places in found.values() if len(places) > 1]
        if len(several) > 1 and 2 * sum(len({*places}) > 1 for places in several) > len(several):
            return table
    return None


def _rows(table):
    """The rows of a CSV file, a list of strings each; an empty list where it can't be read as one."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            return [row for row in csv.reader(file) if row] if table.stat().st_size <= MOST_BYTES else []
    except (OSError, ValueError, csv.Error):
        return []


def _is_plain(name):
    """Whether a name from a table is a plain file name, without a path or characters that a shell would expand."""
    return bool(re.fullmatch(r"\w[\w .()-]*", name)) and len(name) < 200


def _command(rows, table, folders, to, file, suffix):
    """The command that copies images into a folder for each label; None where columns or names are ambiguous.

    The user pastes it into a shell, and the table may come from a stranger: so every name of it has to be plain.
    """
    head, body = [name.strip().lower() for name in rows[0]], rows[1:]
    # The column of labels: the other one of two, else the only one with a usual heading.
    others = [number for number in range(len(head)) if number != file and (len(head) == 2 or head[number] in HEADS)]
    if len(others) != 1 or any(len(row) != len(head) for row in body):
        return None
    # A column with thousands of different values is none of classes but of numbers, dates or names.
    names = {row[others[0]] for row in body}
    if not 2 <= len(names) <= MOST_CLASSES or not all(map(_is_plain, names | {row[file] for row in body})):
        return None
    holding = [folder for folder in folders if any((folder / (row[file] + suffix)).is_file() for row in body)]
    code = SORT.format(to=to, label=others[0], folders=[*map(str, holding)], file=file, suffix=suffix, table=str(table))
    return f"python3 -c {quoted(code)}"
