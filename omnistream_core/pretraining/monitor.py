"""What a run tells of itself: a JSON line, TensorBoard, a progress bar, pictures; speed and memory.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from omnistream_core.bench.machine import product_flops_per_s
from omnistream_core.pretraining.config import TrainConfig
from omnistream_core.pretraining.parallel import Processes

if TYPE_CHECKING:
    from omnistream_core.pretraining.learner import Learner, TaskBatch

logger = logging.getLogger(__name__)


class Monitor:
    """Log, TensorBoard and progress bar of the first process; silent in the others.

    Args:
        since_step: step that a run goes on from; later lines of an earlier start are dropped from the log.
    """

    def __init__(self, config: TrainConfig, folder: Path, processes: Processes, *, since_step: int) -> None:
        self.config, self.folder, self.active = config, folder, processes.first
        self.speed = Speedometer(config)
        self._log = folder / "log.jsonl"
        self._board: Any = None
        self._bar: Any = None
        if self.active and self._log.exists():
            lines = [line for line in self._log.read_text().splitlines() if json.loads(line)["step"] <= since_step]
            self._log.write_text("".join(line + "\n" for line in lines))

    def __enter__(self) -> Monitor:
        if self.active:
            self._board = _tensorboard(self.folder)
            self._bar = _progress_bar()
            self._bar.start()
            self._bar.add_task("pre-training", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._bar.stop()
            if self._board is not None:
                self._board.close()

    def after_step(self, step: int, frames: int, elapsed_s: float, progress: float, terms: dict[str, float]) -> None:
        """Tell of one step."""
        self.speed.tick(frames)
        if not self.active:
            return
        self._bar.update(0, completed=progress, description=f"step {step}  loss {sum(terms.values()):.3f}")
        if step % self.config.log_every:
            return
        speed = self.speed.figures()
        facts = {"step": step, "frames": frames, "elapsed_s": round(elapsed_s, 1)} | speed
        line = json.dumps(facts | {k: float(f"{v:.9g}") for k, v in terms.items()})  # 9 digits hold a float32 whole
        with self._log.open("a") as log:
            log.write(line + "\n")
        logger.info(line)
        if self._board is not None:
            for name, value in (terms | speed).items():
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, learner: Learner, batch: TaskBatch | None) -> None:
        """Images with true and predicted depth of a geometry batch, to TensorBoard and as a file.

        All processes call it: sharded weights are gathered from all.
        """
        if batch is None or batch.truth is None or batch.images_BT3HW is None:
            return
        from torchvision.utils import save_image

        sheet = depth_sheet(learner, batch)
        if not self.active:
            return
        save_image(sheet, self.folder / "sample.png")
        if self._board is not None:
            self._board.add_image("depth", sheet, step)


class Speedometer:
    """Frames a second since the last look, model FLOP utilisation, peak memory.

    The FLOPs of a step are counted, forward and backward, on the first one; the peak that they are held against is a
    large matrix product of the same dtype, measured once.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.device = config.device
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.peak_flops = product_flops_per_s(dtype, torch.device(config.device), repeats=2)
        self.step_flops, self._counted = 0, False
        self.begin(0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add what is computed inside to the FLOPs of a step, until the first step is done.

        Compiled functions run as they are written meanwhile: under a counter, torch would give them up for good.
        """
        if self._counted:
            yield
            return
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            yield
        self.step_flops += counter.get_total_flops()

    def begin(self, frames: int) -> None:
        """Look from now on; ``frames`` have been trained on before."""
        self._time, self._frames, self._last, self._steps = time.monotonic(), frames, frames, 0

    def tick(self, frames: int) -> None:
        """A step is done; ``frames`` have been trained on so far."""
        self._last, self._counted = frames, True
        self._steps += 1

    def figures(self) -> dict[str, float]:
        """``frames_per_s`` and ``mfu`` since the last call, ``peak_memory_gb``."""
        now = time.monotonic()
        seconds = max(1e-6, now - self._time)
        rate, used = (self._last - self._frames) / seconds, self._steps * self.step_flops / seconds
        self._time, self._frames, self._steps = now, self._last, 0
        return {
            "frames_per_s": round(rate, 1),
            "mfu": round(used / self.peak_flops, 4),
            "peak_memory_gb": round(peak_memory_bytes(self.device) / 1e9, 2),
        }


def peak_memory_bytes(device: str) -> int:
    """Most memory held so far: of the device, or of this process on a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def depth_sheet(learner: Learner, batch: TaskBatch, *, clips: int = 4) -> Tensor:
    """(3, 3 * clips * H, T * W) in [0, 1]: for each clip a row of images, of true and of predicted depth."""
    assert batch.images_BT3HW is not None and batch.truth is not None
    images = batch.images_BT3HW[:clips]
    geometry = learner.predict(images)
    assert geometry is not None
    true = batch.truth.depth_m_BTHW[:clips]
    rows = []
    for b in range(len(images)):
        near = 1 / true[b].clamp(min=0.1).flatten().quantile(0.02)
        depths = (true[b], geometry.depth_m_BTHW[b].float())
        shades = [(1 / d.clamp(min=0.1) / near).clamp(0, 1)[:, None].expand(-1, 3, -1, -1) for d in depths]
        rows += [torch.cat(list(x), dim=-1) for x in (images[b].float() / 255, *shades)]
    return torch.cat(rows, dim=-2).cpu()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard: pip install tensorboard (extra train)")
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _progress_bar() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
