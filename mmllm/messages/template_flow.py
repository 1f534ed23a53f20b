"""What a chat template looks at, read from its syntax: whether what it writes around texts hangs on roles alone.

``template.py`` asks once per template; where it does, the generation prompt of a sequence of roles is rendered once and
not for every conversation anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import nodes

_WHOLE = frozenset({"trim", "string", "strip", "safe"})
"""Filters and methods that give a text as it is, less its outer blanks."""
_COUNTS = frozenset({"length", "count"})
"""Filters of a list of messages that look into none."""
_KINDS = frozenset({"defined", "undefined", "none", "string", "mapping", "iterable", "sequence"})
"""Tests that are the same for all texts: they are never missing, and of one type."""
_PLACES = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length", "depth", "depth0"})
"""What a loop tells of where it is; its other fields hold messages."""
_NEIGHBOURS = frozenset({"previtem", "nextitem"})


def writes_by_roles_alone(template: str) -> bool:
    """Whether all that the template writes beside whole texts is the same for all conversations of the same roles.

    True is proof; False says that its syntax did not prove it: it tests a text, takes it apart, or has macros.
    """
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        tree = _compile_jinja_template(template).environment.parse(template)
    except TemplateSyntaxError:
        return False  # rendering says it with its line
    return _Flow(tree).by_roles


class _Flow:
    """Names of one template that hold messages or texts of them; ``by_roles`` is the answer."""

    def __init__(self, tree: nodes.Template) -> None:
        self.messages = {"messages"}
        """Names of lists of messages, and of single ones."""
        self.texts = {"loop"}
        """Names of what texts went into, or may have."""
        before = -1
        while before != (before := len(self.messages) + len(self.texts)):
            self._follow(tree)
        self.by_roles = self._holds(tree)

    def _follow(self, tree: nodes.Template) -> None:
        """Take up the names of loops and assignments."""
        from jinja2 import nodes

        for loop in tree.find_all(nodes.For):
            if self._is_message(loop.iter):
                self.messages |= _names(loop.target)
        for one in tree.find_all(nodes.Assign):
            if self._is_message(one.node):
                self.messages |= _names(one.target)
            elif self._has_text(one.node):
                self.texts |= _names(one.target)

    def _is_message(self, node: nodes.Node) -> bool:
        """A list of messages, a part of it, or one of them."""
        from jinja2 import nodes

        if isinstance(node, nodes.Name):
            return node.name in self.messages
        if isinstance(node, nodes.Filter):
            return node.name in {"last", "first"} and node.node is not None and self._is_message(node.node)
        if isinstance(node, nodes.Getattr):
            return node.attr in _NEIGHBOURS
        return isinstance(node, nodes.Getitem) and self._is_message(node.node) and not _is_key(node.arg)

    def _has_text(self, node: nodes.Node) -> bool:
        """Whether the value hangs on a text of a message, or on a message as a whole."""
        from jinja2 import nodes

        if self._is_message(node):
            return True
        if isinstance(node, nodes.Name):
            return node.name in self.texts
        if isinstance(node, nodes.Getattr | nodes.Getitem) and self._is_message(node.node):
            # messages hold a role and a text; what else a template asks for is never there
            key = node.attr if isinstance(node, nodes.Getattr) else node.arg
            name = key.value if isinstance(key, nodes.Const) else key
            return not isinstance(name, str) or name == "content"
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name == "loop":
            return node.attr not in _PLACES
        if isinstance(node, nodes.Filter) and node.name in _COUNTS and node.node is not None:
            return not self._is_message(node.node) and self._has_text(node.node)
        if isinstance(node, nodes.Test) and node.name in _KINDS:
            return False
        return any(self._has_text(child) for child in node.iter_child_nodes())

    def _whole(self, node: nodes.Node) -> bool:
        """Whether texts enter the value whole: joined with others, or less their outer blanks."""
        from jinja2 import nodes

        if not self._has_text(node):
            return True
        if isinstance(node, nodes.Name):
            return node.name in self.texts
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self._is_message(node.node)
        if isinstance(node, nodes.Filter):
            return node.name in _WHOLE and not node.args and node.node is not None and self._whole(node.node)
        if isinstance(node, nodes.Call):
            called = node.node
            return (
                isinstance(called, nodes.Getattr)
                and called.attr in _WHOLE
                and not node.args
                and self._whole(called.node)
            )
        if isinstance(node, nodes.Add | nodes.Concat):
            return all(self._whole(child) for child in node.iter_child_nodes())
        return (
            isinstance(node, nodes.CondExpr)
            and not self._has_text(node.test)
            and all(self._whole(child) for child in (node.expr1, node.expr2) if child is not None)
        )

    def _holds(self, tree: nodes.Template) -> bool:
        """No test looks at a text, and each that is written is written whole."""
        from jinja2 import nodes

        for node in _statements(tree):
            if isinstance(node, nodes.Output):
                held = all(self._whole(child) for child in node.nodes)
            elif isinstance(node, nodes.Assign):
                held = self._is_message(node.node) or self._whole(node.node)
            elif isinstance(node, nodes.If):
                held = not self._has_text(node.test)
            elif isinstance(node, nodes.For):
                held = (self._is_message(node.iter) or not self._has_text(node.iter)) and (
                    node.test is None or not self._has_text(node.test)
                )
            else:
                held = isinstance(node, nodes.Template)
            if not held:
                return False
        return True


def _statements(tree: nodes.Node) -> Iterator[nodes.Node]:
    """All statements, those inside others included."""
    from jinja2 import nodes

    yield tree
    for child in tree.iter_child_nodes():
        if isinstance(child, nodes.Stmt | nodes.Template):
            yield from _statements(child)


def _names(target: nodes.Node) -> set[str]:
    """Names that an assignment or a loop gives a value; of a namespace's field the namespace."""
    from jinja2 import nodes

    found = [target, *target.find_all((nodes.Name, nodes.NSRef))]
    return {one.name for one in found if isinstance(one, nodes.Name | nodes.NSRef)}


def _is_key(node: nodes.Node) -> bool:
    """Whether an index is a field's name, or may be one."""
    from jinja2 import nodes

    if isinstance(node, nodes.Slice | nodes.Neg | nodes.Sub | nodes.Add):
        return False
    if isinstance(node, nodes.Const):
        return not isinstance(node.value, int)
    return not (isinstance(node, nodes.Getattr) and node.attr in {"index0", "index"})
