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
import os
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
    """Of a log and the files that it continues, or of a slice that the server published."""
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
    previous = records[0].get("previous") if records else None
    if previous:
        records[:0] = read_records(os.path.join(os.path.dirname(path), previous))
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


def concerned(wanted, records):
    """The records of one container, or all."""
    if "container" in wanted:
        return [record for record in records if record.get("container_id") == wanted["container"]]
    if "name" in wanted:
        return [record for record in records if record.get("container_name") == wanted["name"]]
    return records


def problems_of(wanted, records):
    """What is wrong with them. Of a container there are no other changes than expected."""
    mine = concerned(wanted, records)
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
    if mine is not records:
        for record in left + [record for rest in outcomes.values() for record in rest]:
            yield f"nobody expects {text_of(record)}"
    for record in wanted["records"] or []:
        times = sum(agrees(other, record) for other in mine)
        if times == 0 or times != record.get("times", times):
            yield f"{times} records like {json.dumps(record)}"


def gaps_in(records):
    """Records that neither are there nor are counted as lost. What the writer itself
    has to say has no number."""
    due = None
    for record in records:
        if record["kind"] == "lost" and "seq" not in record:
            due = None if due is None else due + record["records"]
        if "seq" in record:
            if due not in (None, record["seq"]):
                yield f"number {record['seq']} where {due} is due"
            due = record["seq"] + 1


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
    report("no record is missing unsaid", list(gaps_in(records))[:3])
    report("no secret in the log", (line[:200] for line in secrets_in(log)[:3]))
    return records


def values_in(path):
    """JSON, one value after the other."""
    with open(path, encoding="utf-8") as file:
        text = file.read().lstrip()
    decoder = json.JSONDecoder()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip()


def check(log, expected, *others):
    records = readable(log)
    for path in others:
        report(f"no secret in {path}", (line[:200] for line in secrets_in(path)[:3]))
    for wanted in values_in(expected):
        report(wanted["scenario"], problems_of(wanted, records))


def load(log, result):
    """Nothing may be lost at a pace that a machine can reach; beyond it, nothing unsaid."""
    records = readable(log)
    (made,) = values_in(result)
    kinds = collections.Counter(record["kind"] for record in records)
    lost = sum(record["records"] for record in records if record["kind"] == "lost")
    wanted = 2 * made["containers"] * made["adjustments"]
    there = kinds["adjustment"] + kinds["outcome"]
    complete = there == wanted if made["paced"] else there + lost >= wanted
    report(
        f"every adjustment and outcome: {there} there, {lost} counted as lost",
        [] if complete else [f"{wanted} were due"],
    )
    failures = made["with"]["failures"]
    report("no creation fails", [f"{failures} did"] if failures else [])


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
    for done in values_in(result):
        report(f"harm: {done['harm']}", harm_problems(done, known))


def main(command, *arguments):
    if command == "show":
        print("\n".join(map(text_of, read_records(*arguments))))
    else:
        {"check": check, "load": load, "harm": harm}[command](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
