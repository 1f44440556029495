"""Words of a text as sparse vectors: lexical search without a model.

A document's weight for a term is BM25's saturated term frequency; the rarity of a term (IDF) is left to whoever
sees all documents: Qdrant (`modifier: idf`) or `score`. Both use the formula of Robertson and Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's non-negative IDF.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["AVERAGE_LENGTH", "query_vector", "score", "sparse_vector", "tokens"]

AVERAGE_LENGTH: Final = 128.0
"""Terms of a typical document: a fixed guess, because a vector must not depend on what is stored beside it."""

_K1: Final = 1.2
_B: Final = 0.75

_CLITIC: Final = re.compile(r"(?<=\w)['’](?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE)
_ASCII_WORD: Final = re.compile(r"\w+", re.ASCII)
_PART: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
# Scripts written without spaces between words: Han, kana. Pairs of characters stand in for words there.
_UNSPACED: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_VOWEL: Final = re.compile(r"[aeiouy]")
_STOP_WORDS: Final = frozenset(
    _ASCII_WORD.findall(
        "a about after again all also am an and any are aren as at be because been before being but by can could "
        "couldn did didn do does doesn doing don for from had hadn has hasn have haven having he her here hers him "
        "his how i if in into is isn it its just me more most my no nor not of on once only or other our ours out "
        "over own please same she should shouldn so some such than that the their theirs them then there these "
        "they this those to too us very was wasn we were weren what when where which while who whom why will with "
        "won would wouldn you your yours "
    )
)


def tokens(text: str) -> list[str]:
    """The terms of a text, in order and with repetitions.

    Words are runs of letters, marks, digits and `_`, compatibility-normalised (NFKC) and case-folded. `readFile` and
    `read_file` give their parts and themselves whole, English endings are trimmed lightly, words that carry no
    meaning are left out, and scripts written without spaces give overlapping pairs of characters.
    """
    found: list[str] = []
    for word in _words(_CLITIC.sub("", unicodedata.normalize("NFKC", text))):
        for term in _split(word):
            folded = term.casefold().strip("_")
            if folded and folded not in _STOP_WORDS:
                found.append(_trim(folded))
    return found


def sparse_vector(text: str) -> tuple[list[int], list[float]]:
    """A document's vector: 32-bit term hashes, each once, and their BM25 weights (without IDF)."""
    weights = _weights([_index(term) for term in tokens(text)], AVERAGE_LENGTH)
    return list(weights), list(weights.values())


def query_vector(text: str) -> tuple[list[int], list[float]]:
    """A query's vector: each term's hash once, with weight 1; empty when no word carries meaning."""
    indices = list(dict.fromkeys(_index(term) for term in tokens(text)))
    return indices, [1.0] * len(indices)


def score(query: str, documents: Sequence[str], *, average_length: float | None = None) -> list[float]:
    """BM25 of each document for the query, in the documents' order; 0.0 where they share no term.

    Args:
        query: Free text.
        documents: Texts to compare with it.
        average_length: The documents' typical number of terms; `None` takes their own average. With
            `AVERAGE_LENGTH` the result is what Qdrant computes from `sparse_vector` and `query_vector`.
    """
    hashed = [[_index(term) for term in tokens(document)] for document in documents]
    if average_length is None:
        average_length = sum(map(len, hashed)) / len(hashed) if any(hashed) else 1.0
    weights = [_weights(terms, average_length) for terms in hashed]
    scores = [0.0] * len(documents)
    for index in query_vector(query)[0]:
        holders = [(number, weight[index]) for number, weight in enumerate(weights) if index in weight]
        rarity = math.log((len(documents) - len(holders) + 0.5) / (len(holders) + 0.5) + 1.0)
        for number, weight_in_document in holders:
            scores[number] += rarity * weight_in_document
    return scores


def _weights(indices: Sequence[int], average_length: float) -> dict[int, float]:
    dampening = _K1 * (1.0 - _B + _B * len(indices) / average_length)
    return {index: count * (_K1 + 1.0) / (count + dampening) for index, count in Counter(indices).items()}


def _index(term: str) -> int:
    """A term's place in the vector; the same on every machine and in every version of Python."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")


def _words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text)
    # `\w` leaves out combining marks, and would break the words of scripts that write vowels with them.
    return "".join(
        character if character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M" else " "
        for character in text
    ).split()


def _split(word: str) -> Iterator[str]:
    if word.isascii():
        parts = _PART.findall(word)
        if len(parts) > 1:
            yield from parts
        yield word
        return
    position = 0
    for run in _UNSPACED.finditer(word):
        yield from _pieces(word[position : run.start()])
        characters = run.group()
        yield from (characters[i : i + 2] for i in range(max(1, len(characters) - 1)))
        position = run.end()
    yield from _pieces(word[position:])


def _pieces(word: str) -> Iterator[str]:
    parts = [part for part in word.split("_") if part]
    if len(parts) > 1:
        yield from parts
    if parts:
        yield word


def _trim(word: str) -> str:
    """Brings an English word's common forms together (reads, reading, read); the result need not be a word."""
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and not word.endswith("eed") and len(stem) > 1 and _VOWEL.search(stem):
            word = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsz" else stem
            break
    if len(word) > 2 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 2 and word.endswith("y") and not _VOWEL.match(word[-2]):
        word = word[:-1] + "i"
    return word
