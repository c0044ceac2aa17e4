"""The files for clusters: their commands count on workers that come by the address of a scheduler."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import torch
import yaml
import zarr
from dask.distributed import LocalCluster

FOLDER = Path(__file__).parents[2] / "docs" / "cluster"


class JobsHere(LocalCluster):
    """Takes what is told of jobs; its workers are threads of this process, reached by TCP all the same."""

    def __init__(self, **options):
        self.options = options
        free = {"dashboard_address": "127.0.0.1:0"}
        super().__init__(
            n_workers=0,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            dashboard_address=None,
            scheduler_kwargs=free,
        )

    def scale(self, n=0, jobs=None):
        if jobs is not None:
            self.n_jobs, n = jobs, 1
        super().scale(n)

    def job_script(self):
        return f"#SBATCH -p {self.options['queue']}"


@pytest.fixture
def slurm(monkeypatch, cli):
    """Function (arguments...) -> the clusters that the script for Slurm made; it counts in this process."""
    n_threads = torch.get_num_threads()
    cli("count", "--help")  # loads its modules before the cluster has threads that load some too

    def run(*arguments):
        made = []

        def cluster(**options):
            made.append(JobsHere(**options))
            return made[-1]

        monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=cluster))
        monkeypatch.setattr(subprocess, "call", lambda command: cli(*command[3:]).code)
        monkeypatch.setattr(sys, "argv", ["slurm.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(FOLDER / "slurm.py"), run_name="__main__")
        made[0].close()
        assert not ended.value.code
        return made[0]

    yield run
    torch.set_num_threads(n_threads)


def test_the_script_for_slurm_counts_on_the_workers_of_its_jobs(slurm, oracle, blobs, tmp_path):
    zarr.create_array(tmp_path / "slide.zarr", data=blobs.image, chunks=(64, 64))
    wanted = ("--measure", "shape", "--jobs", 3, "--gpu", "--queue", "long")
    jobs = slurm(tmp_path / "slide.zarr", tmp_path / "out", *wanted)
    assert jobs.n_jobs == 3
    assert jobs.options["job_extra_directives"] == ["--gres=gpu:1"]
    table = pandas.read_csv(tmp_path / "out" / "slide.cells.csv")
    assert len(table) == len(blobs)
    assert "circularity" in table


def test_the_script_for_slurm_shows_a_job(slurm, tmp_path, capfd):
    slurm(tmp_path, tmp_path, "--show", "--queue", "short")
    assert "#SBATCH -p short" in capfd.readouterr().out


def test_the_cluster_for_kubernetes_leads_to_its_scheduler():
    spec = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))["spec"]
    scheduler, worker = spec["scheduler"], spec["worker"]["spec"]
    named = {port["name"]: port["containerPort"] for port in scheduler["spec"]["containers"][0]["ports"]}
    served = {port["targetPort"]: port["port"] for port in scheduler["service"]["ports"]}
    assert named == served == {"tcp-comm": 8786, "http-dashboard": 8787}
    arguments = worker["containers"][0]["args"]
    assert arguments[arguments.index("--nthreads") + 1] == "1"  # one block at a time
    mounted = {mount["name"] for mount in worker["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in worker["volumes"]}
