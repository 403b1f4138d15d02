"""Class names: kept in files and records, read from there with care, compared with the data that a model meets."""

import json

import h5py
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from PIL import Image

import evaluate_model
import export_model
import knowledge_distillation
import prune_model
import sensitivity
import train_base_model
from compress.cli import configs
from compress.data import dataset as data
from compress.errors import InputError
from compress.storage import checkpoints, classes, opening

pytestmark = pytest.mark.usefixtures("without_figures")


def images(*names, name="pictures"):
    return data.Data(name, None, None, None, names, "")


def an_h5(path, *names):
    with h5py.File(path, "w") as file:
        classes.write(file, names)
    return path


def a_record(folder, dataset, names=None):
    run = {"flags": {"dataset": dataset}} | ({"class_names": names} if names else {})
    (folder / "history.json").write_text(json.dumps({"run": run}))
    (folder / "model.h5").write_bytes(b"")
    return folder / "model.h5"


def folder_of(root, names, count=4, side=32, seed=0):
    """A data set of noise, a folder a class."""
    rng = np.random.default_rng(seed)
    for label in names:
        (root / label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype("uint8")).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A narrow model of cat, dog and fox, alone in its folder."""
    path = tmp_path_factory.mktemp("three") / "net.h5"
    checkpoints.save_model(
        randomised(resnets.build_resnet(classes=3, widths=narrow_widths())), path, ["cat", "dog", "fox"]
    )
    return path


@pytest.mark.parametrize("count", [2, 1100, 100_000])
def test_a_file_holds_names_of_any_number(count, tmp_path):
    names = tuple(f"{'mushroom 🍄 ' * 5}{i}" for i in range(count))
    assert classes.of_model(an_h5(tmp_path / "a.h5", *names)) == names
    with h5py.File(tmp_path / "a.h5") as file:  # as others would read them
        assert tuple(file["class_names"].asstr()[:]) == names


def test_plain_keras_opens_a_file_with_names(three):
    import keras

    x = np.full((1, 32, 32, 3), 100, "float32")
    plain, ours = keras.models.load_model(three, compile=False), opening.load_network(three)
    np.testing.assert_allclose(plain.predict_on_batch(x), ours.predict_on_batch(x), rtol=1e-6)
    assert classes.of_model(three) == ("cat", "dog", "fox")


def test_names_of_strangers_are_bounded_and_printable(tmp_path):
    wild = ["a\nb", "\x1b[31mred", "right\u202eleft", "b\udcffd", "x" * 1000, "日本 🐈"]
    found = classes.of_model(an_h5(tmp_path / "a.h5", *classes.checked(wild)))
    assert found == ("a\\nb", "\\x1b[31mred", "right\\u202eleft", "b\\udcffd", "x" * 255, "日本 🐈")
    assert all(name.isprintable() for name in found)


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(4),
        np.zeros((2, 2), "S3"),
        np.array([b"a"]),
        np.array([b"\xff\xfe", b"a"]),
        np.array([b"", b"a"]),
        np.zeros(2, "S5000"),
        np.zeros(100_001, "S1"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_what_is_no_list_of_names_is_none(content, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["class_names"] = content
    assert classes.of_model(tmp_path / "a.h5") is None


def test_links_and_outer_storage_are_not_followed(tmp_path):
    an_h5(tmp_path / "other.h5", "secret", "names")
    (tmp_path / "raw").write_bytes(b"abcd")
    for make in (
        lambda file: file.__setitem__("class_names", h5py.ExternalLink("other.h5", "/class_names")),
        lambda file: file.create_dataset("class_names", (2,), "S2", external=[("raw", 0, 4)]),
    ):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            make(file)
        assert classes.of_model(tmp_path / "a.h5") is None


def test_names_come_from_the_file_then_the_records_then_labels_beside(tmp_path):
    path = a_record(tmp_path, "animals", ["ant", "bee"])
    (tmp_path / "labels.txt").write_text("0 cow\n1 dog\n", encoding="utf-8-sig")
    assert classes.of_model(path) == ("ant", "bee")
    an_h5(path, "elk", "fox")
    assert classes.of_model(path) == ("elk", "fox")
    assert classes.of_model(tmp_path / "other.h5") == ("cow", "dog")  # the records are model.h5's alone
    (tmp_path / "labels.txt").write_text("10 downing street\n11 wall street\n\n")
    assert classes.of_model(tmp_path / "other.h5") == ("10 downing street", "11 wall street")


def test_an_older_record_of_a_stock_data_set_tells_them(tmp_path):
    assert classes.of_model(a_record(tmp_path, "cifar10"))[3] == "cat"
    assert classes.of_model(a_record(tmp_path, "./animals/")) is None
    with pytest.raises(InputError, match=r"class 1 of pictures is car, of .* automobile"):
        classes.compare(a_record(tmp_path, "cifar10"), images("airplane", "car", *map(str, range(8))))


@pytest.mark.parametrize("ours", [("Cat", "DOG", "red fox"), ("cat", "dog", "red_fox"), ("cat", "dog", "Red-Fox")])
def test_the_same_names_pass_in_any_spelling_without_a_word(ours, tmp_path, capsys):
    path = an_h5(tmp_path / "a.h5", "cat", "dog", "red_fox")
    assert classes.compare(path, images(*ours)) == ["cat", "dog", "red_fox"]
    assert classes.compare(tmp_path / "none.h5", images(*ours)) is None
    assert not "".join(capsys.readouterr())


def test_another_order_and_names_in_part_are_refused_by_name(tmp_path):
    path = an_h5(tmp_path / "a.h5", "Dog", "cat", "fox")
    with pytest.raises(InputError, match="another order: class 0 of pictures is cat, of .*a.h5 Dog; expected"):
        classes.compare(path, images("cat", "dog", "fox"))
    with pytest.raises(InputError, match=r"class 2 of pictures is wolf, of .*a.h5 fox; .*train_base_model.py --model"):
        classes.compare(path, images("Dog", "cat", "wolf"))


def test_data_with_a_part_of_the_classes_are_refused_with_both_lists(tmp_path, capsys):
    path = a_record(tmp_path, "digits", list("0123456789"))
    with pytest.raises(InputError, match=r"whose classes are 0, 1, .*8, 9; expected images of each .* 2 alone: 3, 7$"):
        classes.compare(path, images("3", "7"))
    assert (
        classes.compare(path, images("cat", "dog")) is None and not capsys.readouterr().err
    )  # refused where it is loaded


def test_wholly_other_names_are_a_warning_with_the_pairing(tmp_path, capsys):
    path = an_h5(tmp_path / "a.h5", "cat", "dog", "fox")
    assert classes.compare(path, images("Fuchs", "Hund", "Katze")) == ["cat", "dog", "fox"]
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1
    assert "trained on cat, dog, fox; read as Fuchs, Hund, Katze, in this order" in error


def test_another_data_set_is_a_warning(tmp_path, capsys):
    path = a_record(tmp_path, "/data/digits of mine", list("0123456789"))
    assert classes.compare(path, images(*"0123456789", name="digits of mine")) and not capsys.readouterr().err
    assert classes.compare(path, images(*"0123456789", name="digits"))
    assert "trained on digits of mine, the images are those of digits;" in capsys.readouterr().err
    path = a_record(tmp_path, "/data/animals")
    assert classes.compare(path, images("a", "b")) is None
    assert "trained on animals, whose class names its record doesn't have" in capsys.readouterr().err


def test_a_script_that_evaluates_compares_and_records(three, tmp_path, capsys):
    argv = [
        "--model_path",
        str(three),
        "--latency_runs",
        "0",
        "--split",
        "train",
        "--val_split",
        "0.4",
        "--output",
        str(tmp_path / "r.json"),
    ]
    german = folder_of(tmp_path / "german", ["Fuchs", "Hund", "Katze"])
    assert evaluate_model.main([*argv, "--dataset", str(german), "--verbose", "0"]) == 0
    assert "read as Fuchs, Hund, Katze, in this order" in capsys.readouterr().err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["class_names"] == ["Fuchs", "Hund", "Katze"]
    assert result["models"][0]["model_class_names"] == ["cat", "dog", "fox"]
    german.joinpath("Hund").rename(german / "dog")
    assert evaluate_model.main([*argv, "--dataset", str(german)]) == 2
    assert "class 0 of german is Fuchs, of" in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_fine_tune_keeps_the_head_only_for_the_same_names(three, tmp_path, capsys):
    def head_of(*names):
        argv = ["--model_path", str(three), "--dataset", "./unread"]
        args = train_base_model.build_parser().parse_args(argv)
        split = data.Split(np.zeros((3, 32, 32, 3), "uint8"), np.arange(3), "train")
        found = train_base_model.start_model(args, data.Data("unread", split, split, split, names, ""))
        return np.asarray(found.get_layer("predictions").kernel), np.asarray(found.get_layer("conv1_conv").kernel)

    kept, first = head_of("Cat", "dog", "fox")
    assert not capsys.readouterr().out
    anew, second = head_of("cat", "dog", "wolf")
    assert "has the classes cat, dog, fox, the data cat, dog, wolf: the classifier starts from random" in (
        capsys.readouterr().out
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(kept - anew).min() > 0
    np.testing.assert_array_equal(kept, np.asarray(opening.load_network(three).get_layer("predictions").kernel))


@pytest.mark.slow
def test_a_model_of_plain_keras_with_labels_beside_gets_a_new_head_for_others(three, tmp_path):
    import keras

    keras.models.load_model(three, compile=False).save(tmp_path / "net.keras")
    (tmp_path / "labels.txt").write_text("0 Cat\n1 Dog\n2 Fox\n")
    split = data.Split(np.zeros((3, 32, 32, 3), "uint8"), np.arange(3), "train")

    def head_of(*names):
        args = train_base_model.build_parser().parse_args(["--model_path", str(tmp_path / "net.keras")])
        found = train_base_model.start_model(args, data.Data("unread", split, split, split, names, ""))
        return np.asarray(found.get_layer("predictions").kernel)

    theirs = np.asarray(opening.load_network(three).get_layer("predictions").kernel)
    np.testing.assert_array_equal(head_of("cat", "dog", "fox"), theirs)
    assert np.abs(head_of("cat", "dog", "wolf") - theirs).min() > 0


@pytest.mark.parametrize(
    ("script", "flag", "more"),
    [
        (prune_model, "--base_model_path", ["--root_folder", "new"]),
        (sensitivity, "--model_path", []),
        (knowledge_distillation, "--root_folder", ["--save_folder", "new"]),
        (export_model, "--model_path", []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_script_that_opens_a_model_compares(script, flag, more, three, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "mixed", ["cat", "dog", "wolf"])
    assert script.main([flag, str(three), "--dataset", "mixed", "--val_split", "0.4", *more]) == 2
    error = capsys.readouterr().err
    assert "class 2 of mixed is wolf, of" in error and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_a_report_measures_no_model_on_images_of_other_classes(three, tmp_path, capsys):
    from compress.report import measure

    names = ("cat", "dog", "wolf")
    split = data.Split(np.zeros((3, 32, 32, 3), "uint8"), np.arange(3), "validation")
    found = measure.Images(configs.ReportConfig())
    found.of = lambda run, path: data.Data("mixed", split, split, split, names, "")
    with pytest.raises(InputError, match="class 2 of mixed is wolf"):
        measure.confusion(found, None, [three])


@pytest.mark.parametrize("count", [1, 2])
def test_the_order_that_a_model_without_names_is_read_in_is_told(count, tmp_path, capsys):
    colours = {"dog": 10, "Zebra": 90, "cat": 170}
    for label, colour in colours.items():
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((8, 8, 3), colour + i, "uint8")
            Image.fromarray(pixels).save(tmp_path / "pets" / label / f"{i}.png")
    loaded = data.load_data(configs.DataConfig(dataset=str(tmp_path / "pets"), val_split=0.3))
    capsys.readouterr()
    paths = [tmp_path / f"net{i}.h5" for i in range(count)]
    assert classes.compare_all(paths, loaded) == [None] * count
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and all(str(path) in error for path in paths)
    told = error.split("order of the class folders: ")[1].split(";")[0].split(", ")
    for image, label in zip(loaded.train.images, loaded.train.labels, strict=True):  # what is told is what is done
        assert 0 <= image[0, 0, 0] - colours[told[label]] < 4
    a_record(tmp_path, "/data/pets")  # an older one of this suite, which read the folders in the same order
    assert classes.compare(tmp_path / "model.h5", loaded) is None
    an_h5(paths[0], "Zebra", "cat", "dog")
    assert classes.compare(paths[0], loaded) == ["Zebra", "cat", "dog"] and not capsys.readouterr().err


def test_many_classes_of_a_model_without_names_are_shortened(tmp_path, capsys):
    names = tuple(f"class of length {i:03d}" for i in range(500))
    classes.compare(tmp_path / "net.h5", data.Data("many", None, None, None, names, "", reader=object()))
    error = capsys.readouterr().err
    assert "000, class of length 001" in error and "009 and 490 more; if" in error and len(error) < 600


def test_a_model_without_names_meets_numbers_that_count_as_text(tmp_path, capsys):
    numbers = images(*sorted(map(str, range(12))))
    assert classes.compare(tmp_path / "m.h5", numbers) is None
    assert "read as 0, 1, 10, 11, 2, 3, 4, 5, 6, 7 and 2 more, in this order; if" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("\n".join(map(str, range(12))))
    with pytest.raises(InputError, match="in another order"):
        classes.compare(tmp_path / "m.h5", numbers)
    padded = images(*(f"{i:02d}" for i in range(12)))
    assert len(classes.compare(tmp_path / "m.h5", padded)) == 12 and capsys.readouterr().err == ""
