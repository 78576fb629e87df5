"""Batch jobs over many engines, on Ray."""

from starr_engine.distributed.batch import run_batch
from starr_engine.distributed.options import Workers

__all__ = ["Workers", "run_batch"]
