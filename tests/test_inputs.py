"""Bad input is one line that says what to type, and exit code 2, before anything is done."""

from __future__ import annotations

import os
import stat

import click
import pytest
from click.testing import CliRunner

from gradbench.cli import cli, parameters


def commands(group=cli, path=()):
    """Every command with the words that call it."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command


EVERY = [
    pytest.param(command, parameter, id=f"{' '.join(words)} {parameter.name}")
    for words, command in commands()
    for parameter in command.params
    if not getattr(parameter, "is_flag", False)
]


def refused(parameter, command, value) -> str:
    """What a parameter says of a value that it must refuse."""
    with click.Context(command) as context, pytest.raises(click.BadParameter) as error:
        parameter.type.convert(value, parameter, context)
    message = error.value.format_message()
    assert "\n" not in message
    assert len(message) < 1500
    message.encode()
    return message


def of_kind(*kinds):
    return [given for given in EVERY if isinstance(given.values[1].type, kinds)]


@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_every_parameter_refuses_nothing_at_all(command, parameter):
    for value in ("", " ", "\t\n"):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_every_parameter_refuses_what_no_name_has(command, parameter):
    for value in ("a\0b", "x" * 100_000):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.types.FloatParamType))
def test_every_number_is_finite(command, parameter):
    for value in ("nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e400", "-1e400", "9" * 400):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.types.IntParamType))
def test_every_whole_number_has_an_end(command, parameter):
    for value in (
        str(10**30),
        "-1" + "0" * 30,
        "9" * 5000,
        "1e3",
        "0x10",
        "1_000",
        "½",
        "-1",
        "1.5",
    ):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.Choice))
def test_every_choice_suggests_the_nearest(command, parameter):
    word = parameter.type.choices[-1]
    assert repr(word) in refused(parameter, command, word + "x")


@pytest.mark.parametrize(("command", "parameter"), of_kind(parameters.Location))
def test_every_path_refuses_what_can_be_no_place_for_it(command, parameter, tmp_path):
    file = tmp_path / "file.py"
    file.write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for value in (file / "below.py", tmp_path / ("x" * 300), tmp_path / "loop"):
        refused(parameter, command, str(value))


def test_no_parameter_has_a_kind_that_refuses_nothing():
    kinds = (
        *(parameters.Real, parameters.Whole, parameters.Text, parameters.Choice),
        parameters.Location,
    )
    for given in EVERY:
        assert isinstance(given.values[1].type, kinds), given.id


def test_defaults_are_values_that_would_be_accepted():
    for given in EVERY:
        command, parameter = given.values
        with click.Context(command) as context:
            default = parameter.get_default(context)
            values = default if isinstance(default, (tuple, list)) else [default]
            for value in values:
                if isinstance(value, (str, int, float)):
                    assert parameter.type.convert(value, parameter, context) == value


def test_a_file_to_read_is_an_ordinary_one(tmp_path):
    kind = parameters.ReadableFile((".py",))
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "dead.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text("")
    for name, says in (
        ("pipe.py", "no ordinary file"),
        ("dead.py", "there is no file"),
        ("folder.py", "is a folder"),
        ("text.txt", "does not end in .py"),
    ):
        with pytest.raises(click.BadParameter, match=says):
            kind.convert(str(tmp_path / name), None, None)


def test_a_file_to_write_is_an_ordinary_one_in_a_folder_that_is_there(tmp_path):
    kind = parameters.NewFile((".csv",))
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "full.csv").symlink_to("/dev/full")
    (tmp_path / "folder.csv").mkdir()
    for name, says in (
        ("pipe.csv", "no ordinary file"),
        ("full.csv", "no ordinary file"),
        ("folder.csv", "is a folder"),
        ("none/x.csv", "there is no folder"),
        ("x.py", "the ending must be one of .csv"),
    ):
        with pytest.raises(click.BadParameter, match=says):
            kind.convert(str(tmp_path / name), None, None)
    assert kind.convert(str(tmp_path / "x.CSV"), None, None) == tmp_path / "x.CSV"
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lst"], "'list'"),
        (["Run"], "'run'"),
        (["reprot"], "'report'"),
        (["releases", "instal"], "'install'"),
        (["releases", "biscet"], "'bisect'"),
        (["study", "covrage"], "'coverage'"),
        (["show", "--comparision", "x"], "--comparison"),
        (["run", "--profile", "quik"], "'quick'"),
        (["plot", "heat", "-t", "x.svg"], "'heatmap'"),
    ],
)
def test_a_word_that_is_not_there_gets_the_nearest(words, meant):
    answer = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(answer.exception, click.UsageError)
    assert meant in answer.exception.format_message()
