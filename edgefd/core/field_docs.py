"""Read the descriptions of the fields of a dataclass: the strings that follow the fields in the source."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
from itertools import pairwise


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the description of each field of a dataclass and of the dataclasses that it extends, in one line each.

    The result has no entry for a field without a description, nor for a class whose source is not in a file.
    """
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_in_source(base)
    return docs


def _docs_in_source(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # a class that was made in an interactive session, or by a function
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = " ".join(doc.split())
    return docs


def doc_of(kind: type) -> str:
    """Return the first paragraph of the docstring of a class, in one line; "" for a dataclass without a docstring."""
    paragraph = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    generated = dataclasses.is_dataclass(kind) and paragraph.startswith(f"{kind.__name__}(")
    return "" if generated else " ".join(paragraph.split())
