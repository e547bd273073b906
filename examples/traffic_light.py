"""A traffic light for the pictures of a camera, by the ONNX file of a detector. Needs no glow_tf.

    glow-tf score fit --features=lite0 --dataset=folder:GOOD --false_alarms=0.01
    glow-tf export --model=detector --format=onnx --output=exported
    python examples/traffic_light.py exported/detector.onnx CAMERA

Each new picture in the folder CAMERA gets a line of CAMERA/scores.csv: its p-value, the light, and the place,
in pixels of the picture, that is the most unusual. A picture is red if at most 1 of 100 good ones looks so
unusual, yellow if 5 do, otherwise green. Red needs 99 good pictures or more: with fewer no p-value is as
small. Pictures that have a line are not looked at again, so it may be stopped and started at any time.
"""

import argparse
import csv
import pathlib
import time

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
COLUMNS = ("file", "p_value", "light", "row", "column")


def opened(path, threads):
    """Returns a function: pixels uint8 [1, H, W, C] → p-value and map [H, W]; and (H, W, C)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def look(pixels):
        p_value, heat = session.run(["p_value", "map"], {given.name: pixels})
        return float(p_value[0]), heat[0]

    return look, given.shape[1:]


def read(path, shape):
    """Returns the largest square in the middle of a picture at the detector's size, and its box."""
    height, width, channels = shape
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    small = picture.resize((width, height), Image.BILINEAR, (left, top, left + side, top + side))
    return np.asarray(small, np.uint8).reshape(1, *shape), (left, top, side)


def row_of(path, look, shape, red, yellow):
    """Returns a picture's line of scores.csv."""
    pixels, (left, top, side) = read(path, shape)
    p_value, heat = look(pixels)
    light = "red" if p_value <= red else "yellow" if p_value <= yellow else "green"
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    place = top + row * side // shape[0], left + column * side // shape[1]
    return [path.name, f"{p_value:.4g}", light, *map(int, place)]


def main(given):
    """Looks at new pictures until it is stopped, or once."""
    look, shape = opened(given.detector, given.threads)
    table = given.camera / "scores.csv"
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    with open(table, newline="") as file:
        seen = {row["file"] for row in csv.DictReader(file)}
    while True:
        for path in sorted(given.camera.iterdir()):
            if path.suffix.lower() not in ENDINGS or path.name in seen:
                continue
            try:
                row = row_of(path, look, shape, given.red, given.yellow)
            except OSError as error:  # it is still being written, or broken
                if time.time() - path.stat().st_mtime < 10:
                    continue
                row = [path.name, "", f"unreadable: {error}", "", ""]
            seen.add(path.name)
            with open(table, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, sep="  ", flush=True)
        if given.once:
            return
        time.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector", help="the ONNX file")
    parser.add_argument("camera", type=pathlib.Path, help="the folder of its pictures")
    parser.add_argument("--red", type=float, default=0.01, help="a p-value")
    parser.add_argument("--yellow", type=float, default=0.05, help="a p-value")
    parser.add_argument("--threads", type=int, default=1, help="cores to use")
    parser.add_argument("--once", action="store_true", help="look at what is there, and end")
    main(parser.parse_args())
