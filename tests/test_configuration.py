"""Configurations: read as written, bounded, and every mistake told with its place, its rule and the nearest valid key."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tomoscale.cli import values
from tomoscale.cli.command import Option, actions_of, flag, option
from tomoscale.configuration import check_keys, did_you_mean, options_of
from tomoscale.errors import InputError
from tomoscale.settings import MAX_BYTES, ConfigurationError, Setting, load

OPTIONS = (
    option("source", type=values.input_path, help="what is read"),
    option("--voxel-size", dest="voxel_size_um", type=values.lengths, help="such as 5um"),
    option("--percentiles", type=values.number, nargs=2, default=(0.5, 99.9), help="two numbers"),
    option("--kind", choices=("grey", "labels"), help="what it is"),
    option("--labels", nargs="+", type=values.input_path, default=[], help="paths"),
    option("--radius", type=values.positive, default=1, help="voxels"),
    option("--name", type=values.word, help="of the sample"),
    flag("--exclude-zeros", "leave them out"),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def read(folder: Path, text: str, options: tuple[Option, ...] = OPTIONS) -> dict[str, object]:
    return options_of(load(written(folder, text)), actions_of(options), paths=values.PATHS)


def test_values_are_what_the_command_line_makes_of_them(tmp_path):
    text = """
source: scan.h5::/entry/data
voxel-size: 0.005mm
percentiles: [1, 99.5]
kind: labels
labels: [one.zarr, /far/two.zarr]
exclude-zeros: true
name: 012
"""
    assert read(tmp_path, text) == {
        "source": str(tmp_path / "scan.h5::/entry/data"),
        "voxel_size_um": (5.0, 5.0, 5.0),
        "percentiles": [1.0, 99.5],
        "kind": "labels",
        "labels": [str(tmp_path / "one.zarr"), "/far/two.zarr"],
        "exclude_zeros": True,
        "radius": 1,
        "name": "012",
    }


def test_what_is_absent_has_its_default(tmp_path):
    found = read(tmp_path, "source: a")
    assert (found["percentiles"], found["radius"], found["exclude_zeros"], found["kind"]) == (
        (0.5, 99.9),
        1,
        False,
        None,
    )


@pytest.mark.parametrize(
    "text", ["no", "on", "2026-01-02", "1:30", "0x1F", "1_000", "1e3", "~x", "null-sample", "0.50"]
)
def test_text_stays_as_it_was_written(tmp_path, text):
    assert read(tmp_path, f"source: a\nname: {text}")["name"] == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source: a\nvoxel-sise: 5um", "study.yaml:2: voxel-sise: no such key; did you mean voxel-size?"),
        ("source: a\nbanana: 5um", "valid here: source, voxel-size"),
        ("source: a\nsource: b", "study.yaml:2: source stands here and in line 1"),
        ("kind: grey", "lacks source"),
        ("source: a\nvoxel-size: 5", "study.yaml:2: voxel-size: '5' has no unit"),
        ("source: a\nvoxel-size: five", "'five' is not one positive length or three"),
        ("source: a\npercentiles: [1]", "the list of 1 must hold 2 values"),
        ("source: a\npercentiles: 1", "'1' must be a list"),
        ("source: a\npercentiles: [1, high]", r"study.yaml:2: percentiles #2: 'high' is not a number"),
        ("source: a\nkind: gray", "'gray' must be one of grey, labels; did you mean grey?"),
        ("source: a\nradius: 1.5", "'1.5' is not a whole number of at least 1"),
        ("source: a\nexclude-zeros: yes", "'yes' must be true or false"),
        ("source: a\nexclude-zeros: 'true'", "without quotes"),
        ("source: a\nname: true", "must be a value and not a flag"),
        ("source: a\nname:", "study.yaml:2: name: nothing must be one value"),
        ("source: a\nname: [x]", "the list of 1 must be one value"),
        ("source: {a: b}", "the mapping with a must be one value"),
        ("source: a\n? [x, y]\n: z", "study.yaml:2: a key must be one word"),
        ("source: !!python/object:os.system {}", "the tag .*python.* would make an object"),
        ("source: !mine x", "the tag !mine would make an object"),
        ("source: [a", "study.yaml:1: .*column"),
        ("source: a\n  kind: grey", "study.yaml:2: mapping values are not allowed"),
        ("source: a\n\tkind: grey", "study.yaml:2: .*tab|study.yaml:2: .*mapping|cannot start any token"),
        ("source: *nowhere", "undefined alias"),
        ("a: 1\n---\nb: 2", "study.yaml:2: but found another document"),
        ("", "study.yaml:1: the file is empty"),
        ("# only words\n", "the file is empty"),
        ("- a\n- b", "the list of 2 must be a mapping"),
        ("just text", "'just text' must be a mapping"),
        ("source: '" + "x" * 500 + "'\nkind: '" + "y" * 500 + "'", r"'y{60}\.\.\.' must be one of"),
    ],
)
def test_a_mistake_names_its_place_and_its_rule(tmp_path, text, words):
    with pytest.raises(ConfigurationError, match=words.replace("?", r"\?") if "did you" in words else words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "study.yaml") in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_missing_file_and_a_folder_are_data_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load(tmp_path)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(9), "with its aliases repeated the file has more than"),
        ("a: &a [*a]", "with its aliases repeated the file has more than|more than 12 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 12 levels"),
        ("a: " + "{b: " * 400 + "1" + "}" * 400, "more than 12 levels"),
        ("a: [" + "1, " * 30_000 + "1]", "more than 20000 values"),
        ("a: " + "x" * MAX_BYTES, "larger than 256 KiB"),
    ],
)
def test_a_file_that_would_grow_is_refused_soon(tmp_path, text, words):
    started = time.process_time()
    with pytest.raises(ConfigurationError, match=words):
        load(written(tmp_path, text))
    assert time.process_time() - started < 10


def test_an_alias_repeats_what_it_names(tmp_path):
    root = load(written(tmp_path, "one: &one {name: T04}\ntwo: *one"))
    assert root.value["two"].value["name"].value == "T04"


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\xd8", b"a: \x00", b"\x89PNG\r\n\x1a\n\x00\x00", b"a: \xc3\x28"])
def test_what_is_no_text_is_refused(tmp_path, data):
    (tmp_path / "study.yaml").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"study\.yaml:1"):
        load(tmp_path / "study.yaml")


def test_keys_are_checked_with_their_line(tmp_path):
    root = load(written(tmp_path, "steps:\n  - convert:\n      sourxe: a\n"))
    inside = root.value["steps"].value[0].value["convert"]
    with pytest.raises(
        ConfigurationError, match=r"study.yaml:3: steps #1.convert.sourxe: no such key; did you mean source"
    ):
        check_keys(inside, ["source", "target"])
    assert did_you_mean("zzz", ["source"]) == ""


nested = st.recursive(
    st.text("abcxyz019 .,:-_#'\"", max_size=8),
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), below, max_size=4)
    ),
    max_leaves=12,
)


def as_python(setting: Setting) -> object:
    if isinstance(setting.value, dict):
        return {key: as_python(value) for key, value in setting.value.items()}
    return [as_python(item) for item in setting.value] if isinstance(setting.value, list) else setting.value


@given(content=st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), nested, min_size=1, max_size=4))
def test_what_yaml_writes_is_read_as_it_was(tmp_path_factory, content):
    path = written(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(content, default_style='"'))
    assert as_python(load(path)) == content


@given(data=st.binary(max_size=200) | st.text("ab:-[]{}&*!'\"\n #|>?,", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_message(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "study.yaml"
    path.write_bytes(data)
    refused = ""
    try:
        assert isinstance(load(path).value, dict)
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or refused.startswith(str(path))
