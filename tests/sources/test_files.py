"""Videos, folders, cameras, and what ``open_source`` says of a path."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from omnistream_core.errors import SourceError
from omnistream_core.sources import open_source


def picture(index: int) -> np.ndarray:
    """(48, 64, 3): red left, blue top right, black bottom right, with a white bar that moves."""
    image_HW3 = np.zeros((48, 64, 3), np.uint8)
    image_HW3[:, :32] = (220, 30, 30)
    image_HW3[:24, 32:] = (30, 30, 220)
    image_HW3[40:, 4 * index : 4 * index + 8] = 255
    return image_HW3


def write_video(path: Path, frames: int = 10, codec: str = "libx264", rate: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1", "mpeg4"])
def test_video_gives_every_frame_in_order_with_its_time(codec: str, tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "clip.mp4", codec=codec)) as source:
        frames = list(source)
        assert source.length == 10 and source.describe()["size_px"] == [64, 48]
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.stamp_ns for frame in frames] == [index * 40_000_000 for index in range(10)]
    for index, frame in enumerate(frames):
        assert frame.image_HW3.shape == (48, 64, 3)
        assert np.abs(frame.image_HW3[:20, 4:28].astype(int) - (220, 30, 30)).mean() < 12
        assert np.abs(frame.image_HW3[:20, 36:].astype(int) - (30, 30, 220)).mean() < 12
        assert frame.image_HW3[45, 4 * index + 4].min() > 150


def test_a_video_filmed_upright_is_turned_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4")
    fixed = [Fraction(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)]
    turned = [Fraction(v) for v in (0, 1, 0, -1, 0, 0, 48, 0, 1)]  # x' = 48 - y, y' = x: a quarter turn clockwise

    def matrix(values: list[Fraction]) -> bytes:
        scales = (1 << 16, 1 << 16, 1 << 30) * 3
        return b"".join(int(v * s).to_bytes(4, "big", signed=True) for v, s in zip(values, scales, strict=True))

    data = path.read_bytes()
    track = data.index(b"tkhd")
    at = data.index(matrix(fixed), track)
    path.write_bytes(data[:at] + matrix(turned) + data[at + 36 :])
    with open_source(path) as source:
        image_HW3 = next(iter(source)).image_HW3
    expected = np.rot90(picture(0), -1)
    assert image_HW3.shape == expected.shape == (64, 48, 3)
    assert np.abs(image_HW3.astype(int) - expected).mean() < 12


def test_a_truncated_video_gives_what_it_has_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for index in range(50):
            noise = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = []
    with open_source(path) as source, pytest.raises(SourceError, match=r"truncated after \d+ frames") as caught:
        for frame in source:
            frames.append(frame)
    assert 10 < len(frames) < 50 and f"after {len(frames)} frames" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is no video" * 50])
def test_what_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"clip\.mp4") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="no video stream"):
        open_source(path)


def make_folder(root: Path, frames: int = 4) -> Path:
    """rgb/, depth/ on even frames, intrinsics.json and poses.txt."""
    (root / "rgb").mkdir(parents=True)
    (root / "depth").mkdir()
    for index in range(frames):
        cv2.imwrite(str(root / "rgb" / f"{index:06d}.png"), picture(index)[..., ::-1])
        if index % 2 == 0:
            cv2.imwrite(str(root / "depth" / f"{index:06d}.png"), np.full((48, 64), 500 + index, np.uint16))
    intrinsics = {"width": 64, "height": 48, "fx": 50.0, "fy": 51.0, "cx": 31.5, "cy": 23.5, "depth_scale": 0.002}
    (root / "intrinsics.json").write_text(json.dumps(intrinsics))
    lines = ["# n tx ty tz qx qy qz qw", *(f"{n:.6f} {n} 0 0 0 0 0 1" for n in range(frames) if n != 1)]
    (root / "poses.txt").write_text("\n".join(lines) + "\n")
    return root


def test_a_folder_brings_camera_depth_and_poses(tmp_path: Path) -> None:
    with open_source(make_folder(tmp_path / "walk")) as source:
        frames = list(source)
        about = source.describe()
    assert (source.length, about["depth_images"], about["poses"]) == (4, 2, 3)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image_HW3, picture(index))
        assert frame.stamp_ns is None and frame.camera is not None
        assert (frame.camera.cx_px, frame.camera.cy_px) == (32.0, 24.0)
        assert (frame.true_depth_m_HW is None) == (index % 2 == 1)
        assert (frame.true_world_from_camera_44 is None) == (index == 1)
    np.testing.assert_allclose(frames[2].true_depth_m_HW, np.full((48, 64), 1.004), rtol=1e-6)
    assert frames[3].true_world_from_camera_44[0, 3] == 3


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    for index in (0, 1, 2, 9, 10):
        cv2.imwrite(str(tmp_path / f"view_{index}.png"), np.full((8, 8, 3), index, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(tmp_path) as source:
        assert [int(frame.image_HW3[0, 0, 0]) for frame in source] == [0, 1, 2, 9, 10]


def test_unreadable_images_are_skipped_and_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "walk")
    (root / "rgb" / "000001.png").write_bytes(b"")
    (root / "rgb" / "000002.png").write_bytes(b"no image")
    (root / "depth" / "000000.png").write_bytes(b"no depth")
    with open_source(root) as source:
        frames = list(source)
        assert source.skipped == {"empty file": 1, "undecodable image": 1}
        assert source.ignored == {"depth that is not 16-bit gray of the image's size": 1}
    assert [frame.index for frame in frames] == [0, 3]
    for file in (root / "rgb").iterdir():
        file.write_bytes(b"")
    with open_source(root) as source, pytest.raises(SourceError, match="no frame can be read: 4 empty file"):
        list(source)


def test_intrinsics_of_another_size_are_an_error_with_both(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "walk")
    cv2.imwrite(str(root / "rgb" / "000000.png"), np.zeros((24, 32, 3), np.uint8))
    with open_source(root) as source, pytest.raises(SourceError, match=r"32x24.*64x48"):
        list(source)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("intrinsics.json", "{", "no JSON"),
        ("intrinsics.json", '{"fx": 1}', "width"),
        ("intrinsics.json", '{"width": 4, "height": 4, "fx": 0, "fy": 1, "cx": 1, "cy": 1}', "fx"),
        ("poses.txt", "0 1 2 3\n", "4 columns"),
        ("poses.txt", "0 0 0 0 0 0 0 0\n", "zero quaternion"),
        ("poses.txt", "zero\n", "poses.txt"),
    ],
)
def test_a_broken_side_file_is_an_error(name: str, content: str, says: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "walk")
    (root / name).write_text(content)
    with pytest.raises(SourceError, match=says) as caught:
        open_source(root)
    assert name in str(caught.value)


def test_one_image_is_a_source(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), picture(0)[..., ::-1])
    with open_source(tmp_path / "photo.png") as source:
        (frame,) = source
    np.testing.assert_array_equal(frame.image_HW3, picture(0))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root / "nowhere.bag", "no such file"),
        (lambda root: root / "empty", "neither images"),
        (lambda root: root / "lerobot", "LeRobot"),
        (lambda root: "97", "camera 97"),
    ],
)
def test_what_cannot_be_opened_is_refused_by_name(make: object, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "lerobot" / "meta").mkdir(parents=True)
    (tmp_path / "lerobot" / "meta" / "info.json").write_text("{}")
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=says) as caught:
        open_source(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_topic_for_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="/camera"):
        open_source(write_video(tmp_path / "clip.mp4", frames=1), topic="/camera")


def test_libraries_load_with_the_kind_that_needs_them() -> None:
    code = (
        "import sys, omnistream_core.sources; print([m for m in ('av', 'cv2', 'rosbags', 'mcap') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- real recordings ----


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("g1_bottle_dev/videos/chunk-000/observation.images.cam_high/episode_000008.mp4", 297),  # AV1
        ("umi_cup_lerobot/videos/observation.image_episode_000000.mp4", 400),
        ("wild_videos/bedroom.mp4", 200),
    ],
)
def test_real_videos_are_read_to_their_end(path: str, count: int, realdata: Path) -> None:
    with open_source(realdata / path) as source:
        stamps = [frame.stamp_ns for frame in source]
    assert len(stamps) == count == source.length
    assert all(a is not None and b is not None and a < b for a, b in pairwise(stamps))


def test_the_office_walk_has_its_truth(realdata: Path) -> None:
    with open_source(realdata / "hololens_office") as source:
        about = source.describe()
        assert (about["length"], about["depth_images"], about["poses"]) == (373, 187, 373)
        frame = next(iter(source))
    assert frame.camera is not None and frame.camera.cx_px == pytest.approx(270.0029)
    assert frame.true_depth_m_HW is not None
    known = frame.true_depth_m_HW[frame.true_depth_m_HW > 0]
    assert 0.3 < known.min() < known.max() < 20
