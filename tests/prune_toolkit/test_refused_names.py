"""Names of files that no reader of a manifest accepts are refused before there is a manifest of them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_an_index_of_such_names_is_refused_with_the_key(prune: Run, tmp_path: Path) -> None:
    for folder in ("a", "c:"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / folder / "1.png")
    refused = prune("index", "--data", tmp_path / "images", "-o", tmp_path / "index", code=3).stderr
    assert "has the key 'c:/1.png': it begins with a drive letter" in refused
    assert "rename the file or its folder" in refused
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_a_hidden_manifest_takes_no_imports(prune: Run, tmp_path: Path) -> None:
    golden = Path(__file__).resolve().parents[1] / "golden" / "1.2" / "index"
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef")
    shutil.copytree(golden, tmp_path / "index")
    prune("push", tmp_path / "index", f"file://{tmp_path}/hidden", "--secret", tmp_path / "secret")
    (tmp_path / "s.txt").write_text("0\n")
    prune("import", tmp_path / "s.txt", tmp_path / "hidden", "--indices", "--no-beton", code=2)
