"""The command line: ``omnistream run | demo | info | convert | verify | export | bench | eval``.

Bad input gets one clear line and exit code 2; what was already produced stays, properly closed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from omnistream_core.config import StreamConfig
from omnistream_core.errors import ConfigError, OmniStreamError

app = typer.Typer(
    help="Streaming vision for robots: depth, points, pose and features, frame by frame.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
eval_app = typer.Typer(help="Measure a checkpoint against truth.", no_args_is_help=True)
app.add_typer(eval_app, name="eval")

DEMO_RECORDING = Path(__file__).parent / "assets" / "demo.mcap"
DEFAULT_CHECKPOINT = "omnistream-tiny"
SHOWN_TYPES = (
    "Image",
    "CompressedImage",
    "CameraInfo",
    "PoseStamped",
    "Odometry",
    "TransformStamped",
    "TFMessage",
    "Imu",
)

Checkpoint = Annotated[str, typer.Option("--model", "-m", help="Bundled name, folder, or hub id of a checkpoint.")]
Window = Annotated[int, typer.Option(help="Recent frames kept in memory; 0 keeps all.")]
Sink = Annotated[int, typer.Option(help="First frames kept for ever.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]


@app.command(
    epilog="Example: `omnistream run walk.mcap --out out/walk`, "
    "`omnistream run bag.bag --topic /camera/color/image_raw --out out/bag`, `omnistream run 0 --out out/live`"
)
def run(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Bag, video, image folder, or camera index.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    topic: Annotated[str | None, typer.Option(help="Image topic of a bag; found if not given.")] = None,
    model: Checkpoint = DEFAULT_CHECKPOINT,
    window: Window = 16,
    sink: Sink = 1,
    device: Device = "cpu",
    dtype: Precision = "float32",
    only: Annotated[
        str | None, typer.Option(help="Comma-separated outputs: depth,features,points,trajectory,rerun,summary.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.", min=1)] = None,
    rate_hz: Annotated[float, typer.Option(help="Frame rate of the videos.", min=0.1)] = 10.0,
) -> None:
    """Replay INPUT through a checkpoint, one frame at a time, and write depth, features, points and path."""
    from omnistream_core.replay import ReplayConfig

    config = ReplayConfig(outputs=_outputs(only), rate_hz=rate_hz, max_frames=max_frames)
    _replay(source, topic, model, _stream_config(window, sink, device, dtype), out, config)


@app.command(epilog="Example: `omnistream demo --out out/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    model: Checkpoint = DEFAULT_CHECKPOINT,
) -> None:
    """Replay the recorded camera stream that comes with OmniStream."""
    from omnistream_core.replay import ReplayConfig

    _replay(str(DEMO_RECORDING), None, model, StreamConfig(), out, ReplayConfig())


@app.command(epilog="Example: `omnistream info omnistream-tiny`, `omnistream info walk.mcap`")
def info(what: Annotated[str, typer.Argument(metavar="WHAT", help="Checkpoint or recording.")]) -> None:
    """Say what a checkpoint or a recording holds."""
    facts = _checkpoint_facts(what) if _is_checkpoint(what) else _source_facts(what)
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(f"[bold]{key}", value if isinstance(value, str) else json.dumps(value, default=str))
    Console().print(table)


@app.command(epilog="Example: `omnistream convert path/to/official out/official-as-ours --dtype bfloat16`")
def convert(
    checkpoint: Annotated[str, typer.Argument(help="Official release, DINOv3 of transformers, or one of ours.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    dtype: Precision = "float32",
    stream: Annotated[bool, typer.Option(help="DINOv3: switch time on and add a camera token.")] = False,
) -> None:
    """Write a checkpoint in our layout: config.json and model.safetensors."""
    import torch

    from omnistream_core.checkpoint import read_checkpoint, resolve, with_time, write_checkpoint

    config, tensors = read_checkpoint(resolve(checkpoint))
    if stream:
        config, tensors = with_time(config, tensors)
    kind = getattr(torch, StreamConfig(dtype=dtype).dtype)  # type: ignore[arg-type]
    try:
        write_checkpoint(out, config, {k: v.to(kind) for k, v in tensors.items()})
    except OSError as error:
        raise OmniStreamError(f"{out}: {error.strerror}") from error
    Console().print(f"{len(tensors)} tensors, {sum(v.numel() for v in tensors.values()) / 1e6:.2f} M values -> {out}")


@app.command(epilog="Example: `omnistream verify path/to/checkpoint recorded/io.safetensors --tol 1e-4`")
def verify(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of any layout.")],
    recording: Annotated[Path, typer.Argument(metavar="IO.safetensors", help="Recorded inputs and outputs.")],
    tol: Annotated[float, typer.Option(help="Largest difference allowed.", min=0)] = 1e-4,
) -> None:
    """Replay recorded inputs and print the largest difference of every recorded tensor; exit code 1 above TOL."""
    from omnistream_core.verify import verify as compare

    differences = compare(checkpoint, recording)
    table = Table("tensor", "largest difference", "")
    for name, value in differences.items():
        table.add_row(name, f"{value:.2e}", "ok" if value <= tol else "[red]above tolerance")
    Console().print(table)
    if not all(value <= tol for value in differences.values()):
        raise typer.Exit(1)


@app.command(epilog="Example: `omnistream export out/step.onnx --size 96x128 --window 8`")
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 for an AOTInductor package.")],
    model: Checkpoint = DEFAULT_CHECKPOINT,
    size: Annotated[str, typer.Option(help="Rows x columns of the model's image, pixels.")] = "224x224",
    window: Annotated[int, typer.Option(help="Recent frames kept in memory.", min=1)] = 16,
    sink: Sink = 1,
    device: Device = "cpu",
    dtype: Precision = "float32",
) -> None:
    """Write the streaming step, its memory an explicit state, for ONNX Runtime, TensorRT or AOTInductor."""
    import torch

    from omnistream_core.export import StreamStep
    from omnistream_core.export import export as write
    from omnistream_core.model import OmniStreamModel

    forms = {".onnx": "onnx", ".pt2": "aoti"}
    if out.suffix not in forms or not re.fullmatch(r"\d+x\d+", size):
        raise ConfigError(f"export to {out.name!r} at {size!r}: a file of {sorted(forms)} and ROWSxCOLUMNS are needed")
    kind = getattr(torch, StreamConfig(dtype=dtype).dtype)  # type: ignore[arg-type]
    loaded = OmniStreamModel.from_pretrained(model, device=device, dtype=kind)
    rows, columns = (int(n) for n in size.split("x"))
    step = StreamStep(loaded, image_hw=(rows, columns), window=window, sink=sink)
    Console().print(f"{write(step, out, forms[out.suffix])}: {len(step.state_names)} tensors of state, window {window}")


@app.command(epilog="Example: `omnistream bench --official path/to/checkout --json out/bench.json`")
def bench(
    json_file: JsonFile = None,
    preset: Annotated[str, typer.Option(help="Size of the model: tiny, small, base, large.")] = "small",
    size: Annotated[int, typer.Option(help="Side of the square image, pixels.", min=16)] = 224,
    frames: Annotated[str, typer.Option(help="Comma-separated numbers of the frames to time.")] = "20,40",
    dtypes: Annotated[str, typer.Option(help="Comma-separated: float32,bfloat16,float16.")] = "float32,bfloat16",
    window: Annotated[int, typer.Option(help="Recent frames of the bounded memory.", min=1)] = 8,
    sink: Sink = 1,
    device: Device = "cpu",
    engine: Annotated[str, typer.Option(help="auto, torch or native.")] = "auto",
    threads: Annotated[int, typer.Option(help="Threads of torch and of the native kernels.", min=1)] = 2,
    repeats: Annotated[int, typer.Option(help="Of every step; the median counts.", min=2)] = 7,
    official: Annotated[Path | None, typer.Option(help="Checkout of the official release, timed in turn.")] = None,
) -> None:
    """Time one live frame against what this machine could do at best, by stage, and against the official release."""
    from omnistream_core.bench.report import tables
    from omnistream_core.bench.run import BenchConfig, bench

    config = BenchConfig(
        preset=preset,
        size_px=size,
        frames=tuple(int(n) for n in frames.split(",")),
        dtypes=tuple(dtypes.split(",")),
        window=window,
        sink=sink,
        device=device,
        engine=engine,
        threads=threads,
        repeats=repeats,
        official=official,
    )
    console = Console()
    figures = bench(config, say=console.print)
    for table in tables(figures):
        console.print(table)
    _write_json(figures, json_file)


@eval_app.command("folder", epilog="Example: `omnistream eval folder --root hololens_office --json out/eval.json`")
def eval_folder(
    root: Annotated[Path, typer.Option(help="Folder with rgb/, depth/, intrinsics.json, poses.txt.")],
    json_file: JsonFile = None,
    model: Checkpoint = DEFAULT_CHECKPOINT,
    window: Window = 16,
    sink: Sink = 1,
    device: Device = "cpu",
    dtype: Precision = "float32",
) -> None:
    """Streamed depth and pose of a folder of images against its truth."""
    from omnistream_core.evaluation.stream import evaluate
    from omnistream_core.sources import open_source

    with open_source(root) as source:
        session = _session(model, _stream_config(window, sink, device, dtype))
        with _progress() as progress:
            _report(evaluate(session, progress.track(source, total=source.length, description=source.name)), json_file)


@eval_app.command("flicker", epilog="Example: `omnistream eval flicker bedroom.mp4 --max-frames 200`")
def eval_flicker(
    source_name: Annotated[str, typer.Argument(metavar="INPUT", help="Video, bag or image folder; needs no truth.")],
    json_file: JsonFile = None,
    model: Checkpoint = DEFAULT_CHECKPOINT,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.", min=2)] = None,
    window: Window = 16,
    sink: Sink = 1,
    device: Device = "cpu",
    dtype: Precision = "float32",
) -> None:
    """Change of streamed depth from frame to frame, followed by optical flow."""
    from itertools import islice

    from omnistream_core.evaluation.flicker import flicker
    from omnistream_core.sources import open_source

    with open_source(source_name) as source:
        session = _session(model, _stream_config(window, sink, device, dtype))
        with _progress() as progress:
            total = _total(source.length, max_frames)
            frames = progress.track(islice(source, max_frames), total=total, description=Path(source.name).name)
            _report(flicker(session, frames), json_file)


@eval_app.command(
    "world",
    epilog="Example: `omnistream eval world --json out/world.json`, `omnistream eval world --quick --probes jf,knn`",
)
def eval_world(
    json_file: JsonFile = None,
    model: Checkpoint = DEFAULT_CHECKPOINT,
    probes: Annotated[str | None, typer.Option(help="Comma-separated probes; all if not given.")] = None,
    clips: Annotated[int, typer.Option(help="Held-out clips that are judged.", min=1)] = 64,
    fit_clips: Annotated[
        int, typer.Option(help="Held-out clips of other seeds that probes are fitted on.", min=4)
    ] = 128,
    frames: Annotated[int, typer.Option(help="Frames of a clip.", min=4)] = 16,
    quick: Annotated[bool, typer.Option(help="A quarter of the clips, no questions: for milestones.")] = False,
    compare: Annotated[bool, typer.Option(help="Judge a random backbone beside; takes twice as long.")] = True,
    window: Window = 16,
    sink: Sink = 1,
    device: Device = "cpu",
    dtype: Precision = "float32",
) -> None:
    """Depth, pose, and probes of frozen features on held-out clips of the procedural world, random beside."""
    from omnistream_core.evaluation.world import WorldEvaluation, evaluate_world
    from omnistream_core.model import OmniStreamModel
    from omnistream_core.pretraining.world import WorldConfig

    config = WorldEvaluation(judge_clips=clips, fit_clips=fit_clips, world=WorldConfig(frames=frames), compared=compare)
    if quick:
        config = config.quick()
    if probes is not None:
        config = replace(config, probes=tuple(name.strip() for name in probes.split(",")))
    stream = _stream_config(window, sink, device, dtype)
    with Console(stderr=True).status("starting") as status:
        figures = evaluate_world(OmniStreamModel.from_pretrained(model), stream, config, on_stage=status.update)
    _compare(figures)
    _write_json(figures, json_file)


def main() -> None:
    """Entry point."""
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        app(standalone_mode=True)
    except OmniStreamError as error:
        sys.stderr.write(f"omnistream: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("omnistream: interrupted; what was written so far is kept\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replay(source_name: str, topic: str | None, model: str, stream: StreamConfig, out: Path, config: Any) -> None:
    from omnistream_core.replay import replay
    from omnistream_core.sources import open_source

    with open_source(source_name, topic=topic) as source:
        session = _session(model, stream)
        with _progress() as progress:
            task = progress.add_task(Path(source.name).name, total=_total(source.length, config.max_frames))
            summary = replay(source, session, out, config, on_frame=lambda done: progress.update(task, completed=done))
    _report(summary, None)
    Console().print(f"results in [bold]{out}[/]: " + ", ".join(sorted(p.name for p in out.iterdir())))


def _session(model: str, stream: StreamConfig) -> Any:
    from omnistream_core.session import StreamSession

    return StreamSession.from_pretrained(model, stream)


def _stream_config(window: int, sink: int, device: str, dtype: str) -> StreamConfig:
    return StreamConfig(window=window or None, sink=sink, device=device, dtype=dtype)  # type: ignore[arg-type]


def _outputs(only: str | None) -> tuple[str, ...]:
    from omnistream_core.replay import OUTPUTS

    chosen = tuple(OUTPUTS) if only is None else tuple(name.strip() for name in only.split(",") if name.strip())
    unknown = [name for name in chosen if name not in OUTPUTS]
    if unknown or not chosen:
        raise ConfigError(f"--only {only!r}: choose from {', '.join(OUTPUTS)}")
    return chosen


def _total(length: int | None, max_frames: int | None) -> int | None:
    known = [n for n in (length, max_frames) if n is not None]
    return min(known) if known else None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _report(figures: dict[str, Any], json_file: Path | None) -> None:
    table = Table(show_header=False, box=None)
    for key, value in figures.items():
        table.add_row(f"[bold]{key}", _shown(value))
    Console().print(table)
    _write_json(figures, json_file)


def _compare(figures: dict[str, Any]) -> None:
    """Figures with those of the random backbone and of the baseline beside them."""
    table = Table("", "model", "random", "baseline", box=None)
    for key, value in figures.items():
        if not key.startswith(("random.", "baseline.")):
            others = (figures.get(f"{prefix}.{key}") for prefix in ("random", "baseline"))
            table.add_row(f"[bold]{key}", *("" if v is None else _shown(v) for v in (value, *others)))
    Console().print(table)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_json(figures: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(figures, indent=1) + "\n")
        except OSError as error:
            raise OmniStreamError(f"{json_file}: {error.strerror}") from error


def _is_checkpoint(what: str) -> bool:
    from omnistream_core.checkpoint import CONFIG_NAME, bundled_names

    path = Path(what)
    return what in bundled_names() or path.suffix == ".safetensors" or (path / CONFIG_NAME).exists()


def _checkpoint_facts(what: str) -> dict[str, Any]:
    from omnistream_core.cache import KVCache
    from omnistream_core.checkpoint import read_checkpoint, resolve
    from omnistream_core.preprocess import model_size_hw

    folder = resolve(what)
    config, tensors = read_checkpoint(folder)
    size_hw = model_size_hw(config.preprocess, (480, 640), config.backbone.patch_px)
    grid_hw = (size_hw[0] // config.backbone.patch_px, size_hw[1] // config.backbone.patch_px)
    dtype = next(iter(tensors.values())).dtype
    frame_bytes = KVCache.bytes_needed(config.backbone, grid_hw=grid_hw, frames=1, dtype=dtype)
    return {
        "checkpoint": str(folder),
        "parameters": f"{sum(v.numel() for v in tensors.values()) / 1e6:.2f} M in {len(tensors)} tensors, {dtype}",
        "input of a 640x480 image": f"{size_hw[1]}x{size_hw[0]} px, {grid_hw[1]}x{grid_hw[0]} patches",
        "memory of a frame": f"{frame_bytes / 2**20:.3f} MB",
        **{k: v for k, v in config.to_dict().items() if v is not None},
    }


def _source_facts(what: str) -> dict[str, Any]:
    from omnistream_core.sources import open_source

    with open_source(what) as source:
        facts = source.describe()
    topics = facts.pop("topics", {})
    shown = {name: topic for name, topic in topics.items() if topic["type"].rsplit("/")[-1] in SHOWN_TYPES}
    facts |= {f"topic {name}": f"{topic['type']}, {topic['count']} messages" for name, topic in shown.items()}
    if len(topics) > len(shown):
        facts["other topics"] = str(len(topics) - len(shown))
    return facts


if __name__ == "__main__":
    main()
