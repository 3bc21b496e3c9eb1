"""Two cameras as one batch of streams, each in a world of its own; streams are reset alone."""

from __future__ import annotations

from pathlib import Path

from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from ros_harness import Peer, Workspace, image_message, new_domain, picture

RELIABLE = QoSProfile(depth=10)


def test_two_cameras_in_one_node(workspace: Workspace, checkpoint: Path) -> None:
    domain = new_domain()
    parameters = {"checkpoint": str(checkpoint), "autostart": True, "cameras": ["left", "right"], "batch_wait_s": 0.2}
    parameters["image_qos"] = "reliable"
    small = {"warm_up_width": 128, "warm_up_height": 96}
    with Peer(domain) as peer, workspace.run("perception_node", domain, parameters | small) as node:
        node.wait_for("2 stream(s)")
        poses = {name: peer.listen(f"/perception_node/{name}/odometry", Odometry) for name in ("left", "right")}
        for index in range(40):
            for name in poses:
                stamp_ns = 10**18 + index * 33_000_000
                peer.publish(f"{name}/image_raw", image_message(picture(index), stamp_ns, frame_id=name), RELIABLE)
            peer.spin(0.4)
            if min(map(len, poses.values())) >= 6:
                break
        assert min(map(len, poses.values())) >= 6, node.text()
        for name, messages in poses.items():
            assert messages[-1].header.frame_id == f"{name}/odom"
            assert messages[-1].child_frame_id == f"{name}/camera_link"
        with workspace.script(Path(__file__).with_name("call_reset.py"), domain, "1", "2", "-1") as caller:
            assert caller.wait(120) == 0, caller.text()
            answers = caller.text().splitlines()
        assert [answer.split()[0] for answer in answers] == ["True", "False", "True"]
        assert "-1 for all, or 0 to 1" in answers[1]
        peer.until(lambda: peer.figures(1).get("resets") == "2", 15, "both resets of the right camera")
        assert peer.figures(0)["resets"] == "1"
        assert peer.figures(0)["last reset"] == "asked for by reset_stream"
        assert node.stop() == 0
