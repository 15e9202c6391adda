"""Which names are splits, and which split is meant."""

import pytest

from manifests.errors import InputError
from manifests.sources.splits import choose_split, family_of_path, refuse_split, split_family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN", "train"),
        ("training_set", "train"),
        ("seg_train", "train"),
        ("asl_alphabet_train", "train"),
        ("cifar100-train", "train"),
        ("partial-train", "train"),
        ("trainImages", "train"),
        ("train2017", "train"),
        ("train_extra", "train"),
        ("val2017", "val"),
        ("dev", "val"),
        ("Validation", "val"),
        ("Testing", "test"),
        ("evaluation", "test"),
        ("my-test-set.train", "train"),
        ("trains", None),
        ("testament", None),
        ("retrain", None),
        ("fold_1", None),
        ("device", None),
        ("bus", None),
        ("", None),
        ("entraînement", None),
    ],
)
def test_a_split_is_known_by_a_whole_word(name: str, family: str | None) -> None:
    assert split_family(name) == family


def test_the_last_folder_that_is_a_split_names_the_path() -> None:
    assert family_of_path("data/train/seg_test/hat") == "test"
    assert family_of_path("data/hat") is None


@pytest.mark.parametrize(
    ("available", "asked", "chosen"),
    [
        (("train", "test"), None, "train"),
        (("train", "test"), "validation", "test"),
        (("train", "validation"), "test", "validation"),
        (("train", "val", "test"), "test", "test"),
        (("train", "val", "test"), "valid", "val"),
        (("Training", "Test"), None, "Training"),
        (("fold1", "fold2"), "fold2", "fold2"),
        (("training_set", "test_set"), None, "training_set"),
        (("training_set", "test_set"), "val", "test_set"),
        (("train", "train_extra"), None, "train"),
        (("train", "train_extra"), "train_extra", "train_extra"),
        (("train_extra", "test"), None, "train_extra"),
        (("seg_train", "seg_test", "seg_dev"), "val", "seg_dev"),
        (("Train", "train"), "train", "train"),
    ],
)
def test_the_split_that_is_meant_is_found(available: tuple[str, ...], asked: str | None, chosen: str) -> None:
    assert choose_split(available, asked, "here") == chosen


@pytest.mark.parametrize(
    ("available", "asked"),
    [(("test",), None), (("train",), "test"), (("train",), "fold1"), ((), "x"), (("train_extra",), "train_more")],
)
def test_a_split_that_is_not_there_lists_those_that_are(available: tuple[str, ...], asked: str | None) -> None:
    with pytest.raises(InputError, match="has no split") as caught:
        choose_split(available, asked, "here")
    assert (", ".join(available) or "none") in str(caught.value.hint)


def test_several_splits_of_the_same_words_are_refused_with_their_names() -> None:
    with pytest.raises(InputError, match="several splits for 'train': a_train, b_train") as caught:
        choose_split(("b_train", "a_train", "test"), None, "here")
    assert "--split" in str(caught.value.hint)


def test_none_is_never_refused_by_data_without_splits() -> None:
    refuse_split("none", "here")
    refuse_split(None, "here")
    with pytest.raises(InputError, match="no split 'test'"):
        refuse_split("test", "here")
