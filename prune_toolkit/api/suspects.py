"""List the samples of a manifest that are probably wrong. Torch-free."""

from manifests.base.reports import check_report
from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_spec, opened, secret_in, threads
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.suspecting.find import SCHEMA, Suspects, find_suspects
from trainer.cli.shared_options import local_path


def suspects(
    manifest: Manifest | Place = "manifest",
    val: Place | DataSpec | None = None,
    *,
    val_split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    out: Place | None = None,
    secret: Place | None = None,
    workers: int | None = None,
) -> Suspects:
    """List samples that are likely mislabelled, there twice, or among the images of `val`; like `prune suspects`.

    `out` is a CSV file to write. `.rows` or `.to_pandas()` has all of them, `.counts` their number per reason,
    `.not_looked_for` what the manifest or the call lacks for the other reasons.
    """
    if out is not None:
        check_report(local_path(out), SCHEMA.names)
    spec = data_spec(val, val_split, classes, label, held_out=True)
    source = None if spec is None else spec.open()
    found = find_suspects(opened(manifest), source, secret=secret_in(secret), workers=threads(workers))
    if out is not None:
        found.write_csv(local_path(out))
    return found
