"""Words, vectors and scores of lexical search."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_space.lexical import AVERAGE_LENGTH, query_vector, score, sparse_vector, tokens


@pytest.mark.parametrize(
    "forms",
    [
        ["file", "files", "File", "FILES", "file's", "ﬁle"],
        ["read", "reads", "reading"],
        ["write", "writes", "writing"],
        ["run", "runs", "running"],
        ["query", "queries"],
        ["class", "classes"],
        ["box", "boxes"],
        ["match", "matches", "matched", "matching"],
        ["plan", "plans", "planned", "planning"],
        ["call", "calls", "called", "calling"],
        ["analyse", "analysed", "analysing"],
        ["use", "uses", "using", "used"],
        ["agree", "agrees"],
        ["straße", "STRASSE"],
        ["café", "cafe\u0301"],
    ],
)
def test_common_forms_of_a_word_are_one_term(forms: list[str]) -> None:
    assert len({tuple(tokens(form)) for form in forms}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("status", "state"), ("string", "str"), ("thing", "th"), ("agent1", "agent10")]
)
def test_different_words_stay_different_terms(one: str, other: str) -> None:
    assert tokens(one) != tokens(other)


@pytest.mark.parametrize(
    ("identifier", "parts"),
    [
        ("readFile", {"read", "fil", "readfil"}),
        ("read_file", {"read", "fil", "read_file"}),
        ("HTTPServer2", {"http", "server", "2", "httpserver2"}),
        ("MAX_SIZE", {"max", "siz", "max_size"}),
        ("__init__", {"init"}),
        ("größe_max", {"größe".casefold(), "max", "größe_max".casefold()}),
    ],
)
def test_an_identifier_gives_its_parts_and_itself_whole(identifier: str, parts: set[str]) -> None:
    assert set(tokens(identifier)) == parts


@pytest.mark.parametrize(
    "text", ["", " \n\t", "?! … -- ()", "the of and", "What is it?", "don't", "___", "it's the own", "\ud800"]
)
def test_text_without_a_meaningful_word_has_no_terms(text: str) -> None:
    assert tokens(text) == []
    assert sparse_vector(text) == ([], [])
    assert query_vector(text) == ([], [])


def test_scripts_without_spaces_are_searched_by_pairs_of_characters() -> None:
    assert tokens("東京都の天気") == ["東京", "京都", "都の", "の天", "天気"]
    assert tokens("猫") == ["猫"]
    assert set(tokens("天気")) <= set(tokens("東京都の天気とREADME"))
    assert tokens("天気README") == ["天気", *tokens("readme")]


def test_words_written_with_combining_marks_stay_whole() -> None:
    assert tokens("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


def test_a_vector_does_not_change_between_machines_and_versions() -> None:
    # Stored vectors outlive the process that made them.
    indices, values = sparse_vector("invoices")
    assert indices == [3617303967]
    assert values == pytest.approx([1.6832038])
    assert query_vector("an invoice") == ([3617303967], [1.0])


def test_a_repeated_word_weighs_more_but_saturates() -> None:
    once, twice, often = (dict(zip(*sparse_vector("invoice " * count), strict=True)) for count in (1, 2, 50))
    (index,) = once
    assert once[index] < twice[index] < often[index] < 2.2
    assert often[index] - twice[index] < 48 * (twice[index] - once[index])


def test_a_word_weighs_less_in_a_longer_text() -> None:
    (index,) = sparse_vector("invoice")[0]
    padding = " ".join(f"word{number}" for number in range(300))
    long = dict(zip(*sparse_vector(f"invoice {padding}"), strict=True))
    assert long[index] < sparse_vector("invoice")[1][0]


@given(st.text(max_size=300))
def test_any_text_gives_a_valid_vector(text: str) -> None:
    indices, values = sparse_vector(text)
    assert len(indices) == len(values) == len(set(indices))
    assert all(0 <= index < 2**32 for index in indices)
    assert all(0 < value < 2.2 for value in values)
    assert set(query_vector(text)[0]) == set(indices)


@given(st.text(max_size=100), st.lists(st.text(max_size=100), max_size=5))
def test_scores_are_what_the_vectors_and_idf_give(query: str, documents: list[str]) -> None:
    vectors = [dict(zip(*sparse_vector(document), strict=True)) for document in documents]
    expected = []
    for vector in vectors:
        total = 0.0
        for index, weight in zip(*query_vector(query), strict=True):
            holders = sum(index in other for other in vectors)
            idf = math.log((len(documents) - holders + 0.5) / (holders + 0.5) + 1)
            total += weight * idf * vector.get(index, 0.0)
        expected.append(total)
    assert score(query, documents, average_length=AVERAGE_LENGTH) == pytest.approx(expected)


def test_the_best_document_has_the_rare_word() -> None:
    documents = ["the agent reads files", "the agent reads invoices", "the agent writes files", "nothing"]
    scores = score("read the invoice", documents)
    assert max(scores) == scores[1]
    assert scores[3] == 0.0
    assert scores[0] > scores[2] == 0.0


@pytest.mark.parametrize("documents", [[], [""], ["", "the"]])
def test_documents_without_terms_score_nothing(documents: list[str]) -> None:
    assert score("invoice", documents) == [0.0] * len(documents)
