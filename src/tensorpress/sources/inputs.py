"""Sections of ``params.yaml`` on models and corpora: where they come from. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import BeforeValidator, Field, StringConstraints

from tensorpress.errors.refusals import LONGEST_NAME, NAME_PATTERN
from tensorpress.keying.section import Section
from tensorpress.objectives.images import Shape
from tensorpress.sources.hub_datasets import HubDataset
from tensorpress.sources.texts import C4, WIKITEXT2, FileSplit
from tensorpress.transforms.base import Transform
from tensorpress.transforms.registry import TRANSFORMS, spec_class

UNKEYED = "settings are part of a key by their values"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]


if TYPE_CHECKING:
    AnyTransform = Transform
    TransformName = str
else:
    TransformName = Literal[tuple(TRANSFORMS)]
    AnyTransform = Annotated[
        Union[tuple(spec_class(name) for name in TRANSFORMS)],  # noqa: UP007
        Field(discriminator="transform"),
    ]


def _as_list(value: Any) -> Any:
    """One transform or several; the name of one stands for it without settings."""
    if isinstance(value, str | dict):
        value = [value]
    if isinstance(value, list | tuple):
        return [{"transform": each} if isinstance(each, str) else each for each in value]
    return value


Transforms = Annotated[
    tuple[AnyTransform, ...],
    BeforeValidator(
        _as_list,
        json_schema_input_type=TransformName | AnyTransform | list[TransformName | AnyTransform],
    ),
]


class AnyModel(Section):
    """What every model may say."""

    baseline_tasks: tuple[Name, ...] = Field((), description="tasks of the uncompressed model only")
    transform: Transforms = Field(
        (), description="makes another model of it first; several one after the other"
    )


class EmbeddedModel(AnyModel):
    """A small model that the fetch phase trains itself, of data that every machine has."""

    source: Literal["embedded"]
    name: str = Field(
        description="dense, bert, vit, or a mixture: moe, moe_grouped, moe_himoe, "
        "moe_himoe_published"
    )
    seed: int = Field(0, ge=0)
    width: int | None = Field(
        None, ge=1, description="hidden size, FFNs and heads in proportion; null: 192, of vit 64"
    )
    progress: float = Field(
        1.0, ge=0, le=1, description="share of the training after which the model is taken"
    )


class LocalModel(AnyModel):
    """A directory with config.json, safetensors and tokenizer files, or with a GGUF file."""

    source: Literal["local"]
    path: str = Field(description="a directory, or a GGUF file")
    trust_remote_code: bool = Field(False, description="run the Python code beside the weights")


class HubModel(AnyModel):
    """A Hugging Face repository at one pinned commit."""

    source: Literal["hub"]
    repository: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="commit hash, 40 hex digits")
    file: str | None = Field(
        None, pattern=r"^\w[\w.-]*\.gguf$", description="a GGUF file in place of safetensors"
    )
    trust_remote_code: bool = Field(False, description="run the Python code of that commit")


class ConfigModel(AnyModel):
    """A ``config.json`` without weights: ``tensorpress plan`` computes sizes from it alone."""

    source: Literal["config"]
    path: str


class DerivedModel(AnyModel):
    """A model made of another one of the study, which is fetched once for both."""

    source: Literal["derived"]
    of: Name = Field(description="a name of models")
    transform: Transforms = Field(min_length=1)


class AnyCorpus(Section):
    """What every corpus says of itself."""

    holds: ClassVar[Literal["text", "images"]] = "text"


class EmbeddedCorpus(AnyCorpus):
    """Docstrings and help topics of the standard library."""

    joined: ClassVar[str] = "documents joined by blank lines"

    source: Literal["embedded"]
    split: Literal["train", "heldout"]


class DigitsCorpus(AnyCorpus):
    """Handwritten digits, 1797 images of 8 x 8 pixels with their labels (scikit-learn's)."""

    joined: ClassVar[str] = "scikit-learn's digits"
    holds: ClassVar[Literal["text", "images"]] = "images"
    shape: ClassVar[Shape] = (1, 8, 8)
    classes: ClassVar[int] = 10

    source: Literal["digits"]
    split: Literal["train", "heldout"]


class FileCorpus(AnyCorpus):
    """A UTF-8 text file, or a part of it; documents are separated by blank lines."""

    joined: ClassVar[str] = "one file"

    source: Literal["file"]
    path: str
    split: FileSplit | None = Field(
        None, description="train: about its first three quarters; heldout: the rest; null: all"
    )


class HubCorpus(AnyCorpus):
    """A text that papers measure: from the hub at a pinned commit, or from a local file of it."""

    dataset: ClassVar[HubDataset]

    path: str | None = Field(None, description="a local file of it; null: from the hub")


class Wikitext2Corpus(HubCorpus):
    """WikiText-2, raw; a local file is the split as text (``wiki.test.raw``)."""

    dataset: ClassVar[HubDataset] = WIKITEXT2
    joined: ClassVar[str] = "WikiText-2, rows joined by blank lines"

    source: Literal["wikitext2"]
    split: Literal["train", "validation", "test"] = "test"


class C4Corpus(HubCorpus):
    """C4, start of the first validation shard; a local file is the shard as JSON lines."""

    dataset: ClassVar[HubDataset] = C4
    joined: ClassVar[str] = "C4, first 1100 documents joined by a space"

    source: Literal["c4"]


Model = EmbeddedModel | LocalModel | HubModel | ConfigModel
StudyModel = Model | DerivedModel
Corpus = EmbeddedCorpus | DigitsCorpus | FileCorpus | Wikitext2Corpus | C4Corpus
