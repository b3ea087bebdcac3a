"""Data sets on the disk, and procedural streets, as sources with random access. `examples.py` says what a source is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from crn_jax.buckets import address_of, copied, copy_of, is_bucket, outlined
from crn_jax.data import folders, nyu
from crn_jax.data.cache import Progress, alone, cached, fetched
from crn_jax.data.detailed_streets import DetailedStreet, render_detailed_street
from crn_jax.data.examples import Example, Source
from crn_jax.data.geometry import MIDDLE, Fit, Place, view
from crn_jax.data.instances import MARGIN, instance_files, numbered, read_instances, refuse_missing
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import find_label_space
from crn_jax.data.photographs import open_photograph
from crn_jax.data.streets import Street, render_street
from crn_jax.errors import UserError, counted, some
from crn_jax.files import expanded

Split = Literal["train", "val"]

_BESIDE_PICTURES = (".mat", ".txt", ".csv")
"""The endings of other files of data sets, in lower case. Archives that lie beside them in a bucket are not fetched."""

_LABELS = {
    "camvid": "camvid",
    "cityscapes": "cityscapes",
    "streets": "cityscapes",
    "detailed_streets": "cityscapes",
    "ade20k": "ade20k",
    "nyu": "nyu40",
    "gta5": "gta5",
    "cocostuff": "cocostuff",
}
DRAWN = ("streets", "detailed_streets")
"""The data sets that are drawn on the fly, and need no folder."""
TOO_FEW = "Where a data set has no split of its own, every 10th pair is held out, so at least 2 are needed."


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set, its folder, and how its files become examples."""

    source: Literal["camvid", "cityscapes", "streets", "detailed_streets", "ade20k", "nyu", "gta5", "cocostuff", "folder"]
    """The data set. camvid has {train,val}/ and {train,val}annot/, or (--data.labels camvid32) 701_StillsRaw_full/ and
    LabeledApproved_full/; cityscapes has leftImg8bit/ and gtFine/; ade20k has images/ and annotations/; nyu has
    nyu_depth_v2_labeled.mat; gta5 has images/ and labels/; cocostuff has {train,val}2017/ and stuffthingmaps_trainval2017/;
    folder is your own: {train,val}/{photographs,layouts}/, or photographs/ and layouts/, of which every 10th pair is held out;
    streets and detailed_streets are drawn on the fly."""
    root: str | None = None
    """The folder of the data set, perhaps in a bucket (gs://). Streets need none."""
    labels: str | None = None
    """The classes of the layouts: a name such as cityscapes_trainids, or a JSON file of your own. None: the data set's usual
    classes."""
    read: Reading | None = None
    """What palette PNGs among the layouts hold: ids in their indices, or colours. None: as the label file says, or
    as each palette tells. A file whose palette does not tell is refused."""
    instances: str | None = None
    """The folder of instance maps, PNGs of the layouts' names, for --cascade.boundaries. If it has train/ and val/, these are
    used. None: the data set's own. cityscapes has its instanceIds, folder has instances/ beside layouts/, and streets know
    theirs."""
    fit: Fit = "resize"
    """How files reach the size. resize stretches a picture by at most 2%; crop keeps as much of the middle as fits; random_crop
    keeps as much, at a new place in each epoch (held-out pictures: the middle); pad adds a black margin of class void; stretch
    changes the shape, as SPADE and OASIS do with ADE20K and COCO-Stuff."""
    num_scenes: int = 2000
    """The number of training scenes of streets."""
    clear_days: bool = False
    """Draw streets on clear days only. They leave less for the cascade to guess than streets at any hour and in any weather."""
    flip: bool = False
    """Mirror half of the training examples, a different half in each epoch. The authors do not mirror."""
    vivid: bool = False
    """Boost tone and detail of the photographs, as for the released 512p and 1024p models. This is slow, so use a cache."""
    cache: str | None = None
    """A folder, perhaps in a bucket (gs://), where examples are kept, decoded and resized. If the data or their settings
    change, another cache is built."""
    threads: int = 2
    """The number of threads that decode examples ahead of the training step."""

    def __post_init__(self):
        if self.num_scenes < 1 or self.threads < 0:
            raise ValueError(
                f"num_scenes must be at least 1, and threads must not be negative, got {self.num_scenes} and {self.threads}."
            )


@dataclasses.dataclass(frozen=True)
class Photographs(Source):
    """A source of pairs of any size. The photograph and the layout of a pair have one size."""

    fit: Fit = dataclasses.field(default="resize", kw_only=True)
    """How pairs reach the source's size."""

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, str | Path]:
        """Reads a photograph and its layout at their own size, and says for messages where they come from."""
        raise NotImplementedError

    def read_instances(self, index: int, layout_size: tuple[int, int]) -> tuple[np.ndarray, str | Path]:
        """Reads the instances of a layout at its own size, and says where they come from. Only some sources have them."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Example:
        return self._fitted(index, MIDDLE)

    def placed(self, index: int, place: Place) -> Example:
        """Returns example `index`. Only a random crop is cut at `place`; other fits see what `source[index]` has."""
        return self._fitted(index, place) if self.fit == "random_crop" else self[index]

    def _fitted(self, index: int, place: Place) -> Example:
        photograph, layout, path = self.read(index)
        chosen = view(layout.shape, self.size, self.fit, place, path)
        void = self.label_space.num_classes - 1
        example = {"layout": chosen.layout(layout, void), "photograph": chosen.photograph(photograph)}
        if self.has_instances:
            ids, file = self.read_instances(index, (layout.shape[0], layout.shape[1]))
            example["instances"] = numbered(chosen.layout(ids, MARGIN), file)
        return example


@dataclasses.dataclass(frozen=True)
class PairedFiles(Photographs):
    """A source of photographs and layouts in image files."""

    pairs: list[tuple[Path, ...]]
    """The file of each photograph, that of its layout and, if there are instances, that of its instance map."""

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, Path]:
        """Reads a photograph, its layout as class ids `[h, w]`, and the layout's path for messages.

        Raises:
          UserError: if a file is damaged, if the layout has an unknown id or colour, or if the two sizes differ.
        """
        photograph_path, layout_path, *_ = self.pairs[index]
        layout = self.label_space.read(layout_path)
        photograph = open_photograph(photograph_path, layout.shape)
        if photograph.size != layout.shape[::-1]:
            raise UserError(
                f"{photograph_path} is {photograph.height}x{photograph.width}, but its layout {layout_path} is "
                f"{layout.shape[0]}x{layout.shape[1]}. A photograph and its layout need the same size. Correct or "
                f"remove both."
            )
        return photograph, layout, layout_path

    def read_instances(self, index: int, layout_size: tuple[int, int]) -> tuple[np.ndarray, Path]:
        """Reads a layout's instance map, and its path. A damaged map or one of another size than the layout is a UserError."""
        _, layout_path, path = self.pairs[index]
        return read_instances(path, layout_path, layout_size), path


@dataclasses.dataclass(frozen=True)
class LabelledFrames(Photographs):
    """The frames of NYU Depth v2, which are all in one file."""

    file: Path
    frames: list[int]
    """The numbers of the frames in the file, counted from 1."""

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, str]:
        """Reads a frame's photograph, its layout as class ids `[480, 640]`, and for messages the file and the frame's number.

        Raises:
          UserError: if the frame cannot be read, or if it has an unknown id.
        """
        where = f"{self.file}, frame {self.frames[index]}"
        photograph, ids = nyu.read_frame(self.file, self.frames[index])
        return Image.fromarray(photograph), self.label_space.from_ids(ids, where), where


@dataclasses.dataclass(frozen=True)
class Streets(Source):
    """A source of procedural street scenes."""

    first: int
    """The index of the first scene, for `render_street`."""
    clear_days: bool
    """Whether all scenes show a clear day."""

    def __getitem__(self, index: int) -> Example:
        return _drawn(render_street(self.first + range(len(self))[index], self.size, self.clear_days), self.has_instances)


@dataclasses.dataclass(frozen=True)
class DetailedStreets(Source):
    """A source of procedural street scenes in six moods."""

    first: int
    """The index of the first scene, for `render_detailed_street`."""

    def __getitem__(self, index: int) -> Example:
        return _drawn(render_detailed_street(self.first + range(len(self))[index], self.size), self.has_instances)


def _drawn(street: Street | DetailedStreet, with_instances: bool) -> Example:
    example = {"layout": street.layout, "photograph": street.photograph}
    return example | ({"instances": street.instances} if with_instances else {})


def label_space_of(data: DataConfig) -> LabelSpace:
    """Returns the classes of a data set.

    Raises:
      UserError: if `data.labels` are missing, unknown, or not possible for this data set.
    """
    if data.labels is not None and data.source in DRAWN:
        raise UserError(f"--data.labels {data.labels}: streets are made with Cityscapes' classes. Leave this option out.")
    labels = data.labels or _LABELS.get(data.source)
    if labels is None:
        raise UserError(f"The data set {data.source} needs its classes: --data.labels NAME, or a JSON file of your own.")
    label_space = find_label_space(labels)
    return dataclasses.replace(label_space, read_as=data.read) if data.read else label_space


def open_source(
    data: DataConfig,
    split: Split,
    size: tuple[int, int],
    progress: Progress | None = None,
    label_space: LabelSpace | None = None,
    instances: bool = False,
) -> Source:
    """Lists a split's examples. If `data.cache` is set, `cache.cached` builds the cache now; else nothing is decoded.

    Args:
      data: the data set.
      split: the part of it.
      size: height and width of the examples, in pixels.
      progress: called while a data set is copied from a bucket, with the number of files that are there and that of all files;
        and while a cache is built, with the number of examples.
      label_space: is used in place of `data.labels`, such as that of a run.
      instances: whether examples have instances, too.

    Raises:
      UserError: if the folder is missing or empty, or if a photograph or a layout has no partner, or no instance map where one
        is needed. Only the published GTA5 lacks some partners; the files without one are left out, and the source's `notes`
        tell how many.
    """
    label_space = label_space or label_space_of(data)
    in_bucket = any(folder is not None and is_bucket(folder) for folder in (data.root, data.instances))
    if in_bucket and data.cache is not None and is_bucket(data.cache):
        if found := fetched(_toned(_on_disk(data, _outlined), split, size, label_space, instances), data.cache):
            return found  # nothing was decoded here
    data = _on_disk(data, lambda address: _copied(address, progress))
    source = _toned(data, split, size, label_space, instances)
    return source if data.cache is None else cached(source, expanded(data.cache), data.threads, progress)


def _on_disk(data: DataConfig, place: Callable[[str], Path]) -> DataConfig:
    """Returns the data with folders of this machine's disk in place of those in buckets."""

    def there(folder: str | None) -> str | None:
        return str(place(address_of(folder))) if folder is not None and is_bucket(folder) else folder

    return dataclasses.replace(data, root=there(data.root), instances=there(data.instances))


def _toned(data: DataConfig, split: Split, size: tuple[int, int], label_space: LabelSpace, instances: bool) -> Source:
    source = _listed(data, split, size, label_space, instances)
    if not data.vivid:
        return source
    from crn_jax.data.vivid import vivid_of  # only this option needs SciPy

    return vivid_of(source)


def _listed(data: DataConfig, split: Split, size: tuple[int, int], label_space: LabelSpace, instances: bool) -> Source:
    if instances:
        refuse_without_instances(data)
    fit = "crop" if split == "val" and data.fit == "random_crop" else data.fit
    if data.source in DRAWN:
        count, first = (data.num_scenes, 0) if split == "train" else (64, 10**6)
        names = [f"street {first + i}" for i in range(count)]
        if data.source == "detailed_streets":
            return DetailedStreets(label_space, names, size, first, has_instances=instances)
        return Streets(label_space, names, size, first, data.clear_days, has_instances=instances)
    if data.source == "nyu":
        file, frames, note = nyu.find_frames(_root(data), split)
        names = [f"{frame:04d}" for frame in frames]
        return LabelledFrames(label_space, names, size, file, frames, fit=fit, notes=(note,))
    found = _found(data, split, label_space)
    notes = _without_partners(found, refuse=data.source != "gta5")
    names = [name for name in found.names() if name in found.photographs and name in found.layouts]
    if not names:
        raise UserError(f"{data.root}: there is no pair to {'train on' if split == 'train' else 'hold out'}. {TOO_FEW}")
    kinds = [found.photographs, found.layouts] + ([instance_maps_of(data, split, found.layouts, names)] if instances else [])
    pairs = [tuple(files[name] for files in kinds) for name in names]
    left_out = [note for folder in sorted({path.parent for pair in pairs for path in pair}) if (note := folders.unread(folder))]
    all_notes = (*found.notes, *notes, *left_out)
    return PairedFiles(label_space, names, size, pairs, fit=fit, has_instances=instances, notes=all_notes)


def pairs_of(data: DataConfig, split: Split) -> tuple[dict[str, Path], dict[str, Path]]:
    """Finds a split's photographs and layouts by name, with or without a partner.

    Raises:
      UserError: if a folder is missing or empty, or if two of its files have one name.
      ValueError: if the data set is not kept as pairs of files, as streets and nyu are not.
    """
    found = _found(data, split)
    return found.photographs, found.layouts


def refuse_without_instances(data: DataConfig) -> None:
    """Raises UserError if nothing says where the instances of a data set come from, or if they cannot be read."""
    if data.source in DRAWN and data.instances is not None:
        raise UserError(f"--data.instances {data.instances}: streets know their instances. Leave this option out.")
    if data.source == "nyu":
        raise UserError("The instances of nyu are not read. Leave out --cascade.boundaries.")
    if data.source not in (*DRAWN, "cityscapes", "folder") and data.instances is None:
        raise UserError(
            f"The data set {data.source} has no instances of its own. Give the folder of your instance maps, --data.instances "
            f"FOLDER, or leave out --cascade.boundaries."
        )


def instance_maps_of(data: DataConfig, split: Split, layouts: dict[str, Path], names: list[str]) -> dict[str, Path]:
    """Finds the instance maps of a split's layouts by name.

    Raises:
      UserError: if there is no folder of instance maps, or if layouts have none.
    """
    if data.instances is not None:
        folder = Path(expanded(data.instances))
        part = folder / split if (folder / split).is_dir() else folder
        return instance_files(names, part, f"--data.instances {data.instances}")
    if data.source == "cityscapes":
        maps = folders.cityscapes_instances(_root(data), split)
        refuse_missing([name for name in names if name not in maps], _root(data) / "gtFine" / split)
        return maps
    folder = layouts[names[0]].parent.parent / "instances"
    return instance_files(names, folder, "Instance maps are in instances/ beside layouts/, or in --data.instances FOLDER")


def _found(data: DataConfig, split: Split, label_space: LabelSpace | None = None) -> folders.Found:
    root = _root(data)
    match data.source:
        case "camvid":
            return folders.camvid(root, split, (label_space or label_space_of(data)).name)
        case "cityscapes":
            return folders.cityscapes(root, split, (label_space or label_space_of(data)).name)
        case "ade20k":
            return folders.ade20k(root, split)
        case "gta5":
            return folders.gta5(root, split)
        case "cocostuff":
            return folders.cocostuff(root, split)
        case "folder":
            return folders.folder(root, split)
    raise ValueError(f"{data.source} is not kept as pairs of files.")


def _root(data: DataConfig) -> Path:
    if data.root is None:
        raise UserError(f"The data set {data.source} needs its folder: --data.root DIR.")
    root = Path(expanded(data.root))
    folders.refuse_unreadable(root)
    return root


_COPIES: dict[str, Path] = {}
"""The copies of data sets in buckets that this process has brought up to date, by their addresses."""


def _copied(address: str, progress: Progress | None = None) -> Path:
    """Returns the copy of a data set in a bucket, which is brought up to date once in a process, by one process at a time."""
    if address not in _COPIES:
        around = copy_of(address).parent
        try:
            around.mkdir(parents=True, exist_ok=True)
            with alone(around, lambda: None):
                _COPIES[address] = copied(address, _is_data, progress, whole=False)
        except OSError as error:
            raise UserError(f"{address} cannot be copied to {around}: {error}") from error
    return _COPIES[address]


def _outlined(address: str) -> Path:
    return outlined(address, _is_data, _is_read_to_list)


def _is_data(name: str) -> bool:
    return name.lower().endswith(folders.SUFFIXES) or _is_read_to_list(name)


def _is_read_to_list(name: str) -> bool:
    """Returns whether a file of this name is read to know which examples there are."""
    return name.lower().endswith(_BESIDE_PICTURES)


def _without_partners(found: folders.Found, refuse: bool) -> list[str]:
    """Describes files without a partner in sentences, or raises these as a UserError if such files are refused."""
    problems = []
    for what, partner, files, others in (
        ("photograph", "layout", found.photographs, found.layouts),
        ("layout", "photograph", found.layouts, found.photographs),
    ):
        if lonely := sorted(str(files[name]) for name in files.keys() - others.keys()):
            problems.append(f"{counted(len(lonely), what)} without a {partner}: {some(lonely)}.")
    if problems and refuse:
        parents = sorted({path.parent for files in (found.photographs, found.layouts) for path in files.values()})
        unread = [note for folder in parents if (note := folders.unread(folder))]
        said = [*problems, "Pairs are matched by file name. Add the partners, or remove these files.", *unread]
        raise UserError(" ".join(said))
    return [f"Left out: {problem}" for problem in problems]
