"""Text of a card, made harmless in Markdown and in YAML, and the front matter that a hub reads."""

import json
import re
from typing import TYPE_CHECKING

from manifests.format.columns import tables_of

if TYPE_CHECKING:
    from manifests.format.header import Header

LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "c-uda",
    "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "ecl-2.0", "epl-2.0", "eupl-1.1", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-3.0", "mit",
    "mpl-2.0", "ms-pl", "odbl", "odc-by", "openrail", "osl-3.0", "pddl", "unlicense", "wtfpl", "zlib",
})  # fmt: skip
"""Licences by their names on the Hugging Face hub, which refuses a card with any other: huggingface.co/docs/hub."""
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
"""The hub's size categories, by their upper bounds."""
SEARCH_PICTURE = "card/search.curve.svg"
"""The picture of a search; those of scores have no further dot in their names."""
TITLES = {"index": "Index", "scores": "Scored manifest", "selection": "Selection"}
_TAGS = {"index": [], "scores": ["soft-labels"], "selection": ["soft-labels", "data-pruning"]}
_APART = "&#8288;"
"""A word joiner: invisible, and not part of an address."""
_MARKED = "\\`*_{}[]<>#+!|~&$"


def plain(text: str) -> str:
    """Return text from a manifest, made harmless in Markdown and in the HTML that it becomes."""
    escaped = "".join("\\" + c if c in _MARKED else c for c in text if c.isprintable())
    # A bare address would become a link, however it is escaped: renderers look for them in the resulting text.
    return re.sub(r"(?i)(?:https?|ftp|mailto|xmpp|www)(?=[:.])|@", rf"\g<0>{_APART}", escaped)


def unlinked(text: str) -> str:
    """Return text for a description that a catalogue may show as Markdown or HTML: no link, picture or tag in it.

    An invisible character stands where one would begin, so that other text keeps its bytes.
    """
    shown = "".join(c for c in text if c.isprintable())
    return re.sub(r"(?i)(?:https?|ftp|mailto|xmpp|www)(?=[:.])|[@<]|\](?=[(\[:])", "\\g<0>\u2060", shown)


def code(text: str) -> str:
    """Return text as code in a line of Markdown or in a cell of a table."""
    shown = "".join(c for c in text if c.isprintable())
    if not shown.strip():
        return ""
    # Nothing is escaped between backticks, where these two would end the code or the cell.
    return f"<code>{plain(shown)}</code>" if {"`", "|"} & set(shown) else f"`{shown}`"


def quoted(text: str) -> str:
    """Return text as a double-quoted YAML scalar."""
    return json.dumps("".join(c for c in text if c.isprintable()), ensure_ascii=False)


def front_matter(header: "Header") -> str:
    """Return the YAML that the Hugging Face hub reads: licence, tags, size, and where its viewer finds each table."""
    data, licence = header.data, licence_id(header.data.licence)
    lines = ["---", f"pretty_name: {quoted(f'{TITLES[header.kind]} of {data.name}')}", f"license: {licence}"]
    if licence == "other" and data.licence is not None:
        lines += [f"license_name: {quoted(_slug(data.licence) or 'other')}"]
    tags = ["knowledge-distillation", *_TAGS[header.kind], "prune-toolkit"]
    lines += ["task_categories:", "- image-classification", "tags:", *(f"- {tag}" for tag in tags)]
    lines += ["size_categories:", f"- {size_category(data.count)}"]
    tables = tables_of(header)
    if tables:
        lines += ["configs:"]
    for table in tables:
        lines += [f"- config_name: {quoted(_slug(table))}", "  data_files:", "  - split: train"]
        lines += [f"    path: {quoted(f'{table}/*.parquet')}"]
        lines += ["  default: true"] if table == ("selection" if header.kind == "selection" else "samples") else []
    return "\n".join([*lines, "---", ""])


def licence_id(licence: str | None) -> str:
    """Return the hub's name for a licence; `other` if the hub does not know it, `unknown` if none is stated."""
    if licence is None:
        return "unknown"
    found = re.sub(r"[\s_]+", "-", licence.strip().lower())
    return found if found in LICENCES else "other"


def size_category(count: int) -> str:
    """Return the hub's size category for a number of samples."""
    return next((name for most, name in SIZES.items() if count < most), "n>1B")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
