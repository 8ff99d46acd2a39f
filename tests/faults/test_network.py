"""Fault 41: no network. restore asks for no socket and no address, and no module could."""

import ast

import forked
import pytest
import server
from conftest import ROOT


def test_restore_does_without(tmp_path):
    words = ["restore", "--method=mirror_tv3d", f"--input={forked.heads(tmp_path, 2)}", f"--output={tmp_path / 'out'}"]
    ended = server.run(*words, before=forked.without_network, optimised=True)
    assert ended.returncode == 0, ended.stderr
    assert "asked for" not in ended.stdout + ended.stderr
    if "no network" not in ended.stdout:
        pytest.skip("all of it was checked but the namespace: the system lets nobody make one")


def test_who_asks_is_noticed():
    assert "a socket was asked for" in server.run("asks", before=forked.ask_for_a_socket).stdout


NETWORK = {"aiohttp", "asyncio", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "socketserver", "ssl"}
NETWORK |= {"urllib3", "xmlrpc"}


def asks(code: str) -> list[str]:
    """What a module imports that can reach a network, and what it asks sockets for but the name of this machine."""
    tree, found = ast.parse(code), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        found += [
            name for name in names if name.partition(".")[0] in NETWORK - {"socket"} or name.startswith("socket.")
        ]
        found += [name for name in names if name.startswith(("urllib.request", "multiprocessing.connection"))]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket":
            found += [f"socket.{node.attr}"] if node.attr != "gethostname" else []
    return found


def test_no_module_can_reach_a_network():
    """JAX alone does, between hosts that --hosts joins."""
    found = {path.name: asks(path.read_text(encoding="utf-8")) for path in (ROOT / "lgjax").rglob("*.py")}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    ["import requests", "from urllib.request import urlopen", "import socket\nsocket.create_connection(('x', 1))"],
)
def test_a_module_that_could_is_noticed(code):
    assert asks(code)
