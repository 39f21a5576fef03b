"""A Flask application with one view that answers JSON. Imported by server processes only."""

from importlib import import_module

# By name, because Flask exists only in the benchmark's virtual environment.
_flask = import_module("flask")
application = _flask.Flask(__name__)


def _hello() -> object:
    return _flask.jsonify(message="Hello, world!")


application.add_url_rule("/", view_func=_hello)
