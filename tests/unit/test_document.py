"""Documents: plain YAML in, the same values out, each with the line it came from; merging keeps both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.document import MAX_DEPTH, Value, assign, load, merge, parse
from engine.errors import InvalidInput, Place, Problem, in_order, nearest
from engine.spec import load_spec

MAX_INT = 2**63 - 1
# PyYAML writes these three line breaks as they are and folds them when it reads.
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029")).filter(
    lambda text: not yaml.reader.Reader.NON_PRINTABLE.search(text)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE
    | st.sampled_from(
        ["=", "<<", "null", "yes", "1e-3", "2024-01-01", "12:30", "0x1f", "!tag", "&a", "*a", "- x", "# x"]
    )
)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4), max_leaves=12
)
MAPPINGS = st.dictionaries(PRINTABLE, PLAIN, max_size=5)
NAMES = st.sampled_from("abcd")
NESTED = st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
TREES = st.dictionaries(NAMES, NESTED, max_size=3)
patient = settings(deadline=None, max_examples=100)


def of(data: Any, file: Path | None = None) -> Value:
    return parse(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), file)


def leaves(value: Value, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Value]]:
    """Every value inside, with its path."""
    pairs = value.data.items() if isinstance(value.data, dict) else enumerate(value.data)
    for key, inner in pairs:
        yield (*path, key), inner
        if isinstance(inner.data, dict | list):
            yield from leaves(inner, (*path, key))


@patient
@given(MAPPINGS, st.booleans(), st.booleans())
def test_plain_data_comes_back_as_it_was(data: dict[str, Any], flow: bool, unicode: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=unicode, sort_keys=False)
    assert parse(text).plain() == data


@patient
@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "ignore")))
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text).data, dict)
    except InvalidInput as error:
        assert all(problem.rule and problem.remedy for problem in error.problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("=", "="),
        ("yes", True),
        ("~", None),
        ("1_000", 1000),
        ("1.0e-3", 0.001),
        ("'7'", "7"),
        ("été", "été"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars_as_people_write_them(text: str, value: object) -> None:
    assert parse(f"key: {text}").plain() == {"key": value}


@patient
@given(st.lists(st.text("abcdefgh", min_size=1), unique=True, min_size=1), st.data())
def test_places_point_at_the_line_of_the_key(keys: list[str], data: st.DataObject) -> None:
    gaps = [data.draw(st.integers(0, 3)) for _ in keys]
    lines: list[str] = []
    expected = {}
    for key, gap in zip(keys, gaps, strict=True):
        lines += ["# comment"] * gap
        expected[key] = (len(lines) + 1, len(lines) + 2)
        lines += [f"{key}:", f"  inner: {len(lines)}"]
    value = parse("\n".join(lines), Path("x.yaml"))
    for key, (outer, inner) in expected.items():
        assert value.at((key,)) == Place(Path("x.yaml"), outer, 1, key)
        assert value.at((key, "inner")) == Place(Path("x.yaml"), inner, 3, f"{key}.inner")


def test_places_in_lists_and_of_what_is_missing() -> None:
    value = parse("a:\n  - x\n  - b: [1,\n      2]\n", Path("f"))
    assert value.at(("a", 0)) == Place(Path("f"), 2, 5, "a.0")
    assert value.at(("a", 1, "b", 1)) == Place(Path("f"), 4, 7, "a.1.b.1")
    assert value.at(("a", 1, "c")) == Place(Path("f"), 3, 5, "a.1.c"), "the nearest that is there"
    assert value.at(("z", "y")) == Place(Path("f"), 1, 1, "z.y")


@patient
@given(MAPPINGS)
def test_every_value_is_found_where_its_place_says(data: dict[str, Any]) -> None:
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False, width=math.inf)
    lines = text.split("\n")
    for path, value in leaves(parse(text)):
        place = value.place
        assert place.line is not None and place.column is not None
        rest = lines[place.line - 1][place.column - 1 :]
        if isinstance(key := path[-1], str) and key.isascii() and key.isalnum():
            assert rest.lstrip("?'\" ").startswith(key)
        assert rest, "a place is inside its line"


def test_nesting_is_allowed_up_to_the_limit() -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deepest = {"a": deepest}
    assert of({"a": deepest}).plain() == {"a": deepest}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        of({"a": {"a": deepest}})


def merged(base: Any, over: Any) -> Any:
    """What merging should give, on plain data."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in over.items()}}


@patient
@given(TREES, TREES)
def test_merge_prefers_the_right(base: dict[str, Any], over: dict[str, Any]) -> None:
    assert merge(of(base), of(over)).plain() == merged(base, over)


@patient
@given(TREES, TREES, TREES)
def test_merge_is_associative_and_idempotent_and_changes_no_argument(a: Any, b: Any, c: Any) -> None:
    one, two, three = of(a), of(b), of(c)
    # A scalar between two mappings hides the first from the third in one order only; trees of one shape have none.
    if not any(isinstance(inner.data, int) for tree in (one, two, three) for _, inner in leaves(tree)):
        assert merge(merge(one, two), three).plain() == merge(one, merge(two, three)).plain()
    assert merge(one, one).plain() == a
    assert (one.plain(), two.plain(), three.plain()) == (a, b, c)


@patient
@given(TREES, TREES)
def test_merge_keeps_places(base: dict[str, Any], over: dict[str, Any]) -> None:
    left, right = of(base, Path("base")), of(over, Path("over"))
    for path, value in leaves(merge(left, right)):
        owner = right if present(over, path) else left
        assert value.place == owner.at(path)
        assert value.place.file == Path("over" if owner is right else "base")


def present(data: Any, path: tuple[Any, ...]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


TECHNIQUES = {"techniques": [{"toca": {"interval": 3, "warmup": 1}}, {"fora": None}]}


def test_a_mapping_changes_the_parameters_of_listed_techniques() -> None:
    over = of({"techniques": {"toca": {"interval": 5}, "fora": {"interval": 2}}}, Path("over"))
    value = merge(of(TECHNIQUES, Path("base")), over)
    assert value.plain() == {"techniques": [{"toca": {"interval": 5, "warmup": 1}}, {"fora": {"interval": 2}}]}
    assert str(value.at(("techniques", 0, "toca", "interval"))) == "over:3:5 techniques.0.toca.interval"
    assert str(value.at(("techniques", 0, "toca", "warmup"))) == "base:4:5 techniques.0.toca.warmup"


def test_a_list_replaces_a_list() -> None:
    value = merge(of(TECHNIQUES), of({"techniques": [{"fora": None}]}))
    assert value.plain() == {"techniques": [{"fora": None}]}


def test_every_technique_that_is_not_listed_is_reported() -> None:
    with pytest.raises(InvalidInput) as caught:
        merge(of(TECHNIQUES), of({"techniques": {"tocca": {}, "x": {}, "fora": {}}}, Path("over")))
    assert [(str(problem.place), problem.remedy) for problem in caught.value.problems] == [
        ("over:2:3 techniques.tocca", "did you mean `toca`?"),
        ("over:3:3 techniques.x", "use one of: `fora`, `toca`"),
    ]


def test_another_sampler_takes_the_place_of_the_bases() -> None:
    base = of({"sampler": {"rflow": {"steps": 30, "base_size": 64}}})
    assert merge(base, of({"sampler": {"rflow": {"steps": 5}}})).plain()["sampler"] == {
        "rflow": {"steps": 5, "base_size": 64}
    }
    assert merge(base, of({"sampler": {"ddim": {"steps": 5}}})).plain()["sampler"] == {"ddim": {"steps": 5}}


def test_an_option_is_its_own_place_and_leaves_the_others() -> None:
    value = assign(of({"a": {"b": 1, "c": 2}}, Path("f")), "a.b", "{d: [3]}", "--set a.b={d: [3]}")
    assert value.plain() == {"a": {"b": {"d": [3]}, "c": 2}}
    assert str(value.at(("a", "b", "d", 0))) == "--set a.b={d: [3]}"
    assert str(value.at(("a", "c"))) == "f:3:3 a.c"
    assert str(value.at(("a", "x"))) == "f:1:1 a.x"
    assert str(value.at(("x",))) == "f:1:1 x"


def test_a_base_is_found_in_the_specs_folder_first_and_shown_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "models/base.yaml": "a: 1\nb: 2\n",
        "recipes/x.yaml": "extends: models/base.yaml\nb: 3\n",
    }.items():
        (tmp_path / "specs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "specs" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    value = load(Path("specs/recipes/x.yaml"))
    assert value.plain() == {"a": 1, "b": 3}
    assert str(value.at(("a",))) == "specs/models/base.yaml:1:1 a"
    assert str(value.at(("b",))) == "specs/recipes/x.yaml:2:1 b"
    assert load(tmp_path / "specs/recipes/x.yaml").at(("a",)).file == (tmp_path / "specs/models/base.yaml").resolve()


def test_a_shipped_base_is_found_from_anywhere(tmp_path: Path) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text("extends: models/opensora.yaml\nsampler: {rflow: {steps: 5}}\n")
    request = load_spec(spec, changes=["seed=7", "inputs.prompts=[a cat]"])
    assert (request.spec.seed, request.spec.inputs["prompts"]) == (7, ["a cat"])
    assert request.spec.sampler["rflow"] == {"steps": 5, "base_size": 64}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    spec = tmp_path / "x.yaml"
    spec.write_bytes("\ufeffa: 1\r\nb: é\r\n".encode())
    value = load(spec)
    assert value.plain() == {"a": 1, "b": "é"} and value.at(("b",)).line == 2


def test_problems_are_put_in_order_once() -> None:
    def at(file: str, line: int) -> Problem:
        return Problem("rule", "remedy", Place(Path(file), line, 1))

    given_, option = [at("b", 9), at("a", 5), at("b", 2), at("a", 5)], Problem("rule", "remedy", Place(key="--set x"))
    assert in_order([*given_, option]) == [at("b", 2), at("b", 9), at("a", 5), option]


def test_the_nearest_name() -> None:
    assert nearest("TOCA", ["toca", "fora"]) == "did you mean `toca`?"
    assert nearest("zzz", ["toca", "fora"]) == "use one of: `fora`, `toca`"
    assert nearest("zzz", []) == "nothing is allowed here; remove it"
