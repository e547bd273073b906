"""One door for models: `load` reads whatever keeps one, `save` writes a preset."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "files": ["about", "folder_of", "names", "settings_of"],
        "models": ["load", "load_keras_file", "save"],
    },
)
