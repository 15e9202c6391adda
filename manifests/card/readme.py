"""README.md of a manifest: what it is, its teacher, how to use it, what the columns mean, where it comes from.

Every command that makes a manifest writes a card from the header alone. `prune card` and a push also draw pictures of
the scores and write croissant.json.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.base.files import remove_temporaries, write_atomic
from manifests.card.text import SEARCH_PICTURE, TITLES, code, front_matter, plain
from manifests.format.columns import columns_of, tables_of
from manifests.format.stored_form import StoredForm

if TYPE_CHECKING:
    from manifests.format.header import Header, WithoutSuspects

CARD_NAME = "README.md"
CROISSANT_NAME = "croissant.json"
MOST_GENERATIONS, MOST_PARENTS = 16, 16
_ID_LINE = re.compile(r"^- data fingerprint: .*, manifest id: `[0-9a-f]{16}`$", re.MULTILINE)


def write_card(folder: Path, header: "Header", *, with_images: bool = False) -> None:
    """Write the card beside the header; `with_images` as in `card`."""
    write_atomic(folder / CARD_NAME, card(header, with_images=with_images).encode())


def write_full_card(
    folder: Path, url: str | None = None, *, into: Path | None = None, with_images: bool = False
) -> list[str]:
    """Write card, pictures of the scores and croissant.json into a manifest, or elsewhere; return their paths there.

    `url` is where the manifest will be, `with_images` whether its beton will be there too. What an earlier run drew is
    overwritten. The manifest and its id stay the same.
    """
    from manifests.card.croissant import write_croissant
    from manifests.card.score_plots import draw_scores
    from manifests.card.search_plot import draw_search
    from manifests.manifest import Manifest

    manifest, into = Manifest.open(folder), into or folder
    remove_temporaries(into)
    pictures = [*draw_scores(manifest, into), *draw_search(manifest, into)]
    write_croissant(manifest, into, url)
    write_atomic(into / CARD_NAME, card(manifest.header, pictures, url, with_images=with_images).encode())
    return [CARD_NAME, CROISSANT_NAME, *pictures]


def is_card(text: str) -> bool:
    """Return whether a command of any version wrote this README.md: it names the manifest's id on a line."""
    return _ID_LINE.search(text) is not None


def card(header: "Header", pictures: Sequence[str] = (), url: str | None = None, *, with_images: bool = False) -> str:
    """Return the card as Markdown; everything in it comes from the header. `pictures` are paths beside it.

    `with_images`: the beton, if the manifest has one, is published with it.
    """
    with_images = with_images and header.file("train.beton") is not None
    lines = [front_matter(header), f"# {TITLES[header.kind]} of {plain(header.data.name)}", ""]
    lines += [_what(header, with_images), "", *_facts(header), ""]
    lines += ["## Use", "", "```sh", *_commands(header, url, with_images), "```", "", *_columns(header)]
    if pictures:
        lines += ["## Scores", "", *(f"![{_shows(picture)}]({picture})" for picture in pictures), ""]
    return "\n".join([*lines, *_provenance(header)])


def _shows(picture: str) -> str:
    return "Losses of the search" if picture == SEARCH_PICTURE else "Distribution of scores"


def _what(header: "Header", with_images: bool) -> str:
    what = {
        "index": "A list of labelled images with their content hashes.",
        "scores": "What a teacher made of every image: its logits, and scores of how hard the image is.",
        "selection": "Which images a student learns from, and the soft labels it learns.",
    }[header.kind]
    if with_images:
        return f"{what} The images come with it, in train.beton."
    return f"{what} The images themselves are not in here: whoever has a copy of them can use it."


def _facts(header: "Header") -> list[str]:
    data = header.data
    passed_on = {True: "may be passed on", False: "must not be passed on", None: "not stated whether to pass on"}
    lines = [f"- {data.readable:,} readable images of {data.count:,} in {data.classes_text}"]
    lines += [f"- licence of the data: {plain(data.licence or 'not stated')}; images {passed_on[data.redistributable]}"]
    lines += [f"- data fingerprint: {code(data.fingerprint[:16])}, manifest id: `{header.id[:16]}`"]
    if header.teacher is not None:
        teacher = header.teacher
        size = f"{teacher.parameters:,} parameters" if teacher.parameters else "parameters not stated"
        lines += [
            f"- teacher: {plain(teacher.spec)}, {size}, {teacher.top1_text}; "
            f"licence: {plain(teacher.licence or 'not stated')}; weights sha256 {code(teacher.weights_sha256[:16])}"
        ]
    if header.selection is not None:
        chosen = header.selection
        lines += [
            f"- kept: {chosen.count:,} samples ({100 * chosen.keep_got:.2f} %) by {plain(chosen.method)}, "
            f"quota {plain(chosen.quota)}, seed {chosen.seed}"
        ]
        lines += [f"- {plain(line)}" for line in selection_lines(header)]
    if header.labels is not None:
        lines += [f"- targets: {plain(targets_text(header))}"]
    if header.hidden is not None:
        lines += ["- keys and content hashes are hidden: whoever has the secret names it with `--secret FILE`"]
    return lines


def _commands(header: "Header", url: str | None, with_images: bool) -> list[str]:
    secret = "" if header.hidden is None else " --secret FILE"
    # Not quoted here: a URL that a shell would take for more than one word is left to the reader.
    place = url if url is not None and re.fullmatch(r"[\w:/.@%+~-]+", url, re.ASCII) else "URL"
    pull = f"prune pull {place} manifest{' --with-images' if with_images else ''}"
    verify = f"prune verify manifest --data IMAGES{secret}"
    if header.kind == "index":
        return [pull, verify, "prune score manifest --teacher TEACHER"]
    if header.kind == "scores":
        return [pull, verify, f"prune select manifest --keep 0.5 --data IMAGES{secret}"]
    if "targets" in (header.left_out or ()):
        return [pull, verify, "prune show manifest"]
    loss = " --loss ce" if header.labels is None else ""
    if with_images:
        return [pull, "prune verify manifest", f"train-student --manifest manifest{loss}"]
    return [pull, f"prune cut manifest --data IMAGES{secret}", f"train-student --manifest cut{loss}"]


def _columns(header: "Header") -> list[str]:
    lines = ["## Columns", "", "| table | column | type | harder | meaning |", "|---|---|---|---|---|"]
    for table in tables_of(header):
        for column in columns_of(table, header):
            kind = column.type if column.width is None else f"{column.type}\\[{column.width}\\]"
            cells = [code(table), code(column.name), kind, column.harder or "", plain(column.meaning)]
            lines += [f"| {' | '.join(cells)} |"]
    return [*lines, "", "`harder`: which end of a score means a harder image.", ""]


def _provenance(header: "Header") -> list[str]:
    """Return lines from this manifest back to the first: what made each, and from which parents."""
    lines = ["## Provenance", ""]
    runs: list[Any] = [header.run]
    made = {name: value for name, value in header.config.items() if name != "command" and _is_short(value)}
    values = ", ".join(f"{name} {value}" for name, value in made.items())
    lines += [
        f"- this manifest: {_command(header.config)}{plain(values and f' ({values})')}, by {plain(header.tool.name)} "
        f"{plain(header.tool.version)}, schema {plain(header.schema_version)}"
    ]
    lines += [f"- made from: `{''.join(c for c in parent[:64] if c.isalnum())}`" for parent in header.parents]
    for generation in range(1, MOST_GENERATIONS):
        runs = [parent for run in runs for parent in _parent_runs(run)][:MOST_PARENTS]
        lines += [f"- {generation} before that: {', '.join(map(_command, runs))}"] if runs else []
    return [*lines, ""]


def _parent_runs(run: dict[str, Any]) -> list[dict[str, Any]]:
    several = run.get("parent_runs")
    found = several if isinstance(several, list) else [run.get("parent_run")]
    return [parent for parent in found if isinstance(parent, dict)]


def _command(config: Any) -> str:
    return code(f"prune {config.get('command', 'index')}")


def _is_short(value: object) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and 0 < len(value) <= 64)


def selection_lines(header: "Header") -> list[str]:
    """Return what is unusual about a selection, one line per fact."""
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
    if chosen.search is not None:
        lines.append(
            f"searched: {len(chosen.search.tried):,} pairs of mode and sharpness, judged on images that the teacher "
            f"never saw ({(chosen.held_out or '')[:12]}); the best one is {chosen.search.gain:+.4f} +- "
            f"{chosen.search.error:.4f} nats ahead of a random draw on half of them"
        )
    elif chosen.held_out is not None:
        lines.append(f"judged on images that the teacher never saw: {chosen.held_out[:12]}")
    if chosen.without is not None:
        lines.append(f"held out beforehand: the samples of selection {chosen.without[:12]}")
    if chosen.without_suspects is not None:
        lines.append(suspects_line(chosen.without_suspects))
    if revised := revision_line(header):
        lines.append(revised)
    if (share := chosen.distill) is not None:
        which = "drawn at random" if share.by == "random" else f"the easy end of {share.by}"
        lines.append(
            f"distilled: {share.count:,} of {chosen.count:,} samples, {which}; the others learn from their labels alone"
        )
    return lines


def suspects_line(left_out: "WithoutSuspects") -> str:
    """Return how many suspects were left out beforehand, by reason."""
    by = "labels not judged" if left_out.judged_by is None else f"by {left_out.judged_by}"
    leaked = "" if left_out.leaked is None else f", {left_out.leaked:,} among the validation images"
    return (
        f"suspects left out beforehand: {left_out.mislabelled:,} likely mislabelled ({by}), "
        f"{left_out.two_classes:,} in two classes, {left_out.duplicates:,} duplicates{leaked}"
    )


def has_particular_parameters(header: "Header") -> bool:
    """Return whether the selector has parameters besides the position of a window."""
    return header.selection is not None and bool(header.selection.parameters.keys() - {"position"})


def revision_line(header: "Header") -> str:
    """Return how many labels the trainer will revise, and how many were wrong; "" if it revises none."""
    labels, chosen = header.labels, header.selection
    if labels is None or chosen is None or labels.transform != "revise":
        return ""
    changed, wrong, eta, scope = (labels.parameters.get(name) for name in ("changed", "wrong", "eta", "scope"))
    # They are free values of a header, and may have any type.
    if not isinstance(changed, int) or not isinstance(wrong, int) or not isinstance(eta, int | float):
        return ""
    stored = labels.budget.labels if labels.budget is not None and labels.is_ragged else chosen.count * labels.views
    return f"labels revised: {changed:,} of {stored:,} (eta {eta}, scope {scope}); {wrong:,} had another class on top"


def targets_text(header: "Header") -> str:
    """Describe the targets: transform, policy, views, and how many logits of each are kept; "" without targets."""
    labels = header.labels
    if labels is None:
        return ""
    labelled = header.views.count if header.views is not None else labels.views
    what = {
        "replay": f"replay of {labels.views} view(s)",
        "mean": f"mean over {labelled} view(s)",
        "single": "single of view 0",
    }.get(labels.policy or "", f"{labels.views} view(s)")
    if (budget := labels.budget) is not None:
        # Of free text, only what is a number.
        kept = 0 if header.selection is None else header.selection.count
        mean = f"{budget.labels / max(1, kept):.4g} on average by {plain(budget.rule)}"
        what = f"mean over up to {labelled} view(s), {mean}"
        if labels.is_ragged:
            span = f"{budget.least}" if budget.least == budget.most else f"{budget.least} to {budget.most}"
            what = f"replay of {span} of {labels.views} view(s), {mean}"
    form = StoredForm.of(labels, len(header.data.class_names)).text
    return f"{labels.transform}, {what}{form and ', '}{form}"
