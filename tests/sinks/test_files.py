"""Files are read back by other programs' readers and hold what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from omnistream_core.errors import SinkError
from omnistream_core.sinks.base import Sink
from omnistream_core.sinks.points import PointCloud, VoxelMap, write_ply
from omnistream_core.sinks.summary import Summary
from omnistream_core.sinks.trajectory import Trajectory
from omnistream_core.sinks.video import DepthVideo, FeaturePcaVideo


def rerun_recording(path: Path) -> Sink:
    pytest.importorskip("rerun")
    from omnistream_core.sinks.rerun_sink import RerunRecording

    return RerunRecording(path)


MAKERS: dict[str, Callable[[Path], Sink]] = {
    "depth.mp4": DepthVideo,
    "features.mp4": FeaturePcaVideo,
    "points.ply": PointCloud,
    "path.txt": Trajectory,
    "recording.rrd": rerun_recording,
    "summary.png": Summary,
}


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points and (n, 3) colours, by the header's own words."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    kinds = {"float": "<f4", "uchar": "u1"}
    lines = [line.split() for line in header.decode().splitlines()]
    columns = [(line[2], kinds[line[1]]) for line in lines if line[0] == "property"]
    count = next(int(line[2]) for line in lines if line[:2] == ["element", "vertex"])
    rows = np.frombuffer(body, np.dtype(columns))
    assert len(rows) == count
    points = np.stack([rows[name] for name in ("x", "y", "z")], -1)
    return points, np.stack([rows[name] for name in ("red", "green", "blue")], -1)


# ---- all of them ----


@pytest.mark.parametrize("name", MAKERS)
def test_closing_twice_and_writing_after_it(name: str, step: Callable, tmp_path: Path) -> None:
    sink = MAKERS[name](tmp_path / "new" / "folder" / name)
    sink.write(*step(0))
    sink.close()
    size = sink.path.stat().st_size
    sink.close()
    assert sink.path.stat().st_size == size > 0
    with pytest.raises(SinkError, match="after close"):
        sink.write(*step(1))


@pytest.mark.parametrize("name", MAKERS)
def test_a_path_that_cannot_be_written_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError) as caught:
        MAKERS[name](tmp_path / "file" / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / name).mkdir()
    with pytest.raises(SinkError, match="cannot be written"):
        MAKERS[name](tmp_path / name)


@pytest.mark.parametrize("name", MAKERS)
def test_the_inputs_are_left_as_they_are(name: str, step: Callable, tmp_path: Path) -> None:
    frame, prediction = step(0)
    before = [frame.image_HW3.copy(), prediction.depth_m_HW.copy(), prediction.features_hwD.copy()]
    with MAKERS[name](tmp_path / name) as sink:
        sink.write(frame, prediction)
    for was, now in zip(before, (frame.image_HW3, prediction.depth_m_HW, prediction.features_hwD), strict=True):
        np.testing.assert_array_equal(was, now)


# ---- videos ----


@pytest.mark.parametrize("kind", [DepthVideo, FeaturePcaVideo])
@pytest.mark.parametrize("frames", [1, 3, 20])
def test_a_video_has_every_frame_at_its_rate(
    kind: type[DepthVideo], frames: int, step: Callable, tmp_path: Path
) -> None:
    with kind(tmp_path / "out.mp4", rate_hz=10, fit_frames=4) as sink:
        for index in range(frames):
            sink.write(*step(index))
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.codec_context.name) == (frames, 10, "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert len(list(container.decode(stream))) == frames


def test_the_input_stands_left_in_its_own_colours(step: Callable, tmp_path: Path) -> None:
    with DepthVideo(tmp_path / "out.mp4") as sink:
        sink.write(*step(0))
    picture = decoded(tmp_path / "out.mp4")[0].astype(int)
    assert picture.shape == (48 + 28, 128, 3)
    assert np.abs(picture[4:44, 4:28] - (230, 20, 20)).mean() < 15
    assert np.abs(picture[4:44, 36:60] - (20, 20, 230)).mean() < 15


def test_depth_keeps_its_colour_when_the_scene_changes(step: Callable, tmp_path: Path) -> None:
    with DepthVideo(tmp_path / "out.mp4", fit_frames=2) as sink:
        for index in range(6):
            frame, prediction = step(index)
            prediction.depth_m_HW[:, 32:] = 2.0 if index < 3 else 2.9
            sink.write(frame, prediction)
    pictures = [picture.astype(int) for picture in decoded(tmp_path / "out.mp4")]
    left, right = [p[10:38, 70:90].mean((0, 1)) for p in pictures], [p[10:38, 102:122].mean((0, 1)) for p in pictures]
    assert max(np.abs(one - left[0]).max() for one in left) < 8
    assert np.abs(right[5] - right[0]).max() > 30


@pytest.mark.parametrize("size_hw", [(47, 63), (33, 65), (720, 1280)])
def test_any_size_becomes_an_even_one(size_hw: tuple[int, int], step: Callable, tmp_path: Path) -> None:
    with FeaturePcaVideo(tmp_path / "out.mp4") as sink:
        sink.write(*step(0, size_hw=size_hw))
        sink.write(*step(1, size_hw=(50, 50)))
    pictures = decoded(tmp_path / "out.mp4")
    assert len(pictures) == 2
    assert pictures[0].shape[0] % 2 == pictures[0].shape[1] % 2 == 0 and pictures[0].shape[1] <= 1280


def test_a_video_is_whole_after_an_error_midway(step: Callable, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), DepthVideo(tmp_path / "out.mp4") as sink:
        for index in range(12):
            sink.write(*step(index))
        raise KeyboardInterrupt
    assert len(decoded(tmp_path / "out.mp4")) == 12


def test_a_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    DepthVideo(tmp_path / "out.mp4").close()
    assert not (tmp_path / "out.mp4").exists()


# ---- points ----


def test_a_ply_holds_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, colours = rng.normal(size=(500, 3)).astype(np.float32), rng.integers(0, 256, (500, 3), np.uint8)
    write_ply(tmp_path / "cloud.ply", points, colours)
    read_points, read_colours = read_ply(tmp_path / "cloud.ply")
    np.testing.assert_array_equal(read_points, points)
    np.testing.assert_array_equal(read_colours, colours)


def test_open3d_reads_the_ply(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    rng = np.random.default_rng(0)
    points, colours = rng.normal(size=(500, 3)).astype(np.float32), rng.integers(0, 256, (500, 3), np.uint8)
    write_ply(tmp_path / "cloud.ply", points, colours)
    cloud = open3d.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    np.testing.assert_array_equal(np.asarray(cloud.points, dtype=np.float32), points)
    np.testing.assert_array_equal(np.rint(np.asarray(cloud.colors) * 255), colours)


def test_the_cloud_is_the_wall_that_was_seen(step: Callable, tmp_path: Path) -> None:
    with PointCloud(tmp_path / "cloud.ply", voxel_m=0.01, drop_quantile=0.6, stride_px=1) as sink:
        for index in range(5):
            sink.write(*step(index))
    points, colours = read_ply(tmp_path / "cloud.ply")
    np.testing.assert_allclose(points[:, 2], 2.0, atol=1e-5)
    assert (points[:, 1] < 0).all()  # the lower half of the image is unsure
    red = points[colours[:, 0] > 200]
    blue = points[colours[:, 2] > 200]
    assert red[:, 0].max() < 0.2 + 1e-6 and blue[:, 0].min() > 0
    assert points[:, 0].min() == pytest.approx(-1.26, abs=0.011) and points[:, 0].max() == pytest.approx(
        1.46, abs=0.011
    )


def test_depth_limit_and_stride_thin_the_cloud(step: Callable, tmp_path: Path) -> None:
    sizes = []
    for number, options in enumerate(({"stride_px": 1}, {"stride_px": 4}, {"stride_px": 1, "max_depth_m": 1.0})):
        with PointCloud(tmp_path / f"{number}.ply", voxel_m=1e-3, drop_quantile=0.0, **options) as sink:
            sink.write(*step(0))
        sizes.append(len(read_ply(tmp_path / f"{number}.ply")[0]))
    assert sizes == [48 * 64, 12 * 16, 0]


def test_voxels_hold_the_mean_of_their_points() -> None:
    rng = np.random.default_rng(0)
    voxels, all_points = VoxelMap(0.5, 10_000), []
    for _ in range(4):
        points = rng.uniform(-3, 3, (2000, 3))
        voxels.add(points, np.full((2000, 3), 100, np.uint8))
        all_points.append(points)
    points = np.concatenate(all_points)
    cells, inverse = np.unique(np.floor(points / 0.5), axis=0, return_inverse=True)
    expected = np.stack([points[inverse.reshape(-1) == number].mean(0) for number in range(len(cells))])
    means, colours = voxels.points()
    assert len(voxels) == len(cells)
    np.testing.assert_allclose(means, expected, atol=1e-5)  # both in the order of their cells
    assert (colours == 100).all()


def test_memory_stays_bounded_and_the_whole_scene_stays_in(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    voxels = VoxelMap(0.01, 1000)
    for shift in range(10):
        voxels.add(rng.uniform(0, 1, (3000, 3)) + (shift, 0, 0), np.zeros((3000, 3), np.uint8))
        assert len(voxels) <= 1000
    assert voxels.voxel_m > 0.01 and np.log2(voxels.voxel_m / 0.01) % 1 == pytest.approx(0)
    assert voxels.points()[0][:, 0].min() < 1 and voxels.points()[0][:, 0].max() > 9
    assert "doubled" in caplog.text


def test_points_without_a_place_are_left_out() -> None:
    voxels = VoxelMap(0.1, 100)
    points = np.array([[0, 0, 1], [np.nan, 0, 1], [np.inf, 0, 1], [1e9, 0, 0]], np.float32)
    voxels.add(points, np.zeros((4, 3), np.uint8))
    assert len(voxels) == 1


@pytest.mark.parametrize("options", [{"voxel_m": 0.0}, {"max_points": 0}, {"drop_quantile": 1.0}, {"stride_px": 0}])
def test_settings_without_sense_are_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=next(iter(options))):
        PointCloud(tmp_path / "cloud.ply", **options)


# ---- trajectory ----


def test_lines_are_on_disk_as_they_are_written(step: Callable, tmp_path: Path) -> None:
    sink = Trajectory(tmp_path / "path.txt")
    sink.write(*step(3))
    lines = (tmp_path / "path.txt").read_text().splitlines()
    assert lines[1].split()[0] == "1700000000.423456789"
    np.testing.assert_allclose([float(v) for v in lines[1].split()[1:]], [0.15, 0, 0, 0, 0, 0, 1], atol=1e-9)
    sink.close()


def test_without_stamps_the_index_is_the_time(step: Callable, tmp_path: Path) -> None:
    with Trajectory(tmp_path / "path.txt") as sink:
        sink.write(*step(7, stamps=False))
    assert (tmp_path / "path.txt").read_text().splitlines()[1].startswith("7 ")


def test_evo_reads_the_trajectory(step: Callable, tmp_path: Path) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface")
    turn = cv2.Rodrigues(np.array([0.3, -0.5, 1.1]))[0]
    poses = []
    with Trajectory(tmp_path / "path.txt") as sink:
        for index in range(5):
            frame, prediction = step(index)
            prediction.world_from_camera_44[:3, :3] = np.linalg.matrix_power(turn, index)
            poses.append(prediction.world_from_camera_44.copy())
            sink.write(frame, prediction)
    read = file_interface.read_tum_trajectory_file(str(tmp_path / "path.txt"))
    assert read.num_poses == 5 and read.check()[0]
    np.testing.assert_allclose(np.stack(read.poses_se3), np.stack(poses), atol=1e-7)
    np.testing.assert_allclose(np.diff(read.timestamps), 0.1, atol=1e-6)


# ---- Rerun and the summary ----


def test_a_rerun_recording_is_read_back(step: Callable, tmp_path: Path) -> None:
    rerun_recording(tmp_path / "warm.rrd").close()
    with rerun_recording(tmp_path / "out.rrd") as sink:
        for index in range(3):
            sink.write(*step(index))
    data = (tmp_path / "out.rrd").read_bytes()
    assert data.startswith(b"RRF2") and len(data) > (tmp_path / "warm.rrd").stat().st_size
    for entity in (b"/world/camera", b"/world/camera/image", b"/world/points", b"/world/path", b"/confidence"):
        assert entity in data


@pytest.mark.parametrize(("frames", "truth"), [(0, False), (1, True), (2, False), (30, True)])
def test_a_summary_is_drawn_from_any_number_of_frames(frames: int, truth: bool, step: Callable, tmp_path: Path) -> None:
    with Summary(tmp_path / "summary.png", title="a walk") as sink:
        for index in range(frames):
            sink.write(*step(index, truth=truth))
    picture = cv2.imread(str(tmp_path / "summary.png"))
    assert picture.shape[0] > 500 and picture.shape[1] > 1000 and picture.std() > (0 if frames == 0 else 20)


def test_the_summary_keeps_a_bounded_number_of_frames(step: Callable, tmp_path: Path) -> None:
    sink = Summary(tmp_path / "summary.png", frames=3)
    for index in range(200):
        sink.write(*step(index))
    moments = sink._moments
    assert len(moments.items) <= 12
    labels = [int(moment.label.split()[1].strip(",")) for moment in moments.evenly(3)]
    assert labels[0] == 0 and 80 <= labels[1] <= 120 and labels[2] >= 175
    true_X3, label = sink._true_path(np.stack([position for position, _ in sink._path.items]))
    assert true_X3 is not None and "scale 0.500" in label
    np.testing.assert_allclose(true_X3, [position for position, _ in sink._path.items], atol=1e-6)
