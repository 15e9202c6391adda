import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import InputError
from trainer.teachers.classes import output_map
from trainer.teachers.known_names import imagenet_wnids

IMAGENETTE = [
    "n01440764",
    "n02102040",
    "n02979186",
    "n03000684",
    "n03028079",
    "n03394916",
    "n03417042",
    "n03425413",
    "n03445777",
    "n03888257",
]


@pytest.fixture(scope="module")
def imagenet_categories():
    meta = pytest.importorskip("torchvision.models._meta")
    return meta._IMAGENET_CATEGORIES


def test_the_same_names_in_the_same_order_need_no_map():
    assert output_map(["cat", "dog"], ["cat", "dog"], 2) is None


def test_a_nameless_teacher_of_as_many_outputs_is_taken_in_order():
    assert output_map(None, ["cat", "dog"], 2) is None


def test_another_order_is_mapped_by_name():
    assert output_map(["dog", "eel", "cat"], ["cat", "dog"], 3) == [2, 0]


def test_case_underscores_and_synonyms_do_not_matter_where_the_exact_name_is_missing():
    assert output_map(["Sea Snake", "cat, house cat", "DOG"], ["dog", "sea_snake", "Cat"], 3) == [2, 0, 1]


def test_the_exact_name_wins_over_one_in_another_case():
    assert output_map(["CAT", "cat", "dog"], ["dog", "cat"], 3) == [2, 1]


def test_equal_names_are_told_apart_by_their_place():
    assert output_map(["crane", "dog", "crane"], ["crane", "dog", "crane"], 3) is None


def test_a_name_that_fits_two_outputs_is_ambiguous():
    with pytest.raises(InputError, match=r"'cat' could be any of the teacher's outputs 1, 2"):
        output_map(["dog", "CAT", "Cat"], ["cat", "dog"], 3)


def test_two_classes_may_not_share_an_output():
    with pytest.raises(InputError, match=r"'Cat' and 'CAT' both match the teacher's output 2"):
        output_map(["dog", "eel", "cat"], ["Cat", "CAT"], 3)


def test_missing_names_are_listed_from_the_first():
    with pytest.raises(InputError, match=r"no output for 4 of 5 classes: ant, bee, cow, \.\.\.") as caught:
        output_map(["dog", "eel"], ["dog", "ant", "bee", "cow", "fox"], 2)
    assert "dog, eel" in caught.value.hint


def test_another_number_of_nameless_outputs_is_refused_with_both_numbers():
    with pytest.raises(InputError, match="the teacher has 1000 outputs, the data set has 10 classes") as caught:
        output_map(None, [f"class {i}" for i in range(10)], 1000)
    assert caught.value.hint


def test_names_that_do_not_fit_the_outputs_are_refused():
    with pytest.raises(InputError, match="3 outputs but 2 class names"):
        output_map(["cat", "dog"], ["cat", "dog"], 3)


@given(st.permutations(range(9)), st.integers(1, 9))
def test_any_selection_of_names_in_any_order_is_found(order, count):
    teacher = [f"name {i}" for i in range(9)]
    found = output_map(teacher, [teacher[i] for i in order[:count]], 9)
    expected = list(order[:count])
    assert found == (None if expected == list(range(9)) else expected)


def test_imagenet_folders_fit_any_thousand_outputs_in_order(imagenet_categories):
    wnids = list(imagenet_wnids())
    assert len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    assert output_map(imagenet_categories, wnids, 1000) is None
    assert output_map(None, wnids, 1000) is None


def test_folders_of_an_imagenet_subset_find_their_outputs(imagenet_categories):
    found = output_map(imagenet_categories, IMAGENETTE, 1000)
    assert found == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert output_map(None, IMAGENETTE, 1000) == found
    names = [imagenet_categories[i] for i in found]
    assert names[:3] == ["tench", "English springer", "cassette player"]
    assert output_map(imagenet_categories, names, 1000) == found


def test_wordnet_ids_agree_with_the_names_that_timm_gives_them(imagenet_categories):
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    assert [info.index_to_label_name(i) for i in range(1000)] == list(imagenet_wnids())
    lemmas = [info.index_to_description(i) for i in range(1000)]
    assert output_map(imagenet_categories, lemmas, 1000) is None


def test_other_thousand_class_names_are_not_taken_for_imagenet(imagenet_categories):
    with pytest.raises(InputError, match="no output for 1000 of 1000 classes"):
        output_map(imagenet_categories, [f"product {i}" for i in range(1000)], 1000)


def test_real_cifar_names_in_reverse_are_mapped_back(shared_data):
    names = json.loads((shared_data / "cifar100" / "names.json").read_text())
    names = list(names.values()) if isinstance(names, dict) else names
    assert output_map(names, names[::-1], len(names)) == list(range(len(names)))[::-1]
