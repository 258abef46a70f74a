"""A run's State as Prometheus metrics, in the text format."""

from collections.abc import Iterator
from decimal import Decimal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from server.state import Link, Phase, State


def text(state: State | None) -> bytes:
    """Return the metrics of a run; without a run only `motet_run_present 0`. What is not known is absent, never zero."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Run(state))
    return generate_latest(registry)


class _Run(Collector):
    """One run, collected once."""

    def __init__(self, state: State | None) -> None:
        self._state = state

    @override
    def collect(self) -> Iterator[Metric]:
        state = self._state
        yield GaugeMetricFamily("motet_run_present", "Whether there is a run.", value=float(state is not None))
        if state is not None:
            yield from _run(state)
            yield from _rounds(state)
            yield from _hospitals(state)


def _run(state: State) -> Iterator[Metric]:
    info = GaugeMetricFamily("motet_run_info", "Which run this is; always 1.", labels=("run", "study"))
    info.add_metric((state.run, state.study), 1)
    yield info
    phase = GaugeMetricFamily("motet_run_phase", "1 for the phase that the run is in.", labels=("phase",))
    for one in Phase:
        phase.add_metric((one.value,), float(one is state.phase))
    yield phase
    yield GaugeMetricFamily("motet_run_silent", "1 when nothing was written for longer than patience_s.", value=state.silent)
    yield CounterMetricFamily("motet_run_resumed", "Resumptions of the run by its coordinator.", value=state.resumed)
    for name, text_, value in (
        ("motet_run_start_time_seconds", "When the run began, Unix time.", state.started),
        ("motet_run_last_event_time_seconds", "When the journal was last written, Unix time.", state.updated),
        (
            "motet_run_left_seconds_quick",
            "Seconds left at the quick quarter of the recent pace.",
            state.left_s and state.left_s[0],
        ),
        (
            "motet_run_left_seconds_slow",
            "Seconds left at the slow quarter of the recent pace.",
            state.left_s and state.left_s[1],
        ),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, text_, value=value)


def _rounds(state: State) -> Iterator[Metric]:
    rounds = CounterMetricFamily("motet_rounds", "Rounds by outcome.", labels=("state",))
    rounds.add_metric(("opened",), state.rounds_opened)
    rounds.add_metric(("void",), state.rounds_void)
    yield rounds
    yield GaugeMetricFamily("motet_training_steps_done", "Training steps whose sum opened.", value=state.steps_done)
    yield GaugeMetricFamily("motet_training_steps", "Training steps of the study.", value=state.steps)
    if state.seconds_per_round is not None:
        yield GaugeMetricFamily(
            "motet_round_seconds", "Median seconds of the recent rounds that opened.", value=state.seconds_per_round
        )
    yield GaugeMetricFamily("motet_epsilon_delta", "The delta at which epsilon is told.", value=float(state.delta))
    if state.curve:
        step, auc = state.curve[-1]
        yield GaugeMetricFamily("motet_held_out_auc", "Held-out AUC of the last model scored.", value=auc)
        yield GaugeMetricFamily("motet_held_out_auc_step", "The training step of that model.", value=step)


def _hospitals(state: State) -> Iterator[Metric]:
    epsilon = GaugeMetricFamily(
        "motet_hospital_epsilon",
        "Epsilon per patient of the noisy uploads that arrived, Renyi accounting.",
        labels=("hospital",),
    )
    link = GaugeMetricFamily("motet_hospital_link_up", "1 when the link is up, 0 when it was lost.", labels=("hospital",))
    seen = GaugeMetricFamily("motet_hospital_last_seen_time_seconds", "Its last sign of life, Unix time.", labels=("hospital",))
    uploads = CounterMetricFamily("motet_hospital_uploads", "Uploads that arrived, by kind.", labels=("hospital", "kind"))
    codes = CounterMetricFamily("motet_hospital_codes", "What a hospital gave instead, by code.", labels=("hospital", "code"))
    for one in state.hospitals:
        if one.epsilon != Decimal("Infinity"):
            epsilon.add_metric((one.name,), float(one.epsilon))
        if one.link is not Link.UNKNOWN:
            link.add_metric((one.name,), float(one.link is Link.UP))
        if one.seen is not None:
            seen.add_metric((one.name,), one.seen)
        uploads.add_metric((one.name, "noise"), one.releases_private)
        uploads.add_metric((one.name, "exact"), one.releases_exact)
    for name, counts in state.codes.items():
        for code, count in counts.items():
            codes.add_metric((name, code), count)
    yield from (epsilon, link, seen, uploads, codes)
