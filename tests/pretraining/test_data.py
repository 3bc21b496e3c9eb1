"""Clips to train on: the same for the same numbers, and broken recordings skipped, counted, named."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omnistream_core.geometry import points_from_rays, ray_map
from omnistream_core.pretraining.config import DataConfig
from omnistream_core.pretraining.data import (
    BadDataError,
    Ledger,
    ShardClips,
    WorldPool,
    generator_for,
    write_shard,
)
from omnistream_core.pretraining.data.batch import frames_of
from omnistream_core.pretraining.world import WorldConfig, render_clips
from omnistream_core.types import CameraModel, Frame
from training import make_shards

WORLD = WorldConfig(height_px=32, width_px=32, frames=3, supersample=1)
DATA = DataConfig(world=WORLD, chunk_clips=4, chunks=2, shards=2)


@pytest.fixture(scope="module")
def clips():
    return render_clips([3, 5], WORLD)


def pool(shard: int = 0) -> WorldPool:
    return WorldPool(DATA, shard=shard, seed=0, device="cpu", compile=False, words=False)


def test_a_mirrored_clip_is_the_mirror_image_of_the_scene(clips):
    """Rays turn with the image, and each pixel's point is the mirror image of the point that was there."""
    flipped = clips.mirrored()
    assert torch.equal(flipped.images_BT3HW, clips.images_BT3HW.flip(-1))
    rays, mirror_rays = (ray_map(c.world_from_camera_BT44, c.intrinsics_B33[:, None], 32, 32) for c in (clips, flipped))
    other_side = torch.tensor([-1.0, 1, 1])
    assert torch.allclose(mirror_rays, rays.flip(3) * torch.cat((other_side, other_side)), atol=1e-5)
    points, mirror_points = (points_from_rays(r, c.depth_m_BTHW) for r, c in ((rays, clips), (mirror_rays, flipped)))
    assert torch.allclose(mirror_points, points.flip(3) * other_side, atol=1e-4)
    rotation = flipped.world_from_camera_BT44[..., :3, :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(2, 3), atol=1e-5)
    twice = flipped.mirrored()
    for field in fields(clips):
        value = getattr(clips, field.name)
        assert value is None or torch.equal(getattr(twice, field.name), value), field.name


def test_frames_that_are_left_see_the_first_of_them_as_their_world(clips):
    left = frames_of(clips, [1, 2])
    assert torch.equal(left.images_BT3HW, clips.images_BT3HW[:, 1:])
    assert torch.allclose(left.world_from_camera_BT44[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5)
    full = clips.world_from_camera_BT44
    again = full[:, 1:2] @ left.world_from_camera_BT44
    assert torch.allclose(again, full[:, 1:], atol=1e-5)


def test_what_is_drawn_depends_on_numbers_alone():
    first = pool().draw(generator_for(0, "geometry", 7, 0), 5, frames=2, oldest=0, newest=3)
    warm = pool()
    warm.draw(generator_for(0, "geometry", 1, 0), 5, frames=2, oldest=0, newest=1)
    again = warm.draw(generator_for(0, "geometry", 7, 0), 5, frames=2, oldest=0, newest=3)
    assert torch.equal(first.clips.images_BT3HW, again.clips.images_BT3HW)
    other = pool(shard=1).draw(generator_for(0, "geometry", 7, 0), 5, frames=2, oldest=0, newest=3)
    assert not torch.equal(first.clips.images_BT3HW, other.clips.images_BT3HW)


def recording(frames: int = 12, *, depth: bool = True, pose: bool = True, focal_px: float = 40.0):
    rng = np.random.default_rng(0)
    for index in range(frames):
        moved_44 = np.eye(4)
        moved_44[2, 3] = 0.1 * index
        yield Frame(
            image_HW3=rng.integers(0, 255, (48, 64, 3), dtype=np.uint8),
            index=index,
            camera=CameraModel(width_px=64, height_px=48, fx_px=focal_px, fy_px=focal_px, cx_px=32, cy_px=24),
            true_depth_m_HW=np.full((48, 64), 2.5, np.float32) if depth else None,
            true_world_from_camera_44=moved_44 if pose else None,
        )


def test_a_recording_comes_back_from_its_shard(tmp_path):
    assert write_shard(tmp_path / "a.safetensors", recording(), (24, 32), Ledger()) == 12
    clips = ShardClips(tmp_path, geometry=True, strides=(2,)).draw(generator_for(0, "x"), 2, frames=4).clips
    assert clips.images_BT3HW.shape == (2, 4, 3, 24, 32)
    assert torch.allclose(clips.depth_m_BTHW, torch.full((2, 4, 24, 32), 2.5))
    assert torch.allclose(clips.world_from_camera_BT44[:, :, 2, 3], torch.arange(4) * 0.2, atol=1e-5)
    assert torch.allclose(clips.intrinsics_B33[0, 0], torch.tensor([20.0, 0, 16]))


def test_points_of_a_flat_wall_lie_on_it(tmp_path):
    write_shard(tmp_path / "a.safetensors", recording(), (24, 32), Ledger())
    clips = ShardClips(tmp_path, geometry=True, strides=(1,)).draw(generator_for(0, "x"), 1, frames=2).clips
    rays = ray_map(clips.world_from_camera_BT44, clips.intrinsics_B33[:, None], 24, 32)
    points = points_from_rays(rays, clips.depth_m_BTHW)
    assert torch.allclose(points[0, 1, ..., 2], torch.full((24, 32), 2.6), atol=1e-4)


def spoil_intrinsics(path):
    tensors = load_file(path)
    tensors["intrinsics_F33"][:, 0, 0] = -1
    save_file(tensors, path)


def drop_depth(path):
    tensors = load_file(path)
    tensors["depth_mm_FHW"].zero_()
    save_file(tensors, path)


def drop_poses(path):
    tensors = load_file(path)
    tensors["world_from_camera_F44"].fill_(float("nan"))
    save_file(tensors, path)


def drop_a_column(path):
    tensors = load_file(path)
    del tensors["depth_mm_FHW"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_intrinsics, "wrong intrinsics"),
        (drop_depth, "missing depth"),
        (drop_poses, "missing pose"),
        (drop_a_column, "shard without depth_mm_FHW"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "unreadable shard"),
        (lambda p: p.write_bytes(b""), "unreadable shard"),
        (lambda p: write_shard(p, recording(2), (24, 32), Ledger()), "clip too short"),
    ],
)
def test_broken_clips_are_skipped_counted_and_named_until_they_are_too_many(tmp_path, spoil, reason):
    for number in range(30):
        write_shard(tmp_path / f"good-{number}.safetensors", recording(6), (24, 32), Ledger())
    bad = tmp_path / "bad.safetensors"
    write_shard(bad, recording(), (24, 32), Ledger())
    spoil(bad)
    source = ShardClips(tmp_path, geometry=True, strides=(1,))
    with pytest.raises(BadDataError, match=rf"^2 of \d+ clips are broken, more than 1%: 2 x {reason}; last bad"):
        for step in range(200):
            batch = source.draw(generator_for(0, "bad", step), 4, frames=4)
            assert batch.clips.images_BT3HW.shape[0] == 4, "a broken clip is replaced by another"
    assert source.ledger.skipped == [("bad.safetensors", reason)] * 2


def test_self_supervision_needs_no_geometry(tmp_path):
    write_shard(tmp_path / "a.safetensors", recording(depth=False, pose=False), (24, 32), Ledger())
    clips = ShardClips(tmp_path, geometry=False).draw(generator_for(0, "x"), 3, frames=4).clips
    assert clips.images_BT3HW.shape == (3, 4, 3, 24, 32) and clips.world_from_camera_BT44.isfinite().all()


def test_empty_images_are_named_and_an_empty_recording_is_refused(tmp_path):
    frames = list(recording(3))
    ledger = Ledger()
    empty = Frame(image_HW3=np.zeros((0, 0, 3), np.uint8), index=99)
    assert write_shard(tmp_path / "a.safetensors", [*frames, empty], (24, 32), ledger) == 3
    assert ledger.skipped == [("a, frame 99", "empty image")]
    with pytest.raises(BadDataError, match="b: no frame that could be read"):
        write_shard(tmp_path / "b.safetensors", [], (24, 32), Ledger())
    with pytest.raises(BadDataError, match="there are no shards"):
        ShardClips(tmp_path / "nothing", geometry=True)


def test_frames_of_a_camera_that_cannot_be_are_left_out_by_name(tmp_path):
    ledger = Ledger()
    frames = [*recording(3), *recording(1, focal_px=0.5)]
    assert write_shard(tmp_path / "a.safetensors", frames, (24, 32), ledger) == 3
    assert ledger.skipped == [("a, frame 0", "wrong intrinsics")] and ledger.seen == 4


def test_shards_of_pictures_that_are_broken_name_them_and_stop_at_too_many(tmp_path, monkeypatch, caplog):
    def make(folder: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["make_shards", str(folder), "--out", str(tmp_path / "shards")])
        make_shards.main()

    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for name, broken in (("few", 1), ("many", 3)):
        (tmp_path / name).mkdir()
        for index in range(6):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), image)
        for index in range(broken):
            (tmp_path / name / f"{index}.png").write_bytes(b"no picture")
    make(tmp_path / "few")
    assert "skipped few: undecodable image (1 of 6)" in caplog.text
    with pytest.raises(BadDataError, match="undecodable image"):
        make(tmp_path / "many")
