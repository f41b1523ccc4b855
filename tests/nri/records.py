"""A second opinion on the container log, which shares nothing with its writer.

records.py show LOG               the records, one line of JSON each
records.py check LOG EXPECTED [FILE...]
                                  compares them with what the runtime expects of
                                  them; no secret may be in the log or a FILE
records.py load LOG RESULT        compares them with how much was created
records.py harm LOG RESULT        judges what harm did, and whether the log has
                                  all containers nevertheless

Each check prints a line that begins with ok or FAIL.
"""

import base64
import collections
import hashlib
import json
import struct
import sys

EV_NO_ACTION, EV_EVENT_TAG = 3, 6
SPEC_ID = b"Spec ID Event03\0"
TAG = 0x4E52494C
ALGORITHMS = {0x000B: hashlib.sha256, 0x000C: hashlib.sha384}

# What the runtime puts into everything that must not be written down.
SECRET = b"hunter2"

# What a record of an adjustment and that of its outcome have in common.
SAME = ("field", "action", "name", "target", "plugins", "attribution", "container_id")


class Malformed(Exception):
    pass


# ---- Bytes to records ---------------------------------------------------------


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise Malformed(f"at byte {self.at}: wants {size} more, has {len(self.data) - self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def ended(self):
        return self.at == len(self.data)


def read_header(log):
    register, kind, sha1 = log.number("I"), log.number("I"), log.take(20)
    if (register, kind, sha1) != (0, EV_NO_ACTION, bytes(20)):
        raise Malformed("the first event is no Spec ID header")
    header = Cursor(log.take(log.number("I")))
    if header.take(16) != SPEC_ID:
        raise Malformed("the Spec ID header has another signature")
    header.take(8)
    sizes = {}
    for _ in range(header.number("I")):
        algorithm = header.number("H")
        sizes[algorithm] = header.number("H")
    wanted = {algorithm: make().digest_size for algorithm, make in ALGORITHMS.items()}
    if sizes != wanted:
        raise Malformed(f"digest sizes are {sizes}, not {wanted}")
    header.take(header.number("B"))
    if not header.ended():
        raise Malformed("the Spec ID header goes on behind its end")


def read_event(log):
    start = log.at
    _register, kind = log.number("I"), log.number("I")
    digests = {}
    for _ in range(log.number("I")):
        algorithm = log.number("H")
        if algorithm not in ALGORITHMS:
            raise Malformed(f"at byte {start}: an algorithm of number {algorithm:#x}")
        digests[algorithm] = log.take(ALGORITHMS[algorithm]().digest_size)
    data = log.take(log.number("I"))
    if kind != EV_EVENT_TAG:
        raise Malformed(f"at byte {start}: an event of type {kind:#x}")
    if digests != {algorithm: make(data).digest() for algorithm, make in ALGORITHMS.items()}:
        raise Malformed(f"at byte {start}: digests that are not those of the data")
    return start, data


def read_record(start, data):
    event = Cursor(data)
    tag, text = event.number("I"), event.take(event.number("I"))
    if tag != TAG or not event.ended():
        raise Malformed(f"at byte {start}: no tagged event of ours")
    record = json.loads(text)
    # RFC 8785, as far as it goes without fractions and keys beyond ASCII.
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if canonical.encode() != text:
        raise Malformed(f"at byte {start}: the JSON is not canonical")
    return record


def read_records(path):
    """Of a log, or of a slice of one that the server published."""
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"{"):
        events = json.loads(data)["EventLogs"]
        return [read_record(event["Position"], base64.b64decode(event["Event"])) for event in events]
    log = Cursor(data)
    read_header(log)
    records = []
    while not log.ended():
        records.append(read_record(*read_event(log)))
    return records


# ---- Records against expectations ----------------------------------------------


def text_of(record):
    return json.dumps(record, sort_keys=True)


def agrees(record, wanted):
    """Whether a record says at least what is wanted, numbers or texts alike."""
    return (
        all(
            str(record.get(key)) == str(wanted[key])
            for key in ("kind", "field", "action", "name", "value", "target", "attribution", "redacted")
            if key in wanted
        )
        and wanted.get("contains", "") in text_of(record)
        and sorted(record.get("plugins", [])) == sorted(wanted.get("plugins", record.get("plugins", [])))
        and not (record.get("redacted") and "value" in record)
    )


def outcome_problem(change, outcomes, wanted):
    if len(outcomes) != 1:
        return f"{len(outcomes)} outcomes instead of {wanted}"
    (outcome,) = outcomes
    if outcome.get("outcome") != wanted:
        return f"outcome {outcome.get('outcome')} instead of {wanted}"
    differing = [key for key in SAME if outcome.get(key) != change.get(key)]
    return f"an outcome that differs in {', '.join(differing)}" if differing else None


def problems_of(wanted, mine, everything):
    """What is wrong with the records of one container, or of none."""
    changes = [record for record in mine if record["kind"] in ("adjustment", "update")]
    outcomes = collections.defaultdict(list)
    for record in mine:
        if record["kind"] == "outcome":
            outcomes[record.get("of")].append(record)
    left, before = list(changes), -1
    for change in wanted["adjustments"] or []:
        found = next((record for record in left if agrees(record, change)), None)
        if found is None:
            yield f"no record like {json.dumps(change)}"
            continue
        left.remove(found)
        if found["seq"] < before:
            yield f"out of order: {text_of(found)}"
        before = found["seq"]
        problem = outcome_problem(found, outcomes.pop(found["seq"], []), change["outcome"])
        if problem:
            yield f"{problem}: {text_of(found)}"
    if "container" in wanted:
        for record in left + [record for rest in outcomes.values() for record in rest]:
            yield f"nobody expects {text_of(record)}"
    for record in wanted["records"] or []:
        if not any(agrees(other, record) for other in (mine if "container" in wanted else everything)):
            yield f"no record like {json.dumps(record)}"


def in_sequence(records):
    """What the writer itself has to say has no number."""
    numbers = [record["seq"] for record in records if "seq" in record]
    return numbers == list(range(1, len(numbers) + 1))


def secrets_in(path):
    with open(path, "rb") as file:
        return [line for line in file.read().splitlines() if SECRET in line]


def report(name, problems=()):
    print("\n".join(f"FAIL {name}: {problem}" for problem in problems) or f"ok {name}")


def readable(log):
    """The records of a log, which is judged as such on the way."""
    try:
        records = read_records(log)
    except (Malformed, OSError, ValueError) as problem:
        report("the log can be read", [problem])
        sys.exit(0)
    report("the log can be read")
    report("the records are numbered", [] if in_sequence(records) else ["numbers with gaps"])
    report("no secret in the log", (line[:200] for line in secrets_in(log)[:3]))
    return records


def json_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check(log, expected, *others):
    records = readable(log)
    for path in others:
        report(f"no secret in {path}", (line[:200] for line in secrets_in(path)[:3]))
    for wanted in json_lines(expected):
        mine = [record for record in records if record.get("container_id") == wanted.get("container")]
        report(wanted["scenario"], problems_of(wanted, mine, records))


def load(log, result):
    records = readable(log)
    (made,) = json_lines(result)
    kinds = collections.Counter(record["kind"] for record in records)
    wanted = made["containers"] * made["adjustments"]
    report("every adjustment", [f"{kinds['adjustment']} instead of {wanted}"] * (kinds["adjustment"] != wanted))
    report("every outcome", [f"{kinds['outcome']} instead of {wanted}"] * (kinds["outcome"] != wanted))
    report("nothing lost", [f"{kinds['lost']} records of losses"] * bool(kinds["lost"]))
    failures = made["with"]["failures"]
    report("no creation fails", [f"{failures} did"] * bool(failures))


def harm_problems(done, known):
    if not done["at_least"] <= done["failures"] <= done["at_most"]:
        yield f"{done['failures']} failed creations instead of {done['at_least']} to {done['at_most']}"
    for error in done["errors"] or []:
        if not error.startswith(done["only"] or "\0"):
            yield f"failed with: {error}"
    unknown = [container for container in done["containers"] or [] if container not in known]
    if unknown:
        yield f"{len(unknown)} containers are not in the log, the first is {unknown[0]}"


def harm(log, result):
    known = {record.get("container_id") for record in readable(log)}
    for done in json_lines(result):
        report(f"harm: {done['harm']}", harm_problems(done, known))


def main(command, *arguments):
    if command == "show":
        print("\n".join(map(text_of, read_records(*arguments))))
    else:
        {"check": check, "load": load, "harm": harm}[command](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
