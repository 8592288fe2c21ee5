"""Sites whose contributions are kept while a task's models leave them out, until they are released."""

from sqlalchemy import Connection, delete, insert, select

from fedmed_edge.store import enrolment, holdings, ledger
from fedmed_edge.store.index import Index
from fedmed_edge.store.tables import held_back, now


class HeldBack:
    """Who is held back, and why; a fact of each task, which every change writes into the ledger."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def of(self, task: str) -> dict[str, str]:
        """Site → why, in order of name."""
        with self._index.read() as connection:
            return sites_of(connection, task)

    def add(self, task: str, site: str, why: str) -> bool:
        """Leave a site out of the task's models from now on; False where it was held back already.

        Raises:
            StoreError: No such task or site.
        """
        with self._index.write() as connection:
            holdings.newest_recipe(connection, task)
            enrolment.require_site(connection, site)
            if site in sites_of(connection, task):
                return False
            connection.execute(insert(held_back).values(task=task, site=site, why=why, since=now()))
            ledger.append(connection, "held back", site=site, details={"task": task, "why": why})
            return True

    def release(self, task: str, site: str) -> bool:
        """Take a site in again, from the next model on; False where it was not held back.

        Raises:
            StoreError: No such task or site.
        """
        with self._index.write() as connection:
            holdings.newest_recipe(connection, task)
            enrolment.require_site(connection, site)
            if site not in sites_of(connection, task):
                return False
            connection.execute(delete(held_back).where(held_back.c.task == task, held_back.c.site == site))
            ledger.append(connection, "released", site=site, details={"task": task})
            return True


def sites_of(connection: Connection, task: str) -> dict[str, str]:
    """Site → why, in order of name."""
    query = select(held_back).where(held_back.c.task == task).order_by(held_back.c.site)
    return {row.site: row.why for row in connection.execute(query)}
