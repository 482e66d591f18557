"""What a driver class promises that can be made from a configuration: a kind."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Final

from millpond.driver import Configurable, Kind, Redacting
from millpond.drivers.kinds import GROUP, Kinds
from millpond.settings import PoolSettings
from millpond.testing.contract.base import Contract
from millpond.testing.contract.promises import Promise
from millpond.testing.contract.remote import RemoteContract

_DECLARED: Final = ("kind", "schemes", "extra", "default_sizes", "secret_options", "options_from_url")
_PASSWORD_IN_URL: Final = "hunter2"  # noqa: S105 - nobody's
_UNKNOWN: Final = "no_such_option"


class KindContract(Contract):
    """The class is registered under `millpond.drivers` and says what its configuration may hold."""

    @property
    def kind(self) -> type[Kind[Any]]:
        """The driver's class."""
        kind: type[Kind[Any]] = type(self.backend.driver())
        return kind

    def test_its_class_says_what_a_configuration_needs_to_know(self) -> None:
        """Name, URL schemes, extra, default sizes, secret options."""
        kind = self.kind
        lacks = [each for each in _DECLARED if not hasattr(kind, each)]
        if lacks:
            raise Promise.KIND.broken(f"{kind.__name__} lacks {', '.join(lacks)}")
        least, most = kind.default_sizes
        if not 0 <= least <= most or not most:
            raise Promise.KIND.broken(f"default_sizes are {kind.default_sizes}")
        if not (kind.kind and kind.extra and kind.schemes):
            raise Promise.KIND.broken(
                f"kind {kind.kind!r}, extra {kind.extra!r} or schemes {kind.schemes} is empty"
            )

    def test_it_is_found_by_name_and_by_url(self) -> None:
        """The entry point group has it, under its own name."""
        kind, kinds = self.kind, Kinds()
        if kind.kind not in kinds.names or kinds.get(kind.kind) is not kind:
            raise Promise.KIND.broken(
                f"{kind.kind!r} of the entry point group {GROUP!r} is not {kind.__name__}"
            )
        for scheme in kind.schemes:
            if kinds.of_scheme(scheme) is not kind:
                raise Promise.KIND.broken(f"URLs with {scheme}:// lead to {kinds.of_scheme(scheme).__name__}")

    def test_its_options_are_a_schema(self) -> None:
        """Every option is keyword-only and has an annotation that can be evaluated."""
        constructor = self.kind.__init__
        options = [each for each in inspect.signature(constructor).parameters.values() if each.name != "self"]
        hints = typing.get_type_hints(constructor)
        for each in options:
            if each.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise Promise.KIND.broken(f"option {each.name!r} is not keyword-only")
            if each.name not in hints:
                raise Promise.KIND.broken(f"option {each.name!r} has no annotation")

    def test_an_unknown_option_is_refused(self) -> None:
        """A typo does not pass as a default."""
        try:
            self.backend.driver(**{_UNKNOWN: 1})
        except TypeError as error:
            if _UNKNOWN in str(error):
                return
        raise Promise.KIND.broken(f"the option {_UNKNOWN!r} is not refused with its name")

    def test_its_secrets_are_named_and_tried(self) -> None:
        """What the configuration hides, the contract has to look for in errors."""
        kind = self.kind
        unknown = kind.secret_options - set(inspect.signature(kind.__init__).parameters)
        if unknown:
            raise Promise.KIND.broken(f"secret_options name {sorted(unknown)}, which are no options")
        if not kind.secret_options:
            return
        if not isinstance(self, RemoteContract) or not kind.secret_options & self.backend.wrong_secret.keys():
            raise Promise.SECRET.broken(
                f"nobody looks for {sorted(kind.secret_options)}: "
                "derive from RemoteContract as well, and name them in Backend.wrong_secret"
            )
        if not isinstance(self.backend.driver(), Redacting):
            raise Promise.SECRET.broken("there are secret options and no redact()")

    def test_a_url_of_another_kind_is_refused_without_its_password(self) -> None:
        """What is typed in the wrong place is not repeated in a log."""
        try:
            self.kind.options_from_url(f"nonsense://user:{_PASSWORD_IN_URL}@localhost/x")
        except ValueError as error:
            if _PASSWORD_IN_URL in str(error):
                raise Promise.SECRET.broken("the error of options_from_url() repeats the password") from None
            return
        raise Promise.KIND.broken("options_from_url() takes a URL of another scheme")

    def test_configuring_changes_nothing_on_the_original(self) -> None:
        """Two pools of one driver keep their own reset levels."""
        driver = self.backend.driver()
        if not isinstance(driver, Configurable):
            return
        before = dict(vars(driver))

        bound = driver.configured(PoolSettings(reset="none"))

        if not isinstance(bound, self.kind):
            raise Promise.CONFIGURED.broken(f"it returned {type(bound).__name__}")
        if id(bound) == id(driver) or vars(driver) != before:
            raise Promise.CONFIGURED.broken("the original was changed, or returned")
