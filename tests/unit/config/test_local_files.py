"""Which files below source.root are which split of which task."""

import os
from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.config.local_files import own_files, split_files, split_of

# By the files below a folder called root: the tasks, and the files of their splits.
LAYOUTS: dict[str, dict[str, dict[str, list[str]]]] = {
    "law.jsonl": {"law": {"train": ["law.jsonl"]}},
    "law.csv art.jsonl": {"art": {"train": ["art.jsonl"]}, "law": {"train": ["law.csv"]}},
    "train.csv test.csv": {"root": {"train": ["train.csv"], "test": ["test.csv"]}},
    "law/train.csv law/dev.csv notes/read.me law.txt": {
        "law": {"train": ["law/train.csv"], "validation": ["law/dev.csv"]}
    },
    "law/train.csv art.jsonl": {"art": {"train": ["art.jsonl"]}, "law": {"train": ["law/train.csv"]}},
    # Every spelling of a split
    "Train.JSONL VAL.jsonl Test.CSV": {
        "root": {"train": ["Train.JSONL"], "validation": ["VAL.jsonl"], "test": ["Test.CSV"]}
    },
    "training.jsonl testing.jsonl": {"root": {"train": ["training.jsonl"], "test": ["testing.jsonl"]}},
    "train.jsonl held_out.json": {"root": {"train": ["train.jsonl"], "test": ["held_out.json"]}},
    "trainset.json testset.json": {"root": {"train": ["trainset.json"], "test": ["testset.json"]}},
    "law_train.jsonl law_test.jsonl": {"law": {"train": ["law_train.jsonl"], "test": ["law_test.jsonl"]}},
    "train-law.csv dev-law.csv": {"law": {"train": ["train-law.csv"], "validation": ["dev-law.csv"]}},
    "lawTrain.csv lawTest.csv": {"law": {"train": ["lawTrain.csv"], "test": ["lawTest.csv"]}},
    "law.train.csv law.held-out.csv": {"law": {"train": ["law.train.csv"], "test": ["law.held-out.csv"]}},
    "law.jsonl law_test.jsonl": {"law": {"train": ["law.jsonl"], "test": ["law_test.jsonl"]}},
    "questions.jsonl test.jsonl": {"questions": {"train": ["questions.jsonl"], "test": ["test.jsonl"]}},
    # A folder per split
    "train/law.csv test/law.csv train/art.csv": {
        "art": {"train": ["train/art.csv"]},
        "law": {"train": ["train/law.csv"], "test": ["test/law.csv"]},
    },
    "train.jsonl test/part1.jsonl test/part2.jsonl test/part10.jsonl": {
        "root": {"train": ["train.jsonl"], "test": ["test/part1.jsonl", "test/part2.jsonl", "test/part10.jsonl"]}
    },
    "train/monday.csv train/sunday.csv test/friday.csv": {
        "root": {"train": ["train/monday.csv", "train/sunday.csv"], "test": ["test/friday.csv"]}
    },
    # Shards, as the hub, datasets.save_to_disk and Spark write them
    "data/train-00001-of-00002.parquet data/train-00000-of-00002.parquet data/test-00000-of-00001.parquet README.md": {
        "root": {
            "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "test": ["data/test-00000-of-00001.parquet"],
        }
    },
    "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": {
        "root": {"train": ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"]}
    },
    "easy/train-00000-of-00001.parquet hard/train-00000-of-00001.parquet": {
        "easy": {"train": ["easy/train-00000-of-00001.parquet"]},
        "hard": {"train": ["hard/train-00000-of-00001.parquet"]},
    },
    "l/dataset_dict.json l/train/state.json l/train/data-00000-of-00001.arrow l/test/data-00000-of-00001.arrow": {
        "l": {"train": ["l/train/data-00000-of-00001.arrow"], "test": ["l/test/data-00000-of-00001.arrow"]}
    },
    "law/dataset_info.json law/data-00000-of-00001.arrow": {"law": {"train": ["law/data-00000-of-00001.arrow"]}},
    "_SUCCESS part-00001-c0.snappy.parquet part-00000-c0.snappy.parquet": {
        "root": {"train": ["part-00000-c0.snappy.parquet", "part-00001-c0.snappy.parquet"]}
    },
    "train_10.csv train_9.csv": {"root": {"train": ["train_9.csv", "train_10.csv"]}},
    # A folder that names a split and a task
    "d/train_sft/data-00000-of-00001.arrow d/test_sft/data-00000-of-00001.arrow": {
        "d": {"train": ["d/train_sft/data-00000-of-00001.arrow"], "test": ["d/test_sft/data-00000-of-00001.arrow"]}
    },
    "train_law/1.csv law_test/exam.csv train_law/2.csv": {
        "root": {"train": ["train_law/1.csv", "train_law/2.csv"], "test": ["law_test/exam.csv"]}
    },
    "split=train/part-0.csv split=test/part-0.csv": {
        "root": {"train": ["split=train/part-0.csv"], "test": ["split=test/part-0.csv"]}
    },
    # Other languages
    "训练集.csv 测试集.csv": {"root": {"train": ["训练集.csv"], "test": ["测试集.csv"]}},
    "Training.csv Testdaten.csv": {"root": {"train": ["Training.csv"], "test": ["Testdaten.csv"]}},
    "entrenamiento.csv prueba.csv": {"root": {"train": ["entrenamiento.csv"], "test": ["prueba.csv"]}},
    "обучение.csv тест.csv": {"root": {"train": ["обучение.csv"], "test": ["тест.csv"]}},
    "訓練.csv テスト.csv": {"root": {"train": ["訓練.csv"], "test": ["テスト.csv"]}},
    # Compressed
    "law.jsonl.gz art.csv.zst": {"art": {"train": ["art.csv.zst"]}, "law": {"train": ["law.jsonl.gz"]}},
    # What stands beside
    "law.csv .DS_Store ._law.csv ~$law.csv .~lock.law.csv# law.csv~ test.csv.bak __MACOSX/._law.csv": {
        "law": {"train": ["law.csv"]}
    },
    "law/train.csv law/metadata.json config.json": {"law": {"train": ["law/train.csv"]}},
    "law/train.csv law/.ipynb_checkpoints/train-checkpoint.csv": {"law": {"train": ["law/train.csv"]}},
    # Words that hold the name of a split are none
    "contest.csv latest.csv": {"contest": {"train": ["contest.csv"]}, "latest": {"train": ["latest.csv"]}},
}


def touch(root: Path, names: str) -> Path:
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("names", LAYOUTS)
def test_files_are_assigned_to_tasks_and_splits(names, tmp_path):
    root = touch(tmp_path / "root", names)
    tasks = {
        task: {split: [str(path.relative_to(root)) for path in paths] for split, paths in files.items()}
        for task, files in own_files(root).items()
    }
    assert tasks == LAYOUTS[names]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("law/train.csv law/train.jsonl", "the split train has another file: .*train.csv"),
        ("train.jsonl train.jsonl.gz", "the split train has another file"),
        ("train.csv dev.csv eval.csv", "the split validation has another file: .*dev.csv"),
        ("law/train.csv law.csv", "the task law has another file"),
        ("lawtrain.csv lawtest.csv", "lawtest.csv and .*lawtrain.csv: are named like splits"),
        ("trainlaw.csv testlaw.csv", "are named like splits"),
        ("train.csv train_old.csv", "the split train has another file"),
        ("train.csv extra.csv", "extra.csv: is no split, and lies beside train.csv"),
        ("train.csv test_easy.csv test_hard.csv", "of another task than test_easy.csv"),
        ("law_test.csv tax_train.csv", "of another task"),
        ("train_test.csv", "names two splits, test and train"),
        ("test/train.csv", "is named train, but lies in a folder named test"),
        ("train-00000-of-00003.csv train-00002-of-00003.csv", "one of 3 files of the split train; number 1 is missing"),
        ("train.csv test.xlsx", 'test.xlsx: cannot be read; save the sheet as "CSV UTF-8"'),
        ("train.csv test.txt", "test.txt: cannot be read"),
        ("train.csv test/part1.xlsx", "part1.xlsx: cannot be read"),
        ("law.xls", "holds no data; .*CSV UTF-8"),
        ("a/b/c/d/e/train.csv", "holds no data in 4 levels of folders, but .*train.csv"),
        ("law.jsnl", "did you mean '.jsonl'"),
        ("", "holds no data"),
        ("(-).csv", "gives no name for a task"),
    ],
)
def test_ambiguous_or_unknown_files_are_refused(names, words, tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=words):
        own_files(touch(tmp_path / "root", names))


def test_link_to_nothing_and_a_pipe_are_refused_by_name(tmp_path):
    (tmp_path / "law.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"law\.csv: is a link to nothing"):
        own_files(tmp_path)
    (tmp_path / "law.csv").unlink()
    os.mkfifo(tmp_path / "law.csv")
    with pytest.raises(UserError, match=r"law\.csv: is no file that can be read"):
        own_files(tmp_path)


def test_link_to_a_folder_is_a_task_of_its_own_name(tmp_path):
    touch(tmp_path, "store/x1/train.csv root/art.csv")
    (tmp_path / "root" / "law").symlink_to(tmp_path / "store" / "x1")
    assert list(own_files(tmp_path / "root")) == ["art", "law"]


def test_root_that_is_missing_is_refused_with_the_nearest_name(tmp_path):
    touch(tmp_path, "law.csv")
    with pytest.raises(UserError, match=r"no such file or directory; did you mean 'law\.csv'\?"):
        own_files(tmp_path / "lwa.csv")


def test_name_of_a_task_is_made_of_the_letters_of_its_file(tmp_path):
    (tmp_path / "law exam (1).csv").touch()
    assert list(own_files(tmp_path)) == ["law_exam_1"]


@pytest.mark.parametrize(
    ("name", "task", "split"),
    [("law.parquet", "law", "train"), ("law_test.csv", "law", "test"), ("train.csv", "root", "train")],
)
def test_one_file_is_one_task(name, task, split, tmp_path):
    path = touch(tmp_path / "root", name) / name
    assert own_files(path) == {task: {split: [path]}}


def test_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="unpack it first"):
        own_files(touch(tmp_path, "law.zip") / "law.zip")


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("dev", "validation", ""), ("Dev_Set", "validation", ""), ("evaluation", "validation", ""),
        ("HELD-OUT", "test", ""),
        ("test_2023", "test", ""), ("2023_law_test", "test", "2023_law"), ("law_val_v2", "validation", "law_v2"),
        ("attest", None, "attest"), ("trains", None, "trains"), ("prüfung_test", "test", "prüfung"),
    ],
)  # fmt: skip
def test_split_is_a_word_of_the_name(name, split, rest):
    assert split_of(name) == (split, rest)


def test_split_of_a_benchmark_has_its_published_name(tmp_path):
    touch(tmp_path, "dev.jsonl validation-00000-of-00001.parquet data/test.jsonl.gz")
    found = {
        split: [path.name for path in split_files(tmp_path, split)] for split in ("dev", "validation", "test", "train")
    }
    assert found == {
        "dev": ["dev.jsonl"],
        "validation": ["validation-00000-of-00001.parquet"],
        "test": ["test.jsonl.gz"],
        "train": [],
    }
