"""The machine: its name, the commit that is measured, and the two ceilings."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from omnistream_core import native
from omnistream_core.bench.counts import Ceilings
from omnistream_core.native import NativeUnavailable
from omnistream_core.packed import name_of, packed


def machine(device: str = "cpu") -> str:
    """Name of the processor, or of the CUDA device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Commit of the code that is measured, ``-dirty`` where files of the core differ from it; "" outside git."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--short", "omnistream_core") else "")


def facts(device: str, threads: int) -> dict[str, Any]:
    """What every result is written down with."""
    return {
        "machine": machine(device),
        "device": device,
        "threads": threads,
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def now(device: torch.device) -> float:
    """Seconds on the wall clock, once a CUDA device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, to its end."""
    start = now(device)
    call()
    return now(device) - start


@torch.inference_mode()
def product_flops_per_s(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """Measured here and now: the fastest large matrix product at hand, of torch's and our own."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: a @ b, lambda: torch.nn.functional.linear(a, b)]
    if device.type == "cpu" and (ours := _native_product(a, b)) is not None:
        products.append(ours)
    return 2 * n**3 / min(_median_s(product, device, repeats) for product in products)


@torch.inference_mode()
def ceilings(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> Ceilings:
    """Measured here and now: ``product_flops_per_s``, and a copy of 256 MB."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    moved = _median_s(lambda: target.copy_(source), device, repeats)
    return Ceilings(flops_per_s=product_flops_per_s(dtype, device, repeats), bytes_per_s=2 * source.nbytes / moved)


def _native_product(a_nk: Tensor, b_kn: Tensor) -> Callable[[], object] | None:
    """The kernels' product of two square matrices, where there are kernels for their dtype."""
    try:
        function = getattr(native.kernels(), f"product_{name_of(a_nk.dtype)}", None)
    except NativeUnavailable:
        return None
    if function is None:
        return None
    n, weight, out = len(a_nk), packed(b_kn.mT, a_nk.dtype), torch.empty(len(a_nk), len(a_nk))
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a_nk, weight, out)]
    keep = (a_nk, weight, out)
    return lambda: function(pointers[0], n, n, pointers[1], n, pointers[2], torch.get_num_threads()) or keep


def _median_s(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    seconds(call, device)
    return median(seconds(call, device) for _ in range(repeats))
