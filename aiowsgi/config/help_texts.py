"""The help of the options: what stands below their fields."""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from itertools import pairwise

from .config import Config


def help_texts(subject: type = Config) -> Mapping[str, str]:
    """Return the help of every option of a subject by its name.

    It is read from the source, because Python keeps no docstrings of fields. A program that was
    frozen without its sources has no help to show.
    """
    texts: dict[str, str] = {}
    for part in subject.__mro__:
        if is_dataclass(part):
            texts |= _below_fields(part)
    return texts


def _below_fields(subject: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(inspect.getsource(subject)).body
    except OSError:
        return {}
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for option, below in pairwise(definition.body):
        match option, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts
