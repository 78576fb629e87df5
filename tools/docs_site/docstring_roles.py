"""Griffe extension: the roles of docstrings, ``:meth:`x```, are code on the site."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:attr|class|data|func|meth|mod):`([^`]+)`")


class DocstringRoles(griffe.Extension):
    """Takes them out of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """See the class."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
