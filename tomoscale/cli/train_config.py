"""Configurations of trainings: YAML to a recipe and its data, every key and value checked against the recipe's own fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from tomoscale import configuration, settings
from tomoscale.cli import values
from tomoscale.places import local_path
from tomoscale.settings import ConfigurationError, Setting

if TYPE_CHECKING:
    from tomoscale.geometry import Spacing
    from tomoscale.training.samples import Data, Sample

DATA_KEYS = ("classes", "voxel-size", "folder")
SAMPLE_KEYS = ("name", "grey", "labels", "mask", "slices")
OTHER_KEYS = ("preset", "output", "name", "start-from")
PARTS = ("training", "validation")
"""Lists of samples of a training; other commands have other lists."""


def recipe_keys() -> tuple[str, ...]:
    """Keys of a configuration that are parts of a recipe."""
    from tomoscale.training.recipe import Recipe

    return tuple(_key(f.name) for f in fields(Recipe))


def read(
    path: str | Path,
    data_folder: str | None = None,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """Read a configuration, without opening any volume.

    Parameters
    ----------
    path : path
    data_folder : path, optional
        In place of the configuration's ``folder``: paths of samples are relative to it.
    parts : mapping, optional
        Keys with lists of samples, and what a sample there may say beyond `SAMPLE_KEYS`; by default those of a training.
    more : sequence of str
        Other keys that are allowed.

    Returns
    -------
    dict
        ``recipe``, ``name``, ``output`` and ``start_from`` (path or None), ``data``: what opens the samples; ``more``: the
        settings of the other keys.

    Raises
    ------
    ConfigurationError
        With file and line.
    """
    from tomoscale.training.presets import preset
    from tomoscale.training.recipe import Recipe

    root = settings.load(path)
    lists = dict.fromkeys(PARTS, ()) if parts is None else parts
    keys = (*OTHER_KEYS, *DATA_KEYS, *lists, *more, *recipe_keys())
    top = configuration.check_keys(root, keys, ("classes", *lists))
    start = Recipe()
    if "preset" in top:
        start = _told(top["preset"], preset, top["preset"].text("the name of a preset"))
    said = {k: v for k, v in top.items() if k in recipe_keys()}
    recipe = part_of(Setting(said, root.file, root.line, ""), start)
    folder = Path(data_folder) if data_folder is not None else _relative(top.get("folder"), root.file.parent)
    output = _relative(top["output"], root.file.parent) if "output" in top else None
    name = top["name"].text("what the network is called") if "name" in top else root.file.stem
    start_from = _relative(top["start-from"], root.file.parent) if "start-from" in top else None
    return {
        "recipe": recipe,
        "name": name,
        "output": output,
        "start_from": start_from,
        "data": _Described(root, top, folder, lists),
        "more": {k: v for k, v in top.items() if k in more},
    }


class _Described:
    """The samples of a configuration, not yet opened."""

    def __init__(
        self, root: Setting, settings: Mapping[str, Setting], folder: Path, parts: Mapping[str, Sequence[str]]
    ) -> None:
        self.root, self.settings, self.folder = root, settings, folder
        self.classes = self._classes(settings["classes"])
        self.size = None
        if "voxel-size" in settings:
            self.size = _told(settings["voxel-size"], values.lengths, settings["voxel-size"].text("such as 5um"))
        self.samples = {part: self._samples(settings[part], more) for part, more in parts.items()}

    def open(self) -> Data:
        """Open all volumes of a training.

        Raises
        ------
        ConfigurationError, InputError
            If one cannot be used.
        """
        from tomoscale.training.samples import Data

        opened = {part: self.open_part(part) for part in PARTS}
        return Data(self.classes, opened["training"], opened["validation"], self.voxel_size(sum(opened.values(), ())))

    def open_part(self, part: str) -> tuple[Sample, ...]:
        """Open the volumes of one list of samples."""
        return tuple(self._open(s) for s in self.samples[part])

    def voxel_size(self, samples: Sequence[Sample]) -> Spacing:
        """Size of a voxel: as the configuration says, or as the first volume that does."""
        sizes = [s.grey.voxel_size_um for s in samples if s.grey.voxel_size_um is not None]
        size = self.size or (sizes[0] if sizes else None)
        if size is None:
            raise self.root.error("lacks voxel-size: no volume says how large a voxel is, and it is never guessed")
        return size

    def _classes(self, setting: Setting) -> tuple[Any, ...]:
        from tomoscale.networks.card import ModelClass

        found = []
        for number, item in enumerate(setting.items("such as `- {name: bone, colour: [238, 238, 238]}`")):
            given = configuration.check_keys(item, ("name", "colour"), ("name",))
            colour = (128, 128, 128)
            if "colour" in given:
                colour = _value(given["colour"], tuple[int, int, int], (0, 0, 0))
            name = given["name"].text("the name of a class")
            found.append(_told(item, ModelClass, number, name, (*colour, 255)))
        return tuple(found)

    def _samples(self, setting: Setting, more: Sequence[str]) -> list[dict[str, Setting]]:
        items = setting.items("samples such as `- {name: T04, grey: scan.zarr, labels: truth.zarr}`")
        return [configuration.check_keys(item, (*SAMPLE_KEYS, *more), ("name", "grey", "labels")) for item in items]

    def _open(self, given: Mapping[str, Setting]) -> Sample:
        from tomoscale.training.opening import open_sample

        paths = {k: self._path(given[k]) if k in given else None for k in ("grey", "labels", "mask")}
        slices = {}
        if "slices" in given:
            for axis, numbers in configuration.check_keys(given["slices"], ("z", "y", "x")).items():
                slices[axis] = _value(numbers, tuple[int, ...], ())
        name = given["name"].text("the name of a sample")
        return open_sample(name, paths, self.classes, slices=slices, voxel_size_um=self.size)

    def _path(self, setting: Setting) -> str:
        return str(self.folder / local_path(_told(setting, values.input_path, setting.text("a path"))))


def part_of(setting: Setting, start: Any) -> Any:
    """Change a part of a recipe by what a mapping says.

    Raises
    ------
    ConfigurationError
        If a key is no field, or a value does not fit it.
    """
    kinds = get_type_hints(type(start))
    names = {_key(f.name): f.name for f in fields(start)}
    given = configuration.check_keys(setting, names)
    changes = {names[k]: _value(v, kinds[names[k]], getattr(start, names[k])) for k, v in given.items()}
    return _told(setting, replace, start, **changes)


def settings_of(recipe: Any) -> dict[str, Any]:
    """What a configuration would say to get a recipe, or a part of one: JSON values under the keys that `part_of` reads."""
    result = {}
    for one in fields(recipe):
        value = getattr(recipe, one.name)
        if is_dataclass(value):
            value = settings_of(value)
        result[_key(one.name)] = list(value) if isinstance(value, tuple) else value
    return result


def _value(setting: Setting, kind: Any, start: Any) -> Any:
    """Value of a field from its text, by the field's type."""
    if is_dataclass(kind):
        return part_of(setting, start if start is not None else _empty(kind))
    origin, choices = get_origin(kind), get_args(kind)
    if origin is Literal:
        text = setting.text(f"one of {', '.join(choices)}")
        if text not in choices:
            raise setting.error(f"must be one of {', '.join(choices)}{configuration.did_you_mean(text, choices)}")
        return text
    if origin in (Union, UnionType):
        if setting.value is None:
            return None
        return _value(setting, next(c for c in choices if c is not type(None)), start)
    if origin is tuple:
        return _items(setting, choices)
    if origin is not None and issubclass(origin, Mapping):
        wanted = "arguments of the network, such as {depth: 4, width: 16}"
        return {k: _free(v) for k, v in setting.mapping(wanted).items()}
    return _plain(setting, kind)


def _items(setting: Setting, kinds: Sequence[Any]) -> tuple[Any, ...]:
    if setting.value == [] and kinds[-1] is Ellipsis:
        return ()
    items = setting.items("values between brackets") if isinstance(setting.value, list) else [setting]
    if kinds[-1] is Ellipsis:
        return tuple(_value(item, kinds[0], None) for item in items)
    if len(items) != len(kinds):
        raise setting.error(f"must hold {len(kinds)} values")
    return tuple(_value(item, kind, None) for item, kind in zip(items, kinds, strict=True))


def _plain(setting: Setting, kind: Any) -> Any:
    if kind is bool:
        return setting.flag()
    text = setting.text("one value")
    if kind is str:
        return text
    number = _told(setting, values.number, text)
    if kind is int:
        if number != int(number):
            raise setting.error("must be a whole number")
        return int(number)
    return number


def _free(setting: Setting) -> Any:
    """Value of an argument of a network, whose type its architecture knows: list, flag, number or text."""
    if isinstance(setting.value, list):
        return [_free(item) for item in setting.value]
    if isinstance(setting.value, dict):
        raise setting.error("must be a value or a list")
    if setting.value is None or not setting.plain:
        return setting.value
    if setting.value in ("true", "false"):
        return setting.flag()
    try:
        return int(setting.value)
    except ValueError:
        pass
    try:
        return float(setting.value)
    except ValueError:
        return setting.value


def _told(setting: Setting, function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function, and say of what it refuses where it stands."""
    try:
        return function(*arguments, **keywords)
    except ConfigurationError:
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError)) and type(error).__name__ != "ArgumentTypeError":
            raise
        key = f" {setting.key}:" if setting.key else ""
        raise ConfigurationError(f"{setting.file}:{setting.line}:{key} {error}") from None


def _empty(kind: Any) -> Any:
    if any(f.default is MISSING and f.default_factory is MISSING for f in fields(kind)):
        raise ValueError(f"{kind.__name__} cannot be made of nothing")
    return kind()


def _relative(setting: Setting | None, folder: Path) -> Path:
    return folder if setting is None else folder / local_path(setting.text("a path"))


def _key(name: str) -> str:
    return name.replace("_", "-")
