"""Tables of plain text that fit a width: no number and no word is broken or cut off. Imports no Keras.

A column of a table is a list of text, its heading first. What is too wide is set in the first of these forms that fits:
as it is; headings over several lines and names broken at "/"; turned, so that a row becomes a column; some columns
first and the others below, each time beside the first column.
"""

import math
import re

GAP = "  "
NUMBER = re.compile(r"-?[\d,]+(\.\d+)?x?( of \d+)?")  # "5 of 7" is one, too


# ---- what stands in a cell: functions of a column's values (None: unknown) that give (unit, list of text) ----


def significant(value, digits=4):
    """A number with so many significant digits, such as '0.6047' or '23.61'; '-' for None."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the number as rounded: 9.9999 is 10.00
    if exponent < -6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def text(values):
    """Values as they are."""
    return "", ["-" if value is None else str(value) for value in values]


def percent(values):
    """Shares of 1 in per cent, with two decimals."""
    return "%", ["-" if value is None else f"{100 * value:.2f}" for value in values]


def plain_percent(values):
    """`percent` without a unit in the heading, for a table whose title names it."""
    return "", percent(values)[1]


def number(values):
    """Numbers with four significant digits."""
    return "", [significant(value) for value in values]


def milliseconds(values):
    """Durations in ms, with three significant digits: the next one is noise."""
    return "ms", [significant(value, 3) for value in values]


def ratio(values):
    """Factors such as '39.03x'."""
    return "", [
        "-" if value is None else f"{value:,.2f}x" if value >= 1 else f"{significant(value)}x" for value in values
    ]


def against(values):
    """How a size compares with another, by the ratio other / size: '3.980x smaller', '1.056x larger', 'the same'."""
    return "", [compared(value) for value in values]


def compared(value):
    """One of `against`."""
    if value is None:
        return "-"
    factor = significant(max(value, 1 / value))
    return "the same" if factor == significant(1.0) else f"{factor}x {'smaller' if value > 1 else 'larger'}"


def counted(number, noun, several=None):
    """A whole number and its noun: '1 epoch', '1,200 epochs'; `several`: a plural that is not by -s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def amount(value):
    """A budget of a record as it was typed: [2.0, true] is '2x', [2e7, false] '2e+07'; any other value as it is."""
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], bool)
    return f"{value[0]:g}{'x' * value[1]}" if is_pair and isinstance(value[0], (int, float)) else value


def count(values):
    """Whole numbers in the largest unit that the largest of them fills, with four significant digits."""
    return _scaled(values, {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12})


def size(values):
    """Bytes, likewise."""
    return _scaled(values, {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9})


def size_of(value):
    """One number of bytes with its unit, such as '5.53 GB'."""
    unit, (shown,) = size([value])
    return f"{shown} {unit}"


def _scaled(values, units):
    # of the value as rounded to four digits: 999,960 is 1.000 M, not 1,000 k
    largest = max((float(f"{value:.3e}") for value in values if value is not None), default=0)
    unit, scale = [(unit, scale) for unit, scale in units.items() if scale <= max(largest, 1)][-1]
    if scale == 1:
        return unit, text(values)[1]
    return unit, [significant(None if value is None else value / scale) for value in values]


# ---- where it stands ----


def width_of(line):
    """Cells that a line takes on a terminal: Chinese characters and most emoji take two, accents none."""
    from rich.cells import cell_len

    return cell_len(line)


def printable(value):
    """Text on one line: line ends, escape sequences and all else that a terminal would obey become visible."""
    return "".join(char if char.isprintable() or char == "\u200d" else ascii(char)[1:-1] for char in str(value))


def wrap(line, width):
    """A line as several of at most `width` cells, broken at blanks and behind "/"; longer words, in the middle."""
    from rich.cells import chop_cells

    lines = [""]
    for piece in re.findall(r"[^ /]*(?:/+ *| +|$)", line):
        word = piece.rstrip(" ")
        if width_of(lines[-1] + word) <= width:
            lines[-1] += piece
            continue
        *full, rest = chop_cells(word, max(width, 2)) or [word]
        lines += [*full, rest + piece[len(word) :]]
    return [line.rstrip(" ") for line in lines if line.strip(" ")] or [""]


def _longest_word(cell):
    return max(map(width_of, re.findall(r"[^ /]*/?", cell)))


def _width(column):
    return max(width_of(line) for cell in column for line in cell.split("\n"))


def _total(columns):
    return sum(map(_width, columns)) + len(GAP) * (len(columns) - 1)


def _pointed(column):
    """A column of numbers with blanks behind them, so that their decimal points lie below each other."""
    heading, *cells = column
    tails = [len(cell) - cell.index(".") if "." in cell and NUMBER.fullmatch(cell) else 0 for cell in cells]
    longest = max(tails, default=0)
    return [
        heading,
        *[
            cell + " " * (longest - tail) if NUMBER.fullmatch(cell) else cell
            for cell, tail in zip(cells, tails, strict=True)
        ],
    ]


def _narrowed(columns, width):
    """The columns with headings and other text over several lines."""
    # A column is at least as wide as its widest number and its longest word: neither is ever broken. The first column,
    # whose names break behind "/", gets a third of the line; what is left then goes to the others.
    first, *others = columns
    rooms, least = [], 8  # cells of the first column, on any terminal
    for column in others:
        numbers = [cell for cell in column[1:] if _is_number(cell)]
        words = max((_longest_word(cell) for cell in column if cell not in numbers), default=0)
        rooms.append(max(min(words, width - len(GAP) - least), _width([*numbers, "-"])))
    room = width - len(GAP) - max(rooms, default=0)
    head = _wrapped(first, max(min(max(width // 3, *map(_longest_word, first)), room), least))
    spare = width - _width(head) - sum(rooms) - len(GAP) * len(rooms)
    wanted = {at: _width(column) - rooms[at] for at, column in enumerate(others)}
    for place, at in enumerate(sorted(wanted, key=wanted.get)):
        more = max(0, min(wanted[at], spare // (len(wanted) - place)))  # an equal share, or less where it needs less
        rooms[at], spare = rooms[at] + more, spare - more
    return [head, *map(_wrapped, others, rooms)]


def _is_number(cell):
    return NUMBER.fullmatch(cell.rstrip(" ")) is not None


def _wrapped(column, room):
    """A column with its heading and what is no number over several lines of at most `room` cells."""
    heading, *cells = column
    return ["\n".join(wrap(heading, room)), *(c if _is_number(c) else "\n".join(wrap(c, room)) for c in cells)]


def _drawn(columns):
    """(lines of the heading, lines of the rows); the first column and those of text are set left."""
    widths = list(map(_width, columns))
    left = [
        i == 0 or not any(cell == "-" or NUMBER.fullmatch(cell.rstrip(" ")) for cell in column[1:])
        for i, column in enumerate(columns)
    ]

    def lines(cells, at_the_bottom=False):
        parts = [cell.split("\n") for cell in cells]
        height = max(map(len, parts))
        parts = [
            [""] * (height - len(part)) + part if at_the_bottom else part + [""] * (height - len(part))
            for part in parts
        ]
        for row in zip(*parts, strict=True):
            fills = [" " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
            yield GAP.join(
                cell + fill if first else fill + cell for cell, fill, first in zip(row, fills, left, strict=True)
            ).rstrip(" ")

    heads, *rows = zip(*columns, strict=True)
    return list(lines(heads, True)), [line for row in rows for line in lines(row)]


def layout(columns, width):
    """Sets a table.

    Args:
        columns: list of lists of text, of equal length, the heading first; numbers are set right.
        width: in cells, of the terminal.

    Returns:
        List of (lines of the heading, lines of the rows), one below the other: one pair where the table fits at once.
    """
    # From the widest form to the narrowest, each tried only where the one before doesn't fit: as it is; headings and
    # names over several lines; turned, a model a column; some columns at a time, each time with the names in front.
    columns = [[printable(cell) for cell in column] for column in columns]
    whole = [columns[0], *map(_pointed, columns[1:])]
    if _total(whole) <= width:
        return [_drawn(whole)]
    narrow = _narrowed(whole, width)
    if _total(narrow) <= width:
        return [_drawn(narrow)]
    corner, *names = columns[0]
    turned = [
        [corner, *[column[0] for column in columns[1:]]],
        *[_pointed(list(row)) for row in zip(names, *[column[1:] for column in columns[1:]], strict=True)],
    ]
    for form in (turned, _narrowed(turned, width)):
        if _total(form) <= width:
            return [_drawn(form)]
    parts = [[]]
    for column in narrow[1:]:
        if parts[-1] and _total([narrow[0], *parts[-1], column]) > width:
            parts.append([])
        parts[-1].append(column)
    return [_drawn([narrow[0], *part]) for part in parts]
