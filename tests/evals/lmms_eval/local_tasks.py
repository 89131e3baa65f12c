"""lmms-eval's own tasks over made-up rows: its files with another data set.

Prompts, filters, metrics and what they add up to are lmms-eval's; no net is needed. The
same files are those of `evaluate --benchmarks`.
"""

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.evals.benchmarks import made_up
from visor_jax.evals.benchmarks.registry import BENCHMARKS

# The task of every benchmark, as a file below lmms-eval's tasks.
FILES = {
    "docvqa": "docvqa/docvqa_val",
    "infovqa": "infovqa/infovqa_val",
    "chartqa": "chartqa/chartqa",
    "ocrbench": "ocrbench/ocrbench",
    "textvqa": "textvqa/textvqa_val",
    "gqa": "gqa/gqa",
    "scienceqa": "scienceqa/scienceqa_img",
    "pope": "pope/pope",
    "mme": "mme/mme",
    "mmbench": "mmbench/mmbench_en_dev_static",
    "ai2d": "ai2d/ai2d",
    "realworldqa": "realworldqa/realworldqa",
    "mmstar": "mmstar/mmstar",
    "seed": "seedbench/seedbench",
    "vqav2": "vqav2/vqav2_val",
    "vizwiz": "vizwiz_vqa/vizwiz_vqa_val",
    "mmmu": "mmmu/mmmu_val",
    "mathvista": "mathvista/mathvista_testmini_format",
}
# Of the network that is asked.
BUDGETS = ("sa1:1", "sa3:0,1,2")
REASON = "needs lmms-eval: .ci/lmms_eval installs it"
# What other tasks cut out of questions, other alphabets, blanks at the ends.
_TAIL = (
    " Iß İt ÉCOLE 日本\tnow? Please answer yes or no. Please answer directly with only "
    "the letter of the correct option and nothing else. \n so "
)


def installed() -> bool:
    """Skips whoever asks where there is no lmms-eval."""
    pytest.importorskip("lmms_eval", reason=REASON)
    return True


def rows(name: str, *, harder: bool = True) -> list[dict[str, Any]]:
    """Returns rows as lmms-eval's files of the hub have them.

    harder: with questions and references whose handling differs from task to task.
    """
    return [_row(name, number, harder) for number in range(made_up.COUNT)]


def write_hub(name: str, folder: Path, found: list[dict[str, Any]]) -> Path:
    """Writes one file of the hub, pictures as `datasets` writes them; returns it."""
    import datasets

    table = datasets.Dataset.from_list(found)
    for column in table.column_names:
        # Not "image_source", nor the number of a picture.
        if re.fullmatch(r"(decoded_)?image|image_[1-7]", column):
            kind = datasets.Image()
            if name == "seed":
                kind = datasets.List(kind)
            table = table.cast_column(column, kind)
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    split = BENCHMARKS[name].source.split
    file = place / f"{split}-00000-of-00001.parquet"
    table.to_parquet(file)
    return file


def write_tasks(files: dict[str, Path], folder: Path) -> list[str]:
    """Writes a task for each benchmark's file; returns their names."""
    import lmms_eval.tasks

    theirs = Path(lmms_eval.tasks.__file__).parent
    for name, file in files.items():
        split = BENCHMARKS[name].source.split
        lines = [
            f"include: {theirs / FILES[name]}.yaml",
            f"task: local_{name}",
            "dataset_path: parquet",
            "dataset_name: null",
            f"dataset_kwargs: {{data_files: {{{split}: {file}}}}}",
        ]
        if name == "gqa":  # It fetches the pictures.
            lines.append("process_docs: null")
        (folder / f"local_{name}.yaml").write_text("\n".join(lines) + "\n")
    return [f"local_{name}" for name in files]


def tasks(files: dict[str, Path], folder: Path, form: str = "chat") -> dict[str, Any]:
    """Returns lmms-eval's task objects, by benchmark."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    names = write_tasks(files, folder)
    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    found = get_task_dict(names, manager, form)
    return {name.removeprefix("local_"): task for name, task in found.items()}


def filtered(task: Any, doc: dict[str, Any], answer: str) -> Any:
    """Returns what lmms-eval's filters leave of an answer."""
    (ensemble,) = task._filters
    found = [[answer]]
    for each in ensemble.filters:
        found = each.apply(found, [doc])
    (only,) = found
    return only


def processed(task: Any, doc: dict[str, Any], answer: str) -> dict[str, Any]:
    """Returns {metric: what it makes of one answer}. The document stays as it is."""
    doc = {k: v if k.startswith("image") else copy.deepcopy(v) for k, v in doc.items()}
    return task.process_results(doc, [filtered(task, doc, answer)])


def offline(folder: Path) -> None:
    """Keeps what lmms-eval loads from the net, and its files in this folder."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
    os.environ["HF_HOME"] = str(folder / "hf")


def _row(name: str, n: int, harder: bool) -> dict[str, Any]:
    row = dict(made_up.rows(name)[n].hub)
    if not {"image", "decoded_image", "image_1"} & set(row):
        row["image"] = made_up.image_cell(n)
    row |= _OTHERS.get(name, lambda row, n: {})(row, n)
    if harder:
        if n % 3 == 1:
            row["question"] += _TAIL
        row |= _REFERENCES.get(name, lambda row, n: {})(row, n)
    return row


def _mmbench(row: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        **{"index": int(row["index"]), "category": f"c{n % 4}", "source": "made up"},
        **{"split": "dev", "hint": "nan" if n % 3 else row["hint"], "D": None},
    }


def _mathvista(row: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        **{"query": "?", "metadata": {"split": "testmini"}},
        "precision": None if row["precision"] is None else int(row["precision"]),
    }


def _mmmu(row: dict[str, Any], n: int) -> dict[str, Any]:
    if n % 5 != 2:
        return {}
    return {
        **{"image_1": made_up.image_cell(n), "image_3": made_up.image_cell(n + 1)},
        "question": f"Which of <image 3> and\n <image 1> is {n}, said <image 1>?",
    }


# What they have beside the columns that are read here.
_OTHERS = {
    **{"mmbench": _mmbench, "mathvista": _mathvista, "mmmu": _mmmu},
    "mmstar": lambda row, n: {"category": ("math", "logical reasoning")[n % 2]},
}


def _answers(row: dict[str, Any], n: int) -> dict[str, Any]:
    more = (["Straße ẞ 5"], ["ﬁne  ＡＢ"], ["İstanbul"], ["$ 1,200", "5%"])[n % 4]
    return {"answers": [*row["answers"], *more]}


def _annotators(n: int) -> list[str]:
    pools = (
        ["it's", "its", "it 's", "It's.", "dont"],
        ["2", "two", "Two.", "2.0", "none"],
        ["1,000", "1000", "1, 000", "red/blue", "red blue"],
        ["U.S.A.", "usa", "ten-fold", "a ten fold", "the cat!"],
        ["mother's", "mothers", "won't", "wont", "n't"],
    )
    pool = pools[n % 5]
    return [pool[0]] * (n % 4) + [pool[k % 5] for k in range(10 - n % 4)]


def _records(row: dict[str, Any], n: int) -> dict[str, Any]:
    found = [{"answer": a, "answer_id": k} for k, a in enumerate(_annotators(n))]
    return {"answers": found}


def _one_of(*texts: str) -> Any:
    return lambda row, n: {"answer": texts[n % len(texts)]}


def _ocrbench(row: dict[str, Any], n: int) -> dict[str, Any]:
    texts = (["STOP now"], ["x ^ 2"], ["Ｓtop　it", "ok"], ["ｘ_1 + y"], ["é", "1"])
    return {"answer": texts[n % 5]}


def _open_answers(row: dict[str, Any], n: int) -> dict[str, Any]:
    texts = ("12", "whale", "3.46", "x", "1,200")
    is_open = row["question_type"] == "open"
    return {"answer": texts[n // 4]} if is_open else {}


# References that metrics treat in different ways.
_REFERENCES = {
    "docvqa": _answers,
    "infovqa": _answers,
    "textvqa": lambda row, n: {"answers": _annotators(n)},
    "vizwiz": lambda row, n: {"answers": _annotators(n)},
    "vqav2": _records,
    "chartqa": _one_of("95", "30%", "0", "2020", "Yes", "-100", "14.1", "1e2", "Éa"),
    "gqa": _one_of("T-shirt", "café", "two", "yes", "Istanbul"),
    "realworldqa": _one_of("C", "2", "2.", "Yes", " B ", "Downhill", "d"),
    "ocrbench": _ocrbench,
    "mmmu": _open_answers,
}
