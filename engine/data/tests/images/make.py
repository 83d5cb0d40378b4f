#!/usr/bin/env python3
"""Writes the images of this folder that are generated, and PIL's results for all of them to reference.json.

Needs Pillow 13, and jpegtran of libjpeg-turbo. Images whose names are not generated here stay as they are.
"""
import hashlib, io, json, pathlib, struct, subprocess, warnings, zlib

import PIL
from PIL import Image, ImageOps, ImageStat

warnings.simplefilter("ignore")
folder = pathlib.Path(__file__).parent
W, H = 37, 29


def photo(mode="RGB", width=W, height=H):
    """A smooth image with edges and some noise."""
    pixels = bytearray()
    noise = 1
    for y in range(height):
        for x in range(width):
            noise = noise * 1664525 + 1013904223 & 0xFFFFFFFF
            edge = 90 if (x // 7 + y // 5) % 2 else 0
            pixels += bytes(
                [(4 * x + edge) % 256, (5 * y + edge + (noise >> 29)) % 256, (2 * x + 3 * y + edge // 2) % 256]
            )
    return Image.frombytes("RGB", (width, height), bytes(pixels)).convert(mode)


def save(name, image, kind=None, **options):
    image.save(folder / name, kind, **options)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(name, data):
    (folder / name).write_bytes(data)


def chunk(name, data, crc=None):
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(depth, colour, width, height, rows, before=b"", data=None, after=b"", end=True, compression=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, compression, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows)) if data is None else data
    end = chunk(b"IEND", b"") if end else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + after + end


# JPEG
jpeg = encoded(photo(), "JPEG", quality=90)
save("rgb_keep.jpg", photo(), keep_rgb=True)
save("ycc411.jpg", photo(), subsampling="4:1:1")
save("gray_progressive.jpg", photo("L"), progressive=True)
save("progressive444.jpg", photo(), progressive=True, subsampling=0, quality=95)
save("low_quality.jpg", photo(), quality=5)
save("cmyk_small.jpg", photo("CMYK"))
save("icc.jpg", photo(), icc_profile=b"\0" * 500)
for width, height in (1, 1), (7, 3), (8, 17), (300, 1):
    save(f"odd_{width}x{height}.jpg", photo(width=width, height=height))
write("no_end_garbage.jpg", jpeg[:-2] + b"\0" * 40)
write("garbage_between.jpg", jpeg[:2] + b"\xff\xfe\0\4ab" + b"\xff\xff" + jpeg[2:])


def jpegtran(name, *options):
    write(name, subprocess.run(["jpegtran", *options], input=jpeg, capture_output=True, check=True).stdout)


jpegtran("arithmetic.jpg", "-arithmetic")
write("scans.txt", b"0,1,2: 0-0, 0, 0;\n0: 1-5, 0, 2;\n1: 1-63, 0, 1;\n")
jpegtran("unfinished.jpg", "-scans", str(folder / "scans.txt"))  # coefficients are missing: libjpeg smooths the blocks
(folder / "scans.txt").unlink()

# PNG
rows = b"".join(b"\0" + photo().tobytes()[3 * W * y : 3 * W * (y + 1)] for y in range(H))
packed = zlib.compress(rows)
text = chunk(b"tEXt", b"a\0b")
write("no_iend.png", png(8, 2, W, H, rows, end=False))
write("no_data_checksums.png", png(8, 2, W, H, rows, end=False)[:-8])
write("cut_data.png", png(8, 2, W, H, rows, end=False)[:-60])
write("bad_data_crc.png", png(8, 2, W, H, rows, data=chunk(b"IDAT", packed, 1)))
write("bad_adler.png", png(8, 2, W, H, rows, data=chunk(b"IDAT", packed[:-4] + b"abcd")))
write("bad_text_crc.png", png(8, 2, W, H, rows, before=chunk(b"tEXt", b"a\0b", 1)))
write("bad_text_crc_after.png", png(8, 2, W, H, rows, after=chunk(b"tEXt", b"a\0b", 1)))
write("unknown_critical.png", png(8, 2, W, H, rows, before=chunk(b"ABCD", b"xx")))
write("cut_after.png", png(8, 2, W, H, rows, after=text[:-6], end=False))
write("garbage_after.png", png(8, 2, W, H, rows) + b"garbage" * 3)
write("odd_compression.png", png(8, 2, W, H, rows, compression=1))
write("too_much_data.png", png(8, 2, W, H, rows + b"x" * 400))
write("split_data.png", png(8, 2, W, H, rows, data=chunk(b"IDAT", packed[:99]) + chunk(b"IDAT", b"") + chunk(b"IDAT", packed[99:])))
write("interrupted_data.png", png(8, 2, W, H, rows, data=chunk(b"IDAT", packed[:99]) + text + chunk(b"IDAT", packed[99:])))
indices = b"".join(b"\0" + bytes((x * y) % 9 for x in range(16)) for y in range(8))
write("short_palette.png", png(8, 3, 16, 8, indices, before=chunk(b"PLTE", bytes(range(15)))))
write("no_palette.png", png(8, 3, 16, 8, indices))
write("late_header.png", png(8, 2, W, H, rows)[:8] + text + png(8, 2, W, H, rows)[8:])
write("no_size.png", png(8, 2, 0, 3, b""))

# TIFF
for name, mode in ("rgb", "RGB"), ("gray", "L"), ("rgba", "RGBA"), ("gray_alpha", "LA"), ("bilevel", "1"), ("palette", "P"), ("cmyk", "CMYK"), ("wide", "I"):
    save(f"{name}.tiff", photo(mode))
gray16 = Image.frombytes("I;16", (W, H), b"".join(struct.pack("<H", x * y % 700) for y in range(H) for x in range(W)))
save("gray16.tiff", gray16)
save("gray16_big_endian.tiff", gray16.convert("I").convert("I;16B"))
for compression in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"):
    save(f"{compression}.tiff", photo(), compression=compression)
save("lzw_predictor.tiff", photo(), compression="tiff_lzw", tiffinfo={317: 2})
save("palette_lzw.tiff", photo("P"), compression="tiff_lzw")
save("white_is_zero.tiff", photo("L"), tiffinfo={262: 0})
save("two_pages.tiff", photo(), save_all=True, append_images=[photo("L")])
for orientation in range(2, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = photo(width=7, height=5)
    save(f"turned{orientation}.tiff", small, exif=exif)
    save(f"turned{orientation}.jpg", small, exif=exif)
save("turned6.png", small, exif=exif)
save("turned8.webp", small, exif=exif, lossless=True)
xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
save("turned_xmp.jpg", small, xmp=xmp)
write("cut.tiff", (folder / "rgb.tiff").read_bytes()[:2000])

# PNM
plain = lambda values: " ".join(map(str, values)).encode() + b"\n"
write("p1.pbm", b"P1\n# a comment\n5 3\n1 0 1 0 1\n01010 1#x\n0101")
write("p2.pgm", b"P2 4 2 # a comment\n15\n" + plain([0, 1, 7, 15, 14, 3, 2, 8]))
write("p2_wide.pgm", b"P2 4 1 1000\n" + plain([0, 1, 3, 1000]))
write("p3.ppm", b"P3\n2 2\n255\n" + plain(range(0, 240, 20)))
write("p3_wide.ppm", b"P3\n2 1\n1000\n" + plain([0, 1, 2, 500, 999, 1000]))
save("p4.pbm", photo("1"))
save("p5.pgm", photo("L"))
write("p5_15.pgm", b"P5 4 2 15 " + bytes([0, 1, 7, 15, 14, 3, 2, 16]))
write("p5_wide.pgm", b"P5 3 1 1000 " + struct.pack(">3H", 0, 2, 1000))
write("p5_16.pgm", b"P5 4 1 65535 " + struct.pack(">4H", 0, 200, 300, 65535))
save("p6.ppm", photo())
write("p6_comment.ppm", b"P6\n#c\n2#d\n 1\n255\n" + bytes(range(6)))
write("p6_16.ppm", b"P6 2 1 65535\n" + struct.pack(">6H", 0, 128, 129, 300, 40000, 65535))
write("p6_cut.ppm", b"P6 9 9 255\n" + bytes(200))
write("p2_large.pgm", b"P2 1 1 15 16")
write("p5_no_size.pgm", b"P5 0 3 255 ")
write("p7.pam", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\na")


def result(path):
    try:
        with Image.open(path) as image:
            kind = image.format
            rgb = image.convert("RGB")
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".replace(str(folder), "")}
    found = {
        "format": kind,
        "size": rgb.size,
        "rgb_sha256": hashlib.sha256(rgb.tobytes()).hexdigest(),
        "rgb_mean": ImageStat.Stat(rgb).mean,
    }
    if upright.tobytes() != rgb.tobytes() or upright.size != rgb.size:
        found["upright"] = {"size": upright.size, "rgb_sha256": hashlib.sha256(upright.tobytes()).hexdigest()}
    return found


names = sorted(path.name for path in folder.iterdir() if path.suffix not in (".json", ".py"))
lines = [f"  {json.dumps(name)}: {json.dumps(result(folder / name))}" for name in names]
(folder / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(len(names), "images, Pillow", PIL.__version__)
