"""Peak memory of a process, and of a command in a process of its own: python benchmarks/_memory.py FILE ARGS runs
`prune ARGS` and writes its peak in MiB into FILE."""

import sys
from pathlib import Path


def peak_mib() -> float:
    """Of this process since it began, which ru_maxrss is not: that includes what its parent held when it forked."""
    status = Path("/proc/self/status")
    if not status.is_file():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (10 if sys.platform != "darwin" else 20))
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    from prune_toolkit.main import cli
    from trainer.cli.console import run_cli

    file = Path(sys.argv[1])
    try:
        run_cli(cli, sys.argv[2:])
    finally:
        file.write_text(f"{peak_mib():.1f}")


if __name__ == "__main__":
    main()
