"""benchmarks/worker.py: every part runs, on a narrow network and few images, so that none rots unseen."""

import pytest
import worker
from conftest import narrow_widths

from compress.graph import resnet


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
