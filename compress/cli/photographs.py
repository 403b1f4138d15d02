"""The table of evaluate_model.py --predict: what photographs are taken for. Imports no Keras."""

from compress.cli import display, tables


def short(text, most):
    """Text of at most so many characters, shortened in the middle."""
    return text if len(text) <= most else f"{text[: most // 3]}...{text[-(most - most // 3 - 3) :]}"


def show(model, photographs, verbose=1):
    """Prints for each photograph its most probable classes, each on a line.

    Args:
        model: path of the model, for the title.
        photographs: from `predicting.most_probable`.
        verbose: 0 for nothing.
    """
    room = max(display.width() - 19, 20)  # beside the probabilities
    longest = max(len(best["class"]) for photo in photographs for best in photo["classes"])
    names = max(min(longest, room // 2), len("class"))
    rows = [
        ["" if i else short(photo["path"], room - names), short(best["class"], names), best["probability"]]
        for photo in photographs
        for i, best in enumerate(photo["classes"])
    ]
    display.print_table(
        f"{model}: most probable classes of {tables.counted(len(photographs), 'photograph')}",
        [("photograph", tables.text), ("class", tables.text), ("probability", tables.percent)],
        rows,
        verbose,
    )
