"""Experiments, recipes and ablations of one's own, from a file that no clone has."""

import os
import textwrap

import pytest

import configs
from crn_jax.errors import UserError
from crn_jax.experiment import to_json
from crn_jax.run import read_description
from launch import ablate, benchmark, synthesize, train
from launch.ablation.workers import own
from launch.common.catalogue import VARIABLE, ablations, experiments, recipes, take_configs
from launch.common.command_line import named_experiment, parse, parse_stages
from launch.common.terminal import console

FILE = """
import dataclasses

from configs import demo
from crn_jax.ablation import Ablation, Variant
from crn_jax.growth import Recipe

_narrow = dataclasses.replace(demo.cascade, widths=(8, 8, 8, 8), base=(6, 8))
EXPERIMENTS = {"mine": dataclasses.replace(demo, cascade=_narrow, epochs=7)}
RECIPES = {"mine_grown": Recipe("Mine, grown.", {"first": "mine", "second": "mine --cascade.widths 8 8 8 8 8"})}
ABLATIONS = {"question": Ablation("Is it wider?", (Variant("as it is", "mine"), Variant("wider", "mine --batch_size 2")))}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file of experiments; whatever a test makes of the variable is undone."""
    monkeypatch.setenv(VARIABLE, "")

    def write(text: str = FILE, name: str = "my_configs.py") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def refusal(file: str) -> str:
    """The message with which a file is refused."""
    take_configs(["--configs", file])
    with pytest.raises(UserError) as refused:
        experiments()
    return str(refused.value)


def test_names_are_known_where_ours_are(written):
    assert take_configs(["mine", f"--configs={written()}", "--steps", "3"]) == ["mine", "--steps", "3"]
    assert list(experiments()) == [*configs.EXPERIMENTS, "mine"]
    assert list(recipes()) == [*configs.RECIPES, "mine_grown"] and list(ablations()) == [*configs.ABLATIONS, "question"]
    experiment = parse(["mine", "--seed", "3"]).experiment
    assert (experiment.name, experiment.epochs, experiment.seed, experiment.folder) == ("mine", 7, 3, "runs/mine")
    assert [stage.experiment.folder for stage in parse_stages(["mine_grown"])] == [
        *("runs/mine_grown/first", "runs/mine_grown/second")
    ]
    (case,) = benchmark.cases_of(benchmark.Arguments(("mine",)))
    assert case.cascade.widths == (8, 8, 8, 8)


def test_the_variable_does_what_the_flag_does_and_children_see_it(written, monkeypatch):
    monkeypatch.setenv(VARIABLE, written())
    assert "mine" in experiments() and take_configs(["demo"]) == ["demo"]
    take_configs(["--configs", written(FILE.replace("mine", "other"), "other.py")])
    assert "other" in experiments() and "mine" not in experiments()
    assert own({})[VARIABLE] == os.environ[VARIABLE] and own({})[VARIABLE].endswith("other.py")


def test_a_relative_file_is_that_of_the_folder_where_it_was_named(written, tmp_path, monkeypatch):
    written()
    monkeypatch.chdir(tmp_path)
    take_configs(["--configs", "my_configs.py"])
    monkeypatch.chdir("/")
    assert "mine" in experiments()


def test_a_file_called_as_ours_imports_ours(written):
    take_configs(["--configs", written(name="configs.py")])
    assert experiments()["mine"].data == configs.demo.data


def test_lists_and_commands_of_an_ablation_show_the_file(written):
    file = written()
    with console.capture() as capture, pytest.raises(SystemExit):
        train.main(["--configs", file, "--help"])
    assert "mine_grown" in capture.get()
    with console.capture() as capture, pytest.raises(SystemExit):
        ablate.main(["question", "--configs", file, "--dry_run", "--budget", "5"])
    trainings = [line for line in capture.get().splitlines() if line.startswith("python -m launch.train mine ")]
    assert len(trainings) == 2 and all(line.endswith(f"--configs {file}") for line in trainings)


def test_a_run_does_not_need_the_file_again(written, tiny, tmp_path, monkeypatch):
    file, folder = written(), tmp_path / "run"
    rest = [*tiny[1:], "--run.folder", str(folder)]
    train.main(["--configs", file, "mine", *rest, "--steps", "2"])
    stored = read_description(folder)[0]
    assert (stored.name, stored.epochs) == ("mine", 7)

    os.remove(file)
    monkeypatch.setenv(VARIABLE, "")
    synthesize.main([str(folder), str(folder / "layouts"), "--out", str(tmp_path / "images")])
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert to_json(named_experiment(str(folder))) == to_json(stored)
    with console.capture() as capture:
        train.main([str(folder), "--steps", "3"])
    assert f"Resuming {folder} at step 2." in capture.get().replace("\n", "")
    with pytest.raises(UserError, match="There is no experiment 'mine'"):
        named_experiment("mine")


RECIPE = "from crn_jax.growth import Recipe\nRECIPES = {'new': Recipe('', "
REPLACED = "import dataclasses\nfrom configs import demo\nEXPERIMENTS = {'new': dataclasses.replace(demo, "
ABLATION = "from crn_jax.ablation import Ablation, Variant\nABLATIONS = {'new': Ablation('', "


@pytest.mark.parametrize(
    "text, parts",
    [
        ("EXPERIMENTS = {'demo': __import__('configs').demo}", ["'demo' in EXPERIMENTS of {file}", "EXPERIMENTS of {ours}"]),
        (
            "from crn_jax.growth import Recipe\nRECIPES = {'demo': Recipe('', {})}",
            ["'demo' in RECIPES of {file}", "EXPERIMENTS of {ours}"],
        ),
        (
            "from configs import ABLATIONS",
            ["'paper' in ABLATIONS of {file}", "ABLATIONS of {ours}"],
        ),
        (
            "from configs import demo\nfrom crn_jax.growth import Recipe\n"
            "EXPERIMENTS = {'new': demo}\nRECIPES = {'new': Recipe('', {'one': 'demo'})}",
            ["'new' in RECIPES of {file}", "EXPERIMENTS of {file}"],
        ),
        ("a = 1\nb = (", ["{file}, line 2: "]),
        ("a = 1\n\nfrom configs import dem", ["{file}, line 3: ImportError", "dem"]),
        (
            "import dataclasses\nfrom configs import demo\n\ndataclasses.replace(demo, epoch=3)\n",
            ["{file}, line 4: TypeError", "epoch"],
        ),
        ("def f():\n    return 1 / 0\n\nEXPERIMENTS = f()", ["{file}, line 2: ZeroDivisionError"]),
        ("EXPERIMENT = {}", ["{file}", "none of EXPERIMENTS, RECIPES, ABLATIONS"]),
        ("EXPERIMENTS = []", ["{file}: EXPERIMENTS is of type list"]),
        ("EXPERIMENTS = {'new': 3}", ["{file}: EXPERIMENTS['new'] is of type int, not an experiment"]),
        ("from configs import demo\nRECIPES = {'new': demo}", ["RECIPES['new'] is of type Experiment, not a Recipe"]),
        (f"{RECIPE}{{}})}}", ["RECIPES['new'] has no stages"]),
        (f"{RECIPE}['demo'])}}", ["RECIPES['new'] has no stages. Give it at least one, in a dict"]),
        (f"{RECIPE}{{'one': 3}})}}", ["stage 'one': '3' does not begin with an experiment"]),
        (f"{RECIPE}{{'one': ''}})}}", ["RECIPES['new'], stage 'one'", "'' does not begin with an experiment"]),
        (f"{RECIPE}{{'one': 'demo --name \"a'}})}}", ["stage 'one': No closing quotation. Close every quotation mark"]),
        (f"{RECIPE}{{'one': 'segmenter_camvid'}})}}", ["'segmenter_camvid' does not begin with an experiment"]),
        (f"{RECIPE}{{'one': 'dem'}})}}", ["'dem' does not begin with an experiment that trains a cascade"]),
        (f"{ABLATION}())}}", ["ABLATIONS['new'] has no variants"]),
        (f"{ABLATION}(Variant('a', ''),))}}", ["variant 'a': '' does not begin with an experiment"]),
        (f"{ABLATION}(Variant('a', 'demo \"'),))}}", ["variant 'a': No closing quotation"]),
        (f"{ABLATION}(Variant('a', 'demo'),), 'demo \"')}}", ["segmenter: No closing quotation"]),
        (f"{ABLATION}(Variant('a b', 'demo'), Variant('a_b', 'demo')))}}", ["'a b' and 'a_b' give no folder of their own"]),
        (f"{ABLATION}(Variant('a', 'demo'), Variant('a', 'demo')))}}", ["'a' and 'a' give no folder of their own"]),
        (f"{ABLATION}(Variant('???', 'demo'),))}}", [": '???' give no folder of their own"]),
        ("from configs import demo\nEXPERIMENTS = {3: demo}", ["EXPERIMENTS has the key 3, which is no name"]),
        ("from configs import demo\nEXPERIMENTS = {'--help': demo}", ["the key '--help', which is no name"]),
        ("a = 1\nimport sys; sys.exit()", ["{file}, line 2: SystemExit"]),
        (f"{REPLACED}steps=2e0)}}", ["EXPERIMENTS['new']: invalid value for type, expected int | None @ experiment.steps"]),
        (f"{REPLACED}run=dataclasses.replace(demo.run, keep_last=1.5))}}", ["expected int @ experiment.run.keep_last"]),
        (
            "from configs import demo\nfrom crn_jax.experiment import Experiment\nclass Mine(Experiment): pass\n"
            "EXPERIMENTS = {'new': Mine(**{k: v for k, v in vars(demo).items()})}",
            ["EXPERIMENTS['new'] is of the class Mine"],
        ),
        (f"{RECIPE}{{64: 'demo'}})}}", ["has a stage 64, which is no name of a folder"]),
        (f"{RECIPE}{{'../x': 'demo'}})}}", ["has a stage '../x', which is no name of a folder"]),
        ("from configs import demo\nEXPERIMENTS = {'a/b': demo}", ["the key 'a/b', which is no name"]),
        (f"{ABLATION}(Variant('a', 'demo'),), classes=(1,))}}", ["has classes (1,). Make them a tuple of names"]),
        (f"{RECIPE}{{'': 'demo'}})}}", ["has a stage '', which is no name of a folder"]),
        (f"{ABLATION}('demo',))}}", ["has the variant 'demo', which is no Variant with a name"]),
        (f"{ABLATION}(Variant(1, 'demo'),))}}", ["which is no Variant with a name"]),
        (f"{ABLATION}(Variant('a', 'demo'),), classes='car')}}", ["has classes 'car'. Make them a tuple of names"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(written, text, parts):
    file = written(text)
    message = refusal(file)
    for part in parts:
        assert part.format(file=file, ours=configs.__file__) in message


def test_lists_are_taken_for_tuples_and_numpys_numbers_for_numbers(written, monkeypatch):
    rate = "optimizer=dataclasses.replace(demo.optimizer, learning_rate=__import__('numpy').float64(0.25))"
    text = f"{rate}, cascade=dataclasses.replace(demo.cascade, widths=[8] * 5))}}"
    monkeypatch.setenv(VARIABLE, written(REPLACED + text))
    new = named_experiment("new")
    assert new.cascade.widths == (8,) * 5 and hash(new) and type(new.optimizer.learning_rate) is float


def test_a_missing_file_is_named(written, tmp_path):
    assert f"{tmp_path / 'none.py'}: there is no such file" in refusal(str(tmp_path / "none.py"))
    for arguments in (["demo", "--configs"], ["--configs=", "demo"]):
        with pytest.raises(UserError, match="name a file of experiments"):
            take_configs(arguments)
