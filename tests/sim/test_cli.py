"""The commands refuse what they are wrongly told, in one line."""

from __future__ import annotations

import pytest

from lerobot_env_omnistream import cli

NAMES = 'a list of names, as ["first", "second"], is needed'


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fps=fast", "fps is 'fast'; a whole number is needed"),
        ("fps=20.5", "fps is 20.5; a whole number is needed"),
        ("fps=true", "fps is True; a whole number is needed"),
        ("camera_jitter_m=[1]", "camera_jitter_m is [1]; a number is needed"),
        ("depth=1", "depth is 1; true or false is needed"),
        ("robot=null", "robot is None; text is needed"),
        ("task=5", "task is 5; text is needed"),
        ("cameras=agentview", f"cameras is 'agentview'; {NAMES}"),
        ("state_keys=[1]", f"state_keys is [1]; {NAMES}"),
        ('cameras=["agentview", "agentview"]', "cameras names one twice: agentview, agentview"),
    ],
)
def test_a_setting_of_another_type_is_named(monkeypatch, capsys, setting, message):
    monkeypatch.setattr("sys.argv", ["omnistream-experts", "--set", setting])
    with pytest.raises(SystemExit) as ended:
        cli.experts_main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_meta_world_refuses_them_alike(monkeypatch, capsys):
    pytest.importorskip("metaworld")
    monkeypatch.setattr("sys.argv", ["omnistream-experts", "--env", "metaworld", "--set", "episode_length=long"])
    with pytest.raises(SystemExit) as ended:
        cli.experts_main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: episode_length is 'long'; a whole number is needed\n"


def test_settings_are_json_or_plain_text():
    config = cli._config(
        "robosuite", "Lift", ["robot=Panda", 'cameras=["agentview"]', "camera_jitter_m=1e-2", "depth=true"]
    )
    assert (config.robot, config.cameras, config.camera_jitter_m, config.depth) == ("Panda", ["agentview"], 0.01, True)
