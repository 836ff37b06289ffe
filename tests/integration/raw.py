"""Records that the Python client refuses to produce, through the library that it stands on."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

_PRODUCER, _COPY = 0, 2
_END, _TOPIC, _PARTITION, _VALUE, _FLAGS, _HEADERS = 0, 1, 3, 4, 7, 10


def library() -> Any:
    """librdkafka as the wheel brings it."""
    home = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    found = sorted(home.glob("librdkafka-*.so*"))
    if not found:
        pytest.skip("librdkafka is not where wheels for Linux have it")
    library = ctypes.CDLL(str(found[0]))
    for name in ("conf_new", "new", "headers_new"):
        getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
    return library


def produce_with_headers(
    servers: str, topic: str, partition: int, records: Sequence[tuple[bytes, bytes]]
) -> None:
    """Records by (value, name of their one header), whatever bytes that is."""
    kafka, why, pointer = library(), ctypes.create_string_buffer(512), ctypes.c_void_p
    size, number, text, length = ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p, ctypes.c_ssize_t
    configuration = pointer(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(configuration, b"bootstrap.servers", servers.encode(), why, size(512))
    producer = pointer(kafka.rd_kafka_new(number(_PRODUCER), configuration, why, size(512)))
    assert producer.value, why.value
    for value, name in records:
        headers = pointer(kafka.rd_kafka_headers_new(size(1)))
        added = text(name), length(len(name)), text(b"v"), length(1)
        assert not kafka.rd_kafka_header_add(headers, *added)
        assert not kafka.rd_kafka_producev(
            producer,
            number(_TOPIC), text(topic.encode()), number(_PARTITION), ctypes.c_int32(partition),
            number(_VALUE), text(value), size(len(value)), number(_FLAGS), number(_COPY),
            number(_HEADERS), headers, number(_END),
        )  # fmt: skip
    assert not kafka.rd_kafka_flush(producer, number(30_000))
    kafka.rd_kafka_destroy(producer)
