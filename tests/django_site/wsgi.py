"""The WSGI application of the project; static files are served through it too."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")

# The development server's way to serve static files: every file is a FileResponse, so it goes
# through wsgi.file_wrapper.
application = StaticFilesHandler(get_wsgi_application())
