"""The errors users can meet; each says what was expected, what came and what to do."""


class StarrError(Exception):
    """Base of every error that starr_engine raises on purpose."""


class ConfigError(StarrError, ValueError):
    """A setting, a model folder or a checkpoint that the engine cannot use."""


class RequestError(StarrError, ValueError):
    """One request that cannot run; other requests are not affected."""


class CapacityError(StarrError, RuntimeError):
    """Something that would fit in principle but not into the memory given."""


class KernelError(StarrError, RuntimeError):
    """The compiled extension is missing or does not load."""


class EngineDeadError(StarrError, RuntimeError):
    """The engine has failed as a whole; every request it had is lost, and it takes no other."""


class ReplicaDiedError(StarrError, RuntimeError):
    """The engine of a request has died, and the request could not be run again on another."""
