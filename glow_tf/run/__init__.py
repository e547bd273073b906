"""One training run: its workdir, checkpoints, callbacks, and what it prints."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "checkpoints": ["Checkpoints"],
        "context": ["Run"],
        "lifecycle": ["train"],
        "workdir": ["Workdir"],
    },
)
