"""Which devices and processes a run is spread over."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "strategies": [
            "check_batch_size",
            "device_name",
            "make_strategy",
            "part_devices",
            "set_up_process",
            "use_streams",
        ],
        "workers": ["cluster_of"],
    },
)
