"""The addresses of the project."""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("download/", views.download),
    path("stream/", views.stream),
    path("upload/", views.upload),
    path("crash/", views.crash),
]
