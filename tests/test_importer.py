"""From "module:callable" to the application: what is found, and what is said where nothing is."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from wsgiref.types import WSGIApplication

import pytest

from aiowsgi.errors import ConfigError, LoadError
from aiowsgi.process.importer import load_application as load

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
        values = vars(sys.modules[name])
        # A folder without __init__.py is a package, too, and has only a path.
        places = (values.get("__file__"), *values.get("__path__", ()))
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]


def load_application(path: str) -> WSGIApplication:
    return load(path)[0]


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


# What need not be typed.


@pytest.mark.parametrize("names", [["app"], ["application"], ["app", "application"]])
def test_module_alone_stands_for_its_application(write: Write, names: list[str]) -> None:
    write("pkg/__init__.py", "")
    write("pkg/web.py", "".join(f"def {name}(environ, start_response): ...\n" for name in names))
    app, path = load("pkg.web")
    assert app is getattr(sys.modules["pkg.web"], names[-1])
    assert path == f"pkg.web:{names[-1]}"


def test_module_without_one_names_what_makes_it(write: Write) -> None:
    write("shop.py", "def create_app(): ...\n")
    assert _refusal("shop") == (
        "'shop' has neither 'application' nor 'app'; did you mean 'shop:create_app()'?"
    )


def test_package_without_one_names_the_module_that_has_it(write: Write) -> None:
    write("mysite/__init__.py", "")
    write("mysite/wsgi.py", APPLICATION)
    assert _refusal("mysite") == (
        "'mysite' has neither 'application' nor 'app'; did you mean 'mysite.wsgi'?"
    )


def test_module_with_nothing_alike_shows_the_form(write: Write) -> None:
    write("shop.py", "x = 1\n")
    assert _refusal("shop") == "'shop' has neither 'application' nor 'app'; write shop:NAME"


def test_default_attribute_that_fails_is_a_load_error(write: Write) -> None:
    write("shop.py", "def __getattr__(name):\n    raise RuntimeError('no context')\n")
    with pytest.raises(LoadError, match="reading the attribute 'application' of 'shop' failed"):
        load_application("shop")


@pytest.mark.parametrize("path", ["{}/b.py:app", "{}/b.py", "{}/b:app", "{}/b"])
@pytest.mark.parametrize("relative", [True, False])
def test_path_to_a_file_works(write: Write, tmp_path: Path, path: str, relative: bool) -> None:
    # Beside its neighbours, as a script.
    write("a (1)/b.py", "import neighbour\napp = neighbour.app\n")
    write("a (1)/neighbour.py", "def app(environ, start_response): ...\n")
    source = path.format("./a (1)" if relative else tmp_path / "a (1)")
    app, name = load(source)
    assert app is sys.modules["neighbour"].app
    assert sys.modules["b"].__file__ == str(tmp_path / "a (1)" / "b.py")
    assert name == f"{source.removesuffix(':app')}:app"


@pytest.mark.parametrize("path", ["src/pkg/sub/web.py", "src/pkg/sub/web.py:app"])
def test_file_in_a_package_is_imported_as_its_module(write: Write, path: str) -> None:
    write("src/pkg/__init__.py", "")
    write("src/pkg/sub/__init__.py", "")
    write("src/pkg/sub/web.py", "from ..apps import app\n")
    write("src/pkg/apps.py", "def app(environ, start_response): ...\n")
    assert load_application(path) is sys.modules["pkg.apps"].app
    assert "pkg.sub.web" in sys.modules


@pytest.mark.parametrize("path", ["src/pkg", "src/pkg/", "src/pkg/__init__.py", "src/pkg:app"])
def test_folder_of_a_package_is_the_package(write: Write, path: str) -> None:
    write("src/pkg/__init__.py", "def app(environ, start_response): ...\n")
    assert load_application(path) is sys.modules["pkg"].app


def test_factory_in_a_file_is_called(write: Write) -> None:
    write("shop-1.py", APPLICATION + "\n    def create_app():\n        return application\n")
    assert load("./shop-1.py:create_app()")[1] == "./shop-1.py:create_app()"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shp.py:app", "there is no file 'shp.py'; did you mean 'shop.py'?"),
        ("src/wbe.py:app", "there is no file 'src/wbe.py'; did you mean 'src/web.py'?"),
        ("./zzz", "there is no file './zzz'"),
        ("zzz/app.py", "there is no folder 'zzz'"),
        ("./src", "'./src' is a folder; name the file that has the application"),
        ("./notes.txt", "the file './notes.txt' is no Python module: its name ends otherwise"),
        ("shop.v2.py", "the file 'shop.v2.py' cannot be imported: rename it, without the dot"),
    ],
)
def test_file_that_cannot_be_imported_is_told(write: Write, path: str, message: str) -> None:
    write("shop.py", APPLICATION)
    write("src/web.py", APPLICATION)
    write("notes.txt", "")
    write("shop.v2.py", APPLICATION)
    assert _refusal(path) == message


def test_file_with_the_name_of_another_module_is_told(write: Write) -> None:
    write("http.py", APPLICATION)
    import http

    assert _refusal("http.py:application") == (
        f"the file 'http.py' cannot be imported, because 'http' is also the name of "
        f"{http.__file__}; rename it"
    )


def test_module_with_the_name_of_one_of_python_is_told(write: Write) -> None:
    write("http/__init__.py", "")
    write("http/web.py", APPLICATION)
    assert _refusal("http.web:application") == (
        "the module 'http.web' cannot be imported from http/__init__.py: a module of the standard "
        "library has that name; rename the file"
    )


# What is not an application's path.


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("shop:", "such as shop:application"),
        ("shop:create_app(1)", "such as shop:application"),
        ("shop:a:b", "such as shop:application"),
        (":application", "such as app:application"),
        (".", "such as app:application"),
        ("..shop", "such as shop:application"),
        ("", "such as app:application"),
    ],
)
def test_path_of_another_form_shows_the_form(write: Write, path: str, remedy: str) -> None:
    assert _refusal(path) == (
        f"{path!r} does not name an application; write MODULE:CALLABLE, {remedy}"
    )


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


@pytest.mark.parametrize("path", ["pkg.web.application", "pkg.web.application:x"])
def test_dot_in_place_of_the_colon(write: Write, path: str) -> None:
    write("pkg/__init__.py", "")
    write("pkg/web.py", APPLICATION)
    assert _refusal(path) == (
        "there is no module 'pkg.web.application'; did you mean 'pkg.web:application'?"
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


def test_only_what_can_be_called_is_proposed(write: Write) -> None:
    write(
        "shop.py",
        """
        import threading

        nothin = 1

        class Broken(Exception): ...

        app = create_app = "hello"

        def smoothing(environ, start_response): ...
        """,
    )
    assert _refusal("shop:nothing") == (
        "'shop' has no attribute 'nothing'; did you mean 'shop:smoothing'?"
    )
    assert _refusal("shop:Brokn") == "'shop' has no attribute 'Brokn'"
    assert (
        _refusal("shop.threading")
        == "'shop' is a module, not a package: it has no module 'threading'"
    )


def test_module_is_proposed_where_its_attribute_is_named(write: Write) -> None:
    write("pkg/__init__.py", "from . import web\n")
    write("pkg/web.py", APPLICATION)
    assert (
        _refusal("pkg:wbe.application") == "'pkg' has no attribute 'wbe'; did you mean 'pkg:web'?"
    )


def test_factory_that_cannot_be_called_is_not_proposed(write: Write) -> None:
    write("shop.py", "create_app = None\n")
    assert _refusal("shop") == ("'shop' has neither 'application' nor 'app'; write shop:NAME")


def test_lazy_attribute_is_not_computed_to_be_proposed(write: Write) -> None:
    write(
        "shop.py",
        """
        def __getattr__(name):
            if name == "application":
                1 / 0
            raise AttributeError(name)

        def __dir__():
            return ["application"]
        """,
    )
    assert _refusal("shop:aplication") == (
        "'shop' has no attribute 'aplication'; did you mean 'shop:application'?"
    )


@pytest.mark.parametrize("holds", ["app", "create_app()"])
def test_missing_attribute_that_is_a_module_names_what_that_holds(write: Write, holds: str) -> None:
    write("pkg/__init__.py", "")
    write("pkg/app.py", f"1 / 0\ndef {holds.removesuffix('()')}(): ...\n")
    # The module is not run for a hint.
    assert _refusal("pkg:app") == f"'pkg' has no attribute 'app'; did you mean 'pkg.app:{holds}'?"


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


def test_module_in_a_module_is_not_its_application(write: Write) -> None:
    write("pkg/__init__.py", "from . import web\n")
    write("pkg/web.py", "from . import app\n")
    write("pkg/app.py", "")
    assert _refusal("pkg:web") == "'pkg:web' is not an application: module cannot be called"


@pytest.mark.parametrize("name", ["mysite.wsgi", "wsgi"])
def test_module_one_folder_further_down_is_found_for_the_hint(write: Write, name: str) -> None:
    # As where "django-admin startproject mysite" was typed.
    write("mysite/manage.py", "")
    write("mysite/mysite/__init__.py", "")
    write("mysite/mysite/wsgi.py", "application = print\n")
    write(".mysite/other.py", "")
    if name == "wsgi":
        write("mysite/wsgi.py", "")
    assert _refusal(name) == (
        f"there is no module {name!r} in the current directory; did you mean --chdir mysite?"
    )
    assert "chdir" not in _refusal("other")


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


def test_factory_named_without_its_call(write: Write) -> None:
    write("shop.py", "def create_app(settings=None): ...\n")
    assert _refusal("shop:create_app") == (
        "'shop:create_app' is not a WSGI application: it takes settings, and a WSGI application "
        "takes environ and start_response; if it makes the application, write shop:create_app()"
    )


@pytest.mark.parametrize("path", ["shop", "shop:app", "shop:create_app()"])
def test_asgi_application_names_the_servers_for_it(write: Write, path: str) -> None:
    write(
        "shop.py",
        """
        class App:
            async def __call__(self, scope, receive, send): ...

        app = App()
        create_app = App
        """,
    )
    message = _refusal(path)
    assert "it is an async def, as ASGI applications are, and WSGI is synchronous" in message
    assert "uvicorn or hypercorn, or wrap it in a2wsgi.ASGIMiddleware" in message


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


@pytest.mark.parametrize("code", [3, None, "'no settings'"])
def test_module_that_ends_the_process_is_told(write: Write, code: object) -> None:
    write("shop.py", f"raise SystemExit({code})")
    with pytest.raises(LoadError) as caught:
        load_application("shop:application")
    assert str(caught.value) == (
        f"importing the module 'shop' ended the process (SystemExit: {str(code).strip(chr(39))})"
    )
    assert type(caught.value.__cause__) is SystemExit


@pytest.mark.parametrize("call", [False, True])
def test_code_that_parses_the_command_line_is_told_whose_it_is(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["aiowsgi", "shop:application", "--port", "0"])
    parse = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    if call:
        parse = "def create_app():\n" + indent(parse, "    ")
    write("shop.py", parse)
    with pytest.raises(LoadError) as caught:
        load_application("shop:create_app()" if call else "shop:application")
    what = "the factory 'shop:create_app'" if call else "importing the module 'shop'"
    assert str(caught.value) == (
        f"{what} ended the process (SystemExit: 2); it parses sys.argv, which holds the arguments "
        "of aiowsgi: do that below if __name__ == '__main__'"
    )
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("failure", ["ValueError('boom')", "TypeError('boom')"])
def test_factory_that_fails_is_a_load_error_with_its_cause(write: Write, failure: str) -> None:
    write("shop.py", f"def create_app():\n    raise {failure}\n")
    with pytest.raises(LoadError, match=r"^the factory 'shop:create_app' failed$") as caught:
        load_application("shop:create_app()")
    assert type(caught.value.__cause__).__name__ == failure.split("(")[0]


def test_factory_with_arguments_is_told_that_it_gets_none(write: Write) -> None:
    write("shop.py", "def create_app(settings):\n    pass\n")
    assert _refusal("shop:create_app()") == (
        "'shop:create_app' is not a factory: it takes settings, and a factory is called without "
        "arguments"
    )


@pytest.mark.parametrize(
    "source",
    [
        "def app(environ, start_response): ...",
        "class App:\n    def __call__(self, environ, start_response): ...\napp = App()",
    ],
)
def test_application_with_a_call_is_told_to_go_without(write: Write, source: str) -> None:
    write("shop.py", f"{source}\n")
    assert _refusal("shop:app()") == (
        "'shop:app' is not a factory: it takes environ, start_response, and a factory is called "
        "without arguments; if it is the application itself, write shop:app"
    )


def test_factory_that_a_decorator_hides_fails_as_it_is_called(write: Write) -> None:
    write(
        "shop.py",
        """
        import functools

        def create_app(settings): ...

        inner = create_app

        @functools.wraps(inner)
        def create_app(*args):
            return inner(*args)
        """,
    )
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
