"""What a study takes on this machine, by rule: time, memory and disk."""

from __future__ import annotations

from tensorpress.architectures.architecture import Architecture
from tensorpress.planning.foresight import Machine, disk, foreseen, peaks
from tensorpress.planning.plan import Plan

COLUMNS = ("rule", "minutes", "GB of memory a job", "GB of disk")


def machine_of(architecture: Architecture, compute: str) -> Machine:
    """This machine, measured at a model's own widths in the precision in which models run."""
    from tensorpress.running import speed

    modules = [module for shape in architecture.shapes[:-1] for module in shape.modules.values()]
    widest = max(modules, key=lambda module: module.out_features)
    where = speed.device()
    rate = speed.macs_per_second(widest.in_features, widest.out_features, compute, where)
    return Machine(rate, speed.workers(where))


def rows(plan: Plan, machine: Machine) -> list[tuple[str, ...]]:
    """A line a rule, and one of all: their time and disk, and the largest job's memory."""
    seconds, memory, stored = foreseen(plan, machine), peaks(plan), disk(plan)
    rules = [(rule, seconds[rule], memory.get(rule), stored.get(rule)) for rule in seconds]
    whole = ("all", sum(seconds.values()), max(memory.values()), sum(stored.values()))
    return [
        (rule, f"{taken / 60:.1f}", *(f"{size / 1e9:.1f}" if size else "" for size in sizes))
        for rule, taken, *sizes in (*rules, whole)
    ]
