"""Which of a teacher's outputs are the classes of the data, as somebody says it."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from manifests.errors import InputError, MismatchError
from trainer.teachers.classes import output_map
from trainer.teachers.known_names import imagenet_wnids, known_names, presumed_names
from trainer.teachers.output_names import SaidOutputs, as_class_logits, class_outputs, fits, named_outputs, read_outputs

PETS = ["cat", "dog"]


def said(*names: str) -> SaidOutputs:
    return named_outputs(names, "outputs.txt")


def table(*rows: tuple[str, str]) -> SaidOutputs:
    return SaidOutputs("outputs.csv", rows=rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("o.txt", "dog\ncat\ndog\n"),
        ("o.csv", "dog\ncat\ndog\n"),
        ("o.json", '["dog", "cat", "dog"]'),
        ("o.json", '{"0": "dog", "1": "cat", "2": "dog"}'),
    ],
)
def test_a_list_may_name_a_class_several_times(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_outputs(tmp_path / name).names == ("dog", "cat", "dog")


def test_a_csv_of_two_columns_is_a_table_and_a_text_of_synonyms_a_list(tmp_path):
    (tmp_path / "o.csv").write_text("0,dog\n2,cat\n")
    (tmp_path / "o.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert read_outputs(tmp_path / "o.csv").rows == (("0", "dog"), ("2", "cat"))
    assert read_outputs(tmp_path / "o.txt").names == ("tench, Tinca tinca", "goldfish, Carassius auratus")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("o.txt", "dog\n\ncat\n", "the name of output 1 is ''"),
        ("o.txt", "", "names no outputs"),
        ("o.json", json.dumps(["dog", 3]), "the name of output 1 is 3"),
        ("o.csv", "0,dog\n1\n", "row 2 has 1 names, expected two"),
    ],
)
def test_files_that_name_no_outputs_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_outputs(tmp_path / name)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (said("cat", "dog"), None),
        (said("dog", "cat"), [1, 0]),
        (said("-", "DOG", "cat, house cat"), [2, 1]),
        (said("dog", "cat", "dog", "-", "dog"), [[1], [0, 2, 4]]),
        (said("Cat", "cat", "dog"), [1, 2]),
        (table(("2", "cat"), ("0", "dog")), [2, 0]),
        (table(("output", "class"), ("2", "cat"), ("0", "dog")), [2, 0]),
        (table(("0", "cat"), ("1", "dog"), ("2", "dog"), ("2", "dog"), ("0", "eel")), [[0], [1, 2]]),
    ],
)
def test_outputs_are_found_by_hand(outputs, expected):
    assert class_outputs(outputs, PETS, len(outputs.names) or 3) == expected


def test_rows_may_name_outputs_by_the_names_that_the_weights_have():
    known = [["Siamese cat, Siamese", "pug", "beagle"]]
    outputs = table(("siamese_cat", "cat"), ("pug", "dog"), ("2", "dog"))
    assert class_outputs(outputs, PETS, 3, known) == [[0], [1, 2]]


def test_what_is_left_out_and_what_is_put_together_is_told(capsys):
    class_outputs(said("dog", "cat", "dog", "dgo"), PETS, 4)
    assert capsys.readouterr().err == (
        "outputs.txt: the logsumexp of 2 outputs is dog; 1 of 4 outputs are no class: dgo\n"
    )


@pytest.mark.parametrize(
    ("outputs", "count", "error", "message"),
    [
        (said("cat", "dog"), 3, MismatchError, "the teacher has 3 outputs, outputs.txt names 2"),
        (said("cat", "eel"), 2, MismatchError, "names no output for 1 of 2 classes: dog"),
        (said("cat, a", "cat, b", "dog"), 3, InputError, "'cat' could be any of cat, a, cat, b"),
        (table(("0", "cat"), ("0", "dog")), 3, InputError, "output 0 would be class 'cat' and class 'dog'"),
        (table(("0", "cat"), ("7", "dog")), 3, InputError, "'7' is not an output; the teacher has 3"),
        (table(("0", "cat"), ("pug", "dog")), 3, InputError, "'pug' is not an output"),
    ],
)
def test_what_is_not_certain_is_refused(outputs, count, error, message):
    with pytest.raises(error, match=message) as caught:
        class_outputs(outputs, PETS, count)
    assert caught.value.hint


def test_a_number_that_is_also_the_name_of_another_output_is_refused():
    names = sorted(map(str, range(12)))
    with pytest.raises(InputError, match="'2' could be any of the outputs 2, 4"):
        class_outputs(table(("0", "cat"), ("2", "dog")), PETS, 12, [names])


def test_a_class_of_several_outputs_has_the_probability_of_their_union():
    logits = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
    found = as_class_logits(logits, [[1], [0, 2, 3]])
    by_hand = np.stack([logits[:, 1], logsumexp(logits[:, [0, 2, 3]], axis=1)], axis=1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    p = softmax(logits, axis=1)
    np.testing.assert_allclose(softmax(found, axis=1)[:, 1], p[:, [0, 2, 3]].sum(axis=1), rtol=1e-5)


def test_a_map_of_another_manifest_must_fit():
    assert fits(None, 3, 3)
    assert fits([2, 0], 2, 3)
    assert fits([[0], [1, 2]], 2, 3)
    for outputs in ([2, 0], [[0], [3]], [[0], []], [[-1], [0]], [[0]]):
        assert not fits(outputs, 2, 2)


def test_english_names_of_imagenet_find_their_outputs_among_a_thousand():
    assert output_map(None, ["tench", "goldfish"], 1000) == [0, 1]
    assert output_map(None, ["Great_White_Shark", "Tench"], 1000) == [2, 0]
    with pytest.raises(InputError, match="the teacher has 1000 outputs, the data set has 2 classes") as caught:
        output_map(None, ["tench", "fish"], 1000)
    assert "--outputs FILE" in caught.value.hint


def test_as_many_english_names_as_outputs_stay_in_their_order():
    names = sorted(known_names(1000)[1].names)
    if len(set(names)) == 1000:
        assert output_map(None, names, 1000) is None


@pytest.mark.parametrize("count", [11221, 11821, 21841, 21842, 21843])
def test_folders_of_the_larger_imagenets_find_their_outputs(count):
    info = pytest.importorskip("timm.data").ImageNetInfo(
        pytest.importorskip("timm.data").infer_imagenet_subset({"num_classes": count})
    )
    places = [5, 3, count - 1]
    wnids = [info.index_to_label_name(place) for place in places]
    assert output_map(None, wnids, count) == places
    assert presumed_names(None, wnids, count).what.startswith("the WordNet ids of ImageNet-")


def test_english_names_of_the_larger_imagenets_are_taken_where_no_two_share_them():
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-22k")
    first = [info.index_to_description(place).partition(",")[0].casefold() for place in range(info.num_classes())]
    count = Counter(first)
    alone = [place for place, name in enumerate(first) if count[name] == 1][:2]
    assert output_map(None, [first[place] for place in alone], 21841) == alone
    twice = next(name for name in first if count[name] > 1)
    with pytest.raises(InputError, match="could be any of the teacher's outputs"):
        output_map(None, [first[alone[0]], twice], 21841)


def test_of_1001_outputs_the_hint_says_how_to_write_the_file():
    with pytest.raises(InputError, match="the teacher has 1001 outputs") as caught:
        output_map(None, list(imagenet_wnids()[:2]), 1001)
    assert "(echo background; python -c" in caught.value.hint
    outputs = named_outputs(["background", *imagenet_wnids()], "outputs.txt")
    assert class_outputs(outputs, list(imagenet_wnids()[:2]), 1001) == [1, 2]


@pytest.mark.timeout(20)
def test_a_pipe_is_not_a_file_of_outputs(tmp_path):
    for name in ("outputs.csv", "outputs.txt"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            read_outputs(tmp_path / name)
