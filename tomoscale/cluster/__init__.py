"""Clients for the machines a run may use: this machine, its GPUs, jobs of a Slurm cluster, a scheduler that is there.

Whoever reaches a Dask scheduler runs code as its owner. Everything that tomoscale starts asks for a certificate (TLS)
that only its own processes have, on the loopback address too, where other users of the machine are.
"""

from __future__ import annotations

from tomoscale.cluster.connection import connect as connect
from tomoscale.cluster.connection import resources_of as resources_of
from tomoscale.cluster.machine import gpus as gpus
from tomoscale.cluster.machine import local as local
from tomoscale.cluster.slurm import expected_resources as expected_resources
from tomoscale.cluster.slurm import jobs as jobs
