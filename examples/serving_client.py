"""Score images by an exported model: behind TensorFlow Serving, or from its folder. Needs no glow_tf.

    python examples/serving_client.py PATH_OF_AN_EXPORT
    python examples/serving_client.py http://localhost:8501/v1/models/glow

A server has the model after this, where PATH holds the export as a numbered version, PATH/1:

    docker run -p 8501:8501 -v PATH:/models/glow -e MODEL_NAME=glow tensorflow/serving
"""

import json
import pathlib
import sys
import urllib.request

import numpy as np


def from_server(url, images):
    """Returns the bits per dimension of images uint8 [N, H, W, C], by TensorFlow Serving's REST interface."""
    body = json.dumps({"signature_name": "serving_default", "instances": images.tolist()}).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        predictions = json.load(answer)["predictions"]
    return np.array([prediction["bits_per_dim"] for prediction in predictions])


def from_folder(path, images):
    """Returns the same, by the signature that a server would call."""
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return model.signatures["serving_default"](images=tf.constant(images))["bits_per_dim"].numpy()


def main(where):
    """Scores digits and empty images, and prints both."""
    from sklearn.datasets import load_digits

    digits = (8 * load_digits().images[:64, :, :, None]).astype(np.uint8)
    score = from_server if where.startswith("http") else from_folder
    for name, images in (("digits", digits), ("empty images", np.zeros_like(digits))):
        bits = score(where, images)
        print(f"{name}: {bits.mean():.3f} bits/dim, a batch of {len(bits)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:  # nothing to score by: the digits preset, exported here
        import glow_tf

        glow_tf.export(glow_tf.load("digits"), pathlib.Path("glow", "1"))
        main(str(pathlib.Path("glow", "1")))
