"""Options: what they take, what they refuse, and what they say about themselves."""

import copy
import dataclasses
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from grouped import in_one_test

from aiowsgi.config import (
    Config,
    ListenerConfig,
    ListenerOptions,
    ListenerProtocol,
    Option,
    Origin,
    ProcessOptions,
    ProxyOptions,
    ServerOptions,
    TlsOptions,
    help_texts,
)
from aiowsgi.config.fields.subject import Subject
from aiowsgi.config.fields.values import parse_count, parse_duration, parse_size
from aiowsgi.config.server import threads_for
from aiowsgi.config.workers import WorkerOptions
from aiowsgi.errors import ConfigError

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
OPTIONS: dict[str, Option] = {name: field.metadata["option"] for name, field in FIELDS.items()}
NUMBERS = sorted(name for name, option in OPTIONS.items() if option.minimum is not None)
DURATIONS = [name for name in NUMBERS if OPTIONS[name].parse is parse_duration]
CHOICES = sorted(name for name, option in OPTIONS.items() if option.choices)

# Digits of other scripts, which \d and int() take: ARABIC-INDIC, FULLWIDTH, MATHEMATICAL, a square.
FOREIGN_DIGITS = ("\u0663", "\uff11\uff12", "\U0001d7d7", "\xb2")


# Texts.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("30s", 30.0),
        ("1.5", 1.5),
        ("0.25s", 0.25),
        ("500ms", 0.5),
        ("1.5ms", 0.0015),
        ("2m", 120.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("007", 7.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    parsed = parse_duration(text)
    assert isinstance(parsed, float)
    assert math.isclose(parsed, seconds)


@in_one_test(
    "text",
    [
        *("", "s", "-1", "+1", "1.", ".5", "1,5", "1e3", "inf", "nan", "0x10", "1_000", "1S", "1d"),
        *("1min", "1sec", "1m30s", " 1", "1 ", "1 s", "1\n", "5\uff53", "\u0663s", "1.\u0663"),
        *FOREIGN_DIGITS,
    ],
    ids=ascii,
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a duration; write seconds, or 500ms, 30s") as e:
        parse_duration(text)
    assert repr(text) in str(e.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("64KB", 65536),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("1M", 1 << 20),
        ("1MiB", 1 << 20),
        ("2G", 2 << 30),
        ("2gb", 2 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    parsed = parse_size(text)
    assert type(parsed) is int
    assert parsed == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "K", "B", "-1", "+1", "1.5M", "1,000", "1e6", "0x10", "1_000", "1T", "1KK"),
        # U+212A is a K for a pattern that ignores case, unless it is held to ASCII.
        *(" 1", "1 ", "1 K", "1K\n", "1\u212a", "\u0663K", *FOREIGN_DIGITS),
    ],
    ids=ascii,
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size; write bytes, or 64K, 1M, 2G") as e:
        parse_size(text)
    assert repr(text) in str(e.value)


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("7", 7), ("007", 7), ("1000000", 10**6)])
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+1", "1.0", "1e3", "1_000", "1,000", "0x1", "one", "1K", " 1", "1 ", "1\n"),
        *FOREIGN_DIGITS,
    ],
    ids=ascii,
)
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a whole number") as e:
        parse_count(text)
    assert repr(text) in str(e.value)


# Values.


@pytest.mark.parametrize(("processors", "threads"), [(1, 5), (2, 6), (28, 32), (64, 32)])
def test_the_number_of_threads_follows_the_processors(processors: int, threads: int) -> None:
    assert threads_for(processors) == threads


def test_the_number_of_threads_is_that_for_this_machine() -> None:
    assert Config().threads == threads_for(os.cpu_count() or 1)


def test_the_defaults_are_in_order() -> None:
    defaults = Config()
    assert defaults.bind == ("127.0.0.1:8000",)
    assert defaults == Config()


def test_a_config_is_frozen_and_takes_keywords_only() -> None:
    value = Config(threads=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.threads = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config(("127.0.0.1:1",))  # type: ignore[misc]
    with pytest.raises(TypeError, match="no_such_option"):
        Config(no_such_option=1)  # type: ignore[call-arg]
    assert dataclasses.replace(value, threads=4).threads == 4
    assert hash(value) == hash(Config(threads=3))


def beside(name: str) -> dict[str, Any]:
    """Return the options without which another one is refused."""
    return {"workers": 1} if name in WorkerOptions.__dataclass_fields__ else {}


@in_one_test("name", NUMBERS)
def test_a_number_may_be_its_minimum_and_not_less(name: str) -> None:
    minimum = OPTIONS[name].minimum
    assert minimum is not None
    lowest: float = minimum if name in DURATIONS else int(minimum)
    assert getattr(Config(**{**beside(name), name: lowest}), name) == lowest
    below: float = lowest / 2 - 0.0001 if name in DURATIONS else lowest - 1
    for value in (below, -lowest - 1):
        with pytest.raises(ConfigError, match=rf"^{name} must be at least {minimum:g}, not"):
            Config(**{name: value})


@in_one_test("name", NUMBERS)
@in_one_test("value", ["5", True, False, b"5", (5,), 1j], ids=ascii)
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a number, not") as e:
        Config(**{name: value})
    assert repr(value) in str(e.value)


@in_one_test("name", sorted({*NUMBERS} - {*DURATIONS}))
@in_one_test("value", [5.0, 1.5, math.nan, math.inf])
def test_a_count_or_size_is_a_whole_number(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a whole number, not"):
        Config(**{name: value})


@in_one_test("name", DURATIONS)
def test_a_duration_may_be_whole_or_not_and_is_never_nan(name: str) -> None:
    assert getattr(Config(**{**beside(name), name: 5}), name) == 5
    assert getattr(Config(**{**beside(name), name: 0.5}), name) == 0.5
    with pytest.raises(ConfigError, match=f"^{name} must be at least"):
        Config(**{name: math.nan})


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_named(name: str) -> None:
    choices = OPTIONS[name].choices
    assert choices is not None
    for choice in choices:
        assert getattr(Config(**{name: choice}, **_needs(name, choice)), name) == choice
    for wrong in ("", f"{choices[0].upper()}X", f"{choices[0]} ", None, 1):
        with pytest.raises(ConfigError) as e:
            Config(**{name: wrong})
        assert str(e.value) == f"{name} must be one of {', '.join(choices)}, not {wrong!r}"


def _needs(name: str, choice: str) -> dict[str, Any]:
    """Return what else has to be given for a choice that is not the default one."""
    needs = {"tls_min": {"certfile": ("c.pem",)}}
    needs["client_certs"] = {"certfile": ("c.pem",), "ca_certs": "ca.pem"}
    return needs.get(name, {}) if choice != FIELDS[name].default else {}


def test_bind_as_one_string_is_refused_with_the_fix() -> None:
    # It would be read as addresses of one character each.
    with pytest.raises(ConfigError, match=re.escape("write bind=('127.0.0.1:80',)")):
        Config(bind="127.0.0.1:80")  # type: ignore[arg-type]


def test_an_empty_bind_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Config(bind=())
    with pytest.raises(ConfigError, match=r"such as '127\.0\.0\.1:8000', and 8000 is no str$"):
        Config(bind=("127.0.0.1:80", 8000))  # type: ignore[arg-type]
    for value in (None, 8000, b"fd:3", {"127.0.0.1:8000"}, iter(["127.0.0.1:8000"])):
        with pytest.raises(ConfigError) as caught:
            Config(bind=value)  # type: ignore[arg-type]
        assert str(caught.value) == (
            f"bind is a tuple of addresses such as '127.0.0.1:8000', not {value!r}"
        )


@pytest.mark.parametrize("value", ["no", "yes", "", 0, 1, None])
def test_a_switch_is_true_or_false_and_nothing_that_counts_as_such(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(access_log=value)
    assert str(caught.value) == f"access_log must be True or False, not {value!r}"


def test_a_directory_is_a_path() -> None:
    assert Config(chdir=Path("/")).chdir == Path("/")  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(ConfigError, match=r"^chdir must be a path, not 5$"):
        Config(chdir=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    ["", "/", "/healthz", "/a/b%20c;d=e", "/~a!$&'()*+,=:@", "/.a/..b/...", "/a.", "/%2f"],
)
def test_a_health_path_is_empty_or_a_path(path: str) -> None:
    assert Config(health_path=path).health_path == path


@pytest.mark.parametrize("path", ["healthz", " /healthz", "http://h/", "*", None, 1, b"/healthz"])
def test_what_does_not_begin_as_a_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(health_path=path)
    assert str(caught.value) == (
        f"health_path must be empty or begin with '/', such as '/healthz', not {path!r}"
    )


@pytest.mark.parametrize(
    "path", ["/a?", "/a?b", "/#", "/a b", "/a\n", "/é", "/\x7f", "/\0"], ids=ascii
)
def test_what_no_client_can_send_as_a_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(health_path=path)
    assert str(caught.value).startswith("health_path must be a path as clients send it: ASCII ")
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", ["/%", "/a%2", "/%zz", "/a/.", "/..", "/a/../b", "/%2E./a"])
def test_what_clients_send_otherwise_is_no_health_path(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(health_path=path)
    assert str(caught.value).startswith("health_path must be a path as clients send it")
    assert repr(path) in str(caught.value)


def test_workers_are_none_or_a_number_or_auto() -> None:
    assert Config().workers is None
    assert Config(workers=1).workers == 1
    assert Config(workers="auto").workers == "auto"
    wrong: list[Any] = [0, -1, True, 1.5, "2", "all"]
    for value in wrong:
        with pytest.raises(ConfigError, match=r"^workers must be at least 1, or 'auto', not "):
            Config(workers=value)


# What an option says about itself: the command line and the documentation have nothing else.


TEXTS = help_texts()


@in_one_test("name", FIELDS)
def test_every_option_explains_itself(name: str) -> None:
    option = OPTIONS[name]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    text = TEXTS[name]
    assert len(text) >= 12
    assert text[0].islower() or not text[0].isalpha()
    assert not text.endswith(".")
    assert "%" not in text, "argparse would take it for a format"
    assert option.group
    assert option.metavar == option.metavar.upper() != ""
    with pytest.raises(dataclasses.FrozenInstanceError):
        option.group = "changed"  # type: ignore[misc]


def test_help_is_empty_where_there_is_no_source() -> None:
    # As in a program that was frozen without its sources.
    made = dataclasses.make_dataclass(
        "Made", [("threads", int)], namespace={"__module__": __name__}
    )
    assert help_texts(made) == {}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_the_type_of_their_field(name: str) -> None:
    # An editor proposes them, and a type checker refuses others.
    assert get_args(FIELDS[name].type) == OPTIONS[name].choices


@in_one_test("name", NUMBERS)
def test_the_metavar_tells_the_unit_that_is_parsed(name: str) -> None:
    metavars = {parse_duration: "SECONDS", parse_size: "BYTES", parse_count: "N"}
    assert OPTIONS[name].metavar == metavars[OPTIONS[name].parse]


@in_one_test("name", FIELDS)
def test_names_tell_the_unit(name: str) -> None:
    # One vocabulary: timeouts, targets and delays are seconds; what may be buffered, and rates, are
    # bytes; counts of things that are refused beyond are max_.
    timed = name.startswith("timeout_")
    timed = timed or name.endswith(("_timeout", "_target", "_delay", "_age"))
    assert timed is (name in DURATIONS)
    if timed:
        return
    if name.endswith(("_buffered", "_rate", "_rss")):
        assert OPTIONS[name].parse is parse_size
    elif name.startswith("max_"):
        assert OPTIONS[name].parse is parse_count


def test_groups_are_contiguous() -> None:
    # The help prints a group where its first option stands.
    order = [option.group for option in OPTIONS.values()]
    assert sorted(set(order), key=order.index) == [
        group for index, group in enumerate(order) if index == 0 or order[index - 1] != group
    ]


@pytest.mark.parametrize(
    ("subject", "groups"),
    [
        (ListenerOptions, {"where to listen"}),
        (TlsOptions, {"TLS"}),
        (ProcessOptions, {"the process", "worker processes", "hooks"}),
    ],
)
def test_a_group_is_of_one_subject(subject: type[Subject], groups: set[str]) -> None:
    names = {field.name for field in dataclasses.fields(subject)}
    assert {name for name, option in OPTIONS.items() if option.group in groups} == names


def test_every_option_is_of_one_subject() -> None:
    subjects = (ListenerOptions, TlsOptions, ProxyOptions, ServerOptions, ProcessOptions)
    assert [field.name for subject in subjects for field in dataclasses.fields(subject)] == [
        *FIELDS
    ]


def test_short_names_are_told_apart() -> None:
    shorts = [option.short for option in OPTIONS.values() if option.short is not None]
    assert len(set(shorts)) == len(shorts)
    assert all(re.fullmatch("-[a-z]", short) for short in shorts)


def test_one_thread_has_no_spare_ones_unless_they_are_asked_for() -> None:
    assert Config(threads=2).most_spare_threads == 64
    assert Config(threads=1).most_spare_threads == 0
    assert Config(threads=1, spare_threads=3).most_spare_threads == 3
    assert Config(threads=2, spare_threads=0).most_spare_threads == 0


@in_one_test("name", sorted(set(NUMBERS) - {"spare_threads"}))
def test_a_number_is_not_missing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a number, not None"):
        Config(**{name: None})


# Where values come from.


def test_a_jitter_needs_a_number_that_it_is_added_to() -> None:
    with pytest.raises(ConfigError, match=r"^max_requests_jitter is added to max_requests; give"):
        Config(workers=1, max_requests_jitter=5)
    assert Config(workers=1, max_requests=9, max_requests_jitter=5).max_requests == 9


def test_a_value_is_a_default_until_it_is_given() -> None:
    value = Config(threads=4)
    assert value.origin("threads") is Origin.CODE
    assert value.origin("queue_size") is Origin.DEFAULT
    assert Config().origin("threads") is Origin.DEFAULT
    with pytest.raises(AttributeError, match="Config has no option 'thread'"):
        value.origin("thread")


@in_one_test("name", FIELDS)
def test_a_default_that_is_given_comes_from_code(name: str) -> None:
    default = getattr(Config(), name)
    value = Config(**{name: default})
    assert value == Config()
    assert value.origin(name) is Origin.CODE


def test_the_origin_makes_no_difference_between_two_configs() -> None:
    one, other = Config(threads=4), Config().with_values({Origin.COMMAND_LINE: {"threads": 4}})
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)


def test_values_of_several_origins_are_put_together_and_the_last_one_counts() -> None:
    value = Config(threads=2, backlog=7).with_values(
        {
            Origin.ENVIRONMENT: {"threads": 3, "queue_size": 5},
            Origin.COMMAND_LINE: {"threads": 4},
        }
    )
    assert value == Config(threads=4, queue_size=5, backlog=7)
    assert value.origin("threads") is Origin.COMMAND_LINE
    assert value.origin("queue_size") is Origin.ENVIRONMENT
    assert value.origin("backlog") is Origin.CODE
    assert value.origin("http") is Origin.DEFAULT


def test_only_what_is_put_together_has_to_be_right() -> None:
    spool = {"body_spool": 5000}
    with pytest.raises(ConfigError):
        Config(**spool)
    prefetch = {"body_prefetch": 4000}
    value = Config().with_values({Origin.ENVIRONMENT: spool, Origin.COMMAND_LINE: prefetch})
    assert (value.body_spool, value.body_prefetch) == (5000, 4000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threads": 0}, "--threads must be at least 1, not 0"),
        ({"timeout_header": -1}, "--timeout-header must be at least 0.001, not -1"),
        ({"log_level": "loud"}, "--log-level must be one of debug, info, "),
        ({"body_spool": 1}, "--body-spool must be 0 or at least --body-prefetch (1048576), not 1"),
        ({"workers": 0}, "--workers must be at least 1, or 'auto', not 0"),
        ({"bind": ()}, "--bind is a tuple of addresses"),
    ],
)
def test_an_error_spells_the_option_as_it_was_written(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_values({Origin.COMMAND_LINE: values})
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    spelled = re.sub(r"--[a-z-]+", lambda m: m[0].removeprefix("--").replace("-", "_"), message)
    assert str(caught.value).startswith(spelled)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_knows_where_its_values_come_from(duplicate: Callable[[Config], Config]) -> None:
    value = Config(threads=4).with_values({Origin.COMMAND_LINE: {"backlog": 9}})
    copied = duplicate(value)
    assert copied == value
    assert [copied.origin(name) for name in FIELDS] == [value.origin(name) for name in FIELDS]


def test_replacing_values_in_code_leaves_the_others_as_they_were() -> None:
    replaced = dataclasses.replace(Config(threads=4), queue_size=5)
    assert replaced == Config(threads=4, queue_size=5)
    assert replaced.origin("queue_size") is Origin.CODE
    assert replaced.origin("threads") is Origin.CODE
    # dataclasses.replace passes on every value, and these are nobody's.
    assert replaced.origin("loop") is Origin.DEFAULT


def test_a_subject_can_be_used_alone() -> None:
    server = ServerOptions(threads=4)
    assert server.origin("threads") is Origin.CODE
    with pytest.raises(ConfigError, match=r"^queue_size must be at least 0"):
        ServerOptions(queue_size=-1)
    with pytest.raises(TypeError, match="loop"):
        ServerOptions(loop="auto")  # type: ignore[call-arg]


# Listeners.


@pytest.mark.parametrize(
    ("text", "address", "protocol"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000", "http"),
        ("http:127.0.0.1:8000", "127.0.0.1:8000", "http"),
        ("http:[::1]:8000", "[::1]:8000", "http"),
        ("[::1]:8000", "[::1]:8000", "http"),
        (":8000", ":8000", "http"),
        ("unix:/run/s", "unix:/run/s", "http"),
        ("fd:3", "fd:3", "http"),
        ("fd://3", "fd://3", "http"),
        ("uwsgi:127.0.0.1:3031", "127.0.0.1:3031", "uwsgi"),
        ("uwsgi:[::1]:3031", "[::1]:3031", "uwsgi"),
        ("uwsgi::3031", ":3031", "uwsgi"),
        ("uwsgi:unix:/run/s", "unix:/run/s", "uwsgi"),
        ("uwsgi:unix:@s", "unix:@s", "uwsgi"),
        ("uwsgi:fd:3", "fd:3", "uwsgi"),
        # What is no address is left for whoever binds it.
        ("http://localhost:8000", "http://localhost:8000", "http"),
        ("uwsgi://localhost:3031", "uwsgi://localhost:3031", "http"),
        ("uwsgi:", "uwsgi:", "http"),
        ("uwsgi", "uwsgi", "http"),
        ("UWSGI:127.0.0.1:3031", "UWSGI:127.0.0.1:3031", "http"),
        ("", "", "http"),
    ],
)
def test_an_address_may_say_its_protocol(
    text: str, address: str, protocol: ListenerProtocol
) -> None:
    (listener,) = Config(bind=(text,), backlog=7).listeners
    assert listener == ListenerConfig(address, protocol, backlog=7)
    assert str(listener) == text.removeprefix("http:" if address != text else "")


def test_there_is_a_listener_for_each_address() -> None:
    listeners = Config(bind=(":1", "uwsgi::2")).listeners
    assert [str(listener) for listener in listeners] == [":1", "uwsgi::2"]
    assert [listener.backlog for listener in listeners] == [2048, 2048]
