"""A Django application with one view behind the middleware of a new project.

Imported by server processes only. The settings are those of `startproject` for production (no
debugging, a host named), without a database and templates, which the view does not use.
"""

from importlib import import_module

from benchmarks import apps

# By name, because Django exists only in the benchmark's virtual environment.
import_module("django.conf").settings.configure(
    SECRET_KEY="only for the benchmark",
    DEBUG=False,
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    USE_TZ=True,
)
_http = import_module("django.http")


def _hello(request: object) -> object:
    return _http.HttpResponse(apps.HELLO_BODY, content_type="text/plain")


urlpatterns = [import_module("django.urls").path("", _hello)]
application = import_module("django.core.wsgi").get_wsgi_application()
