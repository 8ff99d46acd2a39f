"""Fault 41: no network. Commands work the same, and none asks for a socket or an address."""

import forked
import pytest

COMMANDS = [
    ["restore", "--method=mirror_tv3d"],
    ["preprocess", "--config=data:smoke", "--config.bias_field.iterations=10", "--config.workers=1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_commands_do_without(command, tmp_path):
    words = [*command, f"--input={forked.heads(tmp_path)}", f"--output={tmp_path / 'out'}"]
    ended = forked.lgjax(*words, log=tmp_path / "log", before=forked.without_network)
    assert ended.code == 0, ended.said
    assert "asked for" not in ended.said
    if "no network" not in ended.said:
        pytest.skip("all of it was checked but the namespace: the system lets nobody make one")


def test_who_asks_is_noticed(tmp_path):
    ended = forked.lgjax("asks", log=tmp_path / "log", before=forked.ask_for_a_socket)
    assert "a socket was asked for" in ended.said
