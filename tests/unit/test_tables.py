"""Tensor trains of embedding tables: padded, looked up by slices, weighed by how rows are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from support.layers import relative
from support.stages import calibrated, placed
from support.workspace import masked_tokenizer, save_tiny, tiny_bert, tiny_text
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import gradient_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.moments import save_moments
from tensorpress.errors import TensorpressError
from tensorpress.files.paths import moments
from tensorpress.formats import tt_matrix
from tensorpress.formats.tt_matrix import TTMatrix
from tensorpress.linalg.tt_shapes import TTShape, balanced_factors, padded_factors
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import load
from tensorpress.methods.tt import Spec, decompose
from tensorpress.objectives import registry
from tensorpress.planning.checks import check_method
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer

HIDDEN, PRIME = 24, 53


def layer_of(rows: int) -> LayerShape:
    return LayerShape(HIDDEN, 4, 4, 6, {"embedding": ModuleShape(rows, HIDDEN)})


def fit(table: Tensor, frequencies: Tensor | None = None, **settings: object) -> Factors:
    whiten = "none" if frequencies is None else "both"
    spec = Spec(method="tt", modes="apart", whiten=whiten, **settings)
    found = {"embedding": torch.eye(HIDDEN), gradient_of("embedding"): frequencies}
    held = None if frequencies is None else found
    (factors,) = decompose({"embedding": table}, layer_of(len(table)), spec, held)
    return factors


@pytest.mark.parametrize("number", [PRIME, 2051, 30522, 50257, 128, 1])
def test_padding_goes_to_the_next_number_whose_parts_fit(number: int) -> None:
    factors = padded_factors(number, 2)
    padded = factors[0] * factors[1]
    assert padded >= number
    assert factors[1] <= 2 * factors[0]
    for between in range(number, padded):
        small, large = balanced_factors(between, 2)
        assert large > 2 * small
    assert padded - number <= 7


def test_a_planted_table_is_found_and_looked_up_row_by_row() -> None:
    torch.manual_seed(0)
    shape = TTShape.apart(HIDDEN, 54, 3)
    assert (shape.in_modes, shape.out_modes) == ((24, 1, 1), (1, 6, 9))
    planted = TTMatrix(
        slices=1,
        out_features=54,
        in_features=HIDDEN,
        in_modes=shape.in_modes,
        out_modes=shape.out_modes,
        ranks=[1, 5, 4, 1],
    )
    planted.fill(**{name: torch.randn_like(core) for name, core in planted.named_parameters()})
    table = planted.dense(0)
    found = fit(table, order=3, rank=5)
    assert found.store.settings["ranks"] == [1, 5, 5, 1]
    assert relative(found.store.dense(0), table) < 1e-5
    assert found.stored_values < table.numel()


@pytest.mark.parametrize("order", [2, 3, 5])
def test_rows_that_pad_are_never_seen(order: int) -> None:
    torch.manual_seed(0)
    table = torch.randn(PRIME, HIDDEN)
    store = fit(table, order=order, rank=10).store
    assert TTShape.apart(HIDDEN, PRIME, order).rows > (PRIME if order > 2 else 0)
    dense = store.dense(0)
    assert dense.shape == table.shape
    ids = torch.arange(PRIME)
    torch.testing.assert_close(store.rows(ids, 0), dense, atol=1e-5, rtol=1e-5)
    x = torch.randn(2, 3, HIDDEN)
    torch.testing.assert_close(store.project(x, 0), x @ dense.mT, atol=1e-5, rtol=1e-5)
    # so many cores cost more than the table
    assert (store.peak_rebuilt_values() == 0) == (order < 5)
    bounded = fit(table, order=order, error=0.3)
    assert relative(bounded.store.dense(0), table) <= 0.3
    assert bounded.upper_bound <= 0.3


def test_weighed_rows_are_the_exact_optimum_where_rows_are_one_mode() -> None:
    """Eckart and Young on ``diag(f)^1/2 W``; with more modes it is still better than none."""
    torch.manual_seed(0)
    table = torch.randn(PRIME, HIDDEN)
    frequencies = torch.arange(1, PRIME + 1) ** -1.0
    frequencies /= frequencies.sum()

    def read(factors: Factors) -> float:
        change = (factors.store.dense(0) - table).double()
        return float((frequencies.double()[:, None] * change.square()).sum())

    best = torch.linalg.svdvals(frequencies.double().sqrt()[:, None] * table.double())
    weighed = fit(table, frequencies, order=2, rank=8)
    assert read(weighed) == pytest.approx(float(best[8:].square().sum()), rel=1e-5)
    for order in (2, 3):
        plain, weighed = (fit(table, f, order=order, rank=8) for f in (None, frequencies))
        assert read(weighed) < 0.8 * read(plain)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tiny_bert(), tmp_path_factory.mktemp("bert"), masked_tokenizer())


def test_a_model_reads_a_table_that_is_never_rebuilt(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frequencies of the calibration, a padded vocabulary, the tied head, its bias."""
    objective = registry.load("masked_lm")
    rows = objective.rows(masked_tokenizer(), tiny_text(), 18, 3)
    made = calibrated(bert, rows, 2)
    architecture = Checkpoint.open(bert).architecture
    outer, mask = architecture.outer, masked_tokenizer().mask_token_id
    read = made[outer][gradient_of("embedding")] * (3 * 7 * 18 + 303) - 1
    assert read[mask] == pytest.approx(3 * 14, rel=1e-3)  # each of 14 tokens once
    ids = objective.ids(rows)
    first = ids[0, 1]
    assert read[first] == pytest.approx(
        7 * int((ids == first).sum()) - int((ids[:, 1:15] == first).sum()), rel=1e-3
    )

    save_moments(made, ids.numel(), tmp_path / "moments")
    spec = Spec(method="tt", modes="apart", order=3, rank=12, whiten="both")
    check_method("tt", spec, architecture.shape(outer), "embedding")
    file = moments(tmp_path / "moments", outer)
    factors = decompose_layer(bert, spec, "embedding", outer, file, CPU)[0]
    save_factors(factors, tmp_path / "factors.safetensors")
    held = placed(outer, ("embedding",), spec, tmp_path / "factors.safetensors")
    storage, _ = assemble(bert, [held], "float32", tmp_path / "run")
    cores = sum(core.numel() for core in factors[0].store.parameters())
    # the head's bias lies under both of its names
    assert storage.dense_bits - storage.stored_bits == 32 * (303 * 32 - cores - 303)

    ours, twin = load_model(tmp_path / "run", CPU), tiny_bert().eval()
    with torch.no_grad():
        twin.get_input_embeddings().weight.copy_(factors[0].store.dense(0))
        expected = twin(input_ids=ids).logits
    monkeypatch.setattr(type(factors[0].store), "rebuild", None)
    with torch.inference_mode():
        torch.testing.assert_close(ours(input_ids=ids).logits, expected, atol=3e-5, rtol=1e-4)


def test_what_an_embedding_cannot_be_weighed_by_is_refused() -> None:
    spec = load("svd").Spec(method="svd", rank=4, whiten="input")
    with pytest.raises(TensorpressError, match=r"methods\.svd\.whiten: an embedding has no inputs"):
        check_method("svd", spec, layer_of(PRIME), "embedding")
    check_method("svd", spec.model_copy(update={"whiten": "both"}), layer_of(PRIME), "embedding")
    with pytest.raises(ValidationError, match="shape: 'search' is not allowed with modes: apart"):
        Spec(method="tt", order=3, rank=4, modes="apart", shape="search")


def test_few_tokens_at_a_time_pass_between_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of one token is 10^7 values for a large vocabulary: a batch would not fit."""
    store = fit(torch.randn(PRIME, HIDDEN), rank=5, order=3).store
    x = torch.randn(2, 9, HIDDEN)
    whole, passed = store.contract(x, 0), []
    chain = TTMatrix._chain
    monkeypatch.setattr(tt_matrix, "STATE_VALUES", 4 * store._widest_state())
    monkeypatch.setattr(
        TTMatrix, "_chain", lambda self, x, apply: passed.append(len(x)) or chain(self, x, apply)
    )
    torch.testing.assert_close(store.contract(x, 0), whole)
    assert passed == [4, 4, 4, 4, 2]
    torch.testing.assert_close(whole, x @ store.dense(0).mT, atol=1e-5, rtol=1e-4)


def test_few_rows_at_a_time_take_their_parts_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fit(torch.randn(PRIME, HIDDEN), rank=5, order=3).store
    ids, looked_up = torch.arange(PRIME), []
    whole, rows = store.rows(ids, 0), TTMatrix._rows
    monkeypatch.setattr(tt_matrix, "STATE_VALUES", 40 * store._widest_row())
    monkeypatch.setattr(
        TTMatrix,
        "_rows",
        lambda self, ids, cores: looked_up.append(len(ids)) or rows(self, ids, cores),
    )
    torch.testing.assert_close(store.rows(ids, 0), whole)
    assert sum(looked_up) == PRIME
    assert set(looked_up[:-1]) == {40}
