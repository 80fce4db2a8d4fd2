"""The page of one run: what was done, to which modules, what it saves, loses and says."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from tensorpress.checkpoints.manifest import MANIFEST
from tensorpress.config.params import BASELINE
from tensorpress.planning.pages import SiteArtifact
from tensorpress.report.site.frame import quoted
from tensorpress.report.tables import spans, table_html
from tensorpress.report.wording import nats_per_token

QUERIES = ("every_run", "run_metrics", "run_parts", "samples")
"""What pages are made from."""
_KEYS = ["model", "recipe", "layer_set", "layers"]
_FACTS = {
    "layer_set": "layers by the name of",
    "module_groups": "modules",
    "methods": "methods",
    "approach": "approach",
    "control": "control",
    "rounding_bits": "bits that factors are rounded to",
    "trained": "trained afterwards",
    "bits_saved_percent": "bits saved of the model, %",
    "bits_saved_without_embeddings_percent": "of the model without embeddings, %",
    "bits_saved_blocks_percent": "of the layers that hold a compressed module, %",
    "bits_saved_modules_percent": "of the compressed modules, %",
    "checkpoint_bytes": "bytes of the checkpoint",
}
"""Columns of ``every_run`` that the first table shows, and their names in it."""


@dataclass(frozen=True)
class RunPages:
    """Pages of all runs; ``rows`` of each of ``QUERIES``, and of the table of decompositions."""

    study: SiteArtifact
    rows: Mapping[str, pd.DataFrame]
    decompositions: pd.DataFrame
    manifests: Mapping[str, Path]
    """Where the ``plan.json`` of a run's checkpoint lies, of those that are there."""

    @classmethod
    def of(
        cls,
        study: SiteArtifact,
        rows: Mapping[str, pd.DataFrame],
        decompositions: pd.DataFrame,
        checkpoints: Mapping[str, Path],
    ) -> RunPages:
        """Pages of runs whose checkpoints may lie where ``checkpoints`` says."""
        # of several seeds one has a page
        shown = set(rows["every_run"]["run"]) & checkpoints.keys()
        found = {run: checkpoints[run] / MANIFEST for run in sorted(shown)}
        there = {run: manifest for run, manifest in found.items() if manifest.is_file()}
        return cls(study, rows, decompositions, there)

    def bodies(self) -> Iterator[tuple[str, str, str]]:
        """Run (its column in the results), title and body of every page.

        Recipes that come to the same checkpoint share a page.
        """
        for run, rows in self.rows["every_run"].groupby("run", sort=False):
            first = rows.iloc[0]
            yield str(run), f"{first['recipe']} of {first['model']}", self._body(str(run), rows)

    def _body(self, run: str, rows: pd.DataFrame) -> str:
        recipes = rows.drop_duplicates(_KEYS)
        first = rows.iloc[0]
        parts = [self._head(rows)]
        parts += [self._transforms(name) for name in recipes["derived"].dropna().unique()]
        parts += [self._settings(name) for name in recipes["recipe_entry"].dropna().unique()]
        parts.append(self._measured(recipes))
        parts.append(self._texts(first))
        if pd.notna(first["recipe_entry"]):
            parts.append(self._modules(run, first))
        parts.append(self._of_parts(recipes))
        return "".join(parts)

    def _head(self, rows: pd.DataFrame) -> str:
        first = rows.iloc[0]
        names = " and ".join(map(html.escape, dict.fromkeys(rows["recipe"])))
        layers = first["layers"]
        on = f" on layer{'s' * (',' in layers)} {spans(layers)}" if layers else ""
        losses = "".join(
            f"<p>Task <code>{html.escape(row['task'])}</code>: "
            f"{nats_per_token(row['nats_lost'], row['nats_lost_half_width'])} over the "
            "uncompressed model.</p>"
            for _, row in rows.drop_duplicates("task").iterrows()
            if pd.notna(row["nats_lost"]) and row["recipe"] != BASELINE
        )
        kept = ", ".join(f"<code>{html.escape(each)}</code>" for each in first["checkpoints"])
        facts = first[list(_FACTS)].rename(_FACTS).dropna()
        facts = pd.DataFrame({"what": facts.index, "value": list(map(_shown, facts))})
        facts = facts[facts["value"] != ""]
        return _page(
            f"<h1>{names}{on}</h1>",
            f"<p>Model <b>{html.escape(first['model'])}</b>, in {kept} of the results.</p>",
            losses,
        ) + table_html(facts)

    def _transforms(self, name: str) -> str:
        made = [(each.transform, _settings(each)) for each in self.study.transforms[name]]
        frame = pd.DataFrame(made, columns=["transform", "settings"])
        return _page(f"<h2>Model <code>{html.escape(name)}</code></h2>") + table_html(frame)

    def _settings(self, name: str) -> str:
        recipe = self.study.recipes[name]
        steps = [
            (", ".join(step.modules), step.method, _settings(self.study.methods[step.method]))
            for step in recipe.steps
        ]
        others = [
            (title, "", _settings(setting))
            for title, setting in (("rounding", recipe.rounding), ("recovery", recipe.recover))
            if setting
        ]
        frame = pd.DataFrame([*steps, *others], columns=["modules", "method", "settings"])
        title = f"<h2>Settings of <code>{html.escape(name)}</code></h2>"
        return _page(title) + table_html(frame)

    def _measured(self, recipes: pd.DataFrame) -> str:
        found = self._rows("run_metrics", recipes)
        found = found.drop(columns=["kind", "version", "protocol"]).drop_duplicates()
        words = (
            "Beside the uncompressed model, where it was measured by the same protocol. A "
            "<code>change</code> is paired over the windows or items that both read, with a 95 % "
            "interval; that of a perplexity is of its logarithm, in nats per token."
        )
        return _page("<h2>Every task</h2>", f"<p>{words}</p>") + _table(found, 4)

    def _texts(self, first: pd.Series) -> str:
        every = self.rows["samples"]
        # of several seeds the first
        every = every[every["model"] == first["model"]].drop_duplicates([*_KEYS, "prompt"])
        every = every.set_index("prompt")
        dense = every[every["recipe"] == BASELINE]
        if first["recipe"] == BASELINE:
            return _said([("the uncompressed model", dense)]) if len(dense) else ""
        mine = every[(every[_KEYS] == first[_KEYS]).all(axis=1)]
        return _said([("uncompressed", dense), ("this run", mine)]) if len(mine) else ""

    def _modules(self, run: str, first: pd.Series) -> str:
        title = "<h2>Every module</h2>"
        if run in self.manifests:
            plan = json.loads(self.manifests[run].read_text(encoding="utf-8"))
            where = f'<a href="{quoted(run)}.json"><code>plan.json</code></a>'
            words = f"As {where} beside the checkpoint says; errors are relative, of the weights."
            return _page(title, f"<p>{words}</p>") + table_html(_entries(plan["modules"]))
        layers = [int(layer) for layer in first["layers"].split(",") if layer]
        named = {step.method for step in self.study.recipes[first["recipe_entry"]].steps}
        of = self.decompositions
        kept = of[
            (of["model"] == (first["derived"] if pd.notna(first["derived"]) else first["model"]))
            & of["method_name"].isin(named)
            # the embedding belongs to no layer that is listed
            & (of["layer"].isin(layers) | (of["group"] == "embedding"))
        ]
        words = (
            "The checkpoint with its ranks is gone; this is what the tables keep of the methods "
            "on these layers, whichever recipe used them."
        )
        columns = ["layer", "module", "method_name", "settings", "relative_error", "dense_values"]
        shown = kept[[*columns, "stored_values"]]
        return _page(title, f"<p>{words}</p>") + _table(shown, 3)

    def _of_parts(self, recipes: pd.DataFrame) -> str:
        found = self._rows("run_parts", recipes).drop_duplicates()
        if found.empty:
            return ""
        words = "Over all layers, modules or entries that a task measures one by one."
        return _page("<h2>Of layers and modules</h2>", f"<p>{words}</p>") + _table(found, 4)

    def _rows(self, query: str, recipes: pd.DataFrame) -> pd.DataFrame:
        """Rows of the recipes that came to this checkpoint, without what names them."""
        found = self.rows[query].merge(recipes[_KEYS], on=_KEYS)
        return found.drop(columns=_KEYS)


def _page(*parts: str) -> str:
    return f'<div class="page">{"".join(parts)}</div>'


def _table(frame: pd.DataFrame, digits: int) -> str:
    """A table without its empty columns."""
    kept = [name for name in frame.columns if (frame[name].notna() & (frame[name] != "")).any()]
    return table_html(frame[kept], digits) if len(frame) else _page("<p>None in this study.</p>")


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:.2f}"


def _settings(setting: BaseModel) -> str:
    """Settings as in ``params.yaml``, those left out there with what they are then."""
    named = {"method", "transform"}
    given = setting.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=named)
    return ", ".join(f"{name}: {_plain(value)}" for name, value in given.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _entries(modules: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of a table from the modules of a ``plan.json``."""
    return pd.DataFrame(
        {
            "layer": each["layer"],
            "module": each["module"],
            "method": each["method"],
            "format": each["format"],
            "ranks": ", ".join(
                f"{name} {_plain(value)}" for name, value in each["ranks"].items() if value
            ),
            "relative_error": each["relative_error"],
            "rounding_error": each["rounding_error"],
            "shared_with": ", ".join(m for m in each["stack"] if m != each["module"]),
            "stack_bits": each["stack_bits"],
            "dense_bits": each["dense_bits"],
        }
        for each in modules
    )


def _said(sides: list[tuple[str, pd.DataFrame]]) -> str:
    """What each side says after every prompt, beside each other."""
    prompts = dict.fromkeys(prompt for _, rows in sides for prompt in rows.index)
    texts = "".join(
        f'<div class="texts"><p>{html.escape(prompt)}</p>'
        + "".join(_quote(name, rows.loc[prompt]) for name, rows in sides if prompt in rows.index)
        + "</div>"
        for prompt in prompts
    )
    return _page("<h2>What it says</h2>", texts)


def _quote(name: str, row: pd.Series) -> str:
    return (
        f"<blockquote>{html.escape(row['text'])}<small>{html.escape(name)}, mean log-probability "
        f"{row['mean_log_probability']:.2f}</small></blockquote>"
    )
