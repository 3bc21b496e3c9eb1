"""Training: the table in memory is LeRobot's dataset, and the commands do what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import get_policy_class

from lerobot_policy_omnistream import PolicyError, cli, table
from lerobot_policy_omnistream.encoder import build_encoder
from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy
from lerobot_policy_omnistream.table import FrameTable
from lerobot_policy_omnistream.training import TrainSettings, parse_episodes, train_policy

from .conftest import FRONT, SIZES_HW, SMALL, WRIST, make, observation, small_config, training_batch

INDICES = (0, 3, 6, 7, 11, 13, 20)


def test_the_table_is_lerobots_dataset(dataset):
    config = small_config()
    ours = FrameTable(dataset.root, config).batch(torch.tensor(INDICES))
    theirs = training_batch(config, dataset, INDICES)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours[key], value, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert list(ours[key]) == list(value), key


def test_training_from_cached_features_lowers_the_loss_and_saves_a_policy(dataset, float_cache, tmp_path):
    losses = []
    config = small_config(feature_cache=str(float_cache), optimizer_lr=5e-3)
    settings = TrainSettings(steps=60, batch_size=8)
    policy, before, _, report = train_policy(
        config,
        dataset.root,
        settings,
        tmp_path / "policy",
        lambda step, progress, loss: losses.append((step, progress, loss)),
    )
    assert [step for step, _, _ in losses] == list(range(1, 61)) and losses[14][1] == 0.25
    assert report.loss < 0.7 * losses[0][2] and report.steps == 60 and report.samples_per_s > 0
    loaded = OmnistreamPolicy.from_pretrained(tmp_path / "policy")
    batch = before(training_batch(config, dataset))
    assert torch.equal(loaded(batch)[0], policy(batch)[0])
    for trained in (policy, loaded):
        assert trained.encoder.key() == build_encoder(small_config()).key(), "the backbone is not what it was"


def test_a_killed_run_never_says_that_it_is_finished(dataset, float_cache, tmp_path, monkeypatch):
    """Not even over a finished one, whatever part it was killed at."""
    from lerobot.processor import PolicyProcessorPipeline

    def train():
        config = small_config(feature_cache=str(float_cache))
        train_policy(config, dataset.root, TrainSettings(steps=1, batch_size=2), tmp_path)

    def killed(*arguments, **settings):
        raise KeyboardInterrupt

    for part, method in ((OmnistreamPolicy, "save_pretrained"), (PolicyProcessorPipeline, "save_pretrained")):
        train()
        assert json.loads((tmp_path / "training.json").read_text())["report"]["steps"] == 1
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(part, method, killed)
            train()
        assert not (tmp_path / "training.json").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        train()
    assert not (tmp_path / "training.json").exists() and (tmp_path / "model.safetensors").exists()


def test_held_out_episodes_are_never_seen(dataset):
    held_in = FrameTable(dataset.root, small_config(), episodes=(0, 2), images=False)
    assert held_in.frames.tolist() == [*range(7), *range(12, 21)]
    with pytest.raises(PolicyError, match=r"episodes \[5\] are not in the dataset, which has 0 ... 2"):
        FrameTable(dataset.root, small_config(), episodes=(5,), images=False)


def test_only_what_is_trained_on_is_decoded(dataset, monkeypatch):
    decoded, whole = [], table.episode_blocks
    monkeypatch.setattr(
        table,
        "episode_blocks",
        lambda blocks, episode, keys: decoded.append((episode, keys)) or whole(blocks, episode, keys),
    )
    config = small_config(cameras=[WRIST])
    make(config, dataset)
    ours = FrameTable(dataset.root, config, episodes=(2, 0, 2)).batch(torch.tensor([0, 6, 12, 20]))
    assert decoded == [(0, [WRIST]), (2, [WRIST])]
    theirs = training_batch(config, dataset, (0, 6, 12, 20))
    torch.testing.assert_close(ours[WRIST], theirs[WRIST])
    assert FRONT not in ours


def test_no_frame_to_train_on_is_named(dataset, float_cache):
    with pytest.raises(PolicyError, match=r"no frame to train on: 0 episodes .* are chosen"):
        FrameTable(dataset.root, small_config(), episodes=(), images=False)
    config = small_config(feature_cache=str(float_cache))
    config.drop_n_last_frames = 7  # as LeRobot's Diffusion has it
    settings = {"steps": 1, "batch_size": 2}
    with pytest.raises(PolicyError, match=r"2 episodes of at most 7 frames .* leaves out the last 7 of each"):
        train_policy(config, dataset.root, TrainSettings(**settings, episodes=(0, 1)))
    assert FrameTable(dataset.root, config, images=False).frames.tolist() == [12, 13]


def test_all_of_the_time_given_is_used(dataset, float_cache, monkeypatch):
    """And the learning rate has come down when it is over."""
    config = small_config(feature_cache=str(float_cache))
    rates, step = [], torch.optim.AdamW.step

    def stepping(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    *_, report = train_policy(config, dataset.root, TrainSettings(minutes=1 / 10, batch_size=4))
    assert 6 <= report.processor_seconds < 7 and report.steps == len(rates)
    assert max(rates) > 0.9 * config.optimizer_lr and rates[-1] < 0.01 * config.optimizer_lr


def test_policies_of_lerobot_train_the_same_way(dataset, tmp_path):
    """ACT needs one image size: it is given one camera."""
    one = ACTConfig(device="cpu", push_to_hub=False, chunk_size=4, n_action_steps=4, dim_model=16, n_heads=2)
    one.pretrained_backbone_weights, one.dim_feedforward, one.n_encoder_layers, one.n_vae_encoder_layers = (
        None,
        16,
        1,
        1,
    )
    from lerobot.configs import FeatureType, PolicyFeature

    camera = next(iter(SIZES_HW))
    one.input_features = {
        camera: PolicyFeature(FeatureType.VISUAL, (3, *SIZES_HW[camera])),
        "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
    }
    policy, _before, _after, report = train_policy(one, dataset.root, TrainSettings(steps=2, batch_size=2), tmp_path)
    assert isinstance(policy, get_policy_class("act")) and report.steps == 2
    assert (tmp_path / "model.safetensors").exists() and (tmp_path / "training.json").exists()


def test_settings_of_a_run():
    assert parse_episodes("0-2,5") == (0, 1, 2, 5) and parse_episodes(None) is None
    with pytest.raises(PolicyError, match="episodes 'all': numbers and ranges"):
        parse_episodes("all")
    with pytest.raises(PolicyError, match="episodes '0,5-3': 5-3 has none"):
        parse_episodes("0,5-3")
    with pytest.raises(PolicyError, match="exactly one of them"):
        TrainSettings()


# ---- commands ----


def run(main, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def settings_of(**changes):
    fields = {k: v for k, v in (SMALL | changes).items() if k not in ("device", "push_to_hub")}
    return [part for name, value in fields.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def test_the_commands_cache_and_train(dataset, tmp_path, monkeypatch, capsys):
    cache, policy = tmp_path / "cache", tmp_path / "policy"
    assert not run(cli.cache_main, dataset.root, "--out", cache, *settings_of(), monkeypatch=monkeypatch)
    assert "features of 21 frames, 2 cameras, 1 copies" in capsys.readouterr().out
    fields = [*settings_of(), "--set", f"feature_cache={cache}"]
    assert not run(cli.train_main, dataset.root, "--out", policy, "--steps", 3, *fields, monkeypatch=monkeypatch)
    assert "3 steps, loss" in capsys.readouterr().out
    assert json.loads((policy / "training.json").read_text())["report"]["steps"] == 3


def test_one_of_two_cameras_serves(dataset, tmp_path, monkeypatch):
    """Its features alone are cached; trained on them, the policy looks at nothing else."""
    cache, out = tmp_path / "cache", tmp_path / "policy"
    arguments = [dataset.root, "--camera", FRONT, "--dtype", "float32", "--out", cache, *settings_of()]
    assert not run(cli.cache_main, *arguments, monkeypatch=monkeypatch)
    both, one = small_config(feature_cache=str(cache)), settings_of(feature_cache=str(cache), cameras=[FRONT])
    with pytest.raises(PolicyError, match=f"has no '{WRIST}'"):
        make(both, dataset)
    assert not run(cli.train_main, dataset.root, "--out", out, "--steps", 3, *one, monkeypatch=monkeypatch)
    policy = OmnistreamPolicy.from_pretrained(out)
    assert list(policy.config.input_features) == [FRONT, "observation.state"]
    before, _ = make_pre_post_processors(policy.config, pretrained_path=str(out))
    cached = policy(before(training_batch(policy.config, dataset)))[0]
    policy.config.feature_cache = None
    torch.testing.assert_close(policy(before(training_batch(policy.config, dataset)))[0], cached, atol=1e-5, rtol=1e-5)
    seen = before(observation(2, 0))
    action = policy.select_action(seen)
    policy.reset()
    assert torch.equal(policy.select_action(seen | {WRIST: torch.zeros_like(seen[WRIST])}), action)
    assert policy.select_action({key: value for key, value in seen.items() if key != WRIST}).shape == action.shape


def test_the_commands_name_what_is_wrong(dataset, tmp_path, monkeypatch, capsys):
    for message, main, arguments in [
        ("is no LeRobotDataset", cli.cache_main, [tmp_path]),
        ("has no camera 'rear'; it has: observation.images.front", cli.cache_main, [dataset.root, "--camera", "rear"]),
        ("dtype is 'int4'; choose from", cli.cache_main, [dataset.root, "--dtype", "int4"]),
        ("--set 'x' is not FIELD=VALUE", cli.cache_main, [dataset.root, "--set", "x"]),
        ("--set head=gpt: head is 'gpt'; choose from mlp", cli.cache_main, [dataset.root, "--set", "head=gpt"]),
        ("`chunk_size`: Couldn't parse 'many' into an int", cli.cache_main, [dataset.root, "--set", "chunk_size=many"]),
        ("`levels`: Failed when parsing value='7'", cli.cache_main, [dataset.root, "--set", "levels=7"]),
        ("`stream_frames`: Could not decode", cli.cache_main, [dataset.root, "--set", "stream_frames=some"]),
        ("while parsing a flow node", cli.cache_main, [dataset.root, "--set", "levels=["]),
        ("unknown policy 'gpt'; known: ", cli.train_main, [dataset.root, "--out", tmp_path / "p", "--policy", "gpt"]),
    ]:
        extra = ["--steps", "1"] if main is cli.train_main else []
        assert run(main, *arguments, *extra, monkeypatch=monkeypatch) == 2
        told = capsys.readouterr().err
        assert message in told and told.startswith("error: ") and told.count("\n") == 1


def test_an_unknown_field_is_named(dataset, monkeypatch, capsys):
    assert run(cli.cache_main, dataset.root, "--set", "heads=mlp", monkeypatch=monkeypatch) == 2
    assert "error: omnistream does not read heads=mlp; fields: see its configuration" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_lerobot_train_runs_it(dataset, tmp_path):
    """LeRobot's own command, without a feature cache: clips are streamed in every step."""
    fields = {k: v for k, v in SMALL.items() if k != "push_to_hub"}
    arguments = [f"--policy.{name}={json.dumps(value).strip(chr(34))}" for name, value in fields.items()]
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_train", "--policy.type=omnistream", *arguments]
    command += ["--policy.push_to_hub=false", "--dataset.repo_id=test/synthetic", f"--dataset.root={dataset.root}"]
    command += [f"--output_dir={tmp_path / 'run'}", "--steps=2", "--batch_size=2", "--num_workers=0", "--save_freq=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = OmnistreamPolicy.from_pretrained(tmp_path / "run/checkpoints/last/pretrained_model")
    assert loaded.config.fps == 10
    assert loaded.encoder.key() == build_encoder(small_config()).key(), "the backbone is not what it was"
