"""A process that is killed at any moment and started again ends with the same bits."""

import collections
import itertools
import random
import signal
import time
from contextlib import ExitStack

import pytest
from launches import finished, free_port, launched, run_to_end, wait_for
from scenarios import differences

import sharpflow as sf


def _killed_and_resumed(scenario, folder, kills, seconds, moments, **options):
    """Start until it ends, killed at random moments; what it was at then."""
    hit = []
    while True:
        log = folder.parent / f"{folder.name}.{len(hit)}.phases"
        with launched(scenario, folder, phases=str(log), **options) as process:
            if len(hit) == kills:
                assert finished(process) == ""
                return hit
            deadline = time.monotonic() + moments.uniform(0.0, seconds)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            if process.poll() is not None:
                assert finished(process) == ""
                return hit
            process.kill()
            process.wait()
        hit.append(["starting", *_phases(log)][-1])


def _phases(log):
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("scenario", "options", "soak_only"),
    [
        ("every_kind", {"slow": 0.05}, False),
        ("network", {"rows": 2, "slow": 0.05}, True),
        ("network", {"rows": 2, "slow": 0.05, "devices": 2}, True),
    ],
)
def test_a_run_killed_at_random_moments_ends_bit_identical(
    scenario, options, soak_only, tmp_path, soaking, say
):
    if soak_only and not soaking:
        pytest.skip("long: make soak")
    began = time.monotonic()
    run_to_end(scenario, tmp_path / "whole", **options)
    seconds = time.monotonic() - began
    expected = sf.open_run(tmp_path / "whole").load()
    moments, phases, same = random.Random(0), collections.Counter(), 0
    runs, kills = (20, 3) if soaking else (1, 3)
    for number in itertools.count():  # one that ends before it is killed does not count
        folder = tmp_path / str(number)
        hit = _killed_and_resumed(scenario, folder, kills, seconds, moments, **options)
        phases.update(hit)
        wrong = differences(sf.open_run(folder), expected)
        assert wrong == [], f"run {number}, killed while {hit}"
        assert not list(folder.rglob("*.partial"))
        same += bool(hit)
        if same == runs:
            break
    if soaking:
        where = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        devices = options.get("devices", 1)
        name = f"{scenario} on {devices} device(s), killed at random"
        say(f"{name}: {same} of {runs} bit-identical; {phases.total()} kills hit: {where}")


def test_processes_of_which_any_are_killed_at_random_moments_end_bit_identical(
    every_kind, tmp_path, soaking, say
):
    if not soaking:
        pytest.skip("long: make soak")
    moments, runs, kills, launches = random.Random(1), 10, 0, 0
    for number in range(runs):
        run, killed = tmp_path / str(number), True
        while killed:
            killed = _launch_and_kill(run, moments, launches)
            launches, kills = launches + 1, kills + killed
        assert differences(sf.open_run(run), every_kind.result) == []
    say(f"1 to 3 processes: {runs} of {runs} bit-identical; {launches} launches, {kills} kills")


def _launch_and_kill(run, moments, launch):
    """Some processes, of which some are killed once all have begun; how many were."""
    count = moments.choice([1, 2, 3])
    address = f"127.0.0.1:{free_port()}"
    logs = [run.parent / f"{run.name}.{launch}.{index}.phases" for index in range(count)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                launched(
                    "every_kind",
                    run,
                    join=[address, count, index] if count > 1 else None,
                    phases=str(log),
                    slow=0.1,
                    pieces=2 + index,
                    rows=4 + index,
                )
            )
            for index, log in enumerate(logs)
        ]
        for process, log in zip(processes, logs, strict=True):
            wait_for(lambda log=log: {"compiling", "over"} & set(_phases(log)), process)
        time.sleep(moments.uniform(0.0, 3.0))
        victims = moments.sample(processes, moments.choice(range(count + 1)))
        for victim in victims:
            victim.kill()
        for process in processes:
            if process not in victims:
                assert finished(process) == ""
        return sum(victim.wait() == -signal.SIGKILL for victim in victims)
