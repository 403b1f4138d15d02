"""benchmarks/: every part runs, on a narrow network and few images or with workers replaced: none rots unseen."""

import json

import bench
import contest
import pytest
import worker
from conftest import narrow_widths

from compress.storage import resnet


@pytest.fixture
def tiny(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(worker, "BATCH", 4)
    monkeypatch.setattr(
        worker, "network", lambda kind: resnet.build_resnet(widths=narrow_widths(stream=4 if kind == "student" else 8))
    )
    full = worker.pixels
    monkeypatch.setattr(worker, "pixels", lambda count=4: full(min(count, 8)))
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    return asked


@pytest.mark.parametrize(
    ("work", "library"), [*((name, "suite") for name in worker.WORKS), ("step", "keras"), ("latency", "keras")]
)
def test_every_part_of_the_benchmark_runs(work, library, tiny):
    args = worker.build_parser().parse_args([work, "--library", library, "--images", "4", "--trims", "1"])
    worker.WORKS[work](args)()
    assert tiny == [True] * (work == "deterministic")


class Replaced(contest.Contestant):
    """A Contestant without a process: twice as slow in bfloat16, the suite twice as fast as the others."""

    def __init__(self, words):
        self.words, self.seconds, self.peak_bytes = words, [], 2**30
        self.facts = {"macs": 100 if "--trims" in words else 400, "between": 12.5}

    def turn(self, repeats):
        other = "--library" in self.words and self.words[self.words.index("--library") + 1] != "suite"
        self.seconds.append(0.5 * (1 + other) * (1 + ("mixed_bfloat16" in self.words)))

    def stop(self):
        pass


def test_the_benchmark_prints_and_writes_every_part(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(contest, "Contestant", Replaced)
    monkeypatch.setattr(bench, "SCRIPTS", ("report",))
    assert bench.main(["--turns", "3", "--output", str(tmp_path / "bench.json")]) == 1  # a pruned network as slow
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["part"] for row in rows} == set(bench.PARTS)
    found = {row["what"]: (row["figure"], row["holds"]) for row in rows}
    assert found["training step, float32: images/s against torch's"] == ("2.00 (2.00 to 2.00)", True)
    # four times fewer MACs at the same speed: a quarter
    share = "batch 1, 3 iterations of the default rule, round_to 1: speed-up as a share of 4.00x fewer MACs"
    assert found[share] == ("0.25 (0.25 to 0.25)", False)
    assert "12.5 s" in capsys.readouterr().out
