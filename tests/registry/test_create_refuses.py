"""What is wrong with a URL or an option ends in one `ConfigError` that names it, and no password."""

import random
from typing import Any, Final

import pytest

from millpond._create import create_pool
from millpond.errors import ConfigError

SCHEMES: Final = ("postgresql", "postgres", "mysql", "mariadb", "redis", "rediss", "amqp", "amqps", "grpc")
WITH_USERS: Final = tuple(each for each in SCHEMES if each != "grpc")
SECRET: Final = "hunter2"


def refused(url: Any, **options: Any) -> str:
    """What is said, once it is sure that nothing hangs on it."""
    with pytest.raises(ConfigError) as caught:
        create_pool(url, **options)
    assert SECRET not in f"{caught.value} {caught.value.problems}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("h:0", "port: must be a whole number from 1 to 65535"),
        ("h:99999", "port: must be a whole number from 1 to 65535"),
        ("h:" + "9" * 5000, "port"),
        ("h:-1", "port is not a number"),
        ("h:٣", "port is not a number"),
        ("h:port", "port is not a number"),
        ("::1", "port is not a number"),
        ("[::1", "not an IPv6 address in brackets"),
        ("[::1]x", "not an IPv6 address in brackets"),
        ("[zzz]", "not an IPv6 address in brackets"),
        ("[]:1", "not an IPv6 address in brackets"),
        ("h1,h2", "several hosts"),
        ("h%zz", "holds a % that"),
        ("h%", "holds a % that"),
        ("h%ff", "%-sequence that is not UTF-8"),
        ("h%00", "host: must not hold NUL"),
        ("h#x", "holds a #"),
        ("h?colour=red", "key 'colour' is not an option"),
        ("h?colour", "not key=value"),
        ("h?colour=%zz", "holds a % that"),
        ("h?ssl=disable&ssl=disable", "names ssl twice"),
        ("h?ssl=perhaps", "ssl: must be one of"),
    ],
)
def test_a_url_that_says_nonsense_is_refused(scheme: str, rest: str, words: str) -> None:
    """By the same words, whatever the kind."""
    assert words in refused(f"{scheme}://{rest}")


@pytest.mark.parametrize("scheme", WITH_USERS)
@pytest.mark.parametrize(
    "rest",
    [f"a:{SECRET}@h:99999", f"a:{SECRET}%zz@h", f"a:{SECRET}@[::1", f"a:{SECRET}#x@h", f"a:{SECRET}?x@h",
     f"a:{SECRET}@h?colour=red", f"a:{SECRET}@h?user=b", f"{SECRET}:h"],
)  # fmt: skip
def test_what_is_refused_is_refused_without_its_password(scheme: str, rest: str) -> None:
    """Wherever the fault is."""
    assert refused(f"{scheme}://{rest}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://h/x.db", "three slashes"),
        ("sqlite:///x.db?create=perhaps", "value of 'create' is not of its kind"),
        ("sqlite:///x%zz.db", "holds a % that"),
        ("sqlite:///x%00.db", "database"),
        ("sqlite:///x.db?journal_mode=much", "journal_mode"),
        ("", "no known URL scheme"),
        ("//h", "no known URL scheme"),
        ("nonsense://h", "no known URL scheme"),
        (None, "must be a text, got NoneType"),
        (b"redis://h", "must be a text, got bytes"),
        (7, "must be a text, got int"),
    ],
)
def test_what_is_no_url_of_ours_is_refused(url: Any, words: str) -> None:
    """Also what an environment without the variable gives."""
    assert words in refused(url)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("port", [0, 65536, -1, "5432", 1.5, True])
def test_an_option_that_cannot_be_is_refused(scheme: str, port: Any) -> None:
    """Given as a keyword as well."""
    assert "port: must be a whole number from 1 to 65535" in refused(f"{scheme}://h", port=port)


def test_no_url_ends_in_another_error() -> None:
    """However right ones are mangled."""
    draw = random.Random(20261121)
    whole = [f"{scheme}://user:pass@host:1/1?ssl=disable&tcp_keepalive=3" for scheme in SCHEMES]
    whole += [
        "sqlite:////tmp/x.db?create=false",
        "unix:///run/redis.sock?db=1",
        "grpc://h:1?keepalive_time=3",
    ]
    odd = ":/?#[]@!$&'()*+,;=%\0\n \ud800é٣0999zZ-_.~"
    kinds: dict[str, int] = {"made": 0, "refused": 0}
    for _ in range(3000):
        letters = list(draw.choice(whole))
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(letters))
            match draw.randrange(3):
                case 0:
                    letters[at] = draw.choice(odd)
                case 1:
                    letters.insert(at, draw.choice(odd))
                case _:
                    del letters[at : at + draw.randrange(1, 4)]
                    letters.append(draw.choice(odd))
        try:
            create_pool("".join(letters))
            kinds["made"] += 1
        except ConfigError:
            kinds["refused"] += 1

    assert min(kinds.values()) > 100
