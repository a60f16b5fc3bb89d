"""The question sets that `python -m data.prepare` knows: where their authors publish them, under which licence, and what
is inside. Splits have the field's names: an official dev set whose test set has no published answers is the test split.

A checksum is here only where one is published: in the dataset_infos.json of Hugging Face datasets (HotpotQA, AmbigNQ, DPR's
passages) or the url_checksums of TensorFlow Datasets (TriviaQA), in both and alike for NQ-open, OpenBookQA and ARC.
"""

from pathlib import Path
from typing import NamedTuple

from data.files import WorldError
from data.prepare.download import by_hand, download


class Source(NamedTuple):
    """A published file: its name on disk, its address, its SHA-256."""

    name: str
    url: str | None  # None: `page` has to be opened in a browser
    sha256: str | None = None
    page: str = ""

    def fetch(self, directory: Path) -> str:
        """The SHA-256 of the file in `directory`, downloaded where it is not there yet. Raises WorldError."""
        target = directory / self.name
        if self.url is None and not target.exists():
            raise WorldError(
                f"{self.name} cannot be downloaded without a browser: {by_hand(target, self.page)}"
            )
        return download(self.url or self.page, target, self.sha256)


class KnownSet(NamedTuple):
    title: str  # for --help
    license: str
    citation: str
    splits: dict[
        str, tuple[Source, str]
    ]  # split -> its file, and the member to read where that is an archive; "": no splits
    passages: bool = False  # published with the questions


def _zip(source: Source, **members: str) -> dict[str, tuple[Source, str]]:
    return {split: (source, member) for split, member in members.items()}


_HOTPOT = "http://curtis.ml.cmu.edu/datasets/hotpot/"
_NQ = "https://raw.githubusercontent.com/google-research-datasets/natural-questions/a7a113c9fdc2d9986d624bd43b8a18d6d5779eaa/nq_open/"

CORPORA = {  # name that --corpus takes -> the file, its licence and citation
    "psgs_w100": (
        Source(
            "psgs_w100.tsv.gz",
            "https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz",
            "c39b020c855a2b5c25ffef3abe4a3b6f9b829ad7dbc14ec3d163d34d7c53ea8d",
        ),
        "CC BY-SA 3.0 (Wikipedia)",
        "English Wikipedia of December 2018 as cut by Karpukhin et al., EMNLP 2020, arXiv 2004.04906",
    )
}

SETS = {
    "popqa": KnownSet(
        "PopQA",
        "MIT",
        "Mallen et al., ACL 2023, arXiv 2212.10511; github.com/AlexTMallen/adaptive-retrieval",
        {
            "": (
                Source(
                    "popQA.tsv",
                    "https://raw.githubusercontent.com/AlexTMallen/adaptive-retrieval/main/data/popQA.tsv",
                ),
                "",
            )
        },
    ),
    "nq": KnownSet(
        "NQ-open",
        "CC BY-SA 3.0",
        "Kwiatkowski et al., TACL 2019; Lee et al., ACL 2019, arXiv 1906.00300",
        {
            "train": (
                Source(
                    "NQ-open.train.jsonl",
                    _NQ + "NQ-open.train.jsonl",
                    "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf",
                ),
                "",
            ),
            "test": (
                Source(
                    "NQ-open.dev.jsonl",
                    _NQ + "NQ-open.dev.jsonl",
                    "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
                ),
                "",
            ),
        },
    ),
    "ambignq": KnownSet(
        "AmbigNQ (light)",
        "CC BY-SA 3.0",
        "Min et al., EMNLP 2020, arXiv 2004.10645; nlp.cs.washington.edu/ambigqa",
        _zip(
            Source(
                "ambignq_light.zip",
                "https://nlp.cs.washington.edu/ambigqa/data/ambignq_light.zip",
                "3f5dada69dec05cef1533a64945cd7bafde1aa94b0cdd6fa9a22f881206220db",
            ),
            train="train_light.json",
            test="dev_light.json",
        ),
    ),
    "hotpotqa": KnownSet(
        "HotpotQA (distractor)",
        "CC BY-SA 4.0",
        "Yang et al., EMNLP 2018, arXiv 1809.09600; hotpotqa.github.io",
        {
            "train": (
                Source(
                    "hotpot_train_v1.1.json",
                    _HOTPOT + "hotpot_train_v1.1.json",
                    "26650cf50234ef5fb2e664ed70bbecdfd87815e6bffc257e068efea5cf7cd316",
                ),
                "",
            ),
            "test": (
                Source(
                    "hotpot_dev_distractor_v1.json",
                    _HOTPOT + "hotpot_dev_distractor_v1.json",
                    "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
                ),
                "",
            ),
        },
        passages=True,
    ),
    "2wikimultihopqa": KnownSet(
        "2WikiMultihopQA",
        "Apache-2.0",
        "Ho et al., COLING 2020, arXiv 2011.01060; github.com/Alab-NII/2wikimultihop",
        _zip(
            Source(
                "data_ids_april7.zip",
                "https://www.dropbox.com/s/ms2m13252h6xubs/data_ids_april7.zip?dl=1",
            ),
            train="train.json",
            test="dev.json",
        ),
        passages=True,
    ),
    "musique": KnownSet(
        "MuSiQue-Ans",
        "CC BY 4.0",
        "Trivedi et al., TACL 2022, arXiv 2108.00573; github.com/StonyBrookNLP/musique",
        _zip(
            Source(
                "musique_v1.0.zip",
                None,
                page="https://drive.google.com/file/d/1tGdADlNjWFaHLeZZGShh2IRcpO6Lv24h/view",
            ),
            train="musique_ans_v1.0_train.jsonl",
            test="musique_ans_v1.0_dev.jsonl",
        ),
        passages=True,
    ),
    "triviaqa": KnownSet(
        "TriviaQA (unfiltered)",
        "the questions' copyright is their authors'; see nlp.cs.washington.edu/triviaqa",
        "Joshi et al., ACL 2017, arXiv 1705.03551",
        _zip(
            Source(
                "triviaqa-unfiltered.tar.gz",
                "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-unfiltered.tar.gz",
                "7f0c94207fd0a1eb7bba3d52cdfe0735c98de850b9e5aa4e75f2776ef9a531d0",
            ),
            train="unfiltered-web-train.json",
            test="unfiltered-web-dev.json",
        ),
    ),
    "openbookqa": KnownSet(
        "OpenBookQA",
        "not stated by the authors",
        "Mihaylov et al., EMNLP 2018, arXiv 1809.02789; allenai.org/data/open-book-qa",
        _zip(
            Source(
                "OpenBookQA-V1-Sep2018.zip",
                "https://s3-us-west-2.amazonaws.com/ai2-website/data/OpenBookQA-V1-Sep2018.zip",
                "82368cf05df2e3b309c17d162e10b888b4d768fad6e171e0a041954c8553be46",
            ),
            **{
                split: f"Data/Additional/{split}_complete.jsonl"
                for split in ("train", "dev", "test")
            },
        ),
        passages=True,
    ),
    "arc": KnownSet(
        "ARC-Challenge",
        "CC BY-SA 4.0",
        "Clark et al., 2018, arXiv 1803.05457; allenai.org/data/arc",
        _zip(
            Source(
                "ARC-V1-Feb2018.zip",
                "https://s3-us-west-2.amazonaws.com/ai2-website/data/ARC-V1-Feb2018.zip",
                "6d2d5ab50b2ceec6ba5f79c921be77cf2de712ea25a2b3f4fff3acc101cecfa0",
            ),
            **{
                split: f"ARC-Challenge/ARC-Challenge-{split.title()}.jsonl"
                for split in ("train", "dev", "test")
            },
        ),
    ),
    "medqa": KnownSet(
        "MedQA (USMLE, four options)",
        "MIT",
        "Jin et al., 2020, arXiv 2009.13081; github.com/jind11/MedQA",
        _zip(
            Source(
                "data_clean.zip",
                None,
                page="https://drive.google.com/file/d/1ImYUSLk9JbgHXOemfvyiDiirluZHPeQw/view",
            ),
            **{
                split: f"questions/US/4_options/phrases_no_exclude_{split}.jsonl"
                for split in ("train", "dev", "test")
            },
        ),
    ),
}
