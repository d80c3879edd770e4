"""Parameters of the chapters as a user changes them: read, or refused in one line that says what was expected."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smallcnn.checks import quote
from smallcnn.report.parameters import LONGEST_VALUE, ParameterError, check_values, parse_changes, published_values
from smallcnn.study import CHAPTERS


def error_of(text: str, chapter: str = "pruning") -> str:
    """The message of the error that `text` gives, which must be one line."""
    with pytest.raises(ParameterError) as raised:
        check_values(chapter, published_values(chapter) | parse_changes(text, chapter))
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_published_values_are_those_of_the_study_and_may_be_changed() -> None:
    for name, chapter in CHAPTERS.items():
        assert published_values(name) == dict(chapter.published)
    published_values("approach_2")["epochs"] = 3
    assert published_values("approach_2")["epochs"] == 40
    assert published_values("comparison") == {}


# As a user writes them


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("  \t\n ", {}),
        ("epochs=10", {"epochs": 10}),
        ("epochs=+10", {"epochs": 10}),
        ("epochs=007", {"epochs": 7}),
        ("learning_rate=0.003", {"learning_rate": 0.003}),
        ("learning_rate=3e-3", {"learning_rate": 0.003}),
        ("learning_rate=1", {"learning_rate": 1.0}),
        ("dropout=.25", {"dropout": 0.25}),
        ("head=dense", {"head": "dense"}),
        ("filters=4,8,10", {"filters": [4, 8, 10]}),
        ("filters=[4,8,10]", {"filters": [4, 8, 10]}),
        ("filters=10", {"filters": [10]}),
        ("dropout_after=[]", {"dropout_after": []}),
        ("epochs=10 learning_rate=0.003\nseeds=0,1", {"epochs": 10, "learning_rate": 0.003, "seeds": [0, 1]}),
        ("epochs=-3", {"epochs": -3}),  # of the right type; its range is checked next
    ],
)
def test_values_get_the_type_of_their_parameter(text: str, changes: dict[str, Any]) -> None:
    parsed = parse_changes(text, "approach_2")
    assert parsed == changes
    assert [type(value) for value in parsed.values()] == [type(value) for value in changes.values()]


@pytest.mark.parametrize(
    "chapter", ["approach_4", "", "Approach_1", "index", "../book/data", "approach_1.ipynb", "a\nb"]
)
def test_an_unknown_chapter_is_named_with_those_there_are(chapter: str) -> None:
    message = error_of("epochs=3", chapter)
    assert message.startswith(f"unknown chapter {chapter!r}")
    assert message.endswith(f"; there are: {', '.join(CHAPTERS)}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epoch", "epochs"),
        ("Epochs", "epochs"),
        ("EPOCHS", "epochs"),
        ("epochs ", "epochs"),
        ("--epochs", "epochs"),
        ("épochs", "epochs"),
        ("epochs:", "epochs"),
        ("learning-rate", "learning_rate"),
        ("learningrate", "learning_rate"),
        ("seed", "seeds"),
        ("batchsize", "batch_size"),
        ("rounds", ""),
        ("__class__", ""),
        ("x" * 1000, ""),
    ],
)
def test_an_unknown_parameter_is_named_with_the_nearest_and_those_there_are(name: str, meant: str) -> None:
    with pytest.raises(ParameterError) as raised:
        check_values("approach_2", published_values("approach_2") | {name: 3})
    perhaps = f", perhaps {meant}" if meant else ""
    start = f"unknown parameter {quote(name)} for approach_2{perhaps}; it has: filters, pool_after,"
    assert str(raised.value).startswith(start)
    if " " not in name:
        assert error_of(f"{name}=3", "approach_2") == str(raised.value)
    assert error_of("epochs=3", "comparison") == "unknown parameter 'epochs' for comparison; it has: no parameters"


OF_ANOTHER_TYPE = [
    "epochs=ten",
    "epochs=true",
    "epochs=True",
    "epochs=10.0",
    "epochs=1e1",
    "epochs=1_000",
    "epochs=0x10",
    "epochs=١٠",
    "epochs=nan",
    "epochs=None",
    "epochs=[10]",
    "epochs==10",
    "epochs=10,",
    "epochs=" + "9" * 19,
    "epochs=" + "9" * 100_000,
    "epochs=!!int",
    "epochs=!!python/object/apply:os.system",
    "epochs=&anchor",
    "epochs=$(id)",
    "epochs=`id`",
    "epochs=10;id",
    "epochs=10|id",
    "epochs='10'",
    'epochs="10"',
    "epochs=10\x00",
    "learning_rate=nan",
    "learning_rate=inf",
    "learning_rate=-inf",
    "learning_rate=1e400",
    "learning_rate=-1e400",
    "learning_rate=true",
    "learning_rate=0,01",
    "learning_rate=0.01x",
    "learning_rate=0x1p-3",
    "filters=4,,8",
    "filters=4,8,",
    "filters=4;8",
    "filters=4.0,8",
    "filters=[4,8",
    "filters=4,8]",
    "filters=[[4,8]]",
    "filters=(4,8)",
    "filters=true",
    "filters=4,true",
    "seeds=a",
]


@pytest.mark.parametrize("text", OF_ANOTHER_TYPE)
def test_a_value_of_another_type_is_named(text: str) -> None:
    name = text.partition("=")[0]
    message = error_of(text)
    assert message.startswith(f"parameter {name} is ")
    assert "; expected " in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "text",
    [
        "epochs",
        "epochs=",
        "=10",
        "=",
        "epochs = 10",
        "epochs: 10",
        "epochs=10 learning_rate",
        "filters=4, 8",
        "filters=[4, 8, 10]",
        "-p",
        "{epochs:10}",
        "x" * 100_000,
    ],
)
def test_a_malformed_text_says_how_to_write_it(text: str) -> None:
    message = error_of(text)
    assert "expected whole numbers, as in 4,8,10" in message or "name=value" in message
    assert len(message) < 200


def test_a_parameter_given_twice_is_refused() -> None:
    assert error_of("epochs=10 epochs=10") == "parameter epochs is given twice"


# As a notebook has them


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"epochs": True}, "epochs"),
        ({"epochs": 10.0}, "epochs"),
        ({"epochs": "10"}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"learning_rate": "0.1"}, "learning_rate"),
        ({"learning_rate": False}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 10**400}, "learning_rate"),
        ({"filters": 4}, "filters"),
        ({"filters": "4,8"}, "filters"),
        ({"filters": [4, True]}, "filters"),
        ({"filters": [4, 8.0]}, "filters"),
        ({"head": 3}, "head"),
        ({"head": None}, "head"),
    ],
)
def test_a_notebook_checks_types_too(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ParameterError, match=f"^parameter {name} is .*; expected "):
        check_values("approach_2", published_values("approach_2") | values)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seeds", "4,8", "the text '4,8'; expected whole numbers: seeds = [4, 8] in a notebook, -y \"seeds: [4, 8]\""),
        ("seeds", "4 8", "the text '4 8'; expected whole numbers: seeds = [4, 8, 10] in a notebook"),
        ("seeds", 4, '4; expected whole numbers: seeds = [4, 8, 10] in a notebook, -y "seeds: [4, 8, 10]" with paper'),
        ("learning_rate", "1e-3", "the text '1e-3'; expected a finite number: learning_rate = 0.001 in a notebook"),
        ("learning_rate", "3e-05", "the text '3e-05'; expected a finite number: learning_rate = 0.001 in a notebook"),
        ("learning_rate", "0.02", "the text '0.02'; expected a finite number: learning_rate = 0.02 in a notebook"),
        ("epochs", "10", "the text '10'; expected a whole number: epochs = 10 in a notebook, -y \"epochs: 10\""),
        ("epochs", 5.0, "5.0; expected a whole number: epochs = 5 in a notebook"),
        ("engine", None, "None; expected a word: engine = 'auto' in a notebook, -y \"engine: auto\" with papermill"),
        ("filters", "1," * 200, "the text '1,1,"),
    ],
)
def test_the_message_fits_where_the_value_was_typed_and_its_example_is_accepted(
    name: str, value: Any, said: str
) -> None:
    published = published_values("approach_2")
    with pytest.raises(ParameterError) as raised:
        check_values("approach_2", published | {name: value})
    message = str(raised.value)
    assert message.startswith(f"parameter {name} is {said}")
    assert len(message) < 250
    typed, asked = re.search(rf': {name} = (.*) in a notebook, -y "(.*)" with papermill$', message).groups()
    assert yaml.safe_load(asked) == {name: ast.literal_eval(typed)}
    if name != "filters":  # other filters need other values beside them
        check_values("approach_2", published | yaml.safe_load(asked))


@pytest.mark.parametrize("text", [text for text in OF_ANOTHER_TYPE if len(text) < LONGEST_VALUE])
def test_no_example_is_what_was_just_refused(text: str) -> None:
    name, _, value = text.partition("=")
    message = error_of(text)
    example = message.rpartition(", as in ")[2]
    assert example != value
    assert parse_changes(f"{name}={example}", "pruning")


def test_a_tuple_will_do_for_a_list_and_a_whole_number_for_a_fraction() -> None:
    check_values("approach_2", published_values("approach_2") | {"filters": (4, 8, 8, 8, 10), "learning_rate": 1})


def test_a_missing_value_is_named() -> None:
    values = published_values("approach_2")
    del values["batch_size"]
    with pytest.raises(ParameterError, match="^approach_2: parameter batch_size has no value; its cell of parameters"):
        check_values("approach_2", values)


# Their limits

OUT_OF_RANGE = [
    "epochs=0",
    "epochs=-1",
    "epochs=100001",
    "batch_size=0",
    "batch_size=60001",
    "batch_size=101 train_examples=100",
    "train_examples=0",
    "train_examples=9",
    "train_examples=60001",
    "dropout=1",
    "dropout=1.5",
    "dropout=-0.1",
    "dropout_after=6",
    "learning_rate=0",
    "learning_rate=-0.01",
    "learning_rate=1e-400",
    "filters=[]",
    "filters=0,10",
    "filters=-4,10",
    "filters=1025,8,16,16,10",
    "pool_after=0",
    "pool_after=6",
    "head=flat",
    "head='dense'",
    "engine=!!python/name:os.system",
    "early_stopping_patience=0",
    "early_stopping_baseline=1.1",
    "plateau_patience=0",
    "plateau_factor=0",
    "plateau_factor=1",
    "seeds=[]",
    "seeds=0,0",
    "seeds=-1",
    "gradual_seeds=[]",
    "gradual_seeds=3,3",
    "schedule=other",
    "pruning_fraction=1",
    "pruning_fraction=0",
    "pruning_fraction=1.2",
    "rounds=0",
    "rounds=-2",
    "rounds=1000",
    "gradual_epochs=0",
    "gradual_epochs=41",
]


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(text: str) -> None:
    message = error_of(text)
    assert message.startswith("pruning: ")
    assert text.partition("=")[0] in message
    assert "expected" in message


@pytest.mark.parametrize(
    "text",
    [
        "epochs=1 gradual_epochs=1",
        "epochs=100000",
        "batch_size=100 train_examples=100",
        "train_examples=10 batch_size=1",
        "dropout=0",
        "early_stopping_baseline=0",
        "early_stopping_baseline=1",
        "plateau_factor=0.999",
        "pruning_fraction=0.001",
        "rounds=100",
        "gradual_epochs=40",
        "filters=1024,1,10 pool_after=3 dropout_after=3,1",
        "seeds=999999999999999999",
        "engine=halide head=dense",
    ],
)
def test_the_ends_of_a_range_are_allowed(text: str) -> None:
    check_values("pruning", published_values("pruning") | parse_changes(text, "pruning"))


@pytest.mark.parametrize("text", ["digits_shown=0", "digits_shown=-1", "digits_shown=21"])
def test_the_data_chapter_checks_its_range_too(text: str) -> None:
    assert "digits_shown" in error_of(text, "data")


@pytest.mark.parametrize(
    "text", ["head=" + "x" * 100_000, "engine=" + "x" * 100_000, "filters=" + "1," * 10_000 + "10"]
)
def test_an_error_does_not_repeat_a_very_long_value(text: str) -> None:
    assert len(error_of(text)) < 1000


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\u2028b", "a\x85b", "\x1b[31m", "x" * 1000, "\udce4", 10**400])
def test_what_is_quoted_is_short_and_of_printable_characters(value: Any) -> None:
    assert quote(value).isprintable()
    assert len(quote(value)) <= 60


names = st.sampled_from([*published_values("pruning"), "epoch", "", "\u2028"])
assignments = st.lists(st.builds("{}={}".format, names, st.text(max_size=12))).map(" ".join)


@settings(max_examples=50)
@given(st.one_of(st.text(), assignments), st.sampled_from([*CHAPTERS, "other"]))
def test_any_text_is_read_or_refused_in_one_line(text: str, chapter: str) -> None:
    try:
        check_values(chapter, published_values(chapter) | parse_changes(text, chapter))
    except ParameterError as error:
        assert len(str(error).splitlines()) == 1


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "filters": st.lists(st.integers(-1, 40), max_size=14),
            "pool_after": st.lists(st.integers(-1, 6), max_size=3),
            "dropout": st.floats(),
            "head": st.sampled_from(["dense", "pooled", "", "other"]),
            "batch_size": st.integers(),
            "learning_rate": st.floats() | st.integers(),
            "seeds": st.lists(st.integers(-1, 10**18), max_size=3),
            "pruning_fraction": st.floats(),
            "rounds": st.integers(-1, 5),
            "gradual_epochs": st.integers(),
        },
    )
)
def test_any_values_are_accepted_or_refused_in_one_line(changes: dict[str, Any]) -> None:
    try:
        check_values("pruning", published_values("pruning") | changes)
    except ParameterError as error:
        assert len(str(error).splitlines()) == 1
