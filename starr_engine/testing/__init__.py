"""For the tests of those who extend the engine."""

from starr_engine.testing.cache_conformance import check_cache
from starr_engine.testing.model_conformance import check_model
from starr_engine.testing.policy_conformance import check_policy

__all__ = ["check_cache", "check_model", "check_policy"]
