"""Point the CMake exports of installed ROS 2 wheels at this Python.

Each message wheel carries a ``*__rosidl_generator_pyExport.cmake`` with the include folders of the machine that built
it, so that no interface package can be built on top. This rewrites them to this Python's and NumPy's own. A second run
changes nothing; run it again after each further message wheel.

    .venv/bin/python scripts/fix_ros_wheels.py [PREFIX]     where the wheels are installed; default: this Python
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

EXPORTS = "*/cmake/*__rosidl_generator_pyExport.cmake"
INCLUDES = re.compile(r'(INTERFACE_INCLUDE_DIRECTORIES ")([^"]*)(")')


def own_includes() -> tuple[str, ...]:
    """The include folders of this Python and of its NumPy."""
    return sysconfig.get_path("include"), numpy.get_include()


def rewritten(text: str, includes: tuple[str, ...]) -> str:
    """``text`` of one export with every absolute include folder replaced by ``includes``; relative ones stay."""

    def replace(match: re.Match[str]) -> str:
        folders = match[2].split(";")
        relative = [folder for folder in folders if not folder.startswith("/")]
        if len(relative) == len(folders):
            return match[0]
        return match[1] + ";".join([*relative, *includes]) + match[3]

    return INCLUDES.sub(replace, text)


def fix(prefix: Path, includes: tuple[str, ...]) -> list[Path]:
    """Rewrite the exports under ``prefix``/share in place; the files that changed."""
    changed = []
    for path in sorted((prefix / "share").glob(EXPORTS)):
        before = path.read_text(encoding="utf-8")
        after = rewritten(before, includes)
        if after != before:
            path.unlink()  # an installer may have hard-linked the file to its cache: write a new one
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    prefix = Path(sys.argv[1] if len(sys.argv) > 1 else sys.prefix)
    print(f"fix_ros_wheels: {len(fix(prefix, own_includes()))} files rewritten under {prefix / 'share'}")


if __name__ == "__main__":
    main()
