"""A run in a table, and what did not hold."""

from __future__ import annotations

from . import figures
from .soak import Outcome, Plan, total


def faults(plan: Plan, seen: Outcome) -> list[str]:
    """What does not hold and no event that the kernel hid from BPF explains; nothing where all is well."""
    wrong = [each for found in seen.found if not found.is_excused for each in found.wrong]
    if seen.tracked_end and not any(found.is_excused for found in seen.found):
        wrong.append(f"{seen.tracked_end:.0f} connections are tracked in the end")
    first, last = seen.quiet[0], seen.quiet[-1]
    for name, before, now in (
        ("descriptors", first.descriptors, last.descriptors),
        ("threads", first.threads, last.threads),
    ):
        if now > before:
            wrong.append(f"{name}: {before} at first, {now} in the end")
    if plan.seconds >= figures.JUDGED_FROM_S and not figures.size(seen.samples).is_flat():
        wrong.append(f"RSS grew by {figures.size(seen.samples).growth:.0f} KiB: not flat")
    return wrong


def excused(seen: Outcome) -> list[str]:
    return [
        f"{each} (the kernel hid {found.hidden} events from BPF meanwhile)"
        for found in seen.found
        if found.is_excused
        for each in found.wrong
    ]


def table(plan: Plan, seen: Outcome) -> str:
    """Markdown."""
    done, size = total(seen.truth.done), figures.size(seen.samples)
    failed = {
        what.removeprefix("failures "): n for what, n in sorted(done.items()) if what.startswith("failures ")
    }
    exact = sum(not found.wrong for found in seen.found)
    hidden = [found.hidden for found in seen.found if found.is_excused]
    rows = [
        ("seconds, seed", f"{seen.seconds:.0f}, {plan.seed}"),
        ("scenes, each with namespaces of its own", f"{seen.scenes}"),
        ("connects attempted", f"{done['attempts']}"),
        ("established, accepted", f"{done['connects']}, {done['accepts']}"),
        ("closed as client, as server", f"{done['closes client']}, {done['closes server']}"),
        ("failed", ", ".join(f"{count} {reason}" for reason, count in failed.items())),
        ("open at once, at most; tracked in the end", f"{seen.most_open}; {seen.tracked_end:.0f}"),
        ("label sets", f"{seen.series}"),
        ("scrapes, reloads", f"{seen.scrapes}, {seen.reloads}"),
        ("events in the journal", f"{sum(seen.truth.entries().values())}"),
        ("checkpoints exact", f"{exact} of {len(seen.found)}"),
        ("events that the kernel hid from BPF", f"{sum(hidden)} (in {len(hidden)} windows)"),
        (
            "lost events",
            ", ".join(f"{n:.0f} {stage}" for stage, n in seen.lost.items() if n) or "0, at every stage",
        ),
        (
            "RSS, median of the second and the last fifth",
            f"{size.second / 1024:.2f}, {size.last / 1024:.2f} MiB, {size.new_label_sets:.0f} new sets",
        ),
        (
            "descriptors, threads, at rest: at first, in the end",
            f"{seen.quiet[0].descriptors}, {seen.quiet[0].threads}; "
            f"{seen.quiet[-1].descriptors}, {seen.quiet[-1].threads}",
        ),
    ]
    return "\n".join(["| soak | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
