"""Print the Debian packages that FFCV still needs on this machine, one a line: python3 packaging/missing_packages.py.

What a package brings is looked for, not its name, so that other packages and other systems count as well.
"""

import ctypes
import shutil
import sys
import sysconfig
from pathlib import Path


def loads(library: str) -> bool:
    """Whether the dynamic loader finds the shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages() -> list[str]:
    """Names of the packages to install; empty when FFCV can be built and imported by this interpreter."""
    opencv = Path("/usr/include/opencv4/opencv2")
    python_headers = Path(sysconfig.get_path("include"))
    present = {
        "g++": shutil.which("g++"),
        "pkg-config": shutil.which("pkg-config"),
        "libopencv-core-dev": (opencv / "core.hpp").exists(),
        "libopencv-imgproc-dev": (opencv / "imgproc.hpp").exists(),
        "libturbojpeg0-dev": Path("/usr/include/turbojpeg.h").exists(),
        "libgl1": loads("libGL.so.1"),  # these two: `import cv2` from opencv-python's wheel
        "libglib2.0-0": loads("libgthread-2.0.so.0"),
        f"python3.{sys.version_info.minor}-dev": (python_headers / "Python.h").exists(),
    }
    return [package for package, found in present.items() if not found]


if __name__ == "__main__":
    sys.stdout.writelines(f"{package}\n" for package in missing_packages())
