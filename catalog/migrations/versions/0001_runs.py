"""Runs, their machines and measurements."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "hardware",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("cores", sa.Integer()),
        sa.Column("memory_bytes", sa.BigInteger()),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("paper_id", sa.String()),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("spec_hash", sa.String(), nullable=False),
        sa.Column("plan_hash", sa.String(), nullable=False),
        sa.Column("profile", sa.String()),
        sa.Column("backbone", sa.String(), nullable=False),
        sa.Column("weights", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("sampler", sa.String(), nullable=False),
        sa.Column("steps", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("width", sa.Integer()),
        sa.Column("frames", sa.Integer()),
        sa.Column("batch", sa.Integer()),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("techniques", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("hardware_id", sa.String(), sa.ForeignKey("hardware.id"), nullable=False),
        sa.Column("finished_at", sa.String()),
        sa.Column("code_commit", sa.String()),
        sa.Column("note", sa.String()),
        sa.Column("published", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_run_paper_id", "run", ["paper_id"])
    op.create_index("ix_run_backbone", "run", ["backbone"])
    op.create_table(
        "measurement",
        sa.Column("run_id", sa.String(), sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("metric", sa.String(), primary_key=True),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("baseline", sa.Float()),
        sa.Column("n", sa.Integer()),
        sa.Column("sd", sa.Float()),
        sa.Column("low", sa.Float()),
        sa.Column("high", sa.Float()),
    )


def downgrade() -> None:
    """Remove them, with what they hold."""
    op.drop_table("measurement")
    op.drop_index("ix_run_backbone", "run")
    op.drop_index("ix_run_paper_id", "run")
    op.drop_table("run")
    op.drop_table("hardware")
