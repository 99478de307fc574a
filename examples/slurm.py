"""Clean labels on jobs of a Slurm cluster, from a process that stays: jobs that end are replaced, and cancelled at the end.

    tomoscale cluster init --site maxwell          # once; fill in the lines it names
    tomoscale cluster doctor --site maxwell
    python examples/slurm.py labels.zarr clean.zarr --site maxwell --jobs 4

Where nothing may stay on a login node, let the scheduler live in the job as well. The same file runs there as it is:

    python examples/slurm.py labels.zarr clean.zarr --site maxwell --jobs 4 --script > job.sh
    sbatch job.sh

Give either command again after whatever stopped it: it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tomoscale import clean, working
from tomoscale.cluster.batch import batch_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--site", required=True, help="profile in the Dask configuration")
    parser.add_argument("--jobs", type=int, default=1, help="jobs to keep, or nodes of the one job")
    parser.add_argument("--script", action="store_true", help="print a batch script that runs this file instead")
    options = parser.parse_args()

    if options.script:
        names = [str(path.absolute()) for path in (Path(__file__), options.labels, options.target)]
        print(batch_script(options.site, [sys.executable, *names, "--site", options.site], nodes=options.jobs))
        return
    # In a batch script the environment names the scheduler; "auto" finds it.
    workers = "auto" if "DASK_SCHEDULER_ADDRESS" in os.environ else f"slurm:{options.site}"
    with working(workers, n_jobs=options.jobs) as work:
        cleaned = clean(options.labels, options.target, work=work)
    print(f"{cleaned.name} is finished")


if __name__ == "__main__":
    main()
