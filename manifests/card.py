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
        lines += [f"- {_plain(line)}" for line in selection_lines(header)]
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
        lines += [
            f"| {_plain(s.name if s.set == 'teacher' else f'{s.set}/{s.name}')} | {s.harder} | {_plain(s.formula)} |"
            for s in header.scores
        ]
        lines += [""]
    return "\n".join(lines)


def selection_lines(header: Header) -> list[str]:
    """What is particular about a selection, a line each; none of what is as usual."""
    chosen = header.selection
    lines: list[str] = []
    if chosen is None:
        return lines
    # The position of a plain window is in the header alone: cards keep the bytes they had.
    if has_particular_parameters(header):
        told = (f"{name} {value}" if name != chosen.method else str(value) for name, value in chosen.parameters.items())
        lines.append(f"{chosen.method}: {', '.join(told)}")
    if chosen.per_class_min is not None:
        lines.append(f"at least {chosen.per_class_min:,} of every class")
    if chosen.without is not None:
        lines.append(f"held out beforehand: the samples of selection {chosen.without[:12]}")
    if revised := revision_line(header):
        lines.append(revised)
    if (share := chosen.distill) is not None:
        which = "drawn at random" if share.by == "random" else f"the easy end of {share.by}"
        lines.append(
            f"distilled: {share.count:,} of {chosen.count:,} samples, {which}; the others learn from their labels alone"
        )
    return lines


def has_particular_parameters(header: Header) -> bool:
    """Whether the selector has more to tell than the position of a window."""
    return header.selection is not None and bool(header.selection.parameters.keys() - {"position"})


def revision_line(header: Header) -> str:
    """How many labels the trainer will revise, and how many of them were wrong; "" where it revises none."""
    labels, chosen = header.labels, header.selection
    if labels is None or chosen is None or labels.transform != "revise" or "changed" not in labels.parameters:
        return ""
    told = labels.parameters
    return (
        f"labels revised: {told['changed']:,} of {chosen.count * labels.views:,} (eta {told['eta']}, scope "
        f"{told['scope']}); {told['wrong']:,} had another class on top"
    )


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
