"""Views that stream out and stream in, and what a test needs to talk to them."""

import hashlib
import os
import threading
from collections.abc import Iterator

from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.views.decorators.csrf import csrf_exempt

# The longest wait of a view for its test.
PATIENCE = 30.0

first_chunk_arrived = threading.Event()
stream_closed = threading.Event()


def download(request: HttpRequest) -> FileResponse:
    """Send the database's neighbour ``download.bin`` as an attachment."""
    folder = os.path.dirname(os.environ["DJANGO_SITE_DATABASE"])
    file = open(os.path.join(folder, "download.bin"), "rb")  # noqa: SIM115 - the response closes it
    return FileResponse(file, as_attachment=True, filename="bericht.bin")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send a line, wait until the test has received it, send another."""

    def lines() -> Iterator[str]:
        try:
            yield "first\n"
            arrived = first_chunk_arrived.wait(PATIENCE)
            yield "second\n" if arrived else "the client never saw the first\n"
        finally:
            stream_closed.set()

    return StreamingHttpResponse(lines(), content_type="text/plain")


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    """Report name, size and hash of the uploaded file."""
    uploaded = request.FILES["document"]
    digest = hashlib.sha256()
    for chunk in uploaded.chunks():
        digest.update(chunk)
    return JsonResponse(
        {
            "name": uploaded.name,
            "size": uploaded.size,
            "sha256": digest.hexdigest(),
            "note": request.POST["note"],
        }
    )


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a secret of the site")
