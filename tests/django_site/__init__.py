"""A small Django project: the admin with its static files, and views that stream and upload."""
