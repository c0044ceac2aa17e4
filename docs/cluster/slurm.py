"""Count one large image on a Slurm cluster.

    pip install "napari-cellwright[large]" dask-jobqueue
    python slurm.py /shared/slide.zarr /shared/results --jobs 16

Image and results lie on a disk that all nodes see. Each job is one worker with one block at a time; a job
that is lost costs its block, which another one takes. Run it on the login node, or in a small job of its own.
``--show`` prints the script of such a job and does nothing else.
"""

import argparse
import subprocess
import sys

from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("output")
parser.add_argument("--jobs", type=int, default=8)
parser.add_argument("--queue", default=None, help="partition of the cluster")
parser.add_argument("--gpu", action="store_true", help="one GPU for each job")
parser.add_argument("--show", action="store_true", help="print the script of a job, and stop")
args, flags = parser.parse_known_args()  # what is left goes to cellwright: --model, --measure ...

cluster = SLURMCluster(
    queue=args.queue,
    cores=2,
    processes=1,
    memory="4GB",
    walltime="04:00:00",
    worker_extra_args=["--nthreads", "1"],  # one block at a time
    nanny=False,  # dask's gives memory back at once, which makes networks twice as slow
    job_script_prologue=["export OMP_NUM_THREADS=2"],
    job_extra_directives=["--gres=gpu:1"] if args.gpu else [],
)
if args.show:
    sys.stdout.write(cluster.job_script())
    sys.exit()
cluster.scale(jobs=args.jobs)
command = [sys.executable, "-m", "cellwright", "count", args.image, "--output", args.output, "--stream"]
sys.exit(subprocess.call([*command, "--scheduler", cluster.scheduler_address, *flags]))
