"""Checks and measures vaedist on one GPU, and writes a report.

    python tests/gpu/run.py [--out gpu-report] [--device gpu] [--part losses speed ...]

It needs this project, its pinned packages with TensorFlow's CUDA build (`pip install -c constraints.txt -c
constraints-gpu.txt -e '.[gpu,photos,dev]'`) and one GPU, but neither data nor a network. It says what is missing before
it starts. Each part is a separate process with a time limit, so that a failure does not end the others. Parts that
measure no time run at once. Writes report.json, report.md, and the output of each part. The exit code is 0 if all parts
passed, 1 if one failed, and 2 if something is missing.

With `--device cpu`, logical CPU devices stand in for GPUs, sizes are small, and limits are longer: a test of the script
itself.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRACE_SECONDS = 5
TESTS = ("tests/models/test_convolutions.py", "tests/models/test_mixed_precision.py", "tests/training/test_step.py")
PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS)


SLOWER = {"gpu": 1, "cpu": 6}  # factor of all limits


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        title: heading in the report.
        seconds: time limit on a GPU.
        command: arguments after the interpreter's path.
    """

    title: str
    seconds: int
    command: tuple[str, ...]


def stages(device):
    """Returns the parts by name; those of a stage run at once, and the stages one after another.

    The limits of the stages add up to less than eight minutes.
    """
    measure, jobs = str(HERE / "measure.py"), str(HERE / "jobs.py")
    return (
        {
            "losses": Part("Losses on one device, on two, and on the CPU", 150, (measure, "losses", device)),
            "train": Part("Ray Train: a worker killed, a run stopped and resumed", 150, (jobs, "train", device)),
            "tests": Part("Tests that use the device", 150, PYTEST),
        },
        {"sweep": Part("Ray Tune: four trials on one device", 70, (jobs, "sweep", device))},
        {"speed": Part("Speed and memory of the training step", 200, (measure, "speed", device))},
        {"profile": Part("Profile of the training step", 40, (measure, "profile", device))},
    )


def required(package, extras=frozenset()):
    """Yields the names of the packages that a package requires directly, with some of its extras."""
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement.name


def missing(device):
    """Returns what is missing, one line each."""
    pinned = {}
    for file in ("constraints.txt", *(("constraints-gpu.txt",) if device == "gpu" else ())):
        lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        pinned |= {Requirement(line).name: Requirement(line).specifier for line in lines}
    wanted, found = set(required("vaedist", {"photos", "dev", *(("gpu",) if device == "gpu" else ())})), []
    for name in sorted(wanted | pinned.keys()):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in wanted:
                found.append(f"{name} is not installed")
            continue
        if name in pinned and version not in pinned[name]:
            found.append(f"{name} is {version}, and the constraints have {pinned[name]}")
    if device == "gpu":
        seen = subprocess.run(
            [sys.executable, "-c", "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if seen.stdout.strip() in {"", "0"}:
            found.append("TensorFlow sees no GPU: " + (seen.stderr.strip().splitlines() or ["no message"])[-1])
    return found


def machine():
    """Returns what the report says about the machine."""
    facts = {
        "processor cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    facts |= {name: metadata.version(name) for name in ("tensorflow", "keras", "ray", "numpy", "vaedist")}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        facts["GPU"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        facts["GPU"] = "none"
    return facts


def run(part, log, seconds):
    """Runs a part; returns its result: the JSON of its last line, or what went wrong."""
    begun = time.monotonic()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        for number in (signal.SIGTERM, signal.SIGKILL):  # also what the part has started and left
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
                time.sleep(GRACE_SECONDS if number == signal.SIGTERM else 0)
        process.wait()
    lines = log.read_text(errors="replace").splitlines()
    result = {"passed": code == 0, "seconds": round(time.monotonic() - begun, 1)}
    reports = [line for line in lines if line.startswith('{"')]
    if reports:
        result["tables"] = json.loads(reports[-1])
    if code is None:
        result["fault"] = f"not finished after {seconds} s"
    elif code:
        result["fault"] = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    elif not reports:
        result["tables"] = {"": [["output", lines[-1] if lines else ""]]}
    return result


def at_once(parts, out, slower):
    """Runs parts at the same time; returns their results in order."""

    def one(name):
        seconds = parts[name].seconds * slower
        print(f"{name} (at most {seconds} s)", flush=True)
        result = run(parts[name], out / f"{name}.log", seconds)
        state = "passed" if result["passed"] else f"failed: {result['fault']}"
        print(f"  {name} {state}, {result['seconds']} s", flush=True)
        return result

    with ThreadPoolExecutor(max(1, len(parts))) as threads:
        return list(threads.map(one, parts))


def markdown(report):
    """Returns the report as Markdown."""
    lines = ["# vaedist on " + report["machine"]["GPU" if report["device"] == "gpu" else "system"], ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in report["machine"].items()), ""]
    for result in report["parts"].values():
        state = "passed" if result["passed"] else f"**failed**: {result['fault']}"
        lines += [f"## {result['title']}", "", f"{state}, {result['seconds']} s", ""]
        for caption, rows in result.get("tables", {}).items():
            first, *others = rows
            lines += [f"{caption}:", ""] if caption else []
            lines += ["| " + " | ".join(map(str, first)) + " |", "|---" * len(first) + "|"]
            lines += ["| " + " | ".join(map(str, row)) + " |" for row in others]
            lines += [""]
    return "\n".join(lines)


def main():
    """Runs the parts, and writes the report after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    names = [name for stage in stages("gpu") for name in stage]
    parser.add_argument("--part", nargs="+", choices=names, default=names, help="only these")
    options = parser.parse_args()
    if faults := missing(options.device):
        print("\n".join(faults), file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"device": options.device, "machine": machine(), "parts": {}}
    for stage in stages(options.device):
        chosen = {name: part for name, part in stage.items() if name in options.part}
        for name, result in zip(chosen, at_once(chosen, options.out, SLOWER[options.device]), strict=True):
            report["parts"][name] = {"title": chosen[name].title, **result}
        (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.out / "report.md").write_text(markdown(report))
    print(f"wrote {options.out / 'report.md'}")
    return 0 if all(result["passed"] for result in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
