"""The gateway's counters, as the text that Prometheus reads."""

import collections

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PREFIX = "agentdistill_sandbox"


class Metrics:
    def __init__(self):
        self.leases = 0
        self.refused = collections.Counter(token=0, full=0, origin=0)
        reasons = ("client", "jail", "idle", "lifetime", "shutdown", "too_large", "call", "start")
        self.ended = collections.Counter(dict.fromkeys(reasons, 0))
        self.buckets = dict.fromkeys(BUCKETS, 0)
        self.starts = 0
        self.start_seconds = 0.0

    def started(self, seconds):
        """A client has waited this long for its jail."""
        self.starts += 1
        self.start_seconds += seconds
        for bound in BUCKETS:
            self.buckets[bound] += seconds <= bound

    def text(self, active, warm):
        lines = []

        def metric(name, kind, meaning, samples):
            lines.append(f"# HELP {PREFIX}_{name} {meaning}")
            lines.append(f"# TYPE {PREFIX}_{name} {kind}")
            lines.extend(f"{PREFIX}_{name}{labels} {value}" for labels, value in samples)

        def by_reason(counts):
            return [(f'{{reason="{reason}"}}', count) for reason, count in sorted(counts.items())]

        metric("sessions", "gauge", "Sessions leased now.", [("", active)])
        metric("warm", "gauge", "Jails started ahead and waiting.", [("", warm)])
        metric("leases_total", "counter", "Sessions leased since the start.", [("", self.leases)])
        metric("refused_total", "counter", "Sessions refused.", by_reason(self.refused))
        metric("ended_total", "counter", "Sessions ended.", by_reason(self.ended))
        samples = [(f'_bucket{{le="{bound:g}"}}', count) for bound, count in self.buckets.items()]
        samples += [('_bucket{le="+Inf"}', self.starts)]
        samples += [("_sum", f"{self.start_seconds:.6f}"), ("_count", self.starts)]
        metric("start_seconds", "histogram", "Seconds from a lease to its jail.", samples)
        return "\n".join(lines) + "\n"
