"""`aft-ray view`: the questions of a run and their chains in a browser, from a server on this machine that no other can reach."""

import math
from dataclasses import asdict, fields
from functools import cache
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from aft_ray.report.candidates import ORDERS, SHOWN, Candidates, Chosen
from aft_ray.report.found import FoundRun
from aft_ray.report.page import page as report_page
from aft_ray.report.page import template

HOST = "127.0.0.1"
ON_A_PAGE = 20
RANGES_TOLD = {
    "right": "right chains",
    "tokens": "tokens of the longest chain",
    "before": "best wrong against worst right, before",
    "after": "the same, after",
}


def make_app(run: FoundRun) -> Starlette:
    """Raises NoRunError where nothing was sampled yet."""
    candidates = Candidates(run)
    shown_by = template("candidates.html")
    entries = candidates.entries  # now, and not while somebody waits for the first page
    tasks, splits = (sorted({getattr(entry, name) for entry in entries}) for name in ("task", "split"))

    def show(request: Request) -> Response:
        chosen = Chosen(**{f.name: request.query_params[f.name] for f in fields(Chosen) if f.name in request.query_params})
        found = candidates.chosen(chosen)
        pages = max(1, math.ceil(len(found) / ON_A_PAGE))
        given = request.query_params.get("page", "1")
        number = min(max(int(given) if given.isdecimal() else 1, 1), pages)
        on_page = found[(number - 1) * ON_A_PAGE : number * ON_A_PAGE]
        groups = candidates.groups(on_page)
        return HTMLResponse(
            shown_by.render(
                run=run,
                chosen=chosen,
                ranges=RANGES_TOLD,
                options={"shown": list(SHOWN), "order": list(ORDERS), "task": ["", *tasks], "split": ["", *splits]},
                found=len(found),
                all=len(entries),
                number=number,
                pages=pages,
                link=lambda to: "?" + urlencode(asdict(chosen) | {"page": to}),
                groups=[(entry, group, candidates.scored(group)) for entry, group in zip(on_page, groups, strict=True)],
            )
        )

    @cache
    def report_text() -> str:
        return report_page(run)

    async def report(_: Request) -> Response:  # in one thread: matplotlib's settings are the process's
        return HTMLResponse(report_text())

    # A name of its own that leads here would let a page of somebody else's read the answers.
    only_here = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    routes = [Route("/", show), *([Route("/report", report)] if run.evaluated else [])]
    return Starlette(routes=routes, middleware=[only_here])


def serve(app: Starlette, port: int) -> None:
    """Until Ctrl-C."""
    uvicorn.run(app, host=HOST, port=port, log_level="warning")
