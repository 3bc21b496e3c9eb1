"""The command line as a user meets it: results on disk, one clear line for bad input, exit codes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omnistream_core import cli
from omnistream_core.config import BackboneConfig, HeadConfig, ModelConfig, PreprocessConfig
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.replay import OUTPUTS
from omnistream_core.verify import compute


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    torch.manual_seed(0)
    backbone = BackboneConfig(width=32, depth=4, heads=2, levels=(0, 1, 2, 3), layer_scale_init=0.5)
    heads = HeadConfig(features=8, ray_features=8, camera_hidden=16)
    config = ModelConfig(backbone=backbone, heads=heads, preprocess=PreprocessConfig(area_px=64 * 96))
    folder = tmp_path_factory.mktemp("checkpoint")
    build_model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six pictures of 120 x 90 px, with poses, depth and intrinsics."""
    root = tmp_path_factory.mktemp("walk")
    for kind in ("rgb", "depth"):
        (root / kind).mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(root / "rgb" / f"{i:06d}.png"), rng.integers(0, 255, (90, 120, 3), dtype=np.uint8))
        cv2.imwrite(str(root / "depth" / f"{i:06d}.png"), rng.integers(500, 4000, (90, 120)).astype(np.uint16))
    camera = {"width": 120, "height": 90, "fx": 100.0, "fy": 100.0, "cx": 59.5, "cy": 44.5, "depth_scale": 0.001}
    (root / "intrinsics.json").write_text(json.dumps(camera))
    poses = [f"{i} {0.1 * i} {0.02 * i * i} 0 0 0 0 1" for i in range(6)]
    (root / "poses.txt").write_text("\n".join(poses) + "\n")
    return root


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["omnistream", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_run_writes_every_output(monkeypatch, tmp_path, checkpoint, images):
    out = tmp_path / "out"
    assert call(monkeypatch, "run", images, "--out", out, "--model", checkpoint) == 0
    assert {p.name for p in out.iterdir()} == {*OUTPUTS.values(), "summary.json"}
    assert all(p.stat().st_size > 0 for p in out.iterdir())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"] is True and summary["frames"] == 6
    assert summary["ms_per_frame_p50"] <= summary["ms_per_frame_p95"] <= summary["ms_per_frame_p99"]
    assert summary["path_m"] == pytest.approx(
        sum(np.hypot(0.1, 0.02 * ((i + 1) ** 2 - i**2)) for i in range(5)), rel=1e-6
    )
    assert {"peak_memory_mb", "dtype", "threads", "abs_rel", "ate_m"} <= set(summary)
    assert len([line for line in (out / "trajectory.txt").read_text().splitlines() if not line.startswith("#")]) == 6


def test_run_writes_only_what_is_asked_for(monkeypatch, tmp_path, checkpoint, images):
    out = tmp_path / "out"
    options = ("--only", "trajectory,points", "--max-frames", 3)
    assert call(monkeypatch, "run", images, "--out", out, "--model", checkpoint, *options) == 0
    assert {p.name for p in out.iterdir()} == {"trajectory.txt", "points.ply", "summary.json"}
    assert json.loads((out / "summary.json").read_text())["frames"] == 3


def test_eval_folder_writes_the_promised_keys(monkeypatch, tmp_path, checkpoint, images):
    file = tmp_path / "figures" / "eval.json"
    assert call(monkeypatch, "eval", "folder", "--root", images, "--json", file, "--model", checkpoint) == 0
    figures = json.loads(file.read_text())
    promised = {"abs_rel", "delta_1.25", "ate_m", "rpe_t_m", "rpe_r_deg", "path_m", "ms_per_frame_p50"}
    assert promised <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())


PROMISED_OF_THE_WORLD = {
    *("abs_rel", "delta_1.25", "ate_ratio", "ate_straight_ratio", "normals_deg", "segmentation_miou"),
    *("jf", "knn_top1", "motion_order", "probe_abs_rel", "probe_ate_ratio"),
}


def test_eval_world_writes_the_promised_keys_and_those_of_a_random_backbone(monkeypatch, tmp_path, checkpoint, capsys):
    file = tmp_path / "world.json"
    options = ("--clips", 12, "--fit-clips", 16, "--frames", 4, "--quick", "--model", checkpoint, "--json", file)
    assert call(monkeypatch, "eval", "world", *options) == 0
    figures = json.loads(file.read_text())
    assert {*PROMISED_OF_THE_WORLD} | {f"random.{key}" for key in PROMISED_OF_THE_WORLD} <= set(figures)
    assert figures["abs_rel_ratio"] == figures["abs_rel"] / figures["abs_rel_constant"]
    assert figures["abs_rel_from"] == "heads" and figures["random.abs_rel_from"] == "probe"
    assert figures["random.abs_rel"] == figures["random.probe_abs_rel"]
    assert all(np.isfinite(value) for value in figures.values() if not isinstance(value, str))
    assert "baseline" in capsys.readouterr().out


def test_eval_world_is_the_same_again_and_runs_what_is_chosen(monkeypatch, tmp_path, checkpoint):
    options = ("--clips", 1, "--fit-clips", 4, "--frames", 4, "--model", checkpoint, "--probes", "depth,pose")
    files = {tmp_path / "one.json": (), tmp_path / "alone.json": ("--no-compare",)}
    for file, more in files.items():
        assert call(monkeypatch, "eval", "world", *options, *more, "--json", file) == 0
    figures, alone = (json.loads(file.read_text()) for file in files)
    assert alone == {key: value for key, value in figures.items() if not key.startswith(("random.", "baseline."))}
    assert alone != figures
    assert figures["abs_rel_from"] == "probe" and not {"jf", "knn_top1", "normals_deg", "ate_m"} & set(figures)


def test_eval_flicker_needs_no_truth(monkeypatch, tmp_path, checkpoint):
    file = tmp_path / "flicker.json"
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8), (0, 0), 3)
    (tmp_path / "still").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "still" / f"{i}.png"), frame)
    assert call(monkeypatch, "eval", "flicker", tmp_path / "still", "--model", checkpoint, "--json", file) == 0
    figures = json.loads(file.read_text())
    assert figures["pairs"] == 2 and figures["flow_share"] > 0.9 and figures["flicker"] < 1


def test_verify_accepts_the_truth_and_refuses_a_change(monkeypatch, tmp_path, checkpoint, capsys):
    images = torch.rand(1, 3, 3, 32, 48)
    recorded = compute(OmniStreamModel.from_pretrained(checkpoint), images, "cam")
    recorded = {name: value.contiguous() for name, value in recorded.items()}
    save_file(recorded | {"pixel_values": images}, tmp_path / "io.safetensors")
    assert call(monkeypatch, "verify", checkpoint, tmp_path / "io.safetensors") == 0
    recorded["stream.cam.cls"] = recorded["stream.cam.cls"] + 0.01
    save_file(recorded | {"pixel_values": images}, tmp_path / "io.safetensors")
    assert call(monkeypatch, "verify", checkpoint, tmp_path / "io.safetensors") == 1
    assert "above tolerance" in capsys.readouterr().out
    assert call(monkeypatch, "verify", checkpoint, tmp_path / "io.safetensors", "--tol", 0.1) == 0


def test_convert_round_trips(monkeypatch, tmp_path, checkpoint):
    assert call(monkeypatch, "convert", checkpoint, tmp_path / "half", "--dtype", "bfloat16") == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "half"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k].bfloat16(), after[k]) for k in before)


def test_info_of_a_checkpoint_and_of_a_recording(monkeypatch, capsys, checkpoint, images):
    assert call(monkeypatch, "info", checkpoint) == 0
    assert "parameters" in capsys.readouterr().out
    assert call(monkeypatch, "info", images) == 0
    assert "120" in capsys.readouterr().out


@pytest.fixture
def broken(tmp_path, checkpoint) -> dict[str, Path]:
    """Inputs that are wrong, each in its own way."""
    (tmp_path / "empty.bag").touch()
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "noise.mp4").write_bytes(b"this is no video" * 100)
    (tmp_path / "noise.mcap").write_bytes(b"this is no bag" * 100)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"a": 1}))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "config.json").write_text((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"backbone.blocks.1.mlp.fc1.weight": torch.zeros(7, 32)}, wrong / "model.safetensors")
    return {p.stem if p.suffix not in (".bag", ".mcap") else p.name: p for p in tmp_path.iterdir()}


BAD_INPUT = {
    "missing file": (("run", "nowhere.mcap"), ["nowhere.mcap"]),
    "empty ROS 1 bag": (("run", "{empty.bag}"), ["empty.bag"]),
    "empty MCAP": (("run", "{empty.mcap}"), ["empty.mcap"]),
    "no MCAP at all": (("run", "{noise.mcap}"), ["noise.mcap"]),
    "no video at all": (("run", "{noise}"), ["noise.mp4"]),
    "folder without images": (("run", "{nothing}"), ["nothing"]),
    "camera that is not there": (("run", "97"), ["97"]),
    "topic of a folder": (("run", "{images}", "--topic", "/camera"), ["/camera"]),
    "unknown output": (("run", "{images}", "--only", "hologram"), ["hologram", "depth"]),
    "unknown dtype": (("run", "{images}", "--dtype", "float8"), ["float8", "bfloat16"]),
    "negative window": (("run", "{images}", "--window", "-3"), ["-3"]),
    "device that is not there": (("run", "{images}", "--device", "warp:0"), ["warp"]),
    "unknown checkpoint": (("run", "{images}", "--model", "omnistream-gigantic"), ["omnistream-gigantic"]),
    "pickled checkpoint": (("run", "{images}", "--model", "{weights}"), ["weights.pt", "refused"]),
    "checkpoint of a wrong shape": (
        ("run", "{images}", "--model", "{wrong}"),
        ["backbone.blocks.1.mlp.fc1.weight", "(7, 32)", "(128, 32)"],
    ),
    "output below a file": (("run", "{images}", "--out", "{file}/out"), ["file"]),
    "recording that is none": (("verify", "{checkpoint}", "{noise}"), ["noise.mp4"]),
    "nothing to evaluate": (("eval", "folder", "--root", "nowhere"), ["nowhere"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_clear_line_and_code_2(name, monkeypatch, capsys, tmp_path, checkpoint, images, broken):
    arguments, words = BAD_INPUT[name]
    places = {**broken, "images": images, "checkpoint": checkpoint}
    filled = [a.replace("{" + k + "}", str(v)) for a in arguments for k, v in [_place(a, places)]]
    if filled[0] == "run":
        filled += [] if "--out" in filled else ["--out", str(tmp_path / "out")]
        filled += [] if "--model" in filled else ["--model", str(checkpoint)]
    assert call(monkeypatch, *filled) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("omnistream:")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]


def _place(argument: str, places: dict[str, Path]) -> tuple[str, Path]:
    return next(((k, v) for k, v in places.items() if "{" + k + "}" in argument), ("", Path()))


def test_what_came_before_damage_is_kept(monkeypatch, tmp_path, checkpoint):
    """A recording cut in the middle leaves whole files of its first frames, and code 2."""
    demo = cli.DEMO_RECORDING.read_bytes()
    (tmp_path / "cut.mcap").write_bytes(demo[: len(demo) * 8 // 10])
    out = tmp_path / "out"
    assert call(monkeypatch, "run", tmp_path / "cut.mcap", "--out", out, "--model", checkpoint) == 2
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"] is False and 0 < summary["frames"] < 96
    poses = [line for line in (out / "trajectory.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(poses) == summary["frames"]
    video = cv2.VideoCapture(str(out / "depth.mp4"))
    assert video.isOpened() and video.get(cv2.CAP_PROP_FRAME_COUNT) == summary["frames"]


def test_a_real_process_says_it_in_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "omnistream_core.cli", "run", "nowhere.bag", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr and "nowhere.bag" in process.stderr


def test_every_command_shows_an_example(monkeypatch, capsys):
    for command in ("run", "demo", "info", "convert", "verify", "eval folder", "eval world", "eval flicker"):
        assert call(monkeypatch, *command.split(), "--help") == 0
        assert f"omnistream {command}" in " ".join(capsys.readouterr().out.split())
