"""Formulas as docstrings hold them, plain text among prose, as code in Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

OPERATORS = {"=", "∝", "~", "+", "-", "/", "x", "<"}
SYMBOLS = {
    "sum",
    "log",
    "exp",
    "sqrt",
    "softmax",
    "onehot",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "lambda",
    "tau",
    "lr",
    "progress",
}
BRACKETS = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"  # with brackets in them, and in those
INTERVAL = r"[\[(]-?[\d.]+, -?[\d.]+[\])]"
TOKEN = rf"`[^`]*`|{INTERVAL}|\|\|.*?\|\|(?:[\^_]\w+)?|(?:{BRACKETS}|{{[^}}]*}}|[^\s()])+|[()]"


def typeset(text: str, names: Collection[str] = ()) -> str:
    """Prose as Markdown, with its formulas as code; names: words that are symbols here."""
    tokens = list(re.finditer(TOKEN, text))
    words = [token[0].rstrip(".,;:") or token[0] for token in tokens]
    kinds = ["symbol" if word in names else kind_of(word) for word in words]
    for i, word in enumerate(words[:-1]):  # the article, where it is not a factor
        if word == "a" and words[i + 1].startswith("(") and kinds[i + 1] == "formula":
            kinds[i] = "symbol"
    ended = [word != token[0] for word, token in zip(words, tokens, strict=True)]  # by punctuation
    # a word beside an operator is an operand
    before = [False, *(kind == "operator" and not end for kind, end in zip(kinds, ended, strict=True))]
    behind = [*(kind == "operator" for kind in kinds[1:]), False]
    part = [
        kind in ("operator", "symbol", "formula") or (kind == "word" and (before[i] or (behind[i] and not ended[i])))
        for i, kind in enumerate(kinds)
    ]
    result, place, i = "", 0, 0  # place: up to where the text is in the result
    while i < len(tokens):
        last = i + 1
        while part[i] and last < len(tokens) and part[last] and not ended[last - 1]:
            last += 1
        while last - 1 > i and kinds[last - 1] == "operator":
            last -= 1
        begin, end = tokens[i].start(), tokens[last - 1].start() + len(words[last - 1])
        if part[i] and is_formula(words[i:last], kinds[i:last]):
            result += escaped(text[place:begin]) + f"`{text[begin:end]}`"
            place, i = end, last
            continue
        if kinds[i] == "code":
            result += escaped(text[place:begin]) + words[i]
            place = begin + len(words[i])
        elif inner := re.search(BRACKETS, words[i]):  # prose in brackets, with formulas of its own
            first, end = begin + inner.start() + 1, begin + inner.end() - 1
            result += escaped(text[place:first]) + typeset(text[first:end], names)
            place = end
        i += 1
    return result + escaped(text[place:])


def kind_of(word: str) -> str:
    """operator; formula, which is one by itself; symbol, which is part of one beside an operator; code; or word."""
    if word in OPERATORS:
        return "operator"
    if word.startswith("`"):
        return "code"
    if re.fullmatch(INTERVAL, word) or word.startswith("||"):
        return "formula"
    if found := re.fullmatch(rf"-?(\w*)({BRACKETS})(\^\S+)?", word):
        name, inside, power = found.groups()
        kinds = [kind_of(inner.rstrip(",")) for inner in re.findall(TOKEN, inside[1:-1])]
        prose = r"[.;:]( |\)$)" if name else r"[.,;:]( |\)$)"  # a call has commas
        if re.search(prose, inside) or "code" in kinds or ("word", "word") in pairwise(kinds):
            return "word"
        if name or power or "operator" in kinds or ("formula" in kinds and len(kinds) > 1):
            return "formula"
        return "symbol" if set(kinds) == {"symbol"} else "word"
    if re.fullmatch(r"-?[A-Za-z]\w*(?:[\^_=]\S+|[\^_]{[^}]*})", word):
        return "formula"
    letter = re.fullmatch(r"\d*[A-Za-z]'?", word) and word not in ("a", "A", "I")
    return "symbol" if letter or word in SYMBOLS or re.fullmatch(r"-?[\d.,]*\d", word) else "word"


def is_formula(words: Sequence[str], kinds: Sequence[str]) -> bool:
    """Whether a row of operators and operands is one: not a number, a lonely letter, or a sum of numbers."""
    if "formula" in kinds:
        return True
    letters = [re.fullmatch(r"[A-Za-z]'?", word) is not None for word in words]
    product = (True, True) in pairwise(letters)
    operands = "".join(word for word, kind in zip(words, kinds, strict=True) if kind != "operator")
    return product or ("operator" in kinds[1:-1] and re.search("[A-Za-z]", operands) is not None)


def escaped(text: str) -> str:
    """Text without the characters that mean something to Markdown."""
    text = re.sub(r"([*~])", r"\\\1", text).replace("<", "&lt;")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
