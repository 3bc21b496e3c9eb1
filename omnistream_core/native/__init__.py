"""The C++ kernels of ``blocks.cpp``: compiled for this processor when first asked for, kept for every later start.

The library lies under ``$XDG_CACHE_HOME/omnistream`` (``~/.cache/omnistream``), named after the source, the compiler
and the processor. Nothing is compiled on ``import``; without g++ everything works through torch alone, only slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path

import torch

from omnistream_core.errors import OmniStreamError

SOURCE = Path(__file__).with_name("blocks.cpp")
# No -ffast-math: exp2 rounds by adding a large number, which reassociation would remove.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")


class NativeUnavailable(OmniStreamError):
    """This machine cannot build or run the kernels; the message says why."""


class Block(Structure):
    """Addresses of a block's weights; the order is that of ``blocks.cpp``."""

    _fields_ = [
        (name, c_void_p)
        for name in (
            *("qkv", "proj", "fc1", "fc2", "qkv_bias", "proj_bias", "fc1_bias", "fc2_bias"),
            *("norm1", "norm1_bias", "norm2", "norm2_bias"),
        )
    ]


class Layer(Structure):
    """Addresses of a layer's memory."""

    _fields_ = [(name, c_void_p) for name in ("keys", "values", "scales")]


class Call(Structure):
    """One step; see ``blocks.cpp``."""

    _fields_ = [
        *((name, c_int32) for name in ("threads", "streams", "tokens", "width", "heads", "hidden", "rope_streams")),
        ("room", c_int64),
        ("eps", c_float),
        ("blocks", POINTER(Block)),
        ("layers", POINTER(Layer)),
        *((name, c_void_p) for name in ("rows", "first_token", "visible_tokens", "fold_from", "fold_into")),
        *((name, c_void_p) for name in ("fold_weight", "cos", "sin", "x", "qkv")),
        *((name, c_void_p) for name in ("normed", "q", "attended", "hidden_values", "bytes", "ranges", "stage_s")),
    ]


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL:
    """The library, built where it is not there yet.

    Raises:
        NativeUnavailable: no g++, or one that fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if platform.system() != "Linux" or compiler is None:
        raise NativeUnavailable("the native kernels need Linux and g++ (or $CXX)")
    path = _folder() / f"blocks-{_fingerprint(compiler)}.so"
    if not path.exists():
        _build(compiler, path)
    return ctypes.CDLL(str(path))


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnistream"


def _fingerprint(compiler: str) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = next((line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features"))), "")
    facts = (SOURCE.read_text(), flags, *FLAGS, os.path.realpath(compiler), platform.machine(), str(_openmp()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _openmp() -> Path | None:
    """The OpenMP runtime that torch brings: with a second one, two teams of threads would fight for the cores."""
    package = Path(torch.__file__).parent
    found = [
        path for folder in (package / "lib", package.parent / "torch.libs") for path in folder.glob("libgomp*.so*")
    ]
    return found[0] if found else None


def _build(compiler: str, path: Path) -> None:
    openmp = _openmp()
    runtime = ["-lgomp"] if openmp is None else [str(openmp), f"-Wl,-rpath,{openmp.parent}"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # renamed when whole: others may build it as well
            object_file, library = Path(folder) / "blocks.o", Path(folder) / path.name
            _call(compiler, *FLAGS, "-fopenmp", "-c", str(SOURCE), "-o", str(object_file))
            _call(compiler, "-shared", str(object_file), *runtime, "-o", str(library))
            library.replace(path)
    except OSError as error:
        raise NativeUnavailable(f"the native kernels cannot be kept in {path.parent}: {error}") from error


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NativeUnavailable(f"{command[0]} cannot build the native kernels: {done.stderr.strip()[-500:]}")
