"""Makes the tar files that `cargo bench --bench shards` opens: one million clips in 100 shards (2.0 GB).

    python benches/make_shards.py FOLDER [--shards 100] [--clips 10000]

Each clip is a WAV file of 364 bytes (160 samples at 16 kHz) and a JSON object with its text and speaker. Needs nothing but Python.
"""

import argparse
import json
import os
import struct


def header(name, size):
    """The block before a file in a tar file (POSIX ustar)."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name, contents):
    return header(name, len(contents)) + contents + bytes(-len(contents) % 512)


def wav(number):
    samples = struct.pack("<160h", *[(number * 7919 + i * 104729) % 2001 - 1000 for i in range(160)])
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", len(samples)) + samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--clips", type=int, default=10000)
    arguments = parser.parse_args()

    os.makedirs(arguments.folder, exist_ok=True)
    for shard in range(arguments.shards):
        with open(os.path.join(arguments.folder, f"{shard:06d}.tar"), "wb") as file:
            for clip in range(arguments.clips):
                number = shard * arguments.clips + clip
                about = {"text": f"words of the clip {number}", "speaker": f"s{number % 1000}", "language": "en"}
                name = f"{number:09d}"
                file.write(member(f"{name}.wav", wav(number)) + member(f"{name}.json", json.dumps(about).encode()))
            file.write(bytes(1024))


if __name__ == "__main__":
    main()
