from glob import glob

from setuptools import find_packages, setup

package_name = "omnistream_policy"

setup(
    name=package_name,
    version="0.1.0",
    description="A trained LeRobot policy as a ROS 2 node, with limits and a watchdog",
    maintainer="The OmniStream toolkit contributors",
    maintainer_email="maintainers@omnistream.example",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/config", glob("config/*.yaml")),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    entry_points={"console_scripts": ["policy_node = omnistream_policy.policy_node:main"]},
)
