"""The link to the dashboard can be opened where the user sits; the dashboard itself stays on the loopback address."""

from __future__ import annotations

import re
from contextlib import nullcontext
from types import SimpleNamespace

import dask
import pytest

from tomoscale.cli.running import working_of
from tomoscale.dashboard import PREFIX, dashboards_through_hub, link_template
from tomoscale.resources import this_machine
from tomoscale.work import Work, working

DEFAULTS = {
    **dict.fromkeys(("processes", "memory", "credentials", "block")),
    "jobs": 1,
    "insecure": False,
    "plan": False,
    "overwrite": False,
    "quiet": False,
}
OWN = "{scheme}://{host}:{port}/status"
HUB = f"{{{PREFIX}}}proxy/{{port}}/status"


@pytest.mark.parametrize(
    ("environment", "proxied", "configured", "link"),
    [
        ({PREFIX: "/user/ada/"}, True, OWN, HUB),
        ({PREFIX: "/user/ada/"}, False, OWN, OWN),
        ({PREFIX: "/user/ada/"}, True, "https://own/{port}", "https://own/{port}"),
        ({PREFIX: "user/ada"}, True, OWN, OWN),
        ({PREFIX: "https://elsewhere/"}, True, OWN, OWN),
        ({}, True, OWN, OWN),
    ],
)
def test_the_link_goes_through_the_hub_where_there_is_one(environment, proxied, configured, link):
    assert link_template(environment, proxied, configured) == link


def test_a_scheduler_given_by_its_address_keeps_its_own_link(monkeypatch):
    monkeypatch.setenv(PREFIX, "/user/ada/")
    monkeypatch.setattr("tomoscale.dashboard.find_spec", lambda name: object())
    with dashboards_through_hub("processes"):
        assert dask.config.get("distributed.dashboard.link") == HUB
    with dashboards_through_hub("tcp://10.0.0.1:8786"):
        assert dask.config.get("distributed.dashboard.link") == OWN


def test_workers_show_their_dashboard_while_they_live(monkeypatch):
    monkeypatch.setenv(PREFIX, "/user/a{b}&/")
    monkeypatch.setattr("tomoscale.dashboard.find_spec", lambda name: object())
    with working("processes", processes=1, memory_bytes=1 << 30) as work:
        port = re.fullmatch(r"/user/a\{b\}&/proxy/(\d+)/status", work.dashboard)[1]
        assert f'href="/user/a{{b}}&amp;/proxy/{port}/status"' in work._repr_html_()
        info = work.client.scheduler_info()
        assert info["services"]["dashboard"] == int(port)
        assert re.match(r"(tcp|tls)://127\.0\.0\.1:", info["address"])
    assert work.dashboard is None
    assert "Dashboard" not in work._repr_html_()
    assert Work().dashboard is None


@pytest.mark.parametrize(("given", "told"), [({}, 1), ({"quiet": True}, 0), ({"plan": True}, 0)])
def test_a_command_tells_the_link_once_and_not_on_stdout(monkeypatch, capsys, given, told):
    client = SimpleNamespace(status="running", dashboard_link="/user/ada/proxy/8787/status")
    monkeypatch.setattr("tomoscale.work.connect", lambda *_, **__: nullcontext(client))
    monkeypatch.setattr("tomoscale.work.resources_of", lambda _: this_machine())
    options = {**DEFAULTS, "workers": "processes", **given}
    with working_of(options) as work:
        assert work.client is client
    shown = capsys.readouterr()
    assert shown.err == "tomoscale: dashboard /user/ada/proxy/8787/status\n" * told
    assert shown.out == ""
    monkeypatch.setattr("tomoscale.work.connect", lambda *_, **__: nullcontext(None))
    with working_of({**DEFAULTS, "workers": "threads"}):
        assert capsys.readouterr() == ("", "")
