"""doubts.py, naming.py: what may be a split, a piece, a copy or a mask is never taken for a class in silence."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compress.data import folders, naming
from compress.errors import InputError


def fill(root, *places, count=3):
    """Empty files: listing a folder opens none."""
    for place, i in itertools.product(places, range(count)):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / f"{i}.png").touch()


def refused(root):
    with pytest.raises(InputError) as caught:
        folders.list_folder(str(root))
    assert str(caught.value).startswith("`dataset`: ") and "\n" not in str(caught.value)
    return str(caught.value)


# each of the folders holds classes of its own (of other names, so that the names of the folders have to decide)
@pytest.mark.parametrize(
    "names",
    [
        "asl_alphabet_train asl_alphabet_test",
        "flowers_train flowers_val",
        "asl_train asl_test a b c d",
        "train_resized test_resized",
        "X_train X_test",
        "xtrain ytest",
        "train_v2 test_v2",
        "train_new val_new",
        "train_clean train_noisy test_clean",
        "trainA trainB",
        "trainA trainB testA testB",
        "tr te va",
        "tr te",
        "development evaluation",
        "trainval devtest",
        "PublicTest TrainSet2b",
        "my-train my-holdout extra",
        "训练_一 测试_一",
        "entrenamiento_a prueba_b",
        "IN_TRAIN OUT_TEST",
        "2019train_x 2020test_x b",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_two_names_that_say_splits_are_no_classes(names, nested, tmp_path):
    for i, name in enumerate(names.split()):
        fill(tmp_path, *([f"{name}/cat{i}", f"{name}/dog{i}"] if nested else [name]))
    said = refused(tmp_path)
    assert f"put all classes into {tmp_path}/train " in said or "holds images itself" in said or "leaves open" in said
    # the way out
    (tmp_path / "train").mkdir()
    for name in names.split():
        shutil.move(tmp_path / name, tmp_path / "train" / name)
    assert folders.list_folder(str(tmp_path)).class_names == tuple(sorted(names.split()))


@pytest.mark.parametrize(
    "names",
    [
        "train plane car",
        "test_tube flask beaker",
        "test_tube test_strip beaker",
        "value_stocks validator",
        "tr te en fr",
        "bullet_train test_tube a b c d",
        "trainers latest contest",
        "class_1_images class_2_images",
        "1 2 3",
        "0 1",
        "grade1 grade2",
        "Folder Printer",
        "masks gloves",
        "with_mask without_mask",
        "mask no_mask",
        "s1 s2",
        "apart1 apart2",
        "input_a output_b",
        "type_1 type_2 type_3",
        "image cat",
        "development_board arduino raspberry",
    ],
)
def test_classes_of_such_names_are_classes(names, tmp_path):
    fill(tmp_path, *names.split())
    assert folders.list_folder(str(tmp_path)).class_names == tuple(sorted(names.split()))
    if "test_tube" in names:
        assert naming.hint_of("test_tube") == "test"


def test_a_class_whose_name_has_a_splits_word_is_told(tmp_path):
    fill(tmp_path, "test_tube", "flask", "beaker")
    assert folders.list_folder(str(tmp_path)).notes == ["test_tube is taken for a class, as the other folders are"]


@pytest.mark.parametrize(
    "names",
    [
        "fold1 fold2 fold3",
        "HAM10000_images_part_1 HAM10000_images_part_2",
        "part_a part_b",
        "images_001 images_002 images_003",
        "data_batch_1 data_batch_2 readme",
        "images masks",
        "Image Mask",
        "JPEGImages SegmentationClass",
        "img gt",
        "images masks cat",
    ],
)
@pytest.mark.parametrize("below", ["", "train/"])
def test_pieces_and_masks_are_no_classes(names, below, tmp_path):
    fill(tmp_path, *(below + name for name in names.split()))
    assert "which are called " in refused(tmp_path)
    for i, name in enumerate(names.split()):  # the way out
        (tmp_path / below / name).rename(tmp_path / below / f"kind{chr(97 + i)}")
    assert len(folders.list_folder(str(tmp_path)).class_names) == len(names.split())


@pytest.mark.parametrize(
    "tops",
    [("color", "grayscale", "segmented"), ("2019/train", "2020/train"), ("a/x", "b/y", "c"), ("00", "01", "02", "03")],
)
def test_folders_that_hold_the_same_folders_are_refused_with_both_ways_on(tops, tmp_path):
    for top in tops:
        fill(tmp_path, f"{top}/cat", f"{top}/Dog")
    said = refused(tmp_path)
    assert "which hold folders of the same names (Dog and cat)" in said
    assert f"did you mean `dataset={tmp_path}/{tops[0]}`?" in said
    assert folders.list_folder(str(tmp_path / tops[0])).class_names == ("Dog", "cat")
    (tmp_path / "train").mkdir()
    for top in {top.split("/")[0] for top in tops}:
        shutil.move(tmp_path / top, tmp_path / "train" / top)
    listing = folders.list_folder(str(tmp_path))
    assert listing.class_names == tuple(sorted({top.split("/")[0] for top in tops}))
    assert "they hold folders of the same names (Dog and cat): if these are the classes" in listing.notes[0]


def test_classes_that_are_sorted_further_are_classes(tmp_path):
    fill(tmp_path, "cat/images", "dog/images", "bird/sparrow", "bird/robin", "fish", "horse/sparrow")
    assert folders.list_folder(str(tmp_path)).class_names == ("bird", "cat", "dog", "fish", "horse")


def test_a_copy_of_the_classes_beside_them_is_no_class(tmp_path):
    fill(tmp_path, "cat", "dog", "bird", "Überprüfung/cat", "Überprüfung/dog")
    assert "has cat and dog, and Überprüfung holds folders of these names once more" in refused(tmp_path)


@pytest.mark.parametrize("below", [("train_imgs_v2", "test_imgs_v2"), ("trainA", "valA"), ("tr", "te")])
def test_splits_below_classes_are_not_mixed(below, tmp_path):
    fill(tmp_path, *(f"{label}/{split}" for label in ("cat", "dog") for split in below))
    assert "cat was to be a class and holds " in refused(tmp_path)


@pytest.mark.parametrize("below", ["", "train/"])
def test_masks_below_classes_are_not_mixed(below, tmp_path):
    fill(tmp_path, *(f"{below}{label}/{kind}" for label in ("COVID", "Normal") for kind in ("images", "masks")))
    assert "COVID was to be a class and holds images and masks, which are called images and their masks" in (
        refused(tmp_path)
    )


def test_a_split_among_the_images_of_classes_is_not_mixed(tmp_path):
    fill(tmp_path, "cat", "dog", "cat/test", "dog/test")
    assert "has cat, which holds images and a folder test" in refused(tmp_path)
    shutil.rmtree(tmp_path / "dog" / "test")  # vehicles/train is a kind of vehicle
    assert folders.list_folder(str(tmp_path)).class_names == ("cat", "dog")


def test_a_third_split_in_any_language_is_not_left_out(tmp_path):
    fill(tmp_path, "Training/a", "Training/b", "Test/a", "Test/b", "Validierung/a", "Validierung/b")
    assert {*folders.list_folder(str(tmp_path)).splits} == {"train", "validation", "test"}
    for name, said in (
        ("walidacja", True),
        ("train_more", True),
        ("docs", False),
        ("test_unlabelled", False),
        ("test-multiple_images", False),
        ("my_val", False),
        ("my_val/c", True),
    ):
        shutil.rmtree(tmp_path / "Validierung", ignore_errors=True)
        flat = name in ("docs", "test-multiple_images", "my_val", "my_val/c")
        fill(tmp_path, *([name] if flat else [f"{name}/a", f"{name}/b"]))
        top = name.split("/")[0]
        if said:
            assert f"has {top} beside " in refused(tmp_path) and "which may be another split" in refused(tmp_path)
        else:
            assert f"skipped: 1 folder beside the splits ({top})" in folders.list_folder(str(tmp_path)).notes
        shutil.rmtree(tmp_path / top)


def test_a_table_whose_labels_run_across_the_folders_is_told_with_the_command_that_sorts(tmp_path):
    root, rows = tmp_path / "ham", ["image_id,dx,age"]
    for i in range(12):
        place = root / ("HAM_part_1" if i < 7 else "HAM_part_2")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"ISIC_{i}.jpg").write_bytes(bytes([i]))
        rows.append(f"ISIC_{i},{('nv', 'mel', 'bcc')[i % 3]},40")
    (root / "metadata.csv").write_text("\n".join(rows))
    assert "which are called pieces of one data set" in refused(root)
    for number, name in enumerate(("first", "second"), 1):  # names that say nothing
        (root / f"HAM_part_{number}").rename(root / name)
    said, command = refused(root).split("which this copies the images: ")
    assert "has first and second, over which the labels in metadata.csv are spread" in said
    subprocess.run(["bash", "-c", command], check=True)
    listing = folders.list_folder(f"{root}_by_class")
    assert listing.class_names == ("bcc", "mel", "nv")
    for path, label in zip(*listing.splits["train"], strict=True):
        assert ("nv", "mel", "bcc")[Path(path).read_bytes()[0] % 3] == listing.class_names[label]


LABEL_FIRST, NUMBER_FIRST = "{label}.{i}.jpg", "{i:04d}_{label}.jpg"


@pytest.mark.parametrize(
    ("folders_of", "names", "labelled"),
    [
        ({"train": LABEL_FIRST}, ("cat", "dog"), ["train"]),
        ({"train": LABEL_FIRST, "test1": "{i}.jpg"}, ("cat", "dog"), ["train"]),
        (
            {"Training": "{label}_{i}.PNG", "test": "{label}_{i}.PNG"},
            ("Persian", "great_pyrenees"),
            ["Training", "test"],
        ),
        ({"pets' own": NUMBER_FIRST}, ("cat", "dog", "fox"), ["pets' own"]),
        ({".": "{label} ({i}).jpg"}, ("hot dog", "pizza"), ["."]),
    ],
)
def test_classes_in_file_names_are_told_with_the_command_that_sorts(folders_of, names, labelled, tmp_path):
    root = tmp_path / "data"
    for folder, pattern in folders_of.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(12):
            label = names[i % len(names)]
            (root / folder / pattern.format(label=label, i=i)).write_text(f"{folder} {label} {i}")
    said = refused(root)
    counts = [f"{name} ({12 // len(names)})" for name in names]
    assert f"{', '.join(counts[:-1])} and {counts[-1]}; expected a folder for each class" in said
    subprocess.run(["bash", "-c", said.split("has copied the images: ")[1]], check=True)
    place = re.search("`dataset=(.*?)`", said)[1]
    assert f"`dataset={place}_2`" in refused(root)  # nothing is copied into what is there
    listing = folders.list_folder(place)
    assert listing.class_names == names and len(listing.splits) == len(labelled)
    for (paths, labels), folder in zip(listing.splits.values(), labelled, strict=True):
        texts = [Path(path).read_text() for path in paths]
        assert sorted(int(text.split()[-1]) for text in texts) == list(range(12))
        assert all(text.startswith(f"{folder} {names[label]} ") for text, label in zip(texts, labels, strict=True))


@pytest.mark.parametrize(
    "files",
    [
        ["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"],  # cameras
        ["cat.1.jpg", "cat.2.jpg"],
        ["cat.1.jpg", "cat.2.jpg", "dog.1.jpg"],
        ["a$(touch x).1.jpg", "a$(touch x).2.jpg", "b.1.jpg", "b.2.jpg"],
        ["cat.1.jpg", "cat.2.jpg", "dog.1.jpg", "dog.2.jpg", "5f3a.jpg", "noon.jpg"],
        ["train_1.jpg", "train_2.jpg", "test_1.jpg", "test_2.jpg"],  # splits
        ["image_1.jpg", "image_2.jpg", "mask_1.jpg", "mask_2.jpg"],
        ["Cat_1.jpg", "Cat_2.jpg", "cat_1.jpg", "cat_2.jpg"],  # one folder on some systems
        [*(f"{name}.{i}.jpg" for name in ("cat", "dog") for i in range(30)), "odd one.jpg"],  # it would be left out
    ],
)
def test_file_names_that_say_no_classes_are_not_sorted(files, tmp_path):
    (tmp_path / "train").mkdir()
    for name in files:
        (tmp_path / "train" / name).touch()
    assert "train holds images itself" in refused(tmp_path) and "python3" not in refused(tmp_path)


def test_file_names_within_class_folders_say_nothing(tmp_path):
    for place, name in itertools.product(("one", "two"), ("cat.1.jpg", "cat.2.jpg", "dog.1.jpg", "dog.2.jpg")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / name).touch()
    assert folders.list_folder(str(tmp_path)).class_names == ("one", "two")
    (tmp_path / "two - Copy").mkdir()
    (tmp_path / "two - Copy" / "cat.1.jpg").touch()
    assert "which is called a copy of it" in refused(tmp_path)


def test_a_table_that_agrees_with_the_folders_or_is_finer_is_none_of_their_business(tmp_path):
    for i in range(12):
        (tmp_path / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / ("cat", "dog")[i % 2] / f"{i}.png").touch()
    for labels in (("cat", "dog"), ("0", "1"), ("persian", "poodle", "siamese", "terrier")):
        (tmp_path / "t.csv").write_text(
            "file,label\n" + "\n".join(f"{i}.png,{labels[i % len(labels)]}" for i in range(12))
        )
        assert folders.list_folder(str(tmp_path)).class_names == ("cat", "dog")


@pytest.mark.parametrize("copy", ["cat - Copy", "cat (1)", "cat copy", "Copy of cat", "CAT - Kopie (2)", "cat_copy"])
def test_a_copy_of_a_class_is_refused(copy, tmp_path):
    fill(tmp_path, "cat", "dog", copy)
    assert f"has cat and {copy}, which is called a copy of it" in refused(tmp_path)
    fill(tmp_path / "splits", "train/cat", "train/dog", f"train/{copy}", "test/cat", "test/dog")
    assert f"has cat and {copy}, which is called a copy of it" in refused(tmp_path / "splits")


def test_names_of_several_lines_are_names():
    assert naming.copies(["cat\ns", "dog"]) == {}
    assert naming.copies(["cat\ns", "cat\ns (1)"]) == {"cat\ns (1)": "cat\ns"}
    assert naming.copies(["cat", "cat\n"]) == {"cat\n": "cat"}  # as 'cat '


def test_names_that_only_look_like_copies_are_classes():
    for names in (["cat", "dog (1)"], ["class", "class 1", "class 2"], ["copy", "copying"], ["hard copy", "soft copy"]):
        assert not naming.copies(names)
