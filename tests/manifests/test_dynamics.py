"""Recorded dynamics: written by hand, read back, damaged in every way that a disk or a person can."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.errors import InputError
from manifests.format.dynamics import ABS_KL, GRAND, DynamicsInfo, read_dynamics, write_epoch
from manifests.format.parts import PART_ROWS

ROWS = PART_ROWS + 3
SAMPLE_ID_N = np.arange(ROWS) * 2 + 1


def info(**changes):
    facts = {"fingerprint": "f" * 64, "manifest": "a" * 64, "count": 3 * ROWS, "rows": ROWS, "student": "resnet8"}
    return DynamicsInfo(**facts | {"seed": 3, "run": "b" * 64, "epochs_recorded": 1, "grand_epochs": 1} | changes)


def columns(epoch, *, grand):
    row_N = np.arange(ROWS)
    values = {
        "p_y": ((row_N + epoch) % 97 / 97).astype(np.float32),
        "margin": (row_N - 5.5 * epoch).astype(np.float32),
        "correct": (row_N + epoch) % 3 == 0,
        "el2n": np.sqrt(row_N + epoch).astype(np.float32),
    }
    return values | ({GRAND: (row_N / 8).astype(np.float32)} if grand else {})


@pytest.fixture
def run(tmp_path):
    """A run of two epochs, the first one with gradient norms."""
    for epoch in range(2):
        write_epoch(tmp_path, info(epochs_recorded=epoch + 1), epoch, SAMPLE_ID_N, columns(epoch, grand=epoch == 0))
    return tmp_path


def part(run, epoch, number):
    return run / "dynamics" / f"epoch-{epoch:04d}" / f"part-{number:05d}.parquet"


def test_what_was_written_is_read_back_column_by_column(run):
    dynamics = read_dynamics(run)
    assert dynamics.info == info(epochs_recorded=2)
    assert np.array_equal(dynamics.sample_id_N, SAMPLE_ID_N)
    for epoch in range(2):
        want, got = columns(epoch, grand=epoch == 0), dynamics.epoch(epoch)
        assert want.keys() == got.keys()
        for name, values in want.items():
            assert got[name].dtype == values.dtype
            assert np.array_equal(got[name], values)


def test_a_record_of_format_2_has_changes_in_all_but_the_first_epoch(tmp_path):
    for epoch in range(2):
        values = columns(epoch, grand=False) | ({ABS_KL: np.full(ROWS, 0.25, np.float32)} if epoch else {})
        write_epoch(tmp_path, info(format=2, epochs_recorded=epoch + 1, grand_epochs=0), epoch, SAMPLE_ID_N, values)
    dynamics = read_dynamics(tmp_path)
    assert dynamics.info.has_kl
    assert [ABS_KL in dynamics.epoch(epoch) for epoch in range(2)] == [False, True]
    path = tmp_path / "dynamics" / "dynamics.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 1}))
    with pytest.raises(InputError, match="was altered, or another run wrote it"):
        read_dynamics(tmp_path).epoch(1)


def test_how_much_was_stepped_is_told_where_the_record_says(run):
    assert read_dynamics(run).stepped_share() is None
    path = run / "dynamics" / "dynamics.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | {"stepped": [ROWS, 0]}))
    assert read_dynamics(run).stepped_share() == 0.5
    del content["stepped"]
    path.write_text(json.dumps(content))
    assert read_dynamics(run).info.stepped is None


def test_the_content_of_a_run_is_known_by_its_parts(run):
    before = read_dynamics(run).content_digest
    write_epoch(run, info(epochs_recorded=2), 1, SAMPLE_ID_N, columns(1, grand=False))
    assert read_dynamics(run).content_digest == before
    other = columns(1, grand=False)
    other["p_y"][-1] += 0.25
    write_epoch(run, info(epochs_recorded=2), 1, SAMPLE_ID_N, other)
    assert read_dynamics(run).content_digest != before
    part(run, 1, 1).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"part-00001\.parquet is not a part"):
        _ = read_dynamics(run).content_digest


def test_the_files_are_as_documented(run):
    content = json.loads((run / "dynamics" / "dynamics.json").read_bytes())
    assert (content["format"], content["fingerprint"], content["manifest"]) == (1, "f" * 64, "a" * 64)
    assert (content["epochs_recorded"], content["grand_epochs"], content["student"]) == (2, 1, "resnet8")
    first, second = (pq.read_table(part(run, 0, number)) for number in range(2))
    assert (len(first), len(second)) == (PART_ROWS, 3)
    assert first.column("sample_id").to_pylist()[:3] == [1, 3, 5]
    assert [str(kind) for kind in first.schema.types] == ["int64", "float", "float", "bool", "float", "float"]
    assert first.column_names == ["sample_id", "p_y", "margin", "correct", "el2n", "grand"]
    assert pq.read_table(part(run, 1, 0)).column_names == ["sample_id", "p_y", "margin", "correct", "el2n"]


def test_the_same_epoch_has_the_same_bytes(run):
    before = part(run, 1, 0).read_bytes()
    write_epoch(run, info(epochs_recorded=2), 1, SAMPLE_ID_N, columns(1, grand=False))
    assert part(run, 1, 0).read_bytes() == before


def test_an_epoch_that_was_not_recorded_is_no_epoch(run):
    dynamics = read_dynamics(run)
    for epoch in (-1, 2):
        with pytest.raises(IndexError):
            dynamics.epoch(epoch)


def test_a_run_without_a_record_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"holds no dynamics/dynamics\.json") as caught:
        read_dynamics(tmp_path)
    assert "--record-dynamics" in str(caught.value)


def test_a_missing_part_is_named(run):
    part(run, 1, 1).unlink()
    dynamics = read_dynamics(run)
    with pytest.raises(InputError, match=r"epoch-0001/part-00001\.parquet"):
        dynamics.epoch(1)


def test_an_altered_part_is_found(run):
    table = pq.read_table(part(run, 1, 1))
    rows = table.to_pydict()
    rows["p_y"][0] += 0.25
    changed = table.from_pydict(rows, schema=table.schema)
    assert changed.schema.metadata == table.schema.metadata
    pq.write_table(changed, part(run, 1, 1))
    with pytest.raises(InputError, match=r"part-00001\.parquet was altered"):
        read_dynamics(run).epoch(1)


def test_the_part_of_another_epoch_or_run_is_not_taken_for_this_one(run):
    part(run, 1, 1).write_bytes(part(run, 0, 1).read_bytes())
    with pytest.raises(InputError, match="was altered, or another run wrote it"):
        read_dynamics(run).epoch(1)
    other = replace(info(epochs_recorded=2), run="c" * 64)
    write_epoch(run, other, 1, SAMPLE_ID_N, columns(1, grand=False))
    with pytest.raises(InputError, match="another run wrote it"):
        read_dynamics(run)


def test_epochs_of_unequal_samples_are_refused(run):
    write_epoch(run, info(epochs_recorded=2), 1, SAMPLE_ID_N + 1, columns(1, grand=False))
    with pytest.raises(InputError, match="epoch 2 recorded other samples than the first one"):
        read_dynamics(run).epoch(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "has format 3; this tool reads 1 and 2"),
        ({"format": None}, "does not describe recorded dynamics"),
        ({"fingerprint": 7}, "fingerprint is missing or malformed"),
        ({"columns": None}, "columns is missing or malformed"),
        ({"epochs_recorded": 0}, "describes 0 epochs"),
        ({"stepped": 3}, "stepped is missing or malformed"),
        ({"stepped": [1]}, "stepped is missing or malformed"),
        ({"stepped": [1, None]}, "stepped is missing or malformed"),
        ({"rows": 5}, "was altered, or another run wrote it"),
    ],
)
def test_a_description_that_cannot_be_is_refused(run, change, message):
    path = run / "dynamics" / "dynamics.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(InputError, match=message):
        read_dynamics(run)


def test_a_description_that_is_no_json_is_refused(run):
    for content in (b"", b"{", b"[1]", b"\xff"):
        (run / "dynamics" / "dynamics.json").write_bytes(content)
        with pytest.raises(InputError, match=r"dynamics\.json"):
            read_dynamics(run)


def test_rows_out_of_order_or_columns_that_do_not_belong_are_not_written(tmp_path):
    for ids, values in (
        (SAMPLE_ID_N[::-1], columns(0, grand=True)),
        (SAMPLE_ID_N, columns(0, grand=False)),
        (SAMPLE_ID_N[:5], columns(0, grand=True)),
    ):
        with pytest.raises(ValueError, match="epoch 0 needs"):
            write_epoch(tmp_path, info(), 0, ids, values)
    assert list(tmp_path.iterdir()) == []
