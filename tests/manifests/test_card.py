"""The card and croissant.json of a manifest: for people, for the Hugging Face hub, for Croissant readers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

from manifests.card.croissant import croissant
from manifests.card.readme import card, is_card, write_full_card
from manifests.card.text import LICENCES, code, licence_id, plain, size_category
from manifests.errors import InputError
from manifests.format.columns import columns_of, tables_of
from manifests.format.header import FileEntry, Header, ScoreSpec
from manifests.manifest import Manifest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/manifest.json"))
EVIL = "<script>alert(1)</script> [x](http://evil.example) `rm -rf` | *b* # \u202e"


@pytest.fixture(params=FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def golden(request: pytest.FixtureRequest) -> Manifest:
    return Manifest.open(request.param)


def front_matter(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    content: dict[str, Any] = yaml.safe_load(matter)
    return content


def test_the_front_matter_names_every_table_to_the_hub(golden: Manifest) -> None:
    matter = front_matter(card(golden.header))
    assert matter["license"] == "unknown"
    assert matter["size_categories"] == ["n<1K"]
    assert matter["task_categories"] == ["image-classification"]
    found = set()
    for config in matter["configs"]:
        # What the hub takes for the name of a config and of a split.
        assert re.fullmatch(r"[a-z0-9-]+", config["config_name"])
        [files] = config["data_files"]
        assert files["split"] == "train"
        matched = {path.relative_to(golden.folder).as_posix() for path in golden.folder.glob(files["path"])}
        assert matched
        assert not matched & found
        found |= matched
    assert found == {entry.path for entry in golden.header.files}
    assert [config.get("default") for config in matter["configs"]].count(True) == 1


def test_the_card_describes_every_column_that_is_stored(golden: Manifest) -> None:
    text = card(golden.header)
    for table in tables_of(golden.header):
        [first, *_] = golden.files(table)
        stored = golden.part(first)
        described = columns_of(table, golden.header)
        assert [column.name for column in described] == stored.column_names
        for column in described:
            assert f"| `{table}` | `{column.name}` |" in text
            kind = stored.schema.field(column.name).type
            if column.width is not None:
                assert kind.list_size == column.width
                kind = kind.value_type
            spelled = {"float": "float32", "halffloat": "float16", "fixed_size_binary[16]": "binary"}
            assert spelled.get(str(kind), str(kind)) == column.type
    for spec in golden.header.scores:
        if golden.has(f"scores/{spec.set}"):
            assert f"| `{spec.name}` | float32 | {spec.harder} |" in text


def test_the_card_tells_data_teacher_use_and_where_it_is_from() -> None:
    header = Manifest.open(GOLDEN / "1.2" / "selection").header
    text = card(header, url="s3://bucket/m")
    for told in (
        "- 12 readable images of 13 in 3 classes",
        "licence of the data: not stated; images not stated whether to pass on",
        "colour\\_teacher:colours, 9 parameters, top-1 83.33 %",
        "- kept: 6 samples (50.00 %) by medium",
        "prune pull s3://bucket/m manifest\nprune cut manifest --data IMAGES\ntrain-student --manifest cut\n",
        "- this manifest: `prune select`",
        f"- made from: `{header.parents[0]}`",
        "- 1 before that: `prune score`",
    ):
        assert told in text


def test_a_student_needs_the_images_and_the_card_says_where_they_are_from() -> None:
    bare = Manifest.open(GOLDEN / "1.2" / "selection").header
    beton = FileEntry(path="train.beton", rows=6, bytes=1, sha256="0" * 64)
    header = bare.model_copy(update={"files": [*bare.files, beton]})

    def commands(with_images: bool = False, **changes: object) -> list[str]:
        text = card(header.model_copy(update=changes), with_images=with_images)
        return text.partition("```sh\n")[2].partition("\n```")[0].splitlines()

    own = ["prune pull URL manifest", "prune cut manifest --data IMAGES", "train-student --manifest cut"]
    sent = ["prune pull URL manifest --with-images", "prune verify manifest", "train-student --manifest manifest"]
    assert commands() == own
    assert commands(with_images=True) == sent
    assert "The images come with it" in card(header, with_images=True)
    # Without a beton there is none to send, without labels none to learn, without targets nothing to train on.
    assert commands(with_images=True, files=bare.files) == own
    assert commands(labels=None) == [*own[:2], f"{own[2]} --loss ce"]
    assert commands(left_out=["targets"])[2] == "prune show manifest"
    hidden = Manifest.open(GOLDEN / "1.3" / "hidden").header.hidden
    assert commands(hidden=hidden)[1] == "prune cut manifest --data IMAGES --secret FILE"


def test_what_came_before_is_told_of_every_parent() -> None:
    header = Manifest.open(GOLDEN / "1.2" / "scores").header
    run = {"parent_runs": [{"command": "split", "parent_run": {"command": "score"}}, {"command": "score"}, "odd"]}
    text = card(header.model_copy(update={"run": run}))
    assert "- 1 before that: `prune split`, `prune score`\n- 2 before that: `prune score`\n" in text


def test_nothing_of_a_run_or_of_this_machine_is_on_the_card(golden: Manifest) -> None:
    other = golden.header.model_copy(update={"run": {**golden.header.run, "seconds": 12345.678, "host": "secret"}})
    assert card(other) == card(golden.header)


def evil_header() -> Header:
    header = Manifest.open(GOLDEN / "1.2" / "scores").header
    assert header.teacher is not None
    data = header.data.model_copy(update={"name": EVIL, "licence": EVIL, "class_names": [EVIL, "b", "c"]})
    spec = ScoreSpec(set="../../up", name="a|b`c$x$", formula=EVIL, source=EVIL, harder="high")
    return header.model_copy(
        update={
            "data": data,
            "teacher": header.teacher.model_copy(update={"spec": EVIL}),
            "scores": [*header.scores, spec],
            "parents": ["`evil`\n# title"],
            "config": {"command": "x`; rm", "note": EVIL},
        }
    )


def test_text_of_a_manifest_is_no_markup_on_its_card() -> None:
    text = card(evil_header(), url="s3://b/$(rm -rf ~); echo")
    body = text.split("---\n", 2)[2]
    assert "<script" not in re.sub(r"\\<", "", body)
    assert not re.search(r"(?<!\\)\]\(http", body)
    assert "http:" not in body
    assert "\u202e" not in text
    assert "$(rm" not in text
    assert "prune pull URL manifest" in text
    assert "# title" not in body.splitlines()
    assert front_matter(text)["pretty_name"].startswith("Scored manifest of <script>")
    assert front_matter(text)["license"] == "other"
    for line in body.splitlines():
        if line.startswith("| "):
            # Five cells, whatever is written in them.
            assert len(re.findall(r"(?<!\\)\|", line)) == 6


def revised(**parameters: Any) -> Header:
    """The golden selection of 6 samples, its labels to be revised."""
    header = Manifest.open(GOLDEN / "1.2" / "selection").header
    assert header.labels is not None
    labels = header.labels.model_copy(update={"transform": "revise", "parameters": parameters})
    return header.model_copy(update={"labels": labels})


def test_the_card_tells_how_many_labels_are_revised() -> None:
    told = "labels revised: 5 of 6 (eta 0.8, scope all); 2 had another class on top"
    assert plain(told) in card(revised(changed=5, wrong=2, eta=0.8, scope="all"))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"changed": "many", "wrong": 1, "eta": 0.8, "scope": "all"},
        {"changed": 5, "wrong": [1], "eta": 0.8, "scope": "all"},
        {"changed": 5, "eta": 0.8, "scope": "all"},
        {"changed": 5, "wrong": 1, "scope": "all"},
        {"changed": 5, "wrong": 1, "eta": "`x`", "scope": "all"},
    ],
)
def test_revision_without_its_numbers_is_not_told(parameters: dict[str, Any]) -> None:
    text = card(revised(**parameters))
    assert "labels revised" not in text
    assert "- targets: revise," in text


def test_what_stands_as_code_or_as_a_transform_cannot_leave_its_place() -> None:
    header = Manifest.open(GOLDEN / "1.2" / "selection").header
    assert header.teacher is not None
    assert header.labels is not None
    evil = "`<b>[x](y)"
    text = card(
        header.model_copy(
            update={
                "data": header.data.model_copy(update={"fingerprint": evil}),
                "teacher": header.teacher.model_copy(update={"weights_sha256": evil}),
                "labels": header.labels.model_copy(update={"transform": evil}),
            }
        )
    )
    assert "- data fingerprint: <code>\\`\\<b\\>\\[x\\](y)</code>, manifest id:" in text
    assert "weights sha256 <code>\\`\\<b\\>\\[x\\](y)</code>\n" in text
    assert "- targets: \\`\\<b\\>\\[x\\](y), single" in text


@pytest.mark.parametrize(
    "text", ["x", "a|b", "`a`", 'x"|`$a^2$`', "\\|", "``\\", "<b>*x*</b>", "<b>|", "a_b|_c_&amp;", "  x "]
)
def test_what_stands_as_code_is_shown_as_it_is(text: str) -> None:
    """A name in a sentence, and in a cell of a table, as another program renders them."""
    reader = MarkdownIt("commonmark").enable("table")
    for markdown in (f"a {code(text)} z", f"| a |\n|---|\n| {code(text)} |"):
        shown = ElementTree.fromstring(f"<page>{reader.render(markdown)}</page>").findall(".//code")
        assert [(each.text or "").strip() for each in shown] == [text.strip()]


LINKS = ("[x](javascript:alert(1))", "![x](http://evil.example/p.png)", "<img src=x>", "<javascript:x>", "[x][y]")


def test_no_name_in_a_header_becomes_a_link_or_a_picture() -> None:
    """Every text of a header, as a renderer of Markdown shows the card and the descriptions of croissant.json."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    header = Manifest.open(GOLDEN / "1.3" / "scores").header
    assert header.teacher is not None
    for evil in LINKS:
        spec = ScoreSpec(set=evil, name=evil, formula=evil, source=evil, harder="high")
        entry = FileEntry(path=f"scores/{evil}/part-00000.parquet", bytes=1, rows=1, sha256="0" * 64)
        forged = header.model_copy(
            update={
                "data": header.data.model_copy(update={"name": evil, "licence": evil}),
                "teacher": header.teacher.model_copy(update={"spec": evil, "licence": evil}),
                "scores": [spec],
                "files": [*header.files, entry],
            }
        )
        shown = [card(forged).split("---\n", 2)[2]]
        said = croissant(forged, date="2026-01-01")
        shown += [said[name] for name in ("name", "description", "citeAs")]
        shown += [each["description"] for each in said["distribution"] if "description" in each]
        shown += [field["description"] for table in said["recordSet"] for field in table["field"]]
        for text in shown:
            assert not re.search(r"<(a|img|script)\b", reader.render(text)), text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", "mit"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("cc_by-nc-sa 4.0", "cc-by-nc-sa-4.0"),
        ("ours", "other"),
        (None, "unknown"),
    ],
)
def test_a_licence_has_the_name_the_hub_knows(licence: str | None, expected: str) -> None:
    assert licence_id(licence) == expected
    assert expected in LICENCES | {"other", "unknown"}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (1_281_167, "1M<n<10M"), (10**9, "n>1B")],
)
def test_sizes_are_in_the_hubs_classes(count: int, expected: str) -> None:
    assert size_category(count) == expected


def test_plain_text_keeps_what_it_says() -> None:
    assert plain("resnet50 v1.5") == "resnet50 v1.5"
    assert plain("a_b <c>") == "a\\_b \\<c\\>"
    assert plain("see https://x.org") == "see https&#8288;://x.org"


ADDRESS = re.compile(
    r"(?i)((https?|ftp)://|www\.)[a-z0-9]|(mailto|xmpp):[a-z0-9]|[a-z0-9._+-]+@[a-z0-9_-]+(\.[a-z0-9_-]+)+"
)
"""What GitHub makes a link of: https://github.github.com/gfm/#autolinks-extension-."""


@pytest.mark.parametrize(
    "text",
    ["evil@evil.com", "xmpp:a@b.c", "mailto:a@b.c", "_https://evil.com", "WWW.evil.com", "(ftp://x.y)", "a_b@c-d.e/x"],
)
def test_no_address_becomes_a_link(text: str) -> None:
    """GitHub and remark look for addresses in what a reader sees, after everything is unescaped."""
    assert ADDRESS.search(text)
    rendered = MarkdownIt("commonmark").render(plain(f"by {text}, and so on"))
    shown = "".join(ElementTree.fromstring(rendered).itertext())
    assert ADDRESS.search(shown) is None
    assert shown.replace("\u2060", "") == f"by {text}, and so on"


def test_cards_of_all_versions_are_known_and_a_page_of_somebody_is_not(golden: Manifest) -> None:
    assert is_card((golden.folder / "README.md").read_text())
    assert is_card(card(golden.header, url="s3://bucket/m"))
    assert is_card(card(evil_header()))
    assert not is_card("# Cars\n\nOur cars, with a manifest id: `none`.\n")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "1.2" / "scores", tmp_path / "m")
    return tmp_path / "m"


def test_the_full_card_has_a_picture_for_each_set_and_the_same_bytes_each_time(copied: Path) -> None:
    before = Manifest.open(copied).id
    paths = write_full_card(copied)
    assert paths == ["README.md", "croissant.json", "card/teacher.svg", "card/features.svg"]
    first = {path: (copied / path).read_bytes() for path in paths}
    for path in paths[2:]:
        root = ElementTree.fromstring(first[path])
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not root.findall(".//{http://www.w3.org/2000/svg}script")
        assert f"![Distribution of scores]({path})" in (copied / "README.md").read_text()
    assert write_full_card(copied) == paths
    assert {path: (copied / path).read_bytes() for path in paths} == first
    assert Manifest.open(copied).id == before


def test_a_set_with_a_path_for_a_name_draws_into_the_manifest(copied: Path) -> None:
    header = json.loads((copied / "manifest.json").read_bytes())
    for spec in header["scores"]:
        spec["set"] = {"features": "a b", "teacher": "teacher"}[spec["set"]]
    for entry in header["files"]:
        old = entry["path"]
        entry["path"] = old.replace("scores/features", "scores/a b")
        if entry["path"] != old:
            (copied / entry["path"]).parent.mkdir(parents=True)
            (copied / old).rename(copied / entry["path"])
    (copied / "manifest.json").write_text(json.dumps(header))
    assert write_full_card(copied)[2:] == ["card/teacher.svg", "card/a_b-1.svg"]
    assert {path.name for path in copied.parent.iterdir()} == {"m"}


@pytest.mark.parametrize("name", ["card", "card/teacher.svg"])
def test_no_picture_is_drawn_through_a_link(copied: Path, name: str) -> None:
    outside = copied.parent / "outside"
    outside.mkdir()
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).symlink_to(outside / "picture" if name.endswith("svg") else outside)
    with pytest.raises(InputError, match="is a symbolic link"):
        write_full_card(copied)
    assert list(outside.iterdir()) == []


def test_a_card_that_is_a_link_is_replaced(copied: Path) -> None:
    outside = copied.parent / "outside"
    outside.write_text("untouched")
    for name in ("README.md", "croissant.json"):
        (copied / name).unlink(missing_ok=True)
        (copied / name).symlink_to(outside)
    write_full_card(copied)
    assert outside.read_text() == "untouched"
    assert not (copied / "README.md").is_symlink()


def validated(content: dict[str, Any], path: Path) -> Any:
    """What MLCommons' own reader makes of it."""
    mlcroissant = pytest.importorskip("mlcroissant")
    path.write_text(json.dumps(content))
    metadata = mlcroissant.Dataset(jsonld=path).metadata
    assert metadata.ctx.issues.errors == set()
    assert metadata.ctx.issues.warnings == set()
    return metadata


@pytest.mark.filterwarnings("ignore")
def test_croissant_readers_find_nothing_to_complain_about(golden: Manifest, tmp_path: Path) -> None:
    content = croissant(golden.header, date="2026-11-21", url="https://example.org/m")
    metadata = validated(content, tmp_path / "croissant.json")
    assert metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    objects = {item.id: item for item in metadata.file_objects}
    assert set(objects) == {entry.path for entry in golden.header.files}
    for entry in golden.header.files:
        assert objects[entry.path].sha256 == entry.sha256
        assert objects[entry.path].content_size == f"{entry.bytes} B"
    described = {record.id: {field.id.rpartition("/")[2] for field in record.fields} for record in metadata.record_sets}
    assert described == {
        table.replace("/", "-"): set(golden.part(golden.files(table)[0]).column_names)
        for table in tables_of(golden.header)
    }
    assert content["prov:wasGeneratedBy"]["prov:wasAssociatedWith"]["prov:label"] == "prune-toolkit 0.1.0"
    derived = [parent["@id"] for parent in content.get("prov:wasDerivedFrom", [])]
    assert derived == [f"urn:sha256:{parent}" for parent in golden.header.parents]


@pytest.mark.filterwarnings("ignore")
def test_odd_text_makes_no_invalid_croissant(tmp_path: Path) -> None:
    validated(croissant(evil_header(), date="2026-11-21"), tmp_path / "croissant.json")
