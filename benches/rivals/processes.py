"""The rivals as processes, and what they run on."""

import json
import os
import pathlib
import platform
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE / ".build"
VENV = BUILD / "venv" / "bin" / "python"


class Rival:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, label, command, environment):
        self.label = label
        environment = {**os.environ, **environment}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.hello = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.label} ended with code {self.process.wait()}")
        return json.loads(line)

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(threads, with_rust):
    count = str(threads)
    variables = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    # An error is one line of an answer: no backtraces.
    environment = {**dict.fromkeys(variables, count), "RUST_BACKTRACE": "0"}
    python = os.environ.get("PYTHON", str(VENV))
    torch = [python, str(HERE / "torch_rival.py")]
    torch_environment = dict(environment)
    if "PYTHON" not in os.environ:
        torch_environment["LD_LIBRARY_PATH"] = str(BUILD / "stand-ins")
    made_to = {**torch_environment, "LD_PRELOAD": str(BUILD / "always_intel.so")}
    rivals = [
        Rival("microseq", [BUILD / "bin" / "microseq"], environment),
        Rival("torch", torch, torch_environment),
        Rival("torch+avx512", torch, made_to),
    ]
    if with_rust:
        rivals += [Rival(name, [BUILD / "bin" / name], environment) for name in ("candle", "burn")]
    return rivals


def machine(threads):
    model = platform.processor()
    try:
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
        fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        numbers = (fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
        model = f"{fields.get('model name', model)} (family {', model '.join(list(numbers)[:2])})"
    except OSError:
        pass
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "system": platform.system()}


def tool(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
