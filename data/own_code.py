"""Code of the user's own, which a recipe names as `package.module:attribute`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from data.did_you_mean import did_you_mean


def load_own_code(name: str, key: str) -> Any:
    """What `package.module:attribute` names, in the working folder or wherever Python finds the module.

    Args:
        key: where the recipe names it, for messages.
    Raises:
        ValueError: it is written otherwise, its module cannot be imported or has no such attribute.
    """
    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute:
        raise ValueError(f"{key}: {name!r} must be written module:attribute")
    folder = os.getcwd()  # which `python -m` has on its path, and the command `slowthink` has not
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"{key}: cannot import {module!r}: {type(error).__name__}: {error}; a module of your own is seen "
            "from the folder in which the command is given"
        ) from error
    if not hasattr(loaded, attribute):
        names = [public for public in vars(loaded) if not public.startswith("_")]
        raise ValueError(f"{key}: {module!r} has no {attribute!r}; {did_you_mean(attribute, names)}")
    return getattr(loaded, attribute)


def own_code_file(name: str) -> Path | None:
    """The file below the working folder that `package.module:attribute` names; None where there is none."""
    module, colon, attribute = name.partition(":")
    parts = module.split(".")
    if not colon or len(name) > 200 or not all(part.isidentifier() for part in (attribute, *parts)):
        return None
    path = Path(*parts).with_suffix(".py")
    return path if path.is_file() else None
