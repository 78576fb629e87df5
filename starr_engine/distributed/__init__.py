"""Batch jobs and servers over many engines, on Ray."""

from starr_engine.distributed.batch import run_batch
from starr_engine.distributed.options import Replicas, Workers

__all__ = ["Replicas", "Workers", "run_batch"]
