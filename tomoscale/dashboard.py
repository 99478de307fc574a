"""Where Dask's dashboard is found from a browser: on this machine directly, on a Jupyter hub through the hub's proxy.

Dashboards listen on the loopback address alone, which a browser elsewhere cannot reach. A hub whose user servers have
``jupyter-server-proxy`` passes ``/user/NAME/proxy/PORT/`` on to that port, to the user who is logged in and to nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tomoscale.progress import in_notebook
from tomoscale.report.page import text

PREFIX = "JUPYTERHUB_SERVICE_PREFIX"
"""Where the hub serves a user's server, such as ``/user/ada/``; set in every process of that server."""
_DASKS_OWN = "{scheme}://{host}:{port}/status"


def link_template(environment: Mapping[str, str], proxied: bool, configured: str = _DASKS_OWN) -> str:
    """Dask's setting ``distributed.dashboard.link``, which fills in the port and variables of the environment.

    Parameters
    ----------
    environment : mapping
        Of this process.
    proxied : bool
        Whether jupyter-server-proxy is there.
    configured : str
        What Dask's configuration says now: a link that was set by hand is kept.

    Examples
    --------
    >>> link_template({"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}, proxied=True)
    '{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status'
    >>> link_template({}, proxied=True)
    '{scheme}://{host}:{port}/status'
    """
    prefix = environment.get(PREFIX, "")
    on_hub = prefix.startswith("/") and prefix.endswith("/")
    return f"{{{PREFIX}}}proxy/{{port}}/status" if on_hub and proxied and configured == _DASKS_OWN else configured


@contextmanager
def dashboards_through_hub(workers: str) -> Iterator[None]:
    """Let clients made inside give the link that the hub's user can open.

    Parameters
    ----------
    workers : str
        As for `working`; the dashboard of a scheduler given by its address may be on another machine, which the proxy of
        the hub does not reach.
    """
    if PREFIX not in os.environ or "://" in workers:
        yield
        return
    import dask
    import distributed  # noqa: F401 -- brings Dask's own link into the configuration

    proxied = find_spec("jupyter_server_proxy") is not None
    link = link_template(os.environ, proxied, dask.config.get("distributed.dashboard.link"))
    with dask.config.set({"distributed.dashboard.link": link}):
        yield


def link_of(client: Any) -> str | None:
    """Link to the dashboard of a client; None without a client or a dashboard."""
    if client is None or client.status != "running":
        return None
    link = client.dashboard_link
    return str(link) if link else None


def link_html(link: str) -> str:
    """Link as HTML."""
    return f'<div>Dashboard: <a href="{text(link)}" target="_blank">{text(link)}</a></div>'


def show_link(link: str | None) -> None:
    """Show the link where this runs in a notebook."""
    if link is not None and in_notebook():
        from IPython.display import HTML, display

        display(HTML(link_html(link)))
