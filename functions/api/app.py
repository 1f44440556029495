"""API Gateway's HTTP API in front of FastAPI; `uvicorn functions.api.app:app` serves the same application."""

from typing import Any

from mangum import Mangum

from worker_space.adapters.telemetry import Watch
from worker_space.api.app import create_app
from worker_space.bootstrap import environment
from worker_space.snapshots import ready_for_snapshots

watch = Watch()
ready_for_snapshots("qdrant_client")
app = create_app(lambda: environment().parts.services)
# Sent as text inside the answer's JSON; everything else, above all the user's files, leaves as base64.
_TEXT = ["application/json", "application/problem+json", "text/event-stream"]


@watch
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request on this thread's event loop, where the clients live."""
    # Makes that loop the thread's own, and Mangum takes the thread's.
    here = environment()
    try:
        return Mangum(app, lifespan="off", text_mime_types=_TEXT)(event, context)
    finally:
        here.end_strays()
