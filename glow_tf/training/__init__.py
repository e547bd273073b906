"""Training in gradient-isolated parts."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "fit_callbacks": ["OneTraining"],
        "optim.optimizers": [
            "FusedAdam",
            "FusedAdamax",
            "PartRate",
            "RatePerWeight",
            "ScaledSGD",
            "make_optimizers",
        ],
        "step.prefix": ["PrefixCache"],
        "trainer": ["PartsTrainer"],
    },
)
