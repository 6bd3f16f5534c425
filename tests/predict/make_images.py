"""Writes images.json: small images in every form, with the pixels and resizes that Pillow gives.

    python tests/predict/make_images.py

Needs Pillow and NumPy. The file is committed, so that the tests need neither.
"""

import io
import json
import pathlib

import numpy as np
from PIL import Image

random = np.random.default_rng(1)


def rows(values):
    return [int(v) for v in np.asarray(values).reshape(-1)]


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue().hex()


def smooth(height, width, channels):
    """A picture with some structure, so that JPEG has something to keep."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 90 * np.sin(x * (0.3 + 0.1 * c) + y * 0.2 * c) + 20 * np.cos(y + c) for c in range(channels)]
    planes = np.stack(planes, -1) + random.normal(0, 5, (height, width, channels))
    return np.clip(planes, 0, 255).astype(np.uint8)


def main():
    rgb = smooth(13, 18, 3)
    gray = smooth(11, 9, 1)[..., 0]
    color = Image.fromarray(rgb)
    alpha = Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 40, np.uint8)]))
    palette = color.quantize(7)
    bits = Image.fromarray((gray > 128).astype(np.uint8) * 255).convert("1")
    files = [
        ("rgb.png", encoded(color, format="PNG"), rgb),
        ("gray.png", encoded(Image.fromarray(gray), format="PNG"), gray),
        ("alpha.png", encoded(alpha, format="PNG"), rgb),
        ("palette.png", encoded(palette, format="PNG"), np.asarray(palette.convert("RGB"))),
        ("bits.png", encoded(bits, format="PNG"), np.asarray(bits.convert("L"))),
        ("rgb.jpg", encoded(color, format="JPEG", quality=80), None),
        ("full.jpg", encoded(color, format="JPEG", quality=95, subsampling=0), None),
        ("gray.jpg", encoded(Image.fromarray(gray), format="JPEG"), None),
    ]
    out = {"files": [], "resizes": []}
    for name, content, pixels in files:
        if pixels is None:
            pixels = np.asarray(Image.open(io.BytesIO(bytes.fromhex(content))))
        channels = 1 if pixels.ndim == 2 else 3
        out["files"].append({
            "name": name, "hex": content, "width": pixels.shape[1], "height": pixels.shape[0],
            "channels": channels, "pixels": rows(pixels)})
    for text, filter_ in [("nearest", Image.NEAREST), ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]:
        for size in [(9, 7), (18, 5), (31, 40), (1, 1), (5, 13)]:
            out["resizes"].append({
                "interpolation": text, "width": size[0], "height": size[1],
                "pixels": rows(np.asarray(color.resize(size, filter_)))})
    out["gray_of_rgb"] = rows(np.asarray(color.convert("L")))
    out["cmyk_hex"] = encoded(color.convert("CMYK"), format="JPEG")
    out["deep_hex"] = encoded(Image.fromarray(gray.astype(np.uint16) * 257), format="PNG")
    path = pathlib.Path(__file__).with_name("images.json")
    path.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
