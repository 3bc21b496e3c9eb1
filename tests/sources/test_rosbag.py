"""Bags as frames: which topic is what, what is repaired, and what happens where they are damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omnistream_core.errors import SourceError
from omnistream_core.sources import open_source
from omnistream_core.sources.base import FrameSource
from omnistream_core.types import Frame

KINDS = ("bag", "db3", "mcap")
K = [50.0, 0, 31.5, 0, 52.0, 23.5, 0, 0, 1]
COLOUR, INFO, DEPTH = "/camera/color/image_raw", "/camera/color/camera_info", "/camera/aligned_depth/image_raw"

NewBag = Callable[[str], Any]


def full_bag(bag: Any, scene: SimpleNamespace, frames: int = 6) -> None:
    """Colour, camera, a pose with each image, depth with every second one, and things that only look like those."""
    bag.camera_info(INFO, (64, 48), K)
    for index in range(frames):
        bag.image(COLOUR, index, scene.picture(index), "rgb8")
        bag.pose("/camera/pose", index, (index * 0.1, 0.0, 0.0), (0.0, 0.0, 0.70710678, 0.70710678))
        bag.pose("/robot_pose", index, (9.0, 9.0, 9.0), (0.0, 0.0, 0.0, 1.0))
        if index % 2 == 0:
            bag.image(DEPTH, index, np.full((48, 64), 1000 + index, np.uint16), "16UC1")
        for extra in range(2):
            bag.image("/camera/infra1/image_raw", 2 * index + extra, scene.picture(0)[..., 0], "mono8")


def read_until_error(source: FrameSource) -> tuple[list[Frame], str]:
    frames = []
    try:
        for frame in source:
            frames.append(frame)
    except SourceError as error:
        return frames, str(error)
    return frames, ""


@pytest.mark.parametrize("kind", KINDS)
def test_frames_come_with_camera_depth_and_pose(
    kind: str, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    full_bag(bag, scene)
    with open_source(bag.write(tmp_path)) as source:
        frames = list(source)
        about = source.describe()
    assert (source.length, len(frames), about["topic"]) == (6, 6, COLOUR)
    assert (about["depth_topic"], about["pose_topic"], about["camera_info_topic"]) == (DEPTH, "/camera/pose", INFO)
    assert not source.skipped and not source.repaired and not source.ignored
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image_HW3, scene.picture(index))
        assert (frame.index, frame.stamp_ns) == (index, scene.start_ns + index * 100_000_000)
        assert frame.frame_id == "camera_optical"
        assert frame.camera is not None
        assert (frame.camera.fx_px, frame.camera.fy_px, frame.camera.cx_px, frame.camera.cy_px) == (50, 52, 32, 24)
        turn = frame.true_world_from_camera_44
        assert turn is not None
        np.testing.assert_allclose(turn[:3, 3], (index * 0.1, 0, 0))
        np.testing.assert_allclose(turn[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-7)
        assert (frame.true_depth_m_HW is None) == (index % 2 == 1)
        if frame.true_depth_m_HW is not None:
            np.testing.assert_allclose(frame.true_depth_m_HW, 1 + index / 1000)


@pytest.mark.parametrize("kind", ["db3", "mcap"])
@pytest.mark.parametrize("as_file", [True, False])
def test_storage_files_need_no_metadata(
    kind: str, as_file: bool, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    full_bag(bag, scene)
    folder = bag.write(tmp_path)
    (folder / "metadata.yaml").unlink()
    with open_source(next(folder.glob(f"*.{kind}")) if as_file else folder) as source:
        assert len(list(source)) == 6


def test_a_source_can_be_read_twice(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    full_bag(bag, scene)
    bag.image(COLOUR, 6, scene.picture(6), "rgb8", data=np.zeros(3, np.uint8))
    with open_source(bag.write(tmp_path)) as source:
        assert len(list(source)) == len(list(source)) == 6
        assert source.skipped == {"data shorter than step * height": 1}


def test_depth_and_pose_may_come_late_but_not_from_another_time(
    new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag("mcap")
    for index in range(4):
        bag.image(COLOUR, index, scene.picture(index), "rgb8")
    for index, late_ms in enumerate((0, 15, 30, -15)):
        stamp_ns = scene.start_ns + index * 100_000_000 + late_ms * 1_000_000
        depth_HW = np.full((48, 64), 1000 * (index + 1), np.uint16)
        bag.image(DEPTH, index, depth_HW, "16UC1", stamp_ns=stamp_ns)
    with open_source(bag.write(tmp_path)) as source:
        depths = [None if f.true_depth_m_HW is None else float(f.true_depth_m_HW[0, 0]) for f in source]
    assert depths == [1.0, 2.0, None, 4.0]


def test_depth_of_another_camera_is_no_truth(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("bag")
    depth_HW = np.full((48, 64), 1000, np.uint16)
    bag.image("/d/color/image_raw", 0, scene.picture(0), "rgb8", frame_id="1")
    bag.image("/d/depth/image_raw", 0, depth_HW, "mono16", frame_id="1")
    bag.camera_info("/d/color/camera_info", (64, 48), K)
    bag.camera_info("/d/depth/camera_info", (64, 48), [30.0, *K[1:]])
    path = bag.write(tmp_path)
    with open_source(path) as source:
        assert source.describe()["depth_topic"] is None
    with open_source(path, depth_topic="/d/depth/image_raw") as source:
        assert next(iter(source)).true_depth_m_HW is not None


def test_a_simulated_depth_in_the_frame_of_the_image_is_truth(
    new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag("db3")
    bag.image("/camera/image_raw", 0, scene.picture(0), "rgb8")
    bag.image("/camera/depth/image_raw", 0, np.full((48, 64), 2.5, np.float32), "32FC1")
    with open_source(bag.write(tmp_path)) as source:
        (frame,) = source
    assert frame.true_depth_m_HW is not None
    np.testing.assert_array_equal(frame.true_depth_m_HW, np.full((48, 64), 2.5, np.float32))


def test_depth_of_another_size_is_counted(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    bag.image(COLOUR, 0, scene.picture(0), "rgb8")
    bag.image(DEPTH, 0, np.full((24, 32), 1000, np.uint16), "16UC1")
    with open_source(bag.write(tmp_path)) as source:
        (frame,) = source
        assert frame.true_depth_m_HW is None and source.ignored == {"depth of another size": 1}


def test_tf_counts_only_from_world_to_the_optical_frame(
    new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag("mcap")
    for index in range(3):
        bag.transform("/tf", index, "odom", "base_link", (7.0, 7.0, 7.0))
        bag.transform("/tf", index, "map", "camera_optical", (float(index), 0.0, 0.0))
        bag.image(COLOUR, index, scene.picture(index), "rgb8")
    with open_source(bag.write(tmp_path)) as source:
        poses = [frame.true_world_from_camera_44 for frame in source]
    assert [None if pose is None else pose[0, 3] for pose in poses] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_topic_is_answered_with_those_there(
    kind: str, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    full_bag(bag, scene)
    path = bag.write(tmp_path)
    with pytest.raises(SourceError) as caught:
        open_source(path, topic="/cam/front")
    text = str(caught.value)
    assert "/cam/front" in text and COLOUR in text and "/camera/infra1/image_raw" in text and "\n" not in text
    assert INFO not in text
    with pytest.raises(SourceError, match="/camera/pose"):
        open_source(path, pose_topic="/nowhere")


def test_a_topic_may_be_named_and_truth_refused(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    full_bag(bag, scene)
    path = bag.write(tmp_path)
    with open_source(path, topic="camera/infra1/image_raw") as source:
        assert source.length == 12 and len(list(source)) == 12
    with open_source(path, depth_topic="", pose_topic="") as source:
        frame = next(iter(source))
        assert frame.true_depth_m_HW is None and frame.true_world_from_camera_44 is None


def test_a_bag_without_images_says_what_it_has(new_bag: NewBag, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    bag.pose("/pose", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    with pytest.raises(SourceError, match=r"no image topic.*PoseStamped"):
        open_source(bag.write(tmp_path))


def test_camera_info_of_another_size_is_an_error_with_both(
    new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag("mcap")
    bag.camera_info(INFO, (128, 96), K)
    bag.image(COLOUR, 0, scene.picture(0), "rgb8")
    with open_source(bag.write(tmp_path)) as source, pytest.raises(SourceError, match=r"64x48.*128x96"):
        list(source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_binned_camera_has_its_intrinsics_scaled(
    kind: str, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    bag.camera_info(INFO, (128, 96), [100.0, 0, 63.5, 0, 110.0, 47.5, 0, 0, 1], binning=2)
    bag.image(COLOUR, 0, scene.picture(0), "rgb8")
    with open_source(bag.write(tmp_path)) as source:
        (frame,) = source
    assert frame.camera is not None
    np.testing.assert_array_equal(frame.camera.matrix_33, [[50, 0, 32], [0, 55, 24], [0, 0, 1]])


@pytest.mark.parametrize("focal", [0.0, float("nan")])
def test_an_uncalibrated_camera_is_unknown(
    focal: float, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bag = new_bag("bag")
    bag.camera_info(INFO, (64, 48), [focal, *K[1:]])
    bag.image(COLOUR, 0, scene.picture(0), "rgb8")
    with caplog.at_level(logging.WARNING), open_source(bag.write(tmp_path)) as source:
        (frame,) = source
        assert frame.camera is None and source.ignored == {"CameraInfo without focal length": 1}
    assert "CameraInfo without focal length" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_trailing_bytes_are_trimmed_and_counted(
    kind: str, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    bag.extra_bytes = bytes(4)
    for index in range(3):
        bag.image(COLOUR, index, scene.picture(index), "rgb8")
    with open_source(bag.write(tmp_path)) as source:
        frames = list(source)
        assert source.repaired == {"trailing bytes trimmed": 3} and not source.skipped
    np.testing.assert_array_equal(frames[2].image_HW3, scene.picture(2))


def test_data_beyond_the_last_row_is_trimmed_too(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    bag.image(COLOUR, 0, scene.picture(0), "rgb8", data=np.append(scene.picture(0).reshape(-1), np.zeros(4, np.uint8)))
    with open_source(bag.write(tmp_path)) as source:
        (frame,) = source
        assert source.repaired == {"trailing bytes trimmed": 1}
    np.testing.assert_array_equal(frame.image_HW3, scene.picture(0))


def test_malformed_images_are_skipped_and_counted(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    whole = scene.picture(0)
    bag.image(COLOUR, 0, whole, "rgb8")
    bag.image(COLOUR, 1, whole, "rgb8", data=whole.reshape(-1)[:-1])
    bag.image(COLOUR, 2, whole, "rgb8", data=np.zeros(0, np.uint8))
    bag.image(COLOUR, 3, whole, "rgb8", height=0)
    bag.image(COLOUR, 4, whole, "rgb8", step=10)
    bag.image(COLOUR, 5, whole, "rgb8")
    with open_source(bag.write(tmp_path)) as source:
        assert [frame.index for frame in source] == [0, 5]
        assert source.skipped == {
            "data shorter than step * height": 1,
            "empty image": 1,
            "zero size": 1,
            "step shorter than a row": 1,
        }
        assert not source.repaired


def test_no_readable_frame_is_an_error_that_says_why(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    for index in range(3):
        bag.jpeg("/camera/image/compressed", index, scene.picture(index), data=b"\xff\xd8 not much of a picture")
    with open_source(bag.write(tmp_path)) as source, pytest.raises(SourceError, match=r"no frame.*3 JPEG cut short"):
        list(source)


def test_an_unknown_encoding_is_an_error_that_names_it(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("db3")
    bag.image(COLOUR, 0, scene.picture(0), "nv24")
    with open_source(bag.write(tmp_path)) as source, pytest.raises(SourceError, match=r"nv24.*bgr8"):
        list(source)


def test_a_zero_stamp_is_replaced_by_the_recorders(new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    bag.image(COLOUR, 0, scene.picture(0), "rgb8", stamp_ns=0)
    topic, msgtype, _, message = bag.entries.pop()
    bag.entries.append((topic, msgtype, 42, message))
    with open_source(bag.write(tmp_path)) as source:
        assert [frame.stamp_ns for frame in source] == [42]


def big_bag(bag: Any, frames: int = 24) -> list[np.ndarray]:
    """More than one chunk of images that do not compress."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(frames)]
    for index, image_HW3 in enumerate(images):
        bag.image(COLOUR, index, image_HW3, "rgb8")
    return images


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_bag_gives_what_it_has_and_then_says_so(kind: str, new_bag: NewBag, tmp_path: Path) -> None:
    bag = new_bag(kind)
    images = big_bag(bag)
    path = bag.write(tmp_path)
    file = path if kind == "bag" else next(path.glob(f"*.{kind}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with open_source(path) as source:
        frames, error = read_until_error(source)
    assert 8 <= len(frames) < 24
    assert f"truncated after {len(frames)} frames" in error and "\n" not in error
    for frame, image_HW3 in zip(frames, images, strict=False):
        np.testing.assert_array_equal(frame.image_HW3, image_HW3)


@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_a_bag_with_a_bad_chunk_stops_there(kind: str, new_bag: NewBag, tmp_path: Path) -> None:
    bag = new_bag(kind)
    images = big_bag(bag)
    path = bag.write(tmp_path) if kind == "bag" else bag.write_chunked_mcap(tmp_path / "a.mcap", "ros2")
    data = bytearray(path.read_bytes())
    # .bag has no checksums: there the header of a message is hit
    start = data.find(b"op=\x02", len(data) // 2) if kind == "bag" else len(data) // 2
    data[start : start + 64] = b"\xa5" * 64
    path.write_bytes(bytes(data))
    with open_source(path) as source:
        frames, error = read_until_error(source)
    assert 4 <= len(frames) < 24 and f"truncated after {len(frames)} frames" in error
    np.testing.assert_array_equal(frames[-1].image_HW3, images[len(frames) - 1])


@pytest.mark.parametrize("profile", ["ros2", ""])
def test_mcap_of_other_writers(profile: str, new_bag: NewBag, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    images = big_bag(bag)
    with open_source(bag.write_chunked_mcap(tmp_path / "a.mcap", profile)) as source:
        frames = list(source)
    assert len(frames) == len(images)
    np.testing.assert_array_equal(frames[-1].image_HW3, images[-1])


def test_mcap_whose_recorder_was_killed(new_bag: NewBag, tmp_path: Path) -> None:
    bag = new_bag("mcap")
    big_bag(bag)
    with open_source(bag.write_chunked_mcap(tmp_path / "a.mcap", "ros2", finish=False)) as source:
        frames, error = read_until_error(source)
    assert 16 <= len(frames) <= 24 and f"truncated after {len(frames)} frames" in error


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3"])
@pytest.mark.parametrize("content", [b"", b"these are no messages" * 20])
def test_a_file_that_is_no_bag_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="empty" if not content else "neither") as caught:
        open_source(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_start_of_a_bag_is_not_enough(
    kind: str, new_bag: NewBag, scene: SimpleNamespace, tmp_path: Path
) -> None:
    bag = new_bag(kind)
    full_bag(bag, scene)
    path = bag.write(tmp_path)
    file = path if kind == "bag" else next(path.glob(f"*.{kind}"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SourceError, match="no message can be read"):
        open_source(path)


# ---- real recordings ----


def test_realsense_recording_with_trailing_bytes(realdata: Path) -> None:
    with open_source(realdata / "ros_bags/recorded/realsense_d4xx_rgbd.bag") as source:
        frames = list(source)
        assert len(frames) == 5 and source.repaired == {"trailing bytes trimmed": 5} and not source.skipped
        assert source.describe()["depth_topic"] is None  # its depth camera is another one, and not registered
    assert frames[0].camera is not None and frames[0].camera.fx_px == pytest.approx(604.213379)


@pytest.mark.parametrize("name", ["hololens.bag", "hololens_db3", "hololens_mcap"])
def test_a_bag_and_the_folder_it_came_from_agree(name: str, realdata: Path) -> None:
    with (
        open_source(realdata / "ros_bags/converted_hololens" / name) as bag,
        open_source(realdata / "hololens_office") as folder,
    ):
        for from_bag, from_folder in zip(bag, folder, strict=False):
            np.testing.assert_array_equal(from_bag.image_HW3, from_folder.image_HW3)
            np.testing.assert_allclose(
                from_bag.true_world_from_camera_44, from_folder.true_world_from_camera_44, atol=1e-6
            )
            assert from_bag.camera is not None and from_folder.camera is not None
            np.testing.assert_allclose(from_bag.camera.matrix_33, from_folder.camera.matrix_33)
            if from_bag.true_depth_m_HW is not None:
                np.testing.assert_allclose(from_bag.true_depth_m_HW, from_folder.true_depth_m_HW)
        assert from_bag.index == 29
