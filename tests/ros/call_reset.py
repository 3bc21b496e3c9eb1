"""Run as a process: ask the perception node to reset each of the given streams and print what it answers."""

import sys

import rclpy

from omnistream_msgs.srv import ResetStream

rclpy.init()
node = rclpy.create_node("caller")
client = node.create_client(ResetStream, "/perception_node/reset_stream")
client.wait_for_service(60)
for stream in sys.argv[1:]:
    future = client.call_async(ResetStream.Request(stream=int(stream)))
    rclpy.spin_until_future_complete(node, future, timeout_sec=30)
    print(future.result().success, future.result().message, flush=True)
rclpy.try_shutdown()
