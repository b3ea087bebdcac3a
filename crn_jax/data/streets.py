"""Procedural street scenes: for any index and size, a layout with Cityscapes' classes and an image of it like a photograph.

The layout fixes what stands where. The photograph also depends on choices that the layout does not show: the time of day, the
weather, the colour of every car. A layout therefore has many right answers, as in the paper's section on diversity.
"""

import dataclasses
import itertools
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageDraw, ImageFilter

from crn_jax.data.labels.published import CITYSCAPES

CLASS = {name: index for index, name in enumerate(CITYSCAPES.classes)}
THINGS = ("car", "person")
"""The classes whose objects are instances."""
FIRST_INSTANCE = 1000
"""The smallest id of an instance; smaller ids are those of classes."""
CAR_COLORS = {
    "red": (176, 28, 32), "blue": (36, 62, 150), "white": (226, 226, 222), "black": (30, 30, 34), "silver": (150, 154, 158),
    "yellow": (214, 176, 40),
}  # fmt: skip
Time = Literal["day", "dusk", "night"]
Weather = Literal["clear", "overcast", "fog"]
TIMES: tuple[Time, ...] = get_args(Time)
WEATHERS: tuple[Weather, ...] = get_args(Weather)

# Ambient light (RGB factors), then the sky's colour at its top and at the horizon.
LIGHT = {
    "day": ((1.0, 1.0, 1.0), (88, 138, 205), (196, 216, 232)),
    "dusk": ((0.86, 0.66, 0.56), (84, 74, 120), (238, 158, 98)),
    "night": ((0.42, 0.45, 0.58), (16, 20, 40), (52, 56, 82)),
}
# Amplitude (of 255) and grain (fraction of the image height) of each class's texture.
_TEXTURE = {"road": (7, 0.012), "sidewalk": (9, 0.02), "building": (9, 0.015), "vegetation": (34, 0.03), "terrain": (26, 0.015)}
_HORIZON = 0.42
_CAMERA_HEIGHT = 1.5


class Choices(NamedTuple):
    """The choices that a photograph shows and its layout does not."""

    time: Time
    weather: Weather
    car_colors: tuple[str, ...]
    """The names of the cars' colours in `CAR_COLORS`, from the farthest car to the nearest."""


class Street(NamedTuple):
    """A scene: the layout in class ids of `CITYSCAPES`, the RGB photograph, the hidden choices, and the instances.

    As in Cityscapes' instance maps, each car and each person has an id of its own, and other pixels have their class's id.
    """

    layout: UInt8[np.ndarray, "H W"]
    photograph: UInt8[np.ndarray, "H W 3"]
    choices: Choices
    instances: UInt16[np.ndarray, "H W"]


def render_street(index: int, size: tuple[int, int], clear_days: bool = False, time: Time | None = None) -> Street:
    """Draws scene `index`. The same arguments give the same arrays.

    Args:
      index: determines the layout and all choices.
      size: height and width in pixels.
      clear_days: draws the scene on a clear day.
      time: draws the scene at this time of day in place of its own.
    """
    geometry, appearance = (np.random.default_rng([index, stream]) for stream in (0, 1))
    own_time = TIMES[appearance.choice(len(TIMES), p=(0.5, 0.25, 0.25))]
    time = time or own_time
    weather = WEATHERS[appearance.choice(len(WEATHERS), p=(0.5, 0.3, 0.2))]
    if clear_days:
        time, weather = "day", "clear"
    # Each window draws a random number at any hour. Otherwise another hour would change all that is drawn after it.
    windows = appearance if own_time == "night" else np.random.default_rng([index, 2])
    canvas = _Canvas(size, time == "night", windows)
    car_colors = _draw_scene(canvas, geometry, appearance)
    layout, albedo = np.asarray(canvas.layout), np.asarray(canvas.photograph, np.float32)
    photograph = _photograph(layout, albedo, np.asarray(canvas.glow, np.float32), time, weather, appearance)
    instances = np.asarray(canvas.instances).astype(np.uint16)
    return Street(layout, photograph, Choices(time, weather, tuple(car_colors)), instances)


@dataclasses.dataclass
class _Canvas:
    """Draws into the layout, the photograph and the map of lit surfaces at once; points are in metres before the camera."""

    size: tuple[int, int]
    night: bool
    windows: np.random.Generator

    def __post_init__(self):
        height, width = self.size
        self.layout = Image.new("L", (width, height), CLASS["sky"])
        self.instances = Image.new("I", (width, height), CLASS["sky"])
        self.instance: int | None = None  # the id of the object that is drawn
        self.photograph = Image.new("RGB", (width, height))
        self.glow = Image.new("L", (width, height))
        self._draws = [ImageDraw.Draw(image) for image in (self.layout, self.instances, self.photograph, self.glow)]

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Projects a point x metres right, y metres above the road and z metres ahead to a pixel's column and row."""
        height, width = self.size
        return width / 2 + 0.9 * height * x / z, height * (_HORIZON + 0.9 * (_CAMERA_HEIGHT - y) / z)

    def polygon(self, label: str | None, color, points, lit: bool = False) -> None:
        """Draws a polygon of pixel points. The label None leaves the layout as it is, for details such as windows."""
        layout, instances, photograph, glow = self._draws
        if label is not None:
            layout.polygon(points, fill=CLASS[label])
            instances.polygon(points, fill=CLASS[label] if self.instance is None else self.instance)
        photograph.polygon(points, fill=tuple(int(v) for v in color))
        glow.polygon(points, fill=255 if lit else 0)

    def quad(self, label, color, corners, lit: bool = False) -> None:
        """Draws a polygon of points in metres."""
        self.polygon(label, color, [self.project(*corner) for corner in corners], lit)

    def plate(self, label, color, x, y, z, w, h, lit: bool = False) -> None:
        """Draws an upright rectangle of w x h metres that faces the camera; (x, y) is the middle of its lower edge."""
        (left, top), (right, bottom) = self.project(x - w / 2, y + h, z), self.project(x + w / 2, y, z)
        self.polygon(label, color, [(left, top), (right, top), (right, bottom), (left, bottom)], lit)

    def disk(self, label, color, x, y, z, radius, lit: bool = False) -> None:
        """Draws a disk around (x, y, z) that faces the camera; the radius is in metres."""
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        points = [self.project(x + radius * np.cos(a), y + radius * np.sin(a), z) for a in angles]
        self.polygon(label, color, points, lit)


def _draw_scene(canvas: _Canvas, geometry: np.random.Generator, appearance: np.random.Generator) -> list[str]:
    near, far = 1.2, 90.0
    road = geometry.uniform(3.2, 6.0)  # half width, metres
    walk = road + geometry.uniform(1.5, 4.0)
    front = walk + geometry.choice([0.0, 0.0, geometry.uniform(1, 4)])  # a strip of grass before the houses

    gray = appearance.uniform(70, 105)
    canvas.quad("terrain", (96, 122, 60), [(-60, 0, near), (60, 0, near), (60, 0, 900), (-60, 0, 900)])
    canvas.quad("sidewalk", [gray + 52] * 3, [(-walk, 0, near), (walk, 0, near), (walk, 0, 400), (-walk, 0, 400)])
    canvas.quad(
        None, [gray + 75] * 3, [(-road - 0.2, 0, near), (road + 0.2, 0, near), (road + 0.2, 0, 400), (-road - 0.2, 0, 400)]
    )
    canvas.quad("road", [gray] * 3, [(-road, 0, near), (road, 0, near), (road, 0, 400), (-road, 0, 400)])
    for z in np.arange(2.0, far, 6):
        canvas.quad(None, [gray + 105] * 3, [(-0.08, 0, z), (0.08, 0, z), (0.08, 0, z + 3), (-0.08, 0, z + 3)])

    for side in (-1, 1):
        if geometry.random() < 0.2:
            _draw_hedge(canvas, geometry, appearance, side, front)
        else:
            _draw_houses(canvas, geometry, appearance, side, front)

    colors: list[str] = []
    things = [
        (z, kind)
        for kind, count in _POPULATION.items()
        for z in 4 + 45 * geometry.random(geometry.integers(1, count + 1)) ** 1.7
    ]
    for number, (z, kind) in enumerate(sorted(things, reverse=True), FIRST_INSTANCE):
        canvas.instance = number if kind in THINGS else None
        side = int(geometry.choice([-1, 1]))
        if kind == "car":
            colors.append(_draw_car(canvas, geometry, appearance, side * geometry.uniform(0.4, 0.85) * (road - 1), z, side))
        else:
            x = side * geometry.uniform(road + 0.4, walk - 0.3)
            {"tree": _draw_tree, "pole": _draw_pole, "person": _draw_person}[kind](canvas, geometry, appearance, x, z)
    canvas.instance = None
    height, width = canvas.size
    hood = geometry.uniform(0.03, 0.07)
    canvas.polygon(
        "void", (38, 38, 42),
        [(0, height), (0.12 * width, height * (1 - hood / 2)), (0.5 * width, height * (1 - hood)),
         (0.88 * width, height * (1 - hood / 2)), (width, height)],
    )  # fmt: skip
    return colors


_POPULATION = {"car": 6, "tree": 6, "pole": 4, "person": 5}


def _draw_houses(canvas, geometry, appearance, side, front) -> None:
    depths = [1.3]
    while depths[-1] < 120:
        depths.append(depths[-1] + geometry.uniform(6, 18))
    for z0, z1 in reversed(list(itertools.pairwise(depths))):
        height = geometry.uniform(5, 19)
        if geometry.random() < 0.12:
            continue  # a gap between houses
        color = np.clip(appearance.normal((158, 132, 112), (28, 24, 24)), 60, 225)
        x = side * front
        canvas.quad(
            "building", color * 0.75, [(x, 0, z1), (x, height, z1), (3 * x + side * 20, height, z1), (3 * x + side * 20, 0, z1)]
        )
        canvas.quad("building", color, [(x, 0, z0), (x, height, z0), (x, height, z1), (x, 0, z1)])
        pane = np.clip(color * 0.38 + (0, 4, 14), 0, 255)
        for floor in np.arange(0.9, height - 2, 3.1):
            for z in np.arange(z0 + 0.8, z1 - 1.4, 2.4):
                lit = canvas.windows.random() < 0.35 and canvas.night
                window = [(x, floor, z), (x, floor + 1.7, z), (x, floor + 1.7, z + 1.2), (x, floor, z + 1.2)]
                canvas.quad(None, (255, 208, 128) if lit else pane, window, lit)


def _draw_hedge(canvas, geometry, appearance, side, front) -> None:
    for z in np.arange(100.0, 3, -4):
        for _ in range(4):
            radius = geometry.uniform(1.5, 3.5)
            x = side * (front + 2 + geometry.uniform(0, 8))
            canvas.disk("vegetation", _leaves(appearance), x, geometry.uniform(0.5, 5), z, radius)


def _leaves(appearance) -> np.ndarray:
    return np.clip(appearance.normal((62, 88, 38), (12, 14, 9)), 15, 160)


def _draw_tree(canvas, geometry, appearance, x, z) -> None:
    trunk, radius = geometry.uniform(2, 3.5), geometry.uniform(1.0, 1.9)
    canvas.plate("vegetation", (72, 54, 40), x, 0, z, 0.28, trunk)
    for _ in range(7):
        dx, dy = geometry.normal(0, 0.6 * radius, 2)
        canvas.disk(
            "vegetation", _leaves(appearance), x + dx, trunk + 0.8 * radius + dy, z, radius * geometry.uniform(0.5, 0.9)
        )


def _draw_pole(canvas, geometry, appearance, x, z) -> None:
    height = geometry.uniform(2.6, 4.5)
    canvas.plate("pole", (92, 94, 96), x, 0, z, 0.14, height)
    if geometry.random() < 0.5:
        canvas.plate("traffic light", (34, 34, 32), x, height - 0.2, z, 0.45, 1.1)
        lamp = int(appearance.integers(3))
        canvas.disk(
            None, [(230, 40, 30), (240, 170, 40), (50, 210, 110)][lamp], x, height + 0.7 - 0.32 * lamp, z, 0.14, lit=True
        )
    else:
        color = [(200, 30, 34), (36, 70, 170), (236, 200, 40)][appearance.integers(3)]
        canvas.disk("traffic sign", (235, 235, 235), x, height + 0.3, z, 0.42)
        canvas.disk(None, color, x, height + 0.3, z, 0.34)


def _draw_person(canvas, geometry, appearance, x, z) -> None:
    height = geometry.uniform(1.55, 1.9)
    clothes, trousers = appearance.uniform(30, 210, 3), appearance.uniform(20, 110, 3)
    canvas.plate("person", trousers, x, 0, z, 0.36, 0.5 * height)
    canvas.plate("person", clothes, x, 0.45 * height, z, 0.5, 0.42 * height)
    canvas.disk("person", (196, 150, 122), x, 0.94 * height, z, 0.13)


def _draw_car(canvas, geometry, appearance, x, z, side) -> str:
    name = str(appearance.choice(list(CAR_COLORS)))
    color = np.array(CAR_COLORS[name], float)
    w, h = 1.75, geometry.uniform(1.35, 1.75)
    canvas.polygon(
        None, (22, 22, 24), [canvas.project(x + dx, 0, z + dz) for dx, dz in ((-1, -0.5), (1, -0.5), (1, 4), (-1, 4))]
    )
    for dx in (-0.62, 0.62):
        canvas.plate("car", (20, 20, 20), x + dx, 0, z, 0.26, 0.5)
    canvas.plate("car", color, x, 0.28, z, w, 0.76 * h - 0.28)
    roof = [(x - 0.47 * w, 0.75 * h, z), (x - 0.36 * w, h, z), (x + 0.36 * w, h, z), (x + 0.47 * w, 0.75 * h, z)]
    canvas.quad("car", color * 0.85, roof)
    pane = [(x - 0.41 * w, 0.77 * h, z), (x - 0.32 * w, 0.96 * h, z), (x + 0.32 * w, 0.96 * h, z), (x + 0.41 * w, 0.77 * h, z)]
    canvas.quad(None, (52, 66, 78), pane)
    lamp = (235, 30, 24) if side > 0 else (255, 248, 214)  # on our side we see tail lights, on the other side headlights
    for dx in (-0.38, 0.38):
        canvas.plate(None, lamp, x + dx * w, 0.36 * h, z, 0.3, 0.16, lit=True)
    return name


def _photograph(layout, albedo, glow, time, weather, appearance) -> np.ndarray:
    """Turns flat colours into something that looks photographed, by texture, light, air and the camera's noise and blur."""
    h, w = layout.shape
    image = albedo.copy()
    for name, (amplitude, grain) in _TEXTURE.items():
        noise = _noise(appearance, (h, w), max(1, round(grain * h))) + 0.3 * _noise(appearance, (h, w), 1)
        image += ((layout == CLASS[name]) * amplitude * noise)[..., None]

    ambient, zenith, horizon = (np.array(values, np.float32) for values in LIGHT[time])
    haze = {"clear": 0.0, "overcast": 0.55, "fog": 0.9}[weather]
    cloud = np.clip(_noise(appearance, (h, w), max(2, h // 7)) + 0.5 * _noise(appearance, (h, w), max(1, h // 20)), 0, 1.5)
    gray = horizon.mean() * np.array((0.97, 0.99, 1.02), np.float32)
    down = np.clip(np.arange(h, dtype=np.float32) / (_HORIZON * h), 0, 1)[:, None, None]
    sky = zenith + (horizon - zenith) * down
    sky = sky + (gray - sky) * np.clip(haze + 0.45 * cloud[..., None] * (1 - haze), 0, 1)

    if weather == "clear" and time == "day":  # a low sun: one side of the street is brighter
        image *= np.linspace(0.86, 1.16, w, dtype=np.float32)[None, :, None] ** appearance.choice([-1, 1])
    lit = glow[..., None] / 255
    image = image * ambient * (1 - 0.18 * haze) * (1 - lit) + np.maximum(image, 40) * lit

    # Air: what is farther away is closer to the horizon's colour. The ground plane gives the depth.
    rows = np.arange(h, dtype=np.float32)[:, None, None] / h
    nearness = np.clip(np.abs(rows - _HORIZON) / (0.5 if weather == "fog" else 0.12), 0, 1)
    air = (0.25 if weather != "fog" else 0.75) * (1 - nearness)
    image += (gray * (1 - lit) + image * lit - image) * air
    image = np.where((layout == CLASS["sky"])[..., None], sky, image)

    image += appearance.normal(0, 2.5, image.shape)  # the sensor's noise
    result = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(result.filter(ImageFilter.GaussianBlur(0.0012 * h)))


def _noise(rng: np.random.Generator, size: tuple[int, int], grain: int) -> np.ndarray:
    """Returns Gaussian noise float32 `[H, W]` of about unit variance, smooth over `grain` pixels."""
    h, w = size
    coarse = rng.standard_normal((-(-h // grain) + 1, -(-w // grain) + 1), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)) * (1.3 if grain > 1 else 1)
