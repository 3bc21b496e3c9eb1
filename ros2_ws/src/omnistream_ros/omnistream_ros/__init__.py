"""ROS 2 nodes around the streaming session of ``omnistream_core``."""
