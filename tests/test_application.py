"""Whether an object can be a WSGI application: what is objected to, and what is left alone."""

import functools
import operator
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock, Mock

import django.core.asgi
import django.core.wsgi
import flask
import pytest
from werkzeug.local import LocalProxy
from werkzeug.wrappers import Request, Response

from aiowsgi.wsgi.application import describe, objection, objection_to_call


def wsgi(environ: Any, start_response: Any) -> Any: ...


def required(environ: Any, start_response: Any, *, settings: Any) -> Any: ...


def factory() -> Any: ...


def configured(config: Any = None) -> Any: ...


def view(request: Any) -> Any: ...


def old_asgi(scope: Any) -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


async def generator(environ: Any, start_response: Any) -> Any:
    yield b""


def any_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def no_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function()

    return call


class App:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...

    def bound(self, environ: Any, start_response: Any) -> Any: ...

    def make(self) -> Any: ...

    @staticmethod
    def static(environ: Any, start_response: Any) -> Any: ...

    @classmethod
    def of_class(cls, environ: Any, start_response: Any) -> Any: ...


class Result:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Any: ...


class AsgiApp:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class OldAsgiApp:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Metaclass(type):
    def __call__(cls, environ: Any, start_response: Any) -> Any: ...


class ThroughMetaclass(metaclass=Metaclass):
    def __init__(self) -> None: ...


class Fails:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no context yet")

    def __call__(self, environ: Any, start_response: Any) -> Any: ...


MAY_BE_ONE: dict[str, Any] = {
    "function": wsgi,
    "lambda": lambda *args: [],
    "decorated": any_arguments(wsgi),
    "decorated view": any_arguments(view),
    "decorated factory": any_arguments(factory),
    "view that a decorator makes an application of": Request.application(view),
    "instance": App(),
    "method": App().bound,
    "static method": App.static,
    "class method": App.of_class,
    "class": Result,
    "class of a metaclass": ThroughMetaclass,
    "instance that fails": Fails(),
    "proxy without a context": LocalProxy(lambda: 1 / 0),
    "partial": functools.partial(required, settings=1),
    "cached": functools.lru_cache(factory),
    "mock": Mock(),
    "magic mock": MagicMock(),
    "built-in": len,
    "built-in class": dict,
    "object of C": operator.methodcaller("get"),
    "flask": flask.Flask(__name__),
    "werkzeug": Response("x"),
}


# By their names, because pytest looks at the attributes of a parameter.
@pytest.mark.parametrize("name", MAY_BE_ONE)
def test_what_may_be_an_application_is_left_alone(name: str) -> None:
    assert objection(MAY_BE_ONE[name], "factory()") is None


@pytest.mark.parametrize(
    "app",
    [asgi, generator, functools.partial(asgi), AsgiApp(), AsgiApp, OldAsgiApp, OldAsgiApp({})],
)
def test_async_def_names_the_servers_for_it(app: Any) -> None:
    message = objection(app)
    assert message is not None
    assert message.startswith("it is an async def, as ASGI applications are")
    assert "uvicorn or hypercorn" in message
    assert "a2wsgi.ASGIMiddleware" in message


def test_asgi_application_that_is_no_async_def_is_known_by_its_arguments() -> None:
    message = objection(old_asgi)
    assert message is not None
    assert message.startswith("it is called with (scope), as ASGI applications are")


@pytest.mark.parametrize(
    "app",
    [factory, configured, view, required, App().make, App, functools.partial(factory)],
)
def test_what_takes_other_arguments_says_which(app: Any) -> None:
    message = objection(app)
    assert message is not None
    assert message.startswith("it takes ")
    assert message.endswith(", and a WSGI application takes environ and start_response")


@pytest.mark.parametrize(
    "app", [factory, configured, App().make, App, django.core.wsgi.get_wsgi_application]
)
def test_factory_shows_its_call(app: Any) -> None:
    message = objection(app, "shop:create_app()")
    assert message is not None
    assert message.endswith("; if it makes the application, write shop:create_app()")


@pytest.mark.parametrize("app", [view, required])
def test_what_needs_arguments_is_no_factory(app: Any) -> None:
    message = objection(app, "shop:create_app()")
    assert message is not None
    assert "if it makes" not in message


def test_django_has_both_kinds() -> None:
    assert objection(django.core.asgi.ASGIHandler) is not None


# What only shows as it is called.


def _error(app: Callable[..., Any]) -> BaseException:
    with pytest.raises(TypeError) as caught:
        app({}, lambda *args: None)
    return caught.value


def test_decorated_factory_shows_as_it_is_called() -> None:
    app = any_arguments(factory)
    message = objection_to_call(app, _error(app))
    assert message is not None
    assert message.startswith("it takes nothing")
    assert message.endswith(f"write {__name__}:factory()")
    assert objection_to_call(app, ValueError("factory() takes")) is None


def test_error_of_the_application_itself_is_not_blamed_on_its_arguments() -> None:
    def fail(*args: Any) -> None:
        raise TypeError("factory() takes 0 positional arguments but 2 were given, it says")

    # One whose decorator calls it rightly, and whose own call fails.
    app = any_arguments(fail)
    assert objection_to_call(app, _error(app)) is None
    assert objection_to_call(MAY_BE_ONE["instance"], TypeError("x")) is None


def test_decorators_in_a_circle_end() -> None:
    def one(*args: Any) -> None:
        raise TypeError("other")

    one.__wrapped__ = one  # type: ignore[attr-defined]
    assert objection_to_call(one, _error(one)) is None


def test_instance_that_fails_on_every_attribute_is_described() -> None:
    assert describe(Fails()) == f"{__name__}:Fails instance"
