// Pictures as bytes [side, side, 3], on canvases and from files.

/** Makes a canvas of bytes. */
export function canvasOf(bytes, side) {
  const canvas = new OffscreenCanvas(side, side);
  const pixels = new ImageData(side, side);
  for (let k = 0; k < side * side; k++) {
    pixels.data.set(bytes.subarray(3 * k, 3 * k + 3), 4 * k);
    pixels.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function bytesOf(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((_, k) => k % 4 < 3);
}

/** Returns the square in the middle of a picture, on white, with pixels averaged. */
export function squareOf(picture, side) {
  const crop = Math.min(picture.width, picture.height);
  const times = Math.min(Math.max(Math.floor(crop / side), 1), 8);
  const large = new OffscreenCanvas(times * side, times * side);
  const context = large.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, large.width, large.height);
  context.imageSmoothingQuality = "high";
  const [left, top] = [(picture.width - crop) / 2, (picture.height - crop) / 2];
  context.drawImage(picture, left, top, crop, crop, 0, 0, large.width, large.height);
  const bytes = bytesOf(large), sums = new Float32Array(3 * side * side);
  for (let k = 0; k < bytes.length; k++) {
    const [channel, pixel] = [k % 3, Math.floor(k / 3)];
    const [x, y] = [Math.floor((pixel % large.width) / times), Math.floor(pixel / large.width / times)];
    sums[3 * (y * side + x) + channel] += bytes[k];
  }
  return Uint8ClampedArray.from(sums, (sum) => Math.round(sum / times ** 2));
}

// Keys's kernel, a = −½, as Pillow and TensorFlow have it.
function kernel(distance) {
  const d = Math.abs(distance);
  if (d <= 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

/** Enlarges bytes by bicubic interpolation. */
export function bicubic(bytes, side, factor) {
  const size = factor * side;
  const taps = Array.from({ length: size }, (_, k) => {
    const centre = (k + 0.5) / factor - 0.5;
    const places = [-1, 0, 1, 2].map((d) => Math.floor(centre) + d).filter((p) => p >= 0 && p < side);
    const weights = places.map((p) => kernel(p - centre));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return places.map((p, index) => [p, weights[index] / total]);
  });
  const wide = new Float32Array(side * size * 3), large = new Float32Array(size * size * 3);
  for (let y = 0; y < side; y++) for (let x = 0; x < size; x++) for (let c = 0; c < 3; c++) {
    for (const [p, weight] of taps[x]) wide[3 * (y * size + x) + c] += weight * bytes[3 * (y * side + p) + c];
  }
  for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) for (let c = 0; c < 3; c++) {
    for (const [p, weight] of taps[y]) large[3 * (y * size + x) + c] += weight * wide[3 * (p * size + x) + c];
  }
  return Uint8ClampedArray.from(large, Math.round);
}

/** Returns the bytes of a file format, and whether its pixels are the given ones. */
export async function filed(bytes, side, type) {
  const blob = await canvasOf(bytes, side).convertToBlob({ type, quality: 1 });
  if (blob.type !== type) return undefined; // the browser does not write it
  const picture = await createImageBitmap(blob);
  const again = new OffscreenCanvas(side, side);
  again.getContext("2d").drawImage(picture, 0, 0);
  return { size: blob.size, lossless: bytesOf(again).every((value, k) => value === bytes[k]) };
}

// From dark to light, as matplotlib's `inferno`.
const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Returns the bytes of a colour map of values from 0 to 1. */
export function coloured(values) {
  const bytes = new Uint8ClampedArray(3 * values.length);
  values.forEach((value, k) => {
    const place = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
    const low = Math.min(Math.floor(place), COLOURS.length - 2);
    const at = (c) => COLOURS[low][c] + (place - low) * (COLOURS[low + 1][c] - COLOURS[low][c]);
    bytes.set([at(0), at(1), at(2)], 3 * k);
  });
  return bytes;
}

/** Repeats each place of a map as a square. */
export function repeated(values, side, size) {
  const shrunk = (place) => Math.floor((place * side) / size);
  const value = (_, k) => values[shrunk(Math.floor(k / size)) * side + shrunk(k % size)];
  return Float32Array.from({ length: size * size }, value);
}
