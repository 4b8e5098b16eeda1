"""Parts of the GPU check: processes under deadlines, and results that are saved after each of them.

A part is a process in a session of its own. Its output goes to files, so nothing waits on a pipe. At
its deadline the whole session is asked to end, then killed. A process that hangs in a driver call even
then is abandoned, and the check continues without it. Needs Python 3.8 and its standard library.
"""

import ctypes
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# Seconds between asking a session to end and killing it, and then until it is abandoned.
GRACE_S, GIVE_UP_S = 2.0, 3.0
ENDING_S = GRACE_S + GIVE_UP_S
# The shortest deadline.
LEAST_S = 5.0
# Seconds between two saves while a part runs.
SAVE_EVERY_S = 15.0
# Least bytes of each end of a file that the archive keeps, and the most that the archive has.
MOST_OF_A_FILE = 4 << 20
MOST_OF_THE_ARCHIVE = 15 << 20
# Most bytes of a part's output that are searched for lines of JSON, from its beginning and from its end.
MOST_READ = 8 << 20

# States of parts that are no fault of the engine.
FINE = ("passed", "skipped", "no time")

# Lines of a backtrace.
FRAME = re.compile(r"^\s+(\d+: |at )")

PR_SET_PDEATHSIG = 1
try:
    LIBC = ctypes.CDLL(None, use_errno=True)
except OSError:
    LIBC = None


def die_with_parent():
    """In the child: the system kills it when the check itself is killed."""
    if LIBC is not None and sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Stopped(BaseException):
    """The check was asked to end, by this signal."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


@dataclass
class Part:
    """One process of the check."""

    name: str
    command: list
    # Seconds after which it is stopped, and seconds that it should take.
    most: float
    expected: float
    # Whether earlier parts leave the expected time of this one alone.
    is_reserved: bool = False
    environment: dict = field(default_factory=dict)


class Session:
    """A running process and everything it started that stayed in its session."""

    def __init__(self, command, out, log, environment):
        with open(out, "wb") as stdout, open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def members(self):
        """Process ids of the session's living members."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                text = Path("/proc", entry, "stat").read_text(errors="replace")
            except OSError:
                continue
            # The name in parentheses may hold anything. After it: state, parent, group, session.
            state, _, _, session = text.rsplit(")", 1)[1].split()[:4]
            if int(session) == self.process.pid and state not in "ZX":
                found.append(int(entry))
        return found

    def send(self, number):
        for pid in self.members():
            try:
                os.kill(pid, number)
            except OSError:
                continue

    def wait(self, seconds):
        """The exit code, negative for a signal; `None` where the process still runs after so long."""
        until = time.monotonic() + seconds
        while True:
            rc = self.process.poll()
            if rc is not None or time.monotonic() >= until:
                return rc
            time.sleep(0.02)

    def end(self):
        """Ends every member. Returns whether the process itself is gone."""
        self.send(signal.SIGTERM)
        self.wait(GRACE_S)
        self.send(signal.SIGKILL)
        return self.wait(GIVE_UP_S) is not None


class Results:
    """The lines of results, and the three files in which they leave the machine."""

    def __init__(self, out, logs, kept, report):
        # Lines are kept in the scratch folder too, for the second command.
        self.out, self.logs, self.kept, self.report = out, logs, kept, report
        self.lines = []
        self.saved_at, self.save_took = time.monotonic(), 0.0

    def add(self, line):
        self.lines.append(line)
        self.save()

    def save(self):
        """Writes results.jsonl, report.md and results.tgz. A fault of one leaves the others."""
        begun = time.monotonic()
        texts = {"results.jsonl": "".join(json.dumps(line) + "\n" for line in self.lines)}
        try:
            texts["report.md"] = self.report(self.lines)
        except Exception as fault:  # a report must not end the check
            texts["report.md"] = f"# The report failed\n\n{type(fault).__name__}: {fault}\n"
        for name, text in texts.items():
            replace(self.out / name, text.encode())
        replace(self.kept, texts["results.jsonl"].encode())
        replace(self.out / "results.tgz", self.archive(texts))
        self.saved_at = time.monotonic()
        self.save_took = self.saved_at - begun

    def save_if_due(self):
        if time.monotonic() - self.saved_at > max(SAVE_EVERY_S, 20 * self.save_took):
            self.save()

    def archive(self, texts):
        """All texts and logs as a tar file under gzip; long logs lose their middle."""
        most = MOST_OF_A_FILE
        while True:
            data = self.archive_of(texts, most)
            if len(data) <= MOST_OF_THE_ARCHIVE or most < 1 << 12:
                return data
            most //= 4

    def archive_of(self, texts, most):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
            def put(name, data):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(data), int(time.time())
                tar.addfile(entry, io.BytesIO(data))

            for name, text in texts.items():
                put(name, text.encode())
            for path in sorted(self.logs.iterdir()):
                if path.is_file():
                    put(path.name, ends_of(path, most))
        return buffer.getvalue()


def replace(path, data):
    """Writes a file as a whole or not at all."""
    try:
        new = path.with_name(path.name + ".new")
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as fault:
        print(f"{path} was not written: {fault}", file=sys.stderr, flush=True)


def ends_of(path, most):
    """A file's bytes; of a file of more than twice `most` bytes its first and last `most`."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 2 * most:
                return file.read(2 * most)
            first = file.read(most)
            file.seek(size - most)
            return first + b"\n[%d bytes left out]\n" % (size - 2 * most) + file.read(most)
    except OSError as fault:
        return f"not read: {fault}\n".encode()


def text_of(path):
    return ends_of(path, MOST_READ).decode(errors="replace")


def json_lines(text):
    """The JSON objects among the lines of a text."""
    found = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class Runner:
    """Runs parts one after the other within a budget of seconds."""

    def __init__(self, budget, scale, logs, results):
        self.begun = time.monotonic()
        self.budget, self.scale = budget, scale
        self.logs, self.results = logs, results
        # The session that runs, and the part that it is of.
        self.running, self.part = None, None
        # Names and times of the parts still to come that others must leave time for.
        self.reserved = {}

    def left(self):
        return self.budget - (time.monotonic() - self.begun)

    def reserve(self, parts):
        for part in parts:
            if part.is_reserved:
                self.reserved[part.name] = part.expected * self.scale

    def skip(self, name, why, state="skipped"):
        self.reserved.pop(name, None)
        line = {"part": name, "state": state, "rc": None, "seconds": 0, "found": None, "error": why}
        self.results.add(line)
        print(f"{name}: {state}: {why}", flush=True)
        return line

    def run(self, part, until=None):
        """Runs a part and adds its line to the results; `until` bounds it as the budget does."""
        self.reserved.pop(part.name, None)
        left = self.left()
        spare = left - sum(self.reserved.values()) - ENDING_S
        most, expected = max(part.most * self.scale, LEAST_S), part.expected * self.scale
        # Time that later parts are promised is taken only for what this one is promised itself.
        allowed = min(most, max(spare, expected if part.is_reserved else 0), left - ENDING_S)
        if until is not None:
            allowed = min(allowed, until - time.monotonic())
        if allowed < 1.0:
            return self.skip(part.name, "no time was left", "no time")
        begun = time.time()
        state, rc, seconds = self.finish(part, allowed)
        out, log = self.files(part.name)
        said, errors = text_of(out), text_of(log)
        found = json_lines(said)
        line = {
            "part": part.name,
            "state": state,
            "rc": rc,
            "seconds": round(seconds, 2),
            "from": round(begun, 2),
            "command": [str(word) for word in part.command],
            "found": found[-1] if found else None,
        }
        if len(found) > 1:
            line["lines"] = found
        if state != "passed":
            line["error"] = end_of(said, errors)
        self.results.add(line)
        how = "" if rc is None else f" with {rc}"
        print(f"{part.name}: {state}{how} after {seconds:.1f} s, {self.left():.0f} s left", flush=True)
        return line

    def finish(self, part, allowed):
        """Runs a part's process to its end or for so many seconds: state, exit code, seconds."""
        begun = time.monotonic()
        out, log = self.files(part.name)
        environment = {**os.environ, **part.environment}
        try:
            self.running = Session([str(word) for word in part.command], out, log, environment)
            self.part = part.name
        except OSError as fault:
            log.write_text(f"not started: {fault}\n")
            return "failed", 127, 0.0
        session = self.running
        # Where the check itself is stopped, `stop` ends the session.
        while session.process.poll() is None and time.monotonic() - begun < allowed:
            time.sleep(0.05)
            self.results.save_if_due()
        rc = session.process.poll()
        if rc is None:
            state = "too slow" if session.end() else "stuck"
        else:
            # A child that still runs would take the GPU from the next part.
            session.send(signal.SIGKILL)
            state = "passed" if rc == 0 else "crashed" if rc < 0 else "failed"
        self.running = None
        return state, rc, time.monotonic() - begun

    def stop(self, why):
        """Ends what runs, and adds a line for it with what it had said."""
        if self.running is None:
            return
        session, name, self.running = self.running, self.part, None
        session.end()
        out, log = self.files(name)
        found = json_lines(text_of(out))
        line = {"part": name, "state": "stopped", "rc": None, "seconds": None, "found": None}
        if found:
            line["lines"] = found
        self.results.add({**line, "error": f"{why}\n{end_of(text_of(out), text_of(log))}"})

    def files(self, name):
        return self.logs / f"{name}.out", self.logs / f"{name}.log"

    def output(self, command, seconds, name):
        """Output of a small command, errors behind it; says where it could not run."""
        part = Part(name, command, seconds, seconds)
        state, rc, _ = self.finish(part, min(seconds, max(self.left(), 0.1)))
        out, log = self.files(name)
        text = text_of(out) + text_of(log)
        return text if state == "passed" else f"{state} with {rc}: {text}"


def end_of(said, errors, lines=12, most=2000):
    """The last lines of output of a part that did not pass."""
    kept = []
    for text in (said, errors):
        kept += [line for line in text.splitlines() if not FRAME.match(line)][-lines:]
    return "\n".join(kept)[-most:]
