"""Variants of a run with several seeds each, and the tables, figures and pages that follow from them."""

from glow_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "study": ["Study", "Variant", "read_study"],
        "runs": ["Run", "runs_of", "tuning_runs"],
        "table": ["read_table", "table_of"],
        "experiment": ["Experiment", "run_study"],
        "comparison": ["Estimate", "Outcome", "estimate", "outcomes"],
        "report": ["update_documents", "write_report"],
    },
)
