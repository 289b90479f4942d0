"""What the parser has against a command line, in one paragraph: which option, what was expected, and what is near it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pydoc import locate
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import lga_lightning
from lga_lightning.exceptions import LGAError, SettingError
from lga_lightning.utils.text import near

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

LISTED = 30  # names in a message, at most
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

# lines of jsonargparse's messages that tell a user nothing
NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a path but|"
    r"Problem with given class_path|Expected a dot import path|$"
)


def meant(error: BaseException) -> LGAError | None:
    """The error about the user's input that led to another one; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LGAError):
        cause = cause.__cause__ or cause.__context__
    return cause


def refusal(parser: ArgumentParser, error: Exception, verb: str) -> LGAError:
    """An error of the parser, or of the objects that it makes, in words for the user.

    Args:
        parser: The verb's parser.
        error: What it raised.
        verb: The verb, for pointers to its help.
    """
    cause = meant(error)
    if cause is not None:
        return cause
    message = str(error)
    if unknown := re.search("unrecognized arguments: (.*)", message, re.DOTALL):
        return _unknown_option(parser, unknown[1].split(), verb)
    keys = re.findall('Parser key "([^"]+)"', message)
    if not keys:
        return SettingError(f"{' '.join(message.split()).rstrip('.')}. What there is: lga {verb} --help.")
    option = "--" + ".".join(dict.fromkeys(keys))
    values = re.findall("(?:Given value|Got value|Expected a dot import path string): (.*)", message)
    given = next((value for value in values if value), "")
    if refused := re.search(r"(?:class_path '([\w.]+)':\s*)?Option '(\w+)' is not accepted", message):
        return _unknown_setting(option, *refused.groups())
    action = next((action for action in parser._actions if action.dest == keys[-1]), None)
    names = [*_names(getattr(action, "_typehint", None))] or _literals(message)
    if names:
        listed = f"{', '.join(names[:LISTED])}{', ...' * (len(names) > LISTED)}"
        return SettingError(f"{option}: {given!r} is none of {listed}{near(given, names) or '.'}")
    kinds = [KINDS[kind] for kind in re.findall("Expected a <class '([a-z]+)'>", message) if kind in KINDS]
    if kinds:
        return SettingError(f"{option}: expected {' or '.join(dict.fromkeys(kinds))}, got {given!r}.")
    lines = [line.strip().removeprefix("- ") for line in re.sub('Parser key "[^"]+": *', "", message).splitlines()]
    said = " ".join(line for line in lines if not NOISE.match(line)) or " ".join(message.split())
    return SettingError(f"{option}: {said[:500]}")


def _unknown_option(parser: ArgumentParser, words: Sequence[str], verb: str) -> SettingError:
    word = next((word for word in words if word.startswith("-")), words[0])
    if not word.startswith("-"):
        return SettingError(
            f"`lga {verb}` takes options alone, and {word!r} belongs to none. Put values with blanks in quotes."
        )
    name = word.partition("=")[0].removesuffix("+")
    options = [option for action in parser._actions for option in action.option_strings if not option.endswith(".help")]
    last = name.lstrip("-").rpartition(".")[2]
    same = [option for option in options if option.lstrip("-").rpartition(".")[2] == last]
    hint = f"; did you mean {same[0]}?" if same else near(name, options)
    return SettingError(f"`lga {verb}` has no option {name}{hint or '.'} All options: lga {verb} --help.all.")


def _unknown_setting(option: str, class_path: str | None, name: str) -> SettingError:
    kind = locate(class_path or "")
    makers = [vars(base)["__init__"] for base in getattr(kind, "__mro__", ()) if "__init__" in vars(base)]
    taken = [parameter for maker in makers for parameter in inspect.signature(maker).parameters.values()]
    settings = [*dict.fromkeys(one.name for one in taken if one.kind not in VARIADIC and one.name != "self")]
    has = f" It has {', '.join(settings)}." if settings else ""
    owner = class_path.rpartition(".")[2] if class_path else option
    return SettingError(f"{option}: {owner} has no setting {name!r}{near(name, settings) or '.'}{has}")


def _names(hint: Any) -> Iterator[str]:
    """Words that a type takes: those of a literal, and names of the public classes of its kind."""
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif isinstance(hint, type) and hint.__module__.startswith("lga_lightning."):
        public = (getattr(lga_lightning, name) for name in lga_lightning.__all__)
        found = [one for one in public if isinstance(one, type) and issubclass(one, hint) and one is not hint]
        yield from (one.__name__ for one in found if not inspect.isabstract(one) and one.__name__ != "Guarded")
    else:
        for inner in get_args(hint):
            yield from _names(inner)


def _literals(message: str) -> list[str]:
    found = re.search(r"typing\.Literal\[(.*?)\]", message)
    return re.findall("'([^']*)'", found[1]) if found else []
