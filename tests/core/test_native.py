"""The native path gives the plain path's numbers: every memory, policy and precision, streams that come and go.

Bounds: 2e-5 of the largest value in float32; in bfloat16 no further from float32 than the plain path in bfloat16 is;
memories of fewer bits as stated. Shape letters: B streams, T frames, H W pixels.
"""

from __future__ import annotations

import copy
import ctypes
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistream_core import native
from omnistream_core.cache import KVCache, ScaledKVCache
from omnistream_core.config import BackboneConfig, ModelConfig, StreamConfig
from omnistream_core.model import build_model
from omnistream_core.native import NativeUnavailable
from omnistream_core.packed import NativeBackbone
from omnistream_core.retention import Everything, Older, Recent
from omnistream_core.session import StreamSession

try:
    HAS_BFLOAT16 = bool(native.kernels().multiplies_bfloat16())
    HAS_INT8 = bool(native.kernels().multiplies_int8())
except NativeUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

FIELDS = {"width": 128, "depth": 3, "heads": 2, "levels": (0, 1, 2), "patch_px": 4, "layer_scale_init": 0.5}
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
needs_int8 = pytest.mark.skipif(not HAS_INT8, reason="this processor does not multiply int8")
PRECISIONS = ["float32", pytest.param("bfloat16", marks=needs_bfloat16)]
policies = st.one_of(
    st.just(Everything()),
    st.builds(Recent, window=st.integers(1, 4), sink=st.integers(0, 2)),
    st.builds(
        Older, window=st.integers(1, 3), sink=st.integers(0, 1), older=st.integers(1, 2), every=st.integers(1, 3),
        mean=st.booleans(),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Small products on a busy machine: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images_of(streams: int, frames: int, grid_hw: tuple[int, int] = (3, 5), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(streams, frames, 3, 4 * grid_hw[0], 4 * grid_hw[1], generator=generator)


def everything_in(output) -> dict[str, torch.Tensor]:
    names = ("patches_BTND", "cls_BTD", "cam_BTD", "registers_BTRD")
    named = {name: getattr(output, name) for name in names}
    named |= {f"level {n}": level for n, level in enumerate(output.levels_BTND)}
    return {name: value for name, value in named.items() if value is not None}


def largest_difference(found, expected) -> float:
    """Of all outputs, as a part of the largest value expected."""
    pairs = zip(everything_in(found).values(), everything_in(expected).values(), strict=True)
    return max(float((a.float() - b.float()).abs().max() / b.abs().max()) for a, b in pairs)


def mean_difference(found, expected) -> float:
    pairs = zip(everything_in(found).values(), everything_in(expected).values(), strict=True)
    return max(float((a.float() - b.float()).abs().mean() / b.float().abs().mean()) for a, b in pairs)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    keeps=policies,
    streams=st.integers(1, 3),
    grid_hw=st.tuples(st.integers(1, 4), st.integers(1, 9)),
    chunks=st.lists(st.integers(1, 3), min_size=3, max_size=6),
    layout=st.sampled_from(["paired", "official"]),
    camera_token=st.booleans(),
    block_frames=st.integers(1, 3),
)
@torch.inference_mode()
def test_native_is_plain_in_float32(make_backbone, keeps, streams, grid_hw, chunks, layout, camera_token, block_frames):
    backbone = make_backbone(**FIELDS | {"rope_layout": layout, "camera_token": camera_token})
    fast = NativeBackbone(backbone)
    memory = {"grid_hw": grid_hw, "streams": streams, "keeps": keeps, "block_frames": block_frames}
    plain, packed = KVCache(backbone.config, **memory), fast.memory(**memory)
    for number, chunk in enumerate(chunks):
        images = images_of(streams, chunk, grid_hw, seed=number)
        assert largest_difference(fast(images, packed), backbone(images, plain)) < 2e-5
        assert [packed.fill(row) for row in range(streams)] == [plain.fill(row) for row in range(streams)]
        assert [packed.frame_count(row) for row in range(streams)] == [plain.frame_count(row) for row in range(streams)]


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    keeps=policies,
    schedule=st.lists(
        st.tuples(st.permutations(range(3)), st.integers(1, 3), st.sets(st.integers(0, 2), max_size=1)),
        min_size=4,
        max_size=8,
    ),
)
@torch.inference_mode()
def test_streams_step_and_reset_alone(make_backbone, keeps, schedule):
    backbone = make_backbone(**FIELDS)
    fast = NativeBackbone(backbone)
    plain = KVCache(backbone.config, grid_hw=(2, 3), streams=3, keeps=keeps, block_frames=2)
    packed = fast.memory(grid_hw=(2, 3), streams=3, keeps=keeps, block_frames=2)
    for moment, (order, count, resets) in enumerate(schedule):
        for cache in (plain, packed):
            cache.reset(resets)
        rows, images = list(order[:count]), images_of(count, 1, (2, 3), seed=moment)
        assert largest_difference(fast(images, packed, rows=rows), backbone(images, plain, rows=rows)) < 2e-5


@needs_bfloat16
@pytest.mark.parametrize("window", [None, 3])
@torch.inference_mode()
def test_bfloat16_is_no_worse_than_plain_bfloat16(make_backbone, window):
    exact, half = make_backbone(**FIELDS), make_backbone(**FIELDS).bfloat16()
    fast = NativeBackbone(half, torch.bfloat16)
    caches = [
        KVCache(exact.config, grid_hw=(3, 5), window=window),
        KVCache(exact.config, grid_hw=(3, 5), window=window, dtype=torch.bfloat16),
        fast.memory(grid_hw=(3, 5), window=window),
    ]
    for t in range(10):
        image = images_of(1, 10)[:, t : t + 1]
        expected, plain = exact(image, caches[0]), half(image.bfloat16(), caches[1])
        found = fast(image.bfloat16(), caches[2])
        assert found.patches_BTND.dtype == torch.bfloat16
        worst = mean_difference(plain, expected)
        print(f"frame {t}: native {mean_difference(found, expected):.4f}, plain {worst:.4f}")
        assert 1e-4 < mean_difference(found, expected) < 1.1 * worst


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("kept", "bound"), [("bfloat16", 0.02), ("int8", 0.03)])
@torch.inference_mode()
def test_memories_of_fewer_bits_stay_close(make_backbone, dtype, kept, bound):
    """And int8 is the same int8 as the plain path's, where that multiplies in float32."""
    kept, multiplied = getattr(torch, kept), getattr(torch, dtype)
    backbone = make_backbone(**FIELDS)
    fast = NativeBackbone(backbone, multiplied)
    exact, packed = (
        KVCache(backbone.config, grid_hw=(3, 5), window=4),
        fast.memory(grid_hw=(3, 5), window=4, dtype=kept),
    )
    assert packed.nbytes < 0.65 * exact.nbytes * (1 if kept == torch.bfloat16 else 0.6)
    for t in range(12):
        image = images_of(1, 12)[:, t : t + 1]
        difference = mean_difference(fast(image, packed), backbone(image, exact))
        print(f"{kept} frame {t}: {difference:.4f}")
        assert 0 < difference < bound


def rounded_linear(x_MK: torch.Tensor, weight_NK: torch.Tensor, bias_N: torch.Tensor) -> torch.Tensor:
    """A product as int8 weights define it, in exact whole numbers: each row a byte between its least and largest."""
    least_M1, unit_N1 = x_MK.amin(-1, keepdim=True), weight_NK.abs().amax(-1, keepdim=True) / 127
    unit_M1 = (x_MK.amax(-1, keepdim=True) - least_M1) / 255
    bytes_MK, whole_NK = ((x_MK - least_M1) / unit_M1).round(), (weight_NK / unit_N1).round()
    return (bytes_MK * unit_M1 + least_M1).double() @ (whole_NK * unit_N1).double().T + bias_N


class RoundedLinear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rounded_linear(x.flatten(0, -2), self.weight, self.bias).to(x.dtype).unflatten(0, x.shape[:-1])


def with_rounded_linears(backbone):
    """LayerScale becomes part of the weights first, as in the kernels."""
    backbone = copy.deepcopy(backbone)
    for block in backbone.blocks:
        for layer, scale in ((block.attn.proj, block.scale1), (block.mlp.fc2, block.scale2)):
            layer.weight.data *= scale[:, None]
            layer.bias.data *= scale
            scale.data.fill_(1)
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            layer.__class__ = RoundedLinear
    return backbone


@needs_int8
@pytest.mark.parametrize("streams", [1, 3])
@torch.inference_mode()
def test_int8_weights_are_the_rounding_that_is_documented(make_backbone, streams):
    """One block, first frames: further on, values between two bytes fall to either side and differences grow."""
    backbone = make_backbone(**FIELDS | {"depth": 1, "levels": (0,)})
    fast, images, rows = NativeBackbone(backbone, weight_dtype=torch.int8), images_of(streams, 1), list(range(streams))
    found = fast(images, fast.memory(grid_hw=(3, 5), streams=streams))
    expected, exact = (
        model(images, KVCache(backbone.config, grid_hw=(3, 5), streams=streams), rows=rows)
        for model in (with_rounded_linears(backbone), backbone)
    )
    from_exact = mean_difference(found, exact)
    print(f"{mean_difference(found, expected):.1e} from the definition, {from_exact:.1e} from float32")
    assert mean_difference(found, expected) < 1e-4
    assert 1e-3 < from_exact < 0.03


@needs_int8
@pytest.mark.parametrize("dtype", PRECISIONS)
@torch.inference_mode()
def test_int8_weights_stay_close_over_a_stream(make_backbone, dtype):
    backbone = make_backbone(**FIELDS)
    fast = NativeBackbone(backbone, getattr(torch, dtype), weight_dtype=torch.int8)
    exact, packed = KVCache(backbone.config, grid_hw=(3, 5), window=4), fast.memory(grid_hw=(3, 5), window=4)
    for t in range(12):
        image = images_of(1, 12)[:, t : t + 1]
        difference = mean_difference(fast(image, packed), backbone(image, exact))
        print(f"{dtype}, int8 weights, frame {t}: {difference:.4f}")
        assert 0 < difference < 0.06


@needs_int8
def test_a_session_with_int8_weights_is_native_or_refused():
    model = build_model(ModelConfig(backbone=BackboneConfig(**FIELDS), heads=None))
    assert StreamSession(model, StreamConfig(weight_dtype="int8")).engine == "native"
    narrow = ModelConfig(backbone=BackboneConfig(**(FIELDS | {"heads": 4})), heads=None)
    with pytest.raises(NativeUnavailable, match="heads of 32 channels"):
        StreamSession(build_model(narrow), StreamConfig(weight_dtype="int8"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@torch.inference_mode()
def test_a_plain_memory_of_one_byte_stays_close(make_backbone, dtype):
    """Also when a later frame is a hundred times as loud, and when one stream is reset."""
    backbone = make_backbone(**FIELDS)
    for keeps in (Recent(window=4), Older(window=2, older=2, every=2)):
        exact = KVCache(backbone.config, grid_hw=(3, 5), streams=2, keeps=keeps)
        small = ScaledKVCache(backbone.config, grid_hw=(3, 5), streams=2, keeps=keeps, dtype=dtype)
        assert small.nbytes < 0.3 * exact.nbytes
        for t in range(10):
            if t == 6:
                exact.reset([1]), small.reset([1])
            image = images_of(2, 10)[:, t : t + 1] * (100 if t == 4 else 1)
            difference = mean_difference(backbone(image, small, rows=[0, 1]), backbone(image, exact, rows=[0, 1]))
            print(f"{dtype} frame {t}: {difference:.4f}")
            assert 0 < difference < (0.04 if dtype == torch.int8 else 0.12)  # 7 bits; 3 bits of mantissa


@torch.inference_mode()
def test_int8_forgets_its_scales_with_the_stream(make_backbone):
    fast = NativeBackbone(make_backbone(**FIELDS))
    used, fresh = (fast.memory(grid_hw=(3, 5), window=2, dtype=torch.int8) for _ in range(2))
    fast(100 * images_of(1, 3, seed=7), used)
    used.reset()
    for t in range(4):
        image = images_of(1, 4)[:, t : t + 1]
        assert torch.equal(fast(image, used).patches_BTND, fast(image, fresh).patches_BTND)


@torch.inference_mode()
def test_threads_change_nothing(make_backbone):
    """Bitwise: work is shared by whole rows of a product."""
    fast, found = NativeBackbone(make_backbone(**FIELDS)), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(fast(images_of(2, 4), fast.memory(grid_hw=(3, 5), streams=2, window=2)).patches_BTND)
    assert torch.equal(*found)


@torch.no_grad()
def test_changed_weights_are_seen(make_backbone):
    """A session may outlive a step of training."""
    backbone = make_backbone(seed=3, **FIELDS)
    fast = NativeBackbone(backbone)
    before = fast(images_of(1, 1), fast.memory(grid_hw=(3, 5))).patches_BTND
    backbone.blocks[1].mlp.fc1.weight.mul_(1.5)
    found = fast(images_of(1, 1), fast.memory(grid_hw=(3, 5))).patches_BTND
    expected = backbone(images_of(1, 1), KVCache(backbone.config, grid_hw=(3, 5))).patches_BTND
    assert not torch.allclose(before, found, atol=1e-2)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_session_takes_the_native_path_where_it_serves():
    wide = ModelConfig(backbone=BackboneConfig(**FIELDS), heads=None)
    narrow = ModelConfig(backbone=BackboneConfig(**FIELDS | {"heads": 4}), heads=None)
    assert StreamSession(build_model(wide)).engine == "native"
    assert StreamSession(build_model(wide), StreamConfig(engine="torch")).engine == "torch"
    assert StreamSession(build_model(wide), StreamConfig(dtype="float16")).engine == "torch"
    assert StreamSession(build_model(narrow)).engine == "torch"
    with pytest.raises(NativeUnavailable, match="heads of 32 channels"):
        StreamSession(build_model(narrow), StreamConfig(engine="native"))


def test_a_memory_of_another_size_is_refused(make_backbone):
    fast = NativeBackbone(make_backbone(**FIELDS))
    with pytest.raises(ValueError, match="do not fit a cache of"):
        fast(images_of(1, 1), fast.memory(grid_hw=(2, 2)))
    with pytest.raises(ValueError, match="rows"):
        fast(images_of(2, 1), fast.memory(grid_hw=(3, 5)))


def test_without_a_compiler_torch_does_the_work(tmp_path):
    """A real process whose compiler fails: the session falls back and says why when asked for native."""
    code = (
        "from omnistream_core import StreamSession, StreamConfig\n"
        "print(StreamSession.from_pretrained('omnistream-tiny').engine)\n"
        "try: StreamSession.from_pretrained('omnistream-tiny', StreamConfig(engine='native'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {
        "PATH": "/nowhere",
        "CXX": "/bin/false",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.startswith("torch\nNativeUnavailable /bin/false cannot build"), done.stdout + done.stderr


def test_one_openmp_runtime():
    """A second one would fight with torch's for the cores. In a process of its own: other libraries bring theirs."""
    program = """
from omnistream_core import native
native.kernels()
print(*{line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    torchs = {path for path in found if "/torch" in path}
    assert found and (found == torchs or not torchs)


def test_records_have_the_size_that_the_kernels_expect():
    """Twelve, three and twenty-three fields, in the order of ``blocks.cpp``."""
    assert [ctypes.sizeof(kind) for kind in (native.Block, native.Layer)] == [96, 24]
    text = native.SOURCE.read_text()
    body = text[text.index("struct Call {") : text.index("};", text.index("struct Call {"))]
    places = [body.index(f"{name}") for name, _ in native.Call._fields_ if name not in ("x", "q", "eps")]
    assert places == sorted(places)
