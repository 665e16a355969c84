"""The picker of past conversations: type to search, Enter takes one, Escape leaves.

Drawn below the prompt, not over the whole screen. This is the only module that loads Textual.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from coordinator.services.archive import Past
from crewkeep.cli.choosing import Choice, Choices

#: As many are drawn; whoever looks for another types more.
_SHOWN = 200


class Picker(App[Past]):  # type: ignore[misc]  # Textual is an optional part that type checking does not follow
    """Shows the choices that match what is typed; ``run`` returns the one that was taken."""

    CSS = """
    Screen { height: auto; max-height: 18; }
    Input { border: none; height: 1; padding: 0 1; }
    OptionList { border: none; height: auto; max-height: 15; padding: 0; }
    """
    BINDINGS = [  # noqa: RUF012 - as Textual wants it
        Binding("escape", "leave", "Leave", priority=True),
        Binding("ctrl+c", "leave", "Leave", priority=True, show=False),
        Binding("down", "move(1)", "Next", priority=True),
        Binding("up", "move(-1)", "Previous", priority=True),
    ]

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._choices = choices
        self._matching: Sequence[Choice] = ()

    def compose(self) -> ComposeResult:
        """Build the two widgets."""
        yield Input(placeholder="type to search past conversations; Enter resumes, Escape leaves")
        yield OptionList()

    def on_mount(self) -> None:
        """Show everything."""
        self.query_one(OptionList).can_focus = False
        self._show("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what matches."""
        self._show(event.value)

    def on_input_submitted(self) -> None:
        """Take the one that is marked."""
        index = self.query_one(OptionList).highlighted
        if index is not None and index < len(self._matching):
            self.exit(self._matching[index].past)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the one that was clicked."""
        self.exit(self._matching[event.option_index].past)

    def action_move(self, by: int) -> None:
        """Mark the next one up or down."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = ((options.highlighted or 0) + by) % options.option_count

    def action_leave(self) -> None:
        """Take none."""
        self.exit(None)

    def _show(self, typed: str) -> None:
        self._matching = self._choices.find(typed)[:_SHOWN]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(Content(choice.line)) for choice in self._matching])
        options.highlighted = 0 if self._matching else None


def pick(choices: Choices) -> Past | None:
    """Let the user choose on the terminal; ``None`` if they chose none."""
    chosen: Past | None = Picker(choices).run(inline=True)
    return chosen
