"""Where each setting comes from, and what is refused before Spark starts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from conftest import ROOT

import etl

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
PATHS = [setting.name for setting in etl.SETTINGS if setting.section == "MODE"]
VALUES = {  # by flag, environment, file
    "mode": ["S3", "LOCAL", "S3"],
    "max_bad_percent": ["1", "2", "3"],
    "anonymous": ["yes", "no", "yes"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in an empty folder, beside an etl.py that has no dl.cfg."""
    beside = tmp_path / "beside"
    beside.mkdir()
    monkeypatch.setattr(etl, "__file__", str(beside / "etl.py"))
    folder = Path(os.path.realpath(str(tmp_path))) / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def config(*argv: str, env: Optional[Dict[str, str]] = None, file: Optional[str] = None) -> etl.Config:
    """The configuration of flags, environment and the text of a dl.cfg in the working directory."""
    if file is not None:
        Path("dl.cfg").write_text(file, encoding="utf-8")
    return etl.configure(argv, env or {})


def refusal(*argv: str, env: Optional[Dict[str, str]] = None, file: Optional[str] = None) -> str:
    """The sentence that refuses a configuration."""
    with pytest.raises(etl.UsageError) as caught:
        config(*argv, env=env, file=file)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# ------------------------------------------------------------------------------------ precedence


@pytest.mark.parametrize("name", [setting.name for setting in etl.SETTINGS])
def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(name: str) -> None:
    section = next(setting.section for setting in etl.SETTINGS if setting.name == name)
    of_flag, of_env, of_file = VALUES.get(name, ["s3://b/flag", "s3://b/env", "s3://b/file"])
    flag = ["--" + name.replace("_", "-"), of_flag]
    env = {name.upper(): of_env}
    file = "[%s]\n%s = %s\n" % (section.replace("MODE", "LOCAL"), name.upper(), of_file)

    def value(*argv: str, env: Optional[Dict[str, str]] = None, file: str = "") -> str:
        found = getattr(config(*argv, env=env, file=file), name)
        if name == "anonymous":
            return "yes" if found else "no"
        return "%g" % found if name == "max_bad_percent" else str(found)

    default = value()
    assert value(*flag, env=env, file=file) == of_flag
    assert value(env=env, file=file) == of_env
    assert value(file=file) == of_file
    assert value(env={name.upper(): ""}, file=file) == of_file
    assert value(file=file.split("=")[0] + "=  \n") == default
    assert default != of_file


def test_the_defaults(here: Path) -> None:
    beside = str(here.parent / "beside")
    assert config() == etl.Config("LOCAL", beside + "/data/song_data", beside + "/data/log_data", beside + "/lake", 5.0)
    assert config("--mode", "S3") == etl.Config(
        "S3",
        "s3://udacity-dend/song_data",
        "s3://udacity-dend/log_data",
        "s3://sparkify-dl-sp/sparkify-data",
        5.0,
    )


@pytest.mark.parametrize("mode", ["s3", "S3"])
def test_the_mode_may_be_written_in_any_case(mode: str) -> None:
    assert config("--mode", mode).mode == "S3"
    assert config(env={"MODE": mode}).mode == "S3"
    assert config(file="[PROJECT]\nmode = %s\n" % mode).mode == "S3"


def test_only_the_section_of_the_mode_counts() -> None:
    file = "[LOCAL]\nOUTPUT = /local\n[S3]\nOUTPUT = s3://bucket/lake\nBUCKET = bucket\n"
    assert config(file=file).output == "/local"
    assert config("--mode", "S3", file=file).output == "s3://bucket/lake"


def test_dl_cfg_is_the_one_here_then_the_one_beside_the_script_and_config_beats_both(here: Path) -> None:
    def percent_of(*argv: str) -> float:
        return config(*argv).max_bad_percent

    text = "[PROJECT]\nMAX_BAD_PERCENT = %d\n"
    (here.parent / "beside" / "dl.cfg").write_text(text % 7)
    assert percent_of() == 7
    (here / "dl.cfg").write_text(text % 8)
    assert percent_of() == 8
    (here / "other.cfg").write_text(text % 9)
    assert percent_of("--config", "other.cfg") == 9


@pytest.mark.parametrize("name", ["verbose", "full", "dry_run"])
def test_a_switch_is_a_flag_alone(name: str) -> None:
    assert not getattr(config(env={name.upper(): "yes"}), name)
    assert getattr(config("--" + name.replace("_", "-")), name)


def test_the_lake_in_s3_follows_the_bucket_unless_it_is_named() -> None:
    s3 = ["--mode", "S3"]
    file = "[S3]\nBUCKET = of-file\n"
    assert config(*s3, file=file).output == "s3://of-file/sparkify-data"
    assert config(*s3, file=file, env={"BUCKET": "of-env"}).output == "s3://of-env/sparkify-data"
    assert config(*s3, file=file + "OUTPUT = s3://other/lake\n").output == "s3://other/lake"
    assert config(*s3, "--output", "s3://flag/lake", file=file).output == "s3://flag/lake"
    assert config(file=file).output.endswith("/lake")
    assert config(*s3, file=file).song_data == "s3://udacity-dend/song_data"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == "etl.py %s\n" % etl.VERSION


# ------------------------------------------------------------------------------------ paths


def test_paths_of_a_file_start_at_its_folder_others_at_the_working_directory(here: Path) -> None:
    project = here.parent / "my project"
    project.mkdir()
    (project / "my.cfg").write_text("[LOCAL]\nSONG_DATA = songs\nLOG_DATA = logs\nOUTPUT = ../lake\n")
    found = config("--config", "../my project/my.cfg", "--song-data", "songs", env={"LOG_DATA": "./logs/"})
    assert found.song_data == str(here / "songs")
    assert found.log_data == str(here / "logs")
    assert found.output == str(here.parent / "lake")


def test_a_tilde_is_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here.parent))
    found = config("--song-data", "~/songs", env={"LOG_DATA": "~/logs"}, file="[LOCAL]\nOUTPUT = ~/my lake\n")
    assert (found.song_data, found.log_data) == (str(here.parent / "songs"), str(here.parent / "logs"))
    assert found.output == str(here.parent / "my lake")


def test_symlinks_are_followed(here: Path) -> None:
    (here / "real songs").mkdir()
    (here / "songs").symlink_to("real songs")
    assert config("--song-data", "songs").song_data == str(here / "real songs")


@pytest.mark.parametrize("uri", ["s3://bucket/lake", "hdfs:///lake", "hdfs://name:8020/lake"])
def test_uris_stay_as_they_are_but_for_a_slash_at_the_end(uri: str) -> None:
    assert config("--output", uri).output == uri
    assert config("--output", uri + "/").output == uri


@pytest.mark.parametrize("scheme", ["s3", "s3a", "s3n"])
def test_a_bucket_has_one_name(scheme: str) -> None:
    """So that the lake is not taken for another place than the input because of the scheme."""
    assert config("--output", scheme + "://bucket/lake/").output == "s3://bucket/lake"
    assert refusal("--song-data", "s3://bucket/lake", "--output", scheme + "://bucket/lake").startswith(
        "the output s3:"
    )


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, ""),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000"),
        ({"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://s3"),
    ],
)
def test_a_store_of_ones_own_is_named_as_for_every_aws_client(variables: Dict[str, str], endpoint: str) -> None:
    assert config(env=variables).endpoint == endpoint


def test_the_region_is_the_environments_or_the_files_or_oregon() -> None:
    file = "[AWS]\nAWS_REGION = eu-west-1\n"
    assert config().region == "us-west-2"
    assert config(file=file).region == "eu-west-1"
    assert config(file=file, env={"AWS_DEFAULT_REGION": "eu-west-2"}).region == "eu-west-2"
    assert config(file=file, env={"AWS_DEFAULT_REGION": "eu-west-2", "AWS_REGION": "eu-west-3"}).region == "eu-west-3"


def test_nonsense_for_yes_or_no_is_refused() -> None:
    assert refusal("--anonymous", "maybe") == "anonymous is maybe; it must be yes or no"


def test_paths_may_hold_what_looks_like_other_notations(here: Path) -> None:
    found = config("--song-data", "data/a:b", file="[LOCAL]\nLOG_DATA = 100%% of %(them)s # [1]\nOUTPUT = a=b\n")
    assert found.song_data == str(here / "data" / "a:b")
    assert found.log_data == str(here / "100%% of %(them)s # [1]")
    assert found.output == str(here / "a=b")


# ------------------------------------------------------------------------------------ refused values


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    expected = "mode is GCP; it must be LOCAL or S3"
    assert refusal("--mode", "GCP") == expected
    assert refusal(env={"MODE": "GCP"}) == expected
    assert refusal(file="[PROJECT]\nMODE = GCP\n") == expected


@pytest.mark.parametrize("percent", ["abc", "nan", "-1", "101", "inf", "5%", "1,5", "0x5"])
def test_nonsense_for_the_percentage_is_refused(percent: str) -> None:
    expected = "max_bad_percent is %s; it must be a number from 0 to 100" % percent
    assert refusal("--max-bad-percent=" + percent) == expected
    assert refusal(env={"MAX_BAD_PERCENT": percent}) == expected
    assert refusal(file="[PROJECT]\nMAX_BAD_PERCENT = %s\n" % percent) == expected


@pytest.mark.parametrize("percent", ["0", "0.5", "100", "1e1"])
def test_the_percentage_may_be_anything_from_0_to_100(percent: str) -> None:
    assert config("--max-bad-percent", percent).max_bad_percent == float(percent)


@pytest.mark.parametrize("argv", [["--nonsense"], ["songs"], ["--mode"], ["--verbose=1"], ["--months=2018-11"]])
def test_wrong_flags_exit_with_2_and_a_sentence(argv: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config(*argv)
    assert caught.value.code == 2
    assert "etl.py: error: " in capsys.readouterr().err


def test_a_secret_is_neither_taken_from_the_command_line_nor_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for key in etl.AWS_KEYS:
        flag = "--" + key.lower().replace("_", "-")
        for argv in ([flag, SECRET], [flag + "=" + SECRET]):
            with pytest.raises(SystemExit):
                config(*argv)
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["song_data", "log_data"])
@pytest.mark.parametrize("below", ["", "/lake", "/a/b/../lake"])
def test_an_output_inside_an_input_is_refused(name: str, below: str, here: Path) -> None:
    for folder in ("in", "s3://bucket/in"):
        if "://" in folder and ".." in below:
            continue
        sentence = refusal("--" + name.replace("_", "-"), folder, "--output", folder + below)
        assert re.match("the output .* lies inside %s " % name, sentence)


def test_an_output_that_a_symlink_puts_inside_an_input_is_refused(here: Path) -> None:
    (here / "in").mkdir()
    (here / "lake").symlink_to("in")
    assert " lies inside log_data " in refusal("--log-data", "in", "--output", "lake")


def test_an_output_inside_an_input_is_refused_however_both_are_written(here: Path) -> None:
    assert " lies inside log_data " in refusal("--log-data", "in", "--output", "file://%s/in/lake" % here)
    assert " lies inside log_data " in refusal("--log-data", "file://%s/in" % here, "--output", "in/lake")


@pytest.mark.parametrize("name", ["song_data", "log_data"])
@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_an_input_where_a_table_goes_is_refused(name: str, table: str, here: Path) -> None:
    for below in ("", "/year=2018"):
        sentence = refusal("--" + name.replace("_", "-"), "lake/" + table + below, "--output", "lake")
        expected = "%s %s lies where the table %s goes" % (name, here / ("lake/" + table + below), table)
        assert sentence == expected


def test_inputs_and_output_side_by_side_or_of_similar_names_are_fine(here: Path) -> None:
    found = config("--song-data", "in/song_data", "--log-data", "in", "--output", "in lake")
    assert found.output == str(here / "in lake")
    assert config("--song-data", "song_data", "--log-data", "log_data", "--output", ".").output == str(here)


# ------------------------------------------------------------------------------------ dl.cfg


def test_unknown_sections_and_keys_are_refused_with_the_known_ones() -> None:
    assert refusal(file="[LOKAL]\nOUTPUT = x\n") == "dl.cfg: unknown section [LOKAL]; known: AWS, LOCAL, PROJECT, S3"
    expected = "dl.cfg: unknown key SONGS in [LOCAL]; known: SONG_DATA, LOG_DATA, OUTPUT"
    assert refusal(file="[LOCAL]\nsongs = x\n") == expected
    assert "unknown key OUTPUT in [PROJECT]" in refusal(file="[PROJECT]\nOUTPUT = x\n")
    assert "unknown section [DEFAULT]" in refusal(file="[DEFAULT]\nMODE = S3\n")


def test_an_unreadable_file_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("--config", "no.cfg") == "cannot read the configuration file no.cfg: No such file or directory"
    assert refusal("--config", ".") == "cannot read the configuration file .: Is a directory"

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(etl, "open", denied, raising=False)
    (here / "dl.cfg").write_text("")
    assert refusal() == "cannot read the configuration file dl.cfg: Permission denied"


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY = %s\n",  # no section
        "[AWS]\nAWS_SECRET_ACCESS_KEY %s\n",  # no =
        "[AWS]\n%s\n",
        "[AWS]\n  %s\n",
        "[AWS]\nAWS_SECRET_ACCESS_KEY = x\nAWS_SECRET_ACCESS_KEY = %s\n",  # twice
        "[AWS]\nAWS_SECRET_ACCESS_KEY = %s\n[AWS]\n",
        "[AWS\nAWS_SECRET_ACCESS_KEY = %s\n",
        "[AWS]\nAWS_SESSION_TOKEN = first half\n%s==\n",  # wrapped by an editor, its base64 ends in =
        "[AWS]\nAWS_SESSION_TOKEN = first half\n%s: x\n",
        "[LOCAL]\nAWS_SECRET_ACCESS_KEY = %s\n",
    ],
)
def test_an_invalid_file_is_refused_without_its_secrets(text: str) -> None:
    sentence = refusal(file=text % SECRET)
    assert "dl.cfg" in sentence
    for part in SECRET.split("/"):
        assert part.lower() not in sentence.lower()


def test_a_file_that_is_not_utf8_is_refused(here: Path) -> None:
    (here / "dl.cfg").write_bytes(b"[LOCAL]\nOUTPUT = caf\xe9\n")
    assert refusal() == "dl.cfg is not a valid configuration file"


@pytest.mark.parametrize("secret", ["100%", "%(x)s", "a%%b;c#d", "==/+ x"])
def test_secrets_are_taken_as_they_are_and_never_shown(secret: str) -> None:
    file = "[AWS]\nAWS_SECRET_ACCESS_KEY = %s\nAWS_SESSION_TOKEN =\n" % secret
    found = config(file=file, env={"AWS_SESSION_TOKEN": secret})
    assert found.aws == {"AWS_SECRET_ACCESS_KEY": secret}
    for shown in (repr(found), str(found), "%s" % (found.aws,), "%r" % [found.aws]):
        assert secret not in shown


def test_a_byte_order_mark_and_windows_line_ends_are_fine(here: Path) -> None:
    (here / "dl.cfg").write_bytes(b"\xef\xbb\xbf[PROJECT]\r\nMODE = S3\r\n[S3]\r\nOUTPUT = s3://b/caf\xc3\xa9\r\n")
    found = config()
    assert (found.mode, found.output) == ("S3", "s3://b/caf\u00e9")


def test_blanks_around_a_value_do_not_count() -> None:
    assert config(file="[PROJECT]\nMODE =  S3 \n").mode == "S3"
    assert config(env={"MODE": " S3 "}).mode == "S3"
    assert config(env={"MODE": "  "}, file="").mode == "LOCAL"


def test_the_dl_cfg_of_the_project_holds_the_defaults_every_key_and_no_credential(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(etl, "__file__", str(ROOT / "etl.py"))
    file = ROOT / "dl.cfg"
    without = {mode: etl.configure(["--mode", mode, "--config", os.devnull], {}) for mode in etl.MODES}
    for mode in etl.MODES:
        of_file = etl.configure(["--mode", mode, "--config", str(file)], {})
        places: Dict[str, Any] = {name: str(ROOT / path) for name, path in defaults(mode).items() if "://" not in path}
        assert of_file._replace(aws=etl.Secrets()) == without[mode]._replace(**places)
    assert etl.configure(["--config", str(file)], {}).mode == "LOCAL"
    text = file.read_text()
    assert {setting.name.upper() for setting in etl.SETTINGS} <= set(re.findall(r"^(\w+) *=", text, re.M))
    assert set(etl.configure(["--config", str(file)], {}).aws) <= {"AWS_REGION"}
    assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|[A-Za-z0-9/+]{40}", text)


def defaults(mode: str) -> Dict[str, str]:
    return {setting.name: setting.default[mode] for setting in etl.SETTINGS if setting.name in PATHS}


# ------------------------------------------------------------------------------------ folders


def local(here: Path) -> etl.Config:
    """A configuration whose inputs are there."""
    for name in ("songs", "logs"):
        (here / name).mkdir(exist_ok=True)
    return config("--song-data", "songs", "--log-data", "logs", "--output", "a/lake")


def folder_refusal(found: etl.Config) -> str:
    with pytest.raises(etl.UsageError) as caught:
        etl.check_local_paths(found)
    return str(caught.value)


def test_a_missing_input_folder_is_refused_and_no_output_made(here: Path) -> None:
    found = local(here)
    for name in ("song_data", "log_data"):
        missing: Dict[str, Any] = {name: str(here / "none")}
        sentence = folder_refusal(found._replace(**missing))
        assert sentence == "%s: there is no folder %s" % (name, here / "none")
    assert not (here / "a").exists()


def test_the_output_folder_is_made(here: Path) -> None:
    etl.check_local_paths(local(here))
    assert (here / "a" / "lake").is_dir()
    etl.check_local_paths(local(here))


def test_an_output_that_cannot_be_a_folder_is_refused(here: Path) -> None:
    (here / "a").write_text("")
    assert folder_refusal(local(here)).startswith("output: cannot make the folder %s: " % (here / "a" / "lake"))


@pytest.mark.parametrize("table", sorted(etl.TABLES))
def test_an_output_that_holds_what_somebody_else_made_is_refused(table: str, here: Path) -> None:
    found = local(here)
    mine = Path(found.output) / table / "mine"
    mine.mkdir(parents=True)
    expected = "output: %s holds '%s', which this job did not make" % (found.output, table)
    assert folder_refusal(found) == expected
    assert mine.exists()


def test_a_lake_is_known_by_its_reports(here: Path) -> None:
    found = local(here)
    for folder in ("songs", "_runs"):
        (Path(found.output) / folder).mkdir(parents=True)
    etl.check_local_paths(found)


def test_uris_are_left_to_spark() -> None:
    etl.check_local_paths(config("--mode", "S3"))


# ------------------------------------------------------------------------------------ help


def test_help_tells_every_flag_its_default_the_precedence_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        config("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for setting in etl.SETTINGS:
        assert "--" + setting.name.replace("_", "-") in text
        for default in setting.default.values():
            assert default in re.sub(r"\s", "", text)
    assert "--config" in text
    assert "--verbose" in text
    assert "environment variable of the same name (--song-data: SONG_DATA), which beats dl.cfg" in words
    for code in ("0 done", "1 the data failed a check", "2 wrong usage or environment"):
        assert code in words
    assert "AWS" not in text.upper().replace("BEATS", "")
    assert max(map(len, text.splitlines())) <= 120
