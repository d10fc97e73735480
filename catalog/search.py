"""Finding papers by words: the same answers from SQLite's FTS5, PostgreSQL's text search and plain Python.

A record is indexed under all forms of its words (`T-GATE`: t, gate, tgate), without accents, with Greek letters by
name. A query finds the records that have, for each of its words, a word beginning with it. A query word that no record
has is replaced by the nearest one that some record has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein
from sqlalchemy import Connection

from catalog.names import fold, search_words, tokens
from catalog.schema import Record
from catalog.tables import ALIAS, PAPER, SEARCH_TOKEN
from catalog.vocabulary import Vocabularies

INDEX = "paper_search"
CLOSE = 0.7  # similarity from which a word is taken for a misspelling of another
MAX_WORDS = 32  # of a query
FEW = 200


def text_of(record: Record, vocabularies: Vocabularies) -> str:
    """All words under which a record can be found, each once."""
    names = [record.abbreviation, record.id.replace("_", "-"), *(alias.text for alias in record.aliases)]
    texts = [*names, record.title, *(author.name for author in record.authors)]
    texts += filter(None, record.identifiers.model_dump(include={"arxiv", "doi", "openreview"}).values())
    for name, keys in (
        ("applications", record.tags.applications),
        ("mechanisms", record.tags.mechanisms),
        ("base_models", record.tags.base_models),
        ("venues", [publication.venue for publication in record.publications]),
    ):
        texts += [spelling for key in keys for spelling in spellings(vocabularies, name, key)]
    texts += [str(publication.year) for publication in record.publications]
    if record.summary:
        texts += filter(None, (record.summary.short, record.summary.long))
    words = [word for text in texts for word in search_words(text)]
    words += ["".join(tokens(name)) for name in (*names, *record.tags.mechanisms, *record.tags.applications)]
    return " ".join(dict.fromkeys(filter(None, words)))


def spellings(vocabularies: Vocabularies, name: str, key: str) -> list[str]:
    """A word of a vocabulary in all its spellings, underscores as spaces."""
    word = vocabularies[name][key]
    family = [vocabularies["families"][word.family].label] if word.family else []
    return [text.replace("_", " ") for text in (key, word.label, *word.aliases, *family)]


def create_index(connection: Connection) -> None:
    """The full-text index over `paper.search_text`."""
    if connection.dialect.name == "postgresql":
        # The words are ready: PostgreSQL's own parser and stemmer would change them.
        connection.execute(sa.text(f"create table {INDEX} (id text primary key, words tsvector not null)"))
        words = "array_to_tsvector(array(select distinct unnest(string_to_array(search_text, ' '))))"
        connection.execute(sa.text(f"insert into {INDEX} select id, {words} from paper"))
        connection.execute(sa.text(f"create index {INDEX}_words on {INDEX} using gin (words)"))
        return
    connection.execute(
        sa.text(
            f"create virtual table {INDEX} using fts5(id unindexed, words, tokenize = 'unicode61 remove_diacritics 0')"
        )
    )
    connection.execute(sa.text(f"insert into {INDEX} select id, search_text from paper"))


def query_words(text: str) -> list[str]:
    """The words of a query; those that stand in another form in the index are found by their beginning."""
    return list(dict.fromkeys(tokens(text)))[:MAX_WORDS]


def mended(words: Iterable[str], known: Iterable[str]) -> list[str]:
    """Query words, each replaced by the nearest known word if no known word begins with it."""
    vocabulary = sorted(known)
    return [
        word if any(other.startswith(word) for other in vocabulary) else nearest(word, vocabulary) for word in words
    ]


def nearest(word: str, vocabulary: list[str]) -> str:
    """The most similar known word, or `word` itself if none is close."""
    found = process.extractOne(
        word, vocabulary, scorer=DamerauLevenshtein.normalized_similarity, score_cutoff=CLOSE
    )  # fmt: skip
    return found[0] if found else word


def ids_by_index(connection: Connection, words: list[str]) -> list[str]:
    """Ids of the papers that have all words, by the full-text index."""
    if not words:
        return []
    if connection.dialect.name == "postgresql":
        query = " & ".join(f"'{word}':*" for word in words)  # words are letters and digits only
        found = connection.execute(
            sa.text(f"select id from {INDEX} where words @@ cast(:query as tsquery)"), {"query": query}
        )
    else:
        query = " AND ".join(f'"{word}"*' for word in words)
        found = connection.execute(
            sa.text(f"select id from {INDEX} where {INDEX} match :query"), {"query": f"words : ({query})"}
        )
    return sorted(found.scalars())


def ids_by_scan(texts: Mapping[str, str], words: list[str]) -> list[str]:
    """The same without an index: the reference the databases are tested against."""
    if not words:
        return []
    return sorted(
        paper
        for paper, text in texts.items()
        if all(any(other.startswith(word) for other in text.split()) for word in words)
    )


def search(connection: Connection, text: str) -> tuple[list[str], list[str]]:
    """(ids, best first; the words that were looked for)."""
    known = connection.execute(sa.select(SEARCH_TOKEN.c.token)).scalars()
    words = mended(query_words(text), known)
    ids = ids_by_index(connection, words)
    named = sa.select(PAPER.c.id, PAPER.c.abbreviation, PAPER.c.title)
    spelled = sa.select(ALIAS.c.paper_id, ALIAS.c.fold)
    if len(ids) <= FEW:  # few are asked for by name, many are all read
        named, spelled = named.where(PAPER.c.id.in_(ids)), spelled.where(ALIAS.c.paper_id.in_(ids))
    wanted = set(ids)
    rows = [row for row in connection.execute(named) if row.id in wanted]
    aliases: dict[str, list[str]] = {}
    for paper, alias in connection.execute(spelled):
        aliases.setdefault(paper, []).append(alias)
    ranks = {row.id: rank(text, words, row.abbreviation, row.title, aliases.get(row.id, [])) for row in rows}
    return sorted(ids, key=lambda paper: (ranks[paper], paper)), words


def rank(text: str, words: list[str], abbreviation: str, title: str, aliases: list[str]) -> int:
    """0 for the name itself, 1 for the beginning of a name, 2 for words of the title, 3 for the rest."""
    joined = "".join(words)
    names = ["".join(tokens(abbreviation)), *("".join(tokens(alias)) for alias in aliases)]
    if joined in names or fold(text) in aliases:
        return 0
    if any(name.startswith(joined) for name in names):
        return 1
    title_words = search_words(title)
    return 2 if all(any(other.startswith(word) for other in title_words) for word in words) else 3
