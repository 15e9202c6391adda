import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.errors import InputError
from manifests.format.header import DataSet, FileEntry, Header, Labels, Tool, Views
from manifests.format.header_file import write_header
from manifests.format.parts import SELECTION_SCHEMA, part_path, vectors_table, write_part
from manifests.images.decode import BetonImage, Encoded, Pixels, beton_form
from manifests.integrity import Finding, beton_problems, verify
from manifests.manifest import Manifest, commit, file_entry, part_entries

COUNT = 6
SELECTION, LOGITS = part_path("selection", 0), part_path("logits/view-000", 0)
ALLOCATION_BYTES = 24


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(stream, "JPEG")
    return stream.getvalue()


def write(path: Path, images: list[BetonImage], views: int = 1) -> Path:
    row_N = np.arange(len(images))
    columns = BetonColumns(
        label_N=row_N,
        sample_id_N=row_N,
        view_id_N=row_N.astype(np.uint64),
        weight_N=np.ones(len(images)),
        kd_weight_N=np.ones(len(images)),
    )
    targets = np.zeros((len(images), views, 4), np.float16)
    write_beton(path, images, columns, targets=targets, target_shape=(views, 4))
    return path


def raw(seed: int, side: int = 5) -> BetonImage:
    return beton_form(Pixels(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    folder = tmp_path / "selection"
    table = pa.table(
        {"sample_id": range(COUNT), "keep": [True] * COUNT, "reason": ["kept"] * COUNT, "weight": [1.0] * COUNT,
         "kd_weight": [1.0] * COUNT},
        schema=SELECTION_SCHEMA,
    )  # fmt: skip
    write_part(folder / SELECTION, table, "d1")
    write_part(folder / LOGITS, vectors_table(np.arange(COUNT), "logits", np.ones((COUNT, 4), np.float16)), "d1")
    write(folder / BETON_NAME, [raw(row) for row in range(COUNT - 1)] + [beton_form(Encoded(jpeg(8, 6)))])
    files = [*part_entries(folder, ["selection", "logits/view-000"], COUNT), file_entry(folder, BETON_NAME, COUNT)]
    data = DataSet(name="d", source="folder", count=COUNT, readable=COUNT, class_names=["a", "b"], fingerprint="f" * 64)
    return commit(
        folder, Header(kind="selection", data=data, tool=Tool(name="prune-toolkit", version="1"), files=files)
    )


def rewrite(manifest: Manifest, path: str, **changes: object) -> None:
    """Let the header say something else of one file; its other facts are those of the file now."""
    old = manifest.header.file(path)
    assert old is not None
    fresh = file_entry(manifest.path, path, old.rows).model_copy(update=changes)
    files = [fresh if entry.path == path else entry for entry in manifest.header.files]
    write_header(manifest.path, manifest.header.model_copy(update={"files": files}))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_whole_manifest_is_whole(manifest: Manifest) -> None:
    report = verify(str(manifest.path))
    assert report.ok
    assert (report.files, report.absent, report.findings) == (3, [], [])
    assert report.bytes == sum(entry.bytes for entry in manifest.header.files)
    assert report.manifest_id == manifest.id
    assert json.loads(json.dumps(report.as_json()))["ok"] is True


def test_views_the_header_counts_must_be_there(manifest: Manifest) -> None:
    views = Views(recipe="pad_crop_flip", version=1, seed=0, count=3, image_px=8)
    write_header(manifest.path, manifest.header.model_copy(update={"kind": "scores", "views": views}))
    assert verify(manifest.path).findings == [Finding("logits", "has 1 views, the header says 3")]
    write_header(manifest.path, manifest.header.model_copy(update={"views": views}))
    assert verify(manifest.path).ok, "a selection has no logits of its own"


@pytest.mark.parametrize(
    ("update", "form"), [({}, None), ({"views": 2}, "(2, 4)"), ({"top_k": 3}, "(1, 19)"), ({"views": 1}, None)]
)
def test_targets_of_a_beton_must_have_the_form_the_header_names(
    manifest: Manifest, update: dict[str, int], form: str | None
) -> None:
    labels = Labels(transform="raw", parameters={}, **{"views": 1, **update})
    for view in range(labels.views):
        path = part_path(f"targets/view-{view:03d}", 0)
        write_part(manifest.path / path, vectors_table(np.arange(COUNT), "target", np.ones((COUNT, 4), np.float16)), "")
    tables = ["selection", "logits/view-000", *(f"targets/view-{view:03d}" for view in range(labels.views))]
    data = manifest.header.data.model_copy(update={"class_names": list("abcd")})
    files = [*part_entries(manifest.path, tables, COUNT), file_entry(manifest.path, BETON_NAME, COUNT)]
    write_header(manifest.path, manifest.header.model_copy(update={"labels": labels, "data": data, "files": files}))
    expected = [] if form is None else [f"has targets of shape (1, 4), the header's labels {form}"]
    assert [finding.problem for finding in verify(manifest.path).findings] == expected


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ALTERED = "was altered: its sha256 is not the one the header names"
DAMAGES: dict[str, tuple[Callable[[Manifest], object], str, str]] = {
    "an altered part": (lambda m: flip(m.path / SELECTION, 200), SELECTION, ALTERED),
    "altered logits": (lambda m: flip(m.path / LOGITS, 50), LOGITS, ALTERED),
    "a missing part": (lambda m: (m.path / SELECTION).unlink(), SELECTION, "is missing"),
    "a folder for a part": (lambda m: replace_by_folder(m.path / LOGITS), LOGITS, "is missing"),
    "a truncated part": (lambda m: cut(m.path / LOGITS), LOGITS, "bytes, the header says"),
    "wrong rows of a table": (lambda m: rewrite(m, SELECTION, rows=7), SELECTION, "has 6 rows, the header says 7"),
    "wrong rows of logits": (lambda m: rewrite(m, LOGITS, rows=5), LOGITS, "has 6 rows, the header says 5"),
    "wrong rows of a beton": (lambda m: rewrite(m, BETON_NAME, rows=5), BETON_NAME, "has 6 rows, the header says 5"),
    "a truncated beton": (lambda m: cut(m.path / BETON_NAME), BETON_NAME, "bytes, the header says"),
    "a flipped byte in a beton": (lambda m: flip(m.path / BETON_NAME, 9000), BETON_NAME, ALTERED),
    "a beton that is a folder": (lambda m: replace_by_folder(m.path / BETON_NAME), BETON_NAME, "is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_as_itself_and_as_nothing_else(manifest: Manifest, name: str) -> None:
    damage, path, problem = DAMAGES[name]
    damage(manifest)
    report = verify(manifest.path)
    assert not report.ok
    assert [finding.path for finding in report.findings] == [path]
    assert problem in report.findings[0].problem
    assert report.absent == []
    assert report.bytes < sum(entry.bytes for entry in manifest.header.files)


def test_several_damages_are_all_found_in_the_order_of_the_header(manifest: Manifest) -> None:
    for name in ("a missing part", "altered logits", "a truncated beton"):
        DAMAGES[name][0](manifest)
    assert [finding.path for finding in verify(manifest.path).findings] == [LOGITS, SELECTION, BETON_NAME]


def test_an_absent_beton_is_no_damage(manifest: Manifest) -> None:
    (manifest.path / BETON_NAME).unlink()
    report = verify(manifest.path)
    assert report.ok
    assert report.absent == [BETON_NAME]


def test_a_part_that_is_no_parquet_is_found_although_its_digest_holds(manifest: Manifest) -> None:
    (manifest.path / LOGITS).write_bytes(b"text")
    rewrite(manifest, LOGITS)
    (finding,) = verify(manifest.path).findings
    assert finding.path == LOGITS
    assert "is not a readable Parquet file" in finding.problem


def test_an_unfinished_beton_is_found_although_its_digest_holds(manifest: Manifest) -> None:
    path = manifest.path / BETON_NAME
    content = bytearray(path.read_bytes())
    content[16:24] = bytes(8)
    path.write_bytes(content)
    rewrite(manifest, BETON_NAME)
    (finding,) = verify(manifest.path).findings
    assert finding.path == BETON_NAME
    assert "allocation table" in finding.problem


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "samples/../../secret", "a\0b", "", ".", "x" * 5000, "a/" + "y" * 300]
)
def test_a_header_that_names_odd_paths_is_refused_and_nothing_outside_is_read(manifest: Manifest, path: str) -> None:
    (manifest.path.parent / "secret").write_bytes(b"")
    empty = FileEntry(
        path=path, rows=0, bytes=0, sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    write_header(manifest.path, manifest.header.model_copy(update={"files": [*manifest.header.files, empty]}))
    with pytest.raises(InputError, match=r"manifest\.json: files: the path"):
        verify(manifest.path)


def test_a_table_that_lacks_rows_is_found(manifest: Manifest) -> None:
    data = manifest.header.data.model_copy(update={"count": 9000})
    write_header(manifest.path, manifest.header.model_copy(update={"data": data}))
    assert verify(manifest.path).findings == [Finding("selection", "has 6 rows for 9,000 samples")]


def test_a_table_in_parts_of_another_size_is_found(manifest: Manifest) -> None:
    second = part_path("selection", 1)
    (manifest.path / second).write_bytes((manifest.path / SELECTION).read_bytes())
    header = manifest.header
    data = header.data.model_copy(update={"count": 12})
    files = [*header.files, file_entry(manifest.path, second, 6)]
    write_header(manifest.path, header.model_copy(update={"data": data, "files": files}))
    problem = "has a part before the last that does not have 8,192 rows"
    assert verify(manifest.path).findings == [Finding("selection", problem)]


def test_a_folder_that_is_no_manifest_is_an_input_error(tmp_path: Path, manifest: Manifest) -> None:
    (manifest.path / HEADER_NAME).write_text("{")
    for path in (tmp_path, tmp_path / "absent", manifest.path):
        with pytest.raises(InputError):
            verify(path)


def allocation(path: Path, entry: int) -> int:
    """Where an entry of the allocation table lies; counted from the end when negative."""
    content = path.read_bytes()
    (start,) = struct.unpack_from("<Q", content, 16)
    return int(start) + entry * ALLOCATION_BYTES if entry >= 0 else len(content) + entry * ALLOCATION_BYTES


def put(path: Path, place: int, kind: str, *values: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, place, *values)
    path.write_bytes(content)


def problems(path: Path) -> list[str]:
    return list(beton_problems(Beton.open(path)))


def test_a_sound_beton_has_no_problem(tmp_path: Path) -> None:
    images = [raw(0), beton_form(Encoded(jpeg(3, 9))), raw(1, 700), raw(2), raw(3, 900)]
    assert problems(write(tmp_path / "a.beton", images)) == []


def test_a_table_that_gives_a_region_to_another_sample_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [raw(row) for row in range(4)])
    put(path, allocation(path, 2), "<Q", 3)
    assert problems(path) == ["row 1: the allocation table gives its image to sample 3"]
    put(path, allocation(path, 2), "<Q", 1)
    put(path, allocation(path, 5), "<Q", 0)
    assert problems(path) == ["row 2: the allocation table gives its target to sample 0"]


def test_two_samples_that_changed_places_in_the_table_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [raw(row) for row in range(4)])
    for entry, sample in ((0, 2), (1, 2), (4, 0), (5, 0)):
        put(path, allocation(path, entry), "<Q", sample)
    assert problems(path) == [
        "row 0: the allocation table gives its image to sample 2",
        "row 0: the allocation table gives its target to sample 2",
    ]


@pytest.mark.parametrize("sample", [4, 1 << 40, (1 << 64) - 1])
def test_a_table_that_names_a_sample_there_is_not_is_found(tmp_path: Path, sample: int) -> None:
    path = write(tmp_path / "a.beton", [raw(row) for row in range(4)])
    put(path, allocation(path, -1), "<Q", sample)
    assert problems(path) == [f"the allocation table names sample {sample} of 4"]


def test_a_region_that_crosses_a_page_is_found(tmp_path: Path) -> None:
    """A page size smaller than the one it was written for: as a writer that knows no pages would leave it."""
    path = write(tmp_path / "a.beton", [raw(0, 100), raw(1, 900), raw(2, 900), raw(3)])
    assert problems(path) == []
    put(path, 4, "<I", 1 << 20)
    assert problems(path) == ["row 1 lies on two pages"]


def test_a_sample_whose_regions_lie_on_two_pages_is_found(tmp_path: Path) -> None:
    page_bytes = 1 << 14
    start = int(Beton.open(write(tmp_path / "probe.beton", [raw(0), raw(1)])).image_pointer_N[0])
    data = np.frombuffer(jpeg(8, 6).ljust(page_bytes - start, b"\0"), np.uint8)
    path = write(tmp_path / "a.beton", [BetonImage(mode=0, data=data, width=8, height=6), raw(1)])
    assert problems(path) == []
    put(path, 4, "<I", page_bytes)
    assert problems(path) == ["row 0 lies on two pages"]


def test_a_jpeg_of_another_size_than_its_metadata_is_found(tmp_path: Path) -> None:
    image = beton_form(Encoded(jpeg(8, 6)))
    wrong = BetonImage(mode=0, data=image.data, width=6, height=8)
    path = write(tmp_path / "a.beton", [raw(0), image, wrong, wrong])
    assert problems(path) == ["row 2: its JPEG does not have the 6x8 pixels that its metadata names"]


def test_a_region_that_is_no_jpeg_is_found(tmp_path: Path) -> None:
    garbage = BetonImage(mode=0, data=np.arange(90, dtype=np.uint8), width=6, height=8)
    assert problems(write(tmp_path / "a.beton", [garbage])) == [
        "row 0: its JPEG does not have the 6x8 pixels that its metadata names"
    ]


def test_a_jpeg_that_turbojpeg_makes_no_rgb_of_is_found(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (6, 8)).save(stream, "JPEG")
    cmyk = BetonImage(mode=0, data=np.frombuffer(stream.getvalue(), np.uint8), width=6, height=8)
    assert problems(write(tmp_path / "a.beton", [raw(0), cmyk])) == ["row 1: its JPEG has 4 components of 8 bits"]
