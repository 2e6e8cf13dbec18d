"""docs/errors.md quotes every message that the package raises, warns of, or adds as a note."""

import ast
import builtins
import itertools
import re
from pathlib import Path

from numpyro_vi_ext import errors

ROOT = Path(__file__).parents[1]
GAP = "\0"  # a value that is only known when the message is made

# Messages that no user can meet: the loop gives optimizers both.
INTERNAL = {
    "a NumPyro optimizer needs params: call update(grads, state, params)",
    "optax_to_numpyro needs the loss: pass what it wraps, or value=loss",
}
# Messages that are all gaps, with what the page has in their place.
FILLED = {
    "... must be ..., got ... of type ...": "learning_rate must be a number >= 0 or a schedule",
    "... must be ..., got ...": "learning_rate must be a number >= 0 or a schedule",
}
# Calls that hand on what was made elsewhere, or make a message of their own.
HANDED_ON = {
    "FloatingPointError.__init__(self, message)",
    "DiscreteLatentError(tuple(kinds['discrete']))",
    "warnings.warn(message, stacklevel=level)",
}


def is_exception(name):
    found = getattr(builtins, name, None) or getattr(errors, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def assigned(node):
    """Expressions by the name, or attribute, that they are assigned to."""
    values = {}
    for part in ast.walk(node):
        for target in part.targets if isinstance(part, ast.Assign) else ():
            for to, value in zip(elements(target), elements(part.value), strict=False):
                values.setdefault(ast.unparse(to), []).append(value)
    return values


def elements(node):
    return node.elts if isinstance(node, ast.Tuple) else [node]


def returned(tree):
    """Expressions by the name of the function that returns them."""
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            inside = (part for part in ast.walk(node) if isinstance(part, ast.Return))
            functions.setdefault(node.name, []).extend(part.value for part in inside if part.value)
    return functions


class Messages(ast.NodeVisitor):
    """The messages of one module, with a gap in place of each inserted value."""

    def __init__(self, tree, functions):
        self._module, self._local, self._functions = assigned(tree), {}, functions
        self.found, self.unknown = [], []
        self.visit(tree)

    def visit_FunctionDef(self, node):
        outer, self._local = self._local, assigned(node)
        self.generic_visit(node)
        self._local = outer

    def visit_Call(self, node):
        name = ast.unparse(node.func)
        made = is_exception(name.removesuffix(".__init__"))
        if made or name in ("warnings.warn", "warn") or name.endswith(".add_note"):
            for argument in node.args[name.endswith(".__init__") :][:1]:
                texts = [tidy(text) for text in self.texts(argument)]
                self.found += [(node.lineno, text) for text in texts if text not in ("", GAP)]
                if not any(text != GAP for text in texts):
                    self.unknown.append(ast.unparse(node))
        self.generic_visit(node)

    def texts(self, node, depth=0):
        """What an expression may be, as far as it is fixed."""
        name, known = ast.unparse(node), []
        match node:
            case ast.Constant(value=str(value)):
                return [value]
            case ast.JoinedStr(values=parts):
                return ["".join(p.value if isinstance(p, ast.Constant) else GAP for p in parts)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                pairs = itertools.product(self.texts(left, depth), self.texts(right, depth))
                return ["".join(pair) for pair in pairs]
            case ast.Call(func=ast.Attribute(value=value, attr="format")):
                return [re.sub(r"\{.*?\}", GAP, text) for text in self.texts(value, depth + 1)]
            case ast.Call(func=ast.Name(id=function)):
                known = self._functions.get(function, [])
            case ast.IfExp(body=one, orelse=other):
                known = [one, other]
            case ast.Name():
                known = self._local.get(name) or self._module.get(name, [])
            case ast.Attribute():
                known = self._module.get(name, [])
        if not known or depth == 5:
            return [GAP]
        return [text for part in known for text in self.texts(part, depth + 1)]


def tidy(text):
    text = " ".join(text.split()).replace("...", GAP)
    return re.sub(f"{GAP}+", GAP, text)


def messages_of_the_package():
    """Pairs of a place and a message, and the calls whose message could not be found."""
    paths = sorted((ROOT / "numpyro_vi_ext").rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    functions = {}
    for tree in trees.values():
        for name, values in returned(tree).items():
            functions.setdefault(name, []).extend(values)
    found, unknown = [], []
    for path, tree in trees.items():
        messages = Messages(tree, functions)
        found += [(f"{path.relative_to(ROOT)}:{line}", text) for line, text in messages.found]
        unknown += messages.unknown
    return found, unknown


def quotes():
    """What is quoted in the terms of the page, with gaps for "..."."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(`.*)\n:", page, re.MULTILINE)
    texts = [text for term in terms for text in re.findall("`([^`]+)`", term)]
    return [re.sub(r"^\w+Error: ", "", text).replace("...", GAP) for text in texts]


def is_quoted(message, page):
    """Whether the page has the beginning of a message; a last gap may stand for all the rest."""
    beginnings = (quote.rstrip(GAP + " ") for quote in page)
    return any(start and message.startswith(start) for start in beginnings)


def test_every_message_is_on_the_page():
    page, (found, unknown) = quotes(), messages_of_the_package()
    assert len(found) > 200
    shown = {place: text.replace(GAP, "...") for place, text in found}
    missing = {
        place: shown[place]
        for place, text in found
        if not is_quoted(FILLED.get(shown[place], text), page) and shown[place] not in INTERNAL
    }
    assert not missing
    assert {*FILLED} | INTERNAL <= {*shown.values()}, "no longer in the package"
    assert {*unknown} == HANDED_ON
