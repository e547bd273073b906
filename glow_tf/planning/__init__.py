"""What a run would take on a cluster."""

from glow_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cluster_file": ["Cluster", "Device", "read_cluster_file"],
        "rates": ["Calibration", "read_calibration"],
        "planner": ["PLANNED_STRATEGIES", "Forecast", "Planner"],
        "forecast": ["Candidate", "candidates", "forecast_table", "recommendations"],
    },
)
