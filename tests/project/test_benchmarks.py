"""benchmarks/: the suite's and Keras' parts run, on small networks and few images, and the whole networks are built.

What is measured of torch, onnxruntime and LiteRT runs with `make bench` alone: the tests don't ask for torch.
"""

import json
import os
import time

import bench
import contest
import loading
import numpy as np
import photographs
import pytest
import worker

from compress.cli import display
from compress.data import batches, reading
from compress.graph.network import Graph
from compress.training import callbacks


@pytest.fixture
def tiny(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(worker, "BATCH", 4)
    monkeypatch.setattr(worker, "network", lambda kind: in_a_chain())
    full = worker.pixels
    monkeypatch.setattr(worker, "pixels", lambda count=4: full(min(count, 8)))
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    return asked


@pytest.mark.parametrize(
    ("work", "library"),
    [
        *(pytest.param(name, "suite", marks=pytest.mark.slow if name == "distil" else ()) for name in worker.WORKS),
        ("step", "keras"),
        ("latency", "keras"),
    ],
)
def test_every_part_of_the_benchmark_runs(work, library, tiny):
    args = worker.build_parser().parse_args([work, "--library", library, "--images", "4", "--trims", "1"])
    worker.WORKS[work](args)()
    assert tiny == [True] * (work == "deterministic")


def in_a_chain():
    """A classifier that compiles quickly and has channels to prune."""
    import keras
    from keras import layers

    x = inputs = keras.Input((32, 32, 3))
    for _ in range(3):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, 2)(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class Ended(Exception):
    """The worker would end its process here."""


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A worker's arguments with the folder of a CIFAR-10 of 200 images; what ends a process raises Ended."""
    import model

    def end(*args):
        raise Ended

    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        rows = np.random.default_rng(len(name)).integers(0, 256, (40, 3073), np.uint8)
        rows[:, 0] = np.arange(40) % 10  # the label, in front of the pixels
        rows.tofile(tmp_path / "cifar-10-batches-bin" / f"{name}.bin")
    for module, name in ((display, "EpochBar"), (batches, "pipeline"), (callbacks, "of_run")):
        monkeypatch.setattr(module, name, getattr(module, name))  # the worker replaces it
    monkeypatch.setattr(worker, "network", lambda kind: in_a_chain())
    monkeypatch.setattr(model, "build_model", lambda *args: in_a_chain())
    monkeypatch.setattr(worker.os, "_exit", end)
    return worker.build_parser().parse_args(["epoch", "--data_dir", str(tmp_path)])


def test_whole_epochs_are_timed_and_so_are_steps_between_theirs(cifar, capsys):
    with pytest.raises(Ended):
        worker.whole_epochs(cifar)
    facts, ready = capsys.readouterr().out.splitlines()
    facts = json.loads(facts)
    assert np.shape(facts["times"]) == (2, 2) and np.min(facts["times"]) > 0  # the first epoch compiles and isn't timed
    assert facts["steps"] == cifar.steps and facts["peak_bytes"] > 2**20 and ready == "ready"


@pytest.mark.slow
def test_the_time_between_iterations_is_printed(cifar, capsys):
    with pytest.raises(Ended):
        worker.between_iterations(cifar)
    seconds, ready = capsys.readouterr().out.splitlines()
    assert json.loads(seconds)["between"] > 0 and ready == "ready"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The flags of a worker that say where photographs are."""
    import model

    photographs.write(tmp_path / "photos", 20, pictures=4, classes=4)
    made = [path.read_bytes() for path in (tmp_path / "photos").rglob("*.jpg")]
    assert len(made) == len({*made}) == 20  # each with a comment of its own
    monkeypatch.setattr(loading, "BATCH", 4)
    monkeypatch.setattr(reading, "HELD", 0)
    monkeypatch.setattr(model, "build_model", lambda *args: in_a_chain())
    cores = os.sched_getaffinity(0)
    yield ["--photos", str(tmp_path / "photos"), "--data_dir", str(tmp_path), "--images", "20"]
    os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("words", [*(["--kept", kept] for kept in loading.KEPT), ["--library", "keras"]])
def test_photographs_are_read_by_every_way_that_is_measured(words, photos):
    batch = loading.load(worker.build_parser().parse_args(["load", *words, "--cores", "2", *photos]))
    for _ in range(3):
        images, *_ = batch()
        assert tuple(images.shape) == (4, 96, 96, 3)


def test_steps_that_are_fed_are_timed_beside_steps_that_never_wait(photos, capsys):
    loading.fed(worker.build_parser().parse_args(["fed", "--side", "32", "--turns", "2", *photos]))
    facts, ready = capsys.readouterr().out.splitlines()
    found = np.array(json.loads(facts)["fed"])  # seconds, and those of waiting
    assert found.shape == (2, 3, 2) and found[..., 1].min() > 0 and ready == "ready"
    assert (found[..., 1] < found[..., 0]).all()


@pytest.mark.slow
def test_the_student_is_as_small_as_the_benchmark_says():
    whole = 23_608_202  # parameters of a ResNet50 for ten classes
    assert 0.9 * whole / 12.82 < worker.network("student").count_params() <= whole / 12.82


@pytest.mark.slow
@pytest.mark.parametrize("family", worker.FAMILIES)
def test_a_family_is_built_and_its_graph_is_read(family):
    net = worker.network(family)
    assert net.output_shape == (None, 10) and Graph(net).groups


class Replaced(contest.Contestant):
    """A Contestant without a process: twice as slow in bfloat16, the suite twice as fast as the others."""

    def __init__(self, words):
        self.words, self.seconds, self.peak_bytes = words, [], 2**30
        self.facts = {"macs": 100 if "--trims" in words else 400, "between": 12.5}
        self.facts |= {
            "times": [[206, 200], [210, 200]],
            "steps": 39,
            "fed": [[[100, 0], [101, 1], [104, 13]]] * 3,
            "peak_bytes": 2**31,
        }

    def turn(self, repeats):
        other = "--library" in self.words and self.words[self.words.index("--library") + 1] != "suite"
        self.seconds.append(0.5 * (1 + other) * (1 + ("mixed_bfloat16" in self.words)))

    def stop(self):
        pass


def test_the_benchmark_prints_and_writes_every_part(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(contest, "Contestant", Replaced)
    monkeypatch.setattr(bench, "SCRIPTS", ("report",))
    words = ["--turns", "3", "--output", str(tmp_path / "bench.json"), "--photos", str(tmp_path)]
    assert bench.main(words) == 1  # a pruned network as slow
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["part"] for row in rows} == set(bench.PARTS)
    found = {row["what"]: (row["figure"], row["holds"]) for row in rows}
    assert found["training step, float32: images/s against torch's"] == ("2.00 (2.00 to 2.00)", True)
    # four times fewer MACs at the same speed: a quarter
    share = "batch 1, 3 iterations of the default rule, round_to 1: speed-up as a share of 4.00x fewer MACs"
    assert found[share] == ("0.25 (0.25 to 0.25)", False)
    (epoch,) = (found[what] for what in found if what.startswith("train_base_model.py's whole epoch"))
    assert epoch == ("1.04 (1.03 to 1.05)", True)
    (fed,) = (found[what] for what in found if "at 224 pixels" in what and "from files" in what)
    assert fed == ("12.50 (12.50 to 12.50)", False)
    assert "12.5 s" in capsys.readouterr().out


def test_a_contestant_works_in_its_own_turns_alone(monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text(
        "import json, sys, threading, time\n"
        "done = [0]\n"
        "def ahead():\n"
        "    while True:\n"
        "        done[0] += 1\n"
        "        time.sleep(0.001)\n"
        "threading.Thread(target=ahead, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'seconds': done[0], 'peak_bytes': 1}), flush=True)\n"
    )
    monkeypatch.setattr(contest, "WORKER", tmp_path / "worker.py")
    entrant = contest.Contestant([])
    for _ in range(2):
        time.sleep(0.5)  # others' turns, in which it could make hundreds
        entrant.turn(1)
    entrant.stop()
    assert entrant.seconds[1] < 100 and entrant.process.returncode == 0
