"""Which certificate is for which server name."""

from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.net.tls.certificates.names import NameTable

LABELS = st.text("abcxyz019-", min_size=1, max_size=6)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = HOSTS | HOSTS.map("*.{}".format) | st.sampled_from(["*", "*.", "a*.b", "*.*.c", ""])


def table(*names: str) -> NameTable[str]:
    found: NameTable[str] = NameTable()
    for name in names:
        found.add([name], name)
    return found


def is_for(pattern: str, host: str) -> bool:
    """Compare label by label, as RFC 9525 §6.3 says it: another way than that of the table."""
    expected, labels = pattern.lower().split("."), host.lower().split(".")
    if len(expected) != len(labels) or "*" in ".".join(expected[1:]):
        return False
    if expected[0] == "*":
        return len(labels) > 1 and labels[0] != "" and expected[1:] == labels[1:]
    return "*" not in pattern and expected == labels


@settings(max_examples=examples(500))
@given(st.lists(PATTERNS, max_size=6), HOSTS, st.data())
def test_a_name_finds_itself_before_a_wildcard_and_else_nothing(
    patterns: list[str], host: str, data: st.DataObject
) -> None:
    if patterns:  # Else hardly any would be found.
        pattern = data.draw(st.sampled_from(patterns))
        host = data.draw(st.sampled_from([host, pattern.replace("*", "x").rstrip(".") or host]))
    found = table(*patterns).find(host)
    fitting = [pattern for pattern in patterns if is_for(pattern, host)]
    exact = [pattern for pattern in fitting if "*" not in pattern]
    assert found == next(iter(exact or fitting), None)


@given(st.text(max_size=20))
def test_any_text_finds_something_or_nothing(text: str) -> None:
    assert table("a.b", "*.b").find(text) in (None, "a.b", "*.b")


def test_a_wildcard_stands_for_one_label() -> None:
    names = table("*.shop.example")
    assert names.find("a.shop.example") == "*.shop.example"
    assert names.find("xn--bcher-kva.shop.example") == "*.shop.example"
    assert names.find("shop.example") is None
    assert names.find(".shop.example") is None
    assert names.find("b.a.shop.example") is None


def test_case_and_a_dot_at_the_end_mean_nothing() -> None:
    assert table("Shop.Example").find("sHOP.eXAMPLE.") == "Shop.Example"


def test_of_two_certificates_for_a_name_the_first_one_is_found() -> None:
    names: NameTable[int] = NameTable()
    names.add(["a.example", "b.example"], 1)
    names.add(["b.example", "c.example"], 2)
    assert [names.find(f"{letter}.example") for letter in "abc"] == [1, 1, 2]


def test_parts_of_labels_are_no_wildcards() -> None:
    names = table("a*.example", "*", "*.*.example", "a.*.example", "*b.example")
    for host in ("ab.example", "a", "a.b.example", "a.example", "*", "a*.example", "b.*.example"):
        assert names.find(host) is None
