"""A group of commands, one of which need not be named."""

from typing import Any

from typer.core import TyperGroup

DEFAULT = "run"


class DefaultCommandGroup(TyperGroup):
    """`nigaoe eval CONFIG` is `nigaoe eval run CONFIG`: what is no command's name is an argument of `run`."""

    # The context is click's, of which newer versions of typer carry a copy of their own.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that is meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
