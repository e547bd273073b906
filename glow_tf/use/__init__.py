"""What is done with a trained model."""

from glow_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "loading": ["load", "load_trainer"],
        "saved_model": ["export"],
        "tfp_views": ["as_distribution", "as_tfp_bijector"],
    },
)
