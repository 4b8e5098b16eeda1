"""Checks and measures maqam, built with the feature `cuda`, on the GPU of this machine.

    check.sh OUT                          everything, in at most 460 s
    check.sh OUT --second [RESULTS]       in 180 s the rest: failures under compute-sanitizer,
                                          parts that had no time, ncu, more peers
    check.sh OUT --dry-run                tiny shapes on the CPU, with any build
    check.sh OUT --tiny                   tiny shapes on the GPU, or on the emulated driver

OUT gets three files: results.tgz with every log, results.jsonl with a line for each part, and report.md.
They are written after each part, every 15 s while one runs, and at the end or on SIGTERM. Everything
else is written below CHECK_SCRATCH (by default maqam-gpu-check in the folder for temporary files), where
`--second` finds the lines of the first command.

`--pack FOLDER` names the folder with the programs: `bench`, or a whole `maqam`, and the tests `cuda_*`,
there, in `programs` or in `programs.tar.xz`. By default it is the folder of this script.
CHECK_BUDGET_S: seconds for everything; deadlines scale with it, or with CHECK_DEADLINES (1 is a GPU's).
CHECK_STEPS (12): steps of a measurement.
CHECK_TOOLS=none: leave out all that takes a tool of the toolkit, which needs NVIDIA's driver.

Nothing is built or downloaded and no setting of the GPU is changed. Exits with 0 where every part passed.
"""

import argparse
import glob
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True

import report  # noqa: E402
from runner import FINE, Part, Results, Runner, Session, Stopped, text_of  # noqa: E402

HERE = Path(__file__).resolve().parent

FIRST_BUDGET_S, SECOND_BUDGET_S = 460.0, 180.0

# Work, precision, save policy, most tokens of a micro-batch, expected seconds. The most important
# measurements are first.
TIMINGS = [
    ("asr", "bf16", "all", 8192, 14),
    ("mix", "bf16", "norms", 16384, 18),
    ("ssum", "bf16", "norms", 16384, 22),
    ("ssum", "bf16", "layer", 8192, 26),
    ("asr", "fp8", "norms", 8192, 14),
    ("asr", "bf16", "norms", 8192, 14),
    ("mix", "bf16", "norms", 8192, 18),
    # For its losses: they must be those of the other two policies to the bit.
    ("asr", "bf16", "layer", 8192, 16),
]
MORE_TIMINGS = [
    ("mix", "bf16", "all", 16384, 20),
    ("ssum", "bf16", "all", 16384, 24),
    ("asr", "fp8", "all", 8192, 14),
    ("ssum", "bf16", "norms", 8192, 26),
]
PROFILES = [("asr", "bf16", "all", 8192)]
MORE_PROFILES = [("ssum", "bf16", "norms", 16384), ("asr", "fp8", "norms", 8192)]

# Rows of the peers: the best variant of each work, with what stands in for it where Liger is missing.
# The compiled one is last of the three: its compilation is what could take too long.
PEERS = [
    "mix:packed+liger/packed",
    "ssum:packed+liger+checkpointing/packed+checkpointing",
    "asr:packed+liger+compile/packed+compile/packed",
]
MORE_PEERS = ["asr:packed+liger/packed", "asr:padded+checkpointing", "asr:padded", "ssum:padded+checkpointing"]

TESTS = [("cuda_ops", 75, 30), ("cuda_train", 90, 50)]
# All failing tests together, each in a process of its own.
ALONE_S = 60.0
# The tests of attention are searched for races and for barriers that not all threads reach.
RACES_IN, RACES_BEST = re.compile("attention"), re.compile("attention.*backward")

# The program waits after every launch, and names the one that failed.
WAITING = {"MAQAM_CUDA_CHECK": "1", "CUDA_LAUNCH_BLOCKING": "1"}

SMI = [
    "timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active,memory.used",
    "timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used",
]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--pack", type=Path, default=HERE, metavar="FOLDER")
    parser.add_argument("--second", nargs="?", const="", metavar="RESULTS")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


def tool(name):
    """A program of the toolkit, on PATH or where the toolkit lies; `None` where there is none or CHECK_TOOLS is none."""
    if os.environ.get("CHECK_TOOLS") == "none":
        return None
    found = shutil.which(name)
    if found:
        return found
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    places = [f"{home}/bin/{name}", f"{home}/compute-sanitizer/{name}"]
    places += sorted(glob.glob(f"/opt/nvidia/nsight-compute/*/{name}"), reverse=True)
    return next((place for place in places if os.access(place, os.X_OK)), None)


def libraries():
    """Folders with the toolkit's libraries: where a variable says, in the system, among Python's packages."""
    named = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    home = os.environ.get("CUDA_HOME")
    likely = [f"{home}/lib64", f"{home}/lib"] if home else []
    likely += ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64"]
    packages = site.getsitepackages() + [folder for folder in sys.path if folder.endswith("-packages")]
    likely += [f"{folder}/nvidia/cu13/lib" for folder in dict.fromkeys(packages)]
    return ":".join(named + [folder for folder in likely if os.path.isdir(folder)])


class Check:
    """The parts of both commands, in the order in which they run."""

    def __init__(self, settings, runner, scratch, before):
        self.settings, self.runner, self.scratch = settings, runner, scratch
        # Lines of the first command, by part; the last line of a part counts.
        self.before = {line["part"]: line for line in before}
        self.pack = settings.pack.resolve()
        # Both commands take the timed algorithms of the same files.
        self.cache = scratch / "cache"
        self.ours = {
            "LD_LIBRARY_PATH": libraries(),
            "CARGO_MANIFEST_DIR": str(self.pack),
            "XDG_CACHE_HOME": str(self.cache),
        }
        self.is_small = settings.tiny or settings.dry_run
        self.device = "cpu" if settings.dry_run else "cuda"
        self.unpacked = scratch / "programs"
        self.unpack()
        bench = self.program("bench")
        self.bench = [bench] if bench else [self.program("maqam") or self.pack / "bench", "bench"]

    # ---- Programs ----

    def program(self, name):
        """The path of a program, in the pack or unpacked from it; `None` where there is none."""
        for folder in (self.pack / "programs", self.pack, self.unpacked):
            place = folder / name
            if place.is_file() and os.access(place, os.X_OK):
                return place
        return None

    def unpack(self):
        """Unpacks the programs of `programs.tar.xz`, where the pack has it."""
        archive = self.pack / "programs.tar.xz"
        if not archive.is_file():
            return
        self.unpacked.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive, "r:xz") as programs:
                for program in programs:
                    with programs.extractfile(program) as source, open(self.unpacked / program.name, "wb") as target:
                        shutil.copyfileobj(source, target)
                    (self.unpacked / program.name).chmod(0o755)
        except (tarfile.TarError, EOFError, OSError) as error:
            print(f"{archive} cannot be unpacked: {error}", file=sys.stderr)

    def part(self, name, command, most, expected, is_reserved=False, **environment):
        return Part(name, command, most, expected, is_reserved, {**self.ours, **environment})

    def run(self, *given, until=None, **named):
        return self.runner.run(self.part(*given, **named), until)

    def sanitized(self, name, command, most, kind="memcheck", until=None):
        """A part under compute-sanitizer, which exits with 99 where it found something."""
        sanitizer = tool("compute-sanitizer")
        if sanitizer is None:
            return self.runner.skip(name, "there is no compute-sanitizer")
        given = [sanitizer, "--tool", kind, "--target-processes", "all", "--error-exitcode", "99", "--print-limit", "20"]
        return self.run(name, given + command, most, most, until=until)

    # ---- The machine ----

    def machine(self):
        """Description of the machine."""
        look = self.runner.output
        query = "name,memory.total,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
        begun = time.time()
        found = {
            "gpu": "no nvidia-smi",
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "tools": {name: tool(name) for name in ("nvcc", "ncu", "compute-sanitizer", "cuobjdump")},
            "kernel": " ".join(os.uname()),
            "libraries": self.ours["LD_LIBRARY_PATH"],
        }
        if shutil.which("nvidia-smi"):
            found["gpu"] = look(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], 10, "machine-gpu").strip()
        missing = set()
        for name in [self.bench[0]] + [self.program(name) for name, _, _ in TESTS]:
            if name is not None:
                linked = look(["env", f"LD_LIBRARY_PATH={self.ours['LD_LIBRARY_PATH']}", "ldd", name], 10, "machine-ldd")
                missing.update(line.split()[0] for line in linked.splitlines() if "not found" in line)
        found["missing_libraries"] = " ".join(sorted(missing))
        state = "failed" if missing else "passed"
        line = {"part": "machine", "state": state, "rc": int(bool(missing)), "found": found}
        line["seconds"] = round(time.time() - begun, 2)
        if missing:
            line["error"] = f"libraries that were not found: {found['missing_libraries']}"
        self.runner.results.add(line)
        print(f"machine: {found['gpu']}", flush=True)

    def smi(self, name):
        """The full output of nvidia-smi for the GPU."""
        if shutil.which("nvidia-smi") is None:
            self.runner.skip(name, "there is no nvidia-smi")
        else:
            self.run(name, ["nvidia-smi", "-q"], 10, 2, True)

    # ---- Training steps ----

    def train(self, *more, work="asr", steps=None):
        """A command of `maqam bench train` on this check's device and shape."""
        if self.settings.dry_run:
            shape, least = ["--shape", "tiny", "--clips", "1"], 1
        elif self.settings.tiny:
            # One short clip through one layer: the emulated driver takes a second for it.
            shape, least, work = ["--shape", "tiny", "--clips", "1", "--layers", "1", "--warm-up", "0"], 2, "short"
        else:
            shape, least = ["--shape", "7b"], int(os.environ.get("CHECK_STEPS", "12"))
        command = [*self.bench, "train", "--json", "--device", self.device, *shape, "--work", work]
        command += ["--steps", str(steps or least)]
        # An option may be given once.
        return command + [word for option in more if option[0] not in command for word in option]

    def measured(self, kind, work, precision, save, tokens, *more, steps=None):
        """Name and command of a measurement."""
        given = [("--precision", precision), ("--save", save), ("--pack-tokens", str(tokens)), *more]
        name = f"{kind}-{work}-{precision}-{save}" + ("" if tokens == 8192 else f"-{tokens}")
        return name, self.train(*given, work=work, steps=steps)

    def timing(self, work, precision, save, tokens, expected):
        return self.part(*self.measured("bench", work, precision, save, tokens), 60, expected, True)

    def profile(self, *given):
        return self.part(*self.measured("profile", *given, ("--profile",), steps=2), 50, 14, True)

    def one_layer(self, *more):
        return self.train(("--layers", "1"), ("--warm-up", "0"), *more, steps=1)

    def smoke(self):
        """One step of one layer; where it fails, the same with every launch waited for, then searched."""
        found = self.run("smoke", self.one_layer(), 60, 8, True)
        if found["state"] in ("passed", "skipped", "no time"):
            return
        self.run("smoke-checked", self.one_layer(), 60, 20, **WAITING)
        if not self.settings.dry_run:
            self.sanitized("smoke-memcheck", self.one_layer(("--clips", "1")), 50)

    def self_check(self):
        given = ["--device", self.device] + (["--tiny"] if self.is_small else [])
        command = [*self.bench, "check", *given]
        found = self.run("self-check", [*command, "--deadline", "20"], 90, 30, True)
        failed = failed_primitives(found)
        if failed:
            self.run("self-check-checked", [*command, *only(failed)], 40, 20, **WAITING)

    def compare(self):
        given = ["--device", self.device] + (["--tiny"] if self.is_small else [])
        self.run("compare", [*self.bench, "compare", *given], 60, 15, True)

    def cublaslt_log(self):
        """cuBLASLt's choice for every product of a step."""
        if self.settings.dry_run:
            return
        log = self.runner.logs / "cublaslt-choices.log"
        given = {"CUBLASLT_LOG_LEVEL": "5", "CUBLASLT_LOG_FILE": str(log)}
        self.run("cublaslt-log", self.one_layer(), 40, 8, **given)
        self.keep_algorithms()

    def keep_algorithms(self):
        """Puts the timed algorithms of matrix products beside the logs."""
        for path in (self.cache / "maqam" / "products").glob("*.jsonl"):
            shutil.copyfile(path, self.runner.logs / f"products-{path.name}")

    def timings(self, which):
        for timing in which:
            self.runner.run(self.timing(*timing))

    # ---- Tests of the engine ----

    def tests(self):
        """Each test program as a whole; then each test that did not pass alone, then under compute-sanitizer."""
        open_tests = []
        for program, most, expected in TESTS:
            path = self.program(program)
            if path is None:
                self.runner.skip(f"tests-{program}", "the pack has no such program")
                continue
            listed = self.runner.output(["env", *words(self.ours), path, "--list"], 15, f"list-{program}")
            names = re.findall(r"^(\S+): test$", listed, re.M)
            line = self.run(f"tests-{program}", [path, "--test-threads", "1", "--show-output"], most, expected, True)
            if line["state"] == "no time":
                continue
            outcome = self.outcomes(f"tests-{program}", names)
            self.amend(line, outcome, names, listed)
            open_tests += [(path, program, test) for test in names if outcome.get(test) != "ok"]
        until = time.monotonic() + max(ALONE_S * self.runner.scale, 20)
        failing = []
        for path, program, test in open_tests:
            name = f"test-{program}-{test}"
            line = self.alone(name, path, test, until)
            if line["state"] not in ("passed", "no time"):
                failing.append((path, name, test))
        for path, name, test in failing:
            if not self.settings.dry_run:
                self.sanitized(f"{name}-memcheck", [path, "--exact", test, "--test-threads", "1"], 25, until=until)

    def alone(self, name, path, test, until=None):
        command = [path, "--exact", test, "--test-threads", "1", "--nocapture"]
        return self.run(name, command, 30, 3, until=until, **WAITING)

    def outcomes(self, name, names):
        """State of each test in a test program's output: ok, FAILED, or nothing."""
        said = text_of(self.runner.files(name)[0])
        return {test: result for test, result in re.findall(r"^test (\S+)(?: - .*)? \.\.\. (ok|FAILED)", said, re.M) if test in names}

    def amend(self, line, outcome, names, listed):
        """Adds to a test program's line how its tests ended; one that found no GPU did not pass."""
        failed = [test for test in names if outcome.get(test) == "FAILED"]
        unfinished = [test for test in names if test not in outcome]
        line["found"] = {
            "tests": len(names),
            "passed": sum(result == "ok" for result in outcome.values()),
            "failed": failed,
            "unfinished": unfinished,
        }
        log = text_of(self.runner.files(line["part"])[1])
        if not names:
            line["state"], line["error"] = "failed", f"no test was listed: {listed[-500:]}"
        elif "NOT TESTED" in log and not self.settings.dry_run:
            line["state"], line["error"] = "failed", f"the tests found no GPU: {log[-500:]}"
        elif line["state"] == "passed" and unfinished:
            line["state"], line["error"] = "failed", f"no word of {' '.join(unfinished)}"
        self.runner.results.save()

    def races(self):
        """racecheck and synccheck on a test of attention: the one kind of fault that the emulator cannot have."""
        path = self.program("cuda_ops")
        if path is None or self.settings.dry_run:
            return
        listed = text_of(self.runner.files("list-cuda_ops")[0])
        names = [name for name in re.findall(r"^(\S+): test$", listed, re.M) if RACES_IN.search(name)]
        names.sort(key=lambda name: RACES_BEST.search(name) is None)
        if not names:
            self.runner.skip("racecheck", "cuda_ops lists no test of attention")
            return
        command = [path, "--exact", names[0], "--test-threads", "1"]
        self.sanitized("racecheck", command, 40, "racecheck")
        self.sanitized("synccheck", command, 20, "synccheck")

    # ---- PyTorch ----

    def python(self, name, script, given, most, expected, is_reserved=False):
        """A part that is a script of the peers; their caches outlive the command."""
        caches = {
            "PYTHONPATH": ":".join(filter(None, [str(self.wheels()), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TRITON_CACHE_DIR": str(self.scratch / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"),
        }
        command = [sys.executable, self.peers_folder() / script, *given]
        return Part(name, command, most, expected, is_reserved, caches)

    def wheels(self):
        """A folder with the Python packages that the pack brings."""
        folder, partial = self.scratch / "site", self.scratch / "site.new"
        wheels = sorted((self.pack / "wheels").glob("*.whl"))
        if wheels and not folder.is_dir():
            # A check that is killed here leaves no folder that the next one takes for a whole one.
            shutil.rmtree(partial, ignore_errors=True)
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as packed:
                    packed.extractall(partial)
            partial.rename(folder)
        return folder

    def peers_folder(self):
        inside = self.pack / "peers"
        return inside if inside.is_dir() else HERE.parent / "peers"

    def has_torch(self):
        wanted = "torch" if self.settings.dry_run else "torch, transformers, peft"
        test = [sys.executable, "-c", f"import importlib.util as u; [u.find_spec(n) or exit(3) for n in '{wanted}'.split(', ')]"]
        return subprocess.run(test, timeout=10, stdin=subprocess.DEVNULL).returncode == 0

    def ceiling(self):
        """The rate of matrix products and copies alone on this GPU, in this call."""
        if not self.has_torch():
            self.runner.skip("ceiling", "python3 has no torch")
            return
        given = ["--shape", "tiny", "--rows", "64"] if self.is_small else ["--shape", "7b", "--rows", "8192"]
        given += ["--device", self.torch_device()]
        self.runner.run(self.python("ceiling", "ceiling.py", given, 40, 12, True))

    def torch_device(self):
        return "cpu" if self.is_small else "cuda"

    def peers(self, rows, most=150.0):
        if not self.has_torch():
            self.runner.skip("peers", "python3 has not all of torch, transformers, peft")
            return
        left = min(most * self.runner.scale, self.runner.left() - 8)
        given = ["--json", "-", "--no-ceiling", "--budget-s", str(int(left * 0.85))]
        for row in rows:
            given += ["--row", row]
        if self.is_small:
            given += ["--device", "cpu", "--shape", "tiny", "--clips", "2", "--layers", "1", "--steps", "1"]
        else:
            given += ["--steps", "8", "--warmup", "3"]
        self.runner.run(self.python("peers", "qwen_gpu.py", given, most, 100))

    # ---- The two commands ----

    def first(self):
        yield self.machine
        yield lambda: self.smi("smi-begin")
        yield self.smoke
        yield self.self_check
        yield self.compare
        yield self.cublaslt_log
        yield self.tests
        yield self.ceiling
        yield lambda: [self.runner.run(self.profile(*profile)) for profile in PROFILES]
        yield lambda: self.timings(TIMINGS)
        yield self.races
        yield lambda: self.peers(PEERS)
        yield lambda: [self.runner.run(self.profile(*profile)) for profile in MORE_PROFILES]
        yield lambda: self.timings(MORE_TIMINGS)
        yield self.keep_algorithms
        yield lambda: self.smi("smi-end")

    def reserve(self):
        """Keeps time for the parts that matter most, whatever the ones before them do."""
        every = [self.profile(*profile) for profile in PROFILES] + [self.timing(*timing) for timing in TIMINGS]
        every += [self.part(f"tests-{name}", [], most, expected, True) for name, most, expected in TESTS]
        every += [self.part("self-check", [], 90, 30, True), self.part("compare", [], 60, 15, True)]
        every += [self.python("ceiling", "ceiling.py", [], 40, 12, True)]
        every += [self.part("smi-end", [], 10, 6, True)]
        self.runner.reserve(every)

    def second(self):
        yield lambda: self.smi("smi-begin")
        yield self.open_failures
        yield self.open_parts
        yield self.ncu
        yield self.open_peers
        yield self.keep_algorithms
        yield lambda: self.smi("smi-end")

    def state(self, name):
        return self.before.get(name, {}).get("state", "no time")

    def open_failures(self):
        """Failed parts of the first command, under compute-sanitizer or with a wait after every launch."""
        half = time.monotonic() + self.runner.left() / 2
        if self.state("smoke") in ("failed", "crashed") and self.state("smoke-memcheck") == "no time":
            self.sanitized("smoke-memcheck", self.one_layer(("--clips", "1")), 50, until=half)
        for program, _, _ in TESTS:
            path = self.program(program)
            found = self.before.get(f"tests-{program}", {}).get("found") or {}
            for test in found.get("failed", []) + found.get("unfinished", []):
                name = f"test-{program}-{test}"
                if path is None or self.state(name) == "passed":
                    continue
                if self.state(name) == "no time" and self.alone(name, path, test, half)["state"] == "passed":
                    continue
                command = [path, "--exact", test, "--test-threads", "1"]
                for kind in ("memcheck", "initcheck"):
                    if self.state(f"{name}-{kind}") in ("no time", "too slow"):
                        self.sanitized(f"{name}-{kind}", command, 40, kind, half)
        failed = failed_primitives(self.before.get("self-check", {}))
        if failed:
            # In one process: a worker is killed after its last line, before the tool has written its summary. The
            # checks behind one that ends in an error are not computed. The part passes where the tool finds nothing: what
            # is numerically wrong stands in the lines, as in `self-check`.
            given = [*self.bench, "check", "--device", self.device, "--tiny", *only(failed), "--from", "0"]
            self.sanitized("self-check-memcheck", given, 60, until=half)
        if self.state("compare") in ("failed", "crashed"):
            given = [*self.bench, "compare", "--device", self.device, "--tiny"]
            self.sanitized("compare-memcheck", given, 40, until=half)
        # A fault in one measurement is likely in all of its precision, so one of each is enough.
        precisions = set()
        for timing in TIMINGS + MORE_TIMINGS:
            part, precision = self.timing(*timing), timing[1]
            if self.state(part.name) in ("failed", "crashed") and precision not in precisions:
                precisions.add(precision)
                part.name += "-checked"
                part.environment.update(WAITING)
                self.runner.run(part, half)

    def open_parts(self):
        """Parts that had no time in the first command, or too little."""
        def is_open(name):
            return self.state(name) in ("no time", "too slow", "stopped", "stuck")

        stages = {
            "smoke": self.smoke,
            "self-check": self.self_check,
            "compare": self.compare,
            "cublaslt-log": self.cublaslt_log,
        }
        for name, stage in stages.items():
            if is_open(name):
                stage()
        if any(is_open(f"tests-{name}") and self.program(name) for name, _, _ in TESTS):
            self.tests()
        if is_open("ceiling"):
            self.ceiling()
        for part in [self.profile(*profile) for profile in PROFILES]:
            if is_open(part.name):
                self.runner.run(part)
        for part in [self.timing(*timing) for timing in TIMINGS]:
            if is_open(part.name):
                self.runner.run(part)
        if is_open("racecheck") or is_open("synccheck"):
            self.races()
        for part in [self.profile(*profile) for profile in MORE_PROFILES]:
            if is_open(part.name):
                self.runner.run(part)
        for part in [self.timing(*timing) for timing in MORE_TIMINGS[:2]]:
            if is_open(part.name):
                self.runner.run(part)

    def ncu(self):
        """Hardware counters of the kernels that the forecast is least sure of."""
        if self.settings.dry_run:
            return
        profiler = tool("ncu")
        if profiler is None:
            self.runner.skip("ncu", "there is no ncu")
            return
        kernels = "regex:attention_.*_128|swiglu|rms_norm_backward"
        given = ["--clock-control", "none", "-k", kernels, "-c", "10", "--set", "full"]
        self.run("ncu", [profiler, *given, *self.one_layer()], 60, 40)

    def open_peers(self):
        """Rows of the peers that the first command did not measure."""
        rows = self.before.get("peers", {})
        rows = rows.get("lines") or [rows.get("found") or {}]
        done = {f"{row.get('work')}:{row.get('peer')}" for row in rows if "step_ms" in row}
        wanted = [row for row in PEERS + MORE_PEERS if not any(one in done for one in alternatives(row))]
        if wanted:
            self.peers(wanted)


def failed_primitives(line):
    """Names of the primitives that did not pass a self-check, each once."""
    found = line.get("lines") or [line.get("found") or {}]
    return list(dict.fromkeys(one["primitive"] for one in found if "primitive" in one and not one.get("passes")))


def only(names):
    return [word for name in names for word in ("--only", name)]


def alternatives(row):
    work, variants = row.split(":")
    return [f"{work}:{variant}" for variant in variants.split("/")]


def words(environment):
    return [f"{name}={value}" for name, value in environment.items()]


def clocks(logs):
    """A process that writes clocks, power and temperature twice a second; `None` where none can."""
    if shutil.which("nvidia-smi") is None:
        return None
    for query in SMI:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv", "-lms", "500"]
        session = Session(command, logs / "smi.csv", logs / "smi.log", dict(os.environ))
        if session.wait(0.7) is None:
            return session
    return None


def lines_of_first(named, scratch):
    """Lines of the first command's results: of the file or folder that is named, else of the scratch folder."""
    path = Path(named) if named else scratch / "first.jsonl"
    if path.is_dir():
        path = path / "results.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    except (OSError, ValueError) as fault:
        print(f"no results of the first command, so everything is open: {fault}", flush=True)
        return []


def main():
    settings = arguments()
    is_second = settings.second is not None
    default = SECOND_BUDGET_S if is_second else FIRST_BUDGET_S
    budget = float(os.environ.get("CHECK_BUDGET_S", default))
    scratch = Path(os.environ.get("CHECK_SCRATCH") or Path(tempfile.gettempdir(), "maqam-gpu-check"))
    before = lines_of_first(settings.second, scratch) if is_second else []
    logs = scratch / ("second" if is_second else "first")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    out = settings.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kept = scratch / f"{logs.name}.jsonl"
    results = Results(out, logs, kept, lambda lines: report.markdown(before + lines, logs / "smi.csv"))
    scale = float(os.environ.get("CHECK_DEADLINES", budget / default))
    runner = Runner(budget, scale, logs, results)

    def stop(number, _):
        for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    logger = None
    try:
        logger = clocks(logs)
        check = Check(settings, runner, scratch, before)
        if not is_second:
            check.reserve()
        for stage in check.second() if is_second else check.first():
            try:
                stage()
            except Exception:  # a fault of this script must not take the other stages
                results.add({"part": "check.py", "state": "failed", "rc": None, "seconds": 0, "found": None, "error": traceback.format_exc()[-2000:]})
                runner.stop("the check itself failed")
    except Stopped as stopped:
        print(f"stopped by signal {stopped.number}", flush=True)
        results.save()
        runner.stop(f"the check was stopped by signal {stopped.number}")
        return 128 + stopped.number
    finally:
        if logger is not None:
            # The killed process may still write lines.
            logger.send(signal.SIGTERM)
            logger.wait(1.0)
            logger.send(signal.SIGKILL)
        results.save()
    print(report.markdown(before + results.lines, logs / "smi.csv", report.SUMMARY))
    print(f"{budget - runner.left():.0f} s in all; everything is in {out}", flush=True)
    return int(any(line["state"] not in FINE for line in results.lines))


if __name__ == "__main__":
    sys.exit(main())
