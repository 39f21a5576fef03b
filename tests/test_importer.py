"""From "module:callable" to the application: what is found, and what is said where nothing is."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from aiowsgi.errors import ConfigError, LoadError
from aiowsgi.process.importer import load_application

Write = Callable[[str, str], None]

APPLICATION = """
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"hello"]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return ``write(path, source)``: makes a file of a project in the current directory."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))

    yield make
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def _refusal(path: str) -> str:
    """Return why ``path`` names no application."""
    with pytest.raises(ConfigError) as caught:
        load_application(path)
    assert not isinstance(caught.value, LoadError)
    return str(caught.value)


# What is found.


def test_function_in_a_module(write: Write) -> None:
    write("shop.py", APPLICATION)
    assert load_application("shop:application") is sys.modules["shop"].application


def test_module_in_a_package(write: Write) -> None:
    write("pkg/__init__.py", "")
    write("pkg/web.py", APPLICATION)
    assert load_application("pkg.web:application") is sys.modules["pkg.web"].application


def test_dotted_attribute(write: Write) -> None:
    write("shop.py", APPLICATION + "\n    class site:\n        wsgi = staticmethod(application)\n")
    assert load_application("shop:site.wsgi") is sys.modules["shop"].application


def test_factory_is_called(write: Write) -> None:
    write("shop.py", APPLICATION + "\n    def create_app():\n        return application\n")
    assert load_application("shop:create_app()") is sys.modules["shop"].application


def test_dotted_factory_is_called(write: Write) -> None:
    write(
        "shop.py",
        APPLICATION + "\n    class Site:\n        def make(self):\n            return application\n"
        "\n    site = Site()\n",
    )
    assert load_application("shop:site.make()") is sys.modules["shop"].application


def test_instance_with_call(write: Write) -> None:
    write(
        "shop.py",
        """
        class App:
            def __call__(self, environ, start_response):
                return []

        app = App()
        """,
    )
    assert load_application("shop:app") is sys.modules["shop"].app


# What is not an application's path.


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("shop", "such as shop:application"),
        ("shop.py", "such as shop:application"),
        ("shop:", "such as shop:application"),
        ("shop:create_app(1)", "such as shop:application"),
        ("shop:a:b", "such as shop:application"),
        ("src/shop.py", "such as src.shop:application"),
        (":application", "such as app:application"),
        ("", "such as app:application"),
    ],
)
def test_path_without_an_attribute_shows_the_form(write: Write, path: str, remedy: str) -> None:
    assert _refusal(path) == (
        f"{path!r} does not name an application; write MODULE:CALLABLE, {remedy}"
    )


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("shop.py:app", "shop:app"),
        ("./shop.py:app", "shop:app"),
        ("src/shop.py:app", "src.shop:app"),
        ("src/shop:app", "src.shop:app"),
    ],
)
def test_file_instead_of_a_module_shows_the_modules_name(
    write: Write, path: str, remedy: str
) -> None:
    file = path.split(":")[0]
    assert _refusal(path) == f"{file!r} is not the name of a module; write {remedy}"


# Modules that are not there.


def test_missing_module_names_one_that_is_alike(write: Write) -> None:
    write("shop.py", APPLICATION)
    assert _refusal("shp:application") == "there is no module 'shp'; did you mean 'shop'?"


def test_missing_module_names_the_customary_one(write: Write) -> None:
    write("app.py", APPLICATION)
    assert _refusal("qqqqqq:application") == "there is no module 'qqqqqq'; did you mean 'app'?"


def test_missing_module_with_nothing_alike_says_where_was_looked(write: Write) -> None:
    assert _refusal("qqqqqq:app") == (
        "there is no module 'qqqqqq' in the current directory or installed"
    )


def test_missing_package_is_named_without_its_modules(write: Write) -> None:
    assert _refusal("qqqqqq.web:app") == (
        "there is no module 'qqqqqq' in the current directory or installed"
    )


def test_missing_module_of_a_package_names_its_neighbour(write: Write) -> None:
    write("pkg/__init__.py", "")
    write("pkg/web.py", APPLICATION)
    assert _refusal("pkg.wbe:application") == (
        "there is no module 'pkg.wbe'; did you mean 'pkg.web'?"
    )


# Attributes that are not there.


def test_missing_attribute_names_one_that_is_alike(write: Write) -> None:
    write("shop.py", APPLICATION)
    assert _refusal("shop:aplication") == (
        "'shop' has no attribute 'aplication'; did you mean 'shop:application'?"
    )


def test_missing_attribute_names_the_customary_one(write: Write) -> None:
    write("shop.py", "def app(environ, start_response):\n    return []\n")
    assert _refusal("shop:zzzzzz") == "'shop' has no attribute 'zzzzzz'; did you mean 'shop:app'?"


def test_missing_attribute_with_nothing_alike_stands_alone(write: Write) -> None:
    write("shop.py", "")
    assert _refusal("shop:zzzzzz") == "'shop' has no attribute 'zzzzzz'"


def test_missing_attribute_in_a_dotted_path_names_where_it_is_missing(write: Write) -> None:
    write("shop.py", APPLICATION + "\n    class site:\n        pass\n")
    assert _refusal("shop:site.wsgi.app") == "'shop:site' has no attribute 'wsgi'"


def test_private_names_are_not_proposed(write: Write) -> None:
    write("shop.py", "def _application(environ, start_response):\n    return []\n")
    assert "did you mean" not in _refusal("shop:application")


# What is there and is not an application.


def test_value_that_cannot_be_called_names_its_type(write: Write) -> None:
    write("shop.py", "app = 'hello'\n")
    assert _refusal("shop:app") == "'shop:app' is not an application: str cannot be called"


def test_module_instead_of_its_application_names_the_latter(write: Write) -> None:
    write("pkg/__init__.py", "from . import web\n")
    write("pkg/web.py", APPLICATION)
    assert _refusal("pkg:web") == (
        "'pkg:web' is not an application: module cannot be called; "
        "did you mean 'pkg:web.application'?"
    )


def test_factory_that_cannot_be_called(write: Write) -> None:
    write("shop.py", "create_app = 1\n")
    assert (
        _refusal("shop:create_app()") == "'shop:create_app' is not a factory: it cannot be called"
    )


def test_factory_that_returns_nothing(write: Write) -> None:
    write("shop.py", "def create_app():\n    pass\n")
    assert _refusal("shop:create_app()") == (
        "'shop:create_app()' is not an application: NoneType cannot be called"
    )


# Code that fails.


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("1 / 0", ZeroDivisionError),
        ("def f(:", SyntaxError),
        ("import qqqqqq", ModuleNotFoundError),
        ("import shop.qqqqqq", ModuleNotFoundError),
        ("from os import qqqqqq", ImportError),
        ("raise ModuleNotFoundError('by hand')", ModuleNotFoundError),
        ("raise SystemExit(3)", SystemExit),
    ],
)
def test_module_that_fails_is_a_load_error_with_its_cause(
    write: Write, source: str, cause: type[BaseException]
) -> None:
    write("shop.py", source)
    with pytest.raises(LoadError, match=r"^importing the module 'shop' failed$") as caught:
        load_application("shop:application")
    assert type(caught.value.__cause__) is cause


def test_package_that_fails_is_not_taken_for_a_missing_module(write: Write) -> None:
    write("pkg/__init__.py", "import qqqqqq\n")
    write("pkg/web.py", APPLICATION)
    with pytest.raises(LoadError, match=r"^importing the module 'pkg\.web' failed$"):
        load_application("pkg.web:application")


@pytest.mark.parametrize("failure", ["ValueError('boom')", "SystemExit(3)", "TypeError('boom')"])
def test_factory_that_fails_is_a_load_error_with_its_cause(write: Write, failure: str) -> None:
    write("shop.py", f"def create_app():\n    raise {failure}\n")
    with pytest.raises(LoadError, match=r"^the factory 'shop:create_app' failed$") as caught:
        load_application("shop:create_app()")
    assert type(caught.value.__cause__).__name__ == failure.split("(")[0]


def test_factory_with_arguments_fails_as_it_is_called(write: Write) -> None:
    write("shop.py", "def create_app(settings):\n    pass\n")
    with pytest.raises(LoadError) as caught:
        load_application("shop:create_app()")
    assert "settings" in str(caught.value.__cause__)


def test_attribute_that_fails_is_a_load_error_with_its_cause(write: Write) -> None:
    # A property, a module's __getattr__, or a proxy that has no context yet.
    write("shop.py", "def __getattr__(name):\n    raise RuntimeError('no context')\n")
    with pytest.raises(LoadError) as caught:
        load_application("shop:application")
    assert str(caught.value.__cause__) == "no context"


def test_keyboard_interrupt_while_importing_is_not_an_error_of_the_module(write: Write) -> None:
    write("shop.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_application("shop:application")


def test_module_that_is_no_package_is_told(write: Write) -> None:
    write("shop.py", "def app(environ, start_response): ...\n")
    assert _refusal("shop.web:app") == ("'shop' is a module, not a package: it has no module 'web'")
