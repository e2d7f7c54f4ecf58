"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic import massive_scan, sink_scan
from typer.testing import CliRunner

import lensprobe as lp
from lensprobe import cli
from lensprobe.errors import Interrupted
from lensprobe.reporting.report import joined


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "lensprobe.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


def called(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def fake(monkeypatch):
    """Scans at once: the command line is tested, not the model."""
    seen: dict = {}

    def report(model, texts=None, **options):
        seen.update(options, model=model, texts=texts)
        return joined(massive_scan(), sink_scan(), "")

    monkeypatch.setattr(lp, "load", lambda name, **options: name, raising=False)
    monkeypatch.setattr(lp, "report", report, raising=False)
    return seen


def test_help_teaches_and_is_fast():
    start = time.perf_counter()
    done = command("--help")
    assert time.perf_counter() - start < 5
    assert done.returncode == 0
    for word in ("report", "scan", "models", "lensprobe report gpt2", "130"):
        assert word in done.stdout
    assert "lensprobe report" in command("report", "--help").stdout
    assert "lp.open" in command("scan", "--help").stdout


def test_help_does_not_load_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from lensprobe.cli import app;"
        "r = CliRunner().invoke(app, ['report', '--help']); assert r.exit_code == 0;"
        "print('torch' in sys.modules, 'plotly' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3


def test_version():
    assert called("--version").stdout.strip() == f"lensprobe {lp.__version__}"


def test_models_lists_what_is_here_and_how_to_get_the_rest():
    done = called("models")
    assert done.exit_code == 0
    here, rest = done.stdout.split("Not on this machine")
    assert "planted" in here
    assert "gpt2" in rest
    assert ".gguf" in rest


def test_an_error_is_one_line(tmp_path):
    done = command("report", "no-such-model", "-o", str(tmp_path / "a.html"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lensprobe: ")
    assert "no-such-model" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_where(tmp_path, where):
    words = ["report", "no-such-model", "-o", str(tmp_path / "a.html")]
    done = command("--debug", *words) if where == "before" else command(*words, "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "words", ["reprot", "report --limit 0", "report --texts missing.txt", "scan --what x"]
)
def test_wrong_usage(words):
    assert called(*words.split()).exit_code == 2


def test_report_writes_a_page(fake, tmp_path):
    path, texts = tmp_path / "a.html", tmp_path / "texts.txt"
    texts.write_text("one\n\ntwo\n")
    words = [
        "report",
        "gpt2",
        "-o",
        str(path),
        "--texts",
        str(texts),
        "--limit",
        "3",
        "--length",
        "32",
    ]
    done = called(*words, "--theme", "dark", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(path)
    assert 'data-theme="dark"' in path.read_text()
    assert fake == {
        "limit": 3, "length": 32, "progress": False, "model": "gpt2", "texts": texts
    }  # fmt: skip
    assert "Dimension 447 at position 0" in done.stderr


def test_an_existing_page_is_refused_before_the_model_is_loaded(fake, tmp_path):
    path = tmp_path / "a.html"
    path.write_text("mine")
    done = called("report", "-o", str(path))
    assert done.exit_code == 1
    assert "overwrite" in done.stderr
    assert (path.read_text(), fake) == ("mine", {})
    assert called("report", "-o", str(path), "--overwrite").exit_code == 0


def test_open_opens_the_page(fake, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    called("report", "-o", str(tmp_path / "a.html"), "--open")
    assert opened == [(tmp_path / "a.html").as_uri()]


def test_scan_prints_tables_and_saves(fake, tmp_path):
    done = called("scan", "gpt2", "-o", str(tmp_path / "gpt2.scan"))
    assert done.exit_code == 0, done.output
    assert "Massive activations, strongest first" in done.stdout
    assert "447" in done.stdout
    assert "Strongest sink heads" in done.stdout
    assert lp.open(tmp_path / "gpt2.scan").summary()["massive_dim"] == 447


def test_scan_writes_tables_as_parquet(fake, tmp_path):
    folder = tmp_path / "tables"
    done = called("scan", "gpt2", "--parquet", str(folder))
    assert done.exit_code == 0, done.output
    assert (folder / "massive.findings.parquet").exists() and str(folder) in done.stderr
    fake.clear()
    done = called("scan", "gpt2", "--parquet", str(folder))
    assert done.exit_code == 1 and "pass --overwrite" in done.stderr and not fake


def test_texts_are_named_by_patterns_and_read_as_asked(fake, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    pattern = str(tmp_path / "*.jsonl.gz")
    words = ["--texts", pattern, "--column", "body", "--on-error", "skip", "--progress", "json"]
    assert called("scan", "gpt2", *words).exit_code == 0
    assert fake == {
        "limit": None, "length": None, "progress": "json", "column": "body", "on_error": "skip",
        "model": "gpt2", "texts": Path(pattern),
    }  # fmt: skip
    assert called("scan", "--texts", str(tmp_path / "*.parquet")).exit_code == 2
    assert called("scan", "--on-error", "ignore").exit_code == 2


def test_what_was_skipped_is_said_once(fake, monkeypatch):
    def report(*_, **__):
        parts = massive_scan(), sink_scan()
        for part in parts:
            part.provenance["notes"] = ["1 record skipped: a.jsonl line 3 is not JSON"]
        return joined(*parts, "")

    monkeypatch.setattr(lp, "report", report)
    done = called("scan")
    assert done.stderr.count("lensprobe: 1 record skipped: a.jsonl line 3") == 1


@pytest.mark.parametrize(("partial", "pages"), [(True, 1), (False, 0)])
def test_an_interrupt_keeps_what_was_read(fake, tmp_path, monkeypatch, partial, pages):
    def stop(*_, **__):
        found = joined(massive_scan(), None, "") if partial else None
        raise Interrupted("stopped after 3 of 9 batches", found)

    monkeypatch.setattr(lp, "report", stop)
    done = called("report", "-o", str(tmp_path / "a.html"))
    assert done.exit_code == 130
    assert "stopped after 3 of 9 batches" in done.stderr
    assert len(list(tmp_path.iterdir())) == pages


def test_a_bare_interrupt(fake, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(lp, "load", stop)
    assert called("scan").exit_code == 130


def test_an_unexpected_error_is_one_line_too(fake, monkeypatch):
    monkeypatch.setattr(lp, "load", lambda *_, **__: 1 / 0)
    done = called("scan")
    assert done.exit_code == 1
    assert (
        done.stderr.strip().splitlines()[-1] == "lensprobe: division by zero (--debug shows where)"
    )


def test_the_whole_way_with_the_calibration_model(tmp_path):
    done = command("report", "--limit", "1", "-o", "planted.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Dimension 447 at position 0" in done.stderr
    assert (tmp_path / "planted.html").stat().st_size > 4_000_000
    done = command("scan", "--what", "sinks", "--limit", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Massive" not in done.stdout
    assert "sink_rate" in done.stdout
