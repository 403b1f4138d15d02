"""What the name of a folder says: training, validation or test images, however people spell them, or masks, or a part.

Names alone decide little: 'train' may hold pictures of trains. `folders` weighs them against what the folders hold.
"""

import re
import unicodedata

SPLITS = {
    "train": {
        "train",
        "training",
        "trn",
        "entrenamiento",
        "entrainement",
        "apprentissage",
        "addestramento",
        "treino",
        "treinamento",
        "обучение",
        "训练",
        "訓練",
        "学習",
        "훈련",
        "학습",
    },
    "validation": {
        "val",
        "valid",
        "validation",
        "validate",
        "dev",
        "eval",
        "validierung",
        "validacion",
        "validazione",
        "validacao",
        "validatie",
        "валидация",
        "验证",
        "驗證",
        "検証",
        "검증",
    },
    "test": {
        "test",
        "testing",
        "tst",
        "holdout",
        "prueba",
        "pruebas",
        "teste",
        "prova",
        "тест",
        "测试",
        "測試",
        "テスト",
        "테스트",
    },
}
# words that say a split beside others and are too rare, or mean too much else, to be taken at their word
HINTS = {
    "train": {"development"},
    "validation": {"evaluation"},
    "test": {"tests", "query", "gallery", "probe", "heldout"},
}
COMPOUND = re.compile("(train|val|dev|test)(train|val|dev|test)+")  # 'trainval', 'devtest': hints too, of the first
# Turkish and Telugu too: they count where every folder beside says a split
SHORT = {"train": {"tr"}, "validation": {"va", "vl"}, "test": {"te", "ts"}}
# words in the name of a split's folder that say nothing: 'train_images', 'seg_test'
FILLERS = {"set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "seg", "folder", "dir"}
UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "inference"}
# what stands before the number of a piece of a data set: 'images_part_1', 'fold3'
PIECE = re.compile(
    r"(?<![^\W\d_])(fold|part|batch|chunk|shard|subset|images?|imgs?|dataset|data|split|volume|archive)s?"
    r"[\W_]*(\d+|(?<=[\W_])[a-z])(?![^\W\d_])"
)
HOLD_OUT = re.compile(r"hold[\W_]out", re.IGNORECASE)  # would be two words
PICTURES = {"images", "image", "imgs", "img", "photos", "pictures", "originals", "original", "rgb", "input", "inputs"}
MASKS = {
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "segmentation",
    "segmentations",
    "groundtruth",
    "ground",
    "truth",
    "gt",
    "targets",
    "target",
    "trimaps",
}
# words beside these: 'JPEGImages' and 'SegmentationClass' of Pascal VOC, 'masks_png'
KINDS = {"jpeg", "jpg", "png", "tif", "tiff", "bmp", "class", "object"}


def composed(name):
    """A folder's name in Unicode's composed form (NFC).

    macOS writes 'ä' as 'a' and a combining mark. Without this a class would have another name, and so another label, on
    each system.
    """
    return unicodedata.normalize("NFC", name)


def words(name):
    """The words of a folder's name in lower case, without FILLERS: 'seg_train' and 'TrainSet 2' give ['train']."""
    name = _without_accents(HOLD_OUT.sub("holdout", name).lower())
    return [_bare(word) for word in re.split(r"[\W\d_]+", name) if word and word not in FILLERS]


def split_of(name):
    """'train', 'validation' or 'test' if a folder is named after a split ('Training', 'seg_test'), else None."""
    found = words(name)
    return next((split for split, known in SPLITS.items() if len(found) == 1 and found[0] in known), None)


def suspects(names):
    """{name: split} of the folders in whose names a word says a split, where together they look like splits.

    A single one of them ('test_tube' beside 'flask') is none. Two look like splits if their names differ in that word
    alone ('asl_train', 'asl_test'), if more than half of all names have such a word and not all the same ('train_v2',
    'final-test', 'extra'), or if every name has one ('trainA', 'trainB').

    Args:
        names: of the folders that lie beside each other.
    """
    found = {name: hint for name in names if (hint := hint_of(name))}
    short = {name: hint_of(name, short=True) for name in names}
    if all(short.values()):
        found = short
    of_rest = {}
    for name, split in found.items():
        of_rest.setdefault(_rest(name), set()).add(split)
    parallel = any(len(splits) > 1 for splits in of_rest.values())
    most = 2 * len(found) > len(names) and len({*found.values()}) > 1
    return found if len(found) > 1 and (parallel or most or len(found) == len(names)) else {}


def hint_of(name, short=False):
    """The split of which one word of a folder's name speaks ('flowers_train', 'testA', 'X_val'), else None.

    Args:
        name: of the folder.
        short: whether 'tr', 'va' and 'te' count too.
    """
    tables = (SPLITS, HINTS, SHORT) if short else (SPLITS, HINTS)
    found = [COMPOUND.sub(r"\1", word) for word in _parts(name)]
    return next((split for word in found for table in tables for split, known in table.items() if word in known), None)


# what file managers append to a copy, in several languages: 'cat - Copy (2)', 'cat (1)', 'cat copy', 'Copy of cat'
COPY = re.compile(
    r"(?is)^(?:cop(?:y|ie|ia) (?:of|de|von|di) )?(.*?)(?:[ _-]+(?:cop(?:y|ie|ia)|kopie))?(?: ?\(\d+\)| \d+)?\Z"
)


def copies(names):
    """Those of several names that are another one with what a file manager calls its copies: {copy: the other}."""
    known, found = {composed(name).casefold(): name for name in names}, {}
    for name in names:
        whole = composed(name)
        rest = COPY.match(whole)[1].strip()
        bare_number = re.fullmatch(re.escape(rest) + r" \d+", whole)  # 'class 1' beside 'class' may be a class
        if rest != whole and not bare_number and rest.casefold() in known:
            found[name] = known[rest.casefold()]
    return found


def pieces(names):
    """Those of several names that call their folders the pieces of one data set, such as 'part_1' and 'part_2'."""
    rests = {}
    for name in names:
        rest, count = PIECE.subn("", name.lower())
        rests.setdefault(rest if count else None, []).append(name)
    rests.pop(None, None)
    most = max(rests.values(), key=len, default=[])
    return most if len(most) > 1 and 2 * len(most) > len(names) else []


def masks(names):
    """Those of several names that call their folders images and the masks of these, else []."""
    parts = {name: {*_parts(name)} for name in names}
    plain = [name for name in names if parts[name] and parts[name] <= PICTURES | MASKS | KINDS | FILLERS]
    masked = [name for name in plain if parts[name] & MASKS]
    pictures = [name for name in plain if name not in masked and parts[name] & PICTURES]
    return pictures + masked if pictures and masked else []


def _parts(name):
    """The words of a name in lower case, also those that a capital letter begins: 'trainA_v2' gives train, a, v."""
    name = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", HOLD_OUT.sub("holdout", name))
    parts = [_bare(word) for word in re.split(r"[\W\d_]+", _without_accents(name.lower())) if word]
    return [re.sub(r"^[xy](?=(train|test|val))", "", part) for part in parts]


def _rest(name):
    """What a name says beside its split: '' for 'train2017', 'asl' for 'asl_train_images'."""
    known = set().union(*(group for table in (SPLITS, HINTS, SHORT) for group in table.values()))
    return " ".join(part for part in _parts(name) if part not in known | FILLERS)


def _bare(word):
    """'train' of 'trainset' and 'trainimages', '训练' of '训练集'; at least three letters, or two signs, stay."""
    return re.sub(r"(?<=...)(set|data|dataset|images|imgs|split)$|(?<=..)(数据集|集|データ|세트)$", "", word)


def _without_accents(name):
    """'validacion' of 'validación', since folders are named with and without; other scripts stay whole."""
    plain = "".join(c for c in unicodedata.normalize("NFD", name) if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", plain)
