"""Secrets in every place of every bad file: none may come out again, whatever goes wrong."""

import copy
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from millpond.drivers.kinds import Kinds
from millpond.errors import ConfigError
from millpond.registry.load import load_connections
from millpond.registry.model import SHORTHANDS, connection_config, kind_model
from millpond.registry.options import driver_options
from millpond.settings import setting_fields
from tests.registry.conftest import bare_driver
from tests.registry.known import KINDS

Write = Callable[..., str]
Install = Callable[..., None]

SECRET = "Xq7vPlantedGrain"
GOOD: Mapping[str, dict[str, Any]] = {
    "postgresql": {"type": "postgresql", "host": "db", "user": "miller", "password": "grain"},
    "mysql": {"type": "mysql", "host": "db", "user": "miller", "password": "grain"},
    "redis": {"type": "redis", "host": "db", "user": "miller", "password": "grain"},
    "rabbitmq": {"type": "rabbitmq", "host": "db", "user": "miller", "password": "grain"},
    "grpc": {"type": "grpc", "host": "db"},
    "sqlite": {"type": "sqlite", "database": "mill.db"},
}
# What somebody may write where something else belongs; each holds the secret.
SHAPES: Mapping[str, Any] = {
    "text": SECRET,
    "list": [SECRET],
    "object": {"key": SECRET},
    "url": f"postgresql://miller:{SECRET}@db:none/mill?password={SECRET}",
    "scheme": f"{SECRET}://x",
    "reference": f"${{{SECRET}",
    "unknown reference": f"${{{SECRET}!}}",
    "other reference": f"{{$X{SECRET[1:]} }}",
    "prefix": f"${{vault:{SECRET}}}",
    "nested": f"${{PLANTED_A:-${{{SECRET}}}}}",
    "relative file": f"${{file:{SECRET}}}",
    "from the environment": "${PLANTED}",
    "inside": "a${PLANTED}b",
}


def test_every_kind_is_tried_here() -> None:
    """A new one has secrets, too."""
    assert set(GOOD) == set(KINDS)


def shown(error: BaseException | None) -> Iterator[str]:
    """Everything that a person, a log or a page can get out of an error, and of all it hangs on."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), *map(repr, one.args), *getattr(one, "__notes__", ()))
        yield from (repr(value) for value in vars(one).values())
        yield "".join(traceback.format_exception(one))
        todo += [one.__cause__, one.__context__]


def keys_of(kind: str) -> list[str]:
    driver = Kinds().get(kind)
    return ["type", "url", "pool", *SHORTHANDS, *driver_options(driver), "unknown_key"]


def leaks(path: str) -> list[str]:
    """Where the secret comes out when this file is loaded, by error or by what is loaded."""
    try:
        found = load_connections(path, environ={"PLANTED": SECRET})
    except ConfigError as error:
        return [text for text in shown(error) if SECRET in text]
    return [text for text in (repr(found), str(found)) if SECRET in text]


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in GOOD for key in keys_of(kind)])
def test_no_value_of_a_connection_comes_out(
    write: Write, caplog: pytest.LogCaptureFixture, kind: str, key: str
) -> None:
    """In every key of every kind, as text, list, object, URL and every form of reference."""
    caplog.set_level(logging.DEBUG)

    found = [leaks(write({"orders": {**GOOD[kind], key: value}})) for value in SHAPES.values()]

    assert not any(found), found
    assert SECRET not in caplog.text


@pytest.mark.parametrize("key", [*(each.name for each in setting_fields()), "unknown_key"])
def test_no_value_of_a_pool_comes_out(write: Write, key: str) -> None:
    """A secret under `pool` is in the wrong place, and still a secret."""
    good = GOOD["postgresql"]

    found = [leaks(write({"orders": {**good, "pool": {key: value}}})) for value in SHAPES.values()]

    assert not any(found), found


@pytest.mark.parametrize("name", ["connections.json", "connections.toml", "connections.yaml"])
@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f'{{"orders": {{"password": "{SECRET}"',
        f'{{"orders": {{"password": "{SECRET}\\q"}}}}',
        f'{{"orders": "{SECRET}" "{SECRET}"}}',
        f'["{SECRET}", 1]',
        f'"{SECRET}"',
        f'[orders]\npassword = "{SECRET}"\npassword = "{SECRET}"\n',
        f'[orders]\npassword = "{SECRET}\n',
        f'[orders]\npassword = {SECRET}\n',
        f'[orders.password]\n"{SECRET}" = 1\n[orders]\npassword = 1',
        f"orders: {{password: {SECRET}, password: {SECRET}}}",
        f"orders: {{password: {SECRET}",
        f"orders: *{SECRET}",
        f"orders: !{SECRET} x",
        f"orders: a: {SECRET}",
        f"%{SECRET}\norders: {{}}",
        f"orders: {{? [{SECRET}] : 1}}",
        f'orders: "{SECRET}\\q"',
    ],
)  # fmt: skip
def test_no_part_of_a_broken_file_comes_out(write: Write, name: str, text: str) -> None:
    """Parsers quote what they stumble over, and their exceptions carry all of it."""
    with pytest.raises(ConfigError) as caught:
        load_connections(write(text, name), environ={})

    assert [text for text in shown(caught.value) if SECRET in text] == []


def test_no_part_of_an_undecodable_file_comes_out(write: Write) -> None:
    """Python's error about bad bytes carries all bytes."""
    with pytest.raises(ConfigError) as caught:
        load_connections(write(f'{{"orders": "{SECRET}'.encode() + b'\xff"}'), environ={})

    assert [text for text in shown(caught.value) if SECRET in text] == []


@pytest.mark.parametrize("content", [SECRET.encode(), SECRET.encode() + b"\xff", SECRET.encode() * 100_000])
def test_no_part_of_a_secret_file_comes_out(write: Write, content: bytes) -> None:
    """Whether it was read and is no number, is no text, or is too large."""
    write(content, "secret")
    path = write({"orders": {**GOOD["postgresql"], "port": f"${{file:{Path('secret').absolute()}}}"}})

    with pytest.raises(ConfigError) as caught:
        load_connections(path, environ={})

    assert [text for text in shown(caught.value) if SECRET in text] == []


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError(f'token: {token} is too short')",
        "raise ValueError(token)",
        "raise RuntimeError(repr(token))",
        "raise TypeError('user', user, token)",
        "raise ValueError(f'cannot use {user} on {host}')",
        "raise ValueError from RuntimeError(token)",
    ],
)
def test_a_driver_that_repeats_a_secret_is_not_quoted(install: Install, body: str) -> None:
    """Other people's drivers say what they like; the configuration's words are taken out of it."""
    install(
        "granary_pool",
        "granary",
        bare_driver("granary", "self, *, host: str, user: str, token: str | None = None", body),
    )
    values = {"type": "granary", "host": "db", "user": SECRET, "token": SECRET[::-1]}

    with pytest.raises(ConfigError) as caught:
        connection_config("orders", values)

    assert [text for text in shown(caught.value) if SECRET in text or SECRET[::-1] in text] == []


@pytest.mark.parametrize(
    "url_body",
    [
        "raise ValueError(f'not a URL: {url}')",
        "raise ValueError(url.split(':')[2].split('@')[0])",
        "return {'token': int(url.rpartition('=')[2])}",
        "from urllib.parse import unquote; raise ValueError(unquote(url))",
    ],
)
def test_a_driver_that_repeats_its_url_is_not_quoted(install: Install, url_body: str) -> None:
    """A URL is secret as a whole."""
    install("granary_pool", "granary", bare_driver("granary", url_body=url_body))
    quoted = SECRET.replace("P", "%50")

    for word in (SECRET, quoted):
        with pytest.raises(ConfigError) as caught:
            connection_config("orders", {"url": f"granary://miller:{word}@db/x?token={word}"})

        assert [text for text in shown(caught.value) if SECRET in text or quoted in text] == []


def test_the_models_keep_inputs_out_of_their_own_errors() -> None:
    """The reason for the rest: pydantic's errors hold what they were given, unless told otherwise."""
    model = kind_model(Kinds().get("postgresql")).model
    bad = {**GOOD["postgresql"], "password": [SECRET], "pasword": SECRET, "pool": {"max_size": SECRET}}

    with pytest.raises(ValidationError) as caught:
        model.model_validate(copy.deepcopy(bad))

    safe = caught.value.errors(include_input=False, include_context=False, include_url=False)
    assert SECRET not in str(caught.value) + repr(caught.value) + json.dumps(safe)
    assert SECRET in json.dumps(caught.value.errors())


@pytest.mark.parametrize("kind", GOOD)
def test_secret_options_are_secrets_in_the_model(kind: str) -> None:
    """Printing a validated model shows none of them."""
    driver = Kinds().get(kind)
    options = {f"{name}": SECRET for name in driver.secret_options}

    model = kind_model(driver).model.model_validate({**GOOD[kind], **options, "url": SECRET})

    assert SECRET not in repr(model) + str(model) + model.model_dump_json()
