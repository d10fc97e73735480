"""Alembic's environment: it runs inside the transaction that `catalog.migrate` hands over."""

from alembic import context

from catalog.migrate import VERSIONS
from catalog.tables import RUNS

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=RUNS,
    version_table=VERSIONS,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
