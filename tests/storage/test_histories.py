"""histories.py: what users keep of a training is read alike in every form, or refused by the name of the odd list."""

import csv
import json
import pickle
import re

import pytest

from compress.errors import InputError
from compress.storage import histories

H = {
    "accuracy": [0.41, 0.55, 0.63, 0.66],
    "loss": [1.7, 1.2, 1.0, 0.9],
    "val_accuracy": [0.4, 0.5, 0.6, 0.58],
    "val_loss": [1.8, 1.3, 1.1, 1.2],
    "learning_rate": [0.001] * 4,
}
WANTED = {
    "train_acc": H["accuracy"],
    "train_loss": H["loss"],
    "val_acc": H["val_accuracy"],
    "val_loss": H["val_loss"],
    "learning_rate": H["learning_rate"],
}
ROWS = [dict(zip(H, row, strict=True)) for row in zip(*H.values(), strict=True)]


def table(delimiter=",", again=False, comma=False):
    """What csv writes, as CSVLogger does."""
    lines = []
    writer = csv.writer(type("File", (), {"write": staticmethod(lines.append)}), delimiter=delimiter)
    for i, row in enumerate(zip(*H.values(), strict=True)):
        if i == 0 or (again and i == 2):
            writer.writerow(["epoch", *H])
        writer.writerow([i, *(str(value).replace(".", ",") if comma else value for value in row)])
    return "".join(lines)


ALIKE = {
    "plain": json.dumps(H),
    "of History": json.dumps({"epoch": [0, 1, 2, 3], "params": {"epochs": 4}, "history": H}),
    "csv": table(),
    "semicolons": table(";"),
    "decimal commas": table(";", comma=True),
    "tabs": table("\t"),
    "tabs and decimal commas": table("\t", comma=True),
    "quoted decimal commas": table(comma=True),
    "capitals": re.sub("[a-z]+", lambda word: word[0].title(), table().splitlines()[0])
    + table()[table().index("\r") :],
    "words": table().replace("val_", "Validation ").replace("_", " "),
    "second model": json.dumps(H).replace('accuracy"', 'accuracy_1"'),
    "csv appended to": table(again=True),
    "strings": json.dumps({key: list(map(str, row)) for key, row in H.items()}),
    "columns": json.dumps({key: {str(i): v for i, v in enumerate(row)} for key, row in H.items()}),
    "records": json.dumps(ROWS),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "index": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "split": json.dumps({"columns": list(H), "index": [0, 1, 2, 3], "data": [list(row.values()) for row in ROWS]}),
    "table": json.dumps({"schema": {}, "data": [{"index": i} | row for i, row in enumerate(ROWS)]}),
    "binary": json.dumps(H).replace("accuracy", "binary_accuracy"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ALIKE)
def test_every_form_reads_alike(form, encoding, tmp_path):
    (tmp_path / "h").write_bytes(ALIKE[form].encode(encoding))
    assert histories.read(tmp_path / "h") == (WANTED, [])


def read(tmp_path, content):
    (tmp_path / "h.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return histories.read(tmp_path / "h.json")


def test_validation_of_every_second_epoch_stands_at_its_epochs(tmp_path):
    curves, notes = read(tmp_path, H | {"val_accuracy": [0.5, 0.58], "val_loss": [1.3, 1.2]})
    assert curves["val_acc"] == [None, 0.5, None, 0.58] and curves["val_loss"] == [None, 1.3, None, 1.2]
    assert notes == [
        "assumed to be validated every 2 epochs: the file doesn't say at which epochs the 2 numbers of "
        "val_accuracy and val_loss were measured"
    ]  # validation_freq may be a list
    curves, _ = read(tmp_path, "epoch,loss,val_loss\n0,3,NA\n1,2,1.5\n")
    assert curves == {"train_loss": [3, 2], "val_loss": [None, 1.5]}


def test_per_cent_gaps_and_strange_metrics_are_told(tmp_path):
    curves, notes = read(tmp_path, H | {"accuracy": [41, 55, 63, 66], "val_accuracy": [40, 50, 60, 58]})
    assert curves["train_acc"] == pytest.approx(H["accuracy"]) and curves["val_acc"] == pytest.approx(H["val_accuracy"])
    assert notes == ["accuracy and val_accuracy read as per cent"]
    curves, notes = read(tmp_path, H | {"val_loss": [1.8, float("nan"), 1.1, float("inf")]})
    assert curves["val_loss"] == [1.8, None, 1.1, None] and notes == ["val_loss has no number at epoch 2, 4"]
    curves, notes = read(tmp_path, {"auc_1": H["accuracy"], "top_k_categorical_accuracy": H["loss"], "loss": H["loss"]})
    assert curves == {"train_loss": H["loss"]} and notes == ["not drawn: auc_1, top_k_categorical_accuracy"]
    curves, notes = read(tmp_path, {"loss": H["loss"], "accuracy_1": H["accuracy"], "accuracy_2": H["loss"]})
    assert curves == {"train_loss": H["loss"]} and notes == ["not drawn: accuracy_1, accuracy_2"]
    curves, notes = read(tmp_path, {"loss": H["loss"], "accuracy_1": H["loss"], "accuracy": H["accuracy"]})
    assert curves["train_acc"] == H["accuracy"] and notes == ["not drawn: accuracy_1"]
    _, notes = read(tmp_path, "epoch,loss\n0,3\n1,2\n0,1\n")
    assert notes == ["its epochs start again in row 3; all 3 rows are drawn one behind the other"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (H | {"learning_rate": [0.001] * 5}, "whose learning_rate has 5 numbers where others have 4"),
        (H | {"val_loss": [1.3, 1.2]}, "val_loss has 2 numbers, the others 4"),
        (
            {"loss": [3, 2, 1, 1], "val_loss": [1]},
            "val_loss has 1 numbers, the others 4, which tells no validation_freq",
        ),
        (H | {"accuracy": [41, 55, 63, 66]}, "accuracy goes up to 66, val_accuracy goes up to 0.6"),
        (H | {"accuracy": [410, 1, 1, 1]}, "accuracy goes up to 410"),
        (H | {"loss": [[1], 2, 3, 4]}, "whose loss is no list of numbers"),
        (H | {"loss": 3}, "whose loss is no list"),
        (str(H), "json.dump(history.history"),
        (json.dumps(str(H)), "json.dump(history.history"),
        ("epoch,loss\n0,1\n1\n", "row 3 has 1 fields, the head 2"),
        ("", "json.dump"),
        ("[" * 99999, "json.dump"),
        ({"loss": [2, 1], "accuracy": [-0.1, 0.2]}, "in which accuracy goes down to -0.1"),
        ("epoch,loss,loss\n0,1,2\n", "its heading loss stands twice"),
        ('{"loss": [1], "loss": [2]}', "loss stands twice"),
        ('{"loss": 2}\n{"loss": 1, "loss": 3}', "loss stands twice"),
        ('epoch,loss,steps\n0,0.5,"1,234"\n', "it has commas and points in its numbers: 1,234, 0.5"),
        ("Epoch,Loss\n0.1,3\n0.2,2\n", "which was written by steps"),
        ({"loss": [10**400]}, "whose loss is no list"),
        ({"a": [1]}, "which is not a training history"),
    ],
    ids=repr,
)
def test_what_can_be_read_in_two_ways_or_none_is_one_line_with_the_odd_list(content, says, tmp_path):
    with pytest.raises(InputError, match="^received ") as caught:
        read(tmp_path, content)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_csv_of_one_column_is_read_and_an_underscore_is_no_part_of_a_number(tmp_path):
    assert read(tmp_path, "val_loss\n0.5\n0.25\n")[0] == {"val_loss": [0.5, 0.25]}
    with pytest.raises(InputError, match="val_loss is no list of numbers"):
        read(tmp_path, "val_loss\n1_0\n0.25\n")


def test_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "h").write_bytes(pickle.dumps(H))
    with pytest.raises(InputError, match="a pickle.*json.dump"):
        histories.read(tmp_path / "h")


def lightning(per_epoch=1):
    """metrics.csv as Lightning's CSVLogger writes it: rows of validation, then of training, blanks for the others."""
    lines = ["epoch,lr-SGD,step,train_acc,train_loss_step,train_loss_epoch,val_acc,val_loss"]
    for e, row in enumerate(ROWS):
        lines.append(f"{e},,{10 * e + 9},,,,{row['val_accuracy']},{row['val_loss']}")
        lines += [f"{e},,{10 * e + 5},,{row['loss'] + 0.1},,,", f"{e},,{10 * e + 7},,{row['loss'] + 0.2},,,"]
        lines += [f"{e},,{10 * e + 9},{row['accuracy']},,{row['loss']},,"] * per_epoch
    return "\n".join(lines)


def trainer(epochs, log=1):
    """trainer_state.json as Hugging Face's Trainer writes it."""
    records = []
    for e, row in zip(epochs, ROWS, strict=True):
        records += [{"epoch": e - 1 + (i + 1) / log, "loss": row["loss"], "learning_rate": 0.001} for i in range(log)]
        records += [{"epoch": e, "eval_loss": row["val_loss"], "eval_accuracy": row["val_accuracy"], "eval_runtime": 1}]
    records.append({"epoch": epochs[-1], "train_runtime": 9.0, "train_loss": 1.23, "step": 40})  # of the whole run
    return json.dumps({"best_metric": 0.6, "epoch": epochs[-1], "log_history": records, "max_steps": 40})


def test_rows_of_one_epoch_are_one_where_trainers_write_training_and_validation_apart(tmp_path):
    without = {key: values for key, values in WANTED.items() if key != "learning_rate"}
    assert read(tmp_path, lightning()) == (without, ["not drawn: lr-SGD, train_loss_step"])
    without = {key: values for key, values in WANTED.items() if key != "train_acc"}
    for epochs in ([1.0, 2.0, 3.0, 4.0], [0.99, 1.99, 2.99, 3.98]):
        assert read(tmp_path, trainer(epochs)) == (without, ["not drawn: eval_runtime"])
    _, notes = read(tmp_path, trainer([5, 10, 15, 20]))
    assert notes[0] == "its epochs are 5, 10, 15, ...: drawn one behind the other"


def test_ultralytics_table_is_read(tmp_path):
    head = "             epoch,        train/loss,  metrics/accuracy_top1,          val/loss,       lr/pg0\n"
    rows = [
        f"{i + 1:23},{row['loss']:23},{row['val_accuracy']:23},{row['val_loss']:23},{0.001:13}"
        for i, row in enumerate(ROWS)
    ]
    without = {key: values for key, values in WANTED.items() if key != "train_acc"}
    assert read(tmp_path, head + "\n".join(rows)) == (without, [])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lightning(2), "whose train_acc has 2 numbers in epoch 0, as written by steps; expected one record an epoch"),
        (
            trainer([1, 2, 3, 4], 4),
            "written by steps: its epochs are 0.25, 0.5, 0.75, ...; expected one record an epoch",
        ),
        ("epoch,loss\n0,1\n,2\n", "whose row 2 has no epoch"),
        (json.dumps([H] * 3), "3 histories in one file"),
        ("Wall time,Step,Value\n1,2,3\n", "a log of TensorBoard"),
    ],
)
def test_what_was_written_by_steps_or_for_others_is_called_what_it_is(content, says, tmp_path):
    with pytest.raises(InputError, match="^received ") as caught:
        read(tmp_path, content)
    assert says in str(caught.value) and "\n" not in str(caught.value)
