"""Pack photographs and drawings from Debian packages into one file of square patches, for training only.

    python training/pack_textures.py --download --out runs/textures.safetensors

The packages are fetched with ``apt-get download``, unpacked with ``dpkg -x`` into ``runs/textures`` (ignored by git)
and cut into uint8 patches ``[n, 3, 128, 128]``. The file feeds ``WorldConfig(textures=...)``; it is neither committed
nor shipped. Licences, authors and what is left out: docs/training_textures.md.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import subprocess
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file

SIDE_PX = 128
SHARES = {  # of all patches
    "gnome-backgrounds": 0.1,
    "mate-backgrounds": 0.12,
    "plasma-workspace-wallpapers": 0.14,
    "ukui-wallpapers": 0.12,
    "openclipart-png": 0.06,
    "supertuxkart-data": 0.22,
    "torcs-data": 0.08,
    "0ad-data": 0.16,
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".jxl", ".rgb", ".tga", ".dds"}
SKIPPED_NAMES = ("normal", "_norm", "_nm.", "_spec", "gloss", "mask", "icon", "font", "cursor", "shadow", "skeleton")
# Pictures for which nobody names an author or a licence: pattern of the path within the package, and why.
EXCLUDED = {
    "gnome-backgrounds": {
        "*/gnome/licorice-*": "named neither in AUTHORS nor in the copyright file",
        "*/gnome/truchet-*": "named neither in AUTHORS nor in the copyright file",
        "*/gnome/vnc-*": "named neither in AUTHORS nor in the copyright file",
    },
    "torcs-data": {
        "*/tracks/road/brondehach/*": "from a commercial game; its readme knows of no licence",
    },
    "supertuxkart-data": {
        "*/black_forest/roof_3*": "called public domain, but neither author nor source is known",
        "*/stklib_old_house_a/roof_3*": "called public domain, but neither author nor source is known",
    },
}
LEAST_CONTRAST = 6.0  # standard deviation of the grey values; flatter patches teach nothing
TRIES = 6

logger = logging.getLogger(__name__)


def fetch(folder: Path) -> None:
    """Download and unpack the packages that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in SHARES:
        if not (folder / package).exists():
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)
            archive.unlink()
            _unzip(folder / package)


def _unzip(folder: Path) -> None:
    """Games keep their pictures in an archive of their own."""
    for path in list(folder.rglob("public.zip")):
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.startswith(("art/textures/terrain", "art/textures/skins"))]
            archive.extractall(folder, names)
        path.unlink()


def pictures(folder: Path) -> list[Path]:
    """Picture files that may be used, in an order that depends on their paths alone, but mixes them well."""
    excluded = EXCLUDED.get(folder.name, {})
    files = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not p.is_symlink()
        and not any(name in p.name.lower() for name in SKIPPED_NAMES)
        and not any(fnmatchcase(p.relative_to(folder).as_posix(), pattern) for pattern in excluded)
    ]
    return sorted(files, key=lambda p: hashlib.sha1(p.relative_to(folder).as_posix().encode()).digest())


def patches(files: list[Path], count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """``count`` patches (128, 128, 3), spread evenly over the files."""
    opened, found = 0, 0
    while found < count and files:
        path = files[opened % len(files)]
        opened += 1
        each = max(1, round(count / len(files)))
        for patch in _cut(path, each, rng):
            yield patch
            found += 1
            if found == count:
                return
        if opened > 4 * max(len(files), count):
            return


def _cut(path: Path, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    try:
        with Image.open(path) as opened:
            if min(opened.size) < SIDE_PX // 2:
                return []
            opened.draft("RGB", (1600, 1600))
            image = _on_paper(opened, rng)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        logger.warning("%s: %s", path.name, error)
        return []
    cut = (_crop(image, rng) for _ in range(count))
    return [patch for patch in cut if patch is not None]


def _on_paper(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """RGB, transparent parts on a random plain colour."""
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, (*rng.integers(30, 256, size=3).tolist(), 255))
    return Image.alpha_composite(paper, image).convert("RGB")


def _crop(image: Image.Image, rng: np.random.Generator) -> np.ndarray | None:
    """A square of random size and place with enough to see in it."""
    least = min(image.size)
    for _ in range(TRIES):
        side = int(np.exp(rng.uniform(np.log(min(SIDE_PX, least)), np.log(least))))
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        square = image.crop((left, top, left + side, top + side)).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        pixels = np.asarray(square)
        if pixels.mean(2).std() >= LEAST_CONTRAST:
            return pixels
    return None


def pack(folder: Path, out: Path, count: int) -> None:
    """Cut the patches and write them as ``patches`` with the number of each package in the metadata."""
    rng = np.random.default_rng(0)
    kept: list[np.ndarray] = []
    numbers: dict[str, str] = {}
    for package, share in SHARES.items():
        found = list(patches(pictures(folder / package), round(share * count), rng))
        numbers[package] = str(len(found))
        logger.info("%s: %d patches", package, len(found))
        kept += found
    stack_NHWC = np.stack(kept)[rng.permutation(len(kept))]
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({"patches": torch.from_numpy(stack_NHWC).permute(0, 3, 1, 2).contiguous()}, out, metadata=numbers)
    logger.info("%s: %d patches, %.0f MB", out, len(kept), out.stat().st_size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/textures"), help="one unpacked package per folder")
    parser.add_argument("--out", type=Path, default=Path("runs/textures.safetensors"))
    parser.add_argument("--count", type=int, default=4096, help="number of patches")
    parser.add_argument("--download", action="store_true", help="fetch the packages first (Debian, about 2.6 GB)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.download:
        fetch(arguments.folder)
    pack(arguments.folder, arguments.out, arguments.count)


if __name__ == "__main__":
    main()
