"""What may run beside a query's own thread, and is it done?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

__all__ = ["Beside"]


class Beside:
    """Tasks that run one after another, in the order they were begun: in `thread`, if it is named, else each at once.

    What a task raises is raised by `settle`, or by `begin` where there is no thread; those begun behind it do not run.
    """

    def __init__(self, thread: str | None = None) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread) if thread is not None else None
        self._begun: list[Future[None]] = []

    def begin(self, task: Callable[[], None]) -> None:
        """Run a task; it need not have ended, nor even started, when this returns."""
        if self._executor is not None:
            try:
                self._begun.append(self._executor.submit(_behind, self._begun[-1:], task))
                return
            except RuntimeError:  # the interpreter exits: its pools take no new work, and a batch has to end
                self.settle()
        task()

    def settle(self) -> None:
        """Wait until everything that was begun has ended; raise the first error."""
        begun, self._begun = self._begun, []
        wait(begun)
        for each in begun:
            each.result()

    def close(self) -> None:
        """Settle, and give the thread back."""
        try:
            self.settle()
        finally:
            if self._executor is not None:
                self._executor.shutdown()


def _behind(before: Sequence[Future[None]], task: Callable[[], None]) -> None:
    """Run a task, or raise what the one before it raised."""
    for each in before:
        each.result()
    task()
