"""Training in gradient-isolated parts."""

from glow_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "optimizers": ["FusedAdam", "FusedAdamax", "PartRate", "make_optimizers"],
        "prefix": ["PrefixCache"],
        "trainer": ["PartsTrainer"],
        "traffic": ["Traffic"],
    },
)
