"""What is done with a trained model."""

from glow_tf.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "exports": ["export", "export_onnx"],
        "images": ["UsedImages", "read_files", "read_images"],
        "latents": ["decode", "Drawn", "draw_checked", "encode", "levels"],
        "evaluation": ["Evaluation", "evaluate"],
        "runs": ["Assembled", "assemble", "load_trainer", "save_run_to_preset"],
        "score.detector": ["NoveltyDetector"],
        "score.rule": ["Rule"],
        "upscaling": ["reduced", "repeated", "upscale"],
        "tfp_views": ["as_distribution", "as_tfp_bijector"],
    },
)
