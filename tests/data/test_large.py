"""Images that memory doesn't hold: the cache's file, decoding as needed, and that both give the bytes of memory."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import evaluate_model
import report
import train_base_model
from compress.cli import configs, messages
from compress.cli.configs import DataConfig
from compress.data import (
    augmentation,
    batches,
    cache,
    dataset,
    decoding,
    duplicates,
    folders,
    keeping,
    known,
    lazily,
    pixels,
    reading,
)
from compress.data.augmentation import Augmentation
from compress.errors import InputError
from compress.report import measure, tree
from compress.storage import files

SIDE = 24


@pytest.fixture
def photographs(tmp_path):
    """A folder of 60 JPEGs and PNGs of several sizes in three classes."""
    rng = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "photos" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((60 + i, 50 + 2 * i), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02d}.{'png' if i % 5 == 0 else 'jpg'}")
    return tmp_path / "photos"


@pytest.fixture
def small_memory(monkeypatch):
    """Memory that holds 2 kB of images."""
    monkeypatch.setattr(reading, "HELD", 2048)


def load(folder, tmp_path, **more):
    config = {"dataset": str(folder), "image_size": SIDE, "cache_dir": str(tmp_path / "cache"), "verbose": 0} | more
    needs, pixels = config.pop("needs", dataset.NAMES), config.pop("pixels", None)
    return dataset.load_data(DataConfig(**config), needs=needs, pixels=pixels)


def shown(data, count=9, seed=3):
    """What a training and an evaluation see of a data set."""
    source = batches.batches(data.train, 8, seed)
    items = [source[i] for i in range(count)]
    return [array for item in items for array in item] + [
        np.asarray(part.images[start : start + 5]) for part in (data.val, data.test) for start in range(0, len(part), 5)
    ]


@pytest.mark.parametrize("kind", ["shift", "crop", "randaugment", "none"])
def test_memory_cache_and_decoding_as_needed_give_the_same_bytes(photographs, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reading, "HELD", 2048)
    cached, decoded = load(photographs, tmp_path, augment=kind), load(photographs, tmp_path, augment=kind, cache=False)
    assert isinstance(cached.train.stored, lazily.Lazy) and isinstance(cached.train.stored.source, cache.Cache)
    assert isinstance(decoded.train.stored.source, reading.Decoded)
    monkeypatch.setattr(reading, "HELD", 2**30)
    held = dataset.load_data(
        DataConfig(dataset=str(photographs), image_size=SIDE, augment=kind, verbose=0), pixels=cached.pixels
    )
    assert isinstance(held.train.stored, np.ndarray) and held.image_shape == cached.image_shape == (SIDE, SIDE, 3)
    for one, other, third in zip(shown(held), shown(cached), shown(decoded), strict=True):
        assert one.dtype == other.dtype == third.dtype
        assert np.array_equal(one, other) and np.array_equal(one, third)
    fit = {"fit": "crop"} if kind in ("crop", "randaugment") else {}
    assert cached.pixels == decoded.pixels == {"jpeg": "scaled"} | fit


def test_batches_ahead_are_those_asked_for_one_by_one(photographs, tmp_path, small_memory):
    data = load(photographs, tmp_path)
    forward, other = batches.batches(data.train, 8, 1), batches.batches(data.train, 8, 1)
    items = [forward[i] for i in range(12)]
    for i in (11, 3, 4, 5, 0):
        assert all(np.array_equal(a, b) for a, b in zip(items[i], other[i], strict=True))
    later = batches.batches(data.train, 8, 1, start_epoch=1, start_step=2)
    steps = batches.steps_per_epoch(len(data.train), 8)
    assert np.array_equal(later[0][0], forward[steps + 2][0])


def test_a_cache_holds_what_pillow_decodes(photographs, tmp_path, small_memory):
    data = load(photographs, tmp_path)
    source = data.train.stored.source
    folder = source.folder
    rows = np.fromfile(folder / cache.IMAGES, np.uint8).reshape(60, SIDE, SIDE, 3)
    sums = np.fromfile(folder / cache.SUMS, np.uint64)
    for i, path in enumerate(sorted(map(str, photographs.glob("*/*")))):
        with Image.open(path) as image:
            image.draft(None, (SIDE, SIDE))  # of PNGs it does nothing
            wanted = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        assert np.array_equal(rows[i], wanted)
        assert int(sums[i]) == 2**32 + zlib.crc32(wanted.tobytes())
    # labels belong to the images
    for split in (data.train, data.val, data.test):
        for row, label in zip(split.stored.rows, split.labels, strict=True):
            assert source.paths[row].split("/")[-2] == "abc"[label]


def test_what_is_decoded_once_is_not_decoded_again(photographs, tmp_path, small_memory, monkeypatch):
    load(photographs, tmp_path, needs=("train", "validation"))
    names = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, *rest: names.append(path) or real(path, *rest))
    load(photographs, tmp_path, needs=("train", "validation"))
    assert not names
    test = load(photographs, tmp_path, needs=("test",)).test  # in the same cache, those alone
    assert len(names) == len(test) == len({*names})
    load(photographs, tmp_path, needs=("test",), image_size=16)
    assert len([*(tmp_path / "cache").iterdir()]) == 2  # another size is another cache


def test_another_file_makes_another_cache(photographs, tmp_path, small_memory):
    load(photographs, tmp_path)
    path = photographs / "a" / "03.jpg"
    os.utime(path, (1, 1))
    load(photographs, tmp_path)
    assert len([*(tmp_path / "cache").iterdir()]) == 2


@pytest.mark.parametrize("place", [".", "a", "d/e"])
def test_a_cache_in_the_folder_of_the_images_is_refused(place, photographs, tmp_path, small_memory):
    with pytest.raises(InputError, match="^`cache_dir`: .*, which lies in .*photos, where folders are"):
        load(photographs, tmp_path, cache_dir=str(photographs / place))
    assert sorted(path.name for path in photographs.iterdir()) == ["a", "b", "c"]


def test_a_cache_beside_the_folders_of_the_splits_is_none_of_them(photographs, tmp_path, small_memory):
    root = tmp_path / "data"
    shutil.copytree(photographs, root / "train")
    shutil.copytree(photographs, root / "val")
    for place in ("cache", "deep/er"):
        once, again = (load(root, tmp_path, cache_dir=str(root / place)) for _ in range(2))
        assert list(once.class_names) == list(again.class_names) == ["a", "b", "c"]
    with pytest.raises(InputError, match="^`cache_dir`: .*, where folders are"):
        load(root, tmp_path, cache_dir=str(root / "train"))


def killed_behind(folder, place, count):
    """Fills a cache in this process, which ends at the image of that number as a kill does."""
    reading.HELD, cache.BLOCK, done = 2048, 4 * SIDE * SIDE * 3, []  # four images
    real = decoding.decode

    def decode(path, *rest):
        done.append(path)
        if len(done) > count:
            os._exit(9)
        return real(path, *rest)

    decoding.decode = decode
    load(folder, place)


def test_a_killed_decoding_goes_on_behind_what_it_had(photographs, tmp_path, small_memory, monkeypatch):
    child = multiprocessing.get_context("fork").Process(target=killed_behind, args=(photographs, tmp_path, 40))
    child.start()
    child.join()
    assert child.exitcode == 9
    (folder,) = (tmp_path / "cache").iterdir()
    had = np.fromfile(folder / cache.SUMS, np.uint64) > 0
    assert had.any()  # a block of bytes, not of images: large ones would lose minutes
    names, real = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, *rest: names.append(path) or real(path, *rest))
    data = load(photographs, tmp_path)
    files = np.array(sorted(map(str, photographs.glob("*/*"))))
    assert sorted(names) == list(files[~had])
    monkeypatch.setattr(reading, "HELD", 2**30)
    held = load(photographs, tmp_path, pixels={"jpeg": "scaled"})
    assert all(np.array_equal(a, b) for a, b in zip(shown(data), shown(held), strict=True))


def test_two_runs_at_once_decode_each_image_once(photographs, tmp_path, small_memory):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=load, args=(photographs, tmp_path)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    data, (folder,) = load(photographs, tmp_path), (tmp_path / "cache").iterdir()
    assert (np.fromfile(folder / cache.SUMS, np.uint64) > 0).all()
    data.train.images[: len(data.train)]  # each has the sum that is written down


def test_a_damaged_cache_is_refused_with_the_way_on(photographs, tmp_path, small_memory):
    data = load(photographs, tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    with open(folder / cache.IMAGES, "r+b") as file:
        file.seek(int(data.val.stored.rows[0]) * SIDE * SIDE * 3 + 100)
        file.write(bytes([255 - file.read(1)[0]]))
    again = load(photographs, tmp_path)
    with pytest.raises(InputError, match=r"`cache_dir`: .*images.u8 is damaged at image .*; remove it, .*: rm -r "):
        again.val.images[:3]
    wanted = np.asarray(data.test.images)
    shutil.rmtree(folder)
    assert np.array_equal(load(photographs, tmp_path).test.images[: len(wanted)], wanted)


def test_a_full_disk_is_told_and_images_are_decoded_as_needed(photographs, tmp_path, small_memory, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SPARE", 2**62)
    data = load(photographs, tmp_path, verbose=1)
    assert isinstance(data.train.stored.source, reading.Decoded)
    assert (
        "they are decoded each time that they are needed (another --cache_dir may have room)" in capsys.readouterr().out
    )
    assert not (tmp_path / "cache").exists()  # nothing that needs room was tried
    monkeypatch.undo()
    monkeypatch.setattr(reading, "HELD", 2048)
    load(photographs, tmp_path)
    monkeypatch.setattr(cache, "SPARE", 2**62)
    assert isinstance(load(photographs, tmp_path).train.stored.source, cache.Cache)  # what is decoded needs no room


@contextlib.contextmanager
def largest_file(size):
    """The system refuses to make files of this process larger, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


REFUSED = r"^`cache_dir`: received .*cache, expected a folder that can be written to .* \(.*: .*\), or `cache=False`$"
CHANGED = r"more than 8 bits, and had none .* began\); expected images that stay as they are"


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("size", [100, 1000, 50_000])
def test_a_disk_that_fills_meanwhile_is_a_line_and_what_is_decoded_stays(size, photographs, tmp_path):
    with largest_file(size), pytest.raises(InputError, match=REFUSED):  # at the sums, at the images
        load(photographs, tmp_path)
    load(photographs, tmp_path, needs=("test",))
    (folder,) = (tmp_path / "cache").iterdir()
    with largest_file(size), pytest.raises(InputError, match=REFUSED):
        load(photographs, tmp_path)
    sums, rows = np.fromfile(folder / cache.SUMS, np.uint64), np.fromfile(folder / cache.IMAGES, np.uint8)
    written = int((sums > 0).sum())
    assert 12 <= written < 60 and (written > 30) == (size == 50_000)
    for total, image in zip(sums, rows.reshape(60, -1), strict=True):
        assert total in (0, 2**32 + zlib.crc32(image))
    held = np.asarray(load(photographs, tmp_path).train.images)
    assert np.array_equal(held, np.asarray(load(photographs, tmp_path, cache=False).train.images))


@pytest.mark.usefixtures("small_memory")
def test_a_cache_that_can_not_be_written_any_more_is_read_or_a_line(photographs, tmp_path, monkeypatch):
    test = np.asarray(load(photographs, tmp_path, needs=("test",)).test.images)
    real = os.open

    def read_only(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert np.array_equal(np.asarray(load(photographs, tmp_path, needs=("test",)).test.images), test)
    with pytest.raises(InputError, match=REFUSED):
        load(photographs, tmp_path)


def names_victim(folder, victim, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("name", [cache.IMAGES, cache.SUMS, cache.ABOUT, files.LOCK])
@pytest.mark.parametrize("late", [False, True])
def test_a_link_in_a_cache_changes_no_other_file(name, late, photographs, tmp_path, monkeypatch):
    load(photographs, tmp_path, needs=("test",))
    (folder,) = (tmp_path / "cache").iterdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 100)
    for other in (cache.IMAGES, cache.SUMS):  # as after the first moment of a first run
        (folder / other).unlink()
    names_victim(folder, victim, name)
    if late:  # it came behind the look at what the files are
        monkeypatch.setattr(cache.Cache, "_size", lambda self, name: None)
    line = "^`cache_dir`: " if late else r"is a link, expected a file; .*: rm -r "
    replaced = late and name == cache.ABOUT  # which is put in the place of the link
    with contextlib.nullcontext() if replaced else pytest.raises(InputError, match=line):
        load(photographs, tmp_path)
    assert victim.read_bytes() == b"precious" * 100


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("name", [cache.IMAGES, cache.SUMS, cache.ABOUT, files.LOCK])
def test_what_is_no_file_in_a_cache_is_named_with_a_command_that_goes_on(name, photographs, tmp_path):
    place = tmp_path / "the\n\x1b[31m'cache'"
    load(photographs, tmp_path, cache_dir=str(place), needs=("test",))
    (folder,) = place.iterdir()
    for other in {name, cache.SUMS} & set(os.listdir(folder)):
        (folder / other).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError, match=r"is a folder, expected a file; .*: rm -r ") as caught:
        load(photographs, tmp_path, cache_dir=str(place))
    command = str(caught.value).partition("once more: ")[2]
    assert messages.COMMAND.search(str(caught.value))[1] == command
    subprocess.run(["bash", "-c", command], check=True)
    assert not folder.exists()
    load(photographs, tmp_path, cache_dir=str(place))


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("name", ["x" * 240, "ä" * 120, "a\n\x1b[31mb", "\udcff" * 100])
def test_a_data_set_may_have_any_name_that_a_folder_may_have(name, photographs, tmp_path, capsys):
    photographs.rename(tmp_path / name)
    load(tmp_path / name, tmp_path, verbose=1)
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.isprintable() and len(os.fsencode(folder.name)) < 143
    told = capsys.readouterr().out
    assert "decoded into" in told and told.count("\n") == 1 and told[:-1].isprintable()
    (tmp_path / name).rename(photographs)


@pytest.mark.usefixtures("small_memory")
def test_images_that_change_while_a_run_reads_them_are_told_so(photographs, tmp_path):
    images = load(photographs, tmp_path, cache=False).train.images
    path = images.source.paths[images.rows[0]]
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path, "PNG")
    with pytest.raises(InputError, match=CHANGED):
        images[:1]
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path, "TIFF")
    with pytest.raises(InputError, match=CHANGED):
        images[:1]
    os.unlink(path)
    with pytest.raises(InputError, match=r"g is gone; expected images that stay as they are") as caught:
        images[:1]
    assert "mv" not in str(caught.value)


def test_of_several_broken_images_those_that_are_gone_are_not_moved(photographs):
    reader = reading.Reader(list(map(str, photographs.glob("*/*"))), note=print)
    reader.size = (SIDE, SIDE)
    (photographs / "a" / "03.jpg").unlink()
    (photographs / "b" / "04.jpg").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"2 images: .*03\.jpg is gone; .*04\.jpg cannot be read|2 images: .*04"
    ) as caught:
        reader.read(reader.paths)
    command = str(caught.value).partition("go on without it: ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert (photographs / "b" / "04.jpg.broken").exists() and "03.jpg is gone" in str(caught.value)


def test_a_damaged_image_says_nothing_of_sound_ones_of_more_bits(photographs, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(photographs, tmp_path / "both" / split)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "both" / "test" / "a" / "deep.png")
    (tmp_path / "both" / "train" / "a" / "03.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"^`dataset`: \S*03\.jpg cannot be read") as caught:
        load(tmp_path / "both", tmp_path, needs=("train",))
    assert "deep" not in str(caught.value)


def test_a_cache_that_can_not_be_written_is_refused(photographs, tmp_path, small_memory):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="`cache_dir`: received .*file, expected a folder that can be written to"):
        load(photographs, tmp_path, cache_dir=str(tmp_path / "file"))


def test_damaged_images_are_named_before_training(photographs, tmp_path, small_memory):
    for name in ("a/03.jpg", "b/04.jpg"):
        path = photographs / name
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"2 images: .*03\.jpg.*; .*04\.jpg"):
        load(photographs, tmp_path)
    for name in ("a/03.jpg", "b/04.jpg"):
        (photographs / name).unlink()
    load(photographs, tmp_path)


def test_slices_are_read_ahead_and_right(photographs, tmp_path, small_memory, monkeypatch):
    data = load(photographs, tmp_path)
    images, whole = data.train.images, np.asarray(data.train.images)
    assert images.shape == whole.shape and len(images) == len(whole)
    for start in (0, 7, 14, 3, 40, 47):
        assert np.array_equal(images[start : start + 7], whole[start : start + 7])
    assert np.array_equal(images[[5, 2, 9]], whole[[5, 2, 9]])
    sample, labels = dataset.sample(data.train, 11)
    every, all_labels = dataset.sample(data.train)
    assert len(sample) == len(labels) == 11 and len(every) == len(all_labels) == len(data.train)
    assert isinstance(sample, lazily.Lazy)  # 19 kB, where 2 are held
    monkeypatch.setattr(reading, "HELD", 2**16)
    held, _ = dataset.sample(data.train, 11)
    assert isinstance(held, np.ndarray) and np.array_equal(held, np.asarray(sample))
    places = [np.flatnonzero((whole == image).all((1, 2, 3)))[0] for image in np.asarray(sample)]
    assert np.array_equal(data.train.labels[places], labels)


def test_what_is_known_of_many_files_is_not_asked_again(photographs, tmp_path, small_memory, monkeypatch, capsys):
    copy = photographs / "b" / "copy.png"
    shutil.copy(photographs / "a" / "00.png", copy)  # under two classes: a warning
    monkeypatch.setattr(known, "MANY", 50)
    first = load(photographs, tmp_path, image_size=None)
    told = capsys.readouterr().err
    assert "1 image lies under two classes" in told
    for module, name in (
        (decoding, "read_header"),
        (decoding, "examine"),
        (duplicates, "_tail"),
        (folders, "_sampled"),
    ):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("asked again"))
    again = load(photographs, tmp_path, image_size=None)
    assert capsys.readouterr().err == told and again.train.source == first.train.source
    assert again.pixels == first.pixels and again.image_shape == first.image_shape == (224, 224, 3)
    assert again.reader.resized and np.array_equal(again.val.images[:9], first.val.images[:9])
    monkeypatch.undo()
    monkeypatch.setattr(known, "MANY", 50)
    copy.unlink()  # other files: all is asked again
    assert load(photographs, tmp_path, cache_dir=str(tmp_path / "cache")).train.source != first.train.source
    assert "two classes" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", '{"question": 3, "answer": 4}', "[1]", '{"answer": []}'])
def test_a_damaged_answer_is_asked_again(content, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "MANY", 1)
    (tmp_path / "x").write_text("x")
    answers = known.Known(tmp_path / "cache", tmp_path, [str(tmp_path / "x")])
    assert answers.of(["q", 1], lambda: [1, 2], bool) == [1, 2]
    (file,) = (tmp_path / "cache" / "known").iterdir()
    assert answers.of(["q", 1], lambda: pytest.fail("known"), bool) == [1, 2]
    file.write_text(content)
    assert answers.of(["q", 1], lambda: [3], bool) == [3]
    assert answers.of(["q", 2], lambda: [4], bool) == [4]


@pytest.mark.usefixtures("small_memory")
def test_an_answer_of_another_shape_is_asked_again(photographs, tmp_path, monkeypatch, capsys):
    shutil.copy(photographs / "a" / "00.png", photographs / "b" / "copy.png")  # a warning, which is kept
    monkeypatch.setattr(known, "MANY", 1)
    first, told = load(photographs, tmp_path, image_size=None), capsys.readouterr().err
    answers = {path: json.loads(path.read_text()) for path in (tmp_path / "cache" / "known").iterdir()}
    assert sorted(found["question"][0] for found in answers.values()) == ["checksum", "duplicates", "look", "size"]
    look = next(found["answer"] for found in answers.values() if found["question"][0] == "look")
    for bad in (
        *(5, None, {}, [], [1, 2, 3], ["x", 2], [0, 224], [True, 224], "text", [None] * 3),
        {"look": {"evil": 1}, "resized": True, "told": []},
        {"look": vars(decoding.Look()), "resized": True, "told": []},  # without the scaled JPEGs that are asked for
        {"look": look["look"] | {"whole": [1]}, "resized": True, "told": []},
        {"look": look["look"] | {"colour": True}, "resized": True, "told": []},
        {"look": look["look"], "resized": True, "told": [3]},
        {"look": look["look"], "resized": None, "told": []},
    ):
        for path, found in answers.items():
            if bad != [] or found["question"][0] != "duplicates":  # of which there may be none
                path.write_text(json.dumps({"question": found["question"], "answer": bad}))
        again = load(photographs, tmp_path, image_size=None)
        assert capsys.readouterr().err == told and again.train.source == first.train.source
        assert again.pixels == first.pixels and again.image_shape == (224, 224, 3) and again.reader.resized
        assert {path: json.loads(path.read_text()) for path in answers} == answers


# ---- crops and RandAugment --------------------------------------------------------------------------------------


def test_images_for_crops_keep_their_proportions(photographs, tmp_path):
    data = load(photographs, tmp_path, augment="crop")
    assert data.pixels == {"fit": "crop"} and data.train.stored.shape[1:3] == (27, 27) == decoding.kept(
        (SIDE, SIDE), decoding.Look(fit="crop")
    )
    files = {tuple(np.asarray(_fitted(path)).reshape(-1)) for path in photographs.glob("*/*")}
    for image in data.val.images:  # the middle 24 of 27 pixels
        assert tuple(image.reshape(-1)) in files
    assert data.image_shape == (SIDE, SIDE, 3) and data.val.images.shape[1:] == (SIDE, SIDE, 3)


def _fitted(path):
    """By its definition: the shorter side to 27 pixels, the middle 27 x 27, of that the middle 24 x 24."""
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), (27, 27), Image.Resampling.BILINEAR).crop((1, 1, 25, 25))


def test_a_random_crop_has_the_area_and_ratio_of_its_definition():
    rng = np.random.default_rng(0)
    *_, boxes, _ = augmentation.draw(Augmentation(crop=True), 4000, (256, 200), rng)
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 200 + 1e-9).all() and (bottom <= 256 + 1e-9).all()
    area, ratio = (right - left) * (bottom - top) / (256 * 200), (right - left) / (bottom - top)
    assert 0.08 <= area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.34
    assert abs(np.median(np.log(ratio))) < 0.05  # as often wide as high
    assert abs((left / np.maximum(200 - (right - left), 1e-9)).mean() - 0.5) < 0.02  # uniform where it fits


def test_a_crop_shows_that_part_of_the_image():
    image = np.zeros((1, 40, 40, 3), np.uint8)
    image[0, 10:20, 20:40] = 255
    numbers = augmentation.draw(Augmentation(crop=True), 1, (40, 40), np.random.default_rng(0))
    numbers[3] = np.array([[20.0, 10.0, 40.0, 20.0]])
    seen = augmentation.apply(Augmentation(crop=True), image, numbers, (32, 32))
    assert seen.shape == (1, 32, 32, 3) and (seen[:, 2:-2, 2:-2] == 255).all()  # its border mixes with what lies around


@pytest.mark.parametrize("which", range(len(augmentation.POLICY)))
def test_operations_of_randaugment_change_images_as_their_names_say(which):
    rng = np.random.default_rng(which)
    image = Image.fromarray(rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    change, value = augmentation.POLICY[which]
    if value is None:
        results = [change(image)]
    else:
        results = [change(image, value(augmentation.STRENGTH, sign)) for sign in (1, -1)]
        same = np.asarray(change(image, value(0, 1)))
        assert np.abs(same.astype(int) - np.asarray(image)).max() <= 1  # a strength of 0 leaves all as it is
    for result in results:
        assert result.size == image.size and result.mode == "RGB"
    changed = [not np.array_equal(np.asarray(result), np.asarray(image)) for result in results]
    assert all(changed) if which else not any(changed)


def test_randaugment_is_the_same_for_the_same_seed_and_else_another(photographs, tmp_path):
    data = load(photographs, tmp_path, augment="randaugment")
    first, again, other = (batches.batches(data.train, 16, seed)[0][0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert data.train.augmentation == Augmentation(0, 0.5, True, 2)


def test_stock_sets_take_randaugment_behind_shifts():
    data = dataset.load_data(DataConfig(dataset="digits", augment="randaugment"))
    assert data.train.augmentation == Augmentation(2, 0.0, False, 2)
    assert dataset.load_data(DataConfig(dataset="digits", augment="none")).train.augmentation == Augmentation()


@pytest.mark.parametrize("kind", ["crop", "none"])
def test_shifts_beside_what_shifts_nothing_are_refused(kind):
    with pytest.raises(InputError, match=f"`crop_padding`: received 4 beside `augment={kind}`"):
        dataset.load_data(DataConfig(dataset="digits", augment=kind, crop_padding=4))


def test_what_a_model_was_trained_on_decides_how_images_are_decoded(photographs, tmp_path, small_memory):
    assert load(photographs, tmp_path, pixels={}).pixels == {}  # a model of images in memory
    assert load(photographs, tmp_path, pixels={}, augment="crop").pixels == {}
    assert load(photographs, tmp_path, pixels={"fit": "crop"}).pixels == {"fit": "crop"}


def test_bytes_of_counts_what_is_kept():
    reader = reading.Reader(["a"], look=decoding.Look(fit="crop"))
    reader.size = (224, 224)
    assert keeping.bytes_of(10, reader) == 10 * 256 * 256 * 3


# ---- whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A file of a small network for images of 24x24 in three classes."""
    import keras

    image = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    keras.Model(image, x).save(path)
    return str(path)


def train(tiny, photographs, folder, **more):
    return train_base_model.run(
        **{"model_path": tiny, "dataset": str(photographs), "save_folder": str(folder)},
        **{"epoch_num": 2, "batch_size": 8, "verbose": 0} | more,
    )


@pytest.mark.usefixtures("small_memory")
def test_a_training_is_the_same_from_the_cache_and_from_the_files(tiny, photographs, tmp_path):
    folders = {name: tmp_path / name for name in ("cached", "decoded")}
    found = [
        train(tiny, photographs, folders["cached"], cache_dir=str(tmp_path / "cache")),
        train(tiny, photographs, folders["decoded"], cache=False),
    ]
    assert found[0]["sha256"] == found[1]["sha256"] and found[0]["val_loss"] == found[1]["val_loss"]
    assert found[0]["run"]["pixels"] == {"jpeg": "scaled"}
    # where they lie is none of a run's business: it goes on, or is known to be finished
    again = train(tiny, photographs, folders["cached"], cache=False)
    assert again["sha256"] == found[0]["sha256"]
    evaluated = [
        evaluate_model.run(
            model_path=[str(folders["cached"] / "model.h5")], dataset=str(photographs), verbose=0, **where
        )
        for where in ({"cache_dir": str(tmp_path / "cache")}, {"cache": False})
    ]
    assert evaluated[0]["models"][0]["loss"] == evaluated[1]["models"][0]["loss"]


@pytest.mark.usefixtures("small_memory")
def test_a_report_keeps_images_where_its_flags_say_and_counts_the_same(tiny, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the default would make ./data/cache
    train(tiny, photographs, tmp_path / "base", cache=False)
    path = tmp_path / "base" / "model.h5"
    run = tree.Run("base", "base", path, json.loads((path.parent / "result.json").read_text()), [])
    counted = []
    for where in (["--no-cache"], ["--cache_dir", str(tmp_path / "kept")]):
        words = ["--dataset", str(photographs), "--verbose", "0", "--batch_size", "8", *where]
        images = measure.Images(configs.ReportConfig.of(report.build_parser().parse_args(words)))
        (matrix,), _ = measure.confusion(images, run, [path])
        counted.append(matrix)
        (found,) = images.known.values()
        assert isinstance(found.val.stored.source, reading.Decoded if len(counted) == 1 else cache.Cache)
        assert (tmp_path / "kept").exists() == (len(counted) == 2) and not (tmp_path / "data").exists()
    assert counted[0].sum() == len(found.val) and np.array_equal(*counted)
    assert len([*(tmp_path / "kept").glob(f"*/{cache.IMAGES}")]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_another_way_of_decoding_is_refused(tiny, photographs, tmp_path, monkeypatch):
    train(tiny, photographs, tmp_path / "run", cache=False)
    monkeypatch.setattr(reading, "HELD", 2**30)
    with pytest.raises(InputError, match=r"images shown with \{'jpeg': 'scaled'\}, now \{\}"):
        train(tiny, photographs, tmp_path / "run", epoch_num=3)
    path = str(tmp_path / "run" / "model.h5")  # a run that starts from it decodes as it did
    assert train(path, photographs, tmp_path / "next")["run"]["pixels"] == {"jpeg": "scaled"}


@pytest.mark.usefixtures("small_memory")
def test_an_image_that_can_not_be_read_ends_a_training_in_one_line(tiny, photographs, tmp_path, monkeypatch, capsys):
    real = decoding.decode

    def decode(path, *rest):
        if path.endswith("07.jpg") or path.endswith("16.jpg"):
            raise OSError("image file is truncated")
        return real(path, *rest)

    monkeypatch.setattr(decoding, "decode", decode)
    words = ["--model_path", tiny, "--dataset", str(photographs), "--save_folder", str(tmp_path / "run")]
    status = train_base_model.main([*words, "--epoch_num", "2", "--batch_size", "8", "--no-cache", "--verbose", "0"])
    error = capsys.readouterr().err.splitlines()
    assert status == 2 and len(error) == 1
    assert "cannot be read as an image (OSError: image file is truncated)" in error[0]


# ---- what a reader of the code found ----------------------------------------------------------------------------


def test_models_of_images_that_were_fitted_otherwise_are_not_compared(tmp_path):
    for name, shown_with in (("crop", {"fit": "crop"}), ("squeezed", {})):
        (tmp_path / name / "exported").mkdir(parents=True)
        (tmp_path / name / "history.json").write_text(json.dumps({"run": {"pixels": shown_with}}))
    crop, squeezed = (tmp_path / name / "model.h5" for name in ("crop", "squeezed"))
    with pytest.raises(
        InputError, match=r"images cropped to their middle \(`augment` crop.*squeezed/model.h5 on images squeezed into"
    ):
        pixels.of_models(crop, squeezed)
    assert pixels.of_models(squeezed) == {} and pixels.of_models(crop, tmp_path / "elsewhere.keras") == {"fit": "crop"}
    # a file in another format is of the model beside whose folder it lies
    assert pixels.of_models(tmp_path / "crop" / "exported" / "model-int8.tflite") == {"fit": "crop"}


@pytest.mark.slow
def test_a_run_of_before_goes_on_with_images_decoded_as_they_were(tiny, photographs, tmp_path, monkeypatch):
    first = train(tiny, photographs, tmp_path / "base")
    again = {"save_folder": str(tmp_path / "run"), "dataset": str(photographs), "batch_size": 8, "verbose": 0}
    begun = train_base_model.run(**again, architecture="resnet20", image_size=SIDE, epoch_num=1)
    assert first["run"]["pixels"] == begun["run"]["pixels"] == {}
    monkeypatch.setattr(reading, "HELD", 2048)  # as a version has it that decodes large folders at a smaller scale
    more = train_base_model.run(**again, architecture="resnet20", image_size=SIDE, epoch_num=2, cache=False)
    assert more["run"]["pixels"] == {} and more["epochs"] == 2


def test_an_image_that_was_written_in_part_is_not_taken_for_decoded(photographs, tmp_path, small_memory, monkeypatch):
    real, calls = os.pwrite, []

    def pwrite(handle, data, place):
        calls.append(place)
        return real(handle, bytes(data)[: 100 if len(calls) == 10 else None], place)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(InputError, match="`cache_dir`: .*No space left on device"):
        load(photographs, tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    assert (np.fromfile(folder / cache.SUMS, np.uint64) > 0).sum() == 9
    monkeypatch.undo()
    monkeypatch.setattr(reading, "HELD", 2048)
    np.asarray(load(photographs, tmp_path).train.images)


def test_a_damaged_image_does_not_cost_the_others_a_second_time(photographs, tmp_path, small_memory, monkeypatch):
    path = photographs / "a" / "03.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"03\.jpg"):
        load(photographs, tmp_path)
    names, real = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, *rest: names.append(path) or real(path, *rest))
    with pytest.raises(InputError, match=r"03\.jpg"):
        load(photographs, tmp_path)
    assert names == [str(path)]


@pytest.mark.usefixtures("small_memory")
def test_what_is_no_image_is_named_before_images_are_decoded_as_needed(photographs, tmp_path):
    (photographs / "a" / "03.jpg").write_text("<html>")
    with pytest.raises(InputError, match=r"03\.jpg cannot be read"):
        load(photographs, tmp_path, cache=False)


@pytest.mark.usefixtures("small_memory")
def test_what_is_damaged_is_named_when_it_is_needed_without_a_cache_with_the_way_to_try_all(photographs, tmp_path):
    (photographs / "a" / "00.png").rename(photographs / "a" / "00.PNG")
    for name in ("00.PNG", "03.jpg", "06.jpg"):
        path = photographs / "a" / name
        path.write_bytes(path.read_bytes()[:-200])
    data = load(photographs, tmp_path, cache=False)
    with pytest.raises(InputError, match=r"0[036]\.\w+ cannot be read .*others may be damaged too: .*large-data\.md"):
        for split in (data.train, data.val, data.test):
            np.asarray(split.images)
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "large-data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## Before the first run.*?```python\n(.*?)```", page, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(code.replace('"photographs"', repr(str(photographs))), {})
    assert [line.split()[0] for line in told.getvalue().splitlines()] == [
        str(photographs / "a" / name) for name in ("00.PNG", "03.jpg", "06.jpg")
    ]


class Counting:
    """A source that counts how often each row is read."""

    shape = (1, 1, 3)

    def __init__(self):
        self.read_rows = []

    def read(self, rows):
        self.read_rows += list(rows)
        return np.zeros((len(rows), 1, 1, 3), np.uint8) + np.asarray(rows, np.uint8)[:, None, None, None]


@pytest.mark.parametrize("stride", [8, 16])
def test_slices_at_a_distance_are_foreseen(stride):
    source = Counting()
    images = lazily.Lazy(source, np.arange(128))
    for start in range(0, 128, stride):
        assert np.array_equal(images[start : start + 8][:, 0, 0, 0], np.arange(start, start + 8))
    assert len(source.read_rows) <= 128 * 8 // stride + 8  # no more than one slice in vain


def test_two_batches_that_are_looked_at_are_not_read_again():
    made = []
    ahead = batches.Ahead(lambda i: made.append(i) or i)
    assert [ahead(i) for i in (0, 1, 0, 1, 2, 3, 9, 10)] == [0, 1, 0, 1, 2, 3, 9, 10]
    assert made.count(0) == made.count(1) == made.count(3) == 1


def test_how_deep_images_are_scaled_is_said_once(tmp_path, small_memory, capsys):
    for i in range(40):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        numbers = np.random.default_rng(i).integers(0, 4095, (SIDE, SIDE)).astype(np.uint16)
        Image.fromarray(numbers).save(folder / f"{i}.png")
    data = load(tmp_path / "photos", tmp_path)
    assert data.pixels["whole"] == 4095 and capsys.readouterr().err.count("scaled by 4,095") == 1
