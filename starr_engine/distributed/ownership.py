"""An application that a command has started ends with it, also if nobody could tell Serve so.

Serve's applications outlive whoever started them, as a server on a cluster should. One that stands
behind a command's own front is of no use without it, and holds GPUs.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import ActorDiedError

from starr_engine.serve.logs import log

_PERIOD_S: Final = 2.0


@ray.remote(num_cpus=0, max_restarts=0)
class Owner:
    """Lives as long as the process that made it, or the handle to it."""

    def lives(self) -> bool:
        """Answers if it does."""
        return True


def end_with(owner: Any, app: str) -> None:
    """Delete an application once an actor has died; looked at in a thread.

    Args:
        owner: A handle of ``Owner``.
        app: The application of this process.
    """
    watch = threading.Thread(target=_watch, args=(owner, app), name="starr-owner", daemon=True)
    watch.start()


def _watch(owner: Any, app: str) -> None:
    pause = threading.Event()
    while not pause.wait(_PERIOD_S):
        try:
            ray.get(owner.lives.remote())
        except ActorDiedError:
            log("owner gone", logging.WARNING, app=app)
            end_application(app)
            return
        except ray.exceptions.RayError:  # out of reach for now
            continue


def end_application(app: str) -> None:
    """Delete an application, and Serve with it if there is no other."""
    if set(serve.status().applications) - {app}:
        serve.delete(app)
    else:
        serve.shutdown()
