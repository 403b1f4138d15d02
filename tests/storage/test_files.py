"""files.py: whole files or the old ones, one run a folder, whatever the disk does."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised

from compress.errors import InputError
from compress.storage import checkpoints, files, headers, opening, records

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), InputError("x"), KeyError("x")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "x.json"
    records.write_json(path, {"a": 1})
    wanted = (
        (InputError, "x.json can't be written .No space left") if isinstance(failure, OSError) else (type(failure), "x")
    )
    with pytest.raises(wanted[0], match=wanted[1]), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert records.read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["x.json"]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    with files.exclusive(folder):
        records.write_json(folder / "x.json", {})
        shutil.rmtree(folder)
        with pytest.raises(InputError, match=r"x\.json can't be written \(No such file or directory\)"):
            records.write_json(folder / "x.json", {})
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_files_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="folder that can be written"), files.exclusive(tmp_path):
        pass


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    """A process whose files may have 20 kB, a limit that reaches Python as a full disk does."""
    kinds = ["model.h5", "state.npz", "history.json", "history.png"]
    for kind in kinds:
        (tmp_path / kind).write_bytes(b"old")
    code = f"""
import resource, sys, numpy as np
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from compress.cli import app, configs, flags
app.start_keras(configs.MachineConfig(gpu=False, seed=1, verbose=0))
import keras
import resnets
from compress.plots import curves, style
from compress.storage import checkpoints, records, states
from conftest import narrow_widths
net = resnets.build_resnet(widths=narrow_widths())
net.compile("sgd", "mse")
figure = curves.plot_history({{"x": {{name: [0.5, 0.25] for name in records.CURVES}}}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = {str(tmp_path)!r}
writers = [lambda path: checkpoints.save_model(net, path), lambda path: states.save_state(net, path, {{}}),
           lambda path: records.write_json(path, {{"x": list(range(10_000))}}),
           lambda path: style.save_figure(figure, path)]
for kind, write in zip({kinds}, writers):
    print(app.run_main(flags.Parser("script.py"), lambda args: write(f"{{folder}}/{{kind}}"), []), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2"] * 4, done.stderr
    for kind, line in zip(kinds, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"script.py: {tmp_path / kind} can't be written (")
        assert (tmp_path / kind).read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == sorted(kinds)


def test_one_run_a_folder_and_the_lock_ends_with_the_process(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from compress.storage import files\n"
        f"with files.exclusive({str(tmp_path / 'run')!r}):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match="received .*run, where another run is writing"),
        files.exclusive(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run").is_dir()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    (tmp_path / "run" / ".partial-model-abc.h5").write_text("half")
    with files.exclusive(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [".lock"]
        (tmp_path / "run" / "x").write_text("")
    assert os.listdir(tmp_path / "run") == ["x"]


def test_folders_made_for_nothing_are_gone_again(tmp_path):
    with pytest.raises(KeyError), files.exclusive(tmp_path / "a" / "b"):
        raise KeyError
    assert not list(tmp_path.iterdir())


# ---- checksums ----


@pytest.fixture(scope="module")
def model():
    return randomised(resnets.build_resnet(widths=narrow_widths()))


def test_a_flipped_bit_in_a_weight_is_an_error_that_names_the_file(model, tmp_path):
    path = tmp_path / "moved_away.h5"
    checkpoints.save_model(model, path)
    good = path.read_bytes()
    needle = np.array(model.get_layer("conv3_block1_2_conv").kernel).tobytes()[400:440]
    place = good.index(needle)
    path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
    with pytest.raises(InputError, match=r"^received .*moved_away\.h5, whose weights are damaged"):
        opening.load_network(path)


@pytest.mark.parametrize(
    "record", [{"checkpoint": {"sha256": "S"}}, {"checkpoint": {"previous_sha256": "S"}}], ids=["now", "before"]
)
def test_every_flipped_bit_is_found_where_a_record_lies_beside(model, tmp_path, record):
    path = tmp_path / "model.h5"
    checkpoints.save_model(model, path)
    entry = {"checkpoint": {key: files.sha256(path) for key in record["checkpoint"]}}
    records.write_json(tmp_path / "history.json", entry)
    headers.read_header(path)
    good = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(good), 50):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(InputError, match=r"^received .*model\.h5, which is damaged or was replaced: its"):
            headers.read_header(path)


@pytest.mark.parametrize("change", ["scalar", "empty", "negative"])
def test_shapes_and_numbers_that_no_network_has_are_refused(model, tmp_path, change):
    path = tmp_path / "x.h5"
    checkpoints.save_model(model, path)
    with h5py.File(path, "r+") as file:
        del file.attrs["weights_sha256"]
        for name in ("conv2_block1_1_conv/{}/kernel", "conv2_block1_1_conv/{}/bias", "conv2_block1_2_conv/{}/kernel"):
            place = "model_weights/" + name.format(name.split("/")[0])
            shape = file[place].shape
            if change == "scalar":
                del file[place]
                file[place] = np.float32(1)
            elif change == "empty":
                del file[place]
                file[place] = np.zeros((*shape[:2], 0, shape[3]) if "2_conv" in name else (*shape[:-1], 0), "f4")
        if change == "negative":
            file["model_weights/conv1_bn/conv1_bn/moving_variance"][0] = -1
    with pytest.raises(InputError, match=r"x\.h5"):
        opening.load_network(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"checkpoint": 3}', '{"checkpoint": {"sha256": [1]}}', '{"checkpoint": {"sha256": "short"}}'],
)
def test_a_record_that_names_no_checksum_forbids_nothing(model, tmp_path, text):
    checkpoints.save_model(model, tmp_path / "model.h5")
    (tmp_path / "history.json").write_text(text)
    assert records.recorded_sha256(tmp_path / "model.h5") == set()
    headers.read_header(tmp_path / "model.h5")


def test_the_result_speaks_where_no_history_does(model, tmp_path):
    checkpoints.save_model(model, tmp_path / "model.h5")
    records.write_json(tmp_path / "result.json", {"sha256": "0" * 64})
    with pytest.raises(InputError, match="expected 00000000"):
        headers.read_header(tmp_path / "model.h5")
