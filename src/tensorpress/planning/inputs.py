"""What a study begins with: texts, files of tasks, models, their calibrations. Torch-free."""

from __future__ import annotations

from pathlib import Path

from tensorpress.config.params import Params
from tensorpress.files import paths
from tensorpress.planning import identities
from tensorpress.planning.artifacts import (
    CalibrationArtifact,
    CorpusArtifact,
    ModelArtifact,
    StreamArtifact,
)
from tensorpress.planning.checks import check_corpus, check_window
from tensorpress.sources.contents import file_content
from tensorpress.sources.hub_datasets import require
from tensorpress.sources.inputs import HubCorpus


class Inputs:
    """Artifacts that no recipe makes, by their names in the params."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.corpora = {name: self._corpus(name) for name in params.corpora}
        self.task_files = {name: self._task_files(name) for name in params.tasks}
        self.models = {name: self._model(name) for name in params.models}
        self.calibrations = {m.name: self._calibration(m) for m in self.models.values()}

    def _corpus(self, name: str) -> CorpusArtifact:
        spec = self.params.corpora[name]
        artifact = identities.corpus(name, spec)
        if isinstance(spec, HubCorpus) and not spec.path and is_wanted(paths.corpus(artifact.id)):
            require(spec.dataset, f"corpora.{name}")
        return artifact

    def _task_files(self, name: str) -> dict[str, str]:
        """Field -> content hash of each local file that a task reads."""
        spec = self.params.tasks[name]
        at = f"tasks.{name}"
        content = {field: file_content(path, f"{at}.{field}") for field, path in spec.files.items()}
        spec.check_files(at)
        return content

    def _model(self, name: str) -> ModelArtifact:
        fetched, source = self.params.source_of(name)
        artifact = identities.model(fetched, source, self.params.storage.dtype)
        own = self.params.models[name].transform
        for index, transform in enumerate(every := self.params.transforms_of(name)):
            holder = name if index >= len(every) - len(own) else fetched
            stream = self._stream(artifact) if transform.reads_stream else None
            artifact = identities.transformed(holder, artifact, transform, stream)
        artifact.architecture.shape(0)  # the config has every size
        return artifact

    def _stream(self, model: ModelArtifact) -> StreamArtifact:
        """What a transform of a model goes by."""
        settings = self.params.calibration
        corpus, dtype = self.corpora[settings.corpus], self.params.compute.dtype
        check_corpus("calibration.corpus", corpus, model)
        check_window("calibration.window", settings.window, settings.bos, model)
        return identities.stream(model, corpus, settings, dtype)

    def _calibration(self, model: ModelArtifact) -> CalibrationArtifact:
        settings = self.params.calibration
        corpus, dtype = self.corpora[settings.corpus], self.params.compute.dtype
        return identities.calibration(model, corpus, settings, dtype)


def is_wanted(artifact: Path) -> bool:
    """Whether a job will make it: it is neither there nor in the attic."""
    kept = paths.ATTIC / artifact.relative_to(paths.RESULTS)
    return not artifact.exists() and not kept.exists()
