"""The messages of a bag file, whatever its container and however its recording ended.

A bag with its index is read through it. One without, as a recorder that was killed leaves it, is read from front to
back up to where its bytes end.
"""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from heapq import merge
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mcap.exceptions import EndOfFile
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags import rosbag1, rosbag2
from rosbags.rosbag1.reader import Header, RecordType, decompressors, normalize, read_bytes, read_uint32
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.msg import normalize_msgtype

from omnistream_core.errors import SourceError


class RawMessage(NamedTuple):
    """One message as stored: ``log_ns`` is when the recorder received it."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic of a recording; ``msgtype`` as in ``sensor_msgs/msg/Image``."""

    name: str
    msgtype: str
    count: int


class DamagedRecording(SourceError):
    """The bytes end, or turn to nonsense, after the messages that were yielded."""


class Recording(ABC):
    """Topics and messages of one bag. ``is_ros1`` says how the messages are serialized."""

    def __init__(self, topics: dict[str, Topic], *, is_ros1: bool) -> None:
        self.topics = topics
        self._is_ros1 = is_ros1
        self._types = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_JAZZY)

    @abstractmethod
    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        """Messages of these topics in the order of their log time.

        Raises:
            DamagedRecording: after the last one that can be read.
        """

    def close(self) -> None:  # noqa: B027  only an indexed recording keeps files open
        """Free what it holds. May be called more than once."""

    def deserialize(self, message: RawMessage) -> tuple[Any, int]:
        """The message as an object with ROS 2 field names and the number of bytes that trail it.

        Raises:
            SourceError: bytes that are no message of that type.
        """
        definition = self._types.get_msgdef(message.msgtype)
        offset = 0 if self._is_ros1 else 4
        read: Callable[..., tuple[Any, int]] = definition.deserialize_ros1
        if not self._is_ros1:
            is_little = message.data[1:2] == b"\x01"
            read = definition.deserialize_cdr_le if is_little else definition.deserialize_cdr_be
        try:
            parsed, end = read(message.data[offset:], 0, definition.cls, self._types)
        except Exception as error:  # the generated readers raise whatever the bytes lead them to
            raise SourceError(f"{message.topic}: no {message.msgtype}: {error}") from None
        trailing = len(message.data) - offset - end
        return parsed, trailing if self._is_ros1 or trailing > 3 else 0


def open_recording(path: Path) -> Recording:
    """Open a ``.bag``, ``.mcap`` or ``.db3`` file, or a rosbag2 directory with or without its metadata.yaml.

    Raises:
        SourceError: no bag there, an empty one, or one of which nothing can be read.
    """
    files = storage_files(path)
    kinds = {container_kind(file) for file in files}
    if len(kinds) != 1:
        raise SourceError(f"{path}: files of several kinds, {sorted(kinds)}; one kind a recording is needed")
    kind = kinds.pop()
    try:
        return _IndexedRecording(path, files, kind)
    except Exception as error:  # a damaged index fails in many ways; what the bytes hold is told by reading them
        expected = str(error) if (path / "metadata.yaml").exists() else None
        return _ScannedRecording(path, files, kind, missing=expected)


def storage_files(path: Path) -> list[Path]:
    """The files that hold the messages of the bag at ``path``, in their order."""
    if path.is_file():
        return [path]
    files = [file for suffix in ("*.mcap", "*.db3", "*.mcap.zstd", "*.db3.zstd") for file in path.glob(suffix)]
    if not files:
        raise SourceError(f"{path}: no .mcap or .db3 file in this directory")
    return sorted(files, key=_natural_key)


def container_kind(file: Path) -> str:
    """``"rosbag1"``, ``"mcap"``, ``"sqlite3"`` or ``"zstd"`` by the first bytes.

    Raises:
        SourceError: an empty file, one that cannot be read, or one that begins as none of these.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}") from None
    if not start:
        raise SourceError(f"{file}: the file is empty")
    for magic, kind in _MAGICS:
        if start.startswith(magic):
            return kind
    raise SourceError(f"{file}: neither a ROS 1 bag nor MCAP nor sqlite3; it begins with {start[:8]!r}")


_MAGICS = (
    (b"#ROSBAG V2.0", "rosbag1"),
    (b"\x89MCAP0\r\n", "mcap"),
    (b"SQLite format 3\0", "sqlite3"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class _IndexedRecording(Recording):
    def __init__(self, path: Path, files: list[Path], kind: str) -> None:
        self._stack = ExitStack()
        has_metadata = (path / "metadata.yaml").exists()
        reader_type = rosbag1.Reader if kind == "rosbag1" else rosbag2.Reader
        try:
            paths = [path] if has_metadata else files
            self._readers: list[Any] = [self._stack.enter_context(reader_type(one)) for one in paths]
        except BaseException:
            self._stack.close()
            raise
        super().__init__(_summarize(self._readers), is_ros1=kind == "rosbag1")

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        streams = []
        for reader in self._readers:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            if connections:
                streams.append(reader.messages(connections=connections))
        merged = merge(*streams, key=lambda entry: entry[1])
        while True:
            try:
                connection, log_ns, data = next(merged)
            except StopIteration:
                return
            except Exception as error:  # a bad chunk fails in its decompressor, its parser or its database
                raise DamagedRecording(str(error) or type(error).__name__) from None
            yield RawMessage(connection.topic, connection.msgtype, log_ns, bytes(data))

    def close(self) -> None:
        self._stack.close()


def _summarize(readers: list[Any]) -> dict[str, Topic]:
    topics: dict[str, Topic] = {}
    for reader in readers:
        for name, info in reader.topics.items():
            count = info.msgcount + (topics[name].count if name in topics else 0)
            msgtype = info.msgtype or next(c.msgtype for c in reader.connections if c.topic == name)
            topics[name] = Topic(name=name, msgtype=msgtype, count=count)
    return topics


class _ScannedRecording(Recording):
    """Read from front to back; the order of the messages is that of the file, which is the order they came in."""

    def __init__(self, path: Path, files: list[Path], kind: str, *, missing: str | None) -> None:
        if kind not in _SCANNERS:
            raise SourceError(f"{path}: a damaged recording with file compression cannot be read")
        self._files, self._scan = files, _SCANNERS[kind]
        counts: dict[tuple[str, str], int] = {}
        self._damage = missing
        try:
            for message in self._all():
                counts[message.topic, message.msgtype] = counts.get((message.topic, message.msgtype), 0) + 1
        except DamagedRecording as error:
            self._damage = str(error)
        if not counts:
            raise SourceError(f"{path}: no message can be read: {self._damage or 'the recording is empty'}")
        topics = {name: Topic(name=name, msgtype=msgtype, count=count) for (name, msgtype), count in counts.items()}
        super().__init__(topics, is_ros1=kind == "rosbag1")

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        for message in self._all():
            if message.topic in topics:
                yield message
        if self._damage:
            raise DamagedRecording(self._damage)

    def _all(self) -> Iterator[RawMessage]:
        for file in self._files:
            scan = self._scan(file)
            while True:
                try:
                    message = next(scan)
                except StopIteration:
                    break
                except Exception as error:  # see _IndexedRecording.messages
                    why = "the file ends within a record" if isinstance(error, EndOfFile) else str(error)
                    raise DamagedRecording(f"{file.name}: {why or type(error).__name__}") from None
                yield message


def _scan_rosbag1(file: Path) -> Iterator[RawMessage]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.readline()
        yield from _rosbag1_records(stream, size, {})


def _rosbag1_records(stream: BinaryIO, size: int, connections: dict[int, tuple[str, str]]) -> Iterator[RawMessage]:
    while stream.tell() < size:
        header = Header.read(stream)
        operation, length = header.get_uint8("op"), read_uint32(stream)
        if operation == RecordType.CHUNK:
            compression = header.get_string("compression")
            # an uncompressed chunk is of use also where it is cut
            data = stream.read(length) if compression == "none" else read_bytes(stream, length)
            chunk = decompressors[compression](data)
            yield from _rosbag1_records(BytesIO(chunk), len(chunk), connections)
            if len(data) < length:
                raise DamagedRecording(f"{len(data)} of {length} bytes of the last chunk are there")
            continue
        data = read_bytes(stream, length)
        if operation == RecordType.CONNECTION:
            fields = Header.read(BytesIO(length.to_bytes(4, "little") + data))
            name, msgtype = normalize(header.get_string("topic")), normalize_msgtype(fields.get_string("type"))
            connections[header.get_uint32("conn")] = (name, msgtype)
        elif operation == RecordType.MSGDATA:
            topic, msgtype = connections[header.get_uint32("conn")]
            yield RawMessage(topic, msgtype, header.get_time("time"), data)


def _scan_mcap(file: Path) -> Iterator[RawMessage]:
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    with file.open("rb") as stream:
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                if channel.message_encoding == "cdr":
                    msgtype = schemas[channel.schema_id].name
                    yield RawMessage(channel.topic, msgtype, record.log_time, record.data)


def _scan_sqlite3(file: Path) -> Iterator[RawMessage]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        connection.execute("PRAGMA writable_schema=ON")  # lets SQLite read on where the file is shorter than it says
        topics = {row[0]: row[1:] for row in connection.execute("SELECT id, name, type FROM topics")}
        for topic_id, log_ns, data in connection.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id"):
            name, msgtype = topics[topic_id]
            yield RawMessage(name, msgtype, log_ns, data)


_SCANNERS: dict[str, Callable[[Path], Iterator[RawMessage]]] = {
    "rosbag1": _scan_rosbag1,
    "mcap": _scan_mcap,
    "sqlite3": _scan_sqlite3,
}


def _natural_key(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
