"""Textures: what is not free for training stays out, and the page on licences says what the script does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from training.pack_textures import EXCLUDED, SHARES, SIDE_PX, pack, pictures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_textures.md"
FREE = {
    "gnome-backgrounds": "usr/share/backgrounds/gnome/adwaita-l.png",
    "torcs-data": "usr/share/games/torcs/tracks/road/aalborg/grass.png",
    "supertuxkart-data": "usr/share/games/supertuxkart/data/tracks/black_forest/roof_2.png",
}
NOT_FREE = {
    "gnome-backgrounds": "usr/share/backgrounds/gnome/truchet-l.png",
    "torcs-data": "usr/share/games/torcs/tracks/road/brondehach/grass.png",
    "supertuxkart-data": "usr/share/games/supertuxkart/data/tracks/black_forest/roof_3.png",
}


def paint(path: Path, red: int) -> None:
    """Noise with one value of red, by which its patches are known again."""
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, size=(SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    pixels_HW3[..., 0] = red
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW3).save(path)


@pytest.mark.parametrize("package", sorted(EXCLUDED))
def test_excluded_pictures_are_not_listed(package: str, tmp_path: Path) -> None:
    for name in (FREE[package], NOT_FREE[package]):
        paint(tmp_path / package / name, red=0)
    assert pictures(tmp_path / package) == [tmp_path / package / FREE[package]]


def test_no_patch_is_cut_from_an_excluded_picture(tmp_path: Path) -> None:
    for package in SHARES:
        paint(tmp_path / package / FREE.get(package, "a.png"), red=50)
        if package in NOT_FREE:
            paint(tmp_path / package / NOT_FREE[package], red=200)
    pack(tmp_path, tmp_path / "textures.safetensors", count=100)
    with safe_open(tmp_path / "textures.safetensors", "pt") as packed:
        patches_N3HW = packed.get_tensor("patches")
    assert len(patches_N3HW) == 100
    assert (patches_N3HW[:, 0] == 50).all()


def test_the_page_names_every_package_and_every_pattern() -> None:
    text = PAGE.read_text()
    assert all(f"| `{package}` |" in text for package in SHARES)
    assert all(f"`{pattern}`" in text for patterns in EXCLUDED.values() for pattern in patterns)
