"""README.md of a manifest: what it is, who looked at the data, and how to use it."""

from pathlib import Path

from manifests.files import write_atomic
from manifests.header import Header

CARD_NAME = "README.md"


def write_card(folder: Path, header: Header) -> None:
    """Write the card beside the header."""
    write_atomic(folder / CARD_NAME, card(header).encode())


def card(header: Header) -> str:
    """The card as Markdown; everything in it comes from the header."""
    data = header.data
    title = {"index": "Index", "scores": "Scored manifest", "selection": "Selection"}[header.kind]
    lines = [f"# {title} of {_plain(data.name)}", ""]
    lines += [f"- {data.readable:,} readable images of {data.count:,} in {len(data.class_names)} classes"]
    lines += [f"- licence of the data: {_plain(data.licence or 'not stated')}"]
    lines += [f"- data fingerprint: `{data.fingerprint[:16]}`, manifest id: `{header.id[:16]}`"]
    if header.teacher is not None:
        teacher = header.teacher
        lines += [
            f"- teacher: {_plain(teacher.spec)}, {teacher.parameters:,} parameters, "
            f"top-1 {100 * teacher.train_top1:.2f} % on these images"
        ]
    if header.selection is not None:
        chosen = header.selection
        lines += [
            f"- kept: {chosen.count:,} samples ({100 * chosen.keep_got:.2f} %) by {chosen.method}, "
            f"quota {chosen.quota}, seed {chosen.seed}"
        ]
    if header.labels is not None:
        lines += [f"- targets: {targets_text(header)}"]
    commands = {
        "index": ["prune score --data .", "train-student --manifest . --loss ce   # with a beton: train a teacher"],
        "scores": ["prune select . --keep 0.5", "prune show ."],
        "selection": ["train-student --manifest .", "prune show ."],
    }[header.kind]
    lines += ["", "```", "prune verify .", *commands, "```", ""]
    if header.scores:
        lines += ["| score | harder | formula |", "|---|---|---|"]
        lines += [f"| {_plain(s.name)} | {s.harder} | {_plain(s.formula)} |" for s in header.scores]
        lines += [""]
    return "\n".join(lines)


def targets_text(header: Header) -> str:
    """What the targets are: transform, policy, views, and how many logits of each are kept; "" without targets."""
    labels = header.labels
    if labels is None:
        return ""
    labelled = header.views.count if header.views is not None else labels.views
    what = {
        "replay": f"replay of {labels.views} view(s)",
        "mean": f"mean over {labelled} view(s)",
        "single": "single of view 0",
    }.get(labels.policy or "", f"{labels.views} view(s)")
    kept = "" if labels.top_k is None else f", top-{labels.top_k} of {len(header.data.class_names)} logits"
    return f"{labels.transform}, {what}{kept}"


def _plain(text: str) -> str:
    """Text from a data set or file name, made harmless in Markdown."""
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+!|" else c for c in text if c.isprintable())
