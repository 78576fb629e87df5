"""For the tests of those who extend the engine; needs torch alone."""

from starr_engine.testing.policy_conformance import check_policy

__all__ = ["check_policy"]
