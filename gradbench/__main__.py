"""The command line's entry: every error that is the user's to mend is one line and exit code 2."""

from __future__ import annotations

import os
import sys


def main() -> None:
    import click

    from gradbench.cli import cli

    try:
        code = cli.main(standalone_mode=False, prog_name="gradbench")
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _leave("stopped", 130)
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f" (see '{error.ctx.command_path} --help')"
        _leave(" ".join(error.format_message().split()) + hint, 2)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _leave(message: str, code: int) -> None:
    print(f"gradbench: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
