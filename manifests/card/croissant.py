"""croissant.json: a manifest described in MLCommons Croissant 1.1, with the digests of its files and its provenance.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html; provenance in the terms of W3C PROV-O.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from manifests.base.files import write_atomic
from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.card.text import TITLES, unlinked
from manifests.errors import InputError
from manifests.format.columns import columns_of, tables_of
from manifests.format.header_file import MAX_HEADER_BYTES
from manifests.manifest import Manifest
from manifests.stores.store import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from manifests.format.header import FileEntry, Header

NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.1"
_PARQUET = "application/x-parquet"
_TYPES = {
    "int64": "cr:Int64", "int32": "cr:Int32", "uint64": "cr:UInt64", "uint16": "cr:UInt16", "uint8": "cr:UInt8",
    "float32": "cr:Float32", "float16": "cr:Float16", "bool": "sc:Boolean", "string": "sc:Text", "binary": "sc:Text",
}  # fmt: skip
_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
    "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
    "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}


def write_croissant(manifest: Manifest, folder: "Path", url: str | None = None) -> None:
    """Write croissant.json into a folder, dated as the file of the header."""
    made = (manifest.folder / HEADER_NAME).stat().st_mtime
    content = croissant(manifest.header, url=url, date=datetime.fromtimestamp(made, UTC).date().isoformat())
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomic(folder / NAME, (text + "\n").encode())


def url_in(folder: "Path") -> str | None:
    """Return where a manifest will be, as an earlier croissant.json in its folder says; None if it does not."""
    try:
        found = json.loads(LocalStore(folder).read(NAME, MAX_HEADER_BYTES)).get("url")
    except (OSError, InputError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def croissant(header: "Header", *, date: str, url: str | None = None) -> dict[str, Any]:
    """Return the manifest as JSON-LD; `date` (YYYY-MM-DD) is when it was published. Images are not among its files."""
    title = f"{TITLES[header.kind]} of {header.data.name}"
    files = [entry for entry in header.files if entry.path != BETON_NAME]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": unlinked(title),
        "description": _description(header, title),
        "license": header.data.licence or "not stated",
        **({} if url is None else {"url": url}),
        "version": f"1.0.0+{header.id[:16]}",
        "datePublished": date,
        "citeAs": unlinked(f"{title}, {header.tool.name} manifest {header.id}"),
        "keywords": ["knowledge distillation", "data pruning", header.kind],
        "distribution": [*map(_file_object, files), *(_file_set(table) for table in tables_of(header))],
        "recordSet": [_record_set(table, header) for table in tables_of(header)],
        **_provenance(header),
    }


def _description(header: "Header", title: str) -> str:
    data = header.data
    who = "" if header.teacher is None else f", seen by {header.teacher.spec}"
    return unlinked(
        f"{title}: {data.readable:,} readable images of {data.count:,} in {data.classes_text}{who}. "
        f"Holds no images. Fingerprint of the data: {data.fingerprint}."
    )


def _file_object(entry: "FileEntry") -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": quote(entry.path),
        "name": quote(entry.path),
        "contentUrl": quote(entry.path),
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": _PARQUET if entry.path.endswith(".parquet") else "application/octet-stream",
        "sha256": entry.sha256,
    }


def _file_set(table: str) -> dict[str, Any]:
    name = _table_id(table)
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-parts",
        "name": f"{name}-parts",
        "description": unlinked(f"The parts of table {table}, 8,192 samples each."),
        "encodingFormat": _PARQUET,
        "includes": f"{table}/*.parquet",
    }


def _record_set(table: str, header: "Header") -> dict[str, Any]:
    name = _table_id(table)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/sample_id"},
        "field": list(_fields(table, header)),
    }


def _fields(table: str, header: "Header") -> Iterator[dict[str, Any]]:
    name = _table_id(table)
    for column in columns_of(table, header):
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{name}/{quote(column.name, safe='')}",
            "name": f"{name}/{quote(column.name, safe='')}",
            "description": unlinked(column.meaning + (f"; {column.harder} is harder" if column.harder else "")),
            "dataType": _TYPES[column.type],
            "source": {"fileSet": {"@id": f"{name}-parts"}, "extract": {"column": column.name}},
        }
        if column.width is not None:
            field |= {"isArray": True, "arrayShape": str(column.width)}
        if column.name == "sample_id" and table != "samples":
            field["references"] = {"field": {"@id": "samples/sample_id"}}
        yield field


def _provenance(header: "Header") -> dict[str, Any]:
    """Return the parents, the command and tool that made the manifest, and the teacher."""
    command = header.config.get("command")
    activity: dict[str, Any] = {
        "@type": "prov:Activity",
        "prov:label": f"prune {command}" if isinstance(command, str) else "prune index",
        "prov:wasAssociatedWith": {
            "@type": "prov:SoftwareAgent",
            "prov:label": f"{header.tool.name} {header.tool.version}",
        },
    }
    if header.teacher is not None:
        weights = f"urn:sha256:{quote(header.teacher.weights_sha256)}"
        activity["prov:used"] = {"@type": "prov:Entity", "@id": weights, "prov:label": header.teacher.spec}
    derived = [{"@type": "prov:Entity", "@id": f"urn:sha256:{quote(parent)}"} for parent in header.parents]
    return {"prov:wasGeneratedBy": activity, **({"prov:wasDerivedFrom": derived} if derived else {})}


def _table_id(table: str) -> str:
    return quote(table.replace("/", "-"), safe="")
