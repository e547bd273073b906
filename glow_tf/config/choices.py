"""The lists of choices, and the limits of what may be chosen."""

COUPLINGS = ("affine", "additive")
SCALES = {"sigmoid": None, "exp": 8.0, "tanh": 2.0}  # → soft bound of the log-scale; `tanh:B` says its own
NORMS = ("actnorm", "bias")
ACTIVATIONS = ("silu", "elu", "gelu", "leaky_relu", "relu")
SQUEEZES = ("haar", "pixels")
PERMUTATIONS = ("lu", "plain", "shuffle", "reverse")
GAUSSIANS = ("learned", "standard")
PRECISIONS = ("float32", "mixed_bfloat16")
ARCHITECTURES = ("glow", "levels")
DATA = ("bytes", "real")
COARSEST = ("auto", "on", "off")  # whether the coarsest image is squeezed
SCHEDULES = ("end_to_end", "sequential", "alternating", "simultaneous")
AUGMENTATIONS = ("none", "flip", "shift", "flip_shift")
OPTIMIZERS = ("adamax", "adam", "sgd")
RATE_SCALINGS = ("size", "none")
RATE_SCHEDULES = ("constant", "cosine")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "part_parallel")
COMPILERS = ("auto", "on", "off")
PRIOR = "prior"  # as what a run or a detector starts from: the one of these that fits its images
PRIORS = {3: "photographs", 1: "photographs_grey"}  # channels → the preset
NOISES = ("uniform", "variational")  # of dequantisation, where bits are measured
EXPORTS = ("savedmodel", "onnx")

# Beyond what anybody trains. They keep a slip of the pen from taking all memory, or days.
MOST_BLOCKS, MOST_STEPS, MOST_WIDTH, MOST_SIDE = 16, 512, 2**20, 2**16
MOST_EPOCHS, MOST_DEVICES = 1_000_000, 1024
MOST_LOG_SCALE = 8  # e^±8; far larger ones overflow float32
MOST_EQUALIZED = 0.9  # of the range of pixels; squeezed further, bytes might not come back
MOST = 2**31 - 1  # of any other integer

# Two models that differ in these settings alone compute the same function from the same flow steps.
SAME_FUNCTION = ("parts", "local_prior", "precision", "seed")
