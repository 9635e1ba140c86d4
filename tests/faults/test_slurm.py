"""The batch script of the documentation runs as Slurm would run it, is stopped, and goes on."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from environments import cpu_devices
from launches import wait_for

import sharpflow as sf

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "slurm" / "grid.sbatch"
PATIENCE = 120.0  # seconds; much more than anything here takes on a busy machine
# What the script calls, as on a cluster: srun starts the tasks, each with the variables that Slurm
# gives to it, hands signals on to them, and ends with their highest status.
CLUSTER = """
sharpflow() { exec "$PYTHON" "$TASK" "$@"; }
scontrol() { echo "$@" >"$CALLS"; }
srun() {
    local tasks=() task rank highest=0 status
    [[ $1 == --cpus-per-task=$SLURM_CPUS_PER_TASK ]] || return 99
    shift
    for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
        SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_NODELIST=localhost \\
            SLURM_STEP_NUM_NODES=1 "$@" &
        tasks+=($!)
    done
    trap 'kill -TERM "${tasks[@]}"; asked=yes' TERM
    for task in "${tasks[@]}"; do
        wait "$task"
        status=$?
        if [[ $asked == yes ]]; then # the signal may have ended the wait, not the task
            asked=no
            wait "$task"
            status=$?
        fi
        ((status > highest)) && highest=$status
    done
    return "$highest"
}
"""
CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = [0, 1, 2, 3]
learning_rate = 0.5
weight_decay = 0.01
num_steps = 200
record_every = 10
observables = ["loss"]

[problem_options]
shape = [3, 3]
rank = 1
"""


def test_bash_reads_the_batch_script_and_its_page_shows_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    script = SCRIPT.read_text()
    assert f"```shell\n{script}```" in (ROOT / "docs" / "howto-hosts.md").read_text()
    # Slurm reads no option below the first command
    head = script[: script.index("\nconfig=")].splitlines()
    assert all(line.startswith("#SBATCH --") for line in head[1:])
    assert len(re.findall("^#SBATCH", script, flags=re.MULTILINE)) == len(head) - 1


@pytest.fixture
def cluster(tmp_path):
    """Environment of a batch script in a job of two tasks on this machine."""
    (tmp_path / "cluster.sh").write_text(CLUSTER)
    (tmp_path / "grid.toml").write_text(CONFIG)
    return cpu_devices(1) | {
        "BASH_ENV": str(tmp_path / "cluster.sh"),
        "PYTHON": sys.executable,
        "TASK": str(Path(__file__).with_name("slurm_task.py")),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": _job_with_a_free_port(),
        "SLURM_CPUS_PER_TASK": "1",
    }


def _job_with_a_free_port():
    """A job's number: jax takes the port of its last 12 bits, counted from 61440 on."""
    for job in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", 61440 + job % 4096)):
                return str(job)
    raise AssertionError("all of jax's ports are taken")


def _submitted(folder, environment, **variables):
    return subprocess.Popen(
        ["bash", str(SCRIPT), "grid.toml", "runs/grid"],
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(job):
    printed, _ = job.communicate(timeout=PATIENCE)
    return job.returncode, printed


def test_a_job_that_nears_its_time_limit_is_requeued_and_ends_the_run(cluster, tmp_path):
    calls, gates = tmp_path / "calls", [tmp_path / f"gate.{rank}" for rank in (0, 1)]
    job = _submitted(tmp_path, cluster, SLURM_NTASKS="2", GATE=str(tmp_path / "gate"))
    wait_for(lambda: all(gate.exists() for gate in gates), job)
    job.send_signal(signal.SIGUSR1)
    status, printed = _ended(job)
    assert status == 128 + signal.SIGTERM, printed
    assert printed.count("go on with --resume") == 2
    assert calls.read_text() == f"requeue {cluster['SLURM_JOB_ID']}\n"
    with sf.open_run(tmp_path / "runs/grid") as left:
        assert (left["status"] < 0).any()

    calls.unlink()
    # a run goes on with any number of tasks; each takes seconds to start
    status, printed = _ended(_submitted(tmp_path, cluster, SLURM_NTASKS="1"))
    assert status == 0, printed
    assert not calls.exists()
    with sf.open_run(tmp_path / "runs/grid") as data:
        assert (data["status"] == sf.Status.SUCCESS).all()
        assert (data["final_step"] == 200).all()


@pytest.mark.parametrize(
    ("signalled", "ends_with", "requeued"),
    [(True, 143, True), (True, 0, False), (True, 2, False), (False, 143, False), (False, 2, False)],
    ids=["stopped", "done at the limit", "failed at the limit", "cancelled", "failed"],
)
def test_a_job_is_requeued_only_where_the_time_limit_stopped_it(
    cluster, tmp_path, signalled, ends_with, requeued
):
    # tasks that do nothing: they begin, wait for the signal where one comes, and end
    wait = "trap asked=yes TERM; touch begun; until [[ $asked ]]; do sleep 0.01; done"
    tasks = f"srun() {{ {wait if signalled else ':'}; return {ends_with}; }}\n"
    (tmp_path / "cluster.sh").write_text(CLUSTER + tasks)
    job = _submitted(tmp_path, cluster)
    if signalled:
        wait_for((tmp_path / "begun").exists, job)
        job.send_signal(signal.SIGUSR1)
    status, printed = _ended(job)
    assert status == ends_with, printed
    assert (tmp_path / "calls").exists() == requeued


def test_a_job_needs_a_config_and_a_folder(cluster):
    job = subprocess.run(["bash", SCRIPT, "grid.toml"], env=cluster, capture_output=True, text=True)
    assert job.returncode == 1 and "name the folder" in job.stderr
