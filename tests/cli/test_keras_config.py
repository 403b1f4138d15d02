"""keras_config.py: a keras.json or an environment of other projects never costs a traceback or a wrong number."""

import json
import os
import sys

import keras
import pytest
import resnets

from compress.cli import keras_config
from compress.errors import InputError


@pytest.fixture
def told(tmp_path, monkeypatch):
    """function(content of keras.json, KERAS_BACKEND or None) -> what `choose_backend` answers where no Keras is."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def tell(content, backend=None):
        monkeypatch.delitem(sys.modules, "keras", raising=False)
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        if backend is not None:
            monkeypatch.setenv("KERAS_BACKEND", backend)
        (tmp_path / "keras.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return keras_config.choose_backend()

    return tell


def test_a_backend_that_the_suite_lacks_is_passed_over_in_a_file_and_refused_in_the_environment(told):
    for backend in ("torch", "theano", 5, None):
        assert told({"backend": backend}) == f"backend {backend}, where tensorflow computes"
        assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert told({"backend": "tensorflow"}) is None and told({}) is None and told("{broken") is None
    assert told({"backend": "torch"}, "tensorflow") is None
    for backend in ("torch", "nonsense"):
        with pytest.raises(InputError, match=f"^KERAS_BACKEND: received {backend}, expected tensorflow or jax"):
            told({}, backend)


@pytest.mark.parametrize(
    "content",
    [
        {"floatx": "half"},
        {"image_data_format": "NCHW"},
        {"epsilon": "1e-7"},
        {"epsilon": 1},
        [],
        {"floatx": ["float32"]},
    ],
    ids=str,
)
def test_a_file_that_keras_fails_on_is_one_line(content, told):
    with pytest.raises(InputError, match=r"^keras\.json: .*expected") as caught:
        told(content)
    assert "\n" not in str(caught.value)


def test_what_keras_is_set_to_is_named_by_who_builds_and_set_right_by_who_starts():
    try:
        keras.config.set_image_data_format("channels_first")
        with pytest.raises(InputError, match=r"set to image_data_format channels_first, expected channels_last; call"):
            resnets.build_resnet()
        keras.config.set_floatx("float16")
        assert keras_config.settle() == [
            "floatx float16, where float32 is computed with",
            "image_data_format channels_first, where channels_last is computed with",
        ]
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
    assert keras_config.settle() == []
    keras_config.check()
