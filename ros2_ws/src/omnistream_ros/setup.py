from setuptools import find_packages, setup

package_name = "omnistream_ros"

setup(
    name=package_name,
    version="0.1.0",
    description="Streaming depth, points, pose and features from camera images as ROS 2 nodes",
    maintainer="The OmniStream toolkit contributors",
    maintainer_email="maintainers@omnistream.example",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "perception_node = omnistream_ros.perception_node:main",
            "replay_node = omnistream_ros.replay_node:main",
        ]
    },
)
