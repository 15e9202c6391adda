"""Folders, archives and lists of images that no camera made."""

import gzip
import io
import os
import socket
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from mutating import damaged
from PIL import Image

Forge = Callable[[Path, Random], None]
"""Changes a folder of class folders of images."""
NAMES = ("a\nb.jpg", "\x1b[2J.png", "\u202egpj.exe.jpg", "x" * 250 + ".jpg", " .png", "|a|b|.jpg", "<b>.png", "-rf.jpg",
         "e\u0301.png", "\u00e9.png", "a\tb.jpg", "con.jpg", "..jpg", "%s.png", "$(x).jpg", "'\";.jpg",
         "\u2028.png")  # fmt: skip
BYTE_NAMES = (b"\xff\xfe.jpg", b"\xed\xa0\x80.png", b"\xc0\xae.png")
OUTSIDE = (
    "/etc/passwd",
    "/dev/zero",
    "/dev/random",
    "/dev/stdin",
    "/dev/tty",
    "/proc/self/mem",
    "/nowhere",
    "..",
    ".",
    "/",
)


def pipe(folder: Path, rng: Random) -> None:
    """Put a pipe in the place of an image: whoever opens it waits."""
    path = _image(folder, rng)
    path.unlink()
    os.mkfifo(path)


def unix_socket(folder: Path, rng: Random) -> None:
    """Put a socket in the place of an image."""
    path = _image(folder, rng)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        # The path of a socket is short, and taken from the working directory by no one else.
        short = Path("/tmp") / f"campaign-{os.getpid()}-{rng.getrandbits(40):x}"
        made.bind(str(short))
    short.rename(path) if short.stat().st_dev == path.parent.stat().st_dev else short.unlink()


def link_outside(folder: Path, rng: Random) -> None:
    """Let an image be a link to a device, to a file of others or to a folder above."""
    path = _image(folder, rng)
    path.unlink()
    path.symlink_to(rng.choice(OUTSIDE[:-1]))


def linked_class(folder: Path, rng: Random) -> None:
    """Let a class be a link to a folder above, to itself, or to a file."""
    path = folder / rng.choice(["zebra", "aardvark"])
    path.symlink_to(rng.choice(["..", ".", path.name, "/etc/passwd", "/dev/zero", "/dev"]))


def folder_as_image(folder: Path, rng: Random) -> None:
    """Put a folder in the place of an image."""
    path = _image(folder, rng)
    path.unlink()
    path.mkdir()


def strange_name(folder: Path, rng: Random) -> None:
    """Give an image, or a class, a name that breaks lines, terminals and tables."""
    path = rng.choice([_image(folder, rng), rng.choice(_classes(folder))])
    if rng.random() < 0.2:
        path.rename(path.parent / os.fsdecode(rng.choice(BYTE_NAMES)))
    else:
        path.rename(path.with_name(rng.choice(NAMES)))


def deep(folder: Path, rng: Random) -> None:
    """Put an image three hundred folders down."""
    path = _image(folder, rng)
    place = path.parent / "/".join(["d"] * rng.choice([30, 300]))
    place.mkdir(parents=True)
    path.rename(place / path.name)


def declares_much(folder: Path, rng: Random) -> None:
    """Let an image declare a size that no memory holds, in a few bytes."""
    path = _image(folder, rng)
    width, height = rng.choice(
        [(65_535, 65_535), (60_000, 60_000), (20_000, 20_000), (1, 65_535), (0, 0), (1 << 31, 1)]
    )
    match rng.randrange(5):
        case 0:
            data = png(width & 0xFFFF_FFFF, height, b"\0" * 1000)
        case 1:
            data = bytearray(_jpeg())
            at = data.find(b"\xff\xc0")
            data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        case 2:
            data = b"GIF89a" + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + b"\xf7\0\0" + bytes(800)
        case 3:
            data = b"BM" + struct.pack(
                "<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, min(width, 1 << 30), height, 1, 24, 0, 0, 0, 0, 0, 0
            )
        case _:
            data = f"P6 {width} {height} 255\n".encode() + bytes(1000)
    path.write_bytes(bytes(data))


def packed_pixels(folder: Path, rng: Random) -> None:
    """Write a PNG of 50 to 100 megapixels of zeros in a hundred kilobytes, or texts that unpack to gigabytes."""
    path = _image(folder, rng).with_suffix(".png")
    if rng.random() < 0.5:
        side = rng.choice([7000, 10_000])
        path.write_bytes(png(side, side, bytes(side * (3 * side + 1))))
    else:
        text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(1 << 28))
        whole = png(8, 8, bytes(8 * 25))
        path.write_bytes(whole[:33] + _chunk(text[:4], text[4:]) + whole[33:])


def spoilt(folder: Path, rng: Random) -> None:
    """Damage, cut, empty or exchange the bytes of some images."""
    for _ in range(rng.choice([1, 10, 200])):
        path = _image(folder, rng)
        data = path.read_bytes()
        path.write_bytes(
            rng.choice([damaged(data, rng), data[: rng.randrange(len(data) + 1)], b"", b"<html>", _other(rng), data])
        )


def other_modes(folder: Path, rng: Random) -> None:
    """Write images of rare modes and formats under any name."""
    for _ in range(5):
        path, data = _image(folder, rng), _other(rng)
        path.write_bytes(data)


def emptied(folder: Path, rng: Random) -> None:
    """Leave nothing: no images, no readable ones, or no classes."""
    for path in _images(folder):
        match rng.choice([0, 0, 1]):
            case 0:
                path.unlink()
            case _:
                path.write_bytes(b"")


FORGES: tuple[Forge, ...] = (
    pipe, unix_socket, link_outside, linked_class, folder_as_image, strange_name, strange_name, deep, declares_much,
    declares_much, packed_pixels, spoilt, spoilt, other_modes, emptied,
)  # fmt: skip


def archived(folder: Path, rng: Random) -> str:
    """Pack the images into an archive beside the folder, with members that lead elsewhere or lie; return its name."""
    strange = ["../outside.jpg", "/tmp/outside.jpg", "cat/../../outside.jpg", "cat\\..\\outside.jpg", "cat/a\nb.jpg",
               "", "cat/" + "x" * 300 + ".jpg", "C:/outside.jpg", "cat/\x1b[2J.jpg", "./cat/./z.jpg",
               "cat//z.jpg"]  # fmt: skip
    ending = rng.choice([".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
    path = folder.parent / f"{folder.name}{ending}"
    files = {each.relative_to(folder).as_posix(): each.read_bytes() for each in _images(folder)}
    names = rng.sample(strange, 3)
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
            for name in names:
                packed.writestr(zipfile.ZipInfo(name), _jpeg())
            packed.writestr("cat/bomb.png", bytes(1 << rng.choice([20, 28])))
            if rng.random() < 0.3:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    packed.writestr(next(iter(files)), b"twice")
    else:
        _tar(path, files, names, rng)
    if rng.random() < 0.4:
        path.write_bytes(damaged(path.read_bytes(), rng))
    return path.name


def lying_idx(folder: Path, rng: Random) -> str:
    """Write packed idx files beside the folder that lie in their counts or unpack to gigabytes; return their folder."""
    place = folder.parent / "idx"
    place.mkdir()
    count = 20
    shape = rng.choice(
        [(count, 8, 8), (1 << 31, 8, 8), (count, 1 << 31, 1 << 31), (0, 8, 8), (count, 0, 8), (count, 9, 8)]
    )
    pixels = bytes(rng.choice([count * 64, count * 64 - 1, 1 << 28, 0]))
    images = (
        struct.pack(">4I", rng.choice([2051, 2049, 0, 0xFFFFFFFF]) if rng.random() < 0.3 else 2051, *shape) + pixels
    )
    labels = struct.pack(">2I", 2049, rng.choice([count, count, 1 << 31, 0])) + bytes(
        rng.randrange(4) if rng.random() < 0.9 else 255 for _ in range(count)
    )
    for name, data in (("train-images-idx3-ubyte.gz", images), ("train-labels-idx1-ubyte.gz", labels)):
        packed = gzip.compress(data, 1)
        (place / name).write_bytes(damaged(packed, rng) if rng.random() < 0.2 else packed)
    return place.name


def listed(folder: Path, rng: Random) -> str:
    """Write a list of images beside the folder with lines that lead elsewhere or mean nothing; return its name."""
    path = folder.parent / rng.choice(["list.csv", "list.txt", "list.jsonl", "list.tsv"])
    if rng.random() < 0.3:
        if rng.random() < 0.5:
            os.mkfifo(path)
        else:
            path.symlink_to(rng.choice(OUTSIDE))
        return path.name
    lines = [f"{each.relative_to(folder).as_posix()},{each.parent.name}" for each in _images(folder)]
    strange = ["/etc/passwd,cat", "../in/cat/000.jpg,dog", "/dev/zero,cat", "cat/000.jpg", "cat/000.jpg,", ",cat",
               "\0,\0", "cat/000.jpg,dog", '"cat/000.jpg,cat', "{" * 5000, "x" * 200_000 + ",cat",
               "cat/000.jpg,\x1b[2J", "\u202e,a"]  # fmt: skip
    for _ in range(rng.choice([1, 3])):
        lines.insert(rng.randrange(len(lines)), rng.choice(strange))
    text = rng.choice(["file,label\n", "", "file,file,label\n", "\ufeff"]) + rng.choice(["\n", "\r\n", "\r"]).join(
        lines
    )
    path.write_bytes(text.encode(rng.choice(["utf-8", "utf-8", "utf-16", "latin-1"]), "replace"))
    return path.name


def class_file(folder: Path, rng: Random) -> str:
    """Write a file of class names that is none; return its name."""
    path = folder.parent / rng.choice(["classes.txt", "classes.json"])
    match rng.randrange(4):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(rng.choice(OUTSIDE))
        case _:
            contents = ["", "cat\n", "cat\ncat\ndog\neel\n", '["cat", 3]', "[" * 100_000, "{}", '{"cat": {}}',
                        "\0\n\0\n\0\n\0", "a\x1b[2J\nb\nc\nd\n", "x" * 1_000_000, '["cat","dog","eel","fox"',
                        "a\r\nb\rc\nd\u2028e"]  # fmt: skip
            path.write_text(rng.choice(contents))
    return path.name


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Return an RGB PNG that declares a size and packs any bytes as its rows."""
    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _tar(path: Path, files: dict[str, bytes], names: list[str], rng: Random) -> None:
    mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in [*files.items(), *((name, _jpeg()) for name in names)]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../x"), (tarfile.CHRTYPE, ""),
                             (tarfile.FIFOTYPE, ""), (tarfile.SYMTYPE, "..")):  # fmt: skip
            member = tarfile.TarInfo(f"cat/special-{rng.randrange(99)}.jpg")
            member.type, member.linkname = kind, target
            packed.addfile(member)
        if rng.random() < 0.5:
            member = tarfile.TarInfo("cat/lies.jpg")
            member.size = rng.choice([1 << 33, 1 << 20])
            packed.fileobj.write(member.tobuf())
        elif mode != "w":
            member = tarfile.TarInfo("cat/zeros.png")
            member.size = 1 << 28
            packed.addfile(member, io.BytesIO(bytes(member.size)))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.*") if path.is_file() and not path.is_symlink())


def _classes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _image(folder: Path, rng: Random) -> Path:
    return rng.choice(_images(folder))


def _jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def _other(rng: Random) -> bytes:
    mode, kind = rng.choice(
        [("1", "PNG"), ("P", "GIF"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("F", "TIFF"),
         ("I", "TIFF"), ("YCbCr", "TIFF"), ("L", "BMP"), ("P", "TIFF"), ("RGBA", "ICO"), ("L", "PPM"),
         ("RGB", "JPEG2000")]
    )  # fmt: skip
    stream = io.BytesIO()
    Image.new(mode, (rng.choice([1, 3, 200]), rng.choice([1, 16]))).save(stream, kind)
    return stream.getvalue()
