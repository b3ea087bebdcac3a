"""The experiments, recipes and ablations that commands know by name: those of configs.py, and those of a user's own file.

`--configs FILE.py` or the variable CRN_JAX_CONFIGS names such a file. It is Python code and defines one or more of EXPERIMENTS,
RECIPES and ABLATIONS, as configs.py does. The processes that a command starts read the file, too.
"""

import dataclasses
import functools
import json
import linecache
import os
import runpy
import shlex
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import configs
from crn_jax.ablation import Ablation, Variant
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Experiment, Training, from_json, to_json
from crn_jax.files import expanded
from crn_jax.growth import Recipe
from launch.common.names import slug

VARIABLE = "CRN_JAX_CONFIGS"

_KINDS = {"EXPERIMENTS": Training, "RECIPES": Recipe, "ABLATIONS": Ablation}


def experiments() -> dict[str, AnyExperiment]:
    """Returns every experiment by its name.

    Raises:
      UserError: if the user's own file has an error, or a name that is taken.
    """
    return {**configs.EXPERIMENTS, **_own()["EXPERIMENTS"]}


def recipes() -> dict[str, Recipe]:
    """Returns every recipe by its name.

    Raises:
      UserError: if the user's own file has an error, or a name that is taken.
    """
    return {**configs.RECIPES, **_own()["RECIPES"]}


def ablations() -> dict[str, Ablation]:
    """Returns every ablation by its name.

    Raises:
      UserError: if the user's own file has an error, or a name that is taken.
    """
    return {**configs.ABLATIONS, **_own()["ABLATIONS"]}


def take_configs(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments without `--configs FILE.py`, and notes that file for this process and those that it starts.

    Raises:
      UserError: if `--configs` comes without a file.
    """
    rest, remaining = list[str](), iter(arguments)
    for argument in remaining:
        option, equals, file = argument.partition("=")
        if option != "--configs":
            rest.append(argument)
            continue
        file = file if equals else next(remaining, "")
        if not file:
            raise UserError("--configs: name a file of experiments, --configs FILE.py.")
        os.environ[VARIABLE] = os.path.abspath(expanded(file))
    return rest


def configs_arguments() -> list[str]:
    """Returns the arguments by which another command reads the user's own file, if there is one."""
    return [] if _own_file() is None else ["--configs", str(_own_file())]


def _own_file() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(expanded(named)) if named else None


def _own() -> Mapping[str, Mapping[str, Any]]:
    file = _own_file()
    return dict.fromkeys(_KINDS, {}) if file is None else _read(file.absolute())


@functools.cache
def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Returns EXPERIMENTS, RECIPES and ABLATIONS of a file, checked. The key in EXPERIMENTS becomes the experiment's name."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file. --configs or the variable {VARIABLE} has to name a Python file.")
    defined = _run(file)
    found = {kind: defined.get(kind, {}) for kind in _KINDS}
    if not any(kind in defined for kind in _KINDS):
        raise UserError(f"{file}: the file defines none of {', '.join(_KINDS)}. Define one of them, as configs.py does.")
    for kind, type_ in _KINDS.items():
        if not isinstance(found[kind], dict):
            raise UserError(f"{file}: {kind} is of type {type(found[kind]).__name__}. Make it a dict, as in configs.py.")
        for name, value in found[kind].items():
            if not _is_name(name):
                raise UserError(f"{file}: {kind} has the key {name!r}, which is no name.")
            if not isinstance(value, type_):
                raise UserError(f"{file}: {kind}['{name}'] is of type {type(value).__name__}, not {_a(type_)}.")
    trained = ("EXPERIMENTS", "RECIPES")  # launch.train takes a name of either
    _refuse_twice(file, found, trained)
    _refuse_twice(file, found, ("ABLATIONS",))
    known = configs.EXPERIMENTS | found["EXPERIMENTS"]
    for name, recipe in found["RECIPES"].items():
        _check_stages(f"{file}: RECIPES['{name}']", recipe, known)
    for name, ablation in found["ABLATIONS"].items():
        _check_variants(f"{file}: ABLATIONS['{name}']", ablation, known)
    named = {
        name: _checked(f"{file}: EXPERIMENTS['{name}']", dataclasses.replace(experiment, name=name))
        for name, experiment in found["EXPERIMENTS"].items()
    }
    return {**found, "EXPERIMENTS": named}


def _checked(which: str, experiment: Any) -> AnyExperiment:
    """Returns an experiment as a run folder would give it back: lists are tuples, and values have the types of their fields.

    Raises:
      UserError: if it is of a class of the file's own, or a value has another type.
    """
    if type(experiment) not in get_args(AnyExperiment):
        raise UserError(f"{which} is of the class {type(experiment).__name__}. Run folders can store those of crn_jax alone.")
    try:
        stored = json.loads(json.dumps(to_json(experiment)))  # NumPy's numbers are numbers then
    except TypeError as error:
        raise UserError(f"{which} cannot be stored in a run folder: {error}. Give its fields plain values.") from error
    return from_json(stored, which)


def _is_name(value: Any) -> bool:
    """Returns whether a value is a name that a folder can have and that looks like no option."""
    return isinstance(value, str) and bool(value) and set(value).isdisjoint("/\\") and not value.startswith((".", "-"))


def _check_stages(which: str, recipe: Recipe, known: Mapping[str, AnyExperiment]) -> None:
    """Raises UserError unless every stage of a recipe is a command line that begins with the name of a cascade's experiment."""
    if not isinstance(recipe.stages, dict) or not recipe.stages:
        raise UserError(f"{which} has no stages. Give it at least one, in a dict.")
    for stage, words in recipe.stages.items():
        if not _is_name(stage):
            raise UserError(f"{which} has a stage {stage!r}, which is no name of a folder.")
        if not isinstance(known.get(_first_word(f"{which}, stage '{stage}'", words)), Experiment):
            raise UserError(f"{which}, stage '{stage}': '{words}' does not begin with an experiment that trains a cascade.")


def _check_variants(which: str, ablation: Ablation, known: Mapping[str, AnyExperiment]) -> None:
    """Raises UserError unless an ablation has variants that can be trained, each in a folder of its own."""
    if not isinstance(ablation.variants, tuple | list) or not ablation.variants:
        raise UserError(f"{which} has no variants. Give it at least one.")
    if not isinstance(ablation.classes, tuple | list) or not all(isinstance(name, str) for name in ablation.classes):
        raise UserError(f"{which} has classes {ablation.classes!r}. Make them a tuple of names.")
    if ablation.segmenter is not None:
        _first_word(f"{which}, segmenter", ablation.segmenter)
    folders = dict[str, str]()  # the variant of each folder
    for variant in ablation.variants:
        if not isinstance(variant, Variant) or not isinstance(variant.name, str):
            raise UserError(f"{which} has the variant {variant!r}, which is no Variant with a name.")
        if _first_word(f"{which}, variant '{variant.name}'", variant.arguments) not in known:
            raise UserError(f"{which}, variant '{variant.name}': '{variant.arguments}' does not begin with an experiment.")
        folder = slug(variant.name)
        if not folder or folder in folders:
            other = f"'{folders[folder]}' and " if folder else ""
            raise UserError(
                f"{which}: {other}'{variant.name}' give no folder of their own. Change a name, by letters or digits."
            )
        folders[folder] = variant.name


def _first_word(which: str, words: str) -> str:
    """Returns the first word of a command line, or "" if it has none.

    Raises:
      UserError: if it is no text, or a quotation mark has no partner.
    """
    try:
        return next(iter(shlex.split(words)), "") if isinstance(words, str) else ""
    except ValueError as error:
        raise UserError(f"{which}: {error}. Close every quotation mark.") from error


def _run(file: Path) -> dict[str, Any]:
    """Runs a Python file, and returns what it defines.

    Raises:
      UserError: if the file raises an error; the message gives its name and line.
    """
    linecache.checkcache(str(file))
    try:
        return runpy.run_path(str(file))
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # a file that ends the process would end a training without a word
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{file}, line {lines[-1] if lines else '?'}: {said}") from error


def _refuse_twice(file: Path, found: Mapping[str, Mapping[str, Any]], kinds: Iterable[str]) -> None:
    """Raises UserError if a name is defined twice, in the file and in configs.py or in two kinds."""
    places = {name: f"{kind} of {configs.__file__}" for kind in kinds for name in getattr(configs, kind)}
    for kind in kinds:
        for name in found[kind]:
            if name in places:
                raise UserError(f"'{name}' in {kind} of {file} is also in {places[name]}. Give yours another name.")
            places[name] = f"{kind} of {file}"


def _a(type_: type) -> str:
    return "an experiment" if type_ is Training else f"{'an' if type_.__name__[0] in 'AEIOU' else 'a'} {type_.__name__}"
