"""CIFAR's binary files that memory doesn't hold: the images and labels are those of memory; and what is refused."""

import os
import tarfile

import numpy as np
import pytest

import evaluate_model
import knowledge_distillation
import prune_model
import train_base_model
from compress.cli.configs import DataConfig
from compress.data import binaries, dataset, lazily, stock
from compress.errors import InputError

COUNTS = (37, 40, 23, 51, 29)  # images of the files: no two alike
LIMIT = 100_000  # bytes that lie in memory: those of 32 images


def table(count, seed, labels=1, classes=10):
    """Records of a file (count, labels + 3072), every class as often as any other."""
    rng = np.random.default_rng(seed)
    fine = rng.permutation(np.arange(count) % classes)
    columns = [fine % 20, fine][2 - labels :]
    return np.concatenate([np.array(columns).T, rng.integers(0, 256, (count, 3072))], axis=1).astype(np.uint8)


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """A folder of binary CIFAR-10, of 180 training and 60 test images."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no cache"))
    folder = tmp_path / "d" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, count in enumerate(COUNTS, 1):
        (folder / f"data_batch_{number}.bin").write_bytes(table(count, number).tobytes())
    (folder / "test_batch.bin").write_bytes(table(60, 9).tobytes())
    return folder


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(stock, "MOST_HELD", LIMIT)


def load(folder, dataset_name="cifar10", **more):
    options = {name: more.pop(name) for name in ("needs", "most") if name in more}
    return dataset.load_data(DataConfig(dataset=dataset_name, data_dir=str(folder.parent), **more), **options)


def splits_of(data):
    return [split for split in (data.train, data.val, data.test) if split]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"subset": 100},
        {"subset": 60, "val_split": 0.3, "most": 7},
        {"most": 1000, "needs": ("validation",)},
        {"needs": ("test",)},
        {"needs": ("test",), "most": 13},
    ],
    ids=str,
)
def test_images_that_memory_does_not_hold_are_those_that_it_would(binary, monkeypatch, more):
    held = load(binary, **more)
    monkeypatch.setattr(stock, "MOST_HELD", LIMIT)
    read = load(binary, **more)
    assert held.description == read.description and held.image_shape == read.image_shape == (32, 32, 3)
    for one, other in zip(splits_of(held), splits_of(read), strict=True):
        assert isinstance(one.images, np.ndarray) and isinstance(other.images, lazily.Lazy)
        assert np.array_equal(one.labels, other.labels) and one.labels.dtype == other.labels.dtype == np.int64
        images = np.asarray(other.images)
        assert images.dtype == np.uint8 and np.array_equal(one.images, images)
        assert all(np.array_equal(one.images[at : at + 4], other.images[at : at + 4]) for at in range(0, len(one), 4))
        for seen, too in zip(dataset.sample(one, 5), dataset.sample(other, 5), strict=True):
            assert np.array_equal(seen, too)


def test_a_row_is_the_record_of_the_file_in_which_it_lies(binary, monkeypatch):
    monkeypatch.setattr(binaries, "TOGETHER", 8)
    paths = [binary / f"data_batch_{number}.bin" for number in range(1, 6)]
    source = binaries.Records(paths, 1, 10)
    every = np.concatenate([table(count, number) for number, count in enumerate(COUNTS, 1)])
    rows = np.random.default_rng(0).permutation(len(every))
    found = source.read(rows)
    for image, row in zip(found, rows, strict=True):
        for channel in range(3):  # red, green, blue; each of them row by row
            assert np.array_equal(image[..., channel].ravel(), every[row, 1 + 1024 * channel : 1025 + 1024 * channel])
    assert source.read([]).shape == (0, 32, 32, 3)
    assert [len(images) for images, _ in source.parts()] == list(COUNTS)
    assert np.array_equal(np.concatenate([labels for _, labels in source.parts()]), every[:, 0])


def test_cifar100_has_the_fine_label_behind_the_coarse_one(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name, count in (("train", 400), ("test", 200)):
        (folder / f"{name}.bin").write_bytes(table(count, count, 2, 100).tobytes())
    held = load(folder, "cifar100")
    monkeypatch.setattr(stock, "MOST_HELD", LIMIT)
    read = load(folder, "cifar100")
    assert np.array_equal(read.test.labels, table(200, 200, 2, 100)[:, 1])
    for one, other in zip(splits_of(held), splits_of(read), strict=True):
        assert np.array_equal(one.images, np.asarray(other.images)) and np.array_equal(one.labels, other.labels)


def test_files_up_to_the_limit_lie_in_memory_and_those_of_a_byte_more_do_not(binary, monkeypatch):
    assert stock.MOST_HELD == 2**29 > 60_000 * 3073  # the official sets
    size = sum(path.stat().st_size for path in binary.iterdir())
    for limit, kind in ((size, np.ndarray), (size - 1, lazily.Lazy)):
        monkeypatch.setattr(stock, "MOST_HELD", limit)
        assert isinstance(load(binary).train.images, kind)
        assert isinstance(load(binary, needs=("test",)).test.images, np.ndarray)  # the test file alone is smaller


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs_are_the_same_bit_by_bit(binary, tmp_path, monkeypatch, whole):
    import keras

    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.ReLU()(keras.layers.Conv2D(8, 3, 2)(x))
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(image, x).save(tmp_path / "tiny.keras")
    found = []
    for limit in (2**29, LIMIT):
        monkeypatch.setattr(stock, "MOST_HELD", limit)
        base, pruned, student = (str(tmp_path / str(limit) / name) for name in ("base", "pruned", "student"))
        shared = {"dataset": "cifar10", "data_dir": str(binary.parent), "verbose": 0}
        training = shared | {"batch_size": 16, "epoch_num": 2}
        train_base_model.run(model_path=str(tmp_path / "tiny.keras"), save_folder=base, **training)
        paths = [f"{base}/model.h5"]
        if whole:
            prune_model.run(base_model_path=paths[0], root_folder=pruned, prune_iter=1, prune_ratio=0.3, **training)
            paths.append(f"{pruned}/iter1/model.h5")
            knowledge_distillation.run(root_folder=base, student_path=paths[1], save_folder=student, **training)
            paths.append(f"{student}/model.h5")
        scored = evaluate_model.run(model_path=paths, **shared)["models"]
        found.append([(model["sha256"], model["loss"]) for model in scored])
    assert found[0] == found[1] and len({digest for digest, _ in found[0]}) == len(paths)


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_becomes_shorter_is_named_when_it_is_read(binary):
    data = load(binary)
    path = binary / "data_batch_4.bin"
    os.truncate(path, 10 * 3073 + 5)
    with pytest.raises(
        InputError, match=r"^`data_dir`: .*data_batch_4\.bin ends before image 1\d of the 51 that it had when"
    ):
        np.asarray(data.train.images)


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_is_removed_or_replaced_is_read_to_its_end(binary, monkeypatch):
    data, wanted = load(binary), np.asarray(load(binary).train.images)
    for path in binary.iterdir():
        path.unlink()
    (binary / "data_batch_1.bin").write_bytes(b"another")
    assert np.array_equal(np.asarray(data.train.images), wanted)

    def failing(*_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(InputError, match=r"^`data_dir`: .*data_batch_\d\.bin can't be read \(Stale file handle\); exp"):
        data.train.images[:3]


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda raw: raw[:-1], r"\('.*bytes in records of 3,073'\)"),
        (lambda raw: b"", r"\('0 bytes in records of 3,073'\)"),
        (lambda raw: raw[:-3073] + b"\x0a" + raw[-3072:], r"\('labels from 0 to 10'\)"),
    ],
)
def test_what_is_no_batch_is_refused_before_a_run_begins(binary, damage, why):
    path = binary / "data_batch_2.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"^`data_dir`: .*data_batch_2\.bin is not a CIFAR file .*{why}"):
        load(binary)
    path.unlink()
    with pytest.raises(InputError, match=r"data_batch_2\.bin is missing"):
        load(binary)


@pytest.mark.usefixtures("small_memory")
def test_pickles_that_memory_does_not_hold_are_refused_unread_or_give_way_to_binary_files(binary, capsys):
    place = binary.parent / "cifar-10-batches-py"
    place.mkdir()
    for path in binary.iterdir():
        (place / path.stem).write_bytes(b"no pickle" * 4000)
    data = load(binary)
    assert isinstance(data.train.images, lazily.Lazy) and len(data.test) == 60
    err = capsys.readouterr().err
    assert "cifar-10-batches-py holds 216,000 bytes of pickled batches" in err and f"; {binary} is read instead" in err
    for path in binary.iterdir():
        path.unlink()
    binary.rmdir()
    with pytest.raises(
        InputError,
        match="^`data_dir`: .*-py holds 216,000 bytes of pickled batches, .*at most 100,000; put the binary version",
    ) as caught:
        load(binary)
    assert "\n" not in str(caught.value)


def test_an_archive_that_is_too_large_is_not_called_damaged(binary, tmp_path, small_memory):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(binary, binary.name)
    with pytest.raises(InputError, match=r"^`data_dir`: .*\.tar\.gz unpacks to more than 100,000 bytes, .*; unpack it"):
        dataset.load_data(DataConfig(dataset="cifar10", data_dir=str(archive)))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert len(load(tmp_path / "unpacked" / binary.name).test) == 60
