"""A second opinion on event logs, which shares nothing with the server.

log.py count LOG                how many events follow the Spec ID header
log.py events LOG               those events, byte for byte
log.py slice LOG FIRST COUNT    the header and COUNT of them, byte for byte
log.py keys JSON                the keys of a published file, in their order
log.py data JSON                the events in it, byte for byte
log.py answers SOCKET           true if somebody listens there
"""

import base64
import json
import socket
import struct
import sys

FIXED_HEADER = 32  # register, type, SHA-1, size
NO_EVENT = (0, 0xFFFFFFFF)  # what the room behind the last event is filled with


def digest_sizes(spec_id):
    (algorithms,) = struct.unpack_from("<I", spec_id, 24)
    return dict(struct.unpack_from("<HH", spec_id, 28 + 4 * i) for i in range(algorithms))


def event_end(log, at, sizes):
    (digests,) = struct.unpack_from("<I", log, at + 8)
    at += 12
    for _ in range(digests):
        (algorithm,) = struct.unpack_from("<H", log, at)
        at += 2 + sizes[algorithm]
    (size,) = struct.unpack_from("<I", log, at)
    return at + 4 + size


def split(log):
    """Splits a crypto-agile log into its header and its events."""
    (size,) = struct.unpack_from("<I", log, FIXED_HEADER - 4)
    at = FIXED_HEADER + size
    header, events = log[:at], []
    sizes = digest_sizes(header[FIXED_HEADER:])
    while at + 12 <= len(log):
        register, event_type = struct.unpack_from("<II", log, at)
        if register == event_type and register in NO_EVENT:
            break
        end = event_end(log, at, sizes)
        events.append(log[at:end])
        at = end
    return header, events


def read(path):
    with open(path, "rb") as file:
        return file.read()


def cut(log, first, count):
    header, events = split(log)
    return header + b"".join(events[first - 1 : first - 1 + count])


def keys(path):
    """One line for each object that has keys of its own, without repeats."""
    ordered = json.loads(read(path), object_pairs_hook=list)
    lines = [ordered, dict(ordered)["Header"], *dict(ordered)["EventLogs"]]
    return "\n".join(dict.fromkeys(" ".join(key for key, _ in line) for line in lines))


def data(path):
    events = json.loads(read(path))["EventLogs"]
    return b"".join(base64.b64decode(event["Data"], validate=True) for event in events)


def answers(path):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def main(command, path, *numbers):
    if command == "count":
        print(len(split(read(path))[1]))
    elif command == "events":
        sys.stdout.buffer.write(b"".join(split(read(path))[1]))
    elif command == "slice":
        sys.stdout.buffer.write(cut(read(path), *map(int, numbers)))
    elif command == "keys":
        print(keys(path))
    elif command == "data":
        sys.stdout.buffer.write(data(path))
    elif command == "answers":
        sys.exit(0 if answers(path) else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
