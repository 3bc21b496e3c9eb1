"""Player, perception node and listener as processes; all that is heard is held against the core on the same frames."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ros_harness import Workspace, info_message, new_domain, picture
from rosbags import rosbag2
from rosbags.typesys import Stores, get_typestore

from omnistream_core.config import StreamConfig
from omnistream_core.session import StreamSession
from omnistream_core.sinks.drawing import FeaturePca
from omnistream_core.sources import open_source
from omnistream_core.types import Frame, Prediction
from omnistream_ros import conversions

SIZE_HW, FRAMES, START_NS, STEP_NS = (96, 128), 12, 1_700_000_000_000_000_000, 500_000_000
EVERYTHING = {"publish_features": True, "publish_depth_mm": True, "map_period_s": 0.0, "map_update_s": 0.0}


def write_bag(path: Path) -> None:
    """A rosbag2 recording of JPEGs, with a camera and a stamp for each."""
    types = get_typestore(Stores.ROS2_JAZZY)
    make = types.types
    with rosbag2.Writer(path, version=9) as writer:
        names = {"/camera/image_raw/compressed": "CompressedImage", "/camera/camera_info": "CameraInfo"}
        links = {t: writer.add_connection(t, f"sensor_msgs/msg/{k}", typestore=types) for t, k in names.items()}
        for index in range(FRAMES):
            stamp_ns = START_NS + index * STEP_NS
            stamp = make["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_optical")
            data = cv2.imencode(".jpg", picture(index, SIZE_HW)[..., ::-1])[1].reshape(-1)
            image = make["sensor_msgs/msg/CompressedImage"](header=header, format="jpeg", data=data)
            info = bag_info(make, header)
            for topic, message in zip(names, (image, info), strict=True):
                raw = types.serialize_cdr(message, message.__msgtype__)
                writer.write(links[topic], stamp_ns, raw)


def bag_info(make: Any, header: Any) -> Any:
    info = info_message(SIZE_HW, 0)
    roi = make["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return make["sensor_msgs/msg/CameraInfo"](
        header=header,
        height=info.height,
        width=info.width,
        distortion_model=info.distortion_model,
        d=np.array(info.d),
        k=np.array(info.k),
        r=np.array(info.r),
        p=np.array(info.p),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


@pytest.fixture(scope="module")
def heard(workspace: Workspace, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the listener heard, and the frames and predictions of the core."""
    folder = tmp_path_factory.mktemp("end_to_end")
    write_bag(folder / "bag")
    domain = new_domain()
    parameters = {"checkpoint": str(checkpoint), "autostart": True, "warm_up_width": 128, "warm_up_height": 96}
    with (
        workspace.script(
            Path(__file__).with_name("observer.py"), domain, str(folder / "heard"), str(FRAMES)
        ) as observer,
        workspace.run("perception_node", domain, parameters | EVERYTHING) as node,
    ):
        node.wait_for("configured")
        observer.wait_for("listening")
        replay = {"path": str(folder / "bag"), "wait_for_readers": 1, "rate": 0.2}  # on a busy machine too
        with workspace.run("replay_node", domain, replay) as player:
            player.wait_for(f"played {FRAMES} images", 120)
            assert player.wait() == 0
        assert observer.wait(180) == 0
        assert node.stop() == 0, node.text()
    result = pickle.loads((folder / "heard").read_bytes())
    with open_source(folder / "bag") as source:
        result["frames"] = list(source)
    session = StreamSession.from_pretrained(checkpoint, StreamConfig())
    session.warm_up(SIZE_HW)
    result["predictions"] = [session.step(frame) for frame in result["frames"]]
    return result


def pairs(heard: dict[str, list[Any]], topic: str) -> list[tuple[dict[str, Any], Frame, Prediction]]:
    """Each message with its frame and the core's prediction, matched by stamp."""
    by_stamp = {frame.stamp_ns: n for n, frame in enumerate(heard["frames"])}
    messages = heard[topic]
    stamps = [m["header"]["stamp"]["sec"] * 10**9 + m["header"]["stamp"]["nanosec"] for m in messages]
    assert stamps == [frame.stamp_ns for frame in heard["frames"]], f"{topic}: every image once, in order"
    numbers = [by_stamp[stamp] for stamp in stamps]
    return [(m, heard["frames"][n], heard["predictions"][n]) for m, n in zip(messages, numbers, strict=True)]


def pixels(message: dict[str, Any], dtype: str) -> np.ndarray:
    shape = message["height"], message["width"]
    return (
        np.frombuffer(message["data"].tobytes(), dtype).reshape(*shape, -1).squeeze(-1)
        if dtype != "u1"
        else np.frombuffer(message["data"].tobytes(), "u1").reshape(*shape, 3)
    )


def test_depth_is_equal(heard) -> None:
    for message, frame, prediction in pairs(heard, "depth/image"):
        assert (message["encoding"], message["header"]["frame_id"]) == ("32FC1", frame.frame_id)
        np.testing.assert_allclose(pixels(message, "<f4"), prediction.depth_m_HW, rtol=1e-5)
    for message, _, prediction in pairs(heard, "depth_mm/image"):
        assert message["encoding"] == "16UC1"
        assert np.abs(pixels(message, "<u2") / 1000 - prediction.depth_m_HW).max() < 0.00051
    for message, _, prediction in pairs(heard, "confidence"):
        np.testing.assert_allclose(pixels(message, "<f4"), prediction.confidence_HW, rtol=1e-5)


def test_camera_info_is_the_cameras(heard) -> None:
    for topic in ("depth/camera_info", "depth_mm/camera_info"):
        for message, frame, _ in pairs(heard, topic):
            assert (message["width"], message["height"]) == (SIZE_HW[1], SIZE_HW[0])
            assert message["header"]["frame_id"] == frame.frame_id
            np.testing.assert_allclose(message["k"], info_message(SIZE_HW, 0).k)


def test_the_cloud_is_the_unprojected_depth(heard) -> None:
    for message, frame, prediction in pairs(heard, "points"):
        assert message["header"]["frame_id"] == frame.frame_id
        assert [field["name"] for field in message["fields"]] == ["x", "y", "z", "rgb", "confidence"]
        points = np.frombuffer(message["data"].tobytes(), np.float32).reshape(-1, 5)
        assert len(points) == message["width"] == SIZE_HW[0] * SIZE_HW[1] // 4
        world = prediction.world_from_camera_44
        in_world = points[:, :3] @ world[:3, :3].T + world[:3, 3]
        np.testing.assert_allclose(in_world, prediction.points_m_HW3[::2, ::2].reshape(-1, 3), atol=2e-4)
        packed = points[:, 3].copy().view("<u4")
        np.testing.assert_array_equal(packed >> 16, frame.image_HW3[::2, ::2, 0].reshape(-1))


def test_the_pose_is_equal_in_odometry_and_tf(heard) -> None:
    for message, _, prediction in pairs(heard, "odometry"):
        assert (message["header"]["frame_id"], message["child_frame_id"]) == ("odom", "camera_link")
        expected = conversions.odom_from_camera_link(prediction.world_from_camera_44)
        position = message["pose"]["pose"]["position"]
        np.testing.assert_allclose([position[a] for a in "xyz"], expected[:3, 3], atol=1e-5)
        quaternion = [message["pose"]["pose"]["orientation"][a] for a in "xyzw"]
        np.testing.assert_allclose(quaternion, conversions.quaternion_xyzw(expected), atol=1e-5)
    transforms = [message["transforms"][0] for message in heard["/tf"]]
    assert len(transforms) == FRAMES
    for transform, odometry in zip(transforms, heard["odometry"], strict=True):
        assert transform["header"] == odometry["header"] and transform["child_frame_id"] == "camera_link"
        assert transform["transform"]["translation"] == odometry["pose"]["pose"]["position"]
        assert transform["transform"]["rotation"] == odometry["pose"]["pose"]["orientation"]


def test_the_static_transform_turns_body_axes_into_optical_ones(heard) -> None:
    (message,) = heard["/tf_static"]
    (transform,) = message["transforms"]
    assert (transform["header"]["frame_id"], transform["child_frame_id"]) == ("camera_link", "camera_optical")
    assert [transform["transform"]["rotation"][a] for a in "xyzw"] == [-0.5, 0.5, -0.5, 0.5]


def test_the_path_is_where_the_odometry_was(heard) -> None:
    poses = heard["path"][-1]["poses"]
    assert len(poses) == FRAMES, "path_period_s is the period of the images"
    for pose, odometry in zip(poses, heard["odometry"], strict=True):
        assert pose["pose"] == odometry["pose"]["pose"]


def test_features_are_equal(heard) -> None:
    for message, _, prediction in pairs(heard, "features"):
        shape = message["grid_height"], message["grid_width"], message["channels"]
        np.testing.assert_allclose(message["features"].reshape(shape), prediction.features_hwD, atol=1e-4)
        np.testing.assert_allclose(message["cls"], prediction.cls_D, atol=1e-4)
        assert (message["frame_index"], message["dtype"], message["layer"]) == (prediction.stream_index, "float32", 7)
        assert (message["patch_height_px"], message["patch_width_px"]) == (16.0, 16.0)


def test_the_feature_picture_is_the_cores(heard) -> None:
    pca = FeaturePca()
    for message, _, prediction in pairs(heard, "feature_image"):
        pca.observe(prediction.features_hwD)
        expected = pca.colours(prediction.features_hwD, SIZE_HW)
        assert np.abs(pixels(message, "u1").astype(int) - expected).mean() < 1.0


def test_the_map_holds_the_points_of_all_frames(heard) -> None:
    message = heard["map"][-1]
    assert message["header"]["frame_id"] == "odom"
    points = np.frombuffer(message["data"].tobytes(), np.float32).reshape(-1, 4)[:, :3]
    body = conversions.BODY_FROM_OPTICAL_44[:3, :3]
    everything = np.concatenate([p.points_m_HW3[::4, ::4].reshape(-1, 3) @ body.T for p in heard["predictions"]])
    voxels, expected = (np.unique(np.floor(p / 0.05), axis=0) for p in (points, everything))
    assert abs(len(voxels) - len(expected)) <= 0.02 * len(expected)
    assert (points.min(0) >= everything.min(0) - 0.05).all() and (points.max(0) <= everything.max(0) + 0.05).all()


def test_status_and_diagnostics_count_the_frames(heard) -> None:
    status = heard["status"][-1]
    counts = {name: status[name] for name in ("received", "processed", "dropped_newer", "refused", "resets")}
    assert counts == {"received": FRAMES, "processed": FRAMES, "dropped_newer": 0, "refused": 0, "resets": 0}
    assert (status["cache_frames"], status["cache_capacity"]) == (FRAMES, 17)
    figures = {pair["key"]: pair["value"] for pair in heard["/diagnostics"][-1]["status"][0]["values"]}
    assert figures["processed"] == figures["published"] == str(FRAMES)
    assert set(figures) >= {
        *("input Hz", "output Hz", "output age s", "cache MB", "cache frames", "resets", "last reset"),
        *(f"{stage} ms p50 p95" for stage in ("decode", "step", "publish")),
    }
