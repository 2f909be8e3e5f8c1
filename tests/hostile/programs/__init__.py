"""Hostile programs by theme; `THEMES` is what the test and the matrix run."""

from arena import Program

from programs import files, kernel, network, processes, protocol, resources, siblings, time_output, values

THEMES: dict[str, list[Program]] = {
    "files": files.PROGRAMS,
    "network": network.PROGRAMS,
    "processes": processes.PROGRAMS,
    "resources": resources.PROGRAMS,
    "time and output": time_output.PROGRAMS,
    "protocol": protocol.PROGRAMS,
    "values": values.PROGRAMS,
    "siblings": siblings.PROGRAMS,
    "kernel": kernel.PROGRAMS,
}
