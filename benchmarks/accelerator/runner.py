"""Runs sections in processes of their own, each within its budget."""

import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.accelerator import record
from benchmarks.accelerator.sections import Section
from sharpflow.experiments.checks import Check, print_table

GRACE = 3.0  # seconds from the request to stop to the end: enough to write a file, not to compile
GLANCE = 0.1  # seconds from one look at a process to the next
ROOT = Path(__file__).parents[2]

Command = Callable[[Section], Sequence[object]]


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a section ended.

    Attributes:
      section: which.
      state: as in its file.
      seconds: that it took, over all calls.
      checks: what it stated.
    """

    section: Section
    state: str
    seconds: float
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether it came to its end and nothing that it states fails."""
        ended = self.state in (record.DONE, record.UNFINISHED)
        return ended and not any(check.holds is False for check in self.checks)


def run_sections(
    sections: Sequence[Section],
    command: Command,
    out: Path,
    *,
    again: bool = False,
    code: str | None = None,
    together: int = 1,
    environment: Mapping[str, str] | None = None,
) -> list[Ending]:
    """Run sections, each within its budget.

    Args:
      sections: in their order.
      command: of a section; it writes ``<name>.json`` into ``out`` as it goes.
      out: folder; what the processes print goes to ``<name>.log`` there.
      again: whether sections that are done are run again.
      code: its digest: a section that other code measured is run again; None leaves it.
      together: how many run at once; one where they share a device and are timed.
      environment: of the processes.

    Returns:
      How each ended, those that were done before among them.

    Raises:
      RecordError: the file of one is damaged; none of them has run.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not again:
        for section in sections:
            record.read_section(out / f"{section.name}.json")
    halt = threading.Event()

    def contents(section: Section) -> dict[str, Any]:
        path = out / f"{section.name}.json"
        if again:
            path.unlink(missing_ok=True)
        content = record.read_section(path)
        if content is not None and content["state"] == record.DONE:
            made = content.get("made", {})
            if code is None or made.get("code") == code:
                print(f"{section.name}: done before", flush=True)
                return content
            print(f"{section.name}: again, {record.code_in_words(made)} measured it", flush=True)
        print(f"{section.name}: {section.subject}, {section.budget:.0f} s at most", flush=True)
        began = time.monotonic()
        log = out / f"{section.name}.log"
        status = _run(command(section), log, section.budget, environment, halt)
        return _closed(path, section, status, time.monotonic() - began, log)

    endings = []
    with ThreadPoolExecutor(together) as pool:
        futures = [pool.submit(contents, section) for section in sections]
        try:
            for section, future in zip(sections, futures, strict=True):
                endings.append(_told(section, future.result()))
        except BaseException:  # somebody asked the runner to end
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return endings


def _told(section: Section, content: dict[str, Any]) -> Ending:
    """How a section ended, which is printed."""
    ending = Ending(section, content["state"], content["seconds"], record.checks_of(content))
    print_table(ending.checks, f"{section.name}: {ending.state}, {ending.seconds:.0f} s")
    for name, error in content["failures"].items():
        print(f"{section.name}: {name}: {error.splitlines()[0]}", flush=True)
    return ending


def _run(
    command: Sequence[object],
    log: Path,
    budget: float,
    environment: Mapping[str, str] | None,
    halt: threading.Event,
) -> int | None:
    """The exit status of a process; None where it did not end within its budget, or was halted."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that the processes it starts can be stopped with it
        )
        deadline = time.monotonic() + budget
        try:
            while process.poll() is None:
                if halt.wait(GLANCE) or time.monotonic() > deadline:
                    return None
            return process.returncode
        finally:
            _stop_group(process)


def _stop_group(process: subprocess.Popen) -> None:
    """Ask the group of a process to end, and end what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _closed(
    path: Path, section: Section, status: int | None, seconds: float, log: Path
) -> dict[str, Any]:
    """The file of a section that ended, with the state that it could not write itself."""
    content = record.read_section(path)
    if content is None:
        content = {"section": section.name, "state": record.RUNNING, "seconds": round(seconds, 2),
                   "measurements": {}, "failures": {}, "left_out": []}  # fmt: skip
    if content["state"] == record.RUNNING or status != 0:
        content["state"] = record.CUT if status is None else record.FAILED
        if status is not None:
            lines = log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no word")
            content["failures"] |= {section.name: f"exit status {status}: {last}"}
        record.write(path, content)
    return content
