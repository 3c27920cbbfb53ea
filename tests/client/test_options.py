"""Options of `edgefd-client run` from a YAML file and from the command line."""

from pathlib import Path

import pytest
from edgefd_client.cli import main

from tests.support.federations import ExportedFederation


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], message: str) -> bool:
    """Check that the command ends with exit code 2 and one line on stderr that contains the message."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    assert message in err
    return True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bundel: x", "did you mean 'bundle'?"),
        ("client: one", "a whole number"),
        ("data: d\nclient: 010", "line 2: 010 has more than one meaning in YAML: write 10 for a number"),
        ("insecure: yes", "write true, or"),
        ("client: 1\nclient: 2", "the key client is there twice"),
        ("bundle: 3", "a path"),
        ("bundle: b", "--data, --state must be given"),
        ("- a", "must hold options"),
        ("insecure: 1", "true or false"),
        ("data: d\nstate: s", "--client must be given"),
        ("data: d\nstate: s\nclient: 0\nserver: localhost", "--server must be HOST:PORT"),
        ("data: d\nstate: s\nclient: 0\nserver: localhost:99999", "--server must be HOST:PORT"),
        ("data: d\nstate: s\nclient: 0", "either --server HOST:PORT or --exchange DIR"),
        ("data: d\nstate: s\nclient: 0\nexchange: e", "--exchange needs --bundle"),
        ("data: d\nstate: s\nclient: 0\nserver: 192.0.2.1:1", "192.0.2.1:1 without TLS: pass --certs DIR"),
        ("data: d\nstate: s\nserver: 192.0.2.1:1\ncerts: nowhere", "certs device"),
    ],
)
def test_a_file_with_invalid_options_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "device.yaml"
    file.write_text(text + "\n")
    assert refused(["run", "--config", str(file)], capsys, message)


def test_the_command_line_overrides_the_file(
    federation: ExportedFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "device.yaml"
    file.write_text(f"bundle: {federation.bundle}\ndata: {tmp_path}/x.pdf\nstate: s\nexchange: e\nclient: 0\n")
    assert refused(["run", "--config", str(file)], capsys, "x.pdf must be an .npz")
    assert refused(["run", "--config", str(file), "--client", "-1"], capsys, "--client must be 0, 1")
