"""Off-screen rendering of a MuJoCo model: RGB, depth in metres and geom ids, all upright.

One GL context serves all cameras of an environment. The backend is chosen here and not by robosuite, which takes EGL
for granted.
"""

from __future__ import annotations

import ctypes.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerobot_env_omnistream.errors import SimError

if TYPE_CHECKING:
    import mujoco

BACKENDS = ("auto", "egl", "osmesa")
HOW_TO_GET = (
    "install one (Debian, Ubuntu: apt-get install libegl1 for EGL, libosmesa6 for OSMesa) "
    "and choose it with MUJOCO_GL=egl or MUJOCO_GL=osmesa"
)
# Of robosuite: group 0 is what collides.
VISUAL_GEOM_GROUPS, UNSEEN_GEOM_GROUP = (1, 2), 5
MAX_GEOMS = 10_000


def choose_backend(wanted: str = "auto") -> str:
    """``egl`` or ``osmesa``: what is asked for, else MUJOCO_GL, else EGL on a GPU, else OSMesa, else EGL in software.

    Also sets MUJOCO_GL, so that MuJoCo and robosuite, imported later, load no other.

    Raises:
        SimError: the machine has no renderer, or MUJOCO_GL names another.
    """
    asked = wanted if wanted != "auto" else os.environ.get("MUJOCO_GL", "").lower().strip()
    backend = asked or _best_backend()
    if backend not in BACKENDS[1:]:
        raise SimError(f"renderer {backend!r} draws no images without a screen; choose one of egl, osmesa")
    os.environ["MUJOCO_GL"] = backend
    return backend


def _best_backend() -> str:
    has_egl, has_osmesa = (ctypes.util.find_library(name) is not None for name in ("EGL", "OSMesa"))
    if has_egl and (Path("/dev/nvidia0").exists() or not has_osmesa):
        return "egl"
    if has_osmesa:
        return "osmesa"
    raise SimError(f"this machine has no renderer: {HOW_TO_GET}")


def _make_context(backend: str, height_px: int, width_px: int) -> Any:
    """A current GL context of at least the given size."""
    os.environ.setdefault("PYOPENGL_PLATFORM", backend)
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        context = GLContext(width_px, height_px)
        context.make_current()
    except Exception as error:  # PyOpenGL raises half a dozen unrelated types when a library is missing
        raise SimError(f"the renderer {backend} does not start ({error}): {HOW_TO_GET}") from error
    return context


class CameraRenderer:
    """Draws what the cameras of a model see, at one size. ``close`` frees the GL context.

    ``groups`` are the groups of geoms that are drawn.

    Nothing mirrors and nothing casts a shadow, either of which means drawing the scene once more; and what lies outside
    the picture is left out, since without a GPU the time goes into the triangles of the arm.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        height_px: int,
        width_px: int,
        backend: str = "auto",
        groups: tuple[int, ...] = VISUAL_GEOM_GROUPS,
    ):
        self._context = _make_context(choose_backend(backend), height_px, width_px)
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._size = (height_px, width_px)
        model.vis.global_.offheight, model.vis.global_.offwidth = height_px, width_px
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        flags = mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_REFLECTION] = self._scene.flags[flags.mjRND_SHADOW] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[list(groups)] = 1
        self._gpu = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gpu)
        self._gpu.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._viewport = mujoco.MjrRect(0, 0, width_px, height_px)

    def rgb(self, data: mujoco.MjData, camera_id: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._draw(data, camera_id, depth=False)[0]

    def rgb_and_depth(self, data: mujoco.MjData, camera_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8, and (H, W) float32: metres along the optical axis.

        With multisampling the renderer gives the depth of one sample, up to 0.4 pixels from the pixel's centre.
        """
        rgb_HW3, zbuffer_HW = self._draw(data, camera_id, depth=True)
        extent_m = self._model.stat.extent
        inverse_near, inverse_far = (
            1 / (plane * extent_m) for plane in (self._model.vis.map.znear, self._model.vis.map.zfar)
        )
        depth_HW = 1 / (inverse_far + zbuffer_HW.astype(np.float64) * (inverse_near - inverse_far))
        return rgb_HW3, depth_HW.astype(np.float32)

    def geom_ids(self, data: mujoco.MjData, camera_id: int) -> np.ndarray:
        """(H, W) int32: the geom that each pixel shows, -1 for none."""
        flags = self._scene.flags
        flags[self._mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[self._mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        try:
            colour_HW3 = self._draw(data, camera_id, depth=False)[0].astype(np.int32)
        finally:
            flags[self._mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[self._mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        geom_of_segment = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                geom_of_segment[geom.segid + 1] = geom.objid
        return geom_of_segment[colour_HW3 @ np.array([1, 2**8, 2**16])]

    def upload_texture(self, texture_id: int) -> None:
        """Makes a change of the model's ``tex_data`` visible."""
        self._context.make_current()
        self._mujoco.mjr_uploadTexture(self._model, self._gpu, texture_id)

    def close(self) -> None:
        if self._context is not None:
            self._context.make_current()
            self._gpu.free()
            self._context.free()
            self._context = None

    def _draw(self, data: mujoco.MjData, camera_id: int, *, depth: bool) -> tuple[np.ndarray, np.ndarray | None]:
        mujoco = self._mujoco
        camera = mujoco.MjvCamera()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
        self._context.make_current()
        groups = self._model.geom_group.copy()
        self._model.geom_group[~self._in_view(data, camera_id)] = UNSEEN_GEOM_GROUP
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, everything, self._scene)
        self._model.geom_group[:] = groups
        mujoco.mjr_render(self._viewport, self._scene, self._gpu)
        rgb_HW3 = np.empty((*self._size, 3), np.uint8)
        zbuffer_HW = np.empty(self._size, np.float32) if depth else None
        mujoco.mjr_readPixels(rgb_HW3, zbuffer_HW, self._viewport, self._gpu)
        return np.ascontiguousarray(rgb_HW3[::-1]), zbuffer_HW[::-1] if depth else None

    def _in_view(self, data: mujoco.MjData, camera_id: int) -> np.ndarray:
        """(geoms,) bool: whether any of the geom's bounding sphere lies within the camera's field of view."""
        radius_m = self._model.geom_rbound
        offset_m = data.geom_xpos - data.cam_xpos[camera_id]
        x_m, y_m, backward_m = (offset_m @ data.cam_xmat[camera_id].reshape(3, 3)).T
        tan_y = np.tan(np.radians(self._model.cam_fovy[camera_id]) / 2)
        tan_x = tan_y * self._size[1] / self._size[0]
        # Distance to the plane of the picture's nearer edge, positive outside.
        outside_x_m = (np.abs(x_m) + backward_m * tan_x) / np.hypot(1, tan_x)
        outside_y_m = (np.abs(y_m) + backward_m * tan_y) / np.hypot(1, tan_y)
        infinite = radius_m == 0
        return infinite | (np.maximum(outside_x_m, outside_y_m) <= radius_m)
