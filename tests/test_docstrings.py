"""The API reference is made of docstrings: what each has to have, and what the page shows."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import numpyro_vi_ext as vi

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
# Members without an underscore that other modules need, and users do not.
INTERNAL = {
    "Approximation": {"at", "choose", "elsewhere", "of", "replaced"},
    "Minibatch": {"plan"},
    "Model": {"fed", "refreshed", "target"},
    "Stream": {"number", "reader", "whole"},
}
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
# "Parameters and errors are those of `ADVI`", "Parameters as in `log_density`"
ELSEWHERE = re.compile(
    r"(Parameters[^.`]*?) (?:are those of|as in) `(?:numpyro_vi_ext\.)?([\w.]+)`"
)


def members(cls):
    """Public methods and properties that a class itself defines."""
    for name, value in vars(cls).items():
        value = getattr(value, "__func__", value)
        kinds = functools.cached_property | property
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds)):
            yield name, value


def walk():
    """Name -> public object; members by the most general public class that has them, once."""
    found = {name: getattr(vi, name) for name in vi.__all__}
    classes = [(name, value) for name, value in found.items() if inspect.isclass(value)]
    for owner, value in sorted(classes[::-1], key=lambda pair: len(pair[1].__mro__)):
        ours = [c for c in value.__mro__[::-1] if c.__module__.startswith("numpyro_vi_ext")]
        internal = set().union(*(INTERNAL.get(c.__name__, ()) for c in ours))
        for name, member in {k: v for c in ours for k, v in members(c)}.items():
            known = any(member is other for other in found.values())
            inherits = member.__doc__ is None and inspect.getdoc(getattr(value, name))
            if not (known or inherits or name in internal):
                found[f"{owner}.{name}"] = member
    return found


PUBLIC = walk()
CALLABLE = [
    name
    for name, value in PUBLIC.items()
    if inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))
]
each_callable = pytest.mark.parametrize("name", CALLABLE)


@functools.cache
def sections(name):
    """Title -> text of the sections of a docstring; what comes before them is under ""."""
    first, *rest = SECTION.split(inspect.getdoc(PUBLIC[name]) or "")
    return {"": " ".join(first.split()), **dict(zip(rest[::2], rest[1::2], strict=True))}


def referred(name, what):
    """The docstrings in which this one says that its parameters, or its errors, are described."""
    for begins, other in ELSEWHERE.findall(sections(name)[""]):
        if what in begins.lower():
            owners = getattr(getattr(vi, name.partition(".")[0]), "__mro__", ())
            names = [f"{owner.__name__}.{other}" for owner in owners] + [other]
            yield next(n for n in names if n in PUBLIC and n != name)


def described(name):
    """Parameters that a docstring, or one that it refers to, has an entry for."""
    parts = sections(name)
    text = parts.get("Parameters", parts.get("Attributes", ""))
    heads = (re.split(" : |, shape", line)[0] for line in text.splitlines() if line[:1] != " ")
    found = {part.strip(" *") for head in heads for part in head.split(",")} - {""}
    for other in referred(name, "parameters"):
        found |= described(other) | set(re.findall(r"`(\w+)`", parts[""]))
    return found


def raised(value):
    """Errors that a function raises in its own body."""
    body = vars(value).get("__init__") if inspect.isclass(value) else inspect.unwrap(value)
    if body is None or dataclasses.is_dataclass(value):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
    made = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {node.func.id for node in made if isinstance(node, ast.Call)} - {"AttributeError"}


def errors(name):
    found = set(re.findall(r"\w+Error", sections(name).get("Raises", "")))
    return found.union(*map(errors, referred(name, "errors")))


def test_the_walk_finds_what_it_should():
    assert {"fit", "Approximation.sample", "Approximation.mean", "Model.replace"} <= set(PUBLIC)
    assert {"Inference.fit", "Calibration.sites", "Empirical.histogram"} <= set(PUBLIC)
    assert len({"MeanField.elbo", "FullRank.elbo"} & set(PUBLIC)) == 1
    assert not {"ADVI.fit", "MeanField.sample", "Model.fed"} & set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_begins_with_one_line(name):
    first, *rest = inspect.getdoc(PUBLIC[name]).splitlines()
    assert first.rstrip("*`").endswith(".")
    assert not rest or rest[0] == ""


@pytest.mark.parametrize("name", vi.__all__)
def test_has_an_example(name):
    """It runs, as do all doctests; where there are sections, it has its own."""
    parts = sections(name)
    assert ">>>" in parts.get("Examples", parts[""] if len(parts) == 1 else "")


@each_callable
def test_every_parameter_is_described(name):
    parameters = set(inspect.signature(PUBLIC[name]).parameters) - {"self", "cls"}
    assert parameters - described(name) == set()
    if "Parameters" in sections(name) and not list(referred(name, "parameters")):
        assert described(name) <= parameters


@each_callable
def test_every_error_is_described(name):
    assert raised(PUBLIC[name]) - errors(name) == set()


@pytest.mark.parametrize("name", [name for name in CALLABLE if "." in name])
def test_every_method_is_called_in_an_example(name):
    examples = "".join(sections(other).get("Examples", "") for other in PUBLIC)
    assert f".{name.partition('.')[2]}(" in examples


def test_the_page_has_every_source():
    """First author and year of what the docstrings cite, as in "(Liu and Wang 2016)"."""
    cited = set()
    for name in PUBLIC:
        text = " ".join((inspect.getdoc(PUBLIC[name]) or "").split())
        cited |= set(
            re.findall(r"([A-Z]\w+)(?:, [A-Z]\w+)*(?: and \w+| et al\.)?,? \(?(\d{4})\b", text)
        )
    assert {("Liu", "2016"), ("Roeder", "2017"), ("Kingma", "2015")} <= cited
    listed = set(re.findall(r"^- (\w+)[^(]*\((\d{4})\)", PAGE, re.MULTILINE))
    assert cited == listed


def test_the_page_shows_everything_once():
    assert "inherited-members" not in PAGE
    shown = []
    for name, options in re.findall(r"^\.\. auto\w+:: (\S+)((?:\n +:.*)*)", PAGE, re.M):
        shown.append(name)
        listed = re.search(r":members:(.*)", options)
        if listed and listed[1].strip():
            shown += [f"{name}.{member.strip()}" for member in listed[1].split(",")]
        elif listed:
            shown += [other for other in PUBLIC if other.startswith(f"{name}.")]
    assert len(shown) == len(set(shown))
    assert set(PUBLIC) - set(shown) == set()
