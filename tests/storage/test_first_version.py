"""Files of the first version, which lay flat in the root: what it wrote opens, goes on and is shown.

`first_version.zip` holds what that version's scripts wrote from `start.h5`, a narrow ResNet of five blocks, on 160 of
scikit-learn's digits: a base model, a pruning of two iterations, a student, an evaluation, and a training that was
stopped behind step 1 of its second epoch of three. Its commands stand in the records.
"""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import knowledge_distillation
import plot_train_history
import prune_model
import train_base_model
from compress.data import dataset
from compress.report import records
from compress.storage import opening

MODELS = ("base_model", "pruned_model/iter1", "pruned_model/iter2", "kd_model")
RUNS = {"base_model": train_base_model, "pruned_model": prune_model, "kd_model": knowledge_distillation}


@pytest.fixture
def first(tmp_path, monkeypatch):
    """The folder of the first version, which is the current one, as it was when the records were written."""
    with zipfile.ZipFile(Path(__file__).with_name("first_version.zip")) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def repeated(run, **changed):
    """The flags of a record as keywords for `run`, but for those that say how the answer is printed."""
    return {name: value for name, value in run["flags"].items() if name not in ("json", "argv")} | changed


def test_a_model_of_the_first_version_is_read_as_plain_keras_reads_it(first, pictures):
    path = first / "kd_model/model.h5"
    plain = keras.models.load_model(path, compile=False)
    np.testing.assert_allclose(
        opening.load_network(path).predict(pictures[0], verbose=0),
        plain.predict(pictures[0], verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_of_the_first_version_is_known(first, name, capsys):
    before = read(first / name / "result.json")
    assert RUNS[name].run(**repeated(before["run"], verbose=1)) == before
    assert "holds this run, finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_run_of_the_first_version_goes_on(first):
    before = read(first / "stopped/history.json")
    result = train_base_model.run(**repeated(before["run"]))
    history = read(first / "stopped/history.json")
    assert result["epochs"] == 3
    for curve in ("train_loss", "train_acc", "val_loss", "val_acc", "learning_rate"):
        assert history[curve][:1] == before[curve]
        assert len(history[curve]) == 3
    assert not (first / "stopped/state.npz").exists()


@pytest.mark.slow
def test_a_finished_run_of_the_first_version_goes_on_with_more_epochs(first):
    before = read(first / "base_model/history.json")
    train_base_model.run(**repeated(before["run"], epoch_num=3))
    history = read(first / "base_model/history.json")
    assert history["val_acc"][:2] == before["val_acc"]
    assert len(history["val_acc"]) == 3


def test_records_of_the_first_version_are_shown_in_the_report(first):
    tree = records.read_tree(first)
    assert [path for path, _ in tree.skipped] == ["stopped/history.json"]  # it has not ended
    sizes = {point.sizes.get("parameters") for point in tree.points}
    assert sizes >= {read(first / name / "result.json")["parameters"] for name in ("base_model", "kd_model")}
    assert {point.kind for point in tree.points} >= {"base", "pruned", "student"}


def test_histories_of_the_first_version_are_plotted(first):
    paths = [first / name / "history.json" for name in MODELS]
    plot_train_history.run(history_path=paths, output=first / "out.png", show=False, verbose=0)
    assert (first / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_accuracies_of_the_first_version_are_those_of_today(first):
    """Its evaluation, whose figures today's evaluator finds again: the same images, the same network."""
    from compress import metrics
    from compress.cli import configs
    from compress.engine import folding

    rows = read(first / "results.json")["models"]
    images = dataset.load_data(configs.DataConfig(dataset="digits"), needs=("test",))
    assert len(rows) == 3
    for row in rows:
        network = folding.FoldedModel(opening.load_network(first / row["path"]), "float32")
        found = metrics.evaluate(network, images.test, 64)
        assert (found["acc"], found["loss"]) == (pytest.approx(row["acc"], abs=1e-9), pytest.approx(row["loss"], 1e-4))
