"""Where images come from, and how they become batches."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arrays": ["DataSet", "Examples", "ImageData"],
        "loading": ["load"],
        "named": ["SOURCES"],
        "batches": [
            "WHOLE",
            "Crop",
            "DataSlice",
            "Epochs",
            "evaluation_batches",
            "prefix_batches",
            "steps_per_epoch",
            "training_batches",
            "with_members",
        ],
    },
)
