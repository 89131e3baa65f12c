"""A program for tests: prints what it was given, and fails if it is told to."""

import os
import sys


def main(flags: list[str]) -> int:
    """Prints flags and variables, a line on stderr as well; returns a code."""
    print("flags", *flags)
    print(f"GIVEN {os.environ.get('GIVEN')}, KEPT {os.environ.get('KEPT')}")
    print("terminals", sum(os.isatty(stream) for stream in range(3)), flush=True)
    print("and an error", file=sys.stderr)
    return 3 * ("fail" in flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
