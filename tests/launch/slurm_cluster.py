"""A real Slurm on this machine: munged, slurmctld and two slurmd, with every file in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs Slurm: {', '.join(absent)} not installed"
    return None if os.geteuid() == 0 else "needs root, to start Slurm's daemons"


class SlurmCluster:
    """Two nodes, n1 and n2, of two CPUs each; both are this machine."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # of pytest's own, munge cannot use any
        self.folder.chmod(0o755)
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def _start(self) -> None:
        for name in ("state", "spool/n1", "spool/n2"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(folder=self.folder, host=host, ports=_free_ports())
        (self.folder / "slurm.conf").write_text(config)
        places = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self.run("munged", *(f"--{option}={self.folder}/munge.{end}" for option, end in places.items()))
        self.run("slurmctld")
        for node in ("n1", "n2"):
            self.run("slurmd", "-N", node)
        self.wait_for(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", 60)

    def __exit__(self, *_: object) -> None:
        try:
            self.run("scancel", "--me")
            self.wait_for(lambda: not self.jobs(), 60)
        finally:
            self._end()

    def _end(self) -> None:
        """The daemons that have started, those among them that have not written their number yet, and their
        folder."""
        mine = self.environment["SLURM_CONF"]
        processes = list(psutil.process_iter(["environ"]))
        processes = [p for p in processes if (p.info["environ"] or {}).get("SLURM_CONF") == mine]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(processes, timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str) -> str:
        """The output of a command; with its errors, if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Jobs in the queue with their states; those of an array have one number."""
        lines = self.run("squeue", "-h", "-o", "%F %T").splitlines()
        return dict(line.split() for line in lines)

    def shown(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job."""
        words = self.run("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited for {seconds} s; {self.jobs()}"
            time.sleep(0.2)


def _free_ports() -> list[int]:
    """Three free ports, the last two in a row."""
    for first in range(17000, 20000, 3):
        sockets = [socket.socket() for _ in range(3)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return [first, first + 1, first + 2]
    raise OSError("no three free ports in a row from 17000 to 20000")
