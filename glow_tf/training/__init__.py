"""Training in gradient-isolated parts."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "fit_callbacks": ["OneTraining"],
        "optimizers": [
            "FusedAdam",
            "FusedAdamax",
            "PartRate",
            "RatePerWeight",
            "ScaledSGD",
        ],
        "prefix": ["PrefixCache"],
        "recipe": ["make_optimizers"],
        "trainer": ["PartsTrainer"],
    },
)
