"""Export the kept samples for other tools: row numbers, a list of files, or images in class folders. Torch-free."""

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.files import atomic_file, remove_left, temporary_beside, write_atomic
from manifests.base.layout import BETON_NAME
from manifests.base.progress import Progress, note
from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError, UsageError
from manifests.hidden.secret import refuse_hidden
from manifests.images.decode import MODE_JPEG, Encoded, ImageProblem, RawImage
from manifests.manifest import Manifest
from manifests.sources.base import map_images
from prune_toolkit.images.beton_check import IS_COPY
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.sample_images import SourceImages
from prune_toolkit.images.where import not_known, own_beton, source_images

MAX_NAME_BYTES = 255
_MAGIC = {
    b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp", b"II": "tif", b"MM": "tif",
    b"GIF8": "gif", b"P2": "pgm", b"P5": "pgm", b"P": "ppm",
}  # fmt: skip


def kept_samples(manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of `samples` that a selection keeps, in canonical order; UsageError for other manifests.

    columns: those besides sample_id that are read; None: all.
    """
    if manifest.kind != "selection":
        raise UsageError(
            f"{manifest.where} is of kind {manifest.kind}: only a selection can be exported",
            hint="make one: prune select --keep 0.5",
        )
    refuse_hidden(manifest.header, manifest.where)
    samples = manifest.samples(None if columns is None else list(dict.fromkeys(["sample_id", *columns])))
    selection = manifest.selection(["sample_id", "keep"])
    if not samples.column("sample_id").equals(selection.column("sample_id")):
        raise InputError(f"{manifest.where}: samples and selection do not have the same rows")
    return samples.filter(selection.column("keep"))


def refuse_existing(path: Path, *, folder: bool = False) -> None:
    """Raise UsageError if the path exists; folder: an empty folder is allowed.

    What killed processes left beside it is removed: one that finds the path there has nothing else to do.
    """
    remove_left(Path(os.path.abspath(path)))  # noqa: PTH100 - links stay links
    _refuse(path, folder=folder)


def _refuse(path: Path, *, folder: bool) -> None:
    is_empty_folder = folder and path.is_dir() and not any(path.iterdir())
    if path.is_symlink() or (path.exists() and not is_empty_folder):
        raise UsageError(
            f"{path} already exists", hint="what is there is never changed: name another, or delete this one"
        )


def write_indices(path: Path, samples: pa.Table) -> None:
    """Write sample_ids: .npy as int64 (n,), .txt with one per line; UsageError for another suffix."""
    if path.suffix not in (".npy", ".txt"):
        raise UsageError(f"--indices {path}: the name must end in .npy or .txt")
    refuse_existing(path)
    id_n = samples.column("sample_id").to_numpy().astype(np.int64)
    with atomic_file(path) as stream:
        if path.suffix == ".npy":
            np.save(stream, id_n, allow_pickle=False)
        else:
            stream.write("".join(f"{sample_id}\n" for sample_id in id_n.tolist()).encode())


def image_folder_order(keys: Sequence[str], split: str | None) -> bool:
    """Return whether torchvision's ImageFolder lists these files in the order of their keys; it skips .gif files."""
    has_gif = any(key.lower().endswith(".gif") for key in keys)
    return not has_gif and np.array_equal(image_folder_rows(keys, split), np.arange(len(keys)))


def image_folder_rows(keys: Sequence[str], split: str | None) -> NDArray[np.int64]:
    """(N,) rows in the order of torchvision's ImageFolder: class by class, folder by folder, name by name.

    keys are CLASS/.../NAME, below SPLIT/ if all are.
    """
    first = 1 if split is not None and all(key.startswith(f"{split}/") for key in keys) else 0

    def place(row: int) -> tuple[str, str, str]:
        folder, _, name = keys[row].rpartition("/")
        return keys[row].split("/")[first], folder, name

    return np.array(sorted(range(len(keys)), key=place), np.int64)


def write_file_list(path: Path | None, samples: pa.Table) -> bytes:
    """Return the keys of samples, one per line, UTF-8, and write them to `path` unless it is None.

    Raises InputError for a key with a line break.
    """
    keys = samples.column("key")
    broken = pc.index(pc.match_substring_regex(keys, r"[\n\r]"), True).as_py()
    if broken >= 0:
        key = keys[broken].as_py()
        raise InputError(f"the key {key!r} has a line break, which a list cannot hold", hint="rename the file")
    content = b"".join("".join(f"{key}\n" for key in chunk.to_pylist()).encode() for chunk in keys.chunks)
    if path is not None:
        refuse_existing(path)
        write_atomic(path, content)
    return content


def tree_paths(manifest: Manifest, samples: pa.Table, folder_names: Sequence[str]) -> list[str]:
    """Return the path of each image: FOLDER/NAME, below its class folder as in the source; rows without a suffix.

    Raises UsageError if the name of a class that occurs is not a safe folder name, InputError if a key leads out of
    its folder.
    """
    label_n = samples.column("label").to_numpy()
    for name in (folder_names[label] for label in np.unique(label_n).tolist()):
        is_plain = name.isprintable() and not set(name) & {"/", "\\"} and name == name.strip()
        if not is_plain or name.startswith(".") or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise UsageError(
                f"the class name {name!r} is not a safe folder name",
                hint="give other names, one per class in label order, with --classes FILE",
            )
    data = manifest.header.data
    # In a folder of images, the part below SPLIT/CLASS/ or CLASS/; for rows, only the number.
    above = None if data.source != "folder" else (not data.is_unlabelled) + (data.split is not None)
    paths = []
    for label, key in zip(label_n.tolist(), samples.column("key").to_pylist(), strict=True):
        below = key.split("/")[-1:] if above is None else key.split("/")[above:]
        if not below or not all(part not in ("", ".", "..") and "\0" not in part for part in below):
            raise InputError(f"{manifest.where}: {key!r} is not the path of an image in a class folder")
        paths.append("/".join((folder_names[label], *below)))
    return paths


@dataclass(kw_only=True)
class Tree:
    """Counts of what was written."""

    linked: int = 0
    """Hard links to files of the source."""
    written: int = 0
    """New files."""
    bytes: int = 0
    """Size of the new files."""


def write_tree(
    out: Path, paths: Sequence[str], samples: pa.Table, images: SourceImages, *, copy: bool, workers: int
) -> Tree:
    """Write each image at its path below `out`, all or nothing; files of a folder as hard links unless `copy`.

    Encoded images keep their bytes, pixels become PNG; a suffix is added if the path does not have the right one.
    Raises MismatchError for the first image, in the given order, that differs from the indexed one.
    """
    source, rows, tree = images.source, images.rows(samples).tolist(), Tree()
    keys, hashes = (samples.column(name).to_pylist() for name in ("key", "content_hash"))
    place = {row: position for position, row in enumerate(rows)}
    files = source.root

    def write(row: int, image: RawImage | ImageProblem) -> str | int:
        """Return a message if something is wrong with the image, else the number of bytes written: 0 for a link."""
        position = place[row]
        if isinstance(image, ImageProblem):
            return f"cannot be read any more ({image})"
        if images.hash_of is not None and images.hash_of(image) != hashes[position]:
            return "was altered since it was indexed"
        target = unfinished / paths[position]
        if files is not None and not copy and _linked(files / source.keys[row], target):
            return 0
        data, suffix = _encoded(image)
        with (target if files is not None else _with_suffix(target, suffix)).open("xb") as stream:
            return stream.write(data)

    with renamed_when_done(out) as unfinished, Progress(len(paths), f"writing {out.name}") as progress:
        for folder in {path.rpartition("/")[0] for path in paths}:
            (unfinished / folder).mkdir(parents=True, exist_ok=True)
        # Closed before the folder is removed: no thread may still be writing into it.
        with closing(map_images(source, rows, write, workers)) as results:
            for key, result in zip(keys, results, strict=True):
                if isinstance(result, str):
                    raise MismatchError(f"{key} {result}", hint="name a copy of the original images with --data")
                tree.linked += result == 0
                tree.written += result > 0
                tree.bytes += result
                progress.advance(1)
    return tree


def write_kept(
    out: Path,
    paths: Sequence[str],
    manifest: Manifest,
    samples: pa.Table,
    data: DataSpec | None,
    *,
    copy: bool,
    workers: int,
) -> Tree:
    """Run `write_tree` on the images in `data`, else where local.json says they are, else in the selection's own beton.

    If the selection was cut from a copy with other bytes or paths than the scored images, its beton is used as well.
    Raises MismatchError if some are missing, InputError if there is nothing to read, the beton was altered, or two of
    its images would get the same name.
    """
    beton = None if data is not None else manifest.beton_path
    write = partial(write_tree, out, paths, samples, copy=copy, workers=workers)
    try:
        images = source_images(manifest, data)
    except InputError as error:
        if beton is None:
            raise
        note(f"{error.message}\n  taking the images from {beton}")
        images = None
    if images is not None:
        try:
            return write(images)
        except MismatchError as error:
            if beton is None or not manifest.local.get(IS_COPY):
                raise
            note(f"cut from a copy: {error.message}\n  taking the images from {beton}")
    if beton is None:
        there = manifest.pulled_from if manifest.store.is_local else manifest.where
        has_beton = there is not None and manifest.header.file(BETON_NAME) is not None
        bring = f", or bring its {BETON_NAME}, if it was sent: prune pull {there} DIR --with-images"
        raise not_known(manifest, f"name them with --data DIR{bring if has_beton else ''}")
    images = own_beton(manifest, beton, samples)
    _check_names(paths, samples.column("key").to_pylist(), Beton.open(beton))
    return write(images)


def _check_names(paths: Sequence[str], keys: Sequence[str], beton: Beton) -> None:
    """Refuse a.webp beside a.webp.png: a beton has pixels, which get a new suffix, under the names of files."""
    key_of: dict[Path, str] = {}
    for path, key, is_jpeg in zip(paths, keys, (beton.modes_N == MODE_JPEG).tolist(), strict=True):
        name = _with_suffix(Path(path), "jpg" if is_jpeg else "png")
        if other := key_of.get(name):
            raise InputError(
                f"{other} and {key} would both be written as {name}: {beton.path.name} holds pixels, not the files",
                hint="name the folder of the files with --data",
            )
        key_of[name] = key


def _linked(file: Path, target: Path) -> bool:
    """Try to make a hard link, and return whether that worked: not across file systems, nor on all of them."""
    try:
        # The file itself: a hard link to a relative symbolic link would be broken.
        os.link(os.path.realpath(file), target)
    except OSError:
        return False
    return True


def _encoded(image: RawImage) -> tuple[bytes, str]:
    """Return the bytes of an image file and the suffix of their format."""
    if isinstance(image, Encoded):
        return image.data, next((suffix for magic, suffix in _MAGIC.items() if image.data.startswith(magic)), "img")
    from PIL import Image

    array: NDArray[Any] = image.array[:, :, 0] if image.array.shape[2:] == (1,) else image.array
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue(), "png"


def _with_suffix(path: Path, suffix: str) -> Path:
    present = path.suffix.lower().removeprefix(".")
    alike = {"jpeg": "jpg", "tiff": "tif"}
    return path if alike.get(present, present) == suffix else path.with_name(f"{path.name}.{suffix}")


@contextmanager
def renamed_when_done(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that is renamed to `out` on success, and removed on failure."""
    refuse_existing(out, folder=True)
    out = Path(os.path.abspath(out))  # noqa: PTH100 - "." has a name then, and links stay links
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary_beside(out)
    unfinished.mkdir()
    try:
        yield unfinished
        # Another process may have been quicker.
        _refuse(out, folder=True)
        unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
