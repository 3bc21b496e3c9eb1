"""Training runs: killed and started again, spread over processes, stopped by a bad loss; and what is written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_run import MODEL, koleo_of_share, small_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.testing import CompileCounter

from omnistream_core.config import BackboneConfig
from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import LanguageConfig, LanguageHead
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.pretraining import learner as learner_module
from omnistream_core.pretraining import monitor
from omnistream_core.pretraining.config import ParallelConfig, Stage, Task
from omnistream_core.pretraining.data import generator_for
from omnistream_core.pretraining.export import export_checkpoint
from omnistream_core.pretraining.feed import Feed, StageStart, bounded_visibility, draw_frames, draw_memory
from omnistream_core.pretraining.learner import Learner
from omnistream_core.pretraining.monitor import Speedometer
from omnistream_core.pretraining.objectives import koleo_loss
from omnistream_core.pretraining.parallel import Processes, parallelise
from omnistream_core.pretraining.state import newest_state
from omnistream_core.pretraining.trainer import Run, TrainingStoppedError, train

PROGRAM = Path(__file__).with_name("small_run.py")
# Without KoLeo, whose gradient is rounding noise where all clips still look alike, and with short steps.
SMOOTH = {"koleo": 0.0, "lr": 1e-5, "steps": 4}
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k == "step" or "/" in k} for line in lines]


def test_counting_leaves_compiled_functions_compiled() -> None:
    compiles = CompileCounter()
    product = torch.compile(lambda a: a @ a, backend=compiles)
    speed = Speedometer(small_run())
    a = torch.ones(8, 8)
    for step in range(3):
        with speed.counting():
            product(a)
        speed.tick(step)
    assert compiles.frame_count == 1, "a compiled function fell back to plain execution"
    assert speed.step_flops == 2 * 8**3, "counted on the first step, and there alone"


def test_a_run_that_goes_on_counts_no_earlier_frames_for_its_speed(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    speed = Speedometer(small_run())
    now_s[0] = 10.0
    speed.begin(1_000_000)
    now_s[0] = 12.0
    speed.tick(1_000_008)
    assert speed.figures()["frames_per_s"] == 4.0


def test_heads_learn_on_a_frozen_backbone(tmp_path: Path) -> None:
    config = small_run(tasks=(Task(kind="geometry", frames=8),), steps=2, freeze_backbone=True)
    torch.manual_seed(config.seed)
    before = Learner(config).model.state_dict()
    after = train(config, tmp_path).model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("heads.") for name in moved)
    with pytest.raises(ConfigError, match="cannot be frozen"):
        small_run(freeze_backbone=True)


def program(
    folder: Path, changes: dict[str, object] | None = None, launcher=(sys.executable,)
) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, PROGRAM, folder, json.dumps(changes or {})], env=environment)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The programs below have one thread: sums over more come out another way in the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(small_run(), folder)
    return folder


def test_a_run_tells_of_every_step_and_learns(whole):
    told = losses(whole)
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]
    assert {"geometry/depth", "image/dino", "video/ibot", "video/koleo"} < set(told[0])
    assert "video/gram" not in told[2] and "video/gram" in told[4], "gram starts in the middle"
    assert told[-1]["geometry/depth"] < told[0]["geometry/depth"]
    assert json.loads((whole / "config.json").read_text())["steps"] == 6
    assert list((whole / "tensorboard").iterdir())


def test_killed_at_any_moment_and_started_again_gives_the_same_losses(whole, tmp_path):
    process = program(tmp_path, {"save_every_s": 0.0})
    while not (tmp_path / "state-00000003").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert program(tmp_path, {"save_every_s": 0.0}).wait() == 0
    assert losses(tmp_path) == losses(whole)


def test_a_run_that_pauses_goes_on_where_it_was(whole, tmp_path):
    train(small_run(), tmp_path, pause_after_s=0.0)
    assert len(losses(tmp_path)) < 6 and newest_state(tmp_path) is not None
    train(small_run(), tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_a_half_written_state_is_not_found(tmp_path):
    (tmp_path / "state-00000009.partial").mkdir()
    (tmp_path / "state-00000007").mkdir()
    assert newest_state(tmp_path) is None
    (tmp_path / "state-00000007" / "facts.json").write_text("{}")
    assert newest_state(tmp_path) == tmp_path / "state-00000007"


def test_koleo_of_two_processes_is_that_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    whole_TBD = torch.randn(3, 8, 5).requires_grad_()
    loss = koleo_loss(whole_TBD)
    loss.backward()
    torch.multiprocessing.spawn(koleo_of_share, (str(tmp_path / "store"), str(tmp_path / "result")), nprocs=2)
    shares = [torch.load(tmp_path / f"result-{rank}.pt") for rank in range(2)]
    assert float((shares[0][0] + shares[1][0]) / 2) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert torch.allclose(torch.cat([grad for _, grad in shares], dim=1), whole_TBD.grad, atol=1e-6)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory) -> Path:
    """One process, nothing in it that makes much of rounding."""
    folder = tmp_path_factory.mktemp("smooth")
    assert program(folder, SMOOTH).wait() == 0
    return folder


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_compute_what_one_does(smooth, tmp_path, sharding):
    """And their state goes on in one process as if it had always been one."""
    assert program(tmp_path, SMOOTH | {"sharding": sharding, "save_every_s": 0.0}, LAUNCHER).wait(timeout=300) == 0
    for one, two in zip(losses(smooth), losses(tmp_path), strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-5)
    shutil.rmtree(tmp_path / "state-00000004")
    assert program(tmp_path, SMOOTH).wait() == 0
    assert losses(tmp_path)[-1] == pytest.approx(losses(smooth)[-1], abs=1e-5, rel=1e-5)


def test_pictures_of_a_sharded_run_leave_its_weights_in_their_places(tmp_path):
    """The anchor is set, weight by weight, right after a picture."""
    changes = {"sharding": "fsdp2", "steps": 2, "pictures_every": 1}
    assert program(tmp_path, changes, LAUNCHER).wait(timeout=300) == 0
    assert (tmp_path / "sample.png").exists() and "video/gram" in losses(tmp_path)[-1]


def test_a_spike_stops_the_run_and_leaves_the_batch(tmp_path):
    run = Run(small_run(steps=1000), tmp_path)
    run.clock.step, run.clock.mean_loss = 100, {"geometry": 1e-3, "image": 1e9}
    with (
        pytest.raises(TrainingStoppedError, match=r"step 100, geometry: loss .* mean before 0\.001; .*stopped-0"),
        run.monitor,
    ):
        run.step()
    kept = load_file(tmp_path / "stopped-0-geometry.safetensors")
    assert kept["images_BT3HW"].dtype == torch.uint8 and "truth.depth_m_BTHW" in kept


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    run = Run(small_run(), tmp_path)
    with torch.no_grad():
        run.learner.model.backbone.norm.weight[0] = float("nan")
    with pytest.raises(TrainingStoppedError, match="loss nan"), run.monitor:
        run.step()


def test_a_gradient_that_is_no_number_stops_the_run_before_it_spoils_the_weights(tmp_path):
    run = Run(small_run(), tmp_path)
    before = {name: value.clone() for name, value in run.learner.state_dict().items()}
    first = next(run.learner.model.parameters())
    first.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingStoppedError, match=r"gradient of norm (nan|inf)") as stopped, run.monitor:
        run.step()
    assert all(torch.equal(value, before[name]) for name, value in run.learner.state_dict().items())
    kept = [f"stopped-0-{kind}.safetensors" for kind in ("geometry", "image", "video")]
    assert {path.name for path in tmp_path.glob("stopped-*")} == set(kept)
    assert str(stopped.value).endswith(f"is in {tmp_path}: {', '.join(kept)}")


def test_a_run_draws_pictures_and_tells_its_speed(tmp_path):
    train(small_run(steps=2, pictures_every=2, log_every=1), tmp_path)
    assert (tmp_path / "sample.png").stat().st_size > 1000
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["frames_per_s"] > 0 and line["peak_memory_gb"] > 0
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Scalars("frames_per_s")[-1].value == pytest.approx(line["frames_per_s"])
    assert board.Tags()["images"] == ["depth"]


def test_shards_that_cannot_be_shared_among_the_processes_are_refused():
    with pytest.raises(ConfigError, match="2 data shards for 3 processes"):
        Feed(small_run(), Processes(rank=0, count=3), None)


def test_every_trained_parameter_gets_a_gradient_and_teachers_none():
    learner = Learner(small_run()).train()
    run_batches = [task.kind for task in small_run().tasks]
    assert run_batches == ["geometry", "image", "video"]
    feed = Feed(small_run(), Processes(), None)
    for task in small_run().tasks:
        batch = feed.batch(task, 0, small_run().stages[1], StageStart(), with_gram=True)
        sum(learner(batch).values()).backward()
    for name, parameter in learner.named_parameters():
        frozen = name.startswith(("teacher.", "anchor."))
        assert (parameter.grad is None) == frozen, name
        assert not learner.teacher.training and not learner.anchor.training


LOSSES = ("geometry_losses", "dino_loss", "ibot_loss", "koleo_loss", "gram_loss", "sinkhorn_knopp")


def test_every_loss_is_computed_in_float32_under_autocast(monkeypatch):
    lowered: dict[str, set[bool]] = {}

    def watched(name):
        whole = getattr(learner_module, name)

        def loss(*arguments, **settings):
            lowered.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return whole(*arguments, **settings)

        return loss

    for name in LOSSES:
        monkeypatch.setattr(learner_module, name, watched(name))
    learner, feed = Learner(small_run()).train(), Feed(small_run(), Processes(), None)
    for task in small_run().tasks:
        batch = feed.batch(task, 0, small_run().stages[1], StageStart(), with_gram=True)
        with torch.autocast("cpu", torch.bfloat16):
            terms = learner(batch)
            assert torch.is_autocast_enabled("cpu"), "autocast is left as it was"
        assert {term.dtype for term in terms.values()} == {torch.float32}
    assert lowered == {name: {False} for name in LOSSES}


def test_words_reach_the_backbone_and_travel_with_the_checkpoint(tmp_path):
    pytest.importorskip("transformers")
    language = LanguageConfig(width=32, depth=2, heads=2, key_value_heads=1, vocabulary=300)
    tasks = (Task(kind="text", frames=8),)
    config = small_run(tasks=tasks, model=replace(MODEL, heads=None), language=language, steps=3)
    learner = train(config, tmp_path, ["Is a chair seen? yes / no", "A room with two chairs."])
    assert [set(line) for line in losses(tmp_path)] == [{"step", "text/answer"}] * 3
    feed = Feed(config, Processes(), learner.language)
    batch = feed.batch(tasks[0], 0, config.stages[1], StageStart(), with_gram=False)
    learner(batch)["answer"].backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None or name == "model.backbone.mask_token", name
    assert float(learner.model.backbone.patch_embed.weight.grad.abs().max()) > 0
    export_checkpoint(config, tmp_path, tmp_path / "checkpoint")
    again = LanguageHead.from_pretrained(tmp_path / "checkpoint" / "language")
    assert again.tokenizer.get_vocab() == learner.language.tokenizer.get_vocab()


def test_activation_checkpoints_and_compilation_leave_keys_and_numbers_alone():
    plain = Learner(small_run(tasks=(Task(kind="geometry", frames=8),)))
    recomputed = Learner(small_run(tasks=(Task(kind="geometry", frames=8),)))
    recomputed.load_state_dict(plain.state_dict())
    parallelise(recomputed, ParallelConfig(checkpoint_activations=True), Processes())
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 3, 32, 48)
    results = []
    for learner in (plain, recomputed):
        torch.manual_seed(0)
        loss = learner.model(images).geometry.depth_m_BTHW.sum()
        loss.backward()
        results.append((loss.detach(), learner.model.backbone.blocks[0].mlp.fc1.weight.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_an_export_is_a_checkpoint_that_a_run_can_start_from(whole, tmp_path):
    facts = export_checkpoint(small_run(), whole, tmp_path / "checkpoint", dtype=torch.float32)
    assert facts["step"] == 6
    model = OmniStreamModel.from_pretrained(tmp_path / "checkpoint")
    started = Learner(small_run(start=str(tmp_path / "checkpoint")))
    for name, value in model.state_dict().items():
        assert torch.equal(started.model.state_dict()[name], value), name
        if name.startswith("backbone."):
            assert torch.equal(started.teacher.state_dict()[name], value), name
    wider = replace(MODEL, backbone=BackboneConfig(width=64, depth=4, heads=2, levels=(0, 1, 2, 3)))
    with pytest.raises(Exception, match=r"tensor 'backbone\.[a-z_.]+' of shape \(.*64.*\) is needed to start from it"):
        Learner(small_run(model=wider, start=str(tmp_path / "checkpoint")))


def test_confidence_that_sank_to_its_floor_begins_anew_and_nothing_else_does(tmp_path):
    torch.manual_seed(0)
    model, images = build_model(MODEL), torch.randn(1, 2, 3, 32, 48)
    model.heads.dense.depth.head[-1].bias.data[1] = -90.0
    model.save_pretrained(tmp_path)
    dead, alive = (Learner(small_run(start=str(tmp_path), reset_confidence=reset)).model for reset in (False, True))
    assert (dead(images).geometry.confidence_BTHW == 1).all() and (alive(images).geometry.confidence_BTHW == 2).all()
    for (name, before), after in zip(dead.named_parameters(), alive.parameters(), strict=True):
        kept = slice(0, 1) if name.startswith("heads.dense.depth.head.2") else slice(None)
        assert torch.equal(before[kept], after[kept]), name


def test_visibility_is_that_of_a_bounded_memory():
    seen = bounded_visibility(6, window=2, sink=1)
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 2, 3],
        [0, 3, 4],
        [0, 4, 5],
    ]
    config = small_run().memory
    drawn = [draw_memory(8, config, generator_for(0, "memory", n)) for n in range(200)]
    bounded = [v for v, _ in drawn if v is not None]
    assert 60 < len(bounded) < 140 and all(v.diagonal().all() and not v.triu(1).any() for v in bounded)
    jumps = [(index_T.diff() - 1).tolist() for _, index_T in drawn if index_T is not None]
    absent = [max(steps) for steps in jumps]
    assert all(sorted(steps)[:-1] == [0] * 6 for steps in jumps), "one jump at most, right after the first frames"
    assert max(absent) > 100 and max(absent) <= config.longest_absence and 0 in absent
    shown = [draw_frames(8, config, generator_for(0, "frames", n)) for n in range(200)]
    assert all(s[0] == 0 and s == sorted(set(s)) and 5 <= len(s) <= 8 for s in shown)
    assert 60 < sum(len(s) < 8 for s in shown) < 140


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": None}, "either steps or minutes"),
        ({"minutes": 3.0}, "either steps or minutes"),
        ({"stages": (Stage(until=0.5, frames=2),)}, "stages end at"),
        ({"model": replace(MODEL, heads=None)}, "give both or neither"),
        ({"tasks": (Task(kind="geometry", frames=4), Task(kind="geometry", frames=4))}, "at most once"),
        ({"tasks": (Task(kind="geometry", frames=3),)}, "cannot be shared among 2 data shards"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        small_run(**changes)


def test_many_processes_need_a_way_to_stay_together():
    with pytest.raises(ConfigError, match="ddp"):
        parallelise(Learner(small_run()), ParallelConfig(sharding="ddp"), Processes())
