"""data.py: files of every format, splits, batches; damaged and hostile files."""

import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import knowledge_distillation
import prune_model
import train_base_model
from compress.cli.configs import DataConfig
from compress.data import batches, dataset, decoding, folders, stock
from compress.data.augmentation import Augmentation
from compress.errors import InputError
from compress.storage import records, resuming


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote the official archives: byte strings as strings, numpy under its old name."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, obj):
        self.write((b"U" + bytes([len(obj)]) if len(obj) < 256 else b"T" + struct.pack("<i", len(obj))) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes
    dispatch[str] = lambda self, obj: self.save_bytes(obj.encode("latin1"))

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(b"c" + module.encode() + b"\n" + (name or obj.__qualname__).encode() + b"\n")
        self.memoize(obj)

    dispatch[type(len)] = save_global
    dispatch[type] = save_global


def dump(path, batch):
    with open(path, "wb") as out:
        Python2Pickler(out, protocol=2).dump(batch)


def asked(**flags):
    known = {
        "dataset": "cifar10",
        "data_dir": "data",
        "val_split": 0.1,
        "subset": None,
        "image_size": None,
        "class_num": None,
        "num_worker": 2,
    }
    return DataConfig(**known | flags)


def rows_and_labels(n, classes=10, seed=0):
    """(n, 3072) random rows, no two alike, and a list of labels that has every class equally often."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), [int(v) for v in rng.permutation(np.arange(n) % classes)]


def write_cifar10(folder, suffix="", n=40):
    folder.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        rows, labels = rows_and_labels(n, seed=i)
        if suffix:
            table = np.concatenate([np.array(labels, np.uint8)[:, None], rows], axis=1)
            (folder / (name + suffix)).write_bytes(table.tobytes())
        else:
            dump(
                folder / name,
                {
                    b"batch_label": b"a batch",
                    b"labels": labels,
                    b"data": rows,
                    b"filenames": [b"x_%05d.png" % k for k in range(n)],
                },
            )


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no cache"))
    write_cifar10(tmp_path / "d" / "cifar-10-batches-py")
    return tmp_path / "d"


def contents(split):
    return {image.tobytes() for image in split.images}


def parts(loaded):
    return loaded.train, loaded.val, loaded.test


def test_import_is_light():
    code = (
        "import sys; from compress.data import dataset; "
        "print([m for m in ('keras', 'tensorflow', 'PIL', 'sklearn') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_pickles_give_every_pixel_its_place(cifar):
    loaded = dataset.load_data(asked(data_dir=str(cifar), class_num=10))
    rows, labels = rows_and_labels(40, seed=5)
    assert loaded.test.images.shape == (40, 32, 32, 3) and loaded.test.images.dtype == np.uint8
    assert loaded.test.labels.dtype == np.int64 and loaded.test.labels.tolist() == labels
    for i, y, x, c in itertools.product((0, 39), (0, 7, 31), (0, 30), range(3)):
        assert loaded.test.images[i, y, x, c] == rows[i, 1024 * c + 32 * y + x]
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (180, 20, 40)
    assert loaded.description == "cifar10: 180 training, 20 validation, 40 test images"
    assert loaded.image_shape == (32, 32, 3) and loaded.class_num == 10 and loaded.class_names[6] == "frog"
    of_label = {
        rows[i].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): labels[i]
        for rows, labels in (rows_and_labels(40, seed=k) for k in range(5))
        for i in range(40)
    }
    for split in loaded.train, loaded.val:
        assert [of_label[image.tobytes()] for image in split.images] == split.labels.tolist()


@pytest.mark.parametrize("place", ["d", "d/cifar-10-batches-py", ""])
def test_the_folder_is_found_in_three_places_and_both_formats_agree(cifar, tmp_path, place):
    write_cifar10(tmp_path / "binary" / "cifar-10-batches-bin", ".bin")
    one = dataset.load_data(asked(data_dir=str(tmp_path / place)))
    other = dataset.load_data(asked(data_dir=str(tmp_path / "binary")))
    for a, b in zip(parts(one), parts(other), strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


def test_cifar100_reads_fine_labels_in_both_formats(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "b" / "cifar-100-binary").mkdir(parents=True)
    for name, seed in (("train", 1), ("test", 2)):
        rows, fine = rows_and_labels(400, 100, seed)
        coarse = [v % 20 for v in fine]
        dump(tmp_path / "cifar-100-python" / name, {b"data": rows, b"fine_labels": fine, b"coarse_labels": coarse})
        table = np.concatenate([np.array([coarse, fine], np.uint8).T, rows], axis=1)
        (tmp_path / "b" / "cifar-100-binary" / f"{name}.bin").write_bytes(table.tobytes())
    pickled, binary = (
        dataset.load_data(asked(dataset="cifar100", data_dir=str(d), val_split=0.25))
        for d in (tmp_path, tmp_path / "b")
    )
    assert pickled.test.labels.tolist() == rows_and_labels(400, 100, 2)[1]
    assert len(set(pickled.class_names)) == 100 and pickled.class_names == tuple(sorted(pickled.class_names))
    for a, b in zip(parts(pickled), parts(binary), strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


class Hostile:
    def __init__(self, function, *words):
        self.call = function, words

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, exec, np.save])
def test_a_hostile_pickle_is_refused_and_does_not_run(cifar, tmp_path, function, protocol):
    mark = tmp_path / "mark"
    words = {os.system: (f"touch {mark}",), exec: (f"open({str(mark)!r}, 'w')",), np.save: (str(mark), 1)}[function]
    path = cifar / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps({b"data": Hostile(function, *words), b"labels": [1]}, protocol))
    with pytest.raises(InputError, match="data_batch_2"):
        dataset.load_data(asked(data_dir=str(cifar)))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("mark")]


ROWS, LABELS = rows_and_labels(4)
HUGE = b"\xff\xff\xff\x7f"  # as a length or an index: 2**31 - 1


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {},
        {b"data": ROWS},
        {b"labels": LABELS},
        {b"data": ROWS, b"labels": LABELS[:3]},
        {b"data": ROWS[:0], b"labels": []},
        {b"data": ROWS[:, :3000], b"labels": LABELS},
        {b"data": ROWS.astype(np.float32), b"labels": LABELS},
        {b"data": ROWS.astype(np.int8), b"labels": LABELS},
        {b"data": ROWS.astype(object), b"labels": LABELS},
        {b"data": ROWS.reshape(4, 3, 1024), b"labels": LABELS},
        {b"data": ROWS, b"labels": [0, 1, 2, 10]},
        {b"data": ROWS, b"labels": [0, 1, 2, -1]},
        {b"data": ROWS, b"labels": [0, 1, 2, 2**70]},
        {b"data": ROWS, b"labels": [0, 1, 2, 1.5]},
        {b"data": ROWS, b"labels": [0, 1, 2, True]},
        {b"data": ROWS, b"labels": b"0003"},
        {b"data": b"a", b"labels": LABELS},
    ],
    ids=str,
)
def test_what_is_no_batch_is_refused(tmp_path, batch):
    dump(tmp_path / "batch", batch)
    with pytest.raises(InputError, match="batch is not a CIFAR file") as caught:
        stock.read_batch(tmp_path / "batch", b"labels", 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "protocol", "why"),
    [
        ({b"data": ROWS, b"labels": LABELS}, 2, "it asks for _codecs.encode"),
        ({b"data": ROWS, b"labels": LABELS}, 5, r"it asks for numpy\._?core\.numeric\._frombuffer"),
        ({"data": ROWS, "labels": LABELS}, 4, "its keys are text"),
    ],
)
def test_a_batch_that_python_3_pickled_again_is_called_so(tmp_path, batch, protocol, why):
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(InputError, match=rf"batch was pickled again by another program \({why}\); expected the file"):
        stock.read_batch(tmp_path / "batch", b"labels", 10)


@pytest.mark.parametrize("raw", [b"", b"\0" * 3072, b"\0" * 3074, b"\x0a" + b"\0" * 3072])
def test_damaged_binary_files_are_refused(tmp_path, raw):
    (tmp_path / "x.bin").write_bytes(raw)
    with pytest.raises(InputError, match=r"x\.bin"):
        stock.read_batch(tmp_path / "x.bin", b"labels", 10)


def test_a_missing_batch_is_named(cifar):
    (cifar / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(InputError, match="data_batch_3 is missing"):
        dataset.load_data(asked(data_dir=str(cifar)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("pickle") / "batch"
    dump(path, {b"batch_label": b"x", b"labels": LABELS, b"data": ROWS, b"filenames": [b"a", b"b", b"c", b"d"]})
    return path, path.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_give_input_errors_only(whole, draw):
    path, raw = whole
    pixels = raw.index(ROWS.tobytes())
    structure = [i for i in range(len(raw)) if not pixels <= i < pixels + ROWS.size]
    target = path.with_name("damaged")
    kind = draw.draw(st.sampled_from(["cut", "noise", "opcodes", "flip"]))
    if kind == "cut":
        target.write_bytes(raw[: draw.draw(st.one_of(st.integers(0, len(raw) - 1), st.sampled_from(structure)))])
    elif kind == "noise":
        target.write_bytes(draw.draw(st.binary(max_size=400)))
    elif kind == "opcodes":
        words = st.sampled_from(
            [
                b"c",
                b"numpy\nndarray\n",
                b"(",
                b"t",
                b"R",
                b"b",
                b"U\x01a",
                b"]",
                b"}",
                b"K\x01",
                b"N",
                b"\x81",
                b".",
                b"0",
                b"2",
                b"s",
                b"r" + HUGE,
                b"T" + HUGE,
                b"\x8e" + 2 * HUGE,
            ]
        )
        target.write_bytes(b"\x80\x02" + b"".join(draw.draw(st.lists(words, max_size=30))))
    else:
        place = draw.draw(st.sampled_from(structure))
        target.write_bytes(raw[:place] + bytes([draw.draw(st.integers(0, 255))]) + raw[place + 1 :])
    try:
        images, labels = stock.read_batch(target, b"labels", 10)
    except InputError as error:
        assert str(target) in str(error) and "\n" not in str(error)
    else:  # a changed byte may sit in a name or a label
        assert kind == "flip"
        assert images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3)
        assert labels.min() >= 0 and labels.max() < 10


def packed(folder, archive, names=None, mode="w:gz"):
    """An archive of a folder, without the files that aren't named; returns its path."""
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            if names is None or path.name in names:
                tar.add(path, f"{folder.name}/{path.name}")
    return archive


@pytest.mark.parametrize(
    ("name", "suffix", "mode"),
    [
        ("cifar-10-python.tar.gz", "", "w:gz"),
        ("cifar-10-python (1).tar.gz", "", "w:gz"),
        ("cifar-10-binary.tar.gz", ".bin", "w:gz"),
        ("CIFAR10.tgz", ".bin", "w:gz"),
        ("cifar-10-python.tar", "", "w"),
    ],
)
def test_an_archive_is_read_as_it_was_downloaded_and_nothing_unpacked(cifar, tmp_path, name, suffix, mode):
    if suffix:
        write_cifar10(tmp_path / "cifar-10-batches-bin", suffix)
    place = tmp_path / "download"
    place.mkdir()
    packed(tmp_path / "cifar-10-batches-bin" if suffix else cifar / "cifar-10-batches-py", place / name, mode=mode)
    wanted = dataset.load_data(asked(data_dir=str(cifar)))
    for where in (place, place / name):
        for a, b in zip(parts(dataset.load_data(asked(data_dir=str(where)))), parts(wanted), strict=True):
            assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
    assert [path.name for path in place.iterdir()] == [name]
    assert stock.find_cifar("cifar10", place) and not stock.find_cifar("cifar100", place)


def test_an_archive_that_is_cut_off_incomplete_or_a_bomb_is_refused_in_a_line(cifar, tmp_path, monkeypatch):
    archive = packed(cifar / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz", ["test_batch", "data_batch_1"])

    def refused(words):
        with pytest.raises(InputError, match=f"^`data_dir`: .*cifar-10-python.tar.gz.({words})") as caught:
            dataset.load_data(asked(data_dir=str(archive)))
        assert "\n" not in str(caught.value)

    refused("holds no data_batch_2, data_batch_3, data_batch_4, data_batch_5; expected the python or the binary")
    assert len(dataset.load_data(asked(data_dir=str(archive)), needs=("test",)).test) == 40
    monkeypatch.setattr(stock, "MOST_HELD", 100_000)
    refused(r"unpacks to more than 100,000 bytes, .*; unpack it, .*the binary one: its images are then read as")
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no cache"))
    raw = packed(cifar / "cifar-10-batches-py", archive).read_bytes()
    for content in (raw[:-9000], raw[:300], b"<html>", b"", raw[:2000] + bytes(2000) + raw[4000:]):
        archive.write_bytes(content)
        refused("is a damaged archive|holds no|data_batch_1 is not a CIFAR file")


def test_an_archive_that_cannot_be_read_gives_way_to_the_next_one(cifar, tmp_path, capsys):
    place = tmp_path / "several"
    place.mkdir()
    (place / "x.mat").write_bytes(b"x")
    packed(place, place / "cifar-10-matlab.tar.gz", ["x.mat"])
    packed(cifar / "cifar-10-batches-py", place / "cifar-10-python.tar.gz")
    wanted = dataset.load_data(asked(data_dir=str(cifar)))
    for told in ("", "cifar-10-a.tar.gz is a damaged archive"):
        capsys.readouterr()
        found = dataset.load_data(asked(data_dir=str(place)))
        assert all(contents(a) == contents(b) for a, b in zip(parts(found), parts(wanted), strict=True))
        err = capsys.readouterr().err
        assert told in err and ("is read instead" in err) == bool(told) and "`" not in err
        (place / "cifar-10-a.tar.gz").write_bytes(b"\x1f\x8bcut")
    (place / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(InputError, match="cifar-10-a.tar.gz is a damaged archive"):
        dataset.load_data(asked(data_dir=str(place)))


def test_binary_files_that_were_cut_at_an_image_are_told(tmp_path, capsys, monkeypatch):
    assert stock.IMAGES == 10_000
    monkeypatch.setattr(stock, "IMAGES", 40)
    write_cifar10(tmp_path / "cifar-10-batches-bin", ".bin")
    cut = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    cut.write_bytes(cut.read_bytes()[: 27 * 3073])
    assert len(stock.read_cifar("cifar10", tmp_path)[1][1]) == 187
    assert capsys.readouterr().err == (
        f"warning: {cut.parent} has fewer images than CIFAR: data_batch_3 27 of 40; if "
        "that isn't meant, fetch it again\n"
    )
    stock.read_cifar("cifar10", tmp_path, with_train=False)
    assert capsys.readouterr().err == ""


def test_members_of_an_archive_that_are_no_files_are_left_alone(cifar, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for i, name in enumerate((b"test_batch", b"data_batch_1")):
            link = tarfile.TarInfo(f"x/{name.decode()}")
            link.type, link.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[i], "/etc/passwd"
            tar.addfile(link)
        holes = tarfile.TarInfo("x/data_batch_2")  # 20 GiB, all but a block of them left out of the file
        holes.size, size = 512, 20 * 2**30
        holes.pax_headers = {"GNU.sparse.size": f"{size}", "GNU.sparse.map": f"{size - 512},512"}
        tar.addfile(holes, io.BytesIO(bytes(512)))
    with pytest.raises(InputError, match="holds no data_batch_1, data_batch_2, .*, test_batch"):
        dataset.load_data(asked(data_dir=str(archive)))


def test_an_evaluation_of_cifar_reads_the_test_file_alone(cifar):
    for i in range(1, 6):
        (cifar / "cifar-10-batches-py" / f"data_batch_{i}").unlink()
    loaded = dataset.load_data(asked(data_dir=str(cifar)), needs=("test",), most=7)
    assert loaded.train is None and loaded.image_shape == (32, 32, 3) and loaded.class_num == 10
    assert loaded.test.labels.tolist() == rows_and_labels(40, seed=5)[1][:7]
    assert loaded.description == "cifar10: 7 test images"
    with pytest.raises(InputError, match="data_batch_1, data_batch_2, .* are missing, or not a file"):
        dataset.load_data(asked(data_dir=str(cifar)))


def test_no_data_and_no_network_is_a_short_line(tmp_path, monkeypatch):
    import keras

    def fail():
        raise Exception("URL fetch failure on https://x: None --\n[Errno -2] Name or service not known")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    with pytest.raises(InputError) as caught:
        dataset.load_data(asked(data_dir=str(tmp_path), instead="`dataset=digits`, or make demo"))
    line = str(caught.value)
    assert "\n" not in line and len(line) - len(str(tmp_path)) <= 200
    for word in (
        f"`data_dir`: {tmp_path} has no cifar-10-batches-py",
        "expected it there",
        "cifar-10-python.tar.gz",
        "; `dataset=digits`, or make demo",
    ):
        assert word in line
    with pytest.raises(InputError, match=r"of cs\.toronto\.edu/~kriz$"):  # a model of CIFAR knows no digits
        dataset.load_data(asked(data_dir=str(tmp_path)))


def test_keras_own_cache_is_read_and_its_download_used(tmp_path, monkeypatch):
    import keras

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    rows, labels = rows_and_labels(200)
    images = rows.reshape(-1, 3, 32, 32)
    pair = (images.transpose(0, 2, 3, 1), np.array(labels, np.uint8)[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (pair, (images[:30], pair[1][:30])))
    loaded = dataset.load_data(asked(data_dir=str(tmp_path / "none")))
    assert loaded.test.labels.dtype == np.int64 and loaded.test.labels.tolist() == labels[:30]
    assert np.array_equal(loaded.test.images, pair[0][:30])  # from a "channels_first" Keras too
    write_cifar10(tmp_path / "home" / "datasets" / "cifar-10-batches-py-target" / "cifar-10-batches-py")
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", None)
    assert len(dataset.load_data(asked(data_dir=str(tmp_path / "none"))).test) == 40


def test_digits():
    loaded = dataset.load_data(asked(dataset="digits", class_num=10))
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (1294, 144, 359)
    assert loaded.image_shape == (32, 32, 3) and loaded.class_names == tuple("0123456789")
    assert loaded.train.augmentation == Augmentation(2, 0)
    images = loaded.test.images
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
    assert np.array_equal(images[..., 0], images[..., 1]) and np.array_equal(images[..., 0], images[..., 2])
    from sklearn.datasets import load_digits

    digits = load_digits()
    blocks = np.concatenate([s.images[..., 0] for s in parts(loaded)]).reshape(1797, 8, 4, 8, 4).mean((2, 4))
    labels = np.concatenate([s.labels for s in parts(loaded)])
    for i in range(0, 1797, 9):  # the original nearest to a shrunk image has its label
        assert digits.target[np.abs(digits.images * (255 / 16) - blocks[i]).sum((1, 2)).argmin()] == labels[i]


@pytest.mark.parametrize("val_split", [0.06, 0.1, 0.5])
def test_splits_are_disjoint_stratified_and_do_not_know_the_seed(cifar, val_split):
    def load(seed):
        np.random.seed(seed)  # as keras.utils.set_random_seed does with the seed of a run
        return dataset.load_data(asked(data_dir=str(cifar), val_split=val_split))

    loaded, again = load(1), load(2)
    for a, b in zip(parts(loaded), parts(again), strict=True):
        assert np.array_equal(a.images, b.images)
    assert len(loaded.val) == round(200 * val_split)
    train, val, test = map(contents, parts(loaded))
    assert not train & val and not test & (train | val) and len(train | val) == 200
    for split in loaded.train, loaded.val:
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 1
    assert [s.name for s in parts(loaded)] == ["train", "validation", "test"]
    assert loaded.train.augmentation == Augmentation(4, 0.5) and not loaded.val.augmentation


@pytest.mark.parametrize("padding", [0, 2, 31])
def test_crop_padding_sets_the_largest_shift_of_training_images_alone(cifar, padding):
    loaded = dataset.load_data(asked(data_dir=str(cifar), crop_padding=padding))
    assert loaded.train.augmentation == Augmentation(padding, 0.5)
    assert not loaded.val.augmentation and not loaded.test.augmentation
    assert dataset.load_data(asked(data_dir=str(cifar), crop_padding=None)).train.augmentation.pad == 4
    x, y = batches.batches(loaded.train, 50, seed=1)[0]
    bordered = np.pad(loaded.train.images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), mode="reflect")
    assert y.shape == (50,) and all(
        any(
            np.array_equal(bordered[i, dy : dy + 32, dx : dx + 32][:, ::flip], image)
            for i in np.flatnonzero(loaded.train.labels == label)
            for dy in range(2 * padding + 1)
            for dx in range(2 * padding + 1)
            for flip in (1, -1)
        )
        for image, label in zip(x[:2], y[:2], strict=True)
    )


@pytest.mark.parametrize("subset", [100, 117, 195, 200])
def test_a_subset_lies_within_the_full_splits(cifar, subset):
    full = dataset.load_data(asked(data_dir=str(cifar)))
    part = dataset.load_data(asked(data_dir=str(cifar), subset=subset))
    assert contents(part.train) <= contents(full.train) and contents(part.val) <= contents(full.val)
    assert len(part.val) == round(subset * 0.1) and len(part.train) + len(part.val) == subset
    assert np.array_equal(part.test.images, full.test.images)
    for split in part.train, part.val:
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("subset", "told"),
    [
        (200, ""),
        (201, "181 training images, and there are 180"),
        (10**9, "100,000,000 validation images, and there are 20"),
    ],
)
def test_a_subset_larger_than_the_set_takes_all_and_says_so(cifar, subset, told, capsys):
    found = dataset.load_data(asked(data_dir=str(cifar), subset=subset))
    full = dataset.load_data(asked(data_dir=str(cifar)))
    assert contents(found.train) == contents(full.train) and contents(found.val) == contents(full.val)
    error = capsys.readouterr().err
    assert told in error and error.count("all are taken") == (subset > 200) + (subset > 204)


def test_a_small_subset_validates_on_one_image_a_class_and_says_so(cifar, capsys):
    found = dataset.load_data(asked(data_dir=str(cifar), subset=50))
    assert sorted(found.val.labels) == [*range(10)] and len(found.train) == 40
    assert "10 validation images, one for each class: --val_split 0.1 of --subset 50 would be 5" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"subset": 19}, "`subset`: received 19"),
        ({"subset": 1}, "`subset`: received 1"),
        ({"crop_padding": 32}, "`crop_padding`: received 32, expected at most 31 for images of 32x32"),
        ({"class_num": 7}, r"`class_num`: received 7, expected 10 \(the classes of cifar10\)"),
        ({"dataset": "cifar"}, "`dataset`: received 'cifar', .*expected cifar10, cifar100, digits"),
        ({"dataset": ""}, "`dataset`: received ''"),
    ],
)
def test_flags_that_do_not_fit_are_named(cifar, flags, words):
    with pytest.raises(InputError, match=words) as caught:
        dataset.load_data(asked(data_dir=str(cifar), **flags))
    assert "\n" not in str(caught.value)


def numbered(n, pad=0, hflip=0, side=8):
    """A split whose image i is filled with i (two bytes), and whose label i is i."""
    images = np.zeros((n, side, side, 3), np.uint8)
    images[..., 0], images[..., 1] = (np.arange(n) % 256)[:, None, None], (np.arange(n) // 256)[:, None, None]
    return dataset.Split(images, np.arange(n), "train", Augmentation(pad, hflip))


@pytest.mark.parametrize(("n", "size", "steps"), [(12, 4, 3), (12, 5, 2), (3, 8, 1), (8, 8, 1)])
def test_every_epoch_is_a_new_order_without_repeats(n, size, steps):
    assert batches.steps_per_epoch(n, size) == steps
    source = batches.batches(numbered(n), size, seed=3)
    assert source.num_batches is None
    epochs = []
    for epoch in range(4):
        items = [source[epoch * steps + step] for step in range(steps)]
        assert all(len(y) == min(size, n) and x.shape == (len(y), 8, 8, 3) for x, y in items)
        for x, y in items:
            assert np.array_equal(x[:, 0, 0, 0], y)
        epochs.append(tuple(int(v) for _, y in items for v in y))
        assert len(set(epochs[-1])) == len(epochs[-1]) == steps * min(size, n)
    assert len(set(epochs)) == 4 or n == 3


def test_an_item_depends_on_seed_and_index_alone():
    rng = np.random.default_rng(0)
    split = dataset.Split(
        rng.integers(0, 256, (50, 16, 16, 3), dtype=np.uint8), np.arange(50), "train", Augmentation(2, 0.5)
    )
    forward = batches.batches(split, 8, seed=5)
    items = [forward[i] for i in range(18)]  # 6 an epoch
    other = batches.batches(split, 8, seed=5)
    for i in rng.permutation(18):
        for a, b in zip(items[i], other[int(i)], strict=True):
            assert np.array_equal(a, b)
    later = batches.batches(split, 8, seed=5, start_epoch=2)
    assert np.array_equal(later[0][0], items[12][0]) and np.array_equal(later[5][1], items[17][1])
    assert not np.array_equal(batches.batches(split, 8, seed=6)[0][1], items[0][1])
    plain = batches.batches(split, 8, seed=5, augment=False)[0]
    assert np.array_equal(plain[1], items[0][1]) and np.array_equal(plain[0], split.images[plain[1]])
    assert not np.array_equal(plain[0], items[0][0])
    assert items[0][0].dtype == np.uint8 and items[0][1].dtype == np.int64
    alike = dataset.Split(np.repeat(split.images[:1], 50, axis=0), np.arange(50), "train", Augmentation(2, 0.5))
    sources = [batches.batches(alike, 8, seed=seed) for seed in (5, 6)]
    assert len({source[i][0].tobytes() for source in sources for i in range(18)}) == 36  # each varies in its own way


def test_a_size_for_images_that_have_one_is_a_warning(capsys):
    assert dataset.load_data(asked(dataset="digits", image_size=32)).image_shape == (32, 32, 3)
    assert not capsys.readouterr().err
    assert dataset.load_data(asked(dataset="digits", image_size=64)).image_shape == (32, 32, 3)
    told = "warning: --image_size: received 64, which is for folders; the images of digits are 32x32, and stay so\n"
    assert capsys.readouterr().err == told


def test_the_pipeline_of_batches_gives_them_as_they_are():
    split = dataset.Split(np.arange(27 * 4 * 5 * 3, dtype=np.uint8).reshape(27, 4, 5, 3), np.arange(27), "train")
    source = batches.batches(split, 6, seed=5, start_step=2)
    made = batches.pipeline(source)
    assert [tuple(kind.shape) for kind in made.element_spec] == [(None, 4, 5, 3), (None,)]
    for batch, item in zip(made.take(9).as_numpy_iterator(), map(source.__getitem__, range(9)), strict=True):
        for a, b in zip(batch, item, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize(
    ("h", "w", "pad", "hflip"), [(16, 16, 2, 0.5), (16, 12, 1, 0), (8, 8, 0, 0.5), (66, 70, 1, 0.5)]
)
def test_augmentation_only_shifts_and_flips(h, w, pad, hflip):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (64, h, w, 3), dtype=np.uint8)
    bordered = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    source, seen = (
        batches.batches(dataset.Split(images, np.arange(64), "train", Augmentation(pad, hflip)), 64, seed=0),
        [],
    )
    for x, y in (source[i] for i in range(4)):
        for image, i in zip(x, y, strict=True):
            moves = [
                (dy, dx, mirrored)
                for dy in range(2 * pad + 1)
                for dx in range(2 * pad + 1)
                for mirrored in (False, True)
                if np.array_equal(bordered[i, dy : dy + h, dx : dx + w][:, :: -1 if mirrored else 1], image)
            ]
            assert len(moves) == 1
            seen += moves
    assert {m[:2] for m in seen} == set(itertools.product(range(2 * pad + 1), repeat=2))
    assert 0.35 < np.mean([m[2] for m in seen]) < 0.65 if hflip else not any(m[2] for m in seen)


def arrows(n, side=16):
    """A split of bright triangles: label 0 points left, label 1 right."""
    labels, width = np.arange(n) % 2, np.arange(1, side + 1)
    mask = np.abs(np.arange(side)[:, None] - side / 2 + 0.5) * 2 <= width  # its tip lies left
    images = np.where(labels[:, None, None] == 0, mask, mask[:, ::-1])[..., None] * np.uint8([200, 220, 240])
    return images.astype("uint8"), labels


def pointing(images):
    """The label of each arrow by its pixels: most of them lie on the side opposite to its tip."""
    columns = images[..., 0].sum(1, dtype=int)
    half = columns.shape[1] // 2
    return (columns[:, :half].sum(1) > columns[:, half:].sum(1)).astype(int)


@pytest.mark.parametrize("hflip", [0, 0.2, 0.5, 1])
def test_hflip_is_the_share_of_arrows_that_point_the_other_way(hflip):
    images, labels = arrows(200)
    assert np.array_equal(pointing(images), labels)
    source = batches.batches(dataset.Split(images, labels, "train", Augmentation(2, hflip)), 100, seed=4)
    wrong = np.concatenate([pointing(x) != y for x, y in (source[i] for i in range(10))])
    assert abs(wrong.mean() - hflip) <= 4 * np.sqrt(hflip * (1 - hflip) / 1000)  # binomial, 4 standard deviations


def test_the_random_numbers_behind_a_batch_stay_the_same():
    """A run that goes on under a later version sees the batches that it would have seen: the definition, by loops."""
    rng, pad = np.random.default_rng(0), 3
    images = rng.integers(0, 256, (20, 16, 12, 3), dtype=np.uint8)
    bordered = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    found = {
        hflip: batches.batches(dataset.Split(images, np.arange(20), "train", Augmentation(pad, hflip)), 8, 7)[3]
        for hflip in (0, 0.5)
    }  # step 1 of epoch 1: 2 steps an epoch
    order, draws = np.random.default_rng((7, 1)).permutation(20)[8:16], np.random.default_rng((7, 1, 1, 1))
    down, right = draws.integers(-pad, pad + 1, (8, 1)), draws.integers(-pad, pad + 1, (8, 1))
    mirrored = draws.random((8, 1)) < 0.5
    for i, image in enumerate(order):
        y, x = pad + down[i, 0], pad + right[i, 0]
        shifted = bordered[image, y : y + 16, x : x + 12]
        assert np.array_equal(found[0][0][i], shifted)  # without mirroring the shifts are the same
        assert np.array_equal(found[0.5][0][i], shifted[:, ::-1] if mirrored[i, 0] else shifted)
    assert 0 < mirrored.sum() < 8 and np.array_equal(found[0.5][1], order)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [("cifar10", (), 0.5), ("digits", (), 0), ("FOLDER", (), 0.5), ("FOLDER", (0,), 0), ("digits", (0.3,), 0.3)],
)
def test_hflip_reaches_the_training_images_from_every_script(name, given, wanted, cifar, tmp_path):
    where = str(tmp_path / "pictures") if name == "FOLDER" else name
    if name == "FOLDER":
        for label, i in itertools.product("ab", range(6)):
            (tmp_path / "pictures" / label).mkdir(exist_ok=True, parents=True)
            Image.new("RGB", (20, 20), (i, 9, ord(label))).save(tmp_path / "pictures" / label / f"{i}.png")
    for script in (train_base_model, prune_model, knowledge_distillation):
        words = ["--dataset", where, "--data_dir", str(cifar), *(f"--hflip={value}" for value in given)]
        words += ["--root_folder", "x"] if script is knowledge_distillation else []
        args = script.build_parser().parse_args(words)
        assert args.hflip == wanted  # what the record of a run names
    loaded = dataset.load_data(DataConfig.of(args), (32, 32))
    assert [part.augmentation.hflip for part in (loaded.train, loaded.val, loaded.test)] == [wanted, 0, 0]
    plain = dataset.load_data(DataConfig(dataset=where, data_dir=str(cifar)))
    assert plain.train.augmentation.hflip == (0 if name == "digits" else 0.5)
    assert (
        plain.train.augmentation.pad == loaded.train.augmentation.pad or name == "FOLDER"
    )  # mirroring leaves the shifts alone


def test_fit_resumed_equals_fit_in_one_go():
    import keras

    rng = np.random.default_rng(0)
    split = dataset.Split(
        rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, 40), "train", Augmentation(1, 0.5)
    )

    def model(weights=None):
        made = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Flatten(),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Dense(3, kernel_initializer="zeros"),
            ]
        )
        made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        made.set_weights(weights or made.get_weights())
        return made

    def fit(made, first, last):
        made.fit(
            batches.batches(split, 16, 7, start_epoch=first),
            steps_per_epoch=2,
            initial_epoch=first,
            epochs=last,
            verbose=0,
            shuffle=False,
        )
        return made.get_weights()

    once, halves = fit(model(), 0, 3), fit(model(fit(model(), 0, 1)), 1, 3)
    assert np.abs(once[0]).max() > 0
    for a, b in zip(once, halves, strict=True):
        np.testing.assert_array_equal(a, b)


def paint(path, colour, mode="RGB", size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 12 plain images each, in several formats, spaces in the names, some below other folders."""
    root = tmp_path / "my images"
    for i in range(12):
        suffix = (".png", ".jpg", ".bmp", ".WEBP")[i % 4]
        paint(root / "red things" / ("below" if i % 3 else "") / f"no {i}{suffix}", (200, 10 * i, 0))
        paint(root / "blue" / f"{i}{suffix}", (0, 10 * i, 200))
    paint(root / ".hidden" / "x.png", (1, 2, 3))
    paint(root / "blue" / ".x.png", (1, 2, 3))
    (root / "blue" / "notes.txt").write_text("no image")
    return root


def test_a_folder_without_splits_is_divided(folder):
    loaded = dataset.load_data(asked(dataset=str(folder), val_split=0.2))
    assert loaded.class_names == ("blue", "red things") and loaded.name == "my images"
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (15, 4, 5)
    assert loaded.image_shape == (20, 20, 3) and loaded.train.augmentation == Augmentation(2, 0.5)
    greens = []
    for split in parts(loaded):
        for image, label in zip(split.images, split.labels, strict=True):
            centre = image[10, 10].astype(int)
            assert abs(centre[0 if label else 2] - 200) < 8 and centre[2 if label else 0] < 8  # JPEG and WebP err
            greens.append((label, round(centre[1] / 10)))
    assert sorted(greens) == [(c, g) for c in (0, 1) for g in range(12)]  # each image once


def test_a_folders_splits_are_mixed_however_its_files_are_sorted(tmp_path):
    for label in "abcd":
        for i in range(40):
            paint(tmp_path / label / f"{i}.png", (10 * i % 256, 0, 0), size=(8, 8))
    first, again = (dataset.load_data(asked(dataset=str(tmp_path), val_split=0.5)) for _ in range(2))
    for split, same in zip(parts(first), parts(again), strict=True):
        np.testing.assert_array_equal(split.images, same.images)
        for start in range(0, len(split) - 15, 16):  # by chance once in 10^7 for each
            assert len(set(split.labels[start : start + 16])) > 1
        images, labels = dataset.sample(split)
        assert len(set(labels[:16])) > 1 and len(images) == len(split)


def test_sizes_of_a_folder(folder):
    for flag, wanted, shape in ((None, (24, 16), (24, 16, 3)), (32, (24, 16), (32, 32, 3)), (None, None, (20, 20, 3))):
        loaded = dataset.load_data(asked(dataset=str(folder), val_split=0.2, image_size=flag), image_size=wanted)
        assert loaded.image_shape == shape and loaded.test.images.dtype == np.uint8
    paint(folder / "blue" / "large.png", (0, 0, 200), size=(30, 20))
    assert dataset.load_data(asked(dataset=str(folder), val_split=0.2)).image_shape == (224, 224, 3)


def test_a_folder_with_splits_keeps_them(tmp_path):
    for c, colour in (("a", (250, 0, 0)), ("b", (0, 250, 0))):
        for i in range(10):
            paint(tmp_path / "train" / c / f"{i}.png", colour)
        for i in range(2):
            paint(tmp_path / "test" / c / f"{i}.png", (9, 9, 9))
    loaded = dataset.load_data(asked(dataset=str(tmp_path), val_split=0.2))
    assert [len(s) for s in parts(loaded)] == [16, 4, 4] and (loaded.test.images == 9).all()
    for c in "ab":
        paint(tmp_path / "validation" / c / "v.png", (7, 7, 7))
    loaded = dataset.load_data(asked(dataset=str(tmp_path), val_split=0.2, num_worker=0))
    assert [len(s) for s in parts(loaded)] == [20, 2, 4] and (loaded.val.images == 7).all()
    paint(tmp_path / "test" / "c" / "0.png", (9, 9, 9))
    with pytest.raises(InputError, match=r"same classes in .*it has 'c' besides"):
        dataset.load_data(asked(dataset=str(tmp_path), val_split=0.2))


def test_a_class_may_be_called_train_among_enough_others(tmp_path, capsys):
    for c, i in itertools.product(("boat", "bus", "car", "plane", "train"), range(5)):
        paint(tmp_path / c / f"{i}.png", (0, 0, 0))
    assert dataset.load_data(asked(dataset=str(tmp_path), val_split=0.3)).class_names[-1] == "train"
    assert capsys.readouterr().err.startswith("warning: train is taken for a class, as 4 other folders are")
    paint(tmp_path / "test" / "0.png", (0, 0, 0))
    with pytest.raises(InputError, match=r"has test, train beside boat, bus, car, which leaves open what is a split"):
        dataset.load_data(asked(dataset=str(tmp_path), val_split=0.3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stray", r"train holds images itself, such as montage\.png"),
        ("missing", "test, val alone, expected a folder train"),
        ("linked", "test, val alone, expected a folder train"),
    ],
)
def test_splits_are_never_taken_for_classes(change, words, tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for split, label, i in itertools.product(("train", "val", "test"), "ab", range(3)):
        paint(root / split / label / f"{i}.png", (0, 0, 0))
    assert dataset.load_data(asked(dataset=str(root))).class_names == ("a", "b")
    if change == "stray":
        paint(root / "train" / "montage.png", (0, 0, 0))
    else:
        (root / "train").rename(elsewhere)
    if change == "linked":
        (root / "train").symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"^`dataset`: received .*{words}"):
        dataset.load_data(asked(dataset=str(root)))


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    paint(tmp_path / "grey.png", 77, "L")
    paint(tmp_path / "alpha.png", (10, 20, 30, 51), "RGBA")
    paint(tmp_path / "cmyk.jpg", (0, 0, 0, 255), "CMYK")
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 50, 60, 70])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    Image.fromarray(np.full((20, 20), 130 * 256, np.uint16)).save(tmp_path / "deep.png")
    for name, colour in (
        ("grey.png", 77),
        ("alpha.png", (206, 208, 210)),
        ("cmyk.jpg", 0),
        ("deep.png", 130),
        ("palette.png", (152, 157, 162)),
    ):
        image = decoding.decode(str(tmp_path / name), (10, 8), decoding.Look(whole=65535, ground="white"))
        assert image.shape == (10, 8, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - colour).max() <= 1, name


def test_unreadable_images_are_named(folder, monkeypatch):
    victim = folder / "blue" / "0.png"
    raw = victim.read_bytes()
    for broken in (b"", b"no image", raw[: len(raw) // 2]):
        victim.write_bytes(broken)
        with pytest.raises(InputError, match=r"blue.0\.png cannot be read") as caught:
            dataset.load_data(asked(dataset=str(folder), val_split=0.2))
        assert "\n" not in str(caught.value)
    victim.write_bytes(raw)
    paint(victim, (0, 0, 0), size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as a decompression bomb of more than the usual limit
    with pytest.raises(InputError, match=r"blue.0\.png cannot be read"):
        dataset.load_data(asked(dataset=str(folder), val_split=0.2))


def test_folders_that_hold_too_little(tmp_path, folder):
    def refused(root, words):
        with pytest.raises(InputError, match=words) as caught:
            dataset.load_data(asked(dataset=str(root)))
        assert str(caught.value).startswith("`dataset`: received") and "\n" not in str(caught.value)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found 0")
    paint(tmp_path / "one" / "a" / "1.png", 0)
    refused(tmp_path / "one", "found 1")
    (tmp_path / "one" / "b").mkdir()
    refused(tmp_path / "one", "b has 0 images")
    paint(tmp_path / "one" / "b" / "1.png", 0)
    refused(tmp_path / "one", r"at least 3 training images a class, found fewer for a \(1\), b \(1\)")
    refused(folder / "blue" / "0.png", "expected cifar10")


def test_classes_of_unequal_size_keep_their_shares(tmp_path):
    for c, n in (("many", 60), ("few", 20), ("rare", 3)):
        for i in range(n):
            paint(tmp_path / c / f"{i}.png", (i, 0, 0), size=(16, 16))
    loaded = dataset.load_data(asked(dataset=str(tmp_path), val_split=0.3, subset=30))
    assert loaded.class_names == ("few", "many", "rare")
    for split, size in ((loaded.train, 21), (loaded.val, 9), (loaded.test, 17)):
        shares = np.bincount(split.labels, minlength=3) - size * np.array([20, 60, 3]) / 83
        assert len(split) == size and np.abs(shares).max() < 1.01
    assert (dataset.load_data(asked(dataset=str(tmp_path), val_split=0.3)).train.labels == 2).any()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little"),  # a bytearray of a terabyte
        b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",  # a key whose hash takes 2^60 steps
        b"\x80\x02}()" + b"2\x86" * 60 + b"K\x01u.",
    ],
    ids=["bytearray", "hash", "hashes"],
)
def test_bombs_in_pickles_are_refused_at_once(tmp_path, content):
    (tmp_path / "data_batch_1").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(InputError, match="is not a CIFAR file"):
        stock.read_batch(tmp_path / "data_batch_1", b"labels", 10)
    assert time.monotonic() - start < 1


def test_a_link_out_of_the_folder_is_refused_and_one_within_it_read(tmp_path, folder):
    first = sorted((folder / "blue").iterdir())[0]
    (folder / "blue" / "again.png").symlink_to(first)
    assert sum(len(s) for s in parts(dataset.load_data(asked(dataset=str(folder), val_split=0.2)))) == 25
    paint(tmp_path / "elsewhere" / "secret.png", (255, 255, 255))
    (folder / "blue" / "out.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    with pytest.raises(InputError, match=r"^`dataset`: .*out\.png is a link to .*secret\.png, expected a file in "):
        dataset.load_data(asked(dataset=str(folder), val_split=0.2))


def test_a_file_of_postscript_is_no_image_whatever_it_is_called(folder):
    Image.new("RGB", (8, 8)).save(folder / "blue" / "x.eps")
    (folder / "blue" / "x.eps").rename(folder / "blue" / "x.png")
    with pytest.raises(InputError, match=r"x\.png cannot be read as an image .UnidentifiedImageError"):
        dataset.load_data(asked(dataset=str(folder), val_split=0.2))


def test_links_to_folders_are_not_followed(tmp_path, folder):
    paint(tmp_path / "elsewhere" / "secret.png", (255, 255, 255))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "blue" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "blue" / "round").symlink_to(folder)
    loaded = dataset.load_data(asked(dataset=str(folder), val_split=0.2))
    assert loaded.class_names == ("blue", "red things") and sum(len(s) for s in parts(loaded)) == 24


@pytest.mark.parametrize("side", [16, 300])  # read whole, and in samples
def test_images_that_changed_places_are_other_images_though_of_the_same_size(tmp_path, side):
    def listed():
        paths = sorted(map(str, (tmp_path / "d").rglob("*.bmp")))
        return folders.listing_checksum(str(tmp_path / "d"), paths)

    for i, label in enumerate(("cat", "dog")):
        (tmp_path / "d" / label).mkdir(parents=True)
        image = Image.new("RGB", (side, side), "white")
        image.paste((200 * i, 0, 0), (side // 3, side // 3, side // 2, side // 2))  # white all around
        image.save(tmp_path / "d" / label / "0.bmp")
    before = listed()
    assert before == listed() and len(before) == 3
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "e").rename(tmp_path / "d")
    (tmp_path / "d" / "cat" / "0.bmp").rename(tmp_path / "0.bmp")
    (tmp_path / "d" / "dog" / "0.bmp").rename(tmp_path / "d" / "cat" / "0.bmp")
    (tmp_path / "0.bmp").rename(tmp_path / "d" / "dog" / "0.bmp")
    after = listed()
    assert before[:2] == after[:2] and before[2] != after[2]
    assert records.same_images(before, before) and not records.same_images(before, after)
    assert records.same_images(before[:2], after)  # a record of a version that knew no bytes
    split = dataset.Split(np.zeros((2, 8, 8, 3), "uint8"), [0, 1], "test", source=after)
    (tmp_path / "model.h5").write_bytes(b"x")
    for source, message in ((before, "holds other images than when .*model.h5 was trained"), (before[:2], None)):
        (tmp_path / "history.json").write_text(json.dumps({"run": {"source": source}}))
        run = {"flags": {"dataset": str(tmp_path / "d"), "epoch_num": 1}, "parent_sha256": None}
        then, now = run | {"source": source}, run | {"source": after}
        if message:
            with pytest.raises(InputError, match=message):
                records.check_source(tmp_path / "model.h5", split)
            with pytest.raises(InputError, match="run on other images than"):
                resuming.check_same_run(then, now, tmp_path)
        else:
            records.check_source(tmp_path / "model.h5", split)
            resuming.check_same_run(then, now, tmp_path)


def test_an_image_that_cannot_be_read_has_a_checksum_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "0.png").write_bytes(b"x")
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert len(folders.listing_checksum(str(tmp_path), [str(tmp_path / "0.png")])) == 3
