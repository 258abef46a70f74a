"""A model formula is parsed from an allow-listed set of tokens into a tree of names; it is never evaluated.

    outcome ~ a + b * c - b:c + log(d) + (e + f):g

`:` makes an interaction, `a * b` is `a + b + a:b`, `-` (with a space before it: names may hold one) takes a term away. The
intercept is always there. A call is one of TRANSFORMS around one name. Nothing else is a formula.
"""

import re
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from common.errors import ConfigError

TRANSFORMS: Final = ("log", "log1p", "sqrt", "square")
LENGTH_MOST = 1000
DEPTH_MOST = 16
TERMS_MOST = 64
ORDER_MOST = 3
TOKEN = re.compile(r" *(?:(?P<name>[a-z][a-z0-9_-]{0,63})|(?P<sign>[~+*:()-]))", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Atom:
    """A variable of the dictionary, as it is or transformed."""

    variable: str
    transform: str = ""  # one of TRANSFORMS, or nothing

    @override
    def __str__(self) -> str:
        """Return it as a formula spells it."""
        return f"{self.transform}({self.variable})" if self.transform else self.variable


Product = tuple[Atom, ...]  # of distinct atoms, in the order in which the formula names them


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """An outcome and its terms: main effects first, then interactions by order, each as the formula names them."""

    outcome: Atom
    terms: tuple[Product, ...]

    @override
    def __str__(self) -> str:
        """Return the expanded formula."""
        return f"{self.outcome} ~ {' + '.join(':'.join(map(str, term)) for term in self.terms)}"


def parse(text: str) -> Formula:
    """Read a formula; the dictionary is not asked (terms.expand does).

    | input | result |
    |---|---|
    | a character outside the tokens, a call of anything but TRANSFORMS, a number | ConfigError with the position |
    | longer than 1000 characters, deeper than 16 parentheses, more than 64 terms, an interaction of more than 3 | ConfigError |
    | empty, no `~`, two of them, no term left, the outcome among the terms | ConfigError |

    Time is linear in the text; nothing recurses deeper than the limit. The message never repeats the text.
    """
    if len(text) > LENGTH_MOST:
        raise _wrong(f"it is longer than {LENGTH_MOST} characters")
    parser = _Parser(_tokens(text))
    outcome = parser.atom()
    parser.expect("~")
    terms = parser.total(depth=0)
    if parser.peek():
        raise _wrong(f"something is left over at character {parser.position}")
    if not terms:
        raise _wrong("no term is left")
    if any(atom.variable == outcome.variable for term in terms for atom in term):
        raise _wrong("the outcome is among the terms")
    return Formula(outcome=outcome, terms=tuple(sorted(terms, key=len)))


def _tokens(text: str) -> list[tuple[str, int]]:
    found = []
    at, end = 0, len(text.rstrip(" "))
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip(" "))
            raise _wrong(f"character {at + 1} does not belong there")
        token = match["name"] or match["sign"]
        at = match.end()
        found.append((token, at - len(token) + 1))
    return [*found, ("", end + 1)]


class _Parser:
    """Recursive descent over tokens; `depth` counts open parentheses."""

    def __init__(self, tokens: list[tuple[str, int]]) -> None:
        self._tokens, self._at = tokens, 0

    @property
    def position(self) -> int:
        return self._tokens[self._at][1]

    def peek(self) -> str:
        return self._tokens[self._at][0]

    def take(self) -> str:
        token = self.peek()
        self._at += token != ""
        return token

    def expect(self, sign: str) -> None:
        if self.take() != sign:
            raise _wrong(f"a {sign!r} is missing before character {self.position}")

    def total(self, *, depth: int) -> list[Product]:
        terms = self._crossed(depth=depth)
        while self.peek() in {"+", "-"}:
            sign = self.take()
            other = self._crossed(depth=depth)
            if sign == "+":
                terms = _union(terms, other)
            else:
                away = {frozenset(term) for term in other}
                terms = [term for term in terms if frozenset(term) not in away]
        return terms

    def _crossed(self, *, depth: int) -> list[Product]:
        terms = self._interaction(depth=depth)
        while self.peek() == "*":
            self.take()
            other = self._interaction(depth=depth)
            terms = _union(_union(terms, other), _products(terms, other))
        return terms

    def _interaction(self, *, depth: int) -> list[Product]:
        terms = self._primary(depth=depth)
        while self.peek() == ":":
            self.take()
            terms = _products(terms, self._primary(depth=depth))
        return terms

    def _primary(self, *, depth: int) -> list[Product]:
        if self.peek() != "(":
            return [(self.atom(),)]
        if depth == DEPTH_MOST:
            raise _wrong(f"parentheses are nested deeper than {DEPTH_MOST}")
        self.take()
        terms = self.total(depth=depth + 1)
        self.expect(")")
        return terms

    def atom(self) -> Atom:
        start, name = self.position, self.take()
        if not name[:1].isalpha():
            raise _wrong(f"a name is missing at character {start}")
        if self.peek() != "(":
            return Atom(variable=name)
        if name not in TRANSFORMS:
            raise _wrong(f"the call at character {start} is not one of {', '.join(TRANSFORMS)}")
        self.take()
        start, variable = self.position, self.take()
        if not variable[:1].isalpha():
            raise _wrong(f"a name is missing at character {start}")
        self.expect(")")
        return Atom(variable=variable, transform=name)


def _union(first: list[Product], second: list[Product]) -> list[Product]:
    held = {frozenset(term): term for term in reversed([*first, *second])}
    terms = [term for term in [*first, *second] if held.pop(frozenset(term), None) is not None]
    if len(terms) > TERMS_MOST:
        raise _wrong(f"it has more than {TERMS_MOST} terms")
    return terms


def _products(first: list[Product], second: list[Product]) -> list[Product]:
    made = [tuple(dict.fromkeys((*a, *b))) for a in first for b in second]
    if any(len(term) > ORDER_MOST for term in made):
        raise _wrong(f"an interaction has more than {ORDER_MOST} variables")
    return _union(made, [])


def _wrong(why: str) -> ConfigError:
    return ConfigError(
        f"The formula cannot be read: {why}.", action="Write it as outcome ~ a + b * c, names of the dictionary."
    )
