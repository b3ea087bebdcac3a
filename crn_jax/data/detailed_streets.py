"""Procedural street scenes in six moods: layouts as in `streets.py`, and photographs with more detail.

Nearly all that a photograph shows follows from its layout and its mood: every window, joint and lamp has its place in a
lattice, and the colour of a house, a car or a coat follows from its shape. A cascade can therefore learn sharp images. The mood
(noon, autumn, dusk, night, fog or snow) is the one choice that the layout hides, so a cascade with k = 6 can show them all.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageDraw, ImageFilter

from crn_jax.data.streets import CLASS, FIRST_INSTANCE, THINGS

MoodName = Literal["noon", "autumn", "dusk", "night", "fog", "snow"]
MOODS: tuple[MoodName, ...] = get_args(MoodName)

Color = tuple[int, int, int]
Light = tuple[float, float, float]
Paint = Sequence[float] | np.ndarray  # any RGB colour
Point = tuple[float, float, float]  # metres to the right of the camera, above the road, and ahead


@dataclasses.dataclass(frozen=True)
class Mood:
    """What light, air and season do to a street."""

    zenith: Color
    """The sky at the top; the clouds are as bright as the horizon."""
    horizon: Color
    """The sky and the air at the horizon."""
    ambient: Light
    """The light from everywhere, as factors of RGB."""
    sun: Light
    """The light from the left that is added where the sun shines."""
    leaves: tuple[Color, Color]
    """Leaves in the shade and in the light."""
    grass: Color
    clouds: float
    sight: float
    """The distance in metres at which the air hides all but 1/e of what is there."""
    lights: float = 0.0
    """How bright lamps and lit windows are."""
    snow: bool = False
    """Whether snow covers the ground and the roofs."""


MOOD: dict[MoodName, Mood] = {
    "noon": Mood((62, 124, 214), (196, 220, 240), (0.62, 0.68, 0.8), (0.5, 0.45, 0.34), ((34, 74, 26), (104, 150, 52)),
                 (104, 140, 62), 0.8, 450),
    "autumn": Mood((124, 160, 204), (250, 228, 180), (0.56, 0.52, 0.5), (0.64, 0.47, 0.24), ((146, 66, 22), (238, 164, 50)),
                   (150, 132, 62), 0.5, 260),
    "dusk": Mood((64, 58, 118), (252, 150, 92), (0.6, 0.45, 0.5), (0.0, 0.0, 0.0), ((34, 44, 32), (84, 82, 48)),
                 (84, 92, 56), 0.7, 200, lights=0.75),
    "night": Mood((6, 10, 28), (34, 42, 74), (0.22, 0.26, 0.4), (0.0, 0.0, 0.0), ((30, 52, 36), (78, 104, 62)),
                  (80, 100, 62), 0.25, 300, lights=1.0),
    "fog": Mood((186, 192, 196), (206, 210, 212), (0.74, 0.77, 0.8), (0.0, 0.0, 0.0), ((52, 74, 50), (96, 118, 76)),
                (110, 124, 84), 0.1, 24, lights=0.45),
    "snow": Mood((150, 174, 212), (226, 232, 242), (0.74, 0.8, 0.92), (0.22, 0.2, 0.14), ((84, 96, 104), (238, 243, 250)),
                 (232, 237, 246), 0.4, 140, snow=True),
}  # fmt: skip

_BRICKS: tuple[Color, ...] = ((168, 78, 62), (222, 206, 172), (126, 146, 168), (206, 152, 84), (152, 168, 142), (196, 172, 164))
_PAINTS: tuple[Color, ...] = ((188, 30, 34), (236, 236, 232), (34, 72, 168), (44, 46, 52), (226, 184, 42), (32, 120, 92))
_COATS: tuple[Color, ...] = ((196, 52, 48), (44, 84, 160), (228, 186, 66), (66, 122, 82), (150, 74, 140), (232, 226, 214))
_WARM: Color = (255, 206, 124)

_HORIZON, _FOCAL, _CAMERA_HEIGHT = 0.42, 0.9, 1.5  # of the image height, of the image height, metres
_NEAR, _FAR = 1.2, 400.0
_FLOOR, _BAY = 3.1, 3.0  # height of a floor and width of a window with its wall, metres
_HOUSES = (2, 8, 14, 20, 29, 38, 50, 65, 86, 119)  # where houses may begin and end, metres ahead
_FRONTS = (6.5, 8.5)  # where the houses stand, metres from the middle of the road


class DetailedStreet(NamedTuple):
    """A scene: the layout in class ids of `CITYSCAPES`, the RGB photograph, the hidden mood, and instances as in `Street`."""

    layout: UInt8[np.ndarray, "H W"]
    photograph: UInt8[np.ndarray, "H W 3"]
    mood: MoodName
    instances: UInt16[np.ndarray, "H W"]


def render_detailed_street(index: int, size: tuple[int, int], mood: MoodName | None = None) -> DetailedStreet:
    """Draws scene `index`. The same arguments give the same arrays.

    Args:
      index: determines the layout and the mood.
      size: height and width in pixels.
      mood: draws the scene in this mood in place of its own.
    """
    geometry, appearance = (np.random.default_rng([index, stream]) for stream in (2, 3))
    own = MOODS[appearance.integers(len(MOODS))]
    mood = mood or own
    canvas = _Canvas(size, MOODS.index(mood), MOOD[mood])
    _draw_scene(canvas, geometry)
    exposure = appearance.uniform(0.95, 1.05)
    instances = np.asarray(canvas.instances).astype(np.uint16)
    return DetailedStreet(np.asarray(canvas.layout), canvas.photograph(exposure), mood, instances)


class _Canvas:
    """Draws a scene's layout, and, at a multiple of its size, the layers from which the photograph is made."""

    def __init__(self, size: tuple[int, int], mood_index: int, mood: Mood):
        self.size, self.mood_index, self.mood = size, mood_index, mood
        self.scale = max(2, -(-128 // size[0]))  # so that small photographs are smooth, too
        height, width = (n * self.scale for n in size)
        rows = np.arange(height)[:, None] + 0.5
        ground = _FOCAL * height * _CAMERA_HEIGHT / np.maximum(rows - _HORIZON * height, 1e-3)
        self.layout = Image.new("L", (size[1], size[0]), CLASS["sky"])
        self.instances = Image.new("I", (size[1], size[0]), CLASS["sky"])
        self.instance: int | None = None  # the id of the object that is drawn
        self.color = Image.new("RGB", (width, height))
        self.glow = Image.new("RGB", (width, height))  # the light that a surface gives
        self.shine = Image.new("L", (width, height))  # the share of the lamps' light that falls on the ground, of 255
        self.sun = Image.new("L", (width, height))  # the share of the sun's light that a surface gets, of 255
        self.depth = Image.fromarray(np.broadcast_to(np.minimum(ground, _FAR), (height, width)).astype(np.float32))
        self._layout, self._instances = ImageDraw.Draw(self.layout), ImageDraw.Draw(self.instances)
        self._color, self._glow, self._shine, self._sun, self._depth = (
            ImageDraw.Draw(layer) for layer in (self.color, self.glow, self.shine, self.sun, self.depth)
        )

    def polygon(
        self,
        label: str | None,
        color: Paint,
        points: Sequence[Point],
        sun: float = 0.5,
        glow: Paint = (0, 0, 0),
        depth: float | None = None,
    ) -> None:
        """Draws a polygon. The label None leaves the layout as it is, for details such as windows.

        Args:
          label: the class.
          color: its colour in white light.
          points: its corners in metres.
          sun: the share of the sun's light that it gets.
          glow: the light that it gives when lamps shine.
          depth: how far away it is for the air, in metres. None: as far as the ground there.
        """
        if label is not None:
            shape = _projected(points, self.layout)
            self._layout.polygon(shape, fill=CLASS[label])
            self._instances.polygon(shape, fill=CLASS[label] if self.instance is None else self.instance)
        corners = _projected(points, self.color)
        self._color.polygon(corners, fill=_eight_bits(color))
        self._glow.polygon(corners, fill=_eight_bits(glow))
        self._shine.polygon(corners, fill=0)
        self._sun.polygon(corners, fill=round(255 * sun))
        if depth is not None:
            self._depth.polygon(corners, fill=depth)

    def ground(
        self, label: str | None, color: Paint, x0: float, x1: float, z0: float = _NEAR, z1: float = _FAR, sun: float = 0.8
    ) -> None:
        """Draws a rectangle that lies on the ground."""
        self.polygon(label, color, [(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], sun)

    def wall(
        self,
        label: str | None,
        color: Paint,
        x: float,
        y0: float,
        y1: float,
        z0: float,
        z1: float,
        sun: float = 0.5,
        glow: Paint = (0, 0, 0),
    ) -> None:
        """Draws a rectangle that stands along the street."""
        self.polygon(label, color, [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], sun, glow, (z0 + z1) / 2)

    def plate(
        self,
        label: str | None,
        color: Paint,
        x: float,
        y: float,
        z: float,
        w: float,
        h: float,
        sun: float = 0.5,
        glow: Paint = (0, 0, 0),
    ) -> None:
        """Draws an upright rectangle of w x h metres that faces the camera; (x, y) is the middle of its lower edge."""
        corners = [(x - w / 2, y, z), (x - w / 2, y + h, z), (x + w / 2, y + h, z), (x + w / 2, y, z)]
        self.polygon(label, color, corners, sun, glow, z)

    def disk(
        self,
        label: str | None,
        color: Paint,
        x: float,
        y: float,
        z: float,
        radius: float,
        sun: float = 0.5,
        glow: Paint = (0, 0, 0),
    ) -> None:
        """Draws a disk that faces the camera; (x, y) is its middle."""
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        points = [(x + radius * np.cos(a), y + radius * np.sin(a), z) for a in angles]
        self.polygon(label, color, points, sun, glow, z)

    def shadow(self, points: Sequence[Point]) -> None:
        """Takes the sun from a part of the ground."""
        self._sun.polygon(_projected(points, self.sun), fill=0)

    def pool(self, x: float, z: float, width: float, length: float, light: float) -> None:
        """Lets a lamp shine on the ground."""
        self._shine.polygon(_projected(_ellipse(x, z, width, length), self.shine), fill=round(255 * light))

    def photograph(self, exposure: float) -> UInt8[np.ndarray, "H W 3"]:
        """Puts light, air and sky on what was drawn."""
        mood = self.mood
        layout = np.asarray(self.layout.resize(self.color.size, Image.Resampling.NEAREST))
        sun, shine = (np.asarray(layer, np.float32)[..., None] / 255 for layer in (self.sun, self._blurred(self.shine, 0.03)))
        glow, depth = np.asarray(self.glow, np.float32), np.asarray(self.depth)[..., None]
        light = (
            np.array(mood.ambient, np.float32)
            + sun * np.array(mood.sun, np.float32)
            + mood.lights * shine * np.array(_WARM, np.float32) / 255
        )
        image = np.asarray(self.color, np.float32) * _texture(layout) * light + mood.lights * glow
        clear = np.exp(-depth / mood.sight)
        image = image * clear + np.array(mood.horizon, np.float32) * (1 - clear)
        image = np.where((layout == CLASS["sky"])[..., None] & (depth >= _FAR), self._sky(), image)
        image += 0.7 * mood.lights * np.asarray(self._blurred(self.glow, 0.02), np.float32)  # lamps dazzle
        return np.asarray(Image.fromarray(np.clip(exposure * image, 0, 255).astype(np.uint8)).reduce(self.scale))

    def _blurred(self, layer: Image.Image, radius: float) -> Image.Image:
        return layer.filter(ImageFilter.GaussianBlur(radius * layer.height))

    def _sky(self) -> np.ndarray:
        height, width = self.color.height, self.color.width
        down = np.clip(np.arange(height, dtype=np.float32) / (_HORIZON * height), 0, 1)[:, None, None]
        zenith, horizon = (np.array(color, np.float32) for color in (self.mood.zenith, self.mood.horizon))
        sky = zenith + (horizon - zenith) * down**1.3
        cloud = np.clip(_pattern("clouds", (9, 5), (height, width)) + 0.6 * _pattern("wisps", (22, 12), (height, width)), 0, 1)
        return sky + self.mood.clouds * cloud[..., None] * (1 - 0.6 * down) * (horizon - sky)


# The amplitude of each class's texture, and its cells in a tile, which is a quarter as high as the image.
_TEXTURE = {"vegetation": (0.25, 7), "terrain": (0.1, 10), "road": (0.025, 12), "building": (0.03, 12)}


def _texture(layout: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    """Returns factors `[H, W, 1]` for the colours: leaves, grass, asphalt and plaster."""
    texture = np.ones(layout.shape, np.float32)
    edge = layout.shape[0] // 4
    for name, (amplitude, cells) in _TEXTURE.items():
        tile = _pattern(name, (cells, cells), (edge, edge))
        rows, columns = (np.arange(n) % edge for n in layout.shape)
        texture += np.where(layout == CLASS[name], amplitude * tile[rows[:, None], columns], 0)
    return texture[..., None]


def _projected(points: Sequence[Point], image: Image.Image) -> list[tuple[float, float]]:
    """Projects points in metres to columns and rows of an image."""
    focal = _FOCAL * image.height
    return [(image.width / 2 + focal * x / z, _HORIZON * image.height + focal * (_CAMERA_HEIGHT - y) / z) for x, y, z in points]


def _ellipse(x: float, z: float, width: float, length: float) -> list[Point]:
    """Returns the points of an ellipse on the ground around (x, z)."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return [(x + width * np.cos(a), 0.0, max(_NEAR, z + length * np.sin(a))) for a in angles]


def _eight_bits(color: Paint) -> Color:
    red, green, blue = (min(255, max(0, round(float(v)))) for v in color)
    return red, green, blue


def _pattern(name: str, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Returns the smooth pattern of this name, of about unit variance, which is the same in every scene."""
    coarse = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(cells, np.float32)
    coarse = np.pad(coarse, 2, mode="wrap")  # so that tiles fit together
    h, w = size
    box = (2, 2, cells[1] + 2, cells[0] + 2)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC, box)) * 1.3


def _draw_scene(canvas: _Canvas, geometry: np.random.Generator) -> None:
    front = float(geometry.choice(_FRONTS))
    road = geometry.uniform(3.4, front - 2)  # half width, metres
    walk = front if geometry.random() < 0.6 else geometry.uniform(road + 1.4, front - 0.4)  # then grass before the houses
    _draw_ground(canvas, road, walk)
    for side in (-1, 1):
        if geometry.random() < 0.2:
            _draw_hedge(canvas, geometry, side, front)
        else:
            _draw_houses(canvas, geometry, side, front)
    things = [
        (float(z), kind)
        for kind, count in _POPULATION.items()
        for z in 4.5 + 45 * geometry.random(geometry.integers(0 if kind == "car" else 1, count + 1)) ** 1.7
    ]
    for number, (z, kind) in enumerate(sorted(things, reverse=True), FIRST_INSTANCE):
        canvas.instance = number if kind in THINGS else None
        side = int(geometry.choice([-1, 1]))
        if kind == "car":
            _draw_car(canvas, geometry, side * geometry.uniform(0.45, 0.8) * (road - 0.9), z, side)
        else:
            on_road = kind == "person" and geometry.random() < 0.25
            x = geometry.uniform(-road, road) if on_road else side * geometry.uniform(road + 0.4, walk - 0.3)
            {"tree": _draw_tree, "pole": _draw_pole, "person": _draw_person}[kind](canvas, geometry, x, z)
    canvas.instance = None
    if geometry.random() < 0.5:
        _draw_hood(canvas, geometry)


_POPULATION = {"car": 6, "tree": 6, "pole": 4, "person": 5}


def _draw_ground(canvas: _Canvas, road: float, walk: float) -> None:
    white, snow = (236, 236, 230), canvas.mood.snow
    canvas.ground("terrain", canvas.mood.grass, -60, 60)
    paving, curb, asphalt = (
        ((228, 233, 242), (206, 212, 224), (128, 130, 138)) if snow else ((168, 162, 154), (204, 200, 192), (92, 92, 96))
    )
    canvas.ground("sidewalk", paving, -walk, walk)
    for z in np.arange(3.0, 40, 1.5):
        canvas.ground(None, 0.84 * np.array(paving), -walk, walk, z, z + 0.06 + 0.004 * z)
    canvas.ground(None, curb, -road - 0.25, road + 0.25)
    canvas.ground("road", asphalt, -road, road)
    for lane in (-1, 1):
        for track in (0.32, 0.68):
            canvas.ground(None, 0.86 * np.array(asphalt), lane * track * road - 0.3, lane * track * road + 0.3)
        canvas.ground(None, white, lane * (road - 0.45) - 0.08, lane * (road - 0.45) + 0.08)
    for z in np.arange(3.0, 90, 6):
        canvas.ground(None, white, -0.1, 0.1, z, z + 3)
    canvas.pool(0, 6.0, 2.4, 3.6, 0.5)  # our own headlights


def _draw_houses(canvas: _Canvas, geometry: np.random.Generator, side: int, front: float) -> None:
    floors = [0 if geometry.random() < 0.12 else int(geometry.integers(2, 7)) for _ in _HOUSES[1:]]
    houses = list(enumerate(zip(itertools.pairwise(_HOUSES), floors)))
    for number, ((z0, z1), count) in reversed(houses):
        if count == 0:
            continue  # a gap between houses
        color = np.array(_BRICKS[(count + canvas.mood_index) % len(_BRICKS)], float)
        top, x = count * _FLOOR + 0.6, side * front
        sun = 0.0 if side < 0 else 1.0  # the sun is on the left, behind the houses there
        shade = 0.9 if side < 0 else 1.0
        flank = [(x, 0, z0), (x, top, z0), (x + side * 14, top, z0), (x + side * 14, 0, z0)]
        canvas.polygon("building", 0.72 * color, flank, sun=0.3, depth=z0)
        for z in range(z0, z1, 3):
            canvas.wall("building", shade * color, x, 0, top, z, z + 3, sun=sun)
            _draw_bay(canvas, color, x, z, count, number, sun)
        cornice = (244, 247, 252) if canvas.mood.snow else 0.6 * color
        canvas.wall("building", cornice, x, top, top + 0.35, z0, z1, sun=sun)
        if side < 0 and max(canvas.mood.sun) > 0:
            canvas.shadow([(x, 0, z0), (x + 0.35 * top, 0, z0), (x + 0.35 * top, 0, z1), (x, 0, z1)])


def _draw_bay(canvas: _Canvas, color: np.ndarray, x: float, z: int, floors: int, house: int, sun: float) -> None:
    """Draws one column of windows; the ground floor of every second house is a shop."""
    if z > 62:
        return
    side = 1 if x > 0 else -1
    glass = 0.35 * np.array(canvas.mood.zenith, float) + (26, 32, 40)
    for floor in range(floors):
        y = floor * _FLOOR
        if floor == 0 and house % 2:
            canvas.wall(None, (70, 92, 104), x, 0.35, 2.4, z + 0.25, z + 2.75, sun=0.2, glow=(236, 206, 150))
            canvas.wall(None, _COATS[(house + canvas.mood_index) % len(_COATS)], x, 2.4, 2.95, z + 0.1, z + 2.9, sun=sun)
            continue
        lit = (7 * floor + 3 * (z // 3) + 5 * (side > 0)) % 4 == 0
        canvas.wall(None, np.minimum(1.25 * color, 255), x, y + 0.75, y + 2.7, z + 0.65, z + 2.35, sun=sun)
        canvas.wall(None, glass, x, y + 0.95, y + 2.55, z + 0.85, z + 2.15, sun=0.2, glow=_WARM if lit else (0, 0, 0))


def _draw_leaves(canvas: _Canvas, disks: list[tuple[float, float, float]], z: float) -> None:
    """Draws a crown of disks (x, y, radius): a dark mass with lighter clumps towards the light."""
    dark, light = (np.array(color, float) for color in canvas.mood.leaves)
    for x, y, radius in disks:
        canvas.disk("vegetation", dark, x, y, z, radius, sun=0.2)
    for share, size in ((0.35, 0.72), (0.65, 0.5), (1.0, 0.28)):
        for x, y, radius in disks:
            middle = 0.45 * (1 - size) * radius
            canvas.disk(None, dark + share * (light - dark), x - middle, y + 1.6 * middle, z, size * radius, sun=share)


def _draw_hedge(canvas: _Canvas, geometry: np.random.Generator, side: int, front: float) -> None:
    for z in np.arange(80.0, 3, -4):
        disks = [(side * (front + 2 + geometry.uniform(0, 8)), geometry.uniform(0.5, 5), geometry.uniform(1.5, 3.2))
                 for _ in range(4)]  # fmt: skip
        _draw_leaves(canvas, disks, float(z))


def _draw_tree(canvas: _Canvas, geometry: np.random.Generator, x: float, z: float) -> None:
    trunk, radius = geometry.uniform(2, 3.2), geometry.uniform(1.1, 1.9)
    canvas.shadow(_ellipse(x + 0.8, z, radius, 0.6 * radius))
    canvas.plate("vegetation", (78, 58, 44), x, 0, z, 0.3, trunk + 0.4, sun=0.4)
    offsets = geometry.normal(0, 0.5 * radius, (7, 2))
    sizes = radius * geometry.uniform(0.55, 0.9, 7)
    _draw_leaves(canvas, [(x + dx, trunk + 0.8 * radius + dy, r) for (dx, dy), r in zip(offsets, sizes)], z)


def _draw_pole(canvas: _Canvas, geometry: np.random.Generator, x: float, z: float) -> None:
    kind, inward = geometry.choice(["lamp", "light", "sign"]), -1 if x > 0 else 1
    gray = (88, 92, 98)
    if kind == "lamp":
        canvas.pool(x + inward, z, 2.6, 3.0, 0.8)
        canvas.plate("pole", gray, x, 0, z, 0.16, 5.2)
        canvas.plate("pole", gray, x + 0.6 * inward, 5.1, z, 1.4, 0.14)
        canvas.plate("pole", (222, 222, 214), x + 1.1 * inward, 4.86, z, 0.6, 0.24, glow=(255, 238, 190))
        return
    height = geometry.uniform(2.6, 3.6)
    canvas.plate("pole", gray, x, 0, z, 0.15, height)
    if kind == "light":
        canvas.plate("traffic light", (30, 32, 32), x, height - 0.2, z, 0.5, 1.25)
        on = 2 if x > 0 else 0  # green on our side, red on the other
        for lamp, color in enumerate([(236, 44, 34), (240, 176, 44), (44, 222, 120)]):
            shown = np.array(color) * (1.0 if lamp == on else 0.25)
            glow = color if lamp == on else (0, 0, 0)
            canvas.disk(None, shown, x, height + 0.82 - 0.38 * lamp, z, 0.16, sun=1.0, glow=glow)
    else:
        color = (206, 34, 38) if x > 0 else (32, 84, 184)
        canvas.disk("traffic sign", (238, 238, 238), x, height + 0.3, z, 0.46)
        canvas.disk(None, color, x, height + 0.3, z, 0.38)
        canvas.plate(None, (244, 244, 244), x, height + 0.2, z, 0.42, 0.16)


def _draw_person(canvas: _Canvas, geometry: np.random.Generator, x: float, z: float) -> None:
    h, w = geometry.uniform(1.55, 1.9), geometry.uniform(0.42, 0.62)  # the colour of the coat follows from the height
    coat = np.array(_COATS[(int(8 * h) + canvas.mood_index) % len(_COATS)], float)
    canvas.shadow(_ellipse(x + 0.3, z, 0.4, 0.25))
    for leg in (-1, 1):
        canvas.plate("person", (46, 50, 66), x + 0.24 * leg * w, 0, z, 0.34 * w, 0.5 * h, sun=0.4)
        canvas.plate("person", 0.8 * coat, x + 0.5 * leg * w, 0.45 * h, z, 0.22 * w, 0.36 * h, sun=0.5)
    canvas.plate("person", coat, x, 0.42 * h, z, 0.84 * w, 0.42 * h, sun=0.6)
    canvas.disk("person", (66, 44, 34), x, 0.93 * h, z, 0.16)
    canvas.disk("person", (214, 168, 138), x, 0.9 * h, z, 0.12)


_CARS = ((1.7, 1.42), (1.85, 1.7), (2.0, 2.25))  # widths and heights of a small car, an estate and a van, metres


def _draw_car(canvas: _Canvas, geometry: np.random.Generator, x: float, z: float, side: int) -> None:
    """Draws a car that drives ahead of us on the right, or towards us on the left."""
    kind = int(geometry.integers(len(_CARS)))
    w, h = _CARS[kind]
    color = np.array(_PAINTS[(2 * kind + (side > 0) + canvas.mood_index) % len(_PAINTS)], float)
    glass, rubber, length = 0.4 * np.array(canvas.mood.zenith, float) + (24, 30, 36), (22, 22, 24), 4.2
    belt, inner = 0.56 * h, x - np.sign(x) * 0.5 * w
    canvas.ground(None, (30, 30, 34), x - 0.56 * w, x + 0.62 * w, z - 0.25, z + length, sun=0.0)
    canvas.pool(x, z - 2.2, 1.3, 2.2, 0.9 if side < 0 else 0.25)
    canvas.wall("car", 0.8 * color, inner, 0.3, belt, z, z + length, sun=0.3)
    canvas.polygon("car", 0.7 * color,
                   [(inner, belt, z), (0.94 * inner + 0.06 * x, h, z + 0.3), (0.94 * inner + 0.06 * x, h, z + 2.8),
                    (inner, belt, z + 3.4)], sun=0.3, depth=z + 1)  # fmt: skip
    canvas.polygon(None, glass, [(inner, belt + 0.06, z + 0.4), (inner, 0.93 * h, z + 0.6), (inner, 0.93 * h, z + 2.6),
                                 (inner, belt + 0.06, z + 3.1)], sun=0.3, depth=z + 1)  # fmt: skip
    for dx in (-0.38, 0.38):
        canvas.plate("car", rubber, x + dx * w, 0, z, 0.26, 0.4, sun=0.0)
    canvas.plate("car", color, x, 0.26, z, w, belt - 0.26, sun=0.6)
    canvas.plate(None, 0.55 * color, x, 0.26, z, w, 0.16, sun=0.4)
    narrow = 0.47 if kind == 2 else 0.38  # a van has upright sides
    cabin = [(x - 0.49 * w, belt, z), (x - narrow * w, h, z), (x + narrow * w, h, z), (x + 0.49 * w, belt, z)]
    canvas.polygon("car", 0.9 * color, cabin, sun=0.7, depth=z)
    low, high, inset = belt + 0.06, h - 0.1, 0.06
    pane = [(x - (0.49 - inset) * w, low, z), (x - (narrow - inset) * w, high, z), (x + (narrow - inset) * w, high, z),
            (x + (0.49 - inset) * w, low, z)]  # fmt: skip
    canvas.polygon(None, glass, pane, sun=0.4, depth=z)
    if canvas.mood.snow:
        canvas.plate(None, (242, 245, 250), x, h - 0.08, z, 1.8 * narrow * w, 0.12)
    lamp: Color = (238, 32, 26) if side > 0 else (255, 250, 222)  # we see tail lights on our side, else headlights
    for dx in (-0.38, 0.38):
        canvas.plate(None, lamp, x + dx * w, 0.62 * belt, z, 0.34, 0.2, sun=1.0, glow=lamp)
    canvas.plate(None, (240, 240, 232), x, 0.36, z, 0.5, 0.13, sun=0.6)


def _draw_hood(canvas: _Canvas, geometry: np.random.Generator) -> None:
    """Draws the hood of our own car at the lower edge."""
    height, width = canvas.size
    z = 1.0
    bottom, right = _CAMERA_HEIGHT - (1 - _HORIZON) / _FOCAL * z, 0.5 * width / height / _FOCAL * z
    hood = geometry.uniform(0.03, 0.07) / _FOCAL
    points = [(-right, bottom, z), (-0.76 * right, bottom + 0.5 * hood, z), (0.0, bottom + hood, z),
              (0.76 * right, bottom + 0.5 * hood, z), (right, bottom, z)]  # fmt: skip
    canvas.polygon("void", (40, 42, 48), points, sun=0.3, depth=z)
