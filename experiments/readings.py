"""Reads the records under experiments/records: accuracies, sizes, minutes, and the runs that a model comes from."""

import json


def read(folder):
    """Reads all records below a folder.

    Args:
        folder: a Path, such as experiments/records.

    Returns:
        (results {path below the folder without '/result.json': content}, tested {sha256 of a model: its row in an
        evaluation.json of the test split, with the validation accuracy and the bytes of its int8 file where an
        export.json has them}).
    """
    results, tested = {}, {}
    for path in sorted(folder.rglob("result.json")):
        results[path.parent.relative_to(folder).as_posix()] = json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(folder.rglob("evaluation.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["split"] == "test":
            tested |= {row["sha256"]: row for row in content["models"]}
    for path in sorted(folder.rglob("export.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for file in content["files"]:
            if file["format"] == "litert-int8" and content["split"] == "validation" and content["sha256"] in tested:
                tested[content["sha256"]] |= {"int8_acc": file["acc"], "int8_bytes": file["bytes"]}
    return results, tested


def last(content, key):
    """A value of a result, or the last iteration's of a pruning result; None where it is missing."""
    value = content.get(key)
    return value[-1] if isinstance(value, list) else value


def _epochs(content, sha256):
    """Number of epochs that a run trained up to the model of this checksum."""
    # A pruning run has a model, and a checksum, for each iteration, and each iteration has `epoch_num` epochs.
    if "epochs" in content:
        return content["epochs"]
    return (content["sha256"].index(sha256) + 1) * content["run"]["flags"]["epoch_num"]


def _made(content):
    """Checksums of the models that a run wrote; a pruning run writes one in each iteration."""
    return content["sha256"] if isinstance(content["sha256"], list) else [content["sha256"]]


def _chain(results, sha256):
    """Epochs of all runs that a model comes from, its own last."""
    # A record names the model that its run started from by checksum, so a chain of runs is found by following these.
    for content in results.values():
        if sha256 in _made(content):
            return [*_chain(results, content.get("parent_sha256")), _epochs(content, sha256)]
    return []


def machine(run):
    """The processor and cores of a run as text, with the precision of a run that trained."""
    arithmetic = [run["flags"]["precision"].removeprefix("mixed_")] if "epoch_num" in run["flags"] else []
    return ", ".join([run["processor"], f"{run['cores']} cores", *arithmetic])


def measured(content, results, tested):
    """The values of a table's row, from the record of one run.

    Args:
        content: the record.
        results: as from `read`.
        tested: as from `read`.

    Returns:
        {column: number or text}; accuracies and sparsity 0 to 1, 'seconds' of training. None where no record has the
        value.
    """
    sha256, seconds = last(content, "sha256"), content["seconds"]
    test = tested.get(sha256, {})
    return {
        "validation": last(content, "final_acc" if "final_acc" in content else "val_acc"),
        "test": test.get("acc"),
        "int8": test.get("int8_acc"),
        "int8_bytes": test.get("int8_bytes"),
        "pruned_acc": last(content, "pruned_acc"),
        "recalibrated_acc": last(content, "recalibrated_acc"),
        "sparsity": last(content, "sparsity") or test.get("sparsity"),
        "parameters": last(content, "parameters"),
        "macs": last(content, "macs"),
        "bytes": last(content, "bytes"),
        "compression rate": last(content, "compression_rate") or 1.0,
        "epochs": " + ".join(map(str, _chain(results, sha256))),
        "seed": content["run"]["seed"],
        "seconds": sum(seconds) if isinstance(seconds, list) else seconds,
        "machine": machine(content["run"]),
    }


def gaps(results, tested, tables):
    """Finds records that don't belong together, such as those of students whose base was trained again since.

    Args:
        results: as from `read`.
        tested: as from `read`.
        tables: the content of tables.json.

    Yields:
        A line for each record whose parent model, or whose test accuracy, no other record has.
    """
    made = {sha256 for content in results.values() for sha256 in _made(content)}
    for path, content in results.items():
        table, seed = path.split("/")[0], content["run"]["seed"]
        again = f"./experiments/reproduce.sh {table} {seed} makes them again"
        if content.get("parent_sha256") and content["parent_sha256"] not in made:
            yield f"experiments/records/{path}: no record has the model that it was made from; {again}"
        if "test" in tables.get(table, {}).get("columns", ()) and last(content, "sha256") not in tested:
            yield f"experiments/records/{path}: no evaluation.json has its model's test accuracy; {again}"
