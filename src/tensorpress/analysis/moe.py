"""What compression does to a mixture of experts: subspaces, drift and routing.

Pure functions on tensors. The measures follow SD-MoE (Huang et al. 2026, arXiv 2602.12556): the
*head band* of a matrix are its leading 1 % of singular directions, at least one; the *tail band*
are those from there to 10 %. A direction along which the matrix does nothing is not one: it enters
as zero, so a dropped expert overlaps with none and a low-rank one only as far as its rank goes.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tensorpress.analysis.overlap import overlap
from tensorpress.linalg.gram import leading_right

BANDS = ("head", "tail")
HEAD_SHARE, TAIL_SHARE = 0.01, 0.10
VANISHES = 1e-5
"""A singular value below this share of the largest one counts as zero: factors are rounded."""


def band_widths(directions: int) -> tuple[int, int]:
    """Numbers of directions of head and tail band, of so many directions in all."""
    head = max(1, round(HEAD_SHARE * directions))
    last = max(head + 1, round(TAIL_SHARE * directions))
    return head, min(last, directions) - head


def right_bands(
    matrix: Float[Tensor, "m n"], directions: int
) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n t"]]:
    """Orthonormal float64 bases of the bands of the right singular directions.

    ``directions`` is what the shares are of: the smaller side of a weight, or the width of
    activations, of which there may be fewer than wanted.
    """
    head, tail = band_widths(directions)
    basis, _ = leading_right(matrix, head + tail)
    strength = (matrix.double() @ basis).norm(dim=0)
    basis = basis * (strength > VANISHES * strength.max())
    return basis[:, :head], basis[:, head:]


def pairwise_overlap(bases: Float[Tensor, "e d k"]) -> Float[Tensor, " pairs"]:
    """Overlap of every pair of experts' subspaces, each pair once."""
    return torch.cat([overlap(basis, bases[e + 1 :]) for e, basis in enumerate(bases)])


def drift(before: Float[Tensor, "m n"], after: Float[Tensor, "m n"]) -> float:
    """Relative Frobenius change ``||after - before|| / ||before||`` of an expert's matrix."""
    reference = before.double()
    return float((after.double() - reference).norm() / reference.norm())


def squared_cosine(row: Float[Tensor, " d"], basis: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
    """Share of a router row's energy in a subspace; a random row has ``k / d`` on average."""
    wide = row.double()
    return (basis.mT @ wide).square().sum() / wide.square().sum()


def agreement(
    before: Int[Tensor, "tokens k"], after: Int[Tensor, "tokens k"]
) -> tuple[Float[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """Jaccard index of the chosen experts of each token, and whether they are the same set."""
    chosen = before.shape[1]
    common = (before[:, :, None] == after[:, None, :]).sum((1, 2))
    return common.double() / (2 * chosen - common), common == chosen


def without_tokens(chosen: Int[Tensor, "tokens k"], experts: int) -> list[int]:
    """Experts that no token is sent to."""
    return (torch.bincount(chosen.flatten(), minlength=experts) == 0).nonzero()[:, 0].tolist()


def entropy_nats(probabilities: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch"]:
    """Entropy of each distribution."""
    return torch.special.entr(probabilities.double()).sum(-1)


def divergence_nats(
    before: Float[Tensor, "tokens e"], after: Float[Tensor, "tokens e"]
) -> Float[Tensor, " tokens"]:
    """Jensen-Shannon divergence (Lin 1991) of the router's distributions, token by token.

    0 for equal ones, ln 2 for disjoint ones.
    """
    mixture = (before.double() + after.double()) / 2
    return (entropy_nats(mixture) - (entropy_nats(before) + entropy_nats(after)) / 2).clamp_min(0)


def assignment_kl_nats(
    before: Int[Tensor, "tokens k"], after: Int[Tensor, "tokens k"], experts: int
) -> float:
    """Kullback-Leibler divergence of the shares of assignments that the experts get.

    One is added to every count (Laplace): an expert that is not used any more must not make the
    divergence infinite.
    """
    shares = []
    for chosen in (before, after):
        counts = torch.bincount(chosen.flatten(), minlength=experts).double() + 1
        shares.append(counts / counts.sum())
    first, second = shares
    return float(torch.xlogy(first, first / second).sum())


def loads(chosen: Int[Tensor, "tokens k"], experts: int) -> Float[Tensor, " experts"]:
    """Share of the assignments that each expert gets."""
    counts = torch.bincount(chosen.flatten(), minlength=experts).double()
    return counts / counts.sum()


def effective_number(shares: Float[Tensor, " n"]) -> float:
    """Exponential of the entropy of shares: n if they are even, 1 if one has all."""
    return float(entropy_nats(shares).exp())


def variation(values: Float[Tensor, " n"]) -> float:
    """Standard deviation over mean."""
    return float(values.std(correction=0) / values.mean())


def token_information_nats(
    chosen: Int[Tensor, "tokens k"], ids: Int[Tensor, " tokens"], experts: int
) -> float:
    """Mutual information of the expert of an assignment and the id of its token.

    Of counts, which makes it too large where ids are rare: compare it on equal texts only.
    """
    pairs = (ids[:, None] * experts + chosen).flatten()
    joint, token, expert = (
        _entropy_of_counts(values)
        for values in (pairs, ids.repeat_interleave(chosen.shape[1]), chosen.flatten())
    )
    return token + expert - joint


def _entropy_of_counts(values: Int[Tensor, " n"]) -> float:
    counts = values.unique(return_counts=True)[1].double()
    return float(entropy_nats(counts / counts.sum()))


def group_masses(
    probabilities: Float[Tensor, "tokens e"], groups: int
) -> Float[Tensor, "tokens groups"]:
    """Probability of each group of experts that follow each other."""
    return probabilities.unflatten(-1, (groups, -1)).sum(-1)


def leading_in_group(
    probabilities: Float[Tensor, "tokens e"], groups: int
) -> Float[Tensor, "tokens groups"]:
    """Share of each group's probability that its likeliest expert has."""
    inside = probabilities.unflatten(-1, (groups, -1))
    return inside.amax(-1) / inside.sum(-1)


def spread_over_groups(
    chosen: Int[Tensor, "tokens k"], experts: int, groups: int
) -> Bool[Tensor, " tokens"]:
    """Whether a token's experts are of all groups, as many of each as of any other."""
    of_group = nn.functional.one_hot(chosen // (experts // groups), groups).sum(1)
    return of_group.amax(-1) == of_group.amin(-1)
